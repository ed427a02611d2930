//! Keeps items on disk until the collector has acknowledged them.
//!
//! A directory of segments, each named by its first sequence and its lane: items of different severity are kept in
//! files of their own, so that the least severe can go first when there is no room for all. One [`Spool`] appends, any
//! number of [`SpoolReader`]s put the lanes together again and read what is durable. Sequences start at 1 and go on across
//! restarts; what is missing when the lanes are put together is told as a sequence gap in its place.
//!
//! Invariants: an item is visible to readers only after `fdatasync`; a sequence, once visible, never means another item;
//! a process killed at any moment, and a power cut, leave a directory that opens again.

mod disk;
mod files;
mod frames;
mod lane;
pub mod queue;
mod reader;
mod segment;
pub mod writer;

pub use reader::{Chunk, SpoolReader};

use crate::metrics::SpoolMetrics;
use crate::spool::disk::DiskFile;
use crate::spool::files::{Directory, Name, Record};
use crate::spool::frames::Frames;
use crate::spool::lane::{ByLane, Lane};
use crate::spool::segment::{EpochBytes, HEADER_BYTES, Header};
use prost::Message as _;
use staghound_proto::v1::{Gap, GapReason, Item, ObservationGap, SequenceGap, gap, item};
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// How often the running marker is renewed; so much earlier than the end may the time be that a gap begins with.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// How often an acknowledgement is written down. Losing one only means to send again what the collector knows.
const ACKED_EVERY: Duration = Duration::from_secs(1);
/// Most reasons for missing items kept apart; beyond, the two oldest become one that covers both and what lies between.
const LOST_MAX: usize = 1024;
/// Further than this no sequence is believed to be from the one before it.
const JUMP_MAX: u64 = 1 << 40;
/// A spool that is full says so this often.
const OVERFLOW_TOLD_EVERY: Duration = Duration::from_secs(60);
/// Most bytes of a spool that is in memory because its directory cannot be used.
const MEMORY_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Sizes of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Most bytes on disk; beyond, the oldest items of the lowest severity go and gaps stand in their place.
    pub bytes_max: u64,
    /// How much of that is only for alerts above medium severity, runs and gaps. At most half of `bytes_max` is used.
    pub reserve_bytes: u64,
    /// Where a segment ends and the next begins; that much is reserved for each. At most an eighth of `bytes_max` is used.
    pub segment_bytes: u64,
    /// How long what was acknowledged is kept, while there is room, for a collector that lost it again.
    pub retention: Duration,
}

impl SpoolConfig {
    /// Three lanes have a segment each that is appended to, and their room must leave some for others.
    fn segment_limit(&self) -> u64 {
        self.segment_bytes.min(self.bytes_max / 8)
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            bytes_max: 256 * 1024 * 1024,
            reserve_bytes: 64 * 1024 * 1024,
            segment_bytes: 8 * 1024 * 1024,
            retention: Duration::from_secs(10 * 60),
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

impl SpoolError {
    fn is_disk_full(&self) -> bool {
        match self {
            SpoolError::Io { source, .. } => matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)),
            SpoolError::Locked(_) | SpoolError::Foreign { .. } | SpoolError::Overtaken | SpoolError::Sealed => false,
        }
    }
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
    /// Damaged bytes before the end of the last segments; readers get gaps in the place of what was there.
    pub corrupt_bytes: u64,
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
    active: ByLane<Option<Active>>,
    /// Whether a failed write may have left frames behind the end of a lane's last segment. Their sequences are given out
    /// again, so that the lane's next segment must begin before that: its name bounds the one before it.
    doubtful: ByLane<bool>,
    buffers: ByLane<Buffer>,
    durable: Option<watch::Sender<u64>>,
    acked_written: u64,
    acked_at: Instant,
    alive_at: Instant,
    overflow_told: Option<Instant>,
    lost_written: bool,
    /// An unclean end was found and nothing appended since: its time must stay until the gap that tells it is durable.
    owes_gap: bool,
    /// Kept open as long as the directory is ours; none where nobody else can have it.
    _lock: Option<File>,
}

