//! `sequence` and `threshold`: read, and bound to the rules that they name.

use std::collections::HashMap;

use super::{Inactive, Inactivity, Loader, Severity, duration_ms};
use crate::check::Checked;
use crate::correlate::{
    COUNT_MAX, Correlation, DISTINCT_MAX, Distinct, GENERATIONS_MAX, Join, Pattern, STEPS_MAX, shown,
};
use crate::diagnostic::did_you_mean;
use crate::event::Subject;
use crate::field::{FieldError, FieldRef};
use crate::ir::NodeId;
use crate::pack::Definition;
use crate::source::Place;
use crate::yaml::{Node, Value};

/// Most steps of a sequence: what is remembered grows with their square.
const SEQUENCE_MAX: usize = 16;
/// Rules over rules over rules: deeper than this is a mistake.
const RANK_MAX: usize = 16;

const SEQUENCE_HELP: &str =
    "write for instance {steps: [\"evt.type = execve\", {rule: some/id}], within: 60s, by: lineage}";
const THRESHOLD_HELP: &str = "write for instance {count: 10, within: 60s, by: process}";

/// A rule over several events, before the rules that it names are known.
pub(crate) struct CorrelationDraft {
    /// For people.
    pub(crate) written: String,
    pub(crate) pattern: Pattern,
    pub(crate) within_ns: u64,
    pub(crate) by: Vec<Join>,
    pub(crate) steps: Vec<StepDraft>,
    /// How many levels of rules over several events are below it.
    pub(crate) rank: usize,
}

/// What is counted.
#[derive(Clone)]
pub(crate) enum StepDraft {
    /// Events of which a condition holds.
    Condition(NodeId),
    /// Matches of a rule, by its id or name.
    Rule(String, Place),
    /// Matches of all rules over one event that have one of the tags, and one of the severities.
    Selected(Vec<String>, Vec<Severity>),
    /// Matches of a rule, by its number.
    Found(usize),
}

impl CorrelationDraft {
    /// Whether its steps are matches of other rules, one of them at least.
    pub(crate) fn counts_rules(&self) -> bool {
        self.steps.iter().any(|step| !matches!(step, StepDraft::Condition(_)))
    }
}

impl Loader<'_, '_> {
    /// Tells a mistake; there is nothing then.
    fn mistake<T>(&mut self, place: Place, message: impl Into<String>, help: &str) -> Option<T> {
        self.error(place, message.into(), Some(help.to_owned()));
        None
    }

    /// `sequence: {steps: […], within: 60s, by: lineage, ordered: true}`.
    pub(super) fn sequence(&mut self, definition: &Definition, node: &Node) -> Option<(Checked, CorrelationDraft)> {
        if definition.condition.is_some() || !definition.exceptions.is_empty() {
            let help = "put it into the conditions of the steps";
            let message = format!(
                "rule `{}` has a `sequence`, so it has neither `condition` nor `exceptions`",
                definition.name
            );
            return self.mistake(node.place, message, help);
        }
        let entries = self.entries(node, "sequence", &["steps", "within", "by", "ordered"], SEQUENCE_HELP)?;
        let mut ordered = true;
        let mut steps = None;
        for (key, value) in entries {
            match key.scalar() {
                Some("ordered") => match value.scalar().and_then(crate::check::flag) {
                    Some(flag) => ordered = flag,
                    None => return self.mistake(value.place, "`ordered` is true or false", SEQUENCE_HELP),
                },
                Some("steps") => steps = Some(value),
                Some(_) | None => {}
            }
        }
        let Some(steps) = steps else {
            return self.mistake(node.place, "`sequence` has no `steps`", SEQUENCE_HELP);
        };
        let items = match &steps.value {
            Value::Sequence(items) if (2..=SEQUENCE_MAX).contains(&items.len()) => items,
            Value::Sequence(_) | Value::Scalar { .. } | Value::Mapping(_) => {
                let message = format!("`steps` is a list of 2 to {SEQUENCE_MAX} conditions or rules");
                return self.mistake(steps.place, message, SEQUENCE_HELP);
            }
        };
        let (within_ns, by) = self.common(node, entries, "sequence", SEQUENCE_HELP)?;
        if by.contains(&Join::Descent) && !ordered {
            let message = "`by: descent` needs ordered steps: later ones are of what comes of the first";
            return self.mistake(node.place, message, "use `by: lineage`");
        }
        let mut checked = Checked {
            node: self.checker.graph.constant(false),
            obstacles: Vec::new(),
            unrecorded: std::collections::BTreeSet::new(),
        };
        let mut read = Vec::with_capacity(items.len());
        let mut written = Vec::with_capacity(items.len());
        let mut valid = true;
        for item in items {
            // All steps are read, so that every mistake is told.
            match self.step(item, &mut checked) {
                Some((step, text)) => {
                    read.push(step);
                    written.push(text);
                }
                None => valid = false,
            }
        }
        if !valid {
            return None;
        }
        let (pattern, word) = match ordered {
            true => (Pattern::Ordered, "then"),
            false => (Pattern::Unordered, "and"),
        };
        let written = format!(
            "{}\nwithin {} by {}",
            written.join(&format!("\n{word} ")),
            shown_duration(within_ns),
            shown_join(&by)
        );
        let draft = CorrelationDraft {
            written,
            pattern,
            within_ns,
            by,
            steps: read,
            rank: 0,
        };
        Some((checked, draft))
    }

