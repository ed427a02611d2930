//! What rules over several events remember from one event to the next.
//!
//! Bounded: entries for each rule, and bytes for all together. What is forgotten before its time is counted. The same
//! events in the same order give the same matches: nothing here asks a clock or draws lots.

use std::collections::{BTreeMap, VecDeque};

use hashbrown::{HashMap, HashSet};

use crate::correlate::{Correlation, Distinct, Key, Measure, Pattern, distinct, number};
use crate::event::Event;

/// Most events that a match of a count shows.
const SHOWN_MAX: usize = 8;
/// Most values of a field that a percentile is taken of; the first ones count.
const SAMPLES_MAX: usize = 4096;
/// What an entry takes beside what it holds.
const ENTRY_COST: usize = 160;
/// What a value or event takes beside its bytes.
const VALUE_COST: usize = 48;

/// What is kept of an event that may become part of a match.
pub trait Evidence: Clone {
    /// How much memory it takes.
    fn bytes(&self) -> usize;
}

impl Evidence for () {
    fn bytes(&self) -> usize {
        0
    }
}

/// How much may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Processes, files, users … that one rule follows at a time.
    pub entries: usize,
    /// Bytes for all rules together.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 8192,
            bytes: 32 << 20,
        }
    }
}

/// What the limits have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Entries that were forgotten before their time.
    pub forgotten: u64,
    /// Values that were not taken into a measure, because it had too many.
    pub left_out: u64,
}

/// Everything that is remembered.
pub struct Memory<P> {
    tables: Vec<Table<P>>,
    bytes: usize,
    limits: Limits,
    counts: MemoryCounts,
    /// Numbers entries in the order in which they were last changed.
    changes: u64,
    /// Room that is used again for every event.
    pub(crate) inputs: Vec<usize>,
}

/// What one rule remembers.
struct Table<P> {
    entries: HashMap<Key, Entry<P>>,
    /// Keys in the order in which their entries were changed; of windows, opened.
    order: BTreeMap<u64, Key>,
    bytes: usize,
}

impl<P> Default for Table<P> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            bytes: 0,
        }
    }
}

struct Entry<P> {
    /// Its place in the order of changes.
    change: u64,
    /// When it was last changed; of windows, opened.
    time_ns: u64,
    bytes: usize,
    state: State<P>,
}

enum State<P> {
    /// For each step but the last: the chain up to it that began latest.
    Chains(Vec<Option<Chain<P>>>),
    /// For each step that was met: when that last was, and the event. In the order of arrival.
    Latest(Vec<(usize, u64, P)>),
    /// Times and weights.
    Count {
        events: VecDeque<(u64, u64)>,
        total: u64,
        shown: Vec<(u64, P)>,
    },
    /// When each value was last seen.
    Distinct {
        values: HashMap<Key, u64>,
        shown: Vec<(u64, P)>,
    },
    Window(Window<P>),
}

#[derive(Clone)]
struct Chain<P> {
    start_ns: u64,
    events: Vec<P>,
}

struct Window<P> {
    count: u64,
    values: HashSet<Key>,
    sum: f64,
    samples: Vec<f64>,
    measured: u64,
    shown: Vec<P>,
}

