# services.gretun.peer: the overlay daemon, `gretun up`, once or several times.
#
# The daemon leaves its tunnels in the kernel when it ends, and adopts them when it starts. So its unit has no ExecStop, and
# restarting or stopping it, also by a switch of the configuration over the tunnel itself, costs no packet.
# Beside it stands gretun-down.service, which does nothing but run `gretun down` when it is stopped. A switch never restarts
# it (restartIfChanged), and a shutdown does not stop it (no default dependencies): only a switch to a configuration without
# it does. The daemon requires it and is ordered after it, so the daemon ends first and cannot make the tunnels anew.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkIf mkOption types;
  helpers = import ./lib.nix { inherit lib; };

  gretun = config.services.gretun;
  cfg = gretun.peer;
  program = lib.getExe gretun.package;

  # The default peer (`instance` is null) has the places where the command line looks by itself.
  suffix = instance: lib.optionalString (instance != null) "-${instance}";
  directoryOf = instance: if instance == null then "gretun" else "gretun-peer-${instance}";
  pathsOf = instance: {
    state-dir = "/var/lib/${directoryOf instance}";
    socket = "/run/${directoryOf instance}/gretun.sock";
  };

  # --- options ------------------------------------------------------------------------------------------------------

  peerModule = instance: {
    options = {
      enable =
        lib.mkEnableOption "{command}`gretun up` as {file}`gretun-peer${suffix instance}.service`"
        // {
          default = instance != null;
        };

      settings = helpers.mkSettings pkgs "gretun up" {
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
        advertise-routes = helpers.mkList types.str "10.20.0.0/16" ''
          Networks behind this host that peers may use. Turns on IP forwarding.'';
        accept-routes = helpers.mkFlag ''
          Whether to route to the networks that peers advertise. Sets the firewall's reverse path check to `loose`,
          because such traffic may leave by one interface and come back by another.'';
        snat-routes = helpers.mkFlag ''
          Whether to masquerade what peers send to the advertised networks, so that the hosts there need no route
          back.'';
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

    config.settings = lib.mapAttrs (_: lib.mkDefault) (pathsOf instance);
  };

  # --- peers --------------------------------------------------------------------------------------------------------

  named =
    instance: peer:
    peer
    // rec {
      inherit instance;
      option = "services.gretun.peer" + lib.optionalString (instance != null) ".instances.${instance}";
      ifaceOption = "${option}.settings.iface";
      unit = "gretun-peer${suffix instance}";
      downUnit = "gretun-down${suffix instance}";
      # Globs such as gretun* stand for the interfaces of one peer, so nothing else may begin like them.
      prefix = builtins.head (lib.splitString "%d" peer.settings.iface);
    };

  wanted = builtins.filter (peer: peer.enable) (
    [ (named null cfg) ] ++ lib.mapAttrsToList named cfg.instances
  );
  peers = lib.optionals gretun.enable wanted;
  eachPeer = effect: lib.mkMerge (map effect peers);
  masquerades = builtins.any (peer: peer.settings.snat-routes) peers;

  routes = lib.concatMap (peer: peer.settings.advertise-routes) peers;
  routes4 = !builtins.all helpers.isIPv6 routes;
  routes6 = builtins.any helpers.isIPv6 routes;

  # Whether the administrator turns forwarding off: false, which is "" as a string, or 0.
  forbidsForwarding = builtins.any (
    setting: builtins.match "0?" (toString (config.boot.kernel.sysctl.${setting} or true)) != null
  );

  # The names of interfaces, or their beginnings, by the options that give them.
  names =
    lib.listToAttrs (map (peer: lib.nameValuePair peer.ifaceOption peer.prefix) peers)
    // lib.mapAttrs' (name: _: lib.nameValuePair "services.gretun.tunnels.${name}" name) (
      gretun.tunnels or { }
    );

  # The options that give names which begin like the interfaces of a peer.
  clashing =
    peer:
    builtins.attrNames (
      lib.filterAttrs (_: lib.hasPrefix peer.prefix) (removeAttrs names [ peer.ifaceOption ])
    );

  problems =
    peer:
    helpers.fileProblems peer.option peer.settings { auth-key-file = "authKeyFile"; }
    ++ helpers.fixedProblems peer.option peer.settings (pathsOf peer.instance)
    ++ helpers.secretProblems "${peer.option}.authKeyFile" peer.authKeyFile
    ++ lib.optional (builtins.match "([a-z][a-z0-9-]{0,18})?" (toString peer.instance) == null) ''
      ${peer.option} is also the name of a unit and of a user. Take one of up to 19 lower-case letters, digits and
      dashes.''
    ++ map (option: ''
      ${option} gives names that begin with "${peer.prefix}" like those of ${peer.ifaceOption}. Choose another name.'') (clashing peer);

  # --- what each peer does to the host ------------------------------------------------------------------------------

  # The daemon, and what takes its tunnels down, as the same user with the same directory.
  units =
    peer:
    let
      identity = {
        User = peer.unit;
        Group = "gretun";
        ReadWritePaths = [ "-${helpers.lockDirectory}" ];
        StateDirectory = directoryOf peer.instance;
        StateDirectoryMode = "0700";
      };
      needsKey = peer.authKeyFile != null;
    in
    {
      ${peer.unit} = {
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
          helpers.sandbox "CAP_NET_ADMIN CAP_NET_RAW" "AF_INET AF_INET6 AF_NETLINK AF_PACKET AF_UNIX"
          // identity
          // {
            Type = "notify";
            ExecStart =
              "${program} up --config ${gretun.configFiles."${peer.unit}.toml"}"
              + lib.optionalString needsKey " --auth-key-file %d/auth-key";
            LoadCredential = lib.optional needsKey "auth-key:${peer.authKeyFile}";
            # Stands in for a file that is no longer there: an empty line is no key.
            SetCredential = lib.optional needsKey "auth-key:\\n";
            Restart = "always";
            RestartSec = 1;
            # Ended by `gretun down`, which means it.
            RestartPreventExitStatus = 10;
            SuccessExitStatus = 10;
            WatchdogSec = 30;
            RuntimeDirectory = identity.StateDirectory;
          };
      };

      ${peer.downUnit} = {
        description = "Removal of the tunnels of ${peer.unit}.service";
        documentation = [ "man:gretun-down(1)" ];
        wantedBy = [ "multi-user.target" ];
        unitConfig.DefaultDependencies = false;
        restartIfChanged = false;
        enableDefaultPath = false;

        serviceConfig =
          # IPv4 for the router, which is given its port back.
          helpers.sandbox "CAP_NET_ADMIN" "AF_INET AF_NETLINK AF_UNIX"
          // identity
          // {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStop = toString [
              "${program} down"
              "--state-dir ${peer.settings.state-dir}"
              "--socket ${peer.settings.socket}"
              "--fou-port ${toString peer.settings.fou-port}"
            ];
          };
      };
    };

  # nftables has another wildcard than iptables and firewalld.
  wildcard = if config.networking.firewall.backend == "nftables" then "*" else "+";

  firewall =
    peer:
    let
      tunnels = ''"${peer.prefix}*"'';
      family = network: if helpers.isIPv6 network then "ip6" else "ip";
      inward = network: "iifname ${tunnels} ${family network} daddr ${network} accept";
      rules =
        map inward peer.settings.advertise-routes
        ++ lib.optional peer.settings.accept-routes "oifname ${tunnels} accept";
    in
    {
      allowedUDPPorts = lib.optional peer.openFirewall peer.settings.fou-port;
      trustedInterfaces = lib.optional peer.trustTunnels (peer.prefix + wildcard);
      checkReversePath = mkIf peer.settings.accept-routes (lib.mkDefault "loose");
      extraForwardRules = mkIf (rules != [ ]) (lib.concatLines rules);
    };
