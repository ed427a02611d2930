//! What delivery achieves: agents that are only their sending half deliver to a real collector by mTLS, each batch
//! acknowledged when it is durable, and a subscriber catches up. Beside it the floor: the same bytes through bare TLS to a
//! file that is synced.
//!
//! Prints one figure per line: a name, a tab, a number.
#![allow(clippy::print_stdout, reason = "figures go to standard output")]

use std::{
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use staghound_collector::security::{
    certs,
    client::{self, ClientFiles},
};
use staghound_proto::{
    CONTRACT_VERSION,
    v1::{
        Alert, Batch, Edge, Hello, Item, PublishRequest, RuleRef, Severity, Start, SubscribeRequest,
        feed_service_client::FeedServiceClient, ingest_service_client::IngestServiceClient, item, publish_request,
        publish_response, start::Position, subscribe_request, subscribe_response,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::mpsc,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const BATCH_ITEMS: usize = 256;
const ITEM_BYTES: usize = 500;
/// Batches under way in the floor, as many as the collector's window holds.
const FLOOR_WINDOW: usize = 32;
const PATIENCE: Duration = Duration::from_secs(120);
const USAGE: &str = "usage: fleet COLLECTOR DIRECTORY ITEMS AGENTS";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [collector, directory, items, agents] = arguments.as_slice() else {
        bail!("{USAGE}");
    };
    let items: usize = items.parse().context(USAGE)?;
    let agents: usize = agents.parse().context(USAGE)?;
    ensure!(items >= BATCH_ITEMS && agents > 0, "{USAGE}");
    fs::create_dir_all(directory)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(Path::new(collector), Path::new(directory), items, agents))
}

async fn measure(collector: &Path, directory: &Path, items: usize, agents: usize) -> Result<()> {
    let place = TempDir::new_in(directory)?;
    let tls = place.path().join("tls");
    let name = |index: usize| format!("agent-{index}");
    certs::make(&certs::Wanted {
        directory: tls.clone(),
        hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        agents: (0..=agents).map(name).collect(),
        consumers: vec!["bench".to_owned()],
        validity: Duration::from_secs(86_400),
        force: false,
    })?;
    let batches = items / BATCH_ITEMS;
    let figure = |name: &str, value: f64| println!("{name}\t{value:.2}");

    let floor = floor(&tls, &place.path().join("floor"), batches).await?;
    figure("floor_items_per_s", floor);

    let mut server = Server::start(collector, place.path(), &tls)?;
    let address = server.address().await?;
    let one = rate(batches, publish(address, &tls, name(0), batches)).await?;
    figure("one_agent_items_per_s", one);
    figure("one_agent_per_floor", one / floor);
    let before = server.cpu_s()?;

    let each = (batches / agents).max(1);
    let mut fleet = JoinSet::new();
    let began = Instant::now();
    for index in 1..=agents {
        let (tls, name) = (tls.clone(), name(index));
        fleet.spawn(async move {
            let mut agent = Agent::connect(address, &tls, name).await?;
            agent.deliver(each).await?;
            Ok::<_, anyhow::Error>(agent)
        });
    }
    // They stay connected until the memory was read.
    let connected = everybody(fleet).await?;
    let all = count(each * agents) / began.elapsed().as_secs_f64();
    figure("fleet_items_per_s_with_connecting", all);
    // Again by connections that stand.
    let began = Instant::now();
    let mut fleet = JoinSet::new();
    for mut agent in connected {
        fleet.spawn(async move {
            agent.deliver(each).await?;
            Ok::<_, anyhow::Error>(agent)
        });
    }
    let connected = everybody(fleet).await?;
    let all = count(each * agents) / began.elapsed().as_secs_f64();
    figure("fleet_items_per_s", all);
    figure("fleet_per_one_agent", all / one);
    let items_since = count(2 * each * agents);
    figure(
        "fleet_collector_cpu_us_per_item",
        (server.cpu_s()? - before) * 1e6 / items_since,
    );
    figure("collector_rss_anon_mib", server.memory_mib("RssAnon:")?);
    figure("collector_rss_mib", server.memory_mib("VmRSS:")?);

    let stored = batches + 2 * each * agents;
    figure(
        "catch_up_items_per_s",
        rate(stored, subscribe(address, &tls, stored)).await?,
    );
    drop(connected);
    Ok(())
}

/// Those that were started, once all of them are done.
async fn everybody(mut fleet: JoinSet<Result<Agent>>) -> Result<Vec<Agent>> {
    let mut connected = Vec::new();
    while let Some(agent) = fleet.join_next().await {
        connected.push(agent??);
    }
    Ok(connected)
}

/// Items, of batches.
fn count(batches: usize) -> f64 {
    f64::from(u32::try_from(batches * BATCH_ITEMS).unwrap_or(u32::MAX))
}

async fn rate(batches: usize, work: impl Future<Output = Result<Duration>>) -> Result<f64> {
    Ok(count(batches) / work.await?.as_secs_f64())
}

/// An alert of so many bytes.
fn alert() -> Item {
    let mut alert = Alert {
        severity: Severity::High.into(),
        rule: Some(RuleRef {
            id: "credential-access/shadow-read".to_owned(),
            ..RuleRef::default()
        }),
        ..Alert::default()
    };
    let item = |alert: &Alert| Item {
        kind: Some(item::Kind::Alert(alert.clone())),
    };
    while prost::Message::encoded_len(&item(&alert)) < ITEM_BYTES {
        alert.message.push_str("a file of secrets was read; ");
    }
    let over = prost::Message::encoded_len(&item(&alert)) - ITEM_BYTES;
    alert.message.truncate(alert.message.len() - over);
    item(&alert)
}

/// One agent's sending half.
struct Agent {
    requests: mpsc::Sender<PublishRequest>,
    answers: tonic::Streaming<staghound_proto::v1::PublishResponse>,
    window: usize,
    sent: usize,
    acked: usize,
}

impl Agent {
    async fn connect(address: SocketAddr, tls: &Path, id: String) -> Result<Self> {
        let files = ClientFiles {
            ca: tls.join("ca.pem"),
            certificate: tls.join(format!("agent-{id}.pem")),
            key: tls.join(format!("agent-{id}.key")),
        };
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?.tcp_nodelay(true);
        let (channel, _) = client::connect(&endpoint, Some(&files)).await?;
        let (requests, receiver) = mpsc::channel(4);
        let hello = Hello {
            epoch: "0123456789abcdef0123456789abcdef".to_owned(),
            first_unacked: 1,
            next_sequence: 1,
            contract_version: CONTRACT_VERSION,
            agent_id: id,
            ..Hello::default()
        };
        let phase = Some(publish_request::Phase::Hello(hello));
        requests.send(PublishRequest { phase }).await?;
        let mut client = IngestServiceClient::new(channel);
        let mut answers = client.publish(ReceiverStream::new(receiver)).await?.into_inner();
        let welcome = timeout(PATIENCE, answers.message()).await??.context("no welcome")?;
        let Some(publish_response::Phase::Welcome(welcome)) = welcome.phase else {
            bail!("the first answer is no welcome");
        };
        Ok(Self {
            requests,
            answers,
            window: usize::try_from(welcome.window)?,
            sent: 0,
            acked: 0,
        })
    }

    /// Delivers so many batches and waits for the last acknowledgement.
    async fn deliver(&mut self, batches: usize) -> Result<()> {
        let items = vec![alert(); BATCH_ITEMS];
        let end = self.sent + batches * BATCH_ITEMS;
        while self.acked < end {
            if self.sent < end && self.sent + BATCH_ITEMS - self.acked <= self.window {
                let batch = Batch {
                    first_sequence: self.sent as u64 + 1,
                    items: items.clone(),
                };
                let phase = Some(publish_request::Phase::Batch(batch));
                self.requests.send(PublishRequest { phase }).await?;
                self.sent += BATCH_ITEMS;
                continue;
            }
            let answer = timeout(PATIENCE, self.answers.message()).await??;
            match answer.context("the stream ended")?.phase {
                Some(publish_response::Phase::Ack(ack)) => self.acked = usize::try_from(ack.through)?,
                other => bail!("no acknowledgement: {other:?}"),
            }
        }
        Ok(())
    }
}

async fn publish(address: SocketAddr, tls: &Path, id: String, batches: usize) -> Result<Duration> {
    let mut agent = Agent::connect(address, tls, id).await?;
    let began = Instant::now();
    agent.deliver(batches).await?;
    Ok(began.elapsed())
}

/// Reads everything that is stored.
async fn subscribe(address: SocketAddr, tls: &Path, batches: usize) -> Result<Duration> {
    let files = ClientFiles {
        ca: tls.join("ca.pem"),
        certificate: tls.join("consumer-bench.pem"),
        key: tls.join("consumer-bench.key"),
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}"))?
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    let (channel, _) = client::connect(&endpoint, Some(&files)).await?;
    let (requests, receiver) = mpsc::channel(1);
    let start = Start {
        position: Some(Position::Edge(Edge::Earliest.into())),
        ..Start::default()
    };
    let phase = Some(subscribe_request::Phase::Start(start));
    requests.send(SubscribeRequest { phase }).await?;
    let mut client = FeedServiceClient::new(channel).max_decoding_message_size(16 << 20);
    let began = Instant::now();
    let mut entries = client.subscribe(ReceiverStream::new(receiver)).await?.into_inner();
    let mut received = 0;
    while received < batches * BATCH_ITEMS {
        let answer = timeout(PATIENCE, entries.message()).await??;
        if let Some(subscribe_response::Phase::Entries(entries)) = answer.context("the stream ended")?.phase {
            received += entries.entries.len();
        }
    }
    Ok(began.elapsed())
}

/// The collector as a process; killed when let go.
struct Server {
    child: Child,
    port_file: PathBuf,
}

impl Server {
    fn start(program: &Path, place: &Path, tls: &Path) -> Result<Self> {
        let port_file = place.join("port");
        let child = Command::new(program)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--no-http",
                "--log",
                "warn",
                "--data",
            ])
            .arg(place.join("data"))
            .arg("--port-file")
            .arg(&port_file)
            .arg("--tls-cert")
            .arg(tls.join("server.pem"))
            .arg("--tls-key")
            .arg(tls.join("server.key"))
            .arg("--tls-client-ca")
            .arg(tls.join("ca.pem"))
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, port_file })
    }

    async fn address(&mut self) -> Result<SocketAddr> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            let text = fs::read_to_string(&self.port_file).unwrap_or_default();
            if let Some(address) = text.lines().next().and_then(|line| line.parse().ok()) {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the collector ended: {status}");
            }
            sleep(Duration::from_millis(10)).await;
        }
        bail!("the collector did not say where it listens")
    }

    fn memory_mib(&self, key: &str) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.with_context(|| format!("no {key}"))?.parse::<f64>()? / 1024.0)
    }

    /// Processor time used so far.
    fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks: Vec<f64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        Ok(ticks.iter().sum::<f64>() / 100.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// The bytes of batches through TLS with certificates on both sides into a file; acknowledged when synced, all that came
/// meanwhile with one sync.
async fn floor(tls: &Path, path: &Path, batches: usize) -> Result<f64> {
    let batch = Batch {
        first_sequence: 1,
        items: vec![alert(); BATCH_ITEMS],
    };
    let bytes = prost::Message::encode_to_vec(&batch);
    let (acceptor, connector) = (acceptor(tls)?, connector(tls)?);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (path, length) = (path.to_owned(), bytes.len());
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let (mut reader, mut writer) = tokio::io::split(acceptor.accept(socket).await?);
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(FLOOR_WINDOW);
        let reading = tokio::spawn(async move {
            for _ in 0..batches {
                let mut buffer = vec![0; length];
                reader.read_exact(&mut buffer).await?;
                sender.send(buffer).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
        let mut file = Arc::new(File::create(path)?);
        let mut group = Vec::new();
        while receiver.recv_many(&mut group, FLOOR_WINDOW).await > 0 {
            let taken = std::mem::take(&mut group);
            let acks = vec![1; taken.len()];
            file = spawn_blocking(move || {
                for bytes in &taken {
                    (&*file).write_all(bytes)?;
                }
                file.sync_data()?;
                Ok::<_, std::io::Error>(file)
            })
            .await??;
            writer.write_all(&acks).await?;
            writer.flush().await?;
        }
        reading.await?
    });
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let stream = connector.connect(ServerName::try_from("localhost")?, socket).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let began = Instant::now();
    let (mut sent, mut acked) = (0, 0);
    while acked < batches {
        if sent < batches && sent - acked < FLOOR_WINDOW {
            writer.write_all(&bytes).await?;
            writer.flush().await?;
            sent += 1;
            continue;
        }
        let mut acks = [0; FLOOR_WINDOW];
        let read = reader.read(&mut acks).await?;
        ensure!(read > 0, "the floor's server ended");
        acked += read;
    }
    let elapsed = began.elapsed();
    server.await??;
    Ok(count(batches) / elapsed.as_secs_f64())
}

fn identity(tls: &Path, name: &str) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_file(tls.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(tls.join(format!("{name}.key")))?;
    Ok((vec![certificate], key))
}

fn roots(tls: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(tls.join("ca.pem"))?)?;
    Ok(roots)
}

fn acceptor(tls: &Path) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(tls)?), Arc::clone(&provider)).build()?;
    let (chain, key) = identity(tls, "server")?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn connector(tls: &Path) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let (chain, key) = identity(tls, "agent-agent-0")?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(tls)?)
        .with_client_auth_cert(chain, key)?;
    Ok(TlsConnector::from(Arc::new(config)))
}
