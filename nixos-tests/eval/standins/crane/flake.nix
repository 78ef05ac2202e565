# crane's functions, of which each makes a derivation of the right name.
{
  outputs =
    { self }:
    {
      mkLib =
        pkgs:
        let
          inherit (pkgs) lib;
          make =
            suffix: args:
            # Everything that is asked for must evaluate.
            builtins.deepSeq
              (removeAttrs args [
                "cargoArtifacts"
                "nativeBuildInputs"
                "src"
              ])
              (
                pkgs.derivationOf "gretun${suffix}" { inherit (args) src; }
                // lib.optionalAttrs (args ? meta) { inherit (args) meta; }
              );
        in
        {
          filterCargoSources =
            path: type:
            type == "directory"
            || builtins.any (suffix: lib.hasSuffix suffix path) [
              ".rs"
              ".toml"
              "Cargo.lock"
            ];
          buildDepsOnly = make "-deps";
          buildPackage = make "";
          cargoClippy = make "-clippy";
          cargoNextest = make "-nextest";
          cargoDoc = make "-doc";
          cargoDeny = make "-deny";
          devShell =
            args: builtins.deepSeq (map toString args.packages) (pkgs.derivationOf "shell" { });
        };
    };
}
