# What the modules share. The programs check their own configuration files when a system is built; here is only what no
# program can know: secrets in the store, and two units that want the same.
{ lib }:
rec {
  # The problems are sentences that name the option and the way out; they are broken into lines in the source only.
  toAssertions =
    problems:
    map (message: {
      assertion = false;
      inherit message;
    }) (joinLines problems);

  joinLines = map (builtins.replaceStrings [ "\n" ] [ " " ]);

  isIPv6 = lib.hasInfix ":";

  # A file in the Nix store is readable by everybody on the host. A path literal would be copied there.
  secretProblems =
    option: file:
    lib.optional (builtins.isPath file || lib.hasPrefix "${builtins.storeDir}/" (toString file)) ''
      ${option} is in the Nix store, which everybody on this host can read. Give the path of a file outside of it as
      a string, for example "/run/secrets/gretun" from sops-nix or agenix.'';

  # Settings that name files: only root can read these, so systemd has to hand them to the service.
  fileProblems =
    option: settings: others:
    lib.mapAttrsToList (name: other: ''
      ${option}.settings.${name} would not be readable in the service's sandbox. Set ${option}.${other} in its
      place.'') (builtins.intersectAttrs settings others);

  # Settings that the sandbox leaves no choice in.
  fixedProblems =
    option: settings: fixed:
    lib.mapAttrsToList (name: path: ''
      ${option}.settings.${name} is ${path} in the service's sandbox, which has no other. Remove the setting, and
      bind-mount what is to be there.'') (lib.filterAttrs (name: path: settings.${name} != path) fixed);

  # What is not left to the program.
  given = lib.filterAttrs (_: value: value != null && value != [ ]);

  # For services.gretun.configFiles: a TOML file of `settings`, which `command` refuses at build time. It finds the file's
  # name in $file.
  configFile =
    pkgs: name: settings: command:
    let
      file = (pkgs.formats.toml { }).generate name (given settings);
      checked = pkgs.runCommand name { inherit file; } ''
        ${command}
        cp "$file" "$out"
      '';
      # A program for another machine cannot be run here.
      canRun = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
    in
    {
      ${name} = if canRun then checked else file;
    };

  # The settings of a daemon, of which `options` are those that the module reads.
  mkSettings =
    pkgs: command: options:
    lib.mkOption {
      default = { };
      example.metrics-addr = "127.0.0.1:9478";
      description = ''
        Configuration of {command}`${command}`: a TOML file that the program itself checks when the system is built.
        Every flag of {command}`${command} --help` that is not about the command line is a setting of the same name; below
        are those that the module reads as well. Directories are set by the module, and secrets have options of their own.
      '';
      type = lib.types.submodule {
        freeformType = (pkgs.formats.toml { }).type;
        inherit options;
      };
    };

  # A setting that is left to the program where it is null.
  mkSetting =
    type: example: description:
    lib.mkOption {
      type = lib.types.nullOr type;
      default = null;
      inherit description example;
    };

  mkList =
    type: example: description:
    lib.mkOption {
      type = lib.types.listOf type;
      default = [ ];
      example = [ example ];
      inherit description;
    };

  mkFlag = description: lib.mkEnableOption "" // { inherit description; };

  # The interfaces of a part of gretun are left alone by everything else that manages interfaces. `patterns` are globs.
  leaveUnmanaged = part: patterns: {
    networking.networkmanager.unmanaged = map (pattern: "interface-name:${pattern}") patterns;
    networking.dhcpcd.denyInterfaces = patterns;
    systemd.network.networks."05-gretun-${part}" = {
      matchConfig.Name = toString patterns;
      linkConfig.Unmanaged = true;
    };
  };

  # What masquerading needs, also where the kernel's modules are locked after boot.
  masqueradingModules = [
    "nf_nat"
    "nft_chain_nat"
    "nft_masq"
  ];

  # Units wait for these: nothing loads modules inside a sandbox, and a route must be there.
  startedAfter = [
    "network-online.target"
    "systemd-modules-load.service"
  ];

  # Where whoever changes tunnels takes the lock (src/kernel/lock.rs).
  lockDirectory = "/run/gretun-lock";

  # The sandbox that every unit runs in, with what the unit must have: words that are separated by blanks.
  sandbox = capabilities: addressFamilies: {
    AmbientCapabilities = capabilities;
    CapabilityBoundingSet = capabilities;
    RestrictAddressFamilies = addressFamilies;

    # Implies ProtectSystem=strict, PrivateTmp, RemoveIPC, RestrictSUIDSGID and NoNewPrivileges.
    DynamicUser = true;
    UMask = "0077";

    # A core would hold the keys.
    LimitCORE = 0;
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    PrivateDevices = true;
    PrivateMounts = true;
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    RestrictNamespaces = true;
    RestrictRealtime = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
    ];
  };
}
