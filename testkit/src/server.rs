//! The simulated GitLab behind a loopback HTTP server.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use gitlab_runner_api::Timestamp;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, oneshot};

use crate::coordinator::{Answer, Coordinator, HoldId};
use crate::time_limit::TimeLimit;
use crate::treatment::Treatment;

/// The part of a body that is not the artifact itself, such as the fields and boundaries of a form.
const BODY_OVERHEAD: u64 = 1 << 20;
/// Bodies up to this size are always read, also if artifacts have a lower limit: logs have a limit of their own.
const SMALLEST_BODY_LIMIT: u64 = 64 << 20;
/// How long to pause when the operating system refuses a connection, for want of file descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// A [`Coordinator`] that listens on a port of this machine, in real time, until it is dropped.
///
/// Connections are kept alive, and held job requests wait. One thread serves them all.
///
/// ```
/// use gitlab_runner_api_testkit::{Coordinator, NewJob, Server, Settings};
///
/// let server = Server::start(Coordinator::new(Settings::default()))?;
/// let job = server.with(|gitlab, now| {
///     gitlab.add_runner("glrt-secret");
///     gitlab.queue(now, NewJob::new("test"))
/// });
/// println!("job {job} waits at {}", server.url());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
    limit: Option<TimeLimit>,
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    state: Mutex<State>,
    /// The coordinator may have something to do, now or sooner than before.
    changed: Notify,
    stop: Notify,
}

struct State {
    coordinator: Coordinator,
    waiting: BTreeMap<HoldId, oneshot::Sender<Response<Bytes>>>,
    door: Box<Door>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("coordinator", &self.coordinator).finish_non_exhaustive()
    }
}

/// Looks at each request before GitLab does.
pub(crate) type Door = dyn FnMut(&mut Coordinator, Timestamp, &Request<Bytes>) -> Passage + Send;

/// What the door does with a request.
#[derive(Debug)]
pub(crate) enum Passage {
    /// It is GitLab's, and a network does this to it.
    GitLab(Treatment),
    /// It is not GitLab's affair.
    Answered(Response<Bytes>),
    /// It is not GitLab's affair, and lets this much time pass.
    Advanced(Duration, Response<Bytes>),
}

/// A clock anchored once on Unix time, monotonic from there. It can be put forward, and it can stand still otherwise.
#[derive(Debug)]
struct Clock {
    origin: Timestamp,
    started: Instant,
    stands: AtomicBool,
    /// Milliseconds that it was put forward, and those that had passed when it was stopped.
    ahead: AtomicU64,
}

impl Clock {
    fn start() -> Self {
        let (stands, ahead) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { origin: SystemTime::now().into(), started: Instant::now(), stands, ahead }
    }

    fn now(&self) -> Timestamp {
        let ahead = Duration::from_millis(self.ahead.load(Ordering::SeqCst));
        let elapsed = if self.stands.load(Ordering::SeqCst) { Duration::ZERO } else { self.started.elapsed() };
        self.origin.saturating_add(ahead.saturating_add(elapsed))
    }

    fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        // The closure always returns a value.
        let _ = self.ahead.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |ahead| Some(ahead.saturating_add(millis)));
    }

    /// From now on it only moves when it is put forward.
    fn stop(&self) {
        if !self.stands.load(Ordering::SeqCst) {
            self.advance(self.started.elapsed());
            self.stands.store(true, Ordering::SeqCst);
        }
    }
}

impl Server {
    /// Starts to serve on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port or a thread.
    pub fn start(coordinator: Coordinator) -> io::Result<Self> {
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_behind(coordinator, nowhere, Box::new(|_, _, _| Passage::GitLab(Treatment::Deliver)))
    }

    /// Starts to serve at this address, with a door before GitLab.
    pub(crate) fn start_behind(coordinator: Coordinator, at: SocketAddr, door: Box<Door>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let shared = Arc::new(Shared {
            clock: Clock::start(),
            state: Mutex::new(State { coordinator, waiting: BTreeMap::new(), door }),
            changed: Notify::new(),
            stop: Notify::new(),
        });
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("simulated-gitlab".to_owned())
            .spawn(move || serve(&runtime, listener, &served))?;
        Ok(Self { shared, address, thread: Some(thread), limit: None })
    }

    /// Ends the process with a message if the server is not dropped within so much time from now, as [`TimeLimit`] does. A
    /// test that makes its server by a function of its own has its limit there.
    #[must_use]
    pub fn with_time_limit(mut self, span: Duration) -> Self {
        self.limit = Some(TimeLimit::start(span));
        self
    }

