//! Events of system calls without a body of their own: their paths, arguments and descriptors.

use std::borrow::Cow;

use staghound_ebpf::{Call, Span, flags};
use staghound_engine::{
    event::{EventKind, Value, directory_of},
    field::Field,
};

use crate::{
    event::{
        Event, Lazy,
        calls::{Argument, Format, Source},
        constants, inode_value, is_of_name, names, path_value, printable,
        recall::Paths,
        text,
    },
    sensor::decode::Record,
};

/// Directory and socket, as file types (`S_IFDIR`, `S_IFSOCK`).
const DIRECTORY: u32 = 0o040_000;
const SOCKET: u32 = 0o140_000;
/// What a mount of old begins its flags with (`MS_MGC_VAL`, `MS_MGC_MSK`).
const MOUNT_MAGIC: (u64, u64) = (0xc0ed_0000, 0xffff_0000);
/// Nanoseconds that stand for the present, and for no change (`UTIME_NOW`, `UTIME_OMIT`).
const UTIME_NOW: i64 = 0x3fff_ffff;
const UTIME_OMIT: i64 = 0x3fff_fffe;
/// Operations of io_uring that read or write.
const RING_READS: [u64; 10] = [1, 4, 10, 22, 27, 30, 33, 49, 58, 60];
const RING_WRITES: [u64; 8] = [2, 5, 9, 23, 26, 47, 48, 61];

/// Takes the paths that the kernel resolved in the place of those that were passed.
pub(super) fn take_resolved(record: &Record<'_>, call: &Call, kind: EventKind, paths: Paths, lazy: &mut Lazy) {
    // What these make has the name that was passed, which no link changes.
    let makes_first = matches!(kind, EventKind::Mkdir | EventKind::Mknod | EventKind::Symlink);
    let fits = |path: &[u8], name: Span| is_of_name(path, record.text(name));
    if has_path(call.base, call.name) && (!makes_first || fits(&paths.path, call.name)) {
        lazy.path = paths.path.into();
    }
    if let Some(new_path) = paths.new_path
        && has_path(call.new_base, call.new_name)
        && (kind != EventKind::Link || fits(&new_path, call.new_name))
    {
        lazy.new_path = new_path.into();
    }
}

/// Whether a path was passed. That of the root directory itself has no component.
fn has_path(base: Span, name: Span) -> bool {
    base.len > 0 || name.len > 0
}

