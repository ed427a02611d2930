//! The reading end of the spool.

use super::frames::Frames;
use super::lane::{ByLane, Lane};
use super::{Shared, SpoolError, queue, sequence_gap};
use prost::Message as _;
use staghound_proto::v1::{GapReason, Item, ObservationGap};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// A run of items, with sequence gaps in the place of what is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Sequence of the first item.
    pub first: u64,
    /// The last sequence that is covered: a gap stands for more than one.
    pub through: u64,
    /// The items.
    pub items: Vec<Item>,
    /// Items that are lost and stood for.
    pub lost: u64,
}

/// Reads what is durable. Clones are independent.
pub struct SpoolReader {
    shared: Arc<Shared>,
    lanes: ByLane<LaneReader>,
    /// What was read up to: for what is before, the lanes begin anew.
    from: u64,
}

impl Clone for SpoolReader {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }
}

/// A place in one lane.
#[derive(Default)]
struct LaneReader {
    segment: Option<OpenSegment>,
    /// The next whole frame, if it was looked for: its sequence and where its payload is.
    next: Option<(u64, std::ops::Range<usize>)>,
    /// Up to here nothing more is to be found.
    done: u64,
}

struct OpenSegment {
    first: u64,
    frames: Frames,
    /// The last sequence that was read from it.
    last: u64,
}

impl SpoolReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            lanes: ByLane::default(),
            from: 0,
        }
    }

    /// The epoch: 32 lower-case hexadecimal digits.
    pub fn epoch(&self) -> String {
        self.shared.epoch_text()
    }

    /// First sequence that was not acknowledged.
    pub fn first_unacked(&self) -> u64 {
        self.shared.lock().acked + 1
    }

    /// Sequence the next item will get.
    pub fn next_sequence(&self) -> u64 {
        self.shared.lock().end + 1
    }

    /// Follows the last durable sequence; closed when the spool was sealed.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.receiver.clone()
    }

    /// Takes an acknowledgement: everything up to `through` can go. Beyond what is durable it is ignored.
    pub fn ack(&self, through: u64) {
        let mut state = self.shared.lock();
        if through > state.acked && through <= state.end {
            state.acked = through;
            state.measure(&self.shared.metrics);
        }
    }

    /// The collector has sequences this spool never gave out: the directory was rolled back, as by restoring a snapshot.
    /// Sequences go on behind the collector's, since an item under a sequence it knows would be dropped as a duplicate;
    /// what was not acknowledged here may be unknown there, and a gap says so.
    pub fn overtaken_by(&self, collector_has: u64) {
        let mut state = self.shared.lock();
        if collector_has <= state.end || collector_has >= u64::MAX / 2 {
            return;
        }
        let doubtful = state.end - state.acked;
        state.end = collector_has;
        state.acked = collector_has;
        let now = SystemTime::now();
        state.notices.push(queue::observation_gap(ObservationGap {
            from: None,
            to: Some(now.into()),
            hook: "spool".to_owned(),
            count: doubtful,
            reason: GapReason::CorruptSegment.into(),
        }));
        state.measure(&self.shared.metrics);
    }

    /// Reads on from `sequence`: up to `items_max` items of up to `bytes_max` bytes, but at least one.
    /// Nothing when `sequence` is not durable yet. Damage on disk is told as a gap, never as an error.
    ///
    /// # Errors
    /// The file system refuses for a reason that may pass, such as too many open files.
    pub fn read_from(
        &mut self,
        sequence: u64,
        items_max: usize,
        bytes_max: usize,
    ) -> Result<Option<Chunk>, SpoolError> {
        let end = self.shared.lock().end;
        if sequence == 0 || sequence > end {
            return Ok(None);
        }
        if sequence < self.from {
            self.lanes = ByLane::default();
        }
        // Should reading fail half way.
        self.from = u64::MAX;
        let mut chunk = Chunk {
            first: sequence,
            through: sequence - 1,
            items: Vec::new(),
            lost: 0,
        };
        let mut bytes_left = bytes_max;
        // A lane that has nothing up to the end is not asked again and again.
        let mut empty = ByLane::<bool>::default();
        while chunk.through < end && chunk.items.len() < items_max {
            let at = chunk.through + 1;
            let mut found: Option<(Lane, u64)> = None;
            for lane in Lane::ALL {
                if *empty.get(lane) {
                    continue;
                }
                match self.lanes.get_mut(lane).peek(&self.shared, lane, at, end)? {
                    Some(next) if found.is_none_or(|(_, first)| next < first) => found = Some((lane, next)),
                    Some(_) => {}
                    None => *empty.get_mut(lane) = true,
                }
            }
            match found {
                Some((lane, next)) if next == at => {
                    let payload = self.lanes.get(lane).payload();
                    if !chunk.items.is_empty() && payload.len() > bytes_left {
                        break;
                    }
                    bytes_left = bytes_left.saturating_sub(payload.len());
                    match Item::decode(payload) {
                        Ok(item) => {
                            chunk.items.push(item);
                            chunk.through = at;
                        }
                        // Written by another version, or by nobody we know: the checksum is right, the meaning is not.
                        Err(_) => self.add_gap(&mut chunk, at, GapReason::CorruptSegment),
                    }
                }
                Some((_, next)) => self.add_gaps(&mut chunk, next - 1, items_max),
                None => self.add_gaps(&mut chunk, end, items_max),
            }
        }
        self.from = chunk.through + 1;
        Ok(Some(chunk))
    }

    /// Tells why everything from the chunk's end to `to` is missing.
    fn add_gaps(&self, chunk: &mut Chunk, to: u64, items_max: usize) {
        while chunk.through < to && chunk.items.len() < items_max {
            let at = chunk.through + 1;
            let (through, reason) = {
                let state = self.shared.lock();
                match state.lost.iter().find(|lost| lost.to >= at) {
                    Some(lost) if lost.from <= at => (lost.to, lost.reason),
                    // What was acknowledged and trimmed is gone in good order, but a collector that asks has to hear so.
                    _ if at <= state.acked => (state.acked, GapReason::AlreadyAcknowledged),
                    Some(lost) => (lost.from - 1, GapReason::CorruptSegment),
                    None => (to, GapReason::CorruptSegment),
                }
            };
            self.add_gap(chunk, through.min(to), reason);
        }
    }

    fn add_gap(&self, chunk: &mut Chunk, to: u64, reason: GapReason) {
        let from = chunk.through + 1;
        if reason == GapReason::CorruptSegment {
            self.shared.metrics.lost_corrupt.inc_by(to - from + 1);
        }
        chunk.items.push(sequence_gap(from, to, reason));
        chunk.lost += to - from + 1;
        chunk.through = to;
    }
}

