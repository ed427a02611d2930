//! Alerts and entries as text for people, every value made harmless on a terminal.

use std::fmt::Write as _;

use prost_types::Timestamp;

use crate::v1::{
    Alert, EarlierEvent, Entry, Gap, ObservationGap, Process, RunRecord, SequenceGap, Severity, Verdict, event, gap,
    item,
};

const BOLD: &str = "\u{1b}[1m";
const DIM: &str = "\u{1b}[2m";
const RESET: &str = "\u{1b}[0m";

/// Text for people, every value escaped.
pub fn entry(entry: &Entry, colour: bool) -> String {
    match entry.item.as_ref().and_then(|item| item.kind.as_ref()) {
        Some(item::Kind::Alert(alert)) => self::alert(alert, colour),
        Some(item::Kind::Gap(gap)) => render_gap(entry, gap, colour),
        Some(item::Kind::Run(run)) => render_run(entry, run),
        None => format!(
            "{}  item of a kind this version does not know; update this program\n",
            time(entry.ingest_time)
        ),
    }
}

/// An alert as text for people: a headline and details, every value escaped.
pub fn alert(alert: &Alert, colour: bool) -> String {
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
    if alert.held_back > 0 {
        detail(
            "more",
            &format!("{} alerts of this rule were held back", alert.held_back),
        );
    }
    for earlier in &alert.earlier {
        detail("before", &describe_earlier(earlier));
    }
    for response in &alert.responses {
        detail("response", &format!("{}: {}", response.action, response.outcome));
    }
    detail("fix", rule.map_or("", |rule| &rule.remediation));
    text
}

/// When, what, on what and by whom, in one line.
fn describe_earlier(earlier: &EarlierEvent) -> String {
    let event = earlier.event.as_ref();
    let object = match event.and_then(|event| event.object.as_ref()) {
        Some(event::Object::File(file)) if file.new_path.is_empty() => file.path.clone(),
        Some(event::Object::File(file)) => format!("{} → {}", file.path, file.new_path),
        Some(event::Object::Socket(socket)) if socket.remote_address.is_empty() => String::new(),
        Some(event::Object::Socket(socket)) => format!("{} port {}", socket.remote_address, socket.remote_port),
        None => earlier
            .process
            .as_ref()
            .map_or(String::new(), |process| process.args.join(" ")),
    };
    let words = [
        time(earlier.event_time),
        event.map_or(String::new(), |event| event.r#type.clone()),
        object,
        earlier
            .process
            .as_ref()
            .map(|by| format!("by {}", process(by)))
            .unwrap_or_default(),
    ];
    let words: Vec<&str> = words
        .iter()
        .map(String::as_str)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ")
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
pub fn escape(value: &str) -> String {
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
    use crate::v1::{GapReason, Host, Item, RuleRef, Technique};
    use proptest::prelude::*;

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
        assert_eq!(super::entry(&entry(item::Kind::Alert(alert())), false), expected);
        assert!(super::entry(&entry(item::Kind::Alert(alert())), true).contains("\u{1b}[1;31mHIGH"));
    }

    #[test]
    fn what_an_alert_stands_for_beside_its_event_is_told() {
        let file = crate::v1::File {
            path: "/tmp/x\u{7}".to_owned(),
            ..crate::v1::File::default()
        };
        let earlier = EarlierEvent {
            event_time: Some(Timestamp {
                seconds: 1_790_000_000,
                nanos: 0,
            }),
            event: Some(crate::v1::Event {
                r#type: "openat".to_owned(),
                object: Some(event::Object::File(file)),
                ..crate::v1::Event::default()
            }),
            process: Some(Process {
                name: "sh".to_owned(),
                pid: 7,
                ..Process::default()
            }),
            ..EarlierEvent::default()
        };
        let alert = Alert {
            earlier: vec![earlier],
            held_back: 3,
            ..alert()
        };
        let told = super::alert(&alert, false);
        let lines = "    more     3 alerts of this rule were held back\n    before   2026-09-21T14:13:20.000Z openat /tmp/x\\u{7} by sh(7)\n";
        assert!(told.contains(lines), "{told}");
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
            assert_eq!(super::entry(&entry(kind), false), expected);
        }
    }

    proptest! {
        #[test]
        fn no_value_reaches_the_terminal_as_a_control(value in any::<String>()) {
            let mut hostile = alert();
            hostile.message.clone_from(&value);
            hostile.run_id = value;
            let text = super::entry(&entry(item::Kind::Alert(hostile)), false);
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(text.lines().count() <= 7);
        }
    }
}
