# Configurations that the types of the options refuse, and what the module system's error must say.
{
  tunnel-unknown-option = {
    module.services.gretun.tunnels.office = {
      remote = "198.51.100.7";
      tunel-ip = [ "10.9.0.1/30" ];
    };
    says = [
      "services.gretun.tunnels.office.tunel-ip"
      "does not exist"
    ];
  };

  tunnel-unknown-mode = {
    module.services.gretun.tunnels.office = {
      remote = "198.51.100.7";
      mode = "vxlan";
    };
    says = [
      "services.gretun.tunnels.office.mode"
      "\"gretap\""
    ];
  };

  tunnel-mtu-too-small = {
    module.services.gretun.tunnels.office = {
      remote = "198.51.100.7";
      mtu = 68;
    };
    says = [
      "services.gretun.tunnels.office.mtu"
      "between 576 and 65535"
    ];
  };

  peer-port-too-large = {
    module.services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      settings.fou-port = 77777;
      authKeyFile = null;
    };
    says = [ "services.gretun.peer.settings.fou-port" ];
  };

  peer-state-dir-elsewhere = {
    module.services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      settings.state-dir = "/srv/gretun";
      authKeyFile = null;
    };
    says = [
      "services.gretun.peer.settings.state-dir"
      "read-only"
    ];
  };

  peer-unknown-option = {
    module.services.gretun.peer.port = 7777;
    says = [
      "services.gretun.peer.port"
      "does not exist"
    ];
  };
}