    fn step(&mut self, item: &Node, checked: &mut Checked) -> Option<(StepDraft, String)> {
        let condition = match &item.value {
            Value::Scalar { .. } => item,
            Value::Mapping(entries) => match entries.as_slice() {
                [(key, value)] if key.scalar() == Some("condition") => value,
                [(key, value)] if key.scalar() == Some("rule") && value.scalar().is_some() => {
                    let name = value.scalar().unwrap_or_default();
                    let step = StepDraft::Rule(name.to_owned(), value.place);
                    return Some((step, format!("rule {name}")));
                }
                _ => return self.mistake(item.place, "a step is a condition, or `{rule: id}`", SEQUENCE_HELP),
            },
            Value::Sequence(_) => return self.mistake(item.place, "a step is not a list", SEQUENCE_HELP),
        };
        let text = condition.placed(self.files);
        if text.as_str().trim().is_empty() {
            return self.mistake(condition.place, "a step has no condition", SEQUENCE_HELP);
        }
        let step = self.checker.condition(&text, usize::MAX)?;
        checked.node = self.checker.graph.or(vec![checked.node, step.node]);
        checked.obstacles.extend(step.obstacles);
        checked.unrecorded.extend(step.unrecorded);
        Some((
            StepDraft::Condition(step.node),
            text.as_str().split_whitespace().collect::<Vec<_>>().join(" "),
        ))
    }

