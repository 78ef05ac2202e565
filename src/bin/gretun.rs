//! The `gretun` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gretun::cli::main()
}
