//! Rules over several events: what is counted, within what time, and what the events must have in common.

use std::fmt;

use crate::event::{Event, Subject, Value, identity_of};
use crate::field::{FieldRef, Shape};
use crate::ir::Order;

/// Most steps of a sequence, and most rules that one rule counts.
pub(crate) const STEPS_MAX: usize = 4096;
/// Most events that a rule may count before it matches.
pub(crate) const COUNT_MAX: u64 = 100_000;
/// Most distinct values that a rule may count before it matches.
pub(crate) const DISTINCT_MAX: u64 = 1000;
/// Most generations of `lineage[n]`.
pub(crate) const GENERATIONS_MAX: usize = 16;
/// How far up the one who began is looked for.
const DESCENT_MAX: usize = 64;
/// Longer values are told apart by a digest.
const VALUE_BYTES_MAX: usize = 256;

/// What a rule over several events looks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Correlation {
    /// Number of its rule.
    pub(crate) rule: usize,
    pub(crate) pattern: Pattern,
    pub(crate) within_ns: u64,
    pub(crate) by: Box<[Join]>,
    pub(crate) steps: usize,
}

/// How the events must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pattern {
    /// One for each step, in this order.
    Ordered,
    /// One for each step, in any order; one event may serve several.
    Unordered,
    /// So many, whichever the step.
    Count { at_least: u64 },
    /// With so many distinct values.
    Distinct { of: Distinct, at_least: u64 },
    /// Judged when the time is over, which begins with the first.
    Window { measure: Measure, bounds: Box<[Bound]> },
}

/// What must differ.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Distinct {
    /// The step, that is the rule that matched.
    Step,
    /// The values of these, taken together; of each the first field that an event has.
    Fields(Box<[Box<[FieldRef]>]>),
}

/// What is measured over a window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Measure {
    Count,
    Distinct(Distinct),
    Sum(FieldRef),
    Average(FieldRef),
    /// The value that so many of a hundred do not exceed.
    Percentile(FieldRef, u8),
}

/// What a measure must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    Equal(f64),
    NotEqual(f64),
    Order(Order, f64),
}

impl Bound {
    pub(crate) fn holds(self, measured: f64) -> bool {
        match self {
            Self::Equal(wanted) => measured.total_cmp(&wanted).is_eq(),
            Self::NotEqual(other) => measured.total_cmp(&other).is_ne(),
            Self::Order(order, other) => order.holds(measured.total_cmp(&other)),
        }
    }
}

/// What the events must have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// The same subject.
    Subject(Subject),
    /// A common ancestor so many generations up, or fewer.
    Generations(usize),
    /// Later ones are of the process of the first step, or of what comes of it.
    Descent,
    /// The same value of a field: of the first of these that an event has.
    Fields(Box<[FieldRef]>),
    /// The same value, of other fields for each step.
    Aliased(Box<[Box<[FieldRef]>]>),
}

impl fmt::Display for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => f.write_str(match subject {
                Subject::Process => "process",
                Subject::Lineage => "lineage",
                Subject::File => "file",
                Subject::Container => "container",
                Subject::Run => "run",
                Subject::User => "user",
            }),
            Self::Generations(generations) => write!(f, "lineage[{generations}]"),
            Self::Descent => f.write_str("descent"),
            Self::Fields(fields) => f.write_str(&shown(fields)),
            Self::Aliased(steps) => {
                let steps: Vec<String> = steps.iter().map(|fields| shown(fields)).collect();
                f.write_str(&steps.join(" = "))
            }
        }
    }
}

/// Fields of which the first counts that an event has.
pub(crate) fn shown(fields: &[FieldRef]) -> String {
    fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("|")
}

/// What an event belongs to: it is looked at together with those of an equal key.
pub(crate) type Key = Box<[u8]>;

