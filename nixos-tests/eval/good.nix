# Configurations that must evaluate. Each is a directory under ../golden, which holds what they come to.
{ lib }:
{
  # --- peers --------------------------------------------------------------------------------------------------------

  peer = {
    services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      authKeyFile = "/run/secrets/gretun-auth-key";
    };
  };

  peer-open-coordinator = {
    services.gretun.peer = {
      enable = true;
      settings.coordinator = "http://203.0.113.1:8443";
      authKeyFile = null;
    };
  };

  peer-gateway-nftables = {
    networking.nftables.enable = true;
    networking.firewall.filterForward = true;
    services.gretun.peer = {
      enable = true;
      settings = {
        coordinator = "https://gretun.example.org";
        node-name = "attic";
        fou-port = 7000;
        iface = "site%d";
        stun-server = [ "stun.example.org:3478" ];
        snat-routes = true;
        metrics-addr = "127.0.0.1:9477";
        advertise-routes = [
          "10.20.0.0/16"
          "fd00:20::/32"
        ];
        accept-routes = true;
      };
      authKeyFile = "/run/secrets/gretun-auth-key";
      openFirewall = true;
      trustTunnels = true;
    };
  };

  peer-gateway-iptables = {
    services.gretun.peer = {
      enable = true;
      settings = {
        coordinator = "https://gretun.example.org";
        advertise-routes = [ "10.20.0.0/16" ];
      };
      authKeyFile = "/run/secrets/gretun-auth-key";
      openFirewall = true;
      trustTunnels = true;
    };
  };

  # firewalld has iptables' wildcard. A key's path may begin like the store's.
  peer-firewalld = {
    networking.firewall.backend = "firewalld";
    services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      authKeyFile = "/nix/storekeeper/key";
      trustTunnels = true;
    };
  };

  peer-instances = {
    services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      authKeyFile = "/run/secrets/gretun-auth-key";
      instances.lab = {
        settings.coordinator = "https://gretun.lab.example.org";
        settings.fou-port = 7778;
        authKeyFile = "/run/secrets/gretun-lab";
        trustTunnels = true;
      };
    };
  };

  # Built for another machine: the program cannot check its configuration.
  peer-cross = {
    canExecute = false;
    module.services.gretun.peer = {
      enable = true;
      settings.coordinator = "https://gretun.example.org";
      authKeyFile = null;
    };
  };

  # --- coordinators -------------------------------------------------------------------------------------------------

  coordinator = {
    services.gretun.coordinator = {
      enable = true;
      openFirewall = true;
    };
  };

  # STUN is for everybody, the API for the proxy.
  coordinator-behind-proxy = {
    services.gretun.coordinator = {
      enable = true;
      openFirewall = true;
      settings.listen = [
        "127.0.0.1:8443"
        "[::1]:8443"
      ];
    };
  };

  coordinator-tls = {
    services.gretun.coordinator = {
      enable = true;
      settings = {
        metrics-addr = "127.0.0.1:9478";
        listen = [
          "0.0.0.0:443"
          "[::]:443"
        ];
        pool = "10.77.0.0/16";
        pool6 = "fd12:3456:789a::/64";
        stun-listen = [
          "192.0.2.1:3478"
          "192.0.2.1:3479"
        ];
      };
      openFirewall = true;
      authKeyFiles = [
        "/run/secrets/gretun-site"
        "/run/secrets/gretun-lab"
      ];
      tls.certFile = "/var/lib/acme/gretun.example.org/fullchain.pem";
      tls.keyFile = "/var/lib/acme/gretun.example.org/key.pem";
    };
  };

  # A peer's metrics may have the coordinator's port on another address.
  coordinator-acme = {
    security.acme = {
      acceptTerms = true;
      defaults.email = "admin@example.org";
      certs."gretun.example.org".listenHTTP = ":80";
    };
    services.gretun.coordinator = {
      enable = true;
      settings.listen = [ "192.0.2.1:8443" ];
      settings.metrics-addr = "10.0.0.1:8443";
      settings.stun-listen = [ "none" ];
      tls.useACMEHost = "gretun.example.org";
    };
  };

  # --- tunnels ------------------------------------------------------------------------------------------------------

  tunnels = {
    services.gretun.tunnels = {
      office = {
        remote = "198.51.100.7";
        key = 42;
        tunnel-ip = [ "10.9.0.1/30" ];
        route = [ "10.20.0.0/16" ];
        snat = [ "10.20.0.0/16" ];
      };
      bridge = {
        mode = "ip6gretap";
        local = "2001:db8::1";
        remote = "2001:db8::2";
        ikey = "0.0.0.1";
        okey = 2;
        mtu = 1400;
        ttl = "inherit";
      };
      udp = {
        remote = "198.51.100.8";
        encap = "fou";
        encap-sport = 5555;
        encap-dport = 5555;
        tunnel-ip = [ "fd00:9::1/64" ];
        openFirewall = true;
      };
    };
  };

  # Two tunnels share a port; the firewall lets in what comes from the far ends.
  tunnels-nftables = {
    networking.nftables.enable = true;
    services.gretun.tunnels = {
      plain = {
        mode = "ip6gre";
        local = "2001:db8::1";
        remote = "2001:db8::2";
        openFirewall = true;
      };
      one = {
        remote = "198.51.100.8";
        encap = "gue";
        encap-sport = 5555;
        encap-dport = 5555;
        openFirewall = true;
      };
      two = {
        remote = "198.51.100.9";
        encap = "gue";
        encap-sport = 5555;
        encap-dport = 5555;
      };
    };
  };

  tunnels-networkd = {
    networking.useNetworkd = true;
    services.gretun.tunnels = {
      office = {
        local = "192.0.2.1";
        remote = "198.51.100.7";
        key = 42;
        tos = "inherit";
        tunnel-ip = [ "10.9.0.1/32" ];
        peer-ip = [ "10.9.0.2" ];
        route = [ "10.20.0.0/16" ];
      };
      dslite = {
        mode = "ipip6";
        local = "2001:db8::1";
        remote = "2001:db8::2";
        mtu = 1460;
      };
      udp = {
        remote = "198.51.100.8";
        encap = "fou";
        encap-sport = 5555;
        encap-dport = 5556;
        encap-csum = false;
      };
      # Both ends receive on the same port.
      gue = {
        remote = "198.51.100.10";
        encap = "gue";
        encap-dport = 5557;
        encap-csum = false;
      };
      # networkd cannot masquerade: stays with gretun.
      nat = {
        remote = "198.51.100.9";
        snat = [ "10.30.0.0/16" ];
      };
    };
  };

  # --- together, alone, not at all ----------------------------------------------------------------------------------

  everything = {
    services.gretun = {
      coordinator.enable = true;
      peer = {
        enable = true;
        settings.coordinator = "http://127.0.0.1:8443";
        authKeyFile = "/run/secrets/gretun-auth-key";
      };
      tunnels.office.remote = "198.51.100.7";
    };
  };

  commands-only = {
    services.gretun.enable = true;
  };

  switched-off = {
    services.gretun = {
      enable = false;
      coordinator.enable = true;
      peer.enable = true;
      peer.instances.lab = { };
      tunnels.office = { };
    };
  };
}
