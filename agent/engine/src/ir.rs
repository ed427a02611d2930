//! The typed form of conditions: a graph of tests in which equal parts exist once.
//!
//! Names are resolved here; every test says on which field it looks and with values of the field's type.

use std::fmt;
use std::net::IpAddr;

use hashbrown::HashMap;

use crate::event::{EventKind, KindSet};
use crate::field::{Field, FieldRef, FieldType};

/// A node of the graph, by number.
pub(crate) type NodeId = u32;
/// A predicate, by number.
pub(crate) type PredicateId = u32;

/// What a condition is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Node {
    Constant(bool),
    Test(PredicateId),
    Not(NodeId),
    And(Box<[NodeId]>),
    Or(Box<[NodeId]>),
    ExactlyOne(Box<[NodeId]>),
}

/// The kinds of event for which a node can be true, and for which it can be false.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) when_true: KindSet,
    pub(crate) when_false: KindSet,
}

/// A test of one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Predicate {
    pub(crate) operand: Operand,
    pub(crate) test: Test,
}

/// A field, changed by transformers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Operand {
    pub(crate) field: FieldRef,
    /// In the order of application.
    pub(crate) transforms: Box<[Transform]>,
}

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transform {
    ToLower,
    ToUpper,
    Base64,
    Basename,
    Length,
    /// Of a time in nanoseconds since 1970.
    Date(DatePart),
}

/// A part of a date, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DatePart {
    Minute,
    Hour,
    Day,
    /// By ISO 8601: the first week has the year's first Thursday.
    Week,
    Month,
    Year,
}

/// What must hold of a value. Sets are sorted and hold no value twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Test {
    Exists,
    TextIn(Box<[Box<[u8]>]>),
    /// Some value is not this one; only for lists, where `!=` asks every ancestor.
    TextDiffers(Box<[u8]>),
    TextOrder(Order, Box<[u8]>),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    Contains(Box<[u8]>),
    ContainsFold(Box<[u8]>),
    Glob {
        pattern: Box<[u8]>,
        fold: bool,
    },
    Regex(Box<str>),
    PathPrefix(Box<[Box<[u8]>]>),
    NumberIn(Box<[i64]>),
    NumberDiffers(i64),
    NumberOrder(Order, i64),
    FlagIs(bool),
    AddressIn(Box<[Network]>),
    Field(FieldOrder, Box<Operand>),
}

/// An order between values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    pub(crate) fn holds(self, ordering: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }

    fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// How two fields are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FieldOrder {
    Equal,
    NotEqual,
    Order(Order),
    Contains,
    ContainsFold,
    StartsWith,
    EndsWith,
}

/// An address with the number of bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.1`, `10.0.0.0/8` or the same in IPv6.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= all)?,
            None => all,
        };
        Some(Self { address, bits })
    }

    /// Whether the network holds `address`; IPv4 in IPv6 counts as IPv4.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        fn same(left: u128, right: u128, bits: u8, width: u8) -> bool {
            bits == 0 || (left ^ right) >> (width - bits) == 0
        }
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => same(
                u128::from(network.to_bits()),
                u128::from(address.to_bits()),
                self.bits,
                32,
            ),
            (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), self.bits, 128),
            (IpAddr::V4(_), IpAddr::V6(_)) => false,
            (IpAddr::V6(network), IpAddr::V4(address)) => {
                self.bits >= 96 && same(network.to_bits(), address.to_ipv6_mapped().to_bits(), self.bits, 128)
            }
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

impl Operand {
    pub(crate) fn plain(field: FieldRef) -> Self {
        Self {
            field,
            transforms: Box::default(),
        }
    }

    /// The type of the values after the transformers.
    pub(crate) fn ty(&self) -> FieldType {
        match self.transforms.last() {
            None => self.field.field.ty(),
            Some(Transform::Length | Transform::Date(_)) => FieldType::Number,
            Some(Transform::ToLower | Transform::ToUpper | Transform::Base64 | Transform::Basename) => FieldType::Text,
        }
    }

    /// Whether this is the type of the event itself.
    pub(crate) fn is_event_type(&self) -> bool {
        matches!(self.field.field, Field::EvtType | Field::SyscallType) && self.transforms.is_empty()
    }
}

