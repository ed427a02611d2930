//! An agent and a subscriber by hand, and a collector in a directory of its own.

use staghound_collector::collector::{Collector, Config};
use staghound_proto::v1::{
    Alert, Batch, Commit, Credit, Edge, Entry, Filter, Gap, GapReason, Heartbeat, Hello, Host, Item, PublishRequest,
    PublishResponse, SequenceGap, Start, SubscribeRequest, Welcome, feed_service_client::FeedServiceClient, gap,
    ingest_service_client::IngestServiceClient, item, publish_request, publish_response, start, subscribe_request,
    subscribe_response,
};
use std::{future::Future, net::SocketAddr, time::Duration};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

pub(crate) const EPOCH: &str = "0123456789abcdef0123456789abcdef";
const DEADLINE: Duration = Duration::from_secs(30);

/// Every wait of the tests: for a condition, with a deadline.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("no {what} within {DEADLINE:?}"),
    }
}

pub(crate) struct Running {
    pub(crate) directory: TempDir,
    pub(crate) collector: Collector,
}

impl Running {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut config = Config::new(directory.path());
        change(&mut config);
        Self {
            directory,
            collector: Collector::start(config).await.unwrap(),
        }
    }

    pub(crate) async fn restart(self) -> Self {
        within("shutdown", self.collector.shutdown()).await;
        let collector = Collector::start(Config::new(self.directory.path())).await.unwrap();
        Self {
            directory: self.directory,
            collector,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.collector.grpc_address()
    }

    pub(crate) async fn channel(&self) -> Channel {
        plain(self.address()).await.unwrap()
    }

    pub(crate) async fn agent(&self, id: &str) -> Agent {
        Agent::connect(self.address(), hello(id)).await.unwrap().0
    }

    pub(crate) async fn subscribe(&self, start: Start) -> Subscriber {
        Subscriber::connect(self.address(), start).await.unwrap()
    }

    /// Everything stored, from the beginning.
    pub(crate) async fn stored(&self, count: usize) -> Vec<Entry> {
        self.subscribe(earliest()).await.entries(count).await
    }
}

async fn plain(address: SocketAddr) -> Result<Channel, Status> {
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await;
    channel.map_err(|error| Status::unavailable(error.to_string()))
}

pub(crate) fn hello(id: &str) -> Hello {
    Hello {
        agent_id: id.to_owned(),
        epoch: EPOCH.to_owned(),
        first_unacked: 1,
        next_sequence: 1_000_000,
        contract_version: 1,
        host: Some(Host {
            name: format!("host-of-{id}"),
            ..Host::default()
        }),
        ..Hello::default()
    }
}

pub(crate) fn alert(boot_time_ns: u64) -> Item {
    Item {
        kind: Some(item::Kind::Alert(Alert {
            boot_time_ns,
            ..Alert::default()
        })),
    }
}

pub(crate) fn alerts(sequences: std::ops::RangeInclusive<u64>) -> Vec<Item> {
    sequences.map(alert).collect()
}

pub(crate) fn lost(from: u64, to: u64) -> Item {
    let gap = SequenceGap {
        from,
        to,
        reason: GapReason::SpoolOverflow.into(),
    };
    Item {
        kind: Some(item::Kind::Gap(Gap {
            kind: Some(gap::Kind::Sequence(gap)),
        })),
    }
}

pub(crate) struct Agent {
    pub(crate) requests: mpsc::Sender<PublishRequest>,
    pub(crate) responses: Streaming<PublishResponse>,
}

impl Agent {
    pub(crate) async fn connect(address: SocketAddr, hello: Hello) -> Result<(Self, Welcome), Status> {
        Self::open(address).await?.greet(hello).await
    }

    pub(crate) async fn connect_by(channel: Channel, hello: Hello) -> Result<(Self, Welcome), Status> {
        Self::open_by(channel).await?.greet(hello).await
    }

