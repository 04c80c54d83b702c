//! Does a transport keep the contract of [`gitlab_runner_api::manual::adapters`]?
//!
//! [`check`] puts a transport through calls to a loopback server that misbehaves in all the ways that matter: it redirects,
//! breaks off, says nothing, says too much. It needs nothing of the transport but a function that performs a [`Call`].
//!
//! ```no_run
//! use gitlab_runner_api::Call;
//! use gitlab_runner_api_testkit::conformance::{Exchanged, check};
//!
//! /// For a test of yours. `exchange` performs one call with your transport.
//! fn assert_contract(exchange: impl FnMut(Call) -> Exchanged) {
//!     let report = check(exchange);
//!     assert!(report.is_good(), "{report}");
//! }
//! ```

mod calls;
mod scripted;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gitlab_runner_api::{Call, ERROR_BODY_LIMIT, Failure, Ticket};
use http::Response;

use scripted::{Act, Scripted};

/// What a transport makes of a call.
pub type Exchanged = (Ticket, Result<Response<Bytes>, Failure>);

/// The outcome of [`check`]. `Display` lists every case, and what is wrong with those that failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Each case with what is wrong, if anything is.
    pub cases: Vec<(&'static str, Result<(), String>)>,
}

impl Report {
    /// Whether every case passed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.cases.iter().all(|(_, result)| result.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, result) in &self.cases {
            match result {
                Ok(()) => writeln!(f, "ok      {name}")?,
                Err(problem) => writeln!(f, "FAILED  {name}: {problem}")?,
            }
        }
        Ok(())
    }
}

type Transport<'a> = &'a mut dyn FnMut(Call) -> Exchanged;
type Case = (&'static str, fn(Transport<'_>) -> Result<(), String>);

const CASES: &[Case] = &[
    ("a request arrives as it was made", request_unchanged),
    ("a body of many chunks arrives whole, with its length", chunks_whole),
    ("an empty patch has a Content-Length of 0", empty_patch),
    ("a redirect is an answer and is not followed", redirects),
    ("a redirect to another server brings it nothing", redirect_elsewhere),
    ("every status is an answer, with its headers and body", statuses),
    ("an interim answer is not the answer", interim),
    ("a body without a length ends with the connection", close_delimited),
    ("an encoded body is left alone, or decoded and no longer called encoded", encoded),
    ("a refused connection is NotSent", refused),
    ("a name that does not exist is NotSent", unresolvable),
    ("a connection closed without an answer is Unknown, and nothing is sent again", closed),
    ("a kept connection that breaks is a failure, and nothing is sent again", kept_and_closed),
    ("an answer that breaks off in its head is Unknown", broken_head),
    ("an answer that breaks off in its body is Interrupted or Unknown", broken_body),
    ("a 503 is not retried, whatever it says", no_retry),
    ("silence is TimedOut when the deadline has passed", silence),
    ("an answer that trickles is TimedOut when the deadline has passed", trickle),
    ("an answer that comes too late is nobody's", late),
    ("a body over its limit is TooLarge", too_large),
    ("the body of a refusal is cut off and no failure", long_refusal),
    ("a body that may be cut is cut at its limit and no failure", cut),
    ("one call after the other works", sequence),
];

/// Puts a transport through all cases. Takes about two seconds.
pub fn check(mut exchange: impl FnMut(Call) -> Exchanged) -> Report {
    Report { cases: CASES.iter().map(|(name, case)| (*name, case(&mut exchange))).collect() }
}

/// The same through a door before each server: it is given the server's address, and returns the URL to use instead, of a
/// TLS front for instance.
pub fn check_through(
    door: impl Fn(std::net::SocketAddr) -> String + 'static,
    exchange: impl FnMut(Call) -> Exchanged,
) -> Report {
    scripted::set_door(Some(std::rc::Rc::new(door)));
    let report = check(exchange);
    scripted::set_door(None);
    report
}

fn expect(condition: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(problem()) }
}

fn answer(head: &str, body: &[u8]) -> Act {
    let mut bytes = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Act::Send(bytes)
}

fn got(outcome: &Result<Response<Bytes>, Failure>) -> String {
    match outcome {
        Ok(response) => format!("{} with {} bytes", response.status(), response.body().len()),
        Err(failure) => format!("{failure:?}"),
    }
}

fn failed_as(outcome: &Result<Response<Bytes>, Failure>, wanted: Failure) -> Result<(), String> {
    expect(outcome.as_ref().err() == Some(&wanted), || format!("{wanted:?} was to come, got {}", got(outcome)))
}

