# What can be wrong with static tunnels, found before anything is built.
{
  lib,
  helpers,
  modes,
}:
let
  inherit (lib)
    concatMap
    mapAttrsToList
    optional
    ;

  optionOf = name: "services.gretun.tunnels.${name}";

  encapsulated = tunnel: tunnel.encap != "none";

  nameProblems =
    name: _:
    helpers.interfaceProblems (optionOf name) name
    ++ optional (builtins.elem name helpers.fallbackInterfaces) "${optionOf name} has the name of an interface that the kernel makes by itself. Choose another one.";

  # An outer address that does not fit the mode.
  addressProblems =
    name: tunnel:
    let
      inherit (modes.${tunnel.mode}) outer;
      isOuter = if outer == 4 then helpers.isIPv4 else helpers.isIPv6;
      other = lib.findFirst (
        mode:
        mode != tunnel.mode
        && modes.${mode}.outer != outer
        && modes.${mode}.protocol == modes.${tunnel.mode}.protocol
      ) null (builtins.attrNames modes);
      wrong =
        setting:
        let
          address = tunnel.${setting};
        in
        optional (address != null && !isOuter address) (
          if helpers.isAddress address then
            ''
              ${optionOf name}.${setting} is ${address}, but the mode ${tunnel.mode} goes over IPv${toString outer}. Set mode to
              "${other}", or give an IPv${toString outer} address.''
          else
            ''
              ${optionOf name}.${setting} is "${address}", which is no address. Names are not looked up; give an IPv${toString outer}
              address.''
        );
    in
    optional (
      tunnel.remote == null
    ) "${optionOf name}.remote is missing. Set it to the outer address of the far end."
    ++ wrong "local"
    ++ wrong "remote"
    ++
      optional (tunnel.local != null && tunnel.local == tunnel.remote)
        "${optionOf name}.local and .remote are both ${tunnel.remote}. Set remote to the address of the far end.";

  networkProblems =
    name: tunnel:
    concatMap
      (
        setting:
        map (
          network:
          ''${optionOf name}.${setting} has "${network}", which is no address with prefix length such as "10.9.0.1/30".''
        ) (builtins.filter (network: !helpers.isNetwork network) tunnel.${setting})
      )
      [
        "tunnel-ip"
        "route"
        "snat"
      ];

  peerProblems =
    name: tunnel:
    map (
      address:
      ''${optionOf name}.peer-ip has "${address}", which is no address. Write it without a prefix length, as "10.9.0.2".''
    ) (builtins.filter (address: !helpers.isAddress address) tunnel.peer-ip);

  keyProblems =
    name: tunnel:
    optional (tunnel.key != null && (tunnel.ikey != null || tunnel.okey != null))
      "${optionOf name}.key holds for both directions, so ikey and okey cannot be set beside it. Keep one or the others."
    ++
      concatMap
        (
          setting:
          let
            key = tunnel.${setting};
          in
          optional (builtins.isString key && !helpers.isIPv4 key)
            ''${optionOf name}.${setting} is "${key}". A key is a number up to 4294967295 or a dotted quad such as "0.0.0.42".''
          ++
            optional (key != null && modes.${tunnel.mode}.protocol != 47)
              "${optionOf name}.${setting} is set, but the mode ${tunnel.mode} has no keys. Remove it, or use a mode of GRE."
        )
        [
          "key"
          "ikey"
          "okey"
        ];

  encapProblems =
    name: tunnel:
    if encapsulated tunnel then
      optional (tunnel.encap-dport == null)
        ''${optionOf name}.encap-dport is missing: encap = "${tunnel.encap}" sends to a UDP port of the far end. Set it.''
    else
      map
        (
          setting:
          ''${optionOf name}.${setting} does nothing without encap. Set encap to "fou" or "gue", or remove it.''
        )
        (
          builtins.filter (setting: tunnel.${setting} != null) [
            "encap-sport"
            "encap-dport"
            "encap-csum"
          ]
        );

  # The kernel finds the tunnel of a packet by these.
  identity =
    tunnel:
    let
      inherit (modes.${tunnel.mode}) kind;
      number =
        key:
        if builtins.isString key && helpers.isIPv4 key then
          lib.foldl (sum: octet: sum * 256 + lib.toIntBase10 octet) 0 (lib.splitString "." key)
        else
          key;
      ikey = number (if tunnel.ikey != null then tunnel.ikey else tunnel.key);
      local = if tunnel.local != null then tunnel.local else "any address";
    in
    "The pair ${local} and ${toString tunnel.remote} of ${kind} tunnels"
    + (if ikey == null then " without a key" else " with the key ${toString ikey}");

  received = tunnel: "${tunnel.encap} with IP protocol ${toString modes.${tunnel.mode}.protocol}";

  # One FOU port takes one kind of packets.
  sharedPorts =
    tunnels:
    let
      users = builtins.groupBy (use: toString use.tunnel.encap-sport) (
        mapAttrsToList (name: tunnel: { inherit name tunnel; }) (
          lib.filterAttrs (_: tunnel: encapsulated tunnel && tunnel.encap-sport != null) tunnels
        )
      );
    in
    concatMap (
      port:
      let
        first = builtins.head users.${port};
        others = builtins.filter (use: received use.tunnel != received first.tunnel) users.${port};
      in
      map (
        use:
        "UDP port ${port} is used twice: by ${optionOf first.name}.encap-sport for ${received first.tunnel} and by ${optionOf use.name}.encap-sport for ${received use.tunnel}. Give one of them another port."
      ) others
    ) (builtins.attrNames users);
in
{
  problems =
    tunnels:
    concatMap (check: builtins.concatLists (mapAttrsToList check tunnels)) [
      nameProblems
      addressProblems
      networkProblems
      peerProblems
      keyProblems
      encapProblems
    ]
    ++ helpers.usedTwice "The kernel cannot tell their packets apart: give one of them another key." (
      mapAttrsToList (name: tunnel: {
        option = optionOf name;
        value = identity tunnel;
      }) (lib.filterAttrs (_: tunnel: tunnel.remote != null) tunnels)
    )
    ++ sharedPorts tunnels;

  claims = tunnels: {
    interfaces = mapAttrsToList (name: _: {
      option = optionOf name;
      value = name;
    }) tunnels;

    # Tunnels may share a port (see above), so each port is claimed once.
    ports = builtins.attrValues (
      lib.mergeAttrsList (
        mapAttrsToList (
          name: tunnel:
          lib.optionalAttrs (encapsulated tunnel && tunnel.encap-sport != null) {
            ${toString tunnel.encap-sport} = {
              option = "${optionOf name}.encap-sport";
              value = "UDP port ${toString tunnel.encap-sport}";
            };
          }
        ) tunnels
      )
    );
  };
}
