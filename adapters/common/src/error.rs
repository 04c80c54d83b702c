//! What can go wrong with a file.

use std::io;
use std::path::{Path, PathBuf};

/// A file cannot be used. No text shows what is in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    #[non_exhaustive]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is damaged, is something else, or was written by a newer version. It was not changed.
    #[error("{}: {problem}; the file was not changed", path.display())]
    #[non_exhaustive]
    Bad {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another process holds it, as far as can be told.
    #[error("{}: {by}", path.display())]
    #[non_exhaustive]
    Held {
        /// Which.
        path: PathBuf,
        /// Who holds it, and for how long still.
        by: String,
    },
}

impl FileError {
    /// What the operating system said of a file.
    #[must_use]
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// What is wrong with a file.
    #[must_use]
    pub fn bad(path: &Path, problem: impl Into<String>) -> Self {
        Self::Bad { path: path.to_owned(), problem: problem.into() }
    }

    /// Who holds a file.
    #[must_use]
    pub fn held(path: &Path, by: impl Into<String>) -> Self {
        Self::Held { path: path.to_owned(), by: by.into() }
    }
}
