//! Reads DNS messages (RFC 1035, section 4): the name a query asks for, and what an answer says. Any bytes give
//! something or nothing; a message that was cut gives what is there.

use std::net::IpAddr;

/// Longest name, in its wire form.
const NAME_BYTES_MAX: usize = 255;
const HEADER_BYTES: usize = 12;
/// Most answers that are read.
const ANSWERS_MAX: usize = 32;
/// Most questions that are skipped; real messages have one.
const QUESTIONS_MAX: u16 = 4;

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const CLASS_INTERNET: u16 = 1;

/// What a DNS message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// Whether it is an answer.
    pub(super) is_response: bool,
    /// The first question's name, lower case, without the last dot.
    pub(super) question: Vec<u8>,
    /// Addresses as text, and names of which the first is another name.
    pub(super) answers: Vec<Vec<u8>>,
}

/// A message as it travels over TCP: behind its length, which a program may have written on its own.
pub(super) fn over_tcp(bytes: &[u8]) -> Option<Message> {
    let message = match bytes.split_first_chunk() {
        Some((len, rest)) if usize::from(u16::from_be_bytes(*len)) >= rest.len() => message(rest),
        _ => None,
    };
    message.or_else(|| self::message(bytes))
}

/// A message; none when the bytes do not begin like one that asks something.
pub(super) fn message(bytes: &[u8]) -> Option<Message> {
    let header = bytes.get(..HEADER_BYTES)?;
    let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (questions, answers) = (count(4), count(6));
    if questions == 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    let mut message = Message {
        is_response: header[2] & 0x80 != 0,
        question: name(bytes, &mut at)?,
        answers: Vec::new(),
    };
    if !message.is_response || questions > QUESTIONS_MAX {
        return Some(message);
    }
    let mut cursor = Some(at + 4);
    for _ in 1..questions {
        cursor = cursor.and_then(|mut at| {
            name(bytes, &mut at)?;
            Some(at + 4)
        });
    }
    for _ in 0..usize::from(answers).min(ANSWERS_MAX) {
        let Some((answer, next)) = cursor.and_then(|at| answer(bytes, at)) else {
            break;
        };
        message.answers.extend(answer);
        cursor = Some(next);
    }
    Some(message)
}

/// One resource record: what it says, if that is of interest, and where the next one begins.
fn answer(bytes: &[u8], mut at: usize) -> Option<(Option<Vec<u8>>, usize)> {
    name(bytes, &mut at)?;
    // Type, class, time to live, length.
    let fixed: [u8; 10] = bytes.get(at..)?.first_chunk().copied()?;
    let number = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let start = at + fixed.len();
    let end = start + usize::from(number(8));
    let data = bytes.get(start..end)?;
    let address = |address: IpAddr| Some(address.to_string().into_bytes());
    let answer = match (number(0), number(2)) {
        (TYPE_A, CLASS_INTERNET) => <[u8; 4]>::try_from(data).ok().and_then(|data| address(data.into())),
        (TYPE_AAAA, CLASS_INTERNET) => <[u8; 16]>::try_from(data).ok().and_then(|data| address(data.into())),
        (TYPE_CNAME, CLASS_INTERNET) => {
            let mut at = start;
            name(bytes, &mut at)
        }
        _ => None,
    };
    Some((answer, end))
}

/// The name at `at`, which moves behind it. Compressed names lead back only, so that they end.
fn name(bytes: &[u8], at: &mut usize) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(64);
    let mut cursor = *at;
    // Where a pointer may lead: before the last one, or before the name.
    let mut limit = *at;
    let mut jumped = false;
    loop {
        let len = usize::from(*bytes.get(cursor)?);
        if len & 0xc0 == 0xc0 {
            let target = (len & 0x3f) << 8 | usize::from(*bytes.get(cursor + 1)?);
            if !jumped {
                *at = cursor + 2;
                jumped = true;
            }
            if target < HEADER_BYTES || target >= limit {
                return None;
            }
            limit = target;
            cursor = target;
            continue;
        }
        cursor += 1;
        if len == 0 {
            if !jumped {
                *at = cursor;
            }
            return Some(name);
        }
        if len > 63 || name.len() + len > NAME_BYTES_MAX {
            return None;
        }
        let label = bytes.get(cursor..cursor + len)?;
        cursor += len;
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.iter().map(u8::to_ascii_lowercase));
    }
}

