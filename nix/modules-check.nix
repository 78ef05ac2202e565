# nixos-tests/eval/run in the sandbox: the modules against nixpkgs' real lib, good and bad configurations, golden files.
{
  pkgs,
  nixpkgs,
  self,
  steps ? "parse width sources evaluation golden",
}:
pkgs.runCommand "gretun-modules"
  {
    nativeBuildInputs = [
      pkgs.bubblewrap
      pkgs.nix
      pkgs.python3
      pkgs.systemd
    ];
    # Evaluating writes nothing.
    env = {
      NIX_REMOTE = "dummy://";
      # The input itself is in the store already; `pkgs.path` in a string would copy it there again.
      GRETUN_NIXPKGS_LIB = "${nixpkgs}/lib";
      SYSTEMD_UNITS = "${pkgs.systemd}/example/systemd/system";
    };
  }
  ''
    export HOME=$TMPDIR
    python3 ${self}/nixos-tests/eval/run ${steps}
    # systemd-analyze makes /run/systemd, which a sandbox does not have and nobody in it may make.
    binds=(--tmpfs /run)
    for path in /*; do
      [ "$path" = /run ] || binds+=(--dev-bind "$path" "$path")
    done
    bwrap "''${binds[@]}" -- python3 ${self}/nixos-tests/eval/run units
    touch "$out"
  ''
