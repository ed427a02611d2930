//! The store in a directory of this host, and the default: a segmented log beside a small index.
//!
//! One thread of its own writes. It commits whatever batches have gathered, of all agents, with one sync. After an
//! error it undoes what nobody was told of and opens the log anew, as often as it takes.

use super::{
    AgentRecord, AlertLog, Append, Appended, OpenError, Page, ReadLimit, Retention, Unavailable,
    disk::{Disk, HostDisk},
    log::{Committed, Log, LogError, Shared, Undo},
    reader,
};
use crate::{filter::Filter, metrics::Metrics};
use staghound_proto::v1::Hello;
use std::{
    collections::HashMap,
    fs::{DirBuilder, File, TryLockError},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

const LOCK: &str = "lock";
/// How long to ask for the lock. The one who has it may be ending, or be a process that was just forked and drops the
/// lock as soon as it executes its program.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_RETRY: Duration = Duration::from_millis(10);
const QUEUE_COMMANDS_MAX: usize = 1024;
/// Most that one commit gathers; what comes later waits for the next, so that acknowledgements keep flowing.
const GROUP_BYTES_MAX: usize = 16 << 20;
const GROUP_APPENDS_MAX: usize = 1024;
const READERS_MAX: usize = 8;
/// Most named consumers; one more is refused.
const POSITIONS_MAX: usize = 10_000;
/// A failed store is tried again this often at most.
const REOPEN_INTERVAL: Duration = Duration::from_millis(500);

/// A handle for all to share.
pub(crate) struct Embedded {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    readers: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Append(Append, oneshot::Sender<Appended>),
    Watermark {
        agent_id: Arc<str>,
        epoch: Arc<str>,
        answer: oneshot::Sender<Result<u64, Unavailable>>,
    },
    Position(String, oneshot::Sender<Result<Option<u64>, Unavailable>>),
    KeepPosition(String, u64, oneshot::Sender<Result<(), Unavailable>>),
    Greeted(Box<Hello>),
    Agents(oneshot::Sender<Result<Vec<AgentRecord>, Unavailable>>),
    /// Remove what retention no longer wants, reopen what failed.
    Tick,
    Close,
}

impl Embedded {
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
        let asked = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if asked.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_RETRY),
                Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(data.to_owned())),
                Err(TryLockError::Error(source)) => return Err(directory(source)),
            }
        }
        Self::open_on(
            Arc::new(HostDisk(data.to_owned())),
            data,
            retention,
            metrics,
            Some(lock),
        )
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        data: &Path,
        retention: Retention,
        metrics: Arc<Metrics>,
        lock: Option<File>,
    ) -> Result<Self, OpenError> {
        let log = Log::open(&disk, data, retention, None)?;
        let shared = Arc::clone(log.shared());
        let (commands, queue) = mpsc::channel(QUEUE_COMMANDS_MAX);
        let positions = log.positions().map_err(|error| OpenError::Unreadable {
            path: data.to_owned(),
            reason: error.to_string(),
        })?;
        let writer = Writer {
            data: data.to_owned(),
            disk,
            retention,
            metrics: Arc::clone(&metrics),
            shared: Arc::clone(&shared),
            state: State::Open(Box::new(log)),
            positions: positions.into_iter().collect(),
            moved: HashMap::new(),
            _lock: lock,
        };
        metrics.store_open.set(1);
        writer.measure();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|source| OpenError::Directory {
                path: data.to_owned(),
                source,
            })?;
        Ok(Self {
            commands,
            shared,
            readers: Arc::new(Semaphore::new(READERS_MAX)),
            metrics,
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Unavailable>>) -> Command,
    ) -> Result<T, Unavailable> {
        let (answer, receiver) = oneshot::channel();
        // A store that has ended drops the sender, which the receiver sees.
        drop(self.commands.send(command(answer)).await);
        receiver.await.unwrap_or_else(|_| Err(Unavailable::closed()))
    }
}

#[async_trait::async_trait]
impl AlertLog for Embedded {
    async fn append(&self, append: Append) -> oneshot::Receiver<Appended> {
        let (sender, receiver) = oneshot::channel();
        // A store that has ended drops the sender, which the receiver sees.
        drop(self.commands.send(Command::Append(append, sender)).await);
        receiver
    }