/// The segment that is appended to.
struct Active {
    file: Arc<dyn DiskFile>,
    name: Name,
    bytes: u64,
    /// How much of it was there before the append under way.
    durable: u64,
    /// What its file takes of the quota: room is reserved in advance.
    reserved: u64,
}

/// The frames of one lane that are to be appended.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    items: u64,
    first: u64,
    last: u64,
}

impl Spool {
    /// Opens the spool in `directory`, making it if needed, and says what was found.
    ///
    /// # Errors
    /// Another agent holds it, the file system refuses, or it is of another format.
    pub fn open(directory: &Path, config: SpoolConfig, metrics: SpoolMetrics) -> Result<(Self, Opened), SpoolError> {
        let (directory, lock) = Directory::open(directory)?;
        metrics.on_disk.set(1);
        let (mut spool, opened) = Self::open_in(directory, config, metrics)?;
        spool._lock = Some(lock);
        Ok((spool, opened))
    }

    /// A spool that keeps a little in memory, for when the directory cannot be used: items are delivered, and what was not
    /// delivered ends with the process. The item says so, and is to be appended first.
    pub fn in_memory(config: SpoolConfig, metrics: SpoolMetrics, why: &SpoolError) -> Result<(Self, Item), SpoolError> {
        let config = SpoolConfig {
            bytes_max: config.bytes_max.min(MEMORY_BYTES_MAX),
            retention: Duration::ZERO,
            ..config
        };
        metrics.on_disk.set(0);
        let (spool, _) = Self::open_in(Directory::in_memory(), config, metrics)?;
        tracing::error!(error = %why, "the spool is kept in memory only; what is not delivered when the agent ends is lost");
        let now = SystemTime::now();
        let gap = queue::observation_gap(ObservationGap {
            from: Some(now.into()),
            to: Some(now.into()),
            hook: "spool".to_owned(),
            count: 0,
            reason: GapReason::NotDurable.into(),
        });
        Ok((spool, gap))
    }

    fn open_in(directory: Directory, config: SpoolConfig, metrics: SpoolMetrics) -> Result<(Self, Opened), SpoolError> {
        let epoch = directory.epoch()?;
        let mut opened = Opened {
            unclean_since: directory.alive_since()?,
            ..Opened::default()
        };
        let mut lost = directory.read_lost();
        let acked = directory.read_acked();
        let mut lanes = ByLane::<VecDeque<Segment>>::default();
        for (name, bytes) in directory.segments()? {
            // Files of the previous format hold items of every severity, and are given up last.
            let lane = lanes.get_mut(name.lane.unwrap_or(Lane::High));
            if let Some(before) = lane.back_mut() {
                before.end = name.first - 1;
            }
            lane.push_back(Segment {
                name,
                end: name.first - 1,
                bytes,
                items: None,
                acked_at: None,
            });
        }
        let mut active = ByLane::default();
        for lane in Lane::ALL {
            let Some(last) = lanes.get_mut(lane).pop_back() else {
                continue;
            };
            let (mut segment, mut appendable) = recover(&directory, &epoch, &last, &mut opened)?;
            if let (Some(segment), Some(active)) = (&mut segment, &mut appendable) {
                // What a killed agent had reserved may still be, and is to be counted.
                let limit = config.segment_limit();
                if active.file.reserve(limit).is_ok() {
                    active.reserved = active.bytes.max(limit);
                    segment.bytes = active.reserved;
                }
            }
            lanes.get_mut(lane).extend(segment);
            *active.get_mut(lane) = appendable;
        }
        lost.retain(|lost| lost.to > acked);
        let ends = lanes
            .iter()
            .filter_map(|(_, segments)| segments.back())
            .map(|last| last.end);
        let end = ends
            .chain(lost.iter().map(|lost| lost.to))
            .max()
            .unwrap_or(0)
            .max(acked);
        opened.unacked = end - acked;
        if opened.unclean_since.is_none() {
            directory.mark_alive()?;
            directory.sync_marker()?;
        }
        let (durable, receiver) = watch::channel(end);
        let state = State {
            lanes,
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
            active,
            doubtful: ByLane::default(),
            buffers: ByLane::default(),
            shared,
            config,
            durable: Some(durable),
            acked_written: acked,
            acked_at: now,
            alive_at: now,
            overflow_told: None,
            lost_written: true,
            owes_gap: opened.unclean_since.is_some(),
            _lock: None,
        };
        spool.shared.lock().measure(&spool.shared.metrics);
        Ok((spool, opened))
    }

