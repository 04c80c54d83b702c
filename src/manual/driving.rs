//! How to drive a machine.
//!
//! # One rule
//!
//! > After every input, poll again and again until the machine says `Wait` or `Done`, doing what it says in between.
//!
//! Inputs are: an answer or a failure handed in, a time that has come, and every verb of the application (`write`,
//! `finish`, `set_capacity`, `drain`, `supply_trace`, `saved`, …). [`poll`](crate::Machine::poll) fires what is due and
//! returns one [`Output`](crate::Output); there is no timer to forget and no order of calls to remember. Polling too
//! early or too often changes nothing.
//!
//! | Output | The driver |
//! |---|---|
//! | `Send(call)` | sends the request as it is, and brings the ticket back with the outcome, once |
//! | `Event(event)` | tells the application |
//! | `Wait(Some(time))` | sleeps until then, or until an input comes |
//! | `Wait(None)` | sleeps until an input comes |
//! | `Done` | drops the machine |
//!
//! # One job at a time, blocking
//!
//! This is a whole runner that runs its jobs one after the other. You implement the two traits.
//!
//! ```
//! use std::sync::Arc;
//!
//! use gitlab_runner_api::*;
//!
//! /// Your HTTP client: sends a request as it is, and returns whatever comes back.
//! trait Http {
//!     fn execute(&self, request: http::Request<Body>, hints: &Hints) -> Result<http::Response<Vec<u8>>, Failure>;
//! }
//!
//! /// Your way of running a script.
//! trait Exec {
//!     fn start(&mut self, job: &JobSpec);
//!     /// What the script has printed since the last call.
//!     fn output(&mut self) -> Vec<Vec<u8>>;
//!     /// The exit code, once the script has ended.
//!     fn exit_code(&self) -> Option<i32>;
//!     fn interrupt(&mut self);
//!     fn kill(&mut self);
//!     /// Blocks until the script prints or ends, but no longer than until this time. `None` sets no time.
//!     fn wait_until(&self, time: Option<Timestamp>);
//! }
//!
//! fn clock() -> Timestamp {
//!     std::time::SystemTime::now().into()
//! }
//!
//! fn exchange<M: Machine>(http: &impl Http, machine: &mut M, call: Call) -> Result<(), Misuse> {
//!     let (request, ticket) = call.split();
//!     match http.execute(request, ticket.hints()) {
//!         Ok(response) => machine.handle_response(ticket, response, clock()),
//!         Err(failure) => machine.handle_failure(ticket, failure, clock()),
//!     }
//! }
//!
//! fn serve(config: Arc<RunnerConfig>, http: &impl Http, mut poller: Poller, exec: &mut impl Exec) -> Result<(), Misuse> {
//!     let mut current: Option<Job> = None;
//!     loop {
//!         let Some(job) = &mut current else {
//!             poller.set_capacity(1); // hold the slot first, then ask
//!             match poller.poll(clock()) {
//!                 Output::Send(call) => exchange(http, &mut poller, call)?,
//!                 Output::Event(PollerEvent::Assigned(assignment)) => {
//!                     exec.start(assignment.spec());
//!                     current = Some(Job::new(config.clone(), &assignment, clock()));
//!                 }
//!                 Output::Event(PollerEvent::Unreadable(job)) => current = Some(job),
//!                 Output::Event(event) => eprintln!("{event:?}"), // it goes on by itself
//!                 // No script runs that could end this wait: the poller must say when it goes on.
//!                 Output::Wait(Some(until)) => std::thread::sleep(until.saturating_since(clock())),
//!                 // It never does with a capacity of one. If it did, nothing here could ever wake it.
//!                 Output::Wait(None) => return Ok(()),
//!                 Output::Done => return Ok(()),
//!             }
//!             continue;
//!         };
//!         for chunk in exec.output() {
//!             job.write_to(Stream::Stdout, chunk);
//!         }
//!         if let Some(code) = exec.exit_code() {
//!             job.finish(JobResult::from_exit_code(code)); // the first call counts
//!         }
//!         match job.poll(clock()) {
//!             Output::Send(call) => exchange(http, job, call)?,
//!             Output::Event(JobEvent::CancelRequested | JobEvent::TimedOut) => exec.interrupt(),
//!             Output::Event(JobEvent::Aborted(_)) => exec.kill(),
//!             Output::Event(event) => eprintln!("{event:?}"),
//!             Output::Wait(until) => exec.wait_until(until),
//!             Output::Done => {
//!                 current = None;
//! #               poller.drain();
//!             }
//!         }
//!     }
//! }
//! # struct Answers;
//! # impl Http for Answers {
//! #     fn execute(&self, request: http::Request<Body>, hints: &Hints) -> Result<http::Response<Vec<u8>>, Failure> {
//! #         let status = match hints.kind {
//! #             CallKind::RequestJob => 201,
//! #             CallKind::PatchTrace => 202,
//! #             _ => 200,
//! #         };
//! #         Ok(http::Response::builder().status(status).body(br#"{"id":1,"token":"t"}"#.to_vec()).unwrap())
//! #     }
//! # }
//! # struct Script { code: Option<i32> }
//! # impl Exec for Script {
//! #     fn start(&mut self, _: &JobSpec) { self.code = Some(0); }
//! #     fn output(&mut self) -> Vec<Vec<u8>> { vec![b"hello\n".to_vec()] }
//! #     fn exit_code(&self) -> Option<i32> { self.code }
//! #     fn interrupt(&mut self) {}
//! #     fn kill(&mut self) {}
//! #     fn wait_until(&self, _: Option<Timestamp>) {}
//! # }
//! # let config = RunnerConfig::new(Server::parse("https://h").unwrap(), api::info::Info::new("r", "1"));
//! # let config = Arc::new(config);
//! # let poller = Poller::new(config.clone(), RunnerToken::new("t").unwrap(), clock());
//! # serve(config, &Answers, poller, &mut Script { code: None }).unwrap();
//! ```
//!
//! # Many jobs
//!
//! Each job is a machine of its own, with at most one call on the wire, so that a slow call of one delays no other. Give
//! each a thread (as the ureq adapter does), or keep them in a map, poll those that had an input or whose time has come,
//! and hold the calls on the wire in whatever your runtime has for that. A machine is `Send`.
//!
//! An idle job that has written one line takes about 5 KB of memory with [`Retain::Unacknowledged`](crate::Retain) and about
//! 21 KB with `Retain::All`, which keeps the log in blocks of 16 KiB. A job with ten masked values of 40 bytes takes about
//! 34 KB, because the values are prepared for a fast search. The payload of the job comes on top of that.
//!
//! # What one machine cannot know
//!
//! GitLab's rate limits count per token and per host. A job waits by itself when its own call is refused; share one
//! [`Throttle`](crate::Throttle) between all machines, so that the others hear of it too. It is two lines:
//!
//! ```
//! use gitlab_runner_api::{Machine, Throttle, Ticket, Timestamp};
//!
//! fn before_each_poll(throttle: &Throttle, machine: &mut impl Machine) {
//!     throttle.hold(machine);
//! }
//!
//! fn after_each_answer(throttle: &mut Throttle, ticket: &Ticket, response: &http::Response<Vec<u8>>, now: Timestamp) {
//!     throttle.observe(ticket.scope(), response.status(), response.headers(), response.body(), now);
//! }
//! ```
//!
//! # Stopping
//!
//! | To | Do |
//! |---|---|
//! | take no more jobs | [`Poller::drain`](crate::Poller::drain), and go on until `Done`: the answer on the wire may be a job |
//! | stop now, and go on later | take each job's [`snapshot`](crate::Job::snapshot), drop everything, [`resume`](crate::Job::resume) |
//! | hand a job to another process | the same, with [`abandon`](crate::Job::abandon) before anything else is polled |
//! | give a job up | [`finish`](crate::Job::finish) it with `runner_system_failure`, and go on until `Done` |
