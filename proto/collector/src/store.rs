//! The durable store: what is acknowledged is here, and survives a crash at any moment.
//!
//! Entries have positions, 1 and up, in the order they were stored. They are kept as *chunks* (the new items of one
//! batch) under the position of their first entry: one tree insertion per batch, not per item. One thread of its own
//! writes; it commits whatever batches have gathered, of all agents, with one fsync. Watermarks are committed in the
//! same transaction as the items, which is what makes delivery exactly-once. Readers see committed snapshots and wait
//! for nobody.
//!
//! Invariant: nobody outside of this file knows redb, so that a segmented log or JetStream can take its place.

use crate::{
    cursor::Cursor,
    filter::Filter,
    metrics::Metrics,
    sequence::{self, Placed},
};
use prost::{Message as _, bytes::Bytes};
use prost_types::Timestamp;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use staghound_proto::v1::{Entry, Item, item};
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// The version of what is written below; recorded in every store and checked at open.
const FORMAT: u64 = 1;
const FILE: &str = "store.redb";
/// Where a store is made, before it is moved to its name: a crash while making it leaves no half store.
const FILE_NEW: &str = "store.redb.new";
const LOCK: &str = "lock";

/// Position of the first entry → encoded [`Chunk`].
const CHUNKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("chunks");
/// (agent, epoch) → (last durable sequence, seconds since 1970 when it was last advanced).
const WATERMARKS: TableDefinition<'_, (&str, &str), (u64, i64)> = TableDefinition::new("watermarks");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
/// Random; part of every cursor.
const META_TAG: &str = "tag";
/// Position of the next entry. Kept apart from the chunks since retention may remove them all.
const META_NEXT: &str = "next";
/// Sum of the sizes of the encoded chunks.
const META_BYTES: &str = "bytes";

const CACHE_BYTES: usize = 48 << 20;
const QUEUE_COMMANDS_MAX: usize = 1024;
/// Most that one commit gathers; what comes later waits for the next, so that acknowledgements keep flowing.
const GROUP_BYTES_MAX: usize = 16 << 20;
const GROUP_APPENDS_MAX: usize = 1024;
/// Most chunks that retention removes with one commit; the rest goes with the next ones.
const REMOVE_CHUNKS_MAX: usize = 4096;
const READERS_MAX: usize = 8;
/// A failed store is tried again this often at most.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

/// What may be removed. Unset: nothing for that reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Entries stored longer ago than this are removed.
    pub age: Option<Duration>,
    /// The oldest entries are removed while all together are larger than this.
    pub bytes: Option<u64>,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {0} is in use by another staghound-collector; stop that one or give another --data")]
    InUse(PathBuf),
    /// It was written by another version.
    #[error(
        "store {path} has format {found}, this collector reads format {FORMAT}; use the collector that wrote it or give another --data"
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// The version it has.
        found: u64,
    },
    /// The file system refused.
    #[error("cannot use data directory {path}: {source}; check that it exists, is writable and has room")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and no store.
    #[error("cannot open store {path}: {reason}; restore it from a copy, or move it away to begin an empty one")]
    Unreadable {
        /// The store.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The store cannot serve now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store unavailable: {0}; nothing of this was acknowledged, try again later")]
pub(crate) struct Unavailable(String);

/// The new items of one agent's batch, still to be checked against its watermark.
pub(crate) struct Append {
    pub(crate) agent_id: Arc<str>,
    pub(crate) epoch: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) items: Vec<Placed>,
}

/// What became of an [`Append`]; sent when it is durable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// Everything through this sequence is durable.
    Through(u64),
    /// Nothing was stored: the batch begins after the sequence that is due.
    Hole(sequence::Hole),
    Unavailable(Unavailable),
}

/// Where to read, and how much at most.
pub(crate) struct ReadLimit {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    /// Entries looked at, passed or not: bounds the time of one read.
    pub(crate) scanned: usize,
}

