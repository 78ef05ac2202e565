{
  description = "NAT-traversing and static kernel GRE tunnels for Linux";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    crane.url = "github:ipetkov/crane";
    treefmt-nix = {
      url = "github:numtide/treefmt-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      crane,
      treefmt-nix,
    }:
    let
      inherit (nixpkgs) lib;

      forAllSystems =
        perSystem:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: perSystem nixpkgs.legacyPackages.${system});

      systemOf = pkgs: pkgs.stdenv.hostPlatform.system;

      crateFor =
        pkgs:
        import ./nix/crate.nix {
          inherit pkgs;
          craneLib = crane.mkLib pkgs;
        };

      scenariosFor =
        pkgs:
        import ./nixos-tests {
          inherit pkgs;
          module = self.nixosModules.default;
        };

      formatterFor = pkgs: (treefmt-nix.lib.evalModule pkgs ./nix/treefmt.nix).config.build;

      # A module of ./nixos, with the package of this flake.
      moduleWithPackage = file: {
        key = "${toString file}#with-package";
        imports = [
          file
          (
            { pkgs, ... }:
            {
              services.gretun.package = lib.mkDefault self.packages.${systemOf pkgs}.gretun;
            }
          )
        ];
      };
    in
    {
      packages = forAllSystems (
        pkgs:
        let
          inherit (crateFor pkgs) gretun;
        in
        {
          inherit gretun;
          # The same package; `nix run` starts the other program.
          gretun-coord = gretun // {
            meta = gretun.meta // {
              description = "Coordinator of gretun networks";
              mainProgram = "gretun-coord";
            };
          };
          default = gretun;
        }
      );

      apps = forAllSystems (
        pkgs:
        let
          packages = self.packages.${systemOf pkgs};
          app = program: description: {
            type = "app";
            inherit program;
            meta = { inherit description; };
          };
          gretun = app (lib.getExe packages.gretun) "Join Linux hosts with kernel GRE tunnels";
        in
        {
          inherit gretun;
          default = gretun;
          gretun-coord = app (lib.getExe packages.gretun-coord) "Coordinator of gretun networks";
          # Virtual machines, two of them behind NATs; the log shows each step.
          demo = app (lib.getExe (scenariosFor pkgs).demo.driver) "See two hosts behind two NATs joined by a kernel tunnel";
        }
      );

      overlays.default = final: _: { inherit (crateFor final) gretun; };

      nixosModules = {
        default = moduleWithPackage ./nixos;
        coordinator = moduleWithPackage ./nixos/coordinator.nix;
        peer = moduleWithPackage ./nixos/peer.nix;
        tunnels = moduleWithPackage ./nixos/tunnels.nix;
      };

      checks = forAllSystems (
        pkgs:
        let
          crate = crateFor pkgs;
        in
        crate.checks
        // scenariosFor pkgs
        // {
          package = crate.gretun;
          fmt = (formatterFor pkgs).check self;
          modules = import ./nix/modules-check.nix { inherit pkgs self; };
        }
      );

      devShells = forAllSystems (pkgs: {
        default = (crateFor pkgs).devShell;
      });

      formatter = forAllSystems (pkgs: (formatterFor pkgs).wrapper);

      templates.default = {
        path = ./nix/template;
        description = "Two hosts and a coordinator, joined by gretun";
      };
    };
}
