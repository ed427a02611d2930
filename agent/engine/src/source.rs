//! Rule files as text, and places in them.

use crate::diagnostic::Diagnostic;

/// One rule file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Path as errors show it.
    pub name: &'a str,
    /// What the file contains.
    pub text: &'a str,
}

/// A place: file by number, byte offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) offset: u32,
}

/// The files that are loaded together.
pub(crate) struct Files<'a> {
    sources: &'a [Source<'a>],
    /// Byte offset of the start of each line, per file.
    lines: Vec<Vec<u32>>,
}

impl<'a> Files<'a> {
    pub(crate) fn new(sources: &'a [Source<'a>]) -> Self {
        let lines = sources
            .iter()
            .map(|source| {
                std::iter::once(0)
                    .chain(memchr::memchr_iter(b'\n', source.text.as_bytes()).map(|at| offset(at + 1)))
                    .collect()
            })
            .collect();
        Self { sources, lines }
    }

    pub(crate) fn source(&self, file: u32) -> &'a Source<'a> {
        &self.sources[file as usize]
    }

    /// Byte offset of a line (from 1) and column in characters (from 0).
    pub(crate) fn offset(&self, file: u32, line: usize, column: usize) -> u32 {
        let text = self.source(file).text;
        let starts = &self.lines[file as usize];
        let Some(start) = line.checked_sub(1).and_then(|line| starts.get(line)) else {
            return offset(text.len());
        };
        let rest = &text[*start as usize..];
        // Nearly always each character is a byte.
        if rest.as_bytes().get(..column).is_some_and(<[u8]>::is_ascii) {
            return offset(*start as usize + column);
        }
        let into = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
        offset(*start as usize + into)
    }

    /// Line and column of a place, both from 1.
    pub(crate) fn line_and_column(&self, place: Place) -> (u32, u32) {
        let starts = &self.lines[place.file as usize];
        let line = starts.partition_point(|start| *start <= place.offset);
        let start = starts[line - 1] as usize;
        let text = self.source(place.file).text;
        let end = (place.offset as usize).min(text.len());
        let column = text.as_bytes()[start.min(end)..end]
            .iter()
            .filter(|byte| (**byte & 0xc0) != 0x80)
            .count()
            + 1;
        (offset(line), offset(column))
    }

    pub(crate) fn diagnostic(&self, place: Place, message: String, help: Option<String>) -> Diagnostic {
        let (line, column) = self.line_and_column(place);
        Diagnostic {
            file: self.source(place.file).name.into(),
            line,
            column,
            message,
            help,
        }
    }
}

/// Files are limited to far less than 4 GiB before anything is counted in `u32`.
pub(crate) fn offset(at: usize) -> u32 {
    u32::try_from(at).expect("files are limited to FILE_BYTES_MAX")
}

/// Text put together from pieces of files; each byte remembers where it came from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    text: String,
    places: Vec<Place>,
}

impl Text {
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the byte at `at` came from; the end counts as the last byte.
    pub(crate) fn place(&self, at: usize) -> Place {
        self.places.get(at).or(self.places.last()).copied().unwrap_or_default()
    }

    /// Appends text that came from one place as a whole.
    pub(crate) fn push_str(&mut self, text: &str, place: Place) {
        self.text.push_str(text);
        self.places.resize(self.text.len(), place);
    }

    /// Appends one character that came from `place`.
    pub(crate) fn push(&mut self, character: char, place: Place) {
        self.text.push(character);
        self.places.resize(self.text.len(), place);
    }

    /// Appends a part of another text, places included.
    pub(crate) fn push_part(&mut self, other: &Self, range: std::ops::Range<usize>) {
        self.text.push_str(&other.text[range.clone()]);
        self.places.extend_from_slice(&other.places[range]);
    }

    /// Cuts the end off.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.text.truncate(length);
        self.places.truncate(length);
    }
}
