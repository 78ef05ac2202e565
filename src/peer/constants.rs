//! Every duration and bound of the peer machine, each with why it has this value.

use std::time::Duration;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

// Search: pings and calls.

/// Gaps between the pings to one candidate in a burst. Quick at first, because the first ping often dies on a NAT that the
/// peer has not opened yet, then slower; 4.7 s in all, as long as a search.
pub(crate) const BURST_GAPS: [Duration; 10] = [
    ms(50),
    ms(50),
    ms(100),
    ms(100),
    ms(200),
    ms(400),
    ms(800),
    ms(1000),
    ms(1000),
    ms(1000),
];

/// Where in [`BURST_GAPS`] a retry of an unreachable peer begins: six pings instead of eleven.
pub(crate) const RETRY_STEP: usize = 5;

/// Where in [`BURST_GAPS`] a try of an offline peer begins: two pings.
pub(crate) const OFFLINE_STEP: usize = BURST_GAPS.len() - 1;

/// Gap between pings to a candidate that is not in use, give or take [`IDLE_JITTER`]: below the 30 s that Linux keeps an
/// unanswered mapping, so that a spare path's NAT stays open and a better path is found.
pub(crate) const IDLE_GAP: Duration = ms(20_000);

/// Keeps many candidates of many peers from being pinged in step.
pub(crate) const IDLE_JITTER: Duration = ms(2_000);

/// How long after a packet of the peer the local address that it came to is taken for the right one to send from.
pub(crate) const LOCAL_ADDRESS_MAX_AGE: Duration = ms(5_000);

/// How long the answer to a ping is taken for a path that works, while one is searched for: as long as a burst of pings lasts.
pub(crate) const ANSWER_LIFETIME: Duration = ms(5_000);

/// How long paths are tried before the verdict `unreachable`: several round trips of the slowest links, a STUN
/// retransmission and one failed verification fit in.
pub(crate) const SEARCH_TIMEOUT: Duration = ms(5_000);

/// Gaps between the tries of an unreachable peer; the last repeats. 20 s: below the 30 s that Linux keeps an unanswered
/// mapping, so that tries of both sides overlap even when no coordinator can bring them together.
pub(crate) const RETRY_GAPS: [Duration; 3] = [ms(5_000), ms(10_000), IDLE_GAP];

/// Gaps between the calls of one search, after the first: the coordinator carries them reliably, so a few suffice.
pub(crate) const CALL_GAPS: [Duration; 2] = [ms(1_000), ms(2_000)];

/// The same endpoints are not called again within this, whatever happens.
pub(crate) const CALL_MIN_GAP: Duration = ms(500);

/// A call restarts the burst, unless one began less than this ago: its quick pings are still going out.
pub(crate) const RESTART_MIN_GAP: Duration = ms(200);

/// A ping not answered within this is forgotten: longer than any round trip in use.
pub(crate) const PING_LIFETIME: Duration = ms(5_000);

// Nomination.

/// Gaps between the repetitions of a nomination, each lengthened by the path's round trip; after the last the nomination
/// has failed. About 1 s, so that a second path can still be tried within the 3 s that a repair may take.
pub(crate) const NOMINATION_GAPS: [Duration; 6] =
    [ms(50), ms(100), ms(200), ms(200), ms(200), ms(250)];

/// How long a nomination of a better path waits for the kernel, which first has to receive over both: modules may have to be
/// loaded, and nothing is lost meanwhile.
pub(crate) const OVERLAP_PATIENCE: Duration = ms(1_000);

/// How long the kernel receives over both paths, from the last step of a move: its nomination and its proof by data, or the way
/// back, fit in.
pub(crate) const OVERLAP_TIME: Duration = ms(5_000);

/// Another path must be faster by this and by [`UPGRADE_SHARE`]: jitter is no reason to move.
pub(crate) const UPGRADE_MARGIN: Duration = ms(5);

/// Another path must be faster by this part of the round trip in use: one fifth.
pub(crate) const UPGRADE_SHARE: u32 = 5;

/// So many round trips in a row must be shorter before a path is called faster: fewer would be luck.
pub(crate) const UPGRADE_SAMPLES: usize = 3;

/// How long a path whose test failed is not nominated; doubles with each failure in a row.
pub(crate) const HOLD_DOWN_MIN: Duration = ms(5_000);

/// Longest time that a path whose test failed is not nominated.
pub(crate) const HOLD_DOWN_MAX: Duration = ms(60_000);

/// How long a path is not moved to after a move to it failed: what worked was cut for a second, for nothing.
pub(crate) const MOVE_HOLD_DOWN: Duration = ms(3_600_000);

// The check of a tunnel by data probes.

/// Gaps between the data probes over a new tunnel; the last repeats. The first ones often find the other side's kernel not
/// ready, which takes it a few milliseconds.
pub(crate) const PROBE_GAPS: [Duration; 5] = [ms(20), ms(40), ms(80), ms(160), ms(320)];

