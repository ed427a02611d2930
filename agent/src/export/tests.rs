use super::*;
use crate::metrics::{Metrics, SpoolMetrics};
use crate::spool::queue::{QueueLimits, queue};
use crate::spool::{Spool, SpoolConfig, writer};
use staghound_proto::v1::ingest_service_server::{IngestService, IngestServiceServer};
use staghound_proto::v1::{Ack, Gap, GapReason, Item, RunRecord, Welcome, gap, item};
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

const PATIENCE: Duration = Duration::from_secs(30);

/// How a fake collector behaves.
#[derive(Clone, Debug)]
struct Manners {
    window: u32,
    contract_version: u32,
    /// Breaks the stream once this many batches came, having stored the last and not acknowledged it.
    dies_after_batches: Option<usize>,
    /// Stores and never acknowledges.
    silent: bool,
    /// Acknowledges only when the window is full or the store holds so many items.
    holds_until: Option<u64>,
    /// Says this in its welcome, whatever it has.
    resume_after: Option<u64>,
    refuses: bool,
    acks_too_much: bool,
    /// How messages to it may be compressed.
    encodings: &'static [CompressionEncoding],
}

const POLITE: Manners = Manners {
    window: 10_000,
    contract_version: 1,
    dies_after_batches: None,
    silent: false,
    holds_until: None,
    resume_after: None,
    refuses: false,
    acks_too_much: false,
    encodings: &[CompressionEncoding::Zstd, CompressionEncoding::Gzip],
};

/// What a fake collector has.
#[derive(Clone, Debug, Default)]
struct Store {
    hellos: Vec<Hello>,
    received: Vec<Item>,
    durable: u64,
    batches: usize,
    /// Whatever the contract forbids.
    violations: Vec<String>,
}

impl Store {
    fn take(&mut self, batch: Batch) {
        self.batches += 1;
        if batch.first_sequence != self.durable + 1 {
            self.violations
                .push(format!("{} came after {}", batch.first_sequence, self.durable));
        }
        for item in batch.items {
            self.durable = match &item.kind {
                Some(item::Kind::Gap(Gap {
                    kind: Some(gap::Kind::Sequence(gap)),
                })) => gap.to,
                _ => self.durable + 1,
            };
            self.received.push(item);
        }
    }
}

#[derive(Clone)]
struct Collector {
    manners: Arc<Mutex<Manners>>,
    store: Arc<watch::Sender<Store>>,
}

impl Collector {
    fn new(manners: Manners) -> Self {
        Self {
            manners: Arc::new(Mutex::new(manners)),
            store: Arc::new(watch::Sender::new(Store::default())),
        }
    }

    fn service(&self) -> IngestServiceServer<Self> {
        let service = IngestServiceServer::new(self.clone());
        let encodings = self.manners.lock().unwrap().encodings;
        encodings
            .iter()
            .fold(service, |service, &encoding| service.accept_compressed(encoding))
    }

    /// Serves on a runtime of its own, which ends with everything in it, connections included, when it is killed.
    async fn serve(&self, address: SocketAddr) -> (SocketAddr, Server) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = self.service();
        let listener = runtime.spawn(timeout(PATIENCE, async move {
            loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        }));
        let listener = listener.await.unwrap().unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        (address, Server(Some(runtime)))
    }

    async fn until(&self, what: impl FnMut(&Store) -> bool) -> Store {
        let mut changes = self.store.subscribe();
        let reached = timeout(PATIENCE, changes.wait_for(what)).await;
        reached
            .unwrap_or_else(|_| panic!("never came: {:?}", self.store.borrow()))
            .unwrap()
            .clone()
    }
}