/// What a read found.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Entry>,
    /// Everything before this was looked at.
    pub(crate) next: u64,
    /// Retention had removed entries at the position asked for.
    pub(crate) lost_before: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Chunk {
    #[prost(string, tag = "1")]
    agent_id: String,
    #[prost(string, tag = "2")]
    epoch: String,
    #[prost(string, tag = "3")]
    host: String,
    #[prost(message, optional, tag = "4")]
    ingest_time: Option<Timestamp>,
    #[prost(message, repeated, tag = "5")]
    items: Vec<ChunkItem>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChunkItem {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "bytes", tag = "2")]
    item: Bytes,
}

enum Command {
    Append(Append, oneshot::Sender<Appended>),
    Watermark {
        agent_id: Arc<str>,
        epoch: Arc<str>,
        answer: oneshot::Sender<Result<u64, Unavailable>>,
    },
    /// Remove what retention no longer wants, reopen what failed.
    Tick,
    Close,
}

/// A handle for all to share.
pub(crate) struct Store {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    readers: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// `None` while the disk fails and after the end.
    database: Mutex<Option<Arc<Database>>>,
    next: watch::Sender<u64>,
    tag: u32,
}

impl Shared {
    fn database(&self) -> Option<Arc<Database>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_database(&self, database: Option<Arc<Database>>) {
        *self.database.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }
}

impl Store {
    /// Opens or makes the store of a data directory, and starts its thread. Blocks; call it where that is allowed.
    pub(crate) fn open(data: &Path, retention: Retention, metrics: Arc<Metrics>) -> Result<Self, OpenError> {
        let directory = |source| OpenError::Directory {
            path: data.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(directory)?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(data.join(LOCK))
            .map_err(directory)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(data.to_owned())),
            Err(TryLockError::Error(source)) => return Err(directory(source)),
        }
        let opened = open(data)?;
        let shared = Arc::new(Shared {
            database: Mutex::new(Some(Arc::clone(&opened.database))),
            next: watch::Sender::new(opened.next),
            tag: opened.tag,
        });
        let (commands, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let writer = Writer {
            data: data.to_owned(),
            retention,
            metrics,
            shared: Arc::clone(&shared),
            database: Some(opened.database),
            next: opened.next,
            attempted: Instant::now(),
            _lock: lock,
        };
        writer.metrics.store_open.set(1);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(directory)?;
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Ok(Self {
            commands,
            shared,
            readers,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Applies retention and reopens what failed; to be called about once a second.
    pub(crate) async fn tick(&self) {
        // A store that is closing needs none.
        drop(self.commands.send(Command::Tick).await);
    }

    /// Queues an append, waiting for room; the receiver tells when it is durable.
    pub(crate) async fn append(&self, append: Append) -> oneshot::Receiver<Appended> {
        let (sender, receiver) = oneshot::channel();
        // A store that has ended drops the sender, which the receiver sees.
        drop(self.commands.send(Command::Append(append, sender)).await);
        receiver
    }

    /// The last durable sequence of an agent's epoch, everything queued before this included; 0 when there is none.
    pub(crate) async fn watermark(&self, agent_id: &Arc<str>, epoch: &Arc<str>) -> Result<u64, Unavailable> {
        let (answer, receiver) = oneshot::channel();
        let command = Command::Watermark {
            agent_id: Arc::clone(agent_id),
            epoch: Arc::clone(epoch),
            answer,
        };
        drop(self.commands.send(command).await);
        receiver.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Reads from a position on.
    pub(crate) async fn read(&self, from: u64, limit: ReadLimit, filter: Arc<Filter>) -> Result<Page, Unavailable> {
        let permit = Arc::clone(&self.readers).acquire_owned().await.map_err(|_| closed())?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let database = shared.database().ok_or_else(closed)?;
            let page = read(&database, shared.tag, from, &limit, &filter);
            drop(permit);
            page.map_err(|error| Unavailable(error.to_string()))
        });
        read.await
            .map_err(|error| Unavailable(format!("reading failed: {error}")))?
    }

    /// Position of the oldest entry still stored; [`Store::next`] when there is none.
    pub(crate) async fn earliest(&self) -> Result<u64, Unavailable> {
        let limit = ReadLimit {
            entries: 0,
            bytes: 0,
            scanned: 0,
        };
        self.read(1, limit, Arc::default()).await.map(|page| page.next)
    }

    /// Position the next entry will get; changes are notified.
    pub(crate) fn next(&self) -> watch::Receiver<u64> {
        self.shared.next.subscribe()
    }

    pub(crate) fn cursor(&self, next: u64) -> Cursor {
        Cursor {
            store: self.shared.tag,
            next,
        }
    }

    /// Whether it can serve now.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.database().is_some()
    }

    /// Makes everything queued durable, answers it and closes the file.
    pub(crate) async fn close(&self) {
        drop(self.commands.send(Command::Close).await);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(|| thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store thread ended by a panic");
            }
        }
    }
}

