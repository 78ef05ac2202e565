//! The `gretun-coord` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    gretun::cli::coord::main()
}
