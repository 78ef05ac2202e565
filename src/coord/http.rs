//! The API's routes on tiny_http: reads a request that the front end admitted, asks the [`Service`], answers.

use std::io::{Cursor, Read as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tiny_http::{Header, Method, Request, Response, Server};

use super::admin::{AdminError, Ledger, PeerView};
use super::api_error::ApiError;
use super::clock::Now;
use super::enrol::KeyRecord;
use super::http_front_end::{HEADER_CLIENT, HEADER_LISTENER, HEADER_PERMIT, Listener};
use super::request_permits::RequestPermits;
use super::rules::Change;
use super::service::{Answers, News, Poll, Service};
use crate::proto::NodePublic;
use crate::proto::api::{
    EndpointsRequest, HEADER_NODE, MAX_BODY, MAX_WAIT, PATH_ENDPOINTS, PATH_PEERS, PATH_REGISTER,
    PATH_SIGNAL, PeerList, RegisterRequest, SignalList, SignalRequest, SignedHeaders,
    verify_request,
};

type HttpService = Service<Request>;
type Answer = Response<Cursor<Vec<u8>>>;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Registrations that wait for the disk, at most: two pools of the default size.
const MAX_REGISTRATIONS: usize = 512;

/// The route of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Health,
    Metrics,
    Register,
    Member(MemberRoute),
}

/// A route for registered nodes only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemberRoute {
    Endpoints,
    Peers,
    SendSignal,
    FetchSignals,
}

impl Route {
    fn of(method: &Method, path: &str, listener: Listener) -> Result<Route, ApiError> {
        let only = |wanted: Method, route| {
            if *method == wanted {
                return Ok(route);
            }
            let allowed = if wanted == Method::Get { "GET" } else { "POST" };
            Err(ApiError::Method { allowed })
        };
        match (listener, path) {
            (_, "/healthz") => only(Method::Get, Route::Health),
            (Listener::Metrics, "/metrics") => only(Method::Get, Route::Metrics),
            (Listener::Api, PATH_REGISTER) => only(Method::Post, Route::Register),
            (Listener::Api, PATH_ENDPOINTS) => {
                only(Method::Post, Route::Member(MemberRoute::Endpoints))
            }
            (Listener::Api, PATH_PEERS) => only(Method::Get, Route::Member(MemberRoute::Peers)),
            (Listener::Api, PATH_SIGNAL) => match method {
                Method::Post => Ok(Route::Member(MemberRoute::SendSignal)),
                Method::Get => Ok(Route::Member(MemberRoute::FetchSignals)),
                _ => Err(ApiError::Method {
                    allowed: "GET and POST",
                }),
            },
            _ => Err(ApiError::NoSuchPath),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Route::Health => "health",
            Route::Metrics => "metrics",
            Route::Register => "register",
            Route::Member(member) => member.as_str(),
        }
    }
}

impl MemberRoute {
    fn as_str(self) -> &'static str {
        match self {
            MemberRoute::Endpoints => "endpoints",
            MemberRoute::Peers => "peers",
            MemberRoute::SendSignal => "send_signal",
            MemberRoute::FetchSignals => "fetch_signals",
        }
    }
}

/// The outcome of a request.
enum Outcome {
    /// Answer it.
    Answer(Answer),
    /// It waits for news.
    Wait(NodePublic, Poll, Duration),
    /// It needs the disk.
    Register(SignedHeaders, RegisterRequest),
}

/// A registration with a valid signature, on its way to the thread that makes it durable.
pub struct Registration {
    request: Request,
    headers: SignedHeaders,
    wanted: RegisterRequest,
    started: Instant,
}

/// The shared parts of a worker.
#[derive(Clone)]
pub struct Worker {
    service: Arc<HttpService>,
    permits: Arc<RequestPermits>,
    registrations: SyncSender<Registration>,
}

impl Worker {
    /// A worker, and where the registrations that it cannot do come out: for [`register_all`].
    pub fn new(
        service: Arc<HttpService>,
        permits: Arc<RequestPermits>,
    ) -> (Worker, Receiver<Registration>) {
        let (registrations, receiver) = sync_channel(MAX_REGISTRATIONS);
        let worker = Worker {
            service,
            permits,
            registrations,
        };
        (worker, receiver)
    }

    /// Takes requests from `server` until it is unblocked or fails; which of the two it was is for the caller to know.
    pub fn work(&self, server: &Server) {
        while let Ok(request) = server.recv() {
            if let Some(number) =
                header(&request, HEADER_PERMIT).and_then(|number| number.parse().ok())
            {
                self.permits.release(number);
            }
            self.serve(request);
        }
    }

