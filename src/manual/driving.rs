//! How to drive a machine.
//!
//! # One rule
//!
//! > After every input, poll again and again until the state machine says `Wait` or `Done`, doing what it says in between.
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
//! | `Done` | drops the state machine |
//!
//! # One job at a time, blocking
//!
//! This is a whole runner that runs its jobs one after the other. You implement the two traits.
//!
//! ```
//! use std::sync::{Arc, LazyLock};
//! use std::time::{Instant, SystemTime};
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
//! /// The time: anchored once on Unix time, monotonic from there.
//! fn clock() -> Timestamp {
//!     static CLOCK: LazyLock<AnchoredClock> = LazyLock::new(|| AnchoredClock::new(SystemTime::now(), Instant::now()));
//!     CLOCK.at(Instant::now())
//! }
//!
//! fn exchange<M: Machine>(http: &impl Http, machine: &mut M, call: Call) -> Result<(), WrongMachine> {
//!     let (request, ticket) = call.split();
//!     let outcome = http.execute(request, ticket.hints());
//!     machine.handle_outcome(ticket, outcome, clock())
//! }
//!
//! fn serve(
//!     config: Arc<RunnerConfig>,
//!     http: &impl Http,
//!     mut poller: Poller,
//!     exec: &mut impl Exec,
//! ) -> Result<(), WrongMachine> {
//!     let mut current: Option<Job> = None;
//!     loop {
//!         let Some(job) = &mut current else {
//!             poller.set_capacity(1); // hold the slot first, then ask
//!             match poller.poll(clock()) {
//!                 Output::Send(call) => exchange(http, &mut poller, call)?,
//!                 Output::Event(PollerEvent::Assigned(assignment)) => {
//!                     current = Some(Job::new(config.clone(), &assignment, clock()));
//!                 }
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
//!             // A job that cannot be run never says so, and fails by itself.
//!             Output::Event(JobEvent::Accepted) => exec.start(job.spec()),
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
//! # A hundred jobs from one thread
//!
//! Each job is a state machine of its own, with at most one call in flight, so that a slow call of one delays no other. Give each a
//! thread, as the ureq adapter does, or keep them in a map. This driver polls the jobs that had an input or whose time has come. It has
//! at most so many calls in flight as you allow, and sends those first that are most urgent ([`Priority`](crate::Priority)).
//!
//! ```
//! use std::cmp::Reverse;
//! use std::collections::{BTreeMap, BTreeSet};
//!
//! use gitlab_runner_api::*;
//!
//! /// Your HTTP client with many requests in flight: curl's multi interface, for example, or a channel to a pool of threads.
//! trait Http {
//!     fn now(&self) -> Timestamp;
//!     fn start(&mut self, job: u64, request: http::Request<Body>, ticket: Ticket);
//!     /// Waits until a request has ended, but no longer than until this time.
//!     fn wait(&mut self, until: Option<Timestamp>) -> Option<Ended>;
//! }
//!
//! struct Ended {
//!     job: u64,
//!     ticket: Ticket,
//!     outcome: Result<http::Response<bytes::Bytes>, Failure>,
//! }
//!
//! fn drive(mut jobs: BTreeMap<u64, Job>, http: &mut impl Http, most: usize) -> Result<(), WrongMachine> {
//!     // When each job is to be polled. Once too often does no harm.
//!     let mut due: BTreeSet<(Timestamp, u64)> = jobs.keys().map(|id| (Timestamp::EPOCH, *id)).collect();
//!     // Calls that wait for a connection.
//!     let mut ready: Vec<(u64, Call)> = Vec::new();
//!     let mut in_flight = 0;
//!     while !jobs.is_empty() {
//!         while let Some((time, id)) = due.pop_first() {
//!             if time > http.now() {
//!                 due.insert((time, id));
//!                 break;
//!             }
//!             let Some(job) = jobs.get_mut(&id) else { continue };
//!             loop {
//!                 match job.poll(http.now()) {
//!                     Output::Send(call) => ready.push((id, call)),
//!                     Output::Event(event) => println!("job {id}: {event:?}"),
//!                     Output::Wait(until) => {
//!                         due.extend(until.map(|until| (until, id)));
//!                         break;
//!                     }
//!                     Output::Done => {
//!                         jobs.remove(&id);
//!                         break;
//!                     }
//!                 }
//!             }
//!         }
//!         // The most urgent one is the last.
//!         ready.sort_by_key(|(_, call)| Reverse(call.hints().priority));
//!         while in_flight < most {
//!             let Some((id, call)) = ready.pop() else { break };
//!             let (request, ticket) = call.split();
//!             http.start(id, request, ticket);
//!             in_flight += 1;
//!         }
//!         // A job that waits for the application alone is not in `due`. Whoever writes to it puts it there.
//!         if let Some(Ended { job: id, ticket, outcome }) = http.wait(due.first().map(|(time, _)| *time)) {
//!             in_flight -= 1;
//!             if let Some(job) = jobs.get_mut(&id) {
//!                 job.handle_outcome(ticket, outcome, http.now())?;
//!                 due.insert((http.now(), id));
//!             }
//!         }
//!     }
//!     Ok(())
//! }
//! # use gitlab_runner_api_testkit::{Answer, Coordinator, JobStatus, NewJob, Settings};
//! # use std::collections::VecDeque;
//! # use std::sync::Arc;
//! # struct Simulated { gitlab: Coordinator, now: Timestamp, sent: VecDeque<(u64, http::Request<Body>, Ticket)>, most: usize }
//! # impl Http for Simulated {
//! #     fn now(&self) -> Timestamp { self.now }
//! #     fn start(&mut self, job: u64, request: http::Request<Body>, ticket: Ticket) {
//! #         self.sent.push_back((job, request, ticket));
//! #         self.most = self.most.max(self.sent.len());
//! #     }
//! #     fn wait(&mut self, until: Option<Timestamp>) -> Option<Ended> {
//! #         let Some((job, request, ticket)) = self.sent.pop_front() else {
//! #             self.now = self.now.max(until.expect("no job waits for an application that does nothing"));
//! #             return None;
//! #         };
//! #         let Answer::Now(answer) = self.gitlab.submit(self.now, request.map(Body::into_bytes)) else { panic!("held") };
//! #         Some(Ended { job, ticket, outcome: Ok(answer) })
//! #     }
//! # }
//! # let now = Timestamp::from_millis(1_750_000_000_000);
//! # let config = RunnerConfig::new(Server::parse("https://gitlab.example.test").unwrap(), api::info::Info::new("r", "1"));
//! # let config = Arc::new(config);
//! # let mut gitlab = Coordinator::new(Settings::default());
//! # gitlab.add_runner("glrt-hundred");
//! # for _ in 0..100 { gitlab.queue(now, NewJob::new("one of many")); }
//! # let mut http = Simulated { gitlab, now, sent: VecDeque::new(), most: 0 };
//! # let mut poller = Poller::new(config.clone(), RunnerToken::new("glrt-hundred").unwrap(), now);
//! # poller.set_capacity(100);
//! # let mut jobs = BTreeMap::new();
//! # while jobs.len() < 100 {
//! #     match poller.poll(http.now) {
//! #         Output::Send(call) => {
//! #             let (request, ticket) = call.split();
//! #             http.start(0, request, ticket);
//! #             let ended = http.wait(None).unwrap();
//! #             poller.handle_outcome(ended.ticket, ended.outcome, http.now).unwrap();
//! #         }
//! #         Output::Event(PollerEvent::Assigned(assignment)) => {
//! #             let mut job = Job::new(config.clone(), &assignment, http.now);
//! #             job.write(format!("hello from job {}\n", job.id()));
//! #             job.finish(JobResult::success());
//! #             jobs.insert(job.id(), job);
//! #         }
//! #         Output::Wait(until) => http.now = until.unwrap(),
//! #         other => panic!("{other:?}"),
//! #     }
//! # }
//! # let ids: Vec<u64> = jobs.keys().copied().collect();
//! # drive(jobs, &mut http, 8).unwrap();
//! # assert_eq!(http.most, 8);
//! # for id in ids {
//! #     let job = http.gitlab.job(id).unwrap();
//! #     assert_eq!((job.status(), job.trace()), (JobStatus::Success, format!("hello from job {id}\n").as_bytes()));
//! # }
//! ```
//!
//! An idle job that has written one line takes about 2 KB of memory with [`Retain::Unacknowledged`](crate::Retain), and the lines
//! that it keeps with `Retain::All`. A value that is masked takes about twice its length, and three times if it has several lines, each
//! of which is masked as well. The payload of the job comes on top of that.
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
