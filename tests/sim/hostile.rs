//! A member with good keys and bad intentions: it seals what it likes, and the coordinator hands it over.

use std::net::SocketAddr;
use std::time::Duration;

use gretun::proto::disco::{self, Message, PortOffer};
use rand_chacha::rand_core::Rng as _;

use crate::clock::Event;
use crate::port_search::{RESTRICTED, join};
use crate::world::{HostId, World};

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// `from`, whose daemon does not run, sends a message to another member through the coordinator.
    fn signal_as(&mut self, from: HostId, to: HostId, message: &Message) {
        let mut nonce = [0; 24];
        self.rng.fill_bytes(&mut nonce);
        let (sender, recipient) = (&self.hosts[from.0], &self.hosts[to.0]);
        let shared = sender.disco.shared(&recipient.disco.public());
        let sealed = disco::seal(&shared, &sender.disco.public(), nonce, message);
        let event = Event::SignalUp(sender.node_key, recipient.node_key, sealed);
        self.at(self.coordinator.latency, event);
    }
}

/// Alice at home, and a member that has registered and whose daemon is gone. The seed's parity decides who is controlling.
fn alice_and_mallory(seed: u64) -> (World, HostId, HostId) {
    let (mut world, alice, mallory) = join(seed, RESTRICTED, RESTRICTED);
    world.stop(mallory);
    world.run(20 * SECOND);
    (world, alice, mallory)
}

/// Every second for an hour the member says to be at the victim's address, by another port each time so that it looks like news, behind a
/// NAT whose ports have to be guessed.
fn ask_for_an_hour(world: &mut World, alice: HostId, mallory: HostId, victim: &str) -> u64 {
    let before = world.node(alice).counters().port_search_pings_sent;
    for port in 0..3600 {
        let seen = SocketAddr::new(victim.parse().expect("an address"), 10_000 + port);
        let endpoints = vec![seen];
        world.signal_as(mallory, alice, &Message::CallMeMaybe { endpoints });
        let offer = PortOffer {
            dependent: true,
            maybe_dependent: false,
            step: 0,
            first_port: 21_000,
            seen,
        };
        world.signal_as(mallory, alice, &Message::PortSearch(offer));
        world.run(SECOND);
    }
    world.node(alice).counters().port_search_pings_sent - before
}

#[test]
fn a_member_cannot_have_others_flood_a_victim() {
    for seed in [1, 2] {
        let (mut world, alice, mallory) = alice_and_mallory(seed);
        let sent = ask_for_an_hour(&mut world, alice, mallory, "198.51.100.77");
        // 20 searches at once and 20 an hour, each of some 2,000 guesses. Without a budget there would be a thousand.
        assert!((2_000..100_000).contains(&sent), "{sent}");
    }
}

#[test]
fn a_member_cannot_have_others_search_a_private_network() {
    for victim in ["192.168.1.1", "10.0.0.1", "169.254.169.254", "100.64.0.7"] {
        let (mut world, alice, mallory) = alice_and_mallory(1);
        let sent = ask_for_an_hour(&mut world, alice, mallory, victim);
        assert_eq!(sent, 0, "{victim}");
    }
}
