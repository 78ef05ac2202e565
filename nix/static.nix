# The programs linked statically against musl: nothing but the file is needed to run one.
# By nixpkgs' own builder, since crane on `pkgsStatic` would link build scripts statically too.
{
  lib,
  rustPlatform,
  symlinkJoin,
  src,
}:
let
  inherit ((lib.importTOML ../Cargo.toml).package) version;

  # Each program by its profile (Cargo.toml).
  program =
    name: profile:
    rustPlatform.buildRustPackage {
      pname = "${name}-static";
      inherit version src;
      cargoLock.lockFile = ../Cargo.lock;
      cargoBuildFlags = [ "--bin=${name}" ];
      buildType = profile;
      # `checks.nextest` runs them.
      doCheck = false;
    };
in
symlinkJoin {
  name = "gretun-static-${version}";
  paths = [
    (program "gretun" "small")
    (program "gretun-coord" "release")
  ];

  meta = {
    description = "NAT-traversing and static kernel GRE tunnels for Linux, as static programs";
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "gretun";
    platforms = lib.platforms.linux;
  };
}
