//! Who delivered: what each agent said of itself, what came of it, and how much of the store it has.

use super::AgentRecord;
use crate::sequence::Placed;
use staghound_proto::v1::Hello;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Most agents that are remembered; beyond, those not heard of for longest are forgotten. Their items and watermarks
/// stay.
const AGENTS_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Agents {
    all: HashMap<Arc<str>, Agent>,
}

struct Agent {
    record: AgentRecord,
    /// Counters as of the last sealed segment; those of the active one are counted again when it is read at open.
    sealed: Counts,
    /// Bytes in the store.
    bytes: u64,
    changed: bool,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    items: u64,
    sequence_gaps: u64,
    lost_items: u64,
    observation_gaps: u64,
}

impl Agents {
    pub(super) fn new(records: Vec<AgentRecord>) -> Self {
        let agent = |record: AgentRecord| {
            let sealed = Counts {
                items: record.items,
                sequence_gaps: record.sequence_gaps,
                lost_items: record.lost_items,
                observation_gaps: record.observation_gaps,
            };
            let agent = Agent {
                sealed,
                bytes: 0,
                changed: false,
                record,
            };
            (Arc::from(agent.record.agent_id.as_str()), agent)
        };
        Self {
            all: records.into_iter().map(agent).collect(),
        }
    }

    fn of(&mut self, agent_id: &str, now_s: i64) -> &mut Agent {
        if !self.all.contains_key(agent_id) {
            let record = AgentRecord {
                agent_id: agent_id.to_owned(),
                first_seen_s: now_s,
                last_seen_s: now_s,
                ..AgentRecord::default()
            };
            let agent = Agent {
                record,
                sealed: Counts::default(),
                bytes: 0,
                changed: true,
            };
            self.all.insert(agent_id.into(), agent);
        }
        self.all.get_mut(agent_id).expect("it is there or was just put there")
    }

    pub(super) fn greeted(&mut self, hello: Hello, through: u64, now_s: i64) {
        let agent = self.of(&hello.agent_id, now_s);
        agent.record.through = through;
        agent.record.last_seen_s = now_s;
        agent.record.hello = Some(hello);
        agent.changed = true;
    }

    pub(super) fn stored(&mut self, agent_id: &str, bytes: u64, now_s: i64) {
        let agent = self.of(agent_id, now_s);
        agent.bytes += bytes;
    }

    pub(super) fn removed(&mut self, agent_id: &str, bytes: u64) {
        if let Some(agent) = self.all.get_mut(agent_id) {
            agent.bytes = agent.bytes.saturating_sub(bytes);
        }
    }

    /// Counts what an agent delivered.
    pub(super) fn delivered(&mut self, agent_id: &str, counts: Delivered, now_s: i64) {
        let record = &mut self.of(agent_id, now_s).record;
        record.last_seen_s = record.last_seen_s.max(now_s);
        record.items += counts.items;
        record.sequence_gaps += counts.sequence_gaps;
        record.lost_items = record.lost_items.saturating_add(counts.lost_items);
        record.observation_gaps += counts.observation_gaps;
        record.through = counts.through;
        if counts.sequence_gaps + counts.observation_gaps > 0 {
            record.last_gap_s = now_s;
        }
    }

    /// What is to be written when a segment is sealed: everyone, with the counters as they are now.
    pub(super) fn seal(&mut self) -> Vec<AgentRecord> {
        let seal = |agent: &mut Agent| {
            let record = &agent.record;
            agent.changed = false;
            agent.sealed = Counts {
                items: record.items,
                sequence_gaps: record.sequence_gaps,
                lost_items: record.lost_items,
                observation_gaps: record.observation_gaps,
            };
            record.clone()
        };
        self.all.values_mut().map(seal).collect()
    }

    /// What is to be written in between: those who said something new, with counters as of the last sealed segment.
    pub(super) fn changed(&mut self) -> Vec<AgentRecord> {
        let changed = self.all.values_mut().filter(|agent| agent.changed);
        let record = |agent: &mut Agent| {
            agent.changed = false;
            AgentRecord {
                items: agent.sealed.items,
                sequence_gaps: agent.sealed.sequence_gaps,
                lost_items: agent.sealed.lost_items,
                observation_gaps: agent.sealed.observation_gaps,
                ..agent.record.clone()
            }
        };
        changed.map(record).collect()
    }

    pub(super) fn records(&self) -> Vec<AgentRecord> {
        let mut records: Vec<_> = self.all.values().map(|agent| agent.record.clone()).collect();
        records.sort_unstable_by(|a, b| a.agent_id.cmp(&b.agent_id));
        records
    }

    /// Those who have more than so many bytes in the store.
    pub(super) fn with_more_than(&self, bytes: u64) -> HashSet<Arc<str>> {
        let large = self.all.iter().filter(|(_, agent)| agent.bytes > bytes);
        large.map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Forgets those not heard of for longest while there are too many; gives their ids.
    pub(super) fn forget(&mut self) -> Vec<Arc<str>> {
        let surplus = self.all.len().saturating_sub(AGENTS_MAX);
        if surplus == 0 {
            return Vec::new();
        }
        let mut ids: Vec<_> = self
            .all
            .iter()
            .map(|(id, agent)| (agent.record.last_seen_s, Arc::clone(id)))
            .collect();
        ids.sort_unstable();
        ids.truncate(surplus);
        ids.iter().for_each(|(_, id)| drop(self.all.remove(id)));
        ids.into_iter().map(|(_, id)| id).collect()
    }
}

/// What one batch brought.
#[derive(Clone, Copy, Default)]
pub(super) struct Delivered {
    pub(super) items: u64,
    pub(super) sequence_gaps: u64,
    pub(super) lost_items: u64,
    pub(super) observation_gaps: u64,
    pub(super) through: u64,
}

impl Delivered {
    pub(super) fn count(items: &[Placed]) -> Self {
        let mut counts = Self::default();
        for placed in items {
            counts.items += 1;
            counts.through = placed.to;
            if placed.is_sequence_gap() {
                counts.sequence_gaps += 1;
                counts.lost_items = counts.lost_items.saturating_add(placed.to - placed.from + 1);
            }
            counts.observation_gaps += u64::from(placed.is_observation_gap());
        }
        counts
    }
}
