//! The segmented log: appends in groups with one sync each, seals segments, unlinks those that retention no longer
//! wants. One thread owns it; readers share what is durable.
//!
//! Invariant: a position, a watermark and the items behind it become visible to anyone only after the sync.

use super::{
    Append, Appended, OpenError, Retention,
    agents::{Agents, Delivered},
    disk::{Disk, DiskFile},
    index::{self, BadIndex, Index, Sealed},
    migrate,
    segment::{self, Chunk, ChunkItem, Found, HEADER_BYTES},
};
use crate::sequence;
use prost::Message as _;
use staghound_proto::v1::{Gap, Item, gap, item};
use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    io,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Segments are so large that there are few of them, and so small that retention goes in small steps.
pub(super) const SEGMENT_BYTES_MAX: u64 = 64 << 20;
const SEGMENT_BYTES_MIN: u64 = 4 << 10;
const SEGMENTS_PER_RETENTION: u64 = 64;
/// The active segment is sealed when its oldest entry has this part of the age that retention allows.
const SEALS_PER_AGE: u32 = 16;
/// Distance of the places where a reader can begin.
pub(super) const MARK_BYTES: u64 = 64 << 10;
/// A store fuller than this takes less from those who have more than their share.
const FULL_PERCENT: u64 = 90;
/// One agent's share of a full store.
const SHARE_PERCENT: u64 = 50;

/// Where and how the log was broken.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Index(#[from] redb::Error),
}

/// What readers see.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) tag: u32,
    pub(super) next: watch::Sender<u64>,
    pub(super) open: AtomicBool,
    /// Oldest first; the last one is the active one.
    segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    pub(super) over_share: RwLock<HashSet<Arc<str>>>,
    /// Times that a reader came upon bytes that are no entries.
    pub(super) damage_met: AtomicU64,
}

impl Shared {
    pub(super) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_segments(&self, segments: Vec<Arc<Segment>>) {
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(segments);
    }
}

/// One file, as far as it is durable.
pub(super) struct Segment {
    pub(super) first: u64,
    extent: Mutex<Extent>,
}

#[derive(Default)]
struct Extent {
    end: u64,
    bytes: u64,
    /// Positions of some frames and where they begin.
    marks: Vec<(u64, u64)>,
}

/// Where to read in a segment.
pub(super) struct Place {
    /// Where a frame begins, at or before the position asked for.
    pub(super) offset: u64,
    /// Position after the last entry.
    pub(super) end: u64,
    /// Length of what is durable.
    pub(super) bytes: u64,
}

impl Segment {
    fn new(first: u64) -> Self {
        let extent = Extent {
            end: first,
            bytes: HEADER_BYTES as u64,
            marks: Vec::new(),
        };
        Self {
            first,
            extent: Mutex::new(extent),
        }
    }

    fn sealed(first: u64, sealed: &Sealed) -> Self {
        let marks = sealed
            .mark_positions
            .iter()
            .copied()
            .zip(sealed.mark_offsets.iter().copied());
        let extent = Extent {
            end: sealed.end,
            bytes: sealed.bytes,
            marks: marks.collect(),
        };
        Self {
            first,
            extent: Mutex::new(extent),
        }
    }

    fn extent(&self) -> std::sync::MutexGuard<'_, Extent> {
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) -> u64 {
        self.extent().end
    }

    pub(super) fn place(&self, position: u64) -> Place {
        let extent = self.extent();
        let after = extent.marks.partition_point(|(first, _)| *first <= position);
        let offset = after
            .checked_sub(1)
            .map_or(HEADER_BYTES as u64, |mark| extent.marks[mark].1);
        Place {
            offset,
            end: extent.end,
            bytes: extent.bytes,
        }
    }

    /// Where reading can go on after bytes that are no frames: the first mark behind them.
    pub(super) fn mark_after(&self, offset: u64) -> Option<(u64, u64)> {
        let extent = self.extent();
        extent.marks.iter().find(|(_, mark)| *mark > offset).copied()
    }
}

struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// Length of what is durable.
    bytes: u64,
    marked: u64,
    oldest_s: Option<i64>,
    newest_s: i64,
    agents: BTreeMap<String, u64>,
}

impl Active {
    fn new(first: u64, file: Arc<dyn DiskFile>) -> Self {
        Self {
            segment: Arc::new(Segment::new(first)),
            file,
            bytes: HEADER_BYTES as u64,
            marked: 0,
            oldest_s: None,
            newest_s: 0,
            agents: BTreeMap::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.oldest_s.is_none()
    }

    /// Takes note of a frame that is durable.
    fn note(&mut self, frame: &Frame<'_>) {
        let mut extent = self.segment.extent();
        if self.marked + MARK_BYTES <= frame.offset {
            extent.marks.push((frame.first, frame.offset));
            self.marked = frame.offset;
        }
        extent.end = frame.end;
        extent.bytes = frame.offset + frame.bytes;
        self.bytes = extent.bytes;
        self.oldest_s.get_or_insert(frame.time_s);
        self.newest_s = self.newest_s.max(frame.time_s);
        match self.agents.get_mut(frame.agent_id) {
            Some(bytes) => *bytes += frame.bytes,
            None => drop(self.agents.insert(frame.agent_id.to_owned(), frame.bytes)),
        }
    }
}

struct Frame<'a> {
    offset: u64,
    bytes: u64,
    first: u64,
    end: u64,
    time_s: i64,
    agent_id: &'a str,
}

struct Old {
    segment: Arc<Segment>,
    bytes: u64,
    newest_s: i64,
    agents: BTreeMap<String, u64>,
}

type Marks = HashMap<(Arc<str>, Arc<str>), (u64, i64)>;

/// The log. After an error it must be opened again.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    index: Index,
    retention: Retention,
    segment_bytes: u64,
    sealed: VecDeque<Old>,
    active: Active,
    next: u64,
    bytes: u64,
    /// Watermarks newer than those of the index.
    marks: Marks,
    agents: Agents,
    buffer: Vec<u8>,
    /// Bytes that had been durable and are no frames, found at open.
    pub(super) damaged_bytes: u64,
}

/// What a group of appends came to.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) results: Vec<Appended>,
    pub(super) items: u64,
    pub(super) duplicates: u64,
    pub(super) sequence_gaps: u64,
    pub(super) batches: u64,
}

/// How large the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) next: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) segments: usize,
}

