//! Conditions from text to graph: lists and macros put in, names and types resolved.
//!
//! Every mistake is collected; what this version cannot supply is not a mistake but an obstacle to one rule.

use std::collections::{BTreeSet, HashMap};

use crate::diagnostic::{Diagnostic, did_you_mean, nearest};
use crate::event::EventKind;
use crate::field::{Field, FieldError, FieldRef, FieldType, Shape};
use crate::ir::{FieldOrder, Graph, Network, NodeId, Operand, Order, Test, Transform};
use crate::pack::{Pack, quoted_if_needed};
use crate::source::{Files, Place, Text};
use crate::syntax::{self, Argument, Check, Literal, Operator, Quantifier, Right, Syntax, Transformer};

/// Longest condition after lists are put in.
const CONDITION_BYTES_MAX: usize = 4 << 20;
/// Most items of a list after its lists are put in.
const ITEMS_MAX: usize = 200_000;
/// Most memory one compiled regular expression may take.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Why a rule cannot be active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) place: Place,
    pub(crate) reason: String,
}

/// A condition in the graph, with what its rule must know of it.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    pub(crate) node: NodeId,
    pub(crate) obstacles: Vec<Obstacle>,
    /// Values of `evt.type` that no event has.
    pub(crate) unrecorded: BTreeSet<String>,
}

/// Checks conditions, one after the other, into one graph.
pub(crate) struct Checker<'a, 'f> {
    files: &'f Files<'a>,
    pub(crate) graph: Graph,
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
    lists: Vec<ResolvedList>,
    macros: HashMap<String, ResolvedMacro>,
}

struct ResolvedList {
    name: String,
    /// Items with commas between, as they replace the name.
    text: String,
    index: usize,
}

struct ResolvedMacro {
    index: usize,
    used: bool,
    place: Place,
    /// `None` when it has mistakes, which are reported already.
    checked: Option<Checked>,
}

/// One condition while it is checked.
struct Context<'t> {
    text: &'t Text,
    /// What is defined later than this is not visible.
    visibility: usize,
    obstacles: Vec<Obstacle>,
    unrecorded: BTreeSet<String>,
}

impl<'a, 'f> Checker<'a, 'f> {
    /// Resolves the lists and macros of a pack.
    pub(crate) fn new(files: &'f Files<'a>, pack: &Pack) -> Self {
        let mut checker = Self {
            files,
            graph: Graph::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
            lists: Vec::new(),
            macros: HashMap::new(),
        };
        checker.resolve_lists(pack);
        checker.resolve_macros(pack);
        checker
    }

    fn resolve_lists(&mut self, pack: &Pack) {
        let mut resolved: HashMap<&str, (usize, Vec<String>)> = HashMap::new();
        for list in &pack.lists {
            let mut items = Vec::new();
            for (item, place) in &list.items {
                match resolved.get(item.as_str()) {
                    Some((index, inner)) if *index < list.visibility => items.extend(inner.iter().cloned()),
                    _ => items.push(item.clone()),
                }
                if items.len() > ITEMS_MAX {
                    let message = format!("list `{}` has more than {ITEMS_MAX} items", list.name);
                    self.errors.push(self.files.diagnostic(*place, message, None));
                    break;
                }
            }
            let quoted: Vec<String> = items.iter().map(|item| quoted_if_needed(item)).collect();
            self.lists.push(ResolvedList {
                name: list.name.clone(),
                text: quoted.join(", "),
                index: list.index,
            });
            resolved.insert(&list.name, (list.index, items));
        }
    }

    fn resolve_macros(&mut self, pack: &Pack) {
        // Every macro is there by name before any is checked, so that one which is used too early can be told.
        for found in &pack.macros {
            let resolved = ResolvedMacro {
                index: found.index,
                used: false,
                place: found.place,
                checked: None,
            };
            self.macros.insert(found.name.clone(), resolved);
        }
        for found in &pack.macros {
            let checked = self.condition(&found.condition, found.visibility);
            if let Some(resolved) = self.macros.get_mut(&found.name) {
                resolved.checked = checked;
            }
        }
    }

