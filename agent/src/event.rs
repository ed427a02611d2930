//! Events: decoded, enriched records, and the fields that rules see of them.
//!
//! What a rule seldom asks for is made up only when it does.

mod called;
mod calls;
mod clock;
mod constants;
mod dns;
mod errno;
mod names;
mod recall;
mod target;
#[cfg(test)]
mod tests;
mod tls;

pub use names::Names;
pub use recall::{Recall, RecallCounts};

use std::{
    cell::OnceCell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use staghound_ebpf::{Call, Ended, Fork, Open, PathChange, Socket, Span, exec_flags, file_mode, flags, open_layer};
use staghound_engine::{
    event::{self, EventKind, Steady, Subject, Value, directory_of, file_name_of},
    field::{Field, FieldArg, FieldRef},
};

use crate::{
    event::{
        calls::Known,
        recall::{Connection, Paths},
        target::Target,
    },
    process::{Credentials, Process, ProcessTable, image::FILE_TYPE},
    sensor::decode::{Body, Record, until_nul},
};

/// Address family of UNIX sockets.
pub const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const AF_NETLINK: u16 = 16;
const AF_PACKET: u16 = 17;
const DNS_PORT: u16 = 53;
const EINPROGRESS: i64 = -115;
const ECANCELED: i32 = -125;
const SECOND_NS: i64 = 1_000_000_000;
const IPPROTO_TCP: u16 = 6;
const IPPROTO_UDP: u16 = 17;

/// What stays the same from one event to the next: the host's names and the clock.
#[derive(Debug)]
pub struct Host {
    /// Host name.
    pub name: String,
    /// Wall time minus time since boot, in nanoseconds; read once.
    pub boot_to_wall_ns: i64,
    /// Whether all that is watched belongs to one run.
    pub in_run: bool,
    /// The agent before this one, if its programs went on recording.
    pub earlier_agent: Option<EarlierAgent>,
}

/// An agent whose records this one reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlierAgent {
    /// Its pid.
    pub pid: u32,
    /// When this agent took over, in nanoseconds since boot: later the pid may be anybody's.
    pub until_ns: u64,
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
    /// A connection ended.
    Ended(Socket, Traffic),
    /// Any other system call.
    Call(Call),
}

/// What went over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Nanoseconds from when it was opened.
    pub duration_ns: u64,
    /// Whether the other end asked for it.
    pub is_server: bool,
}

/// A process that an event is aimed at.
#[derive(Clone, Copy, Debug)]
pub struct Aim<'a> {
    /// Its pid on the host, where it is known.
    pub pid: Option<u32>,
    /// The process, where it is known.
    pub process: Option<&'a Process>,
    /// What it is to the one that acts: `self`, `ancestor`, `descendant` or `other`; also `group` and `all`.
    pub relation: &'static str,
    /// Whether it is this process.
    pub is_agent: bool,
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
    record: &'a Record<'a>,
    /// The connection that a call puts somewhere else, and whether its other end asked for it.
    peer: Option<(Box<Socket>, bool)>,
    /// What the arguments of the call mean, where they are known.
    known: Option<&'static Known>,
    table: &'a ProcessTable,
    host: &'a Host,
    names: &'a Names,
    lazy: Lazy,
}

/// What is made up when it is asked for.
#[derive(Default)]
struct Lazy {
    socket_name: OnceCell<Box<[u8]>>,
    capabilities: OnceCell<Box<[u8]>>,
    permitted: OnceCell<Box<[u8]>>,
    capabilities_before: OnceCell<Box<[u8]>>,
    arguments: OnceCell<Box<[u8]>>,
    /// The argument that has the same place among those of the call, as text.
    call_arguments: OnceCell<Box<[Box<[u8]>]>>,
    /// Flags of a rename or removal, as text.
    flags: OnceCell<Box<[u8]>>,
    path: OnceCell<Box<[u8]>>,
    new_path: OnceCell<Box<[u8]>>,
    object: OnceCell<Box<[u8]>>,
    new_object: OnceCell<Box<[u8]>>,
    link_target: OnceCell<Box<[u8]>>,
    dns: OnceCell<Option<dns::Message>>,
    server_name: OnceCell<Option<Vec<u8>>>,
    target: OnceCell<Option<Target>>,
    /// The four texts of [`clock::Texts`].
    times: OnceCell<clock::Texts>,
    namespaces: OnceCell<Box<[u8]>>,
}

/// Who did it, at that moment.
struct Actor {
    tid: u32,
    ppid: u32,
    comm: Box<[u8]>,
    credentials: Credentials,
    cgroup_id: u64,
}

