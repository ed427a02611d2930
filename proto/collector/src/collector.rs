//! The running collector: one store, two listeners, and an orderly end.

use crate::{
    agents::Agents,
    feed::{Feed, wire::FeedServer},
    http,
    ingest::{Ingest, Limits},
    metrics::Metrics,
    security::{
        Peer, listener,
        tls::{Files, Tls, TlsError},
    },
    sinks::{self, SinkConfig},
    store::{AlertLog, OpenError, Retention, embedded::Embedded},
};
use staghound_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{agent_service_server::AgentServiceServer, ingest_service_server::IngestServiceServer},
};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};
use tonic::{codec::CompressionEncoding, service::InterceptorLayer};
use tonic_health::ServingStatus;

/// Streams that end by themselves get this long; a peer that does not read is cut off after it.
const STREAMS_END_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Streams that reached the age of their connection have this long to end.
const CONNECTION_GRACE: Duration = Duration::from_secs(60);
/// What a consumer asks is small.
const REQUEST_BYTES_MAX: usize = 256 << 10;
const STREAMS_PER_CONNECTION_MAX: u32 = 128;
/// HTTP/2 flow control: what a peer may have under way before it is read.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How often retention is applied, a failed store reopened and the health told.
const TICK: Duration = Duration::from_secs(1);
const SERVICE_NAMES: [&str; 3] = [
    staghound_proto::v1::ingest_service_server::SERVICE_NAME,
    staghound_proto::v1::feed_service_server::SERVICE_NAME,
    staghound_proto::v1::agent_service_server::SERVICE_NAME,
];

/// How to run a collector. [`Config::new`] gives loopback, free ports and bounded defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where gRPC listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where metrics and health are served over HTTP, if at all.
    pub http: Option<SocketAddr>,
    /// Directory of the store; made when it does not exist.
    pub data: PathBuf,
    /// What may be removed from the store.
    pub retention: Retention,
    /// Certificates; without them nothing is encrypted and nobody authenticated.
    pub tls: Option<Files>,
    /// Serve gRPC without encryption on addresses that other machines can reach.
    pub insecure_plaintext: bool,
    /// The same of metrics and health.
    pub insecure_http: bool,
    /// Most connections at once.
    pub connections_max: usize,
    /// Where else to send what is stored.
    pub sinks: Vec<SinkConfig>,
    /// How long a connection lasts; then its streams end, and the peer connects again.
    pub connection_age: Duration,
    /// Most items an agent may have sent without an acknowledgement.
    pub window: u32,
    /// Largest gRPC message taken.
    pub message_bytes_max: usize,
    /// Most agents connected at once.
    pub agents_max: usize,
    /// Most subscribers connected at once.
    pub subscribers_max: usize,
    /// How long a new stream may take to say what it wants.
    pub hello_timeout: Duration,
    /// What one agent may deliver per second; more waits.
    pub agent_bytes_per_second: u64,
}

impl Config {
    /// Loopback, free ports, no retention.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            http: Some(loopback),
            data: data.into(),
            retention: Retention::default(),
            tls: None,
            insecure_plaintext: false,
            insecure_http: false,
            sinks: Vec::new(),
            connections_max: 8192,
            connection_age: Duration::from_secs(3600),
            window: 8192,
            message_bytes_max: 4 << 20,
            agents_max: 4096,
            subscribers_max: 1024,
            hello_timeout: Duration::from_secs(10),
            agent_bytes_per_second: 64 << 20,
        }
    }
}

/// Why a collector did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Anyone on the network could read and forge alerts.
    #[error(
        "refusing to listen on {0} without encryption: it is not a loopback address, and anyone who reaches it could read and forge alerts; give --tls-cert, --tls-key and --tls-client-ca (`staghound-collector certs dev` makes some to try), listen on 127.0.0.1, or give --insecure-plaintext twice"
    )]
    Plaintext(SocketAddr),
    /// Metrics could be read by anyone.
    #[error(
        "refusing to serve HTTP on {0}: it is not a loopback address, and metrics are neither encrypted nor authenticated; use 127.0.0.1, or give --insecure-http if the network is trusted"
    )]
    PlaintextHttp(SocketAddr),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}; free the port or give another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A sink cannot be what it is to be.
    #[error("{0}")]
    Sink(String),
    /// The store did not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A part of the program is broken.
    #[error("cannot start: {0}; this is a defect, please report it")]
    Internal(String),
}

