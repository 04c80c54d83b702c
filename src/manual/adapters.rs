//! What a transport owes the machines. Normative.
//!
//! 1. Send the request unchanged: method, URI, headers, the bytes of the body. Add only what HTTP itself needs (`Host`,
//!    `Content-Length`, framing), and a `User-Agent` if there is none. An empty body of a `PATCH` still has its
//!    `Content-Length: 0`.
//! 2. Never follow a redirect: tokens must not travel. Never repeat a request, whatever [`Replay`](crate::Replay) says,
//!    unless your stack cannot be kept from it, and then only a [`Replay::Safe`](crate::Replay::Safe) one. Never make an
//!    error of a status. Do not decompress, or remove `Content-Encoding` if you do.
//! 3. Answer each ticket once. A driver that drops a future which owns one hands in
//!    [`Failure::Cancelled`](crate::Failure::Cancelled). Machines give a call up 30 s after its deadline, but that is a
//!    net, not a plan.
//! 4. Classify failures. [`Failure::NotSent`](crate::Failure::NotSent) only if *no* byte of the request can have reached
//!    the server; anything after that is `Unknown`, `TimedOut` or `Interrupted`. In doubt, `Unknown`.
//! 5. Enforce [`Hints::deadline`](crate::Hints::deadline), and report its passing as a failure, with no answer later. A
//!    job request may be held by the server for a minute and more: cutting it short can lose a job.
//! 6. Collect bodies as [`Hints::response`](crate::Hints::response) says, up to its limit. A larger body is
//!    [`Failure::TooLarge`](crate::Failure::TooLarge), or is cut where the hint says
//!    [`Truncate`](crate::ResponseBody::Truncate): it tells a login page from GitLab's answer. The body of an answer that is not
//!    2xx is always collected, and cut off at [`ERROR_BODY_LIMIT`](crate::ERROR_BODY_LIMIT): it tells GitLab's refusals from those
//!    of a firewall.
//! 7. Use a clock that is anchored once on Unix time and monotonic from there, such as an
//!    [`AnchoredClock`](crate::AnchoredClock). Hand in a fresh `now` with each call.
//! 8. After any input, poll until `Wait` or `Done` before you sleep, and sleep no longer than `Wait` says.
//! 9. Hold no lock of a machine across I/O.
//! 10. Log a [`Call`](crate::Call) by its `Debug`, which shows nothing secret. Never log a request, a URI with a query,
//!     or a body.
//! 11. Hand a late answer in all the same, if there is still a ticket for it. It is no error, also where the job was resumed
//!     meanwhile, and a late answer to a job request may be a job. A [`WrongMachine`](crate::WrongMachine) is a bug of the
//!     driver. It gives the ticket and the outcome back.
//!
//! The test kit's `conformance` module checks points 1 to 6 over a loopback server that misbehaves.
//!
//! | Call | Deadline | May be repeated | Body of a good answer |
//! |---|---|---|---|
//! | `POST /runners` | 30 s | never: it would make a second runner | collect |
//! | `POST /runners/verify` | 30 s | yes | collect |
//! | `POST /jobs/request` | 10 min, see [`with_job_request_deadline`](crate::RunnerConfig::with_job_request_deadline) | never: it would take a second job | collect, up to 64 MiB |
//! | `PATCH /jobs/:id/trace` | 60 s | yes, identical | discard |
//! | `PUT /jobs/:id` | 60 s | yes, identical | 4 KiB, cut |
