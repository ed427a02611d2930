//! What is wrong with a rule file, where, and what to do about it.

use std::fmt;

/// One mistake or doubt, with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Path of the file, as the caller named it.
    pub file: Box<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// Every mistake that was found, in the order of files and lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for diagnostic in &self.0 {
            writeln!(f, "{diagnostic}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 error"),
            count => write!(f, "{count} errors"),
        }
    }
}

impl std::error::Error for Diagnostics {}

/// `did you mean …?` for the candidate nearest to `word`, when one is near.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(word, candidates).map(|found| format!("did you mean `{found}`?"))
}

/// The candidate within an edit distance of 2 (1 for short words) that is nearest to `word`.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let limit = if word.len() <= 4 { 1 } else { 2 };
    candidates
        .into_iter()
        .filter_map(|candidate| Some((edit_distance(word, candidate, limit)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Damerau's distance (insert, delete, change, swap neighbours), or `None` above `limit`.
fn edit_distance(left: &str, right: &str, limit: usize) -> Option<usize> {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len().abs_diff(right.len()) > limit || left.len() > 256 {
        return None;
    }
    // Each edit changes how often bytes occur by two at most; most words differ by more.
    let mut balance = [0_i16; 256];
    for (byte, other) in left
        .iter()
        .map(|byte| (byte, 1))
        .chain(right.iter().map(|byte| (byte, -1)))
    {
        balance[usize::from(*byte)] += other;
    }
    if balance
        .iter()
        .map(|count| usize::from(count.unsigned_abs()))
        .sum::<usize>()
        > 2 * limit
    {
        return None;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut previous: Vec<usize> = (0..=right.len()).collect();
    for (i, byte) in left.iter().enumerate() {
        let mut current = vec![i + 1];
        for (j, other) in right.iter().enumerate() {
            let change = previous[j] + usize::from(byte != other);
            let mut best = change.min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && *byte == right[j - 1] && left[i - 1] == *other {
                best = best.min(before[j - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut previous, current);
    }
    let distance = previous[right.len()];
    (distance <= limit).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions() {
        let words = ["proc.name", "proc.exepath", "fd.name", "evt.type"];
        for (word, expected) in [
            ("proc.nam", Some("proc.name")),
            ("porc.name", Some("proc.name")),
            ("proc.exe_path", Some("proc.exepath")),
            ("evt.tpye", Some("evt.type")),
            ("container.id", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }

    #[test]
    fn all_are_printed_with_a_count() {
        let at = |line| Diagnostic {
            file: "a.yaml".into(),
            line,
            column: 9,
            message: "unknown field `x.y`".into(),
            help: None,
        };
        let mut second = at(4);
        second.help = Some("did you mean `x.z`?".into());
        assert_eq!(
            Diagnostics(vec![at(3), second]).to_string(),
            "a.yaml:3:9: unknown field `x.y`\na.yaml:4:9: unknown field `x.y`; did you mean `x.z`?\n2 errors"
        );
    }
}
