# services.gretun.peer: the overlay daemon, `gretun up`, once or several times.
#
# What a restart, a stop and a removal mean for the tunnels:
# - The daemon leaves its tunnels in the kernel when it ends, and adopts them when it starts. So its unit has no ExecStop,
#   and restarting or stopping it, also by a switch of the configuration over the tunnel itself, costs no packet.
# - Beside it stands gretun-down.service, which does nothing but run `gretun down` when it is stopped. A switch never
#   restarts it (restartIfChanged), and a shutdown does not stop it (no default dependencies). What is left is the one
#   case that counts: a unit that is gone from the configuration is stopped by the switch. The daemon requires it and is
#   ordered after it, so the daemon is stopped first and cannot make the tunnels anew.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    concatMap
    mkIf
    mkMerge
    mkOption
    nameValuePair
    optional
    optionals
    types
    ;
  helpers = import ./lib.nix { inherit lib; };

  gretun = config.services.gretun;
  cfg = gretun.peer;

  # --- options ------------------------------------------------------------------------------------------------------

  # The default peer (`instance` is null) has the places where the command line looks by itself.
  unitOf = instance: "gretun-peer" + lib.optionalString (instance != null) "-${instance}";

  optionsOf =
    instance:
    let
      directory = if instance == null then "gretun" else unitOf instance;
      shown = if instance == null then "gretun" else "gretun-peer-NAME";
    in
    {
      enable = mkOption {
        type = types.bool;
        default = instance != null;
        example = true;
        description = "Whether to run `gretun up` as {file}`${unitOf instance}.service`.";
      };

      settings = mkOption {
        default = { };
        example = {
          coordinator = "https://gretun.example.org:8443";
          node-name = "attic";
        };
        description = ''
          Configuration of {command}`gretun up`: a TOML file that the program itself checks when the system is built.
          Every flag of {command}`gretun up --help` is a setting of the same name; below are those that the module
          reads or sets as well. Secrets do not belong here; see `authKeyFile`.
        '';
        type = types.submodule {
          freeformType = (pkgs.formats.toml { }).type;
          options = {
            coordinator = mkOption {
              type = types.str;
              example = "https://gretun.example.org:8443";
              description = "URL of the coordinator.";
            };
            fou-port = mkOption {
              type = types.port;
              default = 7777;
              example = 7778;
              description = "UDP port of discovery and data. Each peer on a host needs one of its own.";
            };
            iface = mkOption {
              type = types.strMatching "[^%]+%d.*";
              default = if instance == null then "gretun%d" else "${instance}-%d";
              defaultText = lib.literalExpression ''"gretun%d", or "NAME-%d" in the instance NAME'';
              example = "site%d";
              description = ''
                Name of the tunnel interfaces; `%d` becomes the index of the peer. With an index of four digits it must
                fit into the kernel's 15 bytes.
              '';
            };
            advertise-routes = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "10.20.0.0/16" ];
              description = "Networks behind this host that peers may use. Turns on IP forwarding.";
            };
            accept-routes = helpers.mkFlag ''
              Whether to route to the networks that peers advertise. Sets the firewall's reverse path check to `loose`,
              because such traffic may leave by one interface and come back by another.'';
            snat-routes = helpers.mkFlag ''
              Whether to masquerade what peers send to the advertised networks, so that the hosts there need no route
              back.'';
            state-dir = helpers.mkFixed "/var/lib/${directory}" "/var/lib/${shown}" ''
              Directory of the keys of this peer.'';
            socket = helpers.mkFixed "/run/${directory}/gretun.sock" "/run/${shown}/gretun.sock" ''
              Socket on which {command}`gretun peers` and others reach the daemon; root and the members of the group
              `gretun` may use it.'';
          };
        };
      };

      authKeyFile = mkOption {
        # Unlike with nullOr, what is not said is not null.
        type = types.either (types.enum [ null ]) types.path;
        example = "/run/secrets/gretun-auth-key";
        description = ''
          File with an auth key of the coordinator ({command}`gretun-coord keys create`). Only systemd reads it, so
          root may own it; it must not be in the Nix store, and may be gone once the host is enrolled. `null` says that
          none is needed.
        '';
      };

      openFirewall = helpers.mkFlag ''
        Whether everybody may send to the UDP port. Seldom needed: connection tracking lets in the answers to what this
        host has sent. A host with a public address is found faster with it.'';

      trustTunnels = helpers.mkFlag ''
        Whether the firewall lets in everything that comes through the tunnels. Tunnels are not encrypted: who can
        forge packets from a peer's address then reaches every service of this host.'';
    };

  # --- peers --------------------------------------------------------------------------------------------------------

  instanceOf =
    instance: peerCfg:
    peerCfg
    // rec {
      inherit instance;
      option = "services.gretun.peer" + lib.optionalString (instance != null) ".instances.${instance}";
      iface = "${option}.settings.iface";
      unit = unitOf instance;
      downUnit = "gretun-down" + lib.optionalString (instance != null) "-${instance}";
      directory = baseNameOf peerCfg.settings.state-dir;
      # Globs such as gretun* stand for the interfaces of one peer, so nothing else may begin like them.
      prefix = builtins.head (lib.splitString "%d" peerCfg.settings.iface);
    };

  wanted = builtins.filter (peer: peer.enable) (
    [ (instanceOf null cfg) ] ++ lib.mapAttrsToList instanceOf cfg.instances
  );
  peers = optionals gretun.enable wanted;

  routed = lib.unique (concatMap (peer: peer.settings.advertise-routes) peers);
  routed6 = builtins.filter helpers.isIPv6 routed;
  routed4 = lib.subtractLists routed6 routed;
  accepting = builtins.filter (peer: peer.settings.accept-routes) peers;
  masquerading = builtins.filter (peer: peer.settings.snat-routes) peers;

  forbidsForwarding =
    version:
    builtins.elem (config.boot.kernel.sysctl."net.${version}.conf.all.forwarding" or true) [
      false
      0
      "0"
    ];

  problems =
    peer:
    helpers.fileProblems peer.option peer.settings { auth-key-file = "authKeyFile"; }
    ++ helpers.secretProblems "${peer.option}.authKeyFile" peer.authKeyFile
    ++ optional (builtins.match "([a-z][a-z0-9-]{0,18})?" (toString peer.instance) == null) ''
      ${peer.option} is also the name of a unit and of a user. Take one of up to 19 lower-case letters, digits and
      dashes.''
    ++ map (option: ''
      ${option} gives names that begin with "${peer.prefix}" like those of ${peer.iface}. Choose another name.'')
      (builtins.attrNames (
        lib.filterAttrs (_: lib.hasPrefix peer.prefix) (removeAttrs names [ peer.iface ])
      ));

  # The names of interfaces, or their beginnings, by the options that give them.
  names =
    lib.listToAttrs (map (peer: nameValuePair peer.iface peer.prefix) peers)
    // lib.mapAttrs' (name: _: nameValuePair "services.gretun.tunnels.${name}" name) (
      gretun.tunnels or { }
    );

  # --- units --------------------------------------------------------------------------------------------------------

  # The same user, group and state directory for the daemon and for what takes its tunnels down.
  serviceIdentity =
    peer: capabilities:
    helpers.hardening
    // {
      User = peer.unit;
      Group = "gretun";
      ReadWritePaths = [ "-${helpers.lockDirectory}" ];
      StateDirectory = peer.directory;
      StateDirectoryMode = "0700";
      AmbientCapabilities = capabilities;
      CapabilityBoundingSet = capabilities;
    };

  daemon = peer: {
    description = "gretun peer";
    documentation = [ "man:gretun-up(1)" ];
    wants = helpers.startedAfter;
    after = helpers.startedAfter ++ [
      "nss-lookup.target"
      "${peer.downUnit}.service"
    ];
    requires = [ "${peer.downUnit}.service" ];
    wantedBy = [ "multi-user.target" ];

    # One step: stopped in the old configuration and started in the new, it would be away while the switch runs.
    stopIfChanged = false;
    # A host that nobody can walk up to must not give up.
    startLimitIntervalSec = 0;
    enableDefaultPath = false;

    serviceConfig =
      serviceIdentity peer [
        "CAP_NET_ADMIN"
        "CAP_NET_RAW"
      ]
      // {
        Type = "notify";
        ExecStart =
          "${lib.getExe gretun.package} up --config ${gretun.configFiles."${peer.unit}.toml"}"
          + lib.optionalString (peer.authKeyFile != null) " --auth-key-file %d/auth-key";
        LoadCredential = optional (peer.authKeyFile != null) "auth-key:${peer.authKeyFile}";
        # Stands in for a file that is no longer there: an empty line is no key.
        SetCredential = optional (peer.authKeyFile != null) "auth-key:\\n";
        Restart = "always";
        RestartSec = 1;
        # Ended by `gretun down`, which means it.
        RestartPreventExitStatus = 10;
        SuccessExitStatus = 10;
        WatchdogSec = 30;
        RuntimeDirectory = peer.directory;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_PACKET"
          "AF_UNIX"
        ];
      };
  };

  down = peer: {
    description = "Removal of the tunnels of ${peer.unit}.service";
    documentation = [ "man:gretun-down(1)" ];
    wantedBy = [ "multi-user.target" ];
    unitConfig.DefaultDependencies = false;
    restartIfChanged = false;
    enableDefaultPath = false;

    serviceConfig = serviceIdentity peer [ "CAP_NET_ADMIN" ] // {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStop = toString [
        "${lib.getExe gretun.package} down"
        "--state-dir ${peer.settings.state-dir}"
        "--socket ${peer.settings.socket}"
        "--fou-port ${toString peer.settings.fou-port}"
      ];
      # The router is given its port back.
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_NETLINK"
        "AF_UNIX"
      ];
    };
  };

  forwardRules =
    peer:
    let
      tunnels = ''"${peer.prefix}*"'';
      family = network: if helpers.isIPv6 network then "ip6" else "ip";
    in
    map (
      network: "iifname ${tunnels} ${family network} daddr ${network} accept"
    ) peer.settings.advertise-routes
    ++ optional peer.settings.accept-routes "oifname ${tunnels} accept";

  # nftables has another wildcard than iptables and firewalld.
  wildcard = if helpers.firewallBackend config.networking == "nftables" then "*" else "+";