impl Predicate {
    fn reach(&self) -> Reach {
        match &self.test {
            Test::TextIn(names) if self.operand.is_event_type() => {
                let mut reach = Reach {
                    when_true: KindSet::EMPTY,
                    when_false: KindSet::EMPTY,
                };
                for kind in EventKind::ALL {
                    let one = KindSet::of(&[kind]);
                    let named = |name: &&&str| names.iter().any(|wanted| **wanted == *name.as_bytes());
                    let count = kind.event_types().iter().filter(named).count();
                    if count > 0 {
                        reach.when_true = reach.when_true.union(one);
                    }
                    if count < kind.event_types().len() {
                        reach.when_false = reach.when_false.union(one);
                    }
                }
                reach
            }
            Test::Field(_, right) => Reach {
                when_true: self.operand.field.kinds().intersection(right.field.kinds()),
                when_false: KindSet::ALL,
            },
            Test::TextIn(_)
            | Test::Exists
            | Test::TextDiffers(_)
            | Test::TextOrder(..)
            | Test::StartsWith(_)
            | Test::EndsWith(_)
            | Test::Contains(_)
            | Test::ContainsFold(_)
            | Test::Glob { .. }
            | Test::Regex(_)
            | Test::PathPrefix(_)
            | Test::NumberIn(_)
            | Test::NumberDiffers(_)
            | Test::NumberOrder(..)
            | Test::FlagIs(_)
            | Test::AddressIn(_) => Reach {
                when_true: self.operand.field.kinds(),
                when_false: KindSet::ALL,
            },
        }
    }
}

/// The nodes of all conditions that are loaded together.
#[derive(Default)]
pub(crate) struct Graph {
    nodes: Vec<Node>,
    reach: Vec<Reach>,
    depth: Vec<usize>,
    node_ids: HashMap<Node, NodeId>,
    predicates: Vec<Predicate>,
    predicate_ids: HashMap<Predicate, PredicateId>,
}

/// Ids are 32 bits wide; what is loaded is bounded far below that.
fn id(length: usize) -> u32 {
    u32::try_from(length).expect("fewer than 2^32 nodes fit in the size limit of rule files")
}

impl Graph {
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(crate) fn predicate(&self, id: PredicateId) -> &Predicate {
        &self.predicates[id as usize]
    }

    pub(crate) fn predicates(&self) -> &[Predicate] {
        &self.predicates
    }

    pub(crate) fn reach(&self, id: NodeId) -> Reach {
        self.reach[id as usize]
    }

    /// How many nodes lie above each other in the deepest part of a node.
    pub(crate) fn depth(&self, id: NodeId) -> usize {
        self.depth[id as usize]
    }

    pub(crate) fn test(&mut self, operand: &Operand, test: Test) -> NodeId {
        let predicate = Predicate {
            operand: operand.clone(),
            test,
        };
        let found = match self.predicate_ids.get(&predicate) {
            Some(found) => *found,
            None => {
                let new = id(self.predicates.len());
                self.predicates.push(predicate.clone());
                self.predicate_ids.insert(predicate, new);
                new
            }
        };
        self.add(Node::Test(found))
    }

    pub(crate) fn constant(&mut self, value: bool) -> NodeId {
        self.add(Node::Constant(value))
    }

    pub(crate) fn not(&mut self, of: NodeId) -> NodeId {
        match self.node(of) {
            Node::Not(inner) => *inner,
            Node::Constant(value) => {
                let value = !*value;
                self.constant(value)
            }
            Node::Test(_) | Node::And(_) | Node::Or(_) | Node::ExactlyOne(_) => self.add(Node::Not(of)),
        }
    }

    pub(crate) fn and(&mut self, of: Vec<NodeId>) -> NodeId {
        self.joined(of, true)
    }

    pub(crate) fn or(&mut self, of: Vec<NodeId>) -> NodeId {
        self.joined(of, false)
    }

