//! What all formats say in the same words: who, what, when, how much.

use std::{borrow::Cow, cmp::Reverse, fmt::Write as _};

use prost_types::Timestamp;
use staghound_proto::{
    text,
    v1::{Artifact, Decision, Endpoint, Event, Finding, FindingClass, Process, Run, Severity, Verdict, event},
};

/// Bytes of a name, an identifier, a word.
pub(crate) const NAME_BYTES_MAX: usize = 200;
/// Bytes of a path or a name of a host.
pub(crate) const PATH_BYTES_MAX: usize = 500;
/// Bytes of a command, a message, a paragraph.
pub(crate) const TEXT_BYTES_MAX: usize = 2000;

/// The text, cut at a limit, with an ellipsis where it was.
pub(crate) fn clip(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(bytes_max)]))
}

/// The text, cut and harmless: no controls, nothing that turns or hides what is beside it.
pub(crate) fn shown(text: &str, bytes_max: usize) -> String {
    text::escape(&clip(text, bytes_max))
}

/// As [`shown`], for what people wrote in paragraphs: line feeds become blanks.
pub(crate) fn paragraph(text: &str) -> String {
    let clipped = clip(text, TEXT_BYTES_MAX);
    let words: Vec<&str> = clipped.split_whitespace().collect();
    text::escape(&words.join(" "))
}

/// Arguments as a shell would take them, cut and harmless.
pub(crate) fn command(arguments: &[String], bytes_max: usize) -> String {
    let mut line = String::new();
    for argument in arguments {
        if line.len() > bytes_max {
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        let argument = clip(argument, bytes_max);
        let plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            line.push_str(&argument);
        } else {
            let _written = write!(line, "'{}'", argument.replace('\'', "'\\''"));
        }
    }
    shown(&line, bytes_max)
}

/// The number and its noun, in the plural where there is not one.
pub(crate) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A length as a number that counts further ones.
pub(crate) fn number(length: usize) -> u64 {
    u64::try_from(length).expect("no list is longer than a u64 can count")
}

/// Bytes in a unit that people read.
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut rest = number as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if rest < 1024.0 {
            break;
        }
        rest /= 1024.0;
        unit = larger;
    }
    format!("{rest:.1} {unit}")
}

/// Nanoseconds since 1970, where the time can be written at all.
pub(crate) fn nanos(time: Option<&Timestamp>) -> Option<i128> {
    let time = time.filter(|time| (0..253_402_300_800).contains(&time.seconds))?;
    Some(i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos.clamp(0, 999_999_999)))
}

/// `2026-09-21 14:13:20 UTC`; empty when unknown.
pub(crate) fn time(time: Option<&Timestamp>) -> String {
    match nanos(time) {
        Some(_) => {
            let seconds = time.map_or(0, |time| time.seconds);
            let whole = Timestamp { seconds, nanos: 0 }.to_string();
            whole.replace('T', " ").replace('Z', " UTC")
        }
        None => String::new(),
    }
}

/// `2026-09-21T14:13:20.123Z`; nothing when unknown.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> Option<String> {
    let nanos = nanos(time)?;
    let seconds = time.map_or(0, |time| time.seconds);
    let whole = Timestamp { seconds, nanos: 0 }.to_string();
    let milliseconds = nanos / 1_000_000 % 1000;
    Some(format!("{}.{milliseconds:03}Z", whole.trim_end_matches('Z')))
}

