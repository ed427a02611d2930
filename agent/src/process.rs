//! The process table: who each process is, who made it, and what it runs.
//!
//! Seeded from `/proc` after the programs are attached, kept by fork, exec, chdir, changes of credentials, sessions and
//! groups, and exit. An entry is immutable and shared: an event holds what was true when it happened, and ancestors
//! outlive their end for as long as a descendant needs them. Everything is bounded, and what the bounds cost is counted.
//!
//! Who a process is: pid and start. A record about somebody who is not known, or whose image is older than the record
//! says, is a sign that a record was lost: then `/proc` is asked, and the repair is counted. Those whose end was lost are
//! found by asking `/proc` about everybody, some at a time ([`ProcessTable::check_some`]).

pub mod image;
mod ledger;
mod pipes;
pub(crate) mod seed;

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hashbrown::HashMap;
use staghound_ebpf::{Call, Exec, Fork, Header, Ids, flags};

use crate::{
    process::{
        image::{Image, Neighbours},
        ledger::{Held, Ledger},
        pipes::{Direction, Pipes},
    },
    sensor::{
        decode::{Body, Record, until_nul},
        syscalls,
    },
};

/// Most processes that are known at a time.
const PROCESSES_MAX: usize = 262_144;
/// A process that ended stays known for so long, in nanoseconds of event time: records of other processors come late.
const EXITED_NS: u64 = 2_000_000_000;
/// A chain of ancestors grows to this length, then its middle is taken out.
const DEPTH_MAX: u16 = 96;
/// How many of the nearest ancestors stay then.
const NEAREST_KEPT: usize = 32;
/// The same while there is little room.
const DEPTH_TIGHT: u16 = 12;
/// The same while there is little room.
const NEAREST_TIGHT: usize = 2;
/// How many of the furthest ancestors stay then.
const FURTHEST_KEPT: usize = 8;
/// So many processes are looked for in `/proc` at a time.
const CHECKED_AT_ONCE: usize = 200;
/// Clock tick of `/proc/PID/stat`, in nanoseconds (`USER_HZ` is 100 on every architecture).
const TICK_NS: u64 = 10_000_000;
/// Pid of the maker of kernel threads; init has the one below.
const KTHREADD: u32 = 2;
/// Number of the initial pid namespace (`PROC_PID_INIT_INO`, include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

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
    /// Permitted capabilities.
    pub permitted: u64,
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
            permitted: header.permitted,
        }
    }
}

/// Namespaces of a process, by number; 0 where unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Mount namespace.
    pub mount: u32,
    /// Pid namespace.
    pub pid: u32,
    /// Network namespace.
    pub network: u32,
    /// User namespace.
    pub user: u32,
}

/// A working directory: its absolute path.
#[derive(Debug, Default)]
pub struct Directory {
    path: Box<[u8]>,
    _held: Held,
}

impl Directory {
    fn new(path: &[u8], ledger: &Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            _held: Held::new(ledger, size_of::<Self>() + path.len()),
        })
    }
}

impl Deref for Directory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.path
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
    pub cwd: Arc<Directory>,
    /// Who it runs as: its main thread, if they differ.
    pub credentials: Credentials,
    /// Who it ran as before the call or exec that changed that; none if the last one changed nothing.
    pub before: Option<Arc<Credentials>>,
    /// Who it is in its session, group and pid namespace. Members are 0 where unknown.
    pub ids: Ids,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Control group (v2).
    pub cgroup_id: u64,
    /// Controlling terminal at exec, as in `/proc/PID/stat`; 0 when there is none.
    pub tty: u32,
    /// Tells this state of it from every other.
    pub version: Version,
    depth: u16,
    start_is_exact: bool,
    _held: Held,
}

/// A number that no other state of any process has: a clone, which is made to be changed, has another.
#[derive(Debug)]
pub struct Version(pub u64);

impl Default for Version {
    fn default() -> Self {
        static VERSIONS: AtomicU64 = AtomicU64::new(0);
        Self(VERSIONS.fetch_add(1, Ordering::Relaxed))
    }
}

impl Clone for Version {
    fn clone(&self) -> Self {
        Self::default()
    }
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

    /// The same identity as a number.
    #[must_use]
    pub fn identity_number(&self) -> u128 {
        u128::from(self.pid) << 64 | u128::from(self.start_ns / TICK_NS)
    }

