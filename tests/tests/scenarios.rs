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

    /// Plays it; yields how long it took.
    fn play(&self) -> Duration {
        let enter = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/enter.sh");
        let begun = Instant::now();
        let output = Command::new("timeout")
            .args(["--kill-after=5", TIMEOUT])
            .arg(enter)
            .arg(&self.path)
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