    /// Names and places of macros that no condition uses.
    pub(crate) fn unused_macros(&self) -> impl Iterator<Item = (&str, Place)> {
        self.macros
            .iter()
            .filter(|(_, found)| !found.used)
            .map(|(name, found)| (name.as_str(), found.place))
    }

    /// Checks one condition; `None` when it has mistakes.
    pub(crate) fn condition(&mut self, text: &Text, visibility: usize) -> Option<Checked> {
        let text = self.with_lists(text, visibility)?;
        let syntax = match syntax::parse(text.as_str()) {
            Ok(syntax) => syntax,
            Err(error) => {
                self.errors
                    .push(self.files.diagnostic(text.place(error.at), error.message, error.help));
                return None;
            }
        };
        let mut context = Context {
            text: &text,
            visibility,
            obstacles: Vec::new(),
            unrecorded: BTreeSet::new(),
        };
        let node = self.lower(&mut context, &syntax)?;
        if self.graph.depth(node) > syntax::DEPTH_MAX {
            let message = format!(
                "condition and its macros nest more than {} levels deep",
                syntax::DEPTH_MAX
            );
            self.errors.push(self.files.diagnostic(text.place(0), message, None));
            return None;
        }
        Some(Checked {
            node,
            obstacles: context.obstacles,
            unrecorded: context.unrecorded,
        })
    }

    /// Puts the items of lists where their names stand. This is done on text, because the language is defined so.
    fn with_lists(&mut self, text: &Text, visibility: usize) -> Option<Text> {
        let mut text = text.clone();
        for list in &self.lists {
            if list.index >= visibility {
                continue;
            }
            let mut from = 0;
            while let Some(at) = text.as_str()[from..].find(&list.name).map(|at| from + at) {
                let end = at + list.name.len();
                let border = |character: Option<char>| {
                    character
                        .is_none_or(|character| matches!(character, ' ' | '\t' | '\n' | '\r' | '(' | ')' | ',' | '='))
                };
                let bytes = text.as_str();
                if !border(bytes[..at].chars().next_back()) || !border(bytes[end..].chars().next()) {
                    from = end;
                    continue;
                }
                let blank = [' ', '\t', '\n', '\r'];
                let mut left = bytes[..at].trim_end_matches(blank).len();
                let mut right = bytes.len() - bytes[end..].trim_start_matches(blank).len();
                if list.text.is_empty() {
                    if bytes[..left].ends_with(',') {
                        left -= 1;
                    } else if bytes[right..].starts_with(',') {
                        right += 1;
                    }
                }
                let place = text.place(at);
                let mut replaced = Text::default();
                replaced.push_part(&text, 0..left);
                // A blank that was swallowed may have stood between two words.
                if left < at && !replaced.as_str().ends_with(['(', ',', '=']) {
                    replaced.push_str(" ", place);
                }
                replaced.push_str(&list.text, place);
                from = replaced.as_str().len();
                if right > end && !text.as_str()[right..].starts_with([')', ',']) {
                    replaced.push_str(" ", place);
                }
                replaced.push_part(&text, right..text.as_str().len());
                text = replaced;
                if text.as_str().len() > CONDITION_BYTES_MAX {
                    let message = format!(
                        "condition is longer than {CONDITION_BYTES_MAX} bytes after list `{}`",
                        list.name
                    );
                    self.errors.push(self.files.diagnostic(place, message, None));
                    return None;
                }
            }
        }
        Some(text)
    }

    fn error(&mut self, context: &Context<'_>, at: usize, message: String, help: Option<String>) {
        self.errors
            .push(self.files.diagnostic(context.text.place(at), message, help));
    }

