//! YAML as a tree whose every node knows its place.
//!
//! Bounded: depth and number of nodes are limited, aliases count with what they repeat.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use crate::diagnostic::Diagnostic;
use crate::source::{Files, Place, Text, offset};

/// Deeper nesting than any rule needs.
const DEPTH_MAX: usize = 64;
/// Nodes per file, aliases expanded.
const NODES_MAX: usize = 4_000_000;

/// A YAML node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    /// Byte offset after a scalar; unused for collections.
    end: u32,
    pub(crate) value: Value,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// A scalar; `plain` when it stands without quotes.
    Scalar { text: String, plain: bool },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in order.
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// The text of a scalar.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    }

    /// The mapping with these entries in its place.
    pub(crate) fn with_entries(&self, entries: Vec<(Self, Self)>) -> Self {
        Self {
            place: self.place,
            end: self.end,
            value: Value::Mapping(entries),
        }
    }

    /// Whether this is YAML's null.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The word for people.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar { .. } => "a value",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// The text of a scalar with the place of each byte, by walking value and source side by side: folding and quoting
    /// only leave out or change blanks, quotes and escapes.
    pub(crate) fn placed(&self, files: &Files<'_>) -> Text {
        let mut placed = Text::default();
        let Value::Scalar { text, .. } = &self.value else {
            return placed;
        };
        let source = files.source(self.place.file).text;
        let end = (self.end as usize).max(self.place.offset as usize).min(source.len());
        let mut at = self.place.offset as usize;
        if source[at..end].starts_with(['>', '|']) {
            at += source[at..end].find('\n').map_or(0, |newline| newline + 1);
        }
        for character in text.chars() {
            if !character.is_whitespace()
                && let Some(skip) = distance_to(character, &source[at..end])
            {
                at += skip;
            }
            placed.push(
                character,
                Place {
                    file: self.place.file,
                    offset: offset(at),
                },
            );
            if source[at..end].starts_with(character) {
                at += character.len_utf8();
            }
        }
        placed
    }
}

/// How far ahead `character` stands when only blanks, quotes and escapes come before it.
fn distance_to(character: char, source: &str) -> Option<usize> {
    let mut ahead = source.char_indices();
    while let Some((at, found)) = ahead.next() {
        if found == character {
            return Some(at);
        }
        match found {
            '\\' => {
                let (after, escaped) = ahead.next()?;
                if escaped == character {
                    return Some(after);
                }
            }
            '"' | '\'' => {}
            blank if blank.is_whitespace() => {}
            _ => return None,
        }
    }
    None
}

/// Reads every document of a file; what they contain is put one after the other.
pub(crate) fn read(files: &Files<'_>, file: u32) -> Result<Vec<Node>, Diagnostic> {
    let mut reader = Reader {
        files,
        file,
        parser: Parser::new_from_str(files.source(file).text),
        anchors: Vec::new(),
        nodes: 0,
    };
    let mut documents = Vec::new();
    loop {
        let (event, start, end) = reader.next()?;
        match event {
            Event::StreamEnd => return Ok(documents),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                documents.push(reader.node(event, start, end, 0)?);
            }
            Event::SequenceEnd | Event::MappingEnd => return Err(reader.error(start, "unexpected end of a collection")),
        }
    }
}

struct Reader<'a, 'f> {
    files: &'f Files<'a>,
    file: u32,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Anchored nodes by the parser's number, with how many nodes each holds.
    anchors: Vec<(usize, Node, usize)>,
    nodes: usize,
}

/// An event with its place and the byte offset of its end.
type Placed<'a> = (Event<'a>, Place, u32);

