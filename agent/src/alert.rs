//! Alerts: what a rule and an event become for people and machines elsewhere.
//!
//! Invariant: whatever a process does, its alert stays below a quarter of a MiB, and says what was left out.

use std::{borrow::Cow, collections::BTreeSet, fmt::Write as _, sync::Arc};

use prost::Message as _;
use prost_types::Timestamp;
use sha2::{Digest as _, Sha256};
use staghound_ebpf::flags;
use staghound_engine::{
    event::EventKind,
    memory::Evidence,
    ruleset::{Rule, Severity},
};
use staghound_proto::v1;

use crate::{
    event::{AF_UNIX, Aim, Detail, Event, family, printable, printable_within, protocol},
    process::{Process, image::Image},
    redact,
};

/// How many of the nearest ancestors an alert shows.
const NEAREST_MAX: usize = 56;
/// How many of the furthest ancestors it shows when there are more.
const FURTHEST_MAX: usize = 8;
/// Bytes of the message, and of each path of the event's object.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
const PATH_BYTES_MAX: usize = 8 * 1024;
/// Bytes of the arguments of a call.
const CALL_ARGUMENTS_BYTES_MAX: usize = 8 * 1024;
/// Bytes of each path, and of the arguments of a call, of an event before the one that an alert is about.
const EARLIER_PATH_BYTES_MAX: usize = 1024;
/// Bytes of all answers of a DNS message.
const ANSWERS_BYTES_MAX: usize = 4 * 1024;
/// What an argument costs beside its bytes.
const ARGUMENT_COST: usize = 4;

/// How many bytes of printed text a process may take up.
#[derive(Clone, Copy)]
struct Limits {
    args: usize,
    env: usize,
    executable: usize,
    cwd: usize,
}

/// For the process of the event.
const ACTOR: Limits = Limits {
    args: 8 * 1024,
    env: 8 * 1024,
    executable: 4 * 1024,
    cwd: 4 * 1024,
};
/// For each of its ancestors.
const ANCESTOR: Limits = Limits {
    args: 512,
    env: 0,
    executable: 512,
    cwd: 256,
};

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

/// What is kept of an event that may become part of an alert about several.
#[derive(Clone, Debug)]
pub struct Earlier(Arc<v1::EarlierEvent>);

impl Earlier {
    /// What an alert about a later event shows of this one.
    #[must_use]
    pub fn of(event: &Event<'_>) -> Self {
        let mut shown = Shown {
            path_bytes_max: EARLIER_PATH_BYTES_MAX,
            arguments_bytes_max: EARLIER_PATH_BYTES_MAX,
            ..Shown::default()
        };
        let names = Names {
            args: "args",
            env: "env",
            executable: "executable",
            cwd: "cwd",
        };
        let process = v1::Process {
            tid: event.tid,
            parent_pid: event.ppid,
            name: printable(&event.comm),
            credentials: Some(credentials(&event.credentials, event)),
            cgroup_id: event.cgroup_id,
            ..process(&event.process, event, ANCESTOR, names, &mut shown)
        };
        Self(Arc::new(v1::EarlierEvent {
            event_time: Some(timestamp(event.wall_ns(event.time_ns))),
            boot_time_ns: event.time_ns,
            event: Some(told(event, shown)),
            process: Some(process),
        }))
    }
}

impl Evidence for Earlier {
    fn bytes(&self) -> usize {
        // As it is on the wire, and about as much again for what holds it together.
        2 * self.0.encoded_len() + size_of::<v1::EarlierEvent>()
    }
}

/// The same events as the wire has them.
#[must_use]
pub fn earlier(events: &[Earlier]) -> Vec<v1::EarlierEvent> {
    events.iter().map(|Earlier(event)| (**event).clone()).collect()
}

