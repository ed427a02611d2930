//! Reads the name that a DNS query asks for (RFC 1035, section 4.1). Any bytes give a name or none.

/// Longest name, in its wire form.
const NAME_BYTES_MAX: usize = 255;
const HEADER_BYTES: usize = 12;

/// The first question's name, lower case, without the last dot; none when the bytes are no query.
pub(super) fn question(message: &[u8]) -> Option<Vec<u8>> {
    let header = message.get(..HEADER_BYTES)?;
    let is_response = header[2] & 0x80 != 0;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    if is_response || questions == 0 {
        return None;
    }
    let mut rest = &message[HEADER_BYTES..];
    let mut name = Vec::with_capacity(64);
    loop {
        let (&len, after) = rest.split_first()?;
        let len = usize::from(len);
        if len == 0 {
            return Some(name);
        }
        // A question has no compressed labels, whose two top bits are set: those are no name.
        if len > 63 || name.len() + len > NAME_BYTES_MAX {
            return None;
        }
        let (label, after) = after.split_at_checked(len)?;
        if !name.is_empty() {
            name.push(b'.');
        }
        name.extend(label.iter().map(u8::to_ascii_lowercase));
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_read() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WWW\x07example\x03com\x00\x00\x01\x00\x01";
        assert_eq!(question(query).unwrap(), b"www.example.com");
        let mut response = query.to_vec();
        response[2] |= 0x80;
        assert_eq!(question(&response), None);
        assert_eq!(question(&query[..20]), None);
        let mut compressed = query.to_vec();
        compressed[12] = 0xc0;
        assert_eq!(question(&compressed), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Some(name) = question(&bytes) {
                prop_assert!(name.len() <= NAME_BYTES_MAX + 1);
            }
        }
    }
}
