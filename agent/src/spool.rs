//! Keeps items on disk until the collector has acknowledged them.
//!
//! A directory of segments, each named by its first sequence. One [`Spool`] appends, any number of [`SpoolReader`]s read
//! what is durable. Sequences start at 1, have no holes and go on across restarts; what is lost stays in its place as a
//! sequence gap.
//!
//! Invariants: an item is visible to readers only after `fdatasync`; a sequence, once visible, never means another item;
//! a process killed at any moment leaves a directory that opens again.

mod files;
pub mod queue;
mod reader;
mod segment;
pub mod writer;

pub use reader::{Chunk, SpoolReader};

use crate::metrics::SpoolMetrics;
use crate::spool::files::{Directory, Record};
use crate::spool::segment::{EpochBytes, HEADER_BYTES, Header};
use prost::Message as _;
use staghound_proto::v1::{Gap, GapReason, Item, ObservationGap, SequenceGap, gap, item};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often the running marker is renewed; so much earlier than the end may the time be that a gap begins with.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How often an acknowledgement is written down. Losing one only means to send again what the collector knows.
const ACKED_EVERY: Duration = Duration::from_secs(1);
/// Most gaps kept apart; beyond, the two oldest are told as one that covers both and what lies between.
const LOST_MAX: usize = 1024;

/// Sizes of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Most bytes on disk; beyond, the oldest segments go and a gap stands in their place.
    pub bytes_max: u64,
    /// Where a segment ends and the next begins. At most a quarter of `bytes_max` is used.
    pub segment_bytes: u64,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 * 1024 * 1024,
            segment_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Why a spool does not open or an operation on it failed.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process holds the directory.
    #[error(
        "spool {}: another agent is using it; stop that one or give this one a state directory of its own",
        .0.display()
    )]
    Locked(PathBuf),
    /// The file system refused.
    #[error("spool {}: cannot {action}: {source}; {}", .path.display(), next_step(.source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The directory holds what does not belong together.
    #[error("spool {}: {what}; move the directory away to start a new one", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Sequences were moved forward meanwhile; append again.
    #[error("spool: the collector's position overtook this append; it is repeated")]
    Overtaken,
    /// The spool was sealed.
    #[error("spool: sealed; nothing can be appended any more")]
    Sealed,
}

fn next_step(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "free space on its file system or lower `spool.bytes_max`",
        Some(libc::EROFS) => "mount its file system writable or set `state_directory` to a writable place",
        Some(libc::EACCES | libc::EPERM) => "run as its owner or set `state_directory` to a directory of your own",
        Some(libc::ENOTDIR | libc::EEXIST | libc::EISDIR) => "move what is in the way",
        _ => "check its file system",
    }
}

/// What was found when the spool was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// When the previous agent was last known to live, if it did not end orderly.
    pub unclean_since: Option<SystemTime>,
    /// Bytes of an unfinished write that were cut off.
    pub truncated_bytes: u64,
    /// Items of the last segment that cannot be read any more; readers get gaps in their place.
    pub corrupt_items: u64,
    /// Items that wait for acknowledgement.
    pub unacked: u64,
}

impl Opened {
    /// The gap to append first when the previous agent did not end orderly.
    pub fn not_running(&self, now: SystemTime) -> Option<Item> {
        let since = self.unclean_since?;
        Some(queue::observation_gap(ObservationGap {
            from: Some(since.min(now).into()),
            to: Some(now.into()),
            hook: String::new(),
            count: 0,
            reason: GapReason::AgentNotRunning.into(),
        }))
    }
}

/// The writing end. There is one per directory, and it holds the directory's lock.
pub struct Spool {
    shared: Arc<Shared>,
    config: SpoolConfig,
    active: Option<Active>,
    durable: Option<watch::Sender<u64>>,
    acked_written: u64,
    acked_at: Instant,
    alive_at: Instant,
    lost_written: bool,
    /// An unclean end was found and nothing appended since: its time must stay until the gap that tells it is durable.
    owes_gap: bool,
    buffer: Vec<u8>,
    _lock: File,
}

/// The segment that is appended to.
struct Active {
    file: File,
    first: u64,
    bytes: u64,
}

