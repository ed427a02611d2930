//! The process table: who each process is, who made it, and what it runs.
//!
//! Seeded from `/proc` after the programs are attached, kept by fork, exec, chdir and exit. An entry is immutable and
//! shared: an event holds what was true when it happened, and ancestors outlive their end for as long as a descendant
//! needs them. Everything is bounded, and what the bounds cost is counted.

mod seed;

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use hashbrown::HashMap;
use staghound_ebpf::{Exec, Fork, Header, flags};

use crate::sensor::decode::{Body, Record, until_nul};

/// Most processes that are known at a time.
const PROCESSES_MAX: usize = 262_144;
/// A process that ended stays known for so long, in nanoseconds of event time: records of other processors come late.
const EXITED_NS: u64 = 2_000_000_000;
/// A chain of ancestors grows to this length, then its middle is taken out.
const DEPTH_MAX: u16 = 96;
/// How many of the nearest ancestors stay then.
const NEAREST_KEPT: usize = 32;
/// How many of the furthest ancestors stay then.
const FURTHEST_KEPT: usize = 8;
/// Clock tick of `/proc/PID/stat`, in nanoseconds (`USER_HZ` is 100 on every architecture).
const TICK_NS: u64 = 10_000_000;

/// What a process runs: fixed from one exec to the next.
#[derive(Debug, Default)]
pub struct Image {
    /// Name (`comm`) at exec.
    pub name: Box<[u8]>,
    /// Absolute path of the executable. Empty for kernel threads and where unknown.
    pub executable: Box<[u8]>,
    /// Arguments, the zeroth included, each NUL-terminated but perhaps the last.
    arguments: Box<[u8]>,
    /// Name and arguments without the zeroth, joined by blanks.
    pub cmdline: Box<[u8]>,
    /// The script that an interpreter was started for by its first line; empty otherwise.
    pub script: Box<[u8]>,
    /// Allow-listed environment, each NUL-terminated.
    env: Box<[u8]>,
    /// Inode number of the executable; 0 where unknown.
    pub inode: u64,
    /// Device of the executable, as the kernel keeps it.
    pub device: u32,
    /// Links of the executable; none where unknown.
    pub nlink: Option<u32>,
    /// Bits of [`flags`] that tell what was cut.
    pub flags: u16,
    /// When it was started, in nanoseconds since boot; 0 when before the agent.
    pub exec_ns: u64,
    exeline: OnceLock<Box<[u8]>>,
}

impl Image {
    /// Arguments, the zeroth included.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        split_nul(&self.arguments)
    }

    /// Allow-listed environment variables, as `NAME=value`.
    pub fn env(&self) -> impl Iterator<Item = &[u8]> {
        split_nul(&self.env)
    }

    /// Arguments without the zeroth, joined by blanks.
    pub fn args_joined(&self) -> &[u8] {
        self.cmdline.get(self.name.len() + 1..).unwrap_or_default()
    }

    /// The zeroth argument and the others, joined by blanks.
    pub fn exeline(&self) -> &[u8] {
        self.exeline
            .get_or_init(|| self.arguments().collect::<Vec<_>>().join(&b' ').into())
    }

    /// Whether the executable is anonymous memory.
    pub fn is_memfd(&self) -> bool {
        self.flags & flags::DETACHED != 0 && self.executable.starts_with(b"/memfd:")
    }

    fn new(name: &[u8], executable: &[u8], arguments: &[u8]) -> Self {
        let mut cmdline = name.to_vec();
        for argument in split_nul(arguments).skip(1) {
            cmdline.push(b' ');
            cmdline.extend_from_slice(argument);
        }
        Self {
            name: name.into(),
            executable: executable.into(),
            arguments: arguments.into(),
            cmdline: cmdline.into(),
            ..Self::default()
        }
    }

    fn of_exec(record: &Record<'_>, exec: &Exec) -> Self {
        let mut executable = Vec::with_capacity(usize::from(exec.executable.len));
        record.walked_path(exec.executable, &mut executable);
        let filename = record.text(exec.filename);
        let interpreter = record.text(exec.interpreter);
        let mut image = Self::new(until_nul(&record.header.comm), &executable, record.bytes(exec.args));
        if interpreter != filename {
            image.script = filename.into();
        }
        image.env = record.bytes(exec.env).into();
        image.inode = exec.inode;
        image.device = exec.device;
        image.nlink = Some(exec.nlink);
        image.flags = record.header.flags;
        image.exec_ns = record.header.time_ns;
        image
    }
}

fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = bytes.is_empty();
    bytes
        .strip_suffix(&[0])
        .unwrap_or(bytes)
        .split(|byte| *byte == 0)
        .skip(usize::from(empty))
}

/// Who a process runs as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Login user id, if somebody logged in.
    pub login_uid: Option<u32>,
    /// Effective capabilities.
    pub capabilities: u64,
}

impl Credentials {
    /// As a record's header tells them.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        Self {
            uid: header.uid,
            euid: header.euid,
            gid: header.gid,
            egid: header.egid,
            login_uid: (header.login_uid != u32::MAX).then_some(header.login_uid),
            capabilities: header.capabilities,
        }
    }
}

/// One process, as it was from one change to the next.
#[derive(Clone, Debug)]
pub struct Process {
    /// Thread group.
    pub pid: u32,
    /// Parent's thread group, when the process was made or first seen.
    pub ppid: u32,
    /// When it started, in nanoseconds since boot. Exact to a tick only for processes older than the agent that have
    /// not been heard of since.
    pub start_ns: u64,
    /// How often it has exec'ed, as the kernel counts it.
    pub exec_count: u32,
    /// Who made it.
    pub parent: Option<Arc<Self>>,
    /// What it runs.
    pub image: Arc<Image>,
    /// Working directory.
    pub cwd: Arc<[u8]>,
    /// Who it ran as when it was made or last exec'ed.
    pub credentials: Credentials,
    /// Control group (v2).
    pub cgroup_id: u64,
    /// Controlling terminal at exec, as in `/proc/PID/stat`; 0 when there is none.
    pub tty: u32,
    depth: u16,
    start_is_exact: bool,
}

impl Process {
    /// Ancestors, nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(self.parent.as_deref(), |ancestor| ancestor.parent.as_deref())
    }

    /// Identity that survives reuse of the pid, and is the same before and after the process was first heard of: pid and
    /// start, the latter in ticks because `/proc` knows no better.
    #[must_use]
    pub fn identity(&self) -> String {
        format!("{}-{}", self.pid, self.start_ns / TICK_NS)
    }

    fn is(&self, start_ns: u64) -> bool {
        self.start_ns == start_ns || (!self.start_is_exact && self.start_ns / TICK_NS == start_ns / TICK_NS)
    }
}

/// What keeping the table has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Processes that were heard of without having been seen made.
    pub repaired: u64,
    /// Processes that were not taken in, because the table was full.
    pub evicted: u64,
    /// Chains of ancestors whose middle was taken out.
    pub trimmed: u64,
}

/// The process table.
#[derive(Debug, Default)]
pub struct ProcessTable {
    processes: HashMap<u32, Arc<Process>>,
    /// Ended processes in order of their end: when, pid, start.
    exited: VecDeque<(u64, u32, u64)>,
    counts: TableCounts,
    root: Arc<[u8]>,
}

impl ProcessTable {
    /// A table of the processes that run now. Call it after the programs are attached, so that nothing falls between.
    #[must_use]
    pub fn seeded() -> Self {
        let mut table = Self::default();
        for process in seed::running() {
            table.insert(process);
        }
        table.link();
        table
    }

    /// How many processes are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// What keeping it has cost.
    #[must_use]
    pub fn counts(&self) -> TableCounts {
        self.counts
    }