/// A peer's own data probe brings the next one of this side forward, unless one was sent less than this ago.
pub(crate) const PROBE_MIN_GAP: Duration = ms(10);

/// How long the kernel may take to set a tunnel up before it counts as failed: generous, for a loaded host.
pub(crate) const APPLY_TIMEOUT: Duration = ms(5_000);

/// How long a peer is still called direct while the kernel does not say that it has switched the tunnel to another path. No probe can be
/// sent meanwhile, so nobody knows whether data crosses. A host that is only loaded takes a tenth of this.
pub(crate) const UNCHECKED_TIMEOUT: Duration = ms(1_500);

/// How long a peer is called direct after data last crossed, however many path switches follow each other: the gap between probes and one
/// switch, plus [`TEST_ROUND_TRIPS`].
pub(crate) const SWITCHES_TIMEOUT: Duration = ms(3_500);

/// The same in any case, however slow the path is.
pub(crate) const SWITCHES_TIMEOUT_MAX: Duration = ms(4_000);

/// How long data may take to cross a new tunnel, plus [`TEST_ROUND_TRIPS`]: the other side's kernel may be slow to follow.
pub(crate) const TEST_TIMEOUT: Duration = ms(2_000);

/// How long data may take to cross after a move from a path that worked: shorter, because the old one may still work, and
/// because the peer is called direct meanwhile.
pub(crate) const MOVE_TIMEOUT: Duration = ms(1_000);

/// How long a tunnel that is already there gets to prove itself, once its peer is heard again, before another path is
/// chosen: several probes' worth.
pub(crate) const REVALIDATION_TIMEOUT: Duration = ms(300);

/// Round trips added to each of these timeouts.
pub(crate) const TEST_ROUND_TRIPS: u32 = 4;

/// Data probes remembered: all that can be in flight within a second of quick probing.
pub(crate) const MAX_PROBES: usize = 32;

/// Gap between data probes over a proven path: the resolution at which a loss is noticed, at two small frames a second.
pub(crate) const PROVEN_GAP: Duration = ms(1_000);

/// Gap between data probes over a path that lost its proof: it costs little, and is how a lifted firewall is noticed.
pub(crate) const UNPROVEN_GAP: Duration = ms(2_000);

/// A data probe is late after two round trips, but never before this: scheduling delays of a busy host.
pub(crate) const PROBE_LATE_MIN: Duration = ms(100);

/// A data probe is late after this in any case.
pub(crate) const PROBE_LATE_MAX: Duration = ms(1_000);

/// Gap between data probes once one is late: eight before the path counts as lost, so that random loss does not look like it.
pub(crate) const LATE_GAP: Duration = ms(100);

/// So many late probes in a row (200 ms) raise the alarm: candidates are pinged, STUN is asked and the peer is called. One
/// lost frame alone does none of this.
pub(crate) const LATE_PROBES: u32 = 3;

/// A path is lost when no probe was answered for this long, or for [`LOSS_ROUND_TRIPS`]. With [`PROVEN_GAP`] this makes at
/// most 1.8 s, which leaves 1.2 s of the 3 s for the repair.
pub(crate) const LOSS_TIMEOUT: Duration = ms(800);

/// The same after a call from the peer: it says itself that it is looking for a path.
pub(crate) const LOSS_TIMEOUT_CALLED: Duration = ms(300);

/// Replaces [`LOSS_TIMEOUT`] for a peer that is heard over no path at all: its process may be stalled, for a second, and there is no
/// path to switch to before it is heard. With [`PROVEN_GAP`] this makes at most 2.5 s.
pub(crate) const LOSS_TIMEOUT_SILENT: Duration = ms(1_500);

/// A timer that fires this much too late shows that the driver was stalled: far more than a scheduler's delay.
pub(crate) const STALL: Duration = ms(100);

/// Round trips without an answer before a path counts as lost.
pub(crate) const LOSS_ROUND_TRIPS: u32 = 3;

// Port search.

/// Source ports that the side with a mapping per destination sends from. Against [`MAX_TARGET_PORTS`] of 64,512 ports one is met with a
/// probability of 1 - (1 - 256 / 64512)^2048 = 99.97 %, on average after 250 guesses.
pub(crate) const FAN_OUT_PORTS: usize = 256;

/// Ports probed in one search: at [`MAX_SEARCH_PACKETS_PER_SECOND`] they take 2 s.
pub(crate) const MAX_TARGET_PORTS: usize = 2048;

/// Probed ports around the port that a NAT with ports in order will give out next: all that a fan-out opens.
pub(crate) const PREDICTED_WINDOW: usize = FAN_OUT_PORTS;

/// Probes of the peer's source ports themselves, which some NATs keep: one would be enough if nothing were lost.
pub(crate) const PRESERVED_TARGETS: usize = 4;

