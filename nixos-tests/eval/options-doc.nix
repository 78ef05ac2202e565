# docs/OPTIONS.md: the reference of all options.
{ lib, options }:
let
  inherit (lib)
    concatMapStringsSep
    hasPrefix
    optionalString
    removePrefix
    replaceStrings
    ;

  # NixOS's own markup, in plain Markdown.
  plain =
    text:
    lib.trim (
      replaceStrings
        [
          "{option}`"
          "{command}`"
          "{file}`"
        ]
        [
          "`"
          "`"
          "`"
        ]
        text
    );

  # A rendered value: { _type; text; }.
  code =
    value:
    let
      text = lib.trim value.text;
      line = lib.concatStringsSep " " (map lib.trim (lib.splitString "\n" text));
    in
    if builtins.stringLength line <= 70 then " `${line}`" else "\n\n```nix\n${text}\n```\n";

  undocumented = builtins.filter (option: (option.description or "") == "") visible;

  # Instances have the options of the default peer, which are said once.
  visible = builtins.filter (
    option:
    option.visible
    && !option.internal
    && hasPrefix "services.gretun" option.name
    && !hasPrefix "services.gretun.peer.instances." option.name
  ) (lib.optionAttrSetToDocList options);

  entry =
    option:
    "## `${removePrefix "services.gretun." option.name}`\n\n"
    + "${plain option.description}\n\n"
    + "- Type: ${option.type}${optionalString option.readOnly " (read only)"}\n"
    + optionalString (option ? default) "- Default:${code option.default}\n"
    + optionalString (option ? example) "- Example:${code option.example}\n";
in
assert lib.assertMsg (undocumented == [ ])
  "options without description: ${concatMapStringsSep ", " (option: option.name) undocumented}";
''
  # Options of services.gretun

  Written by `nixos-tests/eval/run --update`; [NIXOS.md](NIXOS.md) has those that people set. `peer.instances.<name>.*` are the
  same as `peer.*`.

''
+ concatMapStringsSep "\n" entry visible
