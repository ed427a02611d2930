//! Delivers what the spool holds to a collector and lets the spool forget what was acknowledged.
//!
//! Invariants: nothing is acknowledged to the spool that a collector has not acknowledged to us; only this module knows
//! gRPC clients; a collector that is slow, gone or wrong costs time and never an item.

mod backoff;
mod tls;

pub use tls::TlsError;

use crate::config::{self, CollectorUrl, Compression};
use crate::export::backoff::Backoff;
use crate::export::tls::{Credentials, Verdict};
use crate::metrics::ExportMetrics;
use crate::spool::{Chunk, SpoolError, SpoolReader};
use staghound_proto::CONTRACT_VERSION;
use staghound_proto::v1::ingest_service_client::IngestServiceClient;
use staghound_proto::v1::{Batch, Hello, Host, PublishRequest, PublishResponse, publish_request, publish_response};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

/// Batches that may wait for the transport. Little, so that what waits waits in the spool.
const OUTBOX_MAX: usize = 2;
/// Largest answer of a collector that is read; a welcome or an acknowledgement is a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Largest window that is believed.
const WINDOW_MAX: u32 = 1_000_000;
/// How often the files of certificates are looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(2);

/// What hello says of the agent.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Version as `staghound --version` prints it.
    pub agent_version: String,
    /// The host, the agent's id included.
    pub host: Host,
    /// Digest of the loaded ruleset; what it is when the connection begins.
    pub ruleset_digest: watch::Receiver<String>,
}

/// What was left when the exporter ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Items that no collector acknowledged. The spool keeps them for the next start.
    pub unacked: u64,
}

