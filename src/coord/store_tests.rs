use std::fs;

use super::super::enrol::{ENTROPY_LEN, KeyPolicy, KeyRecord};
use super::super::registry::NodeRecord;
use super::*;
use crate::proto::NatMapping;
use crate::proto::keys::{DiscoPublic, NodePublic};
use crate::proto::name::PeerName;

fn node(number: u8) -> NodeRecord {
    NodeRecord {
        name: PeerName::parse(&format!("node{number}")).unwrap(),
        node_key: NodePublic::from_bytes([number; 32]),
        disco_key: DiscoPublic::from_bytes([number; 32]),
        tunnel_ips: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        endpoints: vec![],
        nat_mapping: NatMapping::Unknown,
        routes: vec![],
        version: "1".to_owned(),
        enrolled_with: None,
        ephemeral: false,
        tags: vec![],
        created_ms: 5,
    }
}

fn key(number: u8) -> KeyRecord {
    KeyRecord::create(&[number; ENTROPY_LEN], KeyPolicy::default(), 5).1
}

#[test]
fn what_is_committed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.load().unwrap(), Snapshot::default());
    let changes = [
        Change::PutNode(node(1)),
        Change::PutNode(node(2)),
        Change::PutKey(key(1)),
        Change::PutKey(key(2)),
    ];
    store.commit(&changes).unwrap();
    store
        .commit(&[
            Change::RemoveNode(node(1).node_key),
            Change::RemoveKey(key(2).id),
        ])
        .unwrap();
    drop(store);
    let stored = Store::open(dir.path()).unwrap().load().unwrap();
    assert_eq!((stored.nodes, stored.keys), (vec![node(2)], vec![key(1)]));
}

#[test]
fn only_one_process_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _store = Store::open(dir.path()).unwrap();
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::InUse { .. })
    ));
}

#[test]
fn a_later_layout_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let transaction = store.database.begin_write().unwrap();
    transaction
        .open_table(META)
        .unwrap()
        .insert(META_SCHEMA, SCHEMA + 1)
        .unwrap();
    transaction.commit().unwrap();
    drop(store);
    assert!(matches!(
        Store::open(dir.path()),
        Err(StoreError::TooNew { found: 2, .. })
    ));
}

#[test]
fn a_file_that_is_no_store_is_damaged_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    for content in [&b"not a store"[..], &[0; 5000], &[0xff; 5000]] {
        fs::write(&path, content).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.hint().unwrap().contains("backup"));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_missing_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Store::open(&dir.path().join("gone")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
}

/// Whether damage was noticed; else all forty nodes are there.
fn is_refused(loaded: Result<Snapshot, StoreError>) -> bool {
    match loaded {
        Ok(mut stored) => {
            stored.nodes.sort_by_key(|it| it.node_key);
            let whole: Vec<NodeRecord> = (0..40).map(node).collect();
            assert!(stored.nodes == whole, "{} nodes", stored.nodes.len());
            false
        }
        Err(error) => {
            let is_io = matches!(error, StoreError::Io { .. });
            assert!(
                is_io || matches!(error, StoreError::Damaged { .. }),
                "{error}"
            );
            true
        }
    }
}

/// Damage at sixty places, one at a time, and truncation: an error or the right content, never a panic or a wrong
/// node, and never a store that has lost some.
#[test]
fn damage_is_an_error_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let changes: Vec<Change> = (0..40)
        .map(|number| Change::PutNode(node(number)))
        .collect();
    store.commit(&changes).unwrap();
    drop(store);
    let path = dir.path().join(FILE_NAME);
    let good = fs::read(&path).unwrap();
    let mut checked = 0;
    let mut check = |content: &[u8]| {
        // A file that could not be opened stays locked by this process.
        let damaged = dir.path().join(checked.to_string());
        checked += 1;
        fs::create_dir(&damaged).unwrap();
        fs::write(damaged.join(FILE_NAME), content).unwrap();
        Store::open(&damaged).and_then(|store| store.load())
    };
    let used = good.iter().rposition(|byte| *byte != 0).unwrap();
    let mut errors = 0;
    for position in (0..=used).step_by(used / 60) {
        let mut content = good.clone();
        content[position] ^= 0x55;
        errors += usize::from(is_refused(check(&content)));
    }
    assert!(errors > 0);
    // An empty file is a new store.
    for length in [1, 100, 4096, used / 2, used, good.len() - 1] {
        is_refused(check(&good[..length]));
    }
}
