//! Conditions compiled for speed.
//!
//! - Each kind of event has its own copy of the conditions that can hold for it, simplified for it.
//! - Tests of the same field that can be answered together form a group: one look at the value (a hash set, a trie, an
//!   Aho–Corasick automaton) says which of them hold. A group is asked at most once per event, and only when needed.
//! - A rule that cannot hold unless one of certain grouped tests does is looked at only when one of them does; so the cost
//!   of an event grows with the rules that could match, not with the rules loaded.

use std::collections::HashMap as StdHashMap;
use std::collections::hash_map::Entry;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aho_corasick::AhoCorasick;
use hashbrown::HashMap;
use memchr::memmem::Finder;

use crate::evaluate::{alike, any_value, compare, text_of, transformed};
use crate::event::{Event, EventKind, Steady, Value};
use crate::field::{FieldArg, FieldRef};
use crate::glob::Glob;
use crate::ir::{FieldOrder, Graph, Network, Node, NodeId, Operand, Order, Predicate, PredicateId, Test};
use crate::literal;

/// From how many `contains` of one field on an automaton pays.
const AUTOMATON_MIN: usize = 3;

/// Most bytes of needles for which an automaton has a table of all transitions: each byte takes up to a kilobyte.
const DENSE_BYTES_MAX: usize = 1500;

type GroupId = u32;
type RuleId = u32;

/// Compiled conditions.
pub(crate) struct Program {
    /// Tells it from every other that this process compiled.
    number: u64,
    nodes: Vec<Step>,
    tests: Vec<Compiled>,
    groups: Vec<Group>,
    kinds: Vec<KindProgram>,
}

/// A node of the graph with its parts in the order of cost.
enum Step {
    Constant(bool),
    Test(PredicateId),
    Not(NodeId),
    All { parts: Box<[NodeId]>, kept: Kept },
    Any { parts: Box<[NodeId]>, kept: Kept },
    ExactlyOne(Box<[NodeId]>),
}

/// For how long the truth of a node is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// It is asked for once.
    Not,
    /// Several ask for it.
    Event,
    /// Several ask for it, and it follows from the process alone.
    Process,
}

/// What one kind of event needs.
#[derive(Default)]
struct KindProgram {
    /// Groups that decide which rules are looked at: those of one operand together, each with what is cheap to ask and must
    /// hold for all of those.
    gates: Vec<(Vec<GroupId>, Option<NodeId>)>,
    /// Rules to look at when a test holds.
    gated: HashMap<PredicateId, Vec<RuleId>>,
    /// Rules to look at always.
    always: Vec<RuleId>,
    /// The condition of each rule for this kind; `NodeId::MAX` when it cannot hold.
    roots: Vec<NodeId>,
}

/// How a test is answered.
enum Compiled {
    /// Together with others of its field.
    Grouped(GroupId),
    /// On its own.
    Alone(Box<Alone>),
    /// Not at all: no condition that can hold contains it.
    Unused,
}

struct Alone {
    operand: Operand,
    matcher: Matcher,
    steady: bool,
}

enum Matcher {
    Exists,
    TextDiffers(Box<[u8]>),
    TextOrder(Order, Box<[u8]>),
    Contains(Box<Finder<'static>>),
    Glob(Box<Glob>),
    Regex(Box<str>, OnceLock<regex::bytes::Regex>),
    NumberDiffers(i64),
    NumberOrder(Order, i64),
    FlagIs(bool),
    AddressIn(Box<[Network]>),
    Field(FieldOrder, Box<Operand>),
}

struct Group {
    operand: Operand,
    matcher: GroupMatcher,
    steady: bool,
}

/// Predicates that hold together.
type Hits = Box<[PredicateId]>;

enum GroupMatcher {
    Text(HashMap<Box<[u8]>, Hits>),
    Numbers(HashMap<i64, Hits>),
    Beginnings(Trie),
    Endings(Trie),
    Contents(AhoCorasick, Vec<Hits>),
}

/// What a group looks for; predicates of one operand and class share a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Class {
    Text,
    Numbers,
    Beginnings,
    Endings,
    Contents,
    ContentsFolded,
}

/// Room that is used again for every event: with it, an event that matches nothing allocates nothing.
#[derive(Default)]
pub struct Scratch {
    /// Counts events, so that nothing has to be cleared between them.
    epoch: u32,
    /// Per predicate: epoch × 2 + whether it holds.
    predicates: Vec<u32>,
    /// Per shared node: epoch × 2 + whether it holds.
    nodes: Vec<u32>,
    /// Per group: the epoch in which it was asked.
    groups: Vec<u32>,
    /// Per rule: the epoch in which it became a candidate.
    rules: Vec<u32>,
    hits: Vec<PredicateId>,
    candidates: Vec<RuleId>,
    buffers: Buffers,
    /// What is known of processes, each at the place that its number leads to.
    known: Vec<Known>,
    /// That of the process of this event.
    current: Option<usize>,
}

