# The options of one peer: services.gretun.peer is the default one, services.gretun.peer.instances.NAME are others.
{
  lib,
  pkgs,
  names,
}:
{ config, options, ... }:
let
  inherit (lib) literalExpression mkOption types;
in
{
  options = {
    settings = mkOption {
      default = { };
      example = literalExpression ''
        {
          coordinator = "https://gretun.example.org";
          node-name = "attic";
        }
      '';
      description = ''
        Configuration of {command}`gretun up`: a TOML file that the program itself checks when the system is built. The
        names are those of its flags; what is `null` is left to the program. Secrets do not belong here; see
        `authKeyFile`.
      '';
      type = types.submodule {
        # Anything is let in so far, so that an unknown setting gets a sentence with a suggestion from the module.
        freeformType = (pkgs.formats.toml { }).type;
        options = import ./peer-settings.nix { inherit lib names; };
      };
    };

    authKeyFile = mkOption {
      type = types.nullOr types.path;
      example = "/run/secrets/gretun-auth-key";
      description = ''
        File with the enrolment key that the coordinator gave for this host ({command}`gretun-coord keys create`). Only
        systemd reads it, so root may own it; it must not be in the Nix store. `null` says that none is needed: this
        host is enrolled already, or the coordinator is open.
      '';
    };

    authKeyGiven = mkOption {
      internal = true;
      readOnly = true;
      type = types.bool;
      default = options.authKeyFile.isDefined;
      description = "Whether `authKeyFile` was decided upon.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether everybody may send to the UDP port. Seldom needed: a punched hole passes the host's firewall because
        connection tracking knows the flow. A host with a public address is found faster with it.
      '';
    };

    trustTunnels = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether the firewall lets in everything that comes through the tunnels. Tunnels are not encrypted: who can
        forge packets from a peer's address then reaches every service of this host.
      '';
    };

    advertiseRoutes = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "10.20.0.0/16" ];
      description = ''
        Networks behind this host that peers may reach through it. Turns on IP forwarding.
      '';
    };

    acceptRoutes = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Whether to route to the networks that peers advertise. Sets the firewall's reverse path check to `loose`,
        because such traffic may leave by one interface and come back by another.
      '';
    };
  };

  config.settings = {
    advertise-routes = lib.mkIf (config.advertiseRoutes != [ ]) config.advertiseRoutes;
    accept-routes = lib.mkIf config.acceptRoutes true;
  };
}