    /// `threshold: {count: 10, within: 60s, by: process}`, of the rule's condition or of other rules.
    pub(super) fn threshold(
        &mut self,
        definition: &Definition,
        node: &Node,
        condition: Option<Checked>,
    ) -> Option<(Checked, CorrelationDraft)> {
        const KEYS: &[&str] = &["rules", "tags", "severity", "count", "distinct", "within", "by"];
        let entries = self.entries(node, "threshold", KEYS, THRESHOLD_HELP)?;
        let (mut rules, mut tags) = (None, Vec::new());
        let mut severities: Vec<Severity> = Vec::new();
        let (mut count, mut distinct) = (None, None);
        for (key, value) in entries {
            match key.scalar() {
                Some("rules") => rules = Some(self.placed_names(value, "rules")?),
                Some("tags") => tags = self.names(value, "tags")?,
                Some("severity") => {
                    for (name, place) in self.placed_names(value, "severity")? {
                        match name.parse() {
                            Ok(severity) => severities.push(severity),
                            Err(_) => {
                                let help = "use informational, low, medium, high or critical";
                                return self.mistake(place, format!("unknown severity `{name}`"), help);
                            }
                        }
                    }
                }
                Some("count") => match value.scalar().and_then(|text| text.parse::<u64>().ok()) {
                    Some(number @ 1..=COUNT_MAX) => count = Some((number, value.place)),
                    Some(_) | None => {
                        let message = format!("`count` of `threshold` is a number from 1 to {COUNT_MAX}");
                        return self.mistake(value.place, message, THRESHOLD_HELP);
                    }
                },
                Some("distinct") => distinct = Some(self.distinct(value)?),
                Some(_) | None => {}
            }
        }
        let Some((at_least, place)) = count else {
            return self.mistake(node.place, "`threshold` has no `count`", THRESHOLD_HELP);
        };
        if distinct.is_some() && at_least > DISTINCT_MAX {
            let message = format!("`count` of distinct values is at most {DISTINCT_MAX}");
            return self.mistake(place, message, THRESHOLD_HELP);
        }
        let selects = !tags.is_empty() || !severities.is_empty();
        let (within_ns, by) = self.common(node, entries, "threshold", THRESHOLD_HELP)?;
        if by.contains(&Join::Descent) {
            return self.mistake(node.place, "`by: descent` is for ordered steps", "use `by: lineage`");
        }
        let mut steps: Vec<StepDraft> = Vec::new();
        let what = match (condition.as_ref(), &rules, selects) {
            (Some(condition), None, false) => {
                if distinct == Some(Distinct::Step) {
                    let message = "`distinct: rule` counts different rules, and this rule counts its own condition";
                    return self.mistake(node.place, message, "name the fields whose values must differ");
                }
                steps.push(StepDraft::Condition(condition.node));
                let condition = definition.condition.as_ref().map_or("", |text| text.as_str());
                condition.split_whitespace().collect::<Vec<_>>().join(" ")
            }
            (None, Some(rules), false) => {
                let named = rules.iter().map(|(name, place)| StepDraft::Rule(name.clone(), *place));
                steps.extend(named);
                let names: Vec<&str> = rules.iter().map(|(name, _)| name.as_str()).collect();
                format!("matches of {}", names.join(", "))
            }
            (None, None, true) => {
                let mut what = "matches of rules".to_owned();
                if !tags.is_empty() {
                    what += &format!(" tagged {}", tags.join(" or "));
                }
                if !severities.is_empty() {
                    let names: Vec<&str> = severities.iter().map(|severity| severity.name()).collect();
                    what += &format!(" of severity {}", names.join(" or "));
                }
                steps.push(StepDraft::Selected(tags, severities));
                what
            }
            _ => {
                let message = format!(
                    "rule `{}` counts either its own `condition`, or `rules`, or rules by `tags` and `severity`",
                    definition.name
                );
                return self.mistake(node.place, message, THRESHOLD_HELP);
            }
        };
        let many = match &distinct {
            None => format!("{at_least} times"),
            Some(Distinct::Step) => format!("{at_least} different rules"),
            Some(Distinct::Fields(fields)) => {
                let fields: Vec<String> = fields.iter().map(|fields| shown(fields)).collect();
                format!("{at_least} different {}", fields.join(", "))
            }
        };
        let written = format!(
            "{what}\n{many} within {} by {}",
            shown_duration(within_ns),
            shown_join(&by)
        );
        let pattern = match distinct {
            None => Pattern::Count { at_least },
            Some(of) => Pattern::Distinct { of, at_least },
        };
        let checked = condition.unwrap_or_else(|| Checked {
            node: self.checker.graph.constant(false),
            obstacles: Vec::new(),
            unrecorded: std::collections::BTreeSet::new(),
        });
        let draft = CorrelationDraft {
            written,
            pattern,
            within_ns,
            by,
            steps,
            rank: 0,
        };
        Some((checked, draft))
    }

    fn distinct(&mut self, node: &Node) -> Option<Distinct> {
        let names = self.placed_names(node, "distinct")?;
        if matches!(names.as_slice(), [(name, _)] if name == "rule") {
            return Some(Distinct::Step);
        }
        let mut fields = Vec::with_capacity(names.len());
        for (name, place) in names {
            let field: Box<[FieldRef]> = Box::new([self.joined_field(&name, place, "distinct")?]);
            fields.push(field);
        }
        Some(Distinct::Fields(fields.into()))
    }

