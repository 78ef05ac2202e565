# Packages that are derivations, so that a flake can have them, and build nothing.
{ lib, system }:
let
  derivationOf =
    name: attrs:
    (derivation {
      inherit name system;
      builder = "/bin/false";
    })
    // {
      pname = name;
      meta.mainProgram = name;
    }
    // attrs;

  tools = lib.genAttrs [
    "bubblewrap"
    "cargo-deny"
    "cargo-nextest"
    "conntrack-tools"
    "ethtool"
    "installShellFiles"
    "iperf3"
    "iproute2"
    "iputils"
    "kmod"
    "makeBinaryWrapper"
    "mypy"
    "nftables"
    "nix"
    "nixfmt"
    "python3"
    "ruff"
    "rust-analyzer"
    "systemd"
    "tcpdump"
  ] (name: derivationOf name { });

  callStatic =
    file: args:
    import file (
      {
        inherit lib;
        rustPlatform.buildRustPackage =
          attrs:
          builtins.deepSeq (removeAttrs attrs [ "src" ]) (
            derivationOf "${attrs.pname}-${attrs.version}" { inherit (attrs) src; }
          );
        symlinkJoin =
          attrs: builtins.deepSeq attrs (derivationOf attrs.name { inherit (attrs) meta; });
      }
      // args
    );

  platform = {
    inherit system;
    canExecute = _: true;
  };
in
tools
// {
  inherit lib system derivationOf;
  path = ./.;

  pkgsStatic.callPackage = callStatic;
  pkgsCross.aarch64-multiplatform-musl.pkgsStatic.callPackage = callStatic;

  stdenv = {
    hostPlatform = platform;
    buildPlatform = platform;
  };

  runCommand =
    name: attrs: script:
    builtins.seq script (derivationOf name { });

  # A test evaluates to its driver; its machines are evaluated by -A scenarios of ../../default.nix.
  testers.runNixOSTest =
    test:
    let
      inherit (import ./test-framework.nix {
        inherit lib;
        pkgs = null;
      } test) name testScript globalTimeout meta;
      driver =
        suffix:
        derivationOf "nixos-test-driver${suffix}-${name}" {
          meta.mainProgram = "nixos-test-driver";
        };
    in
    builtins.deepSeq
      [
        testScript
        globalTimeout
        meta
      ]
      (
        derivationOf "vm-test-run-${name}" {
          driver = driver "";
          driverInteractive = driver "-interactive";
        }
      );
}
