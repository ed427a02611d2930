//! Alerts that repeat, held back and told together.
//!
//! Nothing vanishes: what is held back is told when its period ends, when there is no room for it any more, or at the end;
//! each alert that is told says how many it stands for beside itself.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::correlate;
use crate::event::Event;
use crate::ruleset::{Rule, Throttle};

/// Most pairs of a rule and values that are counted at a time; beyond, the oldest is told before its time.
pub const ENTRIES_MAX: usize = 4096;

/// What is counted and held back.
pub struct Throttles<T> {
    entries: HashMap<Box<[u8]>, Entry<T>>,
    /// Keys in the order in which their periods began.
    order: BTreeMap<u64, Box<[u8]>>,
    begun: u64,
    limit: usize,
}

struct Entry<T> {
    number: u64,
    ends_ns: u64,
    passed: u32,
    /// The first that was held back, and how many were.
    held: Option<(T, u64)>,
}

impl<T> Default for Throttles<T> {
    fn default() -> Self {
        Self::new(ENTRIES_MAX)
    }
}

impl<T> Throttles<T> {
    /// Nothing counted yet; at most so many at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            entries: HashMap::new(),
            order: BTreeMap::new(),
            begun: 0,
            limit: limit.max(1),
        }
    }

    /// Offers an alert of a rule for an event. `tell` gets what is to be told now, with the number of alerts that each
    /// stands for beside itself; `make` is asked for the alert when it is told or is the first that is held back.
    pub fn offer<E: Event + ?Sized>(
        &mut self,
        rule: &Rule,
        event: &E,
        make: impl FnOnce() -> T,
        tell: &mut dyn FnMut(T, u64),
    ) {
        let Some(throttle) = &rule.throttle else {
            return tell(make(), 0);
        };
        let now = event.time_ns();
        let key = key(rule, throttle, event);
        if self.entries.get(&key).is_some_and(|entry| entry.ends_ns <= now) {
            self.end(&key, tell);
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            while self.entries.len() >= self.limit
                && let Some(oldest) = self.order.first_key_value().map(|(_, key)| key.clone())
            {
                self.end(&oldest, tell);
            }
            self.begun += 1;
            self.order.insert(self.begun, key.clone());
            let entry = Entry {
                number: self.begun,
                ends_ns: now.saturating_add(throttle.every_ms.saturating_mul(1_000_000)),
                passed: 1,
                held: None,
            };
            self.entries.insert(key, entry);
            return tell(make(), 0);
        };
        if entry.passed < throttle.limit {
            entry.passed += 1;
            return tell(make(), 0);
        }
        match &mut entry.held {
            Some((_, count)) => *count += 1,
            held @ None => *held = Some((make(), 1)),
        }
    }

    /// Tells what was held back in periods that have ended.
    pub fn pass_time(&mut self, now_ns: u64, tell: &mut dyn FnMut(T, u64)) {
        let ended: Vec<Box<[u8]>> = self
            .order
            .values()
            .filter(|key| self.entries.get(*key).is_some_and(|entry| entry.ends_ns <= now_ns))
            .cloned()
            .collect();
        for key in ended {
            self.end(&key, tell);
        }
    }

    /// Tells all that is held back: nobody will ask later.
    pub fn finish(&mut self, tell: &mut dyn FnMut(T, u64)) {
        self.pass_time(u64::MAX, tell);
    }

    fn end(&mut self, key: &[u8], tell: &mut dyn FnMut(T, u64)) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.number);
            if let Some((first, count)) = entry.held {
                tell(first, count - 1);
            }
        }
    }
}

fn key<E: Event + ?Sized>(rule: &Rule, throttle: &Throttle, event: &E) -> Box<[u8]> {
    let mut key = rule.id.as_bytes().to_vec();
    key.push(0);
    for field in &throttle.by {
        // A value that is missing is one of its own.
        if !correlate::value(event, field, &mut key) {
            key.push(0);
        }
    }
    key.into()
}
