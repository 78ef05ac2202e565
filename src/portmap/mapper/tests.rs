//! The mapper against routers of every kind, which answer with the protocols' own messages.

use std::collections::BTreeMap;

use super::*;
use crate::portmap::{nat_pmp, pcp::tests as pcp_server, upnp::tests as igd_server};

const PORT: u16 = 7777;
const OWN: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const SERVICE: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

/// Builds PCP's answer to a request.
#[derive(Clone, Copy, PartialEq)]
enum Pcp {
    Grants,
    Refuses(u8),
    /// As a router that speaks NAT-PMP only.
    WrongVersion,
    Silent,
}

/// A mapping: to which port, until when (seconds of the router's clock).
type Mapping = (u16, u64);

struct Router {
    pcp: Pcp,
    nat_pmp: bool,
    igd: bool,
    /// Whether UPnP knows leases.
    leases: bool,
    external: Ipv4Addr,
    max_lifetime: u32,
    booted: Instant,
    mappings: BTreeMap<u16, Mapping>,
    /// External ports of other hosts.
    taken: Vec<u16>,
    /// Whether a UPnP gateway tells of other hosts' mappings, before it refuses theirs as a conflict.
    tells_entries: bool,
    /// The external ports that a UPnP gateway was asked to map.
    asked: Vec<u16>,
}

struct Bench {
    mapper: PortMapper,
    router: Router,
    now: Instant,
    /// Names of the messages sent, with the milliseconds since the start.
    sent: Vec<(u128, &'static str)>,
    start: Instant,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Router)) -> Self {
        let now = Instant::now();
        let mut router = Router {
            pcp: Pcp::Silent,
            nat_pmp: false,
            igd: false,
            leases: true,
            external: EXTERNAL,
            max_lifetime: 86_400,
            booted: now - Duration::from_secs(1000),
            mappings: BTreeMap::new(),
            taken: Vec::new(),
            tells_entries: true,
            asked: Vec::new(),
        };
        change(&mut router);
        let mut bench = Bench {
            mapper: PortMapper::new(PORT, None, [7; 32]),
            router,
            now,
            sent: Vec::new(),
            start: now,
        };
        bench
            .mapper
            .handle_network(now, Network::behind(GATEWAY, OWN));
        bench.exchange();
        bench
    }

    /// Hands every request to the router and every answer back.
    fn exchange(&mut self) {
        while let Some(output) = self.mapper.poll_output() {
            let at = (self.now - self.start).as_millis();
            match output {
                Output::ToRouter(data) => {
                    let name = match data[..2] {
                        [2, 0] => "announce",
                        [2, 1] => "pcp",
                        [0, 0] => "address",
                        _ => "nat-pmp",
                    };
                    self.sent.push((at, name));
                    if let Some(answer) = self.router.datagram(self.now, &data) {
                        self.mapper.handle_router(self.now, &answer);
                    }
                }
                Output::Search(_) => {
                    self.sent.push((at, "search"));
                    if self.router.igd {
                        let answer = b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://192.168.1.1:5000/d.xml\r\n\r\n";
                        let from = SocketAddr::new(GATEWAY.into(), 1900);
                        self.mapper.handle_search_answer(self.now, from, answer);
                    }
                }
                Output::Http(request) => {
                    self.sent.push((at, "http"));
                    let answer = self.router.http(self.now, &request);
                    self.mapper.handle_http(self.now, request.id, answer);
                }
            }
        }
    }

    /// Lets time pass, timer by timer.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            let Some(at) = self.mapper.poll_timeout().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.mapper.handle_timeout(self.now);
            self.exchange();
        }
        panic!("it spins: {:?}", self.mapper);
    }

    fn seconds(&mut self, seconds: u64) {
        self.run(Duration::from_secs(seconds));
    }

    fn protocol(&self) -> Option<Protocol> {
        self.mapper.lease().map(|it| it.protocol)
    }

    fn external(&self) -> Option<SocketAddrV4> {
        self.mapper.lease().map(|it| it.external)
    }

    /// Returns whether the router really has the mapping now.
    fn is_mapped(&self) -> bool {
        let until = |it: &Mapping| it.1 > self.router.clock(self.now);
        let entry = self
            .external()
            .and_then(|it| self.router.mappings.get(&it.port()));
        entry.is_some_and(|it| it.0 == PORT && until(it))
    }

    fn count(&self, name: &str) -> usize {
        self.sent.iter().filter(|(_, it)| *it == name).count()
    }

    fn times(&self, name: &str) -> Vec<u128> {
        let times = self.sent.iter().filter(|(_, it)| *it == name);
        times.map(|(at, _)| *at).collect()
    }

    fn reboot(&mut self) {
        self.router.booted = self.now;
        self.router.mappings.clear();
    }
}

