//! A proxy that makes tunnels.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Longer heads are nobody's.
const HEAD_LIMIT: usize = 16 << 10;

/// An HTTP proxy on the loopback interface that understands `CONNECT`, and nothing else. For plain HTTP through a proxy a
/// [`Front`](crate::Front) will do.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    heads: Mutex<Vec<String>>,
    stopped: AtomicBool,
}

impl Proxy {
    /// Starts on a free port.
    ///
    /// # Errors
    ///
    /// If the operating system refuses a port or a thread.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, shared) = (listener.local_addr()?, Arc::<Shared>::default());
        let serving = shared.clone();
        thread::Builder::new().name("proxy".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let serving = serving.clone();
                // A tunnel that breaks is its client's affair.
                thread::spawn(move || serving.serve(stream));
            }
        })?;
        Ok(Self { address, shared })
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all requests so far.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if head.len() >= HEAD_LIMIT || client.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut words = head.split(' ');
        let target = (words.next() == Some("CONNECT")).then(|| words.next()).flatten().map(str::to_owned);
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head);
        let Some(target) = target else { return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n") };
        let Ok(server) = TcpStream::connect(target) else {
            return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
        };
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let (from, to) = (client.try_clone()?, server.try_clone()?);
        thread::spawn(move || relay(from, to));
        relay(server, client);
        Ok(())
    }
}

/// Copies until an end comes, and passes that on.
fn relay(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
