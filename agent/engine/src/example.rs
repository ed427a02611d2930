//! Events written down in rule files: what a rule must match, and what it must miss.
//!
//! An example names only what matters; what follows from that (the name from the path, the parent from the ancestors) is
//! derived as the agent would.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::check::{flag, number};
use crate::diagnostic::{Diagnostics, did_you_mean};
use crate::event::{Event, EventKind, Value, directory_of, file_name_of};
use crate::field::{Field, FieldArg, FieldError, FieldRef, FieldType, Shape};
use crate::source::{Files, Place, Source};
use crate::yaml;

/// The examples of a rule.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Events the rule must match.
    pub matching: Vec<Example>,
    /// Events the rule must miss.
    pub missing: Vec<Example>,
}

/// One example.
#[derive(Clone, Debug)]
pub struct Example {
    /// What happens; several acts only of rules over several events.
    pub(crate) acts: Vec<Act>,
    /// The file it stands in.
    pub source: Box<str>,
    /// The line it begins at.
    pub line: u32,
}

impl Example {
    /// Its events, in order of time.
    pub fn events(&self) -> Vec<ExampleEvent> {
        played(&self.acts)
    }
}

/// An event as it is written down: small, since rules keep it; what follows from it is made up when it is played.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    event: ExampleEvent,
    times: u64,
    /// How long after what was before; none of an event that stands alone.
    after_ms: Option<u64>,
}

/// An event made of field values.
#[derive(Clone, Debug)]
pub struct ExampleEvent {
    kind: EventKind,
    time_ns: u64,
    /// Ordered by name, so that what is derived does not depend on chance.
    values: BTreeMap<String, Held>,
}

/// A value or several, nearest first.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    Text(Vec<u8>),
    Number(i64),
    Flag(bool),
    Address(IpAddr),
    Several(Vec<Self>),
}

impl Held {
    fn text(text: &[u8]) -> Self {
        Self::Text(text.to_vec())
    }

    fn value(&self) -> Option<Value<'_>> {
        Some(match self {
            Self::Text(text) => Value::Text(text),
            Self::Number(number) => Value::Number(*number),
            Self::Flag(flag) => Value::Flag(*flag),
            Self::Address(address) => Value::Address(*address),
            Self::Several(_) => return None,
        })
    }
}

/// A list of ancestors and the fields that hold its first element and the process's own value.
const ANCESTRY: &[(Field, Field, Field)] = &[
    (Field::ProcAname, Field::ProcPname, Field::ProcName),
    (Field::ProcAexe, Field::ProcPexe, Field::ProcExe),
    (Field::ProcAexepath, Field::ProcPexepath, Field::ProcExepath),
    (Field::ProcAcmdline, Field::ProcPcmdline, Field::ProcCmdline),
    (Field::ProcApid, Field::ProcPpid, Field::ProcPid),
];

impl ExampleEvent {
    /// An event of this type, such as `openat`, in which nothing else is known.
    pub fn new(event_type: &str) -> Option<Self> {
        let kind = EventKind::of_event_type(event_type.as_bytes())?;
        let mut event = Self {
            kind,
            time_ns: 0,
            values: BTreeMap::new(),
        };
        event.set(&FieldRef::plain(Field::EvtType), Value::from(event_type));
        Some(event)
    }

    /// Says when it happens, in nanoseconds since boot.
    pub fn set_time_ns(&mut self, time_ns: u64) {
        self.time_ns = time_ns;
    }

    /// Gives a field a value.
    pub fn set(&mut self, field: &FieldRef, value: Value<'_>) {
        self.values.insert(field.to_string(), held(value));
    }

