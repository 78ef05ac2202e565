# The Rust package, its checks and its development shell.
{ pkgs, craneLib }:
let
  inherit (pkgs) lib stdenv;

  src = lib.cleanSourceWith {
    name = "gretun-source";
    src = ../.;
    filter = import ./source.nix (toString ../.);
  };

  common = {
    inherit src;
    strictDeps = true;
  };

  # Dependencies alone, built once for all that follows, also by the profile of gretun.
  cargoArtifacts = craneLib.buildDepsOnly (
    common // { postBuild = "CARGO_PROFILE=small cargoWithProfile build --locked"; }
  );
  withArtifacts = common // {
    inherit cargoArtifacts;
  };

  gretun = craneLib.buildPackage (
    withArtifacts
    // {
      # `checks.nextest` runs them.
      doCheck = false;

      # Each program by its profile (Cargo.toml); what the log names is installed.
      buildPhaseCargoCommand = ''
        cargoBuildLog=$(mktemp cargoBuildLogXXXX.json)
        build() {
          cargoWithProfile build --message-format json-render-diagnostics --locked --bin "$1" >>"$cargoBuildLog"
        }
        CARGO_PROFILE=small build gretun
        CARGO_PROFILE=release build gretun-coord
      '';

      nativeBuildInputs = [
        pkgs.installShellFiles
        pkgs.makeBinaryWrapper
      ];

      # The programs print their own completions and manual pages, where they can be run.
      postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
        mkdir pages
        for program in gretun gretun-coord; do
          installShellCompletion --cmd "$program" \
            --bash <("$out/bin/$program" completions bash) \
            --zsh <("$out/bin/$program" completions zsh) \
            --fish <("$out/bin/$program" completions fish)
          "$out/bin/$program" man --dir pages
        done
        installManPage pages/*
      ''
      # What gretun runs by name; a host's own programs come first.
      + ''
        wrapProgram "$out/bin/gretun" --suffix PATH : ${
          lib.makeBinPath [
            pkgs.ethtool
            pkgs.kmod
            pkgs.nftables
          ]
        }
      '';

      # Both programs must start.
      doInstallCheck = stdenv.buildPlatform.canExecute stdenv.hostPlatform;
      installCheckPhase = ''
        "$out/bin/gretun" --version
        "$out/bin/gretun-coord" --version
      '';

      meta = {
        description = "NAT-traversing and static kernel GRE tunnels for Linux";
        license = with lib.licenses; [
          mit
          asl20
        ];
        mainProgram = "gretun";
        platforms = lib.platforms.linux;
      };
    }
  );
in
{
  inherit gretun src;

  checks = {
    clippy = craneLib.cargoClippy (
      withArtifacts // { cargoClippyExtraArgs = "--all-targets -- --deny warnings"; }
    );

    # Tests named kernel* need a kernel of their own; the plain test command runs them in a virtual machine.
    nextest = craneLib.cargoNextest (
      withArtifacts
      // {
        cargoNextestExtraArgs = "-E 'not binary(/^kernel/)'";
        # Nix and NetworkManager do not run in Nix's sandbox.
        env.GRETUN_ALLOW_SKIP = "1";
      }
    );

    docs = craneLib.cargoDoc (withArtifacts // { env.RUSTDOCFLAGS = "--deny warnings"; });

    # Advisories change from day to day and need the network: `cargo deny check advisories`.
    deny = craneLib.cargoDeny common;
  };

  devShell = craneLib.devShell {
    inputsFrom = [ gretun ];
    packages = with pkgs; [
      cargo-deny
      cargo-nextest
      ethtool
      iproute2
      iputils
      mypy
      nftables
      nixfmt
      ruff
      rust-analyzer
      tcpdump
    ];
  };
}
