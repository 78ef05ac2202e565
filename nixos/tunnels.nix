# services.gretun.tunnels: static tunnels, kept as declared by `gretun apply`, or by systemd-networkd where it is in charge.
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
  program = lib.getExe gretun.package;

  # Outer family, IP protocol and kernel module of each mode.
  mode = outer: protocol: module: { inherit outer protocol module; };
  modes = {
    gre = mode 4 47 "ip_gre";
    gretap = mode 4 47 "ip_gre";
    ipip = mode 4 4 "ipip";
    sit = mode 4 41 "sit";
    ip6gre = mode 6 47 "ip6_gre";
    ip6gretap = mode 6 47 "ip6_gre";
    ip6ip6 = mode 6 41 "ip6_tunnel";
    ipip6 = mode 6 4 "ip6_tunnel";
  };

  # The UDP port that the far end sends to, or null: `encap-sport`, or the far end's own where that varies.
  portOf =
    tunnel:
    if tunnel.encap == "none" then null else lib.defaultTo tunnel.encap-dport tunnel.encap-sport;

  networkd = import ./networkd.nix { inherit lib modes portOf; };

  tunnels = lib.optionalAttrs gretun.enable gretun.tunnels;
  # What networkd cannot express stays with gretun, also where networkd is in charge.
  byNetworkd = lib.filterAttrs (
    _: tunnel: config.networking.useNetworkd && networkd.canExpress tunnel
  ) tunnels;
  byGretun = removeAttrs tunnels (builtins.attrNames byNetworkd);
  anyHas = option: of: builtins.any (tunnel: tunnel.${option} != [ ]) (builtins.attrValues of);

  file =
    name: content:
    helpers.configFile pkgs name {
      # The set is what `gretun apply` answers for: tunnels made by hand are of another.
      set = "nixos";
      tunnels = lib.mapAttrs (
        _: tunnel: helpers.given (removeAttrs tunnel [ "openFirewall" ])
      ) content;
    } ''${program} apply "$file" --check'';

  apply = name: "${program} apply ${gretun.configFiles.${name}}";

  # --- firewall -----------------------------------------------------------------------------------------------------

  inherit (config.networking.firewall) backend;
  opened = builtins.filter (tunnel: tunnel.openFirewall) (builtins.attrValues tunnels);
  # Lets in what comes from the far end: to the UDP port, or as the tunnel's own IP protocol.
  rule =
    tunnel:
    let
      inherit (modes.${tunnel.mode}) outer protocol;
      port = portOf tunnel;
    in
    if backend == "nftables" then
      "${if outer == 4 then "ip" else "ip6"} saddr ${tunnel.remote} "
      + (if port == null then "meta l4proto ${toString protocol}" else "udp dport ${toString port}")
      + " accept"
    else
      "${if outer == 4 then "iptables" else "ip6tables"} -A nixos-fw -s ${tunnel.remote} "
      + (if port == null then "-p ${toString protocol}" else "-p udp --dport ${toString port}")
      + " -j nixos-fw-accept";

  # --- options ------------------------------------------------------------------------------------------------------

  inherit (helpers) mkSetting;
  key = types.either types.ints.u32 types.str;
  numberOrInherit = number: types.either number (types.enum [ "inherit" ]);
  choice =
    values: default: example: description:
    mkOption {
      type = types.enum values;
      inherit default example description;
    };
  list = helpers.mkList types.str;

  tunnelOptions = {
    mode = choice (builtins.attrNames modes) "gre" "gretap" ''
      Kind of tunnel: `gre` and `ip6gre` carry IP over IPv4 and IPv6, `gretap` and `ip6gretap` Ethernet; `ipip` is 4in4,
      `sit` 6in4, `ip6ip6` 6in6 and `ipip6` 4in6.'';
    local = mkSetting types.str "192.0.2.1" ''
      Own outer address. `null` means the one that the route to `remote` uses.'';
    remote = mkOption {
      type = types.str;
      example = "198.51.100.7";
      description = "Outer address of the far end.";
    };
    dev = mkSetting types.str "ens3" "Parent interface.";

    key = mkSetting key 42 "Key in both directions, a number or a dotted quad.";
    ikey = mkSetting key 42 "Key of received packets, where it differs.";
    okey = mkSetting key 43 "Key of sent packets, where it differs.";

    ttl = mkSetting (numberOrInherit (types.ints.between 1 255)) 128 ''
      Hop limit of outer packets, or `"inherit"` for that of inner ones. `null` means 64.'';
    tos = mkSetting (numberOrInherit types.ints.u8) "inherit" ''
      Type of service of outer packets, or `"inherit"` for that of inner ones.'';
    pmtudisc = mkSetting types.bool false ''
      Whether outer packets may not be fragmented. `null` means they may not.'';
    mtu = mkSetting (types.either (types.enum [ 0 ]) (types.ints.between 576 65535)) 1400 ''
      MTU. `null` and 0 mean that it is worked out from the interface that the route to `remote` uses.'';

    tunnel-ip = list "10.9.0.1/30" "Inner addresses, with prefix length.";
    peer-ip = list "10.9.0.2" ''
      Inner addresses of the far end, which make the tunnel point to point; one for each version of IP.'';
    route = list "10.20.0.0/16" "Networks that are reached through the tunnel.";
    snat = list "10.20.0.0/16" ''
      Networks towards which senders are masqueraded, so that hosts there need no route back.'';

    encap = choice [ "none" "fou" "gue" ] "none" "fou" "Encapsulation in UDP.";
    encap-sport = mkSetting types.port 5555 ''
      Own UDP port, to which the far end sends. `null` sends from one for each flow.'';
    encap-dport = mkSetting types.port 5555 "UDP port of the far end.";
    encap-csum = mkSetting types.bool false "Whether UDP has checksums. `null` means yes.";

    openFirewall = helpers.mkFlag ''
      Whether the firewall lets in the outer packets of `remote`: those to its UDP port, else those of the tunnel's IP
      protocol. Without it the far end cannot begin, only answer.'';
  };