    /// A new reading end.
    pub fn reader(&self) -> SpoolReader {
        SpoolReader::new(Arc::clone(&self.shared))
    }

    /// Appends items and makes them durable with one sync per lane; returns the last sequence. After an error the same
    /// items can be appended again, and none of them was visible. Where there is no room for items of low severity, they
    /// get their sequences and readers a gap.
    ///
    /// # Errors
    /// The file system refuses; the spool was sealed.
    pub fn append(&mut self, items: &[Item]) -> Result<u64, SpoolError> {
        let Some(durable) = self.durable.clone() else {
            return Err(SpoolError::Sealed);
        };
        let first = self.shared.lock().end + 1;
        if items.is_empty() {
            return Ok(first - 1);
        }
        let end = first + items.len() as u64 - 1;
        self.encode(first, items);
        for lane in Lane::ALL {
            if self.buffers.get(lane).items > 0 && !self.make_room(lane)? {
                self.refuse(lane)?;
            }
        }
        let begun = self.write(first).inspect_err(|error| {
            self.shared.metrics.write_errors.inc();
            // What is kept longer than it must be is the first to go when others need the room.
            if error.is_disk_full() {
                self.config.retention = Duration::ZERO;
            }
        })?;
        let mut state = self.shared.lock();
        if state.end + 1 != first {
            drop(state);
            self.abandon(&begun);
            return Err(SpoolError::Overtaken);
        }
        for lane in Lane::ALL {
            let (Some(active), buffer) = (self.active.get_mut(lane), self.buffers.get(lane)) else {
                continue;
            };
            active.durable = active.bytes;
            let segments = state.lanes.get_mut(lane);
            if begun.contains(&active.name) {
                // A segment in which nothing was kept is replaced under its own name.
                segments.pop_back_if(|last| last.name == active.name);
                segments.push_back(Segment {
                    name: active.name,
                    end: first - 1,
                    bytes: active.reserved,
                    items: Some(0),
                    acked_at: None,
                });
            }
            if let Some(last) = segments.back_mut().filter(|_| buffer.items > 0) {
                last.end = buffer.last;
                // All that was in it may have been acknowledged; what is in it now is not.
                last.acked_at = None;
                last.bytes = active.reserved;
                last.items = last.items.map(|items| items + buffer.items);
            }
        }
        state.end = end;
        state.measure(&self.shared.metrics);
        drop(state);
        self.owes_gap = false;
        durable.send_replace(end);
        Ok(end)
    }

    /// What must be done now and then: writes down acknowledgements, unlinks what was acknowledged long enough ago, renews
    /// the marker.
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
        let acked = {
            let mut state = self.shared.lock();
            let acked = state.acked;
            state.lost.retain(|lost| lost.to > acked);
            for lane in Lane::ALL {
                for segment in state.lanes.get_mut(lane) {
                    if segment.end <= acked && segment.acked_at.is_none() {
                        segment.acked_at = Some(Instant::now());
                    }
                }
            }
            acked
        };
        let expired = self.expired();
        if acked > self.acked_written && (expired.is_some() || self.acked_at.elapsed() >= ACKED_EVERY) {
            self.write_acked(acked)?;
        }
        while let Some(lane) = self.expired() {
            let Some(oldest) = self.shared.lock().lanes.get(lane).front().map(|segment| segment.name) else {
                break;
            };
            self.shared.directory.unlink(oldest)?;
            let mut state = self.shared.lock();
            state.lanes.get_mut(lane).pop_front();
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
        for lane in Lane::ALL {
            self.give_back(lane);
        }
        match self.owes_gap {
            true => Ok(()),
            false => self.shared.directory.mark_ended(),
        }
    }

