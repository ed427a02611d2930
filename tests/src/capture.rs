//! A sensor in this process, and what it saw of the processes that a test ran.

use std::{
    collections::{HashMap, HashSet},
    io::Read as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use staghound::{
    event::{Detail, Ends, Event, Host, Names, Recall},
    process::{Credentials, Process, ProcessTable},
    sensor::{
        Losses, Sensor, SensorConfig,
        decode::{self, Body, Record},
        syscalls,
    },
};
use staghound_ebpf::{Call, Resolved, Span, flags};
use staghound_engine::{
    event::{Event as _, EventKind, Value},
    field::FieldRef,
};

use crate::deadline;

/// The fields that tests look at, beside what [`Seen`] holds as numbers: what rules see.
const FIELDS: &[&str] = &[
    "evt.args",
    "evt.res",
    "evt.io_uring",
    "evt.is_open_create",
    "evt.is_open_write",
    "evt.duration",
    "fd.name",
    "fd.num",
    "fd.ino",
    "fd.type",
    "fd.bytes_in",
    "fd.bytes_out",
    "fs.path.name",
    "fs.path.source",
    "fs.path.target",
    "dns.qname",
    "dns.answer",
    "tls.sni",
    "target.pid",
    "target.name",
    "target.relation",
    "fork.new_namespaces",
    "proc.stdin.type",
    "proc.stdout.type",
    "proc.is_exe_secure",
    "proc.sid",
    "proc.vpid",
    "evt.arg.request",
    "evt.arg.sig",
    "evt.arg.flags",
    "evt.arg.option",
    "evt.arg.cmd",
    "evt.arg.domain",
    "evt.arg.type",
    "evt.arg.opcode",
    "evt.arg.linkpath",
    "evt.arg.target",
    "evt.arg.name",
    "evt.arg.uid",
    "evt.arg.prot",
    "evt.arg.mode",
    "evt.arg.attributes",
    "evt.rawres",
    "proc.prev.uid",
    "proc.prev.euid",
    "proc.prev.cap_effective",
    "proc.stderr.type",
    "proc.pgid",
    "user.euid",
];

static FIELD_REFS: LazyLock<Vec<(&'static str, FieldRef)>> = LazyLock::new(|| {
    FIELDS
        .iter()
        .map(|name| {
            let field = FieldRef::parse(name).unwrap_or_else(|error| panic!("`{name}` is no field: {error:?}"));
            (*name, field)
        })
        .collect()
});

/// An event with everything it holds.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What happened.
    pub kind: EventKind,
    /// System call, as rules name it.
    pub event_type: &'static str,
    /// When, in nanoseconds since boot.
    pub time_ns: u64,
    /// Thread group.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Parent's thread group.
    pub ppid: u32,
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// Who it ran as.
    pub credentials: Credentials,
    /// Control group.
    pub cgroup_id: u64,
    /// Bits of `staghound_ebpf::flags`.
    pub flags: u16,
    /// What the system call returned.
    pub result: i64,
    /// How many equal events it stands for.
    pub count: u64,
    /// Names of the parts that were cut.
    pub truncated: Vec<&'static str>,
    /// The path it is about.
    pub path: Option<Vec<u8>>,
    /// Both ends of a socket.
    pub ends: Option<Ends>,
    /// All else that depends on the kind.
    pub detail: Detail,
    /// The process, as it was.
    pub process: Arc<Process>,
    /// What rules see of it: the fields of [`FIELDS`] that it has; several values joined by commas.
    pub fields: HashMap<&'static str, String>,
}

fn text_of(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Address(address) => address.to_string(),
    }
}