impl<P: Evidence> Default for Memory<P> {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl<P: Evidence> Memory<P> {
    /// Nothing remembered yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            tables: Vec::new(),
            bytes: 0,
            limits,
            counts: MemoryCounts::default(),
            changes: 0,
            inputs: Vec::new(),
        }
    }

    /// How many processes, files, users … are being followed.
    pub fn entries(&self) -> usize {
        self.tables.iter().map(|table| table.entries.len()).sum()
    }

    /// How much memory that takes, by a careful estimate.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the limits have cost so far.
    pub fn counts(&self) -> MemoryCounts {
        self.counts
    }

    pub(crate) fn make_room_for(&mut self, rules: usize) {
        if self.tables.len() < rules {
            self.tables.resize_with(rules, Table::default);
        }
    }

    /// Takes what is remembered to the rules of another ruleset: `kept` says for each rule of it which one it was. What has
    /// no place there is forgotten, and counted.
    pub(crate) fn carry_over(&mut self, kept: &[Option<usize>]) {
        let mut old = std::mem::take(&mut self.tables);
        self.tables = kept
            .iter()
            .map(|from| {
                from.and_then(|from| old.get_mut(from))
                    .map(std::mem::take)
                    .unwrap_or_default()
            })
            .collect();
        self.counts.forgotten += old.iter().map(|table| table.entries.len() as u64).sum::<u64>();
        self.bytes = self.tables.iter().map(|table| table.bytes).sum();
    }

    /// Takes in an event that matches these steps of a rule, in order; if the rule matches now, yields the earlier events
    /// that it matches with.
    pub(crate) fn take_in<E: Event + ?Sized>(
        &mut self,
        number: usize,
        correlation: &Correlation,
        (event, steps): (&E, &[usize]),
        keep: &mut dyn FnMut() -> P,
    ) -> Option<Vec<P>> {
        let now = event.time_ns();
        let mut matched: Option<Vec<P>> = None;
        let mut by_key: Vec<(Key, Vec<usize>)> = Vec::new();
        for step in steps {
            for (generation, key) in correlation.keys(event, *step).into_iter().enumerate() {
                // Who begins is followed by its own name only.
                if generation > 0 && *step == 0 && correlation.descends() {
                    break;
                }
                match by_key.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, steps)) => steps.push(*step),
                    None => by_key.push((key, vec![*step])),
                }
            }
        }
        for (key, steps) in by_key {
            let (mut entry, is_new) = match self.take(number, &key) {
                Some(entry) => (entry, false),
                None if begins(correlation, &steps) => (Entry::new(correlation, now), true),
                None => continue,
            };
            let events = entry.take_in(correlation, (event, &steps), keep, &mut self.counts);
            if let Some(events) = events {
                // Events are used up by a match; the nearest key tells.
                matched.get_or_insert(events);
                continue;
            }
            if is_new || !correlation.is_late() {
                self.changes += 1;
                entry.change = self.changes;
                entry.time_ns = entry.time_ns.max(now);
            }
            self.put(number, key, entry);
        }
        self.drop_stale(number, correlation, now);
        self.fit(number);
        matched
    }

    /// Drops what can be part of no match any more.
    fn drop_stale(&mut self, number: usize, correlation: &Correlation, now: u64) {
        while !correlation.is_late()
            && let Some((key, time_ns)) = self.oldest(number)
            && time_ns.saturating_add(correlation.within_ns) < now
        {
            self.take(number, &key);
        }
    }

    /// Takes out the oldest window whose time has passed, with whether it is a match and its events.
    pub(crate) fn take_window(&mut self, number: usize, correlation: &Correlation, now: u64) -> Option<Option<Vec<P>>> {
        let (key, opened_ns) = self.oldest(number)?;
        if opened_ns.saturating_add(correlation.within_ns) >= now {
            return None;
        }
        let entry = self.take(number, &key)?;
        let Pattern::Window { measure, bounds } = &correlation.pattern else {
            return None;
        };
        let State::Window(window) = entry.state else {
            return None;
        };
        let holds = window
            .measured(measure)
            .is_some_and(|measured| bounds.iter().all(|bound| bound.holds(measured)));
        Some(holds.then_some(window.shown))
    }

    fn oldest(&self, number: usize) -> Option<(Key, u64)> {
        let table = self.tables.get(number)?;
        let (_, key) = table.order.first_key_value()?;
        Some((key.clone(), table.entries.get(key)?.time_ns))
    }

    fn take(&mut self, number: usize, key: &Key) -> Option<Entry<P>> {
        let table = &mut self.tables[number];
        let entry = table.entries.remove(key)?;
        table.order.remove(&entry.change);
        table.bytes -= entry.bytes;
        self.bytes -= entry.bytes;
        Some(entry)
    }

    fn put(&mut self, number: usize, key: Key, mut entry: Entry<P>) {
        entry.bytes = entry.state.bytes() + 2 * key.len() + ENTRY_COST;
        let table = &mut self.tables[number];
        table.bytes += entry.bytes;
        self.bytes += entry.bytes;
        table.order.insert(entry.change, key.clone());
        table.entries.insert(key, entry);
    }

    /// Makes the entries fit: the oldest of this rule go first, then the oldest of the rule that takes most.
    fn fit(&mut self, number: usize) {
        while self.tables[number].entries.len() > self.limits.entries {
            self.forget_oldest(number);
        }
        while self.bytes > self.limits.bytes {
            let mut largest = 0;
            for (at, table) in self.tables.iter().enumerate() {
                if table.bytes > self.tables[largest].bytes {
                    largest = at;
                }
            }
            self.forget_oldest(largest);
        }
    }

    fn forget_oldest(&mut self, number: usize) {
        if let Some((key, _)) = self.oldest(number) {
            self.take(number, &key);
            self.counts.forgotten += 1;
        }
    }
}

