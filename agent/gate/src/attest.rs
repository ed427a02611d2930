//! A run as an in-toto statement with the runtime-trace predicate: what was watched, by what, and what came of it, for the
//! digests of what the run left behind.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use staghound_proto::v1::{Artifact, Decision, Endpoint, Material, Run, RunProcess};

use crate::{
    mode_name,
    report::{self, Format, words},
    verdict_name,
};

pub mod envelope;
pub mod key;

/// Type of the statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Type of the predicate. A version 0.2 is proposed (in-toto/attestation#568) and not published; the entries of its network
/// log are written already, as 0.1 leaves them to the monitor.
pub const PREDICATE_TYPE: &str = "https://in-toto.io/attestation/runtime-trace/v0.1";
/// Where our verdict stands in the predicate. Extension fields carry the name of their producer.
pub const VERDICT_FIELD: &str = "staghound_verdict";
/// Of each list in the statement; what is beyond is counted.
const LISTED_MAX: usize = 2000;

/// What an attestation is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// Its name: a path relative to where the command was started, where it lies there.
    pub name: String,
    /// SHA-256 as 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// What the run left behind; where it left nothing that was hashed, its report.
#[must_use]
pub fn subjects(run: &Run) -> Vec<Subject> {
    let workspace = format!("{}/", run.working_directory.trim_end_matches('/'));
    let mut subjects: Vec<Subject> = run
        .artifacts
        .iter()
        .filter(|artifact| artifact.left && report::is_sha256(&artifact.sha256))
        .map(|artifact| Subject {
            name: words::clip(artifact.path.strip_prefix(&workspace).unwrap_or(&artifact.path), 4096).into_owned(),
            sha256: artifact.sha256.clone(),
        })
        .take(LISTED_MAX)
        .collect();
    subjects.sort();
    subjects.dedup();
    if subjects.is_empty() {
        subjects.push(Subject {
            name: Format::Json.file_name().to_owned(),
            sha256: report_digest(run),
        });
    }
    subjects
}

/// SHA-256 of the report as JSON, the file that `--format json` writes.
fn report_digest(run: &Run) -> String {
    let report = report::render(run, Format::Json);
    format!("{:x}", Sha256::digest(report.as_bytes()))
}

/// The statement, as one line of JSON.
#[must_use]
pub fn statement(run: &Run) -> String {
    let subjects: Vec<Value> = subjects(run)
        .into_iter()
        .map(|subject| json!({"name": subject.name, "digest": {"sha256": subject.sha256}}))
        .collect();
    let materials: Vec<Value> = run.materials.iter().take(LISTED_MAX).map(material).collect();
    let policy = run.materials.iter().find(|material| material.kind == "policy");
    let mut monitor = json!({
        "type": format!("pkg:generic/staghound@{}", encode(&run.agent_version)),
        "tracePolicy": {"materials": materials, "mode": mode_name(run.mode())},
    });
    if let (Some(policy), Some(monitor)) = (policy, monitor.as_object_mut()) {
        monitor.insert("configSource".to_owned(), material(policy));
    }
    let host = run.host.as_ref().map_or("", |host| &host.name);
    let mut metadata = Map::new();
    for (name, time) in [("buildStartedOn", &run.started), ("buildFinishedOn", &run.finished)] {
        if let Some(time) = words::rfc3339(time.as_ref()) {
            metadata.insert(name.to_owned(), json!(time));
        }
    }
    let statement = json!({
        "_type": STATEMENT_TYPE,
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "monitor": monitor,
            "monitoredProcess": {
                // Not the machine's identity, which is for nobody else to know.
                "hostID": format!("dns:{}", if host.is_empty() { "localhost".to_owned() } else { encode(host) }),
                "type": "pkg:generic/staghound#run",
                "event": words::clip(&run.run_id, words::NAME_BYTES_MAX),
            },
            "monitorLog": {
                "process": run.processes.iter().take(LISTED_MAX).filter_map(process).collect::<Vec<_>>(),
                "network": run.endpoints.iter().take(LISTED_MAX).map(endpoint).collect::<Vec<_>>(),
                "fileAccess": run.artifacts.iter().take(LISTED_MAX).map(file).collect::<Vec<_>>(),
            },
            "metadata": metadata,
            VERDICT_FIELD: verdict(run),
        },
    });
    statement.to_string()
}