/// The alert for events of a time that has passed: it is about the last one that was kept.
#[must_use]
pub fn late(rule: &Rule, events: &[Earlier], origin: &Origin) -> v1::Alert {
    let mut events = earlier(events);
    let last = events.pop().unwrap_or_default();
    let executable = last.process.as_ref().map_or("", |process| process.executable.as_str());
    v1::Alert {
        fingerprint: digest(&[rule.id.as_bytes(), executable.as_bytes()]),
        event_time: last.event_time,
        boot_time_ns: last.boot_time_ns,
        rule: Some(reference(rule, origin)),
        severity: severity(rule.severity).into(),
        techniques: techniques(rule),
        // The output of a rule speaks of one event, and that one is gone.
        message: rule.name.to_string(),
        event: last.event,
        process: last.process,
        host: Some(origin.host.clone()),
        run_id: origin.run_id.clone(),
        count: 1,
        earlier: events,
        ..v1::Alert::default()
    }
}

/// The alert for an event that a rule matched.
#[must_use]
pub fn of(rule: &Rule, event: &Event<'_>, origin: &Origin) -> v1::Alert {
    let mut shown = Shown::default();
    let process = actor(event, &mut shown);
    let ancestors = ancestors(event, &mut shown);
    let mut message = String::new();
    rule.output.render(event, &mut message);
    let message = shown.message(&message);
    v1::Alert {
        fingerprint: fingerprint(rule, event),
        event_time: Some(timestamp(event.wall_ns(event.time_ns))),
        boot_time_ns: event.time_ns,
        ingest_time: None,
        unattended: false,
        rule: Some(reference(rule, origin)),
        severity: severity(rule.severity).into(),
        techniques: techniques(rule),
        message,
        event: Some(told(event, shown)),
        process: Some(process),
        ancestors,
        host: Some(origin.host.clone()),
        container: None,
        run_id: origin.run_id.clone(),
        count: event.count(),
        responses: Vec::new(),
        earlier: Vec::new(),
        held_back: 0,
    }
}

/// The rule behind an alert.
fn reference(rule: &Rule, origin: &Origin) -> v1::RuleRef {
    v1::RuleRef {
        id: rule.id.to_string(),
        name: rule.name.to_string(),
        description: rule.description.to_string(),
        remediation: rule.remediation.to_string(),
        tags: rule.tags.iter().map(ToString::to_string).collect(),
        ruleset_digest: origin.ruleset_digest.to_string(),
    }
}

fn techniques(rule: &Rule) -> Vec<v1::Technique> {
    rule.attack
        .iter()
        .map(|technique| v1::Technique {
            id: technique.id.to_string(),
            name: technique.name.to_string(),
            tactics: technique.tactics.iter().map(ToString::to_string).collect(),
        })
        .collect()
}