/// How many processes are known at a time.
const KNOWN: usize = 256;

/// What was found out about a process: it opens many files, and is asked the same each time.
#[derive(Default)]
struct Known {
    /// The process, and the program that asked.
    of: Option<(Steady, u64)>,
    groups: Vec<GroupId>,
    hits: Vec<PredicateId>,
    predicates: Vec<(PredicateId, bool)>,
    nodes: Vec<(NodeId, bool)>,
}

impl Known {
    fn begin(&mut self, of: (Steady, u64)) {
        if self.of != Some(of) {
            self.of = Some(of);
            self.groups.clear();
            self.hits.clear();
            self.predicates.clear();
            self.nodes.clear();
        }
    }
}

#[derive(Default)]
struct Buffers {
    transform: Vec<u8>,
    text: Vec<u8>,
    other_transform: Vec<u8>,
    other_text: Vec<u8>,
}

impl Scratch {
    /// Room for any ruleset; it grows on first use.
    pub fn new() -> Self {
        Self::default()
    }

    fn begin(&mut self, program: &Program, rules: usize, steady: Option<Steady>) {
        self.predicates.resize(program.tests.len(), 0);
        self.nodes.resize(program.nodes.len(), 0);
        self.groups.resize(program.groups.len(), 0);
        self.rules.resize(rules, 0);
        self.epoch += 1;
        if self.epoch > u32::MAX / 2 {
            for stamps in [&mut self.predicates, &mut self.nodes, &mut self.groups, &mut self.rules] {
                stamps.fill(0);
            }
            self.epoch = 1;
        }
        self.hits.clear();
        self.candidates.clear();
        self.current = steady.map(|steady| self.recall(program, steady));
    }

    /// Takes over what is known of the process.
    fn recall(&mut self, program: &Program, steady: Steady) -> usize {
        self.known.resize_with(KNOWN, Known::default);
        // Threads of one process have names of their own.
        let name = u128::from_le_bytes(steady.name) % 251;
        let at = usize::try_from((u128::from(steady.process) + name) % KNOWN as u128).expect("is below their number");
        let known = &mut self.known[at];
        known.begin((steady, program.number));
        for group in &known.groups {
            self.groups[*group as usize] = self.epoch;
        }
        for hit in &known.hits {
            self.predicates[*hit as usize] = self.epoch * 2 + 1;
        }
        self.hits.extend_from_slice(&known.hits);
        for (predicate, holds) in &known.predicates {
            self.predicates[*predicate as usize] = self.epoch * 2 + u32::from(*holds);
        }
        for (node, holds) in &known.nodes {
            self.nodes[*node as usize] = self.epoch * 2 + u32::from(*holds);
        }
        at
    }
}