    fn encode(&mut self, first: u64, items: &[Item]) {
        for lane in Lane::ALL {
            let buffer = self.buffers.get_mut(lane);
            buffer.bytes.clear();
            // A burst must not keep its memory for ever.
            buffer.bytes.shrink_to(2 * segment::PAYLOAD_BYTES_MAX);
            buffer.items = 0;
        }
        let mut payload = Vec::new();
        for (sequence, item) in (first..).zip(items) {
            payload.clear();
            item.encode(&mut payload).expect("a vector grows as needed");
            let buffer = self.buffers.get_mut(Lane::of(item));
            if buffer.items == 0 {
                buffer.first = sequence;
            }
            buffer.items += 1;
            buffer.last = sequence;
            segment::write_frame(&mut buffer.bytes, &self.shared.epoch, sequence, &payload);
        }
    }

    /// Writes what is in the buffers and syncs it; the names of the segments that were begun. After an error nothing of it
    /// is reachable.
    fn write(&mut self, first: u64) -> Result<Vec<Name>, SpoolError> {
        let mut begun = Vec::new();
        let written = Lane::ALL
            .into_iter()
            .try_for_each(|lane| self.write_lane(lane, first, &mut begun));
        let synced = written.and_then(|()| {
            for lane in Lane::ALL {
                if let Some(active) = self.active.get(lane).as_ref().filter(|_| self.is_written(lane, &begun)) {
                    active
                        .file
                        .sync()
                        .map_err(|source| self.io(active.name, "sync it", source))?;
                }
            }
            match begun.is_empty() {
                true => Ok(()),
                false => self.shared.directory.sync_marker(),
            }
        });
        if let Err(error) = synced {
            self.abandon(&begun);
            return Err(error);
        }
        for lane in Lane::ALL {
            *self.doubtful.get_mut(lane) &= !begun.iter().any(|name| name.lane == Some(lane));
        }
        Ok(begun)
    }

    /// What the append under way wrote is not to be reached any more: its sequences are given out again.
    fn abandon(&mut self, begun: &[Name]) {
        for lane in Lane::ALL {
            if !self.is_written(lane, begun) {
                continue;
            }
            *self.doubtful.get_mut(lane) = true;
            if let Some(active) = self.active.get_mut(lane) {
                active.bytes = active.durable;
            }
            self.give_back(lane);
        }
        for name in begun {
            // Only tidiness: the next attempt takes the same name, or one that makes this one's frames too old to matter.
            drop(self.shared.directory.unlink(*name));
        }
    }

    /// Whether the append under way touches a lane.
    fn is_written(&self, lane: Lane, begun: &[Name]) -> bool {
        self.buffers.get(lane).items > 0 || begun.iter().any(|name| name.lane == Some(lane))
    }

    fn write_lane(&mut self, lane: Lane, first: u64, begun: &mut Vec<Name>) -> Result<(), SpoolError> {
        let limit = self.config.segment_limit();
        let bytes = self.buffers.get(lane).bytes.len() as u64;
        let doubtful = *self.doubtful.get(lane);
        if bytes == 0 && !doubtful {
            return Ok(());
        }
        let roomy = self
            .active
            .get(lane)
            .as_ref()
            .is_some_and(|active| active.is_roomy(bytes, limit));
        if doubtful || !roomy {
            self.give_back(lane);
            let name = Name {
                first,
                lane: Some(lane),
            };
            begun.push(name);
            let file = self
                .begin(name, limit.max(HEADER_BYTES as u64 + bytes))
                .map_err(|source| self.io(name, "begin a segment", source))?;
            *self.active.get_mut(lane) = Some(file);
        }
        let Some(active) = self.active.get_mut(lane) else {
            return Ok(());
        };
        if let Err(source) = active.file.write_at(&self.buffers.get(lane).bytes, active.bytes) {
            let name = active.name;
            return Err(self.io(name, "append to it", source));
        }
        active.bytes += bytes;
        active.reserved = active.reserved.max(active.bytes);
        Ok(())
    }

