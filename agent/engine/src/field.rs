//! The field registry: every name a condition or an output may use, in one table.
//!
//! Names and meanings are Falco's; ours are marked in their documentation by the rule reference.

use std::fmt;

use crate::event::{EventKind, KindSet};

/// What the values of a field are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldType {
    /// Text of any bytes.
    Text,
    /// A path; `pmatch` compares by component.
    Path,
    /// A number, time or duration.
    Number,
    /// Yes or no.
    Flag,
    /// A port number.
    Port,
    /// An address.
    Address,
    /// An address that is compared with networks.
    Network,
    /// Text or number, depending on the argument (`evt.arg[…]`).
    Any,
}

impl FieldType {
    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "path",
            Self::Number => "number",
            Self::Flag => "flag",
            Self::Port => "port",
            Self::Address => "address",
            Self::Network => "network",
            Self::Any => "text or number",
        }
    }

    /// The word with its article, as in "`proc.pid` is a number".
    pub(crate) fn phrase(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Path => "a path",
            Self::Number => "a number",
            Self::Flag => "a flag",
            Self::Port => "a port",
            Self::Address | Self::Network => "an address",
            Self::Any => "text or a number",
        }
    }
}

/// What may stand in brackets after a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArgKind {
    /// Nothing.
    None,
    /// A number or nothing.
    OptionalIndex,
    /// A number.
    RequiredIndex,
    /// A name or nothing.
    OptionalKey,
    /// A name.
    RequiredKey,
}

/// How many values a field has in one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// At most one.
    Single,
    /// Any number, when asked without an index: a check holds when it holds for some value.
    List,
    /// Two, such as the addresses of both ends: a check holds when it holds for either, `!=` when it holds for both.
    Either,
}

/// Who supplies a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Supply {
    /// The agent, in this version.
    Now,
    /// The agent, inside containers and clusters: unset elsewhere.
    Cluster,
    /// Nobody yet: rules that use it are reported as inactive.
    Later,
}

const ALL: KindSet = KindSet::ALL;
const OPEN: KindSet = KindSet::of(&[EventKind::Open]);
const SOCKET: KindSet = KindSet::of(&[
    EventKind::Connect,
    EventKind::Listen,
    EventKind::Accept,
    EventKind::Send,
    EventKind::Bind,
    EventKind::Receive,
    EventKind::SocketEnd,
    EventKind::Socket,
    EventKind::Duplicate,
]);
/// Calls about a descriptor that can be a file.
const FILE: KindSet = KindSet::of(&[
    EventKind::Open,
    EventKind::Chmod,
    EventKind::Chown,
    EventKind::Xattr,
    EventKind::Truncate,
    EventKind::Mount,
    EventKind::Copy,
    EventKind::Ioctl,
    EventKind::Namespace,
    EventKind::Trace,
    EventKind::Signal,
    EventKind::Memory,
    EventKind::Module,
    EventKind::Duplicate,
]);
const FD: KindSet = SOCKET.union(FILE);
/// Calls with one path.
const PATH: KindSet = KindSet::of(&[
    EventKind::Open,
    EventKind::Unlink,
    EventKind::Chmod,
    EventKind::Mkdir,
    EventKind::Mknod,
    EventKind::Chown,
    EventKind::Xattr,
    EventKind::Truncate,
    EventKind::Utime,
    EventKind::Mount,
    EventKind::Handle,
    EventKind::Watch,
    EventKind::Namespace,
    EventKind::System,
]);
/// Calls with two paths.
const PATHS: KindSet = KindSet::of(&[
    EventKind::Rename,
    EventKind::Link,
    EventKind::Symlink,
    EventKind::Mount,
    EventKind::Namespace,
]);
const PATH_OR_PATHS: KindSet = PATH.union(PATHS);
const SEND: KindSet = KindSet::of(&[EventKind::Send]);
const RECEIVE: KindSet = KindSet::of(&[EventKind::Receive]);
const TRANSFER: KindSet = SEND.union(RECEIVE);
const ENDED: KindSet = KindSet::of(&[EventKind::SocketEnd]);
const FORK: KindSet = KindSet::of(&[EventKind::Fork]);
/// What may change who a process is.
const BECOMING: KindSet = KindSet::of(&[EventKind::Exec, EventKind::Credentials]);

