//! Only who has a certificate is heard, and only as who it says; certificates are replaced while all goes on.

use crate::{
    crash::{Process, binary},
    harness::{Agent, Running, Subscriber, alerts, earliest, hello, sequences, within},
};
use staghound_collector::{
    collector::{Collector, Config, StartError},
    security::{
        certs::{self, Wanted},
        client::{ClientFiles, Verdict, connect},
        tls::Files,
    },
};
use std::{fs, net::SocketAddr, path::Path, process::Stdio, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

fn make(directory: &Path) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    certs::make(&Wanted {
        directory: directory.to_owned(),
        hosts: owned(&["localhost", "127.0.0.1"]),
        agents: owned(&["a", "b"]),
        consumers: owned(&["siem"]),
        validity: Duration::from_secs(3600),
        force: true,
    })
    .unwrap();
}

fn server_files(directory: &Path) -> Files {
    Files {
        certificate: directory.join("server.pem"),
        key: directory.join("server.key"),
        client_ca: directory.join("ca.pem"),
    }
}

fn client_files(directory: &Path, who: &str) -> ClientFiles {
    ClientFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join(format!("{who}.pem")),
        key: directory.join(format!("{who}.key")),
    }
}

async fn channel(address: SocketAddr, files: &ClientFiles) -> Result<Channel, Status> {
    Ok(connection(address, files).await?.0)
}

async fn connection(address: SocketAddr, files: &ClientFiles) -> Result<(Channel, Verdict), Status> {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    within("connection", connect(&endpoint, Some(files))).await
}

struct Secure {
    certificates: TempDir,
    running: Running,
}

impl Secure {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let certificates = TempDir::new().unwrap();
        make(certificates.path());
        let running = Running::start_with(|config| {
            config.tls = Some(server_files(certificates.path()));
            change(config);
        })
        .await;
        Self { certificates, running }
    }

    async fn channel(&self, who: &str) -> Channel {
        channel(self.running.address(), &client_files(self.certificates.path(), who))
            .await
            .unwrap()
    }

    async fn agent(&self, who: &str, id: &str) -> Result<Agent, Status> {
        Ok(Agent::connect_by(self.channel(who).await, hello(id)).await?.0)
    }
}

#[tokio::test]
async fn agents_deliver_and_consumers_read_and_nobody_does_what_is_not_theirs() {
    let secure = Secure::start(|_| {}).await;
    let mut agent = secure.agent("agent-a", "a").await.unwrap();
    agent.deliver(1, alerts(1..=3), 3).await;
    let mut subscriber = Subscriber::connect_by(secure.channel("consumer-siem").await, earliest())
        .await
        .unwrap();
    assert_eq!(sequences(&subscriber.entries(3).await), [1, 2, 3]);

    let refused = |status: Status, part: &str| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    };
    refused(
        secure.agent("agent-a", "b").await.err().unwrap(),
        "the certificate says another",
    );
    refused(
        secure.agent("consumer-siem", "a").await.err().unwrap(),
        "consumer \"siem\" may not deliver",
    );
    let subscribed = Subscriber::connect_by(secure.channel("agent-a").await, earliest()).await;
    refused(subscribed.err().unwrap(), "agent \"a\" may not read");
    // The one whose name was tried was not disturbed.
    agent.deliver(4, alerts(4..=4), 4).await;
    secure.running.collector.shutdown().await;
}

