//! `FeedService`: streams stored entries to subscribers, each at its own pace.
//!
//! A subscriber is a position. It reads the store when it has credit and its transport has room, and waits for a
//! notification when it is at the end, so a slow one holds nothing but its position.

use crate::{
    collector::stopped,
    cursor::Cursor,
    filter::Filter,
    ingest::spread,
    live::{Entered, Live},
    metrics::Metrics,
    security::{Allowed, Peer},
    store::{AlertLog, Page, ReadLimit, Stored, Unavailable},
};
use prost_types::Timestamp;
use staghound_proto::v1::{Edge, Heartbeat, Start, SubscribeRequest, start, subscribe_request};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::{Sent, SentEntries, SentEntry};

pub(crate) mod wire;

const ENTRIES_PER_MESSAGE_MAX: usize = 256;
const BYTES_PER_MESSAGE_MAX: usize = 1 << 20;
/// Entries looked at with one read, so that a filter that nothing passes does not hold a reader for long.
const SCANNED_PER_READ_MAX: usize = 8192;
/// Messages waiting for the transport: one being sent, one ready.
const RESPONSES_QUEUED_MAX: usize = 2;
/// The same with a filter that costs much.
const SCANNED_COSTLY_MAX: usize = 256;
/// Credit and commits of one stream.
const MESSAGES_PER_SECOND_MAX: u32 = 1000;
const CONSUMER_BYTES_MAX: usize = 64;
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(5);
const HEARTBEAT_MAX: Duration = Duration::from_secs(3600);

/// The service; clones share everything.
#[derive(Clone)]
pub(crate) struct Feed {
    store: Arc<dyn AlertLog>,
    metrics: Arc<Metrics>,
    subscribers_max: usize,
    subscribers: Arc<AtomicUsize>,
    /// Streams of named consumers.
    live: Arc<Live>,
    start_timeout: Duration,
    stream_age: Duration,
    stopping: watch::Receiver<bool>,
    /// Held by every subscriber's task to its end, which is how the collector waits for them.
    alive: mpsc::WeakSender<()>,
}

impl Feed {
    pub(crate) fn new(
        store: Arc<dyn AlertLog>,
        metrics: Arc<Metrics>,
        subscribers_max: usize,
        start_timeout: Duration,
        stream_age: Duration,
        stopping: watch::Receiver<bool>,
        alive: mpsc::WeakSender<()>,
    ) -> Self {
        Self {
            store,
            metrics,
            subscribers_max,
            subscribers: Arc::default(),
            live: Arc::default(),
            start_timeout,
            stream_age,
            stopping,
            alive,
        }
    }
}

