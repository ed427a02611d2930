//! Syslog: RFC 5424 messages with CEF inside, octet-counted (RFC 6587, RFC 5425), over TCP or TLS.
//!
//! Syslog has no acknowledgements: what is in the buffers of a connection when the receiver dies is lost. So the
//! connection is looked at before each batch, and closed in good order after it, which tells whether all was taken over
//! by the receiving host.

use super::{Sink, cef};
use crate::security::tls::provider;
use anyhow::Context as _;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use staghound_proto::v1::{Entry, item};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Security and authorisation messages (RFC 5424, facility 10).
const FACILITY: u8 = 10;
/// How long a receiver may take to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Syslog {
    address: String,
    tls: Option<Arc<ClientConfig>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Syslog {
    pub(super) fn tcp(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            tls: None,
        }
    }

    pub(super) fn tls(address: &str, ca: &str) -> anyhow::Result<Self> {
        Ok(Self {
            address: address.to_owned(),
            tls: Some(client(ca)?),
        })
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect(&self.address).await;
        let tcp = tcp.with_context(|| format!("cannot connect to {}", self.address))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(tcp)) };
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).context("no name of a host")?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
        Ok(Box::new(
            stream.with_context(|| format!("TLS with {} failed", self.address))?,
        ))
    }
}

/// TLS that trusts what is in a file, for sinks.
pub(super) fn client(ca: &str) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {ca}"))? {
        roots.add(certificate.with_context(|| format!("cannot use {ca}"))?)?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[async_trait::async_trait]
impl Sink for Syslog {
    async fn deliver(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for entry in entries {
            if let Some(message) = message(entry) {
                bytes.extend_from_slice(format!("{} ", message.len()).as_bytes());
                bytes.extend_from_slice(message.as_bytes());
            }
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let mut stream = self.connect().await?;
        stream.write_all(&bytes).await.context("the connection broke")?;
        stream.shutdown().await.context("the connection broke")?;
        // The end of the other side comes after it has read all; an error says that it has not.
        let mut rest = [0; 64];
        match timeout(CLOSE_TIMEOUT, stream.read(&mut rest)).await {
            Ok(Ok(_)) => Ok(()),
            // A receiver that closes without TLS's own good-bye has read all the same.
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Ok(Err(error)) => Err(error).context("the receiver broke the connection before it had read all"),
            Err(_) => anyhow::bail!("the receiver did not close the connection"),
        }
    }
}

fn message(entry: &Entry) -> Option<String> {
    let line = cef::line(entry)?;
    let (severity, host) = match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Alert(alert) => {
            // Critical, error, warning, notice, informational.
            let severity = match cef::severity(alert) {
                10.. => 2,
                8..10 => 3,
                5..8 => 4,
                3..5 => 5,
                0..3 => 6,
            };
            (severity, alert.host.as_ref().map_or("", |host| &host.name))
        }
        item::Kind::Gap(_) | item::Kind::Run(_) => (4, entry.agent_id.as_str()),
    };
    let priority = FACILITY * 8 + severity;
    let time = entry
        .ingest_time
        .map_or_else(|| "-".to_owned(), |time| time.to_string());
    let host: String = host.chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-" } else { &host };
    // A byte order mark says that what follows is UTF-8.
    Some(format!(
        "<{priority}>1 {} {host} staghound - alert - \u{feff}{line}",
        microseconds(&time)
    ))
}

/// RFC 5424 allows six digits of a second, RFC 3339 more.
fn microseconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, fraction)) => {
            let digits: String = fraction.chars().take_while(char::is_ascii_digit).take(6).collect();
            format!("{seconds}.{digits}Z")
        }
        None => time.to_owned(),
    }
}
