//! The values of Sigma: texts with wildcards, and what modifiers make of them.

/// Most variants that modifiers may make of one value.
const VARIANTS_MAX: usize = 700;
/// What `windash` takes for each other.
const DASHES: [char; 5] = ['-', '/', '–', '—', '―'];

/// A piece of a text with wildcards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// One byte, whichever.
    One,
    /// Any bytes, or none.
    Any,
}

/// A text with wildcards. Neighbouring bytes are one piece.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Pattern(pub(crate) Vec<Piece>);

/// What is left of a pattern when its stars are taken off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape<'p> {
    Equal(&'p [u8]),
    StartsWith(&'p [u8]),
    EndsWith(&'p [u8]),
    Contains(&'p [u8]),
    /// Anything, if it is there.
    Anything,
    /// Wildcards in the midst.
    Mixed,
}

/// How a value may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Base64,
    Base64Offset,
    /// With the less significant byte first; also `wide`.
    Utf16Le,
    Utf16Be,
    /// With a mark of the order of bytes in front.
    Utf16,
    WinDash,
    Contains,
    StartsWith,
    EndsWith,
}

impl Change {
    /// The change that a modifier of this name makes; none if it makes no change of a value.
    pub(crate) fn of_modifier(name: &str) -> Option<Self> {
        Some(match name {
            "contains" => Self::Contains,
            "startswith" => Self::StartsWith,
            "endswith" => Self::EndsWith,
            "base64" => Self::Base64,
            "base64offset" => Self::Base64Offset,
            "wide" | "utf16le" => Self::Utf16Le,
            "utf16be" => Self::Utf16Be,
            "utf16" => Self::Utf16,
            "windash" => Self::WinDash,
            _ => return None,
        })
    }
}

impl Pattern {
    /// A text as written: `*` and `?` are wildcards, a backslash makes them and itself plain.
    pub(crate) fn parse(text: &str) -> Self {
        let mut pattern = Self::default();
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '*' => pattern.push(Piece::Any),
                '?' => pattern.push(Piece::One),
                '\\' => match characters.next_if(|next| matches!(next, '*' | '?' | '\\')) {
                    Some(plain) => pattern.push_text(plain),
                    None => pattern.push_text('\\'),
                },
                _ => pattern.push_text(character),
            }
        }
        pattern
    }

    fn push_text(&mut self, character: char) {
        let mut buffer = [0; 4];
        self.push(Piece::Bytes(character.encode_utf8(&mut buffer).as_bytes().to_vec()));
    }

    fn push(&mut self, piece: Piece) {
        match (self.0.last_mut(), piece) {
            (Some(Piece::Bytes(bytes)), Piece::Bytes(more)) => bytes.extend_from_slice(&more),
            (Some(Piece::Any), Piece::Any) => {}
            (_, piece) => self.0.push(piece),
        }
    }

    /// The bytes, if there are no wildcards.
    pub(crate) fn plain(&self) -> Option<&[u8]> {
        match self.0.as_slice() {
            [] => Some(b""),
            [Piece::Bytes(bytes)] => Some(bytes),
            _ => None,
        }
    }

    pub(crate) fn shape(&self) -> Shape<'_> {
        match self.0.as_slice() {
            [] => Shape::Equal(b""),
            [Piece::Bytes(bytes)] => Shape::Equal(bytes),
            [Piece::Bytes(bytes), Piece::Any] => Shape::StartsWith(bytes),
            [Piece::Any, Piece::Bytes(bytes)] => Shape::EndsWith(bytes),
            [Piece::Any, Piece::Bytes(bytes), Piece::Any] => Shape::Contains(bytes),
            [Piece::Any] => Shape::Anything,
            _ => Shape::Mixed,
        }
    }

    /// The same as a shell pattern.
    pub(crate) fn glob(&self) -> Vec<u8> {
        let mut glob = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Any => glob.push(b'*'),
                Piece::One => glob.push(b'?'),
                Piece::Bytes(bytes) => {
                    for byte in bytes {
                        if matches!(byte, b'*' | b'?' | b'[' | b'\\') {
                            glob.push(b'\\');
                        }
                        glob.push(*byte);
                    }
                }
            }
        }
        glob
    }

    /// In lower case, as far as letters are ASCII.
    pub(crate) fn lower(mut self) -> Self {
        for piece in &mut self.0 {
            if let Piece::Bytes(bytes) = piece {
                bytes.make_ascii_lowercase();
            }
        }
        self
    }

    /// What a modifier makes of it; the reason when it makes nothing.
    pub(crate) fn changed(self, change: Change) -> Result<Vec<Self>, &'static str> {
        let bytes = |pattern: &Self| {
            pattern
                .plain()
                .map(<[u8]>::to_vec)
                .ok_or("a value with wildcards cannot be encoded")
        };
        let of = |bytes: Vec<u8>| Self(vec![Piece::Bytes(bytes)]);
        Ok(match change {
            Change::Contains => vec![self.between(true, true)],
            Change::StartsWith => vec![self.between(false, true)],
            Change::EndsWith => vec![self.between(true, false)],
            Change::Base64 => vec![of(base64(&bytes(&self)?))],
            Change::Base64Offset => base64_offsets(&bytes(&self)?)?.into_iter().map(of).collect(),
            Change::Utf16Le => vec![of(utf16(&bytes(&self)?, u16::to_le_bytes)?)],
            Change::Utf16Be => vec![of(utf16(&bytes(&self)?, u16::to_be_bytes)?)],
            Change::Utf16 => vec![of([vec![0xff, 0xfe], utf16(&bytes(&self)?, u16::to_le_bytes)?].concat())],
            Change::WinDash => self.dashes()?,
        })
    }

    fn between(self, before: bool, after: bool) -> Self {
        let mut pattern = Self::default();
        if before {
            pattern.push(Piece::Any);
        }
        self.0.into_iter().for_each(|piece| pattern.push(piece));
        if after {
            pattern.push(Piece::Any);
        }
        pattern
    }

    /// All ways to write the dashes that begin a flag: those between something that is no letter and a letter.
    fn dashes(self) -> Result<Vec<Self>, &'static str> {
        let mut variants = vec![Self::default()];
        let mut before: Option<char> = None;
        for piece in self.0 {
            let Piece::Bytes(bytes) = piece else {
                variants.iter_mut().for_each(|variant| variant.push(piece.clone()));
                before = None;
                continue;
            };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let mut characters = text.chars().peekable();
            while let Some(character) = characters.next() {
                let is_word = |c: char| c.is_alphanumeric() || c == '_';
                let begins_flag = DASHES.contains(&character)
                    && !before.is_some_and(is_word)
                    && characters.peek().is_some_and(|next| is_word(*next));
                before = Some(character);
                if !begins_flag {
                    variants.iter_mut().for_each(|variant| variant.push_text(character));
                    continue;
                }
                variants = variants
                    .iter()
                    .flat_map(|variant| {
                        DASHES.iter().map(|dash| {
                            let mut variant = variant.clone();
                            variant.push_text(*dash);
                            variant
                        })
                    })
                    .collect();
                if variants.len() > VARIANTS_MAX {
                    return Err("a value with more than four flags has too many variants with `windash`");
                }
            }
        }
        Ok(variants)
    }
}