    /// Gives a list-valued field its values, nearest first.
    pub fn set_each(&mut self, field: &FieldRef, values: &[Value<'_>]) {
        self.values.insert(
            field.to_string(),
            Held::Several(values.iter().map(|value| held(*value)).collect()),
        );
    }

    /// The same event with a number for every `{n}` in its texts.
    fn numbered(&self, number: u64) -> Self {
        fn numbered(held: &mut Held, number: &str) {
            match held {
                Held::Text(text) => {
                    while let Some(at) = memchr::memmem::find(text, b"{n}") {
                        text.splice(at..at + 3, number.bytes());
                    }
                }
                Held::Several(items) => items.iter_mut().for_each(|item| numbered(item, number)),
                Held::Number(_) | Held::Flag(_) | Held::Address(_) => {}
            }
        }
        let mut event = self.clone();
        let number = number.to_string();
        event.values.values_mut().for_each(|held| numbered(held, &number));
        event
    }

    fn plain(&self, field: Field) -> Option<&Held> {
        self.values.get(field.name())
    }

    fn plain_text(&self, field: Field) -> Option<&[u8]> {
        match self.plain(field)? {
            Held::Text(text) => Some(text),
            Held::Number(_) | Held::Flag(_) | Held::Address(_) | Held::Several(_) => None,
        }
    }

    fn plain_address(&self, field: Field) -> Option<IpAddr> {
        match self.plain(field)? {
            Held::Address(address) => Some(*address),
            Held::Text(_) | Held::Number(_) | Held::Flag(_) | Held::Several(_) => None,
        }
    }

    fn plain_number(&self, field: Field) -> Option<i64> {
        match self.plain(field)? {
            Held::Number(number) => Some(*number),
            Held::Text(_) | Held::Flag(_) | Held::Address(_) | Held::Several(_) => None,
        }
    }

    fn default(&mut self, field: Field, value: Held) {
        self.values.entry(field.name().to_owned()).or_insert(value);
    }

    fn copy(&mut self, from: Field, to: Field) {
        if let Some(value) = self.plain(from).cloned() {
            self.default(to, value);
        }
    }

    /// Fills in what follows from what is given.
    pub fn derive(&mut self) {
        self.derive_event();
        self.derive_process();
        match self.kind {
            EventKind::Open => {
                self.derive_path();
                self.derive_open();
            }
            EventKind::Unlink
            | EventKind::Mkdir
            | EventKind::Mknod
            | EventKind::Utime
            | EventKind::Handle
            | EventKind::Watch
            | EventKind::System => self.derive_path(),
            EventKind::Rename | EventKind::Link | EventKind::Symlink => self.derive_paths(),
            EventKind::Mount | EventKind::Namespace => {
                self.derive_path();
                self.derive_paths();
                self.derive_file();
            }
            EventKind::Chmod | EventKind::Chown | EventKind::Xattr | EventKind::Truncate => {
                self.derive_path();
                self.copy(Field::FsPathName, Field::FdName);
                self.derive_file();
            }
            EventKind::Copy
            | EventKind::Ioctl
            | EventKind::Memory
            | EventKind::Module
            | EventKind::Trace
            | EventKind::Signal => self.derive_file(),
            EventKind::Connect
            | EventKind::Listen
            | EventKind::Accept
            | EventKind::Send
            | EventKind::Bind
            | EventKind::Receive
            | EventKind::SocketEnd
            | EventKind::Socket
            | EventKind::Duplicate => self.derive_socket(),
            EventKind::Exec
            | EventKind::Fork
            | EventKind::Exit
            | EventKind::Credentials
            | EventKind::Session
            | EventKind::Control
            | EventKind::Bpf
            | EventKind::IoUring
            | EventKind::Key => {}
        }
    }

    fn derive_event(&mut self) {
        self.copy(Field::EvtType, Field::SyscallType);
        self.default(Field::EvtNum, Held::Number(1));
        self.default(Field::EvtCount, Held::Number(1));
        self.default(Field::EvtDir, Held::text(b"<"));
        self.default(Field::EvtCategory, Held::text(self.kind.category().as_bytes()));
        self.default(Field::EvtSource, Held::text(b"syscall"));
        self.default(Field::EvtRawres, Held::Number(0));
        let failed = self.plain_number(Field::EvtRawres).is_some_and(|result| result < 0);
        self.default(Field::EvtFailed, Held::Flag(failed));
        if !failed {
            self.default(Field::EvtRes, Held::text(b"SUCCESS"));
        }
        self.default(Field::ContainerId, Held::text(b"host"));
        self.copy(Field::EvtArgs, Field::EvtInfo);
        let copies = self.kind == EventKind::Copy;
        let (reads, writes) = (
            copies || self.kind == EventKind::Receive,
            copies || self.kind == EventKind::Send,
        );
        self.default(Field::EvtIsIo, Held::Flag(reads || writes));
        self.default(Field::EvtIsIoRead, Held::Flag(reads));
        self.default(Field::EvtIsIoWrite, Held::Flag(writes));
        self.default(Field::EvtIsSyslog, Held::Flag(false));
        self.default(Field::EvtIoUring, Held::Flag(false));
        self.copy(Field::FdProcTarget, Field::TargetRelation);
        if self.plain(Field::TargetPid).is_some() || self.plain(Field::TargetName).is_some() {
            self.default(Field::TargetIsAgent, Held::Flag(false));
        }
    }

    fn derive_process(&mut self) {
        // A list of arguments is joined, and each can be asked for.
        let arguments: Option<Vec<Vec<u8>>> = match self.plain(Field::ProcArgs) {
            Some(Held::Several(items)) => Some(
                items
                    .iter()
                    .map(|item| match item {
                        Held::Text(text) => text.clone(),
                        Held::Number(_) | Held::Flag(_) | Held::Address(_) | Held::Several(_) => Vec::new(),
                    })
                    .collect(),
            ),
            Some(Held::Text(text)) => Some(words(text)),
            Some(Held::Number(_) | Held::Flag(_) | Held::Address(_)) => None,
            None => self
                .plain_text(Field::ProcCmdline)
                .map(|line| words(line).split_off(1.min(words(line).len()))),
        };
        if let Some(path) = self.plain_text(Field::ProcExepath) {
            const COMM_BYTES_MAX: usize = 15;
            let name = file_name_of(path);
            let name = Held::text(&name[..name.len().min(COMM_BYTES_MAX)]);
            self.default(Field::ProcName, name);
        }
        if let Some(arguments) = &arguments {
            let joined = arguments.join(&b' ');
            if let Some(name) = self.plain_text(Field::ProcName) {
                let mut line = name.to_vec();
                if !joined.is_empty() {
                    line.push(b' ');
                    line.extend_from_slice(&joined);
                }
                self.default(Field::ProcCmdline, Held::Text(line));
            }
            let length: usize = arguments.iter().map(Vec::len).sum();
            self.default(
                Field::ProcCmdlenargs,
                Held::Number(i64::try_from(length).unwrap_or(i64::MAX)),
            );
            self.default(
                Field::ProcCmdnargs,
                Held::Number(i64::try_from(arguments.len()).unwrap_or(i64::MAX)),
            );
            for (index, argument) in (0..).zip(arguments) {
                let field = FieldRef::index(Field::ProcArg, index).to_string();
                self.values.entry(field).or_insert(Held::text(argument));
            }
            self.values
                .insert(Field::ProcArgs.name().to_owned(), Held::Text(joined));
        } else {
            self.copy(Field::ProcName, Field::ProcCmdline);
        }
        if let Some(first) = self
            .plain_text(Field::ProcCmdline)
            .and_then(|line| words(line).into_iter().next())
        {
            self.default(Field::ProcExe, Held::Text(first));
        }
        if let (Some(exe), Some(args)) = (self.plain_text(Field::ProcExe), self.plain_text(Field::ProcArgs)) {
            let line = if args.is_empty() {
                exe.to_vec()
            } else {
                [exe, args].join(&b' ')
            };
            self.default(Field::ProcExeline, Held::Text(line));
        }
        self.copy(Field::UserUid, Field::UserEuid);
        if self.plain_number(Field::UserUid) == Some(0) {
            self.default(Field::UserName, Held::text(b"root"));
        }
        // Outside containers a process has the same ids in its own pid namespace.
        self.copy(Field::ProcPid, Field::ProcVpid);
        self.copy(Field::ProcPpid, Field::ProcPvpid);
        self.copy(Field::ProcPgid, Field::ProcVpgid);
        self.default(Field::ProcTty, Held::Number(0));
        self.default(Field::ProcNlink, Held::Number(1));
        for field in [
            Field::ProcIsExeWritable,
            Field::ProcIsExeUpperLayer,
            Field::ProcIsExeLowerLayer,
            Field::ProcIsExeFromMemfd,
            Field::ProcIsExeSecure,
        ] {
            self.default(field, Held::Flag(false));
        }
        for (list, parent, own) in ANCESTRY {
            let nearest = match self.plain(*list) {
                Some(Held::Several(items)) => items.first().cloned(),
                Some(one) => Some(one.clone()),
                None => None,
            };
            match nearest {
                Some(nearest) => self.default(*parent, nearest),
                None => {
                    if let Some(parent) = self.plain(*parent).cloned() {
                        self.default(*list, Held::Several(vec![parent]));
                    }
                }
            }
            if let Some(own) = self.plain(*own).cloned() {
                self.values.entry(FieldRef::index(*list, 0).to_string()).or_insert(own);
            }
        }
    }

    fn derive_path(&mut self) {
        self.copy(Field::FdName, Field::FsPathName);
        let argument = ["name", "path", "filename"]
            .iter()
            .find_map(|key| self.values.get(&FieldRef::key(Field::EvtArg, key).to_string()).cloned());
        if let Some(path) = argument {
            self.default(Field::FsPathName, path);
        }
        if let Some(path) = self.plain(Field::FsPathName).cloned() {
            for key in ["name", "path", "filename"] {
                self.values
                    .entry(FieldRef::key(Field::EvtArg, key).to_string())
                    .or_insert(path.clone());
            }
        }
        self.copy(Field::FsPathName, Field::FsPathNameraw);
    }

    fn derive_paths(&mut self) {
        for (path, raw, key) in [
            (Field::FsPathSource, Field::FsPathSourceraw, "oldpath"),
            (Field::FsPathTarget, Field::FsPathTargetraw, "newpath"),
        ] {
            if let Some(value) = self.plain(path).cloned() {
                self.values
                    .entry(FieldRef::key(Field::EvtArg, key).to_string())
                    .or_insert(value);
            }
            self.copy(path, raw);
        }
    }

    /// What follows from the path of the descriptor that a call is about.
    fn derive_file(&mut self) {
        self.copy(Field::FdName, Field::FdNameraw);
        if let Some(path) = self.plain_text(Field::FdName) {
            let (directory, name) = (Held::text(directory_of(path)), Held::text(file_name_of(path)));
            self.default(Field::FdDirectory, directory);
            self.default(Field::FdFilename, name);
        }
    }

    fn derive_open(&mut self) {
        self.copy(Field::FsPathName, Field::FdName);
        self.derive_file();
        self.default(Field::FdType, Held::text(b"file"));
        self.default(Field::FdTypechar, Held::text(b"f"));
        self.default(Field::FdNum, Held::Number(3));
        for field in [
            Field::EvtIsOpenRead,
            Field::EvtIsOpenWrite,
            Field::EvtIsOpenExec,
            Field::EvtIsOpenCreate,
        ] {
            self.default(field, Held::Flag(false));
        }
    }

    fn derive_socket(&mut self) {
        // On the side of the server the local end is the server; otherwise the remote end is.
        let is_server = matches!(self.kind, EventKind::Listen | EventKind::Accept | EventKind::Bind);
        let (server, client) = (
            [
                (Field::FdSip, Field::FdSport),
                if is_server {
                    (Field::FdLip, Field::FdLport)
                } else {
                    (Field::FdRip, Field::FdRport)
                },
            ],
            [
                (Field::FdCip, Field::FdCport),
                if is_server {
                    (Field::FdRip, Field::FdRport)
                } else {
                    (Field::FdLip, Field::FdLport)
                },
            ],
        );
        for [(address, port), (same_address, same_port)] in [server, client] {
            self.copy(address, same_address);
            self.copy(same_address, address);
            self.copy(port, same_port);
            self.copy(same_port, port);
        }
        for (address, network) in [
            (Field::FdSip, Field::FdSnet),
            (Field::FdCip, Field::FdCnet),
            (Field::FdLip, Field::FdLnet),
            (Field::FdRip, Field::FdRnet),
        ] {
            self.copy(network, address);
            self.copy(address, network);
        }
        let ends: Vec<Held> = [Field::FdSip, Field::FdCip]
            .iter()
            .filter_map(|field| self.plain(*field).cloned())
            .collect();
        let ports: Vec<Held> = [Field::FdSport, Field::FdCport]
            .iter()
            .filter_map(|field| self.plain(*field).cloned())
            .collect();
        if !ends.is_empty() {
            self.default(Field::FdIp, Held::Several(ends.clone()));
            self.default(Field::FdNet, Held::Several(ends));
        }
        if !ports.is_empty() {
            self.default(Field::FdPort, Held::Several(ports));
        }
        let end = |address: Field, port: Field| {
            let address = self.plain_address(address)?;
            let port = self.plain_number(port)?;
            Some(if address.is_ipv6() {
                format!("[{address}]:{port}")
            } else {
                format!("{address}:{port}")
            })
        };
        let name = end(Field::FdLip, Field::FdLport).zip(end(Field::FdRip, Field::FdRport));
        if let Some((local, remote)) = name {
            self.default(Field::FdName, Held::Text(format!("{local}->{remote}").into_bytes()));
        }
        let family = [Field::FdSip, Field::FdCip]
            .iter()
            .find_map(|field| self.plain_address(*field));
        if let Some(address) = family {
            let (name, letter): (&[u8], &[u8]) = if address.is_ipv6() {
                (b"ipv6", b"6")
            } else {
                (b"ipv4", b"4")
            };
            self.default(Field::FdType, Held::text(name));
            self.default(Field::FdTypechar, Held::text(letter));
            self.default(Field::FdSockfamily, Held::text(b"ip"));
        }
        let protocol: &[u8] = match self.kind == EventKind::Send || self.kind == EventKind::Receive {
            true => b"udp",
            false => b"tcp",
        };
        self.default(Field::FdL4proto, Held::text(protocol));
        self.default(Field::FdIsServer, Held::Flag(is_server));
        self.default(
            Field::FdConnected,
            Held::Flag(matches!(
                self.kind,
                EventKind::Connect | EventKind::Accept | EventKind::SocketEnd
            )),
        );
        self.default(
            Field::FdNameChanged,
            Held::Flag(matches!(
                self.kind,
                EventKind::Connect | EventKind::Accept | EventKind::Send
            )),
        );
        self.default(Field::FdNum, Held::Number(3));
    }
}

fn held(value: Value<'_>) -> Held {
    match value {
        Value::Text(text) => Held::text(text),
        Value::Number(number) => Held::Number(number),
        Value::Flag(flag) => Held::Flag(flag),
        Value::Address(address) => Held::Address(address),
    }
}

fn words(line: &[u8]) -> Vec<Vec<u8>> {
    line.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .map(<[u8]>::to_vec)
        .collect()
}

impl Event for ExampleEvent {
    fn kind(&self) -> EventKind {
        self.kind
    }