impl Router {
    fn clock(&self, now: Instant) -> u64 {
        (now - self.booted).as_secs()
    }

    fn map(&mut self, now: Instant, wish: u16, port: u16, lifetime: u32) -> (u16, u32) {
        let lifetime = lifetime.min(self.max_lifetime);
        self.mappings.retain(|_, (other, _)| *other != port);
        let mut external = if wish == 0 { port } else { wish };
        while self.taken.contains(&external) {
            external += 1;
        }
        if lifetime > 0 {
            let until = self.clock(now) + u64::from(lifetime);
            self.mappings.insert(external, (port, until));
        }
        (external, lifetime)
    }

    fn datagram(&mut self, now: Instant, data: &[u8]) -> Option<Vec<u8>> {
        let epoch = self.clock(now) as u32;
        if data[0] == 0 {
            return self.nat_pmp.then(|| self.nat_pmp(now, epoch, data));
        }
        let mut response = pcp::Response {
            result: pcp::ResultCode::SUCCESS,
            lifetime: 0,
            epoch,
            body: pcp::Body::Announce,
        };
        match self.pcp {
            Pcp::Silent => return None,
            Pcp::WrongVersion => {
                return Some([&[0, 128 + data[1], 0, 1][..], &epoch.to_be_bytes()].concat());
            }
            Pcp::Refuses(code) => response.result = pcp::ResultCode(code),
            Pcp::Grants => {}
        }
        if let Some(request) = pcp_server::decode_request(data) {
            assert_eq!(request.client, OWN);
            let mut external = request.suggested;
            if response.result == pcp::ResultCode::SUCCESS {
                let wish = request.suggested.port();
                let (port, lifetime) = self.map(now, wish, request.internal_port, request.lifetime);
                external = SocketAddrV4::new(self.external, port);
                response.lifetime = lifetime;
            }
            response.body = pcp::Body::Map(pcp::Mapping {
                nonce: request.nonce,
                internal_port: request.internal_port,
                external: Some(external),
            });
        }
        Some(pcp_server::encode(&response))
    }

    fn nat_pmp(&mut self, now: Instant, epoch: u32, data: &[u8]) -> Vec<u8> {
        let epoch = epoch.to_be_bytes();
        if data == nat_pmp::ADDRESS_REQUEST {
            return [&[0, 128, 0, 0][..], &epoch, &self.external.octets()].concat();
        }
        let be16 = |at: usize| u16::from_be_bytes([data[at], data[at + 1]]);
        let lifetime = u32::from_be_bytes([data[8], data[9], data[10], data[11]]);
        let (port, lifetime) = self.map(now, be16(6), be16(4), lifetime);
        [
            &[0, 129, 0, 0][..],
            &epoch,
            &data[4..6],
            &port.to_be_bytes(),
            &lifetime.to_be_bytes(),
        ]
        .concat()
    }