fn closed() -> Unavailable {
    Unavailable("it is closed, or waits for its disk to work again".to_owned())
}

struct Opened {
    database: Arc<Database>,
    next: u64,
    tag: u32,
}

/// Opens the store, or makes it when there is none. The caller holds the lock.
fn open(data: &Path) -> Result<Opened, OpenError> {
    let path = data.join(FILE);
    let directory = |source| OpenError::Directory {
        path: data.to_owned(),
        source,
    };
    let unreadable = |reason: redb::Error| OpenError::Unreadable {
        path: path.clone(),
        reason: reason.to_string(),
    };
    if !path.try_exists().map_err(directory)? {
        let new = data.join(FILE_NEW);
        match fs::remove_file(&new) {
            Ok(()) => tracing::info!(path = %new.display(), "removed what a crash left of a store being made"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(directory(error)),
        }
        make(&new).map_err(unreadable)?;
        fs::rename(&new, &path).map_err(directory)?;
        File::open(data).and_then(|data| data.sync_all()).map_err(directory)?;
    }
    let database = match Database::builder().set_cache_size(CACHE_BYTES).open(&path) {
        Ok(database) => database,
        Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::InUse(data.to_owned())),
        Err(error) => return Err(unreadable(error.into())),
    };
    let meta = |key| -> Result<Option<u64>, redb::Error> {
        let transaction = database.begin_read()?;
        Ok(transaction.open_table(META)?.get(key)?.map(|value| value.value()))
    };
    let found = meta(META_FORMAT).map_err(unreadable)?.unwrap_or(0);
    if found != FORMAT {
        return Err(OpenError::Format { path, found });
    }
    let next = meta(META_NEXT).map_err(unreadable)?.unwrap_or(1);
    let tag = meta(META_TAG)
        .map_err(unreadable)?
        .and_then(|tag| u32::try_from(tag).ok())
        .unwrap_or(0);
    Ok(Opened {
        database: Arc::new(database),
        next,
        tag,
    })
}

fn make(path: &Path) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
    let mut tag = [0; 4];
    getrandom::fill(&mut tag).map_err(|error| redb::Error::Io(io::Error::other(error.to_string())))?;
    let transaction = begin(&database)?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(META_FORMAT, FORMAT)?;
        meta.insert(META_TAG, u64::from(u32::from_be_bytes(tag)))?;
        meta.insert(META_NEXT, 1)?;
        meta.insert(META_BYTES, 0)?;
        transaction.open_table(CHUNKS)?;
        transaction.open_table(WATERMARKS)?;
    }
    transaction.commit()?;
    Ok(())
}

/// A write transaction after which a crash costs no repair: without it, opening after a SIGKILL reads the whole file.
fn begin(database: &Database) -> Result<redb::WriteTransaction, redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_quick_repair(true);
    Ok(transaction)
}

