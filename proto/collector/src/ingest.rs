//! `IngestService`: takes what agents deliver and acknowledges it when it is durable.
//!
//! A stream reads ahead while earlier batches wait for their commit, so that commits gather and one slow disk write
//! costs a round trip for nobody. What is read ahead is bounded per stream and over all streams.

use crate::{
    collector::stopped,
    live::{Entered, Live},
    metrics::Metrics,
    security::{Allowed, Peer},
    sequence::{self, BadBatch},
    store::{AlertLog, Append, Appended},
};
use prost::Message as _;
use prost_types::Timestamp;
use staghound_proto::{
    CONTRACT_VERSION,
    v1::{
        Ack, Batch, Hello, PublishRequest, PublishResponse, Welcome, ingest_service_server::IngestService, item,
        publish_request, publish_response,
    },
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// Batches of one stream that may wait for their commit; while they do, the stream is not read further.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// Bytes of all streams that may wait for their commit.
const BYTES_IN_FLIGHT_MAX: usize = 64 << 20;
/// The same of one stream, so that one that floods does not take the place of all others.
const STREAM_BYTES_IN_FLIGHT_MAX: usize = 8 << 20;
/// What an agent may deliver per second that has more than its share of a full store: slow, not silent.
const SLOW_BYTES_PER_SECOND: u64 = 64 << 10;
/// An agent may be ahead of its rate by so much.
const BURST: Duration = Duration::from_secs(1);
const RESPONSES_QUEUED_MAX: usize = 16;
const AGENT_ID_BYTES_MAX: usize = 253;
const EPOCH_DIGITS: usize = 32;
const TEXT_BYTES_MAX: usize = 1024;
const CAPABILITIES_MAX: usize = 64;
const HOOKS_MAX: usize = 1024;

/// Limits of one collector's ingest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) window: u32,
    pub(crate) message_bytes_max: usize,
    pub(crate) streams_max: usize,
    pub(crate) hello_timeout: Duration,
    /// What one agent may deliver per second.
    pub(crate) agent_bytes_per_second: u64,
    /// How long a stream lasts.
    pub(crate) stream_age: Duration,
}

/// The service; clones share everything.
#[derive(Clone)]
pub(crate) struct Ingest {
    store: Arc<dyn AlertLog>,
    metrics: Arc<Metrics>,
    limits: Limits,
    live: Arc<Live>,
    bytes: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
    /// Held by every stream's task to its end, which is how the collector waits for them.
    alive: mpsc::WeakSender<()>,
}

impl Ingest {
    /// Which agents have a stream.
    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    pub(crate) fn new(
        store: Arc<dyn AlertLog>,
        metrics: Arc<Metrics>,
        limits: Limits,
        stopping: watch::Receiver<bool>,
        alive: mpsc::WeakSender<()>,
    ) -> Self {
        let bytes = Arc::new(Semaphore::new(BYTES_IN_FLIGHT_MAX.max(limits.message_bytes_max)));
        Self {
            store,
            metrics,
            limits,
            live: Arc::default(),
            bytes,
            stopping,
            alive,
        }
    }
}