/// Whether an event of these steps can begin something.
fn begins(correlation: &Correlation, steps: &[usize]) -> bool {
    match correlation.pattern {
        Pattern::Ordered => steps.contains(&0),
        Pattern::Unordered | Pattern::Count { .. } | Pattern::Distinct { .. } | Pattern::Window { .. } => true,
    }
}

impl<P: Evidence> Entry<P> {
    fn new(correlation: &Correlation, now: u64) -> Self {
        let state = match &correlation.pattern {
            Pattern::Ordered => State::Chains(vec![None; correlation.steps - 1]),
            Pattern::Unordered => State::Latest(Vec::new()),
            Pattern::Count { .. } => State::Count {
                events: VecDeque::new(),
                total: 0,
                shown: Vec::new(),
            },
            Pattern::Distinct { .. } => State::Distinct {
                values: HashMap::new(),
                shown: Vec::new(),
            },
            Pattern::Window { .. } => State::Window(Window {
                count: 0,
                values: HashSet::new(),
                sum: 0.0,
                samples: Vec::new(),
                measured: 0,
                shown: Vec::new(),
            }),
        };
        Self {
            change: 0,
            time_ns: now,
            bytes: 0,
            state,
        }
    }

    fn take_in<E: Event + ?Sized>(
        &mut self,
        correlation: &Correlation,
        (event, steps): (&E, &[usize]),
        keep: &mut dyn FnMut() -> P,
        counts: &mut MemoryCounts,
    ) -> Option<Vec<P>> {
        let (now, within) = (event.time_ns(), correlation.within_ns);
        let is_within = |time: u64| now.saturating_sub(time) <= within;
        match (&mut self.state, &correlation.pattern) {
            (State::Chains(chains), Pattern::Ordered) => go_on(chains, steps, now, within, keep),
            (State::Latest(latest), Pattern::Unordered) => {
                latest.retain(|(step, time, _)| is_within(*time) && !steps.contains(step));
                if latest.len() + steps.len() == correlation.steps {
                    return Some(latest.drain(..).map(|(.., event)| event).collect());
                }
                latest.extend(steps.iter().map(|step| (*step, now, keep())));
                None
            }
            (State::Count { events, total, shown }, Pattern::Count { at_least }) => {
                while let Some((_, weight)) = events.pop_front_if(|(time, _)| !is_within(*time)) {
                    *total -= weight;
                }
                // One match counts for each step: for each rule that it is a match of.
                let weight = event.weight().saturating_mul(steps.len() as u64).min(*at_least);
                *total += weight;
                shown.retain(|(time, _)| is_within(*time));
                if *total >= *at_least {
                    return Some(shown.drain(..).map(|(_, event)| event).collect());
                }
                events.push_back((now, weight));
                show(shown, now, keep);
                None
            }
            (State::Distinct { values, shown }, Pattern::Distinct { of, at_least }) => {
                let mut is_new = false;
                for step in steps {
                    if let Some(value) = distinct(of, event, *step) {
                        is_new |= values.insert(value, now).is_none_or(|time| !is_within(time));
                    }
                }
                let enough = |count: usize| count as u64 >= *at_least;
                if enough(values.len()) {
                    values.retain(|_, time| is_within(*time));
                }
                shown.retain(|(time, _)| is_within(*time));
                if enough(values.len()) {
                    return Some(shown.drain(..).map(|(_, event)| event).collect());
                }
                if is_new {
                    show(shown, now, keep);
                }
                None
            }
            (State::Window(window), Pattern::Window { measure, .. }) => {
                window.take_in(measure, event, steps, counts);
                if window.shown.len() < SHOWN_MAX {
                    window.shown.push(keep());
                }
                None
            }
            // An entry is made for the pattern of its rule.
            (
                State::Chains(_) | State::Latest(_) | State::Count { .. } | State::Distinct { .. } | State::Window(_),
                _,
            ) => None,
        }
    }
}

fn show<P>(shown: &mut Vec<(u64, P)>, now: u64, keep: &mut dyn FnMut() -> P) {
    if shown.len() < SHOWN_MAX {
        shown.push((now, keep()));
    }
}