/// Seconds from the first to the second, three digits after the point; nothing when one is unknown.
#[expect(clippy::cast_precision_loss, reason = "milliseconds are shown")]
pub(crate) fn seconds(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<f64> {
    let nanos = (nanos(to)? - nanos(from)?).max(0);
    Some((nanos / 1_000_000) as f64 / 1000.0)
}

/// How long the run took, as `2 min 5 s`; empty when unknown.
pub(crate) fn duration(run: &Run) -> String {
    match seconds(run.started.as_ref(), run.finished.as_ref()) {
        Some(seconds) => span(seconds),
        None => String::new(),
    }
}

/// `250 ms`, `3.2 s`, `2 min 5 s`, `3 h 4 min`.
pub(crate) fn span(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let minutes = (seconds / 60.0).floor();
    if minutes < 60.0 {
        return format!("{minutes:.0} min {:.0} s", (seconds - minutes * 60.0).floor());
    }
    let hours = (minutes / 60.0).floor();
    format!("{hours:.0} h {:.0} min", minutes - hours * 60.0)
}

/// The findings, those first that decide: failed, warned, waived, tolerated; in each the worst first, then the earliest.
pub(crate) fn ordered(run: &Run) -> Vec<&Finding> {
    let mut findings: Vec<&Finding> = run.findings.iter().collect();
    findings.sort_by_key(|finding| {
        let alert = finding.alert.as_ref();
        (
            rank(finding.decision()),
            Reverse(severity(finding)),
            alert.map_or(0, |alert| alert.boot_time_ns),
        )
    });
    findings
}

const fn rank(decision: Decision) -> u8 {
    match decision {
        Decision::Failed => 0,
        Decision::Unspecified => 1,
        Decision::Warned => 2,
        Decision::Waived => 3,
        Decision::Tolerated => 4,
    }
}

/// How bad it is.
pub(crate) fn severity(finding: &Finding) -> Severity {
    finding
        .alert
        .as_ref()
        .map_or(Severity::Unspecified, |alert| alert.severity())
}

/// Id of the rule; where there is none, what the finding is of.
pub(crate) fn rule_id(finding: &Finding) -> String {
    let id = finding.alert.as_ref().and_then(|alert| alert.rule.as_ref());
    match id {
        Some(rule) if !rule.id.is_empty() => shown(&rule.id, NAME_BYTES_MAX),
        Some(_) | None => class(finding.class()).to_owned(),
    }
}

/// Name of the rule; its id where it has none.
pub(crate) fn title(finding: &Finding) -> String {
    let rule = finding.alert.as_ref().and_then(|alert| alert.rule.as_ref());
    match rule {
        Some(rule) if !rule.name.is_empty() => shown(&rule.name, NAME_BYTES_MAX),
        Some(_) | None => rule_id(finding),
    }
}

/// Where a finding comes from, as a word that can stand for a rule.
pub(crate) const fn class(class: FindingClass) -> &'static str {
    match class {
        FindingClass::Unspecified => "finding",
        FindingClass::Rule => "rule",
        FindingClass::Deviation => "deviation",
        FindingClass::Survivor => "survivor",
    }
}

/// How to fix or allow it; empty when nobody said.
pub(crate) fn remediation(finding: &Finding) -> String {
    let rule = finding.alert.as_ref().and_then(|alert| alert.rule.as_ref());
    rule.map_or(String::new(), |rule| paragraph(&rule.remediation))
}

/// What the rule looks for; empty when nobody said.
pub(crate) fn description(finding: &Finding) -> String {
    let rule = finding.alert.as_ref().and_then(|alert| alert.rule.as_ref());
    rule.map_or(String::new(), |rule| paragraph(&rule.description))
}

/// What happened, in the rule's words.
pub(crate) fn message(finding: &Finding) -> String {
    finding
        .alert
        .as_ref()
        .map_or(String::new(), |alert| shown(&alert.message, TEXT_BYTES_MAX))
}

/// The scope it was judged in; the project's own code where a policy named none.
pub(crate) fn scope(finding: &Finding) -> String {
    if finding.scope.is_empty() {
        crate::policy::OWN_CODE.to_owned()
    } else {
        shown(&finding.scope, NAME_BYTES_MAX)
    }
}

/// Name of the process; of its executable where it has none.
pub(crate) fn process_name(process: &Process) -> String {
    let name = if process.name.is_empty() {
        process.executable.rsplit('/').next().unwrap_or_default()
    } else {
        &process.name
    };
    if name.is_empty() {
        "?".to_owned()
    } else {
        shown(name, NAME_BYTES_MAX)
    }
}

/// The process and its ancestors as `curl(7) ← sh(6) ← …`, the nearest first and no more than so many.
pub(crate) fn chain(process: &Process, ancestors: &[Process], most: usize) -> String {
    let mut told: Vec<String> = std::iter::once(process)
        .chain(ancestors)
        .take(most)
        .map(|process| format!("{}({})", process_name(process), process.pid))
        .collect();
    if ancestors.len() >= most {
        told.push("…".to_owned());
    }
    told.join(" ← ")
}

/// What the event was about; empty where the process says all.
pub(crate) fn object(event: &Event) -> String {
    match &event.object {
        Some(event::Object::File(file)) if file.new_path.is_empty() => shown(&file.path, PATH_BYTES_MAX),
        Some(event::Object::File(file)) => format!(
            "{} → {}",
            shown(&file.path, PATH_BYTES_MAX),
            shown(&file.new_path, PATH_BYTES_MAX)
        ),
        Some(event::Object::Socket(socket)) => {
            let name = if socket.tls_server_name.is_empty() {
                &socket.dns_name
            } else {
                &socket.tls_server_name
            };
            let (address, port) = if socket.remote_address.is_empty() {
                (&socket.local_address, socket.local_port)
            } else {
                (&socket.remote_address, socket.remote_port)
            };
            whom(&socket.protocol, address, port, name)
        }
        None => String::new(),
    }
}

