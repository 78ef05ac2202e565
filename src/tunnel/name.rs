//! Interface names, by the kernel's rules (`dev_valid_name`, net/core/dev.c) and a few of experience.

use thiserror::Error;

/// `IFNAMSIZ` without the terminating zero.
pub const MAX_LENGTH: usize = 15;

/// Names that the kernel gives to the fallback devices of its tunnel modules, or to whole groups in `/proc/sys/net`.
const RESERVED: [&str; 12] = [
    "lo", "all", "default", "gre0", "gretap0", "erspan0", "ip6gre0", "ip6tnl0", "sit0", "tunl0",
    "ip_vti0", "ip6_vti0",
];

/// The reason why a text cannot name an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameFlaw {
    /// Nothing.
    #[error("is empty")]
    Empty,
    /// Too long.
    #[error("is longer than {MAX_LENGTH} bytes")]
    Long,
    /// `.` or `..`.
    #[error("means a directory")]
    Directory,
    /// The kernel or its tools read it as something else.
    #[error("has the character {0:?}, which no interface name may have")]
    Character(char),
    /// It would be taken for an option.
    #[error("starts with a dash")]
    Dash,
    /// The kernel uses it itself.
    #[error("is reserved by the kernel")]
    Reserved,
    /// The kernel gives it to a network card, at boot perhaps after the tunnel has taken it.
    #[error("is what the kernel calls a network card")]
    NetworkCard,
}

impl NameFlaw {
    /// The way out.
    pub fn hint(self) -> &'static str {
        match self {
            NameFlaw::Reserved | NameFlaw::NetworkCard => "choose another name, such as tun0",
            NameFlaw::Empty
            | NameFlaw::Long
            | NameFlaw::Directory
            | NameFlaw::Character(_)
            | NameFlaw::Dash => {
                "interface names have 1 to 15 printable ASCII characters without blank, / and :, such as tun0"
            }
        }
    }
}

/// Checks an interface name.
///
/// # Errors
/// The first flaw found.
pub fn check(name: &str) -> Result<(), NameFlaw> {
    if name.is_empty() {
        return Err(NameFlaw::Empty);
    }
    if name.len() > MAX_LENGTH {
        return Err(NameFlaw::Long);
    }
    if name == "." || name == ".." {
        return Err(NameFlaw::Directory);
    }
    if name.starts_with('-') {
        return Err(NameFlaw::Dash);
    }
    let bad = |c: char| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%' | '"' | '\'' | '\\');
    if let Some(c) = name.chars().find(|&c| bad(c)) {
        return Err(NameFlaw::Character(c));
    }
    if is_reserved(name) {
        return Err(NameFlaw::Reserved);
    }
    Ok(())
}

/// Checks the name of an interface that is to be made.
///
/// # Errors
/// The first flaw found.
pub fn check_new(name: &str) -> Result<(), NameFlaw> {
    check(name)?;
    if is_network_card(name) {
        return Err(NameFlaw::NetworkCard);
    }
    Ok(())
}

/// Returns whether the kernel itself uses this name.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}

/// Returns whether the kernel's drivers number network cards with this name: `eth0`, `wlan1`, `wwan0`, `usb0`.
fn is_network_card(name: &str) -> bool {
    ["eth", "wlan", "wwan", "usb"].iter().any(|card| {
        name.strip_prefix(card)
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    })
}