    /// A process by its pid.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Arc<Process>> {
        self.processes.get(&pid)
    }

    /// Those of `pids` that still run now, with what is known of each.
    pub fn survivors(&self, pids: &[u32]) -> Vec<(u32, Option<Arc<Process>>)> {
        pids.iter()
            .map(|pid| (*pid, self.processes.get(pid).map(Arc::clone)))
            .filter(|(pid, known)| seed::runs(*pid, known.as_ref().map(|known| known.start_ns)))
            .collect()
    }

    /// Takes in what a record tells of processes; yields the process it is about.
    pub fn apply(&mut self, record: &Record<'_>) -> Arc<Process> {
        self.forget_exited(record.header.time_ns);
        let actor = self.actor(&record.header);
        match &record.body {
            Body::Exec(exec) => self.exec(&actor, record, exec),
            Body::Fork(fork) => {
                self.fork(&actor, &record.header, fork);
                actor
            }
            Body::Exit(_) => {
                self.exited
                    .push_back((record.header.time_ns, actor.pid, actor.start_ns));
                actor
            }
            Body::Chdir(chdir) => {
                let mut cwd = Vec::with_capacity(usize::from(chdir.path.len));
                record.walked_path(chdir.path, &mut cwd);
                self.insert(Process {
                    cwd: cwd.into(),
                    ..Process::clone(&actor)
                })
            }
            Body::Open(_)
            | Body::Rename(_)
            | Body::Unlink(_)
            | Body::Chmod(_)
            | Body::Connect(_)
            | Body::Listen(_)
            | Body::Accept(_)
            | Body::Send(_)
            | Body::Call(_)
            | Body::Receive(_)
            | Body::Ended(_)
            | Body::Resolved(_) => actor,
        }
    }

    /// The process that a record comes from. One that is not known, or is another that had its pid, is made up from
    /// what the record says and what `/proc` still has.
    fn actor(&mut self, header: &Header) -> Arc<Process> {
        if let Some(known) = self
            .processes
            .get(&header.pid)
            .filter(|known| known.is(header.start_ns))
        {
            if known.start_is_exact {
                return Arc::clone(known);
            }
            let exact = Process {
                start_ns: header.start_ns,
                start_is_exact: true,
                exec_count: header.exec_count,
                ..Process::clone(known)
            };
            return self.insert(exact);
        }
        self.counts.repaired += 1;
        // Parents are older than their children, new ones by the kernel too; one that is younger was given the pid later.
        let parent = self
            .processes
            .get(&header.ppid)
            .filter(|parent| parent.start_ns < header.start_ns)
            .map(Arc::clone);
        let mut process = seed::process(header.pid)
            .filter(|process| process.start_ns / TICK_NS == header.start_ns / TICK_NS)
            .unwrap_or_else(|| Process {
                pid: header.pid,
                ppid: header.ppid,
                start_ns: header.start_ns,
                exec_count: header.exec_count,
                parent: None,
                image: Arc::new(Image::new(until_nul(&header.comm), b"", b"")),
                cwd: Arc::clone(&self.root),
                credentials: Credentials::of(header),
                cgroup_id: header.cgroup_id,
                tty: 0,
                depth: 0,
                start_is_exact: true,
            });
        process.start_ns = header.start_ns;
        process.start_is_exact = true;
        process.exec_count = header.exec_count;
        process.parent = parent.map(|parent| self.as_parent(parent));
        process.depth = process.parent.as_ref().map_or(0, |parent| parent.depth + 1);
        self.insert(process)
    }

    fn exec(&mut self, actor: &Arc<Process>, record: &Record<'_>, exec: &Exec) -> Arc<Process> {
        let mut cwd = Vec::with_capacity(usize::from(exec.cwd.len));
        record.walked_path(exec.cwd, &mut cwd);
        self.insert(Process {
            image: Arc::new(Image::of_exec(record, exec)),
            cwd: cwd.into(),
            exec_count: record.header.exec_count,
            credentials: Credentials::of(&record.header),
            cgroup_id: record.header.cgroup_id,
            tty: exec.tty,
            ..Process::clone(actor)
        })
    }

    fn fork(&mut self, maker: &Arc<Process>, header: &Header, fork: &Fork) {
        if self
            .processes
            .get(&fork.child_pid)
            .is_some_and(|known| known.is(fork.child_start_ns))
        {
            return; // seeded, and this is the record of how it came to be
        }
        let parent = self.as_parent(Arc::clone(maker));
        self.insert(Process {
            pid: fork.child_pid,
            ppid: fork.child_ppid,
            start_ns: fork.child_start_ns,
            exec_count: header.exec_count,
            image: Arc::clone(&maker.image),
            cwd: Arc::clone(&maker.cwd),
            credentials: Credentials::of(header),
            cgroup_id: header.cgroup_id,
            tty: maker.tty,
            depth: parent.depth + 1,
            parent: Some(parent),
            start_is_exact: true,
        });
    }

    /// `process` as somebody's parent: with a chain behind it that is not too long. Without this, a process that forks
    /// and ends, over and over, would leave ancestors without end.
    fn as_parent(&mut self, process: Arc<Process>) -> Arc<Process> {
        if process.depth < DEPTH_MAX {
            return process;
        }
        self.counts.trimmed += 1;
        let chain: Vec<&Process> = std::iter::once(&*process).chain(process.ancestors()).collect();
        let furthest = chain.len().saturating_sub(FURTHEST_KEPT);
        let kept = chain
            .iter()
            .enumerate()
            .filter(|(index, _)| *index < NEAREST_KEPT || *index >= furthest);
        let mut parent: Option<Arc<Process>> = None;
        for (_, process) in kept.rev() {
            let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
            parent = Some(Arc::new(Process {
                parent,
                depth,
                ..Process::clone(process)
            }));
        }
        parent.expect("a chain holds at least the process it is of")
    }

    fn insert(&mut self, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        if self.processes.len() >= PROCESSES_MAX && !self.processes.contains_key(&process.pid) {
            self.counts.evicted += 1;
            return process;
        }
        self.processes.insert(process.pid, Arc::clone(&process));
        process
    }

    fn forget_exited(&mut self, now_ns: u64) {
        while let Some(&(when, pid, start_ns)) = self.exited.front() {
            if now_ns.saturating_sub(when) < EXITED_NS {
                break;
            }
            self.exited.pop_front();
            if self
                .processes
                .get(&pid)
                .is_some_and(|process| process.start_ns == start_ns)
            {
                self.processes.remove(&pid);
            }
        }
    }

    /// Gives the seeded processes their parents, those first that have none.
    fn link(&mut self) {
        let mut pids: Vec<(u64, u32)> = self
            .processes
            .values()
            .map(|process| (process.start_ns, process.pid))
            .collect();
        pids.sort_unstable();
        // A parent is as a rule older than its child; one that is not (a subreaper) is linked unlinked, which is fine.
        for (_, pid) in pids {
            let Some(process) = self.processes.get(&pid) else {
                continue;
            };
            let Some(parent) = self.processes.get(&process.ppid).filter(|parent| parent.pid != pid) else {
                continue;
            };
            let parent = Arc::clone(parent);
            let process = Process::clone(process);
            let parent = self.as_parent(parent);
            let depth = parent.depth + 1;
            self.insert(Process {
                parent: Some(parent),
                depth,
                ..process
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sensor::decode::decode;
    use proptest::prelude::*;
    use staghound_ebpf::{Chdir, Exit, Kind, Open, Span};
    use zerocopy::IntoBytes as _;

    /// Above `PID_MAX_LIMIT`, so that `/proc` never has the processes of these tests.
    const PIDS: u32 = 5_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    /// A process as the kernel names it: pid (above [`PIDS`]) and start.
    type Id = (u32, u64);

    /// A table, and the clock of its records.
    #[derive(Default)]
    struct Told {
        table: ProcessTable,
        now_ns: u64,
    }

    impl Told {
        fn record(&mut self, (pid, start_ns): Id, kind: Kind, ppid: u32, body: &[u8], data: &[u8]) -> Arc<Process> {
            self.now_ns += 1;
            let mut header = Header {
                time_ns: self.now_ns,
                start_ns,
                kind: kind as u16,
                len: u32::try_from(size_of::<Header>() + body.len() + data.len()).unwrap(),
                pid: PIDS + pid,
                tid: PIDS + pid,
                ppid: PIDS + ppid,
                login_uid: u32::MAX,
                ..Header::default()
            };
            header.comm[..5].copy_from_slice(b"heard");
            let bytes = [header.as_bytes(), body, data].concat();
            self.table.apply(&decode(&bytes).unwrap())
        }

        fn fork(&mut self, maker: Id, child: Id) -> Arc<Process> {
            self.fork_for(maker, child, maker.0)
        }

        /// As with `CLONE_PARENT`: the child's parent is not its maker.
        fn fork_for(&mut self, maker: Id, child: Id, ppid: u32) -> Arc<Process> {
            let body = Fork {
                child_start_ns: child.1,
                child_pid: PIDS + child.0,
                child_ppid: PIDS + ppid,
                ..Fork::default()
            };
            self.record(maker, Kind::Fork, 0, body.as_bytes(), b"")
        }

        /// Executes `/bin/NAME` in `/NAME`.
        fn exec(&mut self, id: Id, name: &str) -> Arc<Process> {
            let mut data = Vec::new();
            let mut add = |text: String| {
                let offset = u16::try_from(data.len()).unwrap();
                data.extend_from_slice(text.as_bytes());
                Span {
                    offset,
                    len: u16::try_from(text.len()).unwrap(),
                }
            };
            let body = Exec {
                executable: add(format!("{name}\0bin\0")),
                cwd: add(format!("{name}\0")),
                args: add(format!("{name}\0-v\0")),
                ..Exec::default()
            };
            self.record(id, Kind::Exec, 0, body.as_bytes(), &data)
        }

        fn chdir(&mut self, id: Id, name: &str) -> Arc<Process> {
            let len = u16::try_from(name.len() + 1).unwrap();
            let body = Chdir {
                path: Span { offset: 0, len },
                reserved: 0,
            };
            self.record(id, Kind::Chdir, 0, body.as_bytes(), format!("{name}\0").as_bytes())
        }

        fn open(&mut self, id: Id) -> Arc<Process> {
            self.open_under(id, 0)
        }

        fn open_under(&mut self, id: Id, ppid: u32) -> Arc<Process> {
            self.record(id, Kind::Open, ppid, Open::default().as_bytes(), b"")
        }

        fn exit(&mut self, id: Id) -> Arc<Process> {
            self.record(id, Kind::Exit, 0, Exit::default().as_bytes(), b"")
        }

        fn get(&self, pid: u32) -> Option<&Arc<Process>> {
            self.table.get(PIDS + pid)
        }
    }

    fn id(process: &Process) -> Id {
        (process.pid - PIDS, process.start_ns)
    }

    fn ancestors(process: &Process) -> Vec<Id> {
        process.ancestors().map(id).collect()
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_process_stays_itself_from_fork_to_exit() {
        let mut told = Told::default();
        told.exec((1, 10), "init");
        told.fork((1, 10), (2, 20));
        let steps: [(Arc<Process>, &str, &str); 6] = [
            (told.open((2, 20)), "/bin/init", "/init"),
            (told.chdir((2, 20), "tmp"), "/bin/init", "/tmp"),
            (told.exec((2, 20), "sh"), "/bin/sh", "/sh"),
            (told.chdir((2, 20), "src"), "/bin/sh", "/src"),
            (told.exec((2, 20), "make"), "/bin/make", "/make"),
            (told.exit((2, 20)), "/bin/make", "/make"),
        ];
        for (process, executable, cwd) in steps {
            assert_eq!(id(&process), (2, 20), "{executable}");
            assert_eq!(process.ppid, PIDS + 1, "{executable}");
            assert_eq!(ancestors(&process), [(1, 10)], "{executable}");
            assert_eq!(text(&process.image.executable), executable);
            assert_eq!(text(&process.cwd), cwd);
        }
        assert_eq!(told.table.counts().repaired, 1, "only the first one was not seen made");
    }

    #[test]
    fn an_event_keeps_what_was_true_when_it_happened() {
        let mut told = Told::default();
        told.exec((1, 10), "sh");
        let before = told.open((1, 10));
        told.fork((1, 10), (2, 20));
        told.exec((1, 10), "sleep");
        assert_eq!(text(&before.image.cmdline), "heard -v");
        assert_eq!(text(&before.image.executable), "/bin/sh");
        let child = told.open((2, 20));
        assert_eq!(text(&child.parent.as_ref().unwrap().image.executable), "/bin/sh");
        assert_eq!(text(&told.get(1).unwrap().image.executable), "/bin/sleep");
    }

    #[test]
    fn ancestry_outlives_a_double_fork() {
        let mut told = Told::default();
        told.exec((1, 10), "sshd");
        told.fork((1, 10), (2, 20));
        told.exec((2, 20), "sh");
        told.fork((2, 20), (3, 30));
        told.fork((3, 30), (4, 40));
        told.exit((3, 30));
        told.now_ns += 10 * SECOND_NS;
        // The kernel has made init its parent by now; who made it is another question.
        let daemon = told.exec((4, 40), "daemon");
        assert!(told.get(3).is_none());
        assert_eq!(ancestors(&daemon), [(3, 30), (2, 20), (1, 10)]);
        let images: Vec<&str> = daemon
            .ancestors()
            .map(|process| text(&process.image.executable))
            .collect();
        assert_eq!(images, ["/bin/sh", "/bin/sh", "/bin/sshd"]);
    }

    #[test]
    fn the_maker_is_the_parent_whatever_the_kernel_was_asked_for() {
        let mut told = Told::default();
        told.fork((1, 10), (2, 20));
        told.fork_for((2, 20), (3, 30), 1);
        let child = told.open((3, 30));
        assert_eq!(child.ppid, PIDS + 1);
        assert_eq!(ancestors(&child), [(2, 20), (1, 10)]);
    }

    #[test]
    fn a_pid_that_is_used_again_inherits_nothing() {
        let mut told = Told::default();
        told.fork((1, 10), (2, 20));
        told.exec((2, 20), "old");
        told.exit((2, 20));
        // Heard of without having been seen made.
        let unseen = told.open((2, 50));
        assert_eq!(id(&unseen), (2, 50));
        assert_eq!((text(&unseen.image.executable), text(&unseen.cwd)), ("", ""));
        assert_eq!(ancestors(&unseen), []);
        // Seen made, by somebody else.
        told.fork((7, 15), (2, 60));
        let seen = told.open((2, 60));
        assert_eq!(id(&seen), (2, 60));
        assert_eq!(ancestors(&seen), [(7, 15)]);
        // The end of the old one does not end the new one.
        told.now_ns += 10 * SECOND_NS;
        assert_eq!(id(&told.open((2, 60))), (2, 60));
        assert_eq!(ancestors(told.get(2).unwrap()), [(7, 15)]);
    }

    #[test]
    fn a_younger_process_that_has_the_parents_pid_is_not_the_parent() {
        let mut told = Told::default();
        told.fork((1, 10), (5, 100));
        let child = told.open_under((6, 50), 5);
        assert_eq!(child.ppid, PIDS + 5);
        assert_eq!(ancestors(&child), []);
        let child = told.open_under((7, 150), 5);
        assert_eq!(ancestors(&child), [(5, 100), (1, 10)]);
    }

    #[test]
    fn an_unknown_process_is_repaired_once_and_counted() {
        let mut told = Told::default();
        told.exec((1, 10), "init");
        let repaired = told.open_under((9, 90), 1);
        assert_eq!(id(&repaired), (9, 90));
        assert_eq!(text(&repaired.image.name), "heard");
        assert_eq!(ancestors(&repaired), [(1, 10)]);
        assert_eq!(told.table.counts().repaired, 2);
        told.open_under((9, 90), 1);
        told.exit((9, 90));
        assert_eq!(told.table.counts().repaired, 2);
        assert_eq!(told.table.len(), 2);
    }

    #[test]
    fn a_seeded_process_is_known_by_its_tick() {
        for (start_ns, same) in [
            (3 * TICK_NS, true),
            (3 * TICK_NS + 1, true),
            (4 * TICK_NS - 1, true),
            (4 * TICK_NS, false),
            (3 * TICK_NS - 1, false),
        ] {
            let mut told = Told::default();
            let made = told.exec((1, 3 * TICK_NS), "seeded");
            told.table.insert(Process {
                start_is_exact: false,
                ..Process::clone(&made)
            });
            let before = told.table.counts().repaired;
            let heard = told.open((1, start_ns));
            assert_eq!(heard.start_ns, start_ns);
            assert_eq!(text(&heard.image.executable) == "/bin/seeded", same, "{start_ns}");
            assert_eq!(told.table.counts().repaired - before, u64::from(!same), "{start_ns}");
            // From now on its start is exact.
            let other = told.open((1, start_ns + 1));
            assert_eq!(text(&other.image.executable), "", "{start_ns}");
        }
    }

    #[test]
    fn the_fork_of_a_process_that_is_known_changes_nothing() {
        let mut told = Told::default();
        told.fork((1, 10), (2, 20));
        told.exec((2, 20), "sh");
        told.fork((1, 10), (2, 20));
        assert_eq!(text(&told.open((2, 20)).image.executable), "/bin/sh");
    }

    #[test]
    fn an_ended_process_is_known_for_a_while_and_then_forgotten() {
        let mut told = Told::default();
        told.fork((1, 10), (2, 20));
        told.exec((2, 20), "sh");
        told.exit((2, 20));
        let ended_ns = told.now_ns;
        for (after_ns, known) in [
            (1, true),
            (SECOND_NS, true),
            (EXITED_NS - 1, true),
            (EXITED_NS, false),
            (2 * EXITED_NS, false),
        ] {
            told.now_ns = ended_ns + after_ns - 1; // the record itself is one later
            told.open((1, 10));
            assert_eq!(told.get(2).is_some(), known, "{after_ns}");
            if known {
                told.now_ns = ended_ns + after_ns - 1;
                assert_eq!(text(&told.open((2, 20)).image.executable), "/bin/sh", "{after_ns}");
            }
        }
        assert!(told.table.exited.is_empty());
    }

    #[test]
    fn ancestors_stay_bounded_however_often_a_process_forks_and_ends() {
        let mut told = Told::default();
        let made = 10_000;
        for number in 1..=made {
            let (maker, child) = ((number - 1, u64::from(number)), (number, u64::from(number) + 1));
            told.fork(maker, child);
            told.exit(maker);
            told.now_ns += SECOND_NS / 10;
            let ancestors = ancestors(told.get(number).unwrap());
            assert!(ancestors.len() <= usize::from(DEPTH_MAX) + 1, "{}", ancestors.len());
            let nearest: Vec<Id> = (0..number)
                .rev()
                .take(NEAREST_KEPT)
                .map(|pid| (pid, u64::from(pid) + 1))
                .collect();
            assert_eq!(ancestors[..nearest.len()], nearest, "{number}");
            let furthest: Vec<Id> = (0..number)
                .take(FURTHEST_KEPT)
                .map(|pid| (pid, u64::from(pid) + 1))
                .rev()
                .collect();
            assert_eq!(ancestors[ancestors.len() - furthest.len()..], furthest, "{number}");
        }
        assert!(told.table.counts().trimmed > 0);
        assert!(told.table.len() < 100, "{}", told.table.len());
    }

    #[test]
    fn a_process_of_many_ancestors_has_children_of_the_right_depth() {
        let mut told = Told::default();
        for number in 1..=u32::from(DEPTH_MAX) {
            told.fork((number - 1, u64::from(number)), (number, u64::from(number) + 1));
        }
        let deepest = (u32::from(DEPTH_MAX), u64::from(DEPTH_MAX) + 1);
        let full = usize::from(DEPTH_MAX);
        let cut = NEAREST_KEPT + FURTHEST_KEPT;
        assert_eq!(ancestors(told.get(deepest.0).unwrap()).len(), full);
        assert_eq!(told.table.counts().trimmed, 0);
        // Each child loses the middle; the process itself keeps all.
        for (child, trimmed) in [((1000, 1000), 1), ((1001, 1001), 2)] {
            told.fork(deepest, child);
            assert_eq!(ancestors(told.get(child.0).unwrap()).len(), cut);
            assert_eq!(told.table.counts().trimmed, trimmed);
        }
        assert_eq!(ancestors(&told.open(deepest)).len(), full);
    }

    /// What one record tells; who it is about is chosen among those that the history has made by then.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Fork { child_pid: u32 },
        Exec,
        Chdir,
        Open,
        Exit,
        Pause { ms: u64 },
        Unseen { pid: u32 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u32..12).prop_map(|child_pid| Step::Fork { child_pid }),
            1 => Just(Step::Exec),
            1 => Just(Step::Chdir),
            2 => Just(Step::Open),
            2 => Just(Step::Exit),
            1 => (0_u64..3000).prop_map(|ms| Step::Pause { ms }),
            1 => (0_u32..12).prop_map(|pid| Step::Unseen { pid }),
        ]
    }

    /// Chains end, are no longer than allowed, know their length, and hold nobody twice.
    fn check(process: &Process) -> Result<(), TestCaseError> {
        let line: Vec<Id> = std::iter::once(process)
            .chain(process.ancestors().take(1000))
            .map(id)
            .collect();
        prop_assert!(line.len() <= usize::from(DEPTH_MAX) + 1, "{line:?}");
        prop_assert_eq!(line.len() - 1, usize::from(process.depth));
        for (index, ancestor) in line.iter().enumerate() {
            prop_assert!(!line[index + 1..].contains(ancestor), "{ancestor:?} twice in {line:?}");
        }
        Ok(())
    }

    proptest! {
        /// Pids are few and used again, records come late and for processes that ended, and parents are told at random.
        #[test]
        fn nobody_is_their_own_ancestor(
            steps in prop::collection::vec((step(), any::<prop::sample::Index>(), 0_u32..12), 1..300),
        ) {
            let mut told = Told::default();
            let mut start_ns = 1;
            let mut made: Vec<Id> = vec![(0, 1)];
            for (step, about, ppid) in steps {
                let actor = *about.get(&made);
                let process = match step {
                    Step::Fork { child_pid } => {
                        start_ns += 1;
                        made.push((child_pid, start_ns));
                        told.fork_for(actor, (child_pid, start_ns), ppid)
                    }
                    Step::Exec => told.exec(actor, "sh"),
                    Step::Chdir => told.chdir(actor, "tmp"),
                    Step::Open => told.open_under(actor, ppid),
                    Step::Exit => told.exit(actor),
                    Step::Pause { ms } => {
                        told.now_ns += ms * 1_000_000;
                        continue;
                    }
                    Step::Unseen { pid } => {
                        start_ns += 1;
                        made.push((pid, start_ns));
                        told.open_under((pid, start_ns), ppid)
                    }
                };
                match step {
                    Step::Unseen { .. } => prop_assert_eq!(process.start_ns, start_ns),
                    Step::Fork { .. } | Step::Exec | Step::Chdir | Step::Open | Step::Exit | Step::Pause { .. } => {
                        prop_assert_eq!(id(&process), actor);
                    }
                }
                check(&process)?;
                for pid in 0..12 {
                    if let Some(process) = told.get(pid) {
                        check(process)?;
                    }
                }
                prop_assert!(told.table.len() <= 12);
            }
        }

        /// Records that no kernel writes: any numbers, any times, any spans.
        #[test]
        fn any_records_are_taken_in_without_panic(
            records in prop::collection::vec(
                (1_u16..13, 0_u32..6, 0_u64..6, 0_u32..6, any::<u64>(), prop::collection::vec(any::<u8>(), 0..160)),
                1..60,
            ),
        ) {
            let mut table = ProcessTable::default();
            for (kind, pid, start_ns, ppid, time_ns, rest) in records {
                let mut rest = rest;
                if kind == Kind::Fork as u16 && rest.len() >= size_of::<Fork>() {
                    // Else no child would ever have the pid of a process that is known.
                    let child_pid = PIDS + u32::from(rest[8] % 6);
                    rest[8..12].copy_from_slice(&child_pid.to_ne_bytes());
                    rest[1..8].fill(0);
                }
                let header = Header {
                    time_ns,
                    start_ns,
                    kind,
                    len: u32::try_from(size_of::<Header>() + rest.len()).unwrap(),
                    pid: PIDS + pid,
                    ppid: PIDS + ppid,
                    ..Header::default()
                };
                let bytes = [header.as_bytes(), &rest].concat();
                if let Ok(record) = decode(&bytes) {
                    let process = table.apply(&record);
                    prop_assert_eq!((process.pid, process.start_ns), (header.pid, header.start_ns));
                    prop_assert!(process.ancestors().take(1000).count() <= usize::from(DEPTH_MAX));
                }
            }
        }
    }
}
