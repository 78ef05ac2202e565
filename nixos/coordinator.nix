# services.gretun.coordinator: registry, enrolment, signals and STUN for the peers, `gretun-coord`.
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
  cfg = gretun.coordinator;
  inherit (cfg) settings tls;
  option = "services.gretun.coordinator";
  program = lib.getExe' gretun.package "gretun-coord";

  # The ports of "ADDRESS:PORT"; "none" has no port.
  portsOf =
    addresses:
    let
      ports = lib.concatLists (lib.remove null (map (builtins.match ".*:([0-9]+)") addresses));
    in
    map lib.toIntBase10 (lib.unique ports);
  isLoopback = address: builtins.match "(127\\..*|\\[::1]|localhost):[0-9]+" address != null;
  apiPorts = portsOf settings.listen;
  stateDirectory = "/var/lib/gretun-coord";
  stunPorts = portsOf (lib.defaultTo [ ":3478" ":3479" ] settings.stun-listen);
  needsCapability = builtins.any (port: port < 1024) (apiPorts ++ stunPorts);
  capability = lib.optionalString needsCapability "CAP_NET_BIND_SERVICE";

  # Files that only the service may read: systemd hands them over.
  credential = flag: name: path: { inherit flag name path; };
  credentials =
    lib.imap0 (index: credential "auth-key-file" "auth-key-${toString index}") cfg.authKeyFiles
    ++ lib.optional (tls.certFile != null) (credential "cert" "cert" tls.certFile)
    ++ lib.optional (tls.keyFile != null) (credential "key" "key" tls.keyFile);

  acme = tls.useACMEHost != null;
  certificate = config.security.acme.certs.${tls.useACMEHost};
  certificateUnit = lib.optional acme "acme-${tls.useACMEHost}.service";
in
{
  _class = "nixos";
  imports = [ ./common.nix ];

  options.services.gretun.coordinator = {
    enable = lib.mkEnableOption "the coordinator: `gretun-coord` as {file}`gretun-coord.service`";

    settings = helpers.mkSettings pkgs "gretun-coord" {
      listen = mkOption {
        type = types.nonEmptyListOf types.str;
        default = [ "0.0.0.0:8443" ];
        example = [ "[::]:443" ];
        description = "Addresses and TCP ports of the API.";
      };
      stun-listen = helpers.mkSetting (types.listOf types.str) [ "none" ] ''
        Addresses and UDP ports of the STUN server; two ports let peers tell their NAT's kind. `[ "none" ]`
        switches it off. `null` means ports 3478 and 3479 of all addresses.'';
      open = helpers.mkFlag "Whether anybody is let in without an auth key. For labs only.";
    };

    openFirewall = helpers.mkFlag ''
      Whether the firewall opens the ports of `settings.listen` (TCP) and `settings.stun-listen` (UDP).'';

    authKeyFiles = helpers.mkList types.path "/run/secrets/gretun-auth-key" ''
      Files with an auth key of your own each, which any number of peers may use, beside those that
      {command}`gretun-coord keys create` makes; not in the Nix store.'';

    tls = {
      useACMEHost = helpers.mkSetting types.str "gretun.example.org" ''
        Name in `security.acme.certs` whose certificate is used: the service starts after it is there, and again when
        it has been renewed.'';
      certFile = helpers.mkSetting types.path "/var/lib/secrets/gretun.pem" ''
        Certificate chain, PEM. It is read when the service starts.'';
      keyFile = helpers.mkSetting types.path "/var/lib/secrets/gretun.key" ''
        Private key of the certificate, PEM. Only systemd reads it; not in the Nix store.'';
    };
  };

  config = lib.mkMerge [
    { services.gretun.enable = mkIf cfg.enable (lib.mkDefault true); }

    (mkIf (gretun.enable && cfg.enable) {
      assertions = helpers.toAssertions (
        helpers.fixedProblems option settings { state-dir = stateDirectory; }
        ++ helpers.fileProblems option settings {
          cert = "tls.certFile";
          key = "tls.keyFile";
          auth-key-file = "authKeyFiles";
        }
        ++ lib.optional ((tls.certFile == null) != (tls.keyFile == null)) ''
          ${option}.tls.certFile and ${option}.tls.keyFile are one pair, and one is missing. Set it too.''
        ++ helpers.secretProblems "${option}.tls.keyFile" tls.keyFile
        ++ lib.concatMap (helpers.secretProblems "${option}.authKeyFiles") cfg.authKeyFiles
      );
      warnings = helpers.joinLines (
        lib.optional settings.open ''
          ${option}.settings.open lets everybody who reaches the coordinator into the network. Set authKeyFiles or make
          keys with `gretun-coord keys create`, and remove it.''
      );

      services.gretun = {
        configFiles = helpers.configFile pkgs "gretun-coord.toml" settings ''
          ${program} --config "$file" --check-config'';
        udpPorts = lib.genAttrs (map toString stunPorts) (_: [ "${option}.settings.stun-listen" ]);
        coordinator = {
          settings.state-dir = lib.mkDefault stateDirectory;
          tls = mkIf acme {
            certFile = "${certificate.directory}/fullchain.pem";
            keyFile = "${certificate.directory}/key.pem";
          };
        };
      };

      security.acme.certs = mkIf acme {
        ${toString tls.useACMEHost}.reloadServices = [ "gretun-coord.service" ];
      };

      systemd.services.gretun-coord = {
        description = "gretun coordinator";
        documentation = [ "man:gretun-coord(1)" ];
        wants = [ "network-online.target" ] ++ certificateUnit;
        after = [ "network-online.target" ] ++ certificateUnit;
        wantedBy = [ "multi-user.target" ];
        # One step: stopped in the old configuration and started in the new, it would be away while the switch runs.
        stopIfChanged = false;
        startLimitIntervalSec = 0;
        enableDefaultPath = false;

        serviceConfig = helpers.sandbox capability "AF_INET AF_INET6 AF_UNIX" // {
          Type = "notify";
          ExecStart =
            "${program} --config ${gretun.configFiles."gretun-coord.toml"}"
            + lib.concatMapStrings (it: " --${it.flag} %d/${it.name}") credentials;
          LoadCredential = map (it: "${it.name}:${it.path}") credentials;
          Restart = "always";
          RestartSec = 1;
          WatchdogSec = 30;

          User = "gretun-coord";
          StateDirectory = "gretun-coord";
          StateDirectoryMode = "0700";
          # A user namespace would take the capability away.
          PrivateUsers = !needsCapability;
          ProcSubset = "pid";
        };
      };

      # A proxy on this host uses the ports on loopback addresses.
      networking.firewall = mkIf cfg.openFirewall {
        allowedTCPPorts = portsOf (builtins.filter (it: !isLoopback it) settings.listen);
        allowedUDPPorts = stunPorts;
      };
    })
  ];
}
