//! Why a tunnel's path was switched to another one.

use std::fmt;

/// Why a tunnel that had a path was set to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SwitchReason {
    /// The earlier path carried no data, and the path search found this one.
    PathSearch,
    /// A port search found this one.
    PortSearch,
    /// It costs less: it is in the LAN, or leads through no other overlay.
    CheaperPath,
    /// Its round trip is shorter.
    ShorterRoundTrip,
    /// The move before it failed, and the path that works is taken again.
    CalledBack,
    /// The peer, which is controlling, has nominated it.
    ChosenByPeer,
}

impl SwitchReason {
    /// The value of the metrics' `reason` label; stable.
    pub fn as_str(self) -> &'static str {
        match self {
            SwitchReason::PathSearch => "path_search",
            SwitchReason::PortSearch => "port_search",
            SwitchReason::CheaperPath => "cheaper_path",
            SwitchReason::ShorterRoundTrip => "shorter_round_trip",
            SwitchReason::CalledBack => "called_back",
            SwitchReason::ChosenByPeer => "chosen_by_peer",
        }
    }
}

impl fmt::Display for SwitchReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
