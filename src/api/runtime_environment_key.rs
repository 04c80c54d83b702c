//! `GET /jobs/:id/runtime_environment_key`: the name of the suspended environment that a job is to go on in.
//!
//! Only the newest servers have it.

use bytes::Bytes;
use http::header::ACCEPT;
use http::{Request, Response, StatusCode};
use serde::Deserialize;

use super::{CorrelationId, Endpoint, JSON, get_request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay, ResponseBody};
use crate::config::Server;
use crate::error::{CallError, ProtocolError};
use crate::headers::JOB_TOKEN;
use crate::output::sealed::Sealed;
use crate::secret::JobToken;

/// The call.
#[derive(Clone, Debug)]
pub struct GetRuntimeEnvironmentKey {
    job: u64,
    token: JobToken,
}

impl GetRuntimeEnvironmentKey {
    /// Asks for the key of this job. The job must be running.
    #[must_use]
    pub fn new(job: u64, token: JobToken) -> Self {
        Self { job, token }
    }
}

impl Sealed for GetRuntimeEnvironmentKey {}

impl Endpoint for GetRuntimeEnvironmentKey {
    /// The key, such as `42/s_machineid/data`; none if no environment is linked to the job, or the server knows no such
    /// thing (404).
    type Response = Option<String>;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        let uri = server.api(format_args!("jobs/{}/runtime_environment_key", self.job));
        let mut request = get_request(&uri, id, (JOB_TOKEN, self.token.secret()));
        request.headers_mut().insert(ACCEPT, JSON);
        request
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Option<String>, CallError> {
        #[derive(Deserialize)]
        struct Key {
            runtime_environment_key: Option<String>,
        }
        match response.status() {
            StatusCode::OK => {
                let key: Key = serde_json::from_slice(response.body()).map_err(|error| ProtocolError::json(&error))?;
                Ok(key.runtime_environment_key)
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::GetRuntimeEnvironmentKey, Replay::Safe).with_response(ResponseBody::collect(64 * 1024))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_environment_is_no_error() {
        let call = GetRuntimeEnvironmentKey::new(7, JobToken::new("t").unwrap());
        let decode = |status: u16, body: &'static str| {
            call.decode(&Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap())
        };
        assert_eq!(decode(200, r#"{"runtime_environment_key":"42/s_1/data"}"#).unwrap().unwrap(), "42/s_1/data");
        assert_eq!(decode(200, r#"{"runtime_environment_key":null}"#), Ok(None));
        assert_eq!(decode(404, r#"{"message":"404 Runtime environment key Not Found"}"#), Ok(None));
        assert!(decode(403, "").is_err() && decode(200, "[]").is_err());
    }
}