    fn lower(&mut self, context: &mut Context<'_>, syntax: &Syntax) -> Option<NodeId> {
        match syntax {
            Syntax::And(parts) | Syntax::Or(parts) => {
                // All parts are checked, so that every mistake is told.
                let lowered: Vec<Option<NodeId>> = parts.iter().map(|part| self.lower(context, part)).collect();
                let lowered: Vec<NodeId> = lowered.into_iter().collect::<Option<_>>()?;
                let all = matches!(syntax, Syntax::And(_));
                Some(if all {
                    self.graph.and(lowered)
                } else {
                    self.graph.or(lowered)
                })
            }
            Syntax::Not(of) => {
                let of = self.lower(context, of)?;
                Some(self.graph.not(of))
            }
            Syntax::Macro { name, span } => self.macro_(context, name, span.start),
            Syntax::Check(check) => self.check(context, check),
        }
    }

    fn macro_(&mut self, context: &mut Context<'_>, name: &str, at: usize) -> Option<NodeId> {
        let Some(found) = self.macros.get_mut(name) else {
            let known = self.macros.keys().map(String::as_str);
            let help = did_you_mean(name, known).or_else(|| {
                // The name of a list is replaced before conditions are read, so only a slip of one arrives here.
                let list = nearest(name, self.lists.iter().map(|list| list.name.as_str()))?;
                Some(format!(
                    "did you mean the list `{list}`, as in `proc.name in ({list})`?"
                ))
            });
            self.error(context, at, format!("unknown macro `{name}`"), help);
            return None;
        };
        if found.index >= context.visibility {
            let message = format!("macro `{name}` is used before it is defined");
            self.error(context, at, message, Some("move its definition up".to_owned()));
            return None;
        }
        found.used = true;
        let checked = found.checked.as_ref()?;
        for obstacle in &checked.obstacles {
            if !context.obstacles.contains(obstacle) {
                context.obstacles.push(obstacle.clone());
            }
        }
        context.unrecorded.extend(checked.unrecorded.iter().cloned());
        Some(checked.node)
    }

    /// A field or a transformer; `Err(true)` when it is only an obstacle.
    fn operand(&mut self, context: &mut Context<'_>, operand: &syntax::Operand) -> Result<Operand, Blocked> {
        match operand {
            syntax::Operand::Field(field) => match FieldRef::resolve(&field.name, field.argument.as_deref()) {
                Ok(found) => Ok(Operand::plain(found)),
                Err(FieldError::Mistake { message, help }) => {
                    self.error(context, field.span.start, message, help);
                    Err(Blocked::Mistake)
                }
                Err(FieldError::Unsupplied(reason)) => Err(Blocked::Obstacle(Obstacle {
                    place: context.text.place(field.span.start),
                    reason,
                })),
            },
            syntax::Operand::Transformed {
                transformer,
                arguments,
                index,
                span,
            } => self.transformed(context, *transformer, arguments, index.as_deref(), span.start),
        }
    }

    fn transformed(
        &mut self,
        context: &mut Context<'_>,
        transformer: Transformer,
        arguments: &[Argument],
        index: Option<&str>,
        at: usize,
    ) -> Result<Operand, Blocked> {
        let later = |what: &str| {
            let reason = format!("{what} is not supported by this version");
            Err(Blocked::Obstacle(Obstacle {
                place: context.text.place(at),
                reason,
            }))
        };
        let transform = match transformer {
            Transformer::ToLower => Transform::ToLower,
            Transformer::ToUpper => Transform::ToUpper,
            Transformer::Base64 => Transform::Base64,
            Transformer::Basename => Transform::Basename,
            Transformer::Length => Transform::Length,
            Transformer::Join | Transformer::Concat | Transformer::Getopt => {
                return later(&format!("transformer `{transformer}(`"));
            }
        };
        if index.is_some() {
            self.error(
                context,
                at,
                format!("transformer `{transformer}(` takes nothing in brackets"),
                None,
            );
            return Err(Blocked::Mistake);
        }
        let [Argument::Operand(inner)] = arguments else {
            self.error(
                context,
                at,
                format!("transformer `{transformer}(` takes one field"),
                None,
            );
            return Err(Blocked::Mistake);
        };
        let inner_at = inner.span().start;
        let inner = self.operand(context, inner)?;
        if inner.field.shape() == Shape::List && transform == Transform::Length {
            let reason = format!(
                "the number of values of `{}` is not supplied by this version",
                inner.field
            );
            return Err(Blocked::Obstacle(Obstacle {
                place: context.text.place(inner_at),
                reason,
            }));
        }
        if !matches!(inner.ty(), FieldType::Text | FieldType::Path | FieldType::Any) {
            let message = format!(
                "transformer `{transformer}(` needs text; `{inner}` is {}",
                inner.ty().phrase()
            );
            self.error(context, inner_at, message, None);
            return Err(Blocked::Mistake);
        }
        let mut transforms = inner.transforms.into_vec();
        transforms.push(transform);
        Ok(Operand {
            field: inner.field,
            transforms: transforms.into(),
        })
    }

