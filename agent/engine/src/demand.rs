//! What the kernel must report for the rules that are loaded: which calls, and which opens.
//!
//! Sound, not exact: an event that some rule matches is always demanded; one that no rule matches may be. Paths are judged by
//! the components that they must have, because that is what the kernel can look up while it walks a path. The path of an
//! open is what `fd.name` and `fs.path.name` say of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::evaluate::accepts_value;
use crate::event::{EventKind, Value};
use crate::field::Field;
use crate::glob::Glob;
use crate::ir::{Graph, Node, NodeId, Order, Predicate, Test, Transform};

/// Most patterns of all opens together; beyond that all opens of an access are demanded.
pub const PATTERNS_MAX: usize = 1024;

/// The type of opens that go by no path.
const OPEN_BY_HANDLE: &str = "open_by_handle_at";

/// Longest component of a path (`NAME_MAX`): no file has a longer one.
const COMPONENT_BYTES_MAX: usize = 255;

/// Components that a large part of all paths has: another one is taken where there is one.
const COMMON: &[&[u8]] = &[
    b"bin",
    b"boot",
    b"cache",
    b"dev",
    b"dist-packages",
    b"etc",
    b"home",
    b"include",
    b"lib",
    b"lib32",
    b"lib64",
    b"local",
    b"log",
    b"media",
    b"mnt",
    b"node_modules",
    b"opt",
    b"proc",
    b"root",
    b"run",
    b"sbin",
    b"self",
    b"share",
    b"site-packages",
    b"src",
    b"srv",
    b"sys",
    b"system",
    b"systemd",
    b"target",
    b"tmp",
    b"user",
    b"usr",
    b"var",
];

/// Components that many paths have, in homes, sources and below `/sys`.
const ORDINARY: &[&[u8]] = &[
    b".cache",
    b".cargo",
    b".config",
    b".git",
    b".github",
    b".local",
    b".npm",
    b".rustup",
    b".venv",
    b"build",
    b"certs",
    b"class",
    b"config",
    b"config.json",
    b"config.toml",
    b"config.yaml",
    b"config.yml",
    b"containers",
    b"data",
    b"devices",
    b"dist",
    b"docs",
    b"index.js",
    b"main",
    b"modules",
    b"package.json",
    b"private",
    b"security",
    b"settings.json",
    b"test",
    b"tests",
    b"virtual",
];

/// Why opens fail, beside that they are not allowed, by the number and the name that rules see.
const MERE_FAILURES: &[(i64, &str)] = &[
    (-2, "ENOENT"),
    (-6, "ENXIO"),
    (-16, "EBUSY"),
    (-17, "EEXIST"),
    (-19, "ENODEV"),
    (-20, "ENOTDIR"),
    (-21, "EISDIR"),
    (-22, "EINVAL"),
    (-24, "EMFILE"),
    (-26, "ETXTBSY"),
    (-30, "EROFS"),
    (-36, "ENAMETOOLONG"),
    (-40, "ELOOP"),
];

/// What an open asks for, and whether it was granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Access {
    /// To read: `evt.is_open_read`.
    pub read: bool,
    /// To write: `evt.is_open_write`.
    pub write: bool,
    /// The file was made by it: `evt.is_open_create`.
    pub create: bool,
    /// The open failed: its result is negative.
    pub failed: bool,
}

impl Access {
    /// How many there are.
    pub const COUNT: usize = 16;

    /// Its number: 1 for reading, 2 for writing, 4 for creating and 8 for failed, added up.
    pub fn index(self) -> usize {
        usize::from(self.read)
            | usize::from(self.write) << 1
            | usize::from(self.create) << 2
            | usize::from(self.failed) << 3
    }

    /// Every access, in the order of its number.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(|index| Self {
            read: index & 1 != 0,
            write: index & 2 != 0,
            create: index & 4 != 0,
            failed: index & 8 != 0,
        })
    }
}

/// A set of accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AccessSet(u16);

impl AccessSet {
    /// One bit for each access, at the place of [`Access::index`].
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether the set holds this access.
    pub fn contains(self, access: Access) -> bool {
        self.0 & (1 << access.index()) != 0
    }

    /// Whether the set holds none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of them failed.
    fn are_failed(self) -> bool {
        Access::all().all(|access| access.failed || !self.contains(access))
    }

