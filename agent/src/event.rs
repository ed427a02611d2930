//! Events: decoded, enriched records, and the fields that rules see of them.
//!
//! What a rule seldom asks for is made up only when it does.

mod dns;
mod errno;
mod names;

pub use names::Names;

use std::{
    cell::OnceCell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use staghound_ebpf::{Fork, Open, PathChange, Socket, Span, file_mode, flags};
use staghound_engine::{
    event::{self, EventKind, Value, directory_of, file_name_of},
    field::{Field, FieldArg, FieldRef},
};

use crate::{
    process::{Credentials, Process, ProcessTable},
    sensor::{
        decode::{Body, Record},
        syscalls,
    },
};

/// Bits of a file's type and of its permissions (`S_IFMT` and the rest).
const FILE_TYPE: u32 = 0o170_000;
const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// What stays the same from one event to the next: the host's names and the clock.
#[derive(Debug)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Wall time minus time since boot, in nanoseconds; read once.
    pub boot_to_wall_ns: i64,
}

/// What an event is about, beside its process.
#[derive(Clone, Debug)]
pub enum Detail {
    /// The process itself: exec or exit; for an exit, its status as `wait(2)` encodes it.
    Process(Option<u32>),
    /// The process made another.
    Fork(Fork),
    /// A file was opened.
    Open(Open, Box<[u8]>),
    /// A file was renamed, from the first path to the second.
    Rename(PathChange, Box<[u8]>, Box<[u8]>),
    /// A name was removed.
    Unlink(PathChange, Box<[u8]>),
    /// A mode was changed.
    Chmod(PathChange, Box<[u8]>),
    /// A socket; with the name of a UNIX one, or the name a DNS query asks for.
    Socket(Socket, Box<[u8]>),
}

/// Something that happened, with who did it.
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// Number of the event since the agent started.
    pub number: u64,
    /// When, in nanoseconds since boot.
    pub time_ns: u64,
    /// The process, as it was.
    pub process: Arc<Process>,
    /// Thread that did it.
    pub tid: u32,
    /// Parent's thread group at that moment.
    pub ppid: u32,
    /// Name of the thread at that moment.
    pub comm: Box<[u8]>,
    /// Who it ran as at that moment.
    pub credentials: Credentials,
    /// Control group (v2).
    pub cgroup_id: u64,
    /// Bits of [`flags`].
    pub flags: u16,
    /// System call, as rules name it.
    pub event_type: &'static str,
    /// What it is about.
    pub detail: Detail,
    table: &'a ProcessTable,
    host: &'a Host,
    names: &'a Names,
    lazy: Lazy,
}

#[derive(Default)]
struct Lazy {
    socket_name: OnceCell<Box<[u8]>>,
    capabilities: OnceCell<Box<[u8]>>,
    arguments: OnceCell<Box<[u8]>>,
}