    fn entries<'n>(&mut self, node: &'n Node, what: &str, known: &[&str], help: &str) -> Option<&'n [(Node, Node)]> {
        let Value::Mapping(entries) = &node.value else {
            let message = format!("`{what}` is a mapping; found {}", node.kind());
            return self.mistake(node.place, message, help);
        };
        for (key, _) in entries {
            let name = key.scalar().unwrap_or_default();
            if !known.contains(&name) {
                let message = format!("unknown key `{}` of `{what}`", name.escape_debug());
                let help = did_you_mean(name, known.iter().copied());
                self.error(key.place, message, help);
                return None;
            }
        }
        Some(entries)
    }

    /// What sequences and thresholds have in common: `within` and `by`.
    fn common(&mut self, node: &Node, entries: &[(Node, Node)], what: &str, help: &str) -> Option<(u64, Vec<Join>)> {
        let (mut within, mut by) = (None, None);
        for (key, value) in entries {
            match key.scalar() {
                Some("within") => match value.scalar().and_then(duration_ms) {
                    Some(milliseconds) => within = Some(milliseconds.saturating_mul(1_000_000)),
                    None => return self.mistake(value.place, "`within` is a duration such as 60s", help),
                },
                Some("by") => by = Some(self.joins(value)?),
                Some(_) | None => {}
            }
        }
        let Some(within) = within else {
            return self.mistake(node.place, format!("`{what}` has no `within`"), help);
        };
        let Some(by) = by else {
            return self.mistake(node.place, format!("`{what}` has no `by`"), help);
        };
        Some((within, by))
    }

    fn joins(&mut self, node: &Node) -> Option<Vec<Join>> {
        let names = self.placed_names(node, "by")?;
        let mut joins = Vec::with_capacity(names.len());
        for (name, place) in names {
            let join = match name.as_str() {
                "host" => continue,
                "process" => Join::Subject(Subject::Process),
                "lineage" => Join::Subject(Subject::Lineage),
                "descent" => Join::Descent,
                "file" => Join::Subject(Subject::File),
                "container" => Join::Subject(Subject::Container),
                "run" => Join::Subject(Subject::Run),
                "user" => Join::Subject(Subject::User),
                _ => match name.strip_prefix("lineage[").and_then(|rest| rest.strip_suffix(']')) {
                    Some(generations) => match generations.parse() {
                        Ok(generations @ 1..=GENERATIONS_MAX) => Join::Generations(generations),
                        Ok(_) | Err(_) => {
                            let message = format!("`{name}` goes up 1 to {GENERATIONS_MAX} generations");
                            return self.mistake(place, message, "use `lineage` to go up to the session");
                        }
                    },
                    None => Join::Fields(Box::new([self.joined_field(&name, place, "by")?])),
                },
            };
            joins.push(join);
        }
        let processes = |join: &&Join| matches!(join, Join::Generations(_) | Join::Descent);
        if joins.iter().filter(processes).count() > 1 {
            return self.mistake(node.place, "`by` names more than one kind of lineage", "keep one");
        }
        Some(joins)
    }

    fn joined_field(&mut self, name: &str, place: Place, key: &str) -> Option<FieldRef> {
        match FieldRef::parse(name) {
            Ok(field) => Some(field),
            Err(FieldError::Mistake { message, help }) => {
                let words = [
                    "process",
                    "lineage",
                    "descent",
                    "file",
                    "container",
                    "run",
                    "user",
                    "host",
                ];
                let help = help.or_else(|| did_you_mean(name, words));
                self.error(place, format!("{message} in `{key}`"), help);
                None
            }
            Err(FieldError::Unsupplied(reason)) => {
                self.error(place, format!("{reason}, so `{key}` cannot use it"), None);
                None
            }
        }
    }

    /// One name, or a list of names.
    fn placed_names(&mut self, node: &Node, key: &str) -> Option<Vec<(String, Place)>> {
        let items = match &node.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(node),
        };
        let mut names = Vec::with_capacity(items.len());
        for item in items {
            match item.scalar().filter(|name| !name.is_empty()) {
                Some(name) => names.push((name.to_owned(), item.place)),
                None => {
                    let message = format!("`{key}` is a name or a list of names; found {}", item.kind());
                    self.error(item.place, message, None);
                    return None;
                }
            }
        }
        if names.is_empty() || names.len() > STEPS_MAX {
            self.error(node.place, format!("`{key}` has 1 to {STEPS_MAX} names"), None);
            return None;
        }
        Some(names)
    }

    fn names(&mut self, node: &Node, key: &str) -> Option<Vec<String>> {
        Some(
            self.placed_names(node, key)?
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
        )
    }

    /// Binds rules over several events to the rules that they count matches of. Those that count matches of a rule that does
    /// not run do not run either.
    pub(super) fn settle(&mut self) {
        while let Some((at, place, reason)) = self.unsettled() {
            let draft = self.drafts.remove(at);
            let (line, column) = self.files.line_and_column(place);
            self.inactive.push(Inactive {
                rule: draft.rule.name,
                file: self.files.source(place.file).name.into(),
                line,
                column,
                why: Inactivity::Rule,
                reason,
            });
        }
        if !self.checker.errors.is_empty() {
            return;
        }
        let numbers = self.numbers();
        let selected: Vec<Vec<StepDraft>> = self
            .drafts
            .iter()
            .map(|draft| match &draft.correlation {
                Some(correlation) => correlation
                    .steps
                    .iter()
                    .flat_map(|step| self.found(step, &numbers))
                    .collect(),
                None => Vec::new(),
            })
            .collect();
        for (draft, steps) in self.drafts.iter_mut().zip(selected) {
            if let Some(correlation) = &mut draft.correlation {
                correlation.steps = steps;
            }
        }
        self.rank();
    }

    /// Numbers of rules by id and by name.
    fn numbers(&self) -> HashMap<String, usize> {
        let mut numbers = HashMap::new();
        for (at, draft) in (0..).zip(&self.drafts) {
            numbers.insert(draft.rule.id.to_string(), at);
            numbers.entry(draft.rule.name.to_string()).or_insert(at);
            if let Some(alias) = &draft.alias {
                numbers.entry(alias.clone()).or_insert(at);
            }
        }
        numbers
    }

    fn found(&self, step: &StepDraft, numbers: &HashMap<String, usize>) -> Vec<StepDraft> {
        match step {
            StepDraft::Condition(_) | StepDraft::Found(_) => vec![step.clone()],
            StepDraft::Rule(name, _) => numbers.get(name).map(|at| StepDraft::Found(*at)).into_iter().collect(),
            StepDraft::Selected(tags, severities) => (0..)
                .zip(&self.drafts)
                .filter(|(_, draft)| {
                    let rule = &draft.rule;
                    let tagged = tags.is_empty() || rule.tags.iter().any(|tag| tags.iter().any(|own| **own == **tag));
                    let severe = severities.is_empty() || severities.contains(&rule.severity);
                    draft.correlation.is_none() && !rule.is_silent && tagged && severe
                })
                .map(|(at, _)| StepDraft::Found(at))
                .take(STEPS_MAX)
                .collect(),
        }
    }

    /// A rule that counts matches of one that does not run, with the reason; rules that do not exist are mistakes.
    fn unsettled(&mut self) -> Option<(usize, Place, String)> {
        let numbers = self.numbers();
        let mut unknown = Vec::new();
        let mut found = None;
        for (at, draft) in (0..).zip(&self.drafts) {
            let Some(correlation) = &draft.correlation else {
                continue;
            };
            for step in &correlation.steps {
                match step {
                    StepDraft::Rule(name, place) if !numbers.contains_key(name) => {
                        let inactive = self.inactive.iter().find(|inactive| *inactive.rule == **name);
                        if inactive.is_some() || self.ids.contains_key(name) || self.aliases.contains(name) {
                            let reason = format!("rule `{name}`, whose matches it counts, does not run");
                            found = found.or(Some((at, *place, reason)));
                        } else {
                            let help = did_you_mean(name, numbers.keys().map(String::as_str));
                            unknown.push((*place, format!("there is no rule `{}`", name.escape_debug()), help));
                        }
                    }
                    StepDraft::Selected(..) if self.found(step, &numbers).is_empty() => {
                        let reason = "no rule that runs has these tags and severities".to_owned();
                        found = found.or(Some((at, draft.place, reason)));
                    }
                    StepDraft::Condition(_) | StepDraft::Rule(..) | StepDraft::Selected(..) | StepDraft::Found(_) => {}
                }
            }
        }
        if unknown.is_empty() {
            return found;
        }
        for (place, message, help) in unknown {
            self.error(place, message, help);
        }
        None
    }

    /// Puts rules over rules in order, and says of each which events it counts.
    fn rank(&mut self) {
        let mut changed = true;
        let mut rounds = 0;
        while changed {
            changed = false;
            rounds += 1;
            for at in 0..self.drafts.len() {
                let Some(correlation) = &self.drafts[at].correlation else {
                    continue;
                };
                let below = correlation.steps.iter().filter_map(|step| match step {
                    StepDraft::Found(below) => self.drafts[*below].correlation.as_ref(),
                    StepDraft::Condition(_) | StepDraft::Rule(..) | StepDraft::Selected(..) => None,
                });
                let rank = below.map(|below| below.rank + 1).max().unwrap_or(0);
                changed |= rank != correlation.rank;
                if let Some(correlation) = &mut self.drafts[at].correlation {
                    correlation.rank = rank;
                }
            }
            if rounds > RANK_MAX {
                let deep = self.drafts.iter().find(|draft| {
                    let rank = draft.correlation.as_ref().map(|correlation| correlation.rank);
                    rank.is_some_and(|rank| rank >= RANK_MAX)
                });
                let Some(place) = deep.map(|draft| draft.place) else {
                    return;
                };
                let message = "rule counts matches of rules that count its own, or over too many levels".to_owned();
                return self.error(place, message, Some("count matches of rules over one event".to_owned()));
            }
        }
        let mut order: Vec<(usize, usize)> = (0..)
            .zip(&self.drafts)
            .filter_map(|(at, draft)| Some((draft.correlation.as_ref()?.rank, at)))
            .collect();
        order.sort_unstable();
        for (_, at) in order {
            self.join_nodes(at);
        }
    }

    /// The node of a rule over several events: the events that it counts.
    fn join_nodes(&mut self, at: usize) {
        let Some(correlation) = &self.drafts[at].correlation else {
            return;
        };
        let mut nodes = Vec::with_capacity(correlation.steps.len());
        let mut late = false;
        for step in &correlation.steps {
            match step {
                StepDraft::Condition(node) => nodes.push(*node),
                StepDraft::Found(below) => {
                    let below = &self.drafts[*below];
                    nodes.push(below.rule.node);
                    late |= below
                        .correlation
                        .as_ref()
                        .is_some_and(|below| matches!(below.pattern, Pattern::Window { .. }));
                }
                StepDraft::Rule(..) | StepDraft::Selected(..) => {}
            }
        }
        let node = self.checker.graph.or(nodes);
        let kinds = self.checker.graph.reach(node).when_true;
        let draft = &mut self.drafts[at];
        draft.rule.node = node;
        draft.rule.kinds = kinds;
        if late {
            let place = draft.place;
            let message =
                "rule counts matches of one that is judged when its time has passed, with no event".to_owned();
            self.error(place, message, Some("count `gte` or `gt` in that one".to_owned()));
        }
    }
}

