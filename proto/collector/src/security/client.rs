//! The consumer's side: a channel to a collector, encrypted where the URL says so.

use super::tls::provider;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{
    Status,
    transport::{Channel, Endpoint, Uri},
};

/// Whom to trust and who we are, all in PEM.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    /// Who vouches for the collector.
    pub ca: PathBuf,
    /// Our certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What TLS said against a connection, whenever it said it: with TLS 1.3 a client finds out only with its first request
/// that the server does not take its certificate, and the library shows that as a broken connection.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<Mutex<Option<String>>>);

impl Verdict {
    /// The status of a request, or what TLS said behind it.
    pub fn judge(&self, status: Status) -> Status {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            Some(said) => Status::unauthenticated(format!(
                "TLS: {said}; check that each side trusts the authority behind the other's certificate, and that none has expired"
            )),
            None => status,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only refusals of certificates are of concern, and rustls adds errors"
    )]
    fn record(&self, error: &io::Error) {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return;
        };
        match error {
            rustls::Error::AlertReceived(_) | rustls::Error::InvalidCertificate(_) => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            _ => {}
        }
    }
}

/// Connects. With `https` in the URL by TLS, and with nothing else when there are files.
///
/// # Errors
/// The files are of no use, nobody answers, or the two do not trust each other.
pub async fn connect(endpoint: &Endpoint, files: Option<&ClientFiles>) -> Result<(Channel, Verdict), Status> {
    let encrypted = endpoint.uri().scheme_str() == Some("https");
    let verdict = Verdict::default();
    let channel = match (encrypted, files) {
        (false, None) => endpoint.connect().await,
        (false, Some(_)) => {
            let message = "certificates are given, but the URL says http; write https";
            return Err(Status::invalid_argument(message));
        }
        (true, None) => {
            let message = "the URL says https; give --ca, --cert and --key";
            return Err(Status::invalid_argument(message));
        }
        (true, Some(files)) => {
            let config = Arc::new(config(files).map_err(Status::invalid_argument)?);
            let heard = verdict.clone();
            let connector = tower::service_fn(move |uri: Uri| connect_tls(uri, Arc::clone(&config), heard.clone()));
            endpoint.connect_with_connector(connector).await
        }
    };
    match channel {
        Ok(channel) => Ok((channel, verdict)),
        Err(error) => {
            let mut innermost: &dyn Error = &error;
            while let Some(source) = innermost.source() {
                innermost = source;
            }
            Err(verdict.judge(Status::unavailable(format!("cannot connect: {innermost}"))))
        }
    }
}

fn config(files: &ClientFiles) -> Result<ClientConfig, String> {
    let bad = |path: &Path, error: &dyn std::fmt::Display| format!("cannot use {}: {error}", path.display());
    let certificates = |path: &Path| -> Result<Vec<_>, String> {
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
        certificates.map_err(|error| bad(path, &error))
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&files.ca)? {
        roots.add(certificate).map_err(|error| bad(&files.ca, &error))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key, &error))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(&files.certificate)?, key)
        .map_err(|error| bad(&files.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn connect_tls(uri: Uri, config: Arc<ClientConfig>, verdict: Verdict) -> io::Result<TokioIo<Heard>> {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
    let tcp = TcpStream::connect((bare, uri.port_u16().unwrap_or(443))).await?;
    tcp.set_nodelay(true)?;
    let connecting = TlsConnector::from(config).connect(name, tcp).await;
    let stream = connecting.inspect_err(|error| verdict.record(error))?;
    Ok(TokioIo::new(Heard { stream, verdict }))
}

/// A connection whose last words are kept.
struct Heard {
    stream: TlsStream<TcpStream>,
    verdict: Verdict,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        Poll::Ready(read.inspect_err(|error| self.verdict.record(error)))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