impl Program {
    /// Compiles the conditions of rules, given by their nodes.
    pub(crate) fn new(graph: &mut Graph, rules: &[NodeId]) -> Self {
        let mut kinds: Vec<KindProgram> = Vec::with_capacity(EventKind::COUNT);
        let mut patterns = StdHashMap::new();
        for kind in EventKind::ALL {
            let mut done = StdHashMap::new();
            let roots: Vec<NodeId> = rules
                .iter()
                .map(|rule| {
                    let node = specialise(graph, *rule, kind, &mut patterns, &mut done);
                    if matches!(graph.node(node), Node::Constant(false)) {
                        NodeId::MAX
                    } else {
                        node
                    }
                })
                .collect();
            kinds.push(KindProgram {
                roots,
                ..KindProgram::default()
            });
        }
        let mut used = vec![0_u32; graph.nodes().len()];
        let mut visited = vec![false; graph.nodes().len()];
        for root in kinds
            .iter()
            .flat_map(|kind| &kind.roots)
            .filter(|root| **root != NodeId::MAX)
        {
            used[*root as usize] += 1;
            count_uses(graph, *root, &mut used, &mut visited);
        }
        let (tests, groups) = group(graph, &visited);
        let costs = costs(graph, &tests);
        let nodes = steps(graph, &costs, &used, &steady(graph));
        for kind in &mut kinds {
            kind.choose_gates(graph, &tests, &groups, &costs);
        }
        static PROGRAMS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: PROGRAMS.fetch_add(1, Ordering::Relaxed),
            nodes,
            tests,
            groups,
            kinds,
        }
    }

    /// Calls `found` with the number of each rule whose condition holds, in order.
    pub(crate) fn matches<E: Event + ?Sized>(
        &self,
        rules: usize,
        event: &E,
        scratch: &mut Scratch,
        found: &mut dyn FnMut(usize),
    ) {
        let program = &self.kinds[event.kind().index()];
        if program.always.is_empty() && program.gates.is_empty() {
            return;
        }
        scratch.begin(self, rules, event.steady());
        for (gates, guard) in &program.gates {
            if guard.is_none_or(|guard| self.holds(guard, event, scratch)) {
                self.ask(gates, event, scratch);
            }
        }
        for at in 0..scratch.hits.len() {
            if let Some(rules) = program.gated.get(&scratch.hits[at]) {
                for rule in rules {
                    let stamp = &mut scratch.rules[*rule as usize];
                    if *stamp != scratch.epoch {
                        *stamp = scratch.epoch;
                        scratch.candidates.push(*rule);
                    }
                }
            }
        }
        if !program.always.is_empty() {
            scratch.candidates.extend_from_slice(&program.always);
        }
        scratch.candidates.sort_unstable();
        for at in 0..scratch.candidates.len() {
            let rule = scratch.candidates[at] as usize;
            if self.holds(program.roots[rule], event, scratch) {
                found(rule);
            }
        }
    }

    fn holds<E: Event + ?Sized>(&self, node: NodeId, event: &E, scratch: &mut Scratch) -> bool {
        match &self.nodes[node as usize] {
            Step::Constant(value) => *value,
            Step::Test(predicate) => self.test(*predicate, event, scratch),
            Step::Not(of) => !self.holds(*of, event, scratch),
            Step::All { parts, kept: Kept::Not } => parts.iter().all(|part| self.holds(*part, event, scratch)),
            Step::Any { parts, kept: Kept::Not } => parts.iter().any(|part| self.holds(*part, event, scratch)),
            Step::All { parts, kept } => self.remembered(node, *kept, scratch, |scratch| {
                parts.iter().all(|part| self.holds(*part, event, scratch))
            }),
            Step::Any { parts, kept } => self.remembered(node, *kept, scratch, |scratch| {
                parts.iter().any(|part| self.holds(*part, event, scratch))
            }),
            Step::ExactlyOne(parts) => parts.iter().filter(|part| self.holds(**part, event, scratch)).count() == 1,
        }
    }

    fn remembered(
        &self,
        node: NodeId,
        kept: Kept,
        scratch: &mut Scratch,
        holds: impl FnOnce(&mut Scratch) -> bool,
    ) -> bool {
        let stamp = scratch.nodes[node as usize];
        if stamp / 2 == scratch.epoch {
            return stamp % 2 == 1;
        }
        let result = holds(scratch);
        scratch.nodes[node as usize] = scratch.epoch * 2 + u32::from(result);
        if let (Kept::Process, Some(current)) = (kept, scratch.current) {
            scratch.known[current].nodes.push((node, result));
        }
        result
    }

    fn test<E: Event + ?Sized>(&self, predicate: PredicateId, event: &E, scratch: &mut Scratch) -> bool {
        match &self.tests[predicate as usize] {
            Compiled::Grouped(group) => {
                self.ask(&[*group], event, scratch);
                scratch.predicates[predicate as usize] == scratch.epoch * 2 + 1
            }
            Compiled::Alone(alone) => {
                let Alone {
                    operand,
                    matcher,
                    steady,
                } = &**alone;
                let stamp = scratch.predicates[predicate as usize];
                if stamp / 2 == scratch.epoch {
                    return stamp % 2 == 1;
                }
                let result = matcher.accepts(operand, event, &mut scratch.buffers);
                scratch.predicates[predicate as usize] = scratch.epoch * 2 + u32::from(result);
                if let (true, Some(current)) = (*steady, scratch.current) {
                    scratch.known[current].predicates.push((predicate, result));
                }
                result
            }
            Compiled::Unused => false,
        }
    }

    /// Finds out which predicates of groups hold that have the same operand, once per event.
    fn ask<E: Event + ?Sized>(&self, groups: &[GroupId], event: &E, scratch: &mut Scratch) {
        let Scratch {
            epoch,
            predicates,
            groups: asked,
            hits,
            buffers,
            known,
            current,
            ..
        } = scratch;
        if groups.iter().all(|group| asked[*group as usize] == *epoch) {
            return;
        }
        let Some(Group { operand, steady, .. }) = groups.first().map(|first| &self.groups[*first as usize]) else {
            return;
        };
        let truth = *epoch * 2 + 1;
        let before = hits.len();
        let mut mark = |found: &[PredicateId]| {
            for predicate in found {
                let stamp = &mut predicates[*predicate as usize];
                if *stamp != truth {
                    *stamp = truth;
                    hits.push(*predicate);
                }
            }
        };
        // No value ends the search: another may make other predicates hold.
        any_value(event, &operand.field, &mut |value| {
            if let Some(value) = transformed(value, operand, &mut buffers.transform) {
                for group in groups.iter().filter(|group| asked[**group as usize] != *epoch) {
                    let matcher = &self.groups[*group as usize].matcher;
                    matcher.find(value, &operand.field, &mut buffers.text, &mut mark);
                }
            }
            false
        });
        let known = current.filter(|_| *steady).map(|current| &mut known[current]);
        if let Some(known) = known {
            known
                .groups
                .extend(groups.iter().filter(|group| asked[**group as usize] != *epoch));
            known.hits.extend_from_slice(&hits[before..]);
        }
        for group in groups {
            asked[*group as usize] = *epoch;
        }
    }
}

