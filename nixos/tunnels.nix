# services.gretun.tunnels: static tunnels, kept as declared by `gretun apply`, or by systemd-networkd where it is in charge.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    filterAttrs
    mapAttrs
    mkIf
    mkMerge
    mkOption
    types
    ;

  helpers = import ./lib.nix { inherit lib; };
  modes = import ./tunnel-modes.nix;
  checks = import ./tunnel-checks.nix { inherit lib helpers modes; };
  networkd = import ./networkd.nix { inherit lib modes; };

  gretun = config.services.gretun;
  tunnels = if gretun.enable then gretun.tunnels else { };

  # What networkd cannot express stays with gretun, also where networkd is in charge.
  byNetworkd = filterAttrs (
    _: tunnel: config.networking.useNetworkd && networkd.canExpress tunnel
  ) tunnels;
  byGretun = removeAttrs tunnels (builtins.attrNames byNetworkd);

  file =
    name: content:
    helpers.checkedToml {
      inherit pkgs name;
      settings = {
        # The set is what `gretun apply` answers for: tunnels made by hand are of another.
        set = "nixos";
        tunnels = content;
      };
      command = ''${lib.getExe gretun.package} apply "$file" --check'';
    };

  isSet = value: value != null && value != [ ];

  apply = name: "${lib.getExe gretun.package} apply ${gretun.configFiles.${name}}";

  unit = {
    description = "gretun tunnels";
    documentation = [ "man:gretun-apply(1)" ];
    # The MTU comes from the route to the far end, so there has to be one.
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    # What is mounted through a tunnel is mounted after, and unmounted before it goes.
    before = [ "remote-fs-pre.target" ];
    wantedBy = [ "multi-user.target" ];

    # Whatever changed, applying the new file with the new program does it all, and touches only what differs. Stopping
    # would take down all tunnels, and is left for the day when the last one goes.
    reloadIfChanged = true;
    startLimitIntervalSec = 0;
    enableDefaultPath = false;
    # For `snat`.
    path = [ pkgs.nftables ];

    serviceConfig = import ./hardening.nix // {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStart = apply "gretun-tunnels.toml";
      ExecReload = apply "gretun-tunnels.toml";
      ExecStop = apply "gretun-no-tunnels.toml";
      Restart = "on-failure";
      RestartSec = 5;
      AmbientCapabilities = [ "CAP_NET_ADMIN" ];
      CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
        "AF_NETLINK"
        "AF_UNIX"
      ];
    };
  };
in
{
  imports = [ ./common.nix ];

  options.services.gretun.tunnels = mkOption {
    default = { };
    example = lib.literalExpression ''
      {
        office = {
          remote = "198.51.100.7";
          key = 42;
          tunnel-ip = [ "10.9.0.1/30" ];
          route = [ "10.20.0.0/16" ];
        };
      }
    '';
    description = ''
      Static tunnels by interface name, with the names of the flags of {command}`gretun create`. They are reconciled by
      {command}`gretun apply` in {file}`gretun-tunnels.service`: a switch of the configuration touches only those that
      differ. With `networking.useNetworkd`, systemd-networkd gets those that it can express: without `snat` and `dev`, and
      encapsulated in UDP only with `encap-csum = false`.
    '';
    type = types.attrsOf (types.submodule (import ./tunnel-options.nix { inherit lib modes; }));
  };

  config = mkMerge [
    { services.gretun.enable = mkIf (gretun.tunnels != { }) (lib.mkDefault true); }

    (mkIf (tunnels != { }) {
      assertions = helpers.toAssertions (checks.problems tunnels);
      services.gretun.claims = checks.claims tunnels;

      boot.kernelModules = lib.unique (
        lib.mapAttrsToList (_: tunnel: modes.${tunnel.mode}.module) tunnels
      );

      systemd.network = networkd.render byNetworkd;

      # Traffic to a routed network may come back another way.
      networking.firewall.checkReversePath = mkIf (builtins.any (tunnel: tunnel.route != [ ]) (
        builtins.attrValues tunnels
      )) (lib.mkDefault "loose");
    })

    (mkIf (byGretun != { }) (mkMerge [
      {
        services.gretun.configFiles = {
          "gretun-tunnels.toml" = file "gretun-tunnels.toml" (mapAttrs (_: filterAttrs (_: isSet)) byGretun);
          "gretun-no-tunnels.toml" = file "gretun-no-tunnels.toml" { };
        };
        systemd.services.gretun-tunnels = unit;
      }
      (helpers.keepOff "tunnels" (builtins.attrNames byGretun))
    ]))
  ];
}
