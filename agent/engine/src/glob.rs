//! Shell patterns over bytes: `*`, `?`, `[…]` and `\`, where `*` crosses `/` as fnmatch without flags does.

/// A pattern taken apart at its stars.
#[derive(Debug)]
pub struct Glob {
    /// Between the stars; the first begins the text and the last ends it.
    parts: Vec<Part>,
    fold: bool,
}

#[derive(Debug)]
struct Part {
    tokens: Vec<Token>,
    /// The bytes, when the part is nothing else and case counts.
    literal: Option<memchr::memmem::Finder<'static>>,
}

#[derive(Debug, PartialEq)]
enum Token {
    Byte(u8),
    Any,
    Class { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Glob {
    /// Reads a pattern; any bytes are one. With `fold`, ASCII letters match in either case.
    pub fn new(pattern: &[u8], fold: bool) -> Self {
        let mut parts = vec![Vec::new()];
        let mut rest = pattern;
        while let [first, after @ ..] = rest {
            rest = after;
            let token = match first {
                b'*' => {
                    parts.push(Vec::new());
                    continue;
                }
                b'?' => Token::Any,
                b'[' => match class(after, fold) {
                    Some((token, after)) => {
                        rest = after;
                        token
                    }
                    None => Token::Byte(b'['),
                },
                b'\\' => match after {
                    [escaped, after @ ..] => {
                        rest = after;
                        Token::Byte(folded(*escaped, fold))
                    }
                    [] => Token::Byte(b'\\'),
                },
                byte => Token::Byte(folded(*byte, fold)),
            };
            parts.last_mut().expect("begins with one part").push(token);
        }
        let parts = parts
            .into_iter()
            .map(|tokens| {
                let bytes: Option<Vec<u8>> = tokens
                    .iter()
                    .map(|token| match token {
                        Token::Byte(byte) => Some(*byte),
                        Token::Any | Token::Class { .. } => None,
                    })
                    .collect();
                let literal = bytes
                    .filter(|_| !fold)
                    .map(|bytes| memchr::memmem::Finder::new(&bytes).into_owned());
                Part { tokens, literal }
            })
            .collect();
        Self { parts, fold }
    }

    /// Whether the whole text matches. Each part is searched once, from where the one before it ended.
    pub fn is_match(&self, text: &[u8]) -> bool {
        let [first, rest @ ..] = self.parts.as_slice() else {
            return false;
        };
        if !first.begins(text, self.fold) {
            return false;
        }
        let text = &text[first.tokens.len()..];
        let [middle @ .., last] = rest else {
            return text.is_empty();
        };
        let mut text = text;
        for part in middle {
            match part.find(text, self.fold) {
                Some(at) => text = &text[at + part.tokens.len()..],
                None => return false,
            }
        }
        text.len() >= last.tokens.len() && last.begins(&text[text.len() - last.tokens.len()..], self.fold)
    }
}

impl Glob {
    /// Components that a path must have to match: the bytes between two slashes, or between a slash and an end of the
    /// pattern, where no wildcard is among them.
    pub(crate) fn components(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let last = self.parts.len() - 1;
        for (at, part) in self.parts.iter().enumerate() {
            // A star before or after the part stands for any bytes, slashes included.
            let mut component = (at == 0).then(Vec::new);
            for token in &part.tokens {
                match (token, &mut component) {
                    (Token::Byte(b'/'), _) => found.extend(component.replace(Vec::new())),
                    (Token::Byte(byte), Some(component)) => component.push(*byte),
                    (Token::Byte(_), None) => {}
                    (Token::Any | Token::Class { .. }, _) => component = None,
                }
            }
            found.extend(component.filter(|_| at == last));
        }
        found
    }

    /// The bytes that a text must end with to match.
    pub(crate) fn ending(&self) -> Vec<u8> {
        let tokens = self.parts.last().map_or(&[][..], |part| &part.tokens);
        let bytes = tokens.iter().rev().map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            Token::Any | Token::Class { .. } => None,
        });
        let mut bytes: Vec<u8> = bytes.collect();
        bytes.reverse();
        bytes
    }
}

impl Glob {
    /// The longest bytes that a text must contain to match, if they are long enough to be rare.
    pub(crate) fn literal(&self) -> Option<Vec<u8>> {
        let mut longest: Vec<u8> = Vec::new();
        for part in &self.parts {
            let mut run = Vec::new();
            for token in &part.tokens {
                match token {
                    Token::Byte(byte) => run.push(*byte),
                    Token::Any | Token::Class { .. } => run.clear(),
                }
                if run.len() > longest.len() {
                    longest.clone_from(&run);
                }
            }
        }
        (longest.len() >= crate::literal::BYTES_MIN).then_some(longest)
    }
}

