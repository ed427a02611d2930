//! Structured logs on stderr.
//!
//! Whatever an attacker can name may end up in a log line. So every control character and every character that reorders
//! text is escaped on the way out, whoever logged it; a line of the log is one line of the terminal.

use serde::Deserialize;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error("log filter `{}`: {source}; use a level (error, warn, info, debug, trace) or directives such as `info,staghound::spool=debug`", .filter.escape_debug())]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// It was set up before.
    #[error("logging was set up already")]
    Twice,
}

/// Sends logs to stderr from now on. `filter` is a level or directives; the variable `STAGHOUND_LOG` goes before it.
///
/// # Errors
/// The filter cannot be parsed, or logging was set up before.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let filter = std::env::var("STAGHOUND_LOG").unwrap_or_else(|_| filter.to_owned());
    let directives = EnvFilter::try_new(&filter).map_err(|source| LogError::Filter { filter, source })?;
    let logs = tracing_subscriber::fmt()
        .with_env_filter(directives)
        .with_writer(Stderr(format))
        // Colours are control characters, and only we could tell ours from others'.
        .with_ansi(false);
    let set = match format {
        LogFormat::Text => logs.try_init(),
        LogFormat::Json => logs.json().flatten_event(true).try_init(),
    };
    set.map_err(|_| LogError::Twice)
}

struct Stderr(LogFormat);

impl MakeWriter<'_> for Stderr {
    type Writer = Escaped<io::Stderr>;

    fn make_writer(&self) -> Self::Writer {
        Escaped {
            out: io::stderr(),
            format: self.0,
        }
    }
}

/// Writes lines with everything escaped that could act on a terminal.
struct Escaped<W> {
    out: W,
    format: LogFormat,
}

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A log must not take the agent down: a closed stderr loses the line, and metrics go on telling.
        drop(self.out.write_all(escape(line, self.format).as_bytes()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        drop(self.out.flush());
        Ok(())
    }
}

fn escape(line: &[u8], format: LogFormat) -> String {
    let (body, end) = match line.strip_suffix(b"\n") {
        Some(body) => (body, "\n"),
        None => (line, ""),
    };
    let mut out = String::with_capacity(line.len());
    for character in String::from_utf8_lossy(body).chars() {
        match (is_hostile(character), format) {
            (false, _) => out.push(character),
            (true, LogFormat::Text) => out.extend(character.escape_unicode()),
            (true, LogFormat::Json) => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out + end
}

/// Control characters, and those that change the direction of text or cannot be seen.
fn is_hostile(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_on_its_line() {
        let line = "found \x1b[2J\nfake\r\u{9b}31m \u{202e}x ünï 犬\n".as_bytes();
        assert_eq!(
            escape(line, LogFormat::Text),
            "found \\u{1b}[2J\\u{a}fake\\u{d}\\u{9b}31m \\u{202e}x ünï 犬\n"
        );
        assert_eq!(
            escape("{\"m\":\"\u{9b}\u{e0001}\"}\n".as_bytes(), LogFormat::Json),
            "{\"m\":\"\\u009b\\udb40\\udc01\"}\n"
        );
        assert_eq!(escape(b"bad \xff", LogFormat::Text), "bad \u{fffd}");
    }

    #[test]
    fn what_is_logged_is_escaped() {
        #[derive(Clone, Default)]
        struct Buffer(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in [LogFormat::Text, LogFormat::Json] {
            let buffer = Buffer::default();
            let out = buffer.clone();
            let writer = move || Escaped {
                out: out.clone(),
                format,
            };
            let logs = tracing_subscriber::fmt().with_writer(writer).with_ansi(false);
            let hostile = "a\x1b]0;owned\x07\nb\u{9b}";
            let log = || tracing::info!(path = %hostile, "seen {hostile}");
            match format {
                LogFormat::Text => tracing::subscriber::with_default(logs.finish(), log),
                LogFormat::Json => tracing::subscriber::with_default(logs.json().finish(), log),
            }
            let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
            assert!(text.contains("owned"), "{text}");
            assert_eq!(
                text.chars()
                    .filter(|&character| is_hostile(character))
                    .collect::<String>(),
                "\n",
                "{text:?}"
            );
        }
    }
}
