# Configurations that the module system refuses, and what its error must say.
let
  peer = extra: {
    services.gretun.peer = {
      enable = true;
      authKeyFile = null;
    }
    // extra
    // {
      settings = {
        coordinator = "https://gretun.example.org";
      }
      // extra.settings or { };
    };
  };
in
{
  # --- what is missing ----------------------------------------------------------------------------------------------

  peer-without-coordinator = {
    module.services.gretun.peer = {
      enable = true;
      authKeyFile = null;
    };
    says = [ "services.gretun.peer.settings.coordinator" ];
  };

  peer-without-key = {
    module.services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
    };
    says = [ "services.gretun.peer.authKeyFile" ];
  };

  instance-without-key = {
    module.services.gretun.peer.instances.lab.settings.coordinator = "https://gretun.example.org";
    says = [ "services.gretun.peer.instances.lab.authKeyFile" ];
  };

  coordinator-without-address = {
    module.services.gretun.coordinator = {
      enable = true;
      settings.listen = [ ];
    };
    says = [ "services.gretun.coordinator.settings.listen" ];
  };

  tunnel-without-remote = {
    module.services.gretun.tunnels.office.key = 42;
    says = [ "services.gretun.tunnels.office.remote" ];
  };

  # --- what is not there --------------------------------------------------------------------------------------------

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

  peer-unknown-option = {
    module.services.gretun.peer.port = 7777;
    says = [
      "services.gretun.peer.port"
      "does not exist"
    ];
  };

  # Routes are said once, in the settings; the host is prepared from there.
  peer-routes-beside-settings = {
    module = peer { advertiseRoutes = [ "10.20.0.0/16" ]; };
    says = [
      "services.gretun.peer.advertiseRoutes"
      "does not exist"
    ];
  };

  # --- what has another type ----------------------------------------------------------------------------------------

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
    module = peer { settings.fou-port = 77777; };
    says = [ "services.gretun.peer.settings.fou-port" ];
  };

  peer-interface-without-index = {
    module = peer { settings.iface = "gretun"; };
    says = [ "services.gretun.peer.settings.iface" ];
  };

  peer-interface-only-index = {
    module = peer { settings.iface = "%d"; };
    says = [ "services.gretun.peer.settings.iface" ];
  };
}
