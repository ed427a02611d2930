//! The reading end of the spool.

use super::segment::{self, FRAME_HEADER_BYTES, HEADER_BYTES, PAYLOAD_BYTES_MAX};
use super::{Shared, SpoolError, queue, sequence_gap};
use prost::Message as _;
use staghound_proto::v1::{GapReason, Item, ObservationGap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;

/// A run of items without holes, or one sequence gap alone.
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

impl Chunk {
    fn gap(from: u64, to: u64, reason: GapReason) -> Self {
        Self {
            first: from,
            through: to,
            items: vec![sequence_gap(from, to, reason)],
            lost: to - from + 1,
        }
    }
}

/// Reads what is durable. Clones are independent.
#[derive(Clone)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    at: Option<Position>,
}

/// Where the frame of a sequence begins.
#[derive(Clone, Copy)]
struct Position {
    segment: u64,
    sequence: u64,
    offset: u64,
}

/// What is to be found at a sequence.
enum Place {
    Gap { to: u64, reason: GapReason },
    Segment { first: u64, end: u64 },
}

impl SpoolReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, at: None }
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

    /// Reads on from `sequence`: up to `items_max` items of up to `bytes_max` bytes, but at least one; or a gap alone.
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
        loop {
            let Some(place) = self.place(sequence) else {
                return Ok(None);
            };
            let (first, end) = match place {
                Place::Gap { to, reason } => return Ok(Some(Chunk::gap(sequence, to, reason))),
                Place::Segment { first, end } => (first, end),
            };
            match self.read_segment(first, sequence, end, items_max, bytes_max) {
                Ok(chunk) => return Ok(Some(chunk)),
                // The quota or an acknowledgement took it away meanwhile; what is in its place now?
                Err(error) if error.kind() == io::ErrorKind::NotFound && self.moved(sequence, first) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::EIO) => {
                    return Ok(Some(self.corrupt(sequence, end)));
                }
                Err(source) => {
                    let path = self.shared.directory.segment_path(first);
                    return Err(SpoolError::Io {
                        path,
                        action: "read it",
                        source,
                    });
                }
            }
        }
    }

    fn corrupt(&self, from: u64, to: u64) -> Chunk {
        self.shared.metrics.lost_corrupt.inc_by(to - from + 1);
        Chunk::gap(from, to, GapReason::CorruptSegment)
    }

    fn moved(&self, sequence: u64, first: u64) -> bool {
        !matches!(self.place(sequence), Some(Place::Segment { first: still, .. }) if still == first)
    }

    fn place(&self, sequence: u64) -> Option<Place> {
        let state = self.shared.lock();
        if sequence == 0 || sequence > state.end {
            return None;
        }
        if let Some(lost) = state
            .lost
            .iter()
            .find(|lost| lost.from <= sequence && sequence <= lost.to)
        {
            return Some(Place::Gap {
                to: lost.to,
                reason: lost.reason,
            });
        }
        if let Some(segment) = state
            .segments
            .iter()
            .find(|segment| segment.first <= sequence && sequence <= segment.end)
        {
            return Some(Place::Segment {
                first: segment.first,
                end: segment.end,
            });
        }
        let next_segment = state
            .segments
            .iter()
            .map(|segment| segment.first)
            .find(|&first| first > sequence);
        let next_lost = state.lost.iter().map(|lost| lost.from).find(|&from| from > sequence);
        let to = [next_segment, next_lost]
            .into_iter()
            .flatten()
            .min()
            .map_or(state.end, |next| next - 1);
        // What was acknowledged and trimmed is gone in good order, but a collector that asks for it has to hear so.
        if sequence <= state.acked {
            return Some(Place::Gap {
                to: to.min(state.acked),
                reason: GapReason::SpoolOverflow,
            });
        }
        self.shared.metrics.lost_corrupt.inc_by(to - sequence + 1);
        Some(Place::Gap {
            to,
            reason: GapReason::CorruptSegment,
        })
    }

    fn read_segment(
        &mut self,
        first: u64,
        sequence: u64,
        end: u64,
        items_max: usize,
        bytes_max: usize,
    ) -> io::Result<Chunk> {
        let file = File::open(self.shared.directory.segment_path(first))?;
        let file_bytes = file.metadata()?.len();
        let mut at = self
            .at
            .filter(|at| at.segment == first && at.sequence <= sequence)
            .unwrap_or(Position {
                segment: first,
                sequence: first,
                offset: HEADER_BYTES as u64,
            });
        let mut window_bytes = bytes_max.saturating_add(PAYLOAD_BYTES_MAX + FRAME_HEADER_BYTES);
        let mut chunk = Chunk {
            first: sequence,
            through: sequence - 1,
            items: Vec::new(),
            lost: 0,
        };
        let mut bytes_left = bytes_max;
        'windows: loop {
            let window = read_window(&file, at.offset, window_bytes)?;
            let is_rest = at.offset + window.len() as u64 >= file_bytes;
            let mut offset = 0;
            while at.sequence <= end && chunk.items.len() < items_max {
                let intact = segment::frame_at(&window, offset, &self.shared.epoch)
                    .filter(|frame| frame.sequence == at.sequence);
                let frame = match intact {
                    Some(frame) => frame,
                    // The window ended within a frame: go on with the next one, from here.
                    None if !is_rest && offset > 0 => continue 'windows,
                    // Not even the first frame of a window that holds the longest: damage. Finding what comes behind it
                    // may need all that is left of the segment.
                    None if !is_rest => {
                        window_bytes = usize::try_from(file_bytes).unwrap_or(usize::MAX);
                        continue 'windows;
                    }
                    None => {
                        let next = segment::next_frame(&window, offset, at.sequence, &self.shared.epoch);
                        let found = next.filter(|frame| frame.sequence <= end);
                        if chunk.items.is_empty() && found.as_ref().is_none_or(|found| found.sequence > sequence) {
                            return Ok(self.corrupt(sequence, found.map_or(end, |found| found.sequence - 1)));
                        }
                        match found {
                            Some(found) if found.sequence == at.sequence || chunk.items.is_empty() => found,
                            Some(_) | None => break 'windows,
                        }
                    }
                };
                if frame.sequence >= sequence {
                    let payload = &window[frame.payload.clone()];
                    if !chunk.items.is_empty() && payload.len() > bytes_left {
                        break 'windows;
                    }
                    bytes_left = bytes_left.saturating_sub(payload.len());
                    let Ok(item) = Item::decode(payload) else {
                        // Written by another version, or by nobody we know: the checksum is right, the meaning is not.
                        if chunk.items.is_empty() {
                            return Ok(self.corrupt(sequence, sequence));
                        }
                        break 'windows;
                    };
                    chunk.items.push(item);
                    chunk.through = frame.sequence;
                }
                let length = (frame.end() - offset) as u64;
                offset = frame.end();
                at = Position {
                    segment: first,
                    sequence: frame.sequence + 1,
                    offset: at.offset + length,
                };
            }
            break;
        }
        self.at = Some(at);
        Ok(chunk)
    }
}

fn read_window(file: &File, offset: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut window = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(bytes_max)];
    let mut filled = 0;
    while filled < window.len() {
        match file.read_at(&mut window[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    window.truncate(filled);
    Ok(window)
}
