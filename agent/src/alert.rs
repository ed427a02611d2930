//! Alerts: what a rule and an event become for people and machines elsewhere.

use std::{fmt::Write as _, sync::Arc};

use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};
use staghound_engine::{
    event::EventKind,
    ruleset::{Rule, Severity},
};
use staghound_proto::v1;

use crate::{
    event::{Detail, Event, family, printable, protocol},
    process::Process,
    redact,
};

/// Ancestors in an alert; the process table keeps no longer chains by much.
const ANCESTORS_MAX: usize = 128;
/// Arguments of one process in an alert, in bytes; a command line may be far longer than anybody reads.
const ARGS_BYTES_MAX: usize = 8 * 1024;

/// What all alerts of an agent have in common.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The host.
    pub host: v1::Host,
    /// Identity of the run; empty outside of runs.
    pub run_id: String,
    /// Digest of the ruleset.
    pub ruleset_digest: Arc<str>,
}

/// The alert for an event that a rule matched.
#[must_use]
pub fn of(rule: &Rule, event: &Event<'_>, origin: &Origin) -> v1::Alert {
    let mut message = String::new();
    rule.output.render(event, &mut message);
    v1::Alert {
        fingerprint: fingerprint(rule, event),
        event_time: Some(timestamp(event.wall_ns(event.time_ns))),
        boot_time_ns: event.time_ns,
        ingest_time: None,
        rule: Some(v1::RuleRef {
            id: rule.id.to_string(),
            name: rule.name.to_string(),
            description: rule.description.to_string(),
            remediation: rule.remediation.to_string(),
            tags: rule.tags.iter().map(ToString::to_string).collect(),
            ruleset_digest: origin.ruleset_digest.to_string(),
        }),
        severity: severity(rule.severity).into(),
        techniques: rule
            .attack
            .iter()
            .map(|technique| v1::Technique {
                id: technique.id.to_string(),
                name: technique.name.to_string(),
                tactics: technique.tactics.iter().map(ToString::to_string).collect(),
            })
            .collect(),
        message: redact::text(&message),
        event: Some(what(event)),
        process: Some(actor(event)),
        ancestors: event
            .process
            .ancestors()
            .take(ANCESTORS_MAX)
            .map(|ancestor| process(ancestor, event))
            .collect(),
        host: Some(origin.host.clone()),
        container: None,
        run_id: origin.run_id.clone(),
        count: event.count(),
        responses: Vec::new(),
    }
}

/// The same severity on the wire.
#[must_use]
pub fn severity(severity: Severity) -> v1::Severity {
    match severity {
        Severity::Informational => v1::Severity::Informational,
        Severity::Low => v1::Severity::Low,
        Severity::Medium => v1::Severity::Medium,
        Severity::High => v1::Severity::High,
        Severity::Critical => v1::Severity::Critical,
    }
}

/// A moment given in nanoseconds since 1970.
#[must_use]
pub fn timestamp(wall_ns: i64) -> Timestamp {
    Timestamp {
        seconds: wall_ns.div_euclid(1_000_000_000),
        nanos: i32::try_from(wall_ns.rem_euclid(1_000_000_000)).expect("less than a second fits"),
    }
}

/// Rule, executable and object; never what differs from host to host, such as a pid or a port of our own.
fn fingerprint(rule: &Rule, event: &Event<'_>) -> String {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(rule.id.as_bytes());
    part(&event.process.image.executable);
    if let Some(path) = event.path() {
        part(path);
    }
    if let Some(remote) = event.ends().and_then(|ends| ends.server) {
        part(remote.to_string().as_bytes());
    }
    let digest = hasher.finalize();
    digest[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn what(event: &Event<'_>) -> v1::Event {
    let object = match &event.detail {
        Detail::Process(_) | Detail::Fork(_) => None,
        Detail::Open(open, path) => Some(v1::event::Object::File(v1::File {
            path: printable(path),
            new_path: String::new(),
            inode: open.inode,
            device: open.device,
            mode: open.mode,
            flags: open.open_flags,
            created: open.file_mode & 0x10_0000 != 0,
        })),
        Detail::Rename(_, from, to) => Some(v1::event::Object::File(v1::File {
            path: printable(from),
            new_path: printable(to),
            ..v1::File::default()
        })),
        Detail::Unlink(_, path) => Some(v1::event::Object::File(v1::File {
            path: printable(path),
            ..v1::File::default()
        })),
        Detail::Chmod(change, path) => Some(v1::event::Object::File(v1::File {
            path: printable(path),
            mode: change.argument,
            ..v1::File::default()
        })),
        Detail::Socket(socket, name) => {
            let ends = event.ends();
            let end = |end: Option<std::net::SocketAddr>| {
                end.map_or((String::new(), 0), |end| (end.ip().to_string(), u32::from(end.port())))
            };
            let (local_address, local_port) = end(ends.and_then(|ends| ends.local));
            let (remote_address, remote_port) = end(ends.and_then(|ends| ends.remote));
            let is_query = event.kind == EventKind::Send;
            Some(v1::event::Object::Socket(v1::Socket {
                family: family(socket).to_owned(),
                protocol: protocol(socket).to_owned(),
                local_address,
                local_port,
                remote_address: if ends.is_none() {
                    printable(name)
                } else {
                    remote_address
                },
                remote_port,
                dns_name: if is_query { printable(name) } else { String::new() },
            }))
        }
    };
    v1::Event {
        r#type: event.event_type.to_owned(),
        result: event.result(),
        object,
        truncated: event.truncated().map(str::to_owned).collect(),
    }
}

/// The process of the event, with what the event itself tells of it.
fn actor(event: &Event<'_>) -> v1::Process {
    v1::Process {
        tid: event.tid,
        parent_pid: event.ppid,
        name: printable(&event.comm),
        credentials: Some(credentials(&event.credentials, event)),
        cgroup_id: event.cgroup_id,
        ..process(&event.process, event)
    }
}

fn process(process: &Process, event: &Event<'_>) -> v1::Process {
    let image = &process.image;
    let mut bytes = 0;
    let arguments: Vec<String> = image
        .arguments()
        .take_while(|argument| {
            bytes += argument.len();
            bytes <= ARGS_BYTES_MAX
        })
        .map(printable)
        .collect();
    v1::Process {
        pid: process.pid,
        tid: 0,
        parent_pid: process.ppid,
        exec_id: format!("{}-{}-{}", process.pid, process.start_ns, process.exec_count),
        start_time: Some(timestamp(event.wall_ns(process.start_ns))),
        name: printable(&image.name),
        executable: printable(&image.executable),
        args: redact::arguments(&arguments),
        cwd: printable(&process.cwd),
        credentials: Some(credentials(&process.credentials, event)),
        env: image.env().map(|variable| redact::text(&printable(variable))).collect(),
        executable_inode: image.inode,
        executable_device: image.device,
        cgroup_id: process.cgroup_id,
    }
}

fn credentials(credentials: &crate::process::Credentials, event: &Event<'_>) -> v1::Credentials {
    v1::Credentials {
        uid: credentials.uid,
        euid: credentials.euid,
        gid: credentials.gid,
        egid: credentials.egid,
        login_uid: credentials.login_uid,
        user: event.user(credentials.euid).unwrap_or_default().to_owned(),
        capabilities: credentials.capabilities,
    }
}
