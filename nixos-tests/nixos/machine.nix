# One machine of a topology as a NixOS configuration.
{ topology, machine }:
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf optional;

  networkNames = builtins.attrNames topology.networks;

  # eth1, eth2, ... in the order of the file, each with its network.
  interfaces = lib.imap1 (
    number: interface:
    interface
    // {
      device = "eth${toString number}";
      properties = topology.networks.${interface.network};
      vlan = 1 + lib.lists.findFirstIndex (name: name == interface.network) null networkNames;
    }
  ) machine.interfaces;

  perDevice = f: builtins.listToAttrs (map (it: lib.nameValuePair it.device (f it)) interfaces);

  address =
    ip: prefix:
    optional (ip != null) {
      address = ip;
      prefixLength = lib.toIntBase10 (lib.last (lib.splitString "/" prefix));
    };

  # --- networks that delay and lose ---------------------------------------------------------------------------------

  impaired = builtins.filter (
    it: it.properties.latency-ms > 0 || it.properties.loss-percent > 0
  ) interfaces;

  netem =
    it:
    "tc qdisc replace dev ${it.device} root netem"
    + " delay ${toString it.properties.latency-ms}ms loss ${toString it.properties.loss-percent}%";

  # --- routers ------------------------------------------------------------------------------------------------------

  isRouter = machine.router != null;
  wan = (lib.findFirst (it: it.network == machine.router.outside) null interfaces).device;

  routerRules = pkgs.writeText "router.nft" ''
    define WAN = "${wan}"
    ${builtins.readFile (../nat + "/${machine.router.nat}.nft")}
    ${builtins.readFile ../nat/watch.nft}
    ${lib.optionalString grantsPorts (builtins.readFile ../nat/port-mapping.nft)}
  '';

  # PCP, NAT-PMP and UPnP IGD.
  grantsPorts = isRouter && machine.router.port-mapping != null;

  # --- gretun -------------------------------------------------------------------------------------------------------

  inherit (machine.gretun) peer coordinator tunnels;

  # TOML has one value or a list of them.
  asList =
    names: settings:
    settings // lib.mapAttrs (_: lib.toList) (lib.getAttrs (present names settings) settings);
  present = names: settings: lib.intersectLists names (builtins.attrNames settings);

  manually = daemon: mkIf (!daemon.autostart) (lib.mkForce [ ]);

  peerOptions = daemon: {
    enable = true;
    openFirewall = daemon.open-firewall;
    authKeyFile = daemon.settings.auth-key-file or null;
    settings = asList [ "advertise-routes" ] (removeAttrs daemon.settings [ "auth-key-file" ]);
  };
in
{
  virtualisation.interfaces = perDevice (it: {
    inherit (it) vlan;
  });

  networking = {
    interfaces = perDevice (it: {
      inherit (it.properties) mtu;
      ipv4.addresses = address it.ipv4 it.properties.ipv4;
      ipv6.addresses = address it.ipv6 it.properties.ipv6;
    });
    defaultGateway = machine.gateway4;
    defaultGateway6 = machine.gateway6;

    firewall = {
      enable = !isRouter && machine.firewall.enable;
      allowedTCPPorts = machine.firewall.allowed-tcp-ports;
      allowedUDPPorts = machine.firewall.allowed-udp-ports;
    };
  };

  boot.kernel.sysctl = mkIf isRouter {
    "net.ipv4.conf.all.forwarding" = true;
    "net.ipv6.conf.all.forwarding" = true;
  };

  systemd.services = {
    router-rules = mkIf isRouter {
      description = "NAT and filter of the router";
      before = [ "network-pre.target" ];
      wants = [ "network-pre.target" ];
      wantedBy = [ "multi-user.target" ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe' pkgs.nftables "nft"} -f ${routerRules}";
      };
    };

    impairment = mkIf (impaired != [ ]) {
      description = "Latency and loss of the networks";
      after = [ "network.target" ];
      before = [ "network-online.target" ];
      requiredBy = [ "network-online.target" ];
      wantedBy = [ "multi-user.target" ];
      path = [ pkgs.iproute2 ];
      script = lib.concatMapStringsSep "\n" netem impaired;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
      };
    };

    # A switch may have taken the peer away.
    gretun-peer = mkIf (peer != null && config.services.gretun.peer.enable) {
      wantedBy = manually peer;
    };
    gretun-coord = mkIf (coordinator != null) { wantedBy = manually coordinator; };
  };

  services.miniupnpd = mkIf grantsPorts {
    enable = true;
    externalInterface = wan;
    internalIPs = map (it: it.device) (builtins.filter (it: it.device != wan) interfaces);
    natpmp = true;
    upnp = true;
    appendConfig = ''
      min_lifetime=${toString (machine.router.port-mapping.lifetime / 2)}
      max_lifetime=${toString machine.router.port-mapping.lifetime}
    '';
  };

  services.gretun = {
    enable = true;

    peer = mkIf (peer != null) (peerOptions peer);
    inherit tunnels;

    coordinator = mkIf (coordinator != null) {
      enable = true;
      openFirewall = coordinator.open-firewall;
      settings = asList [
        "listen"
        "stun-listen"
      ] coordinator.settings;
    };
  };

  system.switch.enable = mkIf (machine.switch != { }) true;

  # Another peer and other tunnels in place of the machine's own.
  specialisation = lib.mapAttrs (_: other: {
    configuration.services.gretun = {
      peer = lib.mkForce (
        lib.optionalAttrs (other.gretun.peer != null) (peerOptions other.gretun.peer)
      );
      tunnels = lib.mkForce other.gretun.tunnels;
    };
  }) machine.switch;
}
