//! The times at which a router is asked, and asked again. Every duration has its reason here.

use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng as _;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// PCP starts with 3 s and doubles (RFC 6887 section 8.1.1). It never ends there; here the search does, and comes again after
/// [`REST_GAPS`]. The last gap is the time for the last answer.
pub(super) const PCP_GAPS: &[Duration] = &[seconds(3), seconds(6), seconds(3)];

/// NAT-PMP starts with 250 ms and doubles, up to nine times (RFC 6886 section 3.1); routers that have not answered the fifth request
/// answer none.
pub(super) const NAT_PMP_GAPS: &[Duration] =
    &[ms(250), ms(500), seconds(1), seconds(2), seconds(4)];

/// UPnP devices have a second to answer; the search is sent more than once because UDP may be lost (UPnP Device
/// Architecture 1.1 section 1.3.2).
pub(super) const SEARCH_GAPS: &[Duration] = &[seconds(1), seconds(2), seconds(3)];

/// Requests that give a port back: somebody waits for `gretun down`.
pub(super) const RETURN_GAPS: &[Duration] = &[ms(250), ms(250), ms(500)];

/// A router that knows only NAT-PMP says so at once in answer to PCP. A silent router gets NAT-PMP after this time.
pub(super) const NAT_PMP_DELAY: Duration = ms(500);

/// Time without an answer of PCP and NAT-PMP after which UPnP is used, which takes several requests over TCP.
pub(super) const IGD_DELAY: Duration = ms(1000);

/// Gaps between searches that found nothing; the last repeats. The first is short because a router that has just started may
/// not have its services up. 1024 s is the longest gap of RFC 6887 (MRT).
pub(super) const REST_GAPS: [Duration; 3] = [seconds(60), seconds(300), seconds(1024)];

/// The lifetime asked for with PCP and NAT-PMP, seconds, as RFC 6886 section 3.3 recommends. The mapping of a stopped daemon
/// stays for this time.
pub(super) const LIFETIME: u32 = 7200;

/// The lifetime asked for with UPnP, seconds: shorter, because only a renewal shows that the router still has the mapping.
pub(super) const IGD_LIFETIME: u32 = 3600;

/// A lease counts for at least this long: no router should grant less (RFC 6887 section 15). One that does is asked again as its
/// lease wants it, but each lapse in between would have every peer called.
pub(super) const LEASE_MIN: Duration = seconds(120);

/// The least gap between renewals of one lease (RFC 6887 section 11.2.1).
pub(super) const RENEW_MIN_GAP: Duration = seconds(4);

/// Interval between epoch checks (RFC 6887 section 8.5); a check is two small packets in the LAN. A host without connected peers
/// may take this long to notice a router restart.
pub(super) const CHECK_GAP: Duration = seconds(60);

/// Gaps between looks when a path was lost: the router may be restarting, and takes its time.
pub(super) const RECHECK_GAPS: [Duration; 5] =
    [ms(500), seconds(2), seconds(5), seconds(10), seconds(20)];

/// Varies `gap` by up to a tenth, so that hosts that started together do not ask together (RFC 6887 section 8.1.1).
pub(super) fn about(gap: Duration, rng: &mut ChaCha20Rng) -> Duration {
    gap.mul_f64(0.9 + 0.2 * share(rng))
}

/// Draws evenly between 0 and 1.
pub(super) fn share(rng: &mut ChaCha20Rng) -> f64 {
    f64::from(rng.next_u32()) / f64::from(u32::MAX)
}

/// Returns the time of the `attempt`th renewal of a lease, counted from its grant (RFC 6887 section 11.2.1). The first is between 1/2
/// and 5/8 of the lifetime, the second between 3/4 and 13/16, and so on.
pub(super) fn renewal(lifetime: Duration, attempt: u32, rng: &mut ChaCha20Rng) -> Duration {
    let left = 0.5_f64.powi(attempt.min(30).cast_signed() + 1);
    lifetime.mul_f64(1.0 - left + left / 4.0 * share(rng))
}

/// A request that is repeated until it is answered or given up.
#[derive(Debug, Default)]
pub(super) struct Repeat {
    gaps: &'static [Duration],
    step: usize,
    pub(super) due: Option<Instant>,
}

/// The step of a [`Repeat`] that is due.
pub(super) enum Due {
    Send,
    GiveUp,
}

impl Repeat {
    /// The first request goes out at `due`.
    pub(super) fn new(gaps: &'static [Duration], due: Instant) -> Self {
        Repeat {
            gaps,
            step: 0,
            due: Some(due),
        }
    }

    /// The first request goes out now, unless it did before.
    pub(super) fn hurry(&mut self, now: Instant) {
        if self.step == 0 {
            self.due = self.due.map(|due| due.min(now));
        }
    }

    /// Takes the step that is due now, if any.
    pub(super) fn take(&mut self, now: Instant, rng: &mut ChaCha20Rng) -> Option<Due> {
        self.due.filter(|due| *due <= now)?;
        let Some(gap) = self.gaps.get(self.step) else {
            self.due = None;
            return Some(Due::GiveUp);
        };
        self.step += 1;
        self.due = Some(now + about(*gap, rng));
        Some(Due::Send)
    }
}
