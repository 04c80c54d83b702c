//! The connections of a server, and the requests on them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_io_timeout::TimeoutWriter;
#[cfg(feature = "tls")]
use tokio_rustls::TlsAcceptor;

use super::incoming::{self, TimedBody};
use super::outgoing::Outgoing;
use super::shared::{Handling, Shared, State};
use crate::content::Content;
use crate::coordinator::{Answer, Body, HoldId, Reading};
use crate::treatment::Treatment;

/// How long to pause when the operating system refuses a connection, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// How long a client may take for the TLS handshake. One that does not speak TLS may never send enough for an error.
#[cfg(feature = "tls")]
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(30);

/// How many held requests are answered before others are served. Thousands may be due at the same time, and the runner that is
/// answered first asks for the job at once.
const ANSWERED_AT_ONCE: usize = 64;

pub(super) fn serve(runtime: Runtime, listener: TcpListener, shared: &Arc<Shared>) {
    runtime.spawn(accept(listener, Arc::clone(shared)));
    runtime.spawn(answer_held(Arc::clone(shared)));
    // What was spawned ends when the runtime is dropped, at the next point where it waits.
    runtime.block_on(shared.stop.notified());
    // Nobody is there any more for whom something slow is made on another thread, such as a list that git does not finish.
    runtime.shutdown_background();
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it answers are only slower.
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(serve_connection(stream, shared));
    }
}

/// Serves a connection, with TLS if the server has a certificate.
async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    #[cfg(feature = "tls")]
    if let Some(config) = &shared.tls {
        let handshake = TlsAcceptor::from(Arc::clone(config)).accept(stream);
        if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_PATIENCE, handshake).await {
            serve_requests(stream, shared).await;
        }
        return;
    }
    serve_requests(stream, shared).await;
}

async fn serve_requests(stream: impl AsyncRead + AsyncWrite, shared: Arc<Shared>) {
    let client_timeout = shared.client_timeout;
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(client_timeout));
    let service = service_fn(move |request| admit(request, Arc::clone(&shared)));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(client_timeout);
    // An error means that the client has broken the connection, which needs no handling here.
    let _ = server.serve_connection(TokioIo::new(Box::pin(stream)), service).await;
}

