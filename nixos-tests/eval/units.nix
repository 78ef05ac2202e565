# Unit files as NixOS writes them (nixos/lib/systemd-lib.nix): the same keys, in the same order.
{ lib }:
let
  inherit (lib)
    concatLists
    concatMapStrings
    concatStrings
    mapAttrsToList
    optionalAttrs
    optionalString
    ;

  showValue =
    value:
    if value == true then
      "true"
    else if value == false then
      "false"
    else
      toString value;

  section =
    attrs:
    concatStrings (
      concatLists (
        mapAttrsToList (key: value: map (one: "${key}=${showValue one}\n") (lib.toList value)) attrs
      )
    );

  unitSection =
    unit:
    let
      list = key: name: optionalAttrs (unit.${name} != [ ]) { ${key} = toString unit.${name}; };
      given = key: name: optionalAttrs unit.defined.${name} { ${key} = unit.${name}; };
    in
    list "After" "after"
    // list "Before" "before"
    // list "BindsTo" "bindsTo"
    // list "Conflicts" "conflicts"
    // list "Documentation" "documentation"
    // list "PartOf" "partOf"
    // list "Requires" "requires"
    // list "Wants" "wants"
    // optionalAttrs (unit.description != "") { Description = unit.description; }
    // given "StartLimitBurst" "startLimitBurst"
    // given "StartLimitIntervalSec" "startLimitIntervalSec"
    // unit.unitConfig;

  switchFlags =
    unit:
    if unit.reloadIfChanged then
      "X-ReloadIfChanged=true\n"
    else
      optionalString (!unit.restartIfChanged) "X-RestartIfChanged=false\n";
in
unit:
"[Unit]\n"
+ section (unitSection unit)
+ "\n[Service]\n"
+ concatMapStrings (
  name: "Environment=${builtins.toJSON "${name}=${unit.environment.${name}}"}\n"
) (builtins.attrNames unit.environment)
+ switchFlags unit
+ optionalString (!unit.stopIfChanged) "X-StopIfChanged=false\n"
+ section unit.serviceConfig
+ optionalString (unit.wantedBy != [ ]) "\n[Install]\nWantedBy=${toString unit.wantedBy}\n"