/// What happened; last of all, so that what was cut is known.
fn told(event: &Event<'_>, mut shown: Shown) -> v1::Event {
    let object = object(event, &mut shown);
    let arguments = shown.call_arguments(event);
    let target = event.aim().map(|aim| target(&aim, &mut shown));
    v1::Event {
        r#type: event.event_type.to_owned(),
        result: event.result(),
        object,
        arguments,
        io_uring: event.is_by_ring(),
        result_unknown: event.is_result_unknown(),
        target,
        truncated: shown.truncated(event),
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
    let mut parts: Vec<Cow<'_, [u8]>> = vec![rule.id.as_bytes().into(), (&*event.process.image.executable).into()];
    parts.extend(event.path().map(everywhere));
    parts.extend(event.new_path().map(everywhere));
    parts.extend(event.behaviour().map(|behaviour| behaviour.into_bytes().into()));
    if let Some(ends) = event.ends() {
        // Who connects to us, and from which port we connect, is another every time.
        let end = if ends.is_server {
            ends.local.map(|local| local.port().to_string())
        } else {
            ends.remote.map(|remote| remote.to_string())
        };
        parts.push(end.unwrap_or_default().into_bytes().into());
    }
    digest(&parts)
}

pub(crate) fn digest(parts: &[impl AsRef<[u8]>]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        let bytes = part.as_ref();
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    let digest = hasher.finalize();
    digest[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

/// The path with `<pid>` for the numbers of processes and threads below `/proc`.
fn everywhere(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(below) = path.strip_prefix(b"/proc/") else {
        return path.into();
    };
    let mut parts: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
    let is_task = parts.get(1) == Some(&&b"task"[..]);
    for index in [0, 2] {
        if let Some(part) = parts.get_mut(index).filter(|_| index == 0 || is_task)
            && !part.is_empty()
            && part.iter().all(u8::is_ascii_digit)
        {
            *part = b"<pid>";
        }
    }
    [b"/proc/", &*parts.join(&b'/')].concat().into()
}

/// What came of making an alert that fits.
struct Shown {
    path_bytes_max: usize,
    arguments_bytes_max: usize,
    /// Names of the parts that were cut.
    cut: BTreeSet<&'static str>,
    /// Secrets that were found in arguments.
    hidden: Vec<String>,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            path_bytes_max: PATH_BYTES_MAX,
            arguments_bytes_max: CALL_ARGUMENTS_BYTES_MAX,
            cut: BTreeSet::new(),
            hidden: Vec::new(),
        }
    }
}

impl Shown {
    fn text(&mut self, bytes: &[u8], max: usize, name: &'static str) -> String {
        let (text, cut) = printable_within(bytes, max);
        if cut {
            self.cut.insert(name);
        }
        text
    }

    /// Arguments, redacted first and cut then: what is cut may no longer look like the secret it is.
    fn arguments(&mut self, image: &Image, max: usize, name: &'static str) -> Vec<String> {
        let mut room = 2 * max + 1024;
        let mut printed = Vec::new();
        for argument in image.arguments() {
            let text = self.text(argument, room, name);
            room = room.saturating_sub(text.len() + ARGUMENT_COST);
            printed.push(text);
            if room == 0 {
                self.cut.insert(name);
                break;
            }
        }
        let redacted = redact::arguments(&printed);
        self.hidden.extend(redacted.hidden);
        let mut room = max;
        let mut shown = Vec::new();
        for mut argument in redacted.arguments {
            if room <= ARGUMENT_COST {
                self.cut.insert(name);
                break;
            }
            room -= ARGUMENT_COST;
            if argument.len() > room {
                argument.truncate(argument.floor_char_boundary(room));
                self.cut.insert(name);
            }
            room -= argument.len();
            shown.push(argument);
        }
        shown
    }

    /// Those of a call without a body of its own: of others the object of the event says all.
    fn call_arguments(&mut self, event: &Event<'_>) -> String {
        let Detail::Call(_) = &event.detail else {
            return String::new();
        };
        // Redacted first and cut then, as above.
        let text = self.text(event.arguments(), 2 * self.arguments_bytes_max, "arguments");
        let mut text = redact::text(&text);
        if text.len() > self.arguments_bytes_max {
            text.truncate(text.floor_char_boundary(self.arguments_bytes_max));
            self.cut.insert("arguments");
        }
        text
    }

    fn message(&mut self, message: &str) -> String {
        // The engine writes a backslash once.
        let hidden: Vec<String> = self.hidden.iter().map(|secret| secret.replace("\\\\", "\\")).collect();
        let mut message = redact::text(&redact::without(message, &hidden));
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
            self.cut.insert("message");
        }
        message
    }

    /// What the kernel half has cut, and what was cut here.
    fn truncated(mut self, event: &Event<'_>) -> Vec<String> {
        self.cut.extend(event.truncated());
        if event.process.image.flags & flags::ARGS_CUT != 0 {
            self.cut.insert("args");
        }
        self.cut.into_iter().map(str::to_owned).collect()
    }
}

/// Whom an event is aimed at.
fn target(aim: &Aim<'_>, shown: &mut Shown) -> v1::Target {
    let process = aim.process;
    v1::Target {
        pid: aim.pid.unwrap_or_default(),
        exec_id: process.map(Process::identity).unwrap_or_default(),
        name: process
            .map(|process| printable(&process.image.name))
            .unwrap_or_default(),
        executable: process
            .map(|process| shown.text(&process.image.executable, ANCESTOR.executable, "target"))
            .unwrap_or_default(),
        relation: aim.relation.to_owned(),
        is_agent: aim.is_agent,
    }
}

