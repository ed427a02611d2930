//! What the programs are told to report: which system calls, and which opens.
//!
//! A table may name too much, never too little: what no rule wants costs time, what a rule misses costs an alert. So while
//! tables change, what is new is let in before what is old is kept out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, MapData, MapError};
use staghound_ebpf::{
    Action, DEDUPE_NS, NAME_KEY_BYTES, OPEN_ACCESSES, OPEN_DEMAND, SYSCALLS_MAX, WANTED_NAMES_MAX, name_key,
    open_demand,
};
use staghound_engine::{
    demand::{Access, Demand, Opens, Pattern},
    event::EventKind,
};

use crate::sensor::{SensorError, load::Maps, syscalls};

/// Elements of the table of opens beyond those of the accesses.
const HOLDS: usize = OPEN_ACCESSES as usize;
const FAILURES: usize = HOLDS + 1;

/// The key of a name, as the programs look it up.
type Name = [u8; NAME_KEY_BYTES];

/// Kinds of events that are recorded whether rules ask for them or not: the process table lives on them, or the agent's
/// own safety does (who is signalled, or renames what it lives on).
const KINDS_ALWAYS: [EventKind; 6] = [
    EventKind::Credentials,
    EventKind::Namespace,
    EventKind::Session,
    EventKind::Signal,
    EventKind::Rename,
    EventKind::IoUring,
];
/// Calls of other kinds that are recorded so: for the process table too, and to see who traces the agent, takes hold of its
/// programs or removes its files.
const CALLS_ALWAYS: [&str; 9] = [
    "chdir",
    "fchdir",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "bpf",
    "unlink",
    "unlinkat",
];

/// Whether a call is recorded even when no rule asks for it.
#[must_use]
pub fn is_always_recorded(call: &str) -> bool {
    CALLS_ALWAYS.contains(&call)
        || KINDS_ALWAYS.iter().any(|kind| kind.event_types().contains(&call))
        || matches!(call, "execve" | "clone" | "procexit")
}

/// Types of events that are made of what is received.
const RECEIVED: [&str; 3] = ["recvfrom", "recvmsg", "recvmmsg"];
/// What 32-bit callers may ask for by one call.
const SOCKET_CALLS: [&str; 12] = [
    "socket", "bind", "connect", "listen", "accept", "accept4", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg",
    "recvmmsg",
];

/// Whether a call of the table is wanted.
fn wants_call(demand: &Demand, call: &'static str) -> bool {
    let any = |types: &[&str]| types.iter().any(|event_type| demand.wants(event_type));
    is_always_recorded(syscalls::spoken(call))
        || demand.wants(syscalls::spoken(call))
        || match call {
            "read" | "readv" | "recvfrom" | "recvmsg" | "recvmmsg" | "recvmmsg_time64" => any(&RECEIVED),
            "connect" | "accept" | "accept4" => demand.wants("close"),
            "socketcall" => any(&SOCKET_CALLS) || demand.wants("close"),
            "stime" => demand.wants("settimeofday"),
            _ => false,
        }
}

/// What the programs are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By number of the system call, as [`staghound_ebpf::SyscallTable`] has it.
    actions: [u32; SYSCALLS_MAX],
    /// By access, one of [`open_demand`]; then whether they hold, and which failures are wanted.
    opens: [u32; OPEN_DEMAND as usize],
    /// Accesses that a name makes wanted: as a component in the low half, as the end of the last one in the high half.
    names: BTreeMap<Name, u32>,
}

impl Wanted {
    /// Everything that the programs can tell.
    fn everything(served: &[Action]) -> Self {
        let mut opens = [open_demand::ALL; OPEN_DEMAND as usize];
        opens[HOLDS] = 0;
        // Programs look for files in vain all the time: that is told only to rules that ask for it.
        opens[FAILURES] = open_demand::NONE;
        Self {
            actions: syscalls::table(served, |_| true).actions,
            opens,
            names: BTreeMap::new(),
        }
    }

