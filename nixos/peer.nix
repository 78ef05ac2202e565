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
    listToAttrs
    mkIf
    mkMerge
    mkOption
    nameValuePair
    optional
    optionals
    types
    ;

  helpers = import ./lib.nix { inherit lib; };
  checks = import ./peer-checks.nix { inherit lib config helpers; };
  hardening = import ./hardening.nix;

  gretun = config.services.gretun;
  cfg = gretun.peer;

  # The default instance has the places where the command line looks by itself.
  namesOf =
    instance:
    if instance == null then
      {
        unit = "gretun-peer";
        downUnit = "gretun-down";
        directory = "gretun";
        directoryText = "gretun";
        iface = "gretun%d";
      }
    else
      {
        unit = "gretun-peer-${instance}";
        downUnit = "gretun-down-${instance}";
        directory = "gretun-peer-${instance}";
        directoryText = "gretun-peer-NAME";
        iface = "${instance}-%d";
      };

  optionsOf =
    instance:
    import ./peer-options.nix {
      inherit lib pkgs;
      names = namesOf instance;
    };

  # All that is known of one peer.
  peerOf = instance: option: peerCfg: {
    inherit option;
    names = namesOf instance;
    cfg = peerCfg;
    authKeyFile = if peerCfg.authKeyGiven then peerCfg.authKeyFile else null;
    interfacePrefix = builtins.head (lib.splitString "%d" peerCfg.settings.iface);
  };

  wanted =
    optional cfg.enable (peerOf null "services.gretun.peer" cfg)
    ++ lib.mapAttrsToList (name: peerOf name "services.gretun.peer.instances.${name}") cfg.instances;
  peers = optionals gretun.enable wanted;

  configName = peer: "${peer.names.unit}.toml";

  configFile =
    peer:
    helpers.checkedToml {
      inherit pkgs;
      inherit (peer.cfg) settings;
      name = configName peer;
      command = ''${lib.getExe gretun.package} up --config "$file" --check-config'';
    };

  # The same user, group and state directory for the daemon and for what takes its tunnels down.
  identity =
    peer: capabilities:
    hardening
    // {
      User = peer.names.unit;
      Group = "gretun";
      StateDirectory = peer.names.directory;
      StateDirectoryMode = "0700";
      AmbientCapabilities = capabilities;
      CapabilityBoundingSet = capabilities;
    };

  # `snat-routes` is nft's work, and so is undoing it, also after it was turned off.
  masquerading = [ pkgs.nftables ];

  daemon = peer: {
    description = "gretun peer";
    documentation = [ "man:gretun-up(1)" ];
    wants = [ "network-online.target" ];
    after = [
      "network-online.target"
      "nss-lookup.target"
      "${peer.names.downUnit}.service"
    ];
    requires = [ "${peer.names.downUnit}.service" ];
    wantedBy = [ "multi-user.target" ];

    # One step: stopped in the old configuration and started in the new, it would be away while the switch runs.
    stopIfChanged = false;
    # A host that nobody can walk up to must not give up.
    startLimitIntervalSec = 0;
    enableDefaultPath = false;
    path = masquerading;

    serviceConfig =
      identity peer [
        "CAP_NET_ADMIN"
        "CAP_NET_RAW"
      ]
      // {
        Type = "notify";
        ExecStart = lib.concatStringsSep " " (
          [
            (lib.getExe gretun.package)
            "up"
            "--config"
            gretun.configFiles.${configName peer}
          ]
          ++ optionals (peer.authKeyFile != null) [
            "--auth-key-file"
            "%d/auth-key"
          ]
        );
        LoadCredential = optional (peer.authKeyFile != null) "auth-key:${peer.authKeyFile}";
        Restart = "always";
        RestartSec = 1;
        # Ended by `gretun down`, which means it.
        RestartPreventExitStatus = 10;
        SuccessExitStatus = 10;
        WatchdogSec = 30;
        RuntimeDirectory = peer.names.directory;
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
    description = "Removal of the tunnels of ${peer.names.unit}.service";
    documentation = [ "man:gretun-down(1)" ];
    wantedBy = [ "multi-user.target" ];
    unitConfig.DefaultDependencies = false;
    restartIfChanged = false;
    enableDefaultPath = false;
    path = masquerading;

    serviceConfig = identity peer [ "CAP_NET_ADMIN" ] // {
      Type = "oneshot";
      RemainAfterExit = true;
      ExecStop = lib.concatStringsSep " " [
        (lib.getExe gretun.package)
        "down"
        "--state-dir"
        peer.cfg.settings.state-dir
        "--socket"
        peer.cfg.settings.socket
        "--fou-port"
        (toString peer.cfg.settings.fou-port)
      ];
      # The router is given its port back.
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_NETLINK"
        "AF_UNIX"
      ];
    };
  };

  routed = lib.unique (concatMap (peer: peer.cfg.advertiseRoutes) peers);
  accepting = builtins.any (peer: peer.cfg.acceptRoutes) peers;

  # Forwarding is on unless the administrator says otherwise; NixOS itself sets it with mkDefault.
  forwarding = mkIf (routed != [ ]) (lib.mkOverride 900 true);

  forwardRules =
    peer:
    let
      tunnels = ''"${peer.interfacePrefix}*"'';
      family = network: if lib.hasInfix ":" network then "ip6" else "ip";
    in
    map (network: "iifname ${tunnels} ${family network} daddr ${network} accept") (
      peer.cfg.advertiseRoutes
    )
    ++ optional peer.cfg.acceptRoutes "oifname ${tunnels} accept";
