//! A row of stages, each with its time and its tests, and the table that sums them up.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::command::{print, tell};

/// What cargo's test programs reported.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Tests {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
}

impl Tests {
    /// Adds a line such as `test result: ok. 3 passed; 1 failed; 0 ignored; …`; every other line changes nothing.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        let count = |unit: &str| -> u64 {
            counts
                .split("; ")
                .find_map(|part| part.strip_suffix(unit)?.trim().parse().ok())
                .unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
        self.ignored += count("ignored");
    }
}

struct Stage {
    name: String,
    tests: Tests,
    failure: Option<String>,
    took: Duration,
}

/// Stages in the order they ran.
#[derive(Default)]
pub(crate) struct Stages {
    done: Vec<Stage>,
}

impl Stages {
    /// Runs one stage. A failure is kept for the table, so that the later stages still tell what they know.
    pub(crate) fn run(&mut self, name: impl Into<String>, stage: impl FnOnce(&mut Tests) -> Result<()>) {
        let name = name.into();
        tell(&format!("\n== {name}"));
        let begun = Instant::now();
        let mut tests = Tests::default();
        let failure = stage(&mut tests).err().map(|error| format!("{error:#}"));
        if let Some(failure) = &failure {
            tell(&format!("{name} failed: {failure}"));
        }
        self.add(name, tests, failure, begun.elapsed());
    }

    fn add(&mut self, name: String, tests: Tests, failure: Option<String>, took: Duration) {
        self.done.push(Stage {
            name,
            tests,
            failure,
            took,
        });
    }

    /// Prints the table; fails if a stage did, or a test, or if there was nothing to fail.
    pub(crate) fn finish(self) -> Result<()> {
        let sum = self.sum();
        print(&format!(
            "\n{:<28} {:>7} {:>7} {:>9}  outcome",
            "stage", "passed", "failed", "time"
        ));
        for stage in &self.done {
            let outcome = match &stage.failure {
                None => "ok".to_owned(),
                Some(failure) => format!("FAILED: {failure}"),
            };
            let Tests { passed, failed, .. } = stage.tests;
            let seconds = stage.took.as_secs_f64();
            print(&format!(
                "{:<28} {passed:>7} {failed:>7} {seconds:>7.1} s  {outcome}",
                stage.name
            ));
        }
        print(&format!("{} passed, {} failed", sum.passed, sum.failed));
        self.verdict()
    }

    fn verdict(&self) -> Result<()> {
        let sum = self.sum();
        ensure!(
            sum.ignored == 0,
            "{} tests were ignored; a test that cannot run here must say so by failing",
            sum.ignored
        );
        let broken = self.done.iter().filter(|stage| stage.failure.is_some()).count();
        if sum.failed > 0 || broken > 0 {
            bail!("{broken} of {} stages failed", self.done.len());
        }
        ensure!(!self.done.is_empty(), "nothing ran");
        Ok(())
    }

    /// The tests of all stages. A stage that failed without a failing test, such as clippy or a guest that never came
    /// up, counts as one failure: the last line must never read as if all was well.
    fn sum(&self) -> Tests {
        let mut sum = Tests::default();
        for stage in &self.done {
            sum.passed += stage.tests.passed;
            sum.failed += stage.tests.failed;
            sum.ignored += stage.tests.ignored;
            if stage.failure.is_some() && stage.tests.failed == 0 {
                sum.failed += 1;
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Stages, Tests};

    fn parsed(lines: &[&str]) -> Tests {
        let mut tests = Tests::default();
        for line in lines {
            tests.add_line(line);
        }
        tests
    }

    #[test]
    fn result_lines_are_summed() {
        let lines = [
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.50s",
        ];
        assert_eq!(
            parsed(&lines),
            Tests {
                passed: 15,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn other_lines_change_nothing() {
        let lines = [
            "",
            "test result: ",
            "test result: ok",
            "a test result: ok. 3 passed; 0 failed",
            "3 passed",
        ];
        assert_eq!(parsed(&lines), Tests::default());
    }

    fn stages(done: &[(&str, Option<&str>)]) -> Stages {
        let mut stages = Stages::default();
        for (line, failure) in done {
            stages.add(
                "stage".to_owned(),
                parsed(&[line]),
                failure.map(str::to_owned),
                Duration::ZERO,
            );
        }
        stages
    }

    #[test]
    fn a_row_of_passing_stages_passes() {
        let stages = stages(&[("", None), ("test result: ok. 3 passed; 0 failed; 0 ignored", None)]);
        assert_eq!(
            stages.sum(),
            Tests {
                passed: 3,
                failed: 0,
                ignored: 0
            }
        );
        assert!(stages.verdict().is_ok());
    }

    #[test]
    fn a_broken_stage_counts_as_a_failure() {
        let stages = stages(&[
            ("", Some("warnings")),
            ("test result: ok. 3 passed; 0 failed; 0 ignored", None),
        ]);
        assert_eq!(
            stages.sum(),
            Tests {
                passed: 3,
                failed: 1,
                ignored: 0
            }
        );
        assert!(stages.verdict().is_err());
    }

    #[test]
    fn a_failed_test_is_not_counted_twice() {
        let stages = stages(&[(
            "test result: FAILED. 3 passed; 1 failed; 0 ignored",
            Some("exit status 101"),
        )]);
        assert_eq!(
            stages.sum(),
            Tests {
                passed: 3,
                failed: 1,
                ignored: 0
            }
        );
        assert!(stages.verdict().is_err());
    }

    #[test]
    fn an_ignored_test_is_a_failure() {
        assert!(
            stages(&[("test result: ok. 3 passed; 0 failed; 1 ignored", None)])
                .verdict()
                .is_err()
        );
    }

    #[test]
    fn nothing_is_a_failure() {
        assert!(stages(&[]).verdict().is_err());
    }
}
