//! The run as GitHub-flavoured Markdown, for job summaries and comments on pull requests.
//!
//! What the run itself names stands in code spans, where no mark-up, mention or link is seen; what rules and policies say
//! has its punctuation escaped. Nothing of either is put into a table but names.

use std::fmt::Write as _;

use staghound_proto::{
    text,
    v1::{Decision, Finding, Run, Verdict},
};

use super::words;
use crate::{decision_name, mode_name, severity_name, verdict_name};

/// Bytes of a step summary that GitHub shows.
pub const SUMMARY_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a comment. GitHub counts 65,536 characters; what wraps a comment around this has a little.
pub const COMMENT_BYTES_MAX: usize = 60 * 1024;
/// What is kept free for the lines that say what was left out.
const RESERVE: usize = 2048;
/// Findings in the table.
const ROWS_MAX: usize = 200;
/// Findings told in full; more make a page that nobody reads.
const TOLD_MAX: usize = 200;
/// Of each other list.
const LISTED_MAX: usize = 50;
/// Ancestors in the chain of a process.
const ANCESTORS_MAX: usize = 8;

/// The run as Markdown of no more than so many bytes; at least 16 KiB are taken.
#[must_use]
pub fn render(run: &Run, bytes_max: usize) -> String {
    let mut page = Page {
        text: head(run),
        room: bytes_max.max(16 * 1024) - RESERVE,
    };
    let findings = words::ordered(run);
    let (small, large): (Vec<&Finding>, Vec<&Finding>) = findings
        .into_iter()
        .partition(|finding| finding.decision() == Decision::Tolerated);
    table(&mut page, &large);
    let mut told = 0;
    for finding in large.iter().take(TOLD_MAX) {
        // A third is left for what follows.
        if !page.push_within(&details(finding), page.room - page.room / 3) {
            break;
        }
        told += 1;
    }
    let not_told = words::number(large.len() - told).saturating_add(run.findings_not_kept);
    if not_told > 0 {
        page.push(&format!(
            "… and {}; the full report has what was kept.\n\n",
            words::count(not_told, "more finding", "more findings")
        ));
    }
    if !small.is_empty() {
        page.push(&format!(
            "{} tolerated.\n\n",
            words::count(words::number(small.len()), "finding is", "findings are")
        ));
    }
    lists(&mut page, run);
    page.text
}

/// What was written, and how much more may be.
struct Page {
    text: String,
    room: usize,
}

impl Page {
    /// Adds a part if it fits; tells whether it did.
    fn push(&mut self, part: &str) -> bool {
        self.push_within(part, self.room)
    }

    fn push_within(&mut self, part: &str, room: usize) -> bool {
        let fits = self.text.len() + part.len() <= room;
        if fits {
            self.text += part;
        }
        fits
    }

    /// Adds a list below a headline; what does not fit is counted, with what was not kept.
    fn list(&mut self, headline: &str, lines: impl ExactSizeIterator<Item = String>, not_kept: u64) {
        let all = lines.len();
        if all == 0 && not_kept == 0 {
            return;
        }
        if !self.push(&format!("#### {headline}\n\n")) {
            return;
        }
        let mut listed = 0;
        for line in lines.take(LISTED_MAX) {
            if !self.push(&format!("- {line}\n")) {
                break;
            }
            listed += 1;
        }
        let more = words::number(all - listed).saturating_add(not_kept);
        if more > 0 {
            self.push(&format!("- … and {more} more\n"));
        }
        self.push("\n");
    }
}

fn head(run: &Run) -> String {
    let sign = match run.verdict() {
        Verdict::Pass => "✅",
        Verdict::Fail => "❌",
        Verdict::Unspecified | Verdict::Inconclusive => "⚠️",
    };
    let mut text = format!(
        "## {sign} Staghound: {}\n\n{}\n\n",
        verdict_name(run.verdict()),
        escape(&words::why(run))
    );
    let mut facts = vec![
        code(&words::command(&run.command, words::PATH_BYTES_MAX)),
        escape(&words::ending(run)),
    ];
    if !words::duration(run).is_empty() {
        facts.push(words::duration(run));
    }
    facts.push(words::count(run.events, "event", "events"));
    facts.push(format!("{} lost", run.events_lost));
    facts.push(format!("mode {}", mode_name(run.mode())));
    facts.push(format!(
        "run {}",
        code(&words::shown(&run.run_id, words::NAME_BYTES_MAX))
    ));
    let _written = writeln!(text, "{}\n", facts.join(" · "));
    text
}

