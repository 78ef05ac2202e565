# Configurations that evaluate and that the program refuses when they are built, and what the build must say.
let
  peer = settings: {
    services.gretun.peer = {
      enable = true;
      settings = {
        coordinator = "https://gretun.example.org";
      }
      // settings;
      authKeyFile = null;
    };
  };
  coordinator = settings: {
    services.gretun.coordinator = {
      enable = true;
      inherit settings;
    };
  };
  tunnels = tunnels: { services.gretun = { inherit tunnels; }; };
  tunnel = extra: tunnels { office = { remote = "198.51.100.7"; } // extra; };
in
{
  peer-coordinator-no-url = {
    module = peer { coordinator = "gretun.example.org"; };
    says = [ "gretun.example.org" ];
  };
  peer-unknown-setting = {
    module = peer { fou-prot = 7000; };
    says = [ "unknown field `fou-prot`" ];
  };
  peer-interface-too-long = {
    module = peer { iface = "overlay-site%d"; };
    says = [ "overlay-site%d" ];
  };
  peer-interface-of-a-card = {
    module = peer { iface = "eth%d"; };
    says = [ "eth%d" ];
  };
  peer-name-no-label = {
    module = peer { node-name = "Attic.example"; };
    says = [ "Attic.example" ];
  };
  peer-port-zero = {
    module = peer { fou-port = 0; };
    says = [ "port" ];
  };
  peer-metrics-without-port = {
    module = peer { metrics-addr = "127.0.0.1"; };
    says = [ "metrics-addr" ];
  };
  peer-routes-no-network = {
    module = peer { advertise-routes = [ "10.40.0.0/33" ]; };
    says = [ "10.40.0.0/33" ];
  };
  peer-masquerading-nothing = {
    module = peer { snat-routes = true; };
    says = [ "snat-routes" ];
  };

  coordinator-unknown-setting = {
    module = coordinator { listn = [ "0.0.0.0:8443" ]; };
    says = [ "unknown field `listn`" ];
  };
  coordinator-listen-without-port = {
    module = coordinator { listen = [ "0.0.0.0" ]; };
    says = [ "listen" ];
  };
  coordinator-pool-no-network = {
    module = coordinator { pool = "100.64.0.0"; };
    says = [ "pool" ];
  };
  # The program's words, and no advice of the module's that it would refuse as well.
  coordinator-unknown-store = {
    module = coordinator { store = "postgres://gretun:hunter2@db/gretun"; };
    says = [ "there is no store `postgres`" ];
  };

  tunnel-name-too-long = {
    module = tunnels { office-in-the-attic.remote = "198.51.100.7"; };
    says = [ "is longer than 15 bytes" ];
  };
  tunnel-name-of-the-kernel = {
    module = tunnels { gre0.remote = "198.51.100.7"; };
    says = [ "is reserved by the kernel" ];
  };
  tunnel-name-of-a-card = {
    module = tunnels { eth0.remote = "198.51.100.7"; };
    says = [ "is what the kernel calls a network card" ];
  };
  tunnel-name-with-index = {
    module = tunnels { "x%d".remote = "198.51.100.7"; };
    says = [ "x%d" ];
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
    says = [ "has the ends, the ikey and the dev of" ];
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
      "UDP port 5555 for IP protocol 4"
      "another encap-sport"
    ];
  };
  tunnel-of-two-families = {
    module = tunnel { local = "2001:db8::1"; };
    says = [ "2001:db8::1" ];
  };
  tunnel-remote-no-address = {
    module = tunnel { remote = "office.example.org"; };
    says = [ "is not an IP address" ];
  };
  tunnel-to-itself = {
    module = tunnel { local = "198.51.100.7"; };
    says = [ "local" ];
  };
  tunnel-peer-with-length = {
    module = tunnel { peer-ip = [ "10.9.0.2/30" ]; };
    says = [ "10.9.0.2/30" ];
  };
  tunnel-with-three-keys = {
    module = tunnel {
      key = 1;
      ikey = 2;
    };
    says = [ "not together with ikey" ];
  };
  tunnel-key-no-number = {
    module = tunnel { key = "secret"; };
    says = [ "secret" ];
  };
  tunnel-key-without-gre = {
    module = tunnel {
      mode = "ipip";
      key = 1;
    };
    says = [ "not for mode ipip" ];
  };
  tunnel-encap-without-port = {
    module = tunnel { encap = "gue"; };
    says = [ "encap-dport" ];
  };
  tunnel-port-without-encap = {
    module = tunnel { encap-dport = 5555; };
    says = [ "encap-dport" ];
  };

  # networkd's tunnels are checked by the program as well, which has its own words for what networkd ignores.
  networkd-tunnel-remote-no-address = {
    module.networking.useNetworkd = true;
    module.services.gretun.tunnels.office.remote = "office.example.org";
    says = [ "is not an IP address" ];
  };
}
