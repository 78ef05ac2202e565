use proptest::prelude::*;

use super::*;

const NONCE: [u8; REQUEST_NONCE_LEN] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const TIME: u64 = 1_700_000_000_123;
const PATH: &str = "/v1/endpoints?a=b";
const BODY: &[u8] = br#"{"endpoints":[]}"#;

fn secret() -> NodeSecret {
    NodeSecret::from_bytes([7; 32])
}

fn signed() -> SignedHeaders {
    sign_request(&secret(), "POST", PATH, BODY, TIME, NONCE)
}

#[test]
fn a_signature_is_that_of_the_documented_text() {
    // Worked out with PyNaCl over the six lines that `sign_request` documents.
    let [node, time, nonce, signature] = signed().pairs();
    assert_eq!(
        node.1,
        "nodekey:ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c"
    );
    assert_eq!(time.1, "1700000000123");
    assert_eq!(nonce.1, "AAECAwQFBgcICQoLDA0ODw");
    assert_eq!(
        signature.1,
        "jNDvPMYMfLq9P39kZE4au6fCp08q9yLBYZ54lZZCOMEDlumq4sCDTa-CE_mM2vWQMvXt23nWn0iy8tKRJX60AA"
    );
}

#[test]
fn a_request_verifies_after_a_trip_through_its_headers() {
    let pairs = signed().pairs();
    let read = SignedHeaders::read(|name| {
        pairs
            .iter()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.as_str())
    });
    assert_eq!(read, Ok(signed()));
    assert_eq!(
        verify_request("POST", PATH, BODY, &signed()),
        Ok(secret().public())
    );
}

#[test]
fn whatever_is_changed_breaks_the_signature() {
    let good = signed();
    let refused = Err(AuthError::BadSignature);
    assert_eq!(verify_request("GET", PATH, BODY, &good), refused);
    assert_eq!(
        verify_request("POST", "/v1/endpoints?a=c", BODY, &good),
        refused
    );
    assert_eq!(
        verify_request("POST", "/v1/endpoints", BODY, &good),
        refused
    );
    assert_eq!(
        verify_request("POST", PATH, br#"{"endpoints":[ ]}"#, &good),
        refused
    );
    assert_eq!(verify_request("POST", PATH, b"", &good), refused);

    let later = SignedHeaders {
        time_ms: TIME + 1,
        ..good.clone()
    };
    assert_eq!(verify_request("POST", PATH, BODY, &later), refused);
    let mut other_nonce = good.clone();
    other_nonce.nonce[15] ^= 1;
    assert_eq!(verify_request("POST", PATH, BODY, &other_nonce), refused);
    let mut damaged = good.clone();
    damaged.signature[0] ^= 1;
    assert_eq!(verify_request("POST", PATH, BODY, &damaged), refused);
    let somebody_else = SignedHeaders {
        node: NodeSecret::from_bytes([8; 32]).public(),
        ..good
    };
    assert_eq!(verify_request("POST", PATH, BODY, &somebody_else), refused);
}

#[test]
fn headers_that_are_missing_or_malformed_are_named() {
    let pairs = signed().pairs();
    for broken in [HEADER_NODE, HEADER_TIME, HEADER_NONCE, HEADER_SIGNATURE] {
        let find = |name| {
            pairs
                .iter()
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1.as_str())
        };
        assert_eq!(
            SignedHeaders::read(|name| find(name).filter(|_| name != broken)),
            Err(AuthError::Missing { name: broken })
        );
        for nonsense in ["", "-1", "AAAA", "nodekey:", "\u{e9}"] {
            assert_eq!(
                SignedHeaders::read(|name| if name == broken {
                    Some(nonsense)
                } else {
                    find(name)
                }),
                Err(AuthError::Malformed { name: broken }),
                "{broken}: {nonsense}"
            );
        }
    }
}

#[test]
fn json_is_as_documented() {
    let record = PeerRecord {
        name: "alice".to_owned(),
        node_key: NodePublic::from_bytes([1; 32]),
        disco_key: DiscoPublic::from_bytes([2; 32]),
        tunnel_ips: vec!["100.64.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        endpoints: vec![
            Endpoint {
                addr: "192.0.2.1:7777".parse().unwrap(),
                kind: EndpointKind::Local,
            },
            Endpoint {
                addr: "[2001:db8::1]:7777".parse().unwrap(),
                kind: EndpointKind::Reflexive,
            },
        ],
        nat_mapping: NatMapping::PortIndependent,
        routes: Vec::new(),
        online: true,
    };
    let json = serde_json::json!({
        "name": "alice",
        "node_key": format!("nodekey:{}", "01".repeat(32)),
        "disco_key": format!("discokey:{}", "02".repeat(32)),
        "tunnel_ips": ["100.64.0.2", "fd00::2"],
        "endpoints": [
            {"addr": "192.0.2.1:7777", "kind": "local"},
            {"addr": "[2001:db8::1]:7777", "kind": "reflexive"},
        ],
        "nat_mapping": "port-independent",
        "online": true,
    });
    assert_eq!(serde_json::to_value(&record).unwrap(), json);
    assert_eq!(serde_json::from_value::<PeerRecord>(json).unwrap(), record);
}

#[test]
fn a_registration_needs_neither_key_nor_endpoints_and_tolerates_news() {
    let json = format!(
        r#"{{"name":"a","disco_key":"discokey:{}","version":"9","later":1}}"#,
        "02".repeat(32)
    );
    let request: RegisterRequest = serde_json::from_str(&json).unwrap();
    assert_eq!((request.auth_key, request.endpoints), (None, vec![]));
}

#[test]
fn an_enrolment_key_is_not_printed() {
    let request = RegisterRequest {
        name: "a".to_owned(),
        disco_key: DiscoPublic::from_bytes([2; 32]),
        endpoints: vec![],
        nat_mapping: NatMapping::Unknown,
        routes: vec![],
        auth_key: Some("hidden".to_owned()),
        version: "1".to_owned(),
    };
    assert!(!format!("{request:?}").contains("hidden"));
    assert!(serde_json::to_string(&request).unwrap().contains("hidden"));
}

#[test]
fn signals_carry_bytes() {
    let to = NodePublic::from_bytes([1; 32]);
    let request = SignalRequest::new(to, &[0, 255, 1]);
    assert_eq!(request.sealed, "AP8B");
    assert_eq!(request.envelope(), Some(vec![0, 255, 1]));
    let signal = Signal {
        from: to,
        sealed: "not base64".to_owned(),
    };
    assert_eq!(signal.envelope(), None);
}

proptest! {
    #[test]
    fn any_request_round_trips(seed: [u8; 32], path in "/[ -~]{0,40}", body: Vec<u8>, time: u64, nonce: [u8; 16]) {
        let secret = NodeSecret::from_bytes(seed);
        let headers = sign_request(&secret, "POST", &path, &body, time, nonce);
        prop_assert_eq!(verify_request("POST", &path, &body, &headers), Ok(secret.public()));
    }

    #[test]
    fn header_noise_never_panics(noise in ".{0,100}") {
        let _ = SignedHeaders::read(|_| Some(&noise));
    }
}
