use super::*;

#[test]
fn keys_are_made_once_private_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/state");
    let first = StateDir::open(&path).unwrap().identity().unwrap();
    for name in [NODE_KEY, DISCO_KEY] {
        let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let again = StateDir::open(&path).unwrap().identity().unwrap();
    assert_eq!(first.node.public(), again.node.public());
    assert_eq!(first.disco.public(), again.disco.public());
}

#[test]
fn a_second_daemon_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let held = StateDir::open(dir.path()).unwrap();
    assert!(matches!(
        StateDir::open(dir.path()),
        Err(StateError::Locked { .. })
    ));
    drop(held);
    StateDir::open(dir.path()).unwrap();
}

#[test]
fn a_corrupt_key_is_an_error_and_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    for content in [&b""[..], b"zz", &[b'a'; 63], &[0xff; 64]] {
        fs::write(dir.path().join(NODE_KEY), content).unwrap();
        let error = state.identity().unwrap_err();
        assert!(
            matches!(error, StateError::Key { .. }),
            "{content:?}: {error}"
        );
        assert!(error.hint().unwrap().contains("node.key"));
        assert_eq!(fs::read(dir.path().join(NODE_KEY)).unwrap(), content);
    }
}

#[test]
fn a_corrupt_cache_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let aside = dir.path().join("network.corrupt");
    for content in [&b"{\"tunnel_ips\": ["[..], b"", &[0xff; 64]] {
        fs::write(dir.path().join(NETWORK), content).unwrap();
        assert!(state.network().peers.is_empty());
        assert_eq!(fs::read(&aside).unwrap(), content);
        assert!(!dir.path().join(NETWORK).exists());
    }
}

#[test]
fn extra_ports_are_noted_until_they_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = StateDir::open(dir.path()).unwrap().extra_ports();
    assert!(file.load().is_empty());
    let ports = BTreeSet::from([
        (20480, Family::V4),
        (20480, Family::V6),
        (32767, Family::V4),
    ]);
    file.save(&ports).unwrap();
    assert_eq!(file.load(), ports);
    file.save(&BTreeSet::new()).unwrap();
    assert!(file.load().is_empty());
}
