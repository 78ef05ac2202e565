//! UPnP Internet Gateway Devices, as far as one UDP port needs them. The messages are the search for a device (SSDP, UPnP Device
//! Architecture 1.1 section 1.3), its description, and four actions of its WANIPConnection or WANPPPConnection service (SOAP).
//!
//! Text of the router is untrusted: its length is bounded, and its URLs are never followed to another host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use roxmltree::{Document, Node};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

/// The multicast address and port on which UPnP devices listen for searches.
pub const SSDP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250)), 1900);

/// The longest description or answer that is read, bytes; those of routers have a few thousand.
pub const MAX_BODY: usize = 256 * 1024;

/// The device type in a search. A device of version 2 answers to version 1 as well.
const GATEWAY: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:";

/// The services that map ports, the better one first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// The search. `MX`: a device answers within a random part of this many seconds when it was asked by multicast; at once when
/// it alone was asked.
pub fn search() -> Vec<u8> {
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: {SSDP}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {GATEWAY}1\r\n\r\n"
    )
    .into_bytes()
}

/// The URL of the description, when this is a gateway's answer to a [`search`].
pub fn search_answer(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if !text.starts_with("HTTP/1.1 200") {
        return None;
    }
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            let is_it = key.trim().eq_ignore_ascii_case(name);
            is_it.then(|| value.trim().to_owned())
        })
    };
    value("st")?
        .starts_with(GATEWAY)
        .then(|| value("location"))?
}

/// Returns whether this URL leads to the gateway and nowhere else: a device of the LAN must not make this host send requests to
/// others.
pub fn is_at(url: &str, gateway: Ipv4Addr) -> bool {
    Url::parse(url)
        .is_ok_and(|it| it.scheme() == "http" && it.host() == Some(url::Host::Ipv4(gateway)))
}

/// The URL and type by which a service takes its actions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The URL.
    pub url: String,
    /// The service's type.
    pub service: String,
}

impl Control {
    /// Finds the service in a description that was read from `location`.
    ///
    /// # Errors
    /// When it is no XML, describes no such service, or leads to another host than `gateway`.
    pub fn find(xml: &str, location: &str, gateway: Ipv4Addr) -> Result<Control, UpnpError> {
        let document = parse(xml)?;
        let root = document.root_element();
        let control_url = |kind: &str| {
            let mut services = root.descendants().filter(|it| is(*it, "service"));
            let service = services.find(|it| text(*it, "serviceType") == Some(kind))?;
            text(service, "controlURL")
        };
        let found = SERVICES
            .iter()
            .find_map(|kind| Some((kind, control_url(kind)?)));
        let (service, url) = found.ok_or(UpnpError::NoService)?;
        // URLBase is of version 1.0; later devices mean the description's own URL.
        let base = root
            .children()
            .find(|it| is(*it, "URLBase"))
            .and_then(|it| it.text());
        let url = Url::parse(base.map_or(location, str::trim))
            .and_then(|base| base.join(url))
            .map_err(|_| UpnpError::Url(url.to_owned()))?;
        if !is_at(url.as_str(), gateway) {
            return Err(UpnpError::Url(url.into()));
        }
        Ok(Control {
            url: url.into(),
            service: (*service).to_owned(),
        })
    }
}

/// A request to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for the owner of this external UDP port.
    Entry {
        /// The external port.
        external_port: u16,
    },
    /// Map a UDP port, or renew the mapping.
    Add {
        /// The external port.
        external_port: u16,
        /// This host.
        client: Ipv4Addr,
        /// Its port.
        internal_port: u16,
        /// For how long, seconds; 0 is for ever.
        lifetime: u32,
    },
    /// Give the mapping back.
    Delete {
        /// The external port.
        external_port: u16,
    },
    /// The router's external address.
    Address,
}

