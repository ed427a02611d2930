//! OCSF 1.8 Detection Findings (class 2004) as JSON lines.

use super::{Sink, cef, identity};
use anyhow::Context as _;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};
use staghound_proto::v1::{Alert, Entry, Gap, Process, Severity, event, item};
use std::{
    io::{self, Write as _},
    path::PathBuf,
};
use tokio::io::AsyncWriteExt as _;

const VERSION: &str = "1.8.0";

/// A file that lines are appended to, or standard output.
pub(super) struct Lines {
    path: Option<PathBuf>,
}

impl Lines {
    pub(super) fn new(path: &str) -> Self {
        Self {
            path: (path != "-").then(|| path.into()),
        }
    }
}

#[async_trait::async_trait]
impl Sink for Lines {
    async fn deliver(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let lines: String = entries
            .iter()
            .filter_map(finding)
            .map(|finding| format!("{finding}\n"))
            .collect();
        let Some(path) = &self.path else {
            let written = tokio::task::spawn_blocking(move || {
                let mut out = io::stdout().lock();
                out.write_all(lines.as_bytes()).and_then(|()| out.flush())
            });
            return written.await?.context("cannot write to standard output");
        };
        // Opened each time, so that it can be moved away by who rotates it.
        let mut options = tokio::fs::OpenOptions::new();
        let file = options.create(true).append(true).mode(0o600).open(path).await;
        let mut file = file.with_context(|| format!("cannot open {}", path.display()))?;
        file.write_all(lines.as_bytes())
            .await
            .with_context(|| format!("cannot write to {}", path.display()))?;
        file.sync_data()
            .await
            .with_context(|| format!("cannot write to {}", path.display()))
    }
}

/// The finding that an entry is; `None` for run records, which find nothing.
pub(super) fn finding(entry: &Entry) -> Option<Value> {
    match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Alert(alert) => Some(of_alert(entry, alert)),
        item::Kind::Gap(gap) => Some(of_gap(entry, gap)),
        item::Kind::Run(_) => None,
    }
}

fn milliseconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| {
        time.seconds
            .saturating_mul(1000)
            .saturating_add(i64::from(time.nanos / 1_000_000))
    })
}

/// What every finding has.
fn base(entry: &Entry, time: i64, severity: (u8, &str), host: &str, info: &Value, message: &str) -> Map<String, Value> {
    let finding = json!({
        "activity_id": 1, "activity_name": "Create",
        "category_uid": 2, "category_name": "Findings",
        "class_uid": 2004, "class_name": "Detection Finding",
        "type_uid": 200_401, "type_name": "Detection Finding: Create",
        "severity_id": severity.0, "severity": severity.1,
        "status_id": 1, "status": "New",
        "time": time, "message": message,
        "finding_info": info,
        "device": { "type_id": 0, "type": "Unknown", "hostname": host, "uid": entry.agent_id },
        "metadata": {
            "version": VERSION, "profiles": ["host"], "uid": identity(entry),
            "logged_time": milliseconds(entry.ingest_time.as_ref()),
            "product": { "name": "Staghound", "vendor_name": "Staghound", "version": env!("CARGO_PKG_VERSION") },
        },
    });
    match finding {
        Value::Object(finding) => finding,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

fn of_alert(entry: &Entry, alert: &Alert) -> Value {
    let severity = match alert.severity() {
        Severity::Unspecified => (0, "Unknown"),
        Severity::Informational => (1, "Informational"),
        Severity::Low => (2, "Low"),
        Severity::Medium => (3, "Medium"),
        Severity::High => (4, "High"),
        Severity::Critical => (5, "Critical"),
    };
    let rule = alert.rule.clone().unwrap_or_default();
    let title = if rule.name.is_empty() { &rule.id } else { &rule.name };
    let attacks: Vec<_> = alert
        .techniques
        .iter()
        .map(|technique| {
            let tactics: Vec<_> = technique
                .tactics
                .iter()
                .map(|tactic| json!({ "name": tactic }))
                .collect();
            // A sub-technique goes whole: the name of its parent, which OCSF wants beside it, is not in an alert.
            json!({ "tactics": tactics, "technique": { "uid": technique.id, "name": technique.name } })
        })
        .collect();
    let time = milliseconds(alert.event_time.as_ref().or(entry.ingest_time.as_ref()));
    let info = json!({
        "uid": identity(entry), "title": title, "desc": rule.description, "types": rule.tags,
        "analytic": { "type_id": 1, "type": "Rule", "uid": rule.id, "name": title },
        "attacks": attacks, "created_time": time,
        "related_events_count": alert.earlier.len(),
    });
    let host = alert.host.as_ref().map_or("", |host| &host.name);
    let mut finding = base(entry, time, severity, host, &info, &alert.message);
    let mut evidence = Map::new();
    if let Some(process) = &alert.process {
        evidence.insert("process".to_owned(), of_process(process, &alert.ancestors));
    }
    match alert.event.as_ref().and_then(|event| event.object.as_ref()) {
        Some(event::Object::File(file)) => drop(evidence.insert("file".to_owned(), of_file(&file.path))),
        Some(event::Object::Socket(socket)) if !socket.remote_address.is_empty() => {
            let endpoint = json!({ "ip": socket.remote_address, "port": socket.remote_port });
            evidence.insert("dst_endpoint".to_owned(), endpoint);
        }
        Some(event::Object::Socket(_)) | None => {}
    }
    if !evidence.is_empty() {
        finding.insert("evidences".to_owned(), json!([evidence]));
    }
    if !rule.remediation.is_empty() {
        finding.insert("remediation".to_owned(), json!({ "desc": rule.remediation }));
    }
    finding.insert("count".to_owned(), json!(alert.count.max(1)));
    Value::Object(finding)
}

fn of_file(path: &str) -> Value {
    let name = path.rsplit('/').next().unwrap_or(path);
    json!({ "type_id": 0, "type": "Unknown", "name": name, "path": path })
}

/// A process and, within it, its parents.
fn of_process(process: &Process, ancestors: &[Process]) -> Value {
    let mut value = json!({
        "pid": process.pid, "name": process.name, "uid": process.exec_id,
        "cmd_line": process.args.join(" "), "working_directory": process.cwd,
    });
    if !process.executable.is_empty() {
        value["file"] = of_file(&process.executable);
    }
    if let Some(credentials) = &process.credentials {
        value["user"] = json!({ "uid": credentials.euid.to_string(), "name": credentials.user });
    }
    if let Some((parent, rest)) = ancestors.split_first() {
        value["parent_process"] = of_process(parent, &rest[..rest.len().min(15)]);
    }
    value
}

fn of_gap(entry: &Entry, gap: &Gap) -> Value {
    let time = milliseconds(entry.ingest_time.as_ref());
    let info = json!({
        "uid": identity(entry), "title": "Something was lost or not seen", "types": ["gap"],
        "analytic": { "type_id": 1, "type": "Rule", "uid": "staghound/gap", "name": "gap" },
        "created_time": time,
    });
    Value::Object(base(entry, time, (3, "Medium"), "", &info, &cef::gap_text(gap)))
}
