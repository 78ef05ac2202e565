use std::io::Write as _;

use super::*;

fn with_coordinator(url: &str) -> Settings {
    Settings {
        coordinator: Some(url.to_owned()),
        node_name: Some("alice".to_owned()),
        ..Settings::default()
    }
}

#[test]
fn flags_win_over_the_file_name_by_name() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "coordinator = \"http://a\"\nfou-port = 1000\nnode-name = \"from-file\"\nstun-server = [\"s:1\"]").unwrap();
    let below = Settings::from_file(file.path()).unwrap();
    let flags = Settings {
        fou_port: Some(2000),
        ..Settings::default()
    };
    let config = flags.over(below).resolve().unwrap();
    assert_eq!(config.port, 2000);
    assert_eq!(config.node_name, "from-file");
    assert_eq!(config.stun_servers, ["s:1"]);
}

#[test]
fn an_unknown_key_is_an_error_that_names_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "fou_port = 1000").unwrap();
    let message = Settings::from_file(file.path()).unwrap_err().to_string();
    assert!(message.contains("fou_port"), "{message}");
}

#[test]
fn the_coordinator_url_gives_base_and_host() {
    let url: CoordinatorUrl = "https://gretun.example.org:8443/net/".parse().unwrap();
    assert_eq!(
        (url.host(), url.base()),
        ("gretun.example.org", "https://gretun.example.org:8443/net")
    );
    let url: CoordinatorUrl = "http://[2001:db8::1]:8443".parse().unwrap();
    assert_eq!(
        (url.host(), url.base()),
        ("2001:db8::1", "http://[2001:db8::1]:8443")
    );
}

#[test]
fn bad_values_are_refused_with_a_hint() {
    for url in [
        "",
        "gretun.example.org",
        "ftp://x",
        "http://",
        "https://h/?q=1",
    ] {
        let error = with_coordinator(url).resolve().unwrap_err();
        assert!(
            matches!(error, SettingsError::Coordinator { .. }),
            "{url:?}: {error}"
        );
        assert!(error.hint().is_some());
    }
    for iface in [
        "gretun",
        "a/%d",
        "averylongname-%d",
        "",
        "my tun%d",
        "eth%d",
        "a%d%d",
    ] {
        let settings = Settings {
            iface: Some(iface.to_owned()),
            ..with_coordinator("http://h")
        };
        assert!(settings.resolve().is_err(), "{iface:?}");
    }
    for name in ["", "-a", "a-", "A", "a.b", &"x".repeat(64)] {
        let settings = Settings {
            node_name: Some(name.to_owned()),
            ..with_coordinator("http://h")
        };
        assert!(
            matches!(settings.resolve(), Err(SettingsError::NodeName { .. })),
            "{name:?}"
        );
    }
    for server in ["", "host", ":1", "host:0", "host:x"] {
        let settings = Settings {
            stun_server: vec![server.to_owned()],
            ..with_coordinator("http://h")
        };
        assert!(
            matches!(settings.resolve(), Err(SettingsError::StunServer { .. })),
            "{server:?}"
        );
    }
}

#[test]
fn routes_are_networks_and_never_everything() {
    let with_routes = |routes: &[&str]| Settings {
        advertise_routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
        snat_routes: Some(true),
        ..with_coordinator("http://h")
    };
    assert_eq!(
        with_routes(&["10.20.0.0/16", "fd00:20::/32"])
            .resolve()
            .unwrap()
            .advertise_routes
            .len(),
        2
    );
    for bad in ["10.20.0.1/16", "0.0.0.0/0", "::/0"] {
        assert!(
            matches!(
                with_routes(&[bad]).resolve(),
                Err(SettingsError::Route { .. })
            ),
            "{bad}"
        );
    }
    assert!(matches!(
        with_routes(&[]).resolve(),
        Err(SettingsError::NothingToSnat)
    ));
}

#[test]
fn ports_are_searched_for_unless_told_otherwise() {
    let with = |aggressive_punch| {
        let settings = Settings {
            aggressive_punch,
            ..with_coordinator("http://h")
        };
        settings.resolve().unwrap().aggressive_punch
    };
    assert!(with(None));
    assert!(!with(Some(false)));
    let flag = Settings {
        aggressive_punch: Some(true),
        ..Settings::default()
    };
    let file = Settings {
        aggressive_punch: Some(false),
        ..Settings::default()
    };
    assert_eq!(flag.over(file).aggressive_punch, Some(true));
}

#[test]
fn the_router_is_asked_unless_told_otherwise() {
    let with = |port_mapping| {
        let settings = Settings {
            port_mapping,
            ..with_coordinator("http://h")
        };
        settings.resolve().unwrap().port_mapping
    };
    assert!(with(None) && !with(Some(false)));
    let flag = Settings {
        port_mapping: Some(false),
        ..Settings::default()
    };
    let file: Settings = toml::from_str("port-mapping = true").unwrap();
    assert_eq!(flag.over(file).port_mapping, Some(false));
}

#[test]
fn a_flag_switches_off_what_the_file_switches_on() {
    let flags = |flags: &[&str]| {
        let mut args = vec!["up"];
        args.extend(flags);
        let matches = <Settings as clap::Args>::augment_args(clap::Command::new("up"))
            .try_get_matches_from(args)
            .unwrap();
        <Settings as clap::FromArgMatches>::from_arg_matches(&matches).unwrap()
    };
    let file =
        || -> Settings { toml::from_str("accept-routes = true\nsnat-routes = true").unwrap() };
    let off = flags(&["--accept-routes=false", "--snat-routes=false"]).over(file());
    assert_eq!(
        (off.accept_routes, off.snat_routes),
        (Some(false), Some(false))
    );
    let on = flags(&["--accept-routes", "--snat-routes"]);
    assert_eq!((on.accept_routes, on.snat_routes), (Some(true), Some(true)));
    let silent = flags(&[]).over(file());
    assert_eq!(
        (silent.accept_routes, silent.snat_routes),
        (Some(true), Some(true))
    );
}