impl LaneReader {
    /// The next sequence of this lane from `at` to `end`.
    fn peek(&mut self, shared: &Shared, lane: Lane, at: u64, end: u64) -> Result<Option<u64>, SpoolError> {
        loop {
            match &self.next {
                Some((sequence, _)) if *sequence >= at => {
                    // What was appended since the end was looked up waits for its turn.
                    return Ok(Some(*sequence).filter(|&sequence| sequence <= end));
                }
                Some(_) => self.next = None,
                None => {}
            }
            let wanted = at.max(self.done + 1);
            let place = {
                let state = shared.lock();
                let segments = state.lanes.get(lane);
                let segment = segments.get(segments.partition_point(|segment| segment.end < wanted));
                segment.map(|segment| (segment.name, segment.end))
            };
            let Some((name, segment_end)) = place.filter(|(name, _)| name.first <= end) else {
                return Ok(None);
            };
            let read = self.read_on(shared, name, segment_end, at);
            match read {
                Ok(true) => {}
                // Everything in this segment was looked at.
                Ok(false) => self.done = segment_end,
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EIO) => {
                    self.segment = None;
                    let state = shared.lock();
                    let still = state.lanes.get(lane).iter().any(|segment| segment.name == name);
                    drop(state);
                    // Gone in good order meanwhile, or damaged: what was in it is told by what is missing.
                    if still {
                        self.done = segment_end;
                    }
                }
                Err(source) => {
                    self.segment = None;
                    return Err(SpoolError::Io {
                        path: shared.directory.path_of(name),
                        action: "read it",
                        source,
                    });
                }
            }
        }
    }

    /// Reads the next frame at or behind `at` from a segment; false when it has none.
    fn read_on(&mut self, shared: &Shared, name: super::files::Name, end: u64, at: u64) -> io::Result<bool> {
        let mut segment = match self.segment.take() {
            Some(segment) if segment.first == name.first => segment,
            Some(_) | None => OpenSegment {
                first: name.first,
                frames: Frames::new(shared.directory.open_segment(name, false)?, shared.epoch),
                last: name.first - 1,
            },
        };
        let found = loop {
            if segment.last >= end {
                break None;
            }
            match segment.frames.next(&(segment.last + 1..=end))? {
                Some(frame) => {
                    segment.last = frame.sequence;
                    if frame.sequence >= at {
                        break Some((frame.sequence, frame.payload));
                    }
                }
                None => break None,
            }
        };
        self.segment = Some(segment);
        self.next = found;
        Ok(self.next.is_some())
    }

    /// The payload of what was peeked.
    fn payload(&self) -> &[u8] {
        match (&self.next, &self.segment) {
            (Some((_, payload)), Some(segment)) => segment.frames.payload(payload.clone()),
            _ => &[],
        }
    }
}
