# treefmt-nix: takes the configuration, and gives the two derivations of it.
{
  outputs =
    { self }:
    {
      lib.evalModule = pkgs: file: {
        config.build = builtins.deepSeq (import file) {
          wrapper = pkgs.derivationOf "treefmt" { };
          check = _: pkgs.derivationOf "treefmt-check" { };
        };
      };
    };
}
