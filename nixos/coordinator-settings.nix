# The settings of `gretun-coord`, each an option: what the program's TOML file may hold.
{ lib }:
let
  inherit (lib) mkOption types;

  # Left to the program where it is null.
  optional =
    type: example: description:
    mkOption {
      type = types.nullOr type;
      default = null;
      inherit description example;
    };
in
{
  listen = mkOption {
    type = types.listOf types.str;
    default = [ "0.0.0.0:8443" ];
    example = [ "[::]:8443" ];
    description = "Addresses and TCP ports of the API.";
  };

  pool = optional types.str "10.77.0.0/16" ''
    IPv4 network that peers get their addresses from. `null` means 100.64.0.0/24.
  '';

  pool6 = optional types.str "fd12:3456:789a::/64" ''
    IPv6 network that peers get their addresses from, or `"none"`. `null` means fd67:7265:7475:6e00::/64.
  '';

  open = mkOption {
    type = types.bool;
    default = false;
    example = true;
    description = "Whether anybody is let in without an enrolment key. For labs only.";
  };

  stun-listen = optional (types.listOf types.str) [ "none" ] ''
    Addresses and UDP ports of the STUN server; two ports let peers tell their NAT's kind. `[ "none" ]` switches it off.
    `null` means ports 3478 and 3479 of all addresses.
  '';

  store = optional types.str "embedded" ''
    Where the registry is kept. `null` means `embedded`, a file in the state directory.
  '';

  metrics-addr = optional types.str "127.0.0.1:9478" ''
    Set through `metrics`.
  '';

  state-dir = mkOption {
    type = types.str;
    default = "/var/lib/gretun-coord";
    readOnly = true;
    description = "Directory of the registry. systemd makes it, so it cannot be changed.";
  };
}