in
{
  _class = "nixos";
  imports = [ ./common.nix ];

  options.services.gretun.peer = mkOption {
    default = { };
    example = {
      enable = true;
      settings.coordinator = "https://gretun.example.org:8443";
      authKeyFile = "/run/secrets/gretun-auth-key";
    };
    description = "The daemon that connects this host with others, also through NATs.";
    type = types.submodule {
      options = optionsOf null // {
        instances = mkOption {
          default = { };
          example = {
            lab = {
              settings.coordinator = "https://gretun.lab.example.org:8443";
              settings.fou-port = 7778;
              authKeyFile = "/run/secrets/gretun-lab";
            };
          };
          description = ''
            More peers on this host, each {file}`gretun-peer-NAME.service` with its own keys, UDP port and interfaces.
            Commands find them with {command}`gretun peers --socket /run/gretun-peer-NAME/gretun.sock`.
          '';
          type = types.attrsOf (types.submodule ({ name, ... }: { options = optionsOf name; }));
        };
      };
    };
  };

  config = mkMerge [
    { services.gretun.enable = mkIf (wanted != [ ]) (lib.mkDefault true); }

    (mkIf (peers != [ ]) (mkMerge [
      {
        assertions = helpers.toAssertions (
          concatMap problems peers
          ++ optional
            (routed4 != [ ] && forbidsForwarding "ipv4" || routed6 != [ ] && forbidsForwarding "ipv6")
            ''
              services.gretun.peer.settings.advertise-routes needs IP forwarding, but boot.kernel.sysctl turns it off.
              Remove net.ipv4.conf.all.forwarding and net.ipv6.conf.all.forwarding there.''
        );

        services.gretun = {
          configFiles = lib.listToAttrs (
            map (
              peer:
              nameValuePair "${peer.unit}.toml" (
                helpers.checkedToml pkgs "${peer.unit}.toml" peer.settings
                  ''${lib.getExe gretun.package} up --config "$file" --check-config''
              )
            ) peers
          );
          udpPorts = map (peer: {
            option = "${peer.option}.settings.fou-port";
            port = peer.settings.fou-port;
          }) peers;
        };

        systemd.services = lib.listToAttrs (
          concatMap (peer: [
            (nameValuePair peer.unit (daemon peer))
            (nameValuePair peer.downUnit (down peer))
          ]) peers
        );

        networking.firewall = {
          allowedUDPPorts = map (peer: peer.settings.fou-port) (
            builtins.filter (peer: peer.openFirewall) peers
          );
          trustedInterfaces = map (peer: peer.prefix + wildcard) (
            builtins.filter (peer: peer.trustTunnels) peers
          );
          checkReversePath = mkIf (accepting != [ ]) (lib.mkDefault "loose");
          extraForwardRules = lib.concatLines (concatMap forwardRules peers);
        };

        # What comes in while a tunnel moves from one path to another is handed over with these.
        boot.kernelModules = [
          "sch_ingress"
          "cls_u32"
          "act_mirred"
        ]
        ++ optionals (masquerading != [ ]) helpers.masqueradingModules;

        # Forwarding is on unless the administrator says otherwise; NixOS itself sets it with mkDefault. A host that
        # forwards IPv6 ignores router advertisements, and may lose its default route, unless accept_ra is 2.
        boot.kernel.sysctl = {
          "net.ipv4.conf.all.forwarding" = mkIf (routed4 != [ ]) (lib.mkOverride 900 true);
          "net.ipv6.conf.all.forwarding" = mkIf (routed6 != [ ]) (lib.mkOverride 900 true);
          "net.ipv6.conf.all.accept_ra" = mkIf (routed6 != [ ]) (lib.mkOverride 900 2);
          "net.ipv6.conf.default.accept_ra" = mkIf (routed6 != [ ]) (lib.mkOverride 900 2);
        };
      }
      (helpers.leaveUnmanaged "peers" (map (peer: "${peer.prefix}*") peers))
    ]))
  ];
}
