//! A subscriber that goes on where it was when the collector goes away.

use std::{net::SocketAddr, time::Duration};

use staghound_collector::security::client::{self, ClientFiles};
use staghound_proto::v1::{
    Alert, Edge, Entry, ObservationGap, Start, SubscribeRequest, feed_service_client::FeedServiceClient, gap, item,
    start::Position, subscribe_request, subscribe_response,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, transport::Endpoint};

use crate::deadline;

/// A subscription from the oldest entry on. It runs all the time, as a SIEM's would, and resumes by cursor.
pub struct Feed {
    runtime: Runtime,
    entries: mpsc::Receiver<Entry>,
    task: JoinHandle<()>,
    /// Everything that came, in order.
    pub received: Vec<Entry>,
}

impl Feed {
    /// Subscribes.
    #[must_use]
    pub fn subscribe(address: SocketAddr) -> Self {
        Self::subscribe_with(address, None)
    }

    /// Subscribes by TLS, if there are certificates.
    #[must_use]
    pub fn subscribe_with(address: SocketAddr, files: Option<ClientFiles>) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime starts");
        let (sender, entries) = mpsc::channel(1024);
        let task = runtime.spawn(follow(address, files, sender));
        Self {
            runtime,
            entries,
            task,
            received: Vec::new(),
        }
    }

    /// Waits until what came is what is waited for.
    pub fn until(&mut self, what: &str, mut enough: impl FnMut(&[Entry]) -> bool) {
        let Self {
            runtime,
            entries,
            received,
            ..
        } = self;
        runtime.block_on(async {
            let waiting = async {
                while !enough(received) {
                    received.push(entries.recv().await.expect("the subscription goes on"));
                }
            };
            if timeout(deadline(), waiting).await.is_err() {
                panic!(
                    "no {what} within {:?}; {} entries came, the last of them {:#?}",
                    deadline(),
                    received.len(),
                    received.last()
                );
            }
        });
    }

    /// The alerts that came.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.received.iter().filter_map(alert)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The alert of an entry.
#[must_use]
pub fn alert(entry: &Entry) -> Option<&Alert> {
    match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Alert(alert) => Some(alert),
        item::Kind::Gap(_) | item::Kind::Run(_) => None,
    }
}

/// The observation gap of an entry.
#[must_use]
pub fn observation_gap(entry: &Entry) -> Option<&ObservationGap> {
    match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Gap(gap) => match gap.kind.as_ref()? {
            gap::Kind::Observation(gap) => Some(gap),
            gap::Kind::Sequence(_) => None,
        },
        item::Kind::Alert(_) | item::Kind::Run(_) => None,
    }
}

async fn follow(address: SocketAddr, files: Option<ClientFiles>, sender: mpsc::Sender<Entry>) {
    let mut position = Position::Edge(Edge::Earliest.into());
    loop {
        // A collector that is being killed breaks streams in every way; the cursor is what counts.
        let _broken = follow_once(address, files.as_ref(), &mut position, &sender).await;
        if sender.is_closed() {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn follow_once(
    address: SocketAddr,
    files: Option<&ClientFiles>,
    position: &mut Position,
    sender: &mpsc::Sender<Entry>,
) -> Result<(), Status> {
    let scheme = if files.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"));
    let endpoint = endpoint.map_err(|error| Status::internal(error.to_string()))?;
    let (channel, _) = client::connect(&endpoint, files).await?;
    let mut client = FeedServiceClient::new(channel);
    // The sender stays open: an ended request stream would be a subscriber that grants no more credit.
    let (requests, receiver) = mpsc::channel(1);
    let start = Start {
        position: Some(position.clone()),
        ..Start::default()
    };
    let phase = Some(subscribe_request::Phase::Start(start));
    requests
        .try_send(SubscribeRequest { phase })
        .map_err(|error| Status::internal(error.to_string()))?;
    let mut responses = client.subscribe(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(response) = responses.message().await? {
        match response.phase {
            Some(subscribe_response::Phase::Entries(entries)) => {
                assert!(!entries.lost_before, "retention removed entries of a test");
                for entry in entries.entries {
                    *position = Position::Cursor(entry.cursor.clone());
                    if sender.send(entry).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Some(subscribe_response::Phase::Heartbeat(heartbeat)) => *position = Position::Cursor(heartbeat.cursor),
            None => {}
        }
    }
    drop(requests);
    Ok(())
}