    fn insert(&mut self, access: Access) {
        self.0 |= 1 << access.index();
    }

    /// The set of those that are so.
    fn of(wanted: impl Fn(Access) -> bool) -> Self {
        let mut set = Self::default();
        Access::all()
            .filter(|access| wanted(*access))
            .for_each(|access| set.insert(access));
        set
    }
}

impl fmt::Display for AccessSet {
    /// In words, such as `read` for everything that is opened to be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        type Wanted = fn(Access) -> bool;
        let words: [(&str, Wanted); 6] = [
            ("any", |_| true),
            ("read", |access| access.read),
            ("write", |access| access.write),
            ("create", |access| access.create),
            ("create and write", |access| access.create && access.write),
            ("read or write", |access| access.read || access.write),
        ];
        for (word, wanted) in words {
            if *self == Self::of(wanted) {
                return f.write_str(word);
            }
            if *self == Self::of(|access| wanted(access) && !access.failed) {
                return write!(f, "{word}, granted");
            }
            if *self == Self::of(|access| wanted(access) && access.failed) {
                return write!(f, "{word}, refused");
            }
        }
        let one = |access: Access| {
            let words: Vec<&str> = [
                (access.read, "read"),
                (access.write, "write"),
                (access.create, "create"),
                (access.failed, "refused"),
            ]
            .into_iter()
            .filter_map(|(is, word)| is.then_some(word))
            .collect();
            if words.is_empty() {
                "neither".to_owned()
            } else {
                words.join("+")
            }
        };
        let each: Vec<String> = Access::all().filter(|access| self.contains(*access)).map(one).collect();
        f.write_str(&each.join(", "))
    }
}

/// What a path must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// One of its components is this.
    Component(Box<[u8]>),
    /// Its last component ends so, from its last dot on: `.pth`.
    Extension(Box<[u8]>),
}

impl Pattern {
    /// Whether a path has it.
    pub fn admits(&self, path: &[u8]) -> bool {
        match self {
            Self::Component(wanted) => path.split(|byte| *byte == b'/').any(|component| component == &**wanted),
            Self::Extension(wanted) => extension(crate::event::file_name_of(path)) == Some(wanted),
        }
    }

    /// How much of all opens it lets through, as a guess.
    fn cost(&self) -> u64 {
        match self {
            Self::Component(name) if COMMON.contains(&&**name) => 1000,
            Self::Component(name) if name.len() <= 2 => 50,
            Self::Component(name) if ORDINARY.contains(&&**name) => 30,
            // Hidden files and directories belong to one program.
            Self::Component(name) if name.starts_with(b".") => 1,
            Self::Component(_) => 2,
            Self::Extension(_) => 20,
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Component(name) => write!(f, "{}", name.escape_ascii()),
            Self::Extension(extension) => write!(f, "*{}", extension.escape_ascii()),
        }
    }
}

/// From the last dot of a name on.
fn extension(name: &[u8]) -> Option<&[u8]> {
    name.iter().rposition(|byte| *byte == b'.').map(|dot| &name[dot..])
}

/// Which opens of one access are demanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opens {
    /// None.
    None,
    /// Those whose path has one of these.
    Names(Arc<BTreeSet<Pattern>>),
    /// All of them.
    All,
}

impl Opens {
    /// Whether the open of this path is demanded.
    pub fn admits(&self, path: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::Names(names) => names.iter().any(|name| name.admits(path)),
            Self::All => true,
        }
    }

    fn names(names: BTreeSet<Pattern>) -> Self {
        match names.len() {
            0 => Self::None,
            1..=PATTERNS_MAX => Self::Names(Arc::new(names)),
            _ => Self::All,
        }
    }

    /// What either demands.
    fn either(self, other: &Self) -> Self {
        match (&self, other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::None, _) => other.clone(),
            (_, Self::None) => self,
            (Self::Names(left), Self::Names(right)) => {
                if left.is_superset(right) {
                    self
                } else {
                    Self::names(left.union(right).cloned().collect())
                }
            }
        }
    }

    /// Both must hold, so either will do: the one that lets less through.
    fn tighter(self, other: &Self) -> Self {
        let cost = |opens: &Self| match opens {
            Self::None => 0,
            Self::Names(names) => names.iter().map(Pattern::cost).sum(),
            Self::All => u64::MAX,
        };
        if cost(other) < cost(&self) { other.clone() } else { self }
    }
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Names(names) => {
                let names: Vec<String> = names.iter().map(Pattern::to_string).collect();
                f.write_str(&names.join(", "))
            }
            Self::All => f.write_str("all"),
        }
    }
}