fn table(page: &mut Page, findings: &[&Finding]) {
    if findings.is_empty() {
        return;
    }
    page.push("| decision | severity | finding | technique | scope | times |\n|---|---|---|---|---|--:|\n");
    let mut rows = 0;
    for finding in findings.iter().take(ROWS_MAX) {
        let alert = finding.alert.as_ref();
        let techniques: Vec<String> = alert
            .map_or(&[][..], |alert| &alert.techniques)
            .iter()
            .take(3)
            .map(|technique| super::technique_link(technique, |id, link| format!("[{id}]({link})"), escape))
            .collect();
        let decision = decision_name(finding.decision());
        let decision = if finding.decision() == Decision::Failed {
            format!("**{decision}**")
        } else {
            decision.to_owned()
        };
        let row = format!(
            "| {decision} | {} | {} | {} | {} | {} |\n",
            severity_name(words::severity(finding)),
            escape(&words::title(finding)),
            techniques.join(", "),
            escape(&words::scope(finding)),
            finding.times
        );
        // A quarter at most: the table is there to find what is told below.
        if !page.push_within(&row, page.room / 4) {
            break;
        }
        rows += 1;
    }
    page.push("\n");
    if rows < findings.len() {
        page.push(&format!("… and {} more rows.\n\n", findings.len() - rows));
    }
}

fn details(finding: &Finding) -> String {
    let open = if finding.decision() == Decision::Failed {
        " open"
    } else {
        ""
    };
    let mut text = format!(
        "<details{open}><summary>{} · {}</summary>\n\n",
        severity_name(words::severity(finding)),
        // Mark-up of Markdown is not read in here, that of HTML is.
        super::html_escape(&words::title(finding))
    );
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "- {label}: {value}");
        }
    };
    line("what", code(&words::message(finding)));
    let alert = finding.alert.as_ref();
    if let Some(alert) = alert {
        if let Some(process) = &alert.process {
            line("by", code(&words::chain(process, &alert.ancestors, ANCESTORS_MAX)));
            line("command", code(&words::command(&process.args, words::TEXT_BYTES_MAX)));
        }
        line("when", words::time(alert.event_time.as_ref()));
        for response in alert.responses.iter().take(LISTED_MAX) {
            let (action, outcome) = (words::paragraph(&response.action), words::paragraph(&response.outcome));
            line("response", format!("{}: {}", escape(&action), escape(&outcome)));
        }
    }
    line("rule", code(&words::rule_id(finding)));
    let reason = words::paragraph(&finding.reason);
    let waiver = words::shown(&finding.waiver, words::NAME_BYTES_MAX);
    line(decision_name(finding.decision()), escape(&reason));
    line("waiver", code(&waiver));
    line("why it matters", prose(&words::description(finding)));
    line("**what to do**", prose(&words::remediation(finding)));
    text += "\n</details>\n\n";
    text
}

fn lists(page: &mut Page, run: &Run) {
    let survivors: Vec<_> = run.processes.iter().filter(|process| process.survived).collect();
    page.list(
        "Still running",
        survivors.iter().map(|survivor| {
            let process = survivor.process.clone().unwrap_or_default();
            let executable = words::shown(&process.executable, words::PATH_BYTES_MAX);
            let sockets = survivor.sockets.iter().take(5);
            let sockets: Vec<_> = sockets
                .map(|socket| code(&words::shown(socket, words::NAME_BYTES_MAX)))
                .collect();
            [vec![format!("{} {}", process.pid, code(&executable))], sockets]
                .concat()
                .join(", ")
        }),
        0,
    );
    page.list(
        "Not seen, not done",
        run.limits.iter().map(|limit| {
            let sentence = escape(&words::paragraph(&limit.sentence));
            if limit.inconclusive {
                format!("**inconclusive**: {sentence}")
            } else {
                sentence
            }
        }),
        0,
    );
    page.list(
        "Waivers that did nothing",
        run.unused_waivers.iter().map(|waiver| {
            format!(
                "{} of {}: {}",
                code(&words::shown(&waiver.id, words::NAME_BYTES_MAX)),
                code(&words::shown(&waiver.owner, words::NAME_BYTES_MAX)),
                escape(&words::paragraph(&waiver.reason))
            )
        }),
        0,
    );
    page.list(
        "Responses",
        run.responses.iter().map(|response| {
            let (action, outcome) = (words::paragraph(&response.action), words::paragraph(&response.outcome));
            format!("{}: {}", escape(&action), escape(&outcome))
        }),
        0,
    );
    page.list(
        "Network",
        run.endpoints.iter().map(|endpoint| {
            format!(
                "{} {} {}, {}, {} sent, {} received",
                code(&words::shown(&endpoint.process, words::NAME_BYTES_MAX)),
                escape(&words::shown(&endpoint.direction, words::NAME_BYTES_MAX)),
                code(&words::endpoint(endpoint)),
                words::count(endpoint.times, "time", "times"),
                words::bytes(endpoint.bytes_sent),
                words::bytes(endpoint.bytes_received)
            )
        }),
        run.endpoints_not_kept,
    );
    page.list(
        "Artifacts",
        run.artifacts.iter().map(|artifact| {
            let mut words = vec![
                code(&words::shown(&artifact.path, words::PATH_BYTES_MAX)),
                words::bytes(artifact.size),
            ];
            words.extend(words::artifact_facts(artifact).into_iter().map(str::to_owned));
            words.push(if artifact.sha256.is_empty() {
                format!("no digest: {}", escape(&words::paragraph(&artifact.not_hashed)))
            } else {
                format!(
                    "sha256 {}",
                    code(&words::shown(&artifact.sha256, words::NAME_BYTES_MAX))
                )
            });
            words.join(", ")
        }),
        run.artifacts_not_kept,
    );
    page.list(
        "Decided by",
        run.materials.iter().map(|material| {
            let path = if material.path.is_empty() {
                "built in".to_owned()
            } else {
                code(&words::shown(&material.path, words::PATH_BYTES_MAX))
            };
            format!(
                "{} {path}, {}",
                escape(&words::shown(&material.kind, words::NAME_BYTES_MAX)),
                code(&words::shown(&material.digest, words::NAME_BYTES_MAX))
            )
        }),
        0,
    );
}

