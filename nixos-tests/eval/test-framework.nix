# What nixos-26.05 declares for a test (nixos/lib/testing/*.nix): these options and no others, so that a test which sets
# another one fails here as it does there.
{ lib, pkgs }:
let
  inherit (lib) mkOption types;

  of = type: default: mkOption { inherit type default; };
  bool = of types.bool;
  module = of types.deferredModule { };
  # Set by the framework itself.
  internal = mkOption {
    type = types.raw;
    internal = true;
  };
  # Machines are evaluated by default.nix, with the defaults.
  machines = of (types.lazyAttrsOf types.deferredModule) { };

  options = {
    name = mkOption { type = types.str; };
    meta = of (types.submodule {
      options = {
        maintainers = of (types.listOf types.raw) [ ];
        timeout = of (types.nullOr types.int) 3600;
        broken = bool false;
        platforms = of (types.listOf types.raw) lib.platforms.linux;
        hydraPlatforms = of (types.nullOr (types.listOf types.raw)) null;
      };
    }) { };

    testScript = mkOption { type = types.either types.str (types.functionTo types.str); };
    globalTimeout = of types.int 3600;
    skipLint = bool false;
    skipTypeCheck = bool false;
    enableOCR = bool false;
    enableDebugHook = bool false;
    extraPythonPackages = of (types.functionTo (types.listOf types.package)) (_: [ ]);
    extraDriverArgs = of (types.listOf types.str) [ ];
    logLevel = of (types.enum [
      "debug"
      "info"
      "warning"
      "error"
    ]) "info";
    passthru = of (types.lazyAttrsOf types.raw) { };
    hostPkgs = of types.raw pkgs;
    qemu.package = of types.raw null;
    qemu.forceAccel = bool false;
    sshBackdoor.enable = bool false;
    sshBackdoor.vsockOffset = of (types.ints.between 2 4294967296) 2;
    interactive = module;

    nodes = machines;
    containers = machines;
    defaults = module;
    nodeDefaults = module;
    containerDefaults = module;
    extraBaseModules = module;
    extraBaseNodeModules = module;
    node.pkgs = of types.raw null;
    node.pkgsReadOnly = bool true;
    node.specialArgs = of (types.lazyAttrsOf types.raw) { };

    driver = internal;
    test = internal;
    result = internal;
  };
in
test:
(lib.evalModules {
  class = "nixosTest";
  modules = [
    { inherit options; }
    (lib.setDefaultModuleLocation "the argument that was passed to pkgs.runNixOSTest" test)
  ];
}).config
