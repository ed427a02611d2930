//! TLS to a collector: whom to trust, who we are, and what went wrong.
//!
//! Done here and not by the gRPC library for two reasons: files that changed are read again without a restart, and a
//! collector that refuses our certificate says so only after the handshake (TLS 1.3), where the library would show it as a
//! broken connection.

use crate::config;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or holds something else.
    #[error("{key} {}: {what}; name a readable PEM file", .path.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The files do not go together.
    #[error("tls: {0}; use a certificate and the key it was made for")]
    Mismatch(rustls::Error),
    /// The name is none.
    #[error("tls.server_name `{}` is no host name or address; write the name that the collector's certificate has", .0.escape_debug())]
    ServerName(String),
}

/// What is needed to speak TLS, as the files have it.
pub(super) struct Credentials {
    files: config::Tls,
    client: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
    /// The state of the files that was tried and is of no use.
    refused: Option<Vec<Stamp>>,
}

/// Tells whether a file is still the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(Option<(u64, i64, i64, u64)>);

impl Credentials {
    /// Reads the files.
    pub(super) fn load(files: &config::Tls) -> Result<Self, TlsError> {
        // Before reading: a change in between is then seen as one.
        let stamps = stamps(files);
        if let Some(name) = &files.server_name {
            server_name(name)?;
        }
        let mut roots = RootCertStore::empty();
        if let Some(path) = &files.ca {
            for certificate in certificates("tls.ca", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| unusable("tls.ca", path, &error))?;
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has cipher suites of TLS 1.3")
            .with_root_certificates(roots);
        let mut client = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates("tls.certificate", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable("tls.key", key, &error))?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Mismatch)?
            }
            _ => builder.with_no_client_auth(),
        };
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            files: files.clone(),
            client: Arc::new(client),
            stamps,
            refused: None,
        })
    }

    /// Reads the files again if one of them changed; true when they are new and of use. What is of no use is told once,
    /// and the old credentials stay.
    pub(super) fn reload(&mut self) -> bool {
        let now = stamps(&self.files);
        if now == self.stamps || self.refused.as_ref() == Some(&now) {
            return false;
        }
        match Self::load(&self.files) {
            Ok(loaded) => {
                tracing::info!("certificates read again");
                *self = loaded;
                true
            }
            Err(error) => {
                tracing::error!(error = %error, "changed certificates are of no use; the old ones stay");
                self.refused = Some(now);
                false
            }
        }
    }

    /// What connects by them.
    pub(super) fn connector(&self) -> Connector {
        Connector {
            client: Arc::clone(&self.client),
            server_name: self.files.server_name.clone(),
        }
    }
}

/// Makes one connection by credentials as they are now.
#[derive(Clone)]
pub(super) struct Connector {
    client: Arc<ClientConfig>,
    server_name: Option<String>,
}

impl Connector {
    /// Connects, and watches the connection for what TLS says later.
    pub(super) async fn connect(self, uri: Uri, verdict: Verdict) -> io::Result<TokioIo<Watched>> {
        let host = uri.host().unwrap_or_default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = uri.port_u16().unwrap_or(443);
        let name = server_name(self.server_name.as_deref().unwrap_or(host)).map_err(io::Error::other)?;
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let stream = TlsConnector::from(self.client)
            .connect(name, socket)
            .await
            .inspect_err(|error| verdict.record(error))?;
        Ok(TokioIo::new(Watched { stream, verdict }))
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| unusable(key, path, &error))? {
        none if none.is_empty() => Err(unusable(key, path, &"holds no certificate")),
        certificates => Ok(certificates),
    }
}

fn unusable(key: &'static str, path: &Path, what: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        key,
        path: path.to_owned(),
        what: what.to_string(),
    }
}

fn stamps(files: &config::Tls) -> Vec<Stamp> {
    let files = [&files.ca, &files.certificate, &files.key];
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len()))
    };
    files.into_iter().flatten().map(|path| Stamp(stamp(path))).collect()
}

/// What TLS said against a connection, whenever it said it.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<Mutex<Option<String>>>);

impl Verdict {
    /// The words of TLS, if it had any.
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_given(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only refusals of certificates are of concern, and rustls adds errors"
    )]
    fn record(&self, error: &io::Error) {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return;
        };
        let told = match error {
            rustls::Error::AlertReceived(alert) => {
                format!(
                    "the collector refused this agent's certificate ({alert:?}); check `tls.certificate` and its CA"
                )
            }
            rustls::Error::InvalidCertificate(why) => {
                format!("the collector's certificate is not accepted ({why}); check `tls.ca` and `tls.server_name`")
            }
            other => format!("TLS failed: {other}; is it a TLS port, and of TLS 1.3?"),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(told);
    }
}

/// A TLS connection that remembers what TLS said.
pub(super) struct Watched {
    stream: TlsStream<TcpStream>,
    verdict: Verdict,
}

impl Watched {
    /// A write failed: the other end may have said why before it went, and what it said may still be under way. A
    /// connection that is broken can be read to its end, so this waits for no more than that.
    fn ask(&mut self, context: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
        self.verdict.record(&error);
        let mut scratch = [0; 1024];
        while !self.verdict.is_given() {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if buffer.filled().is_empty() => break,
                Ok(()) => {}
                Err(told) => {
                    self.verdict.record(&told);
                    break;
                }
            }
        }
        Poll::Ready(error)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        Poll::Ready(read.inspect_err(|error| self.verdict.record(error)))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(context, bytes)) {
            Ok(written) => Poll::Ready(Ok(written)),
            Err(error) => self.ask(context, error).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_flush(context)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => self.ask(context, error).map(Err),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