    /// The furthest ancestor that does not hold unrelated work together, or the process itself. Init does, and so does what
    /// init started, such as a service manager or a login server, except for processes of its own control group.
    #[must_use]
    pub fn lineage(&self) -> &Self {
        let mut furthest = self;
        for ancestor in self.ancestors() {
            let is_of_init = ancestor.ppid <= KTHREADD;
            if ancestor.pid <= KTHREADD || (is_of_init && ancestor.cgroup_id != furthest.cgroup_id) {
                break;
            }
            furthest = ancestor;
        }
        furthest
    }

    /// Who it ran as before the call or exec that the process was last heard to change credentials by: of an exec, a
    /// `setuid` and the like, the state before it.
    #[must_use]
    pub fn credentials_before(&self) -> &Credentials {
        self.before.as_deref().unwrap_or(&self.credentials)
    }

    /// Whether its pids and those of the host are the same.
    #[must_use]
    pub fn is_in_initial_pid_namespace(&self) -> bool {
        match self.namespaces.pid {
            0 => self.ids.own_pid == self.pid,
            other => other == INITIAL_PID_NAMESPACE,
        }
    }

    fn is(&self, start_ns: u64) -> bool {
        self.start_ns == start_ns || (!self.start_is_exact && self.start_ns / TICK_NS == start_ns / TICK_NS)
    }
}

/// What keeping the table has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableCounts {
    /// Processes that were heard of without having been seen made, whose exec was not told, or whose end was not.
    pub repaired: u64,
    /// Processes that were not taken in, because the table was full.
    pub evicted: u64,
    /// Ended processes that were forgotten before their time, to make room.
    pub hurried: u64,
    /// Images of which less was kept than was told, because there was little room.
    pub slimmed: u64,
    /// Chains of ancestors whose middle was taken out.
    pub trimmed: u64,
    /// Records about a process whose pid has another by now.
    pub late: u64,
}

impl TableCounts {
    /// All that the bounds have cost.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evicted + self.hurried + self.slimmed + self.trimmed
    }

    /// All that was mended or came out of order.
    #[must_use]
    pub fn repairs(&self) -> u64 {
        self.repaired + self.late
    }
}

#[derive(Debug)]
struct Entry {
    process: Arc<Process>,
    /// Its end was told.
    ended: bool,
}

/// A process that ended.
#[derive(Debug)]
struct Exited {
    when_ns: u64,
    process: Arc<Process>,
    /// Its end was told, not found out.
    told: bool,
}

/// The process table.
#[derive(Debug, Default)]
pub struct ProcessTable {
    processes: HashMap<u32, Entry>,
    /// Pids of those whose pid in their own namespace is another: by that namespace and that pid.
    own_pids: HashMap<(u32, u32), u32>,
    pipes: Pipes,
    /// In order of their end.
    exited: VecDeque<Exited>,
    /// Pids that are still to be looked for in `/proc`.
    unchecked: Vec<u32>,
    /// Records were lost since `unchecked` was filled.
    check_again: bool,
    /// Time of the newest record.
    now_ns: u64,
    counts: TableCounts,
    root: Arc<Directory>,
    ledger: Arc<Ledger>,
}

