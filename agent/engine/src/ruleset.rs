//! Rule files loaded, checked and compiled, ready to be asked about events.

mod correlated;
mod sigma;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::attack::{self, Lookup, Technique};
use crate::check::{Checked, Checker};
use crate::compile::{Program, Scratch};
use crate::correlate::Correlation;
use crate::demand::Demand;
use crate::diagnostic::{Diagnostic, Diagnostics, did_you_mean};
use crate::evaluate;
use crate::event::{Event, KindSet};
use crate::example::{self, Example, ExampleEvent, Examples};
use crate::field::{FieldError, FieldRef};
use crate::ir::{Graph, Node, NodeId, Operand, Transform};
use crate::memory::{Evidence, Memory};
use crate::output::{Output, Part};
use crate::pack::{self, Definition};
use crate::source::{Files, Place, Source, Text};
use crate::syntax::{self, Transformer};
use crate::yaml;
use correlated::CorrelationDraft;

/// Largest rule file.
pub const FILE_BYTES_MAX: usize = 16 << 20;

/// How bad a behaviour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing, nothing to do.
    Informational,
    /// Unusual; interesting together with others.
    Low,
    /// Suspicious; somebody should look.
    Medium,
    /// Malicious unless explained; fails a gate by default.
    High,
    /// Malicious beyond reasonable doubt, or damage is done.
    Critical,
}

impl Severity {
    /// All of them, mildest first.
    pub const ALL: [Self; 5] = [Self::Informational, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// As written in rules.
    pub fn name(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// The severity that stands for one of Falco's priorities.
    fn of_priority(priority: &str) -> Option<Self> {
        Some(match priority.to_ascii_lowercase().as_str() {
            "emergency" | "alert" | "critical" => Self::Critical,
            "error" => Self::High,
            "warning" => Self::Medium,
            "notice" => Self::Low,
            "informational" | "info" | "debug" => Self::Informational,
            _ => return None,
        })
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Text that names no severity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown severity `{0}`; use informational, low, medium, high or critical")]
pub struct UnknownSeverity(String);

impl FromStr for Severity {
    type Err = UnknownSeverity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL
            .into_iter()
            .find(|severity| severity.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| UnknownSeverity(text.to_owned()))
    }
}

/// How often a rule may raise an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// Alerts that pass in each period.
    pub limit: u32,
    /// Length of a period.
    pub every_ms: u64,
    /// Fields whose values are counted apart.
    pub by: Box<[FieldRef]>,
}

/// A rule that can match.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Stable identifier, such as `credential-access/shadow-read`.
    pub id: Box<str>,
    /// Name as written.
    pub name: Box<str>,
    /// What it looks for and why that matters.
    pub description: Box<str>,
    /// How bad it is.
    pub severity: Severity,
    /// ATT&CK techniques, as written: the first is the most telling.
    pub attack: Vec<Technique>,
    /// How to fix the behaviour or allow it.
    pub remediation: Box<str>,
    /// Pages to read.
    pub references: Vec<Box<str>>,
    /// Tags as written.
    pub tags: Vec<Box<str>>,
    /// The condition as written, without lists, macros and exceptions put in; of a rule over several events all of them.
    pub condition: Box<str>,
    /// The text of its alerts.
    pub output: Output,
    /// The kinds of event it can match.
    pub kinds: KindSet,
    /// The file it was defined in.
    pub source: Box<str>,
    /// The line it was defined at.
    pub line: u32,
    /// How often it may raise an alert.
    pub throttle: Option<Throttle>,
    /// Events it must match and must not match.
    pub examples: Examples,
    /// Whether it only serves other rules, and raises no alert of its own.
    pub is_silent: bool,
    /// Whether it is about several events: its node says which of them it counts.
    is_correlated: bool,
    node: NodeId,
}

impl Rule {
    /// Whether it is about several events.
    pub fn is_correlated(&self) -> bool {
        self.is_correlated
    }
}

/// Why a rule that was read does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inactivity {
    /// It is disabled in the file.
    Disabled,
    /// It uses a field or a function that this version does not supply.
    Field,
    /// It waits for events that this version does not record.
    Event,
    /// It uses a key that this version reads but cannot act on.
    Key,
    /// It is for events of another source than the kernel.
    Source,
    /// Its condition cannot hold for any event.
    Unsatisfiable,
    /// It counts matches of a rule that does not run.
    Rule,
}

/// A rule that was read but does not run.
#[derive(Clone, Debug)]
pub struct Inactive {
    /// Its name.
    pub rule: Box<str>,
    /// Its file.
    pub file: Box<str>,
    /// The line of what keeps it from running.
    pub line: u32,
    /// The column.
    pub column: u32,
    /// The kind of reason.
    pub why: Inactivity,
    /// The reason for people, with the exact field or event.
    pub reason: String,
}

impl fmt::Display for Inactive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: rule `{}` is inactive: {}",
            self.file, self.line, self.column, self.rule, self.reason
        )
    }
}

