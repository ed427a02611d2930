//! The run as JUnit XML: a suite for each scope of the policy, in it a case for each rule that found something, and one
//! suite for the run itself.

use std::{collections::BTreeMap, fmt::Write as _};

use staghound_proto::v1::{Decision, Finding, PolicyMode, Run, Verdict};

use super::words;
use crate::{decision_name, mode_name, severity_name, verdict_name};

/// Scopes and, in each, rules; a policy has a handful, the rules some hundreds.
const SCOPES_MAX: usize = 50;
const RULES_MAX: usize = 500;
/// Findings told in one case.
const TOLD_MAX: usize = 20;
/// Of each other list.
const LISTED_MAX: usize = 50;
/// Bytes of all cases; what is beyond is counted.
const BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a case came to, and the text that says why.
enum Outcome {
    Passed(String),
    Failed(String, String),
    Broken(String, String),
    Skipped(String),
}

#[derive(Default)]
struct Suite {
    name: String,
    cases: String,
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Suite {
    fn case(&mut self, name: &str, outcome: &Outcome) {
        self.tests += 1;
        // Writing to a string cannot fail.
        let _written = write!(
            self.cases,
            "    <testcase classname=\"staghound.{}\" name=\"{}\"",
            escape(&self.name),
            escape(name)
        );
        let _written = match outcome {
            Outcome::Passed(out) if out.is_empty() => writeln!(self.cases, "/>"),
            Outcome::Passed(out) => {
                writeln!(
                    self.cases,
                    ">\n      <system-out>{}</system-out>\n    </testcase>",
                    escape(out)
                )
            }
            Outcome::Failed(message, out) => {
                self.failures += 1;
                write_problem(&mut self.cases, "failure", message, out)
            }
            Outcome::Broken(message, out) => {
                self.errors += 1;
                write_problem(&mut self.cases, "error", message, out)
            }
            Outcome::Skipped(message) => {
                self.skipped += 1;
                writeln!(
                    self.cases,
                    ">\n      <skipped message=\"{}\"/>\n    </testcase>",
                    escape(message)
                )
            }
        };
    }
}

fn write_problem(cases: &mut String, element: &str, message: &str, out: &str) -> std::fmt::Result {
    writeln!(
        cases,
        ">\n      <{element} type=\"staghound\" message=\"{}\">{}</{element}>\n    </testcase>",
        escape(message),
        escape(out)
    )
}

/// The run as JUnit XML.
#[must_use]
pub fn render(run: &Run) -> String {
    let mut suites = vec![gate(run)];
    let mut scopes: BTreeMap<String, BTreeMap<String, Vec<&Finding>>> = BTreeMap::new();
    let mut not_told = run.findings_not_kept;
    for finding in words::ordered(run) {
        let is_new = !scopes.contains_key(&words::scope(finding));
        if is_new && scopes.len() >= SCOPES_MAX {
            not_told = not_told.saturating_add(1);
            continue;
        }
        let rules = scopes.entry(words::scope(finding)).or_default();
        if rules.len() >= RULES_MAX && !rules.contains_key(&words::rule_id(finding)) {
            not_told = not_told.saturating_add(1);
            continue;
        }
        rules.entry(words::rule_id(finding)).or_default().push(finding);
    }
    let mut written = 0;
    for (scope, rules) in scopes {
        let mut suite = Suite {
            name: scope,
            ..Suite::default()
        };
        for (rule, findings) in rules {
            if written + suite.cases.len() > BYTES_MAX {
                not_told = not_told.saturating_add(words::number(findings.len()));
                continue;
            }
            suite.case(&rule, &judged(&findings));
        }
        written += suite.cases.len();
        suites.push(suite);
    }
    if not_told > 0 {
        let told = format!("… and {}", words::count(not_told, "more finding", "more findings"));
        suites[0].case("everything was told", &Outcome::Broken(told.clone(), told));
    }
    let of = |count: fn(&Suite) -> usize| -> usize { suites.iter().map(count).sum() };
    let time = words::seconds(run.started.as_ref(), run.finished.as_ref()).unwrap_or(0.0);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"staghound\" tests=\"{}\" failures=\"{}\" \
         errors=\"{}\" time=\"{time:.3}\">\n",
        of(|suite| suite.tests),
        of(|suite| suite.failures),
        of(|suite| suite.errors)
    );
    let host = run.host.as_ref().map_or("", |host| &host.name);
    let timestamp = words::rfc3339(run.started.as_ref());
    for (index, suite) in suites.iter().enumerate() {
        let timestamp = timestamp
            .as_ref()
            .map_or(String::new(), |time| format!(" timestamp=\"{}\"", escape(time)));
        let _written = writeln!(
            text,
            "  <testsuite name=\"staghound.{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"{}\" \
             time=\"{:.3}\"{timestamp} hostname=\"{}\">",
            escape(&suite.name),
            suite.tests,
            suite.failures,
            suite.errors,
            suite.skipped,
            if index == 0 { time } else { 0.0 },
            escape(&words::shown(host, words::NAME_BYTES_MAX))
        );
        if index == 0 {
            properties(&mut text, run);
        }
        text += &suite.cases;
        text += "  </testsuite>\n";
    }
    text + "</testsuites>\n"
}