impl Spool {
    /// Opens the spool in `directory`, making it if needed, and says what was found.
    ///
    /// # Errors
    /// Another agent holds it, the file system refuses, or it is of another format.
    pub fn open(directory: &Path, config: SpoolConfig, metrics: SpoolMetrics) -> Result<(Self, Opened), SpoolError> {
        let (directory, lock) = Directory::open(directory)?;
        let epoch = directory.epoch()?;
        let mut opened = Opened {
            unclean_since: directory.alive_since()?,
            ..Opened::default()
        };
        let mut lost = directory.read_lost();
        let acked = directory.read_acked();
        let mut segments: VecDeque<Segment> = directory.segments()?.into();
        for index in 1..segments.len() {
            segments[index - 1].end = segments[index].first - 1;
        }
        // A crash between writing gaps and unlinking leaves segments that a gap covers already.
        while segments.len() > 1 && segments[0].gone(acked, &lost) {
            directory.unlink(segments[0].first)?;
            segments.pop_front();
        }
        let active = match segments.pop_back() {
            Some(last) => {
                let (last, active) = recover(&directory, &epoch, &last, &mut opened)?;
                segments.extend(last);
                active
            }
            None => None,
        };
        lost.retain(|lost| lost.to > acked);
        let end = segments
            .back()
            .map_or(0, |last| last.end)
            .max(acked)
            .max(lost.last().map_or(0, |lost| lost.to));
        opened.unacked = end - acked;
        if opened.unclean_since.is_none() {
            directory.mark_alive()?;
            directory.sync_marker()?;
        }
        let (durable, receiver) = watch::channel(end);
        let state = State {
            segments,
            lost,
            acked,
            end,
            notices: Vec::new(),
        };
        let shared = Arc::new(Shared {
            directory,
            epoch,
            metrics,
            receiver,
            state: Mutex::new(state),
        });
        let now = Instant::now();
        let spool = Self {
            active: active.filter(|_| shared.lock().segments.back().is_some_and(|last| last.end == end)),
            shared,
            config,
            durable: Some(durable),
            acked_written: acked,
            acked_at: now,
            alive_at: now,
            lost_written: true,
            owes_gap: opened.unclean_since.is_some(),
            buffer: Vec::new(),
            _lock: lock,
        };
        spool.shared.lock().measure(&spool.shared.metrics);
        Ok((spool, opened))
    }