impl Matcher {
    fn accepts<E: Event + ?Sized>(&self, operand: &Operand, event: &E, buffers: &mut Buffers) -> bool {
        any_value(event, &operand.field, &mut |value| {
            let Some(value) = transformed(value, operand, &mut buffers.transform) else {
                return false;
            };
            let text = &mut buffers.text;
            match self {
                Self::Exists => true,
                Self::TextDiffers(other) => text_of(value, &operand.field, text) != &**other,
                Self::TextOrder(order, other) => order.holds(text_of(value, &operand.field, text).cmp(other)),
                Self::Contains(finder) => finder.find(text_of(value, &operand.field, text)).is_some(),
                Self::Glob(glob) => glob.is_match(text_of(value, &operand.field, text)),
                // Compiling takes longer than all the rest of a rule, and most patterns are never asked for: few events
                // contain what theirs must.
                Self::Regex(pattern, regex) => regex
                    .get_or_init(|| crate::check::checked_regex(pattern).expect("was found sound when it was checked"))
                    .is_match(text_of(value, &operand.field, text)),
                Self::NumberDiffers(other) => matches!(value, Value::Number(number) if number != *other),
                Self::NumberOrder(order, other) => {
                    matches!(value, Value::Number(number) if order.holds(number.cmp(other)))
                }
                Self::FlagIs(wanted) => matches!(value, Value::Flag(flag) if flag == *wanted),
                Self::AddressIn(networks) => {
                    matches!(value, Value::Address(address) if networks.iter().any(|network| network.contains(address)))
                }
                Self::Field(order, right) => {
                    let (other_transform, other_text) = (&mut buffers.other_transform, &mut buffers.other_text);
                    any_value(event, &right.field, &mut |other| {
                        let Some(other) = transformed(other, right, other_transform) else {
                            return false;
                        };
                        let (left, right) = alike(value, &operand.field, text, other, &right.field, other_text);
                        compare(*order, left, right)
                    })
                }
            }
        })
    }
}

impl GroupMatcher {
    fn find(&self, value: Value<'_>, field: &FieldRef, buffer: &mut Vec<u8>, mark: &mut dyn FnMut(&[PredicateId])) {
        match self {
            Self::Text(sets) => {
                if let Some(found) = sets.get(text_of(value, field, buffer)) {
                    mark(found);
                }
            }
            Self::Numbers(sets) => {
                if let Value::Number(number) = value
                    && let Some(found) = sets.get(&number)
                {
                    mark(found);
                }
            }
            Self::Beginnings(trie) => trie.find(text_of(value, field, buffer).iter().copied(), mark),
            Self::Endings(trie) => trie.find(text_of(value, field, buffer).iter().rev().copied(), mark),
            Self::Contents(automaton, hits) => {
                for found in automaton.find_overlapping_iter(text_of(value, field, buffer)) {
                    mark(&hits[found.pattern().as_usize()]);
                }
            }
        }
    }
}

/// Texts by their bytes: walking a value finds every text it begins with.
struct Trie {
    nodes: Vec<TrieNode>,
}

#[derive(Default)]
struct TrieNode {
    /// Sorted by byte.
    children: Vec<(u8, u32)>,
    hits: Vec<PredicateId>,
    /// Hold only when the value ends here or goes on with a slash.
    border_hits: Vec<PredicateId>,
}

impl Trie {
    fn new() -> Self {
        Self {
            nodes: vec![TrieNode::default()],
        }
    }

    fn node(&mut self, text: impl Iterator<Item = u8>) -> &mut TrieNode {
        let mut at = 0;
        for byte in text {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match node.children.binary_search_by_key(&byte, |(byte, _)| *byte) {
                Ok(child) => node.children[child].1 as usize,
                Err(child) => {
                    let id = u32::try_from(new).expect("rule files are far smaller than 4 GiB");
                    node.children.insert(child, (byte, id));
                    self.nodes.push(TrieNode::default());
                    new
                }
            };
        }
        &mut self.nodes[at]
    }

    fn find(&self, text: impl Iterator<Item = u8>, mark: &mut dyn FnMut(&[PredicateId])) {
        let mut node = &self.nodes[0];
        for byte in text {
            if byte == b'/' && !node.border_hits.is_empty() {
                mark(&node.border_hits);
            }
            match node.children.binary_search_by_key(&byte, |(byte, _)| *byte) {
                Ok(child) => node = &self.nodes[node.children[child].1 as usize],
                Err(_) => return,
            }
            if !node.hits.is_empty() {
                mark(&node.hits);
            }
        }
        mark(&node.border_hits);
    }
}

