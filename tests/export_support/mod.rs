//! `gretun` as the tests of its exports run it.

use std::path::Path;
use std::process::Command;

/// Returns the output of `gretun`, which must succeed and must not report an unsupported setting.
pub fn gretun(directory: &Path, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gretun"))
        .args(arguments.split(' '))
        .current_dir(directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
    assert_eq!(said, "", "{arguments}: something is lost");
    String::from_utf8(output.stdout).unwrap()
}
