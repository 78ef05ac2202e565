# A nixpkgs that is only `lib` (found beside this file, as a copy or link) and packages that build nothing. With it `nix
# flake check --no-build` evaluates every output of the flake without a network: ../run puts it together.
{
  outputs =
    { self }:
    let
      lib = import ./lib;
    in
    {
      inherit lib;
      legacyPackages = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ] (system: import ./pkgs.nix { inherit lib system; });
    };
}
