//! The core against the simulated GitLab: one binary, a module per theme.

mod cancel;
mod common;
mod finish;
mod laws;
mod poll;
mod readme;
mod resume;
mod sim;
mod trace;
