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

      treefmtFor = pkgs: module: (treefmt-nix.lib.evalModule pkgs module).config.build;

      # A module of ./nixos, with the package of this flake, or where it has none for the system, one of the host's nixpkgs.
      moduleWithPackage = file: {
        _class = "nixos";
        key = "${toString file}#with-package";
        imports = [
          file
          (
            { pkgs, ... }:
            let
              packages = self.packages.${systemOf pkgs} or (crateFor pkgs);
            in
            {
              services.gretun.package = lib.mkDefault packages.gretun;
            }
          )
        ];
      };
    in
    {
      packages = forAllSystems (
        pkgs:
        let
          inherit (crateFor pkgs) gretun src;
        in
        {
          inherit gretun;
          gretun-static = pkgs.pkgsStatic.callPackage ./nix/static.nix { inherit src; };
          # The same for aarch64, cross-built.
          gretun-static-aarch64 =
            pkgs.pkgsCross.aarch64-multiplatform-musl.pkgsStatic.callPackage ./nix/static.nix
              { inherit src; };
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
          gretun = app (lib.getExe packages.gretun) "Connect Linux hosts by kernel GRE tunnels";
        in
        {
          inherit gretun;
          default = gretun;
          gretun-coord = app (lib.getExe packages.gretun-coord) "Coordinator of gretun networks";
          # Virtual machines, two of them behind NATs; the log shows each step.
          demo = app (lib.getExe (scenariosFor pkgs).demo.driver) "Connect two hosts behind NATs";
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
          # nixfmt is for `nix fmt`: only what the plain test command checks as well is a check.
          fmt =
            (treefmtFor pkgs {
              imports = [ ./nix/treefmt.nix ];
              programs.nixfmt.enable = lib.mkForce false;
            }).check
              self;
          modules = import ./nix/modules-check.nix { inherit pkgs nixpkgs self; };
        }
      );

      devShells = forAllSystems (pkgs: {
        default = (crateFor pkgs).devShell;
      });

      formatter = forAllSystems (pkgs: (treefmtFor pkgs ./nix/treefmt.nix).wrapper);

      templates.default = {
        path = ./nix/template;
        description = "A coordinator and two hosts, connected by gretun";
      };
    };
}
