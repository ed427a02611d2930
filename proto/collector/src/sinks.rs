//! Sinks: what is stored goes on to other systems, to each at its own pace from a cursor of its own.
//!
//! A sink is a consumer inside of the collector. What it was given is asked for again until it took it, then its
//! position moves on; so after a crash some entries come again, and none is left out. One that is down delays itself.

use crate::{
    collector::stopped,
    filter::Filter,
    metrics::Metrics,
    store::{AlertLog, Page, ReadLimit},
};
use anyhow::Context as _;
use prost::Message as _;
use staghound_proto::v1::{Entry, Item};
use std::{str::FromStr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

mod cef;
mod http;
mod ocsf;
mod otlp;
mod syslog;

const ENTRIES_MAX: usize = 256;
const BYTES_MAX: usize = 1 << 20;
const SCANNED_MAX: usize = 8192;
/// How long a sink may take for what it is given.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
const NAME_BYTES_MAX: usize = 64;

/// What to send where, as in `--sink NAME=KIND:TARGET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// Its position is kept under this name.
    pub name: String,
    /// Where to.
    pub target: Target,
}

/// Where a sink sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// OCSF Detection Findings as JSON lines to a file, or to standard output for `-`.
    Ocsf(String),
    /// Syslog (RFC 5424, octet counting) with CEF over TCP, to host and port.
    SyslogTcp(String),
    /// The same over TLS; the file vouches for the receiver.
    SyslogTls {
        /// Host and port.
        address: String,
        /// Certificates in PEM.
        ca: String,
    },
    /// OTLP logs over gRPC.
    Otlp(String),
    /// HTTP POST of JSON, signed with the secret in a file.
    Webhook {
        /// Where to, `http://` or `https://`.
        url: String,
        /// File with the secret.
        secret: Option<String>,
        /// Certificates in PEM that vouch for the receiver.
        ca: Option<String>,
    },
}

impl FromStr for SinkConfig {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usage = "write NAME=ocsf:FILE, NAME=syslog+tcp:HOST:PORT, NAME=syslog+tls:HOST:PORT,ca=FILE, NAME=otlp:URL or NAME=webhook:URL,secret=FILE,ca=FILE";
        let (name, rest) = text.split_once('=').ok_or(usage)?;
        let charset = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(charset) {
            return Err(format!(
                "{name:?} is no name of 1 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ -; {usage}"
            ));
        }
        let (kind, rest) = rest.split_once(':').ok_or(usage)?;
        let mut parts = rest.split(',');
        let target = parts
            .next()
            .filter(|target| !target.is_empty())
            .ok_or(usage)?
            .to_owned();
        let (mut ca, mut secret) = (None, None);
        for part in parts {
            match part.split_once('=') {
                Some(("ca", file)) => ca = Some(file.to_owned()),
                Some(("secret", file)) => secret = Some(file.to_owned()),
                Some(_) | None => return Err(format!("{part:?} is no option of a sink; {usage}")),
            }
        }
        let target = match (kind, ca, secret) {
            ("ocsf", None, None) => Target::Ocsf(target),
            ("syslog+tcp", None, None) => Target::SyslogTcp(target),
            ("syslog+tls", Some(ca), None) => Target::SyslogTls { address: target, ca },
            ("otlp", None, None) => Target::Otlp(target),
            ("webhook", ca, secret) => Target::Webhook {
                url: target,
                secret,
                ca,
            },
            (_, _, _) => return Err(usage.to_owned()),
        };
        Ok(Self {
            name: name.to_owned(),
            target,
        })
    }
}

/// Takes entries; all or, with an error, to be given again.
#[async_trait::async_trait]
trait Sink: Send {
    async fn deliver(&mut self, entries: &[Entry]) -> anyhow::Result<()>;
}

fn open(target: &Target) -> anyhow::Result<Box<dyn Sink>> {
    Ok(match target {
        Target::Ocsf(path) => Box::new(ocsf::Lines::new(path)),
        Target::SyslogTcp(address) => Box::new(syslog::Syslog::tcp(address)),
        Target::SyslogTls { address, ca } => Box::new(syslog::Syslog::tls(address, ca)?),
        Target::Otlp(url) => Box::new(otlp::Otlp::new(url)?),
        Target::Webhook { url, secret, ca } => Box::new(http::Webhook::new(url, secret.as_deref(), ca.as_deref())?),
    })
}

/// A sink that is checked and can run.
pub(crate) struct Running {
    name: String,
    sink: Box<dyn Sink>,
    store: Arc<dyn AlertLog>,
    metrics: Arc<Metrics>,
}

