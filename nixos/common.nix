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

  claims =
    description:
    mkOption {
      internal = true;
      default = [ ];
      inherit description;
      type = types.listOf (types.attrsOf types.str);
    };

  # Globs such as gretun* stand for the interfaces of one peer, so nothing else may begin like them.
  overlayNameProblems = lib.concatMap (
    prefix:
    map
      (
        other:
        "${other.option} gives names that begin with \"${prefix.value}\" like those of ${prefix.option}. Choose another name."
      )
      (
        builtins.filter (other: other != prefix && lib.hasPrefix prefix.value other.value) (
          cfg.claims.prefixes ++ cfg.claims.interfaces
        )
      )
  ) cfg.claims.prefixes;
in
{
  options.services.gretun = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to install the {command}`gretun` and {command}`gretun-coord` commands and to load the kernel modules
        that tunnels need. Enabling a coordinator or a peer, or declaring a tunnel, does this too; setting it to
        `false` explicitly turns all of them off.
      '';
    };

    package = lib.mkPackageOption pkgs "gretun" {
      extraDescription = "The flake's modules set it to the package of the same flake.";
    };

    configFiles = mkOption {
      internal = true;
      default = { };
      type = types.attrsOf types.package;
      description = "The configuration files of the units, by name.";
    };

    # What the parts take of the host, so that it is noticed when two of them want the same.
    claims = {
      ports = claims "Ports, as { option, value = \"UDP port 7777\" }.";
      interfaces = claims "Interface names, as { option, value = \"interface name gre1\" }.";
      prefixes = claims "Beginnings of the names of overlay interfaces, as { option, value = \"gretun\" }.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        assertions = helpers.toAssertions (
          helpers.usedTwice "Give one of them another port." cfg.claims.ports
          ++ helpers.usedTwice "Choose another name." cfg.claims.interfaces
          ++ overlayNameProblems
        );

        environment.systemPackages = [ cfg.package ];

        # Members may use the socket of a peer: `gretun peers` without root.
        users.groups.gretun = { };

        # Inside a sandbox nothing loads modules, so they are loaded before.
        boot.kernelModules = [
          "fou"
          "fou6"
          "ip_gre"
          "ip6_gre"
        ];

        warnings = helpers.unbroken (
          lib.optional config.boot.isContainer ''
            services.gretun runs in a container, which cannot load kernel modules. Load them on the host:
            boot.kernelModules = [ "fou" "fou6" "ip_gre" "ip6_gre" ];''
        );
      }
      (helpers.keepOff "fallback" helpers.fallbackInterfaces)
    ]
  );
}