/// Delivers to the first collector that answers; to the next when it fails. One task.
pub struct Exporter {
    collectors: Vec<CollectorUrl>,
    config: config::Export,
    introduction: Introduction,
    spool: SpoolReader,
    metrics: ExportMetrics,
    credentials: Option<Credentials>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("not authenticated: {0}")]
    Unauthenticated(String),
    #[error("certificates changed")]
    Certificates,
    #[error("refused: {}: {}", .0.code(), .0.message())]
    Refused(Status),
    #[error("lost: {}: {}", .0.code(), .0.message())]
    Broken(Status),
    #[error("it ended the stream")]
    Ended,
    #[error("no {0} in time")]
    Silent(&'static str),
    #[error("it broke the contract: {0}")]
    Contract(String),
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

/// How a connection ended, and whether it had been of use.
struct Ending {
    why: Result<(), Lost>,
    welcomed: bool,
    progress: bool,
}

impl Exporter {
    /// An exporter that is not running. `collectors` must not be empty.
    ///
    /// # Errors
    /// A collector is `https`, and the files for it are of no use.
    pub fn new(
        collectors: Vec<CollectorUrl>,
        config: config::Export,
        tls: &config::Tls,
        introduction: Introduction,
        spool: SpoolReader,
        metrics: ExportMetrics,
    ) -> Result<Self, TlsError> {
        let credentials = match collectors.iter().any(CollectorUrl::is_encrypted) {
            true => Some(Credentials::load(tls)?),
            false => None,
        };
        Ok(Self {
            collectors,
            config,
            introduction,
            spool,
            metrics,
            credentials,
        })
    }

    /// Delivers until the spool is sealed and empty. From the sealing on it goes on for the drain timeout at most.
    pub async fn run(mut self) -> Drained {
        let deadline = drain_deadline(self.spool.clone(), self.config.drain_timeout);
        tokio::select! {
            () = self.deliver() => {}
            () = deadline => {}
        }
        self.metrics.connected.set(0);
        let unacked = self.spool.next_sequence() - self.spool.first_unacked();
        match unacked {
            0 => tracing::info!("everything was delivered"),
            _ => tracing::warn!(
                items = unacked,
                "not everything was delivered; the spool keeps the rest"
            ),
        }
        Drained { unacked }
    }

    /// Goes through the collectors until all is delivered and nothing more can come.
    async fn deliver(&mut self) {
        let mut backoff = Backoff::new(self.config.backoff_min, self.config.backoff_max);
        let mut edges: Vec<Option<String>> = vec![None; self.collectors.len()];
        let mut compressions = vec![self.config.compression; self.collectors.len()];
        'rounds: loop {
            for ((collector, edge), compression) in
                self.collectors.clone().iter().zip(&mut edges).zip(&mut compressions)
            {
                if let Some(credentials) = &mut self.credentials {
                    credentials.reload();
                }
                let Ending {
                    why,
                    welcomed,
                    progress,
                } = self.connection(collector, *compression).await;
                self.metrics.connected.set(0);
                self.metrics.in_flight.set(0);
                let Err(why) = why else { return };
                match &why {
                    // An orderly end of our own making.
                    Lost::Certificates => {
                        tracing::info!(collector = %collector, "connecting anew with other certificates");
                        continue 'rounds;
                    }
                    // A collector of another version; there is always a way it understands.
                    Lost::Refused(status)
                        if status.code() == Code::Unimplemented && *compression != Compression::None =>
                    {
                        *compression = match compression {
                            Compression::Zstd => Compression::Gzip,
                            Compression::Gzip | Compression::None => Compression::None,
                        };
                        tracing::info!(collector = %collector, why = status.message(), next = ?compression, "compressing otherwise");
                        continue 'rounds;
                    }
                    Lost::Unauthenticated(_) => {
                        self.metrics.refusals.inc();
                    }
                    Lost::Refused(status)
                        if matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) =>
                    {
                        self.metrics.refusals.inc();
                    }
                    Lost::Connect(_)
                    | Lost::Refused(_)
                    | Lost::Broken(_)
                    | Lost::Ended
                    | Lost::Silent(_)
                    | Lost::Contract(_)
                    | Lost::Spool(_) => {}
                }
                self.metrics.failures.inc();
                // Told once, not with each attempt: a collector that stays away stays away for the same reason.
                let why = why.to_string();
                if welcomed || edge.as_ref() != Some(&why) {
                    let what = if welcomed { "disconnected" } else { "cannot deliver" };
                    tracing::warn!(collector = %collector, why = %why, "{what}; trying again until it works");
                }
                *edge = Some(why);
                if progress {
                    backoff.reset();
                }
                // A connection that was of use ended: the preferred collector comes first again.
                if welcomed {
                    break;
                }
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// One connection from hello to its end; `Ok` when all is delivered and nothing more can come.
    async fn connection(&mut self, collector: &CollectorUrl, compression: Compression) -> Ending {
        let verdict = Verdict::default();
        // What TLS said is the reason, however the library shows it.
        let judged = |why: Lost, verdict: &Verdict| match verdict.take() {
            Some(told) => Lost::Unauthenticated(told),
            None => why,
        };
        match self.connect(collector, compression, &verdict).await {
            Err(why) => Ending {
                why: Err(judged(why, &verdict)),
                welcomed: false,
                progress: false,
            },
            Ok(mut stream) => {
                self.metrics.connects.inc();
                self.metrics.connected.set(1);
                tracing::info!(collector = %collector, resume_after = stream.acked, window = stream.window, "connected");
                let acked_before = stream.acked;
                let began = Instant::now();
                let credentials = self.credentials.as_mut().filter(|_| collector.is_encrypted());
                let ended = stream
                    .run(&mut self.spool, credentials, &self.config, &self.metrics)
                    .await;
                // One that held for long was good even if there was nothing to deliver.
                let progress = stream.acked > acked_before || began.elapsed() >= self.config.backoff_max;
                Ending {
                    why: ended.map_err(|why| judged(why, &verdict)),
                    welcomed: true,
                    progress,
                }
            }
        }
    }

    /// Connects, says hello and waits for the welcome.
    async fn connect(
        &mut self,
        collector: &CollectorUrl,
        compression: Compression,
        verdict: &Verdict,
    ) -> Result<Stream, Lost> {
        let limit = self.config.connect_timeout;
        let endpoint = Endpoint::from(collector.plain_uri())
            .origin(collector.uri().clone())
            .connect_timeout(limit)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.config.keepalive)
            .keep_alive_timeout(self.config.ack_timeout)
            .keep_alive_while_idle(true);
        let connecting = async {
            match self.credentials.as_ref().filter(|_| collector.is_encrypted()) {
                None => endpoint.connect().await,
                Some(credentials) => {
                    // The library calls it once: a connection that ended is not its to renew.
                    let connector = credentials.connector();
                    let verdict = verdict.clone();
                    let service = tower::service_fn(move |uri: Uri| connector.clone().connect(uri, verdict.clone()));
                    endpoint.connect_with_connector(service).await
                }
            }
        };
        let channel: Channel = match timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| Lost::Connect(root_cause(&error)))?,
            Err(_) => return Err(Lost::Silent("connection")),
        };
        let (outbox, requests) = mpsc::channel(OUTBOX_MAX);
        let hello = publish_request::Phase::Hello(self.hello());
        outbox
            .try_send(PublishRequest { phase: Some(hello) })
            .expect("a new channel has room for one");
        let client = IngestServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let mut client = match compression {
            Compression::None => client,
            Compression::Gzip => client.send_compressed(CompressionEncoding::Gzip),
            Compression::Zstd => client.send_compressed(CompressionEncoding::Zstd),
        };
        let welcome = async {
            let mut answers = client
                .publish(ReceiverStream::new(requests))
                .await
                .map_err(Lost::Refused)?
                .into_inner();
            let first = answers.message().await.map_err(Lost::Refused)?.ok_or(Lost::Ended)?;
            Ok::<_, Lost>((answers, first))
        };
        let (answers, first) = timeout(self.config.ack_timeout, welcome)
            .await
            .map_err(|_| Lost::Silent("welcome"))??;
        let Some(publish_response::Phase::Welcome(welcome)) = first.phase else {
            return Err(Lost::Contract("its first answer was no welcome".to_owned()));
        };
        if welcome.contract_version != CONTRACT_VERSION {
            return Err(Lost::Contract(format!(
                "it speaks version {}, this agent {CONTRACT_VERSION}; update the older of the two",
                welcome.contract_version
            )));
        }
        let resume_after = self.resume(welcome.resume_after);
        let window = u64::from(welcome.window.clamp(1, WINDOW_MAX));
        Ok(Stream {
            outbox,
            answers,
            in_flight: VecDeque::new(),
            sent: resume_after,
            acked: resume_after,
            window,
        })
    }

    fn hello(&self) -> Hello {
        Hello {
            agent_id: self.introduction.host.agent_id.clone(),
            epoch: self.spool.epoch(),
            first_unacked: self.spool.first_unacked(),
            next_sequence: self.spool.next_sequence(),
            agent_version: self.introduction.agent_version.clone(),
            contract_version: CONTRACT_VERSION,
            capabilities: vec!["gzip".to_owned(), "zstd".to_owned()],
            ruleset_digest: self.introduction.ruleset_digest.borrow().clone(),
            host: Some(self.introduction.host.clone()),
            hooks: Vec::new(),
        }
    }

    /// Brings the spool and the collector's position together.
    fn resume(&self, resume_after: u64) -> u64 {
        let next = self.spool.next_sequence();
        if resume_after >= next {
            tracing::error!(
                resume_after,
                next_sequence = next,
                "the collector has more of this spool than the spool itself: the state directory was rolled back; \
                 sequences go on behind the collector's, and a gap tells of what may be missing"
            );
            self.spool.overtaken_by(resume_after);
        } else if resume_after + 1 < self.spool.first_unacked() {
            tracing::warn!(
                resume_after,
                first_unacked = self.spool.first_unacked(),
                "the collector lacks what was acknowledged before; what the spool still has is sent again"
            );
        }
        self.spool.ack(resume_after);
        resume_after
    }
}