impl ProcessTable {
    /// A table of the processes that run now. Call it after the programs are attached, so that nothing falls between.
    #[must_use]
    pub fn seeded() -> Self {
        let mut table = Self::default();
        for process in seed::running(&table.ledger) {
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

    /// Bytes of all processes, images and directories that are alive because of it, about; its own index left out.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ledger.bytes()
    }

    /// A process by its pid.
    #[must_use]
    pub fn get(&self, pid: u32) -> Option<&Arc<Process>> {
        self.processes.get(&pid).map(|entry| &entry.process)
    }

    /// Whom `caller` means by a pid: pids are those of its own namespace. None where that cannot be told, as of a process
    /// of a namespace within that of the caller, unless the caller's is the initial one.
    #[must_use]
    pub fn named_by(&self, caller: &Process, pid: u32) -> Option<&Arc<Process>> {
        if caller.is_in_initial_pid_namespace() {
            return self.get(pid);
        }
        let namespace = caller.namespaces.pid;
        self.get(*self.own_pids.get(&(namespace, pid))?)
            .filter(|process| process.namespaces.pid == namespace && process.ids.own_pid == pid)
    }

    /// The leader of a process's session: the process itself, another that is known, or the furthest ancestor of those
    /// that follow each other in the session.
    #[must_use]
    pub fn session_leader<'a>(&'a self, process: &'a Process) -> Option<&'a Process> {
        self.leader(process, |ids| ids.session)
    }

    /// The leader of a process's process group, likewise.
    #[must_use]
    pub fn group_leader<'a>(&'a self, process: &'a Process) -> Option<&'a Process> {
        self.leader(process, |ids| ids.group)
    }

    fn leader<'a>(&'a self, process: &'a Process, of: fn(&Ids) -> u32) -> Option<&'a Process> {
        let number = of(&process.ids);
        if number == 0 || number == process.pid {
            return (number != 0).then_some(process);
        }
        let known = self.get(number).map(|known| &**known);
        // The kernel gives nobody a pid that still names a session or group.
        known.filter(|known| of(&known.ids) == number).or_else(|| {
            process
                .ancestors()
                .take_while(|ancestor| of(&ancestor.ids) == number)
                .last()
        })
    }

    /// Those of `pids` that still run now, with what is known of each.
    pub fn survivors(&self, pids: &[u32]) -> Vec<(u32, Option<Arc<Process>>)> {
        pids.iter()
            .map(|pid| (*pid, self.get(*pid).map(Arc::clone)))
            .filter(|(pid, known)| seed::runs(*pid, known.as_ref().map(|known| known.start_ns)))
            .collect()
    }

    /// Tells that records are missing: ends may be among them. From now on [`Self::check_some`] looks for everybody who
    /// is known.
    pub fn events_were_lost(&mut self) {
        self.check_again = true;
    }

    /// Looks for some processes in `/proc`, if records were lost, and lets go of those that are gone. To be called now and
    /// then; each call costs some two milliseconds at most.
    pub fn check_some(&mut self) {
        if self.unchecked.is_empty() && self.check_again && !seed::sees_all() {
            self.check_again = false;
        }
        self.check(seed::runs);
    }

    fn check(&mut self, runs: impl Fn(u32, Option<u64>) -> bool) {
        if self.unchecked.is_empty() {
            if !std::mem::take(&mut self.check_again) {
                // What a full table took is given back.
                self.unchecked.shrink_to(CHECKED_AT_ONCE);
                return;
            }
            self.unchecked.extend(self.processes.keys());
        }
        let rest = self.unchecked.len().saturating_sub(CHECKED_AT_ONCE);
        for pid in self.unchecked.split_off(rest) {
            let Some(entry) = self.processes.get(&pid).filter(|entry| !entry.ended) else {
                continue;
            };
            if !runs(pid, Some(entry.process.start_ns)) {
                // Its end may be on its way: it is counted as lost only if that has not come by then.
                let process = Arc::clone(&entry.process);
                self.exited(process, false);
            }
        }
    }

    /// Takes in what a record tells of processes; yields the process it is about.
    pub fn apply(&mut self, record: &Record<'_>) -> Arc<Process> {
        let header = &record.header;
        self.now_ns = self.now_ns.max(header.time_ns);
        self.forget_exited();
        match &record.body {
            Body::Exec(exec) => {
                let actor = self.actor(header, true);
                self.exec(&actor, record, exec)
            }
            Body::Fork(fork) => {
                let actor = self.heard(header);
                self.fork(&actor, header, fork);
                actor
            }
            Body::Exit(_) => {
                let actor = self.heard(header);
                if let Some(entry) = self.processes.get_mut(&actor.pid)
                    && entry.process.start_ns == actor.start_ns
                {
                    entry.ended = true;
                    self.exited(Arc::clone(&actor), true);
                }
                actor
            }
            Body::Chdir(chdir) => {
                let actor = self.heard(header);
                let mut cwd = Vec::with_capacity(usize::from(chdir.path.len));
                record.walked_path(chdir.path, &mut cwd);
                self.insert(Process {
                    cwd: Directory::new(&cwd, &self.ledger),
                    ..Process::clone(&actor)
                })
            }
            Body::Call(call) => {
                let actor = self.actor(header, false);
                self.call(actor, header, call)
            }
            // Made in whatever context: its header may be of somebody who has nothing to do with it.
            Body::Ended(_) => match self.known(header) {
                Some(known) => Arc::clone(known),
                None => Arc::new(self.unknown(header)),
            },
            // Made while the kernel may act in the name of somebody else.
            Body::Resolved(_) => self.actor(header, false),
            Body::Open(_)
            | Body::Rename(_)
            | Body::Unlink(_)
            | Body::Chmod(_)
            | Body::Connect(_)
            | Body::Listen(_)
            | Body::Accept(_)
            | Body::Send(_)
            | Body::Bind(_)
            | Body::Receive(_) => self.heard(header),
        }
    }

    fn known(&self, header: &Header) -> Option<&Arc<Process>> {
        self.get(header.pid).filter(|known| known.is(header.start_ns))
    }

    /// The process that a record comes from, with the credentials that the record tells.
    fn heard(&mut self, header: &Header) -> Arc<Process> {
        let actor = self.actor(header, false);
        let credentials = Credentials::of(header);
        if header.tid != header.pid || credentials == actor.credentials {
            return actor;
        }
        // The call that changed them was lost, or could not tell.
        self.insert(Process {
            credentials,
            before: Some(Arc::new(actor.credentials)),
            ..Process::clone(&actor)
        })
    }

    /// The process that a record comes from. One that is not known, or is another that had its pid, is made up from
    /// what the record says and what `/proc` still has.
    fn actor(&mut self, header: &Header, is_exec: bool) -> Arc<Process> {
        let Some(known) = self.get(header.pid) else {
            return self.unseen(header);
        };
        if !known.is(header.start_ns) {
            if known.start_ns < header.start_ns {
                return self.unseen(header);
            }
            // Somebody else has the pid by now, and the table is right about that.
            self.counts.late += 1;
            let exited = self.exited.iter().rev().map(|exited| &exited.process);
            let former = exited
                .into_iter()
                .find(|exited| exited.pid == header.pid && exited.is(header.start_ns));
            return match former {
                Some(former) => Arc::clone(former),
                None => Arc::new(self.unknown(header)),
            };
        }
        if !known.start_is_exact {
            let exact = Process {
                start_ns: header.start_ns,
                start_is_exact: true,
                exec_count: header.exec_count,
                ..Process::clone(known)
            };
            return self.insert(exact);
        }
        // A record can be read just after an exec that came after it; the other way round an exec was lost.
        let ahead = header.exec_count.wrapping_sub(known.exec_count);
        if is_exec || ahead == 0 || ahead > u32::MAX / 2 {
            return Arc::clone(known);
        }
        let known = Arc::clone(known);
        self.counts.repaired += 1;
        let process = match self.read(header) {
            Some(read) => Process {
                image: read.image,
                cwd: read.cwd,
                exec_count: header.exec_count,
                tty: read.tty,
                ..Process::clone(&known)
            },
            None => Process {
                image: Image::new(until_nul(&header.comm), b"", b"").held(&self.ledger),
                exec_count: header.exec_count,
                ..Process::clone(&known)
            },
        };
        self.insert(process)
    }

    /// What `/proc` still has of the process of a record.
    fn read(&self, header: &Header) -> Option<Process> {
        seed::process(header.pid, &self.ledger).filter(|read| read.start_ns / TICK_NS == header.start_ns / TICK_NS)
    }

    /// What is known of a process of which there is only one record.
    fn unknown(&self, header: &Header) -> Process {
        Process {
            pid: header.pid,
            ppid: header.ppid,
            start_ns: header.start_ns,
            exec_count: header.exec_count,
            parent: None,
            image: Image::new(until_nul(&header.comm), b"", b"").held(&self.ledger),
            cwd: Arc::clone(&self.root),
            credentials: Credentials::of(header),
            before: None,
            ids: Ids::default(),
            namespaces: Namespaces::default(),
            cgroup_id: header.cgroup_id,
            tty: 0,
            version: Version::default(),
            depth: 0,
            start_is_exact: true,
            _held: held(&self.ledger),
        }
    }

    /// Takes in a process that was not seen made.
    fn unseen(&mut self, header: &Header) -> Arc<Process> {
        self.counts.repaired += 1;
        // Parents are older than their children, new ones by the kernel too; one that is younger was given the pid later.
        let parent = self
            .get(header.ppid)
            .filter(|parent| parent.start_ns < header.start_ns)
            .map(Arc::clone);
        let mut process = self.read(header).unwrap_or_else(|| self.unknown(header));
        process.start_ns = header.start_ns;
        process.start_is_exact = true;
        process.exec_count = header.exec_count;
        process.credentials = Credentials::of(header);
        process.parent = parent.map(|parent| self.as_parent(parent));
        process.depth = process.parent.as_ref().map_or(0, |parent| parent.depth + 1);
        self.insert(process)
    }

    fn exec(&mut self, actor: &Arc<Process>, record: &Record<'_>, exec: &Exec) -> Arc<Process> {
        let mut cwd = Vec::with_capacity(usize::from(exec.cwd.len));
        record.walked_path(exec.cwd, &mut cwd);
        let cwd = if *cwd == **actor.cwd {
            Arc::clone(&actor.cwd)
        } else {
            Directory::new(&cwd, &self.ledger)
        };
        let credentials = Credentials::of(&record.header);
        let mut image = Image::of_exec(record, exec);
        self.pipes.exec(actor.pid, &exec.stdio);
        image.pipeline = self.pipeline(actor.pid);
        let process = self.insert(Process {
            image: image.held(&self.ledger),
            cwd,
            exec_count: record.header.exec_count,
            credentials,
            before: before(&actor.credentials, &credentials),
            ids: exec.ids,
            namespaces: Namespaces {
                mount: exec.mount_namespace,
                pid: exec.pid_namespace,
                network: exec.network_namespace,
                user: exec.user_namespace,
            },
            cgroup_id: record.header.cgroup_id,
            tty: exec.tty,
            ..Process::clone(actor)
        });
        if self.get(actor.pid).is_none() {
            // There was no room for it.
            self.pipes.forget(actor.pid);
        }
        process
    }

    /// Those that a process is joined to by pipes, up and down.
    fn pipeline(&self, pid: u32) -> Option<Box<[Neighbours; 2]>> {
        let told = [Direction::Up, Direction::Down].map(|direction| {
            let mut told = Vec::new();
            for neighbour in self.pipes.neighbours(pid, direction) {
                if let Some(neighbour) = self.get(neighbour) {
                    neighbour.image.tell_neighbour(&mut told);
                }
            }
            told.into_boxed_slice()
        });
        (!told.iter().all(|told| told.is_empty())).then(|| Box::new(told))
    }

    fn fork(&mut self, maker: &Arc<Process>, header: &Header, fork: &Fork) {
        let new = |namespace: libc::c_int| fork.new_namespaces & namespace.cast_unsigned() != 0;
        if let Some(child) = self.get(fork.child_pid).filter(|child| child.is(fork.child_start_ns)) {
            // Seeded, and this is the record of how it came to be. By then its maker may have ended, and `/proc` named
            // another parent.
            if !child.start_is_exact && maker.start_ns < fork.child_start_ns {
                let child = Process::clone(child);
                let parent = self.as_parent(Arc::clone(maker));
                self.insert(Process {
                    ppid: fork.child_ppid,
                    start_ns: fork.child_start_ns,
                    start_is_exact: true,
                    exec_count: child.exec_count.max(header.exec_count),
                    depth: parent.depth + 1,
                    parent: Some(parent),
                    version: Version::default(),
                    ..child
                });
            }
            return;
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
            before: None,
            ids: fork.ids,
            namespaces: Namespaces {
                mount: fork.mount_namespace,
                pid: fork.pid_namespace,
                network: if new(libc::CLONE_NEWNET) {
                    0
                } else {
                    maker.namespaces.network
                },
                user: if new(libc::CLONE_NEWUSER) {
                    0
                } else {
                    maker.namespaces.user
                },
            },
            cgroup_id: header.cgroup_id,
            tty: maker.tty,
            depth: parent.depth + 1,
            parent: Some(parent),
            start_is_exact: true,
            version: Version::default(),
            _held: held(&self.ledger),
        });
    }