    fn check(&mut self, context: &mut Context<'_>, check: &Check) -> Option<NodeId> {
        let operand = match self.operand(context, &check.left) {
            Ok(operand) => operand,
            Err(blocked) => return self.blocked(context, blocked),
        };
        let literals: &[Literal] = match &check.right {
            Right::None => return Some(self.graph.test(&operand, Test::Exists)),
            Right::Field(right) => {
                let right_at = right.span().start;
                let right = match self.operand(context, right) {
                    Ok(right) => right,
                    Err(blocked) => return self.blocked(context, blocked),
                };
                return self.fields(context, check, &operand, &right, right_at);
            }
            Right::Literal(literal) => std::slice::from_ref(literal),
            Right::List(literals) => literals,
        };
        if operand.is_event_type() {
            self.event_types(context, check, literals)?;
        }
        if check.operator == Operator::In {
            self.suspect_list_names(context, literals);
        }
        let Some(quantifier) = check.quantifier else {
            return self.compare(context, check, &operand, literals);
        };
        let mut nodes = Vec::with_capacity(literals.len());
        for literal in literals {
            nodes.push(self.compare(context, check, &operand, std::slice::from_ref(literal))?);
        }
        Some(match quantifier {
            Quantifier::AnyOf => self.graph.or(nodes),
            Quantifier::AllOf if nodes.is_empty() => self.graph.constant(false),
            Quantifier::AllOf => self.graph.and(nodes),
            Quantifier::OneOf => self.graph.exactly_one(nodes),
        })
    }

    /// An obstacle is remembered, and the check it blocks counts as false: its rule will not run.
    fn blocked(&mut self, context: &mut Context<'_>, blocked: Blocked) -> Option<NodeId> {
        match blocked {
            Blocked::Mistake => None,
            Blocked::Obstacle(obstacle) => {
                if !context.obstacles.contains(&obstacle) {
                    context.obstacles.push(obstacle);
                }
                Some(self.graph.constant(false))
            }
        }
    }

    /// Values of `evt.type` must be names of events; those that are not recorded are remembered.
    fn event_types(&mut self, context: &mut Context<'_>, check: &Check, literals: &[Literal]) -> Option<()> {
        if !check.operator.is_equality() {
            return Some(());
        }
        let mut known = Some(());
        for literal in literals {
            if EventKind::of_event_type(literal.text.as_bytes()).is_some() {
                continue;
            }
            let recorded = EventKind::ALL.iter().flat_map(|kind| kind.event_types()).copied();
            let is_system_call = crate::syscalls::is_event_type(&literal.text);
            if !is_system_call && let Some(help) = did_you_mean(&literal.text, recorded) {
                self.error(
                    context,
                    literal.span.start,
                    format!("unknown event type `{}`", literal.text),
                    Some(help),
                );
                known = None;
                continue;
            }
            context.unrecorded.insert(literal.text.clone());
        }
        known
    }

