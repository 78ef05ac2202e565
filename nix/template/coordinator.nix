# A host with a public address and the name gretun.example.org. Then, once for each peer:
#
#   gretun-coord keys create --expires 24h > attic.key
{
  nixpkgs.hostPlatform = "x86_64-linux";

  security.acme.acceptTerms = true;
  security.acme.defaults.email = "admin@example.org";
  security.acme.certs."gretun.example.org".listenHTTP = ":80";
  networking.firewall.allowedTCPPorts = [ 80 ];

  services.gretun.coordinator = {
    enable = true;
    openFirewall = true;
    tls.useACMEHost = "gretun.example.org";
  };
}