#[tonic::async_trait]
impl IngestService for Ingest {
    type PublishStream = ReceiverStream<Result<PublishResponse, Status>>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let peer = Peer::of(&request)?.clone();
        let allowed = peer.agent().inspect_err(|status| {
            self.metrics.rejected("role");
            tracing::warn!(peer = %peer.address, status = ?status.message(), "ingest refused");
        })?;
        let alive = self.alive.upgrade().ok_or_else(|| shutting_down().status)?;
        let (sender, receiver) = mpsc::channel(RESPONSES_QUEUED_MAX);
        let ingest = self.clone();
        tokio::spawn(async move {
            let mut stream = Stream {
                inbound: request.into_inner(),
                responses: sender.clone(),
            };
            if let Err(refusal) = ingest.serve(&mut stream, &allowed).await {
                ingest.metrics.rejected(refusal.reason);
                tracing::warn!(peer = %peer.address, reason = refusal.reason, status = ?refusal.status.message(), "ingest stream ended");
                // A peer that does not read its end finds out from the closed stream.
                let sent = tokio::time::timeout(ingest.limits.hello_timeout, sender.send(Err(refusal.status)));
                drop(sent.await);
            }
            drop(alive);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Why a stream ends before the agent wanted.
struct Refusal {
    /// For the metric.
    reason: &'static str,
    status: Status,
}

fn refuse(reason: &'static str, code: Code, message: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        status: Status::new(code, message),
    }
}

struct Stream {
    inbound: Streaming<PublishRequest>,
    responses: mpsc::Sender<Result<PublishResponse, Status>>,
}

/// A batch on its way to the disk.
struct InFlight {
    items: usize,
    bytes: usize,
    result: oneshot::Receiver<Appended>,
    _bytes: OwnedSemaphorePermit,
}

impl Ingest {
    /// One stream from hello to end.
    async fn serve(&self, stream: &mut Stream, allowed: &Allowed) -> Result<(), Refusal> {
        let mut stopping = self.stopping.clone();
        let hello = tokio::select! {
            hello = tokio::time::timeout(self.limits.hello_timeout, stream.inbound.message()) => hello,
            () = stopped(&mut stopping) => return Err(shutting_down()),
        };
        let hello = match hello {
            Err(_) => {
                return Err(refuse(
                    "hello",
                    Code::DeadlineExceeded,
                    "no hello came in time; send one as the first message",
                ));
            }
            Ok(Err(status)) => return Err(self.broken(&status)),
            Ok(Ok(None)) => return Ok(()),
            Ok(Ok(Some(PublishRequest {
                phase: Some(publish_request::Phase::Hello(hello)),
            }))) => hello,
            Ok(Ok(Some(_))) => {
                return Err(refuse(
                    "hello",
                    Code::InvalidArgument,
                    "the first message is not a hello; send one before batches",
                ));
            }
        };
        check(&hello).map_err(|(code, message)| refuse("hello", code, message))?;
        if !allowed.permits(&hello.agent_id) {
            let message = format!(
                "the hello says agent {:?}, the certificate says another; set that agent id, or use the certificate of this agent",
                hello.agent_id
            );
            return Err(refuse("identity", Code::PermissionDenied, message));
        }
        let agent_id: Arc<str> = hello.agent_id.as_str().into();
        let epoch: Arc<str> = hello.epoch.as_str().into();
        let host: Arc<str> = hello.host.as_ref().map_or("", |host| host.name.as_str()).into();

        let mut live = self
            .live
            .enter(&agent_id, self.limits.streams_max, &self.metrics.ingest_streams)
            .ok_or_else(|| {
                let message = "this collector has as many agents as it may have; use another or raise --agents-max";
                refuse("agents", Code::ResourceExhausted, message)
            })?;
        // The queue of the store is in order, so what the replaced stream had handed over is in this watermark.
        let unavailable = |error: crate::store::Unavailable| refuse("store", Code::Unavailable, error.to_string());
        let watermark = self.store.watermark(&agent_id, &epoch).await.map_err(unavailable)?;
        self.store.greeted(hello.clone()).await;
        tracing::info!(agent = &*agent_id, epoch = &*epoch, watermark, version = ?hello.agent_version, "agent connected");
        let rolled_back = hello.next_sequence <= watermark;
        if rolled_back {
            tracing::warn!(
                agent = &*agent_id,
                epoch = &*epoch,
                watermark,
                next_sequence = hello.next_sequence,
                "the agent's spool was rolled back"
            );
        }
        let welcome = Welcome {
            resume_after: watermark,
            window: self.limits.window,
            contract_version: CONTRACT_VERSION,
        };
        let welcome = PublishResponse {
            phase: Some(publish_response::Phase::Welcome(welcome)),
        };
        send(stream, &mut live, welcome).await?;

        let mut in_flight = VecDeque::<InFlight>::new();
        let mut reading = true;
        let mut pace = Pace::default();
        let old_at = Instant::now() + spread(self.limits.stream_age);
        let mut old = false;
        loop {
            let waiting = in_flight.iter().map(|batch| batch.bytes).sum::<usize>();
            let room = in_flight.len() < BATCHES_IN_FLIGHT_MAX && waiting < STREAM_BYTES_IN_FLIGHT_MAX;
            let ahead = pace.ahead();
            tokio::select! {
                biased;
                () = live.replaced() => return Err(replaced()),
                result = first(&mut in_flight), if !in_flight.is_empty() => {
                    let mut through = durable(result)?;
                    // One acknowledgement for all that are through.
                    while let Some(Ok(result)) = in_flight.front_mut().map(|front| front.result.try_recv()) {
                        in_flight.pop_front();
                        through = durable(Some(result))?;
                    }
                    let ack = PublishResponse { phase: Some(publish_response::Phase::Ack(Ack { through })) };
                    send(stream, &mut live, ack).await?;
                }
                () = stopped(&mut stopping), if reading => reading = false,
                // What is under way is acknowledged first.
                () = sleep_until(old_at), if reading => (reading, old) = (false, true),
                () = sleep_until(ahead.unwrap_or_else(Instant::now)), if reading && ahead.is_some() => {}
                message = stream.inbound.message(), if reading && room && ahead.is_none() => match message {
                    Err(status) => return Err(self.broken(&status)),
                    Ok(None) => reading = false,
                    Ok(Some(PublishRequest { phase: Some(publish_request::Phase::Batch(batch)) })) => {
                        if rolled_back && batch.first_sequence <= watermark {
                            let message = format!(
                                "batch begins at {}, but this epoch has been delivered through {watermark} before, so it would be taken for duplicates; continue after it, or remove the spool directory to begin a new epoch",
                                batch.first_sequence
                            );
                            return Err(refuse("rolled_back", Code::FailedPrecondition, message));
                        }
                        let waiting = in_flight.iter().map(|batch| batch.items).sum();
                        let (append, items) = self.take(batch, waiting, &agent_id, &epoch, &host)?;
                        let bytes = append.items.iter().map(|placed| placed.encoded.len()).sum::<usize>();
                        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(u32::try_from(BYTES_IN_FLIGHT_MAX).unwrap_or(u32::MAX));
                        let handed_over = async {
                            let permit = Arc::clone(&self.bytes).acquire_many_owned(permits).await.expect("the semaphore is never closed");
                            InFlight { items, bytes, result: self.store.append(append).await, _bytes: permit }
                        };
                        let slow = self.store.has_more_than_its_share(&agent_id);
                        if slow {
                            self.metrics.ingest_slowed.inc();
                        }
                        let rate = if slow { SLOW_BYTES_PER_SECOND } else { self.limits.agent_bytes_per_second };
                        pace.spend(bytes, rate);
                        // Only this stream's own read-ahead waits here; its acknowledgements follow once it is queued.
                        tokio::select! {
                            () = live.replaced() => return Err(replaced()),
                            batch = handed_over => in_flight.push_back(batch),
                        }
                    }
                    Ok(Some(_)) => {
                        let message = "after the welcome only batches may follow; send the hello once and update the collector if the agent is newer";
                        return Err(refuse("phase", Code::InvalidArgument, message));
                    }
                },
                else => break,
            }
            if !reading && in_flight.is_empty() {
                break;
            }
        }
        if old {
            tracing::debug!(agent = &*agent_id, "stream reached its age");
            let status = Status::unavailable("the connection has reached its age; connect again and resume");
            drop(stream.responses.send(Err(status)).await);
            Ok(())
        } else if *self.stopping.borrow() {
            Err(shutting_down())
        } else {
            Ok(())
        }
    }

    /// Checks a batch as far as that needs no store.
    fn take(
        &self,
        mut batch: Batch,
        waiting: usize,
        agent_id: &Arc<str>,
        epoch: &Arc<str>,
        host: &Arc<str>,
    ) -> Result<(Append, usize), Refusal> {
        let items = batch.items.len();
        let window = self.limits.window as usize;
        if waiting + items > window {
            let message = format!(
                "{} items are under way, the window is {window}; wait for acknowledgements before sending more",
                waiting + items
            );
            return Err(refuse("window", Code::ResourceExhausted, message));
        }
        let ingest_time = Timestamp::from(SystemTime::now());
        for item in &mut batch.items {
            if let Some(item::Kind::Alert(alert)) = &mut item.kind {
                alert.ingest_time = Some(ingest_time);
            }
        }
        let placed = sequence::place(batch.first_sequence, &batch.items).map_err(|error| {
            let code = match error {
                BadBatch::UnknownKind(_) => Code::FailedPrecondition,
                BadBatch::Empty
                | BadBatch::Zero
                | BadBatch::Overflow
                | BadBatch::Displaced { .. }
                | BadBatch::Backwards { .. } => Code::InvalidArgument,
            };
            refuse("batch", code, error.to_string())
        })?;
        let append = Append {
            agent_id: Arc::clone(agent_id),
            epoch: Arc::clone(epoch),
            host: Arc::clone(host),
            ingest_time,
            items: placed,
        };
        Ok((append, items))
    }

    /// The transport gave up on the stream, mostly because the peer went away.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other codes are the transport's own words"
    )]
    fn broken(&self, status: &Status) -> Refusal {
        match status.code() {
            Code::OutOfRange => {
                let message = format!(
                    "message too large, at most {} bytes are taken; send smaller batches",
                    self.limits.message_bytes_max
                );
                refuse("message_size", Code::ResourceExhausted, message)
            }
            Code::Internal => {
                let message = format!(
                    "message cannot be read: {}; check the contract version",
                    status.message()
                );
                refuse("message", Code::InvalidArgument, message)
            }
            code => refuse("connection", code, status.message()),
        }
    }
}

