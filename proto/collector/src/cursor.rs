//! A consumer's position as opaque text.

use std::{fmt, str::FromStr};

/// First digit pair of every cursor: the format.
const FORMAT: u8 = 1;
/// Format, store, position: 1 + 4 + 8 bytes in hexadecimal.
const DIGITS: usize = 26;

/// A position in one store: the next entry to read.
///
/// The store is part of it, so that a cursor kept from a store that was thrown away is refused and not taken for a
/// position in the new one, which would skip what the new one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) store: u32,
    pub(crate) next: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORMAT:02x}{:08x}{:016x}", self.store, self.next)
    }
}

/// Text that no collector gave out as a cursor.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this kind of collector; use one from an entry or a heartbeat, or start at earliest or latest")]
pub(crate) struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let canonical = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != DIGITS || !text.bytes().all(canonical) {
            return Err(InvalidCursor);
        }
        let format = u8::from_str_radix(&text[..2], 16).map_err(|_| InvalidCursor)?;
        let store = u32::from_str_radix(&text[2..10], 16).map_err(|_| InvalidCursor)?;
        let next = u64::from_str_radix(&text[10..], 16).map_err(|_| InvalidCursor)?;
        if format == FORMAT {
            Ok(Self { store, next })
        } else {
            Err(InvalidCursor)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cursors() {
        let cursor = Cursor {
            store: 0xdead_beef,
            next: 258,
        };
        assert_eq!(cursor.to_string(), "01deadbeef0000000000000102");
        for bad in [
            "",
            "01",
            "02deadbeef0000000000000102",
            "01DEADBEEF0000000000000102",
            "01deadbeef00000000000001021",
            "+1deadbeef0000000000000102",
            "ééééééééééééé",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(InvalidCursor), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails(text in any::<String>()) {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }

        #[test]
        fn any_bytes_parse_or_fail(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(cursor) = String::from_utf8_lossy(&bytes).parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string().into_bytes(), bytes);
            }
        }

        #[test]
        fn any_cursor_round_trips(store: u32, next: u64) {
            let cursor = Cursor { store, next };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
        }
    }
}