in
{
  _class = "nixos";
  imports = [ ./common.nix ];

  options.services.gretun.peer = mkOption {
    default = { };
    description = "The daemon that connects this host with others, also through NATs.";
    type = types.submodule {
      imports = [ (peerModule null) ];
      options.instances = mkOption {
        default = { };
        example.lab = {
          settings.coordinator = "https://gretun.lab.example.org:8443";
          settings.fou-port = 7778;
          authKeyFile = "/run/secrets/gretun-lab";
        };
        description = ''
          More peers on this host, each {file}`gretun-peer-NAME.service` with its own keys, UDP port and interfaces.
          Commands find them with {command}`gretun peers --socket /run/gretun-peer-NAME/gretun.sock`.
        '';
        type = types.attrsOf (types.submodule ({ name, ... }: peerModule name));
      };
    };
  };

  config = lib.mkMerge [
    { services.gretun.enable = mkIf (wanted != [ ]) (lib.mkDefault true); }

    (mkIf (peers != [ ]) {
      assertions = helpers.toAssertions (
        lib.concatMap problems peers
        ++
          lib.optional
            (
              routes4 && forbidsForwarding [ "net.ipv4.ip_forward" "net.ipv4.conf.all.forwarding" ]
              || routes6 && forbidsForwarding [ "net.ipv6.conf.all.forwarding" ]
            )
            ''
              services.gretun.peer.settings.advertise-routes needs IP forwarding, but boot.kernel.sysctl turns it off.
              Remove net.ipv4.ip_forward, net.ipv4.conf.all.forwarding and net.ipv6.conf.all.forwarding there.''
      );
      warnings = helpers.joinLines (
        lib.optional (config.networking.firewall.backend == "firewalld" && routes != [ ]) ''
          services.gretun.peer.settings.advertise-routes: firewalld forwards nothing between its zones by itself. Add the
          interfaces of the tunnels and a policy for them there.''
      );

      services.gretun.configFiles = eachPeer (
        peer:
        helpers.configFile pkgs "${peer.unit}.toml" peer.settings ''
          ${program} up --config "$file" --check-config''
      );
      services.gretun.udpPorts = eachPeer (peer: {
        ${toString peer.settings.fou-port} = [ "${peer.option}.settings.fou-port" ];
      });
      systemd.services = eachPeer units;
      networking.firewall = eachPeer firewall;

      boot.kernelModules = [
        # What comes in while a tunnel moves from one path to another is handed over with these.
        "sch_ingress"
        "cls_u32"
        "act_mirred"
      ]
      ++ lib.optionals masquerades helpers.masqueradingModules;

      # Forwarding is on unless the administrator says otherwise; NixOS itself sets it with mkDefault. A host that
      # forwards IPv6 ignores router advertisements, and may lose its default route, unless accept_ra is 2.
      boot.kernel.sysctl = {
        "net.ipv4.conf.all.forwarding" = mkIf routes4 (lib.mkOverride 900 true);
        "net.ipv6.conf.all.forwarding" = mkIf routes6 (lib.mkOverride 900 true);
        "net.ipv6.conf.all.accept_ra" = mkIf routes6 (lib.mkOverride 900 2);
        "net.ipv6.conf.default.accept_ra" = mkIf routes6 (lib.mkOverride 900 2);
      };
    })
    (mkIf (peers != [ ]) (helpers.leaveUnmanaged "peers" (map (peer: "${peer.prefix}*") peers)))
  ];
}