/// What the rules that are loaded want to be told of.
#[derive(Clone, Debug)]
pub struct Demand {
    rules: Vec<Box<str>>,
    /// The rules that want events of each type, by their place in `rules`.
    wanted: BTreeMap<&'static str, Vec<usize>>,
    opens: [Opens; Access::COUNT],
    /// Of each rule that wants opens.
    by_rule: BTreeMap<usize, RuleOpens>,
    failed_opens: bool,
}

#[derive(Clone, Debug)]
struct RuleOpens {
    opens: Vec<(AccessSet, Opens)>,
    why_all: Option<String>,
}

/// Why events of a type are demanded.
#[derive(Clone, Debug)]
pub struct Reason<'d> {
    /// Id of the rule that wants them.
    pub rule: &'d str,
    /// For opens: which ones, by access. Empty for other events, of which all are wanted.
    pub opens: &'d [(AccessSet, Opens)],
    /// For a rule that wants all opens of some access: what it asks instead of a path.
    pub why_all: Option<&'d str>,
}

impl Demand {
    /// What these rules demand, each given by its id, kinds and condition.
    pub(crate) fn of<'r>(graph: &Graph, rules: impl Iterator<Item = (&'r str, crate::event::KindSet, NodeId)>) -> Self {
        let rules: Vec<_> = rules.collect();
        let mut wanted: BTreeMap<&'static str, Vec<usize>> = BTreeMap::new();
        for kind in EventKind::ALL {
            for event_type in kind.event_types() {
                let mut analysis = Analysis::new(graph, kind, Some(event_type), None);
                for (number, (_, kinds, node)) in rules.iter().enumerate() {
                    if kinds.contains(kind) && analysis.need(*node, true) != Opens::None {
                        wanted.entry(event_type).or_default().push(number);
                    }
                }
            }
        }
        let mut opens = [const { Opens::None }; Access::COUNT];
        let mut by_rule: BTreeMap<usize, RuleOpens> = BTreeMap::new();
        for access in Access::all() {
            let mut analysis = Analysis::new(graph, EventKind::Open, None, Some(access));
            for (number, (_, kinds, node)) in rules.iter().enumerate() {
                if !kinds.contains(EventKind::Open) {
                    continue;
                }
                let need = analysis.need(*node, true);
                if need == Opens::None {
                    continue;
                }
                let total = std::mem::replace(&mut opens[access.index()], Opens::None);
                opens[access.index()] = total.either(&need);
                let found = by_rule.entry(number).or_insert_with(|| RuleOpens {
                    opens: Vec::new(),
                    why_all: None,
                });
                if need == Opens::All && found.why_all.is_none() {
                    found.why_all = Some(analysis.why_all(*node));
                }
                match found.opens.iter_mut().find(|(_, opens)| *opens == need) {
                    Some((accesses, _)) => accesses.insert(access),
                    None => {
                        let mut accesses = AccessSet::default();
                        accesses.insert(access);
                        found.opens.push((accesses, need));
                    }
                }
            }
        }
        let mut demand = Self {
            rules: rules.iter().map(|(id, ..)| (*id).into()).collect(),
            wanted,
            opens,
            by_rule,
            failed_opens: false,
        };
        let mut analysis = Analysis::new(
            graph,
            EventKind::Open,
            None,
            Some(Access {
                failed: true,
                ..Access::default()
            }),
        );
        analysis.is_mere_failure = true;
        demand.failed_opens = demand.by_rule.iter().any(|(number, found)| {
            let is_about_failures = found.opens.iter().all(|(accesses, _)| accesses.are_failed());
            is_about_failures && analysis.need(rules[*number].2, true) != Opens::None
        });
        demand.bound();
        demand
    }

    /// Gives up the names of the access with most of them until all fit together.
    fn bound(&mut self) {
        while self.names().len() > PATTERNS_MAX {
            let largest = self.opens.iter_mut().max_by_key(|opens| match opens {
                Opens::Names(names) => names.len(),
                Opens::None | Opens::All => 0,
            });
            *largest.expect("there are sixteen") = Opens::All;
        }
    }

    /// Whether any rule can match events of this type, named as in `evt.type`.
    pub fn wants(&self, event_type: &str) -> bool {
        self.wanted.contains_key(event_type)
    }

    /// Which opens of this access any rule can match. Those by a handle are rare, and demanded by their type alone.
    pub fn opens(&self, access: Access) -> &Opens {
        &self.opens[access.index()]
    }

    /// Whether a rule is about opens that fail, and about other reasons than that they are not allowed. Rules that match what
    /// was opened as well do not ask for it: programs look for files in vain all the time.
    pub fn wants_failed_opens(&self) -> bool {
        self.failed_opens
    }

    /// Every pattern with the accesses it is for.
    pub fn names(&self) -> BTreeMap<&Pattern, AccessSet> {
        let mut found: BTreeMap<&Pattern, AccessSet> = BTreeMap::new();
        for access in Access::all() {
            if let Opens::Names(names) = self.opens(access) {
                for name in &**names {
                    found.entry(name).or_default().insert(access);
                }
            }
        }
        found
    }

    /// The accesses of which all opens are demanded, whatever their path.
    pub fn all_opens(&self) -> AccessSet {
        AccessSet::of(|access| *self.opens(access) == Opens::All)
    }

    /// The rules that want events of this type, in the order of definition.
    pub fn reasons(&self, event_type: &str) -> impl Iterator<Item = Reason<'_>> {
        let is_open = EventKind::Open.event_types().contains(&event_type);
        let rules = self.wanted.get(event_type).map_or(&[][..], Vec::as_slice);
        rules.iter().map(move |number| {
            let opens = self.by_rule.get(number).filter(|_| is_open);
            Reason {
                rule: &self.rules[*number],
                opens: opens.map_or(&[], |found| &found.opens),
                why_all: opens.and_then(|found| found.why_all.as_deref()),
            }
        })
    }
}