/// Of all chains up to a step the one that began latest is kept: if any can be completed in time, that one can.
fn go_on<P: Evidence>(
    chains: &mut [Option<Chain<P>>],
    steps: &[usize],
    now: u64,
    within: u64,
    keep: &mut dyn FnMut() -> P,
) -> Option<Vec<P>> {
    let mut kept: Option<P> = None;
    // The furthest first, so that one event does not serve two steps.
    for step in steps.iter().rev() {
        let before = match step.checked_sub(1) {
            None => Chain {
                start_ns: now,
                events: Vec::new(),
            },
            Some(before) => match &chains[before] {
                Some(chain) if now.saturating_sub(chain.start_ns) <= within => chain.clone(),
                Some(_) | None => continue,
            },
        };
        let Some(chain) = chains.get_mut(*step) else {
            return Some(before.events);
        };
        if chain.as_ref().is_none_or(|chain| chain.start_ns <= before.start_ns) {
            let mut longer = before;
            longer.events.push(kept.get_or_insert_with(&mut *keep).clone());
            *chain = Some(longer);
        }
    }
    None
}

impl<P: Evidence> Window<P> {
    fn take_in<E: Event + ?Sized>(&mut self, measure: &Measure, event: &E, steps: &[usize], counts: &mut MemoryCounts) {
        let mut sample = |window: &mut Self, field| {
            let Some(value) = number(event, field) else { return };
            window.measured += 1;
            window.sum += value;
            if matches!(measure, Measure::Percentile(..)) {
                if window.samples.len() < SAMPLES_MAX {
                    window.samples.push(value);
                } else {
                    counts.left_out += 1;
                }
            }
        };
        match measure {
            Measure::Count => {
                self.count = self
                    .count
                    .saturating_add(event.weight().saturating_mul(steps.len() as u64));
            }
            Measure::Distinct(of) => self.take_in_values(of, event, steps, counts),
            Measure::Sum(field) | Measure::Average(field) | Measure::Percentile(field, _) => sample(self, field),
        }
    }

    fn take_in_values<E: Event + ?Sized>(
        &mut self,
        of: &Distinct,
        event: &E,
        steps: &[usize],
        counts: &mut MemoryCounts,
    ) {
        for value in steps.iter().filter_map(|step| distinct(of, event, *step)) {
            if self.values.len() < SAMPLES_MAX {
                self.values.insert(value);
            } else if !self.values.contains(&value) {
                counts.left_out += 1;
            }
        }
    }

    /// What the window comes to; `None` when nothing could be measured.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    fn measured(&self, measure: &Measure) -> Option<f64> {
        match measure {
            Measure::Count => Some(self.count as f64),
            Measure::Distinct(_) => Some(self.values.len() as f64),
            Measure::Sum(_) => (self.measured > 0).then_some(self.sum),
            Measure::Average(_) => (self.measured > 0).then(|| self.sum / self.measured as f64),
            Measure::Percentile(_, percent) => {
                let mut samples = self.samples.clone();
                samples.sort_by(f64::total_cmp);
                // The nearest rank: the smallest value that so many of a hundred do not exceed.
                let rank = (samples.len() * usize::from(*percent)).div_ceil(100).max(1);
                samples.get(rank - 1).copied()
            }
        }
    }
}

impl<P: Evidence> State<P> {
    fn bytes(&self) -> usize {
        let shown = |shown: &[(u64, P)]| -> usize { shown.iter().map(|(_, event)| event.bytes() + VALUE_COST).sum() };
        match self {
            Self::Chains(chains) => {
                let events = chains.iter().flatten().flat_map(|chain| &chain.events);
                let bytes: usize = events.map(|event| event.bytes() + VALUE_COST).sum();
                bytes + chains.len() * VALUE_COST
            }
            Self::Latest(latest) => latest.iter().map(|(.., event)| event.bytes() + VALUE_COST).sum(),
            Self::Count {
                events, shown: some, ..
            } => events.capacity() * size_of::<(u64, u64)>() + shown(some),
            Self::Distinct { values, shown: some } => {
                let bytes: usize = values.keys().map(|value| value.len() + VALUE_COST).sum();
                bytes + shown(some)
            }
            Self::Window(window) => {
                let values: usize = window.values.iter().map(|value| value.len() + VALUE_COST).sum();
                let events: usize = window.shown.iter().map(|event| event.bytes() + VALUE_COST).sum();
                values + events + window.samples.capacity() * size_of::<f64>()
            }
        }
    }
}
