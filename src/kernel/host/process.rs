//! Identifies one run of a program by process number and starting time, because numbers are used again.

use std::fs;

use crate::tunnel::owner::Process;

/// This process.
///
/// # Errors
/// When `/proc` is not there.
pub fn this() -> std::io::Result<Process> {
    let pid = std::process::id();
    start_of(pid)
        .map(|start| Process { pid, start })
        .ok_or_else(|| std::io::Error::other("/proc/self/stat cannot be read"))
}

/// Returns whether this run still goes on.
pub fn is_alive(process: Process) -> bool {
    start_of(process.pid) == Some(process.start)
}

fn start_of(pid: u32) -> Option<u64> {
    parse_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22; the second field is the program's name in parentheses, which may contain anything.
fn parse_start(stat: &str) -> Option<u64> {
    const AFTER_NAME: usize = 22 - 3;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(AFTER_NAME)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_told_from_the_next_one_of_its_number() {
        let this = this().unwrap();
        assert!(is_alive(this));
        assert!(!is_alive(Process {
            start: this.start + 1,
            ..this
        }));
    }

    #[test]
    fn the_name_of_a_program_may_contain_anything() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        let stat = format!("7 (a) b (c) {}", fields.join(" "));
        assert_eq!(parse_start(&stat), Some(22));
        assert_eq!(parse_start("7 (a"), None);
    }
}