fn read(database: &Database, tag: u32, from: u64, limit: &ReadLimit, filter: &Filter) -> Result<Page, redb::Error> {
    let transaction = database.begin_read()?;
    let chunks = transaction.open_table(CHUNKS)?;
    let next = transaction
        .open_table(META)?
        .get(META_NEXT)?
        .map_or(1, |value| value.value());
    let earliest = chunks.first()?.map_or(next, |(key, _)| key.value());
    let lost_before = from < earliest;
    let mut page = Page {
        entries: Vec::new(),
        next: from.max(earliest),
        lost_before,
    };
    // The position may lie inside of a chunk, whose key is at or before it.
    let first = chunks
        .range(..=page.next)?
        .next_back()
        .transpose()?
        .map_or(page.next, |(key, _)| key.value());
    let (mut scanned, mut bytes) = (0, 0);
    for found in chunks.range(first..)? {
        let (key, value) = found?;
        let corrupt =
            |error| redb::Error::Corrupted(format!("the chunk at position {} is no chunk: {error}", key.value()));
        let chunk = Chunk::decode(Bytes::copy_from_slice(value.value())).map_err(corrupt)?;
        for (position, stored) in (key.value()..).zip(chunk.items) {
            if position < page.next {
                continue;
            }
            if scanned >= limit.scanned || page.entries.len() >= limit.entries || bytes >= limit.bytes {
                return Ok(page);
            }
            scanned += 1;
            page.next = position + 1;
            let size = stored.item.len();
            let mut item = Item::decode(stored.item).map_err(corrupt)?;
            if !filter.passes(&item, &chunk.host) {
                continue;
            }
            if let Some(item::Kind::Alert(alert)) = &mut item.kind {
                alert.ingest_time = chunk.ingest_time;
            }
            bytes += size;
            page.entries.push(Entry {
                cursor: Cursor {
                    store: tag,
                    next: position + 1,
                }
                .to_string(),
                agent_id: chunk.agent_id.clone(),
                epoch: chunk.epoch.clone(),
                sequence: stored.sequence,
                ingest_time: chunk.ingest_time,
                item: Some(item),
            });
        }
    }
    Ok(page)
}

/// The thread that writes.
struct Writer {
    data: PathBuf,
    retention: Retention,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    /// `None` while the disk fails.
    database: Option<Arc<Database>>,
    next: u64,
    /// When it was last tried to reopen.
    attempted: Instant,
    /// Held as long as the thread lives.
    _lock: File,
}

