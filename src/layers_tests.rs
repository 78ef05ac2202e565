//! The dependency rule of docs/ARCHITECTURE.md, read off the imports: a folder uses only folders below it, and the pure ones neither
//! open sockets nor read clocks nor draw randomness.

use std::fs;
use std::path::{Path, PathBuf};

/// The folders and single files of `src/`, from the ground floor to the top. Each may use those before it, so that there is no circle.
const LAYERS: [&str; 19] = [
    "error",
    "proto",
    "tunnel",
    "portmap",
    "peer",
    "node",
    "http_client",
    "kernel",
    "probe",
    "applier",
    "coordinator",
    "local_api",
    "netcheck",
    "doctor",
    "daemon",
    "coord",
    "cli",
    "lib",
    "bin",
];

/// Folders and files, below `src/`, that decide and do not act.
const PURE: [&str; 8] = [
    "proto",
    "tunnel",
    "portmap",
    "peer",
    "node",
    "applier/machine",
    "coord/rules",
    "daemon/conductor",
];

/// The rooms of a peer, from the ground floor to the top. Each imports from those before it; what joins them is in `src/peer/` itself, and
/// the words that all of them use (`State`, `Path`, `Context`) are imported from there.
const ROOMS: [&str; 4] = ["path", "discovery", "tunnel", "verdict"];

/// Text that only code that acts contains.
const ACTS: [&str; 12] = [
    "tokio::",
    "netlink",
    "socket2",
    "UdpSocket",
    "TcpStream",
    "UnixStream",
    "Instant::now(",
    "SystemTime::now(",
    "getrandom",
    "std::fs",
    "std::process",
    "std::thread",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every Rust file below `directory`, tests left out: a test may set up what it needs.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "tests" {
                found.extend(files(&path));
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") {
            found.push(path);
        }
    }
    found
}

/// The lines of a file that are neither comments nor part of its tests, with their numbers.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate();
    lines
        .take_while(|(_, line)| *line != "mod tests {")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

/// The folder or single file of `src/` that a file belongs to.
fn layer_of(path: &Path) -> String {
    let below = path.strip_prefix(source()).unwrap();
    let first = below.components().next().unwrap().as_os_str();
    first.to_string_lossy().trim_end_matches(".rs").to_owned()
}

fn rank(layer: &str) -> usize {
    let found = LAYERS.iter().position(|it| *it == layer);
    found.unwrap_or_else(|| panic!("src/{layer} has no place in LAYERS"))
}

/// The names that follow `crate::` in a line.
fn imports(line: &str) -> impl Iterator<Item = &str> {
    names_behind(line, "crate::")
}

fn names_behind<'a>(line: &'a str, before: &'static str) -> impl Iterator<Item = &'a str> {
    let parts = line.split(before).skip(1);
    parts.filter_map(|rest| {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        let name = &rest[..end.unwrap_or(rest.len())];
        (!name.is_empty()).then_some(name)
    })
}

#[test]
fn no_folder_uses_one_above_it() {
    let mut wrong = Vec::new();
    let all = files(&source());
    assert!(all.len() > 100, "only {} files were read", all.len());
    for path in all {
        let layer = layer_of(&path);
        for (number, line) in code(&path) {
            for used in imports(&line) {
                if rank(used) > rank(&layer) {
                    let file = path.display();
                    wrong.push(format!("{file}:{number}: {layer} uses {used}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_room_of_a_peer_uses_one_above_it() {
    let mut wrong = Vec::new();
    for (rank, room) in ROOMS.iter().enumerate() {
        let read = files(&source().join("peer").join(room));
        assert!(!read.is_empty(), "{room}");
        for path in read {
            for (number, line) in code(&path) {
                let mut above = ROOMS[rank + 1..].iter();
                let used = above.find(|it| names_behind(&line, "peer::").any(|name| name == **it));
                if let Some(used) = used {
                    wrong.push(format!("{}:{number}: {room} uses {used}", path.display()));
                }
                let in_braces = ROOMS
                    .iter()
                    .any(|it| line.contains("peer::{") && line.contains(&format!("{it}::")));
                assert!(!in_braces, "{}:{number}: one room a line", path.display());
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_decides_does_not_act() {
    let mut wrong = Vec::new();
    for pure in PURE {
        let (folder, file) = (source().join(pure), source().join(format!("{pure}.rs")));
        let mut read = if folder.is_dir() {
            files(&folder)
        } else {
            Vec::new()
        };
        read.extend(file.is_file().then_some(file));
        assert!(!read.is_empty(), "src/{pure} is not there");
        for path in read {
            for (number, line) in code(&path) {
                if let Some(found) = ACTS.iter().find(|it| line.contains(**it)) {
                    wrong.push(format!("{}:{number}: {found}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The Rust files that a document names in backticks, with their folder: `src/peer/mod.rs`, or `peer/mod.rs` for short.
fn named_files(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|it| it.ends_with(".rs") && it.contains('/') && !it.contains([' ', '*', '{']))
}

#[test]
fn documents_name_no_file_that_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = vec![root.join("README.md"), root.join("nixos-tests/README.md")];
    let docs = fs::read_dir(root.join("docs")).unwrap();
    documents.extend(docs.map(|entry| entry.unwrap().path()));
    let (mut wrong, mut read) = (Vec::new(), 0);
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for name in named_files(&text) {
            read += 1;
            if !root.join(name).is_file() && !root.join("src").join(name).is_file() {
                wrong.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert!(read > 20, "only {read} names were read");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