    async fn greet(self, hello: Hello) -> Result<(Self, Welcome), Status> {
        let mut agent = self;
        agent.send(publish_request::Phase::Hello(hello)).await;
        match agent.response().await?.and_then(|response| response.phase) {
            Some(publish_response::Phase::Welcome(welcome)) => Ok((agent, welcome)),
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Status> {
        Self::open_by(plain(address).await?).await
    }

    async fn open_by(channel: Channel) -> Result<Self, Status> {
        let mut client = IngestServiceClient::new(channel);
        let (requests, receiver) = mpsc::channel(64);
        let responses = client.publish(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(crate) async fn send(&self, phase: publish_request::Phase) {
        // A stream that has ended says why with its next response.
        drop(
            within(
                "room to send",
                self.requests.send(PublishRequest { phase: Some(phase) }),
            )
            .await,
        );
    }

    pub(crate) async fn batch(&self, first_sequence: u64, items: Vec<Item>) {
        self.send(publish_request::Phase::Batch(Batch { first_sequence, items }))
            .await;
    }

    pub(crate) async fn response(&mut self) -> Result<Option<PublishResponse>, Status> {
        within("response", self.responses.message()).await
    }

    /// Waits for the acknowledgement of a sequence; those on the way may be merged or not.
    pub(crate) async fn acked(&mut self, through: u64) {
        let mut last = 0;
        while last < through {
            match self.response().await.unwrap().and_then(|response| response.phase) {
                Some(publish_response::Phase::Ack(ack)) => last = ack.through,
                other => panic!("no ack but {other:?}"),
            }
        }
        assert_eq!(last, through);
    }

    /// Waits for the end of the stream.
    pub(crate) async fn refused(&mut self) -> Status {
        loop {
            match self.response().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without an error"),
                Err(status) => return status,
            }
        }
    }

    pub(crate) async fn deliver(&mut self, first: u64, items: Vec<Item>, through: u64) {
        self.batch(first, items).await;
        self.acked(through).await;
    }
}

pub(crate) fn earliest() -> Start {
    Start {
        position: Some(start::Position::Edge(Edge::Earliest.into())),
        ..Start::default()
    }
}

pub(crate) fn after(cursor: &str) -> Start {
    Start {
        position: Some(start::Position::Cursor(cursor.to_owned())),
        ..Start::default()
    }
}

pub(crate) fn filtered(filter: Filter) -> Start {
    Start {
        filter: Some(filter),
        ..earliest()
    }
}

pub(crate) struct Subscriber {
    requests: mpsc::Sender<SubscribeRequest>,
    responses: Streaming<staghound_proto::v1::SubscribeResponse>,
}

impl Subscriber {
    pub(crate) async fn connect(address: SocketAddr, start: Start) -> Result<Self, Status> {
        Self::connect_by(plain(address).await?, start).await
    }

    pub(crate) async fn connect_by(channel: Channel, start: Start) -> Result<Self, Status> {
        let mut client = FeedServiceClient::new(channel);
        let (requests, receiver) = mpsc::channel(16);
        requests
            .try_send(SubscribeRequest {
                phase: Some(subscribe_request::Phase::Start(start)),
            })
            .unwrap();
        let responses = client.subscribe(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, responses })
    }

    pub(crate) async fn credit(&self, entries: u32) {
        let phase = Some(subscribe_request::Phase::Credit(Credit { entries }));
        self.requests.send(SubscribeRequest { phase }).await.unwrap();
    }

    pub(crate) async fn try_credit(&self, entries: u32) -> bool {
        let phase = Some(subscribe_request::Phase::Credit(Credit { entries }));
        within("room", self.requests.send(SubscribeRequest { phase }))
            .await
            .is_ok()
    }

    pub(crate) async fn commit(&self, cursor: &str) {
        let commit = Commit {
            cursor: cursor.to_owned(),
        };
        let phase = Some(subscribe_request::Phase::Commit(commit));
        self.requests.send(SubscribeRequest { phase }).await.unwrap();
    }

    /// The entries of the next message that has some.
    pub(crate) async fn next_entries(&mut self) -> Vec<Entry> {
        loop {
            if let subscribe_response::Phase::Entries(entries) = self.next().await.unwrap() {
                return entries.entries;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Result<subscribe_response::Phase, Status> {
        let response = within("response", self.responses.message()).await?;
        Ok(response
            .expect("the stream goes on")
            .phase
            .expect("a response has a phase"))
    }

    /// The next so many entries, and no more in the message that holds the last.
    pub(crate) async fn entries(&mut self, count: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        while entries.len() < count {
            if let subscribe_response::Phase::Entries(more) = self.next().await.unwrap() {
                entries.extend(more.entries);
            }
        }
        assert_eq!(entries.len(), count);
        entries
    }

    pub(crate) async fn heartbeat(&mut self) -> Heartbeat {
        match self.next().await.unwrap() {
            subscribe_response::Phase::Heartbeat(heartbeat) => heartbeat,
            other => panic!("no heartbeat but {other:?}"),
        }
    }
}

/// The sequences of entries, in the order they were stored.
pub(crate) fn sequences(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.sequence).collect()
}