/// What a condition needs of an event of which part is known.
struct Analysis<'g> {
    graph: &'g Graph,
    kind: EventKind,
    /// `None`: any type of the kind.
    event_type: Option<&'static str>,
    /// `None`: any, and paths are not looked at.
    access: Option<Access>,
    /// The open failed for one of [`MERE_FAILURES`].
    is_mere_failure: bool,
    done: HashMap<(NodeId, bool), Opens>,
}

impl<'g> Analysis<'g> {
    fn new(graph: &'g Graph, kind: EventKind, event_type: Option<&'static str>, access: Option<Access>) -> Self {
        Self {
            graph,
            kind,
            event_type,
            access,
            is_mere_failure: false,
            done: HashMap::new(),
        }
    }

    /// The types that an event of the kind may have. Of opens that the kernel may leave out, none is by a handle.
    fn types(&self) -> impl Iterator<Item = &'static str> {
        let may_be_left_out = self.access.is_some();
        let types = self.kind.event_types().iter().copied();
        types.filter(move |event_type| !(may_be_left_out && *event_type == OPEN_BY_HANDLE))
    }

    /// What must be so for a node to be true, or false. `Opens::None`: it cannot be.
    fn need(&mut self, node: NodeId, truth: bool) -> Opens {
        if let Some(found) = self.done.get(&(node, truth)) {
            return found.clone();
        }
        let graph = self.graph;
        let need = match graph.node(node) {
            Node::Constant(value) if *value == truth => Opens::All,
            Node::Constant(_) => Opens::None,
            Node::Test(predicate) => self.test(graph.predicate(*predicate), truth),
            Node::Not(of) => self.need(*of, !truth),
            Node::And(parts) if truth => self.every(parts, truth),
            Node::Or(parts) if !truth => self.every(parts, truth),
            Node::And(parts) | Node::Or(parts) => self.some(parts, truth),
            Node::ExactlyOne(parts) if truth => self.some(parts, truth),
            Node::ExactlyOne(_) => Opens::All,
        };
        self.done.insert((node, truth), need.clone());
        need
    }

    fn every(&mut self, parts: &[NodeId], truth: bool) -> Opens {
        let mut need = Opens::All;
        for part in parts {
            need = need.tighter(&self.need(*part, truth));
            if need == Opens::None {
                break;
            }
        }
        need
    }

    fn some(&mut self, parts: &[NodeId], truth: bool) -> Opens {
        let mut need = Opens::None;
        for part in parts {
            need = need.either(&self.need(*part, truth));
            if need == Opens::All {
                break;
            }
        }
        need
    }

    fn test(&self, Predicate { operand, test }: &Predicate, truth: bool) -> Opens {
        let possible = |possible: bool| if possible { Opens::All } else { Opens::None };
        let field = operand.field.field;
        let is_kind_able = operand.field.kinds().contains(self.kind);
        if let Test::Field(_, right) = test {
            return possible(!truth || is_kind_able && right.field.kinds().contains(self.kind));
        }
        if !is_kind_able {
            return possible(!truth);
        }
        if operand.transforms.is_empty() {
            let accepts = |value: &str| accepts_value(test, Value::from(value), &operand.field);
            if field == Field::EvtType {
                return possible(match self.event_type {
                    Some(event_type) => accepts(event_type) == truth,
                    None => self.types().any(|event_type| accepts(event_type) == truth),
                });
            }
            if truth && field == Field::SyscallType {
                return possible(match self.event_type {
                    Some(event_type) => accepts(event_type),
                    None => self.types().any(accepts),
                });
            }
            if truth && field == Field::EvtCategory {
                return possible(accepts(self.kind.category()));
            }
        }
        let Some(access) = self.access else {
            return Opens::All;
        };
        if self.is_mere_failure && operand.transforms.is_empty() {
            let accepts = |value: Value<'_>| accepts_value(test, value, &operand.field) == truth;
            if field == Field::EvtRes {
                return possible(MERE_FAILURES.iter().any(|(_, name)| accepts((*name).into())));
            }
            if field == Field::EvtRawres {
                return possible(MERE_FAILURES.iter().any(|(number, _)| accepts(Value::Number(*number))));
            }
        }
        match (field, test) {
            (Field::EvtIsOpenRead, Test::FlagIs(wanted)) => flag(access.read, *wanted, truth),
            (Field::EvtIsOpenWrite, Test::FlagIs(wanted)) => flag(access.write, *wanted, truth),
            (Field::EvtIsOpenCreate, Test::FlagIs(wanted)) => flag(access.create, *wanted, truth),
            (Field::EvtIsOpenExec, Test::FlagIs(true)) if truth => possible(access.create),
            (Field::EvtFailed, Test::FlagIs(wanted)) => flag(access.failed, *wanted, truth),
            (Field::EvtRes, _) if truth && operand.transforms.is_empty() => {
                possible(access.failed || accepts_value(test, Value::from("SUCCESS"), &operand.field))
            }
            (Field::EvtRawres | Field::FdNum, _) if truth && operand.transforms.is_empty() => {
                possible(can_be(test, access.failed))
            }
            // Only files below /proc have a target.
            (
                Field::FdProcTarget
                | Field::TargetPid
                | Field::TargetName
                | Field::TargetExepath
                | Field::TargetRelation
                | Field::TargetIsAgent,
                _,
            ) if truth => Opens::names(BTreeSet::from([Pattern::Component(b"proc"[..].into())])),
            _ if truth => path(field, &operand.transforms, test).unwrap_or(Opens::All),
            _ => Opens::All,
        }
    }

    /// The checks that are all a rule asks where it does not ask for a path.
    fn why_all(&mut self, node: NodeId) -> String {
        const CHECKS_MAX: usize = 4;
        let mut checks = Vec::new();
        self.collect(node, true, &mut checks);
        let more = checks.len().saturating_sub(CHECKS_MAX);
        checks.truncate(CHECKS_MAX);
        if more > 0 {
            checks.push(format!("{more} more"));
        }
        if checks.is_empty() {
            checks.push("nothing but the call".to_owned());
        }
        checks.join(", ")
    }

    fn collect(&mut self, node: NodeId, truth: bool, checks: &mut Vec<String>) {
        const COLLECTED_MAX: usize = 100;
        let graph = self.graph;
        if checks.len() >= COLLECTED_MAX {
            return;
        }
        match graph.node(node) {
            Node::Constant(_) => {}
            Node::Test(predicate) => {
                let predicate = graph.predicate(*predicate);
                if !predicate.operand.field.field.name().starts_with("evt.") {
                    checks.push(format!("{}{predicate}", if truth { "" } else { "not " }));
                }
            }
            Node::Not(of) => self.collect(*of, !truth, checks),
            Node::And(parts) | Node::Or(parts) if matches!(graph.node(node), Node::And(_)) == truth => {
                for part in parts {
                    self.collect(*part, truth, checks);
                }
            }
            Node::And(parts) | Node::Or(parts) | Node::ExactlyOne(parts) => {
                if let Some(part) = parts.iter().find(|part| self.need(**part, truth) == Opens::All) {
                    self.collect(*part, truth, checks);
                }
            }
        }
    }
}