    fn http(&mut self, now: Instant, request: &HttpRequest) -> Result<(u16, String), String> {
        if !self.igd {
            return Err("connection refused".to_owned());
        }
        let Some((header, body)) = &request.action else {
            return Ok((200, igd_server::description(SERVICE, "/ctl", "")));
        };
        assert_eq!(request.url, "http://192.168.1.1:5000/ctl");
        let value = |name: &str| {
            let rest = body.split_once(&format!("<{name}>"))?.1;
            rest.split_once('<')?.0.parse::<u32>().ok()
        };
        let external = value("NewExternalPort").unwrap_or_default() as u16;
        let is_taken = self.taken.contains(&external);
        let fault = |code| Ok((500, igd_server::fault(code)));
        let done = |name: &str, values: &str| Ok((200, igd_server::success(name, values)));
        let name = header.trim_matches('"').rsplit_once('#').unwrap().1;
        match name {
            "GetSpecificPortMappingEntry" if is_taken && self.tells_entries => done(
                name,
                "<NewInternalPort>7777</NewInternalPort><NewInternalClient>192.168.1.99</NewInternalClient>",
            ),
            "GetSpecificPortMappingEntry" => fault(714),
            "AddPortMapping" => {
                let lifetime = value("NewLeaseDuration").unwrap();
                if lifetime > 0 && !self.leases {
                    return fault(725);
                }
                self.asked.push(external);
                if is_taken {
                    return fault(718);
                }
                let lifetime = if lifetime == 0 { u32::MAX } else { lifetime };
                let port = value("NewInternalPort").unwrap() as u16;
                self.max_lifetime = u32::MAX;
                self.map(now, external, port, lifetime);
                done(name, "")
            }
            "DeletePortMapping" => match self.mappings.remove(&external) {
                Some(_) => done(name, ""),
                None => fault(714),
            },
            "GetExternalIPAddress" => done(
                name,
                &format!(
                    "<NewExternalIPAddress>{}</NewExternalIPAddress>",
                    self.external
                ),
            ),
            other => panic!("{other}"),
        }
    }
}

/// A router of each protocol.
const KINDS: [fn(&mut Router); 3] = [
    |it| it.pcp = Pcp::Grants,
    |it| it.nat_pmp = true,
    |it| it.igd = true,
];

#[test]
fn each_kind_of_router_grants_a_port_and_gets_it_back() {
    type Kind = (fn(&mut Router), Protocol, u64);
    let kinds: [Kind; 6] = [
        (|it| it.pcp = Pcp::Grants, Protocol::Pcp, 0),
        (
            |it| (it.pcp, it.nat_pmp, it.igd) = (Pcp::Grants, true, true),
            Protocol::Pcp,
            0,
        ),
        (
            |it| (it.pcp, it.nat_pmp) = (Pcp::WrongVersion, true),
            Protocol::NatPmp,
            0,
        ),
        (|it| it.nat_pmp = true, Protocol::NatPmp, 500),
        (|it| it.igd = true, Protocol::UpnpIgd, 1000),
        (
            |it| (it.pcp, it.igd) = (Pcp::Refuses(2), true),
            Protocol::UpnpIgd,
            1000,
        ),
    ];
    for (kind, protocol, millis) in kinds {
        let mut bench = Bench::new(kind);
        bench.run(Duration::from_millis(millis));
        assert_eq!(bench.protocol(), Some(protocol));
        assert_eq!(bench.external(), Some(SocketAddrV4::new(EXTERNAL, PORT)));
        assert!(bench.is_mapped());
        assert!(!bench.mapper.lease().unwrap().is_behind_another_nat());
        let status = bench.mapper.status();
        assert_eq!(status.findings[protocol as usize], Finding::Granted);
        assert!(status.expires.is_some_and(|at| at > bench.now));
        bench.mapper.give_back(bench.now);
        bench.exchange();
        assert!(bench.mapper.is_idle(), "{protocol}");
        assert_eq!(bench.router.mappings, BTreeMap::new(), "{protocol}");
        assert_eq!(bench.mapper.poll_timeout(), None);
    }
}

#[test]
fn a_lease_never_runs_out_while_the_daemon_runs() {
    for lifetime in [10, 120, 7200] {
        for kind in KINDS {
            let mut bench = Bench::new(|it| {
                kind(it);
                it.max_lifetime = lifetime;
            });
            bench.seconds(2);
            for _ in 0..3 * lifetime {
                bench.seconds(1);
                assert!(bench.is_mapped(), "{lifetime} s");
            }
        }
    }
}

#[test]
fn a_lease_of_a_second_does_not_come_and_go() {
    let mut bench = Bench::new(|it| (it.pcp, it.max_lifetime) = (Pcp::Grants, 1));
    bench.seconds(1);
    for second in 0..300 {
        bench.seconds(1);
        assert!(bench.mapper.lease().is_some(), "after {second} s");
    }
    assert!(bench.count("pcp") < 90, "{}", bench.count("pcp"));
}