fn fields_of(event: &Event<'_>) -> HashMap<&'static str, String> {
    FIELD_REFS
        .iter()
        .filter_map(|(name, field)| {
            let mut values = Vec::new();
            event.each(field, &mut |value| {
                values.push(text_of(value));
                true
            });
            (!values.is_empty()).then(|| (*name, values.join(",")))
        })
        .collect()
}

impl Seen {
    fn of(event: &Event<'_>, without_fields: bool) -> Self {
        Self {
            fields: if without_fields {
                HashMap::new()
            } else {
                fields_of(event)
            },
            kind: event.kind,
            event_type: event.event_type,
            time_ns: event.time_ns,
            pid: event.process.pid,
            tid: event.tid,
            ppid: event.ppid,
            comm: event.comm.to_vec(),
            credentials: event.credentials,
            cgroup_id: event.cgroup_id,
            flags: event.flags,
            result: event.result(),
            count: event.count(),
            truncated: event.truncated().collect(),
            path: event.path().map(<[u8]>::to_vec),
            ends: event.ends(),
            detail: event.detail.clone(),
            process: Arc::clone(&event.process),
        }
    }

    /// The path, as text for comparisons and messages.
    #[must_use]
    pub fn path_text(&self) -> String {
        String::from_utf8_lossy(self.path.as_deref().unwrap_or_default()).into_owned()
    }

    /// A field as rules see it; empty when the event does not have it.
    #[must_use]
    pub fn field(&self, name: &str) -> &str {
        assert!(FIELDS.contains(&name), "add `{name}` to the fields that are captured");
        self.fields.get(name).map_or("", String::as_str)
    }

    /// The arguments of its process.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        self.process.image.arguments().map(<[u8]>::to_vec).collect()
    }
}

/// A system call as its record tells of it, before an event is made of it.
#[derive(Clone, Debug)]
pub struct Called {
    /// The call, as the agent names it.
    pub name: &'static str,
    /// When it ended, in nanoseconds since boot.
    pub time_ns: u64,
    /// Thread group.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Bits of `staghound_ebpf::flags`.
    pub flags: u16,
    /// Its numbers.
    pub call: Call,
    /// Path of the descriptor.
    pub object: String,
    /// Path of the second descriptor.
    pub new_object: String,
    /// The path that was passed, joined with its directory.
    pub path: String,
    /// Likewise the second one.
    pub new_path: String,
    /// The text that was passed.
    pub text: Vec<u8>,
    /// The other text, or bytes.
    pub more: Vec<u8>,
}

impl Called {
    fn of(record: &Record<'_>, call: &Call) -> Self {
        let header = &record.header;
        let walked = |span: Span| {
            let mut path = Vec::new();
            if span != Span::default() {
                record.walked_path(span, &mut path);
            }
            String::from_utf8_lossy(&path).into_owned()
        };
        let passed = |base, name| {
            if name == Span::default() && base == Span::default() {
                return String::new();
            }
            String::from_utf8_lossy(&record.passed_path(base, name)).into_owned()
        };
        Self {
            name: syscalls::name(header.syscall, header.flags & flags::COMPAT != 0).unwrap_or("(unknown)"),
            time_ns: header.time_ns,
            pid: header.pid,
            tid: header.tid,
            flags: header.flags,
            call: *call,
            object: walked(call.object),
            new_object: walked(call.new_object),
            path: passed(call.base, call.name),
            new_path: passed(call.new_base, call.new_name),
            text: record.text(call.text).to_vec(),
            more: record.bytes(call.more).to_vec(),
        }
    }
}

/// What a command did, in the order of its records.
#[derive(Debug, Default)]
pub struct Drained {
    /// Events.
    pub events: Vec<Seen>,
    /// Calls that have no record of a kind of their own.
    pub calls: Vec<Called>,
    /// What the kernel resolved paths to, by thread group.
    pub resolved: Vec<(u32, String, String)>,
    /// Whether fields are left out of the events: to keep up with a storm.
    pub without_fields: bool,
}