fn request_unchanged(exchange: Transport<'_>) -> Result<(), String> {
    for (make, status) in [(calls::verify as fn(&str) -> Call, "200 OK"), (calls::patch, "202 Accepted")] {
        let server = Scripted::start(move |_| vec![answer(status, b"{\"id\":1}")]);
        // The same inputs make the same request, byte for byte.
        let (wanted, _) = make(&server.url()).split();
        let (_, outcome) = exchange(make(&server.url()));
        outcome.map_err(|failure| format!("{failure:?}"))?;
        let seen = server.only_request()?;
        let target = wanted.uri().path_and_query().map_or("", |target| target.as_str());
        expect(seen.method == wanted.method().as_str() && seen.target == target, || {
            format!("{} {}", seen.method, seen.target)
        })?;
        for (name, value) in wanted.headers() {
            let arrived = seen.header(name.as_str());
            expect(arrived == [value.as_bytes()], || format!("header {name} arrived {} times", arrived.len()))?;
        }
        let body = wanted.into_body().into_bytes();
        expect(seen.body == body, || format!("{} bytes of {} arrived", seen.body.len(), body.len()))?;
        expect(seen.header("host").len() == 1, || "there is no Host".to_owned())?;
        for added in ["accept-encoding", "transfer-encoding", "expect", "authorization", "cookie"] {
            expect(seen.header(added).is_empty(), || format!("the transport added {added}"))?;
        }
    }
    Ok(())
}

fn chunks_whole(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| vec![answer("202 Accepted", b"")]);
    let (wanted, _) = calls::long_patch(&server.url()).split();
    let (_, outcome) = exchange(calls::long_patch(&server.url()));
    outcome.map_err(|failure| format!("{failure:?}"))?;
    let seen = server.only_request()?;
    expect(wanted.body().chunks().len() > 1, || "the core made one chunk of it".to_owned())?;
    let body = wanted.into_body().into_bytes();
    expect(seen.header("content-length") == [body.len().to_string().as_bytes()], || "the length is wrong".to_owned())?;
    expect(seen.header("transfer-encoding").is_empty(), || "it was sent in chunks".to_owned())?;
    expect(seen.body == body, || "the body is not the one sent".to_owned())
}

fn empty_patch(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| vec![answer("202 Accepted", b"")]);
    let (_, outcome) = exchange(calls::empty_patch(&server.url()));
    outcome.map_err(|failure| format!("{failure:?}"))?;
    let seen = server.only_request()?;
    expect(seen.header("transfer-encoding").is_empty(), || "it was sent in chunks".to_owned())?;
    expect(seen.header("content-length") == [b"0"], || {
        format!("{} Content-Length headers", seen.header("content-length").len())
    })
}

fn redirects(exchange: Transport<'_>) -> Result<(), String> {
    for status in [301, 302, 303, 307, 308] {
        let server =
            Scripted::start(move |_| vec![answer(&format!("{status} Elsewhere\r\nLocation: /api/v4/elsewhere"), b"")]);
        let (_, outcome) = exchange(calls::verify(&server.url()));
        let response = outcome.map_err(|failure| format!("{status}: {failure:?}"))?;
        expect(response.status() == status, || format!("{status} came home as {}", response.status()))?;
        let location = response.headers().get("location").map(http::HeaderValue::as_bytes);
        expect(location == Some(b"/api/v4/elsewhere"), || format!("{status}: its Location is gone"))?;
        server.only_request()?;
    }
    Ok(())
}

fn redirect_elsewhere(exchange: Transport<'_>) -> Result<(), String> {
    let elsewhere = Scripted::start(|_| vec![answer("200 OK", b"{\"id\":1}")]);
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{status} Elsewhere\r\nLocation: {}/api/v4/elsewhere", elsewhere.url());
        let server = Scripted::start(move |_| vec![answer(&to, b"")]);
        let (_, outcome) = exchange(calls::patch(&server.url()));
        expect(outcome.as_ref().is_ok_and(|response| response.status() == status), || got(&outcome))?;
        server.only_request()?;
    }
    let count = elsewhere.requests().len();
    expect(count == 0, || format!("{count} requests arrived elsewhere"))
}

fn statuses(exchange: Transport<'_>) -> Result<(), String> {
    for status in [200, 201, 202, 400, 401, 403, 404, 407, 409, 410, 413, 416, 422, 429, 500, 502, 503, 504, 599] {
        let server = Scripted::start(move |_| {
            vec![answer(&format!("{status} Some\r\nJob-Status: running\r\nRange: 0-7"), b"{\"id\":1}")]
        });
        let (_, outcome) = exchange(calls::verify(&server.url()));
        let response = outcome.map_err(|failure| format!("{status}: {failure:?}"))?;
        expect(response.status() == status, || format!("{status} came home as {}", response.status()))?;
        let (said, range) = (response.headers().get("job-status"), response.headers().get("range"));
        expect(said.is_some_and(|v| v == "running") && range.is_some_and(|v| v == "0-7"), || {
            format!("{status}: headers")
        })?;
        expect(response.body() == "{\"id\":1}", || format!("{status}: the body is {} bytes", response.body().len()))?;
    }
    let server = Scripted::start(|_| vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())]);
    let (_, outcome) = exchange(calls::verify(&server.url()));
    expect(outcome.as_ref().is_ok_and(|response| response.status() == 204), || got(&outcome))
}

