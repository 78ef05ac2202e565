use super::*;
use crate::error::UserError as _;
use crate::local_api::{StunView, ask};

#[tokio::test]
async fn a_request_is_answered_and_the_socket_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/gretun.sock");
    let (queries, mut asked) = mpsc::channel(1);
    let server = Server::start(&path, queries).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, SOCKET_MODE);
    let client = tokio::task::spawn_blocking({
        let path = path.clone();
        move || ask::<Vec<StunView>>(&path, &Request::Stun)
    });
    let query = asked.recv().await.unwrap();
    assert_eq!(query.request, Request::Stun);
    let view = StunView {
        server: "192.0.2.1:3478".parse().unwrap(),
        endpoint: "192.0.2.2:7777".parse().unwrap(),
    };
    query
        .answer
        .send(Ok(serde_json::to_value([&view]).unwrap()))
        .unwrap();
    assert_eq!(client.await.unwrap().unwrap(), [view]);
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn garbage_gets_an_error_and_the_next_client_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gretun.sock");
    let (queries, mut asked) = mpsc::channel(1);
    let _server = Server::start(&path, queries).unwrap();
    for garbage in [
        &b"{\"\n"[..],
        b"\n",
        &[0xff; 9000],
        b"\"no-such-request\"\n",
    ] {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The server may have answered and closed before it read everything.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.windows(4).any(|window| window == b"\"Ok\""));
    }
    let client = tokio::task::spawn_blocking(move || ask::<()>(&path, &Request::Down));
    asked
        .recv()
        .await
        .unwrap()
        .answer
        .send(Ok(serde_json::Value::Null))
        .unwrap();
    client.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gretun.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (queries, _asked) = mpsc::channel(1);
    let _server = Server::start(&path, queries.clone()).unwrap();
    assert!(matches!(
        Server::start(&path, queries),
        Err(LocalApiError::Taken { .. })
    ));
}

#[test]
fn no_daemon_is_said_plainly() {
    let error = ask::<()>(Path::new("/nonexistent/gretun.sock"), &Request::Peers).unwrap_err();
    assert!(matches!(error, LocalApiError::NoDaemon { .. }));
    assert!(error.hint().unwrap().contains("gretun up"));
}

/// `--socket /etc/gretun.toml` by mistake.
#[tokio::test]
async fn only_a_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gretun.toml");
    fs::write(&path, "precious").unwrap();
    let (queries, _asked) = mpsc::channel(1);
    let error = Server::start(&path, queries.clone()).unwrap_err();
    assert!(matches!(error, LocalApiError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    // A link is not followed, and not removed either.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    Server::start(&link, queries.clone()).unwrap_err();
    assert!(link.exists());
    // The socket of a daemon that was killed.
    let socket = dir.path().join("gretun.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    Server::start(&socket, queries).unwrap();
}

/// A request that cannot be answered is the client's error; the daemon goes on.
#[tokio::test]
async fn an_error_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gretun.sock");
    let (queries, mut asked) = mpsc::channel(1);
    let _server = Server::start(&path, queries).unwrap();
    let answers = [
        Err("the kernel is busy".to_owned()),
        Ok(serde_json::json!([])),
    ];
    for answer in answers {
        let path = path.clone();
        let expected = answer.is_ok();
        let client =
            tokio::task::spawn_blocking(move || ask::<Vec<StunView>>(&path, &Request::Stun));
        asked.recv().await.unwrap().answer.send(answer).unwrap();
        match client.await.unwrap() {
            Ok(views) => assert!(expected && views.is_empty()),
            Err(error) => assert!(!expected && error.to_string().contains("busy"), "{error}"),
        }
    }
}
