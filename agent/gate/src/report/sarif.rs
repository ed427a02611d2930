//! The run as SARIF 2.1.0, for code scanning.
//!
//! Behaviour has no place in the source, and code scanning shows only what has one. So each result points to what a person
//! would open: the script that ran, or the file that was written in the workspace, or else the policy.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};
use staghound_engine::attack::{self, Lookup};
use staghound_proto::v1::{Decision, Event, Finding, Process, Run, RunProcess, Severity, Verdict, event::Object};

use super::{markdown, percent_encode, technique_address, words};
use crate::{decision_name, mode_name, severity_name, verdict_name};

const SCHEMA: &str = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// What paths in the workspace are relative to.
const BASE: &str = "SRCROOT";
const TAXONOMY: &str = "MITRE ATT&CK";
/// Results of a run that code scanning shows; it takes 25,000 and refuses more.
const RESULTS_MAX: usize = 5000;
/// Artifacts of the run.
const ARTIFACTS_MAX: usize = 1000;
/// Of each other list.
const LISTED_MAX: usize = 100;
/// Bytes of a path that is pointed to; a longer one cannot be cut and still be opened.
const URI_BYTES_MAX: usize = 1000;
/// Parents that are looked at for a script.
const PARENTS_MAX: usize = 16;
/// What readers take for numbers of occurrences and bytes: signed integers.
const OCCURRENCES_MAX: u64 = 0x7fff_ffff;
const LENGTH_MAX: u64 = 0x7fff_ffff_ffff_ffff;
/// Where a waiver would be written if there were a policy of one's own.
const POLICY: &str = "policy.yaml";
/// Programs whose first argument is a script.
const INTERPRETERS: [&str; 14] = [
    "sh", "bash", "dash", "ash", "zsh", "ksh", "busybox", "node", "nodejs", "python", "perl", "ruby", "php", "deno",
];

/// The run as a SARIF log.
#[must_use]
pub fn render(run: &Run) -> String {
    let findings = words::ordered(run);
    let shown = &findings[..findings.len().min(RESULTS_MAX)];
    let mut taxa = Taxa::default();
    let mut rules = Rules::default();
    let parents = Parents::of(run);
    let results: Vec<Value> = shown
        .iter()
        .map(|finding| {
            let rule = rules.index(finding, &mut taxa);
            result(run, finding, rule, &mut taxa, &parents)
        })
        .collect();
    let not_shown = words::number(findings.len() - shown.len()).saturating_add(run.findings_not_kept);
    let mut driver = Map::new();
    driver.insert("name".to_owned(), json!("Staghound"));
    driver.insert("version".to_owned(), json!(version(run)));
    driver.insert("rules".to_owned(), Value::Array(rules.list));
    driver.insert("notifications".to_owned(), notifications());
    driver.insert(
        "supportedTaxonomies".to_owned(),
        json!([{"name": TAXONOMY, "index": 0}]),
    );
    let mut told = Map::new();
    told.insert("tool".to_owned(), json!({"driver": driver}));
    told.insert("taxonomies".to_owned(), json!([taxa.component()]));
    told.insert("invocations".to_owned(), json!([invocation(run, not_shown)]));
    told.insert("automationDetails".to_owned(), automation(run));
    if let Some(uri) = directory_uri(&run.working_directory) {
        told.insert("originalUriBaseIds".to_owned(), json!({BASE: {"uri": uri}}));
    }
    told.insert("artifacts".to_owned(), artifacts(run));
    told.insert("results".to_owned(), Value::Array(results));
    told.insert("columnKind".to_owned(), json!("unicodeCodePoints"));
    told.insert("properties".to_owned(), properties(run));
    let log = json!({"$schema": SCHEMA, "version": "2.1.0", "runs": [told]});
    format!("{log:#}\n")
}

fn version(run: &Run) -> String {
    if run.agent_version.is_empty() {
        env!("CARGO_PKG_VERSION").to_owned()
    } else {
        words::shown(&run.agent_version, words::NAME_BYTES_MAX)
    }
}

