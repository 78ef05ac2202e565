# Evaluates the modules of ../../nixos against nixpkgs' real `lib` and stand-ins for the rest of NixOS:
#
#   nix-instantiate --eval --strict --json nixos-tests/eval --arg lib 'import NIXPKGS/lib' -A good
#
# or, for one configuration of your own, -A host with --arg module '{ services.gretun.peer.enable = true; }'.
{
  lib,
  module ? { },
  system ? "x86_64-linux",
  # Configurations that documents show: a JSON file of their files by place, see run.
  documents ? null,
}:
let
  renderUnit = import ./units.nix { inherit lib; };

  evaluate =
    {
      modules,
      canExecute ? true,
    }:
    lib.evalModules {
      class = "nixos";
      modules = [
        ./stubs.nix
        { _module.args.pkgs = import ./pkgs.nix { inherit lib system canExecute; }; }
      ]
      ++ modules;
    };

  # All that the modules do to a host.
  resultOf =
    evaluated:
    let
      inherit (evaluated) config;
      inherit (config) networking;
      failed = builtins.filter (it: !it.assertion) config.assertions;
      network = lib.filterAttrs (_: units: units != { }) {
        inherit (config.systemd.network) netdevs networks;
      };
    in
    lib.optionalAttrs (config ? virtualisation) {
      machine = {
        inherit (config.virtualisation) interfaces memorySize;
        inherit (config.virtualisation.qemu) networkingOptions;
        inherit (networking) defaultGateway defaultGateway6;
        addresses = networking.interfaces;
      };
      # What the machine can be switched to.
      switches = lib.mapAttrs (
        _: special:
        let
          switched = evaluated.extendModules { modules = [ special.configuration ]; };
        in
        removeAttrs (resultOf switched) [ "switches" ]
      ) config.specialisation;
    }
    // {
      failedAssertions = map (it: it.message) failed;
      inherit (config) warnings;

      units = lib.mapAttrs' (
        name: unit: lib.nameValuePair "${name}.service" (renderUnit unit)
      ) config.systemd.services;

      files = lib.mapAttrs (_: file: (file.file or file).text) config.services.gretun.configFiles;

      # By whom the files are checked when they are built.
      checkedBy = lib.mapAttrs (_: file: file.script or null) config.services.gretun.configFiles;

      host = {
        kernelModules = config.boot.kernelModules;
        sysctl = config.boot.kernel.sysctl;
        checks = map (check: check.name) config.system.checks;
        groups = builtins.attrNames config.users.groups;
        tmpfiles = config.systemd.tmpfiles.rules;
        packages = map (package: package.name) config.environment.systemPackages;
        firewall = {
          inherit (networking.firewall)
            allowedTCPPorts
            allowedUDPPorts
            trustedInterfaces
            checkReversePath
            extraCommands
            extraForwardRules
            extraInputRules
            ;
        };
        networkmanager.unmanaged = networking.networkmanager.unmanaged;
        dhcpcd.denyInterfaces = networking.dhcpcd.denyInterfaces;
        networkd = network;
        certificates = lib.mapAttrs (_: cert: cert.reloadServices) config.security.acme.certs;
      };
    };

  evaluateCase =
    case:
    resultOf (evaluate {
      modules = [
        ../../nixos
        (case.module or case)
      ];
      canExecute = case.canExecute or true;
    });

  scenariosOf =
    directory:
    lib.mapAttrs
      (_: test: {
        inherit (test) testScript globalTimeout;
        nodes = lib.mapAttrs (
          _: node:
          resultOf (evaluate {
            modules = [
              ./test-stubs.nix
              test.defaults
              test.nodeDefaults
              node
            ];
          })
        ) test.nodes;
      })
      (
        import ../. {
          pkgs = import ./pkgs.nix { inherit lib system; };
          module = ../../nixos;
          inherit directory;
          all = true;
        }
      );

  good = lib.mapAttrs (_: evaluateCase) (import ./good.nix { inherit lib; });
in
{
  inherit good;

  # The sentences with which each is refused.
  bad = lib.mapAttrs (_: case: {
    inherit (case) says;
    inherit (evaluateCase case) failedAssertions;
  }) (import ./bad.nix);

  # Those that the module system itself refuses: evaluating one must fail.
  throwing = lib.mapAttrs (_: evaluateCase) (import ./throwing.nix);
  throwingSays = lib.mapAttrs (_: case: case.says) (import ./throwing.nix);

  # What the program refuses when it is built.
  refused = lib.mapAttrs (_: case: {
    inherit (case) says;
    result = evaluateCase case;
  }) (import ./refused.nix);

  # What the documents show, by the name of the place.
  documents = lib.mapAttrs (
    _: file:
    evaluateCase {
      module.imports = [
        file
        ./secrets-stubs.nix
      ];
    }
  ) (lib.importJSON documents);

  # Modules of NixOS are for NixOS alone.
  elsewhere = (lib.evalModules {
    class = "homeManager";
    modules = [ (../../nixos + "/${module}.nix") ];
  }).options;

  host = evaluateCase module;

  # Each module can be imported alone.
  alone =
    lib.genAttrs
      [
        "coordinator"
        "peer"
        "tunnels"
      ]
      (
        name:
        (resultOf (evaluate {
          modules = [ (../../nixos + "/${name}.nix") ];
        })).failedAssertions
      );

  # What the NixOS driver makes of the scenarios: one result a machine, and the script.
  scenarios = scenariosOf ../.;
  benches = scenariosOf ../../benches/guest;

  optionsDoc = import ./options-doc.nix {
    inherit lib;
    inherit (evaluate { modules = [ ../../nixos ]; }) options;
  };
}
