//! A front end before the simulated GitLab that does to requests what networks do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::server::Server;
use crate::treatment::Treatment;

type Decide = dyn FnMut(&Request<Bytes>) -> Treatment + Send;

/// A second door to a [`Server`], with faults. It takes requests of any form, as a proxy does, and holds none. All of a request
/// or an answer that passes through it is in memory, artifacts too.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Opens a door on a free port of the loopback interface. `decide` is asked what to do with each request.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port or a thread.
    pub fn start(
        server: Arc<Server>,
        decide: impl FnMut(&Request<Bytes>) -> Treatment + Send + 'static,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, decide) = (Arc::new(Notify::new()), Arc::new(Mutex::new(decide)));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("front".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                tokio::spawn(accept(listener, server, decide));
                stopped.notified().await;
            });
        })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // If it panicked, the test has seen broken connections.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, server: Arc<Server>, decide: Arc<Mutex<Decide>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (server, decide) = (server.clone(), decide.clone());
        let service = service_fn(move |request| handle(request, server.clone(), decide.clone()));
        tokio::spawn(async move {
            // A broken connection is what this is about.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn handle(
    request: Request<Incoming>,
    server: Arc<Server>,
    decide: Arc<Mutex<Decide>>,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let request = Request::from_parts(head, body);
    let treatment = {
        let mut decide = decide.lock().unwrap_or_else(PoisonError::into_inner);
        decide(&request)
    };
    let respond = || server.with(|gitlab, now| gitlab.respond(now, request)).map(Full::new);
    match treatment {
        Treatment::Deliver => Ok(respond()),
        Treatment::Delay(pause) => {
            let answer = respond();
            tokio::time::sleep(pause).await;
            Ok(answer)
        }
        Treatment::LoseRequest => Err(io::ErrorKind::ConnectionReset.into()),
        Treatment::LoseAnswer => {
            drop(respond());
            Err(io::ErrorKind::ConnectionReset.into())
        }
        Treatment::Answer(status) => Ok(Treatment::page(status).map(Full::new)),
    }
}
