//! The bounded queue between the hot thread and the spool.
//!
//! Invariant: offering never waits for disk or network. What does not fit is counted, and the count travels to the
//! consumer as an observation gap.

use super::segment::PAYLOAD_BYTES_MAX;
use prometheus_client::metrics::counter::Counter;
use prost::Message as _;
use staghound_proto::v1::{Gap, GapReason, Item, ObservationGap, gap, item};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most items.
    pub items_max: usize,
    /// Most bytes, counted as encoded.
    pub bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            items_max: 16 * 1024,
            bytes_max: 16 * 1024 * 1024,
        }
    }
}

/// Makes a queue; `drops` counts what did not fit.
pub fn queue(limits: QueueLimits, drops: Counter) -> (AlertSink, AlertSource) {
    let shared = Arc::new(Shared {
        limits,
        drops,
        waiting: Mutex::default(),
        arrived: Condvar::new(),
    });
    let closer = Arc::new(CloseOnDrop(Arc::clone(&shared)));
    (
        AlertSink {
            shared: Arc::clone(&shared),
            _closer: closer,
        },
        AlertSource { shared },
    )
}

/// Where items are put. The queue closes when the last clone is dropped.
#[derive(Clone)]
pub struct AlertSink {
    shared: Arc<Shared>,
    _closer: Arc<CloseOnDrop>,
}

impl AlertSink {
    /// Puts an item into the queue; false when it did not fit and was counted instead.
    pub fn offer(&self, item: Item) -> bool {
        let bytes = item.encoded_len();
        let limits = self.shared.limits;
        let mut waiting = self.shared.lock();
        if bytes > PAYLOAD_BYTES_MAX
            || waiting.closed
            || waiting.items.len() >= limits.items_max
            || waiting.bytes.saturating_add(bytes) > limits.bytes_max
        {
            let now = SystemTime::now();
            waiting.lost = Some(match waiting.lost.take() {
                Some(lost) => Lost {
                    count: lost.count + 1,
                    to: now,
                    ..lost
                },
                None => Lost {
                    count: 1,
                    from: now,
                    to: now,
                },
            });
            self.shared.drops.inc();
            return false;
        }
        let was_empty = waiting.items.is_empty();
        waiting.bytes += bytes;
        waiting.items.push_back((bytes, item));
        drop(waiting);
        if was_empty {
            self.shared.arrived.notify_one();
        }
        true
    }
}

/// Where items are taken.
pub struct AlertSource {
    shared: Arc<Shared>,
}

/// What was taken from the queue.
pub struct Taken {
    /// Items in the order they were offered; a gap at the end when some did not fit.
    pub items: Vec<Item>,
    /// True when nothing can come any more.
    pub ended: bool,
}

impl AlertSource {
    /// Takes up to `items_max` items and `bytes_max` bytes (at least one item), waiting until there is one, the queue
    /// closed or the time passed.
    pub fn take(&self, items_max: usize, bytes_max: usize, timeout: Duration) -> Taken {
        let deadline = Instant::now() + timeout;
        let mut waiting = self.shared.lock();
        while waiting.items.is_empty() && waiting.lost.is_none() && !waiting.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (waiting, _) = self
                .shared
                .arrived
                .wait_timeout(waiting, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let (mut items, mut bytes) = (Vec::new(), 0_usize);
        while items.len() < items_max {
            let Some((next, _)) = waiting.items.front() else { break };
            if !items.is_empty() && bytes.saturating_add(*next) > bytes_max {
                break;
            }
            let Some((next, item)) = waiting.items.pop_front() else {
                break;
            };
            bytes = bytes.saturating_add(next);
            waiting.bytes -= next;
            items.push(item);
        }
        if let Some(lost) = waiting.lost.take() {
            items.push(lost.gap());
        }
        Taken {
            ended: waiting.closed && waiting.items.is_empty(),
            items,
        }
    }

    /// Whether every sink is gone; items may still wait.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().closed
    }
}

impl Drop for AlertSource {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
    }
}

struct Shared {
    limits: QueueLimits,
    drops: Counter,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Shared {
    /// A panic elsewhere leaves the queue as it was between two items, so that the lock is as good as before.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Waiting {
    items: VecDeque<(usize, Item)>,
    bytes: usize,
    lost: Option<Lost>,
    closed: bool,
}

struct Lost {
    count: u64,
    from: SystemTime,
    to: SystemTime,
}

impl Lost {
    fn gap(&self) -> Item {
        observation_gap(ObservationGap {
            from: Some(self.from.into()),
            to: Some(self.to.into()),
            hook: String::new(),
            count: self.count,
            reason: GapReason::QueueFull.into(),
        })
    }
}

/// The item that tells of an observation gap.
pub fn observation_gap(gap: ObservationGap) -> Item {
    Item {
        kind: Some(item::Kind::Gap(Gap {
            kind: Some(gap::Kind::Observation(gap)),
        })),
    }
}

struct CloseOnDrop(Arc<Shared>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.arrived.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_proto::v1::RunRecord;

    fn item(id: &str) -> Item {
        Item {
            kind: Some(item::Kind::Run(RunRecord {
                run_id: id.to_owned(),
                ..RunRecord::default()
            })),
        }
    }

    #[test]
    fn what_does_not_fit_becomes_a_gap() {
        let drops = Counter::default();
        let (sink, source) = queue(
            QueueLimits {
                items_max: 2,
                bytes_max: 1000,
            },
            drops.clone(),
        );
        assert_eq!(
            ["a", "b", "c", "d"].map(|id| sink.offer(item(id))),
            [true, true, false, false]
        );
        let taken = source.take(10, 1000, Duration::ZERO);
        assert_eq!(taken.items[..2], [item("a"), item("b")]);
        let Some(item::Kind::Gap(Gap {
            kind: Some(gap::Kind::Observation(gap)),
        })) = &taken.items[2].kind
        else {
            panic!("no gap: {:?}", taken.items)
        };
        assert_eq!((gap.count, gap.reason()), (2, GapReason::QueueFull));
        assert_eq!(drops.get(), 2);
        assert!(sink.offer(item("e")), "there is room again");
        assert_eq!(
            source.take(10, 1000, Duration::ZERO).items,
            [item("e")],
            "a gap is told once"
        );
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (sink, _source) = queue(
            QueueLimits {
                items_max: 100,
                bytes_max: 30,
            },
            Counter::default(),
        );
        assert!(sink.offer(item("0123456789")));
        assert!(sink.offer(item("0123456789")));
        assert!(!sink.offer(item("0123456789")));
        let (sink, _source) = queue(
            QueueLimits {
                items_max: 9,
                bytes_max: usize::MAX,
            },
            Counter::default(),
        );
        assert!(
            !sink.offer(item(&"x".repeat(PAYLOAD_BYTES_MAX))),
            "an item no frame can hold is refused"
        );
    }

    #[test]
    fn the_queue_ends_when_its_last_sink_is_gone() {
        let (sink, source) = queue(QueueLimits::default(), Counter::default());
        let other = sink.clone();
        other.offer(item("a"));
        other.offer(item("b"));
        drop(sink);
        assert!(!source.take(1, 1000, Duration::ZERO).ended);
        drop(other);
        let taken = source.take(9, 1000, Duration::from_secs(60));
        assert_eq!((taken.items, taken.ended), (vec![item("b")], true));
    }

    #[test]
    fn offers_after_the_source_is_gone_are_counted() {
        let drops = Counter::default();
        let (sink, source) = queue(QueueLimits::default(), drops.clone());
        drop(source);
        assert!(!sink.offer(item("a")));
        assert_eq!(drops.get(), 1);
    }
}