    fn serve(&self, mut request: Request) {
        let service = &*self.service;
        let started = Instant::now();
        let now = service.clock.now();
        let listener = match header(&request, HEADER_LISTENER) {
            Some(value) if value == Listener::Metrics.as_str() => Listener::Metrics,
            _ => Listener::Api,
        };
        let (path, _) = split_target(request.url());
        let route = Route::of(request.method(), path, listener);
        let label = route.as_ref().map_or("none", |route| route.as_str());
        // Pending long polls for which this request brings news. They are answered after it, whatever its outcome.
        let mut others = Vec::new();
        let outcome =
            route.and_then(|route| handle(service, &mut request, route, now, &mut others));
        match outcome {
            Ok(Outcome::Answer(answer)) => send_timed(service, request, label, answer, started),
            Ok(Outcome::Wait(node, poll, wait)) => {
                answer_all(service, service.poll(node, request, poll, wait, now))
            }
            Ok(Outcome::Register(headers, wanted)) => {
                let registration = Registration {
                    request,
                    headers,
                    wanted,
                    started,
                };
                if let Err(TrySendError::Full(refused) | TrySendError::Disconnected(refused)) =
                    self.registrations.try_send(registration)
                {
                    refuse(service, refused.request, label, &ApiError::Busy);
                }
            }
            Err(refusal) => refuse(service, request, label, &refusal),
        }
        answer_all(service, others);
    }
}

/// Makes registrations, one after the other, until all workers are gone.
pub fn register_all(service: &HttpService, registrations: &Receiver<Registration>) {
    let label = Route::Register.as_str();
    for registration in registrations {
        let Registration {
            request,
            headers,
            wanted,
            started,
        } = registration;
        match service.register(&headers, wanted, service.clock.now()) {
            Ok((response, others)) => {
                send_timed(service, request, label, json(200, &response), started);
                answer_all(service, others);
            }
            Err(refusal) => refuse(service, request, label, &refusal),
        }
    }
}

/// Answers pending long polls.
pub fn answer_all(service: &HttpService, answers: Answers<Request>) {
    for (request, news) in answers {
        let route = match news {
            News::Peers(_) => MemberRoute::Peers,
            News::Signals(_) => MemberRoute::FetchSignals,
        };
        send(service, request, route.as_str(), json(200, &body_of(news)));
    }
}

fn handle(
    service: &HttpService,
    request: &mut Request,
    route: Route,
    now: Now,
    others: &mut Answers<Request>,
) -> Result<Outcome, ApiError> {
    match route {
        Route::Health => Ok(Outcome::Answer(health(service))),
        Route::Metrics => {
            let metrics = service.render_metrics();
            Ok(Outcome::Answer(plain(
                200,
                prometheus::TEXT_FORMAT,
                metrics,
            )))
        }
        Route::Register => {
            let (headers, body) = read_signed(request)?;
            service.check_fresh(&headers, now)?;
            Ok(Outcome::Register(headers, parse(&body)?))
        }
        Route::Member(route) => {
            let (headers, body) = read_signed(request)?;
            others.extend(service.admit(&headers, now)?);
            let (_, query) = split_target(request.url());
            handle_member(service, headers.node, route, query, &body, now, others)
        }
    }
}

fn handle_member(
    service: &HttpService,
    node: NodePublic,
    route: MemberRoute,
    query: &str,
    body: &[u8],
    now: Now,
    others: &mut Answers<Request>,
) -> Result<Outcome, ApiError> {
    match route {
        MemberRoute::Endpoints => {
            let wanted: EndpointsRequest = parse(body)?;
            others.extend(service.set_endpoints(&node, wanted)?);
            Ok(Outcome::Answer(done()))
        }
        MemberRoute::SendSignal => {
            let wanted: SignalRequest = parse(body)?;
            others.extend(service.signal(node, wanted, now)?);
            Ok(Outcome::Answer(done()))
        }
        MemberRoute::Peers => {
            let since = number(query, "since")?;
            Ok(Outcome::Wait(node, Poll::Peers { since }, wait(query)?))
        }
        MemberRoute::FetchSignals => Ok(Outcome::Wait(node, Poll::Signals, wait(query)?)),
    }
}

/// The body, and the headers that sign it together with the request.
fn read_signed(request: &mut Request) -> Result<(SignedHeaders, Vec<u8>), ApiError> {
    let body = read_body(request)?;
    let headers = SignedHeaders::read(|name| header(request, name))?;
    verify_request(request.method().as_str(), request.url(), &body, &headers)?;
    Ok((headers, body))
}

