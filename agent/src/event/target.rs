//! Whom a call is aimed at: a process that is signalled, traced, or looked into below `/proc`.

use std::sync::Arc;

use staghound_engine::event::{EventKind, Value};

use crate::{
    event::{Detail, Event},
    process::Process,
};

/// A process that another one aims at.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Its pid on the host, where it is known.
    pub(super) pid: Option<u32>,
    /// The process, where it is known.
    pub(super) process: Option<Arc<Process>>,
    /// What it is to the one that acts: `self`, `ancestor`, `descendant` or `other`.
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
                (Detail::Call(_), EventKind::Signal | EventKind::Trace) => self.target_of_call(),
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

    /// As `pid` says, or `tid` where there is no other. Descriptors of processes do not tell whose they are.
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
        let group = match number {
            // To whom it may be sent, the kernel decides; not to who sends it.
            -1 => return Some(self.group_target(true)),
            0 => self.process.ids.group,
            _ => u32::try_from(number.checked_neg()?).ok()?,
        };
        let own = self.table.get(std::process::id());
        let is_agents = own.is_some_and(|own| own.ids.group == group && group != 0);
        Some(self.group_target(is_agents))
    }

    fn group_target(&self, is_agent: bool) -> Target {
        Target {
            pid: None,
            process: None,
            relation: "other",
            is_agent,
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
        let is_agent = number == std::process::id()
            || (is_thread && std::path::Path::new(&format!("/proc/self/task/{number}")).exists());
        Some(Target {
            pid: (!is_thread).then_some(number),
            process: None,
            relation: if number == self.process.pid || number == self.tid {
                "self"
            } else {
                "other"
            },
            is_agent,
        })
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
            is_agent: pid == std::process::id(),
            relation,
            process: Some(target),
        }
    }
}
