//! Calls that need no program of their own: one program records any of them by its shape.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes of a text or of bytes that are carried, a NUL included.
pub const TEXT_BYTES_MAX: u32 = 256;

/// Which calls of a shape are recorded.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All of them.
    All = 0,
    /// `mmap`: memory that is writable and executable at once.
    MapWritableExecutable = 1,
    /// `mprotect`: memory made executable.
    ProtectExecutable = 2,
    /// `kill` and its kin: a signal, not a test, to another process (first argument; -1 and groups included).
    SignalToOther = 3,
    /// `dup` and its kin: a socket put onto standard input, output or error.
    SocketOntoStdio = 4,
    /// `prctl`: a change that hides a process or changes who may look at it.
    Prctl = 5,
    /// `ptrace`: taking hold of a process or changing it.
    Ptrace = 6,
    /// `bpf`: loading, attaching, pinning, and changing or opening maps.
    Bpf = 7,
    /// `ioctl`: input put into a terminal, attributes of files.
    Ioctl = 8,
    /// `socket`: raw and packet sockets, and families that ordinary programs do not use.
    SocketUnusual = 9,
    /// Calls that succeeded and moved bytes; equal ones within a second are counted.
    Moved = 10,
    /// `fcntl`: as [`Self::SocketOntoStdio`].
    FcntlSocketOntoStdio = 11,
    /// Equal ones within a second are counted.
    Repeated = 12,
}

/// Where a call's paths, texts and descriptors are. Each member is the number of an argument, counted from 1; 0 for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Shape {
    /// Directory descriptor that the first path is relative to; 0: the working directory. [`Shape::ROOT`] says something
    /// else.
    pub directory: u8,
    /// First path.
    pub path: u8,
    /// Directory descriptor that the second path is relative to.
    pub new_directory: u8,
    /// Second path.
    pub new_path: u8,
    /// Descriptor that the call is about.
    pub descriptor: u8,
    /// Second descriptor.
    pub new_descriptor: u8,
    /// NUL-terminated text.
    pub text: u8,
    /// Second text; [`Shape::BYTES`] added when it is bytes. Of those the next argument tells the number, unless
    /// [`Shape::WORD`] was added once for every eight of them.
    pub more: u8,
    /// [`Wanted`].
    pub wanted: u8,
    /// 1 when the record goes to the file ring.
    pub file: u8,
}

impl Shape {
    /// Added to `more`: bytes, not text.
    pub const BYTES: u8 = 0x10;
    /// Added to `more` as often as there are words of eight bytes.
    pub const WORD: u8 = 0x20;
    /// As `directory`: what the path leads to is the root of the process once the call has succeeded.
    pub const ROOT: u8 = 0xff;

    /// Nothing but the arguments and the result.
    pub const PLAIN: Self = Self {
        directory: 0,
        path: 0,
        new_directory: 0,
        new_path: 0,
        descriptor: 0,
        new_descriptor: 0,
        text: 0,
        more: 0,
        wanted: Wanted::All as u8,
        file: 0,
    };

    /// Recorded only so.
    #[must_use]
    pub const fn only(mut self, wanted: Wanted) -> Self {
        self.wanted = wanted as u8;
        self
    }

    /// A path in this argument, relative to the working directory.
    #[must_use]
    pub const fn path(mut self, argument: u8) -> Self {
        self.path = argument;
        self.file = 1;
        self
    }

    /// A path in `argument`, relative to the directory in `directory`.
    #[must_use]
    pub const fn path_at(mut self, directory: u8, argument: u8) -> Self {
        self.directory = directory;
        self.path(argument)
    }

    /// A second path.
    #[must_use]
    pub const fn new_path(mut self, argument: u8) -> Self {
        self.new_path = argument;
        self.file = 1;
        self
    }

    /// A second path, relative to a directory.
    #[must_use]
    pub const fn new_path_at(mut self, directory: u8, argument: u8) -> Self {
        self.new_directory = directory;
        self.new_path(argument)
    }

    /// A descriptor.
    #[must_use]
    pub const fn descriptor(mut self, argument: u8) -> Self {
        self.descriptor = argument;
        self
    }

    /// A second descriptor.
    #[must_use]
    pub const fn new_descriptor(mut self, argument: u8) -> Self {
        self.new_descriptor = argument;
        self
    }

    /// A text.
    #[must_use]
    pub const fn text(mut self, argument: u8) -> Self {
        self.text = argument;
        self
    }

    /// A second text.
    #[must_use]
    pub const fn more(mut self, argument: u8) -> Self {
        self.more = argument;
        self
    }

    /// Bytes, of which the next argument tells the number.
    #[must_use]
    pub const fn bytes(mut self, argument: u8) -> Self {
        self.more = argument | Self::BYTES;
        self
    }

    /// A struct of so many words of eight bytes, at most seven.
    #[must_use]
    pub const fn words(mut self, argument: u8, words: u8) -> Self {
        assert!(words < 8);
        self.more = argument | Self::BYTES | (words * Self::WORD);
        self
    }

    /// Into the file ring, as records of files are.
    #[must_use]
    pub const fn file(mut self) -> Self {
        self.file = 1;
        self
    }
}
