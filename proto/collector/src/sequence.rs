//! The arithmetic of exactly-once: which sequences a batch covers, and what of it is new. No I/O.

use prost::Message as _;
use staghound_proto::v1::{Gap, Item, SequenceGap, gap, item};

/// An item in its place: it covers `from..=to`, which is one sequence for all but sequence gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// For a sequence gap its reason, to be able to shorten it.
    gap_reason: Option<i32>,
    observation_gap: bool,
    /// The encoded `Item`.
    pub(crate) encoded: Vec<u8>,
}

impl Placed {
    pub(crate) fn is_sequence_gap(&self) -> bool {
        self.gap_reason.is_some()
    }

    pub(crate) fn is_observation_gap(&self) -> bool {
        self.observation_gap
    }

    /// A sequence gap without what is before `from`.
    fn shortened(self, from: u64) -> Self {
        let Some(reason) = self.gap_reason else {
            return self;
        };
        let sequence = SequenceGap {
            from,
            to: self.to,
            reason,
        };
        let item = Item {
            kind: Some(item::Kind::Gap(Gap {
                kind: Some(gap::Kind::Sequence(sequence)),
            })),
        };
        Self {
            from,
            encoded: item.encode_to_vec(),
            ..self
        }
    }
}

/// Why a batch makes no sense, whatever the collector already has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadBatch {
    #[error("the batch is empty; send at least one item")]
    Empty,
    #[error("the batch begins at sequence 0; sequences begin at 1")]
    Zero,
    #[error("the batch reaches the end of all sequences; begin a new epoch")]
    Overflow,
    #[error("the item at sequence {0} is of a kind this collector does not know; update the collector")]
    UnknownKind(u64),
    #[error("the sequence gap in the place of sequence {place} says from {from}; it must begin at its place")]
    Displaced { place: u64, from: u64 },
    #[error("the sequence gap at sequence {from} ends before it begins, at {to}; a gap covers from..=to")]
    Backwards { from: u64, to: u64 },
}

/// Gives every item of a batch its place.
pub(crate) fn place(first: u64, items: &[Item]) -> Result<Vec<Placed>, BadBatch> {
    if items.is_empty() {
        return Err(BadBatch::Empty);
    }
    if first == 0 {
        return Err(BadBatch::Zero);
    }
    let mut due = first;
    let mut placed = Vec::with_capacity(items.len());
    for item in items {
        let (to, gap_reason, observation_gap) = match &item.kind {
            None | Some(item::Kind::Gap(Gap { kind: None })) => return Err(BadBatch::UnknownKind(due)),
            Some(item::Kind::Gap(Gap {
                kind: Some(gap::Kind::Sequence(gap)),
            })) => {
                if gap.from != due {
                    return Err(BadBatch::Displaced {
                        place: due,
                        from: gap.from,
                    });
                }
                if gap.to < gap.from {
                    return Err(BadBatch::Backwards {
                        from: gap.from,
                        to: gap.to,
                    });
                }
                (gap.to, Some(gap.reason), false)
            }
            Some(item::Kind::Gap(Gap {
                kind: Some(gap::Kind::Observation(_)),
            })) => (due, None, true),
            Some(item::Kind::Alert(_) | item::Kind::Run(_)) => (due, None, false),
        };
        placed.push(Placed {
            from: due,
            to,
            gap_reason,
            observation_gap,
            encoded: item.encode_to_vec(),
        });
        due = to.checked_add(1).ok_or(BadBatch::Overflow)?;
    }
    Ok(placed)
}

/// A batch that begins after the sequence that is due.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) due: u64,
    pub(crate) first: u64,
}