fn verdict(run: &Run) -> Value {
    let decided = |decision| {
        run.findings
            .iter()
            .filter(|finding| finding.decision() == decision)
            .count()
    };
    let reasons: Vec<_> = run
        .reasons
        .iter()
        .take(100)
        .map(|reason| words::clip(reason, words::TEXT_BYTES_MAX))
        .collect();
    let mut verdict = json!({
        "verdict": verdict_name(run.verdict()),
        "reasons": reasons,
        "findings": {
            "failed": decided(Decision::Failed),
            "warned": decided(Decision::Warned),
            "waived": decided(Decision::Waived),
            "tolerated": decided(Decision::Tolerated),
            "notKept": run.findings_not_kept,
        },
        "events": run.events,
        "eventsLost": run.events_lost,
        "report": {"name": Format::Json.file_name(), "digest": {"sha256": report_digest(run)}},
        // What the log below does not have.
        "notListed": {
            "process": beyond(run.processes.len(), run.processes_not_kept),
            "network": beyond(run.endpoints.len(), run.endpoints_not_kept),
            "fileAccess": beyond(run.artifacts.len(), run.artifacts_not_kept),
        },
    });
    if let (Some(code), Some(verdict)) = (run.exit_code, verdict.as_object_mut()) {
        verdict.insert("exitCode".to_owned(), json!(code));
    }
    verdict
}

fn beyond(length: usize, not_kept: u64) -> u64 {
    words::number(length.saturating_sub(LISTED_MAX)).saturating_add(not_kept)
}

/// A resource descriptor: name or place, and digest.
fn material(material: &Material) -> Value {
    let name = format!(
        "{} {}",
        material.kind,
        if material.path.is_empty() {
            "(built in)"
        } else {
            &material.path
        }
    );
    let mut descriptor = json!({"name": words::clip(name.trim(), 4096)});
    let digest = material
        .digest
        .strip_prefix("sha256:")
        .filter(|digest| report::is_sha256(digest));
    if let (Some(digest), Some(descriptor)) = (digest, descriptor.as_object_mut()) {
        descriptor.insert("digest".to_owned(), json!({"sha256": digest}));
    }
    descriptor
}

fn process(told: &RunProcess) -> Option<Value> {
    let process = told.process.as_ref()?;
    let arguments: Vec<_> = process
        .args
        .iter()
        .take(200)
        .map(|argument| words::clip(argument, words::PATH_BYTES_MAX))
        .collect();
    let mut entry = json!({
        "eventType": "process",
        "processBinary": words::clip(&process.executable, 4096),
        "arguments": arguments,
        "pid": process.pid,
        "execId": process.exec_id,
        "parentExecId": told.parent_exec_id,
        "survived": told.survived,
        "findings": told.findings.iter().take(100).collect::<Vec<_>>(),
    });
    let fields = entry.as_object_mut()?;
    for (name, time) in [("started", &process.start_time), ("finished", &told.finished)] {
        if let Some(time) = words::rfc3339(time.as_ref()) {
            fields.insert(name.to_owned(), json!(time));
        }
    }
    if let Some(code) = told.exit_code {
        fields.insert("exitCode".to_owned(), json!(code));
    }
    Some(entry)
}