/// The condition as it is for one kind of event.
fn specialise(
    graph: &mut Graph,
    node: NodeId,
    kind: EventKind,
    patterns: &mut StdHashMap<NodeId, NodeId>,
    done: &mut StdHashMap<NodeId, NodeId>,
) -> NodeId {
    if let Some(found) = done.get(&node) {
        return *found;
    }
    let reach = graph.reach(node);
    let special = if !reach.when_true.contains(kind) {
        graph.constant(false)
    } else if !reach.when_false.contains(kind) {
        graph.constant(true)
    } else {
        match graph.node(node).clone() {
            Node::Constant(_) => node,
            Node::Test(predicate) => *patterns
                .entry(node)
                .or_insert_with(|| with_literals(graph, node, predicate)),
            Node::Not(of) => {
                let of = specialise(graph, of, kind, patterns, done);
                graph.not(of)
            }
            Node::And(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| specialise(graph, *part, kind, patterns, done))
                    .collect();
                graph.and(parts)
            }
            Node::Or(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| specialise(graph, *part, kind, patterns, done))
                    .collect();
                graph.or(parts)
            }
            Node::ExactlyOne(parts) => {
                let parts = parts
                    .iter()
                    .map(|part| specialise(graph, *part, kind, patterns, done))
                    .collect();
                graph.exactly_one(parts)
            }
        }
    };
    done.insert(node, special);
    special
}

/// A pattern together with what a text must contain to match it: that is found for all patterns at once, and few texts
/// contain it.
fn with_literals(graph: &mut Graph, node: NodeId, predicate: PredicateId) -> NodeId {
    let Predicate { operand, test } = graph.predicate(predicate).clone();
    // A field with a name, such as a variable of the environment, is seldom there: asking for it once is least.
    if let FieldArg::Key(_) = operand.field.arg {
        return node;
    }
    let literals = match &test {
        Test::Regex(pattern) => literal::of_regex(pattern),
        Test::Glob { pattern, fold: false } => Glob::new(pattern, false).literal().map(|literal| vec![literal]),
        Test::Glob { fold: true, .. }
        | Test::Exists
        | Test::TextIn(_)
        | Test::TextDiffers(_)
        | Test::TextOrder(..)
        | Test::StartsWith(_)
        | Test::EndsWith(_)
        | Test::Contains(_)
        | Test::ContainsFold(_)
        | Test::PathPrefix(_)
        | Test::NumberIn(_)
        | Test::NumberDiffers(_)
        | Test::NumberOrder(..)
        | Test::FlagIs(_)
        | Test::AddressIn(_)
        | Test::Field(..) => None,
    };
    let Some(literals) = literals else { return node };
    // Of a list, the value that contains it may be another than the one that matches: that is for the pattern to say.
    let either = literals
        .into_iter()
        .map(|literal| graph.test(&operand, Test::Contains(literal.into())))
        .collect();
    let either = graph.or(either);
    graph.and(vec![either, node])
}

fn parts_of(node: &Node) -> &[NodeId] {
    match node {
        Node::Constant(_) | Node::Test(_) => &[],
        Node::Not(of) => std::slice::from_ref(of),
        Node::And(parts) | Node::Or(parts) | Node::ExactlyOne(parts) => parts,
    }
}

fn count_uses(graph: &Graph, node: NodeId, used: &mut [u32], visited: &mut [bool]) {
    if std::mem::replace(&mut visited[node as usize], true) {
        return;
    }
    for part in parts_of(graph.node(node)) {
        used[*part as usize] += 1;
        count_uses(graph, *part, used, visited);
    }
}

fn class_of(test: &Test) -> Option<Class> {
    match test {
        Test::TextIn(_) => Some(Class::Text),
        Test::NumberIn(_) => Some(Class::Numbers),
        Test::StartsWith(_) | Test::PathPrefix(_) => Some(Class::Beginnings),
        Test::EndsWith(_) => Some(Class::Endings),
        Test::Contains(_) => Some(Class::Contents),
        Test::ContainsFold(_) => Some(Class::ContentsFolded),
        Test::Exists
        | Test::TextDiffers(_)
        | Test::TextOrder(..)
        | Test::Glob { .. }
        | Test::Regex(_)
        | Test::NumberDiffers(_)
        | Test::NumberOrder(..)
        | Test::FlagIs(_)
        | Test::AddressIn(_)
        | Test::Field(..) => None,
    }
}

