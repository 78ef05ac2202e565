//! From the second peer's start to data both ways, counted in round trips of 20 ms. The clock is virtual, so these are
//! facts about the protocol and not about a machine.

use std::time::Duration;

use crate::nat::NatKind;
use crate::world::World;

const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Times 10, so that tenths show. Both kernels take 2 ms to set a tunnel up.
fn tenths_of_round_trips(
    keys: (u8, u8),
    one: Option<NatKind>,
    other: Option<NatKind>,
    servers_known: bool,
) -> u128 {
    let mut world = World::new(1);
    world.servers_known = servers_known;
    let a = world.site("a", keys.0, one);
    let b = world.site("b", keys.1, other);
    world.start(a);
    world.run(Duration::from_secs(5));
    world.start(b);
    let took = world.run_until(Duration::from_secs(3), |world| world.joined(a, b));
    let took = took.unwrap_or_else(|| panic!("not joined\n{}", world.story()));
    (took * 10).as_micros().div_ceil(ROUND_TRIP.as_micros())
}

const CONTROLLED: (u8, u8) = (2, 1);
const CONTROLLING: (u8, u8) = (1, 2);

#[test]
fn joining_takes_about_six_round_trips() {
    let restricted = Some(NatKind::PORT_RESTRICTED);
    // Registration 2, STUN 1, the call 1, a ping and its answer 1, the nomination and a data probe 1.5.
    assert_eq!(
        tenths_of_round_trips(CONTROLLED, restricted, restricted, false),
        67
    );
    // As above, but the peer's ping is enough to nominate.
    assert_eq!(
        tenths_of_round_trips(CONTROLLING, restricted, restricted, false),
        62
    );
    // The peer's public address is in the answer to the registration.
    assert_eq!(
        tenths_of_round_trips(CONTROLLED, None, restricted, false),
        42
    );
    assert_eq!(
        tenths_of_round_trips(CONTROLLING, None, restricted, false),
        52
    );
}

#[test]
fn servers_known_at_start_save_a_round_trip() {
    // STUN is asked while the connection to the coordinator is made.
    let restricted = Some(NatKind::PORT_RESTRICTED);
    assert_eq!(
        tenths_of_round_trips(CONTROLLED, restricted, restricted, true),
        57
    );
    assert_eq!(
        tenths_of_round_trips(CONTROLLING, restricted, restricted, true),
        52
    );
}
