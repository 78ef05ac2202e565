# What the modules share: rendering and checking of configuration files, and checks of values that would otherwise
# fail at run time. Every check returns a list of sentences, each naming the option and the way out.
{ lib }:
let
  inherit (lib)
    concatLists
    concatStringsSep
    filterAttrs
    hasPrefix
    mapAttrsToList
    optional
    ;
in
rec {
  # Sentences are broken into lines in the source only.
  unbroken = map (builtins.replaceStrings [ "\n" ] [ " " ]);

  toAssertions =
    messages:
    map (message: {
      assertion = false;
      inherit message;
    }) (unbroken messages);

  # --- addresses ----------------------------------------------------------------------------------------------------

  isIPv4 =
    text:
    let
      octet = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
    in
    builtins.match "${octet}\\.${octet}\\.${octet}\\.${octet}" text != null;

  # Shape only; the program, which reads the file at build time, knows the rest.
  isIPv6 = text: builtins.match "[0-9a-fA-F:.]*:[0-9a-fA-F:.]*" text != null;

  isAddress = text: isIPv4 text || isIPv6 text;

  isNetwork4 = isNetworkOf isIPv4 32;
  isNetwork6 = isNetworkOf isIPv6 128;
  isNetwork = text: isNetwork4 text || isNetwork6 text;

  isNetworkOf =
    isFamily: longest: text:
    let
      parts = builtins.match "([^/]+)/([0-9]{1,3})" text;
    in
    parts != null
    && isFamily (builtins.elemAt parts 0)
    && lib.toIntBase10 (builtins.elemAt parts 1) <= longest;

  # The port of "ADDRESS:PORT" or "[ADDRESS]:PORT", or null.
  portOf =
    text:
    let
      parts = builtins.match ".*:([0-9]{1,5})" text;
      port = lib.toIntBase10 (builtins.head parts);
    in
    if parts != null && port <= 65535 then port else null;

  # --- checks -------------------------------------------------------------------------------------------------------

  # A file in the Nix store is readable by everybody on the host. A path literal would be copied there.
  inStore = file: builtins.isPath file || hasPrefix builtins.storeDir file;

  secretProblems =
    option: file:
    optional (inStore file) ''
      ${option} is in the Nix store, which everybody on this host can read. Give the path of a file outside of it as
      a string, for example "/run/secrets/gretun" from sops-nix or agenix.'';

  # `options` are those that the module declares for `settings`.
  unknownSettings =
    option: options: settings:
    let
      known = builtins.attrNames options;
      closest = name: lib.findFirst (lib.strings.levenshteinAtMost 2 name) null known;
      wayOut =
        name:
        if closest name != null then
          "Did you mean `${closest name}`?"
        else
          "The settings are ${concatStringsSep ", " known}.";
    in
    map (name: "${option}.${name} is no setting of this program. ${wayOut name}") (
      lib.subtractLists known (builtins.attrNames settings)
    );

  # The kernel's rule for interface names (dev_valid_name).
  interfaceProblems =
    option: name:
    optional (builtins.stringLength name > 15) ''
      ${option} gives the interface name "${name}", which has ${toString (builtins.stringLength name)} bytes; the kernel takes 15. Choose a
      shorter one.''
    ++
      optional (builtins.match "[^/:[:space:]]+" name == null || name == "." || name == "..")
        ''${option} gives the interface name "${name}", which the kernel refuses: a name has no "/", ":" or blank.'';

  # `uses` are { option, value }: the option, and what only one of them may have.
  usedTwice =
    wayOut: uses:
    concatLists (
      mapAttrsToList (
        value: users:
        optional (builtins.length users > 1)
          "${value} is used twice: by ${concatStringsSep " and by " (map (use: use.option) users)}. ${wayOut}"
      ) (builtins.groupBy (use: use.value) uses)
    );

  # --- configuration files ------------------------------------------------------------------------------------------

  # A TOML file of `settings` without their nulls, refused at build time when the program refuses it: `command`, which
  # finds its name in $file.
  checkedToml =
    {
      pkgs,
      name,
      settings,
      command,
    }:
    let
      file = (pkgs.formats.toml { }).generate name (filterAttrs (_: value: value != null) settings);
    in
    # What was built for another machine cannot be run here.
    if pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      pkgs.runCommand name { inherit file; } ''
        ${command}
        cp "$file" "$out"
      ''
    else
      file;

  # --- network managers ---------------------------------------------------------------------------------------------

  # The interfaces of a part of gretun are left alone by everything else that manages interfaces. `patterns` are globs.
  keepOff = part: patterns: {
    networking.networkmanager.unmanaged = map (pattern: "interface-name:${pattern}") patterns;
    networking.dhcpcd.denyInterfaces = patterns;
    systemd.network.networks."05-gretun-${part}" = {
      matchConfig.Name = concatStringsSep " " patterns;
      linkConfig.Unmanaged = true;
    };
  };

  # What ip_gre, sit and their like create by themselves when they are loaded.
  fallbackInterfaces = [
    "gre0"
    "gretap0"
    "erspan0"
    "ip6gre0"
    "ip6tnl0"
    "sit0"
    "tunl0"
  ];

  # A pattern of interface names in the words of the firewall in use.
  firewallPattern =
    config: prefix:
    let
      inherit (config.networking) firewall nftables;
      backend = firewall.backend or (if nftables.enable then "nftables" else "iptables");
    in
    prefix + (if backend == "iptables" then "+" else "*");
}