/// Puts the predicates that are used into groups; the others stand alone.
fn group(graph: &Graph, visited: &[bool]) -> (Vec<Compiled>, Vec<Group>) {
    let mut used = vec![false; graph.predicates().len()];
    for (node, visited) in graph.nodes().iter().zip(visited) {
        if let (Node::Test(predicate), true) = (node, visited) {
            used[*predicate as usize] = true;
        }
    }
    let mut members: StdHashMap<(&Operand, Class), Vec<PredicateId>> = StdHashMap::new();
    let mut order: Vec<(&Operand, Class)> = Vec::new();
    for (id, predicate) in (0..).zip(graph.predicates()) {
        if used[id as usize]
            && let Some(class) = class_of(&predicate.test)
        {
            let key = (&predicate.operand, class);
            let found = members.entry(key).or_default();
            if found.is_empty() {
                order.push(key);
            }
            found.push(id);
        }
    }
    let mut groups = Vec::new();
    let mut group_of: StdHashMap<PredicateId, GroupId> = StdHashMap::new();
    for key in order {
        let (operand, class) = key;
        let members = &members[&key];
        if class == Class::Contents && members.len() < AUTOMATON_MIN {
            continue;
        }
        if let Some(matcher) = group_matcher(graph, class, members) {
            let id = GroupId::try_from(groups.len()).expect("fewer groups than predicates");
            groups.push(Group {
                operand: operand.clone(),
                matcher,
                steady: operand.field.field.is_steady(),
            });
            group_of.extend(members.iter().map(|member| (*member, id)));
        }
    }
    let tests = (0..)
        .zip(graph.predicates())
        .map(
            |(id, predicate)| match (group_of.get(&id), matcher(predicate).filter(|_| used[id as usize])) {
                (Some(group), _) => Compiled::Grouped(*group),
                (None, Some(matcher)) => Compiled::Alone(Box::new(Alone {
                    operand: predicate.operand.clone(),
                    matcher,
                    steady: is_steady(predicate),
                })),
                (None, None) => Compiled::Unused,
            },
        )
        .collect();
    (tests, groups)
}

fn group_matcher(graph: &Graph, class: Class, members: &[PredicateId]) -> Option<GroupMatcher> {
    let mut texts: StdHashMap<&[u8], Vec<PredicateId>> = StdHashMap::new();
    let mut numbers: StdHashMap<i64, Vec<PredicateId>> = StdHashMap::new();
    let mut beginnings = Trie::new();
    let mut endings = Trie::new();
    for member in members {
        match &graph.predicate(*member).test {
            Test::TextIn(values) => values
                .iter()
                .for_each(|value| texts.entry(value).or_default().push(*member)),
            Test::NumberIn(values) => values
                .iter()
                .for_each(|value| numbers.entry(*value).or_default().push(*member)),
            Test::StartsWith(value) => beginnings.node(value.iter().copied()).hits.push(*member),
            Test::EndsWith(value) => endings.node(value.iter().rev().copied()).hits.push(*member),
            Test::PathPrefix(values) => {
                for value in values {
                    let node = beginnings.node(value.iter().copied());
                    // Everything absolute is below the root.
                    if **value == *b"/" {
                        &mut node.hits
                    } else {
                        &mut node.border_hits
                    }
                    .push(*member);
                }
            }
            Test::Contains(value) | Test::ContainsFold(value) => texts.entry(value).or_default().push(*member),
            Test::Exists
            | Test::TextDiffers(_)
            | Test::TextOrder(..)
            | Test::Glob { .. }
            | Test::Regex(_)
            | Test::NumberDiffers(_)
            | Test::NumberOrder(..)
            | Test::FlagIs(_)
            | Test::AddressIn(_)
            | Test::Field(..) => return None,
        }
    }
    Some(match class {
        Class::Text => GroupMatcher::Text(
            texts
                .into_iter()
                .map(|(value, hits)| (value.into(), hits.into()))
                .collect(),
        ),
        Class::Numbers => {
            GroupMatcher::Numbers(numbers.into_iter().map(|(value, hits)| (value, hits.into())).collect())
        }
        Class::Beginnings => GroupMatcher::Beginnings(beginnings),
        Class::Endings => GroupMatcher::Endings(endings),
        Class::Contents | Class::ContentsFolded => {
            let (needles, hits): (Vec<&[u8]>, Vec<Hits>) =
                texts.into_iter().map(|(needle, hits)| (needle, hits.into())).unzip();
            let automaton = AhoCorasick::builder()
                .ascii_case_insensitive(class == Class::ContentsFolded)
                // Dense tables are several times faster; beyond some size their memory is not worth it.
                .kind(
                    (needles.iter().map(|needle| needle.len()).sum::<usize>() <= DENSE_BYTES_MAX)
                        .then_some(aho_corasick::AhoCorasickKind::DFA),
                )
                .build(needles);
            GroupMatcher::Contents(
                automaton.expect("needles are far fewer and shorter than the automaton can number"),
                hits,
            )
        }
    })
}