impl Drained {
    fn note(&mut self, record: &Record<'_>) {
        match &record.body {
            Body::Call(call) => self.calls.push(Called::of(record, call)),
            Body::Resolved(Resolved { path, new_path }) => {
                let [path, new_path] = [path, new_path].map(|span| {
                    let mut path = Vec::new();
                    record.walked_path(*span, &mut path);
                    String::from_utf8_lossy(&path).into_owned()
                });
                self.resolved.push((record.header.pid, path, new_path));
            }
            Body::Exec(_)
            | Body::Fork(_)
            | Body::Exit(_)
            | Body::Open(_)
            | Body::Rename(_)
            | Body::Unlink(_)
            | Body::Chmod(_)
            | Body::Chdir(_)
            | Body::Connect(_)
            | Body::Listen(_)
            | Body::Accept(_)
            | Body::Send(_)
            | Body::Receive(_)
            | Body::Ended(_)
            | Body::Bind(_) => {}
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct Run {
    /// The command's process.
    pub pid: u32,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// Everything that it and its descendants did, in order.
    pub events: Vec<Seen>,
    /// Their calls that have no record of a kind of their own, in order.
    pub calls: Vec<Called>,
    /// What the kernel resolved paths to for them.
    pub resolved: Vec<(u32, String, String)>,
    /// What the programs had lost before and after.
    pub losses: (Losses, Losses),
}

impl Run {
    /// The events of a kind.
    pub fn of(&self, kind: EventKind) -> impl Iterator<Item = &Seen> {
        self.events.iter().filter(move |seen| seen.kind == kind)
    }

    /// The only event of a kind.
    #[must_use]
    pub fn only(&self, kind: EventKind) -> &Seen {
        self.only_where(kind, |_| true)
    }

    /// The only event of a kind whose path begins so: the loader and the runtime open files too.
    #[must_use]
    pub fn only_below(&self, kind: EventKind, directory: &str) -> &Seen {
        self.only_where(kind, |seen| seen.path_text().starts_with(directory))
    }

    /// The only event of a kind that is meant.
    pub fn only_where(&self, kind: EventKind, mut meant: impl FnMut(&Seen) -> bool) -> &Seen {
        let found: Vec<&Seen> = self.of(kind).filter(|seen| meant(seen)).collect();
        assert_eq!(
            found.len(),
            1,
            "one {kind:?} was expected, not {found:#?} of {:#?}",
            self.events
                .iter()
                .map(|seen| (seen.kind, seen.pid, seen.path_text()))
                .collect::<Vec<_>>()
        );
        found[0]
    }
}

/// A sensor with its process table.
pub struct Capture {
    sensor: Sensor,
    table: ProcessTable,
    recall: Recall,
    host: Host,
    names: Names,
    number: u64,
}

static OF_CHILDREN: LazyLock<Mutex<Capture>> = LazyLock::new(|| {
    let mut capture = Capture::start();
    // The scope is inherited on fork; this process's own files and sockets are left out by the programs.
    capture.watch(std::process::id());
    Mutex::new(capture)
});

impl Capture {
    /// A sensor whose scope is empty as yet.
    #[must_use]
    pub fn start() -> Self {
        let config = SensorConfig {
            scoped: true,
            ..SensorConfig::default()
        };
        let sensor = Sensor::start(&config).expect("this kernel runs the programs");
        for outcome in sensor.outcomes() {
            assert!(
                !outcome.attachment.is_missing(),
                "every program is needed for the tests: {outcome}"
            );
        }
        Self {
            sensor,
            table: ProcessTable::seeded(),
            recall: Recall::default(),
            host: Host {
                name: "test".to_owned(),
                boot_to_wall_ns: 0,
                in_run: false,
                earlier_agent: None,
            },
            names: Names::of_host(),
            number: 0,
        }
    }

    /// The one sensor for all tests of a program, which watches everything that they start. One, because an emulated
    /// processor takes long to verify the programs.
    pub fn of_children() -> MutexGuard<'static, Self> {
        // A failed test leaves the sensor as good as it was.
        OF_CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a process into the scope.
    pub fn watch(&mut self, pid: u32) {
        self.sensor.watch(pid).expect("the scope has room");
    }

    /// What the programs have lost so far.
    #[must_use]
    pub fn losses(&self) -> Losses {
        self.sensor.losses().expect("the counters can be read")
    }

    /// Who is who.
    #[must_use]
    pub fn table(&self) -> &ProcessTable {
        &self.table
    }

    /// Waits for records, so long at most.
    pub fn wait(&mut self, limit: Duration) {
        self.sensor.wait(limit);
    }

    /// Takes in the events that the rings hold; yields whether there was anything.
    pub fn drain(&mut self, into: &mut Vec<Seen>) -> bool {
        let mut drained = Drained::default();
        let any = self.drain_all(&mut drained);
        into.append(&mut drained.events);
        any
    }

    /// Takes in all that the rings hold; yields whether there was anything.
    pub fn drain_all(&mut self, into: &mut Drained) -> bool {
        let Self {
            sensor,
            table,
            recall,
            host,
            names,
            number,
        } = self;
        let drained = sensor.drain(usize::MAX, |bytes| {
            let record = decode::decode(bytes).expect("the programs write records that decode");
            *number += 1;
            into.note(&record);
            let Some(process) = recall.actor(&record, table) else {
                return;
            };
            if let Some(event) = Event::of(&record, process, *number, recall, table, host, names) {
                into.events.push(Seen::of(&event, into.without_fields));
            }
        });
        drained > 0
    }

    /// Runs a command to its end and that of all its descendants.
    pub fn run(&mut self, command: &mut Command) -> Run {
        self.run_with(command, |_| {})
    }

    /// Likewise, and does something once it has been started.
    pub fn run_with(&mut self, command: &mut Command, started: impl FnOnce(&mut Child)) -> Run {
        // What earlier tests left behind.
        self.drain(&mut Vec::new());
        let losses_before = self.losses();
        let child = command
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let mut child = Guard(child);
        let pid = child.0.id();
        started(&mut child.0);
        let mut all = Drained::default();
        let begun = Instant::now();
        while !all_ended(pid, &all.events) {
            assert!(
                begun.elapsed() < deadline(),
                "{command:?} (pid {pid}) and its descendants were not seen to end within {:?}; seen: {:#?}",
                deadline(),
                all.events.iter().map(|seen| (seen.kind, seen.pid)).collect::<Vec<_>>()
            );
            self.sensor.wait(Duration::from_millis(50));
            self.drain_all(&mut all);
        }
        while self.drain_all(&mut all) {}
        let status = child.0.wait().expect("a child can be waited for");
        let mut stdout = String::new();
        let mut pipe = child.0.stdout.take().expect("it is a pipe");
        pipe.read_to_string(&mut stdout).expect("the actor prints UTF-8");
        let tree = tree(pid, &all.events);
        let mut run = Run {
            pid,
            status,
            stdout,
            events: all.events,
            calls: all.calls,
            resolved: all.resolved,
            losses: (losses_before, self.losses()),
        };
        run.events.retain(|seen| tree.contains(&seen.pid));
        run.calls.retain(|called| tree.contains(&called.pid));
        run.resolved.retain(|(pid, ..)| tree.contains(pid));
        run
    }

    /// Runs the actor, which must succeed.
    pub fn act<W: AsRef<std::ffi::OsStr>>(&mut self, words: impl IntoIterator<Item = W>) -> Run {
        let run = self.run(&mut crate::actor(words));
        assert_eq!(run.status.code(), Some(0), "the actor failed: {run:#?}");
        run
    }
}

/// Kills on the way out of a failed test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It has as a rule ended long ago.
        let _ended = self.0.kill();
        let _waited = self.0.wait();
    }
}

fn child_of(seen: &Seen) -> Option<u32> {
    let Detail::Fork(fork) = &seen.detail else {
        return None;
    };
    Some(fork.child_pid)
}

/// A process and all its descendants that were seen made. Forks come before what the child does.
fn tree(root: u32, seen: &[Seen]) -> HashSet<u32> {
    let mut tree = HashSet::from([root]);
    for event in seen {
        if tree.contains(&event.pid) {
            tree.extend(child_of(event));
        }
    }
    tree
}

fn all_ended(root: u32, seen: &[Seen]) -> bool {
    let mut alive = tree(root, seen);
    for event in seen {
        if event.kind == EventKind::Exit {
            alive.remove(&event.pid);
        }
    }
    alive.is_empty()
}
