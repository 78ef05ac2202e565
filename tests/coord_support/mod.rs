//! A real `gretun-coord` process, and a client that speaks HTTP byte by byte, so that it can also misbehave.

#![allow(dead_code, reason = "each test crate uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gretun::proto::NatMapping;
use gretun::proto::api::{
    Endpoint, EndpointKind, EndpointsRequest, ErrorBody, PeerList, RegisterRequest,
    RegisterResponse, SignalList, SignalRequest, SignedHeaders, sign_request,
};
use gretun::proto::keys::{DiscoPublic, NodePublic, NodeSecret};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything takes that is not stuck, however slow the machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running coordinator. Killed when dropped.
pub struct Coord {
    pub dir: TempDir,
    pub api: SocketAddr,
    pub stun: SocketAddr,
    pub metrics: SocketAddr,
    child: Child,
    log: Receiver<Value>,
}

impl Coord {
    /// An open one, in a new state directory.
    pub fn open() -> Coord {
        Coord::start(&["--open"])
    }

    pub fn start(args: &[&str]) -> Coord {
        Coord::start_in(tempfile::tempdir().unwrap(), args)
    }

    pub fn start_in(dir: TempDir, args: &[&str]) -> Coord {
        let mut child = command(dir.path())
            .args([
                "--json",
                "--listen=127.0.0.1:0",
                "--stun-listen=127.0.0.1:0",
            ])
            .args(["--metrics-addr=127.0.0.1:0"])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = read_log(&mut child);
        let address = |message: &str| -> SocketAddr {
            let line = wait_for(&log, message);
            line["addr"].as_str().unwrap().parse().unwrap()
        };
        let api = address("listening for peers");
        let stun = address("listening for STUN");
        let metrics = address("serving metrics");
        Coord {
            dir,
            api,
            stun,
            metrics,
            child,
            log,
        }
    }

    /// The next log line with this message.
    pub fn wait_for_log(&self, message: &str) -> Value {
        wait_for(&self.log, message)
    }

    /// Runs `gretun-coord` on the same state directory.
    pub fn cli(&self, args: &[&str]) -> Output {
        cli(self.dir.path(), args)
    }

    /// A new auth key.
    pub fn key(&self, args: &[&str]) -> String {
        let made = self.cli(&[&["keys", "create"], args].concat());
        assert!(made.status.success(), "{made:?}");
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// The value of a metric, labels included in its name; 0 when it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let reply = Connection::open(self.metrics).send(b"GET /metrics HTTP/1.1\r\n\r\n");
        let text = String::from_utf8(reply.body).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// SIGKILL. The state directory stays.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    /// SIGTERM; the exit status and the state directory.
    pub fn stop(mut self) -> (ExitStatus, TempDir) {
        self.terminate();
        let status = self.child.wait().unwrap();
        (
            status,
            std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap()),
        )
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Coord {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gretun-coord"));
    command
        .arg("--state-dir")
        .arg(state_dir)
        .stdin(Stdio::null());
    command
}

/// Runs `gretun-coord` to its end.
pub fn cli(state_dir: &Path, args: &[&str]) -> Output {
    command(state_dir).args(args).output().unwrap()
}

fn read_log(child: &mut Child) -> Receiver<Value> {
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            // Kept by the test harness, shown when the test fails.
            println!("{line}");
            if let Ok(value) = serde_json::from_str(&line) {
                let _ = send.send(value);
            }
        }
    });
    receive
}