impl Correlation {
    /// The keys of an event that matches a step, nearest ancestor first; none when it lacks what the key is made of.
    ///
    /// With [`Join::Descent`] the first is for those who begin, all are for those who go on.
    pub(crate) fn keys<E: Event + ?Sized>(&self, event: &E, step: usize) -> Vec<Key> {
        let mut common = Vec::new();
        let mut processes: Option<usize> = None;
        for join in &self.by {
            match join {
                Join::Subject(subject) => match event.identity(*subject) {
                    Some(identity) => common.extend_from_slice(&identity.to_le_bytes()),
                    None => return Vec::new(),
                },
                Join::Generations(generations) => processes = Some(*generations),
                Join::Descent => processes = Some(DESCENT_MAX),
                Join::Fields(fields) => {
                    if !first_value(event, fields, &mut common) {
                        return Vec::new();
                    }
                }
                Join::Aliased(steps) => {
                    if !steps
                        .get(step)
                        .is_some_and(|fields| first_value(event, fields, &mut common))
                    {
                        return Vec::new();
                    }
                }
            }
        }
        let Some(generations) = processes else {
            return vec![common.into()];
        };
        let Some(own) = event.identity(Subject::Process) else {
            return Vec::new();
        };
        let key = |identity: u128| -> Key { [&common[..], &identity.to_le_bytes()].concat().into() };
        let mut keys = vec![key(own)];
        event.ancestry(&mut |ancestor| {
            let more = keys.len() <= generations;
            if more {
                keys.push(key(ancestor));
            }
            more
        });
        keys
    }

    /// Whether who goes on must come of who began.
    pub(crate) fn descends(&self) -> bool {
        self.by.contains(&Join::Descent)
    }

    /// Whether it is judged only when its time has passed: no event is there then.
    pub(crate) fn is_late(&self) -> bool {
        matches!(self.pattern, Pattern::Window { .. })
    }
}

/// What of an event must differ; `None` when it lacks it.
pub(crate) fn distinct<E: Event + ?Sized>(of: &Distinct, event: &E, step: usize) -> Option<Key> {
    let mut bytes = Vec::new();
    match of {
        Distinct::Step => bytes.extend_from_slice(&step.to_le_bytes()),
        Distinct::Fields(fields) => {
            if !fields.iter().all(|fields| first_value(event, fields, &mut bytes)) {
                return None;
            }
        }
    }
    Some(bytes.into())
}

fn first_value<E: Event + ?Sized>(event: &E, fields: &[FieldRef], into: &mut Vec<u8>) -> bool {
    fields.iter().any(|field| value(event, field, into))
}

/// Appends the value of a field, of a list the first, so that different values give different bytes; whether there is one.
pub(crate) fn value<E: Event + ?Sized>(event: &E, field: &FieldRef, into: &mut Vec<u8>) -> bool {
    let mut found = false;
    let mut append = |value: Value<'_>| {
        found = true;
        match value {
            Value::Text(text) if text.len() > VALUE_BYTES_MAX => {
                into.push(b'd');
                into.extend_from_slice(&identity_of(text).to_le_bytes());
            }
            Value::Text(text) => {
                into.push(b't');
                into.extend_from_slice(&text.len().to_le_bytes());
                into.extend_from_slice(text);
            }
            Value::Number(number) => {
                into.push(b'n');
                into.extend_from_slice(&number.to_le_bytes());
            }
            Value::Flag(flag) => into.extend_from_slice(if flag { b"y" } else { b"f" }),
            Value::Address(address) => {
                into.push(b'a');
                into.extend_from_slice(address.to_canonical().to_string().as_bytes());
                into.push(0);
            }
        }
        false
    };
    match field.shape() {
        Shape::Single => {
            if let Some(value) = event.value(field) {
                append(value);
            }
        }
        Shape::List | Shape::Either => event.each(field, &mut append),
    }
    found
}

/// A value that can be added up.
pub(crate) fn number<E: Event + ?Sized>(event: &E, field: &FieldRef) -> Option<f64> {
    match event.value(field)? {
        #[expect(
            clippy::cast_precision_loss,
            reason = "measures are not exact to the last of 53 bits"
        )]
        Value::Number(number) => Some(number as f64),
        Value::Text(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
        Value::Flag(_) | Value::Address(_) => None,
    }
}
