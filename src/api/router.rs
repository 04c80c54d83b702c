//! `GET /runners/router/discovery`: where the job router is, if this GitLab has one.
//!
//! The job router hands out jobs over gRPC in place of `POST /jobs/request`, and is off by default. This crate does not
//! speak to it; the call is for those who do.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, Response, StatusCode};
use serde::Deserialize;

use super::{CorrelationId, Endpoint, JSON, get_request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay, ResponseBody};
use crate::config::Server;
use crate::error::{CallError, ProtocolError};
use crate::headers::RUNNER_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::RunnerToken;

/// The call.
#[derive(Clone, Debug)]
pub struct DiscoverRouter {
    token: RunnerToken,
}

impl DiscoverRouter {
    /// Asks for the router of the runner of this token.
    #[must_use]
    pub fn new(token: RunnerToken) -> Self {
        Self { token }
    }
}

impl Sealed for DiscoverRouter {}

impl Endpoint for DiscoverRouter {
    /// The router's address, such as `wss://kas.example.com`; none if there is no router for this runner (501, or 404
    /// from older servers). The official runner keeps an answer for an hour.
    type Response = Option<String>;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let uri = server.api(format_args!("runners/router/discovery"));
        let mut request = get_request(&uri, id, (RUNNER_TOKEN, self.token.secret()));
        request.headers_mut().insert(ACCEPT, JSON);
        request
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Option<String>, CallError> {
        #[derive(Deserialize)]
        struct Discovery {
            server_url: String,
        }
        match response.status() {
            StatusCode::OK => {
                let found: Discovery =
                    serde_json::from_slice(response.body()).map_err(|error| ProtocolError::json(&error))?;
                Ok(Some(found.server_url))
            }
            StatusCode::NOT_IMPLEMENTED | StatusCode::NOT_FOUND => Ok(None),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::DiscoverRouter, Replay::Safe).with_response(ResponseBody::collect(64 * 1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_a_router_is_no_error() {
        let call = DiscoverRouter::new(RunnerToken::new("glrt-1").unwrap());
        let decode = |status: u16, body: &'static str| {
            call.decode(&Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
        };
        assert_eq!(
            decode(200, r#"{"server_url":"wss://kas.example.test"}"#).unwrap().unwrap(),
            "wss://kas.example.test"
        );
        assert_eq!(decode(501, r#"{"message":"Job Router is not available."}"#), Ok(None));
        assert_eq!(decode(404, ""), Ok(None));
        for (status, body) in [(200, "{}"), (200, ""), (403, ""), (500, "")] {
            assert!(decode(status, body).is_err(), "{status} {body}");
        }
    }
}