macro_rules! fields {
    ($($variant:ident: $name:literal, $ty:ident, $arg:ident, $shape:ident, $kinds:ident, $supply:ident, $doc:literal;)*) => {
        /// A field of the rule language. Named as in rules: `proc.aname` is `ProcAname`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Field {
            $(#[doc = concat!("`", $name, "`: ", $doc, ".")] $variant,)*
        }

        impl Field {
            /// Every field, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name in rules, such as `proc.aname`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What its values are.
            pub fn ty(self) -> FieldType {
                match self { $(Self::$variant => FieldType::$ty,)* }
            }

            /// What may stand in brackets after it.
            pub fn arg_kind(self) -> ArgKind {
                match self { $(Self::$variant => ArgKind::$arg,)* }
            }

            /// How many values it has when asked without an index.
            pub fn shape(self) -> Shape {
                match self { $(Self::$variant => Shape::$shape,)* }
            }

            /// The kinds of event that can supply it.
            pub fn kinds(self) -> KindSet {
                match self { $(Self::$variant => $kinds,)* }
            }

            /// Who supplies it.
            pub fn supply(self) -> Supply {
                match self { $(Self::$variant => Supply::$supply,)* }
            }

            /// One line for people, without a full stop.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$variant => $doc,)* }
            }

            /// The field of this name.
            pub fn find(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

fields! {
    EvtType: "evt.type", Text, None, Single, ALL, Now, "System call or event, such as `execve`, `openat` or `connect`";
    EvtNum: "evt.num", Number, None, Single, ALL, Now, "Number of the event since the agent started";
    EvtTime: "evt.time", Number, None, Single, ALL, Now, "When it happened, in nanoseconds since 1970";
    EvtTimeS: "evt.time.s", Text, None, Single, ALL, Now, "Time of day when it happened, to the second, as text";
    EvtTimeIso8601: "evt.time.iso8601", Text, None, Single, ALL, Now, "When it happened, as ISO 8601 text";
    EvtDatetime: "evt.datetime", Text, None, Single, ALL, Now, "When it happened, with date, as text";
    EvtDatetimeS: "evt.datetime.s", Text, None, Single, ALL, Now, "When it happened, with date, to the second";
    EvtRawtime: "evt.rawtime", Number, None, Single, ALL, Now, "When it happened, in nanoseconds since 1970";
    EvtRawtimeS: "evt.rawtime.s", Number, None, Single, ALL, Now, "Whole seconds of the time it happened";
    EvtRawtimeNs: "evt.rawtime.ns", Number, None, Single, ALL, Now, "Nanoseconds within the second it happened";
    EvtReltime: "evt.reltime", Number, None, Single, ALL, Later, "Nanoseconds since the first event";
    EvtDir: "evt.dir", Text, None, Single, ALL, Now, "Always `<`: events are reported when the call returns";
    EvtCategory: "evt.category", Text, None, Single, ALL, Now, "Category of the event: `process`, `file`, `net`, `IO`, `user`, `memory`, `system` or `other`";
    EvtCpu: "evt.cpu", Number, None, Single, ALL, Later, "Processor it happened on";
    EvtHostname: "evt.hostname", Text, None, Single, ALL, Now, "Name of the host";
    EvtSource: "evt.source", Text, None, Single, ALL, Now, "Always `syscall`";
    EvtInfo: "evt.info", Text, None, Single, ALL, Now, "The same as `evt.args`";
    EvtArgs: "evt.args", Text, None, Single, ALL, Now, "Arguments of the event, as text: `name=value` joined by blanks";
    EvtArg: "evt.arg", Any, RequiredKey, Single, ALL, Now, "Argument of the event by name, such as `evt.arg[mode]` or `evt.arg.mode`; numbers of `mode`, and of `flags` of an open, are text in Falco's notation, such as `S_ISUID|S_IRUSR` or `O_RDONLY|O_CLOEXEC`";
    EvtRawarg: "evt.rawarg", Any, RequiredKey, Single, ALL, Now, "Argument of the event by name, as the number it is";
    EvtRes: "evt.res", Text, None, Single, ALL, Now, "`SUCCESS`, or the name of the error";
    EvtRawres: "evt.rawres", Number, None, Single, ALL, Now, "What the call returned: a descriptor or 0, or a negative error number";
    EvtFailed: "evt.failed", Flag, None, Single, ALL, Now, "Whether the call failed";
    EvtCount: "evt.count", Number, None, Single, ALL, Now, "Always 1";
    EvtIsOpenRead: "evt.is_open_read", Flag, None, Single, OPEN, Now, "Whether a file was opened for reading";
    EvtIsOpenWrite: "evt.is_open_write", Flag, None, Single, OPEN, Now, "Whether a file was opened for writing";
    EvtIsOpenExec: "evt.is_open_exec", Flag, None, Single, OPEN, Now, "Whether a file was created with an executable bit";
    EvtIsOpenCreate: "evt.is_open_create", Flag, None, Single, OPEN, Now, "Whether the open created the file";
    EvtIsIo: "evt.is_io", Flag, None, Single, ALL, Now, "Whether the call moves bytes";
    EvtIsIoRead: "evt.is_io_read", Flag, None, Single, ALL, Now, "Whether the call reads or receives bytes";
    EvtIsIoWrite: "evt.is_io_write", Flag, None, Single, ALL, Now, "Whether the call writes or sends bytes";
    EvtIoDir: "evt.io_dir", Text, None, Single, ALL, Now, "`r` for calls that read or receive, `w` for calls that write or send";
    EvtIsWait: "evt.is_wait", Flag, None, Single, ALL, Later, "Whether the event makes the thread wait";
    EvtIsAsync: "evt.is_async", Flag, None, Single, ALL, Later, "Whether the event is asynchronous";
    EvtIsSyslog: "evt.is_syslog", Flag, None, Single, ALL, Now, "Whether the event writes to the system log: always false, since such writes are not recorded";
    EvtLatency: "evt.latency", Number, None, Single, ALL, Later, "Nanoseconds between entry and return";
    EvtBuffer: "evt.buffer", Text, None, Single, TRANSFER, Now, "First bytes sent or received, of what is looked into: DNS and the start of TLS";
    EvtBuflen: "evt.buflen", Number, None, Single, TRANSFER, Now, "Bytes sent or received";
    EvtAbspath: "evt.abspath", Text, OptionalKey, Single, PATH_OR_PATHS, Now, "Absolute path that the call works on; of two, `evt.abspath[src]` and `evt.abspath[dst]`";
    EvtIoUring: "evt.io_uring", Flag, None, Single, ALL, Now, "Whether it was asked for through io_uring";
    EvtDuration: "evt.duration", Number, None, Single, ENDED, Now, "Nanoseconds that the connection lived";
    SyscallType: "syscall.type", Text, None, Single, ALL, Now, "Like `evt.type`, for system calls only";
    ProcName: "proc.name", Text, None, Single, ALL, Now, "Name of the process (`comm`, at most 15 bytes)";
    ProcExe: "proc.exe", Text, None, Single, ALL, Now, "Zeroth argument";
    ProcExepath: "proc.exepath", Path, None, Single, ALL, Now, "Absolute path of the executable, resolved by the kernel";
    ProcCmdline: "proc.cmdline", Text, None, Single, ALL, Now, "Name and arguments, joined by blanks";
    ProcExeline: "proc.exeline", Text, None, Single, ALL, Now, "Zeroth argument and arguments, joined by blanks";
    ProcArgs: "proc.args", Text, None, Single, ALL, Now, "Arguments without the zeroth, joined by blanks";
    ProcArg: "proc.arg", Text, RequiredIndex, Single, ALL, Now, "One argument by number: `proc.arg[0]` is the one after the program";
    ProcCmdnargs: "proc.cmdnargs", Number, None, Single, ALL, Now, "Number of arguments without the zeroth";
    ProcCmdlenargs: "proc.cmdlenargs", Number, None, Single, ALL, Now, "Total length of the arguments, without the blanks between";
    ProcCwd: "proc.cwd", Path, None, Single, ALL, Now, "Working directory";
    ProcPid: "proc.pid", Number, None, Single, ALL, Now, "Process id";
    ProcPpid: "proc.ppid", Number, None, Single, ALL, Now, "Process id of the parent";
    ProcVpid: "proc.vpid", Number, None, Single, ALL, Now, "Process id in the process's own pid namespace";
    ProcPvpid: "proc.pvpid", Number, None, Single, ALL, Now, "Parent's process id in its own pid namespace";
    ProcPname: "proc.pname", Text, None, Single, ALL, Now, "Name of the parent";
    ProcPexe: "proc.pexe", Text, None, Single, ALL, Now, "Zeroth argument of the parent";
    ProcPexepath: "proc.pexepath", Path, None, Single, ALL, Now, "Absolute path of the parent's executable";
    ProcPcmdline: "proc.pcmdline", Text, None, Single, ALL, Now, "Name and arguments of the parent";
    ProcAname: "proc.aname", Text, OptionalIndex, List, ALL, Now, "Names of all ancestors, or of one: `proc.aname[1]` is the parent, `proc.aname[2]` the grandparent";
    ProcAexe: "proc.aexe", Text, OptionalIndex, List, ALL, Now, "Zeroth arguments of all ancestors, or of one";
    ProcAexepath: "proc.aexepath", Path, OptionalIndex, List, ALL, Now, "Executables of all ancestors, or of one";
    ProcApid: "proc.apid", Number, OptionalIndex, List, ALL, Now, "Process ids of all ancestors, or of one";
    ProcAcmdline: "proc.acmdline", Text, OptionalIndex, List, ALL, Now, "Command lines of all ancestors, or of one";
    ProcAenv: "proc.aenv", Text, OptionalKey, Single, ALL, Later, "Environment of ancestors";
    ProcEnv: "proc.env", Text, OptionalKey, Single, ALL, Now, "Environment variable by name, such as `proc.env[LD_PRELOAD]` (allow-listed names only); without a name all of them";
    ProcScript: "proc.script", Path, None, Single, ALL, Now, "Path of the script, when the program is an interpreter that runs one";
    ProcNlink: "proc.nlink", Number, None, Single, ALL, Now, "Number of links to the executable when it was started; 0 when it had been deleted";
    ProcIsExeWritable: "proc.is_exe_writable", Flag, None, Single, ALL, Now, "Whether the user who runs the executable may write to it";
    ProcIsExeUpperLayer: "proc.is_exe_upper_layer", Flag, None, Single, ALL, Now, "Whether the executable is in the upper layer of an overlay file system";
    ProcIsExeLowerLayer: "proc.is_exe_lower_layer", Flag, None, Single, ALL, Now, "Whether the executable is in a lower layer of an overlay file system";
    ProcIsExeFromMemfd: "proc.is_exe_from_memfd", Flag, None, Single, ALL, Now, "Whether the executable is in anonymous memory";
    ProcIsExeSecure: "proc.is_exe_secure", Flag, None, Single, ALL, Now, "Whether the kernel raised privileges when it was started: set-user-id, set-group-id or file capabilities";
    ProcExeIno: "proc.exe_ino", Number, None, Single, ALL, Now, "Inode number of the executable";
    ProcExeInoCtime: "proc.exe_ino.ctime", Number, None, Single, ALL, Now, "When the inode of the executable was last changed, in nanoseconds since 1970";
    ProcExeInoMtime: "proc.exe_ino.mtime", Number, None, Single, ALL, Now, "When the executable was last written, in nanoseconds since 1970";
    ProcExeInoCtimeDurationProcStart: "proc.exe_ino.ctime_duration_proc_start", Number, None, Single, ALL, Now, "Nanoseconds between the inode's last change and the start of the process";
    ProcExeInoCtimeDurationPidnsStart: "proc.exe_ino.ctime_duration_pidns_start", Number, None, Single, ALL, Later, "Nanoseconds between the inode's last change and the start of the pid namespace";
    ProcDuration: "proc.duration", Number, None, Single, ALL, Now, "Nanoseconds since the process was started";
    ProcPpidDuration: "proc.ppid.duration", Number, None, Single, ALL, Now, "Nanoseconds since the parent was started";
    ProcPidTs: "proc.pid.ts", Number, None, Single, ALL, Now, "When the process was started, in nanoseconds since 1970";
    ProcPpidTs: "proc.ppid.ts", Number, None, Single, ALL, Now, "When the parent was started, in nanoseconds since 1970";
    ProcSid: "proc.sid", Number, None, Single, ALL, Now, "Session id";
    ProcSname: "proc.sname", Text, None, Single, ALL, Now, "Name of the session leader";
    ProcSidExe: "proc.sid.exe", Text, None, Single, ALL, Now, "Zeroth argument of the session leader";
    ProcSidExepath: "proc.sid.exepath", Path, None, Single, ALL, Now, "Executable of the session leader";
    ProcVpgid: "proc.vpgid", Number, None, Single, ALL, Now, "Process group in the process's own pid namespace";
    ProcVpgidName: "proc.vpgid.name", Text, None, Single, ALL, Now, "Name of the process group leader";
    ProcVpgidExe: "proc.vpgid.exe", Text, None, Single, ALL, Now, "Zeroth argument of the process group leader";
    ProcVpgidExepath: "proc.vpgid.exepath", Path, None, Single, ALL, Now, "Executable of the process group leader";
    ProcPgid: "proc.pgid", Number, None, Single, ALL, Now, "Process group";
    ProcPgidName: "proc.pgid.name", Text, None, Single, ALL, Now, "Name of the process group leader";
    ProcPgidExe: "proc.pgid.exe", Text, None, Single, ALL, Now, "Zeroth argument of the process group leader";
    ProcPgidExepath: "proc.pgid.exepath", Path, None, Single, ALL, Now, "Executable of the process group leader";
    ProcIsVpgidLeader: "proc.is_vpgid_leader", Flag, None, Single, ALL, Now, "Whether the process leads its process group";
    ProcIsPgidLeader: "proc.is_pgid_leader", Flag, None, Single, ALL, Now, "Whether the process leads its process group";
    ProcIsSidLeader: "proc.is_sid_leader", Flag, None, Single, ALL, Now, "Whether the process leads its session";
    ProcTty: "proc.tty", Number, None, Single, ALL, Now, "Number of the controlling terminal; 0 when there is none";
    ProcLoginshellid: "proc.loginshellid", Number, None, Single, ALL, Now, "Process id of the oldest shell among the ancestors";
    ProcStdinType: "proc.stdin.type", Text, None, Single, ALL, Now, "Type of standard input, such as `file`, `pipe` or `ipv4`";
    ProcStdinName: "proc.stdin.name", Text, None, Single, ALL, Now, "Name of standard input";
    ProcStdinWriter: "proc.stdin.writer", Text, None, List, ALL, Now, "Names of the processes whose output was its standard input, through pipes, when it was executed; nearest first";
    ProcStdinWriterCmdline: "proc.stdin.writer.cmdline", Text, None, List, ALL, Now, "Command lines of these processes, 256 bytes of each";
    ProcStdoutType: "proc.stdout.type", Text, None, Single, ALL, Now, "Type of standard output";
    ProcStdoutName: "proc.stdout.name", Text, None, Single, ALL, Now, "Name of standard output";
    ProcStdoutReader: "proc.stdout.reader", Text, None, List, ALL, Now, "Names of the processes whose standard input was its output, through pipes, when it was executed; nearest first";
    ProcStdoutReaderCmdline: "proc.stdout.reader.cmdline", Text, None, List, ALL, Now, "Command lines of these processes, 256 bytes of each";
    ProcStderrType: "proc.stderr.type", Text, None, Single, ALL, Now, "Type of standard error";
    ProcStderrName: "proc.stderr.name", Text, None, Single, ALL, Now, "Name of standard error";
    ProcNchilds: "proc.nchilds", Number, None, Single, ALL, Later, "Number of living children";
    ProcNthreads: "proc.nthreads", Number, None, Single, ALL, Later, "Number of living threads";
    ProcFdopencount: "proc.fdopencount", Number, None, Single, ALL, Later, "Number of open descriptors";
    ProcFdlimit: "proc.fdlimit", Number, None, Single, ALL, Later, "Limit of open descriptors";
    ProcFdusage: "proc.fdusage", Number, None, Single, ALL, Later, "Open descriptors, in percent of the limit";
    ProcVmsize: "proc.vmsize", Number, None, Single, ALL, Later, "Virtual memory";
    ProcVmrss: "proc.vmrss", Number, None, Single, ALL, Later, "Resident memory";
    ProcVmswap: "proc.vmswap", Number, None, Single, ALL, Later, "Swapped memory";
    ProcIsContainerHealthcheck: "proc.is_container_healthcheck", Flag, None, Single, ALL, Cluster, "Whether the process is a health check of its container";
    ProcIsContainerLivenessProbe: "proc.is_container_liveness_probe", Flag, None, Single, ALL, Cluster, "Whether the process is a liveness probe of its container";
    ProcIsContainerReadinessProbe: "proc.is_container_readiness_probe", Flag, None, Single, ALL, Cluster, "Whether the process is a readiness probe of its container";
    ThreadTid: "thread.tid", Number, None, Single, ALL, Now, "Thread id";
    ThreadVtid: "thread.vtid", Number, None, Single, ALL, Now, "Thread id in the process's own pid namespace; only of main threads";
    ThreadIsmain: "thread.ismain", Flag, None, Single, ALL, Now, "Whether the thread is the main thread of its process";
    ThreadCapEffective: "thread.cap_effective", Text, None, Single, ALL, Now, "Effective capabilities, such as `CAP_SYS_ADMIN CAP_NET_RAW`";
    ThreadCapPermitted: "thread.cap_permitted", Text, None, Single, ALL, Now, "Permitted capabilities, likewise";
    ThreadCapInheritable: "thread.cap_inheritable", Text, None, Single, ALL, Later, "Inheritable capabilities";
    ThreadCgroups: "thread.cgroups", Text, None, Single, ALL, Later, "Control groups";
    ThreadCgroup: "thread.cgroup", Text, RequiredKey, Single, ALL, Later, "Control group by subsystem";
    UserUid: "user.uid", Number, None, Single, ALL, Now, "User id";
    UserName: "user.name", Text, None, Single, ALL, Now, "Name of the user on the host";
    UserEuid: "user.euid", Number, None, Single, ALL, Now, "Effective user id";
    UserLoginuid: "user.loginuid", Number, None, Single, ALL, Now, "Login user id; -1 when nobody logged in";
    UserLoginname: "user.loginname", Text, None, Single, ALL, Now, "Name of the login user";
    UserHomedir: "user.homedir", Path, None, Single, ALL, Later, "Home directory of the user";
    UserShell: "user.shell", Path, None, Single, ALL, Later, "Shell of the user";
    GroupGid: "group.gid", Number, None, Single, ALL, Now, "Group id";
    GroupName: "group.name", Text, None, Single, ALL, Now, "Name of the group on the host";
    FdName: "fd.name", Path, None, Single, FD, Now, "Absolute path of a file, or `lip:lport->rip:rport` of a socket";
    FdNameraw: "fd.nameraw", Text, None, Single, FILE, Now, "Path as it was given to the call";
    FdDirectory: "fd.directory", Path, None, Single, FILE, Now, "Directory of the file";
    FdFilename: "fd.filename", Text, None, Single, FILE, Now, "Name of the file within its directory";
    FdNum: "fd.num", Number, None, Single, FD, Now, "Descriptor number";
    FdType: "fd.type", Text, None, Single, FD, Now, "`file`, `directory`, `ipv4`, `ipv6`, `unix`, …";
    FdTypechar: "fd.typechar", Text, None, Single, FD, Now, "Type as one letter: `f` file, `4` IPv4, `6` IPv6, `u` unix, …";
    FdTypes: "fd.types", Text, OptionalIndex, List, FD, Later, "Types of all descriptors of the process";
    FdNameChanged: "fd.name_changed", Flag, None, Single, SOCKET, Now, "Whether the event gave the descriptor its name: a connect or accept, or a datagram to a peer that the socket is not connected to";
    FdConnected: "fd.connected", Flag, None, Single, SOCKET, Now, "Whether the socket is connected";
    FdIno: "fd.ino", Number, None, Single, FILE, Now, "Inode number";
    FdDev: "fd.dev", Number, None, Single, FILE, Now, "Device number";
    FdDevMajor: "fd.dev.major", Number, None, Single, FILE, Now, "Major device number";
    FdDevMinor: "fd.dev.minor", Number, None, Single, FILE, Now, "Minor device number";
    FdUid: "fd.uid", Text, None, Single, FD, Later, "Descriptor number and thread id";
    FdContainername: "fd.containername", Text, None, Single, FD, Cluster, "Container id and name of the file";
    FdContainerdirectory: "fd.containerdirectory", Text, None, Single, FD, Cluster, "Container id and directory of the file";
    FdIsUpperLayer: "fd.is_upper_layer", Flag, None, Single, FILE, Now, "Whether the file is in the upper layer of an overlay file system";
    FdIsLowerLayer: "fd.is_lower_layer", Flag, None, Single, FILE, Now, "Whether the file is in a lower layer of an overlay file system";
    FdProcTarget: "fd.proc_target", Text, None, Single, FILE, Now, "Whose file below /proc/PID it is: `self`, `descendant`, `ancestor` or `other`; unset elsewhere";
    FdIp: "fd.ip", Address, None, Either, SOCKET, Now, "Address of either end";
    FdCip: "fd.cip", Address, None, Single, SOCKET, Now, "Address of the client";
    FdSip: "fd.sip", Address, None, Single, SOCKET, Now, "Address of the server";
    FdLip: "fd.lip", Address, None, Single, SOCKET, Now, "Address of this end";
    FdRip: "fd.rip", Address, None, Single, SOCKET, Now, "Address of the other end";
    FdPort: "fd.port", Port, None, Either, SOCKET, Now, "Port of either end";
    FdCport: "fd.cport", Port, None, Single, SOCKET, Now, "Port of the client";
    FdSport: "fd.sport", Port, None, Single, SOCKET, Now, "Port of the server";
    FdLport: "fd.lport", Port, None, Single, SOCKET, Now, "Port of this end";
    FdRport: "fd.rport", Port, None, Single, SOCKET, Now, "Port of the other end";
    FdNet: "fd.net", Network, None, Either, SOCKET, Now, "Address of either end, for comparison with networks such as `10.0.0.0/8`";
    FdCnet: "fd.cnet", Network, None, Single, SOCKET, Now, "Address of the client, for comparison with networks";
    FdSnet: "fd.snet", Network, None, Single, SOCKET, Now, "Address of the server, for comparison with networks";
    FdLnet: "fd.lnet", Network, None, Single, SOCKET, Now, "Address of this end, for comparison with networks";
    FdRnet: "fd.rnet", Network, None, Single, SOCKET, Now, "Address of the other end, for comparison with networks";
    FdSipName: "fd.sip.name", Text, None, Single, SOCKET, Later, "Name of the server that its address was resolved from";
    FdCipName: "fd.cip.name", Text, None, Single, SOCKET, Later, "Name of the client";
    FdLipName: "fd.lip.name", Text, None, Single, SOCKET, Later, "Name of this end";
    FdRipName: "fd.rip.name", Text, None, Single, SOCKET, Later, "Name of the other end";
    FdProto: "fd.proto", Text, None, Either, SOCKET, Later, "Name of the service at the port of either end";
    FdCproto: "fd.cproto", Text, None, Single, SOCKET, Later, "Name of the service at the client's port";
    FdSproto: "fd.sproto", Text, None, Single, SOCKET, Later, "Name of the service at the server's port";
    FdLproto: "fd.lproto", Text, None, Single, SOCKET, Later, "Name of the service at this port";
    FdRproto: "fd.rproto", Text, None, Single, SOCKET, Later, "Name of the service at the other end's port";
    FdL4proto: "fd.l4proto", Text, None, Single, SOCKET, Now, "Transport: `tcp`, `udp`, `icmp` or `raw`";
    FdSockfamily: "fd.sockfamily", Text, None, Single, SOCKET, Now, "`ip` or `unix`";
    FdIsServer: "fd.is_server", Flag, None, Single, SOCKET, Now, "Whether this end is the server";
    FdIsClient: "fd.is_client", Flag, None, Single, SOCKET, Later, "Whether this end is the client";
    FdBytesIn: "fd.bytes_in", Number, None, Single, ENDED, Now, "Bytes received over the connection";
    FdBytesOut: "fd.bytes_out", Number, None, Single, ENDED, Now, "Bytes sent over the connection";
    FsPathName: "fs.path.name", Path, None, Single, PATH, Now, "Absolute path the call works on";
    FsPathNameraw: "fs.path.nameraw", Text, None, Single, PATH, Now, "Path as it was given to the call";
    FsPathSource: "fs.path.source", Path, None, Single, PATHS, Now, "First path of a call with two: absolute path before a rename, target of a link, what is mounted";
    FsPathSourceraw: "fs.path.sourceraw", Text, None, Single, PATHS, Now, "First path of a call with two, as it was given to the call";
    FsPathTarget: "fs.path.target", Path, None, Single, PATHS, Now, "Second path of a call with two: absolute path after a rename, new name of a link, where it is mounted";
    FsPathTargetraw: "fs.path.targetraw", Text, None, Single, PATHS, Now, "Second path of a call with two, as it was given to the call";
    DnsQname: "dns.qname", Text, None, Single, TRANSFER, Now, "Name asked for in a DNS query or repeated in its answer, lower case, without the last dot";
    DnsZone: "dns.zone", Text, None, Single, TRANSFER, Now, "End of that name that somebody registered: its last two labels, three below a country's `co`, `com` and the like";
    DnsAnswer: "dns.answer", Text, None, List, RECEIVE, Now, "Addresses that a DNS answer gives";
    TlsSni: "tls.sni", Text, None, Single, SEND, Now, "Name of the server that a TLS client asks for, lower case";
    TargetPid: "target.pid", Number, None, Single, FILE, Now, "Process that is signalled, traced or read: by its id, a descriptor of it, or its files below /proc";
    TargetName: "target.name", Text, None, Single, FILE, Now, "Name of that process";
    TargetExepath: "target.exepath", Path, None, Single, FILE, Now, "Executable of that process";
    TargetRelation: "target.relation", Text, None, Single, FILE, Now, "What that process is to the one that acts: `self`, `ancestor`, `descendant` or `other`; of a signal to a process group, what its leader is, or `group` when that is not known; `all` of a signal to every process";
    TargetIsAgent: "target.is_agent", Flag, None, Single, FILE, Now, "Whether that process is Staghound's own agent";
    ForkNewNamespaces: "fork.new_namespaces", Text, None, Single, FORK, Now, "Namespaces made for the new process, such as `CLONE_NEWUSER|CLONE_NEWNS`; unset when it shares all";
    ProcPrevUid: "proc.prev.uid", Number, None, Single, BECOMING, Now, "Real user id before the call or exec; `user.uid` is the one after it";
    ProcPrevEuid: "proc.prev.euid", Number, None, Single, BECOMING, Now, "Effective user id before the call or exec";
    ProcPrevGid: "proc.prev.gid", Number, None, Single, BECOMING, Now, "Real group id before the call or exec";
    ProcPrevEgid: "proc.prev.egid", Number, None, Single, BECOMING, Now, "Effective group id before the call or exec";
    ProcPrevCapEffective: "proc.prev.cap_effective", Text, None, Single, BECOMING, Now, "Effective capabilities before the call or exec, as in `thread.cap_effective`";
    ContainerId: "container.id", Text, None, Single, ALL, Cluster, "Identifier of the container; `host` outside containers";
    ContainerFullId: "container.full_id", Text, None, Single, ALL, Cluster, "Full identifier of the container";
    ContainerName: "container.name", Text, None, Single, ALL, Cluster, "Name of the container";
    ContainerType: "container.type", Text, None, Single, ALL, Cluster, "Runtime of the container";
    ContainerImage: "container.image", Text, None, Single, ALL, Cluster, "Image reference";
    ContainerImageId: "container.image.id", Text, None, Single, ALL, Cluster, "Image identifier";
    ContainerImageRepository: "container.image.repository", Text, None, Single, ALL, Cluster, "Image repository";
    ContainerImageTag: "container.image.tag", Text, None, Single, ALL, Cluster, "Image tag";
    ContainerImageDigest: "container.image.digest", Text, None, Single, ALL, Cluster, "Image digest";
    ContainerPrivileged: "container.privileged", Flag, None, Single, ALL, Cluster, "Whether the container is privileged";
    ContainerStartTs: "container.start_ts", Number, None, Single, ALL, Cluster, "When the container was started";
    ContainerDuration: "container.duration", Number, None, Single, ALL, Cluster, "Nanoseconds since the container was started";
    ContainerIp: "container.ip", Text, None, Single, ALL, Cluster, "Address of the container";
    ContainerCniJson: "container.cni.json", Text, None, Single, ALL, Cluster, "Network status of the pod";
    ContainerMounts: "container.mounts", Text, None, Single, ALL, Cluster, "Mounts of the container";
    ContainerMount: "container.mount", Text, RequiredKey, Single, ALL, Cluster, "One mount of the container, by source";
    ContainerMountSource: "container.mount.source", Text, RequiredKey, Single, ALL, Cluster, "Source of a mount";
    ContainerMountDest: "container.mount.dest", Text, RequiredKey, Single, ALL, Cluster, "Destination of a mount";
    ContainerMountMode: "container.mount.mode", Text, RequiredKey, Single, ALL, Cluster, "Mode of a mount";
    ContainerMountRdwr: "container.mount.rdwr", Text, RequiredKey, Single, ALL, Cluster, "Whether a mount is writable";
    ContainerMountPropagation: "container.mount.propagation", Text, RequiredKey, Single, ALL, Cluster, "Propagation of a mount";
    ContainerLivenessProbe: "container.liveness_probe", Text, None, Single, ALL, Cluster, "Liveness probe of the container";
    ContainerReadinessProbe: "container.readiness_probe", Text, None, Single, ALL, Cluster, "Readiness probe of the container";
    ContainerHealthcheck: "container.healthcheck", Text, None, Single, ALL, Cluster, "Health check of the container";
    ContainerLabel: "container.label", Text, RequiredKey, Single, ALL, Cluster, "Label of the container";
    ContainerLabels: "container.labels", Text, None, Single, ALL, Cluster, "Labels of the container";
    ContainerHostPid: "container.host_pid", Flag, None, Single, ALL, Cluster, "Whether the container shares the host's pid namespace";
    ContainerHostNetwork: "container.host_network", Flag, None, Single, ALL, Cluster, "Whether the container shares the host's network namespace";
    ContainerHostIpc: "container.host_ipc", Flag, None, Single, ALL, Cluster, "Whether the container shares the host's ipc namespace";
    K8sNsName: "k8s.ns.name", Text, None, Single, ALL, Cluster, "Kubernetes namespace";
    K8sPodName: "k8s.pod.name", Text, None, Single, ALL, Cluster, "Pod name";
    K8sPodId: "k8s.pod.id", Text, None, Single, ALL, Cluster, "Legacy pod identifier";
    K8sPodUid: "k8s.pod.uid", Text, None, Single, ALL, Cluster, "Pod identifier";
    K8sPodIp: "k8s.pod.ip", Text, None, Single, ALL, Cluster, "Pod address";
    K8sPodSandboxId: "k8s.pod.sandbox_id", Text, None, Single, ALL, Cluster, "Sandbox identifier of the pod";
    K8sPodFullSandboxId: "k8s.pod.full_sandbox_id", Text, None, Single, ALL, Cluster, "Full sandbox identifier of the pod";
    K8sPodCniJson: "k8s.pod.cni.json", Text, None, Single, ALL, Cluster, "Network status of the pod";
    K8sPodLabel: "k8s.pod.label", Text, RequiredKey, Single, ALL, Cluster, "Pod label by name";
    K8sPodLabels: "k8s.pod.labels", Text, None, Single, ALL, Cluster, "Pod labels";
    K8sNsId: "k8s.ns.id", Text, None, Single, ALL, Cluster, "Namespace identifier";
    K8sNsLabel: "k8s.ns.label", Text, RequiredKey, Single, ALL, Cluster, "Namespace label by name";
    K8sNsLabels: "k8s.ns.labels", Text, None, Single, ALL, Cluster, "Namespace labels";
    K8sDeploymentName: "k8s.deployment.name", Text, None, Single, ALL, Cluster, "Deployment name";
    K8sRsName: "k8s.rs.name", Text, None, Single, ALL, Cluster, "Replica set name";
    K8sRcName: "k8s.rc.name", Text, None, Single, ALL, Cluster, "Replication controller name";
    K8sSvcName: "k8s.svc.name", Text, None, Single, ALL, Cluster, "Service name";
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands in brackets after a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum FieldArg {
    /// Nothing.
    #[default]
    None,
    /// A number, as in `proc.aname[2]`.
    Index(u32),
    /// A name, as in `proc.env[LD_PRELOAD]`.
    Key(Box<str>),
}

/// A field with its argument, as a rule names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRef {
    /// The field.
    pub field: Field,
    /// Its argument.
    pub arg: FieldArg,
}

impl Field {
    /// Whether its values follow from the state of the process and the name of the thread alone, and do not change while
    /// these stay.
    pub fn is_steady(self) -> bool {
        matches!(
            self,
            Self::ProcName
                | Self::ProcExe
                | Self::ProcExepath
                | Self::ProcCmdline
                | Self::ProcArgs
                | Self::ProcArg
                | Self::ProcPname
                | Self::ProcPexe
                | Self::ProcPexepath
                | Self::ProcPcmdline
                | Self::ProcAname
                | Self::ProcAexe
                | Self::ProcAexepath
                | Self::ProcAcmdline
                | Self::ProcCwd
                | Self::ProcTty
                | Self::ProcIsExeFromMemfd
                | Self::ProcIsExeUpperLayer
                | Self::ProcIsExeLowerLayer
        )
    }
}

impl FieldRef {
    /// A field without argument.
    pub const fn plain(field: Field) -> Self {
        Self {
            field,
            arg: FieldArg::None,
        }
    }

    /// A field with a number in brackets.
    pub const fn index(field: Field, index: u32) -> Self {
        Self {
            field,
            arg: FieldArg::Index(index),
        }
    }

    /// A field with a name in brackets.
    pub fn key(field: Field, key: &str) -> Self {
        Self {
            field,
            arg: FieldArg::Key(key.into()),
        }
    }

    /// How many values it has: a list asked for by index has one.
    pub fn shape(&self) -> Shape {
        match self.arg {
            FieldArg::None => self.field.shape(),
            FieldArg::Index(_) | FieldArg::Key(_) => Shape::Single,
        }
    }

    /// The kinds of event that can supply it.
    pub fn kinds(&self) -> KindSet {
        self.field.kinds()
    }
}

/// Why a name does not lead to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldError {
    /// A mistake in the rule.
    Mistake {
        /// What is wrong.
        message: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// A field that this version does not supply: the rule cannot be active.
    Unsupplied(String),
}

impl FieldRef {
    /// The field of this name with this argument. `evt.arg.path` is another way to write `evt.arg[path]`.
    pub fn resolve(name: &str, argument: Option<&str>) -> Result<Self, FieldError> {
        let mistake = |message: String, help: Option<String>| Err(FieldError::Mistake { message, help });
        let (field, argument) = match (Field::find(name), argument) {
            (Some(field), argument) => (field, argument),
            (None, None) => match dotted(name) {
                Some((field, key)) => (field, Some(key)),
                None => return Err(unknown(name)),
            },
            (None, Some(_)) => return Err(unknown(name)),
        };
        let arg = match (field.arg_kind(), argument) {
            (ArgKind::None, None) | (ArgKind::OptionalIndex | ArgKind::OptionalKey, None) => FieldArg::None,
            (ArgKind::None, Some(_)) => return mistake(format!("field `{field}` takes no argument in brackets"), None),
            (ArgKind::RequiredIndex, None) => {
                return mistake(
                    format!("field `{field}` needs a number in brackets"),
                    Some(format!("write `{field}[0]`")),
                );
            }
            (ArgKind::RequiredKey, None) => {
                return mistake(
                    format!("field `{field}` needs a name in brackets"),
                    Some(format!("write `{field}[name]`")),
                );
            }
            (ArgKind::OptionalIndex | ArgKind::RequiredIndex, Some(index)) => match index.parse() {
                Ok(index) => FieldArg::Index(index),
                Err(_) => return mistake(format!("`{index}` in brackets after `{field}` is not a number"), None),
            },
            (ArgKind::OptionalKey | ArgKind::RequiredKey, Some(key)) => FieldArg::Key(key.into()),
        };
        let found = Self { field, arg };
        if field.supply() == Supply::Later {
            return Err(FieldError::Unsupplied(format!(
                "field `{found}` is not supplied by this version"
            )));
        }
        Ok(found)
    }

    /// The field as written in rules, such as `proc.aname[2]`.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        match crate::syntax::parse_operand(text) {
            Some((crate::syntax::Operand::Field(field), length)) if length == text.len() => {
                Self::resolve(&field.name, field.argument.as_deref())
            }
            _ => Err(FieldError::Mistake {
                message: format!("`{}` is not a field", text.escape_debug()),
                help: None,
            }),
        }
    }
}

/// A field that takes a name, with that name behind a dot.
fn dotted(name: &str) -> Option<(Field, &str)> {
    name.rmatch_indices('.').find_map(|(at, _)| {
        let field = Field::find(&name[..at])?;
        matches!(field.arg_kind(), ArgKind::OptionalKey | ArgKind::RequiredKey).then(|| (field, &name[at + 1..]))
    })
}

/// A name close to a known one of the same class is a slip of the pen; any other may belong to another engine.
fn unknown(name: &str) -> FieldError {
    let class = |name: &str| name.split('.').next().map(str::to_owned);
    let wanted = class(name);
    let relatives = Field::ALL
        .iter()
        .map(|field| field.name())
        .filter(|known| class(known) == wanted);
    match crate::diagnostic::did_you_mean(name, relatives) {
        Some(help) => FieldError::Mistake {
            message: format!("unknown field `{name}`"),
            help: Some(help),
        },
        None => FieldError::Unsupplied(format!("field `{name}` is not known to this version")),
    }
}

impl fmt::Display for FieldRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.arg {
            FieldArg::None => write!(f, "{}", self.field),
            FieldArg::Index(index) => write!(f, "{}[{index}]", self.field),
            FieldArg::Key(key) => write!(f, "{}[{key}]", self.field),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name() {
        for field in Field::ALL {
            assert_eq!(Field::find(field.name()), Some(*field));
            assert!(!field.doc().ends_with('.'), "{field}");
            assert!(!field.kinds().is_empty(), "{field}");
        }
        assert_eq!(Field::find("proc.nam"), None);
    }

    #[test]
    fn names_are_resolved() {
        for (text, expected) in [
            ("proc.name", Ok("proc.name")),
            ("proc.aname[2]", Ok("proc.aname[2]")),
            ("evt.arg.mode", Ok("evt.arg[mode]")),
            ("evt.arg[mode]", Ok("evt.arg[mode]")),
            ("k8s.pod.label.app.name", Ok("k8s.pod.label[app.name]")),
            ("proc.nam", Err("unknown field `proc.nam`; did you mean `proc.name`?")),
            ("proc.name[1]", Err("field `proc.name` takes no argument in brackets")),
            (
                "proc.arg",
                Err("field `proc.arg` needs a number in brackets; write `proc.arg[0]`"),
            ),
            (
                "proc.aname[x]",
                Err("`x` in brackets after `proc.aname` is not a number"),
            ),
            ("ka.verb", Err("inactive: field `ka.verb` is not known to this version")),
            (
                "proc.vmrss",
                Err("inactive: field `proc.vmrss` is not supplied by this version"),
            ),
            ("evt.arg.request", Ok("evt.arg[request]")),
            ("nothing", Err("`nothing` is not a field")),
        ] {
            let found = FieldRef::parse(text)
                .map(|field| field.to_string())
                .map_err(|error| match error {
                    FieldError::Mistake {
                        message,
                        help: Some(help),
                    } => format!("{message}; {help}"),
                    FieldError::Mistake { message, help: None } => message,
                    FieldError::Unsupplied(message) => format!("inactive: {message}"),
                });
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        }
    }

    #[test]
    fn lists_asked_by_index_are_single() {
        assert_eq!(FieldRef::plain(Field::ProcAname).shape(), Shape::List);
        assert_eq!(FieldRef::index(Field::ProcAname, 2).shape(), Shape::Single);
        assert_eq!(FieldRef::index(Field::ProcAname, 2).to_string(), "proc.aname[2]");
        assert_eq!(
            FieldRef::key(Field::ProcEnv, "LD_PRELOAD").to_string(),
            "proc.env[LD_PRELOAD]"
        );
    }
}