/// Somewhat less than an age, so that those that came together do not all come again together.
pub(crate) fn spread(age: Duration) -> Duration {
    let mut random = [0];
    if getrandom::fill(&mut random).is_err() {
        return age;
    }
    age - age / 1024 * u32::from(random[0]) / 2
}

/// When an agent has delivered what its rate allows.
#[derive(Default)]
struct Pace {
    /// When what was delivered so far would have come at the rate.
    due: Option<Instant>,
}

impl Pace {
    fn spend(&mut self, bytes: usize, bytes_per_second: u64) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let time = Duration::from_micros(bytes.saturating_mul(1_000_000) / bytes_per_second.max(1));
        let now = Instant::now();
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + time);
    }

    /// Until when to read nothing.
    fn ahead(&self) -> Option<Instant> {
        self.due.map(|due| due - BURST).filter(|until| *until > Instant::now())
    }
}

async fn first(in_flight: &mut VecDeque<InFlight>) -> Option<Appended> {
    // The front stays in place until its result is there, so that losing a race in `select!` loses nothing.
    let front = in_flight.front_mut()?;
    let result = (&mut front.result).await.ok();
    in_flight.pop_front();
    result
}

/// The sequence through which all is durable, from the store's answer.
fn durable(result: Option<Appended>) -> Result<u64, Refusal> {
    match result {
        Some(Appended::Through(through)) => Ok(through),
        Some(Appended::Hole(hole)) => {
            let message = format!(
                "batch begins at {}, but {} is due; resend from there, or explain the hole by a sequence gap",
                hole.first, hole.due
            );
            Err(refuse("hole", Code::FailedPrecondition, message))
        }
        Some(Appended::Unavailable(error)) => Err(refuse("store", Code::Unavailable, error.to_string())),
        None => Err(shutting_down()),
    }
}

