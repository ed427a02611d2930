//! Rules, correlations and filters of Sigma, lowered into the graph of all rules.
//!
//! A rule that asks for what we do not supply is listed as inactive with the exact field, modifier or log source; what is
//! no Sigma is a mistake.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::correlated::{CorrelationDraft, StepDraft, shown_duration, shown_join};
use super::{Inactivity, Loader, duration_ms};
use crate::check::{self, Checked, Obstacle};
use crate::correlate::{Bound, COUNT_MAX, DISTINCT_MAX, Distinct, Join, Measure, Pattern as Counted, STEPS_MAX};
use crate::diagnostic::did_you_mean;
use crate::event::EventKind;
use crate::field::{Field, FieldRef, FieldType};
use crate::ir::{DatePart, FieldOrder, Network, NodeId, Operand, Order, Test, Transform};
use crate::pack::{Definition, get};
use crate::sigma::condition::{self, Expression, Mistake, Quantity};
use crate::sigma::field::{self, Category, KEYWORD_FIELDS, Mapped, NAMES};
use crate::sigma::value::{Change, Pattern, Shape};
use crate::source::{Place, Text};
use crate::yaml::{Node, Value};

/// A connection that is being made is no failure.
const EINPROGRESS: i64 = -115;
/// Most levels of lists and mappings in a search.
const DEPTH_MAX: usize = 16;

type Entries = [(Node, Node)];

/// A filter, and what it says it filters.
struct Filter<'d> {
    entries: &'d Entries,
    place: Place,
    title: &'d str,
    category: Option<Category>,
    /// Ids and names of rules; all without.
    rules: Option<Vec<String>>,
}

/// A rule while it is lowered.
struct Context {
    obstacles: Vec<Obstacle>,
    /// Whether it asks for names of servers: those are known from other events than connections.
    names_servers: bool,
}

/// What the modifiers of a field say.
#[derive(Default)]
struct Modifiers {
    changes: Vec<Change>,
    kind: Kind,
    part: Option<DatePart>,
    all: bool,
    cased: bool,
    neq: bool,
    expand: bool,
}

/// How values are taken.
#[derive(Default, Clone, PartialEq)]
enum Kind {
    #[default]
    Text,
    /// With flags such as `i`.
    Regex(String),
    Network,
    Exists,
    OtherField,
    Order(Order),
}

/// A field of Sigma, found.
#[derive(Clone)]
enum Target {
    Mapped(Mapped),
    Own(FieldRef),
}

impl Target {
    fn fields(&self) -> Vec<FieldRef> {
        match self {
            Self::Own(field) => vec![field.clone()],
            Self::Mapped(Mapped::Fields(fields)) => fields.iter().map(|field| FieldRef::plain(*field)).collect(),
            Self::Mapped(Mapped::Opposite(field)) => vec![FieldRef::plain(*field)],
            Self::Mapped(Mapped::IsIpv6) => vec![FieldRef::plain(Field::FdType)],
            Self::Mapped(Mapped::Time) => vec![FieldRef::plain(Field::EvtTime)],
        }
    }
}

impl Loader<'_, '_> {
    /// Takes in all documents of Sigma. Which rules are silent, and what filters say, is known only when all are seen.
    pub(super) fn sigma(&mut self, documents: &[Node]) {
        let mut filters = Vec::new();
        let mut silent = BTreeSet::new();
        for document in documents {
            let Value::Mapping(entries) = &document.value else {
                continue;
            };
            if get(entries, "filter").is_some() {
                filters.extend(self.sigma_filter(document.place, entries));
            }
            let correlation = get(entries, "correlation").and_then(mapping);
            if let Some(correlation) = correlation
                && !generates(entries, correlation)
                && let Some(rules) = get(correlation, "rules")
            {
                silent.extend(scalars(rules).into_iter().map(|(name, _)| name.to_owned()));
            }
        }
        for document in documents {
            let Value::Mapping(entries) = &document.value else {
                continue;
            };
            let Some(definition) = self.sigma_definition(document.place, entries) else {
                continue;
            };
            if get(entries, "correlation").is_some() {
                self.sigma_correlation(definition, entries, &silent);
            } else if get(entries, "detection").is_some() {
                self.sigma_rule(definition, entries, &filters, &silent);
            } else if get(entries, "filter").is_none() {
                let message = format!("rule `{}` has no `detection`", definition.name);
                self.error(document.place, message, None);
            }
        }
    }

    /// What rules and correlations have in common.
    fn sigma_definition(&mut self, place: Place, entries: &Entries) -> Option<Definition> {
        for (index, (key, _)) in entries.iter().enumerate() {
            let name = key.scalar().unwrap_or_default();
            if entries[..index].iter().any(|(before, _)| before.scalar() == Some(name)) {
                self.error(key.place, format!("key `{}` is given twice", name.escape_debug()), None);
                return None;
            }
        }
        let text = |key: &str| get(entries, key).and_then(Node::scalar);
        let Some(title) = text("title").map(str::trim).filter(|title| !title.is_empty()) else {
            self.error(place, "a rule of Sigma needs a `title`".to_owned(), None);
            return None;
        };
        let mut definition = Definition::new(title.to_owned(), place);
        let own = |node: &Node| node.scalar().map(|text| (text.to_owned(), node.place));
        definition.id = get(entries, "id").and_then(own);
        definition.severity = get(entries, "level")
            .and_then(own)
            .or_else(|| Some(("medium".to_owned(), place)));
        definition.description = text("description").unwrap_or_default().trim().to_owned();
        let look_alikes: Vec<&str> = get(entries, "falsepositives")
            .map(scalars)
            .unwrap_or_default()
            .into_iter()
            .map(|(text, _)| text)
            .filter(|text| !matches!(text.to_ascii_lowercase().as_str(), "unknown" | "none" | "unlikely"))
            .collect();
        if !look_alikes.is_empty() {
            definition.description += &format!(" Known look-alikes: {}.", look_alikes.join("; "));
        }
        definition.references = get(entries, "references")
            .map(scalars)
            .unwrap_or_default()
            .into_iter()
            .map(|(text, _)| text.to_owned())
            .collect();
        for (tag, place) in get(entries, "tags").map(scalars).unwrap_or_default() {
            definition.tags.push((tag.to_owned(), place));
            let technique = tag.strip_prefix("attack.").map(str::to_ascii_uppercase);
            if let Some(technique) = technique.filter(|id| crate::attack::is_technique_id(id)) {
                definition.attack.push((technique, place));
            }
        }
        if let Some(name) = text("name") {
            self.aliases.insert(name.to_owned());
        }
        Some(definition)
    }

