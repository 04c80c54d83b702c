//! The core against the simulated GitLab: one binary, a module per theme.

mod sim;
