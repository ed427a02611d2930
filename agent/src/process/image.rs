//! What a process runs: its executable, its arguments, and what it was given to read and write.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use staghound_ebpf::{Exec, Stdio, exec_flags, flags};

use crate::{
    process::{
        Credentials,
        ledger::{Held, Ledger},
    },
    sensor::decode::{Record, until_nul},
};

/// Of an image for which there is no room, so many bytes of arguments are kept.
const SLIM_ARGS_BYTES: usize = 128;
/// What the allocator adds to each part of an image, about.
const PART_BYTES: usize = 16;
/// `CAP_DAC_OVERRIDE` and `CAP_FOWNER` (include/uapi/linux/capability.h).
const MAY_WRITE: u64 = 1 << 1 | 1 << 3;
/// Bits of a file's type (`S_IFMT`).
pub(crate) const FILE_TYPE: u32 = 0o170_000;
/// A pipe among them.
pub(super) const PIPE_TYPE: u32 = 0o010_000;

/// What a process runs: fixed from one exec to the next.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Name (`comm`) at exec.
    pub name: Box<[u8]>,
    /// Absolute path of the executable. Empty for kernel threads and where unknown.
    pub executable: Box<[u8]>,
    zeroth: Option<Box<[u8]>>,
    /// Name and arguments without the zeroth, joined by blanks.
    pub cmdline: Box<[u8]>,
    /// Where each argument but the zeroth ends in `cmdline`.
    ends: Box<[u16]>,
    /// The script that an interpreter was started for by its first line; empty otherwise.
    pub script: Box<[u8]>,
    /// Allow-listed environment, each NUL-terminated.
    env: Box<[u8]>,
    /// Inode number of the executable; 0 where unknown.
    pub inode: u64,
    /// When that inode was last changed, in nanoseconds since 1970; 0 where unknown.
    pub changed_ns: u64,
    /// When the executable was last written, in nanoseconds since 1970; 0 where unknown.
    pub modified_ns: u64,
    /// Device of the executable, as the kernel keeps it.
    pub device: u32,
    /// Links of the executable; none where unknown.
    pub nlink: Option<u32>,
    /// Type and permission bits of the executable; 0 where unknown.
    pub mode: u32,
    /// Owner of the executable.
    pub owner: u32,
    /// Group of the executable.
    pub owner_group: u32,
    /// Bits of [`exec_flags`]; none where the exec was not seen.
    pub exec_flags: Option<u32>,
    /// Whether who ran it may write to it, see [`is_writable`]; none where unknown.
    pub is_writable: Option<bool>,
    /// Bits of [`flags`] that tell what was cut.
    pub flags: u16,
    /// When it was started, in nanoseconds since boot; 0 when before the agent.
    pub exec_ns: u64,
    standard: Option<Box<Standard>>,
    /// Those that wrote what it read when it exec'ed, and those that read what it wrote.
    pub(super) pipeline: Option<Box<[Neighbours; 2]>>,
    exeline: OnceLock<Box<[u8]>>,
    held: Held,
}

impl Image {
    /// Arguments, the zeroth included.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let mut begin = self.name.len() + 1;
        let others = self.ends.iter().map(move |end| {
            let end = usize::from(*end);
            let argument = &self.cmdline[begin..end];
            begin = end + 1;
            argument
        });
        self.zeroth.as_deref().into_iter().chain(others)
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

    /// Whether the executable lies in the upper layer of an overlay file system.
    pub fn is_upper_layer(&self) -> Option<bool> {
        self.has(exec_flags::UPPER_LAYER)
    }

    /// Whether the executable lies in a lower layer of an overlay file system.
    pub fn is_lower_layer(&self) -> Option<bool> {
        self.has(exec_flags::LOWER_LAYER)
    }

    /// Whether the kernel raised privileges for it.
    pub fn is_secure(&self) -> Option<bool> {
        self.has(exec_flags::SECURE)
    }

    fn has(&self, flag: u32) -> Option<bool> {
        self.exec_flags.map(|flags| flags & flag != 0)
    }

