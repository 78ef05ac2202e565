# All of services.gretun.
{
  imports = [
    ./coordinator.nix
    ./peer.nix
    ./tunnels.nix
  ];
}