    /// What a system call changed of the process that made it, or of another.
    fn call(&mut self, actor: Arc<Process>, header: &Header, call: &Call) -> Arc<Process> {
        let succeeded = call.result >= 0 && header.flags & (flags::IO_URING | flags::RESULT_UNKNOWN) == 0;
        let is_main = header.tid == header.pid;
        let name = syscalls::name(header.syscall, header.flags & flags::COMPAT != 0).unwrap_or_default();
        let (mut ids, mut namespaces, mut tty) = (actor.ids, actor.namespaces, actor.tty);
        match name {
            "setsid" if succeeded => {
                (ids.session, ids.group) = (actor.pid, actor.pid);
                (ids.own_session, ids.own_group) = (ids.own_pid, ids.own_pid);
                // The leader of a new session has no terminal as yet.
                tty = 0;
            }
            "setpgid" if succeeded => {
                let [target, group] = [call.args[0], call.args[1]].map(|argument| {
                    u32::try_from(argument & u64::from(u32::MAX)).expect("all higher bits were taken away")
                });
                let target = match target {
                    0 => Some(&actor),
                    pid => self.named_by(&actor, pid),
                };
                if let Some(target) = target.map(Arc::clone) {
                    let (group, own_group) = self.group_named_by(&actor, &target, group);
                    if target.pid == actor.pid {
                        (ids.group, ids.own_group) = (group, own_group);
                    } else {
                        self.insert(Process {
                            ids: Ids {
                                group,
                                own_group,
                                ..target.ids
                            },
                            ..Process::clone(&target)
                        });
                    }
                }
            }
            "setns" | "unshare" if succeeded && is_main => {
                // The call tells the kinds at most, never the numbers. Its own pid namespace a process keeps.
                namespaces = Namespaces {
                    pid: actor.namespaces.pid,
                    ..seed::namespaces(actor.pid)
                };
            }
            _ => {}
        }
        let credentials = Credentials::of(header);
        let before = before(&actor.credentials, &credentials);
        let same = ids == actor.ids && namespaces == actor.namespaces && tty == actor.tty;
        if same && before.is_none() && actor.before.is_none() {
            return actor;
        }
        let changed = Process {
            ids,
            namespaces,
            tty,
            credentials: if is_main { credentials } else { actor.credentials },
            before,
            ..Process::clone(&actor)
        };
        // Each thread has credentials of its own; those of the process are the main thread's.
        if is_main || !same {
            self.insert(changed)
        } else {
            Arc::new(changed)
        }
    }