#[test]
fn a_router_without_any_service_is_asked_a_few_times_and_then_left_alone() {
    let mut bench = Bench::new(|_| {});
    bench.seconds(30);
    assert_eq!(
        bench.mapper.status().findings,
        [Finding::Silent, Finding::Silent, Finding::Silent]
    );
    assert_eq!(
        (
            bench.count("pcp"),
            bench.count("nat-pmp"),
            bench.count("search")
        ),
        (3, 5, 3)
    );
    // RFC 6887 section 8.1.1 and RFC 6886 section 3.1, each a tenth more or less.
    let near = |times: Vec<u128>, expected: &[u128]| {
        assert_eq!(times.len(), expected.len());
        for (time, expected) in times.iter().zip(expected) {
            assert!(time.abs_diff(*expected) <= expected / 10, "{times:?}");
        }
    };
    near(bench.times("pcp"), &[0, 3000, 9000]);
    near(bench.times("nat-pmp"), &[500, 750, 1250, 2250, 4250]);
    // A day costs no more than this.
    bench.seconds(86_400);
    assert!(bench.sent.len() < 1600, "{}", bench.sent.len());
    // When a service appears, it is found.
    bench.router.pcp = Pcp::Grants;
    bench.seconds(1200);
    assert!(bench.is_mapped());
}

#[test]
fn where_nobody_listens_nothing_is_repeated() {
    let mut bench = Bench::new(|_| {});
    bench.mapper.handle_nobody_there(bench.now);
    bench.exchange();
    bench.seconds(10);
    assert_eq!((bench.count("pcp"), bench.count("nat-pmp")), (1, 0));
    assert_eq!(bench.mapper.status().findings[0], Finding::Silent);
}

#[test]
fn a_router_that_restarted_is_asked_again() {
    let kinds: [fn(&mut Router); 2] = [|it| it.pcp = Pcp::Grants, |it| it.nat_pmp = true];
    for kind in kinds {
        // Without a trigger, within the interval between two epoch checks.
        let mut bench = Bench::new(kind);
        bench.seconds(10);
        bench.reboot();
        assert!(!bench.is_mapped());
        bench.seconds(70);
        assert!(bench.is_mapped());
        // At once after the loss of a path.
        bench.reboot();
        bench.mapper.handle_path_loss(bench.now);
        bench.seconds(1);
        assert!(bench.is_mapped());
        // Even if the router is slow to come back.
        let (pcp, nat_pmp) = (bench.router.pcp, bench.router.nat_pmp);
        (bench.router.pcp, bench.router.nat_pmp) = (Pcp::Silent, false);
        bench.reboot();
        bench.mapper.handle_path_loss(bench.now);
        bench.seconds(15);
        (bench.router.pcp, bench.router.nat_pmp) = (pcp, nat_pmp);
        bench.reboot();
        bench.seconds(24);
        assert!(bench.is_mapped());
    }
    let mut bench = Bench::new(|it| it.igd = true);
    bench.seconds(10);
    bench.reboot();
    bench.mapper.handle_path_loss(bench.now);
    bench.seconds(1);
    assert!(bench.is_mapped());
}

#[test]
fn path_losses_without_end_are_no_flood() {
    for kind in [Pcp::Grants, Pcp::Silent] {
        let mut bench = Bench::new(|it| (it.pcp, it.igd) = (kind, true));
        bench.seconds(10);
        let before = bench.sent.len();
        for _ in 0..100 {
            bench.mapper.handle_path_loss(bench.now);
            bench.run(Duration::from_millis(100));
        }
        let sent = bench.sent.len() - before;
        assert!(sent <= 120, "{sent} in 10 s");
    }
}

#[test]
fn a_new_external_address_is_noticed() {
    for kind in KINDS {
        let mut bench = Bench::new(kind);
        bench.seconds(10);
        let other = Ipv4Addr::new(198, 51, 100, 7);
        bench.router.external = other;
        bench.reboot();
        bench.mapper.handle_path_loss(bench.now);
        bench.seconds(2);
        assert_eq!(bench.external(), Some(SocketAddrV4::new(other, PORT)));
    }
}

