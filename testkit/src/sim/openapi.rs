//! The description of the APIs, for programs that read it.

/// The description of the API to steer the simulation and of the API for users, in the format OpenAPI 3.1. The program
/// serves it at `/_sim/openapi.json`.
pub const OPENAPI: &str = include_str!("../../openapi.json");

#[cfg(test)]
mod tests;