    /// The group that `caller` puts `target` into: in the initial pid namespace, and in that of `target`.
    fn group_named_by(&self, caller: &Process, target: &Process, group: u32) -> (u32, u32) {
        match group {
            0 => (target.pid, target.ids.own_pid),
            own if own == target.ids.own_pid => (target.pid, own),
            // Its leader may have ended, the group has not.
            group if caller.is_in_initial_pid_namespace() => {
                let own = if target.is_in_initial_pid_namespace() { group } else { 0 };
                (group, own)
            }
            own => (self.named_by(caller, own).map_or(0, |leader| leader.pid), own),
        }
    }

    /// `process` as somebody's parent: with a chain behind it that is not too long. Without this, a process that forks
    /// and ends, over and over, would leave ancestors without end.
    fn as_parent(&mut self, process: Arc<Process>) -> Arc<Process> {
        let (depth_max, nearest_kept) = if self.ledger.is_tight() {
            (DEPTH_TIGHT, NEAREST_TIGHT)
        } else {
            (DEPTH_MAX, NEAREST_KEPT)
        };
        if process.depth < depth_max {
            return process;
        }
        self.counts.trimmed += 1;
        let chain: Vec<&Arc<Process>> =
            std::iter::successors(Some(&process), |process| process.parent.as_ref()).collect();
        // The furthest are shared as they are; the nearest hang from them now and so are made anew.
        let mut parent = Arc::clone(chain[chain.len().saturating_sub(FURTHEST_KEPT)]);
        for process in chain[..nearest_kept].iter().rev() {
            parent = Arc::new(Process {
                depth: parent.depth + 1,
                parent: Some(parent),
                ..Process::clone(process)
            });
        }
        parent
    }

