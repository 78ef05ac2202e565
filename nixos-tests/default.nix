# The NixOS driver: every scenario (a directory here with topology.toml) as a test of virtual machines.
#
#   nix build .#checks.x86_64-linux.hole-punch                    run it
#   nix run .#checks.x86_64-linux.hole-punch.driverInteractive    look inside
{
  pkgs,
  # services.gretun, with its package.
  module,
  # Where the scenarios are.
  directory ? ./.,
  # Also those scenarios that only the local driver can run: it needs what the modules render for them.
  all ? false,
}:
let
  inherit (pkgs) lib;

  names = builtins.attrNames (
    lib.filterAttrs (
      name: type: type == "directory" && builtins.pathExists (directory + "/${name}/topology.toml")
    ) (builtins.readDir directory)
  );

  # The file's tables as values that cannot be wrong: an unknown key or a wrong type is an error.
  load =
    name:
    let
      raw = builtins.fromTOML (builtins.readFile (directory + "/${name}/topology.toml"));
    in
    {
      inherit raw;
      topology =
        (lib.evalModules {
          modules = [
            ./nixos/topology.nix
            (lib.setDefaultModuleLocation (directory + "/${name}/topology.toml") { config = raw; })
          ];
        }).config;
    };

  scenario =
    name:
    let
      inherit (load name) raw topology;
    in
    pkgs.testers.runNixOSTest {
      inherit name;
      # The script's time, and as much again for starting the machines.
      globalTimeout = 2 * topology.timeout;

      defaults = {
        imports = [
          module
          ./nixos/defaults.nix
        ];
      };
      nodes = lib.mapAttrs (
        _: machine: import ./nixos/machine.nix { inherit topology machine; }
      ) topology.machines;

      testScript = ''
        ${builtins.readFile ./common.py}
        # A string of JSON is a string of Python.
        topology: Record = json.loads(${builtins.toJSON (builtins.toJSON raw)})


        def measured(key: str, value: object) -> None:
            print(f"{key} = {value}")


        ${builtins.readFile (directory + "/${name}/script.py")}
      '';
    };
in
lib.genAttrs (builtins.filter (
  name: all || builtins.elem "nixos" (load name).topology.drivers
) names) scenario