/// What a commit did.
struct Committed {
    results: Vec<Appended>,
    next: u64,
    items: u64,
    duplicates: u64,
    sequence_gaps: u64,
    batches: u64,
    removed: u64,
    bytes: u64,
    earliest: u64,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        while let Some(command) = queue.blocking_recv() {
            // Gather what is there; what is not an append ends the group, so that the order of the queue is kept.
            let mut bytes = 0;
            let mut command = Some(command);
            let other = loop {
                match command {
                    Some(Command::Append(append, sender)) => {
                        bytes += append.items.iter().map(|placed| placed.encoded.len()).sum::<usize>();
                        group.push((append, sender));
                        if bytes >= GROUP_BYTES_MAX || group.len() >= GROUP_APPENDS_MAX {
                            break None;
                        }
                        command = queue.try_recv().ok();
                    }
                    other => break other,
                }
            };
            if !group.is_empty() {
                self.append(std::mem::take(&mut group));
            }
            match other {
                None => {}
                Some(Command::Append(..)) => unreachable!("the loop above takes every append"),
                // The asker may be gone; then nobody wants the answer.
                Some(Command::Watermark {
                    agent_id,
                    epoch,
                    answer,
                }) => drop(answer.send(self.watermark(&agent_id, &epoch))),
                Some(Command::Tick) => self.tick(),
                Some(Command::Close) => break,
            }
        }
        self.shared.set_database(None);
        self.metrics.store_open.set(0);
    }

    fn append(&mut self, group: Vec<(Append, oneshot::Sender<Appended>)>) {
        let (appends, senders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        // Age is looked at once a second only, since it must read the oldest chunk.
        let retention = Retention {
            age: None,
            ..self.retention
        };
        let results = self.commit(appends, retention);
        let mut results = results.map(Vec::into_iter);
        for sender in senders {
            let result = match &mut results {
                Ok(results) => results.next().expect("a commit gives one result per append"),
                Err(unavailable) => Appended::Unavailable(unavailable.clone()),
            };
            // The stream may have ended meanwhile; its agent will learn the watermark from the next welcome.
            drop(sender.send(result));
        }
    }

    fn commit(&mut self, appends: Vec<Append>, retention: Retention) -> Result<Vec<Appended>, Unavailable> {
        let database = self.database()?;
        let began = Instant::now();
        match commit(&database, self.next, retention, appends) {
            Ok(committed) => {
                let metrics = &self.metrics;
                metrics.store_commits.inc();
                metrics.store_commit_seconds.observe(began.elapsed().as_secs_f64());
                metrics.ingest_batches.inc_by(committed.batches);
                metrics.ingest_items.inc_by(committed.items);
                metrics.ingest_duplicates.inc_by(committed.duplicates);
                metrics.ingest_sequence_gaps.inc_by(committed.sequence_gaps);
                metrics.store_removed.inc_by(committed.removed);
                metrics
                    .store_bytes
                    .set(i64::try_from(committed.bytes).unwrap_or(i64::MAX));
                metrics
                    .store_next_position
                    .set(i64::try_from(committed.next).unwrap_or(i64::MAX));
                metrics
                    .store_entries
                    .set(i64::try_from(committed.next - committed.earliest).unwrap_or(i64::MAX));
                self.next = committed.next;
                self.shared
                    .next
                    .send_if_modified(|next| std::mem::replace(next, committed.next) != committed.next);
                Ok(committed.results)
            }
            Err(error) => Err(self.fail(database, &error)),
        }
    }

    fn watermark(&mut self, agent_id: &str, epoch: &str) -> Result<u64, Unavailable> {
        let database = self.database()?;
        let watermark = || -> Result<u64, redb::Error> {
            let watermarks = database.begin_read()?.open_table(WATERMARKS)?;
            Ok(watermarks.get((agent_id, epoch))?.map_or(0, |value| value.value().0))
        };
        match watermark() {
            Ok(watermark) => Ok(watermark),
            Err(error) => Err(self.fail(database, &error)),
        }
    }

    fn tick(&mut self) {
        // An empty commit applies retention and costs no fsync when there is nothing to remove.
        if let Err(error) = self.commit(Vec::new(), self.retention) {
            tracing::debug!(%error, "retention waits");
        }
    }

    /// The open database; tries to open it, once a second at most, when it had failed.
    fn database(&mut self) -> Result<Arc<Database>, Unavailable> {
        if let Some(database) = &self.database {
            return Ok(Arc::clone(database));
        }
        if self.attempted.elapsed() < REOPEN_INTERVAL {
            return Err(closed());
        }
        self.attempted = Instant::now();
        match open(&self.data) {
            Ok(opened) if opened.tag == self.shared.tag => {
                tracing::info!(path = %self.data.display(), "store reopened");
                self.next = opened.next;
                self.database = Some(Arc::clone(&opened.database));
                self.shared.set_database(self.database.clone());
                self.shared.next.send_replace(opened.next);
                self.metrics.store_open.set(1);
                Ok(opened.database)
            }
            Ok(_) => Err(Unavailable(
                "another store is in its place; restart the collector".to_owned(),
            )),
            Err(error) => Err(Unavailable(error.to_string())),
        }
    }

    /// After an error redb refuses all further work: close it, and let the next command reopen it. Whether the commit
    /// that failed is on disk does not matter, since its watermarks are or are not there with it.
    fn fail(&mut self, database: Arc<Database>, error: &redb::Error) -> Unavailable {
        tracing::error!(%error, path = %self.data.display(), "store failed; trying to reopen it until it works");
        self.metrics.store_failures.inc();
        self.metrics.store_open.set(0);
        self.shared.set_database(None);
        self.database = None;
        self.attempted = Instant::now();
        drop(database);
        Unavailable(error.to_string())
    }
}

