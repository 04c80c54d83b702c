//! The long form: how to drive the machines, what to save and when, what a transport owes them, and what GitLab's
//! answers are taken to mean. Documentation only.

pub mod adapters;
#[doc = include_str!("manual/coming_from_python.md")]
pub mod coming_from_python {}
pub mod driving;
pub mod durability;
pub mod protocol;
