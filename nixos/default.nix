# All of services.gretun.
{
  _class = "nixos";
  imports = [
    ./coordinator.nix
    ./peer.nix
    ./tunnels.nix
  ];
}
