//! The run as one page of HTML that needs nothing else: no other file, no network, and scripts only to filter and fold.
//!
//! What the run names is only ever text within elements, escaped; the page's policy lets no script and no style run but the
//! two that were compiled in.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt::Write as _,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use staghound_engine::attack;
use staghound_proto::v1::{Decision, Endpoint, Finding, PolicyMode, Process, Run, RunProcess, Severity, Verdict};

use super::{html_escape as escape, technique_address, words};
use crate::{decision_name, mode_name, severity_name, verdict_name};

mod charts;

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Findings with a card.
const FINDINGS_MAX: usize = 300;
/// Processes in the tree.
const PROCESSES_MAX: usize = 1000;
/// How deep the tree is drawn; what is deeper is drawn as deep as this.
const DEPTH_MAX: usize = 24;
/// Rows of tables.
const ROWS_MAX: usize = 300;
/// Of each other list.
const LISTED_MAX: usize = 50;
/// Techniques of the matrix, of one tactic.
const CELLS_MAX: usize = 40;
/// The tactics in the order in which an attack goes; those of before the victim's hosts are not seen here.
const TACTICS: [(&str, &str); 13] = [
    ("initial-access", "Initial access"),
    ("execution", "Execution"),
    ("persistence", "Persistence"),
    ("privilege-escalation", "Privilege escalation"),
    ("stealth", "Stealth"),
    ("defense-impairment", "Defense impairment"),
    ("credential-access", "Credential access"),
    ("discovery", "Discovery"),
    ("lateral-movement", "Lateral movement"),
    ("collection", "Collection"),
    ("command-and-control", "Command and control"),
    ("exfiltration", "Exfiltration"),
    ("impact", "Impact"),
];

/// Writes to a page, which cannot fail.
macro_rules! put {
    ($page:expr, $($format:tt)*) => {{
        let _written = write!($page, $($format)*);
    }};
}
use put;

/// The run as HTML.
#[must_use]
pub fn render(run: &Run) -> String {
    let findings = words::ordered(run);
    let page = Page::new(&findings);
    let mut text = String::with_capacity(64 * 1024);
    head(&mut text, run);
    banner(&mut text, run);
    navigation(&mut text, run);
    text += "<main id=\"main\">";
    facts(&mut text, run);
    page.findings(&mut text, run);
    limits(&mut text, run);
    page.tree(&mut text, run);
    charts::timeline(&mut text, run, &findings);
    page.matrix(&mut text);
    network(&mut text, run);
    artifacts(&mut text, run);
    materials(&mut text, run);
    put!(
        text,
        "<footer>Run <code>{}</code> by Staghound {}. MITRE ATT&amp;CK® {} is a registered trademark of The MITRE \
         Corporation.</footer></main><script>{SCRIPT}</script></body></html>\n",
        escape(&words::shown(&run.run_id, words::NAME_BYTES_MAX)),
        escape(&words::shown(&run.agent_version, words::NAME_BYTES_MAX)),
        attack::version()
    );
    text
}

fn head(text: &mut String, run: &Run) {
    let hash = |source: &str| STANDARD.encode(Sha256::digest(source.as_bytes()));
    put!(
        text,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{}'; \
         script-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"referrer\" content=\"no-referrer\">\
         <title>{}: {}</title><style>{STYLE}</style></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to the report</a>",
        hash(STYLE),
        hash(SCRIPT),
        escape(verdict_name(run.verdict())),
        escape(&words::command(&run.command, 80))
    );
}

