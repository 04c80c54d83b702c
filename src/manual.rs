//! The chapters that explain this crate as a whole. They contain no code to call.
//!
//! | Chapter | Read it if you want to know |
//! |---|---|
//! | [`driving`] | how to connect a state machine with an HTTP client, serve many jobs, and stop |
//! | [`durability`] | what to save and when, so that a job survives a crash, and what is lost otherwise |
//! | [`adapters`] | what the state machines require of an HTTP client |
//! | [`performance`] | what a job costs in time and memory, and how to measure it |
//! | [`protocol`] | what each answer of GitLab means, and what ends a job |
//! | [`coming_from_python`] | where to find what the Python package `gitlab_runner_api` offered |

pub mod adapters;
#[doc = include_str!("manual/coming_from_python.md")]
pub mod coming_from_python {}
pub mod driving;
pub mod durability;
#[doc = include_str!("manual/performance.md")]
pub mod performance {}
pub mod protocol;
