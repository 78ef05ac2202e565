//! `gretun` as the tests of its exports run it.

use std::path::Path;
use std::process::Command;

/// What `gretun` prints, which must work and have nothing to say about what is lost.
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