impl Feed {
    fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<ReceiverStream<Result<Sent, Status>>>, Status> {
        let peer = Peer::of(&request)?.clone();
        let allowed = peer.consumer().inspect_err(|status| {
            tracing::warn!(peer = %peer.address, status = ?status.message(), "subscriber refused");
        })?;
        let Some(counted) = Counted::enter(self) else {
            let message =
                "this collector has as many subscribers as it may have; use another or raise --subscribers-max";
            return Err(Status::resource_exhausted(message));
        };
        let alive = self.alive.upgrade().ok_or_else(shutting_down)?;
        let (sender, receiver) = mpsc::channel(RESPONSES_QUEUED_MAX);
        let feed = self.clone();
        tokio::spawn(async move {
            if let Err(status) = feed.serve(request.into_inner(), &allowed, &sender).await {
                tracing::info!(peer = %peer.address, status = ?status.message(), "subscriber ended");
                drop(timeout(feed.start_timeout, sender.send(Err(status))).await);
            }
            drop((counted, alive));
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One subscriber in the count.
struct Counted {
    subscribers: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl Counted {
    fn enter(feed: &Feed) -> Option<Self> {
        let room = |count| (count < feed.subscribers_max).then_some(count + 1);
        feed.subscribers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .ok()?;
        feed.metrics.feed_subscribers.inc();
        Some(Self {
            subscribers: Arc::clone(&feed.subscribers),
            metrics: Arc::clone(&feed.metrics),
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.subscribers.fetch_sub(1, Ordering::Relaxed);
        self.metrics.feed_subscribers.dec();
    }
}

/// What the consumer says while entries flow to it.
struct Inbound {
    messages: Streaming<SubscribeRequest>,
    /// Entries that may be sent; `None`: no limit.
    credit: Option<u64>,
    /// The consumer has said all it will say; it may still read.
    ended: bool,
    /// Since when, and how many messages: a stream of them is work, too.
    counted: (Instant, u32),
}

impl Inbound {
    /// Takes one message; never ready after the end. Safe to be dropped while it waits.
    async fn take(&mut self) -> Result<Option<String>, Status> {
        if self.ended {
            std::future::pending::<()>().await;
        }
        let message = self.messages.message().await?;
        if self.counted.0.elapsed() >= Duration::from_secs(1) {
            self.counted = (Instant::now(), 0);
        }
        self.counted.1 += 1;
        if self.counted.1 > MESSAGES_PER_SECOND_MAX {
            let message = format!("more than {MESSAGES_PER_SECOND_MAX} messages in a second; give more credit at once");
            return Err(Status::resource_exhausted(message));
        }
        match message {
            None => self.ended = true,
            Some(SubscribeRequest {
                phase: Some(subscribe_request::Phase::Commit(commit)),
            }) => return Ok(Some(commit.cursor)),
            Some(SubscribeRequest {
                phase: Some(subscribe_request::Phase::Credit(credit)),
            }) => {
                if let Some(left) = &mut self.credit {
                    *left = left.saturating_add(u64::from(credit.entries));
                }
            }
            Some(_) => {
                return Err(Status::invalid_argument(
                    "after the start only credit and commits may follow; open a new stream to start anew",
                ));
            }
        }
        Ok(None)
    }

    fn may_send(&self) -> usize {
        let credit = self
            .credit
            .map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX));
        credit.min(ENTRIES_PER_MESSAGE_MAX)
    }
}

impl Feed {
    /// One subscription from start to end.
    async fn serve(
        &self,
        mut messages: Streaming<SubscribeRequest>,
        allowed: &Allowed,
        responses: &mpsc::Sender<Result<Sent, Status>>,
    ) -> Result<(), Status> {
        let mut stopping = self.stopping.clone();
        let start = tokio::select! {
            start = timeout(self.start_timeout, messages.message()) => start,
            () = stopped(&mut stopping) => return Err(shutting_down()),
        };
        let start = match start {
            Err(_) => {
                return Err(Status::deadline_exceeded(
                    "no start came in time; send one as the first message",
                ));
            }
            Ok(message) => match message? {
                None => return Ok(()),
                Some(SubscribeRequest {
                    phase: Some(subscribe_request::Phase::Start(start)),
                }) => start,
                Some(_) => {
                    return Err(Status::invalid_argument(
                        "the first message is not a start; send one before credit",
                    ));
                }
            },
        };
        let mut newest = self.store.next();
        let name = consumer(&start, allowed)?;
        let mut live = match &name {
            Some(name) => self.live.enter(name, self.subscribers_max, &self.metrics.feed_named),
            None => None,
        };
        let kept = match &name {
            Some(name) => self.store.position(name).await.map_err(unavailable)?,
            None => None,
        };
        let mut next = match kept {
            // It may be from before a copy of the store was restored.
            Some(kept) => kept.min(*newest.borrow()),
            None => self.position(&start).await?,
        };
        let filter = Filter::try_from(start.filter.unwrap_or_default());
        let filter = Arc::new(filter.map_err(|error| Status::invalid_argument(error.to_string()))?);
        let heartbeat = match start.heartbeat_interval_s {
            0 => HEARTBEAT_DEFAULT,
            seconds => Duration::from_secs(u64::from(seconds)).min(HEARTBEAT_MAX),
        };
        let credit = (start.window > 0).then(|| u64::from(start.window));
        let mut inbound = Inbound {
            messages,
            credit,
            ended: false,
            counted: (Instant::now(), 0),
        };
        let old_at = Instant::now() + spread(self.stream_age);
        let mut quiet_since = Instant::now();
        let mut lost_before = false;
        loop {
            // Room first, reading after: what is read is sent at once and nothing piles up here.
            let permit = loop {
                tokio::select! {
                    permit = responses.reserve() => match permit {
                        Ok(permit) => break permit,
                        Err(_) => return Ok(()),
                    },
                    taken = inbound.take() => self.commit(name.as_ref(), taken?).await?,
                    () = replaced(&mut live) => return Err(newer()),
                    () = stopped(&mut stopping) => return Err(shutting_down()),
                    () = sleep_until(old_at) => return Err(old()),
                }
            };
            if old_at <= Instant::now() {
                return Err(old());
            }
            let entries_max = inbound.may_send();
            let end = *newest.borrow_and_update();
            let (response, sent) = if entries_max > 0 && next < end {
                let limit = ReadLimit {
                    entries: entries_max,
                    bytes: BYTES_PER_MESSAGE_MAX,
                    scanned: if filter.is_costly() {
                        SCANNED_COSTLY_MAX
                    } else {
                        SCANNED_PER_READ_MAX
                    },
                };
                let page = self
                    .store
                    .read(next, limit, Arc::clone(&filter))
                    .await
                    .map_err(unavailable)?;
                next = page.next;
                lost_before |= page.lost_before;
                if page.entries.is_empty() && !lost_before && quiet_since.elapsed() < heartbeat {
                    continue;
                }
                let sent = page.entries.len() as u64;
                if sent == 0 {
                    (self.heartbeat(next, lost_before), 0)
                } else {
                    (self.entries(page, lost_before), sent)
                }
            } else {
                drop(permit);
                tokio::select! {
                    // Ready at once when the store grew since `end` was read.
                    changed = newest.changed(), if entries_max > 0 => {
                        changed.map_err(|_| shutting_down())?;
                        continue;
                    }
                    taken = inbound.take() => {
                        self.commit(name.as_ref(), taken?).await?;
                        continue;
                    }
                    () = replaced(&mut live) => return Err(newer()),
                    () = responses.closed() => return Ok(()),
                    () = stopped(&mut stopping) => return Err(shutting_down()),
                    () = sleep_until(old_at) => return Err(old()),
                    () = sleep_until(quiet_since + heartbeat) => {}
                }
                // The transport may be full; then there is something it has to send, and no need for a heartbeat.
                quiet_since = Instant::now();
                let heartbeat = self.heartbeat(next, lost_before);
                if responses.try_send(Ok(heartbeat)).is_ok() {
                    self.count_loss(lost_before);
                    lost_before = false;
                }
                continue;
            };
            if let Some(left) = &mut inbound.credit {
                *left = left.saturating_sub(sent);
            }
            self.metrics.feed_entries.inc_by(sent);
            self.count_loss(lost_before);
            lost_before = false;
            quiet_since = Instant::now();
            permit.send(Ok(response));
        }
    }

    async fn position(&self, start: &Start) -> Result<u64, Status> {
        let edge = match &start.position {
            Some(start::Position::Cursor(text)) => return self.resume(text),
            Some(start::Position::Edge(edge)) => Edge::try_from(*edge)
                .map_err(|_| Status::invalid_argument(format!("{edge} is not an edge; use earliest or latest")))?,
            None => Edge::Unspecified,
        };
        match edge {
            Edge::Earliest => self.store.earliest().await.map_err(unavailable),
            Edge::Latest | Edge::Unspecified => Ok(*self.store.next().borrow()),
        }
    }

    fn resume(&self, text: &str) -> Result<u64, Status> {
        let shown: String = text.chars().take(64).collect();
        let cursor: Cursor = text
            .parse()
            .map_err(|error| Status::invalid_argument(format!("cursor {shown:?} is invalid: {error}")))?;
        let end = self.cursor(*self.store.next().borrow());
        if cursor.store != end.store {
            let message = format!("cursor {shown:?} is of another store; start at earliest to read what this one has");
            return Err(Status::invalid_argument(message));
        }
        if cursor.next > end.next || cursor.next == 0 {
            let message = format!(
                "cursor {shown:?} is not within this store, which may be a restored copy; start at earliest or latest"
            );
            return Err(Status::invalid_argument(message));
        }
        Ok(cursor.next)
    }

    fn entries(&self, page: Page, lost_before: bool) -> Sent {
        let entry = |stored: Stored| SentEntry {
            cursor: self.cursor(stored.next).to_string(),
            agent_id: String::from(&*stored.agent_id),
            epoch: String::from(&*stored.epoch),
            sequence: stored.sequence,
            ingest_time: stored.ingest_time,
            item: stored.item,
        };
        let entries = page.entries.into_iter().map(entry).collect();
        Sent {
            entries: Some(SentEntries { entries, lost_before }),
            heartbeat: None,
        }
    }

    /// Keeps what a named consumer is done with.
    async fn commit(&self, name: Option<&Arc<str>>, cursor: Option<String>) -> Result<(), Status> {
        let Some(cursor) = cursor else { return Ok(()) };
        let Some(name) = name else {
            let message = "a commit needs a consumer's name in the start; give one, or keep the cursor yourself";
            return Err(Status::invalid_argument(message));
        };
        let next = self.resume(&cursor)?;
        self.store.keep_position(name, next).await.map_err(unavailable)
    }

    fn cursor(&self, next: u64) -> Cursor {
        Cursor {
            store: self.store.tag(),
            next,
        }
    }

    fn heartbeat(&self, next: u64, lost_before: bool) -> Sent {
        let heartbeat = Heartbeat {
            cursor: self.cursor(next).to_string(),
            time: Some(Timestamp::from(SystemTime::now())),
            lost_before,
        };
        Sent {
            entries: None,
            heartbeat: Some(heartbeat),
        }
    }

    fn count_loss(&self, lost_before: bool) {
        if lost_before {
            self.metrics.feed_lost_before.inc();
        }
    }
}

/// What the position of a named consumer is kept under. The certificate's name is part of it, so that one consumer cannot
/// move another's.
fn consumer(start: &Start, allowed: &Allowed) -> Result<Option<Arc<str>>, Status> {
    let name = &start.consumer;
    if name.is_empty() {
        return Ok(None);
    }
    let charset = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.len() > CONSUMER_BYTES_MAX || !name.bytes().all(charset) {
        let name: String = name.chars().take(CONSUMER_BYTES_MAX).collect();
        return Err(Status::invalid_argument(format!(
            "consumer {name:?} is not 1 to {CONSUMER_BYTES_MAX} of A-Z a-z 0-9 . _ -; give it a valid name"
        )));
    }
    Ok(Some(match allowed {
        Allowed::Anyone => format!("consumer:{name}").into(),
        Allowed::Only(certificate) => format!("consumer:{certificate}/{name}").into(),
    }))
}

async fn replaced(live: &mut Option<Entered>) {
    match live {
        Some(entered) => entered.replaced().await,
        None => std::future::pending().await,
    }
}

fn newer() -> Status {
    Status::aborted("a newer stream of the same consumer took over; give another name to one that is to run beside it")
}

#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
fn unavailable(error: Unavailable) -> Status {
    Status::unavailable(format!("{error}; resume at your last cursor"))
}

fn old() -> Status {
    Status::unavailable("the connection has reached its age; connect again and resume at your last cursor")
}

fn shutting_down() -> Status {
    Status::unavailable("the collector is shutting down; connect again later and resume at your last cursor")
}
