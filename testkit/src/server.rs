//! The simulated GitLab behind a loopback HTTP server.

mod budget;
mod clock;
mod connection;
mod incoming;
mod outgoing;
mod root;
mod shared;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gitlab_runner_api::Timestamp;
use tokio::net::{TcpListener, TcpSocket};

use self::shared::{NoFilter, Shared};
use crate::coordinator::Coordinator;
use crate::time_limit::TimeLimit;

pub(crate) use self::clock::Clock;
pub(crate) use self::connection::outside;
pub use self::root::{InvalidRoot, Root};
pub(crate) use self::shared::{Handling, Later, RequestFilter};

/// How many connections can wait to be accepted. A client that finds no room tries again only after a second. The 128 of the standard
/// library are too few if thousands of runners connect at once. Linux allows 4,096 by default.
const BACKLOG: u32 = 4096;

/// How long a client may be silent between two requests, within a request, and while an answer waits to be read.
/// GitLab's nginx allows about one minute. Two minutes are more than the 90 seconds for which clients written in Go keep connections.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);

/// A [`Coordinator`] that listens on a port of this machine, in real time, until it is dropped.
///
/// Connections are kept alive, and held job requests wait. One thread serves them all. Artifacts go from the socket to temporary
/// files and back, so that large ones need no memory: see [`Content`](crate::Content).
///
/// A client that is silent for two minutes loses its connection: in the middle of a request, between two requests, or while an
/// answer waits to be read. The bodies of requests that are being received take at most 256 MiB of memory, and answers that are being sent 512 MiB. A
/// request that would need more is answered with 503. Requests and answers of up to 64 KiB are always served. Uploads of artifacts do not count: each takes at
/// most 1.3 MiB.
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
    url: String,
    #[cfg(feature = "tls")]
    ca: Option<String>,
    thread: Option<JoinHandle<()>>,
    limit: Option<TimeLimit>,
}

impl Server {
    /// Starts to serve on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port or a thread.
    pub fn start(coordinator: Coordinator) -> io::Result<Self> {
        let listen = Listen::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self::start_with_filter(coordinator, listen, Box::new(NoFilter), Clock::start())
    }

    /// Starts to serve. The filter sees each request before GitLab does.
    pub(crate) fn start_with_filter(
        coordinator: Coordinator,
        listen: Listen,
        filter: Box<dyn RequestFilter>,
        clock: Clock,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let listener = {
            let _context = runtime.enter();
            bind(listen.address)?
        };
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(coordinator, filter, &listen, clock));
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("simulated-gitlab".to_owned())
            .spawn(move || connection::serve(runtime, listener, &served))?;
        Ok(Self {
            shared,
            url: listen.url(address),
            #[cfg(feature = "tls")]
            ca: listen.identity.map(|identity| identity.ca_pem),
            thread: Some(thread),
            limit: None,
        })
    }

    /// Ends the process with a message if the server is not dropped within this time, as [`TimeLimit`] does. A test helper that makes
    /// servers can set a limit for all of its tests in this way.
    #[must_use]
    pub fn with_time_limit(mut self, span: Duration) -> Self {
        self.limit = Some(TimeLimit::start(span));
        self
    }

    /// The URL of the instance, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The certificate of the CA that a client must trust, as PEM text; `None` if the server does not speak TLS. See
    /// [`sim::Options::with_tls`](crate::sim::Options::with_tls).
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn ca(&self) -> Option<&str> {
        self.ca.as_deref()
    }

    /// The current time of the coordinator.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Advances the clock of the coordinator. What is due then happens at once: held requests are answered, and jobs time out.
    pub fn advance(&self, by: Duration) {
        self.shared.clock.advance(by);
        self.with(|gitlab, now| gitlab.advance(now));
    }

    /// Stops the clock of the coordinator. From now on time only passes by [`advance`](Self::advance), so that a slow test has
    /// the same results as a fast one. A held request waits until the clock is advanced or the queue changes.
    pub fn stop_clock(&self) {
        self.shared.clock.stop();
    }

    /// Calls `act` with the coordinator and the current time, to read or to change it. Held requests whose wait ends by the change are
    /// answered at once.
    ///
    /// No request is served while `act` runs. Calls must not be nested.
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

/// Where a server listens, and what its URL is.
#[derive(Debug)]
pub(crate) struct Listen {
    pub(crate) address: SocketAddr,
    pub(crate) root: Root,
    /// The host in the URL, if the address stands for all addresses of this machine.
    pub(crate) name: Option<String>,
    /// How long a silent client is waited for.
    pub(crate) client_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(crate) identity: Option<crate::tls::Identity>,
}

impl Listen {
    /// At the root of this address, without TLS.
    pub(crate) fn at(address: SocketAddr) -> Self {
        Self {
            address,
            root: Root::default(),
            name: None,
            client_timeout: CLIENT_TIMEOUT,
            #[cfg(feature = "tls")]
            identity: None,
        }
    }

    /// The URL, without a slash at the end, of a server that got this address.
    fn url(&self, mut address: SocketAddr) -> String {
        #[cfg(feature = "tls")]
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        #[cfg(not(feature = "tls"))]
        let scheme = "http";
        let root = self.root.as_str();
        if address.ip().is_unspecified() {
            if let Some(name) = &self.name {
                return format!("{scheme}://{name}:{}{root}", address.port());
            }
            // On some systems, one cannot connect to this address.
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            address.set_ip(loopback[usize::from(address.is_ipv6())]);
        }
        format!("{scheme}://{address}{root}")
    }
}

/// Listens as the standard library does, but with room for many connections at once.
fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // On Windows this would let another program take the port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
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

#[cfg(test)]
mod tests;