    fn begin(&self, name: Name, reserve: u64) -> io::Result<Active> {
        let file = self.shared.directory.create_segment(name)?;
        // Room that is reserved cannot be taken away by others in the middle of a segment. File systems that cannot
        // reserve, or not that much any more, may still have room for what comes.
        let reserved = match file.reserve(reserve) {
            Ok(()) => reserve,
            Err(_) => 0,
        };
        file.write_at(&segment::header(&self.shared.epoch, name.first), 0)?;
        Ok(Active {
            file,
            name,
            bytes: HEADER_BYTES as u64,
            durable: HEADER_BYTES as u64,
            reserved,
        })
    }

    /// Ends a lane's segment and gives back what was reserved and not used.
    fn give_back(&mut self, lane: Lane) {
        let Some(active) = self.active.get_mut(lane).take() else {
            return;
        };
        // Failing to leaves room unused until the segment goes.
        if active.file.truncate(active.bytes).is_ok() {
            let mut state = self.shared.lock();
            let last = state.lanes.get_mut(lane).back_mut();
            if let Some(last) = last.filter(|last| last.name == active.name) {
                last.bytes = active.bytes;
            }
        }
    }

    /// Makes room for the buffer of a lane: what was acknowledged goes first, then the oldest of the lowest severity, but
    /// nothing more severe than what comes. False when that is not enough.
    fn make_room(&mut self, lane: Lane) -> Result<bool, SpoolError> {
        let limit = self.config.segment_limit();
        let bytes = self.buffers.get(lane).bytes.len() as u64;
        let reserve = self.config.reserve_bytes.min(self.config.bytes_max / 2);
        let mut dropped = 0;
        let roomy = loop {
            let needed = match self.active.get(lane) {
                Some(active) if active.is_roomy(bytes, limit) => (active.bytes + bytes).saturating_sub(active.reserved),
                Some(_) | None => limit.max(HEADER_BYTES as u64 + bytes),
            };
            let (all, lower) = self.shared.lock().used();
            let lower_full = lane != Lane::High && lower + needed > self.config.bytes_max - reserve;
            let all_full = all + needed > self.config.bytes_max;
            if !lower_full && !all_full {
                break true;
            }
            let Some(victim) = self.victim(lane, all_full) else {
                break false;
            };
            dropped += self.drop_oldest(victim)?;
        };
        if dropped > 0 {
            self.shared.metrics.overflows.inc();
            self.tell_overflow(dropped);
        }
        Ok(roomy)
    }

    /// Whose oldest segment goes for something of `lane`.
    fn victim(&self, lane: Lane, of_any_lane: bool) -> Option<Lane> {
        let state = self.shared.lock();
        let acked = |candidate: &Lane| {
            let first = state.lanes.get(*candidate).front();
            first.is_some_and(|segment| segment.end <= state.acked)
        };
        let candidates = || {
            Lane::ALL
                .into_iter()
                .filter(|candidate| of_any_lane || *candidate != Lane::High)
        };
        candidates().find(acked).or_else(|| {
            candidates()
                .take_while(|candidate| *candidate <= lane)
                .find(|candidate| !state.lanes.get(*candidate).is_empty())
        })
    }

