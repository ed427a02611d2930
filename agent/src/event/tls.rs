//! Reads the name of the server that a TLS client says hello to (RFC 8446, section 4.1.2; RFC 6066, section 3). Any
//! bytes give a name or none.

/// Longest name of a host.
const NAME_BYTES_MAX: usize = 255;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// Length of the version and the random number that a hello begins with.
const VERSION_AND_RANDOM: usize = 2 + 32;

/// The server's name in a `ClientHello`, lower case. The hello may be cut behind it.
pub(super) fn server_name(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut hello = Cursor(bytes);
    // Record: type, version (the major one is 3), length. Handshake message: type, length.
    let [kind, major, _, _, _, message, _, _, _] = hello.array()?;
    if (kind, major, message) != (HANDSHAKE, 3, CLIENT_HELLO) {
        return None;
    }
    hello.skip(VERSION_AND_RANDOM)?;
    let session = hello.byte()?;
    hello.skip(usize::from(session))?;
    let ciphers = hello.number()?;
    hello.skip(usize::from(ciphers))?;
    let compressions = hello.byte()?;
    hello.skip(usize::from(compressions))?;
    let _extensions = hello.number()?;
    loop {
        let (extension, len) = (hello.number()?, hello.number()?);
        if extension != SERVER_NAME {
            hello.skip(usize::from(len))?;
            continue;
        }
        let _list = hello.number()?;
        if hello.byte()? != HOST_NAME {
            return None;
        }
        let len = usize::from(hello.number()?);
        let name = hello.0.get(..len)?;
        let is_name = (1..=NAME_BYTES_MAX).contains(&len) && name.iter().all(u8::is_ascii_graphic);
        return is_name.then(|| name.to_ascii_lowercase());
    }
}

/// What is left to read.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03".to_vec();
        bytes.extend([7; 32]);
        bytes.extend(b"\x04sess\x00\x04\x13\x01\x13\x02\x01\x00");
        bytes.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        bytes.extend(extensions);
        bytes
    }

    const OTHER: &[u8] = b"\x00\x17\x00\x03abc";
    const NAME: &[u8] = b"\x00\x00\x00\x10\x00\x0e\x00\x00\x0bWWW.example";

    #[test]
    fn names_are_read() {
        let cases: [(Vec<u8>, Option<&[u8]>); 8] = [
            (hello(&[OTHER, NAME, OTHER].concat()), Some(b"www.example")),
            (hello(&[OTHER, NAME].concat()), Some(b"www.example")),
            (hello(OTHER), None),
            (hello(b""), None),
            (hello(b"\x00\x00\x00\x05\x00\x03\x00\x00\x00"), None),
            (hello(b"\x00\x00\x00\x06\x00\x04\x00\x00\x01\n"), None),
            (b"\x17\x03\x03\x00\x10abcdefgh".to_vec(), None),
            (b"".to_vec(), None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(server_name(&bytes).as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_cut_hello_has_a_name_or_none() {
        let whole = hello(&[OTHER, NAME].concat());
        for len in 0..whole.len() {
            assert_eq!(server_name(&whole[..len]), None, "{len}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600), patch in any::<bool>()) {
            let mut bytes = bytes;
            if patch && bytes.len() > 6 {
                (bytes[0], bytes[1], bytes[5]) = (HANDSHAKE, 3, CLIENT_HELLO);
            }
            if let Some(name) = server_name(&bytes) {
                prop_assert!(name.len() <= NAME_BYTES_MAX);
            }
        }

        #[test]
        fn a_damaged_hello_is_read_or_refused(at in 0_usize..80, value in any::<u8>()) {
            let mut bytes = hello(&[OTHER, NAME].concat());
            let len = bytes.len();
            bytes[at % len] = value;
            if let Some(name) = server_name(&bytes) {
                prop_assert!(!name.is_empty());
            }
        }
    }
}