/// The matcher of a test that stands alone.
fn matcher(predicate: &Predicate) -> Option<Matcher> {
    Some(match &predicate.test {
        Test::Exists => Matcher::Exists,
        Test::TextDiffers(other) => Matcher::TextDiffers(other.clone()),
        Test::TextOrder(order, other) => Matcher::TextOrder(*order, other.clone()),
        Test::Contains(needle) => Matcher::Contains(Box::new(Finder::new(needle).into_owned())),
        Test::Glob { pattern, fold } => Matcher::Glob(Box::new(Glob::new(pattern, *fold))),
        Test::Regex(pattern) => Matcher::Regex(pattern.clone(), OnceLock::new()),
        Test::NumberDiffers(other) => Matcher::NumberDiffers(*other),
        Test::NumberOrder(order, other) => Matcher::NumberOrder(*order, *other),
        Test::FlagIs(wanted) => Matcher::FlagIs(*wanted),
        Test::AddressIn(networks) => Matcher::AddressIn(networks.clone()),
        Test::Field(order, right) => Matcher::Field(*order, right.clone()),
        // These are grouped whenever they are used.
        Test::TextIn(_)
        | Test::NumberIn(_)
        | Test::StartsWith(_)
        | Test::PathPrefix(_)
        | Test::EndsWith(_)
        | Test::ContainsFold(_) => return None,
    })
}

/// What a test costs, roughly in tens of nanoseconds; only the order matters.
fn test_cost(predicate: &Predicate) -> u32 {
    let test: u32 = match &predicate.test {
        Test::FlagIs(_) | Test::NumberOrder(..) | Test::NumberDiffers(_) | Test::Exists => 1,
        Test::NumberIn(_) | Test::AddressIn(_) => 2,
        Test::TextIn(_) | Test::TextDiffers(_) | Test::TextOrder(..) => 3,
        Test::StartsWith(_) | Test::EndsWith(_) | Test::PathPrefix(_) => 4,
        Test::Field(..) => 6,
        Test::Contains(_) | Test::ContainsFold(_) => 10,
        Test::Glob { .. } => 12,
        Test::Regex(_) => 30,
    };
    let list = match predicate.operand.field.shape() {
        crate::field::Shape::Single => 1,
        crate::field::Shape::Either => 2,
        crate::field::Shape::List => 8,
    };
    let transforms = u32::try_from(predicate.operand.transforms.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(5);
    (test * list).saturating_add(transforms)
}

/// The cost of every node. Parts come before the nodes they are in.
fn costs(graph: &Graph, tests: &[Compiled]) -> Vec<u32> {
    debug_assert_eq!(tests.len(), graph.predicates().len());
    let mut costs: Vec<u32> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let cost = match node {
            Node::Constant(_) => 0,
            Node::Test(predicate) => test_cost(graph.predicate(*predicate)),
            Node::Not(_) | Node::And(_) | Node::Or(_) | Node::ExactlyOne(_) => parts_of(node)
                .iter()
                .fold(0_u32, |sum, part| sum.saturating_add(costs[*part as usize])),
        };
        costs.push(cost);
    }
    costs
}

/// Whether a test has the same outcome for all events of a process that stays as it is.
fn is_steady(predicate: &Predicate) -> bool {
    let other = match &predicate.test {
        Test::Field(_, right) => right.field.field.is_steady(),
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
        | Test::NumberIn(_)
        | Test::NumberDiffers(_)
        | Test::NumberOrder(..)
        | Test::FlagIs(_)
        | Test::AddressIn(_) => true,
    };
    other && predicate.operand.field.field.is_steady()
}

/// Of every node, whether it has.
fn steady(graph: &Graph) -> Vec<bool> {
    let mut steady: Vec<bool> = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        steady.push(match node {
            Node::Constant(_) => true,
            Node::Test(predicate) => is_steady(graph.predicate(*predicate)),
            Node::Not(_) | Node::And(_) | Node::Or(_) | Node::ExactlyOne(_) => {
                parts_of(node).iter().all(|part| steady[*part as usize])
            }
        });
    }
    steady
}

fn steps(graph: &Graph, costs: &[u32], used: &[u32], steady: &[bool]) -> Vec<Step> {
    let kept = |used: u32, steady: bool| match (used > 1, steady) {
        (false, _) => Kept::Not,
        (true, false) => Kept::Event,
        (true, true) => Kept::Process,
    };
    let sorted = |parts: &[NodeId]| -> Box<[NodeId]> {
        let mut parts = parts.to_vec();
        parts.sort_by_key(|part| costs[*part as usize]);
        parts.into()
    };
    graph
        .nodes()
        .iter()
        .zip(used.iter().zip(steady))
        .map(|(node, (used, steady))| match node {
            Node::Constant(value) => Step::Constant(*value),
            Node::Test(predicate) => Step::Test(*predicate),
            Node::Not(of) => Step::Not(*of),
            Node::And(parts) => Step::All {
                parts: sorted(parts),
                kept: kept(*used, *steady),
            },
            Node::Or(parts) => Step::Any {
                parts: sorted(parts),
                kept: kept(*used, *steady),
            },
            Node::ExactlyOne(parts) => Step::ExactlyOne(parts.clone()),
        })
        .collect()
}

