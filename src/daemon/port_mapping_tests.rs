//! Requests to a UPnP gateway that is none: any device of the LAN may answer the multicast search.

use super::*;
use crate::http_client::tests::FakeServer;

const OWN: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn request(server: &FakeServer, action: Option<(&str, &str)>) -> HttpRequest {
    HttpRequest {
        id: 1,
        url: format!("{}/control", server.url),
        action: action.map(|(header, body)| (header.to_owned(), body.to_owned())),
    }
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let server =
        FakeServer::start(|_| ("307 Elsewhere\r\nlocation: /elsewhere", String::new())).await;
    for action in [None, Some(("AddPortMapping", "<xml/>"))] {
        let (status, _) = exchange(request(&server, action), OWN).await.unwrap();
        assert_eq!(status, 307);
    }
    assert_eq!(
        (server.count("/control"), server.count("/elsewhere")),
        (2, 0)
    );
}

#[tokio::test]
async fn no_more_of_an_answer_is_read_than_the_longest_honest_one_has() {
    let server = FakeServer::start(|_| ("200 OK", "x".repeat(upnp::MAX_BODY + 1))).await;
    let answer = exchange(request(&server, None), OWN).await;
    assert!(matches!(answer, Err(HttpError::TooLong)), "{answer:?}");
}