    /// A misspelt list name is silently a value: tell when one is nearly the name of a list.
    fn suspect_list_names(&mut self, context: &Context<'_>, literals: &[Literal]) {
        for literal in literals.iter().filter(|literal| literal.text.contains('_')) {
            let Some(found) = nearest(&literal.text, self.lists.iter().map(|list| list.name.as_str())) else {
                continue;
            };
            if found == literal.text {
                continue;
            }
            let place = context.text.place(literal.span.start);
            let message = format!("`{}` is taken as a value, since no list has this name", literal.text);
            self.warnings.push(self.files.diagnostic(
                place,
                message,
                Some(format!("did you mean the list `{found}`?")),
            ));
        }
    }

    fn mismatch(&mut self, context: &Context<'_>, check: &Check, operand: &Operand) -> Option<NodeId> {
        let ty = operand.ty();
        let help = match ty {
            FieldType::Text | FieldType::Path | FieldType::Any => {
                "bytes can only be compared in fields that hold raw bytes".to_owned()
            }
            FieldType::Number | FieldType::Port => "use =, !=, <, <=, >, >= or in".to_owned(),
            FieldType::Flag => "use = true or = false".to_owned(),
            FieldType::Address | FieldType::Network => "use =, != or in with addresses or networks".to_owned(),
        };
        let message = format!(
            "operator `{}` does not apply to `{operand}`, which is {}",
            check.operator,
            ty.phrase()
        );
        self.error(context, check.operator_span.start, message, Some(help));
        None
    }

    fn compare(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        match operand.ty() {
            FieldType::Text | FieldType::Path => self.compare_text(context, check, operand, literals),
            FieldType::Any => self.compare_any(context, check, operand, literals),
            FieldType::Number | FieldType::Port => self.compare_numbers(context, check, operand, literals),
            FieldType::Flag => self.compare_flags(context, check, operand, literals),
            FieldType::Address | FieldType::Network => self.compare_addresses(context, check, operand, literals),
        }
    }

    /// A field that is there and not equal: `is` says when it is equal.
    fn not_equal(&mut self, operand: &Operand, is: NodeId) -> NodeId {
        let exists = self.graph.test(operand, Test::Exists);
        let not = self.graph.not(is);
        self.graph.and(vec![exists, not])
    }

    fn compare_text(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        let bytes = |literal: &Literal| -> Box<[u8]> { literal.text.as_bytes().into() };
        let set = || -> Box<[Box<[u8]>]> {
            literals
                .iter()
                .map(bytes)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect()
        };
        let first = literals.first();
        let test = match (check.operator, first) {
            (Operator::PathPrefix, _) => {
                let prefixes: BTreeSet<Box<[u8]>> = literals
                    .iter()
                    .map(|literal| normal_path(literal.text.as_bytes()))
                    // Nothing is below a path without a name.
                    .filter(|prefix| !prefix.is_empty())
                    .collect();
                Test::PathPrefix(prefixes.into_iter().collect())
            }
            (Operator::In | Operator::Intersects, _) => Test::TextIn(set()),
            (_, None) | (Operator::Exists, _) => return Some(self.graph.constant(false)),
            (Operator::Equal, Some(_)) => Test::TextIn(set()),
            (Operator::NotEqual, Some(value)) if operand.field.shape() == Shape::List => {
                Test::TextDiffers(bytes(value))
            }
            (Operator::NotEqual, Some(_)) => {
                let is = self.graph.test(operand, Test::TextIn(set()));
                return Some(self.not_equal(operand, is));
            }
            (Operator::Less, Some(value)) => Test::TextOrder(Order::Less, bytes(value)),
            (Operator::LessOrEqual, Some(value)) => Test::TextOrder(Order::LessOrEqual, bytes(value)),
            (Operator::Greater, Some(value)) => Test::TextOrder(Order::Greater, bytes(value)),
            (Operator::GreaterOrEqual, Some(value)) => Test::TextOrder(Order::GreaterOrEqual, bytes(value)),
            (
                Operator::Contains | Operator::ContainsFold | Operator::StartsWith | Operator::EndsWith,
                Some(Literal { text, .. }),
            ) if text.is_empty() => Test::Exists,
            (Operator::Contains, Some(value)) => Test::Contains(bytes(value)),
            (Operator::ContainsFold, Some(value)) => {
                Test::ContainsFold(value.text.to_ascii_lowercase().into_bytes().into())
            }
            (Operator::StartsWith, Some(value)) => Test::StartsWith(bytes(value)),
            (Operator::EndsWith, Some(value)) => Test::EndsWith(bytes(value)),
            (Operator::Glob, Some(value)) => Test::Glob {
                pattern: bytes(value),
                fold: false,
            },
            (Operator::GlobFold, Some(value)) => Test::Glob {
                pattern: bytes(value),
                fold: true,
            },
            (Operator::Regex, Some(value)) => {
                if let Err(error) = check_regex(&value.text) {
                    let message = format!("not a regular expression: {}", one_line(&error));
                    self.error(context, value.span.start, message, None);
                    return None;
                }
                Test::Regex(value.text.as_str().into())
            }
            (Operator::BytesContain | Operator::BytesStartWith, Some(value)) => {
                if operand.field.field != Field::EvtBuffer || !operand.transforms.is_empty() {
                    return self.mismatch(context, check, operand);
                }
                let Some(bytes) = hexadecimal(&value.text) else {
                    let message = format!("`{}` is not bytes in hexadecimal", value.text.escape_debug());
                    let help = "write two digits for each byte, such as 0a1b".to_owned();
                    self.error(context, value.span.start, message, Some(help));
                    return None;
                };
                match check.operator == Operator::BytesContain {
                    true => Test::Contains(bytes),
                    false => Test::StartsWith(bytes),
                }
            }
        };
        // A set without values holds nothing.
        if matches!(&test, Test::TextIn(values) | Test::PathPrefix(values) if values.is_empty()) {
            return Some(self.graph.constant(false));
        }
        Some(self.graph.test(operand, test))
    }

