use super::*;
use crate::spool::SpoolConfig;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

/// An authority that makes certificates.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key for these names.
    fn certify(&self, names: Vec<SanType>) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn agent(&self, directory: &Path) {
        let uri = SanType::URI("staghound://agent/agent-1".try_into().unwrap());
        let (certificate, key) = self.certify(vec![uri]);
        std::fs::write(directory.join("agent.pem"), certificate).unwrap();
        std::fs::write(directory.join("agent.key"), key).unwrap();
    }
}

fn tls(directory: &Path) -> config::Tls {
    config::Tls {
        ca: Some(directory.join("ca.pem")),
        certificate: Some(directory.join("agent.pem")),
        key: Some(directory.join("agent.key")),
        server_name: None,
    }
}

/// A server's end of a connection.
struct Accepted(TlsStream<TcpStream>);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Serves as `127.0.0.1` by a certificate of `own`, to those that have one of `clients`.
async fn serve(collector: &Collector, own: &Authority, clients: &Authority) -> SocketAddr {
    let (certificate, key) = own.certify(vec![SanType::IpAddress([127, 0, 0, 1].into())]);
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .unwrap();
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, incoming) = mpsc::channel::<std::io::Result<Accepted>>(10);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // Who has no certificate that is liked is told so, and gone.
            if let Ok(stream) = acceptor.accept(socket).await {
                drop(accepted.send(Ok(Accepted(stream))).await);
            }
        }
    });
    let service = collector.service();
    tokio::spawn(async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(incoming))
            .await
            .unwrap();
    });
    address
}

/// An agent whose certificate is of `own` and who trusts `ca`.
fn agent(own: &Authority, ca: &Authority) -> Agent {
    let mut agent = Agent::new(SpoolConfig::default());
    std::fs::write(agent.directory.path().join("ca.pem"), &ca.pem).unwrap();
    own.agent(agent.directory.path());
    agent.tls = tls(agent.directory.path());
    agent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_loss() {
    let authority = Authority::new();
    let collector = Collector::new(POLITE);
    let address = serve(&collector, &authority, &authority).await;
    let mut agent = agent(&authority, &authority);
    agent.append(1..=50);
    agent.export(&[&format!("https://{address}")]);
    collector.until(|store| store.durable == 50).await;
    // A half that does not fit, then the other half.
    let directory = agent.directory.path().to_owned();
    let other = Authority::new();
    other.agent(&directory);
    std::fs::write(directory.join("agent.key"), "no key").unwrap();
    agent.append(51..=60);
    collector.until(|store| store.durable == 60).await;
    authority.agent(&directory);
    collector.until(|store| store.hellos.len() == 2).await;
    agent.append(61..=100);
    let metrics = agent.metrics.export.clone();
    assert_eq!(agent.drained().await, Drained { unacked: 0 });
    let store = collector.store.borrow().clone();
    assert_eq!((store.received, store.violations), (items(1..=100), vec![]));
    assert_eq!((metrics.refusals.get(), metrics.failures.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_believed_is_told_apart_from_a_broken_network() {
    let (good, other) = (Authority::new(), Authority::new());
    for (own, clients, part) in [
        (&good, &other, "the collector refused this agent's certificate"),
        (&other, &good, "the collector's certificate is not accepted"),
    ] {
        let collector = Collector::new(POLITE);
        let address = serve(&collector, own, clients).await;
        let mut agent = agent(&good, &good);
        agent.append(1..=5);
        let url: CollectorUrl = format!("https://{address}").parse().unwrap();
        let (_, ruleset_digest) = watch::channel(String::new());
        let introduction = Introduction {
            ruleset_digest,
            ..introduction()
        };
        let mut exporter = Exporter::new(
            vec![url.clone()],
            quick(),
            &agent.tls,
            introduction,
            agent.spool.reader(),
            agent.metrics.export.clone(),
        )
        .unwrap();
        for _ in 0..20 {
            let why = exporter.connection(&url, Compression::None).await.why.unwrap_err();
            assert!(
                matches!(&why, Lost::Unauthenticated(told) if told.contains(part)),
                "{why}"
            );
        }
        // And with the exporter as it runs.
        agent.export_with(
            &[&url.to_string()],
            config::Export {
                drain_timeout: Duration::from_millis(200),
                ..quick()
            },
        );
        let metrics = agent.metrics.export.clone();
        assert_eq!(agent.drained().await, Drained { unacked: 5 });
        assert!(metrics.refusals.get() > 0 && metrics.refusals.get() == metrics.failures.get());
        assert_eq!(collector.store.borrow().hellos.len(), 0);
    }
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let authority = Authority::new();
    let error = |tls: &config::Tls| Credentials::load(tls).err().unwrap().to_string();
    assert!(error(&tls(path)).starts_with(&format!("tls.ca {}: ", path.join("ca.pem").display())));
    std::fs::write(path.join("ca.pem"), "nothing").unwrap();
    assert!(error(&tls(path)).ends_with("holds no certificate; name a readable PEM file"));
    std::fs::write(path.join("ca.pem"), &authority.pem).unwrap();
    authority.agent(path);
    assert!(Credentials::load(&tls(path)).is_ok());
    std::fs::write(path.join("agent.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(error(&tls(path)).starts_with("tls: ") && error(&tls(path)).contains("; use a certificate and the key"));
    authority.agent(path);
    let named = config::Tls {
        server_name: Some("\x1b[2J".to_owned()),
        ..tls(path)
    };
    assert!(error(&named).starts_with("tls.server_name `\\u{1b}[2J` is no host name"));
}