in
{
  _class = "nixos";
  imports = [ ./common.nix ];

  options.services.gretun.tunnels = mkOption {
    default = { };
    example.office = {
      remote = "198.51.100.7";
      key = 42;
      tunnel-ip = [ "10.9.0.1/30" ];
      route = [ "10.20.0.0/16" ];
    };
    description = ''
      Static tunnels by interface name, with the names of the flags of {command}`gretun create`. They are reconciled by
      {command}`gretun apply` in {file}`gretun-tunnels.service`: a switch of the configuration touches only those that
      differ. With `networking.useNetworkd`, systemd-networkd gets those that it can express: without `snat` and `dev`, and
      encapsulated in UDP only with `encap-csum = false`. It makes links, but neither changes nor removes those that are
      there.
    '';
    type = types.attrsOf (types.submodule { options = tunnelOptions; });
  };

  config = lib.mkMerge [
    { services.gretun.enable = mkIf (gretun.tunnels != { }) (lib.mkDefault true); }

    (mkIf (tunnels != { }) {
      warnings = lib.optional (backend == "firewalld" && opened != [ ]) ''
        services.gretun.tunnels.*.openFirewall does nothing with firewalld. Let the outer packets in there.'';

      # Tunnels may share a port, so each port is claimed once.
      services.gretun.udpPorts = lib.concatMapAttrs (name: tunnel: {
        ${if portOf tunnel == null then null else toString (portOf tunnel)} = [ "services.gretun.tunnels.${name}.encap-sport" ];
      }) tunnels;

      boot.kernelModules = lib.unique (
        lib.mapAttrsToList (_: tunnel: modes.${tunnel.mode}.module) tunnels
      );

      systemd.network = networkd.render byNetworkd;

      networking.firewall = {
        # Traffic to a routed network may come back another way.
        checkReversePath = mkIf (anyHas "route" tunnels) (lib.mkDefault "loose");
        extraInputRules = mkIf (backend == "nftables") (lib.concatLines (map rule opened));
        extraCommands = mkIf (backend == "iptables") (lib.concatLines (map rule opened));
      };
    })

    (mkIf (byNetworkd != { }) {
      # The program checks networkd's as well; nothing runs with the file.
      services.gretun.configFiles = file "gretun-networkd.toml" byNetworkd;
      system.checks = [ gretun.configFiles."gretun-networkd.toml" ];
    })

    (mkIf (byGretun != { }) {
      services.gretun.configFiles =
        file "gretun-tunnels.toml" byGretun // file "gretun-no-tunnels.toml" { };

      systemd.services.gretun-tunnels = {
        description = "gretun tunnels";
        documentation = [ "man:gretun-apply(1)" ];
        # The MTU comes from the route to the far end, so there has to be one.
        wants = helpers.startedAfter;
        after = helpers.startedAfter;
        # File systems that are mounted through a tunnel come after it, and go before it.
        before = [ "remote-fs-pre.target" ];
        wantedBy = [ "multi-user.target" ];

        # Whatever changed, applying the new file with the new program does it all, and touches only what differs.
        # Stopping would take down all tunnels, and is left for the day when the last one goes.
        reloadIfChanged = true;
        startLimitIntervalSec = 0;
        enableDefaultPath = false;

        serviceConfig = helpers.sandbox "CAP_NET_ADMIN" "AF_INET AF_INET6 AF_NETLINK AF_UNIX" // {
          SupplementaryGroups = [ "gretun" ];
          ReadWritePaths = [ "-${helpers.lockDirectory}" ];
          Type = "oneshot";
          RemainAfterExit = true;
          ExecStart = apply "gretun-tunnels.toml";
          ExecReload = apply "gretun-tunnels.toml";
          ExecStop = apply "gretun-no-tunnels.toml";
          Restart = "on-failure";
          RestartSec = 5;
        };
      };

      boot.kernelModules = mkIf (anyHas "snat" byGretun) helpers.masqueradingModules;
    })
    (mkIf (byGretun != { }) (helpers.leaveUnmanaged "tunnels" (builtins.attrNames byGretun)))
  ];
}
