# The format of topology.toml (see ../README.md), as options.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  of = type: mkOption { inherit type; };
  default =
    type: value:
    mkOption {
      inherit type;
      default = value;
    };
  table = options: types.submodule { inherit options; };

  # Who can run a scenario.
  drivers = [
    "nixos"
    "local"
  ];

  number = types.either types.ints.unsigned (types.numbers.nonnegative);
  networkName = types.enum (builtins.attrNames config.networks);

  network = table {
    ipv4 = of types.str;
    ipv6 = default (types.nullOr types.str) null;
    latency-ms = default number 0;
    loss-percent = default number 0;
    # vde_switch drops frames of more than 1504 bytes: larger networks are for the local driver.
    mtu = default (types.ints.between 68 1500) 1500;
    local-mtu = default (types.nullOr types.ints.positive) null;
  };

  interface = table {
    network = of networkName;
    ipv4 = default (types.nullOr types.str) null;
    ipv6 = default (types.nullOr types.str) null;
  };

  router = table {
    nat = of (
      types.enum [
        "none"
        "full-cone"
        "address-restricted"
        "port-restricted"
        "symmetric"
      ]
    );
    outside = of networkName;
    port-mapping = default (types.nullOr (table {
      lifetime = default types.ints.positive 7200;
    })) null;
  };

  firewall = table {
    enable = default types.bool true;
    allowed-tcp-ports = default (types.listOf types.port) [ ];
    allowed-udp-ports = default (types.listOf types.port) [ ];
  };

  daemon = table {
    autostart = default types.bool true;
    open-firewall = default types.bool false;
    settings = default (types.attrsOf types.anything) { };
  };

  gretun = {
    peer = default (types.nullOr daemon) null;
    tunnels = default (types.attrsOf (types.attrsOf types.anything)) { };
  };

  machine = table {
    interfaces = of (types.listOf interface);
    gateway4 = default (types.nullOr types.str) null;
    gateway6 = default (types.nullOr types.str) null;
    router = default (types.nullOr router) null;
    firewall = default firewall { };
    # Only the local driver has a choice.
    units = default (types.enum [
      "direct"
      "systemd"
      "package"
    ]) "direct";
    gretun = gretun // {
      coordinator = default (types.nullOr daemon) null;
    };
    switch = default (types.attrsOf (table {
      inherit gretun;
    })) { };
  };
in
{
  options = {
    description = of types.str;
    drivers = default (types.nonEmptyListOf (types.enum drivers)) drivers;
    timeout = default types.ints.positive 600;
    networks = of (types.attrsOf network);
    machines = of (types.attrsOf machine);
  };
}
