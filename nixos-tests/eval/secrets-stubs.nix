# Stand-ins for sops-nix and agenix, which documents mention.
{ lib, ... }:
let
  secrets =
    directory:
    lib.mkOption {
      default = { };
      type = lib.types.attrsOf (
        lib.types.submodule (
          { name, ... }:
          {
            options.path = lib.mkOption { default = "${directory}/${name}"; };
            freeformType = lib.types.attrsOf lib.types.anything;
          }
        )
      );
    };
in
{
  options.sops.secrets = secrets "/run/secrets";
  options.age.secrets = secrets "/run/agenix";
}