/// Rules over several events in an order in which each comes after those it counts matches of, and, for each condition,
/// who counts it. Conditions of steps are added to `conditions`, which has those of the rules.
pub(super) fn link(
    drafts: Vec<Option<CorrelationDraft>>,
    conditions: &mut Vec<NodeId>,
) -> (Vec<Correlation>, Vec<Vec<(usize, usize)>>) {
    let mut ordered: Vec<(usize, CorrelationDraft)> = (0..)
        .zip(drafts)
        .filter_map(|(rule, draft)| Some((rule, draft?)))
        .collect();
    ordered.sort_by_key(|(rule, draft)| (draft.rank, *rule));
    let mut listeners: Vec<Vec<(usize, usize)>> = vec![Vec::new(); conditions.len()];
    let mut own: HashMap<NodeId, usize> = HashMap::new();
    let mut correlations = Vec::with_capacity(ordered.len());
    for (number, (rule, draft)) in (0..).zip(ordered) {
        for (step, counted) in (0..).zip(&draft.steps) {
            let condition = match counted {
                StepDraft::Condition(node) => *own.entry(*node).or_insert_with(|| {
                    conditions.push(*node);
                    listeners.push(Vec::new());
                    conditions.len() - 1
                }),
                StepDraft::Found(rule) => *rule,
                // Found by now, or there are mistakes and nothing will be used.
                StepDraft::Rule(..) | StepDraft::Selected(..) => continue,
            };
            listeners[condition].push((number, step));
        }
        correlations.push(Correlation {
            rule,
            pattern: draft.pattern,
            within_ns: draft.within_ns,
            by: draft.by.into(),
            steps: draft.steps.len(),
        });
    }
    (correlations, listeners)
}

pub(super) fn shown_duration(ns: u64) -> String {
    let ms = ns / 1_000_000;
    match ms {
        _ if ms.is_multiple_of(86_400_000) => format!("{} d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) => format!("{} h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}

pub(super) fn shown_join(by: &[Join]) -> String {
    match by {
        [] => "host".to_owned(),
        _ => by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
