# A host with a public address and the name gretun.example.org. Then, once for each peer:
#
#   gretun-coord keys create > attic.key
{
  nixpkgs.hostPlatform = "x86_64-linux";
  security.acme.acceptTerms = true;
  security.acme.defaults.email = "admin@example.org";

  services.gretun.coordinator = {
    enable = true;
    openFirewall = true;
    nginx.enable = true;
    nginx.domain = "gretun.example.org";
  };
}