    /// Drops the oldest segment of a lane; how many items are lost by it.
    fn drop_oldest(&mut self, lane: Lane) -> Result<u64, SpoolError> {
        let (oldest, acked, is_newest) = {
            let state = self.shared.lock();
            let Some(oldest) = state.lanes.get(lane).front().cloned() else {
                return Ok(0);
            };
            let ends = state
                .lanes
                .iter()
                .flat_map(|(_, segments)| segments)
                .map(|segment| segment.end);
            let newest = ends.max().unwrap_or(0);
            let is_newest = oldest.end == newest;
            (oldest, state.acked, is_newest)
        };
        let lost = match oldest.items {
            _ if oldest.end <= acked => 0,
            Some(items) if oldest.name.first > acked => items,
            Some(_) | None => self.count(&oldest, acked + 1),
        };
        let written = if lost == 0 {
            self.write_acked(acked)
        } else {
            self.shared.lock().add_lost(Record {
                from: oldest.name.first.max(acked + 1),
                to: oldest.end,
                reason: GapReason::SpoolOverflow,
            });
            self.lost_written = false;
            self.write_lost()
        };
        // Failing to write it down is no reason to keep the segment: what is missing is still told as a gap after a
        // restart, only with less of a reason. But something must tell which sequences were given out.
        if is_newest {
            written?;
        }
        self.active.get_mut(lane).take_if(|active| active.name == oldest.name);
        let mut state = self.shared.lock();
        state.lanes.get_mut(lane).pop_front();
        self.shared.metrics.lost_overflow.inc_by(lost);
        state.measure(&self.shared.metrics);
        drop(state);
        if let Err(error) = self.shared.directory.unlink(oldest.name) {
            tracing::warn!(error = %error, "a dropped segment stays on disk");
        }
        Ok(lost)
    }

    /// How many items from a sequence on a segment holds.
    fn count(&self, segment: &Segment, from: u64) -> u64 {
        let mut items = 0;
        if let Ok(file) = self.shared.directory.open_segment(segment.name, false) {
            let (mut frames, mut due) = (Frames::new(file, self.shared.epoch), from);
            while let Ok(Some(frame)) = frames.next(&(due..=segment.end)) {
                items += 1;
                due = frame.sequence + 1;
            }
        }
        items
    }

    /// Gives sequences to what is in the buffer of a lane, and does not keep it.
    fn refuse(&mut self, lane: Lane) -> Result<(), SpoolError> {
        let buffer = self.buffers.get_mut(lane);
        let lost = std::mem::take(&mut buffer.items);
        buffer.bytes.clear();
        let record = Record {
            from: buffer.first,
            to: buffer.last,
            reason: GapReason::SpoolOverflow,
        };
        self.shared.lock().add_lost(record);
        self.lost_written = false;
        // Must be on disk: nothing else tells that these sequences were given out.
        self.write_lost()?;
        self.shared.metrics.lost_overflow.inc_by(lost);
        self.shared.metrics.overflows.inc();
        self.tell_overflow(lost);
        Ok(())
    }

    fn tell_overflow(&mut self, items: u64) {
        if self
            .overflow_told
            .is_none_or(|told| told.elapsed() >= OVERFLOW_TOLD_EVERY)
        {
            self.overflow_told = Some(Instant::now());
            tracing::warn!(
                items,
                bytes_max = self.config.bytes_max,
                "the spool is full: the oldest items of the lowest severity are dropped and told as gaps"
            );
        }
    }

