//! What can go wrong, said once: every error carries where it happened and what to do about it.

use std::path::PathBuf;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine. Each variant is one class of the Python exception tree (`src/py/errors.rs`).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The contract file, or a schema that it names, is not one.
    #[error("{}{}: {reason}", .file.display(), .line.map(|l| format!(":{l}")).unwrap_or_default())]
    Contract {
        /// The file that is wrong.
        file: PathBuf,
        /// The line in it, counted from 1, where one can be named.
        line: Option<usize>,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A setting or an argument is wrong.
    #[error("{name}: {reason}")]
    Settings {
        /// The setting's full name (`sessions.gap`).
        name: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Data handed to a kernel has not the columns or types that it needs.
    #[error("{0}")]
    Data(String),
    /// A source cannot be read, or is no longer what it was.
    #[error("source {place}: {reason}")]
    Source {
        /// Topic, partition and offset, or path and byte.
        place: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The lake cannot be read or written.
    #[error("lake {path}: {reason}")]
    Lake {
        /// The object in the lake.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// State that does not fit into memory cannot be put on local disk, or read from it.
    #[error("spill {path}: {reason}")]
    Spill {
        /// The file or folder.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The lake or its checkpoint is damaged, or was made by a newer version.
    #[error("checkpoint {path}: {reason}")]
    Checkpoint {
        /// The object in the lake.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A newer run took the pipeline over.
    #[error(
        "this run (term {ours}) was replaced by a newer one: term {theirs}, {holder}. Nothing was lost: the newer run goes on from the last commit"
    )]
    Superseded {
        /// Our term.
        ours: u64,
        /// The newest term.
        theirs: u64,
        /// Host and process of the newer run.
        holder: String,
    },
    /// An exception of `penstock.errors` that Python raised when the engine called it: it goes on as it is.
    #[error("{message}")]
    Raised {
        /// The exception's class.
        class: String,
        /// All that it says.
        message: String,
    },
    /// The ledger does not balance.
    #[error("the ledger does not balance: {0}")]
    Ledger(String),
    /// The caller asked to stop (Ctrl-C, SIGTERM).
    #[error("interrupted")]
    Interrupted,
    /// A fork happened after the engine's threads were started.
    #[error("{0}")]
    Forked(String),
    /// A fault of ours.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl Error {
    /// A [`Error::Lake`] for `path`.
    pub fn lake(path: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Lake { path: path.into(), reason: reason.to_string() }
    }

    /// The same with the whole path of what it names in the lake at `url`.
    #[must_use]
    pub fn in_lake(self, url: &str) -> Self {
        let whole = |path: String| {
            let tables = ["_penstock", "bronze", "silver", "dead_letters", "gold", "settled"];
            let inside = path.split('/').next().is_some_and(|first| tables.contains(&first));
            if inside { format!("{}/{path}", url.trim_end_matches('/')) } else { path }
        };
        match self {
            Self::Lake { path, reason } => Self::Lake { path: whole(path), reason },
            Self::Checkpoint { path, reason } => Self::Checkpoint { path: whole(path), reason },
            other => other,
        }
    }

    /// A [`Error::Spill`] for `path`.
    pub fn spill(path: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Spill { path: path.into(), reason: reason.to_string() }
    }

    /// A [`Error::Checkpoint`] for `path`.
    pub fn checkpoint(path: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Checkpoint { path: path.into(), reason: reason.to_string() }
    }

    /// A [`Error::Source`] at `place`.
    pub fn source(place: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Source { place: place.into(), reason: reason.to_string() }
    }

    /// A [`Error::Settings`] for `name`.
    pub fn settings(name: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Settings { name: name.into(), reason: reason.to_string() }
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Self::Data(e.to_string())
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(e: parquet::errors::ParquetError) -> Self {
        Self::Data(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_in_a_lake_is_named_whole() {
        let said = |error: Error, lake: &str| error.in_lake(lake).to_string();
        let missing = |path: &str| Error::lake(path, "is not there");
        assert_eq!(said(missing("_penstock/shop/"), "/data/lake"), "lake /data/lake/_penstock/shop/: is not there");
        assert_eq!(said(missing("gold/w/a"), "s3://b/x/"), "lake s3://b/x/gold/w/a: is not there");
        assert_eq!(said(missing("/data/lake"), "/data/lake"), "lake /data/lake: is not there");
        assert_eq!(said(missing("s3://b/x"), "s3://b/x"), "lake s3://b/x: is not there");
        let damaged = Error::checkpoint("_penstock/shop/epochs/0000000001.commit", "is damaged").in_lake("/l");
        assert_eq!(damaged.to_string(), "checkpoint /l/_penstock/shop/epochs/0000000001.commit: is damaged");
        assert_eq!(said(Error::checkpoint("topic 0", "is none"), "/l"), "checkpoint topic 0: is none");
    }
}
