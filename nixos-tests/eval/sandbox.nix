# Real builds in Nix's sandbox, with a machine's own shell and libraries in place of nixpkgs': what the modules have built,
# and what the flake's check of the modules runs. ./sandbox.py says which.
{
  # A JSON file of { name, file, script }.
  builds,
  # The repository, as the flake has it.
  source,
  # A nixpkgs with its lib, if there is one: else the modules are not evaluated.
  nixpkgs ? null,
}:
let
  # What a script says and how it ends is the result, so that every build is there to be judged.
  build =
    {
      name,
      script,
      environment ? { },
    }:
    derivation (
      environment
      // {
        inherit name script;
        system = builtins.currentSystem;
        PATH = "/usr/bin:/bin:/usr/sbin:/sbin";
        builder = "/bin/bash";
        args = [
          "-euc"
          ''
            result=$out
            export out=$TMPDIR/out
            mkdir "$result"
            status=0
            bash -euc "$script" >"$result/said" 2>&1 || status=$?
            echo "$status" >"$result/status"
          ''
        ];
      }
    );
in
map (
  {
    name,
    file,
    script,
  }:
  build {
    inherit name script;
    environment.file = builtins.toFile name file;
  }
) (builtins.fromJSON (builtins.readFile builds))
++ [
  (import ../../nix/modules-check.nix {
    self = source;
    nixpkgs = toString nixpkgs;
    steps = "parse width sources golden" + (if nixpkgs == null then "" else " evaluation");
    pkgs = {
      bubblewrap = null;
      nix = null;
      python3 = null;
      systemd = "";
      runCommand =
        name: attributes: script:
        build {
          inherit name script;
          environment = attributes.env // {
            # This machine's systemd knows where its units are.
            SYSTEMD_UNITS = "";
          };
        };
    };
  })
]