/// Grouped predicates of which one must hold, and how dear it is to ask for them.
#[derive(Clone)]
struct Gate {
    score: u32,
    predicates: Vec<PredicateId>,
}

/// Most predicates a gate may have: beyond, looking at the rule is cheaper than its entries.
const GATE_MAX: usize = 512;

impl KindProgram {
    fn choose_gates(&mut self, graph: &Graph, tests: &[Compiled], groups: &[Group], costs: &[u32]) {
        let mut gates: Vec<GroupId> = Vec::new();
        let mut known: StdHashMap<NodeId, Option<Gate>> = StdHashMap::new();
        let mut guards: StdHashMap<GroupId, Vec<NodeId>> = StdHashMap::new();
        for (rule, root) in (0..).zip(&self.roots) {
            if *root == NodeId::MAX {
                continue;
            }
            let Some(gate) = gate(graph, tests, *root, &mut known) else {
                self.always.push(rule);
                continue;
            };
            let cheap = cheap_parts(graph, tests, costs, *root);
            for predicate in gate.predicates {
                if let Compiled::Grouped(group) = tests[predicate as usize] {
                    match guards.entry(group) {
                        Entry::Vacant(vacant) => {
                            gates.push(group);
                            vacant.insert(cheap.clone());
                        }
                        Entry::Occupied(mut common) => common.get_mut().retain(|part| cheap.contains(part)),
                    }
                }
                let rules = self.gated.entry(predicate).or_default();
                if rules.last() != Some(&rule) {
                    rules.push(rule);
                }
            }
        }
        for group in gates {
            let guard = guards.get(&group).and_then(|common| common.first().copied());
            let operand = &groups[group as usize].operand;
            let same = self.gates.iter_mut().find(|(others, common)| {
                *common == guard && others.iter().all(|other| groups[*other as usize].operand == *operand)
            });
            match same {
                Some((others, _)) => others.push(group),
                None => self.gates.push((vec![group], guard)),
            }
        }
    }
}

/// Dearest guard: asking for it must cost less than asking its gate.
const GUARD_COST_MAX: u32 = 4;

/// Parts of a condition, all of which must hold, that are flags and numbers asked for on their own.
fn cheap_parts(graph: &Graph, tests: &[Compiled], costs: &[u32], root: NodeId) -> Vec<NodeId> {
    fn is_alone(graph: &Graph, tests: &[Compiled], node: NodeId) -> bool {
        match graph.node(node) {
            Node::Test(predicate) => matches!(tests[*predicate as usize], Compiled::Alone(_)),
            other @ (Node::Constant(_) | Node::Not(_) | Node::And(_) | Node::Or(_) | Node::ExactlyOne(_)) => {
                parts_of(other).iter().all(|part| is_alone(graph, tests, *part))
            }
        }
    }
    let parts = match graph.node(root) {
        Node::And(parts) => parts,
        Node::Constant(_) | Node::Test(_) | Node::Not(_) | Node::Or(_) | Node::ExactlyOne(_) => return Vec::new(),
    };
    let mut cheap: Vec<NodeId> = parts
        .iter()
        .copied()
        .filter(|part| costs[*part as usize] <= GUARD_COST_MAX && is_alone(graph, tests, *part))
        .collect();
    cheap.sort_by_key(|part| (costs[*part as usize], *part));
    cheap
}

/// The cheapest gate of a condition, if it has one.
fn gate(graph: &Graph, tests: &[Compiled], node: NodeId, known: &mut StdHashMap<NodeId, Option<Gate>>) -> Option<Gate> {
    if let Some(found) = known.get(&node) {
        return found.clone();
    }
    let found = match graph.node(node) {
        Node::Constant(_) | Node::Not(_) => None,
        Node::Test(predicate) => match &tests[*predicate as usize] {
            Compiled::Grouped(_) => {
                let tested = graph.predicate(*predicate);
                // Values that many events have make poor gates.
                let common = if tested.operand.is_event_type() { 100 } else { 0 };
                let score = test_cost(tested).saturating_add(common);
                Some(Gate {
                    score,
                    predicates: vec![*predicate],
                })
            }
            Compiled::Alone(_) | Compiled::Unused => None,
        },
        Node::And(parts) => parts
            .iter()
            .filter_map(|part| gate(graph, tests, *part, known))
            .min_by_key(|gate| gate.score),
        Node::Or(parts) | Node::ExactlyOne(parts) => {
            let mut joined = Gate {
                score: 0,
                predicates: Vec::new(),
            };
            let complete = parts.iter().all(|part| match gate(graph, tests, *part, known) {
                Some(gate) => {
                    joined.score = joined.score.max(gate.score) + 1;
                    joined.predicates.extend(gate.predicates);
                    joined.predicates.len() <= GATE_MAX
                }
                None => false,
            });
            joined.predicates.sort_unstable();
            joined.predicates.dedup();
            complete.then_some(joined)
        }
    };
    known.insert(node, found.clone());
    found
}
