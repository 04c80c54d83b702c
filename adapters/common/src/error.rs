//! The error for a stored file.

use std::io;
use std::path::{Path, PathBuf};

/// A file that cannot be used. The messages never quote its content, because it may be secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    #[non_exhaustive]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The file is damaged, is something else, or was written by a newer version. It was not changed.
    #[error("{}: {problem}; the file was not changed", path.display())]
    #[non_exhaustive]
    Bad {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process holds the lease of the file, as far as can be known.
    #[error("{}: {by}", path.display())]
    #[non_exhaustive]
    Held {
        /// The path of the file.
        path: PathBuf,
        /// The process that holds it, and how long the lease is still valid.
        by: String,
    },
}

impl FileError {
    /// Returns [`FileError::Io`].
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Returns [`FileError::Bad`].
    #[must_use]
    pub fn bad(path: &Path, problem: impl Into<String>) -> Self {
        Self::Bad { path: path.to_owned(), problem: problem.into() }
    }

    /// Returns [`FileError::Held`].
    #[must_use]
    pub fn held(path: &Path, by: impl Into<String>) -> Self {
        Self::Held { path: path.to_owned(), by: by.into() }
    }
}