fn banner(text: &mut String, run: &Run) {
    // A shape for each, so that it is not the colour alone that tells.
    let (class, mark) = match run.verdict() {
        Verdict::Pass => ("pass", "M7 12.5l3.5 3.5L17 9"),
        Verdict::Fail => ("fail", "M8 8l8 8M16 8l-8 8"),
        Verdict::Inconclusive => ("inconclusive", "M12 7v6M12 16.5v.5"),
        Verdict::Unspecified => ("not-judged", "M7 12h10"),
    };
    let mode = match run.mode() {
        PolicyMode::Observe | PolicyMode::Warn => format!(
            "<p>Mode {}: the exit code was the command’s own.</p>",
            mode_name(run.mode())
        ),
        PolicyMode::Unspecified | PolicyMode::Enforce => String::new(),
    };
    put!(
        text,
        "<header class=\"band {class}\"><div><p class=\"eyebrow\">Staghound run report</p><h1>\
         <svg viewBox=\"0 0 24 24\" aria-hidden=\"true\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2.2\" \
         stroke-linecap=\"round\" stroke-linejoin=\"round\"><circle cx=\"12\" cy=\"12\" r=\"10.5\"/><path d=\"{mark}\"/></svg>\
         {}</h1><p class=\"why\">{}.</p>{mode}<code>{}</code></div></header>",
        escape(&capital(verdict_name(run.verdict()))),
        escape(&capital(words::why(run).trim_end_matches('.'))),
        escape(&words::command(&run.command, words::PATH_BYTES_MAX))
    );
}

fn capital(text: &str) -> String {
    let mut characters = text.chars();
    characters
        .next()
        .map_or(String::new(), |first| first.to_uppercase().chain(characters).collect())
}

fn navigation(text: &mut String, run: &Run) {
    text.push_str("<nav aria-label=\"Sections\"><div>");
    for (id, name, number, not_kept) in [
        ("findings", "Findings", run.findings.len(), run.findings_not_kept),
        ("limits", "Limits", run.limits.len(), 0),
        ("processes", "Processes", run.processes.len(), run.processes_not_kept),
        ("timeline", "Timeline", 0, 0),
        ("attack", "ATT&amp;CK", 0, 0),
        ("network", "Network", run.endpoints.len(), run.endpoints_not_kept),
        ("artifacts", "Artifacts", run.artifacts.len(), run.artifacts_not_kept),
        ("materials", "Decided by", run.materials.len(), 0),
    ] {
        let number = match words::number(number).saturating_add(not_kept) {
            0 => String::new(),
            number if number > 9999 => " <b>9999+</b>".to_owned(),
            number => format!(" <b>{number}</b>"),
        };
        put!(text, "<a href=\"#{id}\">{name}{number}</a>");
    }
    text.push_str("</div></nav>");
}

fn facts(text: &mut String, run: &Run) {
    let host = run.host.clone().unwrap_or_default();
    let code = run.exit_code.map_or("unknown".to_owned(), |code| code.to_string());
    text.push_str("<dl class=\"facts\">");
    for (name, value) in [
        ("Started", words::time(run.started.as_ref())),
        ("Took", words::duration(run)),
        ("Exit code", code),
        ("Events looked at", run.events.to_string()),
        ("Events lost", run.events_lost.to_string()),
        ("Mode", mode_name(run.mode()).to_owned()),
        ("Host", words::shown(&host.name, 80)),
        ("Kernel", words::shown(&host.kernel, 80)),
    ] {
        let value = if value.is_empty() { "unknown" } else { &value };
        put!(text, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    }
    text.push_str("</dl>");
}

fn section(text: &mut String, id: &str, headline: &str, lead: &str) {
    put!(
        text,
        "<section id=\"{id}\" aria-labelledby=\"h-{id}\"><h2 id=\"h-{id}\">{headline}</h2>"
    );
    if !lead.is_empty() {
        put!(text, "<p class=\"lead\">{lead}</p>");
    }
}

fn more(text: &mut String, number: u64, what: &str) {
    if number > 0 {
        put!(text, "<p class=\"more\">… and {number} more {what}.</p>");
    }
}

/// Prose of rules and policies: what stands in backticks is code.
fn prose(value: &str) -> String {
    let parts: Vec<&str> = value.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(value);
    }
    let part = |(index, part): (usize, &&str)| {
        if index.is_multiple_of(2) {
            escape(part)
        } else {
            format!("<code>{}</code>", escape(part))
        }
    };
    parts.iter().enumerate().map(part).collect()
}

