use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    let given: Given = toml::from_str(text).map_err(|error| error.to_string())?;
    given.settings().map_err(|error| error.to_string())
}

#[test]
fn nothing_given_is_the_documented_default() {
    let settings = parse("").unwrap();
    assert_eq!(settings.listen, ["0.0.0.0:8443".parse().unwrap()]);
    let pools: Vec<String> = settings
        .pools
        .iter()
        .map(|pool| pool.network().to_string())
        .collect();
    assert_eq!(pools, ["100.64.0.0/24", "fd67:7265:7475:6e00::/64"]);
    assert!(!settings.open);
    assert_eq!((settings.tls, settings.metrics), (None, None));
    let stun: Vec<String> = settings
        .stun
        .addresses()
        .iter()
        .map(|(addr, optional)| format!("{addr} {optional}"))
        .collect();
    assert_eq!(
        stun,
        [
            "0.0.0.0:3478 false",
            "[::]:3478 true",
            "0.0.0.0:3479 false",
            "[::]:3479 true"
        ]
    );
}

#[test]
fn the_file_has_the_names_of_the_flags() {
    let settings = parse(
        r#"
        listen = "127.0.0.1:1"
        pool = "10.0.0.0/16"
        pool6 = "none"
        open = true
        state-dir = "/x"
        store = "embedded"
        stun-listen = ["127.0.0.1:2", "[::1]:3"]
        cert = "c"
        key = "k"
        metrics-addr = "127.0.0.1:4"
        "#,
    )
    .unwrap();
    assert_eq!(settings.listen.len(), 1);
    assert_eq!(settings.pools.len(), 1);
    assert!(settings.open);
    assert_eq!(settings.stun.addresses().len(), 2);
    assert!(settings.tls.is_some() && settings.metrics.is_some());
    assert_eq!(
        parse(r#"listen = ["127.0.0.1:1", "[::1]:1"]"#)
            .unwrap()
            .listen
            .len(),
        2
    );
    assert_eq!(
        parse("stun-listen = []").unwrap().stun,
        StunListen::Listed(vec![])
    );
    assert_eq!(
        parse(r#"stun-listen = "none""#).unwrap().stun,
        StunListen::Listed(vec![])
    );
}

#[test]
fn mistakes_are_named() {
    for (text, message) in [
        ("listne = \"127.0.0.1:1\"", "unknown field `listne`"),
        ("listen = \"localhost\"", "an address and port"),
        ("listen = []", "names no address"),
        ("pool = \"100.64.0.0\"", "pool"),
        (
            "pool = \"100.64.0.1/24\"",
            "100.64.0.1/24 is an address in a network",
        ),
        ("pool6 = \"off\"", "pool6"),
        ("cert = \"c\"", "--cert needs --key"),
        ("key = \"k\"", "--key needs --cert"),
        ("stun-listen = [\"none\", \"127.0.0.1:1\"]", "contradict"),
        ("open = \"yes\"", "boolean"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn an_unknown_store_is_refused_without_its_password() {
    let error = parse(r#"store = "postgres://user:secret@host/db""#).unwrap_err();
    assert_eq!(error, "there is no store `postgres`");
}

#[test]
fn flags_win_over_the_file() {
    let flags = Given {
        open: Some(false),
        ..Given::default()
    };
    let file = toml::from_str("open = true\npool = \"10.0.0.0/8\"").unwrap();
    let settings = flags.or(file).settings().unwrap();
    assert!(!settings.open);
    assert_eq!(settings.pools[0].network().to_string(), "10.0.0.0/8");
}