fn automation(run: &Run) -> Value {
    // What is before the last slash is the category in which code scanning compares runs.
    let id = format!(
        "staghound/{}",
        words::shown(&run.run_id, words::NAME_BYTES_MAX).replace('/', "_")
    );
    json!({"id": id})
}

/// Techniques that were met, each once.
#[derive(Default)]
struct Taxa {
    list: Vec<Value>,
    by_id: BTreeMap<String, usize>,
}

impl Taxa {
    /// A reference to the technique; nothing for what is no id of one.
    fn reference(&mut self, technique: &staghound_proto::v1::Technique) -> Option<Value> {
        let address = technique_address(&technique.id)?;
        let id = &technique.id;
        let index = match self.by_id.get(id) {
            Some(index) => *index,
            None => {
                // The name of the data goes before the one in the message, which anybody can have written.
                let name = match attack::lookup(id) {
                    Lookup::Known(known) | Lookup::Renumbered(known) => known.name.to_string(),
                    Lookup::Unknown => words::shown(&technique.name, words::NAME_BYTES_MAX),
                };
                let name = if name.is_empty() { id.clone() } else { name };
                self.list.push(json!({
                    "id": id,
                    "name": name,
                    "shortDescription": {"text": message(&name)},
                    "helpUri": address,
                }));
                self.by_id.insert(id.clone(), self.list.len() - 1);
                self.list.len() - 1
            }
        };
        Some(json!({"id": id, "index": index, "toolComponent": {"name": TAXONOMY, "index": 0}}))
    }

    fn component(self) -> Value {
        json!({
            "name": TAXONOMY,
            "version": attack::version(),
            "organization": "The MITRE Corporation",
            "shortDescription": {"text": "Adversary tactics and techniques as they were observed."},
            "informationUri": "https://attack.mitre.org/",
            "isComprehensive": false,
            "taxa": self.list,
        })
    }
}

/// Rules that found something, each once.
#[derive(Default)]
struct Rules {
    list: Vec<Value>,
    by_id: BTreeMap<String, usize>,
}

impl Rules {
    fn index(&mut self, finding: &Finding, taxa: &mut Taxa) -> (String, usize) {
        let id = words::rule_id(finding);
        if let Some(index) = self.by_id.get(&id) {
            return (id, *index);
        }
        let alert = finding.alert.as_ref();
        let mut tags = vec!["security".to_owned()];
        let mut relationships = Vec::new();
        for technique in alert.map_or(&[][..], |alert| &alert.techniques).iter().take(8) {
            if let Some(target) = taxa.reference(technique) {
                relationships.push(json!({"target": target, "kinds": ["relevant"]}));
                tags.push(format!("attack/{}", technique.id));
            }
        }
        let severity = words::severity(finding);
        let title = words::title(finding);
        let description = words::description(finding);
        let remediation = words::remediation(finding);
        let description = if description.is_empty() {
            title.clone()
        } else {
            description
        };
        let help = if remediation.is_empty() {
            "Look at what the process did and why; allow it with a waiver in the policy, or take it out of the build."
                .to_owned()
        } else {
            remediation
        };
        let mut properties = json!({
            "tags": tags,
            "precision": "high",
            "problem.severity": problem_severity(severity),
            "severity": severity_name(severity),
        });
        if let (Some(score), Some(properties)) = (security_severity(severity), properties.as_object_mut()) {
            properties.insert("security-severity".to_owned(), json!(score));
        }
        self.list.push(json!({
            "id": id,
            "shortDescription": {"text": message(&sentence(&title))},
            "fullDescription": {"text": message(&sentence(&description))},
            "help": {
                "text": message(&help),
                "markdown": format!(
                    "{}\n\n**What to do.** {}",
                    markdown::prose(&description),
                    markdown::prose(&help)
                ),
            },
            "defaultConfiguration": {"level": level_of(severity)},
            "relationships": relationships,
            "properties": properties,
        }));
        self.by_id.insert(id.clone(), self.list.len() - 1);
        (id, self.list.len() - 1)
    }
}

/// Processes of the run by identity, to find who started whom.
struct Parents<'a>(HashMap<&'a str, &'a RunProcess>);