    /// What these rules demand.
    fn of(demand: &Demand, served: &[Action]) -> Self {
        let mut opens = [open_demand::NONE; OPEN_DEMAND as usize];
        for access in Access::all() {
            opens[access.index()] = match demand.opens(access) {
                Opens::None => open_demand::NONE,
                Opens::Names(_) => open_demand::NAMES,
                Opens::All => open_demand::ALL,
            };
        }
        opens[HOLDS] = 1;
        if demand.wants_failed_opens() {
            opens[FAILURES] = open_demand::ALL;
        }
        let mut names: BTreeMap<Name, u32> = BTreeMap::new();
        for (pattern, accesses) in demand.names() {
            let (name, bits) = match pattern {
                Pattern::Component(name) => (name, u32::from(accesses.bits())),
                Pattern::Extension(name) => (name, u32::from(accesses.bits()) << 16),
            };
            *names.entry(name_key(name)).or_default() |= bits;
        }
        let mut this = Self {
            actions: syscalls::table(served, |call| wants_call(demand, call)).actions,
            opens,
            names,
        };
        if this.names.len() > WANTED_NAMES_MAX as usize {
            this.names.clear();
            this.opens
                .iter_mut()
                .filter(|opens| **opens == open_demand::NAMES)
                .for_each(|opens| *opens = open_demand::ALL);
        }
        this
    }
}

/// The maps that the programs look it up in.
pub(super) struct Tables {
    syscalls: Array<MapData, u32>,
    opens: Array<MapData, u32>,
    names: HashMap<MapData, Name, u32>,
    served: Vec<Action>,
    told: Wanted,
    /// Until then every open is reported: programs remember for a while which directories have a wanted name.
    settled: Option<Instant>,
}

impl Tables {
    /// Takes the maps, and tells the programs to report everything that they can.
    pub(super) fn new(maps: &mut Maps, served: Vec<Action>) -> Result<Self, SensorError> {
        let mut this = Self {
            syscalls: maps.take("SYSCALLS")?,
            opens: maps.take("OPEN_WANTED")?,
            names: maps.take("WANTED_NAMES")?,
            told: Wanted::everything(&served),
            served,
            settled: None,
        };
        this.tell_again()?;
        Ok(this)
    }

    /// What the programs were told, by number of the system call.
    pub(super) fn actions(&self) -> &[u32; SYSCALLS_MAX] {
        &self.told.actions
    }