    /// Fields that are text or number: orders are of numbers, equality is of either, the rest is of text.
    fn compare_any(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        if check.operator.is_order() {
            return self.compare_numbers(context, check, operand, literals);
        }
        if !check.operator.is_equality() {
            return self.compare_text(context, check, operand, literals);
        }
        let texts: BTreeSet<Box<[u8]>> = literals.iter().map(|literal| literal.text.as_bytes().into()).collect();
        let numbers: BTreeSet<i64> = literals.iter().filter_map(|literal| number(&literal.text)).collect();
        let mut either = Vec::new();
        if !texts.is_empty() {
            either.push(self.graph.test(operand, Test::TextIn(texts.into_iter().collect())));
        }
        if !numbers.is_empty() {
            either.push(self.graph.test(operand, Test::NumberIn(numbers.into_iter().collect())));
        }
        let is = self.graph.or(either);
        Some(if check.operator == Operator::NotEqual {
            self.not_equal(operand, is)
        } else {
            is
        })
    }

    fn compare_numbers(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        let order = order_of(check.operator);
        if order.is_none() && !check.operator.is_equality() {
            return self.mismatch(context, check, operand);
        }
        let is_port = operand.ty() == FieldType::Port;
        let mut numbers = BTreeSet::new();
        let mut valid = true;
        for literal in literals {
            match number(&literal.text) {
                Some(number) if is_port && u16::try_from(number).is_err() => {
                    self.error(
                        context,
                        literal.span.start,
                        format!("`{}` is not a port", literal.text),
                        Some("ports are 0 to 65535".to_owned()),
                    );
                    valid = false;
                }
                Some(number) => {
                    numbers.insert(number);
                }
                None => {
                    let message = format!(
                        "`{}` is not a number, and `{operand}` is {}",
                        literal.text.escape_debug(),
                        operand.ty().phrase()
                    );
                    self.error(context, literal.span.start, message, None);
                    valid = false;
                }
            }
        }
        if !valid {
            return None;
        }
        let Some(first) = numbers.first().copied() else {
            return Some(self.graph.constant(false));
        };
        if let Some(order) = order {
            return Some(self.graph.test(operand, Test::NumberOrder(order, first)));
        }
        if check.operator == Operator::NotEqual && operand.field.shape() == Shape::List {
            return Some(self.graph.test(operand, Test::NumberDiffers(first)));
        }
        let is = self.graph.test(operand, Test::NumberIn(numbers.into_iter().collect()));
        Some(if check.operator == Operator::NotEqual {
            self.not_equal(operand, is)
        } else {
            is
        })
    }

