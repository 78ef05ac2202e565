# What can be wrong with peers, found before anything is built.
{
  config,
  lib,
  helpers,
}:
let
  inherit (lib) concatMap optional optionals;

  # An index of this many digits must fit into the interface names.
  longestIndex = "9999";

  coordinatorProblems =
    { option, cfg, ... }:
    if cfg.settings.coordinator == null then
      [
        ''
          ${option}.settings.coordinator is missing: a peer finds the others through a coordinator. Set it to the URL of
          yours, for example "https://gretun.example.org".''
      ]
    else
      optional (builtins.match "https?://[^/?#]+[^?#]*" cfg.settings.coordinator == null) ''
        ${option}.settings.coordinator is "${cfg.settings.coordinator}", which is no URL of a coordinator. Give one such as
        "https://gretun.example.org" or "http://192.0.2.1:8443".'';

  keyProblems =
    {
      option,
      cfg,
      authKeyFile,
      ...
    }:
    optional (!cfg.authKeyGiven) ''
      ${option}.authKeyFile is missing: a coordinator enrols nobody without a key. Make one there with
      `gretun-coord keys create`, put it into a file that only root can read and name that file here. Set it to null when
      this host is enrolled already, or the coordinator is open.''
    ++ optionals (authKeyFile != null) (helpers.secretProblems "${option}.authKeyFile" authKeyFile);

  settingsProblems =
    {
      option,
      names,
      cfg,
      ...
    }:
    let
      known = import ./peer-settings.nix { inherit lib names; };
    in
    helpers.unknownSettings "${option}.settings" known (removeAttrs cfg.settings [ "auth-key-file" ])
    ++ optional (cfg.settings ? auth-key-file) ''
      ${option}.settings.auth-key-file would not be readable in the daemon's sandbox. Set ${option}.authKeyFile in its
      place.'';

  interfaceProblems =
    { option, cfg, ... }:
    let
      inherit (cfg.settings) iface;
      parts = lib.splitString "%d" iface;
    in
    if builtins.length parts != 2 then
      [
        ''
          ${option}.settings.iface is "${iface}", which has no place for the peer's index. Write %d where it goes, for example
          "gretun%d".''
      ]
    else
      helpers.interfaceProblems "${option}.settings.iface" (builtins.concatStringsSep longestIndex parts)
      ++ optional (builtins.head parts == "") ''
        ${option}.settings.iface is "${iface}"; firewalls and network managers need a beginning to know the interfaces by.
        Put a word before %d.'';

  nameProblems =
    { option, cfg, ... }:
    let
      name = cfg.settings.node-name;
    in
    optional (name != null && builtins.match "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" name == null) ''
      ${option}.settings.node-name is "${name}", which is no DNS label. Use lower-case letters, digits and inner hyphens, at
      most 63 of them.'';

  portProblems =
    { option, cfg, ... }:
    let
      metrics = cfg.settings.metrics-addr;
    in
    optional (cfg.settings.fou-port == 0)
      "${option}.settings.fou-port is 0, but the port must stay the same for NATs to remember it. Give one such as 7777."
    ++
      optional (metrics != null && helpers.portOf metrics == null)
        ''${option}.settings.metrics-addr is "${metrics}"; it takes an address and a port such as "127.0.0.1:9477".'';

  routeProblems =
    { option, cfg, ... }:
    let
      wrong = builtins.filter (network: !helpers.isNetwork network) cfg.advertiseRoutes;
    in
    map (
      network:
      ''${option}.advertiseRoutes has "${network}", which is no network. Write it as "10.20.0.0/16" or "fd00:20::/32".''
    ) wrong
    ++
      optional (cfg.settings.snat-routes == true && cfg.advertiseRoutes == [ ])
        "${option}.settings.snat-routes has no networks to masquerade towards. Set ${option}.advertiseRoutes, or remove it."
    ++ optional (cfg.advertiseRoutes != [ ] && forwardingIsOff cfg) ''
      ${option}.advertiseRoutes needs IP forwarding, but boot.kernel.sysctl turns it off. Remove net.ipv4.conf.all.forwarding
      and net.ipv6.conf.all.forwarding there.'';

  forwardingIsOff =
    cfg:
    let
      off =
        key:
        builtins.elem (config.boot.kernel.sysctl.${key} or true) [
          false
          0
          "0"
        ];
    in
    builtins.any helpers.isNetwork4 cfg.advertiseRoutes && off "net.ipv4.conf.all.forwarding"
    || builtins.any helpers.isNetwork6 cfg.advertiseRoutes && off "net.ipv6.conf.all.forwarding";
in
{
  problems = concatMap (
    peer:
    concatMap (check: check peer) [
      coordinatorProblems
      keyProblems
      settingsProblems
      interfaceProblems
      nameProblems
      portProblems
      routeProblems
    ]
  );

  warnings =
    peers:
    let
      strict =
        builtins.filter
          (
            key:
            builtins.elem (config.boot.kernel.sysctl.${key} or null) [
              1
              "1"
              true
            ]
          )
          [
            "net.ipv4.conf.all.rp_filter"
            "net.ipv4.conf.default.rp_filter"
          ];
      accepting = builtins.filter (peer: peer.cfg.acceptRoutes) peers;
      masquerading = builtins.filter (peer: peer.cfg.settings.snat-routes == true) peers;
    in
    optionals (accepting != [ ]) (
      map (key: ''
        boot.kernel.sysctl."${key}" is strict, which drops what comes back through another interface than it left by;
        ${(builtins.head accepting).option}.acceptRoutes can cause that. Set it to 2 (loose).'') strict
    )
    ++
      optional
        (
          masquerading != [ ] && config.networking.nftables.enable && config.networking.nftables.flushRuleset
        )
        ''
          networking.nftables.flushRuleset removes the masquerading rules of ${(builtins.head masquerading).option} whenever
          the firewall is reloaded. Set it to false.'';

  # The claims of one peer.
  ports =
    { option, cfg, ... }:
    [
      {
        option = "${option}.settings.fou-port";
        value = "UDP port ${toString cfg.settings.fou-port}";
      }
    ]
    ++
      optional (cfg.settings.metrics-addr != null && helpers.portOf cfg.settings.metrics-addr != null)
        {
          option = "${option}.settings.metrics-addr";
          value = "TCP port ${toString (helpers.portOf cfg.settings.metrics-addr)}";
        };
}
