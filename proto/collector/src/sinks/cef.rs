//! ArcSight's Common Event Format, version 0: one line, each value escaped.

use staghound_proto::v1::{Alert, Entry, Gap, Severity, event, gap, item};

/// A line for an entry; `None` for run records, which are no events.
pub(super) fn line(entry: &Entry) -> Option<String> {
    match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Alert(alert) => Some(of_alert(entry, alert)),
        item::Kind::Gap(gap) => Some(of_gap(entry, gap)),
        item::Kind::Run(_) => None,
    }
}

/// CEF counts from 0 to 10.
pub(super) fn severity(alert: &Alert) -> u8 {
    match alert.severity() {
        Severity::Unspecified => 0,
        Severity::Informational => 1,
        Severity::Low => 3,
        Severity::Medium => 5,
        Severity::High => 8,
        Severity::Critical => 10,
    }
}

fn header(id: &str, name: &str, severity: u8) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "CEF:0|Staghound|Staghound|{version}|{}|{}|{severity}|",
        escape_header(id),
        escape_header(name)
    )
}

fn of_alert(entry: &Entry, alert: &Alert) -> String {
    let rule = alert.rule.clone().unwrap_or_default();
    let name = if rule.name.is_empty() { &rule.id } else { &rule.name };
    let mut line = header(&rule.id, name, severity(alert));
    let mut extension = Extension(&mut line);
    extension.add("externalId", &super::identity(entry));
    if let Some(time) = &alert.event_time {
        extension.add(
            "rt",
            &(time.seconds.saturating_mul(1000) + i64::from(time.nanos / 1_000_000)).to_string(),
        );
    }
    extension.add("msg", &alert.message);
    extension.add("dvchost", alert.host.as_ref().map_or("", |host| &host.name));
    extension.add("cnt", &alert.count.max(1).to_string());
    let techniques: Vec<_> = alert.techniques.iter().map(|technique| technique.id.as_str()).collect();
    extension.add("cs1", &techniques.join(","));
    extension.add("cs1Label", if techniques.is_empty() { "" } else { "attackTechniques" });
    if let Some(process) = &alert.process {
        extension.add("spid", &process.pid.to_string());
        extension.add("sproc", &process.executable);
        extension.add("cs2", &process.args.join(" "));
        extension.add("cs2Label", if process.args.is_empty() { "" } else { "commandLine" });
        extension.add(
            "suser",
            process.credentials.as_ref().map_or("", |credentials| &credentials.user),
        );
    }
    match alert.event.as_ref().and_then(|event| event.object.as_ref()) {
        Some(event::Object::File(file)) => extension.add("filePath", &file.path),
        Some(event::Object::Socket(socket)) => {
            extension.add("dst", &socket.remote_address);
            extension.add(
                "dpt",
                &if socket.remote_port > 0 {
                    socket.remote_port.to_string()
                } else {
                    String::new()
                },
            );
            extension.add("dhost", &socket.dns_name);
        }
        None => {}
    }
    extension.add("cs3", &alert.run_id);
    extension.add("cs3Label", if alert.run_id.is_empty() { "" } else { "runId" });
    line
}

fn of_gap(entry: &Entry, gap: &Gap) -> String {
    let mut line = header("staghound/gap", "Something was lost or not seen", 6);
    let mut extension = Extension(&mut line);
    extension.add("externalId", &super::identity(entry));
    extension.add("dvchost", &entry.agent_id);
    extension.add("msg", &gap_text(gap));
    line
}

/// What a gap says, in words.
pub(super) fn gap_text(gap: &Gap) -> String {
    match &gap.kind {
        Some(gap::Kind::Sequence(gap)) => {
            format!(
                "items {} to {} are lost: {}",
                gap.from,
                gap.to,
                gap.reason().as_str_name()
            )
        }
        Some(gap::Kind::Observation(gap)) => {
            let hook = if gap.hook.is_empty() { "all hooks" } else { &gap.hook };
            format!(
                "{} events of {hook} were not seen (0: unknown): {}",
                gap.count,
                gap.reason().as_str_name()
            )
        }
        None => "a gap of a kind that this version does not know".to_owned(),
    }
}

struct Extension<'a>(&'a mut String);

impl Extension<'_> {
    fn add(&mut self, key: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.0.ends_with('|') {
            self.0.push(' ');
        }
        self.0.push_str(key);
        self.0.push('=');
        self.0.push_str(&escape(value));
    }
}

fn escape_header(text: &str) -> String {
    escape_by(text, |character| matches!(character, '\\' | '|'))
}

fn escape(text: &str) -> String {
    escape_by(text, |character| matches!(character, '\\' | '='))
}

/// Escapes what would end a value, and replaces what no line may hold.
fn escape_by(text: &str, special: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            character if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') => escaped.push('?'),
            character => {
                if special(character) {
                    escaped.push('\\');
                }
                escaped.push(character);
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_proto::v1::{Item, Process, RuleRef, Technique};

    #[test]
    fn hostile_values_stay_values() {
        let alert = Alert {
            severity: Severity::High.into(),
            message: "a=b\nCEF:0|x\u{1b}[2J".to_owned(),
            rule: Some(RuleRef {
                id: "x|y\\z".to_owned(),
                ..RuleRef::default()
            }),
            techniques: vec![Technique {
                id: "T1003".to_owned(),
                ..Technique::default()
            }],
            process: Some(Process {
                pid: 7,
                executable: "/tmp/a b".to_owned(),
                ..Process::default()
            }),
            ..Alert::default()
        };
        let entry = Entry {
            agent_id: "n".to_owned(),
            epoch: "e".to_owned(),
            sequence: 3,
            item: Some(Item {
                kind: Some(item::Kind::Alert(alert)),
            }),
            ..Entry::default()
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            line(&entry).unwrap(),
            format!(
                "CEF:0|Staghound|Staghound|{version}|x\\|y\\\\z|x\\|y\\\\z|8|externalId=n/e/3 msg=a\\=b\\nCEF:0|x?[2J cnt=1 cs1=T1003 cs1Label=attackTechniques spid=7 sproc=/tmp/a b"
            )
        );
    }
}