    async fn watermark(&self, agent_id: &Arc<str>, epoch: &Arc<str>) -> Result<u64, Unavailable> {
        let (agent_id, epoch) = (Arc::clone(agent_id), Arc::clone(epoch));
        self.ask(|answer| Command::Watermark {
            agent_id,
            epoch,
            answer,
        })
        .await
    }

    async fn read(&self, from: u64, limit: ReadLimit, filter: Arc<Filter>) -> Result<Page, Unavailable> {
        let permit = Arc::clone(&self.readers).acquire_owned().await;
        let permit = permit.map_err(|_| Unavailable::closed())?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || {
            let page = reader::read(&shared, from, limit, &filter);
            drop(permit);
            page.map_err(|error| Unavailable(error.to_string()))
        });
        read.await
            .map_err(|error| Unavailable(format!("reading failed: {error}")))?
    }

    async fn earliest(&self) -> Result<u64, Unavailable> {
        let next = *self.shared.next.borrow();
        Ok(self.shared.segments().first().map_or(next, |oldest| oldest.first))
    }

    fn next(&self) -> watch::Receiver<u64> {
        self.shared.next.subscribe()
    }

    fn tag(&self) -> u32 {
        self.shared.tag
    }

    fn is_open(&self) -> bool {
        self.shared.open.load(Ordering::Relaxed)
    }

    async fn position(&self, name: &str) -> Result<Option<u64>, Unavailable> {
        let name = name.to_owned();
        self.ask(|answer| Command::Position(name, answer)).await
    }

    async fn keep_position(&self, name: &str, next: u64) -> Result<(), Unavailable> {
        let name = name.to_owned();
        self.ask(|answer| Command::KeepPosition(name, next, answer)).await
    }

    async fn greeted(&self, hello: Hello) {
        drop(self.commands.send(Command::Greeted(Box::new(hello))).await);
    }

    async fn agents(&self) -> Result<Vec<AgentRecord>, Unavailable> {
        self.ask(Command::Agents).await
    }

    fn has_more_than_its_share(&self, agent_id: &str) -> bool {
        let over = self.shared.over_share.read().unwrap_or_else(PoisonError::into_inner);
        over.contains(agent_id)
    }

    async fn tick(&self) {
        let met = self.shared.damage_met.swap(0, Ordering::Relaxed);
        self.metrics.store_damage_met.inc_by(met);
        // A store that is closing needs none.
        drop(self.commands.send(Command::Tick).await);
    }

    async fn close(&self) {
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

/// The thread that writes.
struct Writer {
    data: PathBuf,
    disk: Arc<dyn Disk>,
    retention: Retention,
    metrics: Arc<Metrics>,
    shared: Arc<Shared>,
    state: State,
    /// Where each named consumer goes on.
    positions: HashMap<String, u64>,
    /// What of it is not written down yet.
    moved: HashMap<String, u64>,
    /// Held as long as the thread lives.
    _lock: Option<File>,
}

enum State {
    Open(Box<Log>),
    /// The disk fails.
    Failed {
        undo: Undo,
        attempted: Instant,
    },
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
                }) => {
                    drop(answer.send(self.with(|log| log.watermark(&agent_id, &epoch))));
                }
                Some(Command::Position(name, answer)) => {
                    let position = self.positions.get(&name).copied();
                    drop(answer.send(self.with(|_| Ok(position))));
                }
                Some(Command::KeepPosition(name, next, answer)) => drop(answer.send(self.keep_position(name, next))),
                Some(Command::Greeted(hello)) => drop(self.with(|log| log.greeted(*hello, SystemTime::now()))),
                Some(Command::Agents(answer)) => drop(answer.send(self.with(|log| Ok(log.agents().records())))),
                Some(Command::Tick) => self.tick(),
                Some(Command::Close) => break,
            }
        }
        self.keep();
        self.shared.open.store(false, Ordering::Relaxed);
        self.metrics.store_open.set(0);
    }

    /// Does something with the log, which is opened again before if it had failed, and fails if that does.
    fn with<T>(&mut self, act: impl FnOnce(&mut Log) -> Result<T, LogError>) -> Result<T, Unavailable> {
        if let State::Failed { undo, attempted } = &mut self.state {
            if attempted.elapsed() < REOPEN_INTERVAL {
                return Err(Unavailable::closed());
            }
            *attempted = Instant::now();
            undo.apply(self.disk.as_ref())
                .map_err(|error| Unavailable(error.to_string()))?;
            let opened = Log::open(&self.disk, &self.data, self.retention, Some(Arc::clone(&self.shared)));
            let log = opened.map_err(|error| Unavailable(error.to_string()))?;
            tracing::info!(path = %self.data.display(), "store reopened");
            self.metrics.store_open.set(1);
            self.state = State::Open(Box::new(log));
        }
        let State::Open(log) = &mut self.state else {
            unreachable!("it was opened above")
        };
        match act(log) {
            Ok(value) => Ok(value),
            Err(error) => {
                tracing::error!(%error, path = %self.data.display(), "store failed; trying to reopen it until it works");
                let undo = log.undo();
                self.metrics.store_failures.inc();
                self.metrics.store_open.set(0);
                self.shared.open.store(false, Ordering::Relaxed);
                self.state = State::Failed {
                    undo,
                    attempted: Instant::now(),
                };
                Err(Unavailable(error.to_string()))
            }
        }
    }

    fn append(&mut self, group: Vec<(Append, oneshot::Sender<Appended>)>) {
        let (appends, senders): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let began = Instant::now();
        let committed = self.with(|log| log.append(appends));
        if let Ok(committed) = &committed {
            self.count(committed, began.elapsed());
        }
        let mut results = committed.map(|committed| committed.results.into_iter());
        for sender in senders {
            let result = match &mut results {
                Ok(results) => results.next().expect("a commit gives one result per append"),
                Err(unavailable) => Appended::Unavailable(unavailable.clone()),
            };
            // The stream may have ended meanwhile; its agent will learn the watermark from the next welcome.
            drop(sender.send(result));
        }
        // Sealing is not what an acknowledgement waits for. What is too old is looked for once a second.
        if results.is_ok() {
            self.maintain();
        }
    }

    fn count(&self, committed: &Committed, time: Duration) {
        let metrics = &self.metrics;
        if committed.items > 0 {
            metrics.store_commits.inc();
            metrics.store_commit_seconds.observe(time.as_secs_f64());
        }
        metrics.ingest_batches.inc_by(committed.batches);
        metrics.ingest_items.inc_by(committed.items);
        metrics.ingest_duplicates.inc_by(committed.duplicates);
        metrics.ingest_sequence_gaps.inc_by(committed.sequence_gaps);
    }

    fn maintain(&mut self) {
        // An error is told where it happens, and the next command tries to open the store again.
        if let Ok(removed) = self.with(|log| log.maintain(SystemTime::now())) {
            self.metrics.store_removed.inc_by(removed);
        }
        self.measure();
    }

    fn measure(&self) {
        let State::Open(log) = &self.state else { return };
        let size = log.size();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.store_bytes.set(gauge(size.bytes));
        self.metrics.store_next_position.set(gauge(size.next));
        self.metrics.store_entries.set(gauge(size.entries));
        self.metrics.store_segments.set(gauge(size.segments as u64));
        self.metrics.store_damaged_bytes.set(gauge(log.damaged_bytes));
    }

    fn keep_position(&mut self, name: String, next: u64) -> Result<(), Unavailable> {
        self.with(|_| Ok(()))?;
        if !self.positions.contains_key(&name) && self.positions.len() >= POSITIONS_MAX {
            let message = format!("{POSITIONS_MAX} consumers have a position here already; use one of their names");
            return Err(Unavailable(message));
        }
        self.positions.insert(name.clone(), next);
        self.moved.insert(name, next);
        Ok(())
    }

    fn tick(&mut self) {
        self.maintain();
        self.keep();
    }

    fn keep(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        if self.with(|log| log.keep(&moved, SystemTime::now())).is_err() {
            // Those that moved on since are newer.
            for (name, next) in moved {
                self.moved.entry(name).or_insert(next);
            }
        }
    }
}