impl Running {
    /// Checks what can be checked without the receiver.
    pub(crate) fn new(config: &SinkConfig, store: Arc<dyn AlertLog>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let sink = open(&config.target).with_context(|| format!("sink {} cannot be used", config.name))?;
        Ok(Self {
            name: config.name.clone(),
            sink,
            store,
            metrics,
        })
    }

    /// Delivers until the collector stops.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let position = format!("sink:{}", self.name);
        let mut newest = self.store.next();
        let mut backoff = BACKOFF_FIRST;
        let mut next = None;
        loop {
            let step = async {
                let from = match next {
                    Some(next) => next,
                    None => self.store.position(&position).await?.unwrap_or(1),
                };
                next = Some(from);
                let end = *newest.borrow_and_update();
                self.metrics.sink_lag(&self.name, end.saturating_sub(from));
                if from >= end {
                    let mut stopping = stopping.clone();
                    tokio::select! {
                        // The store lives longer than its sinks.
                        changed = newest.changed() => drop(changed),
                        () = stopped(&mut stopping) => {}
                    }
                    return anyhow::Ok(());
                }
                let limit = ReadLimit {
                    entries: ENTRIES_MAX,
                    bytes: BYTES_MAX,
                    scanned: SCANNED_MAX,
                };
                let page = self.store.read(from, limit, Arc::new(Filter::default())).await?;
                if page.lost_before {
                    self.metrics.sink_lost(&self.name);
                    tracing::warn!(sink = self.name, "entries were removed before the sink took them");
                }
                let after = page.next;
                let entries = entries(page)?;
                let delivered = timeout(DELIVERY_TIMEOUT, self.sink.deliver(&entries)).await;
                delivered.context("it took too long")??;
                self.metrics.sink_sent(&self.name, entries.len());
                next = Some(after);
                self.store.keep_position(&position, after).await?;
                Ok(())
            };
            // What was begun is ended, so that an orderly end repeats nothing.
            let done = step.await;
            if *stopping.borrow() {
                return;
            }
            match done {
                Ok(()) => backoff = BACKOFF_FIRST,
                Err(error) => {
                    if backoff == BACKOFF_FIRST {
                        tracing::warn!(sink = self.name, error = ?format!("{error:#}"), "sink does not take what it is given; trying again");
                    }
                    self.metrics.sink_failed(&self.name);
                    tokio::select! {
                        () = sleep(backoff) => {}
                        () = stopped(&mut stopping) => return,
                    }
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }
}

fn entries(page: Page) -> anyhow::Result<Vec<Entry>> {
    let entry = |stored: crate::store::Stored| {
        Ok(Entry {
            cursor: String::new(),
            agent_id: String::from(&*stored.agent_id),
            epoch: String::from(&*stored.epoch),
            sequence: stored.sequence,
            ingest_time: stored.ingest_time,
            item: Some(Item::decode(stored.item).context("a stored entry is damaged")?),
        })
    };
    page.entries.into_iter().map(entry).collect()
}

/// Identity of an entry as one text: agent, epoch, sequence.
fn identity(entry: &Entry) -> String {
    format!("{}/{}/{}", entry.agent_id, entry.epoch, entry.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sinks_are_told_by_one_text() {
        let parse = |text: &str| text.parse::<SinkConfig>().map(|sink| sink.target);
        assert_eq!(
            parse("a=ocsf:/var/x.jsonl"),
            Ok(Target::Ocsf("/var/x.jsonl".to_owned()))
        );
        assert_eq!(
            parse("a=syslog+tcp:[::1]:514"),
            Ok(Target::SyslogTcp("[::1]:514".to_owned()))
        );
        let tls = Target::SyslogTls {
            address: "h:6514".to_owned(),
            ca: "ca.pem".to_owned(),
        };
        assert_eq!(parse("a=syslog+tls:h:6514,ca=ca.pem"), Ok(tls));
        let webhook = Target::Webhook {
            url: "https://h/x?a=b".to_owned(),
            secret: Some("s".to_owned()),
            ca: None,
        };
        assert_eq!(parse("a=webhook:https://h/x?a=b,secret=s"), Ok(webhook));
        for bad in [
            "",
            "a",
            "a=",
            "a=ocsf:",
            "=ocsf:x",
            "a b=ocsf:x",
            "a=kafka:x",
            "a=syslog+tls:h:1",
            "a=ocsf:x,ca=y",
            "a=otlp:u,z=1",
        ] {
            assert!(parse(bad).unwrap_err().contains("write NAME="), "{bad}");
        }
    }
}