in
{
  imports = [ ./common.nix ];

  options.services.gretun.peer = mkOption {
    default = { };
    example = lib.literalExpression ''
      {
        enable = true;
        settings.coordinator = "https://gretun.example.org";
        authKeyFile = "/run/secrets/gretun-auth-key";
      }
    '';
    description = "Peers of the overlay: what joins this host with others, also through NATs.";
    type = types.submodule {
      imports = [ (optionsOf null) ];
      options = {
        enable = lib.mkEnableOption "the peer: `gretun up` as {file}`gretun-peer.service`";
        instances = mkOption {
          default = { };
          example = lib.literalExpression ''
            {
              lab = {
                settings.coordinator = "https://gretun.lab.example.org";
                settings.fou-port = 7778;
                authKeyFile = "/run/secrets/gretun-lab";
              };
            }
          '';
          description = ''
            More peers on this host, each {file}`gretun-peer-NAME.service` with its own keys, UDP port and interfaces.
            Commands find them with {command}`gretun peers --socket /run/gretun-peer-NAME/gretun.sock`.
          '';
          type = types.attrsOf (types.submodule ({ name, ... }: { imports = [ (optionsOf name) ]; }));
        };
      };
    };
  };

  config = mkMerge [
    { services.gretun.enable = mkIf (wanted != [ ]) (lib.mkDefault true); }

    (mkIf (peers != [ ]) (mkMerge [
      {
        assertions = helpers.toAssertions (checks.problems peers);
        warnings = helpers.unbroken (checks.warnings peers);

        services.gretun = {
          configFiles = listToAttrs (map (peer: nameValuePair (configName peer) (configFile peer)) peers);
          claims = {
            ports = concatMap checks.ports peers;
            prefixes = map (peer: {
              option = "${peer.option}.settings.iface";
              value = peer.interfacePrefix;
            }) peers;
          };
        };

        systemd.services = listToAttrs (
          concatMap (peer: [
            (nameValuePair peer.names.unit (daemon peer))
            (nameValuePair peer.names.downUnit (down peer))
          ]) peers
        );

        networking.firewall = {
          allowedUDPPorts = map (peer: peer.cfg.settings.fou-port) (
            builtins.filter (peer: peer.cfg.openFirewall) peers
          );
          trustedInterfaces = map (peer: helpers.firewallPattern config peer.interfacePrefix) (
            builtins.filter (peer: peer.cfg.trustTunnels) peers
          );
          checkReversePath = mkIf accepting (lib.mkDefault "loose");
          extraForwardRules = lib.concatLines (concatMap forwardRules peers);
        };

        # What comes in while a tunnel moves from one path to another is handed over with these.
        boot.kernelModules = [
          "sch_ingress"
          "cls_u32"
          "act_mirred"
        ];

        boot.kernel.sysctl = {
          "net.ipv4.conf.all.forwarding" = mkIf (builtins.any helpers.isNetwork4 routed) forwarding;
          "net.ipv6.conf.all.forwarding" = mkIf (builtins.any helpers.isNetwork6 routed) forwarding;
        };
      }
      (helpers.keepOff "peers" (map (peer: "${peer.interfacePrefix}*") peers))
    ]))
  ];
}