fn interim(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| {
        vec![Act::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()), answer("200 OK", b"{\"id\":1}")]
    });
    let (_, outcome) = exchange(calls::verify(&server.url()));
    expect(outcome.as_ref().is_ok_and(|response| response.status() == 200), || got(&outcome))
}

fn close_delimited(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| {
        vec![Act::Send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{\"id\":1}".to_vec()), Act::Close]
    });
    let (_, outcome) = exchange(calls::verify(&server.url()));
    expect(outcome.as_ref().is_ok_and(|response| response.body() == "{\"id\":1}"), || got(&outcome))
}

fn encoded(exchange: Transport<'_>) -> Result<(), String> {
    // `hello`, compressed by gzip.
    const GZIP: &[u8] =
        &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10, 0x36, 5, 0, 0, 0];
    let server = Scripted::start(|_| vec![answer("200 OK\r\nContent-Encoding: gzip", GZIP)]);
    let (_, outcome) = exchange(calls::verify(&server.url()));
    let response = outcome.map_err(|failure| format!("{failure:?}"))?;
    let good = match response.headers().get("content-encoding") {
        Some(_) => response.body() == GZIP,
        None => response.body() == "hello",
    };
    expect(good, || "header and body do not agree".to_owned())
}

fn refused(exchange: Transport<'_>) -> Result<(), String> {
    let url = Scripted::start(|_| Vec::new()).url();
    failed_as(&exchange(calls::verify(&url)).1, Failure::NotSent)
}

fn unresolvable(exchange: Transport<'_>) -> Result<(), String> {
    failed_as(&exchange(calls::verify("http://no-such-host.invalid")).1, Failure::NotSent)
}

fn closed(exchange: Transport<'_>) -> Result<(), String> {
    for make in [calls::verify as fn(&str) -> Call, calls::request_job, calls::patch] {
        let server = Scripted::start(|_| vec![Act::Close]);
        failed_as(&exchange(make(&server.url())).1, Failure::Unknown)?;
        server.only_request()?;
    }
    Ok(())
}

/// Clients like to believe that a server which closes a kept connection has not seen what they sent last.
fn kept_and_closed(exchange: Transport<'_>) -> Result<(), String> {
    for make in [calls::verify as fn(&str) -> Call, calls::request_job, calls::patch] {
        let server =
            Scripted::start(
                |number| if number == 0 { vec![answer("200 OK", b"{\"id\":1}")] } else { vec![Act::Close] },
            );
        let (_, first) = exchange(calls::verify(&server.url()));
        first.map_err(|failure| format!("{failure:?}"))?;
        failed_as(&exchange(make(&server.url())).1, Failure::Unknown)?;
        let count = server.requests().len();
        expect(count == 2, || format!("{} requests arrived, not 1", count.saturating_sub(1)))?;
    }
    Ok(())
}

fn broken_head(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), Act::Close]);
    failed_as(&exchange(calls::request_job(&server.url())).1, Failure::Unknown)?;
    server.only_request().map(drop)
}

fn broken_body(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| {
        vec![Act::Send(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n0123456789".to_vec()), Act::Close]
    });
    let (_, outcome) = exchange(calls::request_job(&server.url()));
    server.only_request()?;
    let broken = matches!(outcome, Err(Failure::Unknown | Failure::Interrupted { received: 10, .. }));
    expect(broken, || format!("a broken body was to come, got {}", got(&outcome)))
}

fn no_retry(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| vec![answer("503 Service Unavailable\r\nRetry-After: 0", b"")]);
    let (_, outcome) = exchange(calls::verify(&server.url()));
    expect(outcome.as_ref().is_ok_and(|response| response.status() == 503), || got(&outcome))?;
    server.only_request().map(drop)
}

/// The first deadline of a call that is to miss it. Short, so that a quick machine does not wait.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(300);

/// The last one. A connection that takes longer, with the handshakes of a proxy and of TLS, is the transport's fault.
const LONGEST_DEADLINE: Duration = Duration::from_secs(5);

