//! A feed client for people: prints alerts as text or JSON, and goes on where it was after a lost connection.

use crate::cli::{Output, TailArgs};
use anyhow::{Context as _, bail};
use prost_types::Timestamp;
use staghound_proto::{
    json,
    v1::{
        Alert, Edge, Entry, Filter, Gap, ObservationGap, Process, RunRecord, SequenceGap, Severity, Start,
        SubscribeRequest, Verdict, feed_service_client::FeedServiceClient, gap, item, start, subscribe_request,
        subscribe_response,
    },
};
use std::{
    fmt::Write as _,
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
                        bail!("{} refused: {}", self.args.url, escape(status.message()));
                    }
                    if received {
                        backoff = BACKOFF_FIRST;
                    }
                    let trouble = format!("{} is not serving: {}", self.args.url, escape(status.message()));
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
        let channel = match self.endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => {
                let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                return lost(Status::unavailable(format!("cannot connect: {reason}")), received);
            }
        };
        let start = Start {
            position: Some(self.position.clone()),
            filter: Some(self.filter()),
            window: 0,
            heartbeat_interval_s: 0,
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
            Err(status) => return lost(status, received),
        };
        loop {
            let response = match tokio::time::timeout(SILENCE_MAX, stream.message()).await {
                Err(_) => return lost(Status::unavailable("no heartbeat came"), received),
                Ok(Err(status)) => return lost(status, received),
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
            alerts_only: self.args.alerts_only,
        }
    }

    /// Prints entries up to the count. False: nobody reads the output any more.
    fn print(&mut self, entries: &[Entry]) -> anyhow::Result<bool> {
        let left = self.args.count.map_or(usize::MAX, |count| {
            usize::try_from(count - self.printed).unwrap_or(usize::MAX)
        });
        let mut text = String::new();
        let mut cursor = None;
        for entry in entries.iter().take(left) {
            match self.args.output {
                Output::Text => text.push_str(&render(entry, self.colour)),
                Output::Json => {
                    text.push_str(&line(entry));
                    text.push('\n');
                }
            }
            self.printed += 1;
            cursor = Some(&entry.cursor);
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
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

const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// Text for people, every value escaped.
fn render(entry: &Entry, colour: bool) -> String {
    match entry.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(item::Kind::Alert(alert)) => render_alert(alert, colour),
        Some(item::Kind::Gap(gap)) => render_gap(entry, gap, colour),
        Some(item::Kind::Run(run)) => render_run(entry, run),
        None => format!(
            "{}  item of a kind this version does not know; update staghound-collector\n",
            time(entry.ingest_time)
        ),
    }
}

fn render_alert(alert: &Alert, colour: bool) -> String {
    let (name, paint) = match alert.severity() {
        Severity::Critical => ("CRITICAL", "\u{1b}[1;97;41m"),
        Severity::High => ("HIGH", "\u{1b}[1;31m"),
        Severity::Medium => ("MEDIUM", "\u{1b}[33m"),
        Severity::Low => ("LOW", "\u{1b}[36m"),
        Severity::Informational => ("INFO", "\u{1b}[34m"),
        Severity::Unspecified => ("UNKNOWN", ""),
    };
    let style = |code: &'static str| if colour { code } else { "" };
    let techniques: Vec<_> = alert.techniques.iter().map(|technique| escape(&technique.id)).collect();
    let rule = alert.rule.as_ref();
    let mut text = format!(
        "{}  {}{name:8}{}  {:11}  {}{}{}\n",
        time(alert.event_time),
        style(paint),
        style(RESET),
        if techniques.is_empty() {
            "-".to_owned()
        } else {
            techniques.join(",")
        },
        style(BOLD),
        escape(rule.map_or("-", |rule| &rule.id)),
        style(RESET),
    );
    let mut detail = |label: &str, value: &str| {
        if !value.is_empty() {
            writeln!(text, "    {}{label:8}{} {}", style(DIM), style(RESET), escape(value))
                .expect("writing into a string cannot fail");
        }
    };
    detail("message", &alert.message);
    let chain: Vec<_> = alert.process.iter().chain(&alert.ancestors).map(process).collect();
    detail("process", &chain.join(" ← "));
    if let Some(process) = &alert.process {
        detail("command", &process.args.join(" "));
        if let Some(credentials) = &process.credentials {
            let user = if credentials.user.is_empty() {
                "uid"
            } else {
                credentials.user.as_str()
            };
            detail("user", &format!("{user} ({})", credentials.euid));
        }
    }
    let host = alert.host.as_ref().map_or("", |host| &host.name);
    match &alert.container {
        Some(container) => {
            let pod = [
                &container.pod_namespace,
                &container.pod_name,
                &container.image,
                &container.id,
            ];
            let pod: Vec<_> = pod
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(String::as_str)
                .collect();
            detail("host", &format!("{host}, container {}", pod.join(" ")));
        }
        None => detail("host", host),
    }
    detail("run", &alert.run_id);
    if alert.count > 1 {
        detail("count", &alert.count.to_string());
    }
    for response in &alert.responses {
        detail("response", &format!("{}: {}", response.action, response.outcome));
    }
    detail("fix", rule.map_or("", |rule| &rule.remediation));
    text
}

fn process(process: &Process) -> String {
    let name = if process.name.is_empty() {
        process.executable.rsplit('/').next().unwrap_or("")
    } else {
        &process.name
    };
    format!("{}({})", if name.is_empty() { "?" } else { name }, process.pid)
}

fn render_gap(entry: &Entry, gap: &Gap, colour: bool) -> String {
    let what = match &gap.kind {
        Some(gap::Kind::Sequence(gap)) => describe_lost(gap),
        Some(gap::Kind::Observation(gap)) => describe_unseen(gap),
        None => "something is missing".to_owned(),
    };
    let (paint, reset) = if colour { ("\u{1b}[35m", RESET) } else { ("", "") };
    format!(
        "{}  {paint}GAP     {reset}  {}: {}\n",
        time(entry.ingest_time),
        escape(&entry.agent_id),
        escape(&what)
    )
}

fn describe_lost(gap: &SequenceGap) -> String {
    let count = gap.to.saturating_sub(gap.from).saturating_add(1);
    format!(
        "{count} items lost, sequence {} to {} ({})",
        gap.from,
        gap.to,
        reason(gap.reason().as_str_name())
    )
}

fn describe_unseen(gap: &ObservationGap) -> String {
    let count = if gap.count == 0 {
        "an unknown number of".to_owned()
    } else {
        gap.count.to_string()
    };
    let hook = if gap.hook.is_empty() { "all hooks" } else { &gap.hook };
    let reason = reason(gap.reason().as_str_name());
    format!(
        "{count} events not seen at {hook} from {} to {} ({reason})",
        time(gap.from),
        time(gap.to)
    )
}

/// `GAP_REASON_RING_FULL` → `ring full`.
fn reason(name: &str) -> String {
    name.trim_start_matches("GAP_REASON_")
        .to_ascii_lowercase()
        .replace('_', " ")
}

fn render_run(entry: &Entry, run: &RunRecord) -> String {
    let command: String = run.command.join(" ");
    let what = match (run.verdict(), run.exit_code) {
        (Verdict::Unspecified, None) => "started".to_owned(),
        (Verdict::Unspecified, Some(code)) => format!("finished with exit code {code}"),
        (Verdict::Pass, _) => "verdict pass".to_owned(),
        (Verdict::Fail, _) => "verdict fail".to_owned(),
        (Verdict::Inconclusive, _) => "verdict inconclusive".to_owned(),
    };
    let reasons = if run.reasons.is_empty() {
        String::new()
    } else {
        format!("; {}", run.reasons.join("; "))
    };
    let text = format!("{}: {what}: {command}{reasons}", run.run_id);
    format!(
        "{}  RUN       {}: {}\n",
        time(entry.ingest_time),
        escape(&entry.agent_id),
        escape(&text)
    )
}

fn time(timestamp: Option<Timestamp>) -> String {
    match timestamp {
        // Milliseconds are what people read; the rest is in the JSON.
        Some(Timestamp { seconds, nanos }) if (0..253_402_300_800).contains(&seconds) => {
            let milliseconds = nanos.clamp(0, 999_999_999) / 1_000_000;
            let whole = Timestamp { seconds, nanos: 0 }.to_string();
            format!("{}.{milliseconds:03}Z", whole.trim_end_matches('Z'))
        }
        Some(_) => "(time invalid)          ".to_owned(),
        None => "(time unknown)          ".to_owned(),
    }
}

/// Makes a value harmless on a terminal: controls, escapes and what turns or hides text become `\u{…}`.
fn escape(value: &str) -> String {
    let hostile = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if hostile(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use staghound_proto::v1::{GapReason, Host, Item, RuleRef, Technique};

    fn alert() -> Alert {
        let process = |name: &str, pid| Process {
            name: name.to_owned(),
            pid,
            ..Process::default()
        };
        Alert {
            event_time: Some(Timestamp {
                seconds: 1_790_000_000,
                nanos: 123_456_789,
            }),
            severity: Severity::High.into(),
            techniques: vec![Technique {
                id: "T1003.008".to_owned(),
                ..Technique::default()
            }],
            rule: Some(RuleRef {
                id: "credential-access/shadow-read".to_owned(),
                remediation: "do not".to_owned(),
                ..RuleRef::default()
            }),
            message: "cat read /etc/shadow\u{1b}[2J\n\u{202e}".to_owned(),
            process: Some(Process {
                args: vec!["cat".to_owned(), "/etc/shadow".to_owned()],
                ..process("cat", 42)
            }),
            ancestors: vec![process("sh", 41), process("systemd", 1)],
            host: Some(Host {
                name: "node-1".to_owned(),
                ..Host::default()
            }),
            ..Alert::default()
        }
    }

    fn entry(kind: item::Kind) -> Entry {
        let ingest_time = Some(Timestamp {
            seconds: 1_790_000_000,
            nanos: 0,
        });
        Entry {
            agent_id: "a".to_owned(),
            ingest_time,
            item: Some(Item { kind: Some(kind) }),
            ..Entry::default()
        }
    }

    #[test]
    fn an_alert_as_text() {
        let expected = "\
2026-09-21T14:13:20.123Z  HIGH      T1003.008    credential-access/shadow-read
    message  cat read /etc/shadow\\u{1b}[2J\\n\\u{202e}
    process  cat(42) ← sh(41) ← systemd(1)
    command  cat /etc/shadow
    host     node-1
    fix      do not
";
        assert_eq!(render(&entry(item::Kind::Alert(alert())), false), expected);
        assert!(render(&entry(item::Kind::Alert(alert())), true).contains("\u{1b}[1;31mHIGH"));
    }

    #[test]
    fn gaps_and_runs_as_text() {
        let lost = SequenceGap {
            from: 3,
            to: 7,
            reason: GapReason::SpoolOverflow.into(),
        };
        let unseen = ObservationGap {
            count: 9,
            hook: "sys_exit\u{7}".to_owned(),
            reason: GapReason::RingFull.into(),
            ..ObservationGap::default()
        };
        let run = RunRecord {
            run_id: "r".to_owned(),
            command: vec!["make".to_owned()],
            verdict: Verdict::Fail.into(),
            ..RunRecord::default()
        };
        let gap = |kind| item::Kind::Gap(Gap { kind: Some(kind) });
        let time = "2026-09-21T14:13:20.000Z";
        for (kind, expected) in [
            (
                gap(gap::Kind::Sequence(lost)),
                format!("{time}  GAP       a: 5 items lost, sequence 3 to 7 (spool overflow)\n"),
            ),
            (
                gap(gap::Kind::Observation(unseen)),
                format!(
                    "{time}  GAP       a: 9 events not seen at sys_exit\\u{{7}} from (time unknown)           to (time unknown)           (ring full)\n"
                ),
            ),
            (
                item::Kind::Run(run),
                format!("{time}  RUN       a: r: verdict fail: make\n"),
            ),
        ] {
            assert_eq!(render(&entry(kind), false), expected);
        }
    }

    #[test]
    fn alerts_are_json_alerts_and_the_rest_entries() {
        assert!(line(&entry(item::Kind::Alert(alert()))).starts_with(r#"{"eventTime":"2026-09-21"#));
        assert!(line(&entry(item::Kind::Run(RunRecord::default()))).contains(r#""item":{"run":{}}"#));
    }

    proptest! {
        #[test]
        fn no_value_reaches_the_terminal_as_a_control(value in any::<String>()) {
            let mut hostile = alert();
            hostile.message.clone_from(&value);
            hostile.run_id = value;
            let text = render(&entry(item::Kind::Alert(hostile)), false);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(text.lines().count() <= 7);
        }
    }
}
