//! The text of an alert: a template with fields, filled in from the event and safe to print.

use std::fmt::Write;

use crate::evaluate::{any_value, text_of, transformed};
use crate::event::{Event, Value};
use crate::ir::Operand;

/// Most bytes of one value that an output shows.
const VALUE_BYTES_MAX: usize = 4096;
/// Most values of a list that an output shows.
const VALUES_MAX: usize = 64;

/// A template such as `shell in %proc.cwd by %user.name`.
#[derive(Clone, Debug)]
pub struct Output {
    pub(crate) parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    Text(Box<str>),
    Field(Operand),
    /// A field this version does not supply, or whose name it does not know.
    Missing,
}

impl Output {
    /// Appends the text for this event. Values are escaped; what is missing shows as `<NA>`.
    pub fn render(&self, event: &dyn Event, into: &mut String) {
        for part in &self.parts {
            match part {
                Part::Text(text) => into.push_str(text),
                Part::Missing => into.push_str("<NA>"),
                Part::Field(operand) => render_field(operand, event, into),
            }
        }
    }
}

fn render_field(operand: &Operand, event: &dyn Event, into: &mut String) {
    let mut shown = 0;
    any_value(event, &operand.field, &mut |value| {
        let (mut transform_buffer, mut text_buffer) = (Vec::new(), Vec::new());
        let Some(value) = transformed(value, operand, &mut transform_buffer) else {
            return false;
        };
        if shown > 0 {
            into.push_str(", ");
        }
        shown += 1;
        if shown > VALUES_MAX {
            into.push('…');
            return true;
        }
        match value {
            Value::Text(text) => escape(text, into),
            Value::Number(_) | Value::Flag(_) | Value::Address(_) => {
                escape(text_of(value, &operand.field, &mut text_buffer), into);
            }
        }
        false
    });
    if shown == 0 {
        into.push_str("<NA>");
    }
}

/// Appends bytes as text that no terminal or log reader can be fooled with: control characters and bytes that are not
/// UTF-8 become `\xHH`, characters that change the direction or are invisible become `\u{HHHH}`.
pub fn escape(bytes: &[u8], into: &mut String) {
    let (shown, cut) = match bytes.len() > VALUE_BYTES_MAX {
        true => (&bytes[..VALUE_BYTES_MAX], true),
        false => (bytes, false),
    };
    for chunk in shown.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_ascii_control() {
                hexadecimal(u8::try_from(character).unwrap_or(b'?'), into);
            } else if is_deceptive(character) {
                let _: std::fmt::Result = write!(into, "\\u{{{:x}}}", u32::from(character));
            } else {
                into.push(character);
            }
        }
        for byte in chunk.invalid() {
            hexadecimal(*byte, into);
        }
    }
    if cut {
        into.push('…');
    }
}

fn hexadecimal(byte: u8, into: &mut String) {
    let _: std::fmt::Result = write!(into, "\\x{byte:02x}");
}

fn is_deceptive(character: char) -> bool {
    matches!(character,
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{61c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_are_escaped() {
        for (bytes, expected) in [
            (&b"plain text"[..], "plain text"),
            (b"a\x1b[31mred\x07", "a\\x1b[31mred\\x07"),
            (b"line\nbreak\r\tend\x7f", "line\\x0abreak\\x0d\\x09end\\x7f"),
            (b"\xff\xfeok", "\\xff\\xfeok"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            ("a\u{202e}b\u{9b}c".as_bytes(), "a\\u{202e}b\\u{9b}c"),
            (b"\xe2\x82", "\\xe2\\x82"),
        ] {
            let mut text = String::new();
            escape(bytes, &mut text);
            assert_eq!(text, expected);
        }
        let mut long = String::new();
        escape(&vec![b'a'; VALUE_BYTES_MAX + 1], &mut long);
        assert_eq!(long.chars().count(), VALUE_BYTES_MAX + 1);
        assert!(long.ends_with('…'));
    }
}
