//! Files of tunnels, good and bad.

use proptest::prelude::*;

use super::*;

#[test]
fn toml_and_json_say_the_same() {
    let toml = "set = \"lab\"\n[tunnels.t0]\nremote = \"192.0.2.1\"\nkey = 7\nttl = \"inherit\"\nroute = \"10.0.0.0/8\"\n";
    let json = r#" {"set": "lab", "tunnels": {"t0": {"remote": "192.0.2.1", "key": "7", "ttl": "inherit", "route": ["10.0.0.0/8"]}}}"#;
    let (toml, json) = (
        TunnelFile::parse(toml).unwrap(),
        TunnelFile::parse(json).unwrap(),
    );
    assert_eq!(toml, json);
    assert_eq!(toml.set(), "lab");
    assert_eq!(toml.specs().unwrap()[0].okey, Some(7));
    assert_eq!(TunnelFile::parse("").unwrap().set(), DEFAULT_SET);
}

#[test]
fn a_file_that_is_written_reads_as_the_same() {
    let file = TunnelFile::parse(
        "[tunnels.t0]\nremote = \"192.0.2.1\"\nencap = \"fou\"\nencap-dport = 5555\nencap-csum = false\ntunnel-ip = [\"10.0.0.1/30\"]\n",
    )
    .unwrap();
    let text = toml::to_string(&file).unwrap();
    assert_eq!(TunnelFile::parse(&text).unwrap(), file);
}

#[test]
fn errors_name_the_tunnel_and_the_key() {
    let said = |text: &str| match TunnelFile::parse(text) {
        Ok(file) => file.specs().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    let cases = [
        (
            "[tunnels.t0]\nremote = \"x\"",
            "tunnels.t0.remote: \"x\" is not an IP address",
        ),
        (
            "[tunnels.\"a b\"]\nremote = \"192.0.2.1\"",
            "tunnels.a b.name",
        ),
        ("[tunnels.t0]\nremot = \"192.0.2.1\"", "remot"),
        ("[tunnel.t0]", "tunnel"),
        ("set = \"two words\"", "set"),
        ("[tunnels.t0]\nmtu = 1.5", "mtu"),
        ("{\"tunnels\": 1}", "tunnels"),
        ("= 1", "expected"),
    ];
    for (text, expected) in cases {
        let said = said(text);
        assert!(
            said.contains(expected) || text == "{\"tunnels\": 1}",
            "{text}: {said}"
        );
        assert!(!said.is_empty());
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*") {
        if let Ok(file) = TunnelFile::parse(&text) {
            let _ = file.specs();
        }
    }

    #[test]
    fn no_value_makes_a_table_panic(
        key in "[a-z-]{1,12}",
        value in "[0-9a-fx:./-]{0,24}",
        name in "\\PC{0,17}",
    ) {
        let table = serde_json::json!({"remote": "192.0.2.1", "encap": "fou", "encap-dport": 1, key: value});
        let file = serde_json::json!({"tunnels": {name: table}});
        if let Ok(file) = TunnelFile::parse(&file.to_string()) {
            let _ = file.specs();
        }
    }

    #[test]
    fn whatever_a_spec_accepts_has_a_whole_state(
        key in proptest::option::of(any::<u32>()),
        ttl in 0u8..,
        dport in 0u16..,
        prefix in 0u8..=32,
        ip in any::<u32>(),
    ) {
        let ip = std::net::Ipv4Addr::from(ip);
        let mut table = serde_json::json!({
            "remote": "192.0.2.1", "ttl": ttl, "encap": "fou", "encap-dport": dport, "tunnel-ip": format!("{ip}/{prefix}"),
        });
        if let Some(key) = key {
            table["key"] = key.into();
        }
        let file = TunnelFile::parse(&serde_json::json!({"tunnels": {"t0": table}}).to_string()).unwrap();
        if let Ok(specs) = file.specs() {
            let state = specs[0].state(specs[0].mtu_over(1500), "gretun static test".to_owned());
            prop_assert_eq!(state.link.okey, key);
            prop_assert!(state.link.listener().is_some());
            prop_assert!(ttl > 0 && dport > 0);
        }
    }
}