/// A running server; dropping it kills it.
struct Server(Option<tokio::runtime::Runtime>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

#[tonic::async_trait]
impl IngestService for Collector {
    type PublishStream = ReceiverStream<Result<PublishResponse, Status>>;

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        let manners = self.manners.lock().unwrap().clone();
        if manners.refuses {
            return Err(Status::permission_denied("not\x1byou"));
        }
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(100);
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let (mut batches, mut unacked) = (0, 0);
            while let Ok(Some(PublishRequest { phase: Some(phase) })) = requests.message().await {
                let phase = match phase {
                    publish_request::Phase::Hello(hello) => {
                        store.send_modify(|store| store.hellos.push(hello));
                        let resume_after = manners.resume_after.unwrap_or(store.borrow().durable);
                        store.send_modify(|store| store.durable = resume_after);
                        let (window, contract_version) = (manners.window, manners.contract_version);
                        publish_response::Phase::Welcome(Welcome {
                            resume_after,
                            window,
                            contract_version,
                        })
                    }
                    publish_request::Phase::Batch(batch) => {
                        batches += 1;
                        unacked += batch.items.len() as u64;
                        store.send_modify(|store| {
                            store.take(batch);
                            if unacked > u64::from(manners.window) {
                                store.violations.push(format!("{unacked} under way"));
                            }
                        });
                        if manners.dies_after_batches == Some(batches) {
                            drop(answers.send(Err(Status::unavailable("dying"))).await);
                            return;
                        }
                        let durable = store.borrow().durable;
                        if manners.silent
                            || manners
                                .holds_until
                                .is_some_and(|until| durable < until && unacked < u64::from(manners.window))
                        {
                            continue;
                        }
                        unacked = 0;
                        let through = if manners.acks_too_much { durable + 1 } else { durable };
                        publish_response::Phase::Ack(Ack { through })
                    }
                };
                if answers.send(Ok(PublishResponse { phase: Some(phase) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// An agent's half: a spool, and an exporter that runs.
struct Agent {
    directory: TempDir,
    spool: Spool,
    metrics: Metrics,
    tls: config::Tls,
    exporter: Option<JoinHandle<Drained>>,
}

impl Agent {
    fn new(config: SpoolConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let (spool, _) = Spool::open(directory.path(), config, metrics.spool.clone()).unwrap();
        Self {
            directory,
            spool,
            metrics,
            tls: config::Tls::default(),
            exporter: None,
        }
    }

    fn append(&mut self, numbers: RangeInclusive<u64>) {
        let items: Vec<_> = numbers.map(item).collect();
        self.spool.append(&items).unwrap();
    }

    fn export<C: Display>(&mut self, collectors: &[C]) {
        self.export_with(collectors, quick());
    }

    /// Collectors are addresses, or URLs.
    fn export_with<C: Display>(&mut self, collectors: &[C], config: config::Export) {
        let url = |collector: &C| match collector.to_string() {
            url if url.contains("://") => url.parse().unwrap(),
            address => format!("http://{address}").parse().unwrap(),
        };
        let collectors = collectors.iter().map(url).collect();
        let introduction = introduction();
        let exporter = Exporter::new(
            collectors,
            config,
            &self.tls,
            introduction,
            self.spool.reader(),
            self.metrics.export.clone(),
        )
        .unwrap();
        self.exporter = Some(tokio::spawn(exporter.run()));
    }

    async fn drained(mut self) -> Drained {
        self.spool.seal();
        let drained = timeout(PATIENCE, self.exporter.take().unwrap())
            .await
            .expect("the exporter ends")
            .unwrap();
        self.spool.close().unwrap();
        let (_, opened) = Spool::open(self.directory.path(), SpoolConfig::default(), SpoolMetrics::default()).unwrap();
        assert_eq!(opened.unacked, drained.unacked);
        drained
    }
}

fn introduction() -> Introduction {
    let host = Host {
        agent_id: "agent-1".to_owned(),
        name: "host-1".to_owned(),
        ..Host::default()
    };
    let (_, ruleset_digest) = watch::channel("sha256:00".to_owned());
    Introduction {
        agent_version: "9.9".to_owned(),
        host,
        ruleset_digest,
    }
}

fn quick() -> config::Export {
    config::Export {
        batch_items_max: 10,
        backoff_min: Duration::from_millis(2),
        backoff_max: Duration::from_millis(50),
        drain_timeout: PATIENCE,
        ..config::Export::default()
    }
}

fn item(number: u64) -> Item {
    let run_id = format!("run {number}");
    Item {
        kind: Some(item::Kind::Run(RunRecord {
            run_id,
            ..RunRecord::default()
        })),
    }
}

fn items(numbers: RangeInclusive<u64>) -> Vec<Item> {
    numbers.map(item).collect()
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// An address where nobody listens.
async fn dead_address() -> SocketAddr {
    TcpListener::bind(any_port()).await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_once_and_in_order() {
    let collector = Collector::new(POLITE);
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=105);
    agent.export(&[address]);
    collector.until(|store| store.durable == 105).await;
    for group in [106..=106, 107..=300, 301..=301] {
        agent.append(group.clone());
        collector.until(|store| store.durable == *group.end()).await;
    }
    let metrics = agent.metrics.export.clone();
    let epoch = agent.spool.reader().epoch();
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let store = collector.store.borrow().clone();
    assert_eq!((store.received, store.violations), (items(1..=301), vec![]));
    let expected = Hello {
        agent_id: "agent-1".to_owned(),
        epoch,
        first_unacked: 1,
        next_sequence: 106,
        agent_version: "9.9".to_owned(),
        contract_version: 1,
        capabilities: vec!["gzip".to_owned(), "zstd".to_owned()],
        ruleset_digest: "sha256:00".to_owned(),
        host: Some(introduction().host),
        hooks: Vec::new(),
    };
    assert_eq!(store.hellos, [expected]);
    let counts = [
        metrics.sent.get(),
        metrics.acked.get(),
        metrics.connects.get(),
        metrics.failures.get(),
    ];
    assert_eq!(
        (counts, metrics.connected.get(), metrics.in_flight.get()),
        ([301, 301, 1, 0], 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_dies_with_each_third_batch_gets_everything_once() {
    let collector = Collector::new(Manners {
        dies_after_batches: Some(3),
        ..POLITE
    });
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=200);
    agent.export(&[address]);
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let store = collector.store.borrow().clone();
    assert_eq!((store.received, store.violations), (items(1..=200), vec![]));
    assert!(store.hellos.len() >= 7, "{} connections", store.hellos.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_restarts_gets_everything_once() {
    let collector = Collector::new(POLITE);
    let (address, mut server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.export(&[address]);
    for round in 0..5 {
        agent.append(round * 50 + 1..=round * 50 + 50);
        collector.until(|store| store.durable > round * 50 + 20).await;
        drop(server);
        (_, server) = collector.serve(address).await;
    }
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let store = collector.store.borrow().clone();
    assert_eq!((store.received, store.violations), (items(1..=250), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_window_is_under_way() {
    for window in [1, 7, 25] {
        let collector = Collector::new(Manners {
            window,
            holds_until: Some(100),
            ..POLITE
        });
        let (address, _server) = collector.serve(any_port()).await;
        let mut agent = Agent::new(SpoolConfig::default());
        agent.append(1..=100);
        agent.export(&[address]);
        assert_eq!(agent.drained().await, Drained { unacked: 0 });
        let store = collector.store.borrow().clone();
        assert_eq!(
            (store.received, store.violations),
            (items(1..=100), vec![]),
            "window {window}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_is_left() {
    let silent = Collector::new(Manners { silent: true, ..POLITE });
    let good = Collector::new(POLITE);
    let (first, _server) = silent.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=30);
    agent.export_with(
        &[first],
        config::Export {
            ack_timeout: Duration::from_millis(100),
            ..quick()
        },
    );
    let store = silent.until(|store| store.hellos.len() >= 2).await;
    assert_eq!(
        (store.received, store.violations),
        (items(1..=30), vec![]),
        "what is durable is not sent again"
    );
    *silent.manners.lock().unwrap() = POLITE;
    agent.append(31..=31);
    silent.until(|store| store.durable == 31).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });

    // One that accepts connections and says nothing at all.
    let mute = TcpListener::bind(any_port()).await.unwrap();
    let (second, _server) = good.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=3);
    let config = config::Export {
        ack_timeout: Duration::from_millis(200),
        ..quick()
    };
    agent.export_with(&[mute.local_addr().unwrap(), second], config);
    good.until(|store| store.durable == 3).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_collector_takes_over() {
    let mut kept = Vec::new();
    for manners in [
        None,
        Some(Manners {
            refuses: true,
            ..POLITE
        }),
        Some(Manners {
            contract_version: 2,
            ..POLITE
        }),
    ] {
        let second = Collector::new(POLITE);
        let (good, _server) = second.serve(any_port()).await;
        let bad = match &manners {
            None => dead_address().await,
            Some(manners) => {
                let (address, server) = Collector::new(manners.clone()).serve(any_port()).await;
                kept.push(server);
                address
            }
        };
        let mut agent = Agent::new(SpoolConfig::default());
        agent.append(1..=20);
        agent.export(&[bad, good]);
        second.until(|store| store.durable == 20).await;
        assert!(agent.metrics.export.failures.get() >= 1, "{manners:?}");
        assert_eq!(agent.drained().await, Drained { unacked: 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_of_what_was_not_sent_is_not_believed() {
    let collector = Collector::new(Manners {
        acks_too_much: true,
        ..POLITE
    });
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=5);
    agent.export(&[address]);
    collector.until(|store| store.hellos.len() >= 2).await;
    *collector.manners.lock().unwrap() = POLITE;
    agent.append(6..=9);
    collector.until(|store| store.durable == 9).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    assert_eq!(collector.store.borrow().received, items(1..=9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_spool_dropped_arrives_as_a_gap() {
    let collector = Collector::new(POLITE);
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig {
        bytes_max: 4096,
        segment_bytes: 1024,
        ..SpoolConfig::default()
    });
    for number in 1..=500 {
        agent.append(number..=number);
    }
    agent.export(&[address]);
    let store = collector.until(|store| store.durable == 500).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Sequence(gap)),
    })) = &store.received[0].kind
    else {
        panic!("{:?}", store.received[0])
    };
    assert_eq!((gap.from, gap.reason()), (1, GapReason::SpoolOverflow));
    assert_eq!(
        (&store.received[1..], store.violations),
        (&*items(gap.to + 1..=500), vec![])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_lacks_what_was_trimmed_gets_a_gap() {
    let (first, second) = (Collector::new(POLITE), Collector::new(POLITE));
    let (address, server) = first.serve(any_port()).await;
    let (other, _server) = second.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig {
        bytes_max: 1 << 20,
        segment_bytes: 1024,
        retention: Duration::ZERO,
        ..SpoolConfig::default()
    });
    for number in 1..=100 {
        agent.append(number..=number);
    }
    agent.export(&[address, other]);
    first.until(|store| store.durable == 100).await;
    let acked = agent.spool.reader();
    timeout(PATIENCE, async {
        while acked.first_unacked() != 101 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    agent.spool.tick().unwrap();
    drop(server);
    agent.append(101..=110);
    let store = second.until(|store| store.durable == 110).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Sequence(gap)),
    })) = &store.received[0].kind
    else {
        panic!("{:?}", store.received[0])
    };
    assert!(gap.from == 1 && gap.to <= 100, "{gap:?}");
    assert_eq!(
        (&store.received[1..], store.violations),
        (&*items(gap.to + 1..=110), vec![])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_ahead_moves_the_sequence() {
    let collector = Collector::new(Manners {
        resume_after: Some(1000),
        ..POLITE
    });
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=5);
    agent.export(&[address]);
    timeout(PATIENCE, async {
        while agent.spool.reader().next_sequence() != 1001 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let notices = agent.spool.take_notices();
    assert_eq!(notices.len(), 1);
    agent.spool.append(&notices).unwrap();
    agent.append(1002..=1003);
    let store = collector.until(|store| store.durable == 1003).await;
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    assert_eq!((&store.received[1..], store.violations), (&*items(1002..=1003), vec![]));
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Observation(gap)),
    })) = &store.received[0].kind
    else {
        panic!("{:?}", store.received[0])
    };
    assert_eq!((gap.count, gap.hook.as_str()), (5, "spool"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_compressed_as_the_collector_can() {
    for (encodings, wanted) in [
        (POLITE.encodings, Compression::Zstd),
        (POLITE.encodings, Compression::Gzip),
        (POLITE.encodings, Compression::None),
        (&[CompressionEncoding::Gzip], Compression::Zstd),
        (&[], Compression::Zstd),
    ] {
        let collector = Collector::new(Manners { encodings, ..POLITE });
        let (address, _server) = collector.serve(any_port()).await;
        let mut agent = Agent::new(SpoolConfig::default());
        agent.append(1..=100);
        agent.export_with(
            &[address],
            config::Export {
                compression: wanted,
                ..quick()
            },
        );
        let metrics = agent.metrics.export.clone();
        assert_eq!(agent.drained().await, Drained { unacked: 0 });
        let store = collector.store.borrow().clone();
        assert_eq!((store.received, store.violations), (items(1..=100), vec![]));
        assert_eq!((store.hellos.len(), metrics.failures.get()), (1, 0), "{encodings:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_one_by_one_under_load_goes_in_batches() {
    let collector = Collector::new(POLITE);
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.export_with(
        &[address],
        config::Export {
            batch_items_max: 256,
            batch_wait: Duration::from_secs(3600),
            ..quick()
        },
    );
    for number in 1..=300 {
        agent.append(number..=number);
    }
    // The last ones wait for no others: as soon as nothing is under way they go.
    let store = collector.until(|store| store.durable == 300).await;
    assert!(store.batches < 300, "{}", store.batches);
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_without_a_collector_keeps_everything() {
    let mut agent = Agent::new(SpoolConfig::default());
    agent.append(1..=5);
    agent.export_with(
        &[dead_address().await],
        config::Export {
            drain_timeout: Duration::from_millis(20),
            ..quick()
        },
    );
    assert_eq!(agent.drained().await, Drained { unacked: 5 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_sink_to_the_collector() {
    let collector = Collector::new(POLITE);
    let (address, _server) = collector.serve(any_port()).await;
    let mut agent = Agent::new(SpoolConfig::default());
    agent.export(&[address]);
    let Agent {
        directory,
        spool,
        metrics,
        exporter,
        ..
    } = agent;
    let (sink, source) = queue(QueueLimits::default(), metrics.queue_drops.clone());
    let readiness = crate::admin::Readiness::new(&["spool"]);
    let printed = Arc::new(Mutex::new(Vec::new()));
    let tee: writer::Tee = {
        let printed = Arc::clone(&printed);
        Box::new(move |item| printed.lock().unwrap().push(item.clone()))
    };
    let thread = writer::spawn(
        Some(spool),
        source,
        items(1..=1),
        Some(tee),
        readiness.clone(),
        metrics.spool.clone(),
    )
    .unwrap();
    for number in 2..=2000 {
        assert!(sink.offer(item(number)));
    }
    collector.until(|store| store.durable == 2000).await;
    assert_eq!(readiness.missing(), "");
    drop(sink);
    let written = thread.join().unwrap();
    assert_eq!(
        timeout(PATIENCE, exporter.unwrap()).await.unwrap().unwrap(),
        Drained { unacked: 0 }
    );
    written.spool.unwrap().close().unwrap();
    assert_eq!(written.lost, 0);
    assert_eq!(*printed.lock().unwrap(), items(1..=2000));
    assert_eq!(collector.store.borrow().received, items(1..=2000));
    drop(directory);
}

#[test]
fn a_spool_that_cannot_be_written_holds_up_nobody_and_tells_what_was_lost() {
    let directory = tempfile::tempdir().unwrap();
    let (path, away) = (directory.path().join("spool"), directory.path().join("away"));
    let metrics = Metrics::new();
    let (spool, _) = Spool::open(&path, SpoolConfig::default(), metrics.spool.clone()).unwrap();
    let mut reader = spool.reader();
    let durable = reader.durable();
    std::fs::rename(&path, &away).unwrap();
    let limits = QueueLimits {
        items_max: 10,
        bytes_max: 1 << 20,
    };
    let (sink, source) = queue(limits, metrics.queue_drops.clone());
    let readiness = crate::admin::Readiness::new(&["spool"]);
    let thread = writer::spawn(
        Some(spool),
        source,
        items(1..=1),
        None,
        readiness.clone(),
        metrics.spool.clone(),
    )
    .unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    let until = |what: &dyn Fn() -> bool| {
        while !what() {
            assert!(std::time::Instant::now() < deadline, "never came");
            std::thread::yield_now();
        }
    };
    until(&|| readiness.missing().contains("cannot begin a segment"));
    let taken = (2..=100).filter(|&number| sink.offer(item(number))).count();
    assert_eq!((taken, metrics.queue_drops.get()), (10, 89));
    std::fs::rename(&away, &path).unwrap();
    until(&|| *durable.borrow() == 12);
    until(&|| readiness.missing().is_empty());
    drop(sink);
    assert_eq!(thread.join().unwrap().lost, 0);
    let mut read = reader.read_from(1, 100, 1 << 20).unwrap().unwrap().items;
    let Some(item::Kind::Gap(Gap {
        kind: Some(gap::Kind::Observation(gap)),
    })) = read.pop().unwrap().kind
    else {
        panic!("the last is no gap")
    };
    assert_eq!((gap.count, gap.reason()), (89, GapReason::QueueFull));
    assert_eq!(read, items(1..=11));
}

#[path = "tls_tests.rs"]
mod tls_tests;
