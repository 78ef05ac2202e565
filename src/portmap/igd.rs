//! The session with a UPnP gateway, one request after the other: its description, whether the port is free, the mapping, the
//! external address.

use std::net::SocketAddrV4;

use super::Network;
use super::schedule::IGD_LIFETIME;
use super::upnp::{self, Action, Control, Done, Fault, UpnpError};

/// Other ports that are tried when one belongs to another host.
const PORT_TRIES: u32 = 4;

/// A request to the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// To be handed back with the answer.
    pub id: u64,
    /// The URL of the request; always at the gateway.
    pub url: String,
    /// For a POST: the header `SOAPAction` and the body. Without it, a GET.
    pub action: Option<(String, String)>,
}

/// The step of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Entry,
    Add,
    Address,
}

/// A session under way.
#[derive(Debug)]
pub(super) struct Session {
    network: Network,
    port: u16,
    location: String,
    /// `None` until the description was read.
    control: Option<Control>,
    step: Step,
    external_port: u16,
    lifetime: u32,
    tries: u32,
}

/// The next thing to do.
#[derive(Debug)]
pub(super) enum Next {
    /// This request.
    Ask(String, Option<(String, String)>),
    /// The port is mapped, for so many seconds; 0 is for ever.
    Granted(SocketAddrV4, Control, u32),
    /// It is not.
    Failed(String),
}

impl Session {
    /// Begins a session about `port` of this host, with the gateway whose description is at `location`.
    pub(super) fn begin(
        network: Network,
        port: u16,
        suggested: u16,
        location: String,
    ) -> (Self, Next) {
        let session = Session {
            network,
            port,
            location,
            control: None,
            step: Step::Entry,
            external_port: suggested,
            lifetime: IGD_LIFETIME,
            tries: 0,
        };
        let first = Next::Ask(session.location.clone(), None);
        (session, first)
    }

    /// With a gateway that is known, about a mapping that it granted for `lifetime` seconds.
    pub(super) fn renew(
        network: Network,
        port: u16,
        external_port: u16,
        lifetime: u32,
        control: Control,
    ) -> (Self, Next) {
        let session = Session {
            network,
            port,
            location: String::new(),
            control: Some(control.clone()),
            step: Step::Add,
            external_port,
            lifetime,
            tries: PORT_TRIES,
        };
        let first = request(&control, session.action());
        (session, first)
    }

    /// The answer to the latest request. `random` chooses another port where one is needed.
    pub(super) fn answer(&mut self, status: u16, body: &str, random: u32) -> Next {
        let Some(control) = self.control.clone() else {
            return match Control::find(body, &self.location, self.network.gateway) {
                Ok(control) => {
                    self.control = Some(control.clone());
                    self.ask(&control, Step::Entry)
                }
                Err(error) => Next::Failed(error.to_string()),
            };
        };
        match (self.step, upnp::answer(status, body)) {
            // Some routers let anyone overwrite a mapping, so another host's is asked for first.
            (Step::Entry, Ok(Done { client, .. }))
                if client != Some((self.network.own, self.port)) =>
            {
                self.another_port(&control, random)
            }
            // "No such entry" means that the port is free; any other refusal, that the router does not tell.
            (Step::Entry, _) => self.ask(&control, Step::Add),
            (Step::Add, Ok(_)) => self.ask(&control, Step::Address),
            (Step::Add, Err(UpnpError::Refused(Fault::ONLY_PERMANENT))) if self.lifetime != 0 => {
                self.lifetime = 0;
                self.ask(&control, Step::Add)
            }
            (Step::Add, Err(UpnpError::Refused(Fault::CONFLICT))) => {
                self.another_port(&control, random)
            }
            (Step::Address, Ok(Done { external, .. })) => match external {
                Some(ip) if !ip.is_unspecified() => {
                    let external = SocketAddrV4::new(ip, self.external_port);
                    Next::Granted(external, control, self.lifetime)
                }
                _ => Next::Failed("the router has no external address".to_owned()),
            },
            (_, Err(error)) => Next::Failed(error.to_string()),
        }
    }

    fn another_port(&mut self, control: &Control, random: u32) -> Next {
        if self.tries >= PORT_TRIES {
            return Next::Failed(Fault::CONFLICT.to_string());
        }
        self.tries += 1;
        // Above the well-known ports.
        self.external_port = 1024 + (random % (65_536 - 1024)) as u16;
        self.ask(control, Step::Entry)
    }

    fn ask(&mut self, control: &Control, step: Step) -> Next {
        self.step = step;
        request(control, self.action())
    }

    fn action(&self) -> Action {
        let external_port = self.external_port;
        match self.step {
            Step::Entry => Action::Entry { external_port },
            Step::Add => Action::Add {
                external_port,
                client: self.network.own,
                internal_port: self.port,
                lifetime: self.lifetime,
            },
            Step::Address => Action::Address,
        }
    }
}

/// One action as a request.
pub(super) fn request(control: &Control, action: Action) -> Next {
    let service = &control.service;
    Next::Ask(
        control.url.clone(),
        Some((action.header(service), action.body(service))),
    )
}