    fn sigma_filter<'d>(&mut self, place: Place, entries: &'d Entries) -> Option<Filter<'d>> {
        let filter = get(entries, "filter").filter(|filter| mapping(filter).is_some());
        let Some(filter) = filter.and_then(mapping) else {
            self.error(
                place,
                "`filter` is a mapping with `rules`, searches and a `condition`".to_owned(),
                None,
            );
            return None;
        };
        let rules = get(filter, "rules").map(scalars).unwrap_or_default();
        let rules = match rules.as_slice() {
            [] => None,
            [(only, _)] if only.eq_ignore_ascii_case("any") => None,
            rules => Some(rules.iter().map(|(name, _)| (*name).to_owned()).collect()),
        };
        let source = get(entries, "logsource").and_then(mapping).unwrap_or_default();
        Some(Filter {
            entries: filter,
            place,
            title: get(entries, "title")
                .and_then(Node::scalar)
                .unwrap_or("without a title"),
            category: category(source).ok(),
            rules,
        })
    }

    fn sigma_rule(
        &mut self,
        mut definition: Definition,
        entries: &Entries,
        filters: &[Filter<'_>],
        silent: &BTreeSet<String>,
    ) {
        let source = get(entries, "logsource");
        let category = match category(source.and_then(mapping).unwrap_or_default()) {
            Ok(category) => category,
            Err(what) => {
                let place = source.map_or(definition.place, |source| source.place);
                let reason = format!("not applicable: log source {what} is not what a sensor in the kernel sees");
                self.id(&definition);
                return self.inactive(&definition, place, Inactivity::Source, reason);
            }
        };
        if let Some(status @ ("deprecated" | "unsupported")) = get(entries, "status").and_then(Node::scalar) {
            self.id(&definition);
            let reason = format!("its status is `{status}`");
            return self.inactive(&definition, definition.place, Inactivity::Disabled, reason);
        }
        let title = definition.name.replace('%', "%%");
        definition
            .output
            .push_str(&format!("{title}: {}", category.output()), definition.place);
        let parts = self.parts(&definition);
        let mut context = Context {
            obstacles: Vec::new(),
            names_servers: false,
        };
        let Some(detection) = get(entries, "detection").and_then(mapping) else {
            let place = get(entries, "detection").map_or(definition.place, |node| node.place);
            return self.error(
                place,
                "`detection` is a mapping of searches and a `condition`".to_owned(),
                None,
            );
        };
        let Some(mut node) = self.detection(&mut context, definition.place, detection) else {
            return;
        };
        let alias = get(entries, "name").and_then(Node::scalar);
        let names = |name: &str| {
            let id = definition.id.as_ref().map(|(id, _)| id.as_str());
            Some(name) == id || Some(name) == alias || name == definition.name
        };
        for filter in filters {
            let named = filter
                .rules
                .as_ref()
                .is_none_or(|rules| rules.iter().any(|rule| names(rule)));
            if !named || filter.category != Some(category) {
                continue;
            }
            let before = context.obstacles.len();
            let Some(filtered) = self.detection(&mut context, filter.place, filter.entries) else {
                return;
            };
            for obstacle in &mut context.obstacles[before..] {
                obstacle.reason = format!("filter `{}` cannot be applied: {}", filter.title, obstacle.reason);
            }
            let not = self.checker.graph.not(filtered);
            node = self.checker.graph.and(vec![node, not]);
        }
        let base = self.base(category, context.names_servers);
        let node = self.checker.graph.and(vec![base, node]);
        let checked = Checked {
            node,
            obstacles: context.obstacles,
            unrecorded: BTreeSet::new(),
        };
        let Some(parts) = parts else { return };
        let is_silent = [
            definition.id.as_ref().map(|(id, _)| id.as_str()),
            alias,
            Some(&*definition.name),
        ]
        .into_iter()
        .flatten()
        .any(|name| silent.contains(name));
        let written = self.written(entries, "detection");
        if let Some(draft) = self.admit(&definition, parts, &checked, None, written) {
            draft.rule.is_silent = is_silent;
            draft.alias = alias.map(str::to_owned);
        }
    }

    /// The text of a key as it stands in the file.
    fn written(&self, entries: &Entries, key: &str) -> String {
        let Some(at) = entries.iter().position(|(name, _)| name.scalar() == Some(key)) else {
            return String::new();
        };
        let value = &entries[at].1;
        let text = self.files.source(value.place.file).text;
        let from = value.place.offset as usize;
        let to = match entries.get(at + 1) {
            Some((next, _)) => next.place.offset as usize,
            None => text[from..].find("\n---").map_or(text.len(), |length| from + length),
        };
        // The indentation of the first line was cut off with its key.
        let line = text[..from].rfind('\n').map_or(0, |newline| newline + 1);
        let first = if text[line..from].trim().is_empty() { line } else { from };
        text.get(first..to).unwrap_or_default().trim_end().to_owned()
    }

    /// The events that a category is about.
    fn base(&mut self, category: Category, names_servers: bool) -> NodeId {
        let graph = &mut self.checker.graph;
        let types = |kinds: &[EventKind]| {
            let names: BTreeSet<Box<[u8]>> = kinds
                .iter()
                .flat_map(|kind| kind.event_types())
                .map(|name| name.as_bytes().into())
                .collect();
            Test::TextIn(names.into_iter().collect())
        };
        let plain = |field| Operand::plain(FieldRef::plain(field));
        let is = graph.test(&plain(Field::EvtType), types(category.kinds()));
        let succeeded = graph.test(&plain(Field::EvtRawres), Test::NumberOrder(Order::GreaterOrEqual, 0));
        match category {
            Category::Process => is,
            Category::File => {
                let written = graph.test(&plain(Field::EvtIsOpenWrite), Test::FlagIs(true));
                let made = graph.test(&plain(Field::EvtIsOpenCreate), Test::FlagIs(true));
                let renamed = graph.test(&plain(Field::EvtType), types(&category.kinds()[1..]));
                let how = graph.or(vec![written, made, renamed]);
                graph.and(vec![is, how, succeeded])
            }
            Category::Network => {
                let begun = graph.test(&plain(Field::EvtRawres), Test::NumberIn(Box::new([EINPROGRESS])));
                let opened = graph.or(vec![succeeded, begun]);
                let connected = graph.and(vec![is, opened]);
                if !names_servers {
                    return connected;
                }
                let sent = graph.test(&plain(Field::EvtType), types(&[EventKind::Send]));
                let told = [Field::TlsSni, Field::DnsQname].map(|field| graph.test(&plain(field), Test::Exists));
                let named = graph.or(told.to_vec());
                let asked = graph.and(vec![sent, named]);
                graph.or(vec![connected, asked])
            }
        }
    }

    /// Searches and their condition.
    fn detection(&mut self, context: &mut Context, place: Place, entries: &Entries) -> Option<NodeId> {
        let Some(conditions) = get(entries, "condition") else {
            self.error(place, "`detection` has no `condition`".to_owned(), None);
            return None;
        };
        let searches: Vec<(&str, &Node)> = entries
            .iter()
            .filter_map(|(key, value)| Some((key.scalar()?, value)))
            .filter(|(name, _)| !matches!(*name, "condition" | "timeframe" | "rules"))
            .collect();
        if let Some(timeframe) = get(entries, "timeframe") {
            context.obstacles.push(Obstacle {
                place: timeframe.place,
                reason: "`timeframe` belongs to conditions that count; those are correlations now".to_owned(),
            });
        }
        let conditions = match &conditions.value {
            Value::Sequence(items) => items.as_slice(),
            Value::Scalar { .. } | Value::Mapping(_) => std::slice::from_ref(conditions),
        };
        let mut lowered: HashMap<&str, Option<NodeId>> = HashMap::new();
        let mut either = Vec::with_capacity(conditions.len());
        for condition in conditions {
            let text = condition.placed(self.files);
            let expression = match condition::parse(text.as_str()) {
                Ok(expression) => expression,
                Err(Mistake::Syntax(at, message)) => {
                    self.error(text.place(at), message, None);
                    return None;
                }
                Err(Mistake::Aggregation(at)) => {
                    context.obstacles.push(Obstacle {
                        place: text.place(at),
                        reason: "conditions that count (`|`) are no longer part of Sigma; use a correlation".to_owned(),
                    });
                    return Some(self.checker.graph.constant(false));
                }
            };
            either.push(self.expression(context, &text, &expression, &searches, &mut lowered)?);
        }
        for (name, search) in &searches {
            if !lowered.contains_key(name) && !name.starts_with('_') {
                self.warn(search.place, format!("search identifier `{name}` is not used"), None);
            }
        }
        Some(self.checker.graph.or(either))
    }

    fn expression<'d>(
        &mut self,
        context: &mut Context,
        text: &Text,
        expression: &Expression,
        searches: &[(&'d str, &'d Node)],
        lowered: &mut HashMap<&'d str, Option<NodeId>>,
    ) -> Option<NodeId> {
        match expression {
            Expression::And(parts) | Expression::Or(parts) => {
                let mut nodes = Vec::with_capacity(parts.len());
                for part in parts {
                    nodes.push(self.expression(context, text, part, searches, lowered)?);
                }
                Some(match expression {
                    Expression::And(_) => self.checker.graph.and(nodes),
                    Expression::Or(_) | Expression::Not(_) | Expression::Search(..) | Expression::Of(..) => {
                        self.checker.graph.or(nodes)
                    }
                })
            }
            Expression::Not(of) => {
                let of = self.expression(context, text, of, searches, lowered)?;
                Some(self.checker.graph.not(of))
            }
            Expression::Search(name, span) => {
                let Some((name, search)) = searches.iter().find(|(known, _)| known == name) else {
                    let help = did_you_mean(name, searches.iter().map(|(known, _)| *known));
                    self.error(
                        text.place(span.start),
                        format!("unknown search identifier `{name}`"),
                        help,
                    );
                    return None;
                };
                self.named_search(context, name, search, lowered)
            }
            Expression::Of(quantity, pattern, span) => {
                let named: Vec<(&str, &Node)> = searches
                    .iter()
                    .filter(|(name, _)| match pattern {
                        Some(pattern) => condition::names(pattern, name),
                        None => !name.starts_with('_'),
                    })
                    .copied()
                    .collect();
                if named.is_empty() {
                    let pattern = pattern.as_deref().unwrap_or("them");
                    let message = format!("no search identifier is named like `{pattern}`");
                    self.error(text.place(span.start), message, None);
                    return None;
                }
                let mut nodes = Vec::with_capacity(named.len());
                for (name, search) in named {
                    nodes.push(self.named_search(context, name, search, lowered)?);
                }
                match quantity {
                    Quantity::All => Some(self.checker.graph.and(nodes)),
                    Quantity::AtLeast(1) => Some(self.checker.graph.or(nodes)),
                    Quantity::AtLeast(count) => self.at_least(*count, &nodes, text.place(span.start)),
                }
            }
        }
    }

    /// So many of these: one by one, whether the rest must have one less.
    fn at_least(&mut self, count: usize, nodes: &[NodeId], place: Place) -> Option<NodeId> {
        const OF_MAX: usize = 64;
        if count == 0 || nodes.len() > OF_MAX {
            let message = format!("a number before `of` is from 1 on, of at most {OF_MAX} search identifiers");
            self.error(place, message, None);
            return None;
        }
        // held[k]: at least k of the nodes so far hold.
        let mut held = vec![self.checker.graph.constant(true)];
        for node in nodes {
            let last = held.len().min(count);
            for k in (1..=last).rev() {
                let one_more = self.checker.graph.and(vec![held[k - 1], *node]);
                if k == held.len() {
                    held.push(one_more);
                } else {
                    held[k] = self.checker.graph.or(vec![held[k], one_more]);
                }
            }
        }
        Some(
            held.get(count)
                .copied()
                .unwrap_or_else(|| self.checker.graph.constant(false)),
        )
    }

    fn named_search<'d>(
        &mut self,
        context: &mut Context,
        name: &'d str,
        search: &Node,
        lowered: &mut HashMap<&'d str, Option<NodeId>>,
    ) -> Option<NodeId> {
        if let Some(known) = lowered.get(name) {
            return *known;
        }
        let node = self.search(context, search, 0);
        lowered.insert(name, node);
        node
    }

    /// A mapping of fields, a list of mappings or keywords, or one keyword.
    fn search(&mut self, context: &mut Context, node: &Node, depth: usize) -> Option<NodeId> {
        if depth > DEPTH_MAX {
            self.error(
                node.place,
                format!("search nests more than {DEPTH_MAX} levels deep"),
                None,
            );
            return None;
        }
        match &node.value {
            Value::Mapping(entries) => {
                let mut nodes = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    nodes.push(self.item(context, key, value)?);
                }
                Some(self.checker.graph.and(nodes))
            }
            Value::Sequence(items) => {
                let mut nodes = Vec::with_capacity(items.len());
                for item in items {
                    nodes.push(self.search(context, item, depth + 1)?);
                }
                Some(self.checker.graph.or(nodes))
            }
            Value::Scalar { .. } => self.keywords(context, node, &Modifiers::default()),
        }
    }

    /// A field with modifiers, and its values.
    fn item(&mut self, context: &mut Context, key: &Node, value: &Node) -> Option<NodeId> {
        let Some(written) = key.scalar() else {
            self.error(key.place, format!("expected a field; found {}", key.kind()), None);
            return None;
        };
        let mut words = written.split('|');
        let name = words.next().unwrap_or_default();
        let modifiers = self.modifiers(key.place, words)?;
        if let Value::Mapping(_) = &value.value {
            self.error(
                value.place,
                format!("values of `{name}` are single values; found a mapping"),
                None,
            );
            return None;
        }
        if name.is_empty() {
            return self.keywords(context, value, &modifiers);
        }
        let Some(target) = find(name) else {
            let help = did_you_mean(name, NAMES.iter().copied());
            let reason = format!(
                "field `{}` of Sigma has no counterpart in our events",
                name.escape_debug()
            );
            let reason = help.map_or(reason.clone(), |help| format!("{reason}; {help}"));
            let place = key.place;
            return Some(self.obstacle(context, place, reason));
        };
        context.names_servers |= name == "DestinationHostname";
        let mut nodes = Vec::new();
        for (value, is_null) in values(value) {
            let node = match is_null {
                // No value is that the field is not there.
                true => {
                    let exists = self.exists(&target);
                    self.checker.graph.not(exists)
                }
                false => self.value(context, (name, &target), &modifiers, value)?,
            };
            nodes.push(node);
        }
        let node = match modifiers.all {
            true => self.checker.graph.and(nodes),
            false => self.checker.graph.or(nodes),
        };
        Some(match modifiers.neq {
            true => self.checker.graph.not(node),
            false => node,
        })
    }

    fn obstacle(&mut self, context: &mut Context, place: Place, reason: String) -> NodeId {
        context.obstacles.push(Obstacle { place, reason });
        self.checker.graph.constant(false)
    }

    fn modifiers<'w>(&mut self, place: Place, words: impl Iterator<Item = &'w str>) -> Option<Modifiers> {
        const KNOWN: &[&str] = &[
            "contains",
            "startswith",
            "endswith",
            "all",
            "base64",
            "base64offset",
            "wide",
            "utf16le",
            "utf16be",
            "utf16",
            "windash",
            "re",
            "i",
            "m",
            "s",
            "cidr",
            "cased",
            "exists",
            "expand",
            "fieldref",
            "gt",
            "gte",
            "lt",
            "lte",
            "neq",
            "minute",
            "hour",
            "day",
            "week",
            "month",
            "year",
        ];
        let mut modifiers = Modifiers::default();
        for word in words {
            if let Some(change) = Change::of_modifier(word) {
                modifiers.changes.push(change);
                continue;
            }
            let kind = match word {
                "all" => {
                    modifiers.all = true;
                    continue;
                }
                "cased" => {
                    modifiers.cased = true;
                    continue;
                }
                "neq" => {
                    modifiers.neq = true;
                    continue;
                }
                "expand" => {
                    modifiers.expand = true;
                    continue;
                }
                "i" | "m" | "s" if matches!(modifiers.kind, Kind::Regex(_)) => {
                    if let Kind::Regex(flags) = &mut modifiers.kind {
                        flags.push_str(word);
                    }
                    continue;
                }
                "minute" | "hour" | "day" | "week" | "month" | "year" => {
                    modifiers.part = Some(match word {
                        "minute" => DatePart::Minute,
                        "hour" => DatePart::Hour,
                        "day" => DatePart::Day,
                        "week" => DatePart::Week,
                        "month" => DatePart::Month,
                        _ => DatePart::Year,
                    });
                    continue;
                }
                "re" => Kind::Regex(String::new()),
                "cidr" => Kind::Network,
                "exists" => Kind::Exists,
                "fieldref" => Kind::OtherField,
                "gt" => Kind::Order(Order::Greater),
                "gte" => Kind::Order(Order::GreaterOrEqual),
                "lt" => Kind::Order(Order::Less),
                "lte" => Kind::Order(Order::LessOrEqual),
                "i" | "m" | "s" => {
                    self.error(place, format!("modifier `{word}` comes after `re`"), None);
                    return None;
                }
                _ => {
                    let help = did_you_mean(word, KNOWN.iter().copied());
                    self.error(place, format!("unknown modifier `{}`", word.escape_debug()), help);
                    return None;
                }
            };
            if modifiers.kind != Kind::Text {
                self.error(
                    place,
                    format!("modifier `{word}` cannot be combined with the one before it"),
                    None,
                );
                return None;
            }
            modifiers.kind = kind;
        }
        let is_text = modifiers.kind == Kind::Text;
        let compares = |change: &Change| matches!(change, Change::Contains | Change::StartsWith | Change::EndsWith);
        let fits = match modifiers.kind {
            Kind::Text => modifiers.part.is_none() || modifiers.changes.is_empty(),
            Kind::OtherField => modifiers.changes.iter().all(compares) && modifiers.changes.len() <= 1,
            Kind::Regex(_) | Kind::Network | Kind::Exists | Kind::Order(_) => modifiers.changes.is_empty(),
        };
        if !fits || (modifiers.part.is_some() && !is_text && !matches!(modifiers.kind, Kind::Order(_))) {
            self.error(place, "these modifiers cannot be combined".to_owned(), None);
            return None;
        }
        Some(modifiers)
    }

    /// Whether an event has a field.
    fn exists(&mut self, target: &Target) -> NodeId {
        let graph = &mut self.checker.graph;
        let nodes = target
            .fields()
            .into_iter()
            .map(|field| graph.test(&Operand::plain(field), Test::Exists))
            .collect();
        graph.or(nodes)
    }

    /// One value of a field.
    fn value(
        &mut self,
        context: &mut Context,
        (name, target): (&str, &Target),
        modifiers: &Modifiers,
        node: &Node,
    ) -> Option<NodeId> {
        let text = node.scalar().unwrap_or_default();
        if modifiers.expand
            && let Some(placeholder) = placeholder(text)
        {
            let reason = format!(
                "placeholder `{placeholder}` stands for values that are not known here; write them in its place"
            );
            return Some(self.obstacle(context, node.place, reason));
        }
        if let Some(part) = modifiers.part {
            return self.date(context, (name, target), part, modifiers, node);
        }
        match (&modifiers.kind, target) {
            (Kind::Exists, _) => {
                let Some(wanted) = check::flag(text) else {
                    self.error(node.place, "`exists` is true or false".to_owned(), None);
                    return None;
                };
                let exists = self.exists(target);
                Some(if wanted { exists } else { self.checker.graph.not(exists) })
            }
            (_, Target::Mapped(Mapped::Time)) => {
                let reason = format!("times such as `{name}` can only be asked for their parts, as in `{name}|hour`");
                Some(self.obstacle(context, node.place, reason))
            }
            (Kind::Text, Target::Mapped(Mapped::Opposite(field))) => {
                let Some(wanted) = check::flag(text) else {
                    let reason = format!("`{name}` is true or false, not `{}`", text.escape_debug());
                    return Some(self.obstacle(context, node.place, reason));
                };
                let operand = Operand::plain(FieldRef::plain(*field));
                Some(self.checker.graph.test(&operand, Test::FlagIs(!wanted)))
            }
            (Kind::Text, Target::Mapped(Mapped::IsIpv6)) => {
                let Some(wanted) = check::flag(text) else {
                    let reason = format!("`{name}` is true or false, not `{}`", text.escape_debug());
                    return Some(self.obstacle(context, node.place, reason));
                };
                let family: &[u8] = if wanted { b"ipv6" } else { b"ipv4" };
                let operand = Operand::plain(FieldRef::plain(Field::FdType));
                Some(
                    self.checker
                        .graph
                        .test(&operand, Test::TextIn(Box::new([family.into()]))),
                )
            }
            (_, Target::Mapped(Mapped::Opposite(_) | Mapped::IsIpv6)) => {
                let reason = format!("`{name}` is true or false: no modifier applies to it");
                Some(self.obstacle(context, node.place, reason))
            }
            (Kind::Text, Target::Own(_) | Target::Mapped(Mapped::Fields(_))) => {
                let mut nodes = Vec::new();
                for pattern in self.patterns(node, modifiers)? {
                    for field in target.fields() {
                        nodes.push(self.text(&field, &pattern, modifiers.cased));
                    }
                }
                Some(self.checker.graph.or(nodes))
            }
            (Kind::Regex(flags), Target::Own(_) | Target::Mapped(Mapped::Fields(_))) => {
                self.regex(context, target, flags, node)
            }
            (Kind::Network, Target::Own(_) | Target::Mapped(Mapped::Fields(_))) => {
                let Some(network) = Network::parse(text) else {
                    let help = "write a network such as 10.0.0.0/8".to_owned();
                    self.error(
                        node.place,
                        format!("`{}` is not a network", text.escape_debug()),
                        Some(help),
                    );
                    return None;
                };
                let mut nodes = Vec::new();
                for field in target.fields() {
                    if !matches!(field.field.ty(), FieldType::Address | FieldType::Network) {
                        let reason = format!("`{name}` is no address, so `cidr` does not apply to it");
                        return Some(self.obstacle(context, node.place, reason));
                    }
                    let test = Test::AddressIn(Box::new([network]));
                    nodes.push(self.checker.graph.test(&Operand::plain(field), test));
                }
                Some(self.checker.graph.or(nodes))
            }
            (Kind::Order(order), Target::Own(_) | Target::Mapped(Mapped::Fields(_))) => {
                let Some(number) = check::number(text) else {
                    self.error(node.place, format!("`{}` is not a number", text.escape_debug()), None);
                    return None;
                };
                let mut nodes = Vec::new();
                for field in target.fields() {
                    if !matches!(field.field.ty(), FieldType::Number | FieldType::Port | FieldType::Any) {
                        let reason = format!("`{name}` is {}, which has no order", field.field.ty().phrase());
                        return Some(self.obstacle(context, node.place, reason));
                    }
                    let test = Test::NumberOrder(*order, number);
                    nodes.push(self.checker.graph.test(&Operand::plain(field), test));
                }
                Some(self.checker.graph.or(nodes))
            }
            (Kind::OtherField, Target::Own(_) | Target::Mapped(Mapped::Fields(_))) => {
                let Some(other) = find(text) else {
                    let reason = format!(
                        "field `{}` of Sigma has no counterpart in our events",
                        text.escape_debug()
                    );
                    return Some(self.obstacle(context, node.place, reason));
                };
                Some(self.fields(target, &other, modifiers))
            }
        }
    }

    /// A part of the time at which the event happened.
    fn date(
        &mut self,
        context: &mut Context,
        (name, target): (&str, &Target),
        part: DatePart,
        modifiers: &Modifiers,
        node: &Node,
    ) -> Option<NodeId> {
        let Target::Mapped(Mapped::Time) = target else {
            let reason = format!("`{name}` is no time, so it has no part of a date");
            return Some(self.obstacle(context, node.place, reason));
        };
        let text = node.scalar().unwrap_or_default();
        let Some(number) = check::number(text) else {
            self.error(node.place, format!("`{}` is not a number", text.escape_debug()), None);
            return None;
        };
        let operand = Operand {
            field: FieldRef::plain(Field::EvtTime),
            transforms: Box::new([Transform::Date(part)]),
        };
        let test = match &modifiers.kind {
            Kind::Order(order) => Test::NumberOrder(*order, number),
            Kind::Text | Kind::Regex(_) | Kind::Network | Kind::Exists | Kind::OtherField => {
                Test::NumberIn(Box::new([number]))
            }
        };
        Some(self.checker.graph.test(&operand, test))
    }

    /// A value after its modifiers.
    fn patterns(&mut self, node: &Node, modifiers: &Modifiers) -> Option<Vec<Pattern>> {
        let mut patterns = vec![Pattern::parse(node.scalar().unwrap_or_default())];
        for change in &modifiers.changes {
            let mut changed = Vec::with_capacity(patterns.len());
            for pattern in patterns {
                match pattern.changed(*change) {
                    Ok(variants) => changed.extend(variants),
                    Err(message) => {
                        self.error(node.place, message.to_owned(), None);
                        return None;
                    }
                }
            }
            patterns = changed;
        }
        Some(patterns)
    }

    /// A text with wildcards in a field: without regard to case, unless it is `cased`.
    fn text(&mut self, field: &FieldRef, pattern: &Pattern, cased: bool) -> NodeId {
        let graph = &mut self.checker.graph;
        let plain = Operand::plain(field.clone());
        let text = pattern.plain().and_then(|bytes| std::str::from_utf8(bytes).ok());
        match (field.field.ty(), text) {
            (FieldType::Flag, Some(text)) => {
                return match check::flag(text) {
                    Some(flag) => graph.test(&plain, Test::FlagIs(flag)),
                    None => graph.constant(false),
                };
            }
            (FieldType::Number | FieldType::Port, Some(text)) => {
                return match check::number(text) {
                    Some(number) => graph.test(&plain, Test::NumberIn(Box::new([number]))),
                    None => graph.constant(false),
                };
            }
            (FieldType::Address | FieldType::Network, Some(text)) => {
                return match text.parse::<IpAddr>().ok().and_then(|_| Network::parse(text)) {
                    Some(address) => graph.test(&plain, Test::AddressIn(Box::new([address]))),
                    None => graph.constant(false),
                };
            }
            // What has wildcards is compared with the value as text.
            (
                FieldType::Flag
                | FieldType::Number
                | FieldType::Port
                | FieldType::Address
                | FieldType::Network
                | FieldType::Text
                | FieldType::Path
                | FieldType::Any,
                _,
            ) => {}
        }
        let has_letters = pattern.glob().iter().any(u8::is_ascii_alphabetic);
        let fold = !cased && has_letters;
        let pattern = if fold { pattern.clone().lower() } else { pattern.clone() };
        let folded = || Operand {
            field: field.clone(),
            transforms: if fold {
                Box::new([Transform::ToLower])
            } else {
                Box::default()
            },
        };
        match pattern.shape() {
            Shape::Anything => graph.test(&plain, Test::Exists),
            Shape::Equal(text) => graph.test(&folded(), Test::TextIn(Box::new([text.into()]))),
            Shape::StartsWith(text) => graph.test(&folded(), Test::StartsWith(text.into())),
            Shape::EndsWith(text) => graph.test(&folded(), Test::EndsWith(text.into())),
            Shape::Contains(text) if fold => graph.test(&plain, Test::ContainsFold(text.into())),
            Shape::Contains(text) => graph.test(&plain, Test::Contains(text.into())),
            Shape::Mixed => {
                let pattern = pattern.glob().into();
                graph.test(&plain, Test::Glob { pattern, fold })
            }
        }
    }

    fn regex(&mut self, context: &mut Context, target: &Target, flags: &str, node: &Node) -> Option<NodeId> {
        let written = node.scalar().unwrap_or_default();
        let pattern = match flags {
            "" => format!("(?:{written})"),
            _ => format!("(?{flags}:{written})"),
        };
        // Alone first: `a)|(b` must not become valid by what is put around it.
        if let Err(error) = check::check_regex(written).and_then(|()| check::check_regex(&pattern)) {
            if looks_around(written) {
                let reason =
                    "its regular expression looks around or back, which takes more than linear time".to_owned();
                return Some(self.obstacle(context, node.place, reason));
            }
            let message = format!("not a regular expression: {}", check::one_line(&error));
            self.error(node.place, message, None);
            return None;
        }
        // Somewhere in the value, of any bytes.
        let pattern: Box<str> = format!("{0}{pattern}{0}", check::ANYWHERE).into();
        let graph = &mut self.checker.graph;
        let nodes = target
            .fields()
            .into_iter()
            .map(|field| graph.test(&Operand::plain(field), Test::Regex(pattern.clone())))
            .collect();
        Some(graph.or(nodes))
    }

    fn fields(&mut self, target: &Target, other: &Target, modifiers: &Modifiers) -> NodeId {
        let order = match modifiers.changes.first() {
            Some(Change::Contains) => FieldOrder::Contains,
            Some(Change::StartsWith) => FieldOrder::StartsWith,
            Some(Change::EndsWith) => FieldOrder::EndsWith,
            Some(
                Change::Base64
                | Change::Base64Offset
                | Change::Utf16Le
                | Change::Utf16Be
                | Change::Utf16
                | Change::WinDash,
            )
            | None => FieldOrder::Equal,
        };
        let mut nodes = Vec::new();
        for left in target.fields() {
            for right in other.fields() {
                let is_text = |field: &FieldRef| matches!(field.field.ty(), FieldType::Text | FieldType::Path);
                let fold = !modifiers.cased && is_text(&left) && is_text(&right);
                let operand = |field: FieldRef| Operand {
                    field,
                    transforms: if fold {
                        Box::new([Transform::ToLower])
                    } else {
                        Box::default()
                    },
                };
                let test = Test::Field(order, Box::new(operand(right)));
                nodes.push(self.checker.graph.test(&operand(left.clone()), test));
            }
        }
        self.checker.graph.or(nodes)
    }

    /// Texts that stand anywhere in the event.
    fn keywords(&mut self, context: &mut Context, node: &Node, modifiers: &Modifiers) -> Option<NodeId> {
        if let Value::Mapping(_) = &node.value {
            self.error(node.place, "keywords are texts; found a mapping".to_owned(), None);
            return None;
        }
        let mut nodes = Vec::new();
        for (value, _) in values(node) {
            let fields = KEYWORD_FIELDS.iter().map(|field| FieldRef::plain(*field));
            let mut either = Vec::new();
            match &modifiers.kind {
                Kind::Text if modifiers.part.is_none() => {
                    for pattern in self.patterns(value, modifiers)? {
                        for pattern in pattern.changed(Change::Contains).unwrap_or_default() {
                            either.extend(fields.clone().map(|field| self.text(&field, &pattern, modifiers.cased)));
                        }
                    }
                }
                Kind::Regex(flags) => {
                    let flags = flags.clone();
                    for field in fields {
                        either.push(self.regex(context, &Target::Own(field), &flags, value)?);
                    }
                }
                Kind::Text | Kind::Network | Kind::Exists | Kind::OtherField | Kind::Order(_) => {
                    self.error(node.place, "this modifier needs a field".to_owned(), None);
                    return None;
                }
            }
            nodes.push(self.checker.graph.or(either));
        }
        let node = match modifiers.all {
            true => self.checker.graph.and(nodes),
            false => self.checker.graph.or(nodes),
        };
        Some(match modifiers.neq {
            true => self.checker.graph.not(node),
            false => node,
        })
    }
}