    /// The URL of the instance, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The time the coordinator sees.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Lets time pass for the coordinator. What is due happens at once: held requests are answered, and jobs time out.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
        self.with(|gitlab, now| gitlab.advance(now));
    }

    /// Stops the clock of the coordinator. From now on time only passes by [`advance`](Self::advance), so that a slow test has
    /// the same results as a fast one. A held request waits until time is let pass or the queue changes.
    pub fn stop_clock(&self) {
        self.shared.clock.stop();
    }

    /// Looks into the coordinator, or alters it. Held requests whose wait ends by that are answered at once.
    ///
    /// No request is served meanwhile, and calls must not be nested.
    pub fn with<R>(&self, act: impl FnOnce(&mut Coordinator, Timestamp) -> R) -> R {
        let result = {
            let mut state = self.shared.state();
            // Read under the lock, so that time does not go back for the coordinator.
            act(&mut state.coordinator, self.shared.clock.now())
        };
        self.shared.changed.notify_one();
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked, the test that dropped the server has seen broken connections.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A closure that panicked in `with` fails its own test; the coordinator is usable after any prefix of calls.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(runtime: &Runtime, listener: TcpListener, shared: &Arc<Shared>) {
    runtime.spawn(accept(listener, Arc::clone(shared)));
    runtime.spawn(answer_held(Arc::clone(shared)));
    // What was spawned ends when the runtime is dropped, at the next point where it waits.
    runtime.block_on(shared.stop.notified());
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
        let service = service_fn(move |request| handle(request, Arc::clone(&shared)));
        tokio::spawn(async move {
            // A broken connection is the client's affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Answers held requests when their wait ends.
async fn answer_held(shared: Arc<Shared>) {
    loop {
        let pause = {
            let mut state = shared.state();
            let now = shared.clock.now();
            while let Some((hold, response)) = state.coordinator.poll(now) {
                if let Some(waiter) = state.waiting.remove(&hold) {
                    // The connection may be gone by now.
                    let _ = waiter.send(response);
                }
            }
            state.coordinator.deadline().map(|deadline| deadline.saturating_since(now))
        };
        match pause {
            Some(pause) => drop(tokio::time::timeout(pause, shared.changed.notified()).await),
            None => shared.changed.notified().await,
        }
    }
}

async fn handle(request: Request<Incoming>, shared: Arc<Shared>) -> io::Result<Response<Full<Bytes>>> {
    let (parts, body) = request.into_parts();
    let limit = shared.state().coordinator.settings().artifact_size_limit.saturating_add(BODY_OVERHEAD);
    let request = match read(body, limit.max(SMALLEST_BODY_LIMIT)).await {
        Ok(body) => Request::from_parts(parts, body),
        Err(status) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = status;
            return Ok(response);
        }
    };
    let passage = {
        let mut state = shared.state();
        let now = shared.clock.now();
        let State { coordinator, door, .. } = &mut *state;
        door(coordinator, now, &request)
    };
    let treatment = match passage {
        Passage::Answered(response) => {
            shared.changed.notify_one();
            return Ok(response.map(Full::new));
        }
        Passage::Advanced(by, response) => {
            shared.clock.advance(by);
            {
                let mut state = shared.state();
                state.coordinator.advance(shared.clock.now());
            }
            shared.changed.notify_one();
            return Ok(response.map(Full::new));
        }
        Passage::GitLab(treatment) => treatment,
    };
    match treatment {
        Treatment::LoseRequest => return Err(io::ErrorKind::ConnectionReset.into()),
        Treatment::Answer(status) => return Ok(Treatment::page(status).map(Full::new)),
        Treatment::Deliver | Treatment::LoseAnswer | Treatment::Delay(_) => {}
    }
    let response = answer(request, &shared).await;
    match treatment {
        Treatment::LoseAnswer => return Err(io::ErrorKind::ConnectionReset.into()),
        Treatment::Delay(pause) => tokio::time::sleep(pause).await,
        _ => {}
    }
    Ok(response.map(Full::new))
}

/// What GitLab answers, when it does.
async fn answer(request: Request<Bytes>, shared: &Shared) -> Response<Bytes> {
    let (hold, answer) = {
        let mut state = shared.state();
        let now = shared.clock.now();
        match state.coordinator.submit(now, request) {
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
    answer.await.unwrap_or_else(|_| {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    })
}

/// Reads a body of at most `limit` bytes.
async fn read(mut body: Incoming, limit: u64) -> Result<Bytes, StatusCode> {
    let mut bytes = BytesMut::new();
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Some(data) = frame.data_ref() else { continue };
        // The rest is read as well: a connection closed before that would take the answer with it.
        fits &= (bytes.len() + data.len()) as u64 <= limit;
        if fits {
            bytes.extend_from_slice(data);
        }
    }
    if fits { Ok(bytes.freeze()) } else { Err(StatusCode::PAYLOAD_TOO_LARGE) }
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

#[cfg(test)]
mod tests;
