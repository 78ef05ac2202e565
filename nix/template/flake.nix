{
  description = "Two hosts and a coordinator, joined by gretun";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    gretun = {
      # Where you have the repository.
      url = "git+https://git.example.org/gretun";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    { nixpkgs, gretun, ... }:
    let
      host =
        name:
        nixpkgs.lib.nixosSystem {
          modules = [
            gretun.nixosModules.default
            ./${name}.nix
            # Your hardware, users and so on.
            ./hosts/${name}
            { networking.hostName = name; }
          ];
        };
    in
    {
      nixosConfigurations = nixpkgs.lib.genAttrs [
        "coordinator"
        "attic"
        "office"
      ] host;
    };
}