    /// Tells the programs what to report from now on. A second time, all opens are reported for a moment, since programs
    /// may still remember directories by the names that were wanted before.
    pub(super) fn tell(&mut self, demand: &Demand) -> Result<(), SensorError> {
        let wanted = Wanted::of(demand, &self.served);
        if wanted == self.told && self.settled.is_none() {
            return Ok(());
        }
        let holds = HOLDS;
        let again = self.told.opens[holds] != 0 || self.settled.is_some();
        if again {
            self.write_open(holds, 0)?;
        }
        for (name, bits) in &wanted.names {
            self.names
                .insert(*name, *bits, 0)
                .map_err(|error| refused("WANTED_NAMES", &error))?;
        }
        for (access, opens) in wanted.opens[..holds].iter().enumerate() {
            self.write_open(access, *opens)?;
        }
        self.write_open(FAILURES, wanted.opens[FAILURES])?;
        let before = std::mem::replace(&mut self.told, wanted);
        for (number, action) in self.told.actions.iter().enumerate() {
            if before.actions[number] != *action {
                let number = u32::try_from(number).expect("there are few system calls");
                self.syscalls
                    .set(number, *action, 0)
                    .map_err(|error| refused("SYSCALLS", &error))?;
            }
        }
        for name in before.names.keys().filter(|name| !self.told.names.contains_key(*name)) {
            match self.names.remove(name) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(refused("WANTED_NAMES", &error)),
            }
        }
        if again {
            self.told.opens[holds] = 0;
            self.settled = Some(Instant::now() + Duration::from_nanos(DEDUPE_NS) + SETTLING);
            Ok(())
        } else {
            self.write_open(holds, 1)
        }
    }

    /// Ends the moment in which all opens are reported, when it is over.
    pub(super) fn settle(&mut self) -> Result<(), SensorError> {
        if self.settled.is_some_and(|until| Instant::now() >= until) {
            self.settled = None;
            self.told.opens[HOLDS] = 1;
            self.write_open(HOLDS, 1)?;
        }
        Ok(())
    }

    /// Puts what was told into the maps, whatever is in them.
    pub(super) fn tell_again(&mut self) -> Result<(), SensorError> {
        for (name, bits) in &self.told.names {
            self.names
                .insert(*name, *bits, 0)
                .map_err(|error| refused("WANTED_NAMES", &error))?;
        }
        for (access, opens) in self.told.opens.into_iter().enumerate() {
            self.write_open(access, opens)?;
        }
        for (number, action) in (0_u32..).zip(self.told.actions) {
            self.syscalls
                .set(number, action, 0)
                .map_err(|error| refused("SYSCALLS", &error))?;
        }
        Ok(())
    }

    /// How many elements of the tables of opens keep out what was to be let in, or let in what was not.
    pub(super) fn opens_changed(&self) -> Result<usize, SensorError> {
        let mut changed = 0;
        for (access, told) in (0_u32..).zip(self.told.opens) {
            let found = self
                .opens
                .get(&access, 0)
                .map_err(|error| refused("OPEN_WANTED", &error))?;
            changed += usize::from(found != told);
        }
        for (name, told) in &self.told.names {
            match self.names.get(name, 0) {
                Ok(found) => changed += usize::from(found != *told),
                Err(MapError::KeyNotFound) => changed += 1,
                Err(error) => return Err(refused("WANTED_NAMES", &error)),
            }
        }
        Ok(changed)
    }

    fn write_open(&mut self, access: usize, opens: u32) -> Result<(), SensorError> {
        let access = u32::try_from(access).expect("there are few accesses");
        self.opens
            .set(access, opens, 0)
            .map_err(|error| refused("OPEN_WANTED", &error))
    }
}

/// Beyond the time for which programs remember: one that was remembering when the tables changed.
const SETTLING: Duration = Duration::from_millis(100);

