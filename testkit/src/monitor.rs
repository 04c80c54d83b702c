//! Checks the laws of the core from outside: by requests, answers, outputs, and what the application did.
//!
//! A monitor stands between a driver and a state machine. The driver tells it everything that passes, and gets an error that
//! names the law as soon as one is broken. It shares no code with the core: what an answer means, and whether a call was of any
//! use, is worked out here a second time, from the manual.
//!
//! [`JobMonitor`] checks L1, L3, L4, L6, L8, L9, L13 and L14 for a [`Job`](gitlab_runner_api::Job), [`PollerMonitor`] checks L1, L3,
//! L4 and L13 for a [`Poller`](gitlab_runner_api::Poller). L7 and L12 need to know GitLab's log, and when the trouble is over:
//! [`World`](crate::World) and [`adversary`](crate::adversary) check them, on top of a monitor.

mod answer;
mod economy;
mod job;
mod poller;

pub use economy::{Economy, Worst};
pub use job::{JobMonitor, Patience};
pub use poller::PollerMonitor;
