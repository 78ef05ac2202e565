//! Prints the output of commands. The reader of standard output may be gone before the end, as in `gretun list | head -n 1`.
//! That is no error and must not end a command in the middle of its work; any other failure to write is an error. Text for
//! standard error is lost if nobody reads it.

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
    () => {
        $crate::cli::out::write(format_args!("\n"))
    };
    ($($arguments:tt)*) => {
        $crate::cli::out::write(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

/// Prints like `eprintln!`.
macro_rules! errln {
    ($($arguments:tt)*) => {
        $crate::cli::out::write_error(format_args!("{}\n", format_args!($($arguments)*)))
    };
}

/// Says what takes seconds, to somebody who looks on: to standard error, where that is a terminal.
macro_rules! progressln {
    ($($arguments:tt)*) => {
        if std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            $crate::cli::out::errln!($($arguments)*);
        }
    };
}

pub(crate) use errln;
pub(super) use {out, outln, progressln};

/// Writes to standard output. When that fails, and not because nobody reads any more, says so and ends the process: what
/// was asked for is not there.
pub(super) fn write(text: fmt::Arguments<'_>) {
    match io::stdout().lock().write_fmt(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            errln!("error: cannot write to standard output: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Writes to standard error, as well as it can.
pub(crate) fn write_error(text: fmt::Arguments<'_>) {
    // There is no other place to complain.
    let _ = io::stderr().lock().write_fmt(text);
}
