//! Attacks as they happened, re-enacted without harm, and ordinary work beside them: what must be found is found, and what
//! is nobody's business raises nothing of weight.
//!
//! The scenarios are shell scripts in `tests/scenarios`; their headers say what they must raise, and what they may. Each
//! runs in a world of its own (`enter.sh`). A guest of `cargo xtask vm` has neither the programs nor the room for them, so
//! this program does not go there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::Value;
use staghound_tests::{DECOY_DIRECTORY, DECOY_RULE, place::Place, process::Agent, until};

/// No scenario takes so long; one that hangs must not hang the tests.
const TIMEOUT: &str = "120";
const SEVERITIES: [&str; 5] = ["informational", "low", "medium", "high", "critical"];
/// From here on, ordinary work must be silent.
const MEDIUM: usize = 2;

/// A script with what its header says.
struct Scenario {
    path: PathBuf,
    /// For each line, the rules of which one must fire.
    must: Vec<Vec<String>>,
    /// Rules that may fire up to a severity.
    allow: Vec<(String, usize)>,
    /// Verdicts of which a gate with the default policy must give one.
    gate: Vec<String>,
}

impl Scenario {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let lines = |key: &str| -> Vec<String> {
            let prefix = format!("# {key}: ");
            text.lines()
                .filter_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
                .collect()
        };
        let allow = lines("allow");
        let allow = allow.iter().map(|line| {
            let (rule, severity) = line.split_once(' ').unwrap();
            (rule.to_owned(), severity_of(severity))
        });
        Self {
            must: lines("must")
                .iter()
                .map(|line| line.split(" | ").map(|rule| rule.trim().to_owned()).collect())
                .collect(),
            allow: allow.collect(),
            gate: lines("gate")
                .iter()
                .flat_map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>())
                .collect(),
            path,
        }
    }

    fn all(directory: &str) -> Vec<Self> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(directory);
        let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sh"))
            .collect();
        paths.sort();
        assert!(
            paths.len() >= 10,
            "{} scenarios in {}",
            paths.len(),
            directory.display()
        );
        paths.into_iter().map(Self::read).collect()
    }

    fn name(&self) -> &str {
        self.path.file_stem().unwrap().to_str().unwrap()
    }

    /// What plays it.
    fn words(&self) -> Vec<PathBuf> {
        let enter = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/enter.sh");
        vec![
            "timeout".into(),
            "--kill-after=5".into(),
            TIMEOUT.into(),
            enter,
            self.path.clone(),
        ]
    }

    /// Plays it; yields how long it took.
    fn play(&self) -> Duration {
        let words = self.words();
        let begun = Instant::now();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{} ended with {}:\n{}{}",
            self.name(),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        begun.elapsed()
    }

    /// Plays it under a gate with the default policy; yields the verdict and what the report says.
    fn judge(&self, reports: &Path) -> (String, Value) {
        let directory = reports.join(self.name());
        let words = self.words();
        let output = Command::new(&words[0])
            .args(&words[1..])
            .env("SCENARIO_GATE", staghound_tests::agent_path())
            .env("SCENARIO_REPORT", &directory)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let report = fs::read_to_string(directory.join("report.json")).unwrap_or_else(|error| {
            panic!(
                "{} left no report ({error}) and ended with {}:\n{}",
                self.name(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
        });
        let report: Value = serde_json::from_str(&report).unwrap();
        let verdict = report["verdict"]
            .as_str()
            .unwrap()
            .strip_prefix("VERDICT_")
            .unwrap()
            .to_ascii_lowercase();
        let expected = match verdict.as_str() {
            "fail" => 100,
            "inconclusive" => 102,
            _ => i32::try_from(report["exitCode"].as_i64().unwrap_or(0)).unwrap(),
        };
        assert_eq!(output.status.code(), Some(expected), "{}: {verdict}", self.name());
        let warned = report["findings"]
            .as_array()
            .is_some_and(|findings| findings.iter().any(|finding| finding["decision"] == "DECISION_WARNED"));
        match verdict.as_str() {
            "pass" if warned => ("warn".to_owned(), report),
            _ => (verdict, report),
        }
    }

    /// What was raised by what it started: rule, severity, and how often.
    fn raised(&self, alerts: &[Arc<Value>]) -> BTreeMap<String, (usize, u64)> {
        let script = format!("/mnt/{}", self.path.file_name().unwrap().to_str().unwrap());
        let runs_it = |process: &Value| {
            let arguments = process["args"].as_array();
            arguments.is_some_and(|arguments| arguments.iter().any(|argument| argument == script.as_str()))
        };
        let mut raised: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        for alert in alerts {
            let ancestors = alert["ancestors"].as_array();
            if !runs_it(&alert["process"]) && !ancestors.is_some_and(|ancestors| ancestors.iter().any(runs_it)) {
                continue;
            }
            let severity = alert["severity"].as_str().unwrap();
            let severity = severity_of(&severity.strip_prefix("SEVERITY_").unwrap().to_ascii_lowercase());
            let count = alert["count"].as_str().map_or(1, |count| count.parse().unwrap());
            let entry = raised
                .entry(alert["rule"]["id"].as_str().unwrap().to_owned())
                .or_default();
            *entry = (severity, entry.1 + count);
        }
        raised
    }
}

fn severity_of(name: &str) -> usize {
    SEVERITIES.iter().position(|severity| *severity == name).unwrap()
}

/// Plays scenarios under one agent; yields all alerts, once everything that was done has gone through it.
fn play(scenarios: &[Scenario]) -> (Vec<Arc<Value>>, Vec<Duration>) {
    let place = Place::new();
    let decoys = place.path.join(DECOY_DIRECTORY);
    fs::create_dir(&decoys).unwrap();
    let agent = Agent::observe(&place.path.join("state"), ["--output", "json"]);
    let took = scenarios.iter().map(Scenario::play).collect();
    let last = decoys.join("last");
    fs::write(&last, "decoy").unwrap();
    fs::read(&last).unwrap();
    until("alert of what was done last", || {
        let shown = agent.shown();
        let is_last = |alert: &Value| {
            alert["rule"]["id"] == DECOY_RULE && alert["event"]["file"]["path"] == last.to_str().unwrap()
        };
        shown.iter().any(|alert| is_last(alert)).then_some(())
    });
    (agent.shown(), took)
}

/// Findings that a policy would not let pass unsaid, one line each.
fn findings(report: &Value) -> String {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .filter(|finding| finding["decision"] != "DECISION_TOLERATED")
        .fold(String::new(), |mut told, finding| {
            let alert = &finding["alert"];
            write!(
                told,
                "\n    {} {} in {}: {}",
                finding["decision"].as_str().unwrap(),
                alert["rule"]["id"].as_str().unwrap(),
                finding["scope"].as_str().unwrap_or_default(),
                alert["message"].as_str().unwrap_or_default()
            )
            .unwrap();
            told
        })
}

fn told(raised: &BTreeMap<String, (usize, u64)>) -> String {
    raised
        .iter()
        .fold(String::new(), |mut told, (rule, (severity, count))| {
            write!(told, "\n    {:<13} {rule} ×{count}", SEVERITIES[*severity]).unwrap();
            told
        })
}

#[expect(clippy::print_stderr, reason = "this is for whoever runs the tests")]
fn tell(text: &str) {
    eprintln!("{text}");
}

#[test]
fn attacks_raise_what_they_must() {
    let scenarios = Scenario::all("attacks");
    let (alerts, took) = play(&scenarios);
    let mut missing = Vec::new();
    for (scenario, took) in scenarios.iter().zip(took) {
        assert!(!scenario.must.is_empty(), "{} must raise nothing", scenario.name());
        let raised = scenario.raised(&alerts);
        tell(&format!("scenario {} ({took:.1?}):{}", scenario.name(), told(&raised)));
        for any in &scenario.must {
            if !any.iter().any(|rule| raised.contains_key(rule)) {
                missing.push(format!("{}: {}", scenario.name(), any.join(" or ")));
            }
        }
    }
    assert!(missing.is_empty(), "not raised:\n  {}", missing.join("\n  "));
}

#[test]
fn ordinary_work_raises_nothing_of_weight() {
    let scenarios = Scenario::all("benign");
    let (alerts, took) = play(&scenarios);
    let mut loud = Vec::new();
    for (scenario, took) in scenarios.iter().zip(took) {
        let raised = scenario.raised(&alerts);
        tell(&format!("ordinary {} ({took:.1?}):{}", scenario.name(), told(&raised)));
        for (rule, (severity, count)) in &raised {
            let allowed = scenario.allow.iter().find(|(allowed, _)| allowed == rule);
            if *severity > allowed.map_or(MEDIUM - 1, |(_, allowed)| *allowed) {
                loud.push(format!(
                    "{}: {} {rule} ×{count}",
                    scenario.name(),
                    SEVERITIES[*severity]
                ));
            }
        }
    }
    assert!(loud.is_empty(), "raised by ordinary work:\n  {}", loud.join("\n  "));
}

/// A directory that scenarios see, too: their `/tmp` is another one.
fn reports() -> tempfile::TempDir {
    tempfile::tempdir_in("/var/tmp").unwrap()
}

#[test]
fn a_gate_gives_each_attack_its_verdict() {
    let reports = reports();
    let mut wrong = Vec::new();
    for scenario in Scenario::all("attacks") {
        assert!(!scenario.gate.is_empty(), "{} says no verdict", scenario.name());
        let (verdict, report) = scenario.judge(reports.path());
        let findings = findings(&report);
        tell(&format!("gate {}: {verdict}{findings}", scenario.name()));
        if !scenario.gate.contains(&verdict) {
            wrong.push(format!(
                "{}: {verdict}, not {}",
                scenario.name(),
                scenario.gate.join(" or ")
            ));
        }
    }
    assert!(wrong.is_empty(), "wrong verdicts:\n  {}", wrong.join("\n  "));
}

#[test]
fn a_gate_lets_ordinary_work_pass() {
    let reports = reports();
    let mut wrong = Vec::new();
    for scenario in Scenario::all("benign") {
        let (verdict, report) = scenario.judge(reports.path());
        let findings = findings(&report);
        tell(&format!("gate {}: {verdict}{findings}", scenario.name()));
        if !matches!(verdict.as_str(), "pass" | "warn") || report["exitCode"].as_i64().unwrap_or(0) != 0 {
            wrong.push(format!("{}: {verdict}{findings}{}", scenario.name(), report["reasons"]));
        }
    }
    assert!(
        wrong.is_empty(),
        "ordinary work that does not pass:\n  {}",
        wrong.join("\n  ")
    );
}
