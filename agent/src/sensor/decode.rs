//! Decodes records: kernel bytes in, checked structures out. Any bytes give a record or an error, never a panic.

use staghound_ebpf::{Call, Chdir, Ended, Exec, Exit, Fork, Header, Kind, Open, PathChange, Resolved, Socket, Span};
use zerocopy::FromBytes;

/// A record that its bytes were checked against.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// What happened when, and who did it.
    pub header: Header,
    /// What else is told.
    pub body: Body,
    data: &'a [u8],
}

/// The part of a record that depends on its kind.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// A process replaced its image.
    Exec(Exec),
    /// A process was made.
    Fork(Fork),
    /// The last thread of a process ended.
    Exit(Exit),
    /// A file was opened.
    Open(Open),
    /// A file was renamed.
    Rename(PathChange),
    /// A name was removed.
    Unlink(PathChange),
    /// A mode was changed.
    Chmod(PathChange),
    /// A process changed its working directory.
    Chdir(Chdir),
    /// A socket was connected.
    Connect(Socket),
    /// A socket listens.
    Listen(Socket),
    /// A connection was accepted.
    Accept(Socket),
    /// Something was sent.
    Send(Socket),
    /// A system call without a body of its own ended.
    Call(Call),
    /// Something came from port 53.
    Receive(Socket),
    /// A TCP connection ended.
    Ended(Ended),
    /// A socket was given a local address.
    Bind(Socket),
    /// What the kernel resolved the paths of the thread's next record to.
    Resolved(Resolved),
}

/// Why bytes are no record. Only a kernel object of another version, or damage, can cause it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than header and body need, or than the header tells of.
    #[error("a record is cut short")]
    Short,
    /// No such kind.
    #[error("a record is of the unknown kind {0}")]
    Kind(u16),
}

/// Checks the bytes of one record.
///
/// # Errors
/// They are too few, or of an unknown kind.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, DecodeError> {
    let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
    // The kernel rounds a record up to eight bytes; what the header says counts.
    let len = (header.len as usize)
        .checked_sub(size_of::<Header>())
        .ok_or(DecodeError::Short)?;
    let rest = rest.get(..len).ok_or(DecodeError::Short)?;
    let (body, data) = match Kind::from_number(header.kind).ok_or(DecodeError::Kind(header.kind))? {
        Kind::Exec => split(rest, Body::Exec)?,
        Kind::Fork => split(rest, Body::Fork)?,
        Kind::Exit => split(rest, Body::Exit)?,
        Kind::Open => split(rest, Body::Open)?,
        Kind::Rename => split(rest, Body::Rename)?,
        Kind::Unlink => split(rest, Body::Unlink)?,
        Kind::Chmod => split(rest, Body::Chmod)?,
        Kind::Chdir => split(rest, Body::Chdir)?,
        Kind::Connect => split(rest, Body::Connect)?,
        Kind::Listen => split(rest, Body::Listen)?,
        Kind::Accept => split(rest, Body::Accept)?,
        Kind::Send => split(rest, Body::Send)?,
        Kind::Call => split(rest, Body::Call)?,
        Kind::Receive => split(rest, Body::Receive)?,
        Kind::Ended => split(rest, Body::Ended)?,
        Kind::Bind => split(rest, Body::Bind)?,
        Kind::Resolved => split(rest, Body::Resolved)?,
    };
    Ok(Record { header, body, data })
}

fn split<T: FromBytes>(bytes: &[u8], wrap: fn(T) -> Body) -> Result<(Body, &[u8]), DecodeError> {
    let (body, data) = T::read_from_prefix(bytes).map_err(|_| DecodeError::Short)?;
    Ok((wrap(body), data))
}

impl<'a> Record<'a> {
    /// The bytes of a span; empty when it lies outside of the record.
    #[must_use]
    pub fn bytes(&self, span: Span) -> &'a [u8] {
        let start = usize::from(span.offset);
        self.data.get(start..start + usize::from(span.len)).unwrap_or_default()
    }

    /// The bytes of a span up to its first NUL.
    #[must_use]
    pub fn text(&self, span: Span) -> &'a [u8] {
        until_nul(self.bytes(span))
    }

    /// The NUL-terminated strings of a span. A last one without NUL was cut, and is given as far as it goes.
    pub fn strings(&self, span: Span) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes(span);
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        bytes
            .split(|byte| *byte == 0)
            .take(if bytes.is_empty() && span.len == 0 {
                0
            } else {
                usize::MAX
            })
    }

    /// A path that was walked from leaf to root, turned round and appended to `path`; `/` for the root itself.
    pub fn walked_path(&self, span: Span, path: &mut Vec<u8>) {
        let bytes = self.bytes(span);
        let Some(bytes) = bytes.strip_suffix(&[0]) else {
            path.push(b'/');
            return;
        };
        for component in bytes.rsplit(|byte| *byte == 0) {
            path.push(b'/');
            // The root of a file system that is not mounted here calls itself `/`.
            path.extend_from_slice(component.strip_prefix(b"/").unwrap_or(component));
        }
    }

    /// A path that was passed to a system call, joined with the directory it starts from (for an absolute one the
    /// process's root) and freed of `.`, `..` and empty components. Symbolic links in it are not followed: the kernel does
    /// not tell where they led.
    #[must_use]
    pub fn passed_path(&self, base: Span, name: Span) -> Vec<u8> {
        let name = self.text(name);
        let mut path = Vec::with_capacity(usize::from(base.len) + name.len() + 1);
        self.walked_path(base, &mut path);
        if path == b"/" {
            path.clear();
        }
        // `..` does not lead above the root of the process.
        let root = if name.starts_with(b"/") { path.len() } else { 0 };
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    path.truncate(parent.max(root));
                }
                _ => {
                    path.push(b'/');
                    path.extend_from_slice(component);
                }
            }
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }
}