/// The end of a name that somebody registered, as far as the name alone tells: below `co.uk` and its like three labels, else
/// two. Whole lists of such suffixes change every week; that a zone comes out a label too short joins neighbours, no more.
pub(super) fn zone(name: &[u8]) -> &[u8] {
    let mut ends = name.iter().enumerate().rev().filter(|(_, byte)| **byte == b'.');
    let Some((last, _)) = ends.next() else {
        return name;
    };
    let Some((second, _)) = ends.next() else {
        return name;
    };
    let is_country = name.len() - last == 3;
    let is_kind = matches!(
        &name[second + 1..last],
        b"ac" | b"co" | b"com" | b"edu" | b"go" | b"gov" | b"gob" | b"ne" | b"net" | b"or" | b"org"
    );
    if !(is_country && is_kind) {
        return &name[second + 1..];
    }
    ends.next().map_or(name, |(third, _)| &name[third + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUERY: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WWW\x07example\x03com\x00\x00\x01\x00\x01";

    /// A response to [`QUERY`]: another name, then an address of each kind of it.
    fn response() -> Vec<u8> {
        let mut bytes = QUERY.to_vec();
        bytes[2] |= 0x80;
        bytes[7] = 3;
        bytes.extend(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x06\x03cdn\xc0\x10");
        bytes.extend(b"\xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xc0\x00\x02\x01");
        bytes.extend(b"\xc0\x2d\x00\x1c\x00\x01\x00\x00\x00\x3c\x00\x10");
        bytes.extend(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
        bytes
    }

    fn question(bytes: &[u8]) -> Option<Vec<u8>> {
        message(bytes).map(|message| message.question)
    }

    #[test]
    fn zones() {
        for (name, expected) in [
            ("a.b.example.com", "example.com"),
            ("example.com", "example.com"),
            ("localhost", "localhost"),
            ("", ""),
            ("x.y.example.co.uk", "example.co.uk"),
            ("example.co.uk", "example.co.uk"),
            ("data.t.co", "t.co"),
            ("a..b", ".b"),
        ] {
            assert_eq!(zone(name.as_bytes()), expected.as_bytes(), "{name}");
        }
    }

    #[test]
    fn names_are_read() {
        assert_eq!(question(QUERY).unwrap(), b"www.example.com");
        assert_eq!(question(&QUERY[..20]), None);
        for pointer in [b"\xc0\x00", b"\xc0\x0c", b"\xc0\xff", b"\xff\xff"] {
            let mut compressed = QUERY.to_vec();
            compressed[12..14].copy_from_slice(pointer);
            assert_eq!(question(&compressed), None, "{pointer:?}");
        }
    }

    #[test]
    fn answers_are_read() {
        let bytes = response();
        let read = message(&bytes).unwrap();
        assert!(read.is_response);
        assert_eq!(read.question, b"www.example.com");
        assert_eq!(
            read.answers,
            [&b"cdn.example.com"[..], b"192.0.2.1", b"2001:db8::7"].map(<[u8]>::to_vec)
        );
        // Cut anywhere, it says no more than before.
        for len in 0..bytes.len() {
            let cut = message(&bytes[..len]).map_or(0, |message| message.answers.len());
            assert!(cut < 3, "{len}");
        }
        // A type that nobody asked about, an address of the wrong length, another class.
        for (at, value) in [(54, 16), (62, 3), (56, 3)] {
            let mut other = bytes.clone();
            other[at] = value;
            assert!(message(&other).unwrap().answers.len() < 3, "{at}");
        }
    }

    #[test]
    fn over_tcp_a_length_comes_first() {
        let len = u16::try_from(QUERY.len()).unwrap().to_be_bytes();
        for bytes in [[&len[..], QUERY].concat(), QUERY.to_vec()] {
            assert_eq!(over_tcp(&bytes).unwrap().question, b"www.example.com");
        }
        assert_eq!(over_tcp(&len), None);
        assert_eq!(over_tcp(b""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            for message in [message(&bytes), over_tcp(&bytes)].into_iter().flatten() {
                prop_assert!(message.question.len() <= NAME_BYTES_MAX + 1);
                prop_assert!(message.answers.len() <= ANSWERS_MAX);
                prop_assert!(message.answers.iter().all(|answer| answer.len() <= NAME_BYTES_MAX + 1));
            }
        }

        #[test]
        fn a_damaged_response_is_read_or_refused(
            places in prop::collection::vec((0_usize..90, any::<u8>()), 0..8),
            len in 0_usize..120,
        ) {
            let mut bytes = response();
            let whole = bytes.len();
            for (at, value) in places {
                bytes[at % whole] = value;
            }
            bytes.truncate(len);
            if let Some(message) = message(&bytes) {
                prop_assert!(message.answers.len() <= ANSWERS_MAX);
            }
        }
    }
}