/// What rule files became.
#[derive(Debug)]
pub struct Loaded {
    /// The rules that run.
    pub ruleset: Ruleset,
    /// Doubts about the files that do not keep them from being used.
    pub warnings: Vec<Diagnostic>,
    /// The rules that do not run, each with its reason.
    pub inactive: Vec<Inactive>,
}

/// Compiled rules.
pub struct Ruleset {
    rules: Vec<Rule>,
    digest: String,
    kinds: KindSet,
    program: Program,
    /// The conditions before compilation, for explanations.
    graph: Graph,
    /// Rules over several events; each comes after those whose matches it counts.
    correlations: Vec<Correlation>,
    /// Per condition of the program: the correlations that count its matches, and as which step.
    listeners: Vec<Vec<(usize, usize)>>,
}

/// A rule that matches.
#[derive(Debug)]
pub enum Found<'r, P> {
    /// The event that was asked about, with what was kept of the earlier events of a rule over several.
    Now(&'r Rule, Vec<P>),
    /// Events of a time that has passed: this is what was kept of the first of them.
    Late(&'r Rule, Vec<P>),
}

impl fmt::Debug for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ruleset")
            .field("rules", &self.rules.len())
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

impl Ruleset {
    /// The rules that run, in the order of definition.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule of this id.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| &*rule.id == id)
    }

    /// Digest of everything that was loaded, `sha256:…`.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The kinds of event that some rule needs.
    pub fn kinds(&self) -> KindSet {
        self.kinds
    }

    /// What the kernel must report for these rules.
    pub fn demand(&self) -> Demand {
        let rules = self.rules.iter().map(|rule| (&*rule.id, rule.kinds, rule.node));
        Demand::of(&self.graph, rules)
    }

    /// Calls `found` with every rule whose condition holds for the event, in the order of definition. Rules over several
    /// events are left out.
    pub fn matches<'r, E: Event + ?Sized>(&'r self, event: &E, scratch: &mut Scratch, found: &mut dyn FnMut(&'r Rule)) {
        self.program
            .matches(self.listeners.len(), event, scratch, &mut |condition| {
                if let Some(rule) = self.rules.get(condition) {
                    found(rule);
                }
            });
    }

    /// Calls `found` with every rule that the event makes match: those of one event in the order of definition, then those
    /// of several, as far as `memory` goes back. `keep` is asked for what is to be kept of the event.
    pub fn follow<'r, E: Event + ?Sized, P: Evidence>(
        &'r self,
        event: &E,
        scratch: &mut Scratch,
        memory: &mut Memory<P>,
        keep: &mut dyn FnMut() -> P,
        found: &mut dyn FnMut(Found<'r, P>),
    ) {
        let mut inputs = std::mem::take(&mut memory.inputs);
        self.program
            .matches(self.listeners.len(), event, scratch, &mut |condition| {
                inputs.push(condition);
            });
        if !inputs.is_empty() {
            let counted = inputs.iter().any(|input| !self.listeners[*input].is_empty());
            for rule in inputs.iter().filter_map(|input| self.rules.get(*input)) {
                if !rule.is_silent {
                    found(Found::Now(rule, Vec::new()));
                }
            }
            if counted {
                self.correlate(event, &inputs, memory, keep, found);
            }
            inputs.clear();
        }
        memory.inputs = inputs;
    }

    fn correlate<'r, E: Event + ?Sized, P: Evidence>(
        &'r self,
        event: &E,
        inputs: &[usize],
        memory: &mut Memory<P>,
        keep: &mut dyn FnMut() -> P,
        found: &mut dyn FnMut(Found<'r, P>),
    ) {
        memory.make_room_for(self.correlations.len());
        let mut kept: Option<P> = None;
        let mut keep = || kept.get_or_insert_with(&mut *keep).clone();
        // What matches makes only later ones match, so one pass in order is enough.
        let mut waiting: BTreeSet<(usize, usize)> = inputs
            .iter()
            .flat_map(|input| self.listeners[*input].iter().copied())
            .collect();
        while let Some((number, _)) = waiting.first().copied() {
            let rest = waiting.split_off(&(number + 1, 0));
            let steps: Vec<usize> = waiting.iter().map(|(_, step)| *step).collect();
            waiting = rest;
            let correlation = &self.correlations[number];
            if correlation.is_late() {
                self.end_windows(number, event.time_ns(), memory, found);
            }
            if let Some(earlier) = memory.take_in(number, correlation, (event, &steps), &mut keep) {
                let rule = &self.rules[correlation.rule];
                waiting.extend(&self.listeners[correlation.rule]);
                if !rule.is_silent {
                    found(Found::Now(rule, earlier));
                }
            }
        }
    }

    /// Calls `found` with the rules that match events of a time that has passed by now.
    pub fn pass_time<'r, P: Evidence>(
        &'r self,
        now_ns: u64,
        memory: &mut Memory<P>,
        found: &mut dyn FnMut(Found<'r, P>),
    ) {
        memory.make_room_for(self.correlations.len());
        for (number, correlation) in (0..).zip(&self.correlations) {
            if correlation.is_late() {
                self.end_windows(number, now_ns, memory, found);
            }
        }
    }

    fn end_windows<'r, P: Evidence>(
        &'r self,
        number: usize,
        now_ns: u64,
        memory: &mut Memory<P>,
        found: &mut dyn FnMut(Found<'r, P>),
    ) {
        let correlation = &self.correlations[number];
        while let Some(ended) = memory.take_window(number, correlation, now_ns) {
            if let Some(events) = ended {
                found(Found::Late(&self.rules[correlation.rule], events));
            }
        }
    }

    /// Makes a memory that was filled with another ruleset serve this one: rules over several events that are the same in
    /// both go on where they were, and what the others remember is forgotten and counted.
    pub fn take_over<P: Evidence>(&self, memory: &mut Memory<P>, from: &Self) {
        memory.make_room_for(from.correlations.len());
        let kept: Vec<Option<usize>> = self
            .correlations
            .iter()
            .map(|correlation| {
                let rule = &self.rules[correlation.rule];
                from.correlations.iter().position(|other| {
                    let before = &from.rules[other.rule];
                    let same = Correlation {
                        rule: other.rule,
                        ..correlation.clone()
                    };
                    before.id == rule.id && before.condition == rule.condition && same == *other
                })
            })
            .collect();
        memory.carry_over(&kept);
    }

    /// Whether a rule matches, by the plain reading of its condition; of a rule over several events, whether the event is
    /// one of those that it counts. Slow; for explanations and as a check of the compiler.
    pub fn interpret(&self, rule: &Rule, event: &dyn Event) -> bool {
        rule.kinds.contains(event.kind()) && evaluate::holds(&self.graph, rule.node, event)
    }

    /// How each check of a rule's condition turned out for an event, one line each, `yes` or `no` in front.
    pub fn explain(&self, rule: &Rule, event: &dyn Event) -> Vec<String> {
        let mut lines = Vec::new();
        self.explain_node(rule.node, event, 0, &mut lines);
        lines
    }

    fn explain_node(&self, node: NodeId, event: &dyn Event, depth: usize, lines: &mut Vec<String>) {
        const LINES_MAX: usize = 400;
        if lines.len() >= LINES_MAX {
            return;
        }
        let (what, parts): (String, &[NodeId]) = match self.graph.node(node) {
            Node::Constant(value) => (value.to_string(), &[]),
            Node::Test(predicate) => (self.graph.predicate(*predicate).to_string(), &[]),
            Node::Not(of) => ("not".to_owned(), std::slice::from_ref(of)),
            Node::And(parts) => ("all of".to_owned(), parts),
            Node::Or(parts) => ("any of".to_owned(), parts),
            Node::ExactlyOne(parts) => ("exactly one of".to_owned(), parts),
        };
        let holds = if evaluate::holds(&self.graph, node, event) {
            "yes"
        } else {
            "no "
        };
        lines.push(format!("{holds} {}{what}", "  ".repeat(depth.min(40))));
        for part in parts {
            self.explain_node(*part, event, depth + 1, lines);
        }
    }

    /// Runs the examples of a rule and returns those that turned out wrong.
    pub fn check_examples(&self, rule: &Rule) -> Vec<ExampleFailure> {
        let mut scratch = Scratch::new();
        let mut failures = Vec::new();
        let wanted = [(&rule.examples.matching, true), (&rule.examples.missing, false)];
        for (examples, expected) in wanted {
            for example in examples {
                let events = example.events();
                let matched = self.is_found(rule, &events, &mut scratch);
                if matched != expected {
                    failures.push(ExampleFailure {
                        rule: rule.id.clone(),
                        file: example.source.clone(),
                        line: example.line,
                        expected_match: expected,
                        explanation: events.last().map_or(Vec::new(), |event| self.explain(rule, event)),
                    });
                }
            }
        }
        failures
    }

    /// Whether a rule matches somewhere in the events of an example.
    fn is_found(&self, rule: &Rule, events: &[ExampleEvent], scratch: &mut Scratch) -> bool {
        let mut memory = Memory::<()>::default();
        let mut matched = false;
        let mut found = |found: Found<'_, ()>| {
            let (Found::Now(found, _) | Found::Late(found, _)) = found;
            matched |= std::ptr::eq(found, rule);
        };
        for event in events {
            self.follow(event, scratch, &mut memory, &mut || (), &mut found);
        }
        self.pass_time(u64::MAX, &mut memory, &mut found);
        matched || (rule.is_silent && events.last().is_some_and(|event| self.interpret(rule, event)))
    }

    /// Runs the examples of all rules and returns those that turned out wrong.
    pub fn check_all_examples(&self) -> Vec<ExampleFailure> {
        self.rules.iter().flat_map(|rule| self.check_examples(rule)).collect()
    }
}