#[test]
fn a_router_behind_another_nat_is_told() {
    for (ip, behind) in [
        (Ipv4Addr::new(10, 0, 0, 5), true),
        (Ipv4Addr::new(100, 64, 1, 1), true),
        (Ipv4Addr::new(100, 128, 1, 1), false),
        (EXTERNAL, false),
    ] {
        let bench = Bench::new(|it| (it.pcp, it.external) = (Pcp::Grants, ip));
        let lease = bench.mapper.lease().unwrap();
        assert_eq!(lease.is_behind_another_nat(), behind, "{ip}");
    }
}

#[test]
fn a_port_of_another_host_is_left_to_it() {
    for change in [
        |it: &mut Router| it.pcp = Pcp::Grants,
        |it: &mut Router| it.igd = true,
        |it: &mut Router| (it.igd, it.tells_entries) = (true, false),
    ] {
        let mut bench = Bench::new(|it| {
            change(it);
            it.taken = vec![PORT];
        });
        bench.seconds(2);
        assert!(bench.is_mapped());
        assert_ne!(bench.external().map(|it| it.port()), Some(PORT));
    }
}

#[test]
fn a_gateway_whose_ports_all_belong_to_others_is_asked_for_five() {
    let mut bench = Bench::new(|it| {
        (it.igd, it.tells_entries) = (true, false);
        it.taken = (0..=u16::MAX).collect();
    });
    bench.seconds(2);
    assert_eq!(bench.external(), None);
    assert_eq!(bench.router.asked.len(), 5, "{:?}", bench.router.asked);
    assert_eq!(bench.router.asked[0], PORT);
    let finding = &bench.mapper.status().findings[Protocol::UpnpIgd as usize];
    let said = finding.to_string();
    assert!(said.contains("another host has this port"), "{said}");
}

#[test]
fn a_router_that_knows_no_leases_gives_the_port_for_ever_and_gets_it_back() {
    let mut bench = Bench::new(|it| (it.igd, it.leases) = (true, false));
    bench.seconds(2);
    assert!(bench.is_mapped());
    assert_eq!(bench.mapper.status().expires, None);
    bench.seconds(86_400);
    assert!(bench.is_mapped());
    bench.mapper.give_back(bench.now);
    bench.exchange();
    assert!(bench.router.mappings.is_empty());
}

#[test]
fn every_refusal_is_told_in_words() {
    let mut bench = Bench::new(|it| it.pcp = Pcp::Refuses(8));
    bench.seconds(20);
    let findings = bench.mapper.status().findings;
    assert_eq!(findings[0].to_string(), "refused: NO_RESOURCES");
    assert_eq!(findings[1..], [Finding::Silent, Finding::Silent]);
    assert_eq!(bench.mapper.lease(), None);
}

#[test]
fn a_lease_that_the_router_takes_back_is_asked_for_again() {
    let mut bench = Bench::new(|it| (it.pcp, it.max_lifetime, it.igd) = (Pcp::Grants, 60, true));
    bench.seconds(1);
    bench.router.pcp = Pcp::Refuses(2);
    bench.seconds(60);
    assert_eq!(bench.protocol(), Some(Protocol::UpnpIgd));
    // A router that falls silent.
    let mut bench = Bench::new(|it| (it.pcp, it.max_lifetime) = (Pcp::Grants, 120));
    bench.router.pcp = Pcp::Silent;
    bench.seconds(121);
    assert_eq!(bench.mapper.lease(), None);
    bench.router.pcp = Pcp::Grants;
    bench.seconds(90);
    assert!(bench.is_mapped());
}

