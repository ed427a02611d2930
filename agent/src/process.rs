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
            | Body::Send(_) => actor,
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
        let parent = self.processes.get(&header.ppid).map(Arc::clone);
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