fn utf16(bytes: &[u8], order: fn(u16) -> [u8; 2]) -> Result<Vec<u8>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "a value that is encoded already is no text")?;
    Ok(text.encode_utf16().flat_map(order).collect())
}

fn base64(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| usize::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            // One byte takes two digits, two take three.
            text.push(match digit <= chunk.len() {
                true => DIGITS[bits >> (18 - 6 * digit) & 63],
                false => b'=',
            });
        }
    }
    text
}

/// The digits that a text has wherever it stands in what is encoded: with no, one or two bytes before it, those left out
/// that hold bits of its neighbours.
fn base64_offsets(bytes: &[u8]) -> Result<[Vec<u8>; 3], &'static str> {
    if bytes.len() < 2 {
        return Err("`base64offset` needs a value of two bytes at least");
    }
    Ok([0, 1, 2].map(|offset| {
        let encoded = base64(&[&[0; 2][..offset], bytes].concat());
        let first = (offset * 8).div_ceil(6);
        let last = (offset + bytes.len()) * 8 / 6;
        encoded[first..last].to_vec()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pattern: &Pattern) -> String {
        String::from_utf8_lossy(&pattern.glob()).into_owned()
    }

    fn changed(value: &str, change: Change) -> Vec<String> {
        let mut found: Vec<String> = Pattern::parse(value)
            .changed(change)
            .unwrap()
            .iter()
            .map(text)
            .collect();
        found.sort();
        found
    }

    #[test]
    fn wildcards_and_escapes() {
        // As shell patterns, in which a backslash before a plain byte is doubled.
        for (value, expected) in [
            (r"a*b?c", r"a*b?c"),
            (r"a\*b", r"a\*b"),
            (r"a\?b", r"a\?b"),
            (r"a\b", r"a\\b"),
            (r"a\\b", r"a\\b"),
            (r"a\\*", r"a\\*"),
            (r"a\\\*", r"a\\\*"),
            (r"a\\\\b", r"a\\\\b"),
            ("a**b", "a*b"),
            ("[x]", r"\[x]"),
            (r"\", r"\\"),
            ("", ""),
        ] {
            assert_eq!(text(&Pattern::parse(value)), expected, "{value}");
        }
        assert_eq!(Pattern::parse("*a").shape(), Shape::EndsWith(b"a"));
        assert_eq!(Pattern::parse("a*").shape(), Shape::StartsWith(b"a"));
        assert_eq!(Pattern::parse("*a*").shape(), Shape::Contains(b"a"));
        assert_eq!(Pattern::parse("").shape(), Shape::Equal(b""));
        assert_eq!(Pattern::parse("*").shape(), Shape::Anything);
        assert_eq!(Pattern::parse("a*b").shape(), Shape::Mixed);
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(changed("foobar", Change::Base64), ["Zm9vYmFy"]);
        assert_eq!(changed("foob", Change::Base64), ["Zm9vYg=="]);
        // Every place of the text in what is encoded shows one of the three.
        let offsets = changed("foobar", Change::Base64Offset);
        assert_eq!(offsets.len(), 3);
        for before in ["", "x", "xy", "xyz", "xyzw"] {
            let encoded = String::from_utf8(base64(format!("{before}foobar!").as_bytes())).unwrap();
            assert!(
                offsets.iter().any(|offset| encoded.contains(offset)),
                "{encoded} {offsets:?}"
            );
        }
        assert_eq!(changed("ab", Change::Utf16Le), ["a\0b\0"]);
        assert_eq!(changed("ab", Change::Utf16Be), ["\0a\0b"]);
        assert_eq!(
            Pattern::parse("a").changed(Change::Utf16).unwrap()[0].plain(),
            Some(&b"\xff\xfea\0"[..])
        );
        assert!(Pattern::parse("a*").changed(Change::Base64).is_err());
        assert!(Pattern::parse("a").changed(Change::Base64Offset).is_err());
    }

    #[test]
    fn dashes_are_taken_for_each_other() {
        let found = changed("-x", Change::WinDash);
        assert_eq!(found.len(), 5);
        assert!(found.contains(&"/x".to_owned()) && found.contains(&"–x".to_owned()));
        assert_eq!(changed("a-b c- -", Change::WinDash), ["a-b c- -"]);
        assert_eq!(changed(" -a /b", Change::WinDash).len(), 25);
        assert!(Pattern::parse("-a -b -c -d -e").changed(Change::WinDash).is_err());
    }
}
