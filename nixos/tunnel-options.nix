# The options of one static tunnel, under the names of the flags of `gretun create`.
{ lib, modes }:
let
  inherit (lib) mkOption types;

  # Left to the program where it is null.
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description example;
    };

  list =
    example: description:
    mkOption {
      type = types.listOf types.str;
      default = [ ];
      inherit description example;
    };

  key = types.either types.ints.u32 types.str;
in
{
  options = {
    mode = mkOption {
      type = types.enum (builtins.attrNames modes);
      default = "gre";
      example = "gretap";
      description = ''
        Kind of tunnel: `gre` and `ip6gre` carry IP over IPv4 and IPv6, `gretap` and `ip6gretap` Ethernet; `ipip` is 4in4,
        `sit` 6in4, `ip6ip6` 6in6 and `ipip6` 4in6.
      '';
    };

    local =
      optional types.str "192.0.2.1"
        "Own outer address. `null` means the one that the route to `remote` uses.";
    remote = optional types.str "198.51.100.7" "Outer address of the far end. Every tunnel needs one.";
    dev = optional types.str "eth0" "Parent interface.";

    key = optional key 42 "Key in both directions, a number or a dotted quad.";
    ikey = optional key 42 "Key of received packets, where it differs.";
    okey = optional key 43 "Key of sent packets, where it differs.";

    ttl = optional (types.either (types.ints.between 1 255) (types.enum [ "inherit" ])) 64 ''
      Hop limit of outer packets, or `"inherit"` for that of inner ones. `null` means 64.
    '';
    tos = optional (types.either types.ints.u8 (
      types.enum [ "inherit" ]
    )) "inherit" "Type of service of outer packets, or `\"inherit\"` for that of inner ones.";
    pmtudisc =
      optional types.bool false
        "Whether outer packets may not be fragmented. `null` means they may not.";
    mtu = optional (types.either (types.enum [ 0 ]) (types.ints.between 576 65535)) 1400 ''
      MTU. `null` and 0 mean that it is worked out from the interface that the route to `remote` uses.
    '';

    tunnel-ip = list [ "10.9.0.1/30" ] "Inner addresses, with prefix length.";
    peer-ip = list [ "10.9.0.2" ] ''
      Inner addresses of the far end, which make the tunnel point to point; one for each version of IP.
    '';
    route = list [ "10.20.0.0/16" ] "Networks that are reached through the tunnel.";
    snat = list [ "10.20.0.0/16" ] ''
      Networks towards which senders are masqueraded, so that hosts there need no route back.
    '';

    encap = mkOption {
      type = types.enum [
        "none"
        "fou"
        "gue"
      ];
      default = "none";
      example = "fou";
      description = "Encapsulation in UDP.";
    };
    encap-sport =
      optional types.port 5555
        "Own UDP port, to which the far end sends. `null` sends from one for each flow.";
    encap-dport = optional types.port 5555 "UDP port of the far end.";
    encap-csum = optional types.bool false "Whether UDP has checksums. `null` means yes.";
  };
}
