//! A sensor in this process, and what it saw of the processes that a test ran.

use std::{
    collections::HashSet,
    io::Read as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use staghound::{
    event::{Detail, Ends, Event, Host, Names},
    process::{Credentials, Process, ProcessTable},
    sensor::{Losses, Sensor, SensorConfig, decode},
};
use staghound_engine::event::EventKind;

use crate::deadline;

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
}

impl Seen {
    fn of(event: &Event<'_>) -> Self {
        Self {
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

    /// The arguments of its process.
    #[must_use]
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        self.process.image.arguments().map(<[u8]>::to_vec).collect()
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
            assert_eq!(
                outcome.attachment,
                staghound::sensor::Attachment::Attached,
                "every program is needed for the tests: {outcome}"
            );
        }
        Self {
            sensor,
            table: ProcessTable::seeded(),
            host: Host {
                name: "test".to_owned(),
                boot_to_wall_ns: 0,
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

    /// Takes in what the rings hold; yields whether there was anything.
    pub fn drain(&mut self, into: &mut Vec<Seen>) -> bool {
        let Self {
            sensor,
            table,
            host,
            names,
            number,
        } = self;
        let drained = sensor.drain(usize::MAX, |bytes| {
            let record = decode::decode(bytes).expect("the programs write records that decode");
            *number += 1;
            let process = table.apply(&record);
            if let Some(event) = Event::of(&record, process, *number, table, host, names) {
                into.push(Seen::of(&event));
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
        let mut seen = Vec::new();
        let begun = Instant::now();
        while !all_ended(pid, &seen) {
            assert!(
                begun.elapsed() < deadline(),
                "{command:?} (pid {pid}) and its descendants were not seen to end within {:?}; seen: {:#?}",
                deadline(),
                seen.iter().map(|seen| (seen.kind, seen.pid)).collect::<Vec<_>>()
            );
            self.sensor.wait(Duration::from_millis(50));
            self.drain(&mut seen);
        }
        while self.drain(&mut seen) {}
        let status = child.0.wait().expect("a child can be waited for");
        let mut stdout = String::new();
        let mut pipe = child.0.stdout.take().expect("it is a pipe");
        pipe.read_to_string(&mut stdout).expect("the actor prints UTF-8");
        let tree = tree(pid, &seen);
        Run {
            pid,
            status,
            stdout,
            events: seen.into_iter().filter(|seen| tree.contains(&seen.pid)).collect(),
            losses: (losses_before, self.losses()),
        }
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
    match &seen.detail {
        Detail::Fork(fork) => Some(fork.child_pid),
        Detail::Process(_)
        | Detail::Open(..)
        | Detail::Rename(..)
        | Detail::Unlink(..)
        | Detail::Chmod(..)
        | Detail::Socket(..) => None,
    }
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