/// Whether a check of a flag that is known can come out so. One that is not set may also be missing.
fn flag(known: bool, wanted: bool, truth: bool) -> Opens {
    let can = if truth {
        known == wanted
    } else {
        known != wanted || !known
    };
    if can { Opens::All } else { Opens::None }
}

/// Whether a number can pass that is negative, or is not.
fn can_be(test: &Test, negative: bool) -> bool {
    let fits = |number: &i64| (*number < 0) == negative;
    match test {
        Test::NumberIn(numbers) => numbers.iter().any(fits),
        Test::NumberOrder(Order::Less, bound) => negative || *bound > 0,
        Test::NumberOrder(Order::LessOrEqual, bound) => negative || *bound >= 0,
        Test::NumberOrder(Order::Greater, bound) => !negative || *bound < -1,
        Test::NumberOrder(Order::GreaterOrEqual, bound) => !negative || *bound < 0,
        Test::Exists
        | Test::TextIn(_)
        | Test::TextDiffers(_)
        | Test::TextOrder(..)
        | Test::StartsWith(_)
        | Test::EndsWith(_)
        | Test::Contains(_)
        | Test::ContainsFold(_)
        | Test::Glob { .. }
        | Test::Regex(_)
        | Test::PathPrefix(_)
        | Test::NumberDiffers(_)
        | Test::FlagIs(_)
        | Test::AddressIn(_)
        | Test::Field(..) => true,
    }
}