    /// Makes `process` what is known of its pid; yields it as it is, also when there is room for less.
    fn insert(&mut self, process: Process) -> Arc<Process> {
        let process = Arc::new(process);
        let is_known = self.processes.contains_key(&process.pid);
        while (self.ledger.is_tight() || (!is_known && self.processes.len() >= PROCESSES_MAX)) && self.forget_first() {
            self.counts.hurried += 1;
        }
        if !is_known && (self.processes.len() >= PROCESSES_MAX || self.ledger.is_full()) {
            self.counts.evicted += 1;
            return process;
        }
        let process_kept = self.with_room(&process);
        let former = self
            .processes
            .get(&process.pid)
            .map(|entry| (Arc::clone(&entry.process), entry.ended));
        if let Some((former, _)) = &former {
            self.forget_own_pid(former);
        }
        if process.ids.own_pid != process.pid && process.ids.own_pid != 0 {
            self.own_pids
                .insert((process.namespaces.pid, process.ids.own_pid), process.pid);
        }
        let entry = Entry {
            process: process_kept,
            ended: former.is_some_and(|(former, ended)| ended && former.start_ns == process.start_ns),
        };
        self.processes.insert(process.pid, entry);
        process
    }

    /// What is kept of a process: all, unless there is little room.
    fn with_room(&mut self, process: &Arc<Process>) -> Arc<Process> {
        let (full, tight) = (self.ledger.is_full(), self.ledger.is_tight());
        // What somebody else holds as well costs nothing more.
        let image = (tight && Arc::strong_count(&process.image) == 1).then(|| {
            let image = if full {
                process.image.bare()
            } else {
                process.image.slim()
            };
            image.held(&self.ledger)
        });
        let cwd = (full && Arc::strong_count(&process.cwd) == 1).then(|| Arc::clone(&self.root));
        if image.is_none() && cwd.is_none() {
            return Arc::clone(process);
        }
        self.counts.slimmed += 1;
        Arc::new(Process {
            image: image.unwrap_or_else(|| Arc::clone(&process.image)),
            cwd: cwd.unwrap_or_else(|| Arc::clone(&process.cwd)),
            ..Process::clone(process)
        })
    }