#[tokio::test]
async fn without_a_trusted_certificate_nothing_is_served() {
    let secure = Secure::start(|config| config.connections_max = 4).await;
    let address = secure.running.address();
    let other = TempDir::new().unwrap();
    make(other.path());
    // Each side distrusts the other.
    let status = channel(address, &client_files(other.path(), "agent-a"))
        .await
        .err()
        .unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    // The client trusts the server, the server not the client: TLS 1.3 tells it with the first request.
    let half = ClientFiles {
        ca: secure.certificates.path().join("ca.pem"),
        ..client_files(other.path(), "agent-a")
    };
    let told = match connection(address, &half).await {
        Err(status) => status,
        Ok((channel, verdict)) => verdict.judge(Agent::connect_by(channel, hello("a")).await.err().unwrap()),
    };
    assert_eq!(told.code(), Code::Unauthenticated, "{told:?}");
    // Plaintext, garbage and silence.
    assert!(Agent::connect(address, hello("a")).await.is_err());
    let mut garbage = TcpStream::connect(address).await.unwrap();
    garbage.write_all(&[0xff; 4096]).await.unwrap();
    let mut end = Vec::new();
    drop(within("end", garbage.read_to_end(&mut end)).await);
    let silent: Vec<_> = [
        TcpStream::connect(address).await.unwrap(),
        TcpStream::connect(address).await.unwrap(),
    ]
    .into();
    secure
        .agent("agent-a", "a")
        .await
        .unwrap()
        .deliver(1, alerts(1..=1), 1)
        .await;
    drop(silent);
    secure.running.collector.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load() {
    let secure = Secure::start(|_| {}).await;
    let address = secure.running.address();
    let mut agent = secure.agent("agent-a", "a").await.unwrap();
    let mut sequence = 0;
    for round in 0..3 {
        for _ in 0..20 {
            sequence += 5;
            agent
                .deliver(sequence - 4, alerts(sequence - 4..=sequence), sequence)
                .await;
        }
        let old = TempDir::new().unwrap();
        for name in ["ca.pem", "agent-a.pem", "agent-a.key"] {
            fs::copy(secure.certificates.path().join(name), old.path().join(name)).unwrap();
        }
        make(secure.certificates.path());
        // The connection that the old authority vouched for ends; one that the new one vouches for is taken.
        let ended = agent.refused().await;
        assert!(
            matches!(
                ended.code(),
                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            ),
            "{ended:?}"
        );
        agent = loop {
            let Ok(channel) = channel(address, &client_files(secure.certificates.path(), "agent-a")).await else {
                continue;
            };
            if let Ok((agent, welcome)) = Agent::connect_by(channel, hello("a")).await {
                assert_eq!(welcome.resume_after, sequence, "round {round}");
                break agent;
            }
        };
        assert!(channel(address, &client_files(old.path(), "agent-a")).await.is_err());
    }
    // What cannot be used is not taken over.
    fs::write(secure.certificates.path().join("server.pem"), "half a file").unwrap();
    let http = secure.running.collector.http_address().unwrap();
    loop {
        let metrics = crate::server::get(http, "/metrics").await;
        if metrics.contains("staghound_collector_tls_files_bad 1") {
            break;
        }
    }
    agent
        .deliver(sequence + 1, alerts(sequence + 1..=sequence + 1), sequence + 1)
        .await;
    drop(secure.agent("agent-b", "b").await.unwrap());
    secure.running.collector.shutdown().await;
}

#[tokio::test]
async fn a_connection_ends_at_its_age_and_nothing_is_lost() {
    let secure = Secure::start(|config| config.connection_age = Duration::from_secs(2)).await;
    let mut agent = secure.agent("agent-a", "a").await.unwrap();
    let mut subscriber = Subscriber::connect_by(secure.channel("consumer-siem").await, earliest())
        .await
        .unwrap();
    agent.deliver(1, alerts(1..=2), 2).await;
    subscriber.entries(2).await;
    for status in [agent.refused().await, subscriber.next().await.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("reached its age"), "{status:?}");
    }
    secure
        .agent("agent-a", "a")
        .await
        .unwrap()
        .deliver(3, alerts(3..=3), 3)
        .await;
    secure.running.collector.shutdown().await;
}