/// An example that turned out wrong.
#[derive(Clone, Debug)]
pub struct ExampleFailure {
    /// Id of the rule.
    pub rule: Box<str>,
    /// File of the example.
    pub file: Box<str>,
    /// Line of the example.
    pub line: u32,
    /// Whether it should have matched.
    pub expected_match: bool,
    /// How each check turned out.
    pub explanation: Vec<String>,
}

impl fmt::Display for ExampleFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.expected_match {
            "does not match its example"
        } else {
            "matches an example it must miss"
        };
        write!(f, "{}:{}: rule `{}` {what}", self.file, self.line, self.rule)?;
        for line in &self.explanation {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}

/// Loads rule files in order: parses, checks and compiles them. All mistakes of all files are returned together.
pub fn load(sources: &[Source<'_>]) -> Result<Loaded, Diagnostics> {
    let too_large: Vec<Diagnostic> = sources
        .iter()
        .filter(|source| source.text.len() > FILE_BYTES_MAX)
        .map(|source| Diagnostic {
            file: source.name.into(),
            line: 1,
            column: 1,
            message: format!("file is larger than {FILE_BYTES_MAX} bytes"),
            help: Some("split it".to_owned()),
        })
        .collect();
    if !too_large.is_empty() {
        return Err(Diagnostics(too_large));
    }
    let files = Files::new(sources);
    let mut reader = pack::Reader::new(&files);
    for file in 0..sources.len() {
        match yaml::read(&files, crate::source::offset(file)) {
            Ok(documents) => documents.iter().for_each(|document| reader.document(document)),
            Err(error) => reader.errors.push(error),
        }
    }
    let pack::Reader {
        pack, errors, warnings, ..
    } = reader;
    let mut checker = Checker::new(&files, &pack);
    checker.errors.extend(errors);
    checker.warnings.extend(warnings);
    let mut loader = Loader {
        files: &files,
        checker,
        drafts: Vec::new(),
        inactive: Vec::new(),
        ids: HashMap::new(),
        aliases: HashSet::new(),
    };
    for definition in &pack.rules {
        loader.rule(definition);
    }
    loader.sigma(&pack.sigma);
    loader.unused_macros(&pack);
    loader.finish(sources)
}

struct Loader<'a, 'f> {
    files: &'f Files<'a>,
    checker: Checker<'a, 'f>,
    drafts: Vec<Draft>,
    inactive: Vec<Inactive>,
    ids: HashMap<String, Place>,
    /// What rules may be called beside their ids.
    aliases: HashSet<String>,
}

/// What a rule has beside its condition.
struct Parts {
    severity: Severity,
    attack: Vec<Technique>,
    output: Output,
    throttle: Option<Throttle>,
    examples: Examples,
    id: String,
}

/// A rule that runs unless the rules that it counts matches of do not.
struct Draft {
    rule: Rule,
    place: Place,
    /// What others may call it beside its id and its name.
    alias: Option<String>,
    correlation: Option<CorrelationDraft>,
}

impl Loader<'_, '_> {
    fn error(&mut self, place: Place, message: String, help: Option<String>) {
        let diagnostic = self.files.diagnostic(place, message, help);
        self.checker.errors.push(diagnostic);
    }

    fn warn(&mut self, place: Place, message: String, help: Option<String>) {
        let diagnostic = self.files.diagnostic(place, message, help);
        self.checker.warnings.push(diagnostic);
    }

    fn inactive(&mut self, definition: &Definition, place: Place, why: Inactivity, reason: String) {
        let (line, column) = self.files.line_and_column(place);
        let file = self.files.source(place.file).name.into();
        self.inactive.push(Inactive {
            rule: definition.name.as_str().into(),
            file,
            line,
            column,
            why,
            reason,
        });
    }

    fn rule(&mut self, definition: &Definition) {
        if definition.source != "syscall" {
            let reason = format!("source `{}` is not supplied by this version", definition.source);
            return self.inactive(definition, definition.place, Inactivity::Source, reason);
        }
        // Everything is checked, also of rules that will not run: a mistake does not wait until they do.
        let parts = self.parts(definition);
        let Some((checked, correlation)) = self.whole_condition(definition) else {
            return;
        };
        if let Some((key, place)) = definition.later {
            let reason = format!("key `{key}` needs a later version");
            return self.inactive(definition, place, Inactivity::Key, reason);
        }
        let condition = match (&definition.condition, &correlation) {
            (_, Some(correlation)) => correlation.written.clone(),
            (Some(condition), None) => condition.as_str().to_owned(),
            (None, None) => String::new(),
        };
        if let (Some(parts), Some(checked)) = (parts, checked) {
            self.admit(definition, parts, &checked, correlation, condition);
        }
    }

    /// What a rule has beside its condition; none if something of it is wrong.
    fn parts(&mut self, definition: &Definition) -> Option<Parts> {
        let severity = self.severity(definition);
        let attack = self.techniques(definition);
        let output = self.output(definition);
        let throttle = self.throttle(definition);
        let examples = self.examples(definition);
        let id = self.id(definition);
        Some(Parts {
            severity: severity?,
            attack,
            output: output?,
            throttle,
            examples: examples?,
            id: id?,
        })
    }

    /// Makes a rule of all its parts, unless something keeps it from running.
    fn admit(
        &mut self,
        definition: &Definition,
        parts: Parts,
        checked: &Checked,
        correlation: Option<CorrelationDraft>,
        condition: String,
    ) -> Option<&mut Draft> {
        let Checked {
            node,
            obstacles,
            unrecorded,
        } = checked;
        let node = *node;
        if !definition.enabled {
            let reason = "disabled by `enabled: false`".to_owned();
            self.inactive(definition, definition.place, Inactivity::Disabled, reason);
            return None;
        }
        if let [first, rest @ ..] = obstacles.as_slice() {
            let mut reason = first.reason.clone();
            if !unrecorded.is_empty() {
                let names: Vec<&str> = unrecorded.iter().map(String::as_str).collect();
                reason.push_str(&format!("; event types not recorded: {}", names.join(", ")));
            }
            for obstacle in rest.iter().filter(|obstacle| obstacle.reason != first.reason) {
                reason.push_str("; ");
                reason.push_str(&obstacle.reason);
            }
            self.inactive(definition, first.place, Inactivity::Field, reason);
            return None;
        }
        // What a rule over several events counts of other rules is known when all rules are.
        let counts_rules = correlation.as_ref().is_some_and(CorrelationDraft::counts_rules);
        let kinds = self.checker.graph.reach(node).when_true;
        let names: Vec<String> = unrecorded.iter().map(|name| format!("`{name}`")).collect();
        if kinds.is_empty() && !counts_rules {
            let (why, reason) = match names.as_slice() {
                [] => (
                    Inactivity::Unsatisfiable,
                    "no event can satisfy its condition".to_owned(),
                ),
                [name] => (
                    Inactivity::Event,
                    format!("event type {name} is not recorded by this version"),
                ),
                names => (
                    Inactivity::Event,
                    format!("event types {} are not recorded by this version", names.join(", ")),
                ),
            };
            self.inactive(definition, definition.place, why, reason);
            return None;
        }
        if !names.is_empty() {
            let message = format!(
                "rule `{}` also names {}, which this version does not record",
                definition.name,
                names.join(", ")
            );
            self.warn(definition.place, message, None);
        }
        let (line, _) = self.files.line_and_column(definition.place);
        let Parts {
            severity,
            attack,
            output,
            throttle,
            examples,
            id,
        } = parts;
        let rule = Rule {
            id: id.into(),
            name: definition.name.as_str().into(),
            description: definition.description.as_str().into(),
            severity,
            attack,
            remediation: definition.remediation.as_str().into(),
            references: definition
                .references
                .iter()
                .map(|reference| reference.as_str().into())
                .collect(),
            tags: definition.tags.iter().map(|(tag, _)| tag.as_str().into()).collect(),
            condition: condition.into(),
            output,
            kinds,
            source: self.files.source(definition.place.file).name.into(),
            line,
            throttle,
            examples,
            is_silent: false,
            is_correlated: correlation.is_some(),
            node,
        };
        self.drafts.push(Draft {
            rule,
            place: definition.place,
            alias: None,
            correlation,
        });
        self.drafts.last_mut()
    }

    /// The condition of a rule, or the conditions of all its steps as one, with what it counts of them.
    fn whole_condition(&mut self, definition: &Definition) -> Option<(Option<Checked>, Option<CorrelationDraft>)> {
        let condition = match definition.full_condition() {
            Some(condition) => Some(self.checker.condition(&condition, usize::MAX)?),
            None => None,
        };
        match (&definition.sequence, &definition.threshold) {
            (None, None) => Some((condition, None)),
            (Some(node), None) => {
                let (checked, draft) = self.sequence(definition, node)?;
                Some((Some(checked), Some(draft)))
            }
            (None, Some(node)) => {
                let (checked, draft) = self.threshold(definition, node, condition)?;
                Some((Some(checked), Some(draft)))
            }
            (Some(_), Some(node)) => {
                let message = format!("rule `{}` has both `sequence` and `threshold`", definition.name);
                let help = "make two rules: the steps of one can name the other".to_owned();
                self.error(node.place, message, Some(help));
                None
            }
        }
    }

    fn severity(&mut self, definition: &Definition) -> Option<Severity> {
        let from_priority = match &definition.priority {
            Some((text, place)) => match Severity::of_priority(text) {
                Some(severity) => Some(severity),
                None => {
                    let known = [
                        "emergency",
                        "alert",
                        "critical",
                        "error",
                        "warning",
                        "notice",
                        "informational",
                        "debug",
                    ];
                    let help = did_you_mean(&text.to_ascii_lowercase(), known)
                        .or_else(|| Some(format!("use one of {}", known.join(", "))));
                    self.error(*place, format!("unknown priority `{text}`"), help);
                    return None;
                }
            },
            None => None,
        };
        match &definition.severity {
            Some((text, place)) => match text.parse() {
                Ok(severity) => Some(severity),
                Err(UnknownSeverity(_)) => {
                    let known = Severity::ALL.map(Severity::name);
                    let help = did_you_mean(&text.to_ascii_lowercase(), known)
                        .or_else(|| Some(format!("use one of {}", known.join(", "))));
                    self.error(*place, format!("unknown severity `{text}`"), help);
                    None
                }
            },
            None => from_priority,
        }
    }

    fn id(&mut self, definition: &Definition) -> Option<String> {
        let (id, place) = match &definition.id {
            Some((id, place)) => {
                let valid = !id.is_empty()
                    && id
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'));
                if !valid {
                    let help = "use letters, digits, `-`, `_`, `.` and `/`".to_owned();
                    self.error(*place, format!("`{}` cannot be an id", id.escape_debug()), Some(help));
                    return None;
                }
                (id.clone(), *place)
            }
            None => (slug(&definition.name), definition.place),
        };
        if let Some(first) = self.ids.get(&id).copied() {
            let (line, _) = self.files.line_and_column(first);
            let file = self.files.source(first.file).name;
            let message = format!(
                "id `{id}` of rule `{}` is taken by the rule at {file}:{line}",
                definition.name
            );
            self.error(place, message, Some("give each rule an `id` of its own".to_owned()));
            return None;
        }
        self.ids.insert(id.clone(), place);
        Some(id)
    }

    fn techniques(&mut self, definition: &Definition) -> Vec<Technique> {
        let mut techniques: Vec<Technique> = Vec::new();
        let tagged = definition.tags.iter().filter(|(tag, _)| attack::is_technique_id(tag));
        let written: Vec<&(String, Place)> = definition.attack.iter().chain(tagged).collect();
        for (id, place) in written {
            let technique = match attack::lookup(id) {
                Lookup::Known(technique) => technique.clone(),
                Lookup::Renumbered(technique) => {
                    let help = format!("write `{}` ({})", technique.id, technique.name);
                    self.warn(
                        *place,
                        format!("technique {id} was renumbered in ATT&CK v19"),
                        Some(help),
                    );
                    technique.clone()
                }
                Lookup::Unknown => {
                    let help = did_you_mean(id, attack::techniques().map(|technique| &*technique.id));
                    let message = format!(
                        "technique `{}` is not in ATT&CK v{}",
                        id.escape_debug(),
                        attack::version()
                    );
                    self.warn(*place, message, help.filter(|_| !attack::is_technique_id(id)));
                    if !attack::is_technique_id(id) {
                        continue;
                    }
                    Technique {
                        id: id.as_str().into(),
                        name: Box::default(),
                        tactics: Box::default(),
                    }
                }
            };
            if !techniques.iter().any(|known| known.id == technique.id) {
                techniques.push(technique);
            }
        }
        techniques
    }

    fn output(&mut self, definition: &Definition) -> Option<Output> {
        let text = &definition.output;
        let mut parts = Vec::new();
        let mut literal = String::new();
        // A star in front asks to print even if a field is missing, which is always done.
        let mut at = usize::from(text.as_str().starts_with('*'));
        let mut valid = true;
        while at < text.as_str().len() {
            let rest = &text.as_str()[at..];
            let Some(after) = rest.strip_prefix('%') else {
                let length = rest.find('%').unwrap_or(rest.len());
                literal.push_str(&rest[..length]);
                at += length;
                continue;
            };
            if after.starts_with('%') {
                literal.push('%');
                at += 2;
                continue;
            }
            let Some((operand, length)) = syntax::parse_operand(after) else {
                literal.push('%');
                at += 1;
                continue;
            };
            let (part, used) = self.output_field(text, at + 1, &operand, length);
            match part {
                Some(part) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal).into()));
                    }
                    parts.push(part);
                }
                None => valid = false,
            }
            at += 1 + used;
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        valid.then_some(Output { parts })
    }

    /// A field in an output and how much of the text it takes: `%fd.name.bak` is `fd.name` and `.bak`.
    fn output_field(
        &mut self,
        text: &Text,
        at: usize,
        operand: &syntax::Operand,
        length: usize,
    ) -> (Option<Part>, usize) {
        let mut written = operand.clone();
        let mut used = length;
        loop {
            match resolve_output(&written) {
                Ok(found) => return (Some(Part::Field(found)), used),
                Err(error) => {
                    if let syntax::Operand::Field(field) = &mut written
                        && field.argument.is_none()
                        && let Some((shorter, cut)) = field.name.rsplit_once('.')
                        && shorter.contains('.')
                    {
                        used -= cut.len() + 1;
                        field.name = shorter.to_owned();
                        continue;
                    }
                    let error = resolve_output(operand).err().unwrap_or(error);
                    return match error {
                        FieldError::Mistake { message, help } => {
                            self.error(text.place(at), format!("{message} in the output"), help);
                            (None, length)
                        }
                        FieldError::Unsupplied(reason) => {
                            self.warn(text.place(at), format!("{reason}: the output shows <NA>"), None);
                            (Some(Part::Missing), length)
                        }
                    };
                }
            }
        }
    }

    /// `throttle: 60s`, or `throttle: {limit: 3, every: 60s, by: [proc.exepath]}`.
    fn throttle(&mut self, definition: &Definition) -> Option<Throttle> {
        let node = definition.throttle.as_ref().filter(|node| !node.is_null())?;
        let usage = || Some("write a duration such as 60s, or {limit: 3, every: 60s, by: [proc.exepath]}".to_owned());
        match &node.value {
            yaml::Value::Scalar { text, .. } => match duration_ms(text) {
                Some(every_ms) => Some(Throttle {
                    limit: 1,
                    every_ms,
                    by: Box::default(),
                }),
                None => {
                    self.error(
                        node.place,
                        format!("`{}` is not a duration", text.escape_debug()),
                        usage(),
                    );
                    None
                }
            },
            yaml::Value::Sequence(_) => {
                self.error(
                    node.place,
                    "`throttle` is a duration or a mapping; found a list".to_owned(),
                    usage(),
                );
                None
            }
            yaml::Value::Mapping(entries) => {
                let mut throttle = Throttle {
                    limit: 1,
                    every_ms: 0,
                    by: Box::default(),
                };
                for (key, value) in entries {
                    match (key.scalar().unwrap_or_default(), &value.value) {
                        ("limit", yaml::Value::Scalar { text, .. })
                            if text.parse::<u32>().is_ok_and(|limit| limit > 0) =>
                        {
                            throttle.limit = text.parse().unwrap_or(1);
                        }
                        ("every", yaml::Value::Scalar { text, .. }) if duration_ms(text).is_some() => {
                            throttle.every_ms = duration_ms(text).unwrap_or(0);
                        }
                        ("by", yaml::Value::Sequence(fields)) => {
                            let mut by = Vec::new();
                            for field in fields {
                                match FieldRef::parse(field.scalar().unwrap_or_default()) {
                                    Ok(field) => by.push(field),
                                    Err(FieldError::Mistake { message, help }) => {
                                        self.error(field.place, format!("{message} in `throttle`"), help);
                                        return None;
                                    }
                                    Err(FieldError::Unsupplied(reason)) => {
                                        self.warn(
                                            field.place,
                                            format!("{reason}: `throttle` does not count by it"),
                                            None,
                                        );
                                    }
                                }
                            }
                            throttle.by = by.into();
                        }
                        ("limit" | "every" | "by", _) => {
                            let key = key.scalar().unwrap_or_default().to_owned();
                            self.error(value.place, format!("`{key}` of `throttle` cannot be read"), usage());
                            return None;
                        }
                        (other, _) => {
                            let help = did_you_mean(other, ["limit", "every", "by"]);
                            self.error(
                                key.place,
                                format!("unknown key `{}` of `throttle`", other.escape_debug()),
                                help,
                            );
                            return None;
                        }
                    }
                }
                if throttle.every_ms == 0 {
                    self.error(node.place, "`throttle` has no `every`".to_owned(), usage());
                    return None;
                }
                Some(throttle)
            }
        }
    }

    fn examples(&mut self, definition: &Definition) -> Option<Examples> {
        let mut examples = Examples::default();
        let Some(node) = definition.examples.as_ref().filter(|node| !node.is_null()) else {
            return Some(examples);
        };
        let yaml::Value::Mapping(entries) = &node.value else {
            self.error(
                node.place,
                format!("`examples` has `match` and `miss`; found {}", node.kind()),
                None,
            );
            return None;
        };
        let mut valid = true;
        for (key, value) in entries {
            let target = match key.scalar() {
                Some("match") => &mut examples.matching,
                Some("miss") => &mut examples.missing,
                other => {
                    let other = other.unwrap_or_default();
                    let help = did_you_mean(other, ["match", "miss"]);
                    self.error(
                        key.place,
                        format!("unknown key `{}` of `examples`", other.escape_debug()),
                        help,
                    );
                    valid = false;
                    continue;
                }
            };
            let yaml::Value::Sequence(items) = &value.value else {
                if !value.is_null() {
                    self.error(
                        value.place,
                        format!("examples are a list of events; found {}", value.kind()),
                        None,
                    );
                    valid = false;
                }
                continue;
            };
            let several = definition.sequence.is_some() || definition.threshold.is_some();
            for item in items {
                match example::read_acts(item, several) {
                    Ok(acts) => {
                        let (line, _) = self.files.line_and_column(item.place);
                        let source = self.files.source(item.place.file).name.into();
                        target.push(Example { acts, source, line });
                    }
                    Err(mistakes) => {
                        for example::Mistake { place, message, help } in mistakes {
                            let diagnostic = self.files.diagnostic(place, message, help);
                            self.checker.errors.push(diagnostic);
                        }
                        valid = false;
                    }
                }
            }
        }
        valid.then_some(examples)
    }

    fn unused_macros(&mut self, pack: &pack::Pack) {
        let unused: Vec<(String, Place)> = self
            .checker
            .unused_macros()
            .map(|(name, place)| (name.to_owned(), place))
            .collect();
        debug_assert!(unused.len() <= pack.macros.len());
        for (name, place) in unused {
            self.warn(place, format!("macro `{name}` is not used"), None);
        }
    }

    fn finish(mut self, sources: &[Source<'_>]) -> Result<Loaded, Diagnostics> {
        let order = |diagnostics: &mut Vec<Diagnostic>| {
            let number: HashMap<&str, usize> = sources
                .iter()
                .enumerate()
                .map(|(at, source)| (source.name, at))
                .collect();
            diagnostics.sort_by_key(|found| (number.get(&*found.file).copied(), found.line, found.column));
            diagnostics.dedup();
        };
        if self.checker.errors.is_empty() {
            self.settle();
        }
        let drafts = std::mem::take(&mut self.drafts);
        let mut conditions = Vec::with_capacity(drafts.len());
        let never = self.checker.graph.constant(false);
        let mut rules = Vec::with_capacity(drafts.len());
        let mut correlations = Vec::new();
        for Draft { rule, correlation, .. } in drafts {
            conditions.push(if correlation.is_some() { never } else { rule.node });
            rules.push(rule);
            correlations.push(correlation);
        }
        let (correlations, listeners) = correlated::link(correlations, &mut conditions);
        let Checker {
            mut graph,
            mut errors,
            mut warnings,
            ..
        } = self.checker;
        if !errors.is_empty() {
            order(&mut errors);
            return Err(Diagnostics(errors));
        }
        order(&mut warnings);
        let program = Program::new(&mut graph, &conditions);
        let kinds = rules
            .iter()
            .fold(KindSet::EMPTY, |sum: KindSet, rule: &Rule| sum.union(rule.kinds));
        let mut hasher = Sha256::new();
        for source in sources {
            hasher.update(source.text.as_bytes());
        }
        let mut digest = "sha256:".to_owned();
        for byte in hasher.finalize() {
            digest.push_str(&format!("{byte:02x}"));
        }
        let ruleset = Ruleset {
            rules,
            digest,
            kinds,
            program,
            graph,
            correlations,
            listeners,
        };
        Ok(Loaded {
            ruleset,
            warnings,
            inactive: self.inactive,
        })
    }
}