fn endpoint(endpoint: &Endpoint) -> Value {
    let mut entry = Map::new();
    let mut put = |name: &str, value: Value| {
        entry.insert(name.to_owned(), value);
    };
    if !endpoint.address.is_empty() {
        let is_path = endpoint.address.starts_with(['/', '@']);
        put(
            if is_path { "path" } else { "ip" },
            json!(words::clip(&endpoint.address, 4096)),
        );
    }
    if !endpoint.name.is_empty() {
        put("hostname", json!(words::clip(&endpoint.name, 4096)));
    }
    if endpoint.port > 0 {
        put("port", json!(endpoint.port));
    }
    put(
        "protocol",
        json!(words::clip(&endpoint.protocol, words::NAME_BYTES_MAX)),
    );
    put(
        "direction",
        json!(words::clip(&endpoint.direction, words::NAME_BYTES_MAX)),
    );
    put(
        "invokingProcess",
        json!({"comm": words::clip(&endpoint.process, words::NAME_BYTES_MAX), "execId": endpoint.exec_id}),
    );
    put("times", json!(endpoint.times));
    put("bytesSent", json!(endpoint.bytes_sent));
    put("bytesReceived", json!(endpoint.bytes_received));
    Value::Object(entry)
}

fn file(artifact: &Artifact) -> Value {
    let mut descriptor = json!({
        "name": words::clip(&artifact.path, 4096),
        "uri": format!("file://{}", encode_path(&words::clip(&artifact.path, 4096))),
        "annotations": {
            "access": "write",
            "size": artifact.size,
            "executed": artifact.executed,
            "loaded": artifact.loaded,
            "left": artifact.left,
            "removed": artifact.removed,
            "fromNetwork": artifact.from_network,
            "notHashed": words::clip(&artifact.not_hashed, words::PATH_BYTES_MAX),
        },
    });
    if let (true, Some(fields)) = (report::is_sha256(&artifact.sha256), descriptor.as_object_mut()) {
        fields.insert("digest".to_owned(), json!({"sha256": artifact.sha256}));
    }
    descriptor
}

fn encode_path(path: &str) -> String {
    path.split('/').map(encode).collect::<Vec<_>>().join("/")
}

/// A part of a URI.
fn encode(part: &str) -> String {
    report::percent_encode(&words::clip(part, 4096))
}

/// An attestation that was verified.
#[derive(Clone, Debug)]
pub struct Attested {
    /// What it is about.
    pub subjects: Vec<Subject>,
    /// What the gate said, as `pass`.
    pub verdict: String,
    /// Identity of the run.
    pub run_id: String,
    /// Digest of the report as JSON. Empty where it is not given.
    pub report: String,
    /// The statement as it was signed.
    pub statement: String,
}

impl Attested {
    /// Whether something with this SHA-256 is what the attestation is about, or is its report.
    #[must_use]
    pub fn covers(&self, sha256: &str) -> bool {
        // An empty digest is the one of a report that is not given.
        let is_given = |digest: &str| digest == sha256 && !digest.is_empty();
        is_given(&self.report) || self.subjects.iter().any(|subject| is_given(&subject.sha256))
    }
}

/// Reads a statement whose signature was verified.
fn attested(statement: &str) -> Result<Attested, envelope::Refused> {
    let value: Value = serde_json::from_str(statement).map_err(|_| envelope::Refused::NoStatement)?;
    let text = |pointer: &str| {
        value
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    if text("/_type") != STATEMENT_TYPE {
        return Err(envelope::Refused::NoStatement);
    }
    if text("/predicateType") != PREDICATE_TYPE {
        return Err(envelope::Refused::Predicate(words::shown(
            &text("/predicateType"),
            words::NAME_BYTES_MAX,
        )));
    }
    let subjects = value["subject"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(Attested {
        subjects: subjects
            .iter()
            .filter_map(|subject| {
                Some(Subject {
                    name: subject["name"].as_str()?.to_owned(),
                    sha256: subject.pointer("/digest/sha256")?.as_str()?.to_owned(),
                })
            })
            .collect(),
        verdict: text(&format!("/predicate/{VERDICT_FIELD}/verdict")),
        run_id: text("/predicate/monitoredProcess/event"),
        report: text(&format!("/predicate/{VERDICT_FIELD}/report/digest/sha256")),
        statement: statement.to_owned(),
    })
}
