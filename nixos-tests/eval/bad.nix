# Configurations that the modules must refuse, and what their sentence must say: the option, and the way out.
let
  peer = extra: {
    services.gretun.peer = {
      enable = true;
      settings = {
        coordinator = "https://gretun.example.org";
      }
      // extra.settings or { };
      authKeyFile = extra.authKeyFile or "/run/secrets/gretun-auth-key";
    }
    // removeAttrs extra [
      "authKeyFile"
      "settings"
    ];
  };

  coordinator = extra: {
    services.gretun.coordinator = {
      enable = true;
    }
    // extra;
  };

  tunnel = extra: {
    services.gretun.tunnels.office = {
      remote = "198.51.100.7";
    }
    // extra;
  };

  tunnels = tunnels: { services.gretun = { inherit tunnels; }; };
in
{
  # --- peers --------------------------------------------------------------------------------------------------------

  # The sandbox has one directory. What the module system advises for two definitions does not help.
  peer-state-dir-elsewhere = {
    module = peer { settings.state-dir = "/srv/gretun"; };
    says = [
      "services.gretun.peer.settings.state-dir is /var/lib/gretun"
      "bind-mount"
    ];
  };

  coordinator-state-dir-elsewhere = {
    module = coordinator { settings.state-dir = "/srv/gretun"; };
    says = [
      "services.gretun.coordinator.settings.state-dir is /var/lib/gretun-coord"
      "bind-mount"
    ];
  };

  peer-key-in-store = {
    module = peer { authKeyFile = "/nix/store/00000000000000000000000000000000-key"; };
    says = [
      "services.gretun.peer.authKeyFile is in the Nix store"
      "Give the path of a file outside"
    ];
  };

  peer-key-path-literal = {
    module = peer { authKeyFile = ./bad.nix; };
    says = [
      "services.gretun.peer.authKeyFile is in the Nix store"
      "as a string"
    ];
  };

  peer-key-in-settings = {
    module = peer { settings.auth-key-file = "/run/secrets/key"; };
    says = [
      "services.gretun.peer.settings.auth-key-file"
      "Set services.gretun.peer.authKeyFile"
    ];
  };

  instances-with-one-beginning = {
    module = peer {
      instances.lab = {
        settings.coordinator = "https://gretun.lab.example.org";
        settings.fou-port = 7778;
        settings.iface = "gretun-lab%d";
        authKeyFile = null;
      };
    };
    says = [
      "services.gretun.peer.instances.lab.settings.iface gives names that begin with \"gretun\""
      "Choose another name"
    ];
  };

  # Also a unit's and a user's name.
  instance-with-blank = {
    module = peer {
      instances."a b" = {
        settings.coordinator = "https://gretun.lab.example.org";
        settings.fou-port = 7778;
        settings.iface = "lab%d";
        authKeyFile = null;
      };
    };
    says = [
      "services.gretun.peer.instances.a b is also the name of a unit"
      "up to 19 lower-case letters"
    ];
  };

  instance-name-too-long = {
    module = peer {
      instances.the-second-floor-lab = {
        settings.coordinator = "https://gretun.lab.example.org";
        settings.fou-port = 7778;
        settings.iface = "lab%d";
        authKeyFile = null;
      };
    };
    says = [ "services.gretun.peer.instances.the-second-floor-lab is also the name of a unit" ];
  };

  peer-routes-without-forwarding = {
    module = {
      imports = [ (peer { settings.advertise-routes = [ "10.20.0.0/16" ]; }) ];
      boot.kernel.sysctl."net.ipv4.conf.all.forwarding" = false;
    };
    says = [
      "services.gretun.peer.settings.advertise-routes needs IP forwarding"
      "Remove net.ipv4.ip_forward"
    ];
  };

  peer-routes-with-ip-forward-off = {
    module = {
      imports = [ (peer { settings.advertise-routes = [ "10.20.0.0/16" ]; }) ];
      boot.kernel.sysctl."net.ipv4.ip_forward" = 0;
    };
    says = [ "services.gretun.peer.settings.advertise-routes needs IP forwarding" ];
  };

  # --- one port, two users ------------------------------------------------------------------------------------------

  instances-on-one-port = {
    module = peer {
      instances.lab = {
        settings.coordinator = "https://gretun.lab.example.org";
        authKeyFile = null;
      };
    };
    says = [
      "UDP port 7777 is used twice"
      "services.gretun.peer.settings.fou-port"
      "services.gretun.peer.instances.lab.settings.fou-port"
      "Give one of them another port"
    ];
  };

  peer-on-stun-port = {
    module.imports = [
      (peer { settings.fou-port = 3479; })
      (coordinator { })
    ];
    says = [
      "UDP port 3479 is used twice"
      "services.gretun.coordinator.settings.stun-listen"
      "services.gretun.peer.settings.fou-port"
    ];
  };

  tunnel-on-peer-port = {
    module.imports = [
      (peer { })
      (tunnel {
        encap = "fou";
        encap-sport = 7777;
        encap-dport = 7777;
      })
    ];
    says = [
      "UDP port 7777 is used twice"
      "services.gretun.tunnels.office.encap-sport"
    ];
  };

  # --- coordinators -------------------------------------------------------------------------------------------------

  coordinator-tls-without-key = {
    module = coordinator { tls.certFile = "/var/lib/acme/x/fullchain.pem"; };
    says = [
      "services.gretun.coordinator.tls.certFile and services.gretun.coordinator.tls.keyFile are one pair"
      "Set it too"
    ];
  };

  coordinator-tls-without-cert = {
    module = coordinator { tls.keyFile = "/var/lib/acme/x/key.pem"; };
    says = [
      "services.gretun.coordinator.tls.certFile and services.gretun.coordinator.tls.keyFile are one pair"
      "Set it too"
    ];
  };

  coordinator-tls-key-in-store = {
    module = coordinator {
      tls.certFile = "/var/lib/acme/x/fullchain.pem";
      tls.keyFile = ./bad.nix;
    };
    says = [ "services.gretun.coordinator.tls.keyFile is in the Nix store" ];
  };

  coordinator-tls-in-settings = {
    module = coordinator { settings.key = "/var/lib/acme/x/key.pem"; };
    says = [
      "services.gretun.coordinator.settings.key"
      "Set services.gretun.coordinator.tls.keyFile"
    ];
  };

  # NixOS's own refusal, which the snippets in the documents must not meet.
  coordinator-acme-without-terms = {
    module = coordinator { tls.useACMEHost = "gretun.example.org"; };
    says = [ "You must accept the CA's terms of service" ];
  };

  coordinator-key-in-store = {
    module = coordinator { authKeyFiles = [ ./bad.nix ]; };
    says = [ "services.gretun.coordinator.authKeyFiles is in the Nix store" ];
  };

  # --- tunnels ------------------------------------------------------------------------------------------------------

  tunnel-name-of-the-overlay = {
    module.imports = [
      (peer { })
      (tunnels { gretun0.remote = "198.51.100.7"; })
    ];
    says = [
      "services.gretun.tunnels.gretun0 gives names that begin with \"gretun\" like those of services.gretun.peer.settings.iface"
      "Choose another name"
    ];
  };
}