    /// A new reading end.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader::new(Arc::clone(&self.shared))
    }

    /// Appends items and makes them durable with one sync; returns the last sequence. Either all of them are in
    /// afterwards or none, and after an error the same items can be appended again.
    ///
    /// # Errors
    /// The file system refuses; an item is longer than a frame can be; the spool was sealed.
    pub fn append(&mut self, items: &[Item]) -> Result<u64, SpoolError> {
        let Some(durable) = self.durable.clone() else {
            return Err(SpoolError::Sealed);
        };
        let (first, contiguous) = {
            let state = self.shared.lock();
            (
                state.end + 1,
                state.segments.back().is_none_or(|last| last.end == state.end),
            )
        };
        if items.is_empty() {
            return Ok(first - 1);
        }
        self.encode(first, items);
        let bytes = self.buffer.len() as u64;
        self.make_room(bytes + HEADER_BYTES as u64);
        let end = first + items.len() as u64 - 1;
        let limit = self.segment_bytes();
        let roomy = |active: &Active| active.bytes + bytes <= limit || active.bytes == HEADER_BYTES as u64;
        let written = match self.active.take().filter(|active| contiguous && roomy(active)) {
            Some(active) => self.extend(active),
            None => self.begin(first),
        };
        // What a failed write or sync left behind carries sequences that are given out again: the next attempt starts a
        // segment of its own, and the name of a segment bounds the one before it.
        let active = written.inspect_err(|_| {
            self.shared.metrics.write_errors.inc();
        })?;
        let mut state = self.shared.lock();
        if state.end + 1 != first {
            return Err(SpoolError::Overtaken);
        }
        match state.segments.back_mut().filter(|last| last.first == active.first) {
            Some(last) => {
                last.end = end;
                last.bytes = active.bytes;
            }
            None => state.segments.push_back(Segment {
                first: active.first,
                end,
                bytes: active.bytes,
            }),
        }
        state.end = end;
        state.measure(&self.shared.metrics);
        drop(state);
        self.active = Some(active);
        self.owes_gap = false;
        durable.send_replace(end);
        Ok(end)
    }

    /// What must be done now and then: writes down acknowledgements, unlinks what was acknowledged, renews the marker.
    ///
    /// # Errors
    /// The file system refuses. Nothing is lost by it; call it again later.
    pub fn tick(&mut self) -> Result<(), SpoolError> {
        if !self.owes_gap && self.alive_at.elapsed() >= ALIVE_EVERY {
            self.shared.directory.mark_alive()?;
            self.alive_at = Instant::now();
        }
        if !self.lost_written {
            self.write_lost()?;
        }
        let (acked, trimmable) = {
            let mut state = self.shared.lock();
            let acked = state.acked;
            state.lost.retain(|lost| lost.to > acked);
            (acked, state.segments.len() > 1 && state.segments[0].end <= acked)
        };
        if acked > self.acked_written && (trimmable || self.acked_at.elapsed() >= ACKED_EVERY) {
            self.write_acked(acked)?;
        }
        while let Some(first) = self.oldest(|segment| segment.end <= acked) {
            self.shared.directory.unlink(first)?;
            let mut state = self.shared.lock();
            state.segments.pop_front();
            state.measure(&self.shared.metrics);
        }
        Ok(())
    }

    /// What the spool itself has to tell, to be appended with the next items.
    pub fn take_notices(&mut self) -> Vec<Item> {
        std::mem::take(&mut self.shared.lock().notices)
    }

    /// Ends appending: readers learn that nothing more will come. What they acknowledge is still taken.
    pub fn seal(&mut self) {
        self.durable = None;
    }

    /// Writes down the last acknowledgement and that this end was orderly.
    ///
    /// # Errors
    /// The file system refuses; the next start then sees an unclean end.
    pub fn close(mut self) -> Result<(), SpoolError> {
        self.seal();
        self.tick()?;
        let acked = self.shared.lock().acked;
        if acked > self.acked_written {
            self.write_acked(acked)?;
        }
        match self.owes_gap {
            true => Ok(()),
            false => self.shared.directory.mark_ended(),
        }
    }

    fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes.min(self.config.bytes_max / 4)
    }

    fn encode(&mut self, first: u64, items: &[Item]) {
        self.buffer.clear();
        // A burst must not keep its memory for ever.
        self.buffer.shrink_to(2 * segment::PAYLOAD_BYTES_MAX);
        let mut payload = Vec::new();
        for (sequence, item) in (first..).zip(items) {
            payload.clear();
            item.encode(&mut payload).expect("a vector grows as needed");
            segment::write_frame(&mut self.buffer, &self.shared.epoch, sequence, &payload);
        }
    }

    fn extend(&self, mut active: Active) -> Result<Active, SpoolError> {
        let path = self.shared.directory.segment_path(active.first);
        let written = active
            .file
            .write_all_at(&self.buffer, active.bytes)
            .and_then(|()| active.file.sync_data());
        if let Err(source) = written {
            // Only tidiness: what stays is not reachable.
            drop(active.file.set_len(active.bytes));
            return Err(SpoolError::Io {
                path,
                action: "append to it",
                source,
            });
        }
        active.bytes += self.buffer.len() as u64;
        Ok(active)
    }

    fn begin(&self, first: u64) -> Result<Active, SpoolError> {
        let path = self.shared.directory.segment_path(first);
        let begun = (|| {
            let file = OpenOptions::new().create(true).write(true).truncate(true).open(&path)?;
            file.write_all_at(&segment::header(&self.shared.epoch, first), 0)?;
            file.write_all_at(&self.buffer, HEADER_BYTES as u64)?;
            file.sync_data()?;
            self.shared.directory.sync()?;
            Ok(file)
        })();
        match begun {
            Ok(file) => Ok(Active {
                file,
                first,
                bytes: (HEADER_BYTES + self.buffer.len()) as u64,
            }),
            Err(source) => {
                drop(std::fs::remove_file(&path));
                Err(SpoolError::Io {
                    path,
                    action: "begin a segment",
                    source,
                })
            }
        }
    }

    /// Drops the oldest segments until `bytes` fit.
    fn make_room(&mut self, bytes: u64) {
        let mut dropped = false;
        loop {
            let mut state = self.shared.lock();
            let used: u64 = state.segments.iter().map(|segment| segment.bytes).sum();
            if used.saturating_add(bytes) <= self.config.bytes_max || state.segments.len() < 2 {
                break;
            }
            let Some(oldest) = state.segments.pop_front() else {
                break;
            };
            let from = oldest.first.max(state.acked + 1);
            if from <= oldest.end {
                self.shared.metrics.lost_overflow.inc_by(oldest.end - from + 1);
                state.add_lost(Record {
                    from,
                    to: oldest.end,
                    reason: GapReason::SpoolOverflow,
                });
                self.lost_written = false;
            }
            state.measure(&self.shared.metrics);
            drop(state);
            if !self.lost_written {
                // Failing to write it down is no reason to keep the segment: a hole without a record is still told as a
                // gap after a restart, only with less of a reason.
                drop(self.write_lost());
            }
            if let Err(error) = self.shared.directory.unlink(oldest.first) {
                tracing::warn!(error = %error, "a dropped segment stays on disk");
            }
            dropped = true;
        }
        if dropped {
            self.shared.metrics.overflows.inc();
        }
    }

    fn oldest(&self, wanted: impl Fn(&Segment) -> bool) -> Option<u64> {
        let state = self.shared.lock();
        // The last segment stays, acknowledged or not: it is what makes sequences go on.
        (state.segments.len() > 1)
            .then(|| &state.segments[0])
            .filter(|segment| wanted(segment))
            .map(|oldest| oldest.first)
    }

    fn write_lost(&mut self) -> Result<(), SpoolError> {
        let lost = self.shared.lock().lost.clone();
        self.shared.directory.write_lost(&lost)?;
        self.lost_written = true;
        Ok(())
    }

    fn write_acked(&mut self, acked: u64) -> Result<(), SpoolError> {
        self.shared.directory.write_acked(acked)?;
        self.acked_written = acked;
        self.acked_at = Instant::now();
        Ok(())
    }
}

