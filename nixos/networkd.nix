# Static tunnels in the words of systemd-networkd.
{
  lib,
  modes,
  portOf,
}:
let
  inherit (lib) optionalAttrs;
  inherit (import ./lib.nix { inherit lib; }) given isIPv6;

  encapsulated = tunnel: tunnel.encap != "none";
  encapsulation = {
    fou = "FooOverUDP";
    gue = "GenericUDPEncapsulation";
  };

  # The one kind of link with several modes.
  isIp6tnl = tunnel: modes.${tunnel.mode}.module == "ip6_tunnel";

  # In numbers, "inherit" is a hop limit of 0 and a type of service of 1.
  inherited = number: value: if value == "inherit" then number else value;

  files =
    content:
    lib.mapAttrs' (name: tunnel: lib.nameValuePair "40-gretun-${name}" (content name tunnel));

  netdev = name: tunnel: {
    netdevConfig = {
      Name = name;
      Kind = if isIp6tnl tunnel then "ip6tnl" else tunnel.mode;
    };
    tunnelConfig = given (
      {
        # Not bound to a parent interface.
        Independent = true;
        Local = tunnel.local;
        Remote = tunnel.remote;
        TTL = inherited 0 (lib.defaultTo 64 tunnel.ttl);
        TOS = inherited 1 tunnel.tos;
        DiscoverPathMTU = tunnel.pmtudisc;
        Key = tunnel.key;
        InputKey = tunnel.ikey;
        OutputKey = tunnel.okey;
      }
      // optionalAttrs (isIp6tnl tunnel) { Mode = tunnel.mode; }
      // optionalAttrs (encapsulated tunnel) {
        FooOverUDP = true;
        Encapsulation = encapsulation.${tunnel.encap};
        FOUDestinationPort = tunnel.encap-dport;
        FOUSourcePort = tunnel.encap-sport;
      }
    );
  };

  network = name: tunnel: {
    matchConfig.Name = name;
    linkConfig = given {
      RequiredForOnline = false;
      MTUBytes = if tunnel.mtu == 0 then null else tunnel.mtu;
    };
    networkConfig.IPv6AcceptRA = false;
    addresses = map (
      address:
      given {
        Address = address;
        # The far end's, of the same family.
        Peer = lib.findFirst (peer: isIPv6 peer == isIPv6 address) null tunnel.peer-ip;
      }
    ) tunnel.tunnel-ip;
    routes = map (destination: { Destination = destination; }) tunnel.route;
  };

  # The receiving end of the encapsulation; tunnels that share a port share it.
  receiver =
    tunnel:
    let
      port = portOf tunnel;
    in
    optionalAttrs (port != null) {
      "40-gretun-udp-${toString port}" = {
        netdevConfig = {
          Name = "gretun-udp${toString port}";
          Kind = "fou";
        };
        fooOverUDPConfig = given {
          Port = port;
          Encapsulation = encapsulation.${tunnel.encap};
          Protocol = if tunnel.encap == "fou" then modes.${tunnel.mode}.protocol else null;
          # The family follows the address; without one it is IPv4.
          Local = if modes.${tunnel.mode}.outer == 6 then tunnel.local else null;
        };
      };
    };
in
{
  # networkd has no masquerading towards a network, binds to a parent only from the parent's file, and sends UDP without
  # checksums.
  canExpress =
    tunnel:
    tunnel.snat == [ ]
    && tunnel.dev == null
    && (
      encapsulated tunnel
      -> tunnel.encap-csum == false && (modes.${tunnel.mode}.outer == 6 -> tunnel.local != null)
    );

  render = tunnels: {
    netdevs = lib.concatMapAttrs (_: receiver) tunnels // files netdev tunnels;
    networks = files network tunnels;
  };
}
