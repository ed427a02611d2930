//! YAML into values, with mistakes told where they are and in words that help.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {message}", .path.display())]
pub struct Invalid {
    /// The file.
    pub path: PathBuf,
    /// Its line, from 1.
    pub line: u64,
    /// Its column, from 1.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

/// Reads one document; `path` is only named in errors. `None`: there is nothing but comments.
///
/// # Errors
/// The text is no YAML, or not what `T` takes.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<Option<T>, Invalid> {
    let is_empty = |line: &str| matches!(line.trim_start().bytes().next(), None | Some(b'#'));
    if text.lines().all(is_empty) {
        return Ok(None);
    }
    serde_saphyr::from_str(text).map(Some).map_err(|error| {
        let (line, column) = error
            .location()
            .map_or((1, 1), |location| (location.line(), location.column()));
        Invalid {
            path: path.to_owned(),
            line,
            column,
            message: message(&error),
        }
    })
}

/// The mistake in our words where serde's say too little, without the place.
fn message(error: &serde_saphyr::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other error of the parser says what it is"
    )]
    match error.without_snippet() {
        serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
            format!(
                "unknown key `{}`; valid here: {}",
                field.escape_debug(),
                expected.join(", ")
            )
        }
        other => {
            let text = other.to_string();
            let place = text.rfind(" at line ").unwrap_or(text.len());
            let first = text[..place].lines().next().unwrap_or_default();
            first
                .escape_debug()
                .to_string()
                .replace("\\'", "'")
                .replace("\\\"", "\"")
        }
    }
}
