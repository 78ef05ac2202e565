# Stand-ins for the NixOS options that a network service touches, each with the type that NixOS gives it, so that a
# misspelt option, a wrong type or a conflict between definitions fails here as it does there.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;

  of = type: default: mkOption { inherit type default; };

  bool = of types.bool;
  names = of (types.listOf types.str) [ ];
  lines = of types.lines "";
  anything = of (types.attrsOf types.anything) { };

  # --- units --------------------------------------------------------------------------------------------------------

  scalar = types.oneOf [
    types.bool
    types.int
    types.float
    types.str
    types.path
  ];
  unitValue = types.either scalar (types.listOf scalar);
  section = of (types.attrsOf unitValue) { };

  unit.options =
    lib.genAttrs [
      "after"
      "aliases"
      "before"
      "bindsTo"
      "conflicts"
      "documentation"
      "onFailure"
      "onSuccess"
      "partOf"
      "requiredBy"
      "requires"
      "requisite"
      "upheldBy"
      "upholds"
      "wantedBy"
      "wants"
    ] (_: names)
    // {
      enable = bool true;
      description = of types.singleLineStr "";
      unitConfig = section;
      restartTriggers = of (types.listOf types.unspecified) [ ];
      reloadTriggers = of (types.listOf types.unspecified) [ ];
      startLimitBurst = mkOption { type = types.int; };
      startLimitIntervalSec = mkOption { type = types.int; };
      overrideStrategy = of (types.enum [
        "asDropinIfExists"
        "asDropin"
      ]) "asDropinIfExists";
    };

  service.options =
    lib.genAttrs [
      "script"
      "preStart"
      "postStart"
      "reload"
      "preStop"
      "postStop"
    ] (_: lines)
    // {
      environment = of (types.attrsOf (
        types.nullOr (
          types.oneOf [
            types.str
            types.path
            types.package
          ]
        )
      )) { };
      path = of (types.listOf (types.either types.package types.str)) [ ];
      enableDefaultPath = bool true;
      serviceConfig = section;
      restartIfChanged = bool true;
      reloadIfChanged = bool false;
      stopIfChanged = bool true;
    };

  # --- network ------------------------------------------------------------------------------------------------------

  ports.options = lib.genAttrs [
    "allowedTCPPorts"
    "allowedUDPPorts"
  ] (_: of (types.listOf types.port) [ ]);

  submodules = options: of (types.attrsOf (types.submodule { inherit options; })) { };
  sections = lib.flip lib.genAttrs (_: section);
  sectionLists = lib.flip lib.genAttrs (_: of (types.listOf (types.attrsOf unitValue)) [ ]);
in
{
  options = {
    assertions = of (types.listOf types.unspecified) [ ];
    warnings = of (types.listOf types.str) [ ];

    systemd.services = of (types.attrsOf (
      types.submodule [
        unit
        service
        # What systemd-lib adds; units.nix asks which are defined.
        (
          { config, options, ... }:
          {
            config.environment.PATH =
              lib.mkIf (config.path != [ ])
                "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
            options.defined = of types.raw (
              lib.genAttrs [
                "startLimitBurst"
                "startLimitIntervalSec"
              ] (name: options.${name}.isDefined)
            );
          }
        )
      ]
    )) { };

    systemd.network = {
      enable = bool false;
      netdevs = submodules (sections [
        "netdevConfig"
        "tunnelConfig"
        "fooOverUDPConfig"
      ]);
      networks = submodules (
        sections [
          "matchConfig"
          "linkConfig"
          "networkConfig"
        ]
        // sectionLists [
          "addresses"
          "routes"
        ]
      );
    };

    system.checks = of (types.listOf types.package) [ ];
    nixpkgs.hostPlatform = of types.str "x86_64-linux";

    # The two assertions that NixOS makes of certificates.
    security.acme = {
      acceptTerms = bool false;
      defaults.email = of (types.nullOr types.str) null;
      certs = of (types.attrsOf (
        types.submodule (
          { name, ... }:
          {
            options = {
              directory = mkOption {
                type = types.str;
                readOnly = true;
                default = "/var/lib/acme/${name}";
              };
              listenHTTP = of (types.nullOr types.str) null;
              webroot = of (types.nullOr types.str) null;
              dnsProvider = of (types.nullOr types.str) null;
              reloadServices = names;
            };
          }
        )
      )) { };
    };

    environment.systemPackages = of (types.listOf types.package) [ ];
    boot.kernelModules = names;
    boot.isContainer = bool false;
    boot.kernel.sysctl = of (types.attrsOf (
      types.nullOr (
        types.oneOf [
          types.bool
          types.int
          types.str
        ]
      )
    )) { };
    users.users = anything;
    users.groups = anything;
    systemd.tmpfiles.rules = names;

    services.nginx = {
      enable = bool false;
      virtualHosts = submodules {
        enableACME = bool false;
        forceSSL = bool false;
        locations = submodules {
          proxyPass = of (types.nullOr types.str) null;
          recommendedProxySettings = bool false;
          extraConfig = lines;
        };
      };
    };

    networking = {
      hostName = of types.str "host";
      useNetworkd = bool false;
      networkmanager.unmanaged = names;
      dhcpcd.denyInterfaces = names;
      nftables.enable = bool false;
      nftables.flushRuleset = bool false;
      firewall = ports.options // {
        enable = bool true;
        backend = of (types.enum [
          "iptables"
          "nftables"
          "firewalld"
        ]) (if config.networking.nftables.enable then "nftables" else "iptables");
        checkReversePath = of (types.either types.bool (
          types.enum [
            "strict"
            "loose"
          ]
        )) true;
        trustedInterfaces = names;
        extraCommands = lines;
        extraForwardRules = lines;
        extraInputRules = lines;
        filterForward = bool false;
        interfaces = of (types.attrsOf (types.submodule ports)) { };
      };
    };
  };

  # NixOS's own definitions that the modules have to get along with.
  config = {
    assertions =
      let
        inherit (config.security) acme;
        withoutWay = lib.filterAttrs (
          _: cert: cert.listenHTTP == null && cert.webroot == null && cert.dnsProvider == null
        ) acme.certs;
      in
      [
        {
          assertion = acme.certs == { } || acme.acceptTerms;
          message = "You must accept the CA's terms of service before using the ACME module";
        }
        {
          assertion = acme.certs == { } || acme.defaults.email != null;
          message = "You must define security.acme.defaults.email";
        }
        {
          assertion = withoutWay == { };
          message = "One of listenHTTP, webroot and dnsProvider must be given: ${toString (builtins.attrNames withoutWay)}";
        }
      ];
    # A virtual host with a certificate of its own has it renewed through nginx.
    security.acme.certs =
      lib.mapAttrs (_: _: { webroot = "/var/lib/acme/acme-challenge"; })
        (lib.filterAttrs (_: host: host.enableACME) config.services.nginx.virtualHosts);

    boot.kernel.sysctl."net.ipv4.conf.all.forwarding" = lib.mkDefault false;
    boot.kernel.sysctl."net.ipv6.conf.all.forwarding" = lib.mkDefault false;
  };
}