impl<'a> Event<'a> {
    /// The event that a record tells of; none for records that only keep the process table true.
    pub fn of(
        record: &Record<'_>,
        process: Arc<Process>,
        number: u64,
        table: &'a ProcessTable,
        host: &'a Host,
        names: &'a Names,
    ) -> Option<Self> {
        let header = &record.header;
        let walked = |span: Span| {
            let mut path = Vec::with_capacity(usize::from(span.len));
            record.walked_path(span, &mut path);
            path.into_boxed_slice()
        };
        let passed = |base, name| record.passed_path(base, name).into_boxed_slice();
        let (kind, detail) = match &record.body {
            Body::Exec(_) => (EventKind::Exec, Detail::Process(None)),
            Body::Fork(fork) => (EventKind::Fork, Detail::Fork(*fork)),
            Body::Exit(exit) => (EventKind::Exit, Detail::Process(Some(exit.status))),
            Body::Open(open) => (EventKind::Open, Detail::Open(*open, walked(open.path))),
            Body::Rename(change) => {
                let (from, to) = (
                    passed(change.base, change.name),
                    passed(change.new_base, change.new_name),
                );
                (EventKind::Rename, Detail::Rename(*change, from, to))
            }
            Body::Unlink(change) => (
                EventKind::Unlink,
                Detail::Unlink(*change, passed(change.base, change.name)),
            ),
            Body::Chmod(change) => (
                EventKind::Chmod,
                Detail::Chmod(*change, passed(change.base, change.name)),
            ),
            Body::Connect(socket) => (EventKind::Connect, Detail::Socket(*socket, unix_name(record, socket))),
            Body::Listen(socket) => (EventKind::Listen, Detail::Socket(*socket, Box::default())),
            Body::Accept(socket) => (EventKind::Accept, Detail::Socket(*socket, Box::default())),
            Body::Send(socket) => {
                let name = dns::question(record.bytes(socket.data)).unwrap_or_default();
                (EventKind::Send, Detail::Socket(*socket, name.into()))
            }
            Body::Chdir(_) | Body::Bind(_) | Body::Call(_) | Body::Receive(_) | Body::Ended(_) | Body::Resolved(_) => {
                return None;
            }
        };
        let compat = header.flags & flags::COMPAT != 0;
        let event_type = if kind == EventKind::Exec {
            "execve"
        } else if kind == EventKind::Fork {
            "clone"
        } else if kind == EventKind::Exit {
            "procexit"
        } else {
            match syscalls::name(header.syscall, compat) {
                // Rules know the older call; both do the same.
                Some("fchmodat2") => "fchmodat",
                Some(name) => name,
                None => kind.event_types()[0],
            }
        };
        let main_thread = header.tid == header.pid;
        let comm = crate::sensor::decode::until_nul(&header.comm);
        Some(Self {
            kind,
            number,
            time_ns: header.time_ns,
            tid: header.tid,
            ppid: header.ppid,
            comm: if main_thread {
                comm.into()
            } else {
                process.image.name.clone()
            },
            credentials: Credentials::of(header),
            cgroup_id: header.cgroup_id,
            flags: header.flags
                | if kind == EventKind::Exec {
                    process.image.flags
                } else {
                    0
                },
            process,
            event_type,
            detail,
            table,
            host,
            names,
            lazy: Lazy::default(),
        })
    }

    /// What the system call returned; 0 where there is none.
    #[must_use]
    pub fn result(&self) -> i64 {
        match &self.detail {
            Detail::Process(_) | Detail::Fork(_) => 0,
            Detail::Open(open, _) => i64::from(open.result),
            Detail::Rename(change, ..) | Detail::Unlink(change, _) | Detail::Chmod(change, _) => {
                i64::from(change.result)
            }
            Detail::Socket(socket, _) => i64::from(socket.result),
        }
    }