impl Actor {
    fn of(record: &Record<'_>, process: &Process) -> Self {
        let header = &record.header;
        let main_thread = header.tid == header.pid;
        Self {
            tid: header.tid,
            ppid: header.ppid,
            comm: if main_thread {
                until_nul(&header.comm).into()
            } else {
                process.image.name.clone()
            },
            credentials: Credentials::of(header),
            cgroup_id: header.cgroup_id,
        }
    }
}

impl<'a> Event<'a> {
    /// The event that a record tells of; none for records that only keep the process table true, or that others need.
    pub fn of(
        record: &'a Record<'a>,
        process: Arc<Process>,
        number: u64,
        recall: &mut Recall,
        table: &'a ProcessTable,
        host: &'a Host,
        names: &'a Names,
    ) -> Option<Self> {
        let header = &record.header;
        if let Body::Resolved(resolved) = &record.body {
            recall.keep_resolved(record, resolved);
            return None;
        }
        let known = calls::known(header.syscall, header.flags);
        let mut actor = Actor::of(record, &process);
        let mut lazy = Lazy::default();
        let mut peer = None;
        let (kind, detail) = if let Body::Ended(ended) = &record.body {
            let ends = &ended.ends;
            let connection = recall.take_connection(ended.socket, (ends.local_port, ends.remote_port))?;
            let told = ended_connection(header.time_ns, ended, &connection);
            // The thread that it was told by has nothing to do with it.
            actor = Actor {
                tid: connection.tid,
                ppid: connection.ppid,
                comm: connection.comm,
                credentials: connection.credentials,
                cgroup_id: connection.cgroup_id,
            };
            told
        } else {
            let resolved = recall.take_resolved(header);
            let (kind, detail) = told(record, &record.body, known, resolved, &mut lazy)?;
            if let Detail::Socket(socket, _) = &detail
                && (socket.result >= 0 || i64::from(socket.result) == EINPROGRESS)
                && matches!(kind, EventKind::Connect | EventKind::Accept)
                && socket.protocol == IPPROTO_TCP
            {
                recall.keep_connection(header, socket, kind == EventKind::Accept, &process);
            }
            if let (Detail::Call(call), EventKind::Duplicate) = (&detail, kind)
                && let Ok(descriptor) = u32::try_from(call.args[0] & u64::from(u32::MAX))
                && called::socket_name(record, call).is_some_and(called::is_tcp)
            {
                peer = recall
                    .connection_at(&process, descriptor)
                    .map(|connection| (Box::new(connection.socket), connection.is_server));
            }
            (kind, detail)
        };
        Some(Self {
            kind,
            number,
            time_ns: header.time_ns,
            tid: actor.tid,
            ppid: actor.ppid,
            comm: actor.comm,
            credentials: actor.credentials,
            cgroup_id: actor.cgroup_id,
            flags: header.flags
                | if kind == EventKind::Exec {
                    process.image.flags
                } else {
                    0
                },
            process,
            event_type: match known {
                _ if is_by_descriptor(record) => "execveat",
                Some(known) if known.kind == Some(kind) => known.name,
                Some(_) | None => kind.event_types()[0],
            },
            detail,
            record,
            peer,
            known,
            table,
            host,
            names,
            lazy,
        })
    }

    /// What the system call returned; 0 where there is none.
    #[must_use]
    pub fn result(&self) -> i64 {
        match &self.detail {
            Detail::Process(_) | Detail::Fork(_) | Detail::Ended(..) => 0,
            Detail::Call(call) => call.result,
            Detail::Open(open, _) => i64::from(open.result),
            Detail::Rename(change, ..) | Detail::Unlink(change, _) | Detail::Chmod(change, _) => {
                i64::from(change.result)
            }
            Detail::Socket(socket, _) => i64::from(socket.result),
        }
    }