/// Which part of an opened file's path a check sees.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Whole,
    Directory,
    Name,
}

/// What the path must have for a check of it to hold; `None` where nothing follows.
fn path(field: Field, transforms: &[Transform], test: &Test) -> Option<Opens> {
    let part = if field == Field::FdName || field == Field::FsPathName {
        Part::Whole
    } else if field == Field::FdDirectory {
        Part::Directory
    } else if field == Field::FdFilename {
        Part::Name
    } else {
        return None;
    };
    let part = match (part, transforms) {
        (part, []) => part,
        (Part::Whole | Part::Name, [Transform::Basename]) => Part::Name,
        _ => return None,
    };
    let each = |values: &[Box<[u8]>]| -> Option<Opens> {
        let names: Option<BTreeSet<Pattern>> = values
            .iter()
            .map(|value| rarest(value.split(|byte| *byte == b'/')))
            .collect();
        Some(Opens::names(names?))
    };
    let one = |pattern: Pattern| Some(Opens::names(BTreeSet::from([pattern])));
    match test {
        Test::TextIn(values) | Test::PathPrefix(values) => each(values),
        Test::StartsWith(prefix) => {
            // What follows its last slash may go on.
            let end = prefix.iter().rposition(|byte| *byte == b'/')?;
            one(rarest(prefix[..end].split(|byte| *byte == b'/'))?)
        }
        Test::Contains(needle) => {
            let start = needle.iter().position(|byte| *byte == b'/')?;
            let end = needle.iter().rposition(|byte| *byte == b'/')?;
            one(rarest(needle[start..end].split(|byte| *byte == b'/'))?)
        }
        Test::EndsWith(suffix) => match suffix.iter().position(|byte| *byte == b'/') {
            Some(start) => one(rarest(suffix[start..].split(|byte| *byte == b'/'))?),
            None if part == Part::Directory => None,
            None => one(Pattern::Extension(extension(suffix)?.into())),
        },
        Test::Glob { pattern, fold: false } => {
            let glob = Glob::new(pattern, false);
            let components = glob.components();
            match rarest(components.iter().map(Vec::as_slice)) {
                Some(component) => one(component),
                None if part == Part::Directory => None,
                None => one(Pattern::Extension(extension(&glob.ending())?.into())),
            }
        }
        Test::Exists
        | Test::TextDiffers(_)
        | Test::TextOrder(..)
        | Test::ContainsFold(_)
        | Test::Glob { fold: true, .. }
        | Test::Regex(_)
        | Test::NumberIn(_)
        | Test::NumberDiffers(_)
        | Test::NumberOrder(..)
        | Test::FlagIs(_)
        | Test::AddressIn(_)
        | Test::Field(..) => None,
    }
}

