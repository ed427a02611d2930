//! How many instructions the kernel's verifier went through for each program, and the records to compare with.
//!
//! A program that comes near the verifier's million fails to load on the next kernel, and loading time grows with it. So the
//! numbers are written down (`tests/verifier/`), and a test fails when one grows much.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::command::tell;
use crate::workspace;

/// Where the verifier gives up is a million.
const INSTRUCTIONS_MAX: u64 = 900_000;
/// By how many per cent a program may outgrow its record.
const GROWTH_PERCENT: u64 = 25;
/// Small programs may grow by so many, whatever that is in per cent.
const GROWTH_LEAST: u64 = 200;

/// By program. Kernels before 5.16 do not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verified(BTreeMap<String, Option<u64>>);

impl Verified {
    /// Adds a line such as `verifier: file_open on sys_exit 13012`, as the tool `floor` prints them; every other line
    /// changes nothing.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some((_, rest)) = line.split_once("verifier: ") else {
            return;
        };
        // A hook's name may have spaces.
        if let Some((program, rest)) = rest.split_once(" on ")
            && let Some((_, count)) = rest.rsplit_once(' ')
        {
            self.0.insert(program.to_owned(), count.trim().parse().ok());
        }
    }

    /// The largest, as text.
    pub(crate) fn most(&self) -> String {
        let most = self.0.values().copied().flatten().max();
        most.map_or_else(|| "not told".to_owned(), |count| count.to_string())
    }

    /// One line for each program.
    fn to_text(&self) -> String {
        let lines = self.0.iter().map(|(program, count)| {
            let count = count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
            format!("{program} {count}\n")
        });
        lines.collect()
    }

    fn of_text(text: &str) -> Option<Verified> {
        let mut verified = BTreeMap::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (program, count) = line.split_once(' ')?;
            let count = match count {
                "unknown" => None,
                number => Some(number.parse().ok()?),
            };
            verified.insert(program.to_owned(), count);
        }
        Some(Verified(verified))
    }

    /// What grew beyond its record or the limit.
    fn outgrown(&self, record: &Verified) -> Vec<String> {
        let mut outgrown = Vec::new();
        for (program, count) in &self.0 {
            let Some(count) = *count else { continue };
            if count > INSTRUCTIONS_MAX {
                outgrown.push(format!("`{program}` takes {count} of the verifier's million"));
                continue;
            }
            match record.0.get(program) {
                Some(Some(before)) if count > (before * (100 + GROWTH_PERCENT) / 100).max(before + GROWTH_LEAST) => {
                    outgrown.push(format!(
                        "`{program}` takes {count} instructions, {before} were recorded"
                    ));
                }
                Some(_) => {}
                None => outgrown.push(format!("`{program}` ({count} instructions) was never recorded")),
            }
        }
        outgrown
    }
}

/// A file of the numbers for one kernel and backend.
pub(crate) struct Record(PathBuf);

impl Record {
    pub(crate) fn of(name: &str) -> Record {
        Record(workspace::root().join("tests/verifier").join(format!("{name}.txt")))
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.is_file()
    }

    pub(crate) fn write(&self, version: &str, verified: &Verified) -> Result<()> {
        ensure!(
            !verified.0.is_empty(),
            "no program was verified, so there is nothing to record"
        );
        let path = self.0.display();
        let text = format!(
            "# Instructions that the verifier of {version} went through; written by `cargo xtask vm --all --record`\n{}",
            verified.to_text()
        );
        let directory = self.0.parent().context("a record lies in a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
        fs::write(&self.0, text).with_context(|| format!("cannot write {path}"))?;
        tell(&format!("wrote {path}"));
        Ok(())
    }

    pub(crate) fn compare(&self, verified: &Verified) -> Result<()> {
        let path = self.0.display();
        ensure!(
            !verified.0.is_empty(),
            "no program was verified, so there is nothing to compare with {path}"
        );
        let text = fs::read_to_string(&self.0)
            .with_context(|| format!("cannot read {path}; write it with `cargo xtask vm --all --record`"))?;
        let record =
            Verified::of_text(&text).with_context(|| format!("{path} has a line that is not `program count`"))?;
        let outgrown = verified.outgrown(&record);
        ensure!(
            outgrown.is_empty(),
            "{}; make it smaller, or record it with `--record` ({path})",
            outgrown.join("; ")
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Verified;

    fn of(text: &str) -> Verified {
        Verified::of_text(text).unwrap()
    }

    #[test]
    fn lines_of_the_tool_are_read() {
        let mut verified = Verified::default();
        for line in [
            "verifier: file_open on sys_exit 13012",
            "verifier: call on raw_syscalls sys_exit unknown\r",
            "verifier: broken",
            "something else",
        ] {
            verified.add_line(line);
        }
        assert_eq!(verified, of("call unknown\nfile_open 13012\n"));
        assert_eq!(verified.most(), "13012");
        assert_eq!(of(&verified.to_text()), verified);
    }

    #[test]
    fn growth_beyond_the_record_is_told() {
        for (now, before, expected) in [
            ("a 1000", "a 1000", 0),
            ("a 1250", "a 1000", 0),
            ("a 1251", "a 1000", 1),
            ("a 210", "a 10", 0),
            ("a 211", "a 10", 1),
            ("a 900001", "a 899000", 1),
            ("a 5\nb 5", "a 5", 1),
            ("a unknown", "a 5", 0),
            ("a 5", "a unknown", 0),
            ("a 5", "a 5\nb 5", 0),
        ] {
            assert_eq!(of(now).outgrown(&of(before)).len(), expected, "{now} after {before}");
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for text in ["a", "a x", "a 1 2"] {
            assert!(Verified::of_text(text).is_none(), "{text}");
        }
    }
}