    /// The path it is about: the one that was passed, that of the descriptor, or of a UNIX socket.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        match &self.detail {
            Detail::Open(_, path) | Detail::Unlink(_, path) | Detail::Chmod(_, path) | Detail::Rename(_, path, _) => {
                Some(path)
            }
            Detail::Call(call) => self.call_path(call).or_else(|| self.object(call)),
            Detail::Socket(socket, name) if socket.family == AF_UNIX => Some(name),
            Detail::Socket(..) | Detail::Process(_) | Detail::Fork(_) | Detail::Ended(..) => None,
        }
    }

    /// The second path of a call with two.
    #[must_use]
    pub fn new_path(&self) -> Option<&[u8]> {
        match &self.detail {
            Detail::Rename(_, _, path) => Some(path),
            Detail::Call(call) => self.call_new_path(call).or_else(|| self.new_object(call)),
            Detail::Open(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Socket(..)
            | Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Ended(..) => None,
        }
    }

    /// How many equal events it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        match &self.detail {
            Detail::Open(open, _) => 1 + u64::from(open.suppressed),
            Detail::Call(call) => 1 + u64::from(call.suppressed),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Ended(..)
            | Detail::Socket(..) => 1,
        }
    }

    /// The file that it is about: by inode where the record tells one, else by path. Of an exec, the program.
    fn file_identity(&self) -> Option<u128> {
        let (device, inode) = match &self.detail {
            Detail::Process(_) if self.kind == EventKind::Exec => (self.process.image.device, self.process.image.inode),
            Detail::Open(open, _) => (open.device, open.inode),
            Detail::Call(call) => (call.device, call.inode),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Socket(..)
            | Detail::Ended(..) => (0, 0),
        };
        if inode != 0 {
            return Some(u128::from(device) << 64 | u128::from(inode));
        }
        self.new_path().or_else(|| self.path()).map(event::identity_of)
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

    /// Whom it is aimed at: a process that is signalled, traced, or looked into below `/proc`.
    #[must_use]
    pub fn aim(&self) -> Option<Aim<'_>> {
        self.target().map(|target| Aim {
            pid: target.pid,
            process: target.process.as_deref(),
            relation: target.relation,
            is_agent: target.is_agent,
        })
    }

    /// What was asked of the kernel, where the object does not say it, in words that are the same on every host.
    #[must_use]
    pub fn behaviour(&self) -> Option<String> {
        match &self.detail {
            Detail::Call(call) => Some(self.call_behaviour(call)),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Open(..)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Socket(..)
            | Detail::Ended(..) => None,
        }
    }

    /// Both ends of a socket of the internet.
    #[must_use]
    pub fn ends(&self) -> Option<Ends> {
        let is_server = match &self.detail {
            Detail::Ended(_, traffic) => traffic.is_server,
            Detail::Call(_) => self.peer.as_ref().is_some_and(|(_, is_server)| *is_server),
            Detail::Socket(..)
            | Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Open(..)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..) => matches!(self.kind, EventKind::Accept | EventKind::Listen | EventKind::Bind),
        };
        let socket = self.socket()?;
        matches!(socket.family, AF_INET | AF_INET6).then(|| Ends::of(socket, is_server))
    }

    /// The socket it is about.
    #[must_use]
    pub fn socket(&self) -> Option<&Socket> {
        match &self.detail {
            Detail::Socket(socket, _) | Detail::Ended(socket, _) => Some(socket),
            Detail::Call(_) => self.peer.as_ref().map(|(socket, _)| &**socket),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Open(..)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..) => None,
        }
    }

    /// What a DNS message says that was sent or came.
    fn dns(&self) -> Option<&dns::Message> {
        let Detail::Socket(socket, _) = &self.detail else {
            return None;
        };
        self.lazy
            .dns
            .get_or_init(|| dns_message(self.record, socket, self.kind))
            .as_ref()
    }

    /// The addresses and other names that a DNS answer gives.
    pub fn dns_answers(&self) -> impl Iterator<Item = &[u8]> {
        self.dns()
            .filter(|message| message.is_response)
            .into_iter()
            .flat_map(|message| message.answers.iter().map(Vec::as_slice))
    }

    /// The server that a TLS client says hello to.
    #[must_use]
    pub fn server_name(&self) -> Option<&[u8]> {
        let (Detail::Socket(socket, _), EventKind::Send) = (&self.detail, self.kind) else {
            return None;
        };
        self.lazy
            .server_name
            .get_or_init(|| tls::server_name(self.record.bytes(socket.data)))
            .as_deref()
    }

    /// Whether it was asked for through io_uring.
    #[must_use]
    pub fn is_by_ring(&self) -> bool {
        self.flags & flags::IO_URING != 0
    }

    /// Whether nobody knows what came of it.
    #[must_use]
    pub fn is_result_unknown(&self) -> bool {
        self.flags & flags::RESULT_UNKNOWN != 0
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

    /// Whether it is a datagram to somebody whom the socket is not connected to.
    fn is_stray_datagram(&self) -> bool {
        self.kind == EventKind::Send && self.record.header.flags & flags::ADDRESS_PASSED != 0
    }

    fn capabilities(&self) -> &[u8] {
        self.lazy
            .capabilities
            .get_or_init(|| names::capabilities(self.credentials.capabilities).into_bytes().into())
    }

    /// Arguments as text for people.
    #[must_use]
    pub fn arguments(&self) -> &[u8] {
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
                Detail::Ended(_, traffic) => {
                    if let Some(ends) = self.ends() {
                        add("tuple", self.socket_name(ends));
                    }
                    add("received", traffic.received.to_string().as_bytes());
                    add("sent", traffic.sent.to_string().as_bytes());
                }
                Detail::Call(call) => self.add_call_arguments(call, &mut add),
            }
            text.into()
        })
    }

    /// `evt.arg[…]`; `raw` for what is a number as a number.
    fn argument(&self, key: &str, raw: bool) -> Option<Value<'_>> {
        let status = |take: fn(u32) -> u32| {
            if let Detail::Process(Some(status)) = &self.detail {
                Some(Value::Number(i64::from(take(*status))))
            } else {
                None
            }
        };
        Some(match (key, &self.detail) {
            ("res", _) => Value::Number(self.result()),
            (_, Detail::Call(call)) => return self.call_argument(call, key, raw),
            ("fd", Detail::Open(open, _)) => Value::Number(i64::from(open.result)),
            ("fd", Detail::Socket(socket, _) | Detail::Ended(socket, _)) => Value::Number(i64::from(socket.descriptor)),
            ("tuple", Detail::Socket(..) | Detail::Ended(..)) => Value::Text(self.socket_name(self.ends()?)),
            (
                "name" | "path" | "filename",
                Detail::Open(_, path) | Detail::Unlink(_, path) | Detail::Chmod(_, path),
            ) => Value::Text(path),
            ("flags", Detail::Open(open, _)) => Value::Number(i64::from(open.open_flags)),
            ("flags", Detail::Rename(change, ..)) => self.change_flags(change, constants::RENAME, raw),
            ("flags", Detail::Unlink(change, _)) => self.change_flags(change, constants::UNLINK, raw),
            ("flags", Detail::Fork(fork)) if raw => Value::Number(i64::from(fork.new_namespaces)),
            ("flags", Detail::Fork(_)) => Value::Text(self.new_namespaces()?),
            ("mode", Detail::Open(open, _)) => Value::Number(i64::from(open.mode & !FILE_TYPE)),
            ("mode", Detail::Chmod(change, _)) => Value::Number(i64::from(change.argument & !FILE_TYPE)),
            ("oldpath", Detail::Rename(_, from, _)) => Value::Text(from),
            ("newpath", Detail::Rename(_, _, to)) => Value::Text(to),
            ("status", _) => return status(|status| status),
            ("ret", _) => return status(|status| status >> 8 & 0xff),
            ("sig", _) => return status(|status| status & 0x7f),
            ("core", _) => return status(|status| status >> 7 & 1),
            _ => return None,
        })
    }

    fn change_flags(&self, change: &PathChange, names: &'static [constants::Named], raw: bool) -> Value<'_> {
        if raw {
            return Value::Number(i64::from(change.argument));
        }
        let text = || constants::flags(u64::from(change.argument), names).into_bytes().into();
        Value::Text(self.lazy.flags.get_or_init(text))
    }

    /// Namespaces that a new process does not share with its maker.
    fn new_namespaces(&self) -> Option<&[u8]> {
        let Detail::Fork(fork) = &self.detail else {
            return None;
        };
        let text = || {
            constants::flags(u64::from(fork.new_namespaces), constants::CLONE)
                .into_bytes()
                .into()
        };
        (fork.new_namespaces != 0).then(|| &**self.lazy.namespaces.get_or_init(text))
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
            (
                Field::ProcPrevUid
                | Field::ProcPrevEuid
                | Field::ProcPrevGid
                | Field::ProcPrevEgid
                | Field::ProcPrevCapEffective,
                _,
            ) => self.before_value(field.field),
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

    /// Who the process was before a call or exec that may have changed that.
    #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields below")]
    fn before_value(&self, field: Field) -> Option<Value<'_>> {
        if !matches!(self.kind, EventKind::Exec | EventKind::Credentials) {
            return None;
        }
        let before = self.process.credentials_before();
        let number = |id: u32| Some(Value::Number(i64::from(id)));
        match field {
            Field::ProcPrevUid => number(before.uid),
            Field::ProcPrevEuid => number(before.euid),
            Field::ProcPrevGid => number(before.gid),
            Field::ProcPrevEgid => number(before.egid),
            Field::ProcPrevCapEffective => text(
                self.lazy
                    .capabilities_before
                    .get_or_init(|| names::capabilities(before.capabilities).into_bytes().into()),
            ),
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
            Field::FdConnected => Some(Value::Flag(
                ends.remote.is_some() && self.result() >= 0 && !self.is_stray_datagram(),
            )),
            Field::FdNameChanged => Some(Value::Flag(
                ends.remote.is_some()
                    && (matches!(self.kind, EventKind::Connect | EventKind::Accept) || self.is_stray_datagram()),
            )),
            Field::FdL4proto => Some(protocol(self.socket()?).into()),
            _ => None,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields below")]
    fn descriptor_value(&self, field: Field) -> Option<Value<'_>> {
        match (&self.detail, field) {
            (Detail::Open(..) | Detail::Call(_) | Detail::Chmod(..), Field::FdProcTarget) => {
                self.target_below_proc().map(|target| Value::from(target.relation))
            }
            (Detail::Open(open, path), _) => match field {
                Field::FdNum => Some(Value::Number(i64::from(open.result))),
                Field::FdNameraw => text(self.record.text(open.name)),
                // Of a failed open no file is known.
                Field::FdName | Field::FdDirectory | Field::FdFilename => path_value(path, field),
                _ if open.result < 0 => None,
                _ => inode_value(open.inode, open.device, open.mode, open.layer, field),
            },
            (Detail::Chmod(_, path), _) => path_value(path, field),
            (Detail::Call(call), _) => self.call_descriptor_value(call, field),
            (Detail::Socket(socket, name), Field::FdName) if self.ends().is_none() => {
                (socket.family == AF_UNIX).then_some(Value::Text(name))
            }
            (Detail::Socket(socket, _) | Detail::Ended(socket, _), _) => match field {
                Field::FdName => Some(Value::Text(self.socket_name(self.ends()?))),
                Field::FdNum => Some(Value::Number(i64::from(socket.descriptor))),
                Field::FdType => Some(family(socket).into()),
                Field::FdTypechar => Some(match socket.family {
                    AF_UNIX => "u".into(),
                    AF_INET => "4".into(),
                    AF_INET6 => "6".into(),
                    _ => "o".into(),
                }),
                Field::FdSockfamily => match socket.family {
                    AF_UNIX => Some("unix".into()),
                    AF_INET | AF_INET6 => Some("ip".into()),
                    _ => None,
                },
                Field::FdBytesIn | Field::FdBytesOut => {
                    let Detail::Ended(_, traffic) = &self.detail else {
                        return None;
                    };
                    let bytes = if field == Field::FdBytesIn {
                        traffic.received
                    } else {
                        traffic.sent
                    };
                    Some(Value::Number(i64::try_from(bytes).unwrap_or(i64::MAX)))
                }
                _ => self.socket_value(field),
            },
            _ => None,
        }
    }

    /// Which way bytes go, where the call moves some.
    #[expect(clippy::wildcard_enum_match_arm, reason = "few kinds of call move bytes")]
    fn direction(&self) -> Option<&'static str> {
        let name = self.event_type;
        match self.kind {
            EventKind::Send => Some("w"),
            EventKind::Receive | EventKind::Copy => Some("r"),
            EventKind::Trace if name == "process_vm_readv" => Some("r"),
            EventKind::Trace if name == "process_vm_writev" => Some("w"),
            EventKind::IoUring => self.ring_direction(),
            _ => None,
        }
    }

    /// `fs.path.…` and `evt.abspath`.
    fn path_of_call(&self, field: &FieldRef) -> Option<Value<'_>> {
        let raw = |span| text(self.record.text(span));
        let key = match &field.arg {
            FieldArg::Key(key) => &**key,
            FieldArg::None | FieldArg::Index(_) => "",
        };
        match (&self.detail, field.field, key) {
            (Detail::Open(_, path), Field::FsPathName, _) | (Detail::Open(_, path), Field::EvtAbspath, "") => {
                Some(Value::Text(path))
            }
            (Detail::Unlink(_, path) | Detail::Chmod(_, path), Field::FsPathName, _)
            | (Detail::Unlink(_, path) | Detail::Chmod(_, path), Field::EvtAbspath, "") => Some(Value::Text(path)),
            (Detail::Open(open, _), Field::FsPathNameraw, _) => raw(open.name),
            (Detail::Unlink(change, _) | Detail::Chmod(change, _), Field::FsPathNameraw, _)
            | (Detail::Rename(change, ..), Field::FsPathSourceraw, _) => raw(change.name),
            (Detail::Rename(change, ..), Field::FsPathTargetraw, _) => raw(change.new_name),
            (Detail::Rename(_, from, _), Field::FsPathSource, _)
            | (Detail::Rename(_, from, _), Field::EvtAbspath, "src") => Some(Value::Text(from)),
            (Detail::Rename(_, _, to), Field::FsPathTarget, _)
            | (Detail::Rename(_, _, to), Field::EvtAbspath, "dst") => Some(Value::Text(to)),
            (Detail::Call(call), _, _) => self.call_path_value(call, field.field, key),
            _ => None,
        }
    }

    fn time_text(&self, text: fn(&clock::Texts) -> &str) -> Option<Value<'_>> {
        let texts = self.lazy.times.get_or_init(|| clock::texts(self.wall_ns(self.time_ns)));
        Some(text(texts).into())
    }

    fn event_value(&self, field: &FieldRef) -> Option<Value<'_>> {
        let opened = |wanted: fn(&Open) -> bool| match &self.detail {
            Detail::Open(open, _) => Some(Value::Flag(wanted(open))),
            Detail::Process(_)
            | Detail::Fork(_)
            | Detail::Rename(..)
            | Detail::Unlink(..)
            | Detail::Chmod(..)
            | Detail::Ended(..)
            | Detail::Call(_)
            | Detail::Socket(..) => None,
        };
        let moved = || {
            if let (Detail::Socket(socket, _), EventKind::Send | EventKind::Receive) = (&self.detail, self.kind) {
                Some(socket)
            } else {
                None
            }
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
            (Field::EvtTimeS, _) => self.time_text(|texts| &texts.time_of_day),
            (Field::EvtTimeIso8601, _) => self.time_text(|texts| &texts.iso8601),
            (Field::EvtDatetime, _) => self.time_text(|texts| &texts.date_and_time),
            (Field::EvtDatetimeS, _) => self.time_text(|texts| &texts.date_and_second),
            (Field::EvtRawtimeS, _) => Some(Value::Number(self.wall_ns(self.time_ns).div_euclid(SECOND_NS))),
            (Field::EvtRawtimeNs, _) => Some(Value::Number(self.wall_ns(self.time_ns).rem_euclid(SECOND_NS))),
            (Field::EvtIsIo, _) => Some(Value::Flag(self.direction().is_some())),
            (Field::EvtIsIoRead, _) => Some(Value::Flag(self.direction() == Some("r"))),
            (Field::EvtIsIoWrite, _) => Some(Value::Flag(self.direction() == Some("w"))),
            (Field::EvtIoDir, _) => self.direction().map(Value::from),
            (Field::EvtIsSyslog, _) => Some(Value::Flag(false)),
            (Field::EvtBuffer, _) => Some(Value::Text(self.record.bytes(moved()?.data))),
            (Field::EvtBuflen, _) => Some(Value::Number(i64::from(moved()?.result))),
            (Field::EvtAbspath, _) => self.path_of_call(field),
            (Field::EvtIoUring, _) => Some(Value::Flag(self.is_by_ring())),
            (Field::EvtDuration, _) => {
                let Detail::Ended(_, traffic) = &self.detail else {
                    return None;
                };
                i64::try_from(traffic.duration_ns).ok().map(Value::Number)
            }
            (Field::EvtArgs | Field::EvtInfo, _) => Some(Value::Text(self.arguments())),
            (Field::EvtArg, FieldArg::Key(key)) => self.argument(key, false),
            (Field::EvtRawarg, FieldArg::Key(key)) => self.argument(key, true),
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

    fn time_ns(&self) -> u64 {
        self.time_ns
    }

    fn steady(&self) -> Option<Steady> {
        let mut name = [0; 16];
        let length = self.comm.len().min(name.len());
        name[..length].copy_from_slice(&self.comm[..length]);
        Some(Steady {
            process: self.process.version.0,
            name,
        })
    }

    fn weight(&self) -> u64 {
        self.count()
    }

    fn identity(&self, subject: Subject) -> Option<u128> {
        match subject {
            Subject::Process => Some(self.process.identity_number()),
            Subject::Lineage => Some(self.process.lineage().identity_number()),
            Subject::File => self.file_identity(),
            // A container is known by its pid namespace: each has one of its own, unless it shares the host's.
            Subject::Container => {
                let namespace = self.process.namespaces.pid;
                (namespace != 0 && !self.process.is_in_initial_pid_namespace()).then(|| u128::from(namespace))
            }
            Subject::Run => self.host.in_run.then_some(0),
            Subject::User => Some(u128::from(self.credentials.uid)),
        }
    }

    fn ancestry(&self, visit: &mut dyn FnMut(u128) -> bool) {
        for ancestor in self.process.ancestors() {
            if !visit(ancestor.identity_number()) {
                return;
            }
        }
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
            Field::ThreadCapPermitted => text(
                self.lazy
                    .permitted
                    .get_or_init(|| names::capabilities(self.credentials.permitted).into_bytes().into()),
            ),
            Field::FsPathName
            | Field::FsPathNameraw
            | Field::FsPathSource
            | Field::FsPathSourceraw
            | Field::FsPathTarget
            | Field::FsPathTargetraw => self.path_of_call(field),
            Field::DnsQname => text(&self.dns()?.question),
            Field::DnsZone => text(dns::zone(&self.dns()?.question)),
            Field::TlsSni => self.server_name().map(Value::Text),
            Field::ForkNewNamespaces => self.new_namespaces().map(Value::Text),
            Field::TargetPid => self.target()?.pid.map(|pid| Value::Number(i64::from(pid))),
            Field::TargetName => text(&self.target()?.process.as_ref()?.image.name),
            Field::TargetExepath => text(&self.target()?.process.as_ref()?.image.executable),
            Field::TargetRelation => self.target().map(|target| target.relation.into()),
            Field::TargetIsAgent => self.target().map(|target| Value::Flag(target.is_agent)),
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
            Field::DnsAnswer => {
                for answer in self.dns_answers() {
                    if !visit(Value::Text(answer)) {
                        return;
                    }
                }
                return;
            }
            Field::ProcStdinWriter | Field::ProcStdinWriterCmdline => {
                let is_name = field.field == Field::ProcStdinWriter;
                for (name, cmdline) in self.process.image.feeders() {
                    if !visit(Value::Text(if is_name { name } else { cmdline })) {
                        return;
                    }
                }
                return;
            }
            Field::ProcStdoutReader | Field::ProcStdoutReaderCmdline => {
                let is_name = field.field == Field::ProcStdoutReader;
                for (name, cmdline) in self.process.image.fed() {
                    if !visit(Value::Text(if is_name { name } else { cmdline })) {
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
    fn of(socket: &Socket, is_server: bool) -> Self {
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
        AF_INET6 => "ipv6",
        AF_NETLINK => "netlink",
        AF_PACKET => "packet",
        _ => "other",
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

/// What a record tells, and the paths that the kernel resolved for it where they are those of the record.
fn told(
    record: &Record<'_>,
    body: &Body,
    known: Option<&'static Known>,
    resolved: Option<Paths>,
    lazy: &mut Lazy,
) -> Option<(EventKind, Detail)> {
    let walked = |span: Span| {
        let mut path = Vec::with_capacity(usize::from(span.len));
        record.walked_path(span, &mut path);
        path.into_boxed_slice()
    };
    let passed = |base, name| record.passed_path(base, name).into_boxed_slice();
    // The name itself is what these calls act on, be it a link or not.
    let named = |resolved: Option<Box<[u8]>>, base, name| {
        resolved
            .filter(|path| is_of_name(path, record.text(name)))
            .unwrap_or_else(|| passed(base, name))
    };
    let mut resolved = resolved;
    let mut first = || resolved.take().map(|paths| paths.path);
    Some(match body {
        Body::Exec(_) => (EventKind::Exec, Detail::Process(None)),
        Body::Fork(fork) => (EventKind::Fork, Detail::Fork(*fork)),
        Body::Exit(exit) => (EventKind::Exit, Detail::Process(Some(exit.status))),
        Body::Open(open) if open.name.len > 0 => (EventKind::Open, Detail::Open(*open, passed(open.path, open.name))),
        Body::Open(open) => (EventKind::Open, Detail::Open(*open, walked(open.path))),
        Body::Rename(change) => {
            let (from, to) = resolved.map_or((None, None), |paths| (Some(paths.path), paths.new_path));
            let from = named(from, change.base, change.name);
            let to = named(to, change.new_base, change.new_name);
            (EventKind::Rename, Detail::Rename(*change, from, to))
        }
        Body::Unlink(change) => {
            let path = named(first(), change.base, change.name);
            (EventKind::Unlink, Detail::Unlink(*change, path))
        }
        Body::Chmod(change) => {
            let path = first().unwrap_or_else(|| passed(change.base, change.name));
            (EventKind::Chmod, Detail::Chmod(*change, path))
        }
        Body::Connect(socket) => (EventKind::Connect, Detail::Socket(*socket, unix_name(record, socket))),
        Body::Bind(socket) => (EventKind::Bind, Detail::Socket(*socket, unix_name(record, socket))),
        Body::Listen(socket) => (EventKind::Listen, Detail::Socket(*socket, Box::default())),
        Body::Accept(socket) => (EventKind::Accept, Detail::Socket(*socket, Box::default())),
        Body::Send(socket) | Body::Receive(socket) => {
            let kind = if matches!(body, Body::Send(_)) {
                EventKind::Send
            } else {
                EventKind::Receive
            };
            let question = dns_message(record, socket, kind).map(|message| message.question);
            (kind, Detail::Socket(*socket, question.unwrap_or_default().into()))
        }
        Body::Call(call) => {
            let kind = known?.kind?;
            if let Some(paths) = resolved {
                called::take_resolved(record, call, kind, paths, lazy);
            }
            (kind, Detail::Call(*call))
        }
        Body::Chdir(_) | Body::Ended(_) | Body::Resolved(_) => return None,
    })
}

/// Whether a resolved path can be what a passed name led to: both end alike, unless the name ends in no name.
fn is_of_name(path: &[u8], name: &[u8]) -> bool {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    match file_name_of(name) {
        b"" | b"." | b".." => true,
        last => file_name_of(path) == last,
    }
}

/// Whether a program was executed by a descriptor.
fn is_by_descriptor(record: &Record<'_>) -> bool {
    matches!(record.body, Body::Exec(exec) if exec.exec_flags & exec_flags::BY_DESCRIPTOR != 0)
}

/// The end of a connection, or of the attempt to make one.
fn ended_connection(now_ns: u64, ended: &Ended, connection: &Connection) -> (EventKind, Detail) {
    let ends = &ended.ends;
    let opened = &connection.socket;
    // The kernel has as a rule given the port back before it tells.
    let (local, local_port) = match ends.local_port {
        0 => (opened.local, opened.local_port),
        port => (ends.local, port),
    };
    let (remote, remote_port) = match ends.remote_port {
        0 => (opened.remote, opened.remote_port),
        port => (ends.remote, port),
    };
    let socket = Socket {
        local,
        remote,
        local_port,
        remote_port,
        family: ends.family,
        protocol: ends.protocol,
        descriptor: opened.descriptor,
        identity: ended.socket,
        ..Socket::default()
    };
    if ended.unanswered != 0 {
        // Without an error it was the process that gave up.
        let error = i32::try_from(ended.error).unwrap_or(0);
        let result = if error == 0 { ECANCELED } else { -error };
        return (
            EventKind::Connect,
            Detail::Socket(Socket { result, ..socket }, Box::default()),
        );
    }
    let traffic = Traffic {
        received: ended.received,
        sent: ended.sent,
        duration_ns: now_ns.saturating_sub(connection.since_ns),
        is_server: connection.is_server,
    };
    (EventKind::SocketEnd, Detail::Ended(socket, traffic))
}

/// The DNS message of a record, if what it carries went to or came from the port of DNS.
fn dns_message(record: &Record<'_>, socket: &Socket, kind: EventKind) -> Option<dns::Message> {
    let is_dns = socket.remote_port == DNS_PORT || socket.local_port == DNS_PORT;
    let bytes = record.bytes(socket.data);
    let message = if !is_dns {
        None
    } else if socket.protocol == IPPROTO_TCP {
        dns::over_tcp(bytes)
    } else {
        dns::message(bytes)
    };
    // A server's own questions and answers go the other way.
    message.filter(|message| message.is_response == (kind == EventKind::Receive))
}

/// `fd.name`, `fd.directory`, `fd.filename` of a path.
#[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields")]
fn path_value(path: &[u8], field: Field) -> Option<Value<'_>> {
    match field {
        Field::FdName => Some(Value::Text(path)),
        Field::FdDirectory => Some(Value::Text(directory_of(path))),
        Field::FdFilename => Some(Value::Text(file_name_of(path))),
        _ => None,
    }
}

/// What is told of a file by its inode.
#[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields")]
fn inode_value(inode: u64, device: u32, mode: u32, layer: u32, field: Field) -> Option<Value<'static>> {
    match field {
        Field::FdType => Some(names::file_type(mode).0.into()),
        Field::FdTypechar => Some(names::file_type(mode).1.into()),
        Field::FdIno => i64::try_from(inode).ok().map(Value::Number),
        Field::FdDev => Some(Value::Number(i64::from(device))),
        Field::FdDevMajor => Some(Value::Number(i64::from(device >> 20))),
        Field::FdDevMinor => Some(Value::Number(i64::from(device & 0xf_ffff))),
        Field::FdIsUpperLayer => Some(Value::Flag(layer & open_layer::UPPER != 0)),
        Field::FdIsLowerLayer => Some(Value::Flag(layer & open_layer::LOWER != 0)),
        _ => None,
    }
}

/// Path of a UNIX socket; an abstract name begins with `@` in the place of its NUL.
fn unix_name(record: &Record<'_>, socket: &Socket) -> Box<[u8]> {
    match record.bytes(socket.data) {
        [0, name @ ..] => [b"@", until_nul(name)].concat().into(),
        path => until_nul(path).into(),
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
mod text_tests {
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