    fn compare_flags(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        if !check.operator.is_equality() {
            return self.mismatch(context, check, operand);
        }
        let mut either = Vec::new();
        for literal in literals {
            let Some(value) = flag(&literal.text) else {
                let message = format!(
                    "`{}` is neither true nor false, and `{operand}` is a flag",
                    literal.text.escape_debug()
                );
                self.error(context, literal.span.start, message, None);
                return None;
            };
            either.push(self.graph.test(operand, Test::FlagIs(value)));
        }
        let is = self.graph.or(either);
        Some(if check.operator == Operator::NotEqual {
            self.not_equal(operand, is)
        } else {
            is
        })
    }

    fn compare_addresses(
        &mut self,
        context: &Context<'_>,
        check: &Check,
        operand: &Operand,
        literals: &[Literal],
    ) -> Option<NodeId> {
        if !check.operator.is_equality() {
            return self.mismatch(context, check, operand);
        }
        let mut networks = BTreeSet::new();
        for literal in literals {
            let Some(network) = Network::parse(&literal.text) else {
                let message = format!("`{}` is not an address or a network", literal.text.escape_debug());
                let help = "write an address such as 10.0.0.1, or a network such as 10.0.0.0/8".to_owned();
                self.error(context, literal.span.start, message, Some(help));
                return None;
            };
            networks.insert(network);
        }
        if networks.is_empty() {
            return Some(self.graph.constant(false));
        }
        let is = self
            .graph
            .test(operand, Test::AddressIn(networks.into_iter().collect()));
        Some(if check.operator == Operator::NotEqual {
            self.not_equal(operand, is)
        } else {
            is
        })
    }

    fn fields(
        &mut self,
        context: &mut Context<'_>,
        check: &Check,
        left: &Operand,
        right: &Operand,
        at: usize,
    ) -> Option<NodeId> {
        let class = |operand: &Operand| match operand.ty() {
            FieldType::Text | FieldType::Path => "text",
            FieldType::Number | FieldType::Port => "number",
            FieldType::Flag => "flag",
            FieldType::Address | FieldType::Network => "address",
            FieldType::Any => "any",
        };
        let (left_class, right_class) = (class(left), class(right));
        if left_class != right_class && left_class != "any" && right_class != "any" {
            let message = format!(
                "`{left}` is {} and cannot be compared with `{right}`, which is {}",
                left.ty().phrase(),
                right.ty().phrase()
            );
            self.error(context, at, message, None);
            return None;
        }
        let textual = matches!(left_class, "text" | "any");
        let order = match check.operator {
            Operator::Equal | Operator::In | Operator::Intersects => Some(FieldOrder::Equal),
            Operator::NotEqual => Some(FieldOrder::NotEqual),
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                let ordered = !matches!(left_class, "flag" | "address");
                order_of(check.operator).filter(|_| ordered).map(FieldOrder::Order)
            }
            Operator::Contains => textual.then_some(FieldOrder::Contains),
            Operator::ContainsFold => textual.then_some(FieldOrder::ContainsFold),
            Operator::StartsWith => textual.then_some(FieldOrder::StartsWith),
            Operator::EndsWith => textual.then_some(FieldOrder::EndsWith),
            Operator::Exists
            | Operator::BytesContain
            | Operator::BytesStartWith
            | Operator::Regex
            | Operator::PathPrefix => None,
            Operator::Glob | Operator::GlobFold => {
                let reason = format!(
                    "operator `{}` with a pattern from a field is not supported by this version",
                    check.operator
                );
                let place = context.text.place(at);
                return self.blocked(context, Blocked::Obstacle(Obstacle { place, reason }));
            }
        };
        let Some(order) = order else {
            return self.mismatch(context, check, left);
        };
        Some(self.graph.test(left, Test::Field(order, Box::new(right.clone()))))
    }
}