impl Part {
    fn begins(&self, text: &[u8], fold: bool) -> bool {
        text.len() >= self.tokens.len()
            && self
                .tokens
                .iter()
                .zip(text)
                .all(|(token, byte)| token.matches(*byte, fold))
    }

    fn find(&self, text: &[u8], fold: bool) -> Option<usize> {
        match &self.literal {
            Some(finder) => finder.find(text),
            None => (0..=text.len()).find(|at| self.begins(&text[*at..], fold)),
        }
    }
}

impl Token {
    fn matches(&self, byte: u8, fold: bool) -> bool {
        let byte = folded(byte, fold);
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::Any => true,
            Self::Class { negated, ranges } => {
                let inside = |byte: u8| ranges.iter().any(|(low, high)| (*low..=*high).contains(&byte));
                let found = inside(byte) || (fold && inside(byte.to_ascii_uppercase()));
                found != *negated
            }
        }
    }
}

fn folded(byte: u8, fold: bool) -> u8 {
    if fold { byte.to_ascii_lowercase() } else { byte }
}

/// A class up to its closing bracket; without one, the opening bracket stands for itself.
fn class(text: &[u8], fold: bool) -> Option<(Token, &[u8])> {
    let (negated, mut rest) = match text {
        [b'!' | b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut ranges = Vec::new();
    let mut first = true;
    loop {
        match rest {
            [b']', after @ ..] if !first => return Some((Token::Class { negated, ranges }, after)),
            [b'[', b':', after @ ..] => {
                let end = memchr::memmem::find(after, b":]")?;
                ranges.extend_from_slice(named_class(&after[..end])?);
                rest = &after[end + 2..];
            }
            _ => {
                let (low, after) = member(rest)?;
                match after {
                    [b'-', high, ..] if *high != b']' => {
                        let (high, after) = member(&after[1..])?;
                        ranges.push((folded(low, fold && high == low), high));
                        rest = after;
                    }
                    _ => {
                        ranges.push((folded(low, fold), folded(low, fold)));
                        rest = after;
                    }
                }
            }
        }
        first = false;
    }
}

fn member(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => Some((*byte, rest)),
        [] => None,
    }
}

fn named_class(name: &[u8]) -> Option<&'static [(u8, u8)]> {
    Some(match name {
        b"alpha" => &[(b'A', b'Z'), (b'a', b'z')],
        b"digit" => &[(b'0', b'9')],
        b"alnum" => &[(b'0', b'9'), (b'A', b'Z'), (b'a', b'z')],
        b"upper" => &[(b'A', b'Z')],
        b"lower" => &[(b'a', b'z')],
        b"space" => &[(b'\t', b'\r'), (b' ', b' ')],
        b"punct" => &[(b'!', b'/'), (b':', b'@'), (b'[', b'`'), (b'{', b'~')],
        b"xdigit" => &[(b'0', b'9'), (b'A', b'F'), (b'a', b'f')],
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "a/b", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("/home/*/.ssh/*", "/home/me/.ssh/id_rsa", true),
            ("/home/*/.ssh/*", "/home/a/b/.ssh/x/y", true),
            ("/home/*/.ssh/*", "/root/.ssh/id_rsa", false),
            ("*../*../*", "x../y../z", true),
            ("*.so", "lib.so", true),
            ("*.so", "lib.so.1", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[]]", "]", true),
            ("[abc", "[abc", true),
            ("[[:digit:]]*", "7z", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("/proc/*/environ", "/proc/12/environ", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxbxxaxxc", false),
        ] {
            assert_eq!(
                Glob::new(pattern.as_bytes(), false).is_match(text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
        for (pattern, components, ending) in [
            ("/home/*/.ssh/*", &["home", ".ssh"][..], ""),
            ("*.pth", &[], ".pth"),
            ("/etc/cron.d/?x", &["etc", "cron.d"], "x"),
            ("a/b", &["a", "b"], "a/b"),
            ("*/b", &["b"], "/b"),
            ("a*/b*/c[x]/d", &["d"], "/d"),
        ] {
            let glob = Glob::new(pattern.as_bytes(), false);
            let found = glob.components();
            let found: Vec<&[u8]> = found
                .iter()
                .map(Vec::as_slice)
                .filter(|found| !found.is_empty())
                .collect();
            let expected: Vec<&[u8]> = components.iter().map(|component| component.as_bytes()).collect();
            assert_eq!((found, &*glob.ending()), (expected, ending.as_bytes()), "{pattern}");
        }
        assert!(Glob::new(b"*.EXE", true).is_match(b"A.exe"));
        assert!(Glob::new(b"[A-C]*", true).is_match(b"b"));
        assert!(Glob::new(b"?", false).is_match(&[0xff]));
    }
}