/// What all sections need to point at findings.
struct Page<'a> {
    findings: &'a [&'a Finding],
    /// Number of the card of a finding, by its fingerprint.
    cards: HashMap<&'a str, usize>,
}

impl<'a> Page<'a> {
    fn new(findings: &'a [&'a Finding]) -> Self {
        let mut cards = HashMap::new();
        for (number, finding) in findings.iter().take(FINDINGS_MAX).enumerate() {
            let fingerprint = finding.alert.as_ref().map_or("", |alert| alert.fingerprint.as_str());
            cards.entry(fingerprint).or_insert(number);
        }
        Self { findings, cards }
    }

    fn findings(&self, text: &mut String, run: &Run) {
        section(text, "findings", "Findings", "");
        if self.findings.is_empty() {
            text.push_str("<p class=\"none\">Nothing was found.</p>");
        } else {
            text.push_str("<div class=\"filters\" id=\"filters\" hidden><input type=\"search\" placeholder=\"Filter: a name, a path, a rule\" aria-label=\"Filter findings\">");
            for decision in [
                Decision::Failed,
                Decision::Warned,
                Decision::Waived,
                Decision::Tolerated,
                Decision::Unspecified,
            ] {
                let number = self
                    .findings
                    .iter()
                    .filter(|finding| finding.decision() == decision)
                    .count();
                if number > 0 {
                    let name = decision_name(decision);
                    put!(
                        text,
                        "<label><input type=\"checkbox\" value=\"{name}\" checked>{name} ({number})</label>"
                    );
                }
            }
            text.push_str("<span class=\"none\" id=\"shown\" role=\"status\"></span></div>");
        }
        for (number, finding) in self.findings.iter().take(FINDINGS_MAX).enumerate() {
            card(text, number, finding);
        }
        let not_shown = words::number(self.findings.len().saturating_sub(FINDINGS_MAX));
        more(text, not_shown.saturating_add(run.findings_not_kept), "findings");
        text.push_str("</section>");
    }

    /// The tree of processes, findings on it.
    fn tree(&self, text: &mut String, run: &Run) {
        section(
            text,
            "processes",
            "Processes",
            "Who started whom. What was found is on the process that did it.",
        );
        if run.processes.is_empty() {
            text.push_str("<p class=\"none\">None were recorded.</p></section>");
            return;
        }
        text.push_str(
            "<p><button hidden data-of=\"processes\" data-fold=\"open\">Unfold all</button> \
             <button hidden data-of=\"processes\" data-fold=\"close\">Fold all</button></p>\
             <div class=\"card pad\"><ul class=\"tree\">",
        );
        let mut not_shown = 0;
        for (depth, step) in walk(&run.processes) {
            match step {
                Step::Open(process, has_children) => self.node(text, process, has_children, depth),
                Step::Close => text.push_str("</ul></details></li>"),
                Step::NotShown => not_shown += 1,
            }
        }
        text.push_str("</ul></div>");
        more(text, run.processes_not_kept.saturating_add(not_shown), "processes");
        text.push_str("</section>");
    }

    fn node(&self, text: &mut String, told: &RunProcess, has_children: bool, depth: usize) {
        let process = told.process.clone().unwrap_or_default();
        let (open, close) = if has_children {
            // What is deep is folded where nothing was found.
            let is_open = depth < 6 || !told.findings.is_empty();
            (
                if is_open {
                    "<details open><summary>"
                } else {
                    "<details><summary>"
                },
                "</summary><ul>",
            )
        } else {
            ("<div class=\"leaf\">", "</div></li>")
        };
        put!(
            text,
            "<li>{open}<b>{}</b> <span class=\"pid\">{}</span> <code class=\"args\">{}</code>",
            escape(&words::process_name(&process)),
            process.pid,
            escape(&words::command(&process.args, words::NAME_BYTES_MAX))
        );
        for fingerprint in told.findings.iter().take(LISTED_MAX) {
            let Some(number) = self.cards.get(fingerprint.as_str()) else {
                continue;
            };
            let severity = severity_name(words::severity(self.findings[*number]));
            put!(
                text,
                "<a class=\"chip {severity}\" href=\"#f-{number}\">{severity}: {}</a>",
                escape(&words::title(self.findings[*number]))
            );
        }
        if told.survived {
            text.push_str("<span class=\"chip medium\">still running</span>");
        }
        if let Some(code) = told.exit_code.filter(|code| *code != 0) {
            put!(text, "<span class=\"chip plain\">exit {code}</span>");
        }
        for socket in told.sockets.iter().take(5) {
            put!(
                text,
                "<span class=\"chip plain\">{}</span>",
                escape(&words::shown(socket, 80))
            );
        }
        text.push_str(close);
    }

    /// Techniques by tactic.
    fn matrix(&self, text: &mut String) {
        section(
            text,
            "attack",
            "ATT&amp;CK",
            "Techniques of what was found, by tactic, coloured by the worst finding of each.",
        );
        let mut columns: BTreeMap<usize, BTreeMap<&str, (Severity, u64, usize)>> = BTreeMap::new();
        let mut names = HashMap::new();
        for (number, finding) in self.findings.iter().take(FINDINGS_MAX).enumerate() {
            for technique in finding.alert.as_ref().map_or(&[][..], |alert| &alert.techniques) {
                if technique_address(&technique.id).is_none() {
                    continue;
                }
                names.insert(technique.id.as_str(), technique.name.as_str());
                for tactic in &technique.tactics {
                    let Some(column) = TACTICS.iter().position(|(id, _)| id == tactic) else {
                        continue;
                    };
                    let cell = columns.entry(column).or_default().entry(&technique.id).or_insert((
                        Severity::Unspecified,
                        0,
                        number,
                    ));
                    cell.0 = cell.0.max(words::severity(finding));
                    cell.1 = cell.1.saturating_add(finding.times);
                }
            }
        }
        if columns.is_empty() {
            text.push_str("<p class=\"none\">No technique was seen.</p></section>");
            return;
        }
        text.push_str("<div class=\"scroll\"><div class=\"matrix\">");
        for (column, cells) in &columns {
            put!(text, "<div><h3>{}</h3>", TACTICS[*column].1);
            for (id, (severity, times, number)) in cells.iter().take(CELLS_MAX) {
                let times = if *times > 1 {
                    format!(" · {times} times")
                } else {
                    String::new()
                };
                put!(
                    text,
                    "<a class=\"cell {severity}\" href=\"#f-{number}\"><strong>{}</strong><small>{id} · {severity}{times}</small></a>",
                    escape(&words::shown(names.get(id).unwrap_or(id), words::NAME_BYTES_MAX)),
                    severity = severity_name(*severity),
                );
            }
            text.push_str("</div>");
        }
        let empty: Vec<&str> = TACTICS
            .iter()
            .enumerate()
            .filter(|(column, _)| !columns.contains_key(column))
            .map(|(_, (_, name))| *name)
            .collect();
        text.push_str("</div></div>");
        if !empty.is_empty() {
            put!(text, "<p class=\"more\">Nothing of: {}.</p>", empty.join(", "));
        }
        text.push_str("</section>");
    }
}