fn commit(
    database: &Database,
    next: u64,
    retention: Retention,
    appends: Vec<Append>,
) -> Result<Committed, redb::Error> {
    let now = SystemTime::now();
    let ingest_time = Timestamp::from(now);
    let transaction = begin(database)?;
    let mut done = Committed {
        results: Vec::with_capacity(appends.len()),
        next,
        items: 0,
        duplicates: 0,
        sequence_gaps: 0,
        batches: 0,
        removed: 0,
        bytes: 0,
        earliest: next,
    };
    {
        let mut chunks = transaction.open_table(CHUNKS)?;
        let mut watermarks = transaction.open_table(WATERMARKS)?;
        let mut meta = transaction.open_table(META)?;
        done.bytes = meta.get(META_BYTES)?.map_or(0, |value| value.value());
        for append in appends {
            let key = (&*append.agent_id, &*append.epoch);
            let watermark = watermarks.get(key)?.map_or(0, |value| value.value().0);
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
            let count = items.len() as u64;
            done.sequence_gaps += items.iter().filter(|placed| placed.is_sequence_gap()).count() as u64;
            let chunk = Chunk {
                agent_id: key.0.to_owned(),
                epoch: key.1.to_owned(),
                host: String::from(&*append.host),
                ingest_time: Some(ingest_time),
                items: items
                    .into_iter()
                    .map(|placed| ChunkItem {
                        sequence: placed.to,
                        item: placed.encoded.into(),
                    })
                    .collect(),
            };
            let encoded = chunk.encode_to_vec();
            chunks.insert(done.next, encoded.as_slice())?;
            watermarks.insert(key, (through, ingest_time.seconds))?;
            done.bytes += encoded.len() as u64;
            done.next += count;
            done.items += count;
            done.batches += 1;
            done.results.push(Appended::Through(through));
        }
        let oldest_kept = retention.age.and_then(|age| now.checked_sub(age));
        done.earliest = chunks.first()?.map_or(done.next, |(key, _)| key.value());
        for _ in 0..REMOVE_CHUNKS_MAX {
            let Some(first) = oldest(&chunks, done.bytes, retention.bytes, oldest_kept)? else {
                break;
            };
            chunks.remove(first.position)?;
            done.bytes = done.bytes.saturating_sub(first.size);
            let earliest = chunks.first()?.map_or(done.next, |(key, _)| key.value());
            done.removed += earliest - done.earliest;
            done.earliest = earliest;
        }
        meta.insert(META_NEXT, done.next)?;
        meta.insert(META_BYTES, done.bytes)?;
    }
    if done.items == 0 && done.removed == 0 {
        transaction.abort()?;
    } else {
        transaction.commit()?;
    }
    Ok(done)
}

struct Oldest {
    position: u64,
    size: u64,
}

/// The oldest chunk, if it is to go.
fn oldest(
    chunks: &redb::Table<'_, u64, &'static [u8]>,
    bytes: u64,
    bytes_max: Option<u64>,
    oldest_kept: Option<SystemTime>,
) -> Result<Option<Oldest>, redb::Error> {
    let Some((key, value)) = chunks.first()? else {
        return Ok(None);
    };
    let size = value.value().len() as u64;
    let too_large = bytes_max.is_some_and(|max| bytes > max);
    let too_old = match oldest_kept {
        Some(oldest_kept) if !too_large => {
            let corrupt =
                |error| redb::Error::Corrupted(format!("the chunk at position {} is no chunk: {error}", key.value()));
            let stored = Chunk::decode(value.value())
                .map_err(corrupt)?
                .ingest_time
                .unwrap_or_default();
            let stored = UNIX_EPOCH + Duration::from_secs(u64::try_from(stored.seconds).unwrap_or(0));
            stored < oldest_kept
        }
        Some(_) | None => false,
    };
    Ok((too_large || too_old).then(|| Oldest {
        position: key.value(),
        size,
    }))
}