impl<'a> Parents<'a> {
    fn of(run: &'a Run) -> Self {
        let known = run.processes.iter().filter_map(|process| {
            let id = process.process.as_ref()?.exec_id.as_str();
            Some((id, process))
        });
        Self(known.collect())
    }

    /// The process as the run knows it, and those that started it, the nearest first.
    fn line(&self, process: &'a Process) -> Vec<&'a Process> {
        let mut line = vec![process];
        let mut id = process.exec_id.as_str();
        while line.len() < PARENTS_MAX {
            let Some(known) = self.0.get(id) else { break };
            let Some(parent) = self.0.get(known.parent_exec_id.as_str()) else {
                break;
            };
            let Some(process) = &parent.process else { break };
            line.push(process);
            id = &process.exec_id;
        }
        line
    }
}

fn result(run: &Run, finding: &Finding, (id, index): (String, usize), taxa: &mut Taxa, parents: &Parents<'_>) -> Value {
    let alert = finding.alert.as_ref();
    let severity = words::severity(finding);
    let (decision, reason) = (decision_name(finding.decision()), words::paragraph(&finding.reason));
    let what = match words::message(finding) {
        what if what.is_empty() => words::title(finding),
        what => what,
    };
    let mut text = format!("{what} ({decision} in scope {}", words::scope(finding));
    text += &if reason.is_empty() {
        ")".to_owned()
    } else {
        format!(": {reason})")
    };
    let fingerprint = alert.map_or("", |alert| &alert.fingerprint);
    let fingerprint = words::shown(fingerprint, words::NAME_BYTES_MAX);
    let mut result = json!({
        "ruleId": id,
        "ruleIndex": index,
        "level": level(finding),
        "message": {"text": message(&text)},
        "locations": [location(run, finding, parents)],
        "partialFingerprints": {
            "staghound/v1": fingerprint,
            // What code scanning compares by; it would be computed from a line of the file that is pointed to.
            "primaryLocationLineHash": format!("{fingerprint}:1"),
        },
        "occurrenceCount": finding.times.clamp(1, OCCURRENCES_MAX),
        "properties": evidence(finding, severity),
    });
    let Some(fields) = result.as_object_mut() else {
        return result;
    };
    let references: Vec<Value> = alert
        .map_or(&[][..], |alert| &alert.techniques)
        .iter()
        .take(8)
        .filter_map(|technique| taxa.reference(technique))
        .collect();
    if !references.is_empty() {
        fields.insert("taxa".to_owned(), Value::Array(references));
    }
    if finding.decision() == Decision::Waived {
        let waiver = words::shown(&finding.waiver, words::NAME_BYTES_MAX);
        fields.insert(
            "suppressions".to_owned(),
            json!([{
                "kind": "external",
                "status": "accepted",
                "justification": message(&format!("waiver {waiver}: {reason}")),
            }]),
        );
    }
    result
}

fn evidence(finding: &Finding, severity: Severity) -> Value {
    let mut properties = Map::new();
    let mut put = |name: &str, value: String| {
        if !value.is_empty() {
            properties.insert(name.to_owned(), Value::String(value));
        }
    };
    put("severity", severity_name(severity).to_owned());
    put("decision", decision_name(finding.decision()).to_owned());
    put("scope", words::scope(finding));
    put("waiver", words::shown(&finding.waiver, words::NAME_BYTES_MAX));
    put("class", words::class(finding.class()).to_owned());
    if let Some(alert) = &finding.alert {
        put("time", words::rfc3339(alert.event_time.as_ref()).unwrap_or_default());
        if let Some(event) = &alert.event {
            put("event", words::shown(&event.r#type, words::NAME_BYTES_MAX));
            put("object", words::object(event));
        }
        if let Some(process) = &alert.process {
            put("process", words::chain(process, &alert.ancestors, 16));
            put("command", words::command(&process.args, words::TEXT_BYTES_MAX));
            put("executable", words::shown(&process.executable, words::PATH_BYTES_MAX));
        }
    }
    Value::Object(properties)
}

/// Where to look: the first of the candidates that lies in the workspace, else the policy.
fn location(run: &Run, finding: &Finding, parents: &Parents<'_>) -> Value {
    let alert = finding.alert.as_ref();
    let line = alert
        .and_then(|alert| alert.process.as_ref())
        .map_or(Vec::new(), |process| parents.line(process));
    let touched = alert.and_then(|alert| alert.event.as_ref()).map_or(Vec::new(), files);
    let scripts = line.iter().filter_map(|process| script(process));
    let executables = line.iter().map(|process| process.executable.clone());
    let candidate = touched
        .into_iter()
        .chain(scripts)
        .chain(executables)
        .find_map(|path| within(&run.working_directory, &path));
    let place = match candidate {
        Some(uri) => json!({"uri": uri, "uriBaseId": BASE}),
        None => policy(run),
    };
    json!({"physicalLocation": {"artifactLocation": place, "region": {"startLine": 1}}})
}

fn policy(run: &Run) -> Value {
    let path = run
        .materials
        .iter()
        .find(|material| material.kind == "policy" && !material.path.is_empty())
        .map(|material| material.path.as_str());
    let within = path.and_then(|path| within(&run.working_directory, path));
    let absolute = path.and_then(absolute_uri);
    match (within, absolute) {
        (Some(uri), _) => json!({"uri": uri, "uriBaseId": BASE}),
        (None, Some(uri)) => json!({"uri": uri}),
        (None, None) => json!({"uri": POLICY, "uriBaseId": BASE}),
    }
}

/// What an event named, what is new before what is old.
fn files(event: &Event) -> Vec<String> {
    match &event.object {
        Some(Object::File(file)) => vec![file.new_path.clone(), file.path.clone()],
        Some(Object::Socket(_)) | None => Vec::new(),
    }
}

/// The script that an interpreter was given.
fn script(process: &Process) -> Option<String> {
    let program = process.executable.rsplit('/').next()?;
    let program = program.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&program) {
        return None;
    }
    let mut arguments = process.args.iter().skip(1);
    let first =
        arguments.find(|argument| !argument.starts_with('-') || ["-c", "-e", "-m"].contains(&argument.as_str()))?;
    // A word alone is a subcommand, of a program that renamed itself, rather than a script.
    if first.starts_with('-') || !first.contains(['/', '.']) {
        return None;
    }
    Some(if first.starts_with('/') {
        first.clone()
    } else {
        format!("{}/{first}", process.cwd.trim_end_matches('/'))
    })
}

/// The path relative to the workspace, as a URI; nothing for what lies elsewhere or cannot be pointed to.
fn within(workspace: &str, path: &str) -> Option<String> {
    let workspace = workspace.trim_end_matches('/');
    if !workspace.starts_with('/') || path.len() > URI_BYTES_MAX {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.strip_prefix(workspace)?.strip_prefix('/')?.split('/') {
        match part {
            "" | "." => (),
            ".." => {
                parts.pop()?;
            }
            part => parts.push(percent_encode(part)),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn absolute_uri(path: &str) -> Option<String> {
    let is_usable = path.starts_with('/') && path.len() <= URI_BYTES_MAX;
    is_usable.then(|| {
        let parts: Vec<String> = path.split('/').map(percent_encode).collect();
        format!("file://{}", parts.join("/"))
    })
}

fn directory_uri(path: &str) -> Option<String> {
    let uri = absolute_uri(path)?;
    Some(if uri.ends_with('/') { uri } else { uri + "/" })
}

fn artifacts(run: &Run) -> Value {
    let artifacts = run.artifacts.iter().take(ARTIFACTS_MAX).filter_map(|artifact| {
        let place = match within(&run.working_directory, &artifact.path) {
            Some(uri) => json!({"uri": uri, "uriBaseId": BASE}),
            None => json!({"uri": absolute_uri(&artifact.path)?}),
        };
        let facts = words::artifact_facts(artifact).join(", ");
        let mut told = json!({
            "location": place,
            "description": {"text": if facts.is_empty() { "Written.".to_owned() } else { format!("Written; {facts}.") }},
        });
        let fields = told.as_object_mut()?;
        if super::is_sha256(&artifact.sha256) {
            fields.insert("hashes".to_owned(), json!({"sha-256": artifact.sha256}));
            fields.insert("length".to_owned(), json!(artifact.size.min(LENGTH_MAX)));
        }
        Some(told)
    });
    // One path has one entry: the last that was written there.
    let by_place: BTreeMap<String, Value> = artifacts
        .map(|artifact| (artifact["location"]["uri"].to_string(), artifact))
        .collect();
    Value::Array(by_place.into_values().collect())
}

fn notifications() -> Value {
    let descriptor = |id: &str, short: &str, full: &str, help: &str| {
        json!({
            "id": id,
            "shortDescription": {"text": short},
            "fullDescription": {"text": full},
            "help": {"text": help},
        })
    };
    json!([
        descriptor(
            "not-seen",
            "Not everything was seen.",
            "Events were lost, or something could not be watched: the verdict cannot be a pass by itself.",
            "Mend what the message names, and run it again."
        ),
        descriptor(
            "limit",
            "Something was not checked or not done.",
            "What was left out on purpose, could not be hashed, or was too much to keep.",
            "Nothing, if that was meant."
        ),
        descriptor(
            "waiver-without-effect",
            "A waiver did nothing.",
            "Its date has passed, or nothing in the run met it.",
            "Renew the waiver, or remove it from the policy."
        ),
    ])
}

fn invocation(run: &Run, not_shown: u64) -> Value {
    let notification = |id: &str, index: usize, level: &str, text: &str| {
        json!({
            "descriptor": {"id": id, "index": index},
            "level": level,
            "message": {"text": message(&sentence(text))},
        })
    };
    let mut execution: Vec<Value> = run
        .limits
        .iter()
        .take(LISTED_MAX)
        .map(|limit| {
            let sentence = words::paragraph(&limit.sentence);
            if limit.inconclusive {
                notification("not-seen", 0, "error", &sentence)
            } else {
                notification("limit", 1, "note", &sentence)
            }
        })
        .collect();
    let more = run.limits.len().saturating_sub(LISTED_MAX);
    if more > 0 {
        execution.push(notification(
            "limit",
            1,
            "warning",
            &format!("… and {more} more limits"),
        ));
    }
    if not_shown > 0 {
        execution.push(notification(
            "limit",
            1,
            "warning",
            &format!("… and {not_shown} more findings"),
        ));
    }
    let configuration: Vec<Value> = run
        .unused_waivers
        .iter()
        .take(LISTED_MAX)
        .map(|waiver| {
            let text = format!(
                "Waiver {} of {}: {}",
                words::shown(&waiver.id, words::NAME_BYTES_MAX),
                words::shown(&waiver.owner, words::NAME_BYTES_MAX),
                words::paragraph(&waiver.reason)
            );
            notification(
                "waiver-without-effect",
                2,
                if waiver.expired { "warning" } else { "note" },
                &text,
            )
        })
        .collect();
    let mut invocation = json!({
        // Of the gate, not of the command: it could judge.
        "executionSuccessful": matches!(run.verdict(), Verdict::Pass | Verdict::Fail),
        "commandLine": words::command(&run.command, words::TEXT_BYTES_MAX),
        "toolExecutionNotifications": execution,
        "toolConfigurationNotifications": configuration,
    });
    let Some(fields) = invocation.as_object_mut() else {
        return invocation;
    };
    if let Some(code) = run.exit_code {
        fields.insert("exitCode".to_owned(), json!(code));
        fields.insert("exitCodeDescription".to_owned(), json!(words::ending(run)));
        if (129..=192).contains(&code) {
            fields.insert("exitSignalNumber".to_owned(), json!(code - 128));
        }
    }
    for (name, time) in [("startTimeUtc", &run.started), ("endTimeUtc", &run.finished)] {
        if let Some(time) = words::rfc3339(time.as_ref()) {
            fields.insert(name.to_owned(), json!(time));
        }
    }
    if let Some(uri) = directory_uri(&run.working_directory) {
        fields.insert("workingDirectory".to_owned(), json!({"uri": uri}));
    }
    if let Some(host) = &run.host {
        fields.insert(
            "machine".to_owned(),
            json!(words::shown(&host.name, words::NAME_BYTES_MAX)),
        );
    }
    invocation
}

fn properties(run: &Run) -> Value {
    let materials: Vec<Value> = run
        .materials
        .iter()
        .take(LISTED_MAX)
        .map(|material| {
            json!({
                "kind": words::shown(&material.kind, words::NAME_BYTES_MAX),
                "path": words::shown(&material.path, words::PATH_BYTES_MAX),
                "digest": words::shown(&material.digest, words::NAME_BYTES_MAX),
            })
        })
        .collect();
    let reasons: Vec<String> = run
        .reasons
        .iter()
        .take(LISTED_MAX)
        .map(|reason| words::paragraph(reason))
        .collect();
    json!({
        "runId": words::shown(&run.run_id, words::NAME_BYTES_MAX),
        "verdict": verdict_name(run.verdict()),
        "mode": mode_name(run.mode()),
        "reasons": reasons,
        "events": run.events,
        "eventsLost": run.events_lost,
        "materials": materials,
    })
}

fn level(finding: &Finding) -> &'static str {
    match finding.decision() {
        Decision::Failed => "error",
        Decision::Warned => "warning",
        Decision::Tolerated => "note",
        Decision::Waived | Decision::Unspecified => level_of(words::severity(finding)),
    }
}

const fn level_of(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Informational | Severity::Unspecified => "note",
    }
}

/// As code scanning's own queries say it.
const fn problem_severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Informational | Severity::Unspecified => "recommendation",
    }
}

/// In the middle of the range that code scanning calls by our name.
const fn security_severity(severity: Severity) -> Option<&'static str> {
    match severity {
        Severity::Critical => Some("9.5"),
        Severity::High => Some("8.0"),
        Severity::Medium => Some("5.5"),
        Severity::Low => Some("2.0"),
        Severity::Informational | Severity::Unspecified => None,
    }
}

/// With a full stop, as viewers expect of a description.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?', '…']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

/// A value in a message: braces would be placeholders and brackets links.
fn message(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '{' => escaped += "{{",
            '}' => escaped += "}}",
            '[' | ']' | '\\' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_the_workspace() {
        for (path, expected) in [
            ("/w/a/b c.js", Some("a/b%20c.js")),
            ("/w/a/../x%2f#?.sh", Some("x%252f%23%3F.sh")),
            ("/w/../etc/passwd", None),
            ("/work/a", None),
            ("/w", None),
            ("/w/./", None),
            ("a", None),
            ("/w/é", Some("%C3%A9")),
        ] {
            assert_eq!(within("/w/", path).as_deref(), expected, "{path}");
        }
        assert_eq!(within("", "/etc/passwd"), None);
        assert_eq!(within("/", "/etc/passwd"), None);
    }

    #[test]
    fn scripts_of_interpreters() {
        let of = |executable: &str, args: &[&str]| {
            script(&Process {
                executable: executable.to_owned(),
                args: args.iter().map(ToString::to_string).collect(),
                cwd: "/w/pkg".to_owned(),
                ..Process::default()
            })
        };
        assert_eq!(
            of("/usr/bin/node", &["node", "--no-warnings", "x.js"]).unwrap(),
            "/w/pkg/x.js"
        );
        assert_eq!(
            of("/usr/bin/python3.11", &["python", "/w/setup.py"]).unwrap(),
            "/w/setup.py"
        );
        assert_eq!(of("/bin/sh", &["sh", "-c", "make"]), None);
        assert_eq!(of("/usr/bin/node", &["npm", "ci"]), None);
        assert_eq!(of("/usr/bin/curl", &["curl", "x"]), None);
        assert_eq!(of("/usr/bin/python3", &["python3", "-m", "pip"]), None);
    }

    #[test]
    fn a_message_has_no_placeholders_and_no_links() {
        assert_eq!(message(r"{0} [a](1) \u{1b}"), r"{{0}} \[a\](1) \\u{{1b}}");
    }
}