/// What a correlation says its condition is.
#[derive(Default)]
struct Wanted {
    bounds: Vec<(Bound, Place)>,
    /// So many at least, if that is all it says.
    at_least: Option<u64>,
    fields: Vec<(String, Place)>,
    percentile: Option<u8>,
}

impl Loader<'_, '_> {
    fn sigma_correlation(&mut self, mut definition: Definition, entries: &Entries, silent: &BTreeSet<String>) {
        let title = definition.name.replace('%', "%%");
        definition
            .output
            .push_str(&format!("{title} (%proc.exeline by %user.name)"), definition.place);
        let parts = self.parts(&definition);
        let mut obstacles = Vec::new();
        let Some(draft) = self.correlation(&definition, entries, &mut obstacles) else {
            return;
        };
        let checked = Checked {
            node: self.checker.graph.constant(false),
            obstacles,
            unrecorded: BTreeSet::new(),
        };
        let alias = get(entries, "name").and_then(Node::scalar);
        let is_silent = [
            definition.id.as_ref().map(|(id, _)| id.as_str()),
            alias,
            Some(&*definition.name),
        ]
        .into_iter()
        .flatten()
        .any(|name| silent.contains(name));
        let Some(parts) = parts else { return };
        let written = draft.written.clone();
        if let Some(draft) = self.admit(&definition, parts, &checked, Some(draft), written) {
            draft.rule.is_silent = is_silent;
            draft.alias = alias.map(str::to_owned);
        }
    }