fn object(event: &Event<'_>, shown: &mut Shown) -> Option<v1::event::Object> {
    let path_bytes_max = shown.path_bytes_max;
    let mut path = |bytes: &[u8]| shown.text(bytes, path_bytes_max, "path");
    match &event.detail {
        Detail::Process(_) | Detail::Fork(_) => None,
        Detail::Open(open, name) => Some(v1::event::Object::File(v1::File {
            path: path(name),
            new_path: String::new(),
            inode: open.inode,
            device: open.device,
            mode: open.mode,
            flags: open.open_flags,
            created: open.file_mode & staghound_ebpf::file_mode::CREATED != 0,
        })),
        Detail::Rename(_, from, to) => Some(v1::event::Object::File(v1::File {
            path: path(from),
            new_path: path(to),
            ..v1::File::default()
        })),
        Detail::Unlink(_, name) => Some(v1::event::Object::File(v1::File {
            path: path(name),
            ..v1::File::default()
        })),
        Detail::Chmod(change, name) => Some(v1::event::Object::File(v1::File {
            path: path(name),
            mode: change.argument,
            ..v1::File::default()
        })),
        Detail::Call(_) if event.socket().is_some() => event
            .socket()
            .map(|socket| v1::event::Object::Socket(ends(event, socket))),
        Detail::Call(call) => event.path().map(|name| {
            v1::event::Object::File(v1::File {
                path: path(name),
                new_path: event.new_path().map(path).unwrap_or_default(),
                inode: call.inode,
                device: call.device,
                mode: call.mode,
                ..v1::File::default()
            })
        }),
        Detail::Socket(socket, name) => {
            let mut told = ends(event, socket);
            if socket.family == AF_UNIX {
                told.remote_address = path(name);
            }
            if matches!(event.kind, EventKind::Send | EventKind::Receive) {
                told.dns_name = path(name);
                told.tls_server_name = event.server_name().map(printable).unwrap_or_default();
                let mut room = ANSWERS_BYTES_MAX.min(path_bytes_max);
                for answer in event.dns_answers() {
                    let answer = shown.text(answer, room, "dns_answers");
                    room = room.saturating_sub(answer.len() + ARGUMENT_COST);
                    told.dns_answers.push(answer);
                    if room == 0 {
                        break;
                    }
                }
            }
            Some(v1::event::Object::Socket(told))
        }
        Detail::Ended(socket, traffic) => Some(v1::event::Object::Socket(v1::Socket {
            bytes_received: traffic.received,
            bytes_sent: traffic.sent,
            duration_ns: traffic.duration_ns,
            ..ends(event, socket)
        })),
    }
}

/// A socket with its ends.
fn ends(event: &Event<'_>, socket: &staghound_ebpf::Socket) -> v1::Socket {
    let ends = event.ends();
    let end = |end: Option<std::net::SocketAddr>| {
        end.map_or((String::new(), 0), |end| (end.ip().to_string(), u32::from(end.port())))
    };
    let (local_address, local_port) = end(ends.and_then(|ends| ends.local));
    let (remote_address, remote_port) = end(ends.and_then(|ends| ends.remote));
    v1::Socket {
        family: family(socket).to_owned(),
        protocol: protocol(socket).to_owned(),
        local_address,
        local_port,
        remote_address,
        remote_port,
        ..v1::Socket::default()
    }
}

/// The process of the event, with what the event itself tells of it.
fn actor(event: &Event<'_>, shown: &mut Shown) -> v1::Process {
    let names = Names {
        args: "args",
        env: "env",
        executable: "executable",
        cwd: "cwd",
    };
    v1::Process {
        tid: event.tid,
        parent_pid: event.ppid,
        name: printable(&event.comm),
        credentials: Some(credentials(&event.credentials, event)),
        cgroup_id: event.cgroup_id,
        ..process(&event.process, event, ACTOR, names, shown)
    }
}

/// The nearest and the furthest ancestors.
fn ancestors(event: &Event<'_>, shown: &mut Shown) -> Vec<v1::Process> {
    let names = Names {
        args: "ancestors",
        env: "ancestors",
        executable: "ancestors",
        cwd: "ancestors",
    };
    let count = event.process.ancestors().count();
    let is_shown = |index: usize| index < NEAREST_MAX || index + FURTHEST_MAX >= count;
    if count > NEAREST_MAX + FURTHEST_MAX {
        shown.cut.insert("ancestors");
    }
    event
        .process
        .ancestors()
        .enumerate()
        .filter(|(index, _)| is_shown(*index))
        .map(|(_, ancestor)| process(ancestor, event, ANCESTOR, names, shown))
        .collect()
}