impl Event<'_> {
    /// The first path that was passed.
    pub(super) fn call_path(&self, call: &Call) -> Option<&[u8]> {
        has_path(call.base, call.name).then(|| {
            &**self
                .lazy
                .path
                .get_or_init(|| self.record.passed_path(call.base, call.name).into())
        })
    }

    /// The second path that was passed.
    pub(super) fn call_new_path(&self, call: &Call) -> Option<&[u8]> {
        has_path(call.new_base, call.new_name).then(|| {
            &**self
                .lazy
                .new_path
                .get_or_init(|| self.record.passed_path(call.new_base, call.new_name).into())
        })
    }

    /// The path of the descriptor that the call is about.
    pub(super) fn object(&self, call: &Call) -> Option<&[u8]> {
        let has_one = call.object.len > 0 || call.mode & super::FILE_TYPE == DIRECTORY;
        let is_socket = call.mode & super::FILE_TYPE == SOCKET;
        (has_one && !is_socket).then(|| {
            &**self.lazy.object.get_or_init(|| {
                let mut path = Vec::with_capacity(usize::from(call.object.len));
                self.record.walked_path(call.object, &mut path);
                path.into()
            })
        })
    }

    /// The path of the second descriptor.
    pub(super) fn new_object(&self, call: &Call) -> Option<&[u8]> {
        (call.new_object.len > 0).then(|| {
            &**self.lazy.new_object.get_or_init(|| {
                let mut path = Vec::with_capacity(usize::from(call.new_object.len));
                self.record.walked_path(call.new_object, &mut path);
                path.into()
            })
        })
    }

    /// What a symbolic link points to, from where it stands.
    fn link_target(&self, call: &Call) -> Option<&[u8]> {
        let target = self.record.text(call.text);
        if target.is_empty() || target.starts_with(b"/") {
            return text_of(target);
        }
        let link = self.call_path(call)?;
        Some(self.lazy.link_target.get_or_init(|| {
            let mut path = directory_of(link).to_vec();
            if path != b"/" {
                path.push(b'/');
            }
            path.extend_from_slice(target);
            path.into()
        }))
    }

    /// `fs.path.…` and `evt.abspath`; `key` says which of two.
    pub(super) fn call_path_value(&self, call: &Call, field: Field, key: &str) -> Option<Value<'_>> {
        let raw = |span: Span| text(self.record.text(span));
        let (first, second) = self.path_pair(call);
        let only = || {
            if second.is_none() {
                first.or_else(|| self.object(call).filter(|_| self.is_about_file()))
            } else {
                None
            }
        };
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "only the fields of paths are asked for here"
        )]
        match field {
            Field::FsPathName => only().map(Value::Text),
            Field::FsPathSource => second.and(first).map(Value::Text),
            Field::FsPathTarget => second.map(Value::Text),
            Field::EvtAbspath => match key {
                "src" => second.and(first).map(Value::Text),
                "dst" => second.map(Value::Text),
                _ => only().map(Value::Text),
            },
            Field::FsPathNameraw if second.is_none() => raw(call.name),
            Field::FsPathSourceraw if matches!(self.kind, EventKind::Symlink) || self.event_type == "mount" => {
                raw(call.text)
            }
            Field::FsPathTargetraw if matches!(self.kind, EventKind::Symlink) || self.event_type == "mount" => {
                raw(call.name)
            }
            Field::FsPathSourceraw if second.is_some() => raw(call.name),
            Field::FsPathTargetraw if second.is_some() => raw(call.new_name),
            _ => None,
        }
    }

    /// Both paths of a call with two, as rules name them: where from, and where to.
    fn path_pair(&self, call: &Call) -> (Option<&[u8]>, Option<&[u8]>) {
        if self.kind == EventKind::Symlink {
            (self.link_target(call), self.call_path(call))
        } else if self.event_type == "mount" {
            (text_of(self.record.text(call.text)), self.call_path(call))
        } else {
            (self.call_path(call), self.call_new_path(call))
        }
    }

    /// Whether the call changes the file of its descriptor, as another one does by a path.
    fn is_about_file(&self) -> bool {
        matches!(
            self.kind,
            EventKind::Chown | EventKind::Xattr | EventKind::Truncate | EventKind::Utime
        )
    }

    /// `fd.…`: the descriptor that the call is about, or the file that its path leads to.
    pub(super) fn call_descriptor_value(&self, call: &Call, field: Field) -> Option<Value<'_>> {
        if let Some(name) = socket_name(self.record, call) {
            return self.socket_of_call(call, name, field);
        }
        #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields")]
        match field {
            Field::FdNum => self.descriptor(call).map(Value::Number),
            Field::FdName | Field::FdDirectory | Field::FdFilename => {
                path_value(self.object(call).or_else(|| self.call_path(call))?, field)
            }
            Field::FdNameraw => text(self.record.text(call.name)),
            _ if call.mode == 0 => None,
            _ => inode_value(call.inode, call.device, call.mode, call.layer, field),
        }
    }

    /// `fd.…` of a call about a socket, by the name that the kernel gives it, and by its connection where that is known.
    #[expect(clippy::wildcard_enum_match_arm, reason = "as for the whole of the fields")]
    fn socket_of_call(&self, call: &Call, name: &[u8], field: Field) -> Option<Value<'_>> {
        let family = family_of(name);
        match field {
            Field::FdNum => self.descriptor(call).map(Value::Number),
            Field::FdType => family.map(Value::from),
            Field::FdTypechar => family.map(|family| match family {
                "ipv4" => "4".into(),
                "ipv6" => "6".into(),
                _ => "u".into(),
            }),
            Field::FdSockfamily => family.map(|family| if family == "unix" { "unix".into() } else { "ip".into() }),
            Field::FdName => Some(Value::Text(self.socket_name(self.ends()?))),
            Field::FdIno => i64::try_from(call.inode).ok().map(Value::Number),
            _ => self.socket_value(field),
        }
    }

    /// The number of the descriptor that the call is about; for copies of descriptors, the one that is new.
    fn descriptor(&self, call: &Call) -> Option<i64> {
        const NAMES: [&str; 8] = [
            "fd",
            "in_fd",
            "fd_in",
            "fdin",
            "kernel_fd",
            "pid_fd",
            "fs_fd",
            "fanotify_fd",
        ];
        if self.kind == EventKind::Duplicate {
            return (call.result >= 0).then_some(call.result);
        }
        let argument = self.known?.arguments.iter().find(|argument| {
            NAMES.contains(&argument.name) && (argument.source != Source::Result || call.result >= 0)
        })?;
        self.number(call, argument)
    }

    /// Which way a request of io_uring moves bytes.
    pub(super) fn ring_direction(&self) -> Option<&'static str> {
        let super::Detail::Call(call) = &self.detail else {
            return None;
        };
        if !self.is_by_ring() {
            return None;
        }
        if RING_READS.contains(&call.args[0]) {
            Some("r")
        } else {
            RING_WRITES.contains(&call.args[0]).then_some("w")
        }
    }

    /// `evt.arg[…]` and, `raw`, `evt.rawarg[…]`.
    pub(super) fn call_argument(&self, call: &Call, key: &str, raw: bool) -> Option<Value<'_>> {
        let arguments = self.known?.arguments;
        let index = arguments.iter().position(|argument| argument.name == key)?;
        let argument = &arguments[index];
        let number = match argument.format {
            Format::Bytes => return self.bytes_of(call, argument.source).map(Value::Text),
            Format::Int
            | Format::Unsigned
            | Format::Long
            | Format::Hexadecimal
            | Format::Mode
            | Format::Flags(_)
            | Format::MountFlags
            | Format::One(_)
            | Format::Nth(_)
            | Format::SocketType
            | Format::User
            | Format::Group
            | Format::Capabilities => self.number(call, argument)?,
        };
        if raw {
            return Some(Value::Number(number));
        }
        let named = match argument.format {
            Format::One(names) => named(number, names),
            Format::Nth(names) => nth(number, names),
            Format::User => return Some(self.named_user(number)),
            Format::Group => return Some(self.named_group(number)),
            Format::Flags(_) | Format::MountFlags | Format::SocketType | Format::Capabilities => {
                return Some(Value::Text(&self.call_arguments(call)[index]));
            }
            Format::Int | Format::Unsigned | Format::Long | Format::Hexadecimal | Format::Mode | Format::Bytes => None,
        };
        Some(named.map_or(Value::Number(number), Value::from))
    }

    fn named_user(&self, number: i64) -> Value<'_> {
        let name = u32::try_from(number).ok().and_then(|uid| self.names.user(uid));
        name.map_or(Value::Number(number), Value::from)
    }

    fn named_group(&self, number: i64) -> Value<'_> {
        let name = u32::try_from(number).ok().and_then(|gid| self.names.group(gid));
        name.map_or(Value::Number(number), Value::from)
    }

    fn bytes_of(&self, call: &Call, source: Source) -> Option<&[u8]> {
        match source {
            Source::Path => self.call_path(call),
            Source::NewPath => self.call_new_path(call),
            Source::Text => text_of(self.record.text(call.text)),
            Source::More => text_of(self.record.text(call.more)),
            Source::Object => self.object(call),
            Source::NewObject => self.new_object(call),
            Source::Number(_)
            | Source::Halves(..)
            | Source::Result
            | Source::Capabilities(_)
            | Source::Attributes
            | Source::Time(_)
            | Source::Age => None,
        }
    }

    /// The attributes that `ioctl` gives a file, as `FS_IOC_SETFLAGS` numbers them.
    fn passed_attributes(&self, call: &Call) -> Option<u64> {
        /// Bits of `struct fsxattr` (`FS_XFLAG_*`) and what the other request calls them.
        const TRANSLATED: [(u32, u64); 5] = [(0x08, 0x10), (0x10, 0x20), (0x20, 0x08), (0x40, 0x80), (0x80, 0x40)];
        let word = u32::from_ne_bytes(*self.record.bytes(call.more).first_chunk()?);
        match call.args[1] & 0xffff_ffff {
            0x4008_6602 | 0x4004_6602 => Some(u64::from(word)),
            0x401c_5820 => Some(
                TRANSLATED
                    .iter()
                    .filter(|(bit, _)| word & bit != 0)
                    .map(|(_, bit)| bit)
                    .sum(),
            ),
            _ => None,
        }
    }

    /// An argument as the kernel reads it: of most it takes 32 bits, whatever stands in the others.
    fn number(&self, call: &Call, argument: &Argument) -> Option<i64> {
        let passed = |number: u8| call.args.get(usize::from(number).checked_sub(1)?).copied();
        let bits = match argument.source {
            Source::Number(number) => passed(number)?,
            Source::Halves(low, high) => passed(high)? << 32 | passed(low)? & 0xffff_ffff,
            Source::Result => return Some(call.result),
            Source::Capabilities(set) => self.passed_capabilities(call, set)?,
            Source::Attributes => self.passed_attributes(call)?,
            Source::Time(which) => return self.passed_time(call, which),
            Source::Age => {
                return Some(self.wall_ns(self.time_ns).saturating_sub(self.passed_time(call, 1)?));
            }
            Source::Path | Source::NewPath | Source::Text | Source::More | Source::Object | Source::NewObject => {
                return None;
            }
        };
        let low = u32::try_from(bits & 0xffff_ffff).expect("masked");
        Some(match argument.format {
            Format::Int => i64::from(low.cast_signed()),
            Format::User | Format::Group => {
                let none = low == u32::MAX || (self.known?.has_short_ids && low & 0xffff == 0xffff);
                if none { -1 } else { i64::from(low) }
            }
            Format::Long | Format::Hexadecimal | Format::Capabilities => bits.cast_signed(),
            Format::MountFlags if u64::from(low) & MOUNT_MAGIC.1 == MOUNT_MAGIC.0 => {
                i64::from(low) & !MOUNT_MAGIC.1.cast_signed()
            }
            Format::Unsigned
            | Format::Mode
            | Format::Flags(_)
            | Format::MountFlags
            | Format::One(_)
            | Format::Nth(_)
            | Format::SocketType => i64::from(low),
            Format::Bytes => return None,
        })
    }

    /// A set of capabilities: two words for each half of effective, permitted, inheritable. Where they were not carried,
    /// the effective ones are those that the process had when the call had succeeded.
    fn passed_capabilities(&self, call: &Call, set: u8) -> Option<u64> {
        let words = self.record.bytes(call.more).as_chunks::<4>().0;
        let word = |index: usize| words.get(index).map(|word| u64::from(u32::from_ne_bytes(*word)));
        let set = usize::from(set);
        match (word(set), word(set + 3)) {
            (Some(low), Some(high)) => Some(high << 32 | low),
            _ if set == 0 && call.result == 0 => Some(self.credentials.capabilities),
            _ => None,
        }
    }

    /// A time that was passed to `utimensat` and the like, in nanoseconds since 1970.
    fn passed_time(&self, call: &Call, which: u8) -> Option<i64> {
        let known = self.known?;
        let now = self.wall_ns(self.time_ns);
        let (pointer, fraction_ns) = match known.name {
            "utime" => (call.args[1], None),
            "utimes" => (call.args[1], Some(1000)),
            "futimesat" => (call.args[2], Some(1000)),
            _ => (call.args[2], Some(1)),
        };
        if pointer == 0 {
            return Some(now);
        }
        let bytes = self.record.bytes(call.more);
        let is_short = self.flags & flags::COMPAT != 0 && !known.has_long_times;
        let word = |index: usize| {
            if is_short {
                bytes
                    .as_chunks::<4>()
                    .0
                    .get(index)
                    .map(|word| i64::from(i32::from_ne_bytes(*word)))
            } else {
                bytes
                    .as_chunks::<8>()
                    .0
                    .get(index)
                    .map(|word| i64::from_ne_bytes(*word))
            }
        };
        let which = usize::from(which);
        let Some(fraction_ns) = fraction_ns else {
            return Some(word(which)?.saturating_mul(super::SECOND_NS));
        };
        let (seconds, fraction) = (word(2 * which)?, word(2 * which + 1)?);
        match fraction {
            UTIME_NOW => Some(now),
            UTIME_OMIT => None,
            _ => Some(
                seconds
                    .saturating_mul(super::SECOND_NS)
                    .saturating_add(fraction.saturating_mul(fraction_ns)),
            ),
        }
    }

    /// Every argument as text for people; empty where nothing is known.
    fn call_arguments(&self, call: &Call) -> &[Box<[u8]>] {
        self.lazy.call_arguments.get_or_init(|| {
            let arguments = self.known.map_or(&[][..], |known| known.arguments);
            arguments
                .iter()
                .map(|argument| self.argument_text(call, argument).into_owned().into())
                .collect()
        })
    }

    fn argument_text(&self, call: &Call, argument: &Argument) -> Cow<'_, [u8]> {
        if argument.format == Format::Bytes {
            return self.bytes_of(call, argument.source).unwrap_or_default().into();
        }
        let Some(number) = self.number(call, argument) else {
            return Cow::default();
        };
        let bits = number.cast_unsigned();
        let text = match argument.format {
            Format::Int | Format::Unsigned | Format::Long | Format::Bytes => number.to_string(),
            Format::Hexadecimal => format!("{bits:#x}"),
            Format::Mode => format!("{bits:#o}"),
            Format::Flags(names) => constants::flags(bits, names),
            Format::MountFlags => constants::flags(bits, constants::MOUNT),
            Format::One(names) => named(number, names).map_or_else(|| number.to_string(), str::to_owned),
            Format::Nth(names) => nth(number, names).map_or_else(|| number.to_string(), str::to_owned),
            Format::SocketType => socket_type(bits),
            Format::Capabilities => names::capabilities(bits),
            Format::User => user_text(number, u32::try_from(number).ok().and_then(|uid| self.names.user(uid))),
            Format::Group => user_text(number, u32::try_from(number).ok().and_then(|gid| self.names.group(gid))),
        };
        text.into_bytes().into()
    }

    /// The call, and those of its arguments that have names: numbers differ from run to run.
    pub(super) fn call_behaviour(&self, call: &Call) -> String {
        let mut text = self.event_type.to_owned();
        let arguments = self.known.map_or(&[][..], |known| known.arguments);
        for (argument, value) in arguments.iter().zip(self.call_arguments(call)) {
            let is_named = match argument.format {
                Format::Flags(_)
                | Format::MountFlags
                | Format::One(_)
                | Format::Nth(_)
                | Format::SocketType
                | Format::Capabilities
                | Format::User
                | Format::Group
                | Format::Mode => true,
                Format::Bytes => matches!(argument.source, Source::Text | Source::More),
                Format::Int | Format::Unsigned | Format::Long | Format::Hexadecimal => false,
            };
            if is_named {
                text.push(' ');
                text.push_str(&printable(value));
            }
        }
        text
    }

    /// Adds every argument to the text of all, each once.
    pub(super) fn add_call_arguments(&self, call: &Call, add: &mut dyn FnMut(&str, &[u8])) {
        add("res", call.result.to_string().as_bytes());
        let arguments = self.known.map_or(&[][..], |known| known.arguments);
        for (index, (argument, text)) in arguments.iter().zip(self.call_arguments(call)).enumerate() {
            // Some have two names.
            let is_again = arguments[..index]
                .iter()
                .any(|before| before.source == argument.source && before.format == argument.format);
            if !is_again && !text.is_empty() {
                add(argument.name, text);
            }
        }
    }
}

