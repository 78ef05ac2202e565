//! All timers of a peer in one table, so that nothing is armed in one place and forgotten in another.

use std::time::Instant;

/// The events that a peer waits for. Pings have a due time of their own in each candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// The search ends without a path.
    Search,
    /// An unreachable or offline peer is tried again.
    Retry,
    /// The peer is called again.
    Call,
    /// The nomination is repeated.
    Nomination,
    /// The next data probe is sent.
    Probe,
    /// The tunnel has had its time to prove itself.
    TunnelCheck,
    /// The port search goes on.
    PortSearch,
    /// The search for the path MTU goes on.
    Mtu,
    /// Data need not be received over the path before a move any more.
    Overlap,
}

impl Timer {
    const ALL: [Timer; 9] = [
        Timer::Search,
        Timer::Retry,
        Timer::Call,
        Timer::Nomination,
        Timer::Probe,
        Timer::TunnelCheck,
        Timer::PortSearch,
        Timer::Mtu,
        Timer::Overlap,
    ];

    fn reason(self) -> &'static str {
        match self {
            Timer::Search => "search ends",
            Timer::Retry => "retry",
            Timer::Call => "call",
            Timer::Nomination => "nomination",
            Timer::Probe => "data probe",
            Timer::TunnelCheck => "proof due",
            Timer::PortSearch => "port search",
            Timer::Mtu => "path MTU",
            Timer::Overlap => "move over",
        }
    }
}

/// When each timer is due.
#[derive(Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(crate) fn clear(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn get(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    /// Takes a timer that is due out of the table, the earliest first.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.earliest()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }

    /// The next timer and why it is there.
    pub(crate) fn next(&self) -> Option<(Instant, &'static str)> {
        self.earliest().map(|(at, timer)| (at, timer.reason()))
    }

    fn earliest(&self) -> Option<(Instant, Timer)> {
        Timer::ALL
            .into_iter()
            .filter_map(|timer| Some((self.get(timer)?, timer)))
            .min_by_key(|(at, _)| *at)
    }
}
