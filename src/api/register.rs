//! `POST /runners`: makes a runner with a registration token.
//!
//! GitLab calls registration tokens deprecated and answers 410 where they are switched off. A token that starts with
//! `glrt-` belongs to a runner that exists: use [`super::verify`]. Not idempotent: each call makes one more runner.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::info::Info;
use super::members::members;
use super::{CorrelationId, Endpoint, Identity, known_time, runner_request};
use crate::body::Body;
use crate::call::{CallKind, Hints, Replay};
use crate::config::{Server, SystemId};
use crate::error::{CallError, ProtocolError};
use crate::output::sealed::Sealed;
use crate::secret::{RegistrationToken, RunnerToken};
use crate::status::open_enum;

open_enum! {
    /// Which refs a runner takes jobs from.
    AccessLevel {
        /// All of them.
        NotProtected = "not_protected",
        /// Protected branches and tags.
        RefProtected = "ref_protected",
    }
}

/// The attributes of a new runner, all optional. GitLab keeps them; they can be changed there later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Attributes {
    /// A text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A note for administrators, up to 1024 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance_note: Option<String>,
    /// Takes no jobs until it is resumed in GitLab.
    pub paused: bool,
    /// Bound to its project.
    pub locked: bool,
    /// Takes jobs without tags. GitLab refuses a runner that takes none and has no tags.
    pub run_untagged: bool,
    /// The tags of the jobs it takes.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "tags")]
    pub tag_list: Vec<String>,
    /// Which refs it takes jobs from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_level: Option<AccessLevel>,
    /// The longest a job may take, in whole seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_timeout: Option<u64>,
}

/// A list of tags as one text with commas, as the official runner sends it: servers that imitate GitLab take nothing else.
mod tags {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(tags: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&tags.join(","))
    }

    /// Reads a list as well.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Tags {
            Text(String),
            List(Vec<String>),
        }
        Ok(match Tags::deserialize(deserializer)? {
            Tags::Text(text) => text.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
            Tags::List(list) => list,
        })
    }
}

/// The call.
#[derive(Clone, Debug)]
pub struct Register {
    token: RegistrationToken,
    info: Info,
    system_id: Option<SystemId>,
    attributes: Attributes,
}

impl Register {
    /// Registers a runner that takes all jobs, tagged or not.
    #[must_use]
    pub fn new(token: RegistrationToken, info: &Info) -> Self {
        let attributes = Attributes { run_untagged: true, ..Attributes::default() };
        Self { token, info: info.clone(), system_id: None, attributes }
    }

    /// The machine that registers.
    #[must_use]
    pub fn with_system_id(mut self, id: SystemId) -> Self {
        self.system_id = Some(id);
        self
    }

    /// The attributes of the new runner.
    #[must_use]
    pub fn with_attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }
}

members! {
    /// A runner, as GitLab made it.
    #[derive(Clone, Debug)]
    #[non_exhaustive]
    pub struct Registered needs {
        /// The runner's id.
        pub id: u64,
        /// Its authentication token. Save it before anything else: it is shown once.
        pub token: RunnerToken,
    } {
        /// When the token stops working, in ISO 8601; none if never.
        pub token_expires_at: Option<String>,
    }
}

impl Sealed for Register {}

impl Endpoint for Register {
    type Response = Registered;

    fn request(&self, server: &Server, id: CorrelationId) -> Request<Body> {
        #[derive(Serialize)]
        struct Form<'a> {
            #[serde(flatten)]
            identity: Identity<'a>,
            #[serde(flatten)]
            attributes: &'a Attributes,
        }
        let token = self.token.secret();
        let identity = Identity::new(token, &self.info, self.system_id.as_ref());
        let form = Form { identity, attributes: &self.attributes };
        runner_request(&server.api(format_args!("runners")), id, token, &form)
    }

    fn decode(&self, response: &Response<Bytes>) -> Result<Registered, CallError> {
        match response.status() {
            StatusCode::CREATED => {
                let registered: Registered =
                    serde_json::from_slice(response.body()).map_err(|error| ProtocolError::json(&error))?;
                let token_expires_at = known_time(registered.token_expires_at);
                Ok(Registered { token_expires_at, ..registered })
            }
            _ => Err(CallError::from_response(response, self.token.secret())),
        }
    }

    fn hints(&self) -> Hints {
        Hints::new(CallKind::Register, Replay::Never)
    }
}