/// Path and query.
fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The answer where there is nothing to say.
fn done() -> Answer {
    json(200, &serde_json::Map::new())
}

fn health(service: &HttpService) -> Answer {
    if service.is_healthy() {
        plain(200, TEXT, b"ok\n".to_vec())
    } else {
        plain(
            503,
            TEXT,
            b"the store cannot be written; see the log\n".to_vec(),
        )
    }
}

fn body_of(news: News) -> Body {
    match news {
        News::Peers(peers) => Body::Peers(peers),
        News::Signals(signals) => Body::Signals(SignalList { signals }),
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body {
    Peers(PeerList),
    Signals(SignalList),
}

fn read_body(request: &mut Request) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    let limit = MAX_BODY as u64 + 1;
    let read = request.as_reader().take(limit).read_to_end(&mut body);
    read.map_err(|error| ApiError::Body {
        reason: error.to_string(),
    })?;
    if body.len() > MAX_BODY {
        return Err(ApiError::TooLarge);
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::Body {
        reason: error.to_string(),
    })
}

fn wait(query: &str) -> Result<Duration, ApiError> {
    let seconds = number(query, "wait")?.unwrap_or(0);
    Ok(Duration::from_secs(seconds).min(MAX_WAIT))
}

fn number(query: &str, name: &'static str) -> Result<Option<u64>, ApiError> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.parse().map_err(|_| ApiError::Query { name }))
        .transpose()
}

fn header<'a>(request: &'a Request, name: &'static str) -> Option<&'a str> {
    request
        .headers()
        .iter()
        .find(|header| header.field.as_str().as_str().eq_ignore_ascii_case(name))
        .map(|header| header.value.as_str())
}

fn json(status: u16, body: &impl Serialize) -> Answer {
    // The answers' types have nothing that JSON cannot hold.
    plain(status, JSON, serde_json::to_vec(body).unwrap_or_default())
}

fn plain(status: u16, content_type: &str, body: Vec<u8>) -> Answer {
    let answer = Response::from_data(body)
        .with_status_code(status)
        // The front end reads to the end of the connection, so chunks would be of no use.
        .with_chunked_threshold(usize::MAX);
    with_header(answer, "Content-Type", content_type)
}

fn refuse(service: &HttpService, request: Request, route: &str, refusal: &ApiError) {
    service
        .metrics
        .refusals
        .with_label_values(&[refusal.reason()])
        .inc();
    tracing::debug!(
        client = header(&request, HEADER_CLIENT),
        node = header(&request, HEADER_NODE),
        route,
        reason = refusal.reason(),
        "request refused: {refusal}"
    );
    let mut answer = json(refusal.status(), &refusal.body());
    if let Some(wait) = refusal.retry_after() {
        answer = with_header(answer, "Retry-After", &(wait.as_secs() + 1).to_string());
    }
    send(service, request, route, answer);
}

fn send_timed(
    service: &HttpService,
    request: Request,
    route: &str,
    answer: Answer,
    started: Instant,
) {
    send(service, request, route, answer);
    let seconds = started.elapsed().as_secs_f64();
    service
        .metrics
        .request_seconds
        .with_label_values(&[route])
        .observe(seconds);
}

fn with_header(answer: Answer, name: &str, value: &str) -> Answer {
    match Header::from_bytes(name, value) {
        Ok(header) => answer.with_header(header),
        // Only text that is not ASCII is refused, and there is none here.
        Err(()) => answer,
    }
}

fn send(service: &HttpService, request: Request, route: &str, answer: Answer) {
    let status = answer.status_code().0.to_string();
    service
        .metrics
        .requests
        .with_label_values(&[route, &status])
        .inc();
    tracing::trace!(
        client = header(&request, HEADER_CLIENT), method = %request.method(), route, status, "answered"
    );
    if let Err(error) = request.respond(answer) {
        tracing::debug!(%error, "an answer could not be passed to the front end");
    }
}

impl Ledger for HttpService {
    fn keys(&self) -> Result<Vec<KeyRecord>, AdminError> {
        Ok(self.read(|core| core.keys().iter().cloned().collect()))
    }

    fn peers(&self) -> Result<Vec<PeerView>, AdminError> {
        Ok(self.read(|core| {
            let peers = core.registry().iter();
            peers
                .map(|(record, online)| PeerView::new(record, Some(online)))
                .collect()
        }))
    }

    fn change(&self, change: Change) -> Result<(), AdminError> {
        let answers =
            Service::change(self, vec![change]).map_err(|error| AdminError::from(&error))?;
        answer_all(self, answers);
        Ok(())
    }
}
