//! A [`Call`] to hyper and back, by the contract of [`gitlab_runner_api::manual::adapters`].

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use gitlab_runner_api::{Call, ERROR_BODY_LIMIT, Failure, Hints, HttpOptions, ResponseBody, Ticket};
use http::header::{CONTENT_LENGTH, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::Body;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower_service::Service;

use crate::body::RequestBody;
use crate::connect::{self, Connector};
use crate::error::Error;
use crate::lock;

/// tokio adds deadlines to the system's clock, which ends somewhere. No call takes a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A kept connection that the server closed meanwhile would make it uncertain whether a job request arrived.
const IDLE: Duration = Duration::from_secs(10);

type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Trouble>> + Send>>;
type Carry = dyn Fn(Request<RequestBody>, Hints) -> Exchanging + Send + Sync;

/// Performs calls with hyper, or with a service of yours. Cloning shares the connections.
///
/// It follows no redirect, repeats nothing, takes every status for an answer, and speaks HTTP/1.1. Connections are reused
/// for a few seconds only.
#[derive(Clone)]
pub struct Transport {
    carry: Arc<Carry>,
}

impl Transport {
    /// A transport of its own connections, which trusts the certificates that the operating system trusts, and uses no
    /// proxy.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if TLS cannot be set up.
    pub fn new() -> Result<Self, Error> {
        Self::with_options(&HttpOptions::new())
    }

    /// The same with certificates and proxies of yours.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if a certificate or a key cannot be read.
    pub fn with_options(options: &HttpOptions) -> Result<Self, Error> {
        Ok(Self::pooled(connect::with_options(options)?))
    }

    fn pooled(connector: Connector) -> Self {
        let forwarding = connector.clone();
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .retry_canceled_requests(false)
            .build::<_, RequestBody>(connector);
        let prepare = move |request: &mut Request<RequestBody>| forwarding.authorize(request);
        Self::carried(client, prepare, classify, in_words)
    }

    /// A transport that hands requests to a service of yours: a client with middleware, or another client.
    ///
    /// The service must not follow redirects, repeat requests, or make errors of statuses. Each request has its
    /// [`Hints`] among its extensions. Deadlines and the limits of bodies are seen to here. All its errors mean that the
    /// request may have arrived; see [`Transport::from_service_with`].
    #[must_use]
    pub fn from_service<S, B>(service: S) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
    {
        Self::from_service_with(service, |_| Failure::Unknown)
    }

    /// The same with a function that says what an error means. It must say [`Failure::NotSent`] only if no byte of the
    /// request can have left: a job request that is wrongly believed unsent loses a job without a word.
    #[must_use]
    pub fn from_service_with<S, B>(service: S, classify: impl Fn(&S::Error) -> Failure + Send + Sync + 'static) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
    {
        let classify = Arc::new(classify);
        let words = classify.clone();
        // What a service of somebody else writes into its errors may quote the request.
        Self::carried(service, |_| {}, move |error| classify(error), move |error| words(error).to_string())
    }

    fn carried<S, B>(
        service: S,
        prepare: impl Fn(&mut Request<RequestBody>) + Send + Sync + 'static,
        classify: impl Fn(&S::Error) -> Failure + Send + Sync + 'static,
        in_words: impl Fn(&S::Error) -> String + Send + Sync + 'static,
    ) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        B: Body + Send + 'static,
        B::Data: Send,
    {
        // In a mutex, because a service need not be usable from several threads at once, but its clones are.
        let service = Mutex::new(service);
        let trouble = Arc::new(move |error: &S::Error| Trouble { failure: classify(error), why: in_words(error) });
        let carry = move |mut request: Request<RequestBody>, hints: Hints| -> Exchanging {
            prepare(&mut request);
            let (mut service, trouble) = (lock(&service).clone(), trouble.clone());
            Box::pin(async move {
                let exchange = async {
                    poll_fn(|context| service.poll_ready(context)).await.map_err(|error| trouble(&error))?;
                    let response = service.call(request).await.map_err(|error| trouble(&error))?;
                    let (head, body) = response.into_parts();
                    let bytes = collect(body, head.status.is_success(), hints.response).await?;
                    Ok(Response::from_parts(head, bytes))
                };
                let timely = tokio::time::timeout(hints.deadline.min(LONGEST), exchange).await;
                timely.unwrap_or_else(|_| Err(Failure::TimedOut.into()))
            })
        };
        Self { carry: Arc::new(carry) }
    }

    /// Sends the request, and waits for its answer or for its deadline to pass. Needs a tokio runtime with time and I/O.
    ///
    /// Hand both results to the machine that made the call. Whoever drops the future has lost the ticket: a machine then
    /// waits until the deadline has passed.
    pub async fn exchange(&self, call: Call) -> (Ticket, Result<Response<Bytes>, Failure>) {
        let (ticket, outcome) = self.perform(call).await;
        (ticket, outcome.map_err(|trouble| trouble.failure))
    }

    /// The same, with the cause of a failure in words.
    pub(crate) async fn perform(&self, call: Call) -> (Ticket, Result<Response<Bytes>, Trouble>) {
        let (mut request, ticket) = call.into_request_with_extensions();
        let length = HeaderValue::from(request.body().len());
        let headers = request.headers_mut();
        headers.insert(CONTENT_LENGTH, length);
        let agent = concat!("gitlab-runner-api-hyper/", env!("CARGO_PKG_VERSION"));
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(agent));
        let outcome = (self.carry)(request.map(RequestBody::from), ticket.hints().clone()).await;
        (ticket, outcome)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// Why there is no answer: for the machine, and for people.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) failure: Failure,
    pub(crate) why: String,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self { failure, why: failure.to_string() }
    }
}

/// Reads a body as far as it is wanted.
async fn collect<B: Body>(body: B, is_success: bool, wanted: ResponseBody) -> Result<Bytes, Failure> {
    let (limit, strict) = match wanted {
        ResponseBody::Collect { limit, .. } if is_success => (limit, true),
        ResponseBody::Truncate { limit, .. } if is_success => (limit, false),
        // What it says does not matter, but reading it lets the connection be used again.
        _ => (ERROR_BODY_LIMIT, false),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut body = pin!(body);
    let mut bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(_) if strict => return Err(Failure::interrupted(bytes.len() as u64)),
            // The head has come, and the body of a refusal that broke off is still worth its status.
            Err(_) => break,
        };
        let Ok(mut data) = frame.into_data() else { continue };
        let room = limit.saturating_sub(bytes.len());
        if data.remaining() > room {
            if strict {
                return Err(Failure::TooLarge);
            }
            bytes.extend_from_slice(&data.copy_to_bytes(room));
            break;
        }
        bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    Ok(bytes.freeze())
}

/// A request has not left if there was no connection yet; of everything later nobody knows.
fn classify(error: &legacy::Error) -> Failure {
    if error.is_connect() { Failure::NotSent } else { Failure::Unknown }
}

/// The innermost cause, which is the operating system's or rustls', and quotes no request.
fn in_words(error: &legacy::Error) -> String {
    let mut innermost: &dyn StdError = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