    fn correlation(
        &mut self,
        definition: &Definition,
        entries: &Entries,
        obstacles: &mut Vec<Obstacle>,
    ) -> Option<CorrelationDraft> {
        let node = get(entries, "correlation")?;
        let Some(correlation) = mapping(node) else {
            self.error(
                node.place,
                format!("`correlation` is a mapping; found {}", node.kind()),
                None,
            );
            return None;
        };
        let rules: Vec<(&str, Place)> = get(correlation, "rules").map(scalars).unwrap_or_default();
        if rules.is_empty() || rules.len() > STEPS_MAX {
            self.error(
                node.place,
                format!("`correlation` of `{}` has no `rules`", definition.name),
                None,
            );
            return None;
        }
        let within_ns = match get(correlation, "timespan") {
            Some(timespan) => match timespan.scalar().and_then(duration_ms) {
                Some(milliseconds) => milliseconds.saturating_mul(1_000_000),
                None => {
                    let help = "write for instance 30s, 5m, 1h or 1d".to_owned();
                    self.error(timespan.place, "`timespan` is not a duration".to_owned(), Some(help));
                    return None;
                }
            },
            None => {
                self.error(node.place, "`correlation` has no `timespan`".to_owned(), None);
                return None;
            }
        };
        let by = self.grouped(correlation, &rules, obstacles)?;
        let condition = get(correlation, "condition");
        if let Some(condition) = condition.filter(|condition| condition.scalar().is_some()) {
            obstacles.push(Obstacle {
                place: condition.place,
                reason: "conditions of correlations that are expressions are not part of Sigma 2.1".to_owned(),
            });
        }
        let condition = condition.and_then(mapping);
        let wanted = self.wanted(condition.unwrap_or_default())?;
        let kind = get(correlation, "type");
        let Some(kind_name) = kind.and_then(Node::scalar) else {
            self.error(node.place, "`correlation` has no `type`".to_owned(), None);
            return None;
        };
        let place = kind.map_or(node.place, |kind| kind.place);
        let is_temporal = matches!(kind_name, "temporal" | "temporal_ordered");
        if wanted.bounds.is_empty() && !is_temporal && obstacles.is_empty() {
            let help = "write for instance `condition: {gte: 10}`".to_owned();
            self.error(place, format!("`{kind_name}` needs a `condition`"), Some(help));
            return None;
        }
        let pattern = self.pattern(kind_name, place, rules.len(), &wanted, obstacles)?;
        let names: Vec<&str> = rules.iter().map(|(name, _)| *name).collect();
        let bounds: Vec<String> = wanted.bounds.iter().map(|(bound, _)| shown_bound(*bound)).collect();
        let of: Vec<&str> = wanted.fields.iter().map(|(field, _)| field.as_str()).collect();
        let what = [kind_name, &of.join(", "), &bounds.join(" and ")]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ");
        let written = format!(
            "{what}\nof matches of {}\nwithin {} by {}",
            names.join(", "),
            shown_duration(within_ns),
            shown_join(&by)
        );
        Some(CorrelationDraft {
            written,
            pattern,
            within_ns,
            by,
            steps: rules
                .iter()
                .map(|(name, place)| StepDraft::Rule((*name).to_owned(), *place))
                .collect(),
            rank: 0,
        })
    }