fn refused(map: &'static str, error: &MapError) -> SensorError {
    SensorError::Map {
        map,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_engine::{ruleset, source::Source};

    fn demand(rule: &str) -> Demand {
        let text =
            format!("- rule: r\n  id: test/r\n  desc: d\n  priority: NOTICE\n  output: o\n  condition: {rule}\n");
        let source = Source {
            name: "test.yaml",
            text: &text,
        };
        ruleset::load(&[source]).unwrap().ruleset.demand()
    }

    fn wanted(rule: &str) -> Wanted {
        Wanted::of(
            &demand(rule),
            &[Action::Open, Action::Connect, Action::Chdir, Action::Read, Action::Call],
        )
    }

    const OPENAT: usize = 257;
    const CONNECT: usize = 42;
    const READ: usize = 0;
    const CHDIR: usize = 80;
    const KILL: usize = 62;
    const MOUNT: usize = 165;

    #[test]
    fn calls_are_wanted_by_rules_or_always() {
        let mount = wanted("evt.type = mount");
        let is_wanted = |wanted: &Wanted, call: usize| wanted.actions[call] & 0xff != 0;
        for (call, expected) in [
            (MOUNT, true),
            (CHDIR, true),
            (KILL, true),
            (CONNECT, false),
            (READ, false),
            (OPENAT, false),
        ] {
            assert_eq!(is_wanted(&mount, call), expected, "{call}");
        }
        /// `setuid32` of 32-bit callers.
        const SETUID32: usize = 213;
        assert!(
            mount.actions[SETUID32] >> 8 & 0xff != 0,
            "other spellings are recorded too"
        );
        let ends = wanted("evt.type = close");
        assert!(is_wanted(&ends, CONNECT), "the end of a connection needs its beginning");
        let answers = wanted("evt.type = recvfrom");
        assert!(is_wanted(&answers, READ), "answers are read by any call");
    }

    #[test]
    fn other_spellings_are_the_same_call() {
        for (call, known) in [
            ("chown32", "chown"),
            ("mmap2", "mmap"),
            ("sendfile64", "sendfile"),
            ("clock_settime64", "clock_settime"),
            ("openat2", "openat2"),
            ("renameat2", "renameat2"),
        ] {
            assert_eq!(syscalls::spoken(call), known);
        }
        // What is left must be a type that rules can name, or one of those that are no event of their own.
        let known: Vec<&str> = EventKind::ALL
            .into_iter()
            .flat_map(|kind| kind.event_types().iter().copied())
            .collect();
        for call in syscalls::names() {
            let kept = matches!(call, "chdir" | "fchdir" | "socketcall" | "stime");
            assert!(kept || known.contains(&syscalls::spoken(call)), "{call}");
        }
        let kinds = KINDS_ALWAYS.iter().flat_map(|kind| kind.event_types()).copied();
        for call in CALLS_ALWAYS.into_iter().chain(kinds) {
            assert!(
                syscalls::names().any(|name| name == call) || call == "io_uring_enter",
                "{call}"
            );
        }
    }

    #[test]
    fn opens_are_wanted_by_name() {
        let shadow = wanted("evt.type in (open, openat) and evt.is_open_read = true and fd.name = /etc/shadow");
        let access = |read, write| {
            Access {
                read,
                write,
                ..Access::default()
            }
            .index()
        };
        assert_eq!(shadow.opens[access(true, false)], open_demand::NAMES);
        assert_eq!(shadow.opens[access(false, true)], open_demand::NONE);
        assert_eq!(shadow.opens[HOLDS], 1, "they hold");
        let bits = shadow.names[&name_key(b"shadow")];
        assert!(bits & (1 << access(true, false)) != 0 && bits >> 16 == 0, "{bits:x}");
        let ending = wanted("evt.type = openat and evt.is_open_write = true and fd.name endswith .pth");
        let bits = ending.names[&name_key(b".pth")];
        assert!(
            bits & 0xffff == 0 && bits >> 16 & (1 << access(false, true)) != 0,
            "{bits:x}"
        );
        for (rule, expected) in [
            ("evt.type = openat and fd.name = /etc/shadow", open_demand::NONE),
            (
                "evt.type = openat and evt.failed = true and fd.name = /etc/shadow",
                open_demand::ALL,
            ),
            (
                "evt.type = openat and evt.failed = true and evt.res in (EACCES, EPERM)",
                open_demand::NONE,
            ),
            (
                "evt.type = openat and evt.failed = true and evt.res = ENOENT",
                open_demand::ALL,
            ),
            ("evt.type = openat and evt.rawres = -2", open_demand::ALL),
        ] {
            assert_eq!(wanted(rule).opens[FAILURES], expected, "{rule}");
        }
        let all = wanted("evt.type = openat and evt.is_open_write = true and proc.name = x");
        assert_eq!(all.opens[access(false, true)], open_demand::ALL);
    }

    #[test]
    fn everything_is_told_until_rules_are_known() {
        let everything = Wanted::everything(&[Action::Open, Action::Connect]);
        assert_eq!(
            (everything.opens[HOLDS], everything.opens[FAILURES]),
            (0, open_demand::NONE)
        );
        assert!(everything.actions[CONNECT] != 0 && everything.actions[OPENAT] != 0);
    }
}
