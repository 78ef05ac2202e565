use proptest::prelude::*;

use super::*;

const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
const LOCATION: &str = "http://192.168.1.1:5000/rootDesc.xml";

/// A description with the nesting that the IGD standard gives: the service is in a device of a device.
pub fn description(service: &str, control_url: &str, base: &str) -> String {
    format!(
        r#"<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><specVersion><major>1</major><minor>0</minor></specVersion>{base}
<device><deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<serviceList><service><serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType>
<controlURL>/ctl/L3F</controlURL></service></serviceList>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANDevice:1</deviceType>
<deviceList><device><deviceType>urn:schemas-upnp-org:device:WANConnectionDevice:1</deviceType>
<serviceList><service><serviceType>{service}</serviceType><serviceId>x</serviceId>
<SCPDURL>/WANIPCn.xml</SCPDURL><controlURL> {control_url} </controlURL></service></serviceList>
</device></deviceList></device></deviceList></device></root>"#
    )
}

pub fn fault(code: u16) -> String {
    format!(
        r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Client</faultcode>
<faultstring>UPnPError</faultstring><detail><UPnPError xmlns="urn:schemas-upnp-org:control-1-0"><errorCode>{code}</errorCode>
<errorDescription>x</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>"#
    )
}

pub fn success(name: &str, values: &str) -> String {
    format!(
        r#"<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:{name}Response
xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1">{values}</u:{name}Response></s:Body></s:Envelope>"#
    )
}

fn find(xml: &str) -> Result<Control, UpnpError> {
    Control::find(xml, LOCATION, GATEWAY_IP)
}

#[test]
fn a_gateway_tells_where_its_description_is() {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {GATEWAY}1\r\nLocation: {LOCATION}\r\n\r\n"
    );
    assert_eq!(search_answer(answer.as_bytes()).unwrap(), LOCATION);
    assert_eq!(
        search_answer(answer.replace(GATEWAY, "printer").as_bytes()),
        None
    );
    assert_eq!(
        search_answer(b"HTTP/1.1 200 OK\r\nLocation: x\r\n\r\n"),
        None
    );
    assert_eq!(search_answer(answer.replace("200", "404").as_bytes()), None);
    assert_eq!(search_answer(&search()), None);
}

#[test]
fn the_service_is_found_wherever_it_is_nested() {
    for service in SERVICES {
        for (url, base) in [
            ("/ctl/IPConn", ""),
            ("ctl/IPConn", ""),
            ("http://192.168.1.1:5000/ctl/IPConn", ""),
            ("ctl/IPConn", "<URLBase>http://192.168.1.1:5000/</URLBase>"),
        ] {
            let control = find(&description(service, url, base)).unwrap();
            assert_eq!(control.url, "http://192.168.1.1:5000/ctl/IPConn");
            assert_eq!(control.service, service);
        }
    }
}

#[test]
fn no_description_leads_to_another_host() {
    let service = SERVICES[1];
    for (url, base) in [
        ("http://192.168.1.9/ctl", ""),
        ("//203.0.113.1/ctl", ""),
        ("https://192.168.1.1/ctl", ""),
        ("ctl", "<URLBase>http://router.example/</URLBase>"),
        ("ctl", "<URLBase>nonsense</URLBase>"),
    ] {
        let found = find(&description(service, url, base));
        assert!(
            matches!(found, Err(UpnpError::Url(_))),
            "{url} {base}: {found:?}"
        );
    }
    assert!(!is_at("http://router/", GATEWAY_IP) && is_at(LOCATION, GATEWAY_IP));
}

#[test]
fn a_description_without_the_service_or_without_sense_is_refused() {
    let other = description("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/x", "");
    assert_eq!(find(&other), Err(UpnpError::NoService));
    assert!(matches!(find("<root"), Err(UpnpError::Xml(_))));
    // A billion laughs: no entities at all.
    let entities =
        r#"<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><root>&b;</root>"#;
    assert!(matches!(find(entities), Err(UpnpError::Xml(_))));
}

#[test]
fn requests_are_xml_with_the_arguments_in_the_order_of_the_standard() {
    let action = Action::Add {
        external_port: 40_000,
        client: Ipv4Addr::new(192, 168, 1, 2),
        internal_port: 7777,
        lifetime: 3600,
    };
    let service = SERVICES[1];
    assert_eq!(
        action.header(service),
        format!("\"{service}#AddPortMapping\"")
    );
    let body = action.body(service);
    let document = Document::parse(&body).unwrap();
    let call = document.descendants().find(|it| is(*it, "AddPortMapping"));
    let call = call.unwrap();
    assert_eq!(call.tag_name().namespace(), Some(service));
    let arguments: Vec<_> = call
        .children()
        .map(|it| (it.tag_name().name(), it.text().unwrap_or_default()))
        .collect();
    let expected = [
        ("NewRemoteHost", ""),
        ("NewExternalPort", "40000"),
        ("NewProtocol", "UDP"),
        ("NewInternalPort", "7777"),
        ("NewInternalClient", "192.168.1.2"),
        ("NewEnabled", "1"),
        ("NewPortMappingDescription", "gretun"),
        ("NewLeaseDuration", "3600"),
    ];
    assert_eq!(arguments, expected);
}

#[test]
fn answers_are_read() {
    let address = success(
        "GetExternalIPAddress",
        "<NewExternalIPAddress>203.0.113.9</NewExternalIPAddress>",
    );
    let done = answer(200, &address).unwrap();
    assert_eq!(done.external, Some(Ipv4Addr::new(203, 0, 113, 9)));
    let entry = success(
        "GetSpecificPortMappingEntry",
        "<NewInternalPort>7777</NewInternalPort><NewInternalClient>192.168.1.2</NewInternalClient>",
    );
    let done = answer(200, &entry).unwrap();
    assert_eq!(done.client, Some((Ipv4Addr::new(192, 168, 1, 2), 7777)));
    // An address that is not known is an empty element.
    let none = success("GetExternalIPAddress", "<NewExternalIPAddress/>");
    assert_eq!(answer(200, &none).unwrap(), Done::default());
    let refused = |code| Err(UpnpError::Refused(Fault(code)));
    assert_eq!(answer(500, &fault(718)), refused(718));
    assert_eq!(answer(200, &fault(725)), refused(725));
    assert_eq!(answer(404, "not found"), Err(UpnpError::Http(404)));
    assert_eq!(answer(500, "<html/>"), Err(UpnpError::Http(500)));
}

proptest! {
    #[test]
    fn no_answer_is_too_strange(bytes: Vec<u8>, text: String, status: u16) {
        let _ = search_answer(&bytes);
        let _ = find(&text);
        let _ = answer(status, &text);
    }
}
