# What each mode is to the kernel and to systemd-networkd: outer family, link kind, IP protocol, module.
{
  gre = {
    outer = 4;
    kind = "gre";
    protocol = 47;
    module = "ip_gre";
  };
  gretap = {
    outer = 4;
    kind = "gretap";
    protocol = 47;
    module = "ip_gre";
  };
  ipip = {
    outer = 4;
    kind = "ipip";
    protocol = 4;
    module = "ipip";
  };
  sit = {
    outer = 4;
    kind = "sit";
    protocol = 41;
    module = "sit";
  };
  ip6gre = {
    outer = 6;
    kind = "ip6gre";
    protocol = 47;
    module = "ip6_gre";
  };
  ip6gretap = {
    outer = 6;
    kind = "ip6gretap";
    protocol = 47;
    module = "ip6_gre";
  };
  ip6ip6 = {
    outer = 6;
    kind = "ip6tnl";
    protocol = 41;
    module = "ip6_tunnel";
  };
  ipip6 = {
    outer = 6;
    kind = "ip6tnl";
    protocol = 4;
    module = "ip6_tunnel";
  };
}
