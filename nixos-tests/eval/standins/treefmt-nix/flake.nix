# treefmt-nix: takes the configuration, and gives the two derivations of it.
{
  outputs =
    { self }:
    {
      lib.evalModule =
        pkgs: module:
        let
          inherit (pkgs.lib) mkOption types;
          enable.enable = mkOption {
            type = types.bool;
            default = false;
          };
          evaluated = pkgs.lib.evalModules {
            modules = [
              module
              {
                options = {
                  projectRootFile = mkOption { type = types.str; };
                  programs = {
                    nixfmt = enable;
                    ruff-format = enable;
                    rustfmt = enable // {
                      edition = mkOption { type = types.str; };
                    };
                  };
                };
              }
            ];
          };
        in
        {
          config.build = builtins.deepSeq evaluated.config {
            wrapper = pkgs.derivationOf "treefmt" { };
            check = _: pkgs.derivationOf "treefmt-check" { };
          };
        };
    };
}