    /// What standard input (0), output (1) or error (2) was at exec, in the words of `fd.type`; none when it was closed
    /// or is not known.
    pub fn standard_type(&self, number: usize) -> Option<&'static str> {
        match self.standard.as_deref()? {
            Standard::Told { raw, .. } => stdio_type(raw.get(number)?),
            Standard::Read(read) => read.get(number)?.0,
        }
    }

    /// Its name: a terminal or other device that is known by its number, the other end of a connection, or the pipe.
    pub fn standard_name(&self, number: usize) -> Option<&[u8]> {
        let name = match self.standard.as_deref()? {
            Standard::Told { raw, names } => &names
                .get_or_init(|| {
                    [0, 1, 2].map(|number| stdio_name(&raw[number]).unwrap_or_default().into_bytes().into())
                })
                .get(number)?[..],
            Standard::Read(read) => &read.get(number)?.1[..],
        };
        (!name.is_empty()).then_some(name)
    }

    /// Those whose output was its standard input, through pipes, when it exec'ed, nearest first: name and command line.
    pub fn feeders(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.neighbours(0)
    }

    /// Those whose standard input was its output, likewise.
    pub fn fed(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.neighbours(1)
    }

    fn neighbours(&self, direction: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        let told = self.pipeline.as_deref().and_then(|told| told.get(direction));
        let mut parts = told.into_iter().flat_map(|told| split_nul(told));
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// What others are told of it as their neighbour in a pipeline.
    pub(super) fn tell_neighbour(&self, to: &mut Vec<u8>) {
        let cmdline = &self.cmdline[..self.cmdline.len().min(NEIGHBOUR_CMDLINE_BYTES)];
        for part in [&*self.name, cmdline] {
            to.extend_from_slice(part);
            to.push(0);
        }
    }

    /// An image of which only this is known.
    pub(super) fn new(name: &[u8], executable: &[u8], arguments: &[u8]) -> Self {
        let mut arguments = split_nul(arguments);
        let zeroth = arguments.next().map(Box::from);
        let mut cmdline = name.to_vec();
        let mut ends = Vec::new();
        let mut flags = 0;
        for argument in arguments {
            let Ok(end) = u16::try_from(cmdline.len() + 1 + argument.len()) else {
                flags |= flags::ARGS_CUT;
                break;
            };
            cmdline.push(b' ');
            cmdline.extend_from_slice(argument);
            ends.push(end);
        }
        Self {
            name: name.into(),
            executable: executable.into(),
            zeroth,
            cmdline: cmdline.into(),
            ends: ends.into(),
            flags,
            ..Self::default()
        }
    }

    pub(super) fn of_exec(record: &Record<'_>, exec: &Exec) -> Self {
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
        image.changed_ns = exec.changed_ns;
        image.modified_ns = exec.modified_ns;
        image.device = exec.device;
        image.nlink = Some(exec.nlink);
        image.mode = exec.mode;
        image.owner = exec.owner;
        image.owner_group = exec.owner_group;
        image.exec_flags = Some(exec.exec_flags);
        image.is_writable = Some(is_writable(
            exec.mode,
            (exec.owner, exec.owner_group),
            &Credentials::of(&record.header),
        ));
        image.flags |= record.header.flags;
        image.exec_ns = record.header.time_ns;
        image.standard = Some(Box::new(Standard::Told {
            raw: exec.stdio,
            names: OnceLock::new(),
        }));
        image
    }

    /// Types and names of the standard descriptors, as `/proc` tells them.
    pub(super) fn set_standard(&mut self, read: [(Option<&'static str>, Box<[u8]>); 3]) {
        self.standard = Some(Box::new(Standard::Read(read)));
    }

    /// The same with less: for the table, when there is little room.
    pub(super) fn slim(&self) -> Self {
        let kept = self
            .ends
            .partition_point(|end| usize::from(*end) <= self.name.len() + SLIM_ARGS_BYTES);
        let end = self.ends[..kept]
            .last()
            .map_or(self.name.len(), |end| usize::from(*end));
        let zeroth = self.zeroth.as_deref();
        Self {
            zeroth: zeroth.map(|zeroth| zeroth[..zeroth.len().min(SLIM_ARGS_BYTES)].into()),
            cmdline: self.cmdline[..end].into(),
            ends: self.ends[..kept].into(),
            script: self.script[..self.script.len().min(SLIM_ARGS_BYTES)].into(),
            env: Box::default(),
            flags: self.flags | flags::ARGS_CUT | flags::ENV_CUT,
            standard: None,
            pipeline: None,
            exeline: OnceLock::new(),
            ..self.clone()
        }
    }

    /// The same with next to nothing: for the table, when there is no room.
    pub(super) fn bare(&self) -> Self {
        Self {
            flags: self.flags | flags::ARGS_CUT | flags::ENV_CUT,
            exec_ns: self.exec_ns,
            inode: self.inode,
            device: self.device,
            nlink: self.nlink,
            ..Self::new(&self.name, b"", b"")
        }
    }

    /// Shared, and entered into the ledger for as long as somebody holds it.
    pub(super) fn held(mut self, ledger: &Arc<Ledger>) -> Arc<Self> {
        let parts = [
            self.name.len(),
            self.executable.len(),
            self.zeroth.as_ref().map_or(0, |zeroth| zeroth.len()),
            // Once more for `exeline`.
            2 * self.cmdline.len(),
            size_of_val(&*self.ends),
            self.script.len(),
            self.env.len(),
            self.standard.as_ref().map_or(0, |_| size_of::<Standard>()),
            self.pipeline.as_ref().map_or(0, |told| {
                size_of_val(&**told) + told.iter().map(|told| told.len()).sum::<usize>()
            }),
        ];
        let bytes = parts
            .iter()
            .filter(|len| **len > 0)
            .map(|len| len + PART_BYTES)
            .sum::<usize>();
        self.held = Held::new(ledger, bytes + size_of::<Self>() + PART_BYTES);
        Arc::new(self)
    }
}

/// Whether somebody may write to a file, as Falco sees it (`get_exe_writable`): its owner may, since the owner can change
/// the mode; so may the group and all others by their bits, and who has `CAP_DAC_OVERRIDE` or `CAP_FOWNER`. So it holds
/// for almost everything that root runs. Not looked at: supplementary groups, access control lists, the immutable
/// attribute, and whether the file system is mounted read-only.
pub(super) fn is_writable(mode: u32, (owner, group): (u32, u32), who: &Credentials) -> bool {
    who.euid == owner
        || (who.egid == group && mode & 0o020 != 0)
        || mode & 0o002 != 0
        || who.capabilities & MAY_WRITE != 0
}

/// Name and command line of each, NUL-terminated: copies, because images that held each other would keep alive whatever
/// ever was in a pipeline.
pub(super) type Neighbours = Box<[u8]>;
/// So much of a neighbour's command line is kept.
const NEIGHBOUR_CMDLINE_BYTES: usize = 256;

/// Standard input, output and error at exec.
#[derive(Clone, Debug)]
enum Standard {
    /// As the record tells; names are made up when they are asked for.
    Told {
        raw: [Stdio; 3],
        names: OnceLock<[Box<[u8]>; 3]>,
    },
    /// Types and names as `/proc` tells.
    Read([(Option<&'static str>, Box<[u8]>); 3]),
}

/// What a descriptor is, by the type of its inode and, for sockets, their family.
fn stdio_type(stdio: &Stdio) -> Option<&'static str> {
    match u32::from(stdio.mode) & FILE_TYPE {
        0o140_000 => match i32::from(stdio.family) {
            libc::AF_INET => Some("ipv4"),
            libc::AF_INET6 => Some("ipv6"),
            libc::AF_UNIX => Some("unix"),
            libc::AF_NETLINK => Some("netlink"),
            _ => Some("socket"),
        },
        other => file_type(other),
    }
}

/// Anonymous inodes have no type.
pub(crate) fn file_type(mode: u32) -> Option<&'static str> {
    match mode & FILE_TYPE {
        0o100_000 => Some("file"),
        0o040_000 => Some("directory"),
        0o020_000 => Some("char"),
        0o060_000 => Some("block"),
        PIPE_TYPE => Some("pipe"),
        _ => None,
    }
}

fn stdio_name(stdio: &Stdio) -> Option<String> {
    match u32::from(stdio.mode) & FILE_TYPE {
        PIPE_TYPE => Some(format!("pipe:[{}]", stdio.inode)),
        0o140_000 => {
            let remote = match i32::from(stdio.family) {
                libc::AF_INET => {
                    let [a, b, c, d, ..] = stdio.remote;
                    IpAddr::from([a, b, c, d])
                }
                libc::AF_INET6 => IpAddr::from(stdio.remote).to_canonical(),
                _ => return Some(format!("socket:[{}]", stdio.inode)),
            };
            Some(if stdio.remote_port == 0 && remote.is_unspecified() {
                format!("socket:[{}]", stdio.inode)
            } else {
                SocketAddr::new(remote, stdio.remote_port).to_string()
            })
        }
        0o020_000 => device_name(stdio.device >> 20, stdio.device & 0xf_ffff),
        _ => None,
    }
}

/// Names of those character devices that programs are given to read and write (Documentation/admin-guide/devices.txt).
fn device_name(major: u32, minor: u32) -> Option<String> {
    Some(match (major, minor) {
        (1, 3) => "/dev/null".to_owned(),
        (1, 5) => "/dev/zero".to_owned(),
        (1, 7) => "/dev/full".to_owned(),
        (1, 8) => "/dev/random".to_owned(),
        (1, 9) => "/dev/urandom".to_owned(),
        (4, 0..64) => format!("/dev/tty{minor}"),
        (4, 64..) => format!("/dev/ttyS{}", minor - 64),
        (5, 0) => "/dev/tty".to_owned(),
        (5, 1) => "/dev/console".to_owned(),
        (5, 2) => "/dev/ptmx".to_owned(),
        (136, _) => format!("/dev/pts/{minor}"),
        (229, _) => format!("/dev/hvc{minor}"),
        _ => return None,
    })
}

fn split_nul(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let empty = bytes.is_empty();
    bytes
        .strip_suffix(&[0])
        .unwrap_or(bytes)
        .split(|byte| *byte == 0)
        .skip(usize::from(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_what_they_were() {
        // What was given, what the arguments are joined by `|`, the command line, the zeroth argument and the others.
        for [given, expected, cmdline, exeline] in [
            [&b""[..], b"", b"sh", b""],
            [b"\0", b"|", b"sh", b""],
            [
                b"/bin/sh\0-c\0\0a b\0",
                b"/bin/sh|-c||a b|",
                b"sh -c  a b",
                b"/bin/sh -c  a b",
            ],
            [b"x\0cut", b"x|cut|", b"sh cut", b"x cut"],
            [b"\0\0", b"||", b"sh ", b" "],
        ] {
            let image = Image::new(b"sh", b"/bin/sh", given);
            let arguments: Vec<u8> = image
                .arguments()
                .flat_map(|argument| [argument, b"|"].concat())
                .collect();
            assert_eq!(arguments, expected);
            assert_eq!(&*image.cmdline, cmdline);
            assert_eq!(image.exeline(), exeline);
            assert_eq!(image.flags, 0);
        }
        let huge = Image::new(
            b"sh",
            b"",
            &[b'x'; 40_000].chunks(2).flat_map(|two| [two[0], 0]).collect::<Vec<_>>(),
        );
        assert_eq!(huge.arguments().count(), 20_000);
        let beyond = Image::new(b"sh", b"", &[0; 80_000]);
        assert_eq!(beyond.flags, flags::ARGS_CUT);
        assert!(beyond.cmdline.len() <= usize::from(u16::MAX));
    }

    #[test]
    fn less_is_kept_where_there_is_no_room() {
        let arguments = [
            b"zeroth\0".to_vec(),
            b"first\0".to_vec(),
            vec![b'x'; 5000],
            b"\0last\0".to_vec(),
        ]
        .concat();
        let image = Image::new(b"sh", b"/bin/sh", &arguments);
        let slim = image.slim();
        assert_eq!(slim.arguments().collect::<Vec<_>>(), [&b"zeroth"[..], b"first"]);
        assert_eq!(&*slim.cmdline, b"sh first");
        assert_eq!(&*slim.executable, b"/bin/sh");
        assert_ne!(slim.flags & flags::ARGS_CUT, 0);
        let bare = image.bare();
        assert_eq!(
            (&*bare.name, &*bare.executable, &*bare.cmdline),
            (&b"sh"[..], &b""[..], &b"sh"[..])
        );
        assert_eq!(bare.arguments().count(), 0);
    }

    #[test]
    fn who_may_write_to_an_executable() {
        let user = Credentials {
            uid: 1000,
            euid: 1000,
            gid: 100,
            egid: 100,
            ..Credentials::default()
        };
        let capable = |bit: u32| Credentials {
            capabilities: 1 << bit,
            ..user
        };
        for (mode, owner, who, expected) in [
            (0o755, (0, 0), user, false),
            (0o555, (1000, 0), user, true),
            (0o775, (0, 100), user, true),
            (0o755, (0, 100), user, false),
            (0o777, (0, 0), user, true),
            (0o755, (0, 0), capable(1), true),
            (0o755, (0, 0), capable(3), true),
            (0o755, (0, 0), capable(2), false),
        ] {
            assert_eq!(is_writable(mode, owner, &who), expected, "{mode:o} {owner:?} {who:?}");
        }
    }

    #[test]
    fn standard_descriptors_have_types_and_names() {
        let device = |major: u32, minor: u32| Stdio {
            mode: 0o020_600,
            device: major << 20 | minor,
            ..Stdio::default()
        };
        let socket = |family: i32, first: &[u8], port: u16| {
            let mut remote = [0; 16];
            remote[..first.len()].copy_from_slice(first);
            Stdio {
                mode: 0o140_777,
                family: u16::try_from(family).unwrap(),
                remote_port: port,
                inode: 9,
                remote,
                ..Stdio::default()
            }
        };
        let plain = |mode: u16| Stdio {
            mode,
            inode: 7,
            ..Stdio::default()
        };
        let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 1]].concat();
        for (stdio, kind, name) in [
            (Stdio::default(), None, None),
            (plain(0o100_644), Some("file"), None),
            (plain(0o040_755), Some("directory"), None),
            (plain(0o010_600), Some("pipe"), Some("pipe:[7]")),
            (plain(0o600), None, None),
            (device(136, 300), Some("char"), Some("/dev/pts/300")),
            (device(4, 1), Some("char"), Some("/dev/tty1")),
            (device(4, 65), Some("char"), Some("/dev/ttyS1")),
            (device(1, 3), Some("char"), Some("/dev/null")),
            (device(99, 3), Some("char"), None),
            (
                socket(libc::AF_INET, &[192, 0, 2, 1], 4444),
                Some("ipv4"),
                Some("192.0.2.1:4444"),
            ),
            (socket(libc::AF_INET, &[], 0), Some("ipv4"), Some("socket:[9]")),
            (socket(libc::AF_INET6, &mapped, 80), Some("ipv6"), Some("192.0.2.1:80")),
            (
                socket(libc::AF_INET6, &[0x20, 1], 80),
                Some("ipv6"),
                Some("[2001::]:80"),
            ),
            (socket(libc::AF_UNIX, &[], 0), Some("unix"), Some("socket:[9]")),
            (socket(libc::AF_NETLINK, &[], 0), Some("netlink"), Some("socket:[9]")),
            (socket(libc::AF_PACKET, &[], 0), Some("socket"), Some("socket:[9]")),
        ] {
            assert_eq!(stdio_type(&stdio), kind, "{stdio:?}");
            assert_eq!(stdio_name(&stdio).as_deref(), name, "{stdio:?}");
        }
    }
}