    /// `and` or `or`, without constants, repetitions and nesting.
    fn joined(&mut self, of: Vec<NodeId>, conjunction: bool) -> NodeId {
        let mut flat: Vec<NodeId> = Vec::with_capacity(of.len());
        let mut seen = std::collections::HashSet::with_capacity(of.len());
        for part in of {
            let inner: &[NodeId] = match self.node(part) {
                Node::Constant(value) if *value == conjunction => &[],
                Node::Constant(_) => return self.constant(!conjunction),
                Node::And(inner) if conjunction => inner,
                Node::Or(inner) if !conjunction => inner,
                Node::Test(_) | Node::Not(_) | Node::And(_) | Node::Or(_) | Node::ExactlyOne(_) => &[part],
            };
            flat.extend(inner.iter().copied().filter(|inner| seen.insert(*inner)));
        }
        match flat.as_slice() {
            [] => self.constant(conjunction),
            [only] => *only,
            _ if conjunction => self.add(Node::And(flat.into())),
            _ => self.add(Node::Or(flat.into())),
        }
    }

    pub(crate) fn exactly_one(&mut self, of: Vec<NodeId>) -> NodeId {
        match of.as_slice() {
            [] => self.constant(false),
            [only] => *only,
            _ => self.add(Node::ExactlyOne(of.into())),
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(found) = self.node_ids.get(&node) {
            return *found;
        }
        let reach = self.reach_of(&node);
        let parts: &[NodeId] = match &node {
            Node::Constant(_) | Node::Test(_) => &[],
            Node::Not(of) => std::slice::from_ref(of),
            Node::And(parts) | Node::Or(parts) | Node::ExactlyOne(parts) => parts,
        };
        let depth = parts.iter().map(|part| self.depth(*part) + 1).max().unwrap_or(0);
        let new = id(self.nodes.len());
        self.nodes.push(node.clone());
        self.reach.push(reach);
        self.depth.push(depth);
        self.node_ids.insert(node, new);
        new
    }

    fn reach_of(&self, node: &Node) -> Reach {
        let only = |value: bool| if value { KindSet::ALL } else { KindSet::EMPTY };
        match node {
            Node::Constant(value) => Reach {
                when_true: only(*value),
                when_false: only(!*value),
            },
            Node::Test(predicate) => self.predicate(*predicate).reach(),
            Node::Not(of) => {
                let of = self.reach(*of);
                Reach {
                    when_true: of.when_false,
                    when_false: of.when_true,
                }
            }
            Node::And(parts) => parts.iter().fold(
                Reach {
                    when_true: KindSet::ALL,
                    when_false: KindSet::EMPTY,
                },
                |sum, part| {
                    let part = self.reach(*part);
                    Reach {
                        when_true: sum.when_true.intersection(part.when_true),
                        when_false: sum.when_false.union(part.when_false),
                    }
                },
            ),
            Node::Or(parts) => parts.iter().fold(
                Reach {
                    when_true: KindSet::EMPTY,
                    when_false: KindSet::ALL,
                },
                |sum, part| {
                    let part = self.reach(*part);
                    Reach {
                        when_true: sum.when_true.union(part.when_true),
                        when_false: sum.when_false.intersection(part.when_false),
                    }
                },
            ),
            Node::ExactlyOne(parts) => Reach {
                when_true: parts
                    .iter()
                    .fold(KindSet::EMPTY, |sum, part| sum.union(self.reach(*part).when_true)),
                when_false: KindSet::ALL,
            },
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for transform in self.transforms.iter().rev() {
            f.write_str(match transform {
                Transform::ToLower => "tolower(",
                Transform::ToUpper => "toupper(",
                Transform::Base64 => "b64(",
                Transform::Basename => "basename(",
                Transform::Length => "len(",
                Transform::Date(DatePart::Minute) => "minute(",
                Transform::Date(DatePart::Hour) => "hour(",
                Transform::Date(DatePart::Day) => "day(",
                Transform::Date(DatePart::Week) => "week(",
                Transform::Date(DatePart::Month) => "month(",
                Transform::Date(DatePart::Year) => "year(",
            })?;
        }
        write!(f, "{}", self.field)?;
        self.transforms.iter().try_for_each(|_| f.write_str(")"))
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn text(bytes: &[u8]) -> String {
            let text = String::from_utf8_lossy(bytes);
            crate::syntax::Literal {
                text: text.into_owned(),
                span: 0..0,
            }
            .to_string()
        }
        fn several<T>(values: &[T], show: impl Fn(&T) -> String) -> String {
            const SHOWN: usize = 6;
            let mut shown: Vec<String> = values.iter().take(SHOWN).map(show).collect();
            if values.len() > SHOWN {
                shown.push(format!("… {} more", values.len() - SHOWN));
            }
            shown.join(", ")
        }
        write!(f, "{} ", self.operand)?;
        match &self.test {
            Test::Exists => write!(f, "exists"),
            Test::TextIn(values) => match &**values {
                [value] => write!(f, "= {}", text(value)),
                values => write!(f, "in ({})", several(values, |value| text(value))),
            },
            Test::TextDiffers(value) => write!(f, "!= {}", text(value)),
            Test::TextOrder(order, value) => write!(f, "{} {}", order.symbol(), text(value)),
            Test::StartsWith(value) => write!(f, "startswith {}", text(value)),
            Test::EndsWith(value) => write!(f, "endswith {}", text(value)),
            Test::Contains(value) => write!(f, "contains {}", text(value)),
            Test::ContainsFold(value) => write!(f, "icontains {}", text(value)),
            Test::Glob { pattern, fold } => write!(f, "{} {}", if *fold { "iglob" } else { "glob" }, text(pattern)),
            Test::Regex(pattern) => write!(f, "regex {}", text(pattern.as_bytes())),
            Test::PathPrefix(values) => write!(f, "pmatch ({})", several(values, |value| text(value))),
            Test::NumberIn(values) => match &**values {
                [value] => write!(f, "= {value}"),
                values => write!(f, "in ({})", several(values, i64::to_string)),
            },
            Test::NumberDiffers(value) => write!(f, "!= {value}"),
            Test::NumberOrder(order, value) => write!(f, "{} {value}", order.symbol()),
            Test::FlagIs(value) => write!(f, "= {value}"),
            Test::AddressIn(networks) => write!(f, "in ({})", several(networks, Network::to_string)),
            Test::Field(order, right) => {
                let word = match order {
                    FieldOrder::Equal => "=",
                    FieldOrder::NotEqual => "!=",
                    FieldOrder::Order(order) => order.symbol(),
                    FieldOrder::Contains => "contains",
                    FieldOrder::ContainsFold => "icontains",
                    FieldOrder::StartsWith => "startswith",
                    FieldOrder::EndsWith => "endswith",
                };
                match right.transforms.is_empty() {
                    true => write!(f, "{word} val({right})"),
                    false => write!(f, "{word} {right}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks() {
        for (network, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("169.254.169.254", "169.254.169.254", true),
            ("169.254.169.254", "::ffff:169.254.169.254", true),
            ("fd00:ec2::254", "fd00:ec2::254", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("::/0", "1.2.3.4", false),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
        ] {
            let found = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, expected, "{network} {address}");
        }
        for bad in ["10.0.0.0/33", "host", "10.0.0.0/-1", "1.2.3", "::/129", ""] {
            assert_eq!(Network::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn equal_parts_exist_once() {
        let mut graph = Graph::default();
        let operand = Operand::plain(FieldRef::plain(Field::ProcName));
        let first = graph.test(&operand, Test::TextIn([b"sh"[..].into()].into()));
        let again = graph.test(&operand, Test::TextIn([b"sh"[..].into()].into()));
        assert_eq!(first, again);
        let not = graph.not(first);
        assert_eq!(graph.not(not), first);
        assert_eq!(graph.and(vec![first, first]), first);
        let truth = graph.constant(true);
        assert_eq!(graph.and(vec![truth, first]), first);
        assert_eq!(graph.or(vec![truth, first]), truth);
    }

    #[test]
    fn kinds_are_derived() {
        let mut graph = Graph::default();
        let event_type = Operand::plain(FieldRef::plain(Field::EvtType));
        let exec = graph.test(
            &event_type,
            Test::TextIn([b"execve"[..].into(), b"execveat"[..].into()].into()),
        );
        let execve = graph.test(&event_type, Test::TextIn([b"execve"[..].into()].into()));
        let only_exec = KindSet::of(&[EventKind::Exec]);
        assert_eq!(graph.reach(exec).when_true, only_exec);
        let not_exec = graph.not(exec);
        assert_eq!(graph.reach(not_exec).when_true, only_exec.complement());
        let not_execve = graph.not(execve);
        assert_eq!(graph.reach(not_execve).when_true, KindSet::ALL);
        let port = graph.test(
            &Operand::plain(FieldRef::plain(Field::FdSport)),
            Test::NumberIn([22].into()),
        );
        let never = graph.and(vec![exec, port]);
        assert!(graph.reach(never).when_true.is_empty());
    }
}