impl<'a> Reader<'a, '_> {
    fn place(&self, marker: &Marker) -> Place {
        Place {
            file: self.file,
            offset: self.files.offset(self.file, marker.line(), marker.col()),
        }
    }

    fn error(&self, place: Place, message: &str) -> Diagnostic {
        self.files.diagnostic(place, message.to_owned(), None)
    }

    fn next(&mut self) -> Result<Placed<'a>, Diagnostic> {
        match self.parser.next_event() {
            None => Ok((
                Event::StreamEnd,
                Place {
                    file: self.file,
                    offset: 0,
                },
                0,
            )),
            Some(Ok((event, span))) => {
                let end = self.files.offset(self.file, span.end.line(), span.end.col());
                Ok((event, self.place(&span.start), end))
            }
            Some(Err(error)) => {
                let place = self.place(error.marker());
                Err(self
                    .files
                    .diagnostic(place, format!("not YAML: {}", error.info()), None))
            }
        }
    }

    fn node(&mut self, event: Event<'a>, place: Place, end: u32, depth: usize) -> Result<Node, Diagnostic> {
        if depth > DEPTH_MAX {
            return Err(self.error(place, "nested too deeply"));
        }
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(self.error(place, "too many values in one file"));
        }
        let before = self.nodes;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = matches!(style, ScalarStyle::Plain);
                (
                    anchor,
                    Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                )
            }
            Event::Alias(anchor) => {
                let Some((_, node, size)) = self.anchors.iter().find(|(number, ..)| *number == anchor) else {
                    return Err(self.error(place, "alias of an unfinished anchor"));
                };
                self.nodes += size;
                if self.nodes > NODES_MAX {
                    return Err(self.error(place, "too many values in one file"));
                }
                return Ok(node.clone());
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, place, end) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    items.push(self.node(event, place, end, depth + 1)?);
                }
                (anchor, Value::Sequence(items))
            }
            Event::MappingStart(anchor, _) => {
                let mut entries = Vec::new();
                loop {
                    let (event, place, end) = self.next()?;
                    if matches!(event, Event::MappingEnd) {
                        break;
                    }
                    let key = self.node(event, place, end, depth + 1)?;
                    let (event, place, end) = self.next()?;
                    entries.push((key, self.node(event, place, end, depth + 1)?));
                }
                (anchor, Value::Mapping(entries))
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => return Err(self.error(place, "value expected")),
        };
        let node = Node { place, end, value };
        if anchor != 0 {
            let size = self.nodes - before;
            self.anchors.retain(|(number, ..)| *number != anchor);
            self.anchors.push((anchor, node.clone(), size));
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    /// Reads `text` and says where each occurrence of a word in the first scalar value of the first mapping came from.
    fn places(text: &str, word: &str) -> Vec<(u32, u32)> {
        let sources = [Source { name: "t.yaml", text }];
        let files = Files::new(&sources);
        let documents = read(&files, 0).unwrap();
        let Value::Mapping(entries) = &documents[0].value else {
            panic!("mapping expected")
        };
        let placed = entries[0].1.placed(&files);
        placed
            .as_str()
            .match_indices(word)
            .map(|(at, _)| files.line_and_column(placed.place(at)))
            .collect()
    }

    #[test]
    fn text_remembers_its_place_through_every_style() {
        for (text, expected) in [
            ("a: x and word\n", (1, 10)),
            ("a: \"x\\tword\"\n", (1, 8)),
            ("a: 'it''s word'\n", (1, 11)),
            ("a: >\n  x and\n  (word)\n", (3, 4)),
            ("a: |-\n   x\n   word\n", (3, 4)),
            ("a: x\n   and word\n", (2, 8)),
            ("a: é word\n", (1, 6)),
        ] {
            assert_eq!(places(text, "word"), [expected], "{text}");
        }
    }

    #[test]
    fn bad_yaml_is_an_error_with_a_place() {
        let sources = [Source {
            name: "t.yaml",
            text: "a: [1, 2\nb: }",
        }];
        let error = read(&Files::new(&sources), 0).unwrap_err();
        assert!(error.to_string().starts_with("t.yaml:2:"), "{error}");
    }

    #[test]
    fn aliases_are_followed_and_bounded() {
        let sources = [Source {
            name: "t.yaml",
            text: "a: &x [1, 2]\nb: *x\n",
        }];
        let documents = read(&Files::new(&sources), 0).unwrap();
        let Value::Mapping(entries) = &documents[0].value else {
            panic!("mapping expected")
        };
        assert!(matches!(&entries[1].1.value, Value::Sequence(items) if items.len() == 2));

        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            bomb.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                [previous.as_str(); 10].join(", ")
            ));
        }
        let sources = [Source {
            name: "t.yaml",
            text: &bomb,
        }];
        let error = read(&Files::new(&sources), 0).unwrap_err();
        assert!(error.message.contains("too many values"), "{error}");
    }
}