/// Whom an endpoint is.
pub(crate) fn endpoint(endpoint: &Endpoint) -> String {
    whom(&endpoint.protocol, &endpoint.address, endpoint.port, &endpoint.name)
}

/// `tcp 198.51.100.23:443 (evil.example)`, whatever of it is known.
fn whom(protocol: &str, address: &str, port: u32, name: &str) -> String {
    let mut words = Vec::new();
    if !protocol.is_empty() {
        words.push(shown(protocol, NAME_BYTES_MAX));
    }
    let address = shown(address, PATH_BYTES_MAX);
    match (address.is_empty(), port) {
        (true, 0) => (),
        (true, port) => words.push(format!("port {port}")),
        (false, 0) => words.push(address),
        (false, port) if address.contains(':') => words.push(format!("[{address}]:{port}")),
        (false, port) => words.push(format!("{address}:{port}")),
    }
    match (name.is_empty(), words.len() > 1) {
        (true, _) => (),
        (false, true) => words.push(format!("({})", shown(name, PATH_BYTES_MAX))),
        (false, false) => words.push(shown(name, PATH_BYTES_MAX)),
    }
    words.join(" ")
}

/// What became of an artifact, as `executed, left, from the network`.
pub(crate) fn artifact_facts(artifact: &Artifact) -> Vec<&'static str> {
    [
        (artifact.from_network, "from the network"),
        (artifact.executed, "executed"),
        (artifact.loaded, "loaded"),
        (artifact.removed, "removed"),
        (artifact.left, "left behind"),
    ]
    .into_iter()
    .filter_map(|(holds, word)| holds.then_some(word))
    .collect()
}

/// Why the verdict is what it is, in one line.
pub(crate) fn why(run: &Run) -> String {
    let reasons: Vec<String> = run.reasons.iter().take(5).map(|reason| paragraph(reason)).collect();
    if !reasons.is_empty() {
        return reasons.join("; ");
    }
    match run.verdict() {
        Verdict::Unspecified => "nobody has judged this run",
        Verdict::Pass => "nothing above tolerance was seen, and nothing was lost",
        Verdict::Fail => "something above tolerance was seen",
        Verdict::Inconclusive => "not everything was seen, so nobody knows",
    }
    .to_owned()
}

/// How the command ended, in words.
pub(crate) fn ending(run: &Run) -> String {
    match run.exit_code {
        Some(code @ 129..=192) => format!("the command exited with {code} (signal {})", code - 128),
        Some(code) => format!("the command exited with {code}"),
        None => "how the command ended is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_as_a_shell_takes_them() {
        for (arguments, expected) in [
            (&["sh", "-c", "echo 'a b'"][..], r"sh -c 'echo '\''a b'\'''"),
            (&["curl", "http://x/?a=1"], "curl 'http://x/?a=1'"),
            (&["a", ""], "a ''"),
            (&["\u{1b}[2J"], r"'\u{1b}[2J'"),
        ] {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            assert_eq!(command(&arguments, 100), expected);
        }
        assert_eq!(command(&vec!["é".repeat(400); 100], 9), "'éééé…");
    }

    #[test]
    fn numbers_for_people() {
        for (number, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(number), expected);
        }
        for (seconds, expected) in [
            (0.25, "250 ms"),
            (3.21, "3.2 s"),
            (125.0, "2 min 5 s"),
            (11_100.0, "3 h 5 min"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }

    #[test]
    fn times_that_cannot_be_written_are_left_out() {
        let at = |seconds, nanos| Timestamp { seconds, nanos };
        assert_eq!(
            rfc3339(Some(&at(1_790_000_000, 123_456_789))).unwrap(),
            "2026-09-21T14:13:20.123Z"
        );
        assert_eq!(time(Some(&at(1_790_000_000, -5))), "2026-09-21 14:13:20 UTC");
        assert_eq!(rfc3339(Some(&at(i64::MAX, 0))), None);
        assert_eq!(seconds(Some(&at(10, 0)), Some(&at(9, 0))), Some(0.0));
        assert_eq!(seconds(None, Some(&at(9, 0))), None);
    }

    #[test]
    fn endpoints_in_words() {
        for (protocol, address, port, name, expected) in [
            (
                "tcp",
                "198.51.100.23",
                443,
                "evil.example",
                "tcp 198.51.100.23:443 (evil.example)",
            ),
            ("tcp", "2001:db8::1", 443, "", "tcp [2001:db8::1]:443"),
            ("unix", "/run/docker.sock", 0, "", "unix /run/docker.sock"),
            ("udp", "", 0, "evil.example", "udp evil.example"),
            ("", "", 0, "", ""),
            ("tcp", "", 80, "", "tcp port 80"),
        ] {
            assert_eq!(whom(protocol, address, port, name), expected);
        }
    }
}
