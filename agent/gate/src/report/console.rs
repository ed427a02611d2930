//! The summary that a run ends with on a terminal. The verdict is the last line: what was asked for stays on the screen.

use std::fmt::Write as _;

use staghound_proto::{
    text,
    v1::{Alert, Decision, Finding, PolicyMode, Process, Run, Verdict},
};

use super::words;
use crate::{decision_name, mode_name, severity_name};

/// Findings that are told in full.
const TOLD_MAX: usize = 100;
/// Findings that are told in one line.
const LINES_MAX: usize = 100;
/// Of each other list.
const LISTED_MAX: usize = 20;
/// Ancestors in the chain of a process.
const ANCESTORS_MAX: usize = 16;
/// Earlier events of a rule over several.
const EARLIER_MAX: usize = 8;

const RESET: &str = "\u{1b}[0m";
const DIM: &str = "\u{1b}[2m";

/// The run as text for a terminal.
#[must_use]
pub fn render(run: &Run, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let mut text = String::from("\n");
    let mut line = |line: String| {
        text += &line;
        text.push('\n');
    };
    let findings = words::ordered(run);
    let (small, large): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .partition(|finding| finding.decision() == Decision::Tolerated);
    for finding in large.iter().take(TOLD_MAX) {
        line(told(finding, colour));
    }
    for finding in small.iter().take(LINES_MAX) {
        line(format!(
            "    {}tolerated{} {} {}: {}",
            paint(DIM),
            paint(RESET),
            severity_name(words::severity(finding)),
            words::rule_id(finding),
            words::clip(&words::message(finding), words::NAME_BYTES_MAX)
        ));
    }
    let not_told = words::number(large.len().saturating_sub(TOLD_MAX) + small.len().saturating_sub(LINES_MAX));
    let more = run.findings_not_kept.saturating_add(not_told);
    if more > 0 {
        line(format!(
            "    … and {} not shown",
            words::count(more, "more finding that is", "more findings that are")
        ));
    }
    survivors(run, &mut line);
    for response in run.responses.iter().take(LISTED_MAX) {
        let (action, outcome) = (words::paragraph(&response.action), words::paragraph(&response.outcome));
        line(format!("    response: {action}: {outcome}"));
    }
    for waiver in run.unused_waivers.iter().take(LISTED_MAX) {
        line(format!(
            "    waiver {} of {} did nothing: {}",
            words::shown(&waiver.id, words::NAME_BYTES_MAX),
            words::shown(&waiver.owner, words::NAME_BYTES_MAX),
            words::paragraph(&waiver.reason)
        ));
    }
    // What makes the run inconclusive stands nearest to the verdict.
    for inconclusive in [false, true] {
        let limits: Vec<_> = run
            .limits
            .iter()
            .filter(|limit| limit.inconclusive == inconclusive)
            .collect();
        for limit in limits.iter().take(LISTED_MAX) {
            let sentence = words::paragraph(&limit.sentence);
            line(if inconclusive {
                format!("    not everything was seen: {sentence}")
            } else {
                format!("    {sentence}")
            });
        }
        if limits.len() > LISTED_MAX {
            line(format!("    … and {} more such limits", limits.len() - LISTED_MAX));
        }
    }
    let (word, style) = match run.verdict() {
        Verdict::Unspecified => ("NOT JUDGED", paint("\u{1b}[1;33m")),
        Verdict::Pass => ("PASS", paint("\u{1b}[1;32m")),
        Verdict::Fail => ("FAIL", paint("\u{1b}[1;31m")),
        Verdict::Inconclusive => ("INCONCLUSIVE", paint("\u{1b}[1;33m")),
    };
    let mode = match run.mode() {
        PolicyMode::Unspecified | PolicyMode::Enforce => String::new(),
        PolicyMode::Observe | PolicyMode::Warn => {
            format!("; mode {}: the exit code is the command's", mode_name(run.mode()))
        }
    };
    line(format!(
        "staghound: {style}{word}{}: {} ({} records, {} findings, {} events lost; {}{mode})",
        paint(RESET),
        words::why(run),
        run.events,
        words::number(run.findings.len()).saturating_add(run.findings_not_kept),
        run.events_lost,
        words::ending(run),
    ));
    text
}