/// Makes a job request to a server that does not answer it in time, and holds the transport to the deadline. `start` makes
/// the server for a deadline; the one that the request arrived at is returned, with the deadline.
///
/// On a busy machine the deadline may pass before there is a connection. The transport is then right to say that nothing was
/// sent, but this says nothing about the case. So the case is repeated with twice the deadline.
fn overdue(exchange: Transport<'_>, start: impl Fn(Duration) -> Scripted) -> Result<(Scripted, Duration), String> {
    let mut unsent = Vec::new();
    let mut deadline = SHORTEST_DEADLINE;
    loop {
        let server = start(deadline);
        let started = Instant::now();
        let (_, outcome) = exchange(calls::request_job_within(&server.url(), deadline));
        let took = started.elapsed();
        let arrived = !server.requests().is_empty();
        let is_unsent = outcome.as_ref().err() == Some(&Failure::NotSent);
        if arrived || !is_unsent {
            failed_as(&outcome, Failure::TimedOut)?;
        }
        expect(took >= deadline - Duration::from_millis(50), || {
            format!("it gave up after {took:?}: {}", got(&outcome))
        })?;
        expect(took < deadline * 10, || format!("it took {took:?}"))?;
        if arrived {
            server.only_request()?;
            // A request that was on its way when the transport denied it has arrived by now.
            let denied = unsent.iter().filter(|server: &&Scripted| !server.requests().is_empty()).count();
            expect(denied == 0, || format!("{denied} requests arrived that were told to be NotSent"))?;
            return Ok((server, deadline));
        }
        expect(deadline < LONGEST_DEADLINE, || format!("no request arrived within {deadline:?}"))?;
        if is_unsent {
            unsent.push(server);
        }
        deadline *= 2;
    }
}

fn silence(exchange: Transport<'_>) -> Result<(), String> {
    overdue(exchange, |deadline| Scripted::start(move |_| vec![Act::Pause(deadline * 20)])).map(drop)
}

fn trickle(exchange: Transport<'_>) -> Result<(), String> {
    let start = |deadline: Duration| {
        let drops = std::iter::repeat_n([Act::Send(b"x".to_vec()), Act::Pause(deadline / 4)], 80).flatten();
        let head = Act::Send(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n".to_vec());
        let script: Vec<_> = std::iter::once(head).chain(drops).collect();
        Scripted::start(move |_| script.clone())
    };
    overdue(exchange, start).map(drop)
}

fn late(exchange: Transport<'_>) -> Result<(), String> {
    let start = |deadline: Duration| {
        Scripted::start(move |number| {
            let pause = if number == 0 { deadline * 2 } else { Duration::ZERO };
            vec![Act::Pause(pause), answer("200 OK", format!("{{\"id\":{number}}}").as_bytes())]
        })
    };
    let (server, deadline) = overdue(exchange, start)?;
    std::thread::sleep(deadline * 2);
    let (_, outcome) = exchange(calls::verify(&server.url()));
    let own = outcome.as_ref().is_ok_and(|response| response.body() == "{\"id\":1}");
    expect(own, || format!("a call was given the answer to an earlier one: {}", got(&outcome)))
}

fn too_large(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|_| vec![answer("200 OK", &vec![b' '; 2 << 20])]);
    failed_as(&exchange(calls::verify(&server.url())).1, Failure::TooLarge)
}

fn long_refusal(exchange: Transport<'_>) -> Result<(), String> {
    for make in [calls::verify as fn(&str) -> Call, calls::patch] {
        let server = Scripted::start(|_| vec![answer("403 Forbidden", &vec![b'x'; 200 << 10])]);
        let (_, outcome) = exchange(make(&server.url()));
        let response = outcome.map_err(|failure| format!("{failure:?}"))?;
        let length = response.body().len() as u64;
        expect(response.status() == 403 && length == ERROR_BODY_LIMIT, || {
            format!("{} with {length} bytes", response.status())
        })?;
    }
    Ok(())
}

fn cut(exchange: Transport<'_>) -> Result<(), String> {
    for length in [10, 4096, 200 << 10] {
        let server = Scripted::start(move |_| vec![answer("200 OK", &vec![b'x'; length])]);
        let (_, outcome) = exchange(calls::accept(&server.url()));
        let response = outcome.map_err(|failure| format!("{failure:?}"))?;
        expect(response.status() == 200 && response.body().len() == length.min(4096), || {
            format!("{} with {} of {length} bytes", response.status(), response.body().len())
        })?;
    }
    Ok(())
}

fn sequence(exchange: Transport<'_>) -> Result<(), String> {
    let server = Scripted::start(|number| vec![answer("200 OK", format!("{{\"id\":{number}}}").as_bytes())]);
    for number in 0..5 {
        let (_, outcome) = exchange(calls::verify(&server.url()));
        let wanted = format!("{{\"id\":{number}}}");
        expect(outcome.as_ref().is_ok_and(|response| response.body() == &wanted), || got(&outcome))?;
    }
    let count = server.requests().len();
    expect(count == 5, || format!("{count} requests arrived"))
}

#[cfg(test)]
mod tests;
