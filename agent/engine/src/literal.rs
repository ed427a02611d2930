//! What a text must contain to match a regular expression: found first, because looking for many texts at once costs less
//! than one regular expression.

use regex_syntax::hir::{Hir, HirKind};

/// Shorter texts are in too many values to be worth looking for.
pub(crate) const BYTES_MIN: usize = 3;
/// Most texts of which a value must contain one.
const LITERALS_MAX: usize = 16;

/// Texts of which every value that the pattern matches contains one, if there are such.
pub(crate) fn of_regex(pattern: &str) -> Option<Vec<Vec<u8>>> {
    // Read as it is compiled: bytes, and letters of Unicode only if it cannot do without.
    let parse = |unicode: bool| {
        regex_syntax::ParserBuilder::new()
            .unicode(unicode)
            .utf8(false)
            .build()
            .parse(pattern)
            .ok()
    };
    let hir = parse(false).or_else(|| parse(true))?;
    let mut literals = required(&hir)?;
    literals.sort();
    literals.dedup();
    // What contains another is found with it.
    let all = literals.clone();
    literals.retain(|literal| {
        !all.iter()
            .any(|other| other.len() < literal.len() && memchr::memmem::find(literal, other).is_some())
    });
    Some(literals)
}

fn required(hir: &Hir) -> Option<Vec<Vec<u8>>> {
    let found = match hir.kind() {
        HirKind::Empty | HirKind::Class(_) | HirKind::Look(_) => None,
        HirKind::Literal(literal) => Some(vec![literal.0.to_vec()]),
        HirKind::Repetition(repetition) if repetition.min > 0 => required(&repetition.sub),
        HirKind::Repetition(_) => None,
        HirKind::Capture(capture) => required(&capture.sub),
        // The part whose shortest text is longest says most.
        HirKind::Concat(parts) => parts
            .iter()
            .filter_map(required)
            .max_by_key(|literals| (literals.iter().map(Vec::len).min(), std::cmp::Reverse(literals.len()))),
        HirKind::Alternation(branches) => {
            let mut either = Vec::new();
            for branch in branches {
                either.extend(required(branch)?);
            }
            Some(either)
        }
    };
    found.filter(|literals| literals.len() <= LITERALS_MAX && literals.iter().all(|literal| literal.len() >= BYTES_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATTERNS: &[&str] = &[
        "setenforce (0|[Pp]ermissive)",
        ".*/(python[0-9.]*|node|nodejs|bun)",
        "(pnpm|yarn|bun) (-[^ ]+ )*(npm )?publish( .*)?",
        "(nohup +)?/(tmp|var/tmp|dev/shm)/[^/ ]+",
        "dd (.* )?of=/dev/(sd[a-z]|nvme[0-9]).*",
        "(abc|de)+x",
        "(?i)secret",
        "[0-9]+",
        "",
        "(abc)?d",
        "(abc){2,3}",
        "(?s-u:.)*(?:-(W|R)x{0,2}hello)(?s-u:.)*",
        "über.*",
        "a{3}",
    ];

    #[test]
    fn literals() {
        let shown = |pattern: &str| {
            of_regex(pattern).map(|literals| {
                let texts: Vec<String> = literals
                    .iter()
                    .map(|text| String::from_utf8_lossy(text).into_owned())
                    .collect();
                texts.join("|")
            })
        };
        for (pattern, expected) in [
            (PATTERNS[0], Some("setenforce ")),
            (PATTERNS[1], Some("bun|node|python")),
            (PATTERNS[2], Some("publish")),
            (PATTERNS[3], Some("dev/shm|tmp")),
            (PATTERNS[4], Some("of=/dev/")),
            (PATTERNS[5], None),
            (PATTERNS[6], None),
            (PATTERNS[9], None),
            (PATTERNS[10], Some("abc")),
            (PATTERNS[11], Some("hello")),
            ("x|abc", None),
            ("(", None),
        ] {
            assert_eq!(shown(pattern).as_deref(), expected, "{pattern}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_matches_contains_one(
            (pattern, text) in prop::sample::select(PATTERNS).prop_flat_map(|pattern| {
                let generated = prop::string::string_regex(&pattern.replace("-u:", ":")).expect("a pattern to generate by");
                (Just(pattern), generated)
            }),
        ) {
            let regex = crate::check::regex(pattern).expect("a pattern");
            if let Some(literals) = of_regex(pattern)
                && regex.is_match(text.as_bytes())
            {
                let contains = |literal: &Vec<u8>| memchr::memmem::find(text.as_bytes(), literal).is_some();
                prop_assert!(literals.iter().any(contains), "{} {:?}", pattern, text);
            }
        }
    }
}
