//! What the matcher asks of an event, and the kinds of event there are.

use std::net::IpAddr;

use crate::field::FieldRef;

/// What happened, as coarsely as the sensor tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A process replaced its program.
    Exec,
    /// A process or thread was created.
    Fork,
    /// A process ended.
    Exit,
    /// A file was opened.
    Open,
    /// A file was renamed.
    Rename,
    /// A file or directory was removed.
    Unlink,
    /// The mode of a file was changed.
    Chmod,
    /// A socket was connected.
    Connect,
    /// A socket began to listen.
    Listen,
    /// A connection was accepted.
    Accept,
    /// A datagram was sent.
    Send,
}

impl EventKind {
    /// Every kind, in the order of [`EventKind::index`].
    pub const ALL: [Self; Self::COUNT] = [
        Self::Exec,
        Self::Fork,
        Self::Exit,
        Self::Open,
        Self::Rename,
        Self::Unlink,
        Self::Chmod,
        Self::Connect,
        Self::Listen,
        Self::Accept,
        Self::Send,
    ];

    /// How many kinds there are.
    pub const COUNT: usize = 11;

    /// Position in [`EventKind::ALL`], for tables by kind.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The values of `evt.type` that events of this kind can carry.
    pub fn event_types(self) -> &'static [&'static str] {
        match self {
            Self::Exec => &["execve", "execveat"],
            Self::Fork => &["clone", "clone3", "fork", "vfork"],
            Self::Exit => &["procexit"],
            Self::Open => &["open", "openat", "openat2", "creat", "open_by_handle_at"],
            Self::Rename => &["rename", "renameat", "renameat2"],
            Self::Unlink => &["unlink", "unlinkat", "rmdir"],
            Self::Chmod => &["chmod", "fchmod", "fchmodat"],
            Self::Connect => &["connect"],
            Self::Listen => &["listen"],
            Self::Accept => &["accept", "accept4"],
            Self::Send => &["sendto", "sendmsg", "sendmmsg"],
        }
    }

    /// The kind that carries this value of `evt.type`, if one does.
    pub fn of_event_type(event_type: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.event_types().iter().any(|name| name.as_bytes() == event_type))
    }

    /// The value of `evt.category`, in Falco's words.
    pub fn category(self) -> &'static str {
        match self {
            Self::Exec | Self::Fork | Self::Exit => "process",
            Self::Open | Self::Rename | Self::Unlink | Self::Chmod => "file",
            Self::Connect | Self::Listen | Self::Accept => "net",
            Self::Send => "IO",
        }
    }
}

/// A set of event kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KindSet(u16);

impl KindSet {
    /// No kind.
    pub const EMPTY: Self = Self(0);
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::COUNT) - 1);

    /// The set of these kinds.
    pub const fn of(kinds: &[EventKind]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u16;
            at += 1;
        }
        Self(bits)
    }

    /// Whether `kind` is in the set.
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u16) != 0
    }

    /// Whether no kind is in the set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Kinds in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Kinds in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Kinds not in the set.
    #[must_use]
    pub fn complement(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }

    /// The kinds in the set, in order.
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl std::fmt::Debug for KindSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// The value of a field in one event. Text is bytes: names on Linux need not be UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Text or path.
    Text(&'a [u8]),
    /// Number, port, duration or time in nanoseconds.
    Number(i64),
    /// Yes or no.
    Flag(bool),
    /// Network address. Addresses mapped from IPv4 into IPv6 are given as IPv4.
    Address(IpAddr),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text.as_bytes())
    }
}

/// An event as the matcher sees it: a kind and fields looked up when a rule asks for them.
pub trait Event {
    /// What happened.
    fn kind(&self) -> EventKind;

    /// The value of a single-valued field, or `None` when the event cannot supply it: then every check on it is false.
    ///
    /// For a list-valued field asked without an index this returns `None`; the matcher calls [`Event::each`] instead.
    fn value(&self, field: &FieldRef) -> Option<Value<'_>>;

    /// Calls `visit` with every value of a list-valued field, nearest first, until it returns false.
    ///
    /// A single-valued field has its one value visited, which is what the default does.
    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        if let Some(value) = self.value(field) {
            visit(value);
        }
    }
}

/// The directory part of a path: what `fd.directory` is for `fd.name`.
pub fn directory_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => b"/",
        Some(slash) => &path[..slash],
        None => b"",
    }
}

/// The last component of a path: what `fd.filename` is for `fd.name`.
pub fn file_name_of(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => &path[slash + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_indexed_in_order() {
        for (index, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), index);
            for name in kind.event_types() {
                assert_eq!(EventKind::of_event_type(name.as_bytes()), Some(kind));
            }
        }
        assert_eq!(EventKind::of_event_type(b"ptrace"), None);
    }

    #[test]
    fn kind_sets() {
        let files = KindSet::of(&[EventKind::Open, EventKind::Rename]);
        assert!(files.contains(EventKind::Open));
        assert!(!files.complement().contains(EventKind::Open));
        assert_eq!(files.union(files.complement()), KindSet::ALL);
        assert!(files.intersection(files.complement()).is_empty());
        assert_eq!(files.iter().collect::<Vec<_>>(), [EventKind::Open, EventKind::Rename]);
    }

    #[test]
    fn paths_split() {
        let parts = |path: &'static str| (directory_of(path.as_bytes()), file_name_of(path.as_bytes()));
        assert_eq!(parts("/etc/shadow"), (&b"/etc"[..], &b"shadow"[..]));
        assert_eq!(parts("/vmlinuz"), (&b"/"[..], &b"vmlinuz"[..]));
        assert_eq!(parts("name"), (&b""[..], &b"name"[..]));
    }
}