/// Bytes before the first NUL.
#[must_use]
pub fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes as _;

    fn record_of(kind: Kind, body: &[u8], data: &[u8]) -> Vec<u8> {
        let len = u32::try_from(size_of::<Header>() + body.len() + data.len()).unwrap();
        let header = Header {
            kind: kind as u16,
            len,
            ..Header::default()
        };
        [header.as_bytes(), body, data].concat()
    }

    fn span(offset: u16, len: u16) -> Span {
        Span { offset, len }
    }

    #[test]
    fn walked_paths_are_turned_round() {
        let data = b"shadow\0etc\0";
        let bytes = record_of(
            Kind::Chdir,
            Chdir {
                path: span(0, 11),
                reserved: 0,
            }
            .as_bytes(),
            data,
        );
        let record = decode(&bytes).unwrap();
        for (from, expected) in [
            (span(0, 11), &b"/etc/shadow"[..]),
            (span(0, 0), b"/"),
            (span(7, 4), b"/etc"),
        ] {
            let mut path = Vec::new();
            record.walked_path(from, &mut path);
            assert_eq!(path, expected);
        }
    }

    #[test]
    fn passed_paths_are_made_absolute() {
        let cases: [(&[u8], &[u8], &[u8]); 9] = [
            (b"src\0home\0", b"a.c\0", b"/home/src/a.c"),
            (b"", b"/etc//./passwd\0", b"/etc/passwd"),
            (b"jail\0srv\0", b"/etc/../../passwd\0", b"/srv/jail/passwd"),
            (b"src\0home\0", b"../../../x\0", b"/x"),
            (b"src\0home\0", b"./\0", b"/home/src"),
            (b"src\0home\0", b"\0", b"/home/src"),
            (b"", b"x\0", b"/x"),
            (b"", b"..\0", b"/"),
            (b"\xff\xfe\0", b"\x1b[31m\0", b"/\xff\xfe/\x1b[31m"),
        ];
        for (base, name, expected) in cases {
            let data = [base, name].concat();
            let (base, name) = (u16::try_from(base.len()).unwrap(), u16::try_from(name.len()).unwrap());
            let bytes = record_of(Kind::Unlink, PathChange::default().as_bytes(), &data);
            let record = decode(&bytes).unwrap();
            assert_eq!(record.passed_path(span(0, base), span(base, name)), expected);
        }
    }

    #[test]
    fn strings_keep_empty_ones() {
        let data = b"sh\0-c\0\0last";
        let bytes = record_of(Kind::Exec, Exec::default().as_bytes(), data);
        let record = decode(&bytes).unwrap();
        let all: Vec<&[u8]> = record.strings(span(0, 11)).collect();
        assert_eq!(all, [&b"sh"[..], b"-c", b"", b"last"]);
        assert_eq!(record.strings(span(0, 0)).count(), 0);
        assert_eq!(record.strings(span(0, 3)).collect::<Vec<_>>(), [b"sh"]);
        assert_eq!(record.strings(span(6, 1)).collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn spans_outside_of_the_record_are_empty() {
        let bytes = record_of(Kind::Exec, Exec::default().as_bytes(), b"abc");
        let record = decode(&bytes).unwrap();
        assert_eq!(record.bytes(span(0, 4)), b"");
        assert_eq!(record.bytes(span(u16::MAX, u16::MAX)), b"");
        assert_eq!(record.bytes(span(1, 2)), b"bc");
    }

    #[test]
    fn short_and_unknown_records_are_errors() {
        let bytes = record_of(Kind::Fork, Fork::default().as_bytes(), b"");
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]).err(), Some(DecodeError::Short), "{len}");
        }
        let unknown = Header {
            kind: 99,
            len: u32::try_from(size_of::<Header>()).unwrap(),
            ..Header::default()
        };
        assert_eq!(decode(unknown.as_bytes()).err(), Some(DecodeError::Kind(99)));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            kind in 0_u16..16,
            patch in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if patch && bytes.len() >= 40 {
                bytes[32..34].copy_from_slice(&kind.to_ne_bytes());
                let len = u32::try_from(bytes.len()).unwrap();
                bytes[36..40].copy_from_slice(&len.to_ne_bytes());
            }
            if let Ok(record) = decode(&bytes) {
                for span in [span(0, 10), span(3, 300), span(65_535, 65_535)] {
                    let mut path = Vec::new();
                    record.walked_path(span, &mut path);
                    let _ignored = (record.text(span), record.strings(span).count(), record.passed_path(span, span));
                }
            }
        }
    }
}
