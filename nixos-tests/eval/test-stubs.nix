# Stand-ins for the options of virtual machines and of their networks, which scenarios set.
{ lib, ... }:
let
  inherit (lib) mkOption types;

  of = type: default: mkOption { inherit type default; };
  addresses = of (types.listOf (
    types.submodule {
      options.address = mkOption { type = types.str; };
      options.prefixLength = mkOption { type = types.ints.between 0 128; };
    }
  )) [ ];
in
{
  options = {
    specialisation = of (types.attrsOf (
      types.submodule {
        options.inheritParentConfig = of types.bool true;
        options.configuration = mkOption { type = types.deferredModule; };
      }
    )) { };

    # Machines of tests are not switched, as a rule.
    system.switch.enable = of types.bool false;

    system.disableInstallerTools = of types.bool false;
    documentation.enable = of types.bool true;
    nix.enable = of types.bool true;

    virtualisation = {
      memorySize = of types.ints.positive 1024;
      # NixOS's own eth0.
      qemu.networkingOptions = of (types.listOf types.str) [ "-net nic,model=virtio" ];
      vlans = of (types.listOf types.ints.unsigned) [ 1 ];
      interfaces = of (types.attrsOf (
        types.submodule {
          options.vlan = mkOption { type = types.ints.unsigned; };
          options.assignIP = of types.bool false;
        }
      )) { };
    };

    services.miniupnpd = {
      enable = of types.bool false;
      externalInterface = mkOption { type = types.str; };
      internalIPs = of (types.listOf types.str) [ ];
      natpmp = of types.bool false;
      upnp = of types.bool false;
      appendConfig = of types.lines "";
    };

    networking = {
      useDHCP = of types.bool true;
      tempAddresses = of (types.enum [
        "default"
        "enabled"
        "disabled"
      ]) "default";
      defaultGateway = of (types.nullOr types.str) null;
      defaultGateway6 = of (types.nullOr types.str) null;
      interfaces = of (types.attrsOf (
        types.submodule {
          options.mtu = of (types.nullOr types.int) null;
          options.ipv4.addresses = addresses;
          options.ipv6.addresses = addresses;
        }
      )) { };
    };
  };
}
