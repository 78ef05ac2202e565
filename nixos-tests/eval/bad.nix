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

  peer-without-coordinator = {
    module = peer { settings.coordinator = null; };
    says = [
      "services.gretun.peer.settings.coordinator is missing"
      "Set it to the URL"
    ];
  };

  peer-coordinator-no-url = {
    module = peer { settings.coordinator = "gretun.example.org"; };
    says = [
      "services.gretun.peer.settings.coordinator is \"gretun.example.org\""
      "https://gretun.example.org"
    ];
  };

  peer-without-key = {
    module.services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
    };
    says = [
      "services.gretun.peer.authKeyFile is missing"
      "gretun-coord keys create"
      "Set it to null"
    ];
  };

  instance-without-key = {
    module.services.gretun.peer.instances.lab.settings.coordinator = "https://gretun.example.org";
    says = [
      "services.gretun.peer.instances.lab.authKeyFile is missing"
      "gretun-coord keys create"
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

  peer-unknown-setting = {
    module = peer { settings.fou-prot = 7000; };
    says = [
      "services.gretun.peer.settings.fou-prot is no setting"
      "Did you mean `fou-port`?"
    ];
  };

  peer-unknown-setting-like-none = {
    module = peer { settings.exit-node = true; };
    says = [
      "services.gretun.peer.settings.exit-node is no setting"
      "The settings are accept-routes, "
    ];
  };

  peer-interface-too-long = {
    module = peer { settings.iface = "overlay-site%d"; };
    says = [
      "services.gretun.peer.settings.iface"
      "overlay-site9999"
      "has 16 bytes; the kernel takes 15"
      "Choose a shorter one"
    ];
  };

  peer-interface-without-index = {
    module = peer { settings.iface = "gretun"; };
    says = [
      "services.gretun.peer.settings.iface is \"gretun\""
      "Write %d"
    ];
  };

  peer-interface-only-index = {
    module = peer { settings.iface = "%d"; };
    says = [
      "services.gretun.peer.settings.iface is \"%d\""
      "Put a word before %d"
    ];
  };

  peer-interface-with-blank = {
    module = peer { settings.iface = "my tun%d"; };
    says = [
      "services.gretun.peer.settings.iface"
      "which the kernel refuses"
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

  peer-name-no-label = {
    module = peer { settings.node-name = "Attic.example"; };
    says = [
      "services.gretun.peer.settings.node-name is \"Attic.example\""
      "lower-case"
    ];
  };

  peer-port-zero = {
    module = peer { settings.fou-port = 0; };
    says = [
      "services.gretun.peer.settings.fou-port is 0"
      "such as 7777"
    ];
  };

  peer-metrics-without-port = {
    module = peer { settings.metrics-addr = "127.0.0.1"; };
    says = [
      "services.gretun.peer.settings.metrics-addr is \"127.0.0.1\""
      "127.0.0.1:9477"
    ];
  };

  peer-routes-no-network = {
    module = peer {
      advertiseRoutes = [
        "10.20.0.0/16"
        "10.30.0.1"
        "10.40.0.0/33"
      ];
    };
    says = [
      "services.gretun.peer.advertiseRoutes has \"10.30.0.1\""
      "services.gretun.peer.advertiseRoutes has \"10.40.0.0/33\""
    ];
  };

  peer-masquerading-nothing = {
    module = peer { settings.snat-routes = true; };
    says = [
      "services.gretun.peer.settings.snat-routes has no networks"
      "Set services.gretun.peer.advertiseRoutes"
    ];
  };

  peer-routes-without-forwarding = {
    module = {
      imports = [ (peer { advertiseRoutes = [ "10.20.0.0/16" ]; }) ];
      boot.kernel.sysctl."net.ipv4.conf.all.forwarding" = false;
    };
    says = [
      "services.gretun.peer.advertiseRoutes needs IP forwarding"
      "Remove net.ipv4.conf.all.forwarding"
    ];
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

  metrics-on-api-port = {
    module = coordinator {
      metrics.enable = true;
      metrics.port = 8443;
    };
    says = [
      "TCP port 8443 is used twice"
      "services.gretun.coordinator.settings.listen"
      "services.gretun.coordinator.settings.metrics-addr"
    ];
  };

  # --- coordinators -------------------------------------------------------------------------------------------------

  coordinator-unknown-setting = {
    module = coordinator { settings.listn = [ "0.0.0.0:8443" ]; };
    says = [
      "services.gretun.coordinator.settings.listn is no setting"
      "Did you mean `listen`?"
    ];
  };

  coordinator-listen-without-port = {
    module = coordinator { settings.listen = [ "0.0.0.0" ]; };
    says = [
      "services.gretun.coordinator.settings.listen has \"0.0.0.0\""
      "0.0.0.0:8443"
    ];
  };

  coordinator-pool-no-network = {
    module = coordinator { settings.pool = "100.64.0.0"; };
    says = [
      "services.gretun.coordinator.settings.pool is \"100.64.0.0\""
      "10.77.0.0/16"
    ];
  };

  coordinator-tls-without-key = {
    module = coordinator { tls.certFile = "/var/lib/acme/x/fullchain.pem"; };
    says = [
      "services.gretun.coordinator.tls.keyFile is missing"
      "Set it to"
    ];
  };

  coordinator-tls-without-cert = {
    module = coordinator { tls.keyFile = "/var/lib/acme/x/key.pem"; };
    says = [
      "services.gretun.coordinator.tls.certFile is missing"
      "Set it to"
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
      "Set services.gretun.coordinator.tls.certFile"
    ];
  };

  coordinator-key-in-store = {
    module = coordinator { authKeyFiles = [ ./bad.nix ]; };
    says = [ "services.gretun.coordinator.authKeyFiles is in the Nix store" ];
  };

  coordinator-password-in-store = {
    module = coordinator { settings.store = "postgres://gretun:hunter2@db/gretun"; };
    says = [
      "services.gretun.coordinator.settings.store has a password"
      "postgres:///gretun?host=/run/postgresql"
    ];
  };

  coordinator-nginx-and-tls = {
    module = coordinator {
      nginx.enable = true;
      nginx.domain = "gretun.example.org";
      tls.certFile = "/var/lib/acme/x/fullchain.pem";
      tls.keyFile = "/var/lib/acme/x/key.pem";
    };
    says = [
      "services.gretun.coordinator.tls and services.gretun.coordinator.nginx.enable"
      "Remove one of them"
    ];
  };

  coordinator-nginx-without-domain = {
    module = coordinator { nginx.enable = true; };
    says = [ "services.gretun.coordinator.nginx.domain is missing" ];
  };

  # --- tunnels ------------------------------------------------------------------------------------------------------

  tunnel-without-remote = {
    module = tunnel { remote = null; };
    says = [
      "services.gretun.tunnels.office.remote is missing"
      "Set it to"
    ];
  };

  tunnel-name-too-long = {
    module = tunnels { office-in-the-attic.remote = "198.51.100.7"; };
    says = [
      "services.gretun.tunnels.office-in-the-attic"
      "has 19 bytes; the kernel takes 15"
    ];
  };

  tunnel-name-of-the-kernel = {
    module = tunnels { gre0.remote = "198.51.100.7"; };
    says = [
      "services.gretun.tunnels.gre0"
      "Choose another one"
    ];
  };

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

  tunnels-alike = {
    module = tunnels {
      one = {
        remote = "198.51.100.7";
        local = "192.0.2.1";
        key = 258;
      };
      two = {
        remote = "198.51.100.7";
        local = "192.0.2.1";
        ikey = "0.0.1.2";
      };
    };
    says = [
      "The pair 192.0.2.1 and 198.51.100.7 of gre tunnels with the key 258 is used twice"
      "services.gretun.tunnels.one and by services.gretun.tunnels.two"
      "another key"
    ];
  };

  tunnel-of-two-families = {
    module = tunnel { local = "2001:db8::1"; };
    says = [
      "services.gretun.tunnels.office.local is 2001:db8::1, but the mode gre goes over IPv4"
      "Set mode to"
    ];
  };

  tunnel-remote-no-address = {
    module = tunnel { remote = "office.example.org"; };
    says = [
      "services.gretun.tunnels.office.remote is \"office.example.org\""
      "give an IPv4"
    ];
  };

  tunnel-to-itself = {
    module = tunnel { local = "198.51.100.7"; };
    says = [ "services.gretun.tunnels.office.local and .remote are both 198.51.100.7" ];
  };

  tunnel-address-without-length = {
    module = tunnel { tunnel-ip = [ "10.9.0.1" ]; };
    says = [ "services.gretun.tunnels.office.tunnel-ip has \"10.9.0.1\"" ];
  };

  tunnel-peer-with-length = {
    module = tunnel { peer-ip = [ "10.9.0.2/30" ]; };
    says = [ "services.gretun.tunnels.office.peer-ip has \"10.9.0.2/30\"" ];
  };

  tunnel-with-three-keys = {
    module = tunnel {
      key = 1;
      ikey = 2;
    };
    says = [ "services.gretun.tunnels.office.key holds for both directions" ];
  };

  tunnel-key-no-number = {
    module = tunnel { key = "secret"; };
    says = [ "services.gretun.tunnels.office.key is \"secret\"" ];
  };

  tunnel-key-without-gre = {
    module = tunnel {
      mode = "ipip";
      key = 1;
    };
    says = [ "services.gretun.tunnels.office.key is set, but the mode ipip has no keys" ];
  };

  tunnel-encap-without-port = {
    module = tunnel { encap = "gue"; };
    says = [ "services.gretun.tunnels.office.encap-dport is missing" ];
  };

  tunnel-port-without-encap = {
    module = tunnel { encap-dport = 5555; };
    says = [ "services.gretun.tunnels.office.encap-dport does nothing without encap" ];
  };

  tunnels-on-one-port = {
    module = tunnels {
      one = {
        remote = "198.51.100.7";
        encap = "fou";
        encap-sport = 5555;
        encap-dport = 5555;
      };
      two = {
        mode = "ipip";
        remote = "198.51.100.7";
        encap = "fou";
        encap-sport = 5555;
        encap-dport = 5556;
      };
    };
    says = [
      "UDP port 5555 is used twice"
      "services.gretun.tunnels.two.encap-sport for fou with IP protocol 4"
    ];
  };
}