    fn pattern(
        &mut self,
        kind: &str,
        place: Place,
        rules: usize,
        wanted: &Wanted,
        obstacles: &mut Vec<Obstacle>,
    ) -> Option<Counted> {
        /// As many steps as a sequence of our own may have.
        const ORDERED_MAX: usize = 16;
        let bounds = || wanted.bounds.iter().map(|(bound, _)| *bound).collect();
        let mut fields = Vec::new();
        for (name, place) in &wanted.fields {
            match self.correlated_field(name, *place, obstacles) {
                Some(found) => fields.push(found),
                None => fields.push(Box::default()),
            }
        }
        // Without one the rule has an obstacle, and this is never asked for.
        let one = || {
            let found = fields.first().and_then(|found| found.first());
            found.cloned().unwrap_or(FieldRef::plain(Field::EvtNum))
        };
        let needs_field = matches!(
            kind,
            "value_count" | "value_sum" | "value_avg" | "value_percentile" | "value_median"
        );
        if needs_field && wanted.fields.is_empty() {
            let help = "write for instance `condition: {field: User, gte: 10}`".to_owned();
            self.error(place, format!("`{kind}` needs a `field` in its condition"), Some(help));
            return None;
        }
        let measured = |measure: Measure| Counted::Window {
            measure,
            bounds: bounds(),
        };
        let distinct = |of: Distinct, most: u64| match wanted.at_least {
            Some(at_least) if at_least <= most => Counted::Distinct { of, at_least },
            Some(_) | None => measured(Measure::Distinct(of)),
        };
        Some(match kind {
            "event_count" => match wanted.at_least {
                Some(at_least) if at_least <= COUNT_MAX => Counted::Count { at_least },
                Some(_) | None => measured(Measure::Count),
            },
            "value_count" => distinct(Distinct::Fields(fields.into()), DISTINCT_MAX),
            "temporal" if !wanted.bounds.is_empty() => distinct(Distinct::Step, DISTINCT_MAX),
            "temporal" => Counted::Unordered,
            "temporal_ordered" if rules > ORDERED_MAX => {
                self.error(
                    place,
                    format!("`temporal_ordered` takes at most {ORDERED_MAX} rules"),
                    None,
                );
                return None;
            }
            "temporal_ordered" if rules < 2 => {
                self.error(place, "`temporal_ordered` needs two rules at least".to_owned(), None);
                return None;
            }
            "temporal_ordered" => Counted::Ordered,
            "value_sum" => measured(Measure::Sum(one())),
            "value_avg" => measured(Measure::Average(one())),
            "value_median" => measured(Measure::Percentile(one(), 50)),
            "value_percentile" => match wanted.percentile {
                Some(percent) => measured(Measure::Percentile(one(), percent)),
                None => {
                    let help = "write for instance `condition: {field: ProcessId, percentile: 95, gte: 10}`".to_owned();
                    self.error(place, "`value_percentile` needs a `percentile`".to_owned(), Some(help));
                    return None;
                }
            },
            _ => {
                let known = [
                    "event_count",
                    "value_count",
                    "temporal",
                    "temporal_ordered",
                    "value_sum",
                    "value_avg",
                    "value_percentile",
                    "value_median",
                ];
                let help = did_you_mean(kind, known);
                self.error(
                    place,
                    format!("unknown type `{}` of a correlation", kind.escape_debug()),
                    help,
                );
                return None;
            }
        })
    }

