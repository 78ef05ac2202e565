//! Wrong command lines and files. The cases are the tables of `docs/BAD_INPUT.md`, so that the document is right about exit
//! code, error and hint. No kernel is needed: everything is refused before anything is changed, and the process has no right
//! to change anything.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy knows functions marked as tests, not their helpers"
)]

use std::path::PathBuf;
use std::process::{Command, Output};

const DOCUMENT: &str = include_str!("../docs/BAD_INPUT.md");

/// One row of a table.
#[derive(Debug)]
struct Case {
    arguments: Vec<String>,
    code: i32,
    /// Text that must be in the error.
    error: String,
    /// Text that must be in the hint; empty if the error itself names the correct form.
    hint: String,
}

fn cases() -> Vec<Case> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [command, code, error, hint] = cells[..] else {
            panic!("{row}: not four cells");
        };
        let plain = |cell: &str| {
            let text = cell.trim().trim_matches('`');
            text.replace("&lt;", "<").replace("&gt;", ">")
        };
        Case {
            arguments: shlex::split(&plain(command)).unwrap(),
            code: code.parse().unwrap(),
            error: plain(error),
            hint: plain(hint),
        }
    })
    .collect()
}

/// Runs gretun in the directory of the files, without the right to change the network.
fn gretun(arguments: &[String]) -> Output {
    let program = env!("CARGO_BIN_EXE_gretun");
    // SAFETY: it cannot fail and touches no memory.
    let is_root = unsafe { libc::geteuid() } == 0;
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        let dropped = "-net_admin,-net_raw,-sys_admin,-dac_override,-dac_read_search";
        command.args(["--bounding-set", dropped, "--inh-caps", dropped, program]);
        command
    } else {
        Command::new(program)
    };
    command
        .args(arguments)
        .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input"))
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn what_is_documented_is_what_happens() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases are read", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let output = gretun(&case.arguments);
        let said = said(&output);
        let (error, hint) = said.split_once("\nhint: ").unwrap_or((&said, ""));
        let is_right = output.status.code() == Some(case.code)
            && error.contains(&case.error)
            && hint.contains(&case.hint)
            && error.contains("error: ")
            && !said.contains("panicked");
        if !is_right {
            wrong.push(format!("{case:?}\n  {}: {said}", output.status));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn the_same_is_said_in_json() {
    for case in cases() {
        let arguments = [vec!["--json".to_owned()], case.arguments.clone()].concat();
        let output = gretun(&arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(case.code), "{case:?}: {said}");
        let last = said.lines().last().unwrap_or_default();
        let object: serde_json::Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{case:?}: {error}: {said}"));
        assert_eq!(object["code"], case.code, "{case:?}");
        let error = object["error"].as_str().unwrap();
        assert!(error.contains(&case.error), "{case:?}: {error}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret.toml");
    std::fs::write(&path, "").unwrap();
    let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(&path, nobody).unwrap();
    for command in ["apply", "import", "export --to ip --file", "up --config"] {
        let mut arguments: Vec<_> = command.split(' ').map(str::to_owned).collect();
        arguments.push(path.display().to_string());
        let output = gretun(&arguments);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(
            said.contains("secret.toml") && said.contains("denied"),
            "{command}: {said}"
        );
    }
}

#[test]
fn a_reader_that_is_gone_is_no_error() {
    for command in [
        "completions bash",
        "list",
        "export one.toml --to ip",
        "import one.toml",
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_gretun"))
            .args(command.split(' '))
            .current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input"))
            .stdout(writer)
            .output()
            .unwrap();
        let said = said(&output);
        assert!(
            output.status.success() && said.is_empty(),
            "{command}: {said}"
        );
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_gretun"))
        .args(["completions", "bash"])
        .stdout(full)
        .output()
        .unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("standard output"), "{said}");
}

/// As in `gretun list 2>&1 | true`.
#[test]
fn a_reader_who_is_gone_is_no_reason_to_panic() {
    for (arguments, code) in [
        (&["create", "tun0"][..], 2),
        (&["--json", "create", "tun0"][..], 2),
        (&["create", "--no-such-flag"][..], 2),
        (&["status", "no-such-tunnel"][..], 1),
        (&["-vv", "list"][..], 0),
        (&["stun", "--help"][..], 0),
        (&["probe", "127.0.0.1", "--tcp", "1", "--count", "1"][..], 1),
        (&["import", "ifcfg-tun0"][..], 2),
    ] {
        let gone = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        };
        let status = Command::new(env!("CARGO_BIN_EXE_gretun"))
            .args(arguments)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad_input"))
            .stdout(gone())
            .stderr(gone())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}