impl Action {
    /// Its name in the service's description.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Entry { .. } => "GetSpecificPortMappingEntry",
            Action::Add { .. } => "AddPortMapping",
            Action::Delete { .. } => "DeletePortMapping",
            Action::Address => "GetExternalIPAddress",
        }
    }

    /// The value of the `SOAPAction` header.
    pub fn header(&self, service: &str) -> String {
        format!("\"{service}#{}\"", self.name())
    }

    /// The request's body. All values are numbers, addresses or constants, so that nothing needs to be escaped.
    pub fn body(&self, service: &str) -> String {
        let port = |external: u16| {
            format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{external}</NewExternalPort><NewProtocol>UDP</NewProtocol>"
            )
        };
        let arguments = match self {
            Action::Entry { external_port } | Action::Delete { external_port } => {
                port(*external_port)
            }
            Action::Add {
                external_port,
                client,
                internal_port,
                lifetime,
            } => format!(
                "{}<NewInternalPort>{internal_port}</NewInternalPort><NewInternalClient>{client}</NewInternalClient>\
                 <NewEnabled>1</NewEnabled><NewPortMappingDescription>gretun</NewPortMappingDescription>\
                 <NewLeaseDuration>{lifetime}</NewLeaseDuration>",
                port(*external_port)
            ),
            Action::Address => String::new(),
        };
        let name = self.name();
        format!(
            "<?xml version=\"1.0\"?>\r\n\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\">\
             <s:Body><u:{name} xmlns:u=\"{service}\">{arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        )
    }
}

/// The answer of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The external address that answers [`Action::Address`], if the router knows one.
    pub external: Option<Ipv4Addr>,
    /// The host and port that answer [`Action::Entry`].
    pub client: Option<(Ipv4Addr, u16)>,
}

/// Reads the answer to an action.
///
/// # Errors
/// When the bytes are a refusal, or no answer.
pub fn answer(status: u16, body: &str) -> Result<Done, UpnpError> {
    let document = parse(body).map_err(|error| match status {
        200 => error,
        other => UpnpError::Http(other),
    })?;
    let root = document.root_element();
    let value = |name: &str| {
        let found = root.descendants().find(|it| is(*it, name))?;
        found.text().map(str::trim)
    };
    if let Some(code) = value("errorCode") {
        return Err(UpnpError::Refused(Fault(code.parse().unwrap_or_default())));
    }
    if status != 200 {
        return Err(UpnpError::Http(status));
    }
    let client = || {
        let ip = value("NewInternalClient")?.parse().ok()?;
        Some((ip, value("NewInternalPort")?.parse().ok()?))
    };
    Ok(Done {
        external: value("NewExternalIPAddress").and_then(|it| it.parse().ok()),
        client: client(),
    })
}

fn parse(xml: &str) -> Result<Document<'_>, UpnpError> {
    // The parser's defaults refuse document type definitions, so that no entity can grow.
    Document::parse(xml.trim()).map_err(|error| UpnpError::Xml(error.to_string()))
}

fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.tag_name().name() == name
}

fn text<'a>(parent: Node<'a, '_>, name: &str) -> Option<&'a str> {
    let child = parent.children().find(|it| is(*it, name))?;
    child.text().map(str::trim)
}

/// A refusal's number (UPnP WANIPConnection:1 section 2.4.16.3, UPnP Device Architecture section 3.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault(pub u16);

impl Fault {
    /// Another host has this port.
    pub const CONFLICT: Fault = Fault(718);
    /// The router knows no leases: mappings are for ever.
    pub const ONLY_PERMANENT: Fault = Fault(725);
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            401 => "invalid action",
            402 => "invalid arguments",
            501 => "action failed",
            606 => "action not authorized",
            714 => "no such entry",
            718 => "another host has this port",
            724 => "external and internal port must be the same",
            725 => "only permanent leases",
            728 => "no port maps available",
            _ => return write!(f, "error {}", self.0),
        };
        write!(f, "{name} ({})", self.0)
    }
}

/// The reason why a router cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UpnpError {
    /// It answers by something else than XML.
    #[error("no XML: {0}")]
    Xml(String),
    /// Its description has no service that maps ports.
    #[error("its description names no WANIPConnection or WANPPPConnection service")]
    NoService,
    /// It points elsewhere.
    #[error("its URL {0} does not lead to the gateway")]
    Url(String),
    /// It refuses.
    #[error("{0}")]
    Refused(Fault),
    /// It fails without saying why.
    #[error("HTTP status {0}")]
    Http(u16),
}

#[cfg(test)]
#[path = "upnp_tests.rs"]
pub(in crate::portmap) mod tests;
