# nixos-tests/eval/run in the sandbox: the modules against nixpkgs' real lib, good and bad configurations, golden files.
{ pkgs, self }:
pkgs.runCommand "gretun-modules"
  {
    nativeBuildInputs = [
      pkgs.nix
      pkgs.python3
      pkgs.systemd
    ];
    # Evaluating writes nothing.
    env = {
      NIX_REMOTE = "dummy://";
      GRETUN_NIXPKGS_LIB = "${pkgs.path}/lib";
      SYSTEMD_UNITS = "${pkgs.systemd}/example/systemd/system";
    };
  }
  ''
    export HOME=$TMPDIR
    python3 ${self}/nixos-tests/eval/run parse evaluation golden units
    touch "$out"
  ''