    fn wanted(&mut self, condition: &Entries) -> Option<Wanted> {
        let mut wanted = Wanted::default();
        for (key, value) in condition {
            let name = key.scalar().unwrap_or_default();
            let order = match name {
                "field" => {
                    let fields = scalars(value).into_iter();
                    wanted.fields = fields.map(|(name, place)| (name.to_owned(), place)).collect();
                    continue;
                }
                "percentile" => {
                    let percent = value
                        .scalar()
                        .and_then(|text| text.parse().ok())
                        .filter(|percent| (0..=100).contains(percent));
                    if percent.is_none() {
                        self.error(value.place, "`percentile` is a number from 0 to 100".to_owned(), None);
                        return None;
                    }
                    wanted.percentile = percent;
                    continue;
                }
                "gt" => Some(Order::Greater),
                "gte" => Some(Order::GreaterOrEqual),
                "lt" => Some(Order::Less),
                "lte" => Some(Order::LessOrEqual),
                "eq" | "neq" => None,
                _ => {
                    let help = did_you_mean(name, ["gt", "gte", "lt", "lte", "eq", "neq", "field", "percentile"]);
                    self.error(
                        key.place,
                        format!("unknown key `{}` of a condition", name.escape_debug()),
                        help,
                    );
                    return None;
                }
            };
            let number: Option<f64> = value
                .scalar()
                .and_then(|text| text.parse().ok())
                .filter(|number: &f64| number.is_finite());
            let Some(number) = number else {
                self.error(value.place, format!("`{name}` needs a number"), None);
                return None;
            };
            let bound = match (order, name) {
                (Some(order), _) => Bound::Order(order, number),
                (None, "eq") => Bound::Equal(number),
                (None, _) => Bound::NotEqual(number),
            };
            wanted.bounds.push((bound, key.place));
            let whole: Option<u64> = value.scalar().and_then(|text| text.parse().ok());
            wanted.at_least = match (order, whole) {
                (Some(Order::GreaterOrEqual), Some(count)) if wanted.bounds.len() == 1 => Some(count.max(1)),
                (Some(Order::Greater), Some(count)) if wanted.bounds.len() == 1 => Some(count + 1),
                _ => None,
            };
        }
        Some(wanted)
    }

