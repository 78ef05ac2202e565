use proptest::prelude::*;

use super::*;

fn head(text: &str) -> Result<Head, HeadError> {
    parse(text.as_bytes())
}

#[test]
fn a_request_is_read_and_rewritten_without_what_is_not_known() {
    let read = head(
        "POST /v1/signal?x=1 HTTP/1.1\r\nHost: a\r\nX-Gretun-Node: n\r\nCookie: secret\r\ncontent-length: 12\r\n\
         X-Gretun-Client: forged\r\n\r\n",
    )
    .unwrap();
    assert_eq!(
        read,
        Head {
            method: "POST".to_owned(),
            target: "/v1/signal?x=1".to_owned(),
            content_length: 12,
            keep_alive: true,
            expects_continue: false,
            forwarded: vec![(HEADER_NODE, "n".to_owned())],
        }
    );
    assert_eq!(
        read.rewritten(&[("x-gretun-client", "192.0.2.1:5")]),
        "POST /v1/signal?x=1 HTTP/1.1\r\nConnection: close\r\nContent-Length: 12\r\nx-gretun-node: n\r\n\
         x-gretun-client: 192.0.2.1:5\r\n\r\n"
    );
}

#[test]
fn connections_are_kept_as_the_client_says() {
    for (text, kept) in [
        ("GET / HTTP/1.1\r\n\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nConnection: TE, Close\r\n\r\n", false),
    ] {
        assert_eq!(head(text).unwrap().keep_alive, kept, "{text}");
    }
}

#[test]
fn what_could_be_read_two_ways_is_refused() {
    for (fields, error) in [
        (
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            HeadError::Malformed,
        ),
        ("Content-Length: +1\r\n", HeadError::Malformed),
        ("Content-Length: -1\r\n", HeadError::Malformed),
        ("Content-Length: 1, 1\r\n", HeadError::Malformed),
        ("Content-Length:\r\n", HeadError::Malformed),
        ("Transfer-Encoding: chunked\r\n", HeadError::LengthRequired),
        (
            "Transfer-Encoding: identity\r\nContent-Length: 1\r\n",
            HeadError::LengthRequired,
        ),
        (
            "x-gretun-node: a\r\nx-gretun-node: b\r\n",
            HeadError::Malformed,
        ),
        ("x-gretun-node: \u{e9}\r\n", HeadError::Malformed),
        ("x-gretun-node: a\u{0}b\r\n", HeadError::Malformed),
        ("x-gretun-node : a\r\n", HeadError::Malformed),
        (" folded: a\r\n", HeadError::Malformed),
        ("Expect: a pony\r\n", HeadError::Expectation),
    ] {
        assert_eq!(
            head(&format!("POST / HTTP/1.1\r\n{fields}\r\n")),
            Err(error),
            "{fields}"
        );
    }
}

#[test]
fn request_lines_that_are_none_are_refused() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "get / HTTP/1.1",
        "GET http://a/ HTTP/1.1",
        "GET * HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "/ HTTP/1.1",
        "",
    ] {
        assert_eq!(
            head(&format!("{line}\r\n\r\n")),
            Err(HeadError::Malformed),
            "{line}"
        );
    }
    assert_eq!(head("PRI * HTTP/2.0\r\n\r\n"), Err(HeadError::Version));
}

#[test]
fn sizes_are_limited() {
    let target = "x".repeat(MAX_TARGET);
    assert_eq!(
        head(&format!("GET /{target} HTTP/1.1\r\n\r\n")),
        Err(HeadError::TooLarge)
    );
    let fields = "a: b\r\n".repeat(MAX_FIELDS + 1);
    assert_eq!(
        head(&format!("GET / HTTP/1.1\r\n{fields}\r\n")),
        Err(HeadError::TooLarge)
    );
    for (length, expected) in [
        (MAX_BODY.to_string(), Ok(MAX_BODY)),
        ((MAX_BODY + 1).to_string(), Err(HeadError::BodyTooLarge)),
        ("9".repeat(40), Err(HeadError::BodyTooLarge)),
    ] {
        let read = head(&format!(
            "POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
        ));
        assert_eq!(read.map(|it| it.content_length), expected);
    }
}

#[test]
fn the_end_is_found_wherever_the_bytes_were_split() {
    let bytes = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody";
    let end = bytes.len() - 4;
    for split in 0..=bytes.len() {
        let first = find_end(&bytes[..split], 0);
        assert_eq!(first, (split >= end).then_some(end));
        if first.is_none() {
            assert_eq!(find_end(bytes, split), Some(end), "{split}");
        }
    }
}

#[test]
fn what_cannot_become_a_request_is_told_by_its_first_byte() {
    assert!(is_hopeless(b"\x16\x03\x01"));
    assert!(is_hopeless(b"get / HTTP/1.1"));
    assert!(!is_hopeless(b""));
    assert!(!is_hopeless(b"G"));
}

proptest! {
    #[test]
    fn noise_never_panics_and_never_smuggles(noise: Vec<u8>, fields in "([!-~]{1,10}: ?[ -~]{0,20}\r\n){0,5}") {
        let _ = parse(&noise);
        if let Ok(read) = head(&format!("GET / HTTP/1.1\r\n{fields}\r\n")) {
            let rewritten = read.rewritten(&[]);
            prop_assert_eq!(find_end(rewritten.as_bytes(), 0), Some(rewritten.len()));
            let again = head(&rewritten).unwrap();
            prop_assert_eq!(again.forwarded, read.forwarded);
            prop_assert_eq!(again.content_length, read.content_length);
        }
    }
}