/// A field or transformer of an output.
fn resolve_output(operand: &syntax::Operand) -> Result<Operand, FieldError> {
    match operand {
        syntax::Operand::Field(field) => Ok(Operand::plain(FieldRef::resolve(
            &field.name,
            field.argument.as_deref(),
        )?)),
        syntax::Operand::Transformed {
            transformer,
            arguments,
            index,
            ..
        } => {
            let transform = match transformer {
                Transformer::ToLower => Transform::ToLower,
                Transformer::ToUpper => Transform::ToUpper,
                Transformer::Base64 => Transform::Base64,
                Transformer::Basename => Transform::Basename,
                Transformer::Length => Transform::Length,
                Transformer::Join | Transformer::Concat | Transformer::Getopt => {
                    return Err(FieldError::Unsupplied(format!(
                        "transformer `{transformer}(` is not supported by this version"
                    )));
                }
            };
            let ([syntax::Argument::Operand(inner)], None) = (arguments.as_slice(), index) else {
                let message = format!("transformer `{transformer}(` takes one field");
                return Err(FieldError::Mistake { message, help: None });
            };
            let inner = resolve_output(inner)?;
            let mut transforms = inner.transforms.into_vec();
            transforms.push(transform);
            Ok(Operand {
                field: inner.field,
                transforms: transforms.into(),
            })
        }
    }
}

/// A name as an id: lower case, with dashes.
fn slug(name: &str) -> String {
    let mut slug = String::with_capacity(name.len());
    for character in name.chars() {
        if character.is_ascii_alphanumeric() {
            slug.push(character.to_ascii_lowercase());
        } else if !slug.ends_with('-') && !slug.is_empty() {
            slug.push('-');
        }
    }
    slug.truncate(slug.trim_end_matches('-').len());
    if slug.is_empty() { "rule".to_owned() } else { slug }
}

/// `500ms`, `60s`, `5m`, `2h` or `1d`.
pub(crate) fn duration_ms(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(factor).filter(|milliseconds| *milliseconds > 0)
}