    /// The path it is about: of a file, or of a UNIX socket.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        match &self.detail {
            Detail::Open(_, path) | Detail::Unlink(_, path) | Detail::Chmod(_, path) | Detail::Rename(_, path, _) => {
                Some(path)
            }
            Detail::Socket(socket, name) if socket.family == AF_UNIX => Some(name),
            Detail::Socket(..) | Detail::Process(_) | Detail::Fork(_) => None,
        }
    }

    /// How many equal events it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.detail {
            Detail::Open(open, _) => 1 + u64::from(open.suppressed),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Socket(..) => 1,
        }
    }

    /// Names of the parts that were cut.
    pub fn truncated(&self) -> impl Iterator<Item = &'static str> {
        let names = [
            (flags::PATH_CUT, "path"),
            (flags::ARGS_CUT, "args"),
            (flags::ENV_CUT, "env"),
            (flags::FAULT, "data"),
        ];
        let flags = self.flags;
        names
            .into_iter()
            .filter(move |(flag, _)| flags & flag != 0)
            .map(|(_, name)| name)
    }

    /// Wall time of a moment given in nanoseconds since boot, in nanoseconds since 1970.
    #[must_use]
    pub fn wall_ns(&self, boot_ns: u64) -> i64 {
        self.host
            .boot_to_wall_ns
            .saturating_add(i64::try_from(boot_ns).unwrap_or(i64::MAX))
    }

    /// Name of a user on the host.
    #[must_use]
    pub fn user(&self, uid: u32) -> Option<&str> {
        self.names.user(uid)
    }

    /// Both ends of a socket of the internet.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        match &self.detail {
            Detail::Socket(socket, _) if socket.family != AF_UNIX => Some(Ends::of(socket, self.kind)),
            Detail::Socket(..)
            | Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Open(..)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..) => None,
        }
    }

    fn ancestor(&self, index: u32) -> Option<&Process> {
        match index {
            0 => Some(&self.process),
            _ => self.process.ancestors().nth(index as usize - 1),
        }
    }

    fn socket_name(&self, ends: Ends) -> &[u8] {
        self.lazy.socket_name.get_or_init(|| {
            let text = match (ends.client, ends.server) {
                (Some(client), Some(server)) => format!("{client}->{server}"),
                (None, Some(one)) | (Some(one), None) => one.to_string(),
                (None, None) => String::new(),
            };
            text.into_bytes().into()
        })
    }

    fn capabilities(&self) -> &[u8] {
        self.lazy
            .capabilities
            .get_or_init(|| names::capabilities(self.credentials.capabilities).into_bytes().into())
    }

    /// Arguments as text for people.
    fn arguments(&self) -> &[u8] {
        self.lazy.arguments.get_or_init(|| {
            let mut text = Vec::new();
            let mut add = |name: &str, value: &[u8]| {
                if !text.is_empty() {
                    text.push(b' ');
                }
                text.extend_from_slice(name.as_bytes());
                text.push(b'=');
                text.extend_from_slice(value);
            };
            match &self.detail {
                Detail::Process(None) => add("exe", &self.process.image.executable),
                Detail::Process(Some(status)) => add("status", status.to_string().as_bytes()),
                Detail::Fork(fork) => add("child", fork.child_pid.to_string().as_bytes()),
                Detail::Open(open, path) => {
                    add("fd", open.result.to_string().as_bytes());
                    add("name", path);
                    add("flags", open.open_flags.to_string().as_bytes());
                }
                Detail::Rename(change, from, to) => {
                    add("res", change.result.to_string().as_bytes());
                    add("oldpath", from);
                    add("newpath", to);
                }
                Detail::Unlink(change, path) => {
                    add("res", change.result.to_string().as_bytes());
                    add("name", path);
                }
                Detail::Chmod(change, path) => {
                    add("res", change.result.to_string().as_bytes());
                    add("name", path);
                    add("mode", format!("{:#o}", change.argument).as_bytes());
                }
                Detail::Socket(socket, name) => {
                    add("res", socket.result.to_string().as_bytes());
                    match self.ends() {
                        Some(ends) => add("tuple", self.socket_name(ends)),
                        None => add("name", name),
                    }
                }
            }
            text.into()
        })
    }

    /// `evt.arg[…]`.
    fn argument(&self, key: &str) -> Option<Value<'_>> {
        Some(match (key, &self.detail) {
            ("res", _) => Value::Number(self.result()),
            ("fd", Detail::Open(open, _)) => Value::Number(i64::from(open.result)),
            ("fd", Detail::Socket(socket, _)) => Value::Number(i64::from(socket.descriptor)),
            (
                "name" | "path" | "filename",
                Detail::Open(_, path) | Detail::Unlink(_, path) | Detail::Chmod(_, path),
            ) => Value::Text(path),
            ("flags", Detail::Open(open, _)) => Value::Number(i64::from(open.open_flags)),
            ("mode", Detail::Open(open, _)) => Value::Number(i64::from(open.mode & !FILE_TYPE)),
            ("mode", Detail::Chmod(change, _)) => Value::Number(i64::from(change.argument & !FILE_TYPE)),
            ("oldpath", Detail::Rename(_, from, _)) => Value::Text(from),
            ("newpath", Detail::Rename(_, _, to)) => Value::Text(to),
            _ => return None,
        })
    }

    /// Whose file below `/proc/PID` a path names.
    fn proc_target(&self) -> Option<&'static str> {
        let rest = self.path()?.strip_prefix(b"/proc/")?;
        let pid: u32 = std::str::from_utf8(rest.split(|byte| *byte == b'/').next()?)
            .ok()?
            .parse()
            .ok()?;
        if pid == self.process.pid {
            return Some("self");
        }
        if self.process.ancestors().any(|ancestor| ancestor.pid == pid) {
            return Some("ancestor");
        }
        let descends = |target: &Arc<Process>| target.ancestors().any(|ancestor| ancestor.pid == self.process.pid);
        Some(if self.table.get(pid).is_some_and(descends) {
            "descendant"
        } else {
            "other"
        })
    }

    fn process_value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let image = &self.process.image;
        let number = |value: u64| i64::try_from(value).ok().map(Value::Number);
        match (field.field, &field.arg) {
            (Field::ProcName, _) => text(&self.comm),
            (Field::ProcExe, _) => image.arguments().next().map(Value::Text),
            (Field::ProcExepath, _) => text(&image.executable),
            (Field::ProcCmdline, _) => text(&image.cmdline),
            (Field::ProcExeline, _) => text(image.exeline()),
            (Field::ProcArgs, _) => Some(Value::Text(image.args_joined())),
            (Field::ProcArg, FieldArg::Index(index)) => image.arguments().nth(*index as usize + 1).map(Value::Text),
            (Field::ProcCmdnargs, _) => number(image.arguments().count().saturating_sub(1) as u64),
            (Field::ProcCmdlenargs, _) => number(image.arguments().skip(1).map(<[u8]>::len).sum::<usize>() as u64),
            (Field::ProcCwd, _) => text(&self.process.cwd),
            (Field::ProcPid, _) => number(u64::from(self.process.pid)),
            (Field::ProcPpid, _) => number(u64::from(self.ppid)),
            (Field::ProcPname, _) => self.ancestor(1).map(|parent| Value::Text(&parent.image.name)),
            (Field::ProcPexe, _) => self.ancestor(1)?.image.arguments().next().map(Value::Text),
            (Field::ProcPexepath, _) => text(&self.ancestor(1)?.image.executable),
            (Field::ProcPcmdline, _) => text(&self.ancestor(1)?.image.cmdline),
            (Field::ProcAname, FieldArg::Index(index)) => text(&self.ancestor(*index)?.image.name),
            (Field::ProcAexe, FieldArg::Index(index)) => {
                self.ancestor(*index)?.image.arguments().next().map(Value::Text)
            }
            (Field::ProcAexepath, FieldArg::Index(index)) => text(&self.ancestor(*index)?.image.executable),
            (Field::ProcApid, FieldArg::Index(index)) => number(u64::from(self.ancestor(*index)?.pid)),
            (Field::ProcAcmdline, FieldArg::Index(index)) => text(&self.ancestor(*index)?.image.cmdline),
            (Field::ProcEnv, FieldArg::Key(key)) => image.env().find_map(|variable| {
                variable
                    .strip_prefix(key.as_bytes())?
                    .strip_prefix(b"=")
                    .map(Value::Text)
            }),
            (Field::ProcTty, _) => number(u64::from(self.process.tty)),
            (Field::ProcScript, _) => text(&image.script),
            (Field::ProcNlink, _) => image.nlink.map(|nlink| Value::Number(i64::from(nlink))),
            (Field::ProcIsExeFromMemfd, _) => Some(Value::Flag(image.is_memfd())),
            (Field::ProcExeIno, _) => (image.inode != 0).then_some(number(image.inode)?),
            (Field::ProcIsExeWritable, _) => image.is_writable.map(Value::Flag),
            (Field::ProcIsExeUpperLayer, _) => image.is_upper_layer().map(Value::Flag),
            (Field::ProcIsExeLowerLayer, _) => image.is_lower_layer().map(Value::Flag),
            (Field::ProcIsExeSecure, _) => image.is_secure().map(Value::Flag),
            (Field::ProcExeInoCtime, _) => number(Some(image.changed_ns).filter(|changed| *changed != 0)?),
            (Field::ProcExeInoMtime, _) => number(Some(image.modified_ns).filter(|modified| *modified != 0)?),
            (Field::ProcExeInoCtimeDurationProcStart, _) => {
                let started = u64::try_from(self.wall_ns(self.process.start_ns)).ok()?;
                // As Falco: nothing where the executable was changed after the process was made.
                number(started.checked_sub(Some(image.changed_ns).filter(|changed| *changed != 0)?)?)
            }
            (
                Field::ProcVpid
                | Field::ProcPvpid
                | Field::ProcSid
                | Field::ProcPgid
                | Field::ProcVpgid
                | Field::ProcIsSidLeader
                | Field::ProcIsPgidLeader
                | Field::ProcIsVpgidLeader,
                _,
            ) => self.ids_value(field.field),
            (Field::ProcSname, _) => text(&self.table.session_leader(&self.process)?.image.name),
            (Field::ProcSidExe, _) => {
                let leader = self.table.session_leader(&self.process)?;
                leader.image.arguments().next().map(Value::Text)
            }
            (Field::ProcSidExepath, _) => text(&self.table.session_leader(&self.process)?.image.executable),
            (Field::ProcPgidName | Field::ProcVpgidName, _) => {
                text(&self.table.group_leader(&self.process)?.image.name)
            }
            (Field::ProcPgidExe | Field::ProcVpgidExe, _) => {
                let leader = self.table.group_leader(&self.process)?;
                leader.image.arguments().next().map(Value::Text)
            }
            (Field::ProcPgidExepath | Field::ProcVpgidExepath, _) => {
                text(&self.table.group_leader(&self.process)?.image.executable)
            }
            (Field::ProcStdinType, _) => image.standard_type(0).map(Value::from),
            (Field::ProcStdinName, _) => image.standard_name(0).map(Value::Text),
            (Field::ProcStdoutType, _) => image.standard_type(1).map(Value::from),
            (Field::ProcStdoutName, _) => image.standard_name(1).map(Value::Text),
            (Field::ProcStderrType, _) => image.standard_type(2).map(Value::from),
            (Field::ProcStderrName, _) => image.standard_name(2).map(Value::Text),
            (Field::ProcDuration, _) => number(self.time_ns.saturating_sub(self.process.start_ns)),
            (Field::ProcPpidDuration, _) => number(self.time_ns.saturating_sub(self.ancestor(1)?.start_ns)),
            (Field::ProcPidTs, _) => Some(Value::Number(self.wall_ns(self.process.start_ns))),
            (Field::ProcPpidTs, _) => Some(Value::Number(self.wall_ns(self.ancestor(1)?.start_ns))),
            (Field::ProcLoginshellid, _) => {
                let shell = |process: &&Process| names::is_shell(&process.image.name);
                std::iter::once(&*self.process)
                    .chain(self.process.ancestors())
                    .filter(shell)
                    .last()
                    .and_then(|process| number(u64::from(process.pid)))
            }
            _ => None,
        }
    }

    /// Numbers of the process in its session, group and pid namespace. As with Falco, `proc.pid`, `proc.ppid` and
    /// `proc.pgid` are the host's, `proc.sid` and all with a `v` the process's own.
    #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields below")]
    fn ids_value(&self, field: Field) -> Option<Value<'_>> {
        let process = &self.process;
        let ids = &process.ids;
        let known = |id: u32| (id != 0).then_some(Value::Number(i64::from(id)));
        match field {
            Field::ProcVpid => known(ids.own_pid),
            Field::ProcPvpid => match self.table.get(self.ppid) {
                // The kernel may have given it another parent since.
                Some(parent) if parent.ids.own_pid != 0 => known(parent.ids.own_pid),
                _ if self.ppid == process.ppid => known(ids.own_ppid),
                _ => None,
            },
            Field::ProcSid => known(ids.own_session),
            Field::ProcPgid => known(ids.group),
            Field::ProcVpgid => known(ids.own_group),
            Field::ProcIsSidLeader => (ids.session != 0).then_some(Value::Flag(ids.session == process.pid)),
            Field::ProcIsPgidLeader | Field::ProcIsVpgidLeader => {
                (ids.group != 0).then_some(Value::Flag(ids.group == process.pid))
            }
            _ => None,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields below")]
    fn socket_value(&self, field: Field) -> Option<Value<'_>> {
        let ends = self.ends()?;
        let address = |end: Option<SocketAddr>| end.map(|end| Value::Address(end.ip()));
        let port = |end: Option<SocketAddr>| end.map(|end| Value::Number(i64::from(end.port())));
        match field {
            Field::FdCip | Field::FdCnet => address(ends.client),
            Field::FdSip | Field::FdSnet => address(ends.server),
            Field::FdLip | Field::FdLnet => address(ends.local),
            Field::FdRip | Field::FdRnet => address(ends.remote),
            Field::FdCport => port(ends.client),
            Field::FdSport => port(ends.server),
            Field::FdLport => port(ends.local),
            Field::FdRport => port(ends.remote),
            Field::FdIsServer => Some(Value::Flag(ends.is_server)),
            Field::FdConnected => Some(Value::Flag(ends.remote.is_some() && self.result() >= 0)),
            Field::FdL4proto => match &self.detail {
                Detail::Socket(socket, _) => Some(protocol(socket).into()),
                Detail::Process(_)
                | Detail::Fork(_)
                | Detail::Open(..)
                | Detail::Rename(..)
                | Detail::Unlink(..)
                | Detail::Chmod(..) => None,
            },
            _ => None,
        }
    }

    fn descriptor_value(&self, field: Field) -> Option<Value<'_>> {
        match (&self.detail, field) {
            (Detail::Open(_, path), Field::FdName) => Some(Value::Text(path)),
            (Detail::Open(_, path), Field::FdDirectory) => Some(Value::Text(directory_of(path))),
            (Detail::Open(_, path), Field::FdFilename) => Some(Value::Text(file_name_of(path))),
            (Detail::Open(open, _), Field::FdNum) => Some(Value::Number(i64::from(open.result))),
            (Detail::Open(open, _), Field::FdType) => Some(names::file_type(open.mode).0.into()),
            (Detail::Open(open, _), Field::FdTypechar) => Some(names::file_type(open.mode).1.into()),
            (Detail::Open(open, _), Field::FdIno) => i64::try_from(open.inode).ok().map(Value::Number),
            (Detail::Open(open, _), Field::FdDev) => Some(Value::Number(i64::from(open.device))),
            (Detail::Open(open, _), Field::FdDevMajor) => Some(Value::Number(i64::from(open.device >> 20))),
            (Detail::Open(open, _), Field::FdDevMinor) => Some(Value::Number(i64::from(open.device & 0xf_ffff))),
            (Detail::Open(..), Field::FdProcTarget) => self.proc_target().map(Value::from),
            (Detail::Socket(_, name), Field::FdName) => match self.ends() {
                Some(ends) => Some(Value::Text(self.socket_name(ends))),
                None => Some(Value::Text(name)),
            },
            (Detail::Socket(socket, _), Field::FdNum) => Some(Value::Number(i64::from(socket.descriptor))),
            (Detail::Socket(socket, _), Field::FdType) => Some(family(socket).into()),
            (Detail::Socket(socket, _), Field::FdTypechar) => Some(match socket.family {
                AF_UNIX => "u".into(),
                AF_INET => "4".into(),
                _ => "6".into(),
            }),
            (Detail::Socket(socket, _), Field::FdSockfamily) => Some(if socket.family == AF_UNIX {
                "unix".into()
            } else {
                "ip".into()
            }),
            (Detail::Socket(..), _) => self.socket_value(field),
            _ => None,
        }
    }

    fn event_value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let opened = |wanted: fn(&Open) -> bool| match &self.detail {
            Detail::Open(open, _) => Some(Value::Flag(wanted(open))),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Socket(..) => None,
        };
        match (field.field, &field.arg) {
            (Field::EvtType, _) => Some(self.event_type.into()),
            (Field::SyscallType, _) => (self.kind != EventKind::Exit).then(|| self.event_type.into()),
            (Field::EvtNum, _) => i64::try_from(self.number).ok().map(Value::Number),
            (Field::EvtTime | Field::EvtRawtime, _) => Some(Value::Number(self.wall_ns(self.time_ns))),
            (Field::EvtDir, _) => Some("<".into()),
            (Field::EvtCategory, _) => Some(self.kind.category().into()),
            (Field::EvtHostname, _) => Some(self.host.name.as_str().into()),
            (Field::EvtSource, _) => Some("syscall".into()),
            (Field::EvtArgs, _) => Some(Value::Text(self.arguments())),
            (Field::EvtArg | Field::EvtRawarg, FieldArg::Key(key)) => self.argument(key),
            (Field::EvtRes, _) => Some(errno::name(self.result()).into()),
            (Field::EvtRawres, _) => Some(Value::Number(self.result())),
            (Field::EvtFailed, _) => Some(Value::Flag(self.result() < 0)),
            (Field::EvtCount, _) => Some(Value::Number(1)),
            (Field::EvtIsOpenRead, _) => opened(|open| open.file_mode & file_mode::READ != 0),
            (Field::EvtIsOpenWrite, _) => opened(|open| open.file_mode & file_mode::WRITE != 0),
            (Field::EvtIsOpenExec, _) => {
                opened(|open| open.file_mode & file_mode::CREATED != 0 && open.mode & 0o111 != 0)
            }
            (Field::EvtIsOpenCreate, _) => opened(|open| open.file_mode & file_mode::CREATED != 0),
            _ => None,
        }
    }
}