#[test]
fn a_restart_asks_for_the_same_port_with_the_same_nonce() {
    let mut bench = Bench::new(|it| (it.pcp, it.taken) = (Pcp::Grants, vec![PORT]));
    let lease = bench.mapper.lease().unwrap().clone();
    bench.router.taken.clear();
    bench.mapper = PortMapper::new(PORT, Some(lease.clone()), [8; 32]);
    let network = Some(lease.network);
    bench.mapper.handle_network(bench.now, network);
    bench.exchange();
    assert_eq!(bench.mapper.lease(), Some(&lease));
    // Another router must not learn the nonce.
    let elsewhere = Network::behind(Ipv4Addr::new(10, 0, 0, 1), OWN);
    bench.mapper.handle_network(bench.now, elsewhere);
    bench.exchange();
    let other = bench.mapper.lease().unwrap();
    assert_ne!(other.nonce, lease.nonce);
    // And a lease of another data port is of no use.
    let mapper = PortMapper::new(PORT + 1, Some(lease.clone()), [9; 32]);
    assert_ne!(mapper.nonce, lease.nonce);
}

#[test]
fn a_lease_is_given_back_without_the_daemon_that_got_it() {
    for kind in KINDS {
        let mut bench = Bench::new(kind);
        bench.seconds(2);
        let text = serde_json::to_string(bench.mapper.lease().unwrap()).unwrap();
        let lease: Lease = serde_json::from_str(&text).unwrap();
        bench.mapper = PortMapper::returning(bench.now, lease.clone(), [9; 32]);
        bench.exchange();
        assert!(bench.router.mappings.is_empty());
        assert!(bench.mapper.is_idle());
        // A router that is gone is not waited for.
        (bench.router.pcp, bench.router.nat_pmp, bench.router.igd) = (Pcp::Silent, false, false);
        bench.mapper = PortMapper::returning(bench.now, lease, [9; 32]);
        bench.exchange();
        bench.run(Duration::from_millis(1200));
        assert!(bench.mapper.is_idle());
    }
}

#[test]
fn without_a_network_and_with_a_public_address_nothing_is_asked() {
    assert_eq!(
        Network::behind(EXTERNAL, Ipv4Addr::new(203, 0, 113, 77)),
        None
    );
    let mut bench = Bench::new(|it| it.pcp = Pcp::Grants);
    let lease = bench.mapper.lease().cloned();
    bench.mapper.handle_network(bench.now, None);
    assert_eq!(
        (bench.mapper.lease(), bench.mapper.poll_timeout()),
        (None, None)
    );
    assert_eq!(bench.mapper.status(), Status::default());
    // The cable is back.
    bench
        .mapper
        .handle_network(bench.now, Network::behind(GATEWAY, OWN));
    bench.exchange();
    assert_eq!(bench.mapper.lease().cloned(), lease);
    // Reporting an unchanged network changes nothing.
    let sent = bench.sent.len();
    bench
        .mapper
        .handle_network(bench.now, Network::behind(GATEWAY, OWN));
    bench.exchange();
    assert_eq!(bench.sent.len(), sent);
}

#[test]
fn answers_that_were_not_asked_for_change_nothing() {
    let mut bench = Bench::new(|it| it.pcp = Pcp::Grants);
    let lease = bench.mapper.lease().cloned();
    let forged = |nonce, internal_port| {
        pcp_server::encode(&pcp::Response {
            result: pcp::ResultCode::SUCCESS,
            lifetime: 60,
            epoch: 1010,
            body: pcp::Body::Map(pcp::Mapping {
                nonce,
                internal_port,
                external: Some(SocketAddrV4::new(EXTERNAL, 1)),
            }),
        })
    };
    let nonce = lease.as_ref().unwrap().nonce;
    for data in [
        forged([9; 12], PORT),
        forged(nonce, 1),
        vec![],
        vec![0, 129, 0, 2],
    ] {
        bench.mapper.handle_router(bench.now, &data);
        bench.exchange();
        assert_eq!(bench.mapper.lease().cloned(), lease);
    }
    // A device of the LAN that is not the gateway.
    let mut bench = Bench::new(|_| {});
    let answer = b"HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nLOCATION: http://192.168.1.66/\r\n\r\n";
    for from in ["192.168.1.66:1900", "192.168.1.1:1900"] {
        let from = from.parse().unwrap();
        bench.mapper.handle_search_answer(bench.now, from, answer);
    }
    bench.seconds(20);
    assert_eq!(bench.count("http"), 0);
}