/// Passes so long after the spool was sealed, or at once if nothing waits then.
async fn drain_deadline(spool: SpoolReader, drain_timeout: Duration) {
    let mut durable = spool.durable();
    while durable.changed().await.is_ok() {}
    if spool.first_unacked() < spool.next_sequence() {
        tokio::time::sleep(drain_timeout).await;
    }
}

/// A welcomed stream.
struct Stream {
    outbox: mpsc::Sender<PublishRequest>,
    answers: Streaming<PublishResponse>,
    /// What was sent and not acknowledged: the last sequence of each batch, how many items it had, and when it went.
    in_flight: VecDeque<InFlight>,
    sent: u64,
    acked: u64,
    window: u64,
}

struct InFlight {
    through: u64,
    items: u64,
    at: Instant,
}

/// What to do next.
enum Step {
    Answer(Result<Option<PublishResponse>, Status>),
    Room(Result<mpsc::OwnedPermit<PublishRequest>, ()>),
    More(bool),
    Waited,
    Look,
    Late,
}

impl Stream {
    /// Sends within the window and takes acknowledgements; `Ok` when all is delivered and nothing more can come.
    async fn run(
        &mut self,
        spool: &mut SpoolReader,
        mut credentials: Option<&mut Credentials>,
        config: &config::Export,
        metrics: &ExportMetrics,
    ) -> Result<(), Lost> {
        let mut durable = spool.durable();
        let mut sealed = false;
        let mut look = Instant::now() + CERTIFICATES_EVERY;
        // Since when items wait for others.
        let mut waiting_since: Option<Instant> = None;
        loop {
            let end = *durable.borrow_and_update();
            let end = end.max(spool.next_sequence() - 1);
            if sealed && self.acked >= end {
                return Ok(());
            }
            let under_way: u64 = self.in_flight.iter().map(|batch| batch.items).sum();
            let sendable = self.sent < end && under_way < self.window;
            // A batch that is not full waits for more as long as another is under way: what comes one by one goes at
            // once, and a burst in few batches.
            let is_full = end - self.sent.min(end) >= u64::from(config.batch_items_max);
            let can_wait = sendable && !is_full && !sealed && !self.in_flight.is_empty();
            let send_at = *match can_wait {
                true => waiting_since.get_or_insert_with(Instant::now),
                false => waiting_since.insert(Instant::now()),
            } + config.batch_wait;
            let can_send = sendable && (!can_wait || send_at <= Instant::now());
            let late = self.in_flight.front().map(|oldest| oldest.at + config.ack_timeout);
            let step = tokio::select! {
                biased;
                answer = self.answers.message() => Step::Answer(answer),
                room = self.outbox.clone().reserve_owned(), if can_send => Step::Room(room.map_err(drop)),
                changed = durable.changed(), if !sealed && !can_send => Step::More(changed.is_ok()),
                () = sleep_until(send_at), if can_wait && !can_send => Step::Waited,
                () = sleep_until(look), if credentials.is_some() => Step::Look,
                () = sleep_until(late.unwrap_or_else(Instant::now)), if late.is_some() => Step::Late,
            };
            match step {
                Step::Answer(answer) => self.take(answer.map_err(Lost::Broken)?.ok_or(Lost::Ended)?, spool, metrics)?,
                Step::Room(room) => {
                    // The stream is gone; why, the answers say.
                    let Ok(room) = room else {
                        let answer = timeout(config.ack_timeout, self.answers.message()).await;
                        let answer = answer.map_err(|_| Lost::Silent("end of the stream"))?;
                        self.take(answer.map_err(Lost::Broken)?.ok_or(Lost::Ended)?, spool, metrics)?;
                        continue;
                    };
                    let items_max = u64::from(config.batch_items_max).min(self.window - under_way);
                    if let Some(chunk) = read(spool, self.sent + 1, items_max, config.batch_bytes_max).await? {
                        self.send(room, chunk, metrics);
                        waiting_since = None;
                    }
                }
                Step::More(more) => sealed = !more,
                Step::Waited => {}
                Step::Look => {
                    look = Instant::now() + CERTIFICATES_EVERY;
                    if credentials.as_mut().is_some_and(|credentials| credentials.reload()) {
                        return Err(Lost::Certificates);
                    }
                }
                Step::Late => return Err(Lost::Silent("acknowledgement")),
            }
        }
    }