/// A port may differ from the one before by this much and still count as next in order: other hosts of the site take some.
pub(crate) const MAX_STEP: u16 = 16;

/// How long the ordinary search has before ports are searched for: a call, a ping and its answer over 100 ms each.
pub(crate) const OFFER_DELAY: Duration = ms(300);

/// How long the ordinary search has before ports are searched for although STUN saw no NAT that needs it.
pub(crate) const AMBIGUOUS_MAPPING_DELAY: Duration = ms(1_000);

/// How long a look at what the NAT gives to new flows may take, and is worth something.
pub(crate) const OBSERVE_TIMEOUT: Duration = ms(250);

/// How long what one side told of its NAT counts for a search: the slowest coordinator, twice.
pub(crate) const OFFER_LIFETIME: Duration = ms(2_000);

/// Gap between the batches of a search; ten packets each.
pub(crate) const ATTEMPT_GAP: Duration = ms(10);

/// Most packets of a batch, when timers are late.
pub(crate) const ATTEMPT_BATCH: usize = 50;

/// From a search's begin until it has failed, however quickly its own packets were sent: the peer may be guessing, for
/// 2.3 s, and began a call later.
pub(crate) const ATTEMPT_PATIENCE: Duration = ms(3_500);

/// How long a path over a port that was found may take to be nominated, when the search's time is up.
pub(crate) const FOUND_PATIENCE: Duration = ms(2_000);

/// A search begins at most this often, whatever the peer asks.
pub(crate) const ATTEMPT_MIN_GAP: Duration = ms(3_000);

/// On average a search begins at most this often, whatever the peer asks and however often it says to be elsewhere: what guesses cost the
/// NATs on both sides is for this host to decide.
pub(crate) const ATTEMPT_MEAN_GAP: Duration = ms(180_000);

/// So many searches may follow each other quickly until [`ATTEMPT_MEAN_GAP`] holds: all that two hosts which change networks need.
pub(crate) const ATTEMPT_BURST: u32 = 20;

/// How long after a search's last packet its ports are listened to: answers, and the peer's nomination.
pub(crate) const ATTEMPT_LISTEN: Duration = ms(10_000);

/// Gaps between searches that failed; the last repeats, so that a pair which cannot be joined costs four packets a second.
pub(crate) const PORT_SEARCH_GAPS: [Duration; 7] = [
    ms(15_000),
    ms(30_000),
    ms(60_000),
    ms(60_000),
    ms(60_000),
    ms(60_000),
    ms(600_000),
];

/// Most packets of port searches in any second, to all peers together: 1.2 Mbit/s.
pub const MAX_SEARCH_PACKETS_PER_SECOND: usize = 1000;
// Path MTU (RFC 8899).

/// How often each size is asked for before it counts as too large: the RFC's MAX_PROBES.
pub(crate) const MTU_TRIES: usize = 3;

/// A ping of the search is sent again after two round trips, but never before this.
pub(crate) const MTU_PATIENCE_MIN: Duration = ms(100);

/// A ping of the search is sent again after this in any case.
pub(crate) const MTU_PATIENCE_MAX: Duration = ms(1_000);

/// Gap between full-size pings that confirm the MTU in use: a hop that shrinks without a word is noticed within this and half a
/// second, at the price of 3 kbit/s a peer.
pub(crate) const MTU_CONFIRM_GAP: Duration = ms(4_000);

/// Gap between tries of larger sizes, where the device would take them: the RFC's PMTU_RAISE_TIMER is 600 s, made for every
/// connection of a host; here there is one search a peer.
pub(crate) const MTU_RAISE_GAP: Duration = ms(30_000);

// Bounds.

/// Most packets to one peer in any second, of all kinds: a full burst to a handful of candidates, its answers and the
/// proof fit in; a line of 1 Mbit/s carries it.
pub const MAX_PACKETS_PER_SECOND: usize = 100;

/// Most pings among these, so that answers, nominations and proofs always find room.
pub(crate) const MAX_PINGS_PER_SECOND: usize = 60;

/// Packets of all kinds in any second beyond which pings are not answered while ports are searched for: the peer's search sends
/// hundreds, and hardly an answer gets in, but the ping and the nomination over what is found must go out at once.
pub(crate) const MAX_SEARCH_PONGS_PER_SECOND: usize = 40;

/// Most endpoints taken from one record or call: a host with many interfaces has a dozen.
pub(crate) const MAX_ADVERTISED: usize = 16;

/// Most candidates learned from where packets came from: a symmetric NAT makes a few.
pub(crate) const MAX_LEARNED: usize = 8;

/// Nonces remembered per peer: ten seconds of everything but a port search, minutes of an idle path; at 8 bytes each.
pub(crate) const REPLAY_NONCES: usize = 1024;

/// Pings remembered as waiting for their pong.
pub(crate) const MAX_PENDING: usize = 128;