/// Reads the last segment, cuts its torn tail off and opens it for appending.
fn recover(
    directory: &Directory,
    epoch: &EpochBytes,
    last: &Segment,
    opened: &mut Opened,
) -> Result<(Option<Segment>, Option<Active>), SpoolError> {
    let path = directory.segment_path(last.first);
    let io = |action| {
        let path = path.clone();
        move |source| SpoolError::Io { path, action, source }
    };
    let bytes = std::fs::read(&path).map_err(io("read it"))?;
    let header_is_whole = match segment::read_header(&bytes, epoch) {
        Header::Valid { first } if first == last.first => true,
        Header::Valid { .. } | Header::Damaged => false,
        Header::OtherEpoch => return Err(foreign(path, "belongs to another spool")),
        Header::OtherFormat(version) => {
            return Err(foreign(
                path,
                &format!("has format version {version}, which this agent does not know"),
            ));
        }
    };
    let (mut offset, mut end) = (HEADER_BYTES.min(bytes.len()), last.first - 1);
    while let Some(frame) = segment::next_frame(&bytes, offset, end + 1, epoch) {
        opened.corrupt_items += frame.sequence - end - 1;
        (offset, end) = (frame.end(), frame.sequence);
    }
    opened.truncated_bytes = (bytes.len() - offset) as u64;
    if end < last.first && !header_is_whole {
        directory.unlink(last.first)?;
        opened.truncated_bytes = bytes.len() as u64;
        return Ok((None, None));
    }
    let file = OpenOptions::new().write(true).open(&path).map_err(io("write to it"))?;
    if opened.truncated_bytes > 0 {
        file.set_len(offset as u64).map_err(io("cut its torn tail off"))?;
        file.sync_data().map_err(io("cut its torn tail off"))?;
    }
    let segment = Segment {
        first: last.first,
        end,
        bytes: offset as u64,
    };
    let active = header_is_whole.then_some(Active {
        file,
        first: last.first,
        bytes: offset as u64,
    });
    Ok((Some(segment), active))
}

fn foreign(path: PathBuf, what: &str) -> SpoolError {
    SpoolError::Foreign {
        path,
        what: what.to_owned(),
    }
}

/// What writer and readers share.
struct Shared {
    directory: Directory,
    epoch: EpochBytes,
    metrics: SpoolMetrics,
    receiver: watch::Receiver<u64>,
    state: Mutex<State>,
}

impl Shared {
    /// The state is changed in single steps that each leave it valid, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn epoch_text(&self) -> String {
        let mut text = String::with_capacity(32);
        for byte in self.epoch {
            write!(text, "{byte:02x}").expect("a string grows as needed");
        }
        text
    }
}

struct State {
    /// In order of sequence.
    segments: VecDeque<Segment>,
    /// Items that are gone and not acknowledged; in order, apart from each other.
    lost: Vec<Record>,
    acked: u64,
    /// The last durable sequence.
    end: u64,
    notices: Vec<Item>,
}

/// One segment file: sequences `first..=end`, or none when `end + 1 == first`.
#[derive(Clone, Debug)]
struct Segment {
    first: u64,
    end: u64,
    bytes: u64,
}

impl Segment {
    fn gone(&self, acked: u64, lost: &[Record]) -> bool {
        let from = self.first.max(acked + 1);
        from > self.end || lost.iter().any(|lost| lost.from <= from && self.end <= lost.to)
    }
}

impl State {
    fn add_lost(&mut self, record: Record) {
        match self.lost.last_mut() {
            Some(last) if last.reason == record.reason && last.to + 1 == record.from => last.to = record.to,
            Some(_) | None => self.lost.push(record),
        }
        if self.lost.len() > LOST_MAX {
            let first = self.lost.remove(0);
            self.lost[0].from = first.from;
        }
    }

    fn measure(&self, metrics: &SpoolMetrics) {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        metrics.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        metrics
            .items
            .set(i64::try_from(self.end - self.acked.min(self.end)).unwrap_or(i64::MAX));
    }
}

/// The item that stands for lost ones.
fn sequence_gap(from: u64, to: u64, reason: GapReason) -> Item {
    let gap = SequenceGap {
        from,
        to,
        reason: reason.into(),
    };
    Item {
        kind: Some(item::Kind::Gap(Gap {
            kind: Some(gap::Kind::Sequence(gap)),
        })),
    }
}

#[cfg(test)]
mod tests;