/// What of a batch is new to a collector that has everything through `watermark`; the rest is duplicates.
pub(crate) fn admit(watermark: u64, batch: Vec<Placed>) -> Result<Vec<Placed>, Hole> {
    let due = watermark.saturating_add(1);
    if let Some(first) = batch.first().filter(|first| first.from > due) {
        return Err(Hole { due, first: first.from });
    }
    Ok(batch
        .into_iter()
        .filter(|placed| placed.to >= due)
        .map(|placed| {
            if placed.from < due {
                placed.shortened(due)
            } else {
                placed
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use staghound_proto::v1::{Alert, GapReason, ObservationGap};

    fn alert() -> Item {
        Item {
            kind: Some(item::Kind::Alert(Alert::default())),
        }
    }

    fn lost(from: u64, to: u64) -> Item {
        let gap = SequenceGap {
            from,
            to,
            reason: GapReason::SpoolOverflow.into(),
        };
        Item {
            kind: Some(item::Kind::Gap(Gap {
                kind: Some(gap::Kind::Sequence(gap)),
            })),
        }
    }

    fn unseen() -> Item {
        Item {
            kind: Some(item::Kind::Gap(Gap {
                kind: Some(gap::Kind::Observation(ObservationGap::default())),
            })),
        }
    }

    fn ranges(placed: &[Placed]) -> Vec<(u64, u64)> {
        placed.iter().map(|placed| (placed.from, placed.to)).collect()
    }

    #[test]
    fn places() {
        let places = |first, items: &[Item], expected: &[(u64, u64)]| {
            assert_eq!(ranges(&place(first, items).unwrap()), expected);
        };
        places(1, &[alert()], &[(1, 1)]);
        places(7, &[alert(), unseen(), alert()], &[(7, 7), (8, 8), (9, 9)]);
        places(7, &[lost(7, 9), alert()], &[(7, 9), (10, 10)]);
        places(
            7,
            &[alert(), lost(8, 8), lost(9, 20), alert()],
            &[(7, 7), (8, 8), (9, 20), (21, 21)],
        );
        let fails = |first, items: &[Item], expected| assert_eq!(place(first, items), Err(expected));
        fails(1, &[], BadBatch::Empty);
        fails(0, &[alert()], BadBatch::Zero);
        fails(u64::MAX, &[alert()], BadBatch::Overflow);
        fails(3, &[lost(3, u64::MAX)], BadBatch::Overflow);
        fails(3, &[alert(), Item { kind: None }], BadBatch::UnknownKind(4));
        fails(
            3,
            &[Item {
                kind: Some(item::Kind::Gap(Gap { kind: None })),
            }],
            BadBatch::UnknownKind(3),
        );
        fails(3, &[lost(4, 5)], BadBatch::Displaced { place: 3, from: 4 });
        fails(3, &[alert(), lost(3, 5)], BadBatch::Displaced { place: 4, from: 3 });
        fails(3, &[lost(3, 2)], BadBatch::Backwards { from: 3, to: 2 });
    }

    #[test]
    fn admits() {
        let admits = |watermark, first, items: &[Item], expected: &[(u64, u64)]| {
            assert_eq!(
                ranges(&admit(watermark, place(first, items).unwrap()).unwrap()),
                expected
            );
        };
        admits(0, 1, &[alert(), alert()], &[(1, 1), (2, 2)]);
        admits(1, 1, &[alert(), alert()], &[(2, 2)]);
        admits(2, 1, &[alert(), alert()], &[]);
        admits(4, 3, &[lost(3, 9), alert()], &[(5, 9), (10, 10)]);
        admits(9, 3, &[lost(3, 9), alert()], &[(10, 10)]);
        assert_eq!(admit(1, place(3, &[alert()]).unwrap()), Err(Hole { due: 2, first: 3 }));
    }

    #[test]
    fn a_shortened_gap_says_so_in_its_item() {
        let placed = admit(4, place(3, &[lost(3, 9)]).unwrap()).unwrap();
        assert_eq!(Item::decode(placed[0].encoded.as_slice()).unwrap(), lost(5, 9));
    }

    proptest! {
        /// However an agent cuts and repeats its stream, each sequence is admitted once, in order, without holes.
        #[test]
        fn any_repeats_are_admitted_once(gaps in prop::collection::vec(prop::option::of(1_u64..5), 1..40),
                                         cuts in prop::collection::vec((0_usize..40, 1_usize..10), 1..60)) {
            let mut stream = Vec::new();
            let mut due = 1;
            for gap in gaps {
                let to = gap.map_or(due, |length| due + length - 1);
                stream.push((due, gap.map_or_else(alert, |_| lost(due, to))));
                due = to + 1;
            }
            let mut watermark = 0;
            let mut stored = Vec::new();
            for (start, length) in cuts.into_iter().chain([(0, stream.len())]) {
                let Some(batch) = stream.get(start..(start + length).min(stream.len())).filter(|batch| !batch.is_empty()) else {
                    continue;
                };
                let items: Vec<Item> = batch.iter().map(|(_, item)| item.clone()).collect();
                match admit(watermark, place(batch[0].0, &items).unwrap()) {
                    Ok(admitted) => {
                        watermark = admitted.last().map_or(watermark, |last| last.to);
                        stored.extend(ranges(&admitted));
                    }
                    Err(hole) => prop_assert!(hole.first > watermark + 1),
                }
            }
            let mut expected = 1;
            for (from, to) in stored {
                prop_assert_eq!(from, expected);
                expected = to + 1;
            }
            prop_assert_eq!(expected, due);
        }
    }
}