fn card(text: &mut String, number: usize, finding: &Finding) {
    let severity = severity_name(words::severity(finding));
    let decision = decision_name(finding.decision());
    let open = if finding.decision() == Decision::Failed && number < 20 {
        " open"
    } else {
        ""
    };
    put!(
        text,
        "<article class=\"card finding {severity}\" id=\"f-{number}\" data-decision=\"{decision}\"><details{open}>\
         <summary><span class=\"chip {severity}\">{severity}</span><h3>{}</h3>\
         <span class=\"chip {decision}\">{decision}</span>",
        escape(&words::title(finding))
    );
    if finding.times > 1 {
        put!(text, "<span class=\"chip plain\">{} times</span>", finding.times);
    }
    put!(
        text,
        "</summary><div class=\"body\"><p class=\"what mono\">{}</p>",
        escape(&words::message(finding))
    );
    let description = words::description(finding);
    if !description.is_empty() {
        put!(text, "<p class=\"about\">{}</p>", prose(&description));
    }
    text.push_str("<dl class=\"rows\">");
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            put!(text, "<dt>{name}</dt><dd>{value}</dd>");
        }
    };
    let code = |value: &str| {
        if value.is_empty() {
            String::new()
        } else {
            format!("<code>{}</code>", escape(value))
        }
    };
    let alert = finding.alert.clone().unwrap_or_default();
    let process = alert.process.clone().unwrap_or_default();
    row("Process", code(&words::chain(&process, &alert.ancestors, 16)));
    row("Command", code(&words::command(&process.args, words::TEXT_BYTES_MAX)));
    row(
        "Executable",
        code(&words::shown(&process.executable, words::PATH_BYTES_MAX)),
    );
    if let Some(event) = &alert.event {
        let object = words::object(event);
        let call = words::shown(&event.r#type, words::NAME_BYTES_MAX);
        row("Evidence", code(format!("{call} {object}").trim()));
    }
    for earlier in alert.earlier.iter().take(LISTED_MAX) {
        let event = earlier.event.clone().unwrap_or_default();
        let by = earlier.process.as_ref().map(words::process_name).unwrap_or_default();
        let line = format!(
            "{} {} by {by}",
            words::shown(&event.r#type, words::NAME_BYTES_MAX),
            words::object(&event)
        );
        row(
            "Before",
            format!("{}, {}", code(&line), words::time(earlier.event_time.as_ref())),
        );
    }
    let (first, last) = (
        words::time(alert.event_time.as_ref()),
        words::time(finding.last_time.as_ref()),
    );
    row(
        "When",
        if finding.times > 1 && last != first {
            format!("{first}, last {last}")
        } else {
            first
        },
    );
    let techniques: Vec<String> = alert
        .techniques
        .iter()
        .take(8)
        .map(|technique| {
            let name = escape(&words::shown(&technique.name, words::NAME_BYTES_MAX));
            super::technique_link(
                technique,
                |id, address| format!("<a href=\"{address}\" rel=\"noreferrer\">{id}</a> {name}"),
                escape,
            )
        })
        .collect();
    row("Techniques", techniques.join("<br>"));
    row("Rule", code(&words::rule_id(finding)));
    let reason = words::paragraph(&finding.reason);
    let reason = if reason.is_empty() {
        reason
    } else {
        format!(": {}", prose(&reason))
    };
    row(
        "Decided",
        format!("{decision} in scope {}{reason}", escape(&words::scope(finding))),
    );
    row("Waiver", code(&words::shown(&finding.waiver, words::NAME_BYTES_MAX)));
    for response in alert.responses.iter().take(LISTED_MAX) {
        let (action, outcome) = (words::paragraph(&response.action), words::paragraph(&response.outcome));
        row("Response", escape(&format!("{action}: {outcome}")));
    }
    text.push_str("</dl>");
    let remediation = words::remediation(finding);
    if !remediation.is_empty() {
        put!(
            text,
            "<div class=\"todo\"><h4>What to do</h4><p>{}</p></div>",
            prose(&remediation)
        );
    }
    text.push_str("</div></details></article>");
}

enum Step<'a> {
    Open(&'a RunProcess, bool),
    Close,
    NotShown,
}

/// The processes as one walks the tree: each before its children. Nothing here recurses, and no process is met twice,
/// whatever parents the message names.
fn walk(processes: &[RunProcess]) -> Vec<(usize, Step<'_>)> {
    let id = |told: &RunProcess| {
        told.process
            .as_ref()
            .map(|process| process.exec_id.clone())
            .unwrap_or_default()
    };
    let known: HashSet<String> = processes.iter().map(id).filter(|id| !id.is_empty()).collect();
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (index, told) in processes.iter().enumerate() {
        if known.contains(&told.parent_exec_id) && told.parent_exec_id != id(told) {
            children.entry(&told.parent_exec_id).or_default().push(index);
        } else {
            roots.push(index);
        }
    }
    let mut steps = Vec::new();
    let mut seen = vec![false; processes.len()];
    let mut shown = 0;
    // Those in a ring of parents are below no root; they come last, as roots.
    for start in roots.into_iter().chain(0..processes.len()) {
        let mut stack = vec![(start, 0, false)];
        while let Some((index, depth, is_end)) = stack.pop() {
            if is_end {
                steps.push((depth, Step::Close));
                continue;
            }
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            if shown >= PROCESSES_MAX {
                steps.push((depth, Step::NotShown));
            }
            let below: Vec<usize> = children
                .remove(id(&processes[index]).as_str())
                .unwrap_or_default()
                .into_iter()
                .filter(|child| !seen[*child])
                .collect();
            // Deeper than that, children stand beside their parent.
            let nests = !below.is_empty() && depth < DEPTH_MAX && shown < PROCESSES_MAX;
            if shown < PROCESSES_MAX {
                steps.push((depth, Step::Open(&processes[index], nests)));
                shown += 1;
            }
            if nests {
                stack.push((index, depth, true));
            }
            let depth = depth + usize::from(nests);
            stack.extend(below.into_iter().rev().map(|child| (child, depth, false)));
        }
    }
    steps
}

fn limits(text: &mut String, run: &Run) {
    section(
        text,
        "limits",
        "Losses and limits",
        "What was not seen, not checked or not done. Losing events makes a pass impossible.",
    );
    if run.limits.is_empty() && run.unused_waivers.is_empty() && run.responses.is_empty() && run.events_lost == 0 {
        text.push_str("<p class=\"none\">Nothing was lost, and nothing was left out.</p></section>");
        return;
    }
    text.push_str("<div class=\"card pad\"><ul class=\"plain\">");
    if run.events_lost > 0 {
        put!(
            text,
            "<li><span class=\"chip failed\">lost</span> {} events</li>",
            run.events_lost
        );
    }
    for limit in run.limits.iter().take(LISTED_MAX) {
        let chip = if limit.inconclusive {
            "<span class=\"chip failed\">inconclusive</span> "
        } else {
            ""
        };
        put!(text, "<li>{chip}{}</li>", escape(&words::paragraph(&limit.sentence)));
    }
    for waiver in run.unused_waivers.iter().take(LISTED_MAX) {
        let chip = if waiver.expired {
            "<span class=\"chip medium\">expired</span> "
        } else {
            ""
        };
        put!(
            text,
            "<li>{chip}Waiver <code>{}</code> of {} did nothing: {}</li>",
            escape(&words::shown(&waiver.id, words::NAME_BYTES_MAX)),
            escape(&words::shown(&waiver.owner, words::NAME_BYTES_MAX)),
            escape(&words::paragraph(&waiver.reason))
        );
    }
    for response in run.responses.iter().take(LISTED_MAX) {
        put!(
            text,
            "<li>Response: {}: {}</li>",
            escape(&words::paragraph(&response.action)),
            escape(&words::paragraph(&response.outcome))
        );
    }
    text.push_str("</ul></div>");
    let beyond = |length: usize| words::number(length.saturating_sub(LISTED_MAX));
    more(
        text,
        beyond(run.limits.len()) + beyond(run.unused_waivers.len()) + beyond(run.responses.len()),
        "of these",
    );
    text.push_str("</section>");
}

/// Whether an address is one that is routed beyond the host's own networks; names that were only asked for are.
fn is_outside(endpoint: &Endpoint) -> bool {
    use std::net::IpAddr;
    match endpoint.address.parse::<IpAddr>().map(|address| address.to_canonical()) {
        Ok(IpAddr::V4(address)) => !(address.is_loopback() || address.is_private() || address.is_link_local()),
        Ok(IpAddr::V6(address)) => {
            !(address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local())
        }
        Err(_) => endpoint.address.is_empty(),
    }
}

fn network(text: &mut String, run: &Run) {
    section(
        text,
        "network",
        "Network",
        "Which process talked to whom. Connections beyond the host’s own networks are in colour; the thicker, the more bytes.",
    );
    if run.endpoints.is_empty() {
        text.push_str("<p class=\"none\">Nobody was talked to.</p>");
        more(text, run.endpoints_not_kept, "endpoints");
        text.push_str("</section>");
        return;
    }
    charts::map(text, run);
    text.push_str(
        "<div class=\"card scroll\"><table><thead><tr><th>Process</th><th>What</th><th>Whom</th><th class=\"n\">Times</th>\
         <th class=\"n\">Sent</th><th class=\"n\">Received</th></tr></thead><tbody>",
    );
    for endpoint in run.endpoints.iter().take(ROWS_MAX) {
        put!(
            text,
            "<tr><td>{}</td><td>{}</td><td class=\"w mono\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td></tr>",
            escape(&words::shown(&endpoint.process, 80)),
            escape(&words::shown(&endpoint.direction, 80)),
            escape(&words::endpoint(endpoint)),
            endpoint.times,
            words::bytes(endpoint.bytes_sent),
            words::bytes(endpoint.bytes_received)
        );
    }
    text.push_str("</tbody></table></div>");
    let not_shown = words::number(run.endpoints.len().saturating_sub(ROWS_MAX));
    more(text, not_shown.saturating_add(run.endpoints_not_kept), "endpoints");
    text.push_str("</section>");
}

fn artifacts(text: &mut String, run: &Run) {
    section(
        text,
        "artifacts",
        "Artifacts",
        "Files that the run wrote, and then ran, loaded or left behind.",
    );
    if run.artifacts.is_empty() {
        text.push_str("<p class=\"none\">None.</p>");
    } else {
        text.push_str(
            "<div class=\"card scroll\"><table><thead><tr><th>Path and SHA-256</th><th>What became of it</th><th>Written by</th>\
             <th class=\"n\">Size</th></tr></thead><tbody>",
        );
    }
    for artifact in run.artifacts.iter().take(ROWS_MAX) {
        let digest = if artifact.sha256.is_empty() {
            format!("no digest: {}", words::paragraph(&artifact.not_hashed))
        } else {
            words::shown(&artifact.sha256, words::NAME_BYTES_MAX)
        };
        let facts: String = words::artifact_facts(artifact)
            .into_iter()
            .map(|fact| {
                let class = if fact == "from the network" { "high" } else { "plain" };
                format!("<span class=\"chip {class}\">{fact}</span> ")
            })
            .collect();
        let writer = artifact.writer.clone().unwrap_or_default();
        put!(
            text,
            "<tr><td class=\"w mono\">{}<span class=\"digest\">{}</span></td><td>{facts}</td><td>{}</td>\
             <td class=\"n\">{}</td></tr>",
            escape(&words::shown(&artifact.path, words::PATH_BYTES_MAX)),
            escape(&digest),
            escape(&words::chain(&writer, &artifact.writer_ancestors, 4)),
            words::bytes(artifact.size)
        );
    }
    if !run.artifacts.is_empty() {
        text.push_str("</tbody></table></div>");
    }
    let not_shown = words::number(run.artifacts.len().saturating_sub(ROWS_MAX));
    more(text, not_shown.saturating_add(run.artifacts_not_kept), "artifacts");
    text.push_str("</section>");
}

fn materials(text: &mut String, run: &Run) {
    section(
        text,
        "materials",
        "Decided by",
        "Policy, rules and waivers as they were read before the command started.",
    );
    if run.materials.is_empty() {
        text.push_str("<p class=\"none\">Not told.</p></section>");
        return;
    }
    text.push_str(
        "<div class=\"card scroll\"><table><thead><tr><th>What</th><th>Where and digest</th></tr></thead><tbody>",
    );
    for material in run.materials.iter().take(LISTED_MAX) {
        let path = if material.path.is_empty() {
            "built in"
        } else {
            &material.path
        };
        put!(
            text,
            "<tr><td>{}</td><td class=\"w mono\">{}<span class=\"digest\">{}</span></td></tr>",
            escape(&words::shown(&material.kind, 80)),
            escape(&words::shown(path, words::PATH_BYTES_MAX)),
            escape(&words::shown(&material.digest, words::NAME_BYTES_MAX))
        );
    }
    text.push_str("</tbody></table></div>");
    more(
        text,
        words::number(run.materials.len().saturating_sub(LISTED_MAX)),
        "of these",
    );
    text.push_str("</section>");
}

/// Name and pid.
fn label(process: &Process) -> String {
    format!("{} {}", words::clip(&words::process_name(process), 20), process.pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(id: &str, parent: &str) -> RunProcess {
        RunProcess {
            process: Some(Process {
                exec_id: id.to_owned(),
                ..Process::default()
            }),
            parent_exec_id: parent.to_owned(),
            ..RunProcess::default()
        }
    }

    fn walked(processes: &[RunProcess]) -> String {
        walk(processes)
            .into_iter()
            .map(|(_, step)| match step {
                Step::Open(told, true) => format!("{}(", told.process.as_ref().unwrap().exec_id),
                Step::Open(told, false) => told.process.as_ref().unwrap().exec_id.clone(),
                Step::Close => ")".to_owned(),
                Step::NotShown => "-".to_owned(),
            })
            .collect()
    }

    #[test]
    fn trees_are_walked_whatever_parents_are_named() {
        for (processes, expected) in [
            (
                vec![
                    process("a", ""),
                    process("b", "a"),
                    process("c", "b"),
                    process("d", "a"),
                ],
                "a(b(c)d)",
            ),
            // Nobody's child, its own parent, and two that are each other's.
            (
                vec![
                    process("a", "x"),
                    process("b", "b"),
                    process("c", "d"),
                    process("d", "c"),
                ],
                "abc(d)",
            ),
            (vec![process("", ""), process("", "")], ""),
        ] {
            assert_eq!(walked(&processes), expected);
        }
        let deep: Vec<RunProcess> = (0..3000)
            .map(|index: u32| process(&format!("{index}x"), &format!("{}x", index.wrapping_sub(1))))
            .collect();
        let walked = walked(&deep);
        assert_eq!(walked.matches('(').count(), DEPTH_MAX);
        assert_eq!(walked.matches('(').count(), walked.matches(')').count());
        assert_eq!(walked.matches('x').count(), PROCESSES_MAX);
        assert_eq!(walked.matches('-').count(), 3000 - PROCESSES_MAX);
    }

    #[test]
    fn what_is_outside() {
        for (address, expected) in [
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("203.0.113.7", true),
            ("fe80::1", false),
            ("2001:db8::1", true),
            ("/run/x", false),
            ("", true),
        ] {
            let endpoint = Endpoint {
                address: address.to_owned(),
                ..Endpoint::default()
            };
            assert_eq!(is_outside(&endpoint), expected, "{address}");
        }
    }
}
