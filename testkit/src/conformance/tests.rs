//! The cases about deadlines, with transports that are right or wrong in a known way.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use super::*;

/// Sends the head of the request and nothing more, if at all, and then says what it is told to.
struct Fake {
    /// How long it takes until there is a connection.
    connects_in: Duration,
    /// What it says if the deadline passes before there is a connection,
    too_slow: Failure,
    /// and if it passes later.
    overdue: Failure,
    /// How long it waits, as parts of the deadline.
    waits: f64,
}

const RIGHT: Fake =
    Fake { connects_in: Duration::ZERO, too_slow: Failure::NotSent, overdue: Failure::TimedOut, waits: 1.0 };

impl Fake {
    fn exchange(&self, call: Call, connections: &mut Vec<TcpStream>) -> Exchanged {
        let (request, ticket) = call.split();
        let span = ticket.hints().deadline.mul_f64(self.waits);
        if self.connects_in >= span {
            thread::sleep(span);
            return (ticket, Err(self.too_slow));
        }
        thread::sleep(self.connects_in);
        let mut connection = TcpStream::connect(request.uri().authority().expect("a host").as_str()).expect("a server");
        connection.write_all(b"POST /api/v4/jobs/request HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        connections.push(connection);
        thread::sleep(span - self.connects_in);
        (ticket, Err(self.overdue))
    }

    fn silence(&self) -> Result<(), String> {
        let mut connections = Vec::new();
        silence(&mut |call| self.exchange(call, &mut connections))
    }
}

#[test]
fn a_deadline_that_passes_is_kept() {
    assert_eq!(RIGHT.silence(), Ok(()));
}

#[test]
fn a_connection_that_takes_longer_than_the_deadline_is_given_more_time() {
    let slow = Fake { connects_in: Duration::from_millis(700), ..RIGHT };
    assert_eq!(slow.silence(), Ok(()));
    // A transport need not tell the two apart.
    assert_eq!(Fake { too_slow: Failure::TimedOut, ..slow }.silence(), Ok(()));
}

#[test]
fn what_was_sent_is_not_to_be_denied() {
    let told = Fake { overdue: Failure::NotSent, ..RIGHT }.silence();
    assert_eq!(told, Err("TimedOut was to come, got NotSent".to_owned()));
    let told = Fake { overdue: Failure::Unknown, ..RIGHT }.silence();
    assert_eq!(told, Err("TimedOut was to come, got Unknown".to_owned()));
    let slow = Fake { connects_in: Duration::from_millis(700), too_slow: Failure::Unknown, ..RIGHT };
    assert_eq!(slow.silence(), Err("TimedOut was to come, got Unknown".to_owned()));
}

#[test]
fn a_deadline_is_neither_cut_short_nor_ignored() {
    let told = Fake { waits: 0.5, ..RIGHT }.silence().unwrap_err();
    assert!(told.starts_with("it gave up after"), "{told}");
    let told = Fake { waits: 0.0, ..RIGHT }.silence().unwrap_err();
    assert!(told.starts_with("it gave up after") && told.ends_with("NotSent"), "{told}");
    let told = Fake { waits: 11.0, ..RIGHT }.silence().unwrap_err();
    assert!(told.starts_with("it took"), "{told}");
}