/// The suite of the run itself: whether it could be judged, and whether the command did what it was to do.
fn gate(run: &Run) -> Suite {
    let mut suite = Suite {
        name: "gate".to_owned(),
        ..Suite::default()
    };
    let lost: Vec<String> = run
        .limits
        .iter()
        .filter(|limit| limit.inconclusive)
        .take(LISTED_MAX)
        .map(|limit| words::paragraph(&limit.sentence))
        .collect();
    let seen = match run.verdict() {
        Verdict::Inconclusive | Verdict::Unspecified => Outcome::Broken(words::why(run), lost.join("\n")),
        Verdict::Pass | Verdict::Fail => Outcome::Passed(lost.join("\n")),
    };
    suite.case("everything was seen", &seen);
    // A verdict can come from findings that were not kept; then no other case would say so.
    let told = run
        .findings
        .iter()
        .any(|finding| finding.decision() == Decision::Failed);
    let verdict = match (run.verdict(), told) {
        (Verdict::Fail, false) => Outcome::Failed(words::why(run), String::new()),
        (Verdict::Unspecified | Verdict::Pass | Verdict::Fail | Verdict::Inconclusive, _) => {
            Outcome::Passed(format!("verdict {}: {}", verdict_name(run.verdict()), words::why(run)))
        }
    };
    suite.case("verdict", &verdict);
    for waiver in run.unused_waivers.iter().take(LISTED_MAX) {
        let name = format!("waiver {}", words::shown(&waiver.id, words::NAME_BYTES_MAX));
        let reason = format!(
            "{} (owner {})",
            words::paragraph(&waiver.reason),
            words::shown(&waiver.owner, words::NAME_BYTES_MAX)
        );
        let outcome = if waiver.expired {
            Outcome::Failed(reason, String::new())
        } else {
            Outcome::Passed(reason)
        };
        suite.case(&name, &outcome);
    }
    suite
}

/// What the findings of one rule come to: the worst decision.
fn judged(findings: &[&Finding]) -> Outcome {
    let mut told: Vec<String> = findings.iter().take(TOLD_MAX).map(|finding| tell(finding)).collect();
    if findings.len() > TOLD_MAX {
        told.push(format!("… and {} more", findings.len() - TOLD_MAX));
    }
    let told = told.join("\n\n");
    // They are ordered: the first is the worst.
    let Some(first) = findings.first() else {
        return Outcome::Passed(told);
    };
    match first.decision() {
        Decision::Failed => {
            let severity = severity_name(words::severity(first));
            Outcome::Failed(format!("{severity}: {}", words::message(first)), told)
        }
        Decision::Waived => Outcome::Skipped(words::paragraph(&first.reason)),
        Decision::Unspecified | Decision::Warned | Decision::Tolerated => Outcome::Passed(told),
    }
}

fn tell(finding: &Finding) -> String {
    let mut lines = vec![format!(
        "{} {} ({}, {})",
        decision_name(finding.decision()),
        words::title(finding),
        severity_name(words::severity(finding)),
        words::count(finding.times, "time", "times")
    )];
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("{label}: {value}"));
        }
    };
    line("what", words::message(finding));
    if let Some((alert, process)) = finding
        .alert
        .as_ref()
        .and_then(|alert| Some((alert, alert.process.as_ref()?)))
    {
        line("by", words::chain(process, &alert.ancestors, 8));
        line("command", words::command(&process.args, words::TEXT_BYTES_MAX));
    }
    line("because", words::paragraph(&finding.reason));
    line("what to do", words::remediation(finding));
    lines.join("\n")
}

fn properties(text: &mut String, run: &Run) {
    *text += "    <properties>\n";
    let mut property = |name: &str, value: &str| {
        let _written = writeln!(
            text,
            "      <property name=\"{}\" value=\"{}\"/>",
            escape(name),
            escape(value)
        );
    };
    property("run", &words::shown(&run.run_id, words::NAME_BYTES_MAX));
    property("verdict", verdict_name(run.verdict()));
    if run.mode() != PolicyMode::Unspecified {
        property("mode", mode_name(run.mode()));
    }
    property("command", &words::command(&run.command, words::TEXT_BYTES_MAX));
    if let Some(code) = run.exit_code {
        property("exit code", &code.to_string());
    }
    property("events", &run.events.to_string());
    property("events lost", &run.events_lost.to_string());
    for material in run.materials.iter().take(LISTED_MAX) {
        property(
            &format!("digest of {}", words::shown(&material.kind, words::NAME_BYTES_MAX)),
            &words::shown(&material.digest, words::NAME_BYTES_MAX),
        );
    }
    *text += "    </properties>\n";
}

/// A value within XML, in an element or a quoted attribute. Characters that XML 1.0 cannot hold are replaced.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 16);
    for c in value.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\n' => escaped += "&#10;",
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