fn text(bytes: &[u8]) -> Option<Value<'_>> {
    (!bytes.is_empty()).then_some(Value::Text(bytes))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a field that is not named here has no value; the registry says which ones this version supplies"
)]
impl event::Event for Event<'_> {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let id = |id: u32| Some(Value::Number(i64::from(id)));
        match field.field {
            Field::UserUid => id(self.credentials.uid),
            Field::UserEuid => id(self.credentials.euid),
            Field::GroupGid => id(self.credentials.gid),
            Field::UserName => self.names.user(self.credentials.uid).map(Value::from),
            Field::UserLoginuid => Some(Value::Number(self.credentials.login_uid.map_or(-1, i64::from))),
            Field::UserLoginname => self.names.user(self.credentials.login_uid?).map(Value::from),
            Field::GroupName => self.names.group(self.credentials.gid).map(Value::from),
            Field::ThreadTid => id(self.tid),
            Field::ThreadIsmain => Some(Value::Flag(self.tid == self.process.pid)),
            Field::ThreadCapEffective => text(self.capabilities()),
            Field::FsPathName => match &self.detail {
                Detail::Open(_, path) | Detail::Unlink(_, path) | Detail::Chmod(_, path) => Some(Value::Text(path)),
                Detail::Process(_) | Detail::Fork(_) | Detail::Rename(..) | Detail::Socket(..) => None,
            },
            Field::FsPathSource => match &self.detail {
                Detail::Rename(_, from, _) => Some(Value::Text(from)),
                _ => None,
            },
            Field::FsPathTarget => match &self.detail {
                Detail::Rename(_, _, to) => Some(Value::Text(to)),
                _ => None,
            },
            Field::DnsQname => match &self.detail {
                Detail::Socket(_, name) if self.kind == EventKind::Send => text(name),
                _ => None,
            },
            other => {
                let name = other.name();
                if name.starts_with("proc.") {
                    self.process_value(field)
                } else if name.starts_with("fd.") {
                    self.descriptor_value(other)
                } else {
                    self.event_value(field)
                }
            }
        }
    }

    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        if field.arg != FieldArg::None {
            if let Some(value) = self.value(field) {
                visit(value);
            }
            return;
        }
        let of_ancestor: fn(&Process) -> Option<Value<'_>> = match field.field {
            Field::ProcAname => |ancestor| text(&ancestor.image.name),
            Field::ProcAexe => |ancestor| ancestor.image.arguments().next().map(Value::Text),
            Field::ProcAexepath => |ancestor| text(&ancestor.image.executable),
            Field::ProcAcmdline => |ancestor| text(&ancestor.image.cmdline),
            Field::ProcApid => |ancestor| Some(Value::Number(i64::from(ancestor.pid))),
            Field::FdIp | Field::FdNet => {
                for end in self
                    .ends()
                    .into_iter()
                    .flat_map(|ends| [ends.client, ends.server])
                    .flatten()
                {
                    if !visit(Value::Address(end.ip())) {
                        return;
                    }
                }
                return;
            }
            Field::FdPort => {
                for end in self
                    .ends()
                    .into_iter()
                    .flat_map(|ends| [ends.client, ends.server])
                    .flatten()
                {
                    if !visit(Value::Number(i64::from(end.port()))) {
                        return;
                    }
                }
                return;
            }
            Field::ProcEnv => {
                for variable in self.process.image.env() {
                    if !visit(Value::Text(variable)) {
                        return;
                    }
                }
                return;
            }
            _ => {
                if let Some(value) = self.value(field) {
                    visit(value);
                }
                return;
            }
        };
        for ancestor in self.process.ancestors() {
            if let Some(value) = of_ancestor(ancestor)
                && !visit(value)
            {
                return;
            }
        }
    }
}

