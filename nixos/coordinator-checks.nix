# What can be wrong with the coordinator, found before anything is built.
{
  config,
  lib,
  helpers,
}:
let
  inherit (lib) concatMap optional optionals;

  option = "services.gretun.coordinator";
  cfg = config.services.gretun.coordinator;
  inherit (cfg) settings tls nginx;

  known = import ./coordinator-settings.nix { inherit lib; };

  # null: the program's default; [ "none" ]: no STUN server.
  stunAddresses =
    if settings.stun-listen == null then
      [
        "0.0.0.0:3478"
        "0.0.0.0:3479"
      ]
    else
      lib.remove "none" settings.stun-listen;

  knownPorts = addresses: builtins.filter (port: port != null) (map helpers.portOf addresses);

  claim = transport: setting: port: {
    option = "${option}.settings.${setting}";
    value = "${transport} port ${toString port}";
  };

  settingsProblems =
    helpers.unknownSettings "${option}.settings" known (
      removeAttrs settings [
        "cert"
        "key"
      ]
    )
    ++
      map
        (name: ''
          ${option}.settings.${name} would not be readable in the service's sandbox. Set ${option}.tls.certFile and
          ${option}.tls.keyFile in its place.'')
        (
          lib.intersectLists [
            "cert"
            "key"
          ] (builtins.attrNames settings)
        );

  addressProblems =
    setting: addresses:
    map (
      address:
      ''${option}.settings.${setting} has "${address}"; it takes addresses and ports such as "0.0.0.0:8443" or "[::]:8443".''
    ) (builtins.filter (address: helpers.portOf address == null) addresses);

  poolProblems =
    setting: isNetwork: example:
    let
      pool = settings.${setting};
    in
    optional (
      pool != null && !isNetwork pool
    ) ''${option}.settings.${setting} is "${pool}", which is no such network. Write it as ${example}.'';

  storeProblems =
    optional
      (settings.store != null && builtins.match "[a-z]+://[^/@]*:[^/@]+@.*" settings.store != null)
      ''
        ${option}.settings.store has a password in it, which everybody on this host could read in the Nix store. Let the
        database know the service by its user on a local socket: "postgres:///gretun?host=/run/postgresql".'';

  tlsProblems =
    optional (tls.certFile != null && tls.keyFile == null)
      "${option}.tls.keyFile is missing: tls.certFile alone is no TLS. Set it to the file of the certificate's private key."
    ++
      optional (tls.keyFile != null && tls.certFile == null)
        "${option}.tls.certFile is missing: tls.keyFile alone is no TLS. Set it to the file of the certificate chain."
    ++ optionals (tls.keyFile != null) (helpers.secretProblems "${option}.tls.keyFile" tls.keyFile)
    ++ optional (tls.certFile != null && nginx.enable) ''
      ${option}.tls and ${option}.nginx.enable are both set, but nginx speaks plain HTTP to the coordinator behind it.
      Remove one of them.'';

  nginxProblems =
    optional (nginx.enable && nginx.domain == null)
      ''${option}.nginx.domain is missing. Set it to the name that peers use, for example "gretun.example.org".'';
in
rec {
  apiPorts = lib.unique (knownPorts settings.listen);
  stunPorts = lib.unique (knownPorts stunAddresses);

  ports =
    map (claim "TCP" "listen") apiPorts
    ++ map (claim "UDP" "stun-listen") stunPorts
    ++ map (claim "TCP" "metrics-addr") (
      knownPorts (optional (settings.metrics-addr != null) settings.metrics-addr)
    );

  problems =
    settingsProblems
    ++ addressProblems "listen" settings.listen
    ++ addressProblems "stun-listen" stunAddresses
    ++ poolProblems "pool" helpers.isNetwork4 ''"10.77.0.0/16"''
    ++ poolProblems "pool6" (pool: pool == "none" || helpers.isNetwork6 pool) ''"fd12:3456:789a::/64"''
    ++ storeProblems
    ++ tlsProblems
    ++ nginxProblems
    ++ concatMap (helpers.secretProblems "${option}.authKeyFiles") cfg.authKeyFiles;

  warnings = optional settings.open ''
    ${option}.settings.open lets everybody who reaches the coordinator into the network. Set authKeyFiles or make keys with
    `gretun-coord keys create`, and remove it.'';
}
