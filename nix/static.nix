# The programs linked statically against musl: nothing but the file is needed to run one.
# By nixpkgs' own builder, since crane on `pkgsStatic` would link build scripts statically too.
{
  lib,
  rustPlatform,
  src,
}:
rustPlatform.buildRustPackage {
  pname = "gretun-static";
  inherit ((lib.importTOML ../Cargo.toml).package) version;
  inherit src;
  cargoLock.lockFile = ../Cargo.lock;
  # `checks.nextest` runs them.
  doCheck = false;

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
