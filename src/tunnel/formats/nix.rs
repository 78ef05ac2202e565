//! Options of the NixOS module, `services.gretun.tunnels.NAME`: the keys of our own file.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Exported, OutFile, Unsupported, toml};
use crate::tunnel::spec::TunnelSpec;
use crate::tunnel::tunnel_flags::TunnelTable;

pub(super) fn write(specs: &[TunnelSpec]) -> Exported {
    let mut exported = Exported::default();
    let mut text = "{\n".to_owned();
    for spec in specs {
        let (table, lost) = toml::table(spec);
        exported.unsupported.extend(lost);
        if let [_, more @ ..] = &table.peer_ip[..]
            && !more.is_empty()
        {
            let why = format!("the option takes one address: {} left out", more.join(", "));
            exported
                .unsupported
                .push(Unsupported::of_tunnel(spec, "peer-ip", why));
        }
        attributes(&mut text, &spec.name, &table);
    }
    text.push_str("}\n");
    let name = "tunnels.nix".to_owned();
    exported.files.push(OutFile { name, text });
    exported
}

fn attributes(text: &mut String, name: &str, table: &TunnelTable) {
    let _ = writeln!(text, "  services.gretun.tunnels.{} = {{", string(name));
    // A table of texts, lists and switches always has a JSON form.
    if let Ok(Value::Object(keys)) = serde_json::to_value(table) {
        for (key, value) in keys {
            let value = match (key.as_str(), &value) {
                ("peer-ip", Value::Array(list)) => {
                    list.first().map_or_else(String::new, expression)
                }
                _ => expression(&value),
            };
            let _ = writeln!(text, "    {key} = {value};");
        }
    }
    text.push_str("  };\n");
}

fn expression(value: &Value) -> String {
    match value {
        Value::String(text) => string(text),
        Value::Array(list) => {
            let items: Vec<_> = list.iter().map(expression).collect();
            format!("[ {} ]", items.join(" "))
        }
        other => other.to_string(),
    }
}

fn string(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", text.replace("${", "\\${"))
}
