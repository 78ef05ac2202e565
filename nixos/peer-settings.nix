# The settings of `gretun up`, each an option: what the program's TOML file may hold.
{ lib, names }:
let
  inherit (lib) literalExpression mkOption types;

  # Left to the program where it is null.
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description example;
    };

  ofSystemd =
    default: defaultText: description:
    mkOption {
      type = types.str;
      inherit default;
      defaultText = literalExpression ''"${defaultText}"'';
      readOnly = true;
      description = "${description} systemd makes it, so it cannot be changed.";
    };
in
{
  coordinator = optional types.str "https://gretun.example.org" ''
    URL of the coordinator. Every peer needs one.
  '';

  node-name = optional types.str "attic" ''
    Name of this host among its peers: one DNS label. `null` means the host name.
  '';

  fou-port = mkOption {
    type = types.port;
    default = 7777;
    example = 7778;
    description = ''
      UDP port of discovery and data. Several peers on one host need different ones.
    '';
  };

  iface = mkOption {
    type = types.str;
    default = names.iface;
    defaultText = literalExpression ''"gretun%d", or "NAME-%d" in the instance NAME'';
    example = "site%d";
    description = ''
      Name of the tunnel interfaces; `%d` becomes the index of the peer. With an index of four digits it must fit into
      the kernel's 15 bytes.
    '';
  };

  stun-server = optional (types.listOf types.str) [ "stun.example.org:3478" ] ''
    STUN servers, as HOST:PORT. `null` means those of the coordinator.
  '';

  advertise-routes = optional (types.listOf types.str) [ "10.20.0.0/16" ] ''
    Networks behind this host. Set it through `advertiseRoutes`, which prepares the host as well.
  '';

  accept-routes = optional types.bool true ''
    Whether to take the networks of peers. Set it through `acceptRoutes`, which prepares the host as well.
  '';

  snat-routes = optional types.bool true ''
    Whether to masquerade what peers send to the advertised networks, so that the hosts there need no route back.
  '';

  aggressive-punch = optional types.bool false ''
    Whether to search for ports where a NAT gives every destination another one: up to 1000 packets a second for two
    seconds. `null` means yes.
  '';

  port-mapping = optional types.bool false ''
    Whether to ask the router for a public port, by PCP, NAT-PMP or UPnP IGD. `null` means yes.
  '';

  metrics-addr = optional types.str "127.0.0.1:9477" ''
    Address and port at which Prometheus finds {file}`/metrics`.
  '';

  state-dir = ofSystemd "/var/lib/${names.directory}" "/var/lib/${names.directoryText}" ''
    Directory of the keys of this peer.
  '';

  socket =
    ofSystemd "/run/${names.directory}/gretun.sock" "/run/${names.directoryText}/gretun.sock"
      ''
        Socket on which {command}`gretun peers` and others reach the daemon; root and the members of the group `gretun`
        may use it.
      '';
}
