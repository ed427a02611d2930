//! Webhook: HTTP POST of entries as JSON, signed so that the receiver knows who sent it and when.
//!
//! The request is so simple that a client of a library would be most of the code that runs.

use super::{Sink, syslog};
use anyhow::{Context as _, bail};
use hmac::{Hmac, Mac as _};
use rustls::{ClientConfig, pki_types::ServerName};
use sha2::Sha256;
use staghound_proto::{json, v1::Entry};
use std::{
    fs,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::Uri;

/// Most that is read of an answer; only its first line matters.
const ANSWER_BYTES_MAX: usize = 16 << 10;

pub(super) struct Webhook {
    host: String,
    port: u16,
    path: String,
    tls: Option<Arc<ClientConfig>>,
    secret: Option<Vec<u8>>,
}

impl Webhook {
    pub(super) fn new(url: &str, secret: Option<&str>, ca: Option<&str>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        let host = uri.host().with_context(|| format!("{url:?} names no host"))?.to_owned();
        let tls = match (uri.scheme_str(), ca) {
            (Some("https"), Some(ca)) => Some(syslog::client(ca)?),
            (Some("https"), None) => bail!("{url:?} needs ca=FILE, who vouches for the receiver"),
            (Some("http"), None) => None,
            (_, _) => bail!("{url:?} is neither https:// with ca=FILE nor http:// without"),
        };
        let secret = match secret {
            Some(path) => {
                let secret = fs::read_to_string(path).with_context(|| format!("cannot read the secret in {path}"))?;
                let secret = secret.trim_end_matches(['\r', '\n']).as_bytes().to_vec();
                if secret.is_empty() {
                    bail!("the secret in {path} is empty");
                }
                Some(secret)
            }
            None => None,
        };
        Ok(Self {
            host,
            port: uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 }),
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            tls,
            secret,
        })
    }

    fn request(&self, entries: &[Entry], now_s: u64) -> String {
        let bodies: Vec<_> = entries.iter().map(json::to_string).collect();
        let body = format!("{{\"entries\":[{}]}}", bodies.join(","));
        let first = entries.first().map(super::identity).unwrap_or_default();
        let signature = self.secret.as_ref().map(|secret| {
            let signature = sign(secret, &format!("{now_s}.{body}"));
            format!("X-Staghound-Signature: sha256={signature}\r\n")
        });
        format!(
            "POST {} HTTP/1.1\r\nHost: {}:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\nUser-Agent: staghound-collector/{}\r\nIdempotency-Key: {first}\r\nX-Staghound-Timestamp: {now_s}\r\n{}\r\n{body}",
            self.path,
            self.host,
            self.port,
            body.len(),
            env!("CARGO_PKG_VERSION"),
            signature.unwrap_or_default(),
        )
    }
}

/// HMAC-SHA256 in hexadecimal.
fn sign(secret: &[u8], text: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> anyhow::Result<u16> {
    stream
        .write_all(request.as_bytes())
        .await
        .context("the connection broke")?;
    let mut answer = Vec::new();
    loop {
        let line = answer.iter().position(|byte| *byte == b'\n');
        if let Some(end) = line {
            let line = String::from_utf8_lossy(&answer[..end]);
            let mut words = line.split_ascii_whitespace();
            let version = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
            let status = words.next().and_then(|status| status.parse().ok()).filter(|_| version);
            return status.context("the answer is not HTTP");
        }
        let read = stream.read_buf(&mut answer).await.context("the connection broke")?;
        if read == 0 || answer.len() > ANSWER_BYTES_MAX {
            bail!("no answer came");
        }
    }
}

#[async_trait::async_trait]
impl Sink for Webhook {
    async fn deliver(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let request = self.request(entries, now.as_secs());
        let bare = self.host.trim_matches(['[', ']']);
        let tcp = TcpStream::connect((bare, self.port)).await;
        let tcp = tcp.with_context(|| format!("cannot connect to {}:{}", self.host, self.port))?;
        let status = match &self.tls {
            None => exchange(tcp, &request).await?,
            Some(tls) => {
                let name = ServerName::try_from(bare.to_owned()).context("no name of a host")?;
                let stream = TlsConnector::from(Arc::clone(tls)).connect(name, tcp).await;
                exchange(
                    stream.with_context(|| format!("TLS with {} failed", self.host))?,
                    &request,
                )
                .await?
            }
        };
        match status {
            200..300 => Ok(()),
            status => bail!("the receiver answered {status}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures() {
        // RFC 4231, test case 2.
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(sign(b"Jefe", "what do ya want for nothing?"), expected);
    }
}