/// The component that the fewest paths have, as far as its looks tell: of those that are not common, the longest.
fn rarest<'c>(components: impl Iterator<Item = &'c [u8]>) -> Option<Pattern> {
    components
        .filter(|component| !component.is_empty() && component.len() <= COMPONENT_BYTES_MAX)
        .map(|component| Pattern::Component(component.into()))
        .min_by_key(|pattern| {
            let (Pattern::Component(name) | Pattern::Extension(name)) = pattern;
            (pattern.cost(), COMPONENT_BYTES_MAX - name.len())
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::load;
    use crate::source::Source;

    fn demand(conditions: &[&str]) -> Demand {
        let mut text = String::new();
        for (number, condition) in conditions.iter().enumerate() {
            text.push_str(&format!(
                "- rule: r{number}\n  desc: d\n  condition: >\n    {condition}\n  output: o\n  priority: ERROR\n"
            ));
        }
        let source = Source {
            name: "t.yaml",
            text: &text,
        };
        load(&[source])
            .unwrap_or_else(|errors| panic!("{errors}"))
            .ruleset
            .demand()
    }

    const READ: Access = Access {
        read: true,
        write: false,
        create: false,
        failed: false,
    };
    const WRITE: Access = Access {
        read: false,
        write: true,
        ..READ
    };

    #[test]
    fn checks_of_paths_name_components() {
        for (condition, expected) in [
            ("fd.name = /etc/shadow", "shadow"),
            ("fd.name in (/etc/shadow, /etc/gshadow)", "gshadow, shadow"),
            ("fd.name startswith /root/.ssh/", ".ssh"),
            ("fd.name startswith /root/.ssh", "root"),
            ("fd.name startswith /root", "all"),
            ("fd.filename in (a.key, b)", "a.key, b"),
            ("fd.directory = /etc/cron.d", "cron.d"),
            ("fd.directory = /", "all"),
            ("fd.name endswith .pth", "*.pth"),
            ("fd.name endswith .tar.gz", "*.gz"),
            ("fd.name endswith /.ssh/authorized_keys", ".ssh"),
            ("fd.name endswith /.git/hooks/pre-commit", "pre-commit"),
            ("fd.directory = /sys/class/dmi/id", "dmi"),
            ("fd.name endswith keys", "all"),
            ("fd.directory endswith .d", "all"),
            ("fd.directory endswith /.ssh", ".ssh"),
            ("fd.name contains /.aws/", ".aws"),
            ("fd.name contains /.aws", "all"),
            ("fd.name icontains /.aws/", "all"),
            ("fd.name pmatch (/etc/cron.d, /var/spool/cron/)", "cron.d, spool"),
            ("fd.name glob /home/*/.ssh/id_*", ".ssh"),
            ("fd.name glob '*.kdbx'", "*.kdbx"),
            ("fd.name regex '/etc/shadow'", "all"),
            ("basename(fd.name) = shadow", "shadow"),
            ("tolower(fd.name) = /etc/shadow", "all"),
            ("fd.proc_target = other", "proc"),
            ("proc.name = cat", "all"),
            ("fd.name != /etc/shadow", "all"),
            ("fd.name exists", "all"),
            ("not fd.name = /etc/shadow", "all"),
            ("fd.sport = 22", "none"),
            // A conjunction: the one that lets less through. A disjunction: all of them.
            ("proc.name = cat and fd.name = /etc/shadow", "shadow"),
            ("fd.name startswith /etc/ and fd.filename = shadow", "shadow"),
            ("fd.name = /a/shadow or fd.name = /a/passwd", "passwd, shadow"),
            ("fd.name = /a/shadow or proc.name = cat", "all"),
            ("not (not fd.name = /a/shadow or proc.name = cat)", "shadow"),
            ("not (fd.name = /a/shadow and proc.name = cat)", "all"),
            ("fd.name = anyof (/a/shadow, /a/passwd)", "passwd, shadow"),
            ("fd.name contains oneof (/shadow/, /passwd/)", "passwd, shadow"),
            // What of the access is known.
            ("evt.is_open_write = true and fd.name = /etc/shadow", "none"),
            ("evt.is_open_read = true and fd.name = /etc/shadow", "shadow"),
            ("not evt.is_open_read = true", "none"),
            ("not evt.is_open_write = true", "all"),
            ("evt.failed = true", "none"),
            ("evt.rawres < 0", "none"),
            ("fd.num >= 0 and fd.name = /etc/shadow", "shadow"),
            ("evt.type in (connect, execve)", "none"),
        ] {
            let condition = format!("evt.type in (open, openat, connect, execve) and ({condition})");
            let demand = demand(&[&condition]);
            let found = demand.opens(READ);
            assert_eq!(found.to_string(), expected, "{condition}");
        }
    }

    #[test]
    fn accesses_are_told_apart() {
        let demand = demand(&[
            "evt.type = openat and evt.is_open_read = true and fd.name = /etc/shadow",
            "evt.type = open and evt.is_open_write = true and fd.directory = /etc/cron.d",
            "evt.type = openat and evt.is_open_create = true and proc.name = sh and user.uid = 0",
        ]);
        assert_eq!(demand.opens(READ).to_string(), "shadow");
        assert_eq!(demand.opens(WRITE).to_string(), "cron.d");
        let both = Access { write: true, ..READ };
        assert_eq!(demand.opens(both).to_string(), "cron.d, shadow");
        assert_eq!(*demand.opens(Access::default()), Opens::None);
        assert_eq!(demand.all_opens().to_string(), "create");
        let names: Vec<String> = demand
            .names()
            .iter()
            .map(|(name, accesses)| format!("{name}: {:#018b}", accesses.bits()))
            .collect();
        assert_eq!(names, ["cron.d: 0b0000110000001100", "shadow: 0b0000101000001010"]);
        let reasons: Vec<String> = demand
            .reasons("openat")
            .map(|reason| {
                let opens: Vec<String> = reason
                    .opens
                    .iter()
                    .map(|(accesses, opens)| format!("{accesses}: {opens}"))
                    .collect();
                format!("{} {} {:?}", reason.rule, opens.join("; "), reason.why_all)
            })
            .collect();
        assert_eq!(
            reasons,
            [
                "r0 read: shadow None",
                "r2 create: all Some(\"proc.name = sh, user.uid = 0\")"
            ]
        );
    }

    #[test]
    fn calls_are_wanted_by_name() {
        let demand = demand(&[
            "evt.type in (chmod, fchmod) and evt.arg.mode contains S_ISUID",
            "evt.type = connect and fd.sport = 22",
            "evt.category = memory and not evt.type startswith m",
            "fd.bytes_out > 1000000",
        ]);
        let wanted: Vec<&str> = EventKind::ALL
            .iter()
            .flat_map(|kind| kind.event_types())
            .copied()
            .filter(|event_type| demand.wants(event_type))
            .collect();
        assert_eq!(
            wanted,
            ["chmod", "fchmod", "connect", "close", "pkey_mprotect", "userfaultfd"]
        );
        assert!(!demand.wants("nanosleep"));
        let rules: Vec<&str> = demand.reasons("fchmod").map(|reason| reason.rule).collect();
        assert_eq!(rules, ["r0"]);
        assert!(demand.reasons("fchmod").all(|reason| reason.opens.is_empty()));
    }

    #[test]
    fn names_are_bounded() {
        let many = |prefix: &str, count: usize| {
            let names: Vec<String> = (0..count).map(|number| format!("{prefix}{number}")).collect();
            format!("fd.filename in ({})", names.join(", "))
        };
        let read = |count| format!("evt.is_open_read = true and {}", many("r", count));
        let write = |count| format!("evt.is_open_write = true and {}", many("w", count));
        let opens = |conditions: &[&str]| {
            let demand = demand(conditions);
            assert!(demand.names().len() <= PATTERNS_MAX);
            [READ, WRITE].map(|access| *demand.opens(access) == Opens::All)
        };
        assert_eq!(opens(&[&read(PATTERNS_MAX)]), [false, false]);
        assert_eq!(opens(&[&read(PATTERNS_MAX + 1)]), [true, false]);
        assert_eq!(opens(&[&read(PATTERNS_MAX - 100), &write(200)]), [true, false]);
    }
}
