# The filter of the Rust derivations' source: whether they see a file of the repository. Scenarios and modules are left
# out, so that changing one builds nothing anew. Nothing but builtins, so that nixos-tests/eval/run can list what remains.
root: path: _:
let
  relative = builtins.substring (builtins.stringLength root + 1) (-1) path;
  first = builtins.head (builtins.match "([^/]*).*" relative);
in
builtins.elem first [
  "Cargo.lock"
  "Cargo.toml"
  "benches"
  "clippy.toml"
  "deny.toml"
  # Tests read their cases there.
  "docs"
  "rustfmt.toml"
  "src"
  "tests"
]
