use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn network(port: u16) -> Content {
    Content::Network(Network {
        stun_ports: vec![port],
        ..Network::default()
    })
}

/// A file that was written anew has another inode.
fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|it| it.ino())
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + 1000 * 20 * MS;
    while !is_so() {
        assert!(Instant::now() < end, "never: {what}");
        thread::sleep(MS);
    }
}

#[test]
fn many_changes_are_one_write_and_the_last_is_on_disk_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let path = dir.path().join("network.json");
    let writer = StateWriter::start_with(&state, 1000 * 3600 * MS, MS).unwrap();
    writer.write(network(1));
    wait_for("the first write", || path.exists());
    let first = inode(&path);
    for port in 2..1000 {
        writer.write(network(port));
    }
    thread::sleep(20 * MS);
    assert_eq!(inode(&path), first, "the hour is not over");
    drop(writer);
    assert_ne!(inode(&path), first);
    assert_eq!(state.network().stun_ports, [999]);
}

#[test]
fn what_is_on_disk_already_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let path = dir.path().join("network.json");
    let writer = StateWriter::start_with(&state, Duration::ZERO, MS).unwrap();
    writer.write(network(1));
    wait_for("the first write", || path.exists());
    let first = inode(&path);
    writer.write(network(1));
    writer.write(Content::RouterPort(None));
    wait_for("the pass after it", || {
        dir.path().join("router-port.json").exists()
    });
    assert_eq!(inode(&path), first);
}

#[test]
fn a_file_that_cannot_be_written_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let state = StateDir::open(&path).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let writer = StateWriter::start_with(&state, Duration::ZERO, 5 * MS).unwrap();
    writer.write(network(7));
    thread::sleep(30 * MS);
    fs::create_dir(&path).unwrap();
    wait_for("the write", || path.join("network.json").exists());
    assert_eq!(state.network().stun_ports, [7]);
    drop(writer);
}