/// Both ends of a socket, seen from here and by role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This end.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// Who asked.
    pub client: Option<SocketAddr>,
    /// Who was asked.
    pub server: Option<SocketAddr>,
    /// Whether this end is the server.
    pub is_server: bool,
}

impl Ends {
    fn of(socket: &Socket, kind: EventKind) -> Self {
        let end = |bytes: [u8; 16], port: u16| {
            let address = if socket.family == AF_INET {
                IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
            } else {
                // Those of IPv4 that are mapped into IPv6 are given as what they are.
                IpAddr::from(bytes).to_canonical()
            };
            (port != 0 || !address.is_unspecified()).then_some(SocketAddr::new(address, port))
        };
        let local = end(socket.local, socket.local_port);
        let remote = end(socket.remote, socket.remote_port);
        let is_server = matches!(kind, EventKind::Accept | EventKind::Listen);
        let (client, server) = if is_server { (remote, local) } else { (local, remote) };
        Self {
            local,
            remote,
            client,
            server,
            is_server,
        }
    }
}

/// Address family, as in `fd.type`.
#[must_use]
pub fn family(socket: &Socket) -> &'static str {
    match socket.family {
        AF_UNIX => "unix",
        AF_INET => "ipv4",
        _ => "ipv6",
    }
}

/// Transport, as in `fd.l4proto`.
#[must_use]
pub fn protocol(socket: &Socket) -> &'static str {
    match socket.protocol {
        IPPROTO_TCP => "tcp",
        IPPROTO_UDP => "udp",
        1 | 58 => "icmp",
        255 => "raw",
        _ => "<NA>",
    }
}

