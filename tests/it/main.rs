//! The core against the simulated GitLab: one binary, a module per theme.

mod adversary;
mod archives;
mod budget;
mod cancel;
mod common;
mod documents;
mod endpoints;
mod exchange;
mod exhaustive;
mod finish;
mod golden;
mod laws;
mod log;
mod msrv;
mod official;
mod payloads;
mod poll;
mod python;
mod readme;
mod resume;
mod secrets;
mod sim;
mod survive;
mod trace;
mod variables;