async fn send(stream: &Stream, live: &mut Entered, response: PublishResponse) -> Result<(), Refusal> {
    tokio::select! {
        sent = stream.responses.send(Ok(response)) => {
            sent.map_err(|_| refuse("connection", Code::Cancelled, "the agent went away"))
        }
        () = live.replaced() => Err(replaced()),
    }
}

fn replaced() -> Refusal {
    let message = "a newer stream of the same agent took over; if two agents share an id, give one another agent id";
    refuse("replaced", Code::Aborted, message)
}

fn shutting_down() -> Refusal {
    let message = "the collector is shutting down; connect again later and resume after the last acknowledgement";
    refuse("shutdown", Code::Unavailable, message)
}

fn check(hello: &Hello) -> Result<(), (Code, String)> {
    let bad = |message: String| Err((Code::InvalidArgument, message));
    let charset = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let id = &hello.agent_id;
    if hello.contract_version != CONTRACT_VERSION {
        let message = format!(
            "agent speaks contract version {}, this collector speaks {CONTRACT_VERSION}; update the older of the two",
            hello.contract_version
        );
        return Err((Code::FailedPrecondition, message));
    }
    if id.is_empty() || id.len() > AGENT_ID_BYTES_MAX || !id.bytes().all(charset) {
        let id: String = id.chars().take(AGENT_ID_BYTES_MAX).collect();
        return bad(format!(
            "agent id {id:?} is not 1 to {AGENT_ID_BYTES_MAX} of A-Z a-z 0-9 . _ -; set a valid one"
        ));
    }
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if hello.epoch.len() != EPOCH_DIGITS || !hello.epoch.bytes().all(hexadecimal) {
        let message = "epoch is not 32 lower-case hexadecimal digits; make a random one with the spool directory";
        return bad(message.to_owned());
    }
    if hello.first_unacked == 0 || hello.next_sequence < hello.first_unacked {
        return bad(format!(
            "first unacked {} and next sequence {} make no range; sequences begin at 1 and next is not below first",
            hello.first_unacked, hello.next_sequence
        ));
    }
    let texts = [&hello.agent_version, &hello.ruleset_digest];
    let host = hello.host.iter().flat_map(|host| {
        [
            &host.name,
            &host.machine_id,
            &host.boot_id,
            &host.kernel,
            &host.agent_id,
        ]
    });
    let long = texts
        .into_iter()
        .chain(host)
        .chain(&hello.capabilities)
        .chain(&hello.hooks)
        .any(|text| text.len() > TEXT_BYTES_MAX);
    if long
        || hello.capabilities.len() > CAPABILITIES_MAX
        || hello.hooks.len() > HOOKS_MAX
        || hello.encoded_len() > 64 * TEXT_BYTES_MAX
    {
        return bad(format!(
            "hello is too large; at most {TEXT_BYTES_MAX} bytes per text and {CAPABILITIES_MAX} capabilities"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_proto::v1::Host;

    #[test]
    fn a_burst_is_taken_and_more_must_wait() {
        let mut pace = Pace::default();
        pace.spend(900, 1000);
        assert_eq!(pace.ahead(), None);
        pace.spend(10_000, 1000);
        let wait = pace.ahead().unwrap() - Instant::now();
        assert!((9.0..=9.9).contains(&wait.as_secs_f64()), "{wait:?}");
    }

    fn hello() -> Hello {
        Hello {
            agent_id: "node-1.example_A".to_owned(),
            epoch: "0123456789abcdef0123456789abcdef".to_owned(),
            first_unacked: 1,
            next_sequence: 1,
            contract_version: 1,
            ..Hello::default()
        }
    }

    #[test]
    fn hellos() {
        assert_eq!(check(&hello()), Ok(()));
        let fails = |hello: Hello, code, part: &str| {
            let (found, message) = check(&hello).unwrap_err();
            assert_eq!(found, code, "{message}");
            assert!(message.contains(part), "{message}");
        };
        let id = |id: &str| Hello {
            agent_id: id.to_owned(),
            ..hello()
        };
        let epoch = |epoch: &str| Hello {
            epoch: epoch.to_owned(),
            ..hello()
        };
        fails(
            Hello {
                contract_version: 0,
                ..hello()
            },
            Code::FailedPrecondition,
            "contract version 0",
        );
        fails(
            Hello {
                contract_version: 2,
                ..hello()
            },
            Code::FailedPrecondition,
            "contract version 2",
        );
        fails(id(""), Code::InvalidArgument, "agent id \"\"");
        fails(id("a b"), Code::InvalidArgument, "agent id");
        fails(id("\u{1b}[2J"), Code::InvalidArgument, "\\u{1b}[2J");
        fails(id(&"a".repeat(254)), Code::InvalidArgument, "1 to 253");
        fails(epoch(""), Code::InvalidArgument, "epoch");
        fails(
            epoch("0123456789ABCDEF0123456789abcdef"),
            Code::InvalidArgument,
            "lower-case",
        );
        fails(
            Hello {
                first_unacked: 0,
                ..hello()
            },
            Code::InvalidArgument,
            "make no range",
        );
        fails(
            Hello {
                first_unacked: 2,
                next_sequence: 1,
                ..hello()
            },
            Code::InvalidArgument,
            "make no range",
        );
        let host = Host {
            name: "h".repeat(1025),
            ..Host::default()
        };
        fails(
            Hello {
                host: Some(host),
                ..hello()
            },
            Code::InvalidArgument,
            "too large",
        );
        fails(
            Hello {
                capabilities: vec![String::new(); 65],
                ..hello()
            },
            Code::InvalidArgument,
            "too large",
        );
    }
}