/// Path of a UNIX socket; an abstract name begins with `@` in the place of its NUL.
fn unix_name(record: &Record<'_>, socket: &Socket) -> Box<[u8]> {
    match record.bytes(socket.data) {
        [0, name @ ..] => [b"@", crate::sensor::decode::until_nul(name)].concat().into(),
        path => crate::sensor::decode::until_nul(path).into(),
    }
}

/// Text of a path or argument for people and machines that want UTF-8: other bytes become `\xHH`, as does every control
/// character, and a backslash is written twice, so that no name can look like another.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    printable_within(bytes, usize::MAX).0
}

/// The same, of at most `max` bytes of text; and whether something had to be left out. Nothing is cut in its middle.
#[must_use]
pub fn printable_within(bytes: &[u8], max: usize) -> (String, bool) {
    let mut text = String::with_capacity(bytes.len().min(max));
    let hexadecimal = |bytes: &[u8], text: &mut String| {
        let fits = bytes.len() * 4 <= max - text.len();
        for byte in bytes.iter().filter(|_| fits) {
            write!(text, "\\x{byte:02x}").expect("a string takes all");
        }
        fits
    };
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let plain = character.encode_utf8(&mut buffer);
            let fits = if character.is_control() {
                hexadecimal(plain.as_bytes(), &mut text)
            } else {
                let plain = if character == '\\' { "\\\\" } else { plain };
                let fits = plain.len() <= max - text.len();
                text.push_str(if fits { plain } else { "" });
                fits
            };
            if !fits {
                return (text, true);
            }
        }
        for byte in chunk.invalid() {
            if !hexadecimal(&[*byte], &mut text) {
                return (text, true);
            }
        }
    }
    (text, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_are_printed_alike() {
        for (given, expected) in [
            (&b"/a b/\xc3\xa4"[..], "/a b/\u{e4}"),
            (b"a\x1bb\xff\xc2\x85", r"a\x1bb\xff\xc2\x85"),
            (br"a\x1b", r"a\\x1b"),
        ] {
            assert_eq!(printable(given), expected);
        }
    }

    #[test]
    fn printed_text_keeps_to_its_bytes() {
        for (given, max, expected) in [
            (&b"abc"[..], 3, ("abc", false)),
            (b"abcd", 3, ("abc", true)),
            (b"a\x01\x01", 5, (r"a\x01", true)),
            (b"ab\xc3\xa4", 3, ("ab", true)),
            (br"aa\", 3, ("aa", true)),
            (b"a", 0, ("", true)),
        ] {
            assert_eq!(printable_within(given, max), (expected.0.to_owned(), expected.1));
        }
    }
}