/// Answers a request, as long as the answers that nobody reads do not take too much memory. What changes something is always
/// answered, because it has happened.
async fn admit(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Outgoing>> {
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = handle(request, &shared).await?;
    if !response.body_mut().count(&shared.answers) && only_reads {
        let why = "too many large answers are on their way to clients that do not read them";
        let refusal = incoming::refusal(StatusCode::SERVICE_UNAVAILABLE, why);
        return Ok(refusal.map(|why| Outgoing::new(why.into())));
    }
    Ok(response)
}

/// Answers held requests when their wait ends.
async fn answer_held(shared: Arc<Shared>) {
    loop {
        let pause = {
            let mut state = shared.state();
            let now = shared.clock.now();
            for _ in 0..ANSWERED_AT_ONCE {
                let Some((hold, response)) = state.coordinator.poll(now) else { break };
                if let Some(waiter) = state.waiting.remove(&hold) {
                    // The connection may be gone by now.
                    let _ = waiter.send(response);
                }
            }
            state.coordinator.deadline().map(|deadline| deadline.saturating_since(now))
        };
        match pause {
            // More are due, or a job is. Requests that have come meanwhile are served first.
            Some(Duration::ZERO) => tokio::task::yield_now().await,
            Some(pause) => drop(tokio::time::timeout(pause, shared.changed.notified()).await),
            None => shared.changed.notified().await,
        }
    }
}

async fn handle(request: Request<Incoming>, shared: &Shared) -> io::Result<Response<Outgoing>> {
    let (mut parts, body) = request.into_parts();
    let body = TimedBody::new(body, shared.client_timeout);
    let mut share = shared.bodies.share();
    match shared.root.strip(&parts.uri) {
        Some(uri) => parts.uri = uri,
        None => {
            let refusal = incoming::read(&parts.headers, body, Reading::Discard, &mut share).await.err();
            return Ok(refusal.map_or_else(
                || outside(parts.uri.path()).map(Outgoing::new),
                |broken| broken.map(|why| Outgoing::new(why.into())),
            ));
        }
    }
    let (refused, reading) = {
        let state = shared.state();
        match state.filter.refuse(&parts) {
            Some(refused) => (Some(refused), Reading::Discard),
            None => (None, state.coordinator.reading(shared.clock.now(), &parts)),
        }
    };
    let body = match incoming::read(&parts.headers, body, reading, &mut share).await {
        Ok(body) => body,
        Err(refusal) => return Ok(refusal.map(|why| Outgoing::new(why.into()))),
    };
    if let Some(refused) = refused {
        return Ok(refused.map(Outgoing::new));
    }
    let (handling, request) = {
        let mut state = shared.state();
        let now = shared.clock.now();
        let State { coordinator, filter, .. } = &mut *state;
        let whole = if let Body::Whole(bytes) = &body { bytes.clone() } else { Bytes::new() };
        let seen = Request::from_parts(parts, whole);
        let handling = filter.handle(coordinator, now, &seen);
        (handling, seen.map(|_| body))
    };
    let treatment = match handling {
        Handling::Answered(response) => {
            shared.changed.notify_one();
            return Ok(response.map(Outgoing::new));
        }
        Handling::Advanced(by, response) => {
            shared.clock.advance(by);
            {
                let mut state = shared.state();
                state.coordinator.advance(shared.clock.now());
            }
            shared.changed.notify_one();
            return Ok(response.map(Outgoing::new));
        }
        Handling::Later(later) => {
            // On another thread: this one serves everybody else.
            let finish = tokio::task::spawn_blocking(|| later.prepare()).await.map_err(io::Error::other)?;
            let response = {
                let mut state = shared.state();
                let now = shared.clock.now();
                finish(&mut state.coordinator, now)
            };
            shared.changed.notify_one();
            return Ok(response.map(Outgoing::new));
        }
        Handling::GitLab(treatment) => treatment,
    };
    match treatment {
        Treatment::LoseRequest => return Err(io::ErrorKind::ConnectionReset.into()),
        Treatment::Answer(status) => return Ok(Treatment::page(status).map(|page| Outgoing::new(page.into()))),
        Treatment::Deliver | Treatment::LoseAnswer | Treatment::Delay(_) => {}
    }
    let response = answer(request, shared).await;
    match treatment {
        Treatment::LoseAnswer => return Err(io::ErrorKind::ConnectionReset.into()),
        Treatment::Delay(pause) => tokio::time::sleep(pause).await,
        _ => {}
    }
    Ok(response.map(Outgoing::new))
}

/// The answer to a request for a path that is not GitLab's, in the words of its front server, Workhorse.
pub(crate) fn outside(path: &str) -> Response<Content> {
    let mut response = Response::new(Content::from(Bytes::from(format!("Not found {path:?}\n"))));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Waits for the answer of GitLab, also if the request is held.
async fn answer(request: Request<Body>, shared: &Shared) -> Response<Content> {
    let (hold, answer) = {
        let mut state = shared.state();
        let now = shared.clock.now();
        match state.coordinator.handle(now, request) {
            Answer::Now(response) => {
                drop(state);
                // A job that was handed out has a deadline of its own.
                shared.changed.notify_one();
                return response;
            }
            Answer::Held(hold) => {
                let (waiter, answer) = oneshot::channel();
                state.waiting.insert(hold, waiter);
                (hold, answer)
            }
        }
    };
    let _abandon = Abandon { shared, hold };
    shared.changed.notify_one();
    let response = answer.await.unwrap_or_else(|_| {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    });
    response.map(Content::from)
}

/// Withdraws a held request when its connection goes away.
struct Abandon<'a> {
    shared: &'a Shared,
    hold: HoldId,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.waiting.remove(&self.hold).is_some() {
            state.coordinator.abandon(self.hold);
        }
    }
}
