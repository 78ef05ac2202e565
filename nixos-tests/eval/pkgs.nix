# Stand-ins for the few things of nixpkgs that the modules use. Store paths have a hash of zeros, so that golden files
# do not change with every build, and name what stands at the place.
{
  lib,
  system ? "x86_64-linux",
  # Whether what is built here can be run here.
  canExecute ? true,
}:
let
  path = name: "/nix/store/${lib.fixedWidthString 32 "0" ""}-${name}";

  package =
    name: attrs:
    {
      type = "derivation";
      inherit name;
      pname = name;
      outPath = path name;
      outputName = "out";
      meta.mainProgram = name;
    }
    // attrs;

  # --- TOML ---------------------------------------------------------------------------------------------------------

  key = name: if builtins.match "[A-Za-z0-9_-]+" name != null then name else builtins.toJSON name;

  # JSON's strings, numbers and booleans are TOML's.
  value =
    v:
    if builtins.isAttrs v then
      "{ ${lib.concatStringsSep ", " (lib.mapAttrsToList (k: x: "${key k} = ${value x}") v)} }"
    else if builtins.isList v then
      "[${lib.concatMapStringsSep ", " value v}]"
    else
      builtins.toJSON v;

  table =
    names: content:
    let
      tables = lib.filterAttrs (_: builtins.isAttrs) content;
      lines = lib.mapAttrsToList (k: v: "${key k} = ${value v}\n") (
        removeAttrs content (builtins.attrNames tables)
      );
    in
    lib.concatStrings (
      lib.optional (names != [ ] && (lines != [ ] || tables == { }))
        "[${lib.concatMapStringsSep "." key names}]\n"
      ++ lines
    )
    + lib.concatStrings (lib.mapAttrsToList (k: v: "\n" + table (names ++ [ k ]) v) tables);

  atom =
    with lib.types;
    oneOf [
      bool
      int
      float
      str
      lib.types.path
      (attrsOf atom)
      (listOf atom)
    ]
    // {
      description = "TOML value";
    };
in
lib.genAttrs [
  "conntrack-tools"
  "ethtool"
  "gretun"
  "iperf3"
  "iproute2"
  "iputils"
  "kmod"
  "nftables"
  "python3"
  "tcpdump"
] (name: package name { })
// {
  inherit lib system;

  formats.toml = _: {
    type = lib.types.attrsOf atom;
    generate = name: content: package name { text = lib.removePrefix "\n" (table [ ] content); };
  };

  # A test stays what it was described as, if NixOS would take the description.
  testers.runNixOSTest = import ./test-framework.nix {
    inherit lib;
    pkgs = null;
  };

  writeText = name: text: package name { inherit text; };

  # What a build is given stays visible.
  runCommand =
    name: attrs: script:
    package name (attrs // { inherit script; });

  stdenv = rec {
    hostPlatform = {
      inherit system;
      isLinux = true;
    };
    buildPlatform = hostPlatform // {
      canExecute = _: canExecute;
    };
  };
}