impl Log {
    /// Opens the log, or makes it when there is none; brings the one of the previous format up to date. The caller has
    /// the directory's lock. `shared` is that of the same log before it failed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        retention: Retention,
        shared: Option<Arc<Shared>>,
    ) -> Result<Self, OpenError> {
        let directory = |source| OpenError::Directory {
            path: path.to_owned(),
            source,
        };
        let file = path.join(index::FILE);
        let unreadable = |error: &dyn std::fmt::Display| OpenError::Unreadable {
            path: file.clone(),
            reason: error.to_string(),
        };
        migrate::prepare(disk.as_ref(), path)?;
        if shared.is_some() {
            Index::rewrite(disk.as_ref()).map_err(|error| unreadable(&error))?;
        }
        let (index, contents) = match Index::open(disk.as_ref()) {
            Ok(opened) => opened,
            Err(BadIndex::Format(found)) => return Err(OpenError::Format { path: file, found }),
            Err(BadIndex::Unreadable(error)) => return Err(unreadable(&error)),
        };
        let mut agents = Agents::new(contents.agents);
        let present: HashSet<u64> = disk
            .list()
            .map_err(directory)?
            .iter()
            .filter_map(|name| segment::parse_name(name))
            .collect();
        let listed: HashSet<u64> = contents.sealed.iter().map(|(first, _)| *first).collect();
        if let Some(newer) = present.iter().find(|first| **first > contents.active) {
            let reason = format!(
                "segment {} is newer than the index, which may be a copy",
                segment::name(*newer)
            );
            return Err(unreadable(&reason));
        }
        for orphan in present
            .iter()
            .filter(|first| **first < contents.active && !listed.contains(first))
        {
            // A crash came between forgetting it and unlinking it.
            disk.remove(&segment::name(*orphan)).map_err(directory)?;
        }
        let mut damaged_bytes = 0;
        let mut sealed = VecDeque::new();
        for (first, row) in contents.sealed {
            if !present.contains(&first) {
                tracing::error!(
                    segment = segment::name(first),
                    bytes = row.bytes,
                    "a segment of the store is missing"
                );
                damaged_bytes += row.bytes;
            }
            for (agent_id, bytes) in &row.agents {
                agents.stored(agent_id, *bytes, row.newest_s);
            }
            sealed.push_back(Old {
                segment: Arc::new(Segment::sealed(first, &row)),
                bytes: row.bytes,
                newest_s: row.newest_s,
                agents: row.agents,
            });
        }
        let name = segment::name(contents.active);
        let file = if present.contains(&contents.active) {
            disk.open(&name).map_err(directory)?
        } else {
            make(disk.as_ref(), contents.tag, contents.active).map_err(directory)?
        };
        let mut log = Self {
            disk: Arc::clone(disk),
            shared: shared.unwrap_or_else(|| {
                Arc::new(Shared {
                    disk: Arc::clone(disk),
                    tag: contents.tag,
                    next: watch::Sender::new(contents.active),
                    open: AtomicBool::new(true),
                    segments: RwLock::default(),
                    over_share: RwLock::default(),
                    damage_met: AtomicU64::new(0),
                })
            }),
            index,
            retention,
            segment_bytes: retention.bytes.map_or(SEGMENT_BYTES_MAX, |bytes| {
                (bytes / SEGMENTS_PER_RETENTION).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            }),
            bytes: sealed.iter().map(|old| old.bytes).sum(),
            sealed,
            active: Active::new(contents.active, file),
            next: contents.active,
            marks: Marks::new(),
            agents,
            buffer: Vec::new(),
            damaged_bytes,
        };
        if log.shared.tag != contents.tag {
            return Err(unreadable(&"another store is in its place; restart the collector"));
        }
        log.recover(contents.tag).map_err(directory)?;
        log.publish();
        log.shared.open.store(true, Ordering::Relaxed);
        Ok(log)
    }

    /// Reads the active segment and cuts its torn end off.
    fn recover(&mut self, tag: u32) -> io::Result<()> {
        let file = Arc::clone(&self.active.file);
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0)?;
        if bytes.get(..HEADER_BYTES) != Some(segment::header(tag, self.active.segment.first).as_slice()) {
            // Frames are written only after the header is durable; with a damaged one they are still what they are.
            file.write_all_at(&segment::header(tag, self.active.segment.first), 0)?;
            file.sync()?;
        }
        let mut damaged = 0;
        let whole = segment::scan(&bytes, |found| match found {
            Found::Damage { bytes } => damaged += bytes as u64,
            Found::Frame { offset, frame, payload } => match Chunk::decode(payload) {
                Ok(chunk) if frame.first >= self.next => self.replay(offset as u64, &frame, &chunk),
                Ok(_) | Err(_) => damaged += frame.bytes() as u64,
            },
        });
        if damaged > 0 {
            tracing::error!(
                bytes = damaged,
                "entries of the store are damaged; subscribers that come to them are told"
            );
            self.damaged_bytes += damaged;
        }
        let whole = whole.max(HEADER_BYTES);
        if len > whole {
            tracing::info!(
                bytes = len - whole,
                "cut what a crash left of a write that nobody was told of"
            );
            file.set_len(whole as u64)?;
        }
        // What was read may be in memory only, if the process that wrote it was killed before its sync.
        file.sync()?;
        self.active.bytes = whole as u64;
        self.active.segment.extent().bytes = whole as u64;
        self.bytes += self.active.bytes;
        Ok(())
    }

    fn replay(&mut self, offset: u64, frame: &segment::Frame, chunk: &Chunk) {
        let time_s = chunk.ingest_time.as_ref().map_or(0, |time| time.seconds);
        let bytes = frame.bytes() as u64;
        let (first, end) = (frame.first, frame.end());
        self.active.note(&Frame {
            offset,
            bytes,
            first,
            end,
            time_s,
            agent_id: &chunk.agent_id,
        });
        self.next = end;
        let mut counts = Delivered {
            items: chunk.items.len() as u64,
            ..Delivered::default()
        };
        for stored in &chunk.items {
            counts.through = stored.sequence;
            if let Ok(Item {
                kind: Some(item::Kind::Gap(Gap { kind })),
            }) = Item::decode(stored.item.clone())
            {
                match kind {
                    Some(gap::Kind::Sequence(gap)) => {
                        counts.sequence_gaps += 1;
                        counts.lost_items = counts.lost_items.saturating_add(gap.to - gap.from + 1);
                    }
                    Some(gap::Kind::Observation(_)) => counts.observation_gaps += 1,
                    None => {}
                }
            }
        }
        self.marks.insert(
            (chunk.agent_id.as_str().into(), chunk.epoch.as_str().into()),
            (counts.through, time_s),
        );
        self.agents.stored(&chunk.agent_id, bytes, time_s);
        self.agents.delivered(&chunk.agent_id, counts, time_s);
    }

    /// Shows readers which segments there are and how far they go.
    fn publish(&self) {
        let sealed = self.sealed.iter().map(|old| Arc::clone(&old.segment));
        self.shared
            .set_segments(sealed.chain([Arc::clone(&self.active.segment)]).collect());
        self.shared
            .next
            .send_if_modified(|next| std::mem::replace(next, self.next) != self.next);
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn watermark(&self, agent_id: &Arc<str>, epoch: &Arc<str>) -> Result<u64, LogError> {
        watermark(&self.index, [&self.marks], &(Arc::clone(agent_id), Arc::clone(epoch)))
    }

    /// Stores what is new of some batches, with one sync.
    pub(super) fn append(&mut self, appends: Vec<Append>) -> Result<Committed, LogError> {
        let mut done = Committed {
            results: Vec::with_capacity(appends.len()),
            ..Committed::default()
        };
        let commit = self.active.bytes;
        let mut next = self.next;
        let mut fresh = Marks::new();
        // Agent, host, counters and place of every frame, to be believed after the sync.
        let mut frames = Vec::with_capacity(appends.len());
        self.buffer.clear();
        for append in appends {
            let key = (append.agent_id, append.epoch);
            let watermark = watermark(&self.index, [&fresh, &self.marks], &key)?;
            let offered = append.items.len() as u64;
            let items = match sequence::admit(watermark, append.items) {
                Ok(items) => items,
                Err(hole) => {
                    done.results.push(Appended::Hole(hole));
                    continue;
                }
            };
            done.duplicates += offered - items.len() as u64;
            let Some(through) = items.last().map(|last| last.to) else {
                done.results.push(Appended::Through(watermark));
                continue;
            };
            let counts = Delivered::count(&items);
            done.sequence_gaps += counts.sequence_gaps;
            done.items += counts.items;
            done.batches += 1;
            done.results.push(Appended::Through(through));
            let chunk = Chunk {
                agent_id: String::from(&*key.0),
                epoch: String::from(&*key.1),
                host: String::from(&*append.host),
                ingest_time: Some(append.ingest_time),
                items: items
                    .into_iter()
                    .map(|placed| ChunkItem {
                        sequence: placed.to,
                        item: placed.encoded.into(),
                    })
                    .collect(),
            };
            let start = self.buffer.len();
            let count = u32::try_from(counts.items).expect("a batch holds at most a window of items");
            segment::write_frame(&mut self.buffer, next, commit, count, &chunk);
            let time_s = append.ingest_time.seconds;
            frames.push((
                Arc::clone(&key.0),
                start,
                self.buffer.len() - start,
                next,
                time_s,
                counts,
            ));
            next += counts.items;
            fresh.insert(key, (through, time_s));
        }
        if frames.is_empty() {
            return Ok(done);
        }
        self.active.file.write_all_at(&self.buffer, commit)?;
        self.active.file.sync()?;
        for (agent_id, start, bytes, first, time_s, counts) in frames {
            let (offset, bytes, end) = (commit + start as u64, bytes as u64, first + counts.items);
            self.active.note(&Frame {
                offset,
                bytes,
                first,
                end,
                time_s,
                agent_id: &agent_id,
            });
            self.agents.stored(&agent_id, bytes, time_s);
            self.agents.delivered(&agent_id, counts, time_s);
            self.bytes += bytes;
        }
        self.marks.extend(fresh);
        self.next = next;
        self.shared
            .next
            .send_if_modified(|shown| std::mem::replace(shown, next) != next);
        // A large group leaves a large buffer; one is enough for what comes usually.
        self.buffer.shrink_to(1 << 20);
        Ok(done)
    }

    /// Seals the active segment when it is large or old, and removes what retention does not want. Gives the number of
    /// entries removed.
    pub(super) fn maintain(&mut self, now: SystemTime) -> Result<u64, LogError> {
        let now_s = seconds(now);
        let age_s = self
            .retention
            .age
            .map(|age| i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let old = match (self.retention.age, self.active.oldest_s) {
            (Some(age), Some(oldest_s)) => {
                let step = (age / SEALS_PER_AGE).max(Duration::from_secs(1)).as_secs();
                now_s.saturating_sub(oldest_s) > i64::try_from(step).unwrap_or(i64::MAX)
            }
            (None, _) | (_, None) => false,
        };
        if !self.active.is_empty() && (old || self.active.bytes >= self.segment_bytes) {
            self.seal()?;
        }
        let mut gone = Vec::new();
        while let Some(oldest) = self.sealed.front() {
            let too_large = self.retention.bytes.is_some_and(|max| self.bytes > max);
            let too_old = age_s.is_some_and(|age_s| now_s.saturating_sub(oldest.newest_s) > age_s);
            if !too_large && !too_old {
                break;
            }
            self.bytes = self.bytes.saturating_sub(oldest.bytes);
            gone.extend(self.sealed.pop_front());
        }
        if !gone.is_empty() {
            // Its name goes first: what the index does not list is unlinked at the next open at the latest.
            self.index
                .change(|change| gone.iter().try_for_each(|old| change.forget_segment(old.segment.first)))?;
            self.publish();
            for old in &gone {
                self.disk.remove(&segment::name(old.segment.first))?;
                old.agents
                    .iter()
                    .for_each(|(agent_id, bytes)| self.agents.removed(agent_id, *bytes));
            }
        }
        self.judge_shares();
        Ok(gone.iter().map(|old| old.segment.end() - old.segment.first).sum())
    }

    fn judge_shares(&self) {
        let over = match self.retention.bytes {
            Some(max) if self.bytes / FULL_PERCENT >= max / 100 => {
                let over = self.agents.with_more_than(max / 100 * SHARE_PERCENT);
                // Alone it takes nothing from anybody.
                if over.len() == self.agents.with_more_than(0).len() {
                    HashSet::new()
                } else {
                    over
                }
            }
            Some(_) | None => HashSet::new(),
        };
        *self.shared.over_share.write().unwrap_or_else(PoisonError::into_inner) = over;
    }

    fn seal(&mut self) -> Result<(), LogError> {
        let active = &self.active;
        let (sealed, bytes) = {
            let extent = active.segment.extent();
            let (mark_positions, mark_offsets) = extent.marks.iter().copied().unzip();
            let sealed = Sealed {
                end: extent.end,
                bytes: active.bytes,
                newest_s: active.newest_s,
                mark_positions,
                mark_offsets,
                agents: active.agents.clone(),
            };
            (sealed, active.bytes)
        };
        let forgotten = self.agents.forget();
        let records = self.agents.seal();
        self.index.change(|change| {
            change.seal(active.segment.first, &sealed)?;
            let marks = self.marks.iter();
            change
                .watermarks(marks.map(|((agent, epoch), (through, time_s))| (&**agent, &**epoch, *through, *time_s)))?;
            records.iter().try_for_each(|record| change.agent(record))?;
            forgotten.iter().try_for_each(|agent_id| change.forget_agent(agent_id))
        })?;
        let file = make(self.disk.as_ref(), self.shared.tag, sealed.end)?;
        let full = std::mem::replace(&mut self.active, Active::new(sealed.end, file));
        self.bytes += HEADER_BYTES as u64;
        self.sealed.push_back(Old {
            segment: full.segment,
            bytes,
            newest_s: full.newest_s,
            agents: full.agents,
        });
        self.marks.clear();
        self.publish();
        Ok(())
    }

    pub(super) fn greeted(&mut self, hello: staghound_proto::v1::Hello, now: SystemTime) -> Result<(), LogError> {
        let through = self.watermark(&hello.agent_id.as_str().into(), &hello.epoch.as_str().into())?;
        self.agents.greeted(hello, through, seconds(now));
        Ok(())
    }

    pub(super) fn agents(&self) -> &Agents {
        &self.agents
    }

    pub(super) fn positions(&self) -> Result<Vec<(String, u64)>, LogError> {
        Ok(self.index.positions()?)
    }

    /// Writes down what changed of consumers and agents.
    pub(super) fn keep(&mut self, positions: &HashMap<String, u64>, now: SystemTime) -> Result<(), LogError> {
        let records = self.agents.changed();
        if positions.is_empty() && records.is_empty() {
            return Ok(());
        }
        self.index.change(|change| {
            for (name, next) in positions {
                change.position(name, *next, seconds(now))?;
            }
            records.iter().try_for_each(|record| change.agent(record))
        })?;
        Ok(())
    }

    pub(super) fn size(&self) -> Size {
        let first = self
            .sealed
            .front()
            .map_or(self.active.segment.first, |old| old.segment.first);
        Size {
            next: self.next,
            entries: self.next - first,
            bytes: self.bytes,
            segments: self.sealed.len() + 1,
        }
    }

    /// What a failed append must be cut back to before the log is opened again: what was written after it may look
    /// durable to who reads it, and need not be.
    pub(super) fn undo(&self) -> Undo {
        Undo {
            name: segment::name(self.active.segment.first),
            bytes: self.active.bytes,
        }
    }
}

/// See [`Log::undo`].
#[derive(Debug)]
pub(super) struct Undo {
    name: String,
    bytes: u64,
}

impl Undo {
    pub(super) fn apply(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = match disk.open(&self.name) {
            // It was sealed, and retention has taken it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened?,
        };
        if file.len()? > self.bytes {
            file.set_len(self.bytes)?;
            file.sync()?;
        }
        Ok(())
    }
}

/// Makes a segment, durable with its name.
pub(super) fn make(disk: &dyn Disk, tag: u32, first: u64) -> io::Result<Arc<dyn DiskFile>> {
    let file = disk.create(&segment::name(first))?;
    file.write_all_at(&segment::header(tag, first), 0)?;
    file.sync()?;
    disk.sync()?;
    Ok(file)
}

fn watermark<'a>(
    index: &Index,
    newer: impl IntoIterator<Item = &'a Marks>,
    key: &(Arc<str>, Arc<str>),
) -> Result<u64, LogError> {
    match newer.into_iter().find_map(|marks| marks.get(key)) {
        Some((through, _)) => Ok(*through),
        None => Ok(index.watermark(&key.0, &key.1)?),
    }
}

pub(super) fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
