//! The owner of a tunnel. It is written into the link's alias (`IFLA_IFALIAS`, ip-link(8)), so that the kernel stores it.
//!
//! - `gretun overlay ...` belongs to the overlay daemon.
//! - `gretun static SET` was made by `create` or `apply`.
//! - `gretun foreground PID START` lives as long as the process PID that started START clock ticks after boot.

use std::fmt;

/// The owner of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The overlay daemon.
    Overlay,
    /// `gretun create` or `gretun apply`.
    Static {
        /// The name of the set of tunnels that it belongs to.
        set: String,
    },
    /// `gretun create --foreground`.
    Foreground(Process),
    /// Another program, or a person.
    Other,
}

/// One run of a program; the number alone is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process number.
    pub pid: u32,
    /// Start of the process, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl Owner {
    /// Reads a link's alias.
    pub fn of_alias(alias: Option<&str>) -> Self {
        let words: Vec<&str> = alias.unwrap_or_default().split(' ').collect();
        match words[..] {
            ["gretun", "overlay", ..] => Owner::Overlay,
            ["gretun", "static", set] if is_set_name(set) => Owner::Static {
                set: set.to_owned(),
            },
            ["gretun", "foreground", pid, start] => match (pid.parse(), start.parse()) {
                (Ok(pid), Ok(start)) => Owner::Foreground(Process { pid, start }),
                _ => Owner::Other,
            },
            _ => Owner::Other,
        }
    }

    /// One word for people and scripts.
    pub fn word(&self) -> &'static str {
        match self {
            Owner::Overlay => "overlay",
            Owner::Static { .. } => "static",
            Owner::Foreground(_) => "foreground",
            Owner::Other => "other",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Overlay => f.write_str("gretun overlay"),
            Owner::Static { set } => write!(f, "gretun static {set}"),
            Owner::Foreground(Process { pid, start }) => {
                write!(f, "gretun foreground {pid} {start}")
            }
            Owner::Other => f.write_str("another program"),
        }
    }
}

/// Returns whether the text can name a set of tunnels: it must fit into an alias as one word.
pub fn is_set_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
