//! A loopback server that answers each request with what it is told to, byte for byte.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One thing done to a connection.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Send(Vec<u8>),
    Pause(Duration),
    Close,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) target: String,
    headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    /// All values of a header.
    pub(super) fn header(&self, name: &str) -> Vec<&[u8]> {
        let fits = |(header, _): &&(String, Vec<u8>)| header.eq_ignore_ascii_case(name);
        self.headers.iter().filter(fits).map(|(_, value)| value.as_slice()).collect()
    }
}

type Script = dyn Fn(usize) -> Vec<Act> + Send + Sync;

struct Shared {
    script: Box<Script>,
    seen: Mutex<Vec<Seen>>,
    stopped: AtomicBool,
}

/// Stops listening when it is dropped.
pub(super) struct Scripted {
    address: SocketAddr,
    url: String,
    shared: Arc<Shared>,
}

/// Where the way to a server starts.
pub(super) type Door = dyn Fn(SocketAddr) -> String;

thread_local! {
    /// The cases all run on one thread, and each starts servers of its own.
    static DOOR: RefCell<Option<Rc<Door>>> = const { RefCell::new(None) };
}

/// Reaches the servers that this thread starts from now on through doors.
pub(super) fn set_door(door: Option<Rc<Door>>) {
    DOOR.set(door);
}

impl Scripted {
    /// Answers the n-th request, from 0, by `script(n)`.
    pub(super) fn start(script: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound port has an address");
        let shared =
            Arc::new(Shared { script: Box::new(script), seen: Mutex::default(), stopped: AtomicBool::new(false) });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serving = serving.clone();
                // A connection that breaks is what half of the cases are about.
                thread::spawn(move || stream.map(|stream| serving.serve(stream)));
            }
        });
        let door = DOOR.with_borrow(Clone::clone);
        let url = door.map_or_else(|| format!("http://{address}"), |door| door(address));
        Self { address, url, shared }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }

    pub(super) fn requests(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The request that arrived, if it is one and no more.
    pub(super) fn only_request(&self) -> Result<Seen, String> {
        <[Seen; 1]>::try_from(self.requests())
            .map(|[seen]| seen)
            .map_err(|requests| format!("{} requests arrived, not 1", requests.len()))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection; from then on none is accepted.
        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(self.address).is_ok() && Instant::now() < deadline {
            thread::yield_now();
        }
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) {
        while let Some(seen) = read_request(&mut stream) {
            let number = {
                let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                all.push(seen);
                all.len() - 1
            };
            for act in (self.script)(number) {
                match act {
                    Act::Send(bytes) => {
                        if stream.write_all(&bytes).is_err() {
                            return;
                        }
                    }
                    Act::Pause(span) => thread::sleep(span),
                    Act::Close => return,
                }
            }
        }
    }
}

/// The next request of a connection, if there is one that is whole.
fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = head.parse(&bytes) else { continue };
        let mut seen = Seen {
            method: head.method.unwrap_or_default().to_owned(),
            target: head.path.unwrap_or_default().to_owned(),
            headers: head.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect(),
            body: bytes[length..].to_vec(),
        };
        let wanted = seen.header("content-length").first().and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        let missing = wanted.unwrap_or(0usize).saturating_sub(seen.body.len());
        let mut rest = vec![0; missing];
        stream.read_exact(&mut rest).ok()?;
        seen.body.extend(rest);
        return Some(seen);
    }
}
