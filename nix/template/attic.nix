# Behind a NAT; needs no port forwarding.
{
  nixpkgs.hostPlatform = "x86_64-linux";

  services.gretun.peer = {
    enable = true;
    settings.coordinator = "https://gretun.example.org:8443";
    # Put there by you, sops-nix or agenix; readable by root only.
    authKeyFile = "/var/lib/secrets/gretun-auth-key";
  };
}