/// The alert and what was decided about it.
fn told(finding: &Finding, colour: bool) -> String {
    let alert = finding.alert.as_ref().map(bounded).unwrap_or_default();
    let mut text = text::alert(
        &Alert {
            count: finding.times,
            held_back: 0,
            ..alert
        },
        colour,
    );
    let (dim, reset) = if colour { (DIM, RESET) } else { ("", "") };
    let mut detail = |label: &str, value: &str| {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "    {dim}{label:8}{reset} {value}");
        }
    };
    if finding.decision() != Decision::Unspecified {
        let reason = words::paragraph(&finding.reason);
        let scope = if finding.scope.is_empty() {
            String::new()
        } else {
            format!(" in scope {}", words::scope(finding))
        };
        let reason = if reason.is_empty() {
            reason
        } else {
            format!(": {reason}")
        };
        detail(
            "decided",
            &format!("{}{scope}{reason}", decision_name(finding.decision())),
        );
    }
    detail("waiver", &words::shown(&finding.waiver, words::NAME_BYTES_MAX));
    // The caller ends the line.
    text.truncate(text.trim_end().len());
    text
}

/// The alert with nothing in it longer than people read.
fn bounded(alert: &Alert) -> Alert {
    let clip = |text: &str, most| words::clip(text, most).into_owned();
    let process = |process: &Process| Process {
        pid: process.pid,
        name: clip(&process.name, words::NAME_BYTES_MAX),
        executable: clip(&process.executable, words::PATH_BYTES_MAX),
        ..Process::default()
    };
    let rule = alert.rule.as_ref().map(|rule| staghound_proto::v1::RuleRef {
        id: clip(&rule.id, words::NAME_BYTES_MAX),
        remediation: words::paragraph(&rule.remediation),
        ..staghound_proto::v1::RuleRef::default()
    });
    let techniques = alert.techniques.iter().take(LISTED_MAX);
    let earlier = alert.earlier.iter().take(EARLIER_MAX);
    Alert {
        event_time: alert.event_time,
        severity: alert.severity,
        rule,
        techniques: techniques
            .map(|technique| staghound_proto::v1::Technique {
                id: clip(&technique.id, words::NAME_BYTES_MAX),
                ..staghound_proto::v1::Technique::default()
            })
            .collect(),
        message: clip(&alert.message, words::TEXT_BYTES_MAX),
        process: alert.process.as_ref().map(|actor| Process {
            // One argument: the summary is not where a command is copied from.
            args: vec![clip(&actor.args.join(" "), words::TEXT_BYTES_MAX)],
            credentials: actor.credentials.clone(),
            ..process(actor)
        }),
        ancestors: alert.ancestors.iter().take(ANCESTORS_MAX).map(process).collect(),
        earlier: earlier
            .map(|earlier| staghound_proto::v1::EarlierEvent {
                event_time: earlier.event_time,
                event: earlier.event.as_ref().map(|event| {
                    let mut event = event.clone();
                    if let Some(staghound_proto::v1::event::Object::File(file)) = &mut event.object {
                        file.path = clip(&file.path, words::PATH_BYTES_MAX);
                        file.new_path = clip(&file.new_path, words::PATH_BYTES_MAX);
                    }
                    event
                }),
                process: earlier.process.as_ref().map(process),
                ..staghound_proto::v1::EarlierEvent::default()
            })
            .collect(),
        container: alert.container.clone(),
        responses: alert.responses.iter().take(LISTED_MAX).cloned().collect(),
        ..Alert::default()
    }
}

/// What still ran when the command had ended.
fn survivors(run: &Run, line: &mut impl FnMut(String)) {
    let survivors: Vec<_> = run.processes.iter().filter(|process| process.survived).collect();
    if survivors.is_empty() {
        return;
    }
    line(format!(
        "    {} outlived the command, and what they do from now on is not seen; end them or wait for them in the command",
        words::count(words::number(survivors.len()), "process", "processes")
    ));
    for survivor in survivors.iter().take(LISTED_MAX) {
        let Some(process) = &survivor.process else { continue };
        let sockets: Vec<String> = survivor
            .sockets
            .iter()
            .take(LISTED_MAX)
            .map(|socket| words::shown(socket, words::NAME_BYTES_MAX))
            .collect();
        let sockets = if sockets.is_empty() {
            String::new()
        } else {
            format!(", {}", sockets.join(", "))
        };
        line(format!(
            "    still running: {} {} ({}){sockets}",
            process.pid,
            words::process_name(process),
            words::shown(&process.executable, words::PATH_BYTES_MAX)
        ));
    }
    if survivors.len() > LISTED_MAX {
        line(format!("    still running: {} more", survivors.len() - LISTED_MAX));
    }
}
