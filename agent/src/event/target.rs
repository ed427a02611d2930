//! Whom a call is aimed at: a process that is signalled, traced, or looked into below `/proc`.

use std::sync::Arc;

use staghound_engine::event::{EventKind, Value};

use crate::{
    event::{Detail, EarlierAgent, Event},
    process::Process,
};

/// A process that another one aims at.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its pid on the host, where it is known.
    pub(super) pid: Option<u32>,
    /// The process, where it is known.
    pub(super) process: Option<Arc<Process>>,
    /// What it is to the one that acts: `self`, `ancestor`, `descendant` or `other`; `group` for members of a process group
    /// whose leader is not known, `all` for everybody.
    pub(super) relation: &'static str,
    /// Whether it is this process.
    pub(super) is_agent: bool,
}

impl Event<'_> {
    /// Whom the event is aimed at.
    pub(super) fn target(&self) -> Option<&Target> {
        self.lazy
            .target
            .get_or_init(|| match (&self.detail, self.kind) {
                (Detail::Call(call), _) if call.target != 0 => Some(self.known_by_host(call.target)),
                (Detail::Call(_), EventKind::Signal | EventKind::Trace) => {
                    // Before descriptors of processes there were, their directories below `/proc` did.
                    self.target_of_call().or_else(|| self.find_below_proc())
                }
                _ => self.find_below_proc(),
            })
            .as_ref()
    }

    /// The same, if it is a file below `/proc/PID` that the event is about.
    pub(super) fn target_below_proc(&self) -> Option<&Target> {
        let is_below_proc = self.path().is_some_and(|path| path.starts_with(b"/proc/"));
        is_below_proc.then(|| self.target())?
    }

    fn find_below_proc(&self) -> Option<Target> {
        if !matches!(self.detail, Detail::Open(..) | Detail::Chmod(..) | Detail::Call(_)) {
            return None;
        }
        let rest = self.path()?.strip_prefix(b"/proc/")?;
        match rest.split(|byte| *byte == b'/').next()? {
            // Only what failed has such a path: what succeeded was walked from the file.
            b"self" | b"thread-self" => Some(self.aimed_at(Arc::clone(&self.process))),
            number => self.numbered(std::str::from_utf8(number).ok()?.parse().ok()?, false),
        }
    }

    /// As `pid` says, or `tid` where there is no other.
    fn target_of_call(&self) -> Option<Target> {
        let number = |key: &str| match self.argument(key, true) {
            Some(Value::Number(number)) => Some(number),
            _ => None,
        };
        if self.event_type == "ptrace" && number("request") == Some(0) {
            // `PTRACE_TRACEME` offers, and aims at nobody.
            return None;
        }
        let (number, is_thread) = match number("pid") {
            Some(pid) => (pid, false),
            None => (number("tid")?, true),
        };
        match u32::try_from(number) {
            Ok(0) | Err(_) => self.target_group(number),
            Ok(pid) => self.numbered(pid, is_thread),
        }
    }

    /// Everybody (-1), the own process group (0), or a group by its negative number: no single process.
    fn target_group(&self, number: i64) -> Option<Target> {
        if self.kind != EventKind::Signal {
            return None;
        }
        let nobody = |relation, is_agent| Target {
            pid: None,
            process: None,
            relation,
            is_agent,
        };
        let leader = match number {
            // To whom it may be sent, the kernel decides; not to who sends it.
            -1 => return Some(nobody("all", true)),
            0 => self.table.group_leader(&self.process),
            _ => {
                let group = u32::try_from(number.checked_neg()?).ok()?;
                self.table.named_by(&self.process, group).map(|leader| &**leader)
            }
        };
        // A group outlives its leader, whose number is then nobody else's.
        let group = match leader {
            Some(leader) => leader.pid,
            None if number == 0 => self.process.ids.group,
            None if self.process.is_in_initial_pid_namespace() => u32::try_from(number.checked_neg()?).ok()?,
            None => 0,
        };
        let own = self.table.get(std::process::id());
        let is_agent = own.is_some_and(|own| own.ids.group == group && group != 0);
        Some(match leader.and_then(|leader| self.table.get(leader.pid)) {
            Some(leader) => Target {
                is_agent,
                ..self.aimed_at(Arc::clone(leader))
            },
            None => nobody("group", is_agent),
        })
    }

    /// The process of this number on the host, as a descriptor stands for it.
    fn known_by_host(&self, pid: u32) -> Target {
        match self.table.get(pid) {
            Some(process) => self.aimed_at(Arc::clone(process)),
            None => Target {
                pid: Some(pid),
                process: None,
                relation: self.relation_of_unknown(pid),
                is_agent: self.is_agent(pid),
            },
        }
    }

    /// The process that the acting one means by this number in its own pid namespace.
    fn numbered(&self, number: u32, is_thread: bool) -> Option<Target> {
        if let Some(process) = self.table.named_by(&self.process, number) {
            return Some(self.aimed_at(Arc::clone(process)));
        }
        if !self.process.is_in_initial_pid_namespace() {
            return None;
        }
        // Threads beside the main one are in no table; of ours the kernel tells.
        let is_agent =
            self.is_agent(number) || (is_thread && std::path::Path::new(&format!("/proc/self/task/{number}")).exists());
        Some(Target {
            pid: (!is_thread).then_some(number),
            process: None,
            relation: self.relation_of_unknown(number),
            is_agent,
        })
    }

    /// What a process is to the one that acts, if only its number is known: the first process is everybody's ancestor.
    fn relation_of_unknown(&self, number: u32) -> &'static str {
        if number == self.process.pid || number == self.tid {
            "self"
        } else if self.process.pid == 1 {
            "descendant"
        } else {
            "other"
        }
    }

    /// Whether this is the agent's number, or was when it happened.
    fn is_agent(&self, pid: u32) -> bool {
        let was = |earlier: EarlierAgent| earlier.pid == pid && self.time_ns < earlier.until_ns;
        pid == std::process::id() || self.host.earlier_agent.is_some_and(was)
    }

    fn aimed_at(&self, target: Arc<Process>) -> Target {
        let pid = target.pid;
        let relation = if pid == self.process.pid {
            "self"
        } else if self.process.ancestors().any(|ancestor| ancestor.pid == pid) {
            "ancestor"
        } else if target.ancestors().any(|ancestor| ancestor.pid == self.process.pid) {
            "descendant"
        } else {
            "other"
        };
        Target {
            pid: Some(pid),
            is_agent: self.is_agent(pid),
            relation,
            process: Some(target),
        }
    }
}