/// The name that the kernel gives the socket behind the descriptor that a call is about: that of its protocol, such as
/// `TCP` or `UNIX-STREAM` (`sock_alloc_file`, net/socket.c).
pub(super) fn socket_name<'r>(record: &Record<'r>, call: &Call) -> Option<&'r [u8]> {
    let is_socket = call.mode & super::FILE_TYPE == SOCKET;
    is_socket.then(|| record.text(call.object))
}

/// Whether the protocol of this name makes connections that are remembered.
pub(super) fn is_tcp(name: &[u8]) -> bool {
    matches!(name, b"TCP" | b"TCPv6")
}

/// The address family of a protocol, by its name.
fn family_of(name: &[u8]) -> Option<&'static str> {
    let plain = name.strip_suffix(b"v6").unwrap_or(name);
    match plain {
        b"TCP" | b"UDP" | b"UDP-Lite" | b"RAW" | b"PING" | b"MPTCP" | b"SCTP" | b"DCCP" => {
            Some(if plain.len() == name.len() { "ipv4" } else { "ipv6" })
        }
        b"UNIX" | b"UNIX-STREAM" => Some("unix"),
        _ => None,
    }
}

fn text_of(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}

fn named(number: i64, names: &[constants::Named]) -> Option<&'static str> {
    constants::name(u64::try_from(number).ok()?, names)
}

fn nth(number: i64, names: &[&'static str]) -> Option<&'static str> {
    names.get(usize::try_from(number).ok()?).copied()
}

fn user_text(number: i64, name: Option<&str>) -> String {
    name.map_or_else(|| number.to_string(), str::to_owned)
}

fn socket_type(bits: u64) -> String {
    let kind = bits & 0xf;
    let mut text = constants::name(kind, constants::SOCKET_TYPES).map_or_else(|| kind.to_string(), str::to_owned);
    let rest = bits & !0xf;
    if rest != 0 {
        text.push('|');
        text.push_str(&constants::flags(rest, constants::SOCKET_FLAGS));
    }
    text
}