/// A value in a code span: nothing in it is mark-up, a mention or a link. Empty for an empty value.
pub(crate) fn code(value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    let longest = value.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A blank at both ends is taken away by whoever reads it.
    let blank = if value.starts_with(['`', ' ']) || value.ends_with(['`', ' ']) {
        " "
    } else {
        ""
    };
    format!("{fence}{blank}{value}{blank}{fence}")
}

/// What rules and policies say, with what stands in backticks as code.
pub(crate) fn prose(value: &str) -> String {
    let parts: Vec<&str> = value.split('`').collect();
    // Without its other end, a backtick is one.
    if parts.len().is_multiple_of(2) {
        return escape(value);
    }
    parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            if index.is_multiple_of(2) {
                escape(part)
            } else {
                code(part)
            }
        })
        .collect()
}

/// Text in which no punctuation is mark-up, and nobody is mentioned.
pub(crate) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len() + 16);
    let value = text::escape(value);
    let mut characters = value.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            // As numbers: a backslash does not keep `@name` from being a mention, `#1` from being an issue, or an address
            // from being a link, and a bar ends a cell of a table.
            ':' if characters.peek().is_none_or(|next| next.is_whitespace()) => escaped.push(':'),
            '.' if escaped.ends_with("www") => escaped += "&#46;",
            '@' | '#' | ':' | '|' | '<' | '>' | '&' => {
                // Writing to a string cannot fail.
                let _written = write!(escaped, "&#{};", u32::from(c));
            }
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '!' | '~' | '$' => {
                escaped.push('\\');
                escaped.push(c);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_spans_hold_backticks() {
        for (value, expected) in [
            ("", ""),
            ("a|b", "`a|b`"),
            ("a`b", "``a`b``"),
            ("```", "```` ``` ````"),
            (" x ", "`  x  `"),
        ] {
            assert_eq!(code(value), expected);
        }
    }

    #[test]
    fn prose_is_no_mark_up() {
        assert_eq!(
            escape("@all [x](y) | <b> #1 `z` see https://a.example"),
            r"&#64;all \[x\](y) &#124; &#60;b&#62; &#35;1 \`z\` see https&#58;//a.example"
        );
        assert_eq!(escape("www.a.example: policy.yaml"), "www&#46;a.example: policy.yaml");
        assert_eq!(prose("run `a|b` (or `c"), r"run \`a&#124;b\` (or \`c");
        assert_eq!(prose("run `a|b`."), "run `a|b`.");
    }

    #[test]
    fn a_comment_is_smaller_than_a_summary() {
        let run = Run {
            limits: vec![
                staghound_proto::v1::Limit {
                    sentence: "x".repeat(5000),
                    inconclusive: true,
                };
                100
            ],
            ..Run::default()
        };
        let comment = render(&run, COMMENT_BYTES_MAX);
        assert!(comment.len() <= COMMENT_BYTES_MAX);
        assert!(comment.contains("more"), "{comment}");
        assert!(render(&run, SUMMARY_BYTES_MAX).len() > comment.len());
    }
}