    /// `group-by`, with its aliases. Without it all events of the host belong together.
    fn grouped(
        &mut self,
        correlation: &Entries,
        rules: &[(&str, Place)],
        obstacles: &mut Vec<Obstacle>,
    ) -> Option<Vec<Join>> {
        let aliases = get(correlation, "aliases").and_then(mapping).unwrap_or_default();
        let mut joins = Vec::new();
        for (name, place) in get(correlation, "group-by").map(scalars).unwrap_or_default() {
            let Some(alias) = get(aliases, name) else {
                joins.extend(self.correlated_field(name, place, obstacles).map(Join::Fields));
                continue;
            };
            let of = mapping(alias).unwrap_or_default();
            let mut steps = Vec::with_capacity(rules.len());
            for (rule, _) in rules {
                let Some(field) = get(of, rule).filter(|field| field.scalar().is_some()) else {
                    let message = format!("alias `{name}` names no field of rule `{rule}`");
                    self.error(alias.place, message, Some("name the rules as `rules` does".to_owned()));
                    return None;
                };
                steps.extend(self.correlated_field(field.scalar().unwrap_or_default(), field.place, obstacles));
            }
            joins.push(Join::Aliased(steps.into()));
        }
        Some(joins)
    }

    fn correlated_field(&mut self, name: &str, place: Place, obstacles: &mut Vec<Obstacle>) -> Option<Box<[FieldRef]>> {
        let found = field::grouped(name).or_else(|| match find(name)? {
            Target::Own(field) => Some(Box::from([field])),
            Target::Mapped(_) => None,
        });
        if found.is_none() {
            let help = did_you_mean(name, NAMES.iter().copied()).map_or(String::new(), |help| format!("; {help}"));
            obstacles.push(Obstacle {
                place,
                reason: format!(
                    "field `{}` of Sigma has no counterpart in our events{help}",
                    name.escape_debug()
                ),
            });
        }
        found
    }
}

