//! A run told in each format.
//!
//! Invariants: whatever a run holds, a report of it is bounded, and nothing in it acts on whoever reads it: every string
//! is clipped, then made harmless (`text::escape`), then escaped for its format. What was left out is said with its number.

use std::{fmt, str::FromStr};

use staghound_engine::attack;
use staghound_proto::{
    json,
    v1::{Run, Technique},
};

pub mod console;
pub mod html;
pub mod junit;
pub mod markdown;
pub mod navigator;
pub mod sarif;
pub(crate) mod words;

/// How a run is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text for a terminal, without colour.
    Console,
    /// GitHub-flavoured Markdown, for job summaries.
    Markdown,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit XML.
    Junit,
    /// A layer for ATT&CK Navigator.
    Navigator,
    /// One page that needs nothing else.
    Html,
    /// The message itself as proto3 JSON: what every other format can be made of again.
    Json,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 7] = [
        Self::Console,
        Self::Markdown,
        Self::Sarif,
        Self::Junit,
        Self::Navigator,
        Self::Html,
        Self::Json,
    ];

    /// As the command line names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Markdown => "markdown",
            Self::Sarif => "sarif",
            Self::Junit => "junit",
            Self::Navigator => "navigator",
            Self::Html => "html",
            Self::Json => "json",
        }
    }

    /// Its file in a directory of reports.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Console => "report.txt",
            Self::Markdown => "report.md",
            Self::Sarif => "report.sarif",
            Self::Junit => "junit.xml",
            Self::Navigator => "navigator.json",
            Self::Html => "report.html",
            Self::Json => "report.json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// No format of this name.
#[derive(Debug, thiserror::Error)]
#[error("unknown format; there are {}", Format::ALL.map(Format::name).join(", "))]
pub struct UnknownFormat;

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or(UnknownFormat)
    }
}

/// The run in a format.
#[must_use]
pub fn render(run: &Run, format: Format) -> String {
    match format {
        Format::Console => console::render(run, false),
        Format::Markdown => markdown::render(run, markdown::SUMMARY_BYTES_MAX),
        Format::Sarif => sarif::render(run),
        Format::Junit => junit::render(run),
        Format::Navigator => navigator::render(run),
        Format::Html => html::render(run),
        Format::Json => json::to_string(run) + "\n",
    }
}

/// What is no report.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not the JSON of a run.
    #[error("is not the JSON of a run: {0}; give a file that `--format json` wrote")]
    Json(String),
    /// The JSON of something else.
    #[error("has no run_id, so it is no report of a run; give a file that `--format json` wrote")]
    NoRun,
}

/// Reads a run that was told as JSON.
///
/// # Errors
/// The text is no JSON of a run.
pub fn read(text: &str) -> Result<Run, Unreadable> {
    let run: Run = json::from_str(text).map_err(|error| {
        // The parser quotes what it met, which may be anybody's.
        Unreadable::Json(staghound_proto::text::escape(&words::clip(&error.to_string(), 300)))
    })?;
    if run.run_id.is_empty() {
        return Err(Unreadable::NoRun);
    }
    Ok(run)
}

/// The technique with a link to its page, made by `link` of what can be shown and the address; of what is no id of a
/// technique only the name, made by `plain`.
fn technique_link(
    technique: &Technique,
    link: impl FnOnce(&str, &str) -> String,
    plain: impl FnOnce(&str) -> String,
) -> String {
    match technique_address(&technique.id) {
        Some(address) => link(&technique.id, &address),
        None => plain(&words::shown(&technique.id, words::NAME_BYTES_MAX)),
    }
}

/// The page of a technique; nothing for what is no id of one.
fn technique_address(id: &str) -> Option<String> {
    attack::is_technique_id(id).then(|| format!("https://attack.mitre.org/techniques/{}/", id.replace('.', "/")))
}

/// A value within HTML, in an element or a quoted attribute.
fn html_escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 16);
    for c in value.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether it is a SHA-256 as we write it.
pub(crate) fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A part of a path within a URI.
pub(crate) fn percent_encode(part: &str) -> String {
    let mut encoded = String::with_capacity(part.len());
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b'+' | b',' | b'=' => {
                encoded.push(char::from(byte));
            }
            byte => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}
