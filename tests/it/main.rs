//! The core against the simulated GitLab: one binary, a module per theme.

mod laws;
mod readme;
mod sim;