/// A running collector. Call [`Collector::shutdown`] to end it; dropped without, it ends with its runtime.
pub struct Collector {
    grpc: SocketAddr,
    http: Option<SocketAddr>,
    store: Arc<dyn AlertLog>,
    stop: watch::Sender<bool>,
    /// Held by every stream, and until shutdown by the collector itself.
    alive: mpsc::Sender<()>,
    /// Gives `None` when nobody holds `alive`.
    streams: mpsc::Receiver<()>,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
}

impl Collector {
    /// Opens the store and listens. When this returns, agents and subscribers are served.
    ///
    /// # Errors
    /// An address is refused or taken, or the store does not open.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.tls.is_none() && !config.listen.ip().is_loopback() && !config.insecure_plaintext {
            return Err(StartError::Plaintext(config.listen));
        }
        if let Some(address) = config
            .http
            .filter(|http| !http.ip().is_loopback() && !config.insecure_http)
        {
            return Err(StartError::PlaintextHttp(address));
        }
        let metrics = Arc::new(Metrics::new());
        let tls = match config.tls {
            Some(files) => Some(Arc::new(Tls::load(files, Arc::clone(&metrics))?)),
            None => None,
        };
        let bind = async |address| {
            TcpListener::bind(address)
                .await
                .map_err(|source| StartError::Listen { address, source })
        };
        let grpc_listener = bind(config.listen).await?;
        let http_listener = match config.http {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let local = |listener: &TcpListener| {
            listener.local_addr().map_err(|source| StartError::Listen {
                address: config.listen,
                source,
            })
        };
        let grpc = local(&grpc_listener)?;
        let http = http_listener.as_ref().map(local).transpose()?;

        let opening = {
            let (data, retention, metrics) = (config.data.clone(), config.retention, Arc::clone(&metrics));
            tokio::task::spawn_blocking(move || Embedded::open(&data, retention, metrics))
        };
        let store: Arc<dyn AlertLog> = Arc::new(
            opening
                .await
                .map_err(|error| StartError::Internal(error.to_string()))??,
        );

        let running = config.sinks.iter().map(|sink| {
            let running = sinks::Running::new(sink, Arc::clone(&store), Arc::clone(&metrics));
            running.map_err(|error| StartError::Sink(format!("{error:#}")))
        });
        let running = running.collect::<Result<Vec<_>, _>>()?;
        let encrypted = tls.is_some();
        let (stop, stopping) = watch::channel(false);
        let (alive, streams) = mpsc::channel(1);
        let (health, health_service) = tonic_health::server::health_reporter();
        let limits = Limits {
            window: config.window,
            message_bytes_max: config.message_bytes_max,
            streams_max: config.agents_max,
            hello_timeout: config.hello_timeout,
            agent_bytes_per_second: config.agent_bytes_per_second,
            stream_age: config.connection_age,
        };
        let ingest = Ingest::new(
            Arc::clone(&store),
            Arc::clone(&metrics),
            limits,
            stopping.clone(),
            alive.downgrade(),
        );
        let agents = Agents {
            store: Arc::clone(&store),
            live: ingest.live(),
        };
        let feed = Feed::new(
            Arc::clone(&store),
            Arc::clone(&metrics),
            config.subscribers_max,
            config.hello_timeout,
            config.connection_age,
            stopping.clone(),
            alive.downgrade(),
        );
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| StartError::Internal(error.to_string()))?;
        for service in SERVICE_NAMES {
            health.set_service_status(service, ServingStatus::Serving).await;
        }

        let ingest = IngestServiceServer::new(ingest)
            .max_decoding_message_size(config.message_bytes_max)
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd);
        let agents = AgentServiceServer::new(agents).max_decoding_message_size(REQUEST_BYTES_MAX);
        let counted = InterceptorLayer::new(|request: tonic::Request<()>| {
            Peer::of(&request)?.count()?;
            Ok(request)
        });
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .http2_max_header_list_size(HEADERS_BYTES_MAX)
            .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            // Streams end by themselves before; this is for connections without any, and those that do not go.
            .max_connection_age(config.connection_age)
            .max_connection_age_grace(CONNECTION_GRACE)
            .layer(counted)
            .add_service(health_service)
            .add_service(reflection)
            .add_service(ingest)
            .add_service(agents)
            .add_service(FeedServer::new(feed));
        let (incoming, accepting) =
            listener::accept(grpc_listener, tls.clone(), config.connections_max, Arc::clone(&metrics));
        let mut tasks = Vec::new();
        for sink in running {
            tasks.push(("sink", tokio::spawn(sink.run(stopping.clone()))));
        }
        let stopped = until_stopped(stopping.clone());
        let serving = async move {
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "gRPC server failed");
            }
        };
        tasks.push(("listener", tokio::spawn(accepting)));
        tasks.push(("grpc", tokio::spawn(serving)));
        if let Some(listener) = http_listener {
            let routes = http::routes(metrics, Arc::clone(&store), stopping.clone());
            let stopped = until_stopped(stopping.clone());
            let serving = async move {
                if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
                    tracing::error!(%error, "HTTP server failed");
                }
            };
            tasks.push(("http", tokio::spawn(serving)));
        }
        let ticking = {
            let (store, stopped) = (Arc::clone(&store), until_stopped(stopping));
            async move {
                tokio::pin!(stopped);
                let mut interval = tokio::time::interval(TICK);
                interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
                let mut serving = true;
                loop {
                    let running = tokio::select! {
                        () = &mut stopped => false,
                        _ = interval.tick() => true,
                    };
                    if running {
                        store.tick().await;
                        if let Some(tls) = tls.clone() {
                            // Small files; but a file system may be slow.
                            drop(tokio::task::spawn_blocking(move || tls.reload()).await);
                        }
                    }
                    if serving != (running && store.is_open()) {
                        serving = !serving;
                        let status = if serving {
                            ServingStatus::Serving
                        } else {
                            ServingStatus::NotServing
                        };
                        for service in SERVICE_NAMES.into_iter().chain([""]) {
                            health.set_service_status(service, status).await;
                        }
                    }
                    if !running {
                        return;
                    }
                }
            }
        };
        tasks.push(("store tick", tokio::spawn(ticking)));
        tracing::info!(%grpc, http = ?http, tls = encrypted, data = %config.data.display(), version = crate::VERSION, "collector started");
        Ok(Self {
            grpc,
            http,
            store,
            stop,
            alive,
            streams,
            tasks,
        })
    }

    /// Where gRPC is served.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where metrics and health are served.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Ends in the order data flows: no new streams, batches under way made durable and acknowledged, subscribers told,
    /// store closed. Takes a few seconds at most.
    pub async fn shutdown(mut self) {
        tracing::info!("collector stops");
        self.stop.send_replace(true);
        drop(self.alive);
        // Nothing is ever sent; the channel ends when the last stream drops its sender.
        if timeout(STREAMS_END_TIMEOUT, self.streams.recv()).await.is_err() {
            tracing::warn!("some peers did not read their end and are cut off");
        }
        for (name, mut task) in self.tasks {
            if timeout(STREAMS_END_TIMEOUT, &mut task).await.is_err() {
                tracing::debug!(task = name, "aborted after its time");
                task.abort();
            }
        }
        self.store.close().await;
        tracing::info!("collector stopped");
    }
}

/// Waits until the collector stops.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the collector was dropped, which is a stop, too.
    drop(stopping.wait_for(|stopping| *stopping).await);
}

/// The same for those who need a future of their own.
async fn until_stopped(mut stopping: watch::Receiver<bool>) {
    stopped(&mut stopping).await;
}