    fn time_ns(&self) -> u64 {
        self.time_ns
    }

    fn value(&self, field: &FieldRef) -> Option<Value<'_>> {
        if let Some(found) = self.values.get(&field.to_string()) {
            return found.value();
        }
        // An ancestor by number: the list begins with the parent, which is number 1.
        let FieldArg::Index(index) = field.arg else { return None };
        let at = usize::try_from(index).ok()?.checked_sub(1)?;
        let Held::Several(items) = self.plain(field.field)? else {
            return None;
        };
        items.get(at).filter(|_| field.field.shape() == Shape::List)?.value()
    }

    fn each(&self, field: &FieldRef, visit: &mut dyn FnMut(Value<'_>) -> bool) {
        match self.values.get(&field.to_string()) {
            Some(Held::Several(items)) => {
                for value in items.iter().filter_map(Held::value) {
                    if !visit(value) {
                        return;
                    }
                }
            }
            Some(one) => {
                if let Some(value) = one.value() {
                    visit(value);
                }
            }
            None => {
                if let Some(value) = self.value(field) {
                    visit(value);
                }
            }
        }
    }
}

/// What is wrong with an example.
pub(crate) struct Mistake {
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

/// Reads events written down outside of rules: mappings of fields to values, in YAML or JSON, one or a list of them.
///
/// # Errors
/// All mistakes in them.
pub fn events(source: &Source<'_>) -> Result<Vec<ExampleEvent>, Diagnostics> {
    let sources = [*source];
    let files = Files::new(&sources);
    let documents = yaml::read(&files, 0).map_err(|error| Diagnostics(vec![error]))?;
    let mut events = Vec::new();
    let mut mistakes = Vec::new();
    for document in documents {
        match read_acts(&document, true) {
            Ok(acts) => events.extend(played(&acts)),
            Err(more) => mistakes.extend(more),
        }
    }
    if !mistakes.is_empty() {
        let told = mistakes
            .into_iter()
            .map(|Mistake { place, message, help }| files.diagnostic(place, message, help));
        return Err(Diagnostics(told.collect()));
    }
    Ok(events)
}

/// Most events of one example.
const EVENTS_MAX: u64 = 10_000;
/// The process that does it all, unless an example of several events says who.
const SOMEBODY: i64 = 1000;

/// Reads an example: an event, or, of rules over several, a list of them.
pub(crate) fn read_acts(node: &yaml::Node, several: bool) -> Result<Vec<Act>, Vec<Mistake>> {
    if !several {
        return Ok(vec![Act {
            event: read(node)?,
            times: 1,
            after_ms: None,
        }]);
    }
    let items = match &node.value {
        yaml::Value::Sequence(items) => items.as_slice(),
        yaml::Value::Scalar { .. } | yaml::Value::Mapping(_) => std::slice::from_ref(node),
    };
    let mut acts = Vec::with_capacity(items.len());
    let mut mistakes = Vec::new();
    for item in items {
        match read_act(item) {
            Ok(act) => acts.push(act),
            Err(more) => mistakes.extend(more),
        }
    }
    if acts.is_empty() && mistakes.is_empty() {
        mistakes.push(Mistake {
            place: node.place,
            message: "an example has at least one event".to_owned(),
            help: None,
        });
    }
    if mistakes.is_empty() { Ok(acts) } else { Err(mistakes) }
}

/// The events of an example, with what follows from what is written.
fn played(acts: &[Act]) -> Vec<ExampleEvent> {
    let mut events: Vec<ExampleEvent> = Vec::new();
    let mut time_ns = 0_u64;
    for act in acts {
        let mut event = act.event.clone();
        event.derive();
        if act.after_ms.is_some() {
            event.default(Field::ProcPid, Held::Number(SOMEBODY));
        }
        for number in 1..=act.times.min(EVENTS_MAX.saturating_sub(events.len() as u64)) {
            time_ns = time_ns.saturating_add(act.after_ms.unwrap_or(0).saturating_mul(1_000_000));
            event.time_ns = time_ns;
            events.push(event.numbered(number));
        }
    }
    events
}

/// An event of an example of several.
fn read_act(node: &yaml::Node) -> Result<Act, Vec<Mistake>> {
    let yaml::Value::Mapping(entries) = &node.value else {
        return Ok(Act {
            event: read(node)?,
            times: 1,
            after_ms: Some(1),
        });
    };
    let (mut times, mut after_ms) = (1, 1);
    let mut rest = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let text = value.scalar().unwrap_or_default();
        let (read, what) = match key.scalar() {
            Some("times") => (
                text.parse()
                    .ok()
                    .filter(|times| (1..=EVENTS_MAX).contains(times))
                    .map(|number| times = number),
                "`times` is a number from 1 on",
            ),
            Some("after") => (
                crate::ruleset::duration_ms(text).map(|duration| after_ms = duration),
                "`after` is a duration such as 10s",
            ),
            Some(_) | None => {
                rest.push((key.clone(), value.clone()));
                continue;
            }
        };
        if read.is_none() {
            return Err(vec![Mistake {
                place: value.place,
                message: format!("{what}; found `{}`", text.escape_debug()),
                help: None,
            }]);
        }
    }
    Ok(Act {
        event: read(&node.with_entries(rest))?,
        times,
        after_ms: Some(after_ms),
    })
}

/// Reads an event: a flat mapping of fields and values.
pub(crate) fn read(node: &yaml::Node) -> Result<ExampleEvent, Vec<Mistake>> {
    let mistake = |place: Place, message: String, help: Option<String>| Mistake { place, message, help };
    let yaml::Value::Mapping(entries) = &node.value else {
        return Err(vec![mistake(
            node.place,
            format!("an example maps fields to values; found {}", node.kind()),
            None,
        )]);
    };
    let event_type = entries
        .iter()
        .find(|(key, _)| key.scalar() == Some(Field::EvtType.name()))
        .map(|(_, value)| value);
    let Some(event_type) = event_type else {
        return Err(vec![mistake(
            node.place,
            "an example needs `evt.type`".to_owned(),
            Some("add for instance `evt.type: execve`".to_owned()),
        )]);
    };
    let Some(mut event) = event_type.scalar().and_then(ExampleEvent::new) else {
        let known = EventKind::ALL.iter().flat_map(|kind| kind.event_types()).copied();
        let help = did_you_mean(event_type.scalar().unwrap_or_default(), known);
        let message = format!(
            "`{}` is not an event type that is recorded",
            event_type.scalar().unwrap_or_default().escape_debug()
        );
        return Err(vec![mistake(event_type.place, message, help)]);
    };
    let mut mistakes = Vec::new();
    for (key, value) in entries {
        let Some(name) = key.scalar() else {
            mistakes.push(mistake(
                key.place,
                format!("keys of an example are fields; found {}", key.kind()),
                None,
            ));
            continue;
        };
        let field = match FieldRef::parse(name) {
            Ok(field) => field,
            Err(FieldError::Mistake { message, help }) => {
                mistakes.push(mistake(key.place, format!("{message} in an example"), help));
                continue;
            }
            // What nobody supplies no event of an example can have.
            Err(FieldError::Unsupplied(reason)) => {
                mistakes.push(mistake(key.place, format!("{reason}, so no example can have it"), None));
                continue;
            }
        };
        if value.is_null() {
            continue;
        }
        match read_value(&field, value) {
            Ok(held) => {
                event.values.insert(field.to_string(), held);
            }
            Err(message) => mistakes.push(mistake(value.place, message, None)),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(event)
}

fn read_value(field: &FieldRef, node: &yaml::Node) -> Result<Held, String> {
    match &node.value {
        yaml::Value::Scalar { text, plain } => {
            let one = read_scalar(field, text, *plain)?;
            Ok(if field.shape() == Shape::Single {
                one
            } else {
                Held::Several(vec![one])
            })
        }
        yaml::Value::Sequence(items)
            if field.shape() != Shape::Single || *field == FieldRef::plain(Field::ProcArgs) =>
        {
            let mut several = Vec::new();
            for item in items {
                match &item.value {
                    yaml::Value::Scalar { text, plain } => several.push(read_scalar(field, text, *plain)?),
                    yaml::Value::Sequence(_) | yaml::Value::Mapping(_) => {
                        return Err(format!("values of `{field}` are single; found {}", item.kind()));
                    }
                }
            }
            Ok(Held::Several(several))
        }
        yaml::Value::Sequence(_) | yaml::Value::Mapping(_) => {
            Err(format!("`{field}` has one value; found {}", node.kind()))
        }
    }
}

fn read_scalar(field: &FieldRef, text: &str, plain: bool) -> Result<Held, String> {
    let wrong = |what: &str| {
        format!(
            "`{}` is not {what}, and `{field}` is {}",
            text.escape_debug(),
            field.field.ty().phrase()
        )
    };
    match field.field.ty() {
        FieldType::Text | FieldType::Path => Ok(Held::text(text.as_bytes())),
        FieldType::Any => Ok(match number(text).filter(|_| plain) {
            Some(number) => Held::Number(number),
            None => Held::text(text.as_bytes()),
        }),
        FieldType::Number | FieldType::Port => number(text).map(Held::Number).ok_or_else(|| wrong("a number")),
        FieldType::Flag => flag(text).map(Held::Flag).ok_or_else(|| wrong("true or false")),
        FieldType::Address | FieldType::Network => text.parse().map(Held::Address).map_err(|_| wrong("an address")),
    }
}