/// The field of ours that a name of Sigma means; our own names are understood too.
fn find(name: &str) -> Option<Target> {
    if let Some(mapped) = field::find(name) {
        return Some(Target::Mapped(mapped));
    }
    name.contains('.')
        .then(|| FieldRef::parse(name).ok())
        .flatten()
        .map(Target::Own)
}

/// The category of a log source, or what it is instead.
fn category(source: &Entries) -> Result<Category, String> {
    let of = |key: &str| get(source, key).and_then(Node::scalar);
    let found = of("category").and_then(Category::find);
    match (found, of("product"), of("service")) {
        (Some(category), None | Some("linux"), None) => Ok(category),
        _ => {
            let parts: Vec<String> = ["product", "category", "service"]
                .into_iter()
                .filter_map(|key| Some(format!("{key} `{}`", of(key)?.escape_debug())))
                .collect();
            Err(if parts.is_empty() {
                "(none is given)".to_owned()
            } else {
                parts.join(", ")
            })
        }
    }
}

/// Whether rules that a correlation counts raise alerts of their own.
fn generates(entries: &Entries, correlation: &Entries) -> bool {
    [entries, correlation]
        .into_iter()
        .filter_map(|entries| get(entries, "generate")?.scalar())
        .any(|text| check::flag(text) == Some(true))
}

fn mapping(node: &Node) -> Option<&Entries> {
    match &node.value {
        Value::Mapping(entries) => Some(entries),
        Value::Scalar { .. } | Value::Sequence(_) => None,
    }
}

/// A value, or each of a list, with whether it is null.
fn values(node: &Node) -> Vec<(&Node, bool)> {
    match &node.value {
        Value::Sequence(items) => items.iter().map(|item| (item, item.is_null())).collect(),
        Value::Scalar { .. } | Value::Mapping(_) => vec![(node, node.is_null())],
    }
}

/// The texts of a value or of a list of values.
fn scalars(node: &Node) -> Vec<(&str, Place)> {
    values(node)
        .into_iter()
        .filter(|(_, is_null)| !is_null)
        .filter_map(|(node, _)| Some((node.scalar()?, node.place)))
        .collect()
}

/// The first placeholder, such as `%Servers%`; `\%` is plain.
fn placeholder(text: &str) -> Option<&str> {
    let is_plain = |at: usize| text[..at].ends_with('\\');
    let mut signs = text.match_indices('%').map(|(at, _)| at).filter(|at| !is_plain(*at));
    let (first, second) = (signs.next()?, signs.next()?);
    Some(&text[first..=second])
}

/// Whether a pattern asks for what cannot be done in linear time.
fn looks_around(pattern: &str) -> bool {
    let back = pattern
        .as_bytes()
        .windows(2)
        .any(|pair| pair[0] == b'\\' && matches!(pair[1], b'1'..=b'9'));
    back || ["(?=", "(?!", "(?<=", "(?<!", "(?>"]
        .iter()
        .any(|group| pattern.contains(group))
}

fn shown_bound(bound: Bound) -> String {
    match bound {
        Bound::Equal(number) => format!("= {number}"),
        Bound::NotEqual(number) => format!("!= {number}"),
        Bound::Order(Order::Less, number) => format!("< {number}"),
        Bound::Order(Order::LessOrEqual, number) => format!("<= {number}"),
        Bound::Order(Order::Greater, number) => format!("> {number}"),
        Bound::Order(Order::GreaterOrEqual, number) => format!(">= {number}"),
    }
}
