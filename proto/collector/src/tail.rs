//! A feed client for people: prints alerts as text or JSON, and goes on where it was after a lost connection.

use crate::{
    cli::{Output, TailArgs},
    security::client::{self, ClientFiles},
};
use anyhow::{Context as _, bail};
use staghound_proto::{
    json, text,
    v1::{
        Edge, Entry, Filter, Severity, Start, SubscribeRequest, feed_service_client::FeedServiceClient, item, start,
        subscribe_request, subscribe_response,
    },
};
use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Endpoint};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Without a word for so long the connection is taken for dead; heartbeats come every 5 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(20);
const MESSAGE_BYTES_MAX: usize = 16 << 20;
const CURSOR_BYTES_MAX: u64 = 1024;

/// Prints what comes until the count or the time is reached, or the reader of the output goes away.
pub(crate) async fn run(args: TailArgs) -> anyhow::Result<()> {
    let time = args.timeout.map_or(Duration::MAX, Duration::from_secs);
    let mut tail = Tail::new(args)?;
    match tokio::time::timeout(time, tail.follow()).await {
        Ok(result) => result,
        Err(_) => match tail.args.count {
            Some(count) => bail!(
                "timeout: {} of {count} entries came from {}; {}",
                tail.printed,
                tail.args.url,
                tail.trouble
                    .as_deref()
                    .unwrap_or("check the filters, or wait longer with --timeout")
            ),
            None => Ok(()),
        },
    }
}

struct Tail {
    args: TailArgs,
    endpoint: Endpoint,
    files: Option<ClientFiles>,
    position: start::Position,
    colour: bool,
    printed: u64,
    /// What went wrong last, until something works.
    trouble: Option<String>,
}

/// How a connection ended.
enum Ended {
    /// All that was asked for is printed, or nobody reads it.
    Done,
    /// Try again.
    Lost { status: Status, received: bool },
}