    /// A lane whose oldest segment was acknowledged long enough ago. The last of a lane stays: it is appended to.
    fn expired(&self) -> Option<Lane> {
        let state = self.shared.lock();
        Lane::ALL.into_iter().find(|&lane| {
            let segments = state.lanes.get(lane);
            let oldest = segments.front().filter(|_| segments.len() > 1);
            oldest.is_some_and(|oldest| oldest.acked_at.is_some_and(|at| at.elapsed() >= self.config.retention))
        })
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

    fn io(&self, name: Name, action: &'static str, source: io::Error) -> SpoolError {
        SpoolError::Io {
            path: self.shared.directory.path_of(name),
            action,
            source,
        }
    }
}

impl Active {
    /// Whether so many bytes more belong into it. A frame longer than a segment has one for itself.
    fn is_roomy(&self, bytes: u64, limit: u64) -> bool {
        self.bytes + bytes <= limit || self.bytes == HEADER_BYTES as u64
    }
}

/// Reads the last segment of a lane, cuts its torn tail off and opens it for appending.
fn recover(
    directory: &Directory,
    epoch: &EpochBytes,
    last: &Segment,
    opened: &mut Opened,
) -> Result<(Option<Segment>, Option<Active>), SpoolError> {
    let (name, path) = (last.name, directory.path_of(last.name));
    let io = |action| {
        let path = path.clone();
        move |source| SpoolError::Io { path, action, source }
    };
    let file = directory.open_segment(name, true).map_err(io("open it"))?;
    let mut header = [0; HEADER_BYTES];
    let read = disk::fill(&*file, &mut header, 0).map_err(io("read it"))?;
    let header_is_whole = match segment::read_header(&header[..read], epoch) {
        Header::Valid { first } if first == name.first => true,
        Header::Valid { .. } | Header::Damaged => false,
        Header::OtherEpoch => return Err(foreign(path, "belongs to another spool")),
        Header::OtherFormat(version) => {
            return Err(foreign(
                path,
                &format!("has format version {version}, which this agent does not know"),
            ));
        }
    };
    let length = file.length().map_err(io("read it"))?;
    let mut frames = Frames::new(Arc::clone(&file), *epoch);
    let (mut end, mut items) = (name.first - 1, 0);
    loop {
        let before = frames.end();
        let Some(frame) = frames.next(&(end + 1..=end + JUMP_MAX)).map_err(io("read it"))? else {
            break;
        };
        let bytes = (segment::FRAME_HEADER_BYTES + frame.payload.len()) as u64;
        opened.corrupt_bytes += frames.end() - bytes - before;
        (end, items) = (frame.sequence, items + 1);
    }
    if items == 0 && !header_is_whole {
        directory.unlink(name)?;
        opened.truncated_bytes += length;
        return Ok((None, None));
    }
    let kept = frames.end().min(length);
    if length > kept {
        opened.truncated_bytes += length - kept;
        file.truncate(kept)
            .and_then(|()| file.sync())
            .map_err(io("cut its torn tail off"))?;
    }
    let segment = Segment {
        end,
        bytes: kept,
        items: Some(items),
        ..last.clone()
    };
    let active = (header_is_whole && name.lane.is_some()).then_some(Active {
        file,
        name,
        bytes: kept,
        durable: kept,
        reserved: kept,
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
    /// Of each lane, in order of sequence.
    lanes: ByLane<VecDeque<Segment>>,
    /// Why items that are not there are not there, as far as they are not acknowledged; in order. Others of a range may be
    /// there all the same.
    lost: Vec<Record>,
    acked: u64,
    /// The last durable sequence.
    end: u64,
    notices: Vec<Item>,
}

/// One segment file: some of the sequences from its name to `end`.
#[derive(Clone, Debug)]
struct Segment {
    name: Name,
    /// None of its sequences is above; exact for the last of a lane.
    end: u64,
    /// What it takes of the quota.
    bytes: u64,
    /// How many items it holds, if that is known without reading it.
    items: Option<u64>,
    /// Since when all of it is known to be acknowledged.
    acked_at: Option<Instant>,
}

impl State {
    fn add_lost(&mut self, record: Record) {
        let place = self.lost.partition_point(|lost| lost.from <= record.from);
        self.lost.insert(place, record);
        let mut merged: Vec<Record> = Vec::with_capacity(self.lost.len());
        for record in self.lost.drain(..) {
            match merged.last_mut() {
                Some(last) if last.reason == record.reason && last.to + 1 >= record.from => {
                    last.to = last.to.max(record.to);
                }
                Some(_) | None => merged.push(record),
            }
        }
        if merged.len() > LOST_MAX {
            let first = merged.remove(0);
            merged[0].from = first.from;
            merged[0].to = merged[0].to.max(first.to);
        }
        self.lost = merged;
    }

    /// Bytes of all lanes, and of all but the highest.
    fn used(&self) -> (u64, u64) {
        let bytes = |segments: &VecDeque<Segment>| segments.iter().map(|segment| segment.bytes).sum::<u64>();
        let all = self.lanes.iter().map(|(_, segments)| bytes(segments)).sum();
        (all, all - bytes(self.lanes.get(Lane::High)))
    }

    fn measure(&self, metrics: &SpoolMetrics) {
        let (bytes, _) = self.used();
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
mod crash;
#[cfg(test)]
mod tests;