fn wait_for(log: &Receiver<Value>, message: &str) -> Value {
    loop {
        let line = log
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| panic!("no log line `{message}`"));
        if line["message"] == message {
            return line;
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn error(&self) -> ErrorBody {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status and hint: what most refusals are told by.
    pub fn refusal(&self) -> (u16, String) {
        let body = self.error();
        (
            self.status,
            format!("{}; {}", body.error, body.hint.unwrap_or_default()),
        )
    }
}

/// One TCP connection.
pub struct Connection(pub TcpStream);

impl Connection {
    pub fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(stream)
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub fn send(&mut self, bytes: &[u8]) -> Reply {
        self.write(bytes);
        self.read()
    }

    /// Reads one answer.
    pub fn read(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(
                self.0.read(&mut byte).unwrap(),
                1,
                "closed after {:?}",
                String::from_utf8_lossy(&head)
            );
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        Reply { status, head, body }
    }

    /// Returns whether the other side closed.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

pub fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    nonce
}

/// The bytes of a request with these headers.
pub fn request_bytes(method: &str, target: &str, headers: &SignedHeaders, body: &[u8]) -> Vec<u8> {
    let mut text = format!(
        "{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers.pairs() {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// A node.
pub struct Node {
    pub secret: NodeSecret,
    pub disco_key: DiscoPublic,
    pub name: String,
    pub api: SocketAddr,
}

impl Node {
    /// A node with random keys.
    pub fn new(api: SocketAddr, name: &str) -> Node {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).unwrap();
        let (secret, disco) = bytes.split_at(32);
        Node {
            secret: NodeSecret::from_bytes(secret.try_into().unwrap()),
            disco_key: DiscoPublic::from_bytes(disco.try_into().unwrap()),
            name: name.to_owned(),
            api,
        }
    }

    /// A new node, registered with an open coordinator.
    pub fn joined(coord: &Coord, name: &str) -> Node {
        let node = Node::new(coord.api, name);
        node.register(None).json::<RegisterResponse>();
        node
    }

    pub fn public(&self) -> NodePublic {
        self.secret.public()
    }

    pub fn registration(&self, auth_key: Option<&str>) -> RegisterRequest {
        RegisterRequest {
            name: self.name.clone(),
            disco_key: self.disco_key,
            endpoints: vec![],
            nat_mapping: NatMapping::Unknown,
            routes: vec![],
            auth_key: auth_key.map(str::to_owned),
            version: "test".to_owned(),
        }
    }

    pub fn register(&self, auth_key: Option<&str>) -> Reply {
        self.post("/v1/register", &self.registration(auth_key))
    }

    pub fn publish(&self, addr: &str) -> Reply {
        let endpoints = vec![Endpoint {
            addr: addr.parse().unwrap(),
            kind: EndpointKind::Local,
        }];
        self.post(
            "/v1/endpoints",
            &EndpointsRequest {
                endpoints,
                ..EndpointsRequest::default()
            },
        )
    }

    pub fn signal(&self, to: NodePublic, envelope: &[u8]) -> Reply {
        self.post("/v1/signal", &SignalRequest::new(to, envelope))
    }

    pub fn signals(&self) -> Vec<Vec<u8>> {
        let list: SignalList = self.get("/v1/signal").json();
        list.signals
            .iter()
            .map(|signal| signal.envelope().unwrap())
            .collect()
    }

    pub fn peers(&self) -> PeerList {
        self.get("/v1/peers").json()
    }

    pub fn get(&self, target: &str) -> Reply {
        self.start_get(target).read()
    }

    /// Sends a request and leaves the answer to be read.
    pub fn start_get(&self, target: &str) -> Connection {
        let mut connection = Connection::open(self.api);
        connection.write(&self.signed("GET", target, b""));
        connection
    }

    pub fn post(&self, target: &str, body: &impl Serialize) -> Reply {
        let body = serde_json::to_vec(body).unwrap();
        Connection::open(self.api).send(&self.signed("POST", target, &body))
    }

    pub fn sign(&self, method: &str, target: &str, body: &[u8]) -> SignedHeaders {
        sign_request(&self.secret, method, target, body, now_ms(), nonce())
    }

    /// The bytes of a good request.
    pub fn signed(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        request_bytes(method, target, &self.sign(method, target, body), body)
    }
}