impl Tail {
    fn new(args: TailArgs) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(args.url.clone())
            .with_context(|| format!("{:?} is not a URL; write it as http://127.0.0.1:50051", args.url))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let files = match (&args.ca, &args.cert, &args.key) {
            (Some(ca), Some(certificate), Some(key)) => Some(ClientFiles {
                ca: ca.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (_, _, _) => None,
        };
        let stored = args.cursor_file.as_deref().map(read_cursor).transpose()?.flatten();
        let position = match stored.as_deref().unwrap_or(&args.from) {
            "earliest" => start::Position::Edge(Edge::Earliest.into()),
            "latest" => start::Position::Edge(Edge::Latest.into()),
            cursor => start::Position::Cursor(cursor.to_owned()),
        };
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = io::stdout().is_terminal() && !no_colour;
        Ok(Self {
            args,
            endpoint,
            files,
            position,
            colour,
            printed: 0,
            trouble: None,
        })
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut backoff = BACKOFF_FIRST;
        loop {
            if self.args.count == Some(self.printed) {
                return Ok(());
            }
            match self.connection().await? {
                Ended::Done => return Ok(()),
                Ended::Lost { status, received } => {
                    if matches!(
                        status.code(),
                        Code::InvalidArgument | Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
                    ) {
                        bail!("{} refused: {}", self.args.url, text::escape(status.message()));
                    }
                    if received {
                        backoff = BACKOFF_FIRST;
                    }
                    let trouble = format!("{} is not serving: {}", self.args.url, text::escape(status.message()));
                    if self.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!("{trouble}; trying again");
                    }
                    self.trouble = Some(trouble);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    async fn connection(&mut self) -> anyhow::Result<Ended> {
        let mut received = false;
        let lost = |status, received| Ok(Ended::Lost { status, received });
        let (channel, verdict) = match client::connect(&self.endpoint, self.files.as_ref()).await {
            Ok(connected) => connected,
            Err(status) => return lost(status, received),
        };
        let start = Start {
            position: Some(self.position.clone()),
            filter: Some(self.filter()),
            ..Start::default()
        };
        // The sender stays open: an ended request stream would be a subscriber that grants no more credit.
        let (requests, receiver) = mpsc::channel(1);
        let start = SubscribeRequest {
            phase: Some(subscribe_request::Phase::Start(start)),
        };
        requests.try_send(start).context("a new channel has room")?;
        let mut client = FeedServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut stream = match client.subscribe(ReceiverStream::new(receiver)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return lost(verdict.judge(status), received),
        };
        loop {
            let response = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Err(_) => return lost(Status::unavailable("no heartbeat came"), received),
                Ok(Err(status)) => return lost(verdict.judge(status), received),
                Ok(Ok(None)) => return lost(Status::unavailable("the stream ended"), received),
                Ok(Ok(Some(response))) => response,
            };
            received = true;
            self.trouble = None;
            match response.phase {
                Some(subscribe_response::Phase::Entries(entries)) => {
                    warn_loss(entries.lost_before);
                    if !self.print(&entries.entries)? || self.args.count == Some(self.printed) {
                        return Ok(Ended::Done);
                    }
                }
                Some(subscribe_response::Phase::Heartbeat(heartbeat)) => {
                    warn_loss(heartbeat.lost_before);
                    self.advance(heartbeat.cursor)?;
                }
                None => {}
            }
        }
    }

    fn filter(&self) -> Filter {
        Filter {
            min_severity: self
                .args
                .min_severity
                .map_or(Severity::Unspecified, Severity::from)
                .into(),
            techniques: self.args.technique.clone(),
            rule_ids: self.args.rule.clone(),
            hosts: self.args.host.clone(),
            run_ids: self.args.run.clone(),
            namespaces: self.args.namespace.clone(),
            expression: self.args.expression.clone().unwrap_or_default(),
            alerts_only: self.args.alerts_only,
        }
    }

    /// Prints entries up to the count. False: nobody reads the output any more.
    fn print(&mut self, entries: &[Entry]) -> anyhow::Result<bool> {
        let left = self.args.count.map_or(usize::MAX, |count| {
            usize::try_from(count - self.printed).unwrap_or(usize::MAX)
        });
        let mut printed = String::new();
        let mut cursor = None;
        for entry in entries.iter().take(left) {
            match self.args.output {
                Output::Text => printed.push_str(&text::entry(entry, self.colour)),
                Output::Json => {
                    printed.push_str(&line(entry));
                    printed.push('\n');
                }
            }
            self.printed += 1;
            cursor = Some(&entry.cursor);
        }
        let mut out = io::stdout().lock();
        match out.write_all(printed.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(error).context("cannot write to standard output"),
        }
        // After the output, so that a crash repeats entries instead of losing them.
        if let Some(cursor) = cursor {
            self.advance(cursor.clone())?;
        }
        Ok(true)
    }

    fn advance(&mut self, cursor: String) -> anyhow::Result<()> {
        if let Some(path) = &self.args.cursor_file {
            write_atomically(path, &format!("{cursor}\n")).with_context(|| {
                format!(
                    "cannot keep the cursor in {}; check that its directory is writable",
                    path.display()
                )
            })?;
        }
        self.position = start::Position::Cursor(cursor);
        Ok(())
    }
}

fn warn_loss(lost_before: bool) {
    if lost_before {
        tracing::warn!("entries before the next one were removed by retention before they could be read");
    }
}

fn read_cursor(path: &Path) -> anyhow::Result<Option<String>> {
    let context = || {
        format!(
            "cannot read the cursor file {}; check its permissions or remove it",
            path.display()
        )
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > CURSOR_BYTES_MAX => {
            bail!("{} is no cursor file; give another --cursor-file", path.display())
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(context),
    }
    let cursor = fs::read_to_string(path).with_context(context)?.trim().to_owned();
    Ok((!cursor.is_empty()).then_some(cursor))
}

/// Writes a small file so that a crash leaves the old or the new content.
pub(crate) fn write_atomically(path: &Path, content: &str) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}

/// One line of canonical JSON: the alert itself, or the whole entry for gaps and run records.
fn line(entry: &Entry) -> String {
    match entry.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(item::Kind::Alert(alert)) => json::to_string(alert),
        Some(item::Kind::Gap(_) | item::Kind::Run(_)) | None => json::to_string(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_proto::v1::{Alert, Item, RunRecord};

    #[test]
    fn alerts_are_json_alerts_and_the_rest_entries() {
        let entry = |kind| Entry {
            agent_id: "a".to_owned(),
            item: Some(Item { kind: Some(kind) }),
            ..Entry::default()
        };
        let alert = Alert {
            message: "m".to_owned(),
            ..Alert::default()
        };
        let run = item::Kind::Run(RunRecord::default());
        assert_eq!(line(&entry(item::Kind::Alert(alert))), r#"{"message":"m"}"#);
        assert_eq!(line(&entry(run)), r#"{"agentId":"a","item":{"run":{}}}"#);
    }
}
