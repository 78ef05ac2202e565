# `nix fmt`: one formatter for each language.
{
  projectRootFile = "flake.nix";
  programs = {
    nixfmt.enable = true;
    ruff-format.enable = true;
    rustfmt = {
      enable = true;
      edition = "2024";
    };
  };
}
