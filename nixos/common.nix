# What all parts of services.gretun share: the package, the command line, and the kernel's modules.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  helpers = import ./lib.nix { inherit lib; };
  cfg = config.services.gretun;
  usedTwice = lib.filterAttrs (_: options: builtins.length options > 1) cfg.udpPorts;
in
{
  _class = "nixos";

  options.services.gretun = {
    enable = helpers.mkFlag ''
      Whether to install the commands and to load the kernel modules of tunnels. A coordinator, a peer or a tunnel
      does this too; `false`, set explicitly, turns all of them off.'';

    package = lib.mkPackageOption pkgs "gretun" {
      extraDescription = "The flake's modules set it to the package of the same flake.";
    };

    configFiles = mkOption {
      internal = true;
      default = { };
      type = types.attrsOf types.package;
      description = "The configuration files of the units, by name.";
    };

    udpPorts = mkOption {
      internal = true;
      default = { };
      type = types.attrsOf (types.listOf types.str);
      description = "The options that claim a UDP port, by port: no two parts may bind the same.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = helpers.toAssertions (
          lib.mapAttrsToList (port: options: ''
            UDP port ${port} is used twice: by ${lib.concatStringsSep " and by " options}. Give one of
            them another port.'') usedTwice
        );

        warnings = helpers.joinLines (
          lib.optional config.boot.isContainer ''
            services.gretun runs in a container, which cannot load kernel modules. Load them on the host:
            boot.kernelModules = [ "fou" "fou6" "ip_gre" "ip6_gre" ];''
        );

        environment.systemPackages = [ cfg.package ];

        # Members may use the socket of a peer: `gretun peers` without root.
        users.groups.gretun = { };

        # One change of tunnels at a time, whoever makes it: the units and root's commands share this lock.
        systemd.tmpfiles.rules = [ "d ${helpers.lockDirectory} 2770 root gretun -" ];

        boot.kernelModules = [
          "fou"
          "fou6"
          "ip_gre"
          "ip6_gre"
        ];
      }
      # What ip_gre, sit and their like create by themselves when they are loaded.
      (helpers.leaveUnmanaged "fallback" [
        "gre0"
        "gretap0"
        "erspan0"
        "ip6gre0"
        "ip6tnl0"
        "sit0"
        "tunl0"
      ])
    ]
  );
}
