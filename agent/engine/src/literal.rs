//! What a text must contain to match a regular expression: found first, because looking for many texts at once costs less
//! than one regular expression.

use regex_syntax::hir::{Class, Hir, HirKind};

/// Shorter texts are in too many values to be worth looking for.
pub(crate) const BYTES_MIN: usize = 3;
/// Most texts of which a value must contain one.
const LITERALS_MAX: usize = 16;

/// Nodes of an automaton below which a pattern never meets the limit of its size: a node takes less than a hundred bytes.
const NODES_MAX: usize = 8000;
/// Most states that the bytes of one range of letters can take: few byte sequences, four bytes each.
const NODES_PER_RANGE: usize = 32;
/// Deepest nesting that is judged here: the library stops at 250.
const DEPTH_MAX: u32 = 200;

/// Reads a pattern as it is compiled: bytes, and letters of Unicode only if it cannot do without.
fn parse(pattern: &str) -> Option<Hir> {
    let parse = |unicode: bool| {
        regex_syntax::ParserBuilder::new()
            .unicode(unicode)
            .utf8(false)
            .nest_limit(DEPTH_MAX)
            .build()
            .parse(pattern)
            .ok()
    };
    parse(false).or_else(|| parse(true))
}

/// Whether a pattern is a regular expression so small that compiling it cannot fail. If not, it must be tried.
pub(crate) fn is_surely_regex(pattern: &str) -> bool {
    // A comment would end only after what is put behind the pattern.
    !pattern.contains('#') && parse(pattern).is_some_and(|hir| nodes(&hir) <= NODES_MAX)
}

/// How many nodes an automaton for it has at most.
fn nodes(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Class(Class::Bytes(class)) => 1 + class.ranges().len(),
        HirKind::Class(Class::Unicode(class)) => NODES_PER_RANGE.saturating_mul(1 + class.ranges().len()),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).saturating_add(1);
            let times = usize::try_from(times).unwrap_or(usize::MAX);
            nodes(&repetition.sub).saturating_add(1).saturating_mul(times)
        }
        HirKind::Capture(capture) => nodes(&capture.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => {
            parts.iter().fold(1, |sum: usize, part| sum.saturating_add(nodes(part)))
        }
    }
}

/// Texts of which every value that the pattern matches contains one, if there are such.
pub(crate) fn of_regex(pattern: &str) -> Option<Vec<Vec<u8>>> {
    let hir = parse(pattern)?;
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

    #[test]
    fn what_surely_compiles() {
        for (pattern, expected) in [
            ("", true),
            (r"(?i)\bx{3,20}[^a-z]+|\d*?$", true),
            (r"\x{e9}+", true),
            (r"(a{100}){30}", true),
            (r"(a{100}){100}", false),
            (r"\pL", false),
            ("(?x) a # comment", false),
            ("a)|(b", false),
            ("(", false),
            ("a**", true),
            (r"(?=x)", false),
        ] {
            assert_eq!(is_surely_regex(pattern), expected, "{pattern}");
        }
        let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        assert!(is_surely_regex(&nested(150)));
        assert!(!is_surely_regex(&nested(240)));
    }

    /// Any pattern, the largest near the bound.
    fn any_pattern() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            "[a-z]{1,4}",
            Just(r"\w".to_owned()),
            Just("[^/é]".to_owned()),
            Just("(?i)straße".to_owned()),
            Just(r"\x{10ffff}".to_owned()),
            Just(".".to_owned()),
            Just(r"\b".to_owned()),
        ];
        leaf.prop_recursive(8, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..6).prop_map(|parts| parts.concat()),
                prop::collection::vec(inner.clone(), 1..6).prop_map(|parts| parts.join("|")),
                (inner.clone(), 0_u32..60, 0_u32..60)
                    .prop_map(|(part, low, more)| format!("(?:{part}){{{low},{}}}", low + more)),
                inner.clone().prop_map(|part| format!("({part})*")),
                inner.prop_map(|part| format!("(?:{part})+?")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_surely_compiles_does(pattern in any_pattern()) {
            if is_surely_regex(&pattern) {
                prop_assert!(crate::check::regex(&pattern).is_ok(), "{}", pattern);
            }
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
