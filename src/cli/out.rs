//! What commands print: standard output whose reader may be gone before the end, as in `gretun list | head -n 1`. That is no
//! error, and must not end a command in the middle of its work; any other failure to write is one.

use std::fmt;
use std::io::{self, Write as _};

/// Prints like `print!`.
macro_rules! out {
    ($($arguments:tt)*) => {
        $crate::cli::out::write(format_args!($($arguments)*))
    };
}

/// Prints like `println!`.
macro_rules! outln {
    ($($arguments:tt)*) => {
        $crate::cli::out::write(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

pub(super) use {out, outln};

/// Writes to standard output. When that fails, and not because nobody reads any more, says so and ends the process: what
/// was asked for is not there.
pub(super) fn write(text: fmt::Arguments<'_>) {
    match io::stdout().lock().write_fmt(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("error: cannot write to standard output: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}
