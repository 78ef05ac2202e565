//! Runs another program for its output, for so long at most: the doctor answers also where that program does not.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A listing of a large ruleset takes a second or two on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How often the program is looked after.
const POLL: Duration = Duration::from_millis(5);

/// Returns what a program prints.
///
/// # Errors
/// When it cannot be started, or does not end within [`TIMEOUT`].
pub(super) fn output(program: &str, arguments: &[&str]) -> io::Result<Output> {
    output_within(TIMEOUT, program, arguments)
}

fn output_within(timeout: Duration, program: &str, arguments: &[&str]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + timeout;
    // A full pipe would keep the program from ending.
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let status: ExitStatus = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            let text = format!("no end within {} s", timeout.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        thread::sleep(POLL);
    };
    Ok(Output {
        status,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

fn read(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // An error ends the output: the bytes before it count.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let began = Instant::now();
        let error = output_within(Duration::from_millis(50), "sleep", &["60"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn more_than_a_pipe_holds_is_read() {
        let output = output("head", &["-c", "300000", "/dev/zero"]).unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout.len(), 300_000);
    }
}
