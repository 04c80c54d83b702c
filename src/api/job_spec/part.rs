//! Objects of a payload that need not be there.

use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer};

use super::{GitInfo, JobFeatures, JobInfo, RunnerInfo};
use crate::api::members::{Read, Walk};

/// An object of a payload, such as [`JobInfo`]. Its members are read as those of the object itself. If GitLab did not send it, all of
/// them have their defaults, and it takes no memory.
///
/// ```
/// use gitlab_runner_api::Assignment;
///
/// let assignment = Assignment::from_json(r#"{"id": 7, "token": "glcbt-0123456789", "job_info": {"stage": "test"}}"#)?;
/// assert_eq!(assignment.spec().job_info.stage, "test");
/// assert_eq!(assignment.spec().git_info.sha, "");
/// # Ok::<(), gitlab_runner_api::ProtocolError>(())
/// ```
#[derive(Clone)]
pub struct Part<T>(Option<Box<T>>);

/// The objects that can be a [`Part`] of a payload.
pub trait Optional: Sized + 'static {
    /// Returns what is read of an object that GitLab did not send: all of its members have their defaults.
    fn absent() -> &'static Self;
}

macro_rules! optional {
    ($($object:ty),+) => {
        $(impl Optional for $object {
            fn absent() -> &'static Self {
                static ABSENT: LazyLock<$object> = LazyLock::new(<$object>::default);
                &ABSENT
            }
        })+
    };
}

optional!(GitInfo, JobFeatures, JobInfo, RunnerInfo);

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Optional> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(part) => part,
            None => T::absent(),
        }
    }
}

impl<T: Optional + fmt::Debug> fmt::Debug for Part<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Part<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(|part| Self(Some(part)))
    }
}

impl<T: Read> Read for Part<T> {
    fn read(raw: &str, walk: &mut Walk<'_>) -> Option<Self> {
        Read::read(raw, walk).map(|part| Self(Some(part)))
    }
}
