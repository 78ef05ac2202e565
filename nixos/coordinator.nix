# services.gretun.coordinator: registry, enrolment, signals and STUN for the peers, `gretun-coord`.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib)
    imap0
    literalExpression
    mkIf
    mkMerge
    mkOption
    optional
    optionals
    types
    ;

  helpers = import ./lib.nix { inherit lib; };
  checks = import ./coordinator-checks.nix { inherit lib config helpers; };

  gretun = config.services.gretun;
  cfg = gretun.coordinator;

  program = lib.getExe' gretun.package "gretun-coord";

  configFile = helpers.checkedToml {
    inherit pkgs;
    inherit (cfg) settings;
    name = "gretun-coord.toml";
    command = ''${program} --config "$file" --check-config'';
  };

  # Files that only the service may read, as { name, path, flag }; systemd hands them over.
  credentials =
    imap0 (index: path: {
      name = "auth-key-${toString index}";
      flag = "--auth-key-file";
      inherit path;
    }) cfg.authKeyFiles
    ++ optionals (cfg.tls.certFile != null && cfg.tls.keyFile != null) [
      {
        name = "cert";
        flag = "--cert";
        path = cfg.tls.certFile;
      }
      {
        name = "key";
        flag = "--key";
        path = cfg.tls.keyFile;
      }
    ];

  capabilities = optional (builtins.any (port: port < 1024) (
    checks.apiPorts ++ checks.stunPorts
  )) "CAP_NET_BIND_SERVICE";
  # An empty assignment, which takes all of them away.
  orNone = list: if list == [ ] then [ "" ] else list;

  upstream = builtins.head cfg.settings.listen;
in
{
  imports = [ ./common.nix ];

  options.services.gretun.coordinator = {
    enable = lib.mkEnableOption "the coordinator: `gretun-coord` as {file}`gretun-coord.service`";

    settings = mkOption {
      default = { };
      example = literalExpression ''
        {
          pool = "10.77.0.0/16";
          stun-listen = [ "192.0.2.1:3478" "192.0.2.1:3479" ];
        }
      '';
      description = ''
        Configuration of {command}`gretun-coord`: a TOML file that the program itself checks when the system is built.
        The names are those of its flags; what is `null` is left to the program.
      '';
      type = types.submodule {
        # Anything is let in so far, so that an unknown setting gets a sentence with a suggestion from the module.
        freeformType = (pkgs.formats.toml { }).type;
        options = import ./coordinator-settings.nix { inherit lib; };
      };
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether peers may reach the ports of `settings.listen` (TCP) and `settings.stun-listen` (UDP) through the
        firewall, and with `nginx.enable` the ports 80 and 443 in place of the former.
      '';
    };

    authKeyFiles = mkOption {
      type = types.listOf types.path;
      default = [ ];
      example = [ "/run/secrets/gretun-auth-key" ];
      description = ''
        Files with enrolment keys of your own, which any number of peers may use, beside those that
        {command}`gretun-coord keys create` makes. One key a file; not in the Nix store.
      '';
    };

    tls = {
      certFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/var/lib/acme/gretun.example.org/fullchain.pem";
        description = ''
          Certificate chain, PEM. It is read when the service starts: have it restarted when the certificate is renewed,
          for example by `security.acme.certs."gretun.example.org".reloadServices = [ "gretun-coord.service" ]`.
        '';
      };
      keyFile = mkOption {
        type = types.nullOr types.path;
        default = null;
        example = "/var/lib/acme/gretun.example.org/key.pem";
        description = "Private key of the certificate, PEM. Only systemd reads it; not in the Nix store.";
      };
    };

    nginx = {
      enable = lib.mkEnableOption "a virtual host of nginx in front, with a certificate from ACME";
      domain = mkOption {
        type = types.nullOr types.str;
        default = null;
        example = "gretun.example.org";
        description = ''
          Name of the virtual host. More is set in `services.nginx.virtualHosts` under the same name. Peers then use
          `https://` and this name; STUN does not pass nginx.
        '';
      };
    };

    metrics = {
      enable = lib.mkEnableOption "metrics for Prometheus at {file}`/metrics`";
      address = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "192.0.2.1";
        description = "Address that metrics are served on.";
      };
      port = mkOption {
        type = types.port;
        default = 9478;
        example = 9100;
        description = "Port that metrics are served on. The firewall stays closed for it.";
      };
    };
  };

  config = mkMerge [
    { services.gretun.enable = mkIf cfg.enable (lib.mkDefault true); }

    (mkIf (gretun.enable && cfg.enable) {
      assertions = helpers.toAssertions checks.problems;
      warnings = helpers.unbroken checks.warnings;

      services.gretun = {
        configFiles."gretun-coord.toml" = configFile;
        claims.ports = checks.ports;
        coordinator.settings = {
          listen = mkIf cfg.nginx.enable (lib.mkDefault [ "127.0.0.1:8443" ]);
          metrics-addr = mkIf cfg.metrics.enable (
            let
              inherit (cfg.metrics) address port;
              host = if helpers.isIPv6 address then "[${address}]" else address;
            in
            "${host}:${toString port}"
          );
        };
      };

      systemd.services.gretun-coord = {
        description = "gretun coordinator";
        documentation = [ "man:gretun-coord(1)" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" ];
        wantedBy = [ "multi-user.target" ];
        startLimitIntervalSec = 0;
        enableDefaultPath = false;

        serviceConfig = import ./hardening.nix // {
          Type = "notify";
          ExecStart = lib.concatStringsSep " " (
            [
              program
              "--config"
              gretun.configFiles."gretun-coord.toml"
            ]
            ++ lib.concatMap (secret: [
              secret.flag
              "%d/${secret.name}"
            ]) credentials
          );
          LoadCredential = map (secret: "${secret.name}:${secret.path}") credentials;
          Restart = "always";
          RestartSec = 1;
          WatchdogSec = 30;

          User = "gretun-coord";
          StateDirectory = "gretun-coord";
          StateDirectoryMode = "0700";

          AmbientCapabilities = orNone capabilities;
          CapabilityBoundingSet = orNone capabilities;
          # A user namespace would take the capability away.
          PrivateUsers = capabilities == [ ];
          ProcSubset = "pid";
          RestrictAddressFamilies = [
            "AF_INET"
            "AF_INET6"
            "AF_UNIX"
          ];
        };
      };

      networking.firewall = mkIf cfg.openFirewall {
        allowedTCPPorts =
          if cfg.nginx.enable then
            [
              80
              443
            ]
          else
            checks.apiPorts;
        allowedUDPPorts = checks.stunPorts;
      };

      services.nginx = mkIf (cfg.nginx.enable && cfg.nginx.domain != null) {
        enable = true;
        virtualHosts.${cfg.nginx.domain} = {
          enableACME = lib.mkDefault true;
          forceSSL = lib.mkDefault true;
          locations."/" = {
            proxyPass = "http://${upstream}";
            recommendedProxySettings = lib.mkDefault true;
            # Long polls are answered after 30 seconds at the latest.
            extraConfig = ''
              proxy_read_timeout 60s;
            '';
          };
        };
      };
    })
  ];
}