/// The order an operator asks for, if it asks for one.
fn order_of(operator: Operator) -> Option<Order> {
    [
        (Operator::Less, Order::Less),
        (Operator::LessOrEqual, Order::LessOrEqual),
        (Operator::Greater, Order::Greater),
        (Operator::GreaterOrEqual, Order::GreaterOrEqual),
    ]
    .into_iter()
    .find_map(|(asked, order)| (asked == operator).then_some(order))
}

enum Blocked {
    Mistake,
    Obstacle(Obstacle),
}

/// Any bytes: with this before and after it a pattern matches somewhere in a value.
pub(crate) const ANYWHERE: &str = "(?s-u:.)*";

/// Whether a pattern can be compiled. Nearly all need only be read to know; they are compiled when first asked for.
pub(crate) fn check_regex(pattern: &str) -> Result<(), regex::Error> {
    match crate::literal::is_surely_regex(pattern) {
        true => Ok(()),
        false => regex(pattern).map(drop),
    }
}

/// Compiles a pattern as the language means it: anchored at both ends, over bytes.
pub(crate) fn regex(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    // Alone first: `a)|(b` must not become valid by the group around it.
    build(pattern)?;
    checked_regex(pattern)
}

/// Compiles a pattern that was checked.
pub(crate) fn checked_regex(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    // The library searches faster than a pattern that begins with anything.
    match pattern
        .strip_prefix(ANYWHERE)
        .and_then(|rest| rest.strip_suffix(ANYWHERE))
    {
        Some(inner) => build(inner),
        None => build(&format!(r"\A(?:{pattern})\z")),
    }
}

/// Over bytes; with letters of Unicode only if it cannot do without.
fn build(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    let build = |unicode: bool| {
        regex::bytes::RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .build()
    };
    build(false).or_else(|_| build(true))
}

pub(crate) fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    last.trim().trim_start_matches("error: ").to_owned()
}

/// A whole number in decimal or hexadecimal.
pub(crate) fn number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        Some(hexadecimal) if !hexadecimal.starts_with(['+', '-']) => i64::from_str_radix(hexadecimal, 16).ok()?,
        Some(_) => return None,
        None => digits.parse().ok()?,
    };
    Some(if negative { -value } else { value })
}

/// Yes or no.
pub(crate) fn flag(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "1" => Some(true),
        "false" | "False" | "FALSE" | "0" => Some(false),
        _ => None,
    }
}

/// A path prefix without slashes at its end.
fn normal_path(path: &[u8]) -> Box<[u8]> {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    match end {
        0 if !path.is_empty() => b"/"[..].into(),
        end => path[..end].into(),
    }
}

/// Bytes written as pairs of hexadecimal digits, at least one.
fn hexadecimal(text: &str) -> Option<Box<[u8]>> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    (!pairs.is_empty()).then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(hexadecimal("0aFF").as_deref(), Some(&[0x0a, 0xff][..]));
        for text in ["", "0", "0a0", "0g", "é"] {
            assert_eq!(hexadecimal(text), None, "{text}");
        }
    }

    #[test]
    fn numbers() {
        for (text, expected) in [
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("+5", Some(5)),
            ("0x1F", Some(31)),
            ("5000000000", Some(5_000_000_000)),
            ("", None),
            ("--1", None),
            ("0x-1", None),
            ("1.5", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }

    #[test]
    fn regular_expressions_are_anchored() {
        let matches = |pattern: &str, text: &[u8]| regex(pattern).unwrap().is_match(text);
        assert!(matches("a|b", b"b"));
        assert!(!matches("a|b", b"bb"));
        assert!(matches("[a-z]+[0-9]*", b"abc12"));
        assert!(matches(".*", &[0xff, 0xfe]));
        assert!(matches("[é]x", "éx".as_bytes()));
        assert!(regex("a)|(b").is_err());
        assert!(regex("(a{1000}){1000}").is_err());
    }
}
