//! The description of the APIs, for programs that read it.

/// The description of the API to steer the simulation and of the API for users, in the format OpenAPI 3.1. The program
/// serves it at `/_sim/openapi.json`, with its own URL as that of the server.
pub const OPENAPI: &str = include_str!("../../openapi.json");

/// The URL of the server in the description, as JSON.
pub(super) const DESCRIBED_URL: &str = "\"http://127.0.0.1:8929\"";

#[cfg(test)]
mod tests;