/// What to call the parts of a process when they are cut.
#[derive(Clone, Copy)]
struct Names {
    args: &'static str,
    env: &'static str,
    executable: &'static str,
    cwd: &'static str,
}

fn process(process: &Process, event: &Event<'_>, limits: Limits, names: Names, shown: &mut Shown) -> v1::Process {
    v1::Process {
        start_time: Some(timestamp(event.wall_ns(process.start_ns))),
        credentials: Some(credentials(&process.credentials, event)),
        ..described(process, limits, names, shown)
    }
}

/// A process and its ancestors as they are now, apart from any event: without times and users.
#[must_use]
pub fn of_process(process: &Process) -> (v1::Process, Vec<v1::Process>) {
    let mut shown = Shown::default();
    let names = Names {
        args: "args",
        env: "env",
        executable: "executable",
        cwd: "cwd",
    };
    let ancestors = process
        .ancestors()
        .take(NEAREST_MAX)
        .map(|ancestor| described(ancestor, ANCESTOR, names, &mut shown))
        .collect();
    (described(process, ACTOR, names, &mut shown), ancestors)
}

fn described(process: &Process, limits: Limits, names: Names, shown: &mut Shown) -> v1::Process {
    let image = &process.image;
    let mut env = Vec::new();
    let mut room = limits.env;
    // Of ancestors no environment is shown, which is not a cut.
    for variable in image.env().take_while(|_| limits.env > 0) {
        let text = redact::text(&shown.text(variable, room, names.env));
        room = room.saturating_sub(text.len() + ARGUMENT_COST);
        env.push(text);
        if room == 0 {
            shown.cut.insert(names.env);
            break;
        }
    }
    v1::Process {
        pid: process.pid,
        tid: 0,
        parent_pid: process.ppid,
        exec_id: process.identity(),
        start_time: None,
        name: printable(&image.name),
        executable: shown.text(&image.executable, limits.executable, names.executable),
        args: shown.arguments(image, limits.args, names.args),
        cwd: shown.text(&process.cwd, limits.cwd, names.cwd),
        credentials: None,
        env,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Host, Names as HostNames, Recall},
        packs,
        process::ProcessTable,
        sensor::decode,
    };
    use staghound_ebpf::{Call, Exec, Fork, Header, Kind, PathChange, Socket, Span};
    use zerocopy::{FromBytes as _, IntoBytes as _};

    const TICK_NS: u64 = 10_000_000;

    fn record(kind: Kind, pid: u32, body: &[u8], data: &[u8]) -> Vec<u8> {
        let header = Header {
            kind: kind as u16,
            pid,
            tid: pid,
            start_ns: u64::from(pid) * TICK_NS,
            len: u32::try_from(size_of::<Header>() + body.len() + data.len()).unwrap(),
            comm: *b"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\0",
            ..Header::default()
        };
        [header.as_bytes(), body, data].concat()
    }

    fn span(offset: usize, len: usize) -> Span {
        Span {
            offset: u16::try_from(offset).unwrap(),
            len: u16::try_from(len).unwrap(),
        }
    }

    fn with_event<T>(table: &mut ProcessTable, bytes: &[u8], then: impl FnOnce(&Event<'_>) -> T) -> T {
        let record = decode::decode(bytes).unwrap();
        let process = table.apply(&record);
        let host = Host {
            name: "h".to_owned(),
            boot_to_wall_ns: 0,
            in_run: false,
            earlier_agent: None,
        };
        let names = HostNames::of_host();
        then(&Event::of(&record, process, 1, &mut Recall::default(), table, &host, &names).unwrap())
    }

    fn origin() -> Origin {
        Origin {
            host: v1::Host::default(),
            run_id: String::new(),
            ruleset_digest: "".into(),
        }
    }

    /// The one number that decides whether an alert can be queued, spooled and shown.
    #[test]
    fn the_worst_alert_keeps_to_its_budget() {
        let loaded = packs::load_with_embedded(&[]).unwrap();
        let mut table = ProcessTable::default();
        let hostile = [1_u8; 4000];
        let mut data = hostile.to_vec();
        data.push(0);
        data.extend([1_u8; 8190]);
        data.push(0);
        let exec = Exec {
            executable: span(0, 4001),
            cwd: span(0, 4001),
            args: span(4001, 8191),
            env: span(0, 4001),
            ..Exec::default()
        };
        let first = 4_000_000;
        for pid in first..first + 90 {
            table.apply(&decode::decode(&record(Kind::Exec, pid, exec.as_bytes(), &data)).unwrap());
            let fork = Fork {
                child_pid: pid + 1,
                child_ppid: pid,
                child_start_ns: u64::from(pid + 1) * TICK_NS,
                ..Fork::default()
            };
            table.apply(&decode::decode(&record(Kind::Fork, pid, fork.as_bytes(), b"")).unwrap());
        }
        let bytes = record(Kind::Exec, first + 90, exec.as_bytes(), &data);
        with_event(&mut table, &bytes, |event| {
            for rule in loaded.ruleset.rules().iter().step_by(16) {
                // As many earlier events as the longest sequence has.
                let alert = v1::Alert {
                    earlier: earlier(&vec![Earlier::of(event); 15]),
                    ..of(rule, event, &origin())
                };
                let json = staghound_proto::json::to_string(&alert);
                assert!(
                    alert.encoded_len() <= 256 * 1024,
                    "{}: {}",
                    rule.id,
                    alert.encoded_len()
                );
                assert!(json.len() <= 256 * 1024, "{}: {}", rule.id, json.len());
                assert_eq!(alert.ancestors.len(), NEAREST_MAX + FURTHEST_MAX);
                assert_eq!(alert.ancestors.last().unwrap().pid, first);
                let told = alert.event.unwrap().truncated;
                for name in ["ancestors", "args"] {
                    assert!(told.iter().any(|told| told == name), "{name} in {told:?}");
                }
            }
        });
    }

    #[test]
    fn an_alert_about_a_time_that_has_passed_is_about_the_last_event_that_was_kept() {
        let loaded = packs::load_with_embedded(&[]).unwrap();
        let rule = &loaded.ruleset.rules()[0];
        let data = b"x\0--password\0hunter22\0";
        let exec = Exec {
            args: span(0, data.len()),
            ..Exec::default()
        };
        let events: Vec<Earlier> = [4_000_000, 4_000_001]
            .map(|pid| {
                let bytes = record(Kind::Exec, pid, exec.as_bytes(), data);
                with_event(&mut ProcessTable::default(), &bytes, Earlier::of)
            })
            .to_vec();
        assert!(events[0].bytes() > 100);
        let alert = late(rule, &events, &origin());
        assert_eq!(alert.process.unwrap().pid, 4_000_001);
        assert_eq!(alert.event.unwrap().r#type, "execve");
        let [before] = alert.earlier.as_slice() else {
            panic!("one event is before the last");
        };
        assert_eq!(before.process.as_ref().unwrap().args, ["x", "--password", "<redacted>"]);
        assert_eq!(late(rule, &[], &origin()).earlier, []);
    }

    #[test]
    fn secrets_with_blanks_are_in_no_message() {
        let loaded = packs::load_with_embedded(&[]).unwrap();
        let mut table = ProcessTable::default();
        let data = b"x\0--password\0one tw\\o three\0";
        let exec = Exec {
            args: span(0, data.len()),
            ..Exec::default()
        };
        let bytes = record(Kind::Exec, 4_000_000, exec.as_bytes(), data);
        with_event(&mut table, &bytes, |event| {
            for rule in loaded.ruleset.rules() {
                let alert = of(rule, event, &origin());
                assert!(!alert.message.contains("three"), "{}", alert.message);
                assert_eq!(alert.process.unwrap().args, ["x", "--password", "<redacted>"]);
            }
        });
    }

    #[test]
    fn calls_have_their_evidence() {
        let loaded = packs::load_with_embedded(&[]).unwrap();
        let rule = &loaded.ruleset.rules()[0];
        let told = |syscall: u32, flags: u16, call: Call, data: &[u8]| {
            let mut bytes = record(Kind::Call, 4_000_000, call.as_bytes(), data);
            let (header, _) = Header::read_from_prefix(&bytes).unwrap();
            let header = Header {
                syscall,
                flags,
                ..header
            };
            bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
            with_event(&mut ProcessTable::default(), &bytes, |event| of(rule, event, &origin()))
        };
        let link = Call {
            name: span(0, 12),
            new_name: span(12, 7),
            result: -1,
            ..Call::default()
        };
        let alert = told(
            86,
            flags::IO_URING | flags::RESULT_UNKNOWN,
            link,
            b"/etc/shadow\0/tmp/x\0",
        );
        let event = alert.event.unwrap();
        assert!(event.io_uring && event.result_unknown);
        assert_eq!(event.result, -1);
        assert_eq!(event.arguments, "res=-1 oldpath=/etc/shadow newpath=/tmp/x");
        let Some(v1::event::Object::File(file)) = event.object else {
            panic!("a link is about files");
        };
        assert_eq!((&*file.path, &*file.new_path), ("/etc/shadow", "/tmp/x"));
        // A secret is taken out of arguments, and what differs from run to run is in no fingerprint.
        let prctl = |pointer: u64, name: &[u8]| {
            let call = Call {
                args: [15, pointer, 0, 0, 0, 0],
                more: span(0, name.len()),
                ..Call::default()
            };
            told(157, 0, call, name)
        };
        let one = prctl(1, b"password=hunter22\0");
        let text = one.event.unwrap().arguments;
        assert!(text.contains("PR_SET_NAME") && !text.contains("hunter22"), "{text}");
        assert_eq!(prctl(1, b"x\0").fingerprint, prctl(2, b"x\0").fingerprint);
        assert_ne!(prctl(1, b"x\0").fingerprint, prctl(1, b"y\0").fingerprint);
    }

    #[test]
    fn fingerprints_are_of_behaviour() {
        let loaded = packs::load_with_embedded(&[]).unwrap();
        let rule = &loaded.ruleset.rules()[0];
        let socket = |kind, local, remote| {
            let socket = Socket {
                family: 2,
                local: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                remote: [127, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                local_port: local,
                remote_port: remote,
                ..Socket::default()
            };
            let bytes = record(kind, 4_000_000, socket.as_bytes(), b"");
            with_event(&mut ProcessTable::default(), &bytes, |event| fingerprint(rule, event))
        };
        for (one, other, same) in [
            ((Kind::Connect, 1000, 80), (Kind::Connect, 1001, 80), true),
            ((Kind::Connect, 1000, 80), (Kind::Connect, 1000, 81), false),
            ((Kind::Accept, 80, 1000), (Kind::Accept, 80, 1001), true),
            ((Kind::Accept, 80, 1000), (Kind::Accept, 81, 1000), false),
            ((Kind::Listen, 80, 0), (Kind::Listen, 80, 1), true),
        ] {
            let prints = [one, other].map(|(kind, local, remote)| socket(kind, local, remote));
            assert_eq!(prints[0] == prints[1], same, "{one:?} {other:?}");
        }
        let rename = |to: &[u8]| {
            let data = [b"/a\0", to, b"\0"].concat();
            let change = PathChange {
                name: span(0, 3),
                new_name: span(3, to.len() + 1),
                ..PathChange::default()
            };
            let bytes = record(Kind::Rename, 4_000_000, change.as_bytes(), &data);
            with_event(&mut ProcessTable::default(), &bytes, |event| fingerprint(rule, event))
        };
        assert_ne!(rename(b"/b"), rename(b"/c"));
        assert_eq!(rename(b"/proc/1/mem"), rename(b"/proc/2/mem"));
        for (path, expected) in [
            (&b"/proc/12/environ"[..], &b"/proc/<pid>/environ"[..]),
            (b"/proc/12/task/13/mem", b"/proc/<pid>/task/<pid>/mem"),
            (b"/proc/12/fd/13", b"/proc/<pid>/fd/13"),
            (b"/proc/sys/1", b"/proc/sys/1"),
            (b"/proc/", b"/proc/"),
            (b"/x/12", b"/x/12"),
        ] {
            assert_eq!(everywhere(path).as_ref(), expected);
        }
    }
}