#[tokio::test]
async fn a_connection_has_limits() {
    let running = Running::start_with(|config| config.connections_max = 3).await;
    let channel = Endpoint::from_shared(format!("http://{}", running.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut refused = None;
    for _ in 0..400 {
        let opened = Agent::connect_by(channel.clone(), hello("a")).await;
        if let Err(status) = opened {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("too many requests"), "{refused:?}");
    // Headers without end are refused, too.
    let mut request = tonic::Request::new(tokio_stream::empty());
    request
        .metadata_mut()
        .insert("x-large", "x".repeat(64 << 10).parse().unwrap());
    let channel = Endpoint::from_shared(format!("http://{}", running.address()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = staghound_proto::v1::ingest_service_client::IngestServiceClient::new(channel);
    assert!(client.publish(request).await.is_err());
    // Two connections are left open above; of more than three the last ones are closed at once.
    let held: Vec<_> = [
        TcpStream::connect(running.address()).await.unwrap(),
        TcpStream::connect(running.address()).await.unwrap(),
    ]
    .into();
    let mut surplus = TcpStream::connect(running.address()).await.unwrap();
    let mut end = Vec::new();
    assert_eq!(within("end", surplus.read_to_end(&mut end)).await.unwrap_or(0), 0);
    drop(held);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn plaintext_for_all_the_world_must_be_asked_for_twice() {
    let directory = TempDir::new().unwrap();
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let refused = Collector::start(Config {
        listen: everywhere,
        ..Config::new(directory.path())
    })
    .await;
    assert!(matches!(refused, Err(StartError::Plaintext(_))));
    let refused = Collector::start(Config {
        http: Some(everywhere),
        ..Config::new(directory.path())
    })
    .await;
    assert!(matches!(refused, Err(StartError::PlaintextHttp(_))));
    make(directory.path());
    let config = Config {
        listen: everywhere,
        tls: Some(server_files(directory.path())),
        ..Config::new(directory.path())
    };
    Collector::start(config).await.unwrap().shutdown().await;
    let missing = Files {
        key: directory.path().join("missing.key"),
        ..server_files(directory.path())
    };
    let refused = Collector::start(Config {
        tls: Some(missing),
        ..Config::new(directory.path())
    })
    .await
    .err()
    .unwrap();
    assert!(refused.to_string().contains("missing.key"), "{refused}");
    let swapped = Files {
        certificate: directory.path().join("agent-a.pem"),
        ..server_files(directory.path())
    };
    let refused = Collector::start(Config {
        tls: Some(swapped),
        ..Config::new(directory.path())
    })
    .await
    .err()
    .unwrap();
    assert!(refused.to_string().contains("must belong together"), "{refused}");
    let once = binary()
        .args([
            "serve",
            "--listen",
            "0.0.0.0:0",
            "--insecure-plaintext",
            "--no-http",
            "--data",
        ])
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&once.stderr).contains("--insecure-plaintext twice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_makes_certificates_serves_by_them_and_tails_by_them() {
    let directory = TempDir::new().unwrap();
    let certificates = directory.path().join("certs");
    let dev = || {
        binary()
            .args(["certs", "dev", "--agent", "a", "--consumer", "siem"])
            .arg(&certificates)
            .output()
            .unwrap()
    };
    let made = dev();
    assert!(made.status.success(), "{made:?}");
    let again = dev();
    assert!(
        !again.status.success() && String::from_utf8_lossy(&again.stderr).contains("--force"),
        "{again:?}"
    );
    let option = |name: &str, file: &str| [name.to_owned(), certificates.join(file).display().to_string()];
    let arguments = [
        option("--tls-cert", "server.pem"),
        option("--tls-key", "server.key"),
        option("--tls-client-ca", "ca.pem"),
    ]
    .concat();
    let process = Process::start_with(&directory.path().join("data"), &arguments);
    let channel = channel(process.grpc, &client_files(&certificates, "agent-a"))
        .await
        .unwrap();
    let (mut agent, _) = Agent::connect_by(channel, hello("a")).await.unwrap();
    agent.deliver(1, alerts(1..=2), 2).await;
    let tail = async |who: &str| {
        let mut command = binary();
        command.args([
            "tail",
            "--from",
            "earliest",
            "--count",
            "2",
            "--timeout",
            "20",
            "--output",
            "json",
        ]);
        command.args(["--url", &format!("https://localhost:{}", process.grpc.port())]);
        command
            .args(option("--ca", "ca.pem"))
            .args(option("--cert", &format!("{who}.pem")))
            .args(option("--key", &format!("{who}.key")));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        within("tail", tokio::task::spawn_blocking(move || command.output().unwrap()))
            .await
            .unwrap()
    };
    let read = tail("consumer-siem").await;
    assert!(read.status.success(), "{read:?}");
    assert_eq!(String::from_utf8_lossy(&read.stdout).lines().count(), 2);
    let refused = tail("agent-a").await;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("may not read"),
        "{refused:?}"
    );
    make(&directory.path().join("other"));
    fs::copy(
        directory.path().join("other/consumer-siem.pem"),
        certificates.join("stranger.pem"),
    )
    .unwrap();
    fs::copy(
        directory.path().join("other/consumer-siem.key"),
        certificates.join("stranger.key"),
    )
    .unwrap();
    let refused = tail("stranger").await;
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("TLS") && text.contains("trusts the authority"), "{text}");
    assert_eq!(process.terminate().await, Some(0));
}