    fn forget_own_pid(&mut self, process: &Process) {
        let key = (process.namespaces.pid, process.ids.own_pid);
        if self.own_pids.get(&key) == Some(&process.pid) {
            self.own_pids.remove(&key);
        }
    }

    fn exited(&mut self, process: Arc<Process>, told: bool) {
        if self.exited.len() >= PROCESSES_MAX {
            self.forget_first();
        }
        self.exited.push_back(Exited {
            when_ns: self.now_ns,
            process,
            told,
        });
    }

    fn forget_exited(&mut self) {
        while let Some(first) = self.exited.front()
            && self.now_ns.saturating_sub(first.when_ns) >= EXITED_NS
        {
            self.forget_first();
        }
    }

    /// Forgets the process that ended first; false if there is none.
    fn forget_first(&mut self) -> bool {
        let Some(Exited { process, told, .. }) = self.exited.pop_front() else {
            return false;
        };
        let entry = self.processes.get(&process.pid);
        // One that was not found in `/proc` and has been told to have ended since comes up again.
        if entry.is_some_and(|entry| entry.process.is(process.start_ns) && entry.ended == told) {
            self.processes.remove(&process.pid);
            self.forget_own_pid(&process);
            self.pipes.forget(process.pid);
            self.counts.repaired += u64::from(!told);
        }
        true
    }

    /// Gives the seeded processes their parents, those first that have none.
    fn link(&mut self) {
        let mut pids: Vec<(u64, u32)> = self
            .processes
            .values()
            .map(|entry| (entry.process.start_ns, entry.process.pid))
            .collect();
        pids.sort_unstable();
        // A parent is as a rule older than its child; one that is not (a subreaper) is linked unlinked, which is fine.
        for (_, pid) in pids {
            let Some(process) = self.get(pid) else {
                continue;
            };
            let Some(parent) = self.get(process.ppid).filter(|parent| parent.pid != pid) else {
                continue;
            };
            let parent = Arc::clone(parent);
            let mut process = Process::clone(process);
            if parent.namespaces.pid == process.namespaces.pid {
                process.ids.own_ppid = parent.ids.own_pid;
            }
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

/// The entry of one process.
fn held(ledger: &Arc<Ledger>) -> Held {
    Held::new(ledger, size_of::<Process>() + 2 * size_of::<usize>())
}

/// What is to be told of the credentials before: nothing when they are the same.
fn before(before: &Credentials, now: &Credentials) -> Option<Arc<Credentials>> {
    (before != now).then(|| Arc::new(*before))
}

#[cfg(test)]
mod tests;