    fn send(&mut self, room: mpsc::OwnedPermit<PublishRequest>, chunk: Chunk, metrics: &ExportMetrics) {
        let items = chunk.items.len() as u64;
        if chunk.lost > 0 {
            tracing::warn!(
                from = chunk.first,
                to = chunk.through,
                items = chunk.lost,
                "told the collector of lost items"
            );
        }
        let batch = Batch {
            first_sequence: chunk.first,
            items: chunk.items,
        };
        drop(room.send(PublishRequest {
            phase: Some(publish_request::Phase::Batch(batch)),
        }));
        self.sent = chunk.through;
        self.in_flight.push_back(InFlight {
            through: chunk.through,
            items,
            at: Instant::now(),
        });
        metrics.sent.inc_by(items);
        self.measure(metrics);
    }

    fn take(&mut self, answer: PublishResponse, spool: &SpoolReader, metrics: &ExportMetrics) -> Result<(), Lost> {
        let Some(publish_response::Phase::Ack(ack)) = answer.phase else {
            return Err(Lost::Contract(
                "it answered with something that is no acknowledgement".to_owned(),
            ));
        };
        if ack.through > self.sent {
            return Err(Lost::Contract(format!(
                "it acknowledged {}, but only {} was sent",
                ack.through, self.sent
            )));
        }
        if ack.through <= self.acked {
            return Ok(());
        }
        self.acked = ack.through;
        while let Some(batch) = self.in_flight.pop_front_if(|batch| batch.through <= ack.through) {
            metrics.acked.inc_by(batch.items);
        }
        // What is left of a batch gets its time from here on: the collector is alive and at it.
        if let Some(oldest) = self.in_flight.front_mut() {
            oldest.at = Instant::now();
        }
        spool.ack(ack.through);
        self.measure(metrics);
        Ok(())
    }

    fn measure(&self, metrics: &ExportMetrics) {
        let items: u64 = self.in_flight.iter().map(|batch| batch.items).sum();
        metrics.in_flight.set(i64::try_from(items).unwrap_or(i64::MAX));
    }
}

/// Reads from disk where it may block.
async fn read(
    spool: &mut SpoolReader,
    sequence: u64,
    items_max: u64,
    bytes_max: u64,
) -> Result<Option<Chunk>, SpoolError> {
    let items_max = usize::try_from(items_max).unwrap_or(usize::MAX);
    let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
    let fresh = spool.clone();
    let mut reader = std::mem::replace(spool, fresh);
    let reading = tokio::task::spawn_blocking(move || {
        let chunk = reader.read_from(sequence, items_max, bytes_max);
        (reader, chunk)
    });
    let (reader, chunk) = reading
        .await
        .expect("reading does not panic, and the runtime outlives its tasks");
    *spool = reader;
    chunk
}

/// tonic wraps what went wrong several times; the innermost says it.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
