//! What is drawn: the timeline, and who talked to whom. Positions are numbers of ours; names are escaped text.

use std::{collections::HashMap, fmt::Write as _};

use staghound_proto::v1::{Endpoint, Finding, Process, Run, RunProcess};

use super::{escape, is_outside, label, more, put, section, severity_name, words};

/// Lanes of the timeline.
const LANES_MAX: usize = 40;
/// Marks on it.
const MARKS_MAX: usize = 300;
/// Height of a lane, where its time begins, and how wide all times are.
const LANE: usize = 26;
const LEFT: f64 = 170.0;
const WIDTH: f64 = 830.0;
/// Boxes on each side of the map, and lines between them.
const BOXES_MAX: usize = 30;
const WIRES_MAX: usize = 200;

/// A lane for each process, a bar for its life, a mark for each finding.
pub(super) fn timeline(text: &mut String, run: &Run, findings: &[&Finding]) {
    section(
        text,
        "timeline",
        "Timeline",
        "How long each process lived, and when it did what was found.",
    );
    let span = Span::of(run, findings);
    let lanes = lanes(run);
    let (Some(span), false) = (span, lanes.is_empty()) else {
        text.push_str("<p class=\"none\">No times were recorded.</p></section>");
        return;
    };
    let height = lanes.len() * LANE + 34;
    put!(
        text,
        "<div class=\"card pad\"><div class=\"scroll\"><svg class=\"chart\" viewBox=\"0 0 1020 {height}\" role=\"img\" \
         aria-label=\"Timeline of {} processes\">",
        lanes.len()
    );
    for tick in 0..=4_u8 {
        let part = f64::from(tick) / 4.0;
        let (x, anchor) = (LEFT + WIDTH * part, if tick == 4 { "end" } else { "middle" });
        put!(
            text,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"20\" x2=\"{x:.1}\" y2=\"{height}\"/>\
             <text class=\"quiet\" x=\"{x:.1}\" y=\"12\" text-anchor=\"{anchor}\">{}</text>",
            words::span(span.seconds * part)
        );
    }
    let mut lane_of = HashMap::new();
    for (number, told) in lanes.iter().enumerate() {
        let process = told.process.clone().unwrap_or_default();
        let y = 24 + number * LANE;
        let start = span.at(process.start_time.as_ref()).unwrap_or(0.0);
        let end = span.at(told.finished.as_ref()).unwrap_or(1.0).max(start);
        let (x, width) = (LEFT + WIDTH * start, (WIDTH * (end - start)).max(2.0));
        let (bar, lives) = (y + 6, if told.survived { ", still running" } else { "" });
        put!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect class=\"bar\" x=\"{x:.1}\" y=\"{bar}\" width=\"{width:.1}\" height=\"12\" rx=\"3\"><title>{}: {}{lives}</title></rect>",
            LEFT - 10.0,
            y + 16,
            escape(&label(&process)),
            escape(&words::command(&process.args, words::NAME_BYTES_MAX)),
            words::span(span.seconds * (end - start))
        );
        if told.survived {
            let right = x + width;
            put!(
                text,
                "<path class=\"bar\" d=\"M{right:.1} {} l9 9 l-9 9 z\"><title>still running</title></path>",
                y + 3
            );
        }
        lane_of.insert(process.exec_id, y);
    }
    let mut not_marked = 0;
    for (number, finding) in findings.iter().enumerate() {
        let alert = finding.alert.as_ref();
        let by = alert
            .and_then(|alert| alert.process.as_ref())
            .map_or("", |process| &process.exec_id);
        let at = alert.and_then(|alert| span.at(alert.event_time.as_ref()));
        let (Some(y), Some(at), true) = (lane_of.get(by), at, number < MARKS_MAX) else {
            not_marked += 1;
            continue;
        };
        let severity = severity_name(words::severity(finding));
        put!(
            text,
            "<a href=\"#f-{number}\"><path class=\"mark {severity}\" d=\"M{:.1} {} l8 8 l-8 8 l-8 -8 z\"><title>{severity}: {}</title></path></a>",
            LEFT + WIDTH * at,
            y + 4,
            escape(&words::title(finding))
        );
    }
    text.push_str("</svg></div><div class=\"legend\">");
    for severity in ["critical", "high", "medium", "low", "informational"] {
        put!(text, "<span class=\"chip {severity}\">◆ {severity}</span>");
    }
    text.push_str("</div></div>");
    more(
        text,
        words::number(run.processes.len() - lanes.len()),
        "processes without a lane",
    );
    more(text, not_marked, "findings without a mark");
    text.push_str("</section>");
}

/// From the first to the last time that is known.
struct Span {
    start: i128,
    seconds: f64,
}

impl Span {
    #[expect(clippy::cast_precision_loss, reason = "a pixel is what is asked for")]
    fn of(run: &Run, findings: &[&Finding]) -> Option<Self> {
        let of_processes = run.processes.iter().flat_map(|told| {
            let start = told.process.as_ref().and_then(|process| process.start_time.as_ref());
            [start, told.finished.as_ref()]
        });
        let of_findings = findings
            .iter()
            .map(|finding| finding.alert.as_ref()?.event_time.as_ref());
        let all: Vec<i128> = [run.started.as_ref(), run.finished.as_ref()]
            .into_iter()
            .chain(of_processes)
            .chain(of_findings)
            .filter_map(words::nanos)
            .collect();
        let (start, end) = (*all.iter().min()?, *all.iter().max()?);
        (end > start).then(|| Self {
            start,
            seconds: (end - start) as f64 / 1e9,
        })
    }

    /// Where a time lies, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a pixel is what is asked for")]
    fn at(&self, time: Option<&prost_types::Timestamp>) -> Option<f64> {
        let nanos = words::nanos(time)?;
        Some(((nanos - self.start) as f64 / 1e9 / self.seconds).clamp(0.0, 1.0))
    }
}

/// Processes with findings, then those that lived longest; by start.
fn lanes(run: &Run) -> Vec<&RunProcess> {
    let start = |told: &RunProcess| words::nanos(told.process.as_ref().and_then(|process| process.start_time.as_ref()));
    let mut lanes: Vec<&RunProcess> = run.processes.iter().filter(|told| start(told).is_some()).collect();
    lanes.sort_by_key(|told| {
        let lived = words::nanos(told.finished.as_ref())
            .unwrap_or(i128::MAX)
            .saturating_sub(start(told).unwrap_or(0));
        (told.findings.is_empty(), std::cmp::Reverse(lived))
    });
    lanes.truncate(LANES_MAX);
    lanes.sort_by_key(|told| start(told));
    lanes
}

/// A box on one side of the map.
#[derive(Default)]
struct Side {
    places: HashMap<String, usize>,
    names: Vec<(String, String)>,
    not_drawn: u64,
}

impl Side {
    fn place(&mut self, key: &str, first: String, second: String) -> Option<usize> {
        if let Some(place) = self.places.get(key) {
            return Some(*place);
        }
        if self.names.len() >= BOXES_MAX {
            self.not_drawn += 1;
            return None;
        }
        self.names.push((first, second));
        self.places.insert(key.to_owned(), self.names.len() - 1);
        Some(self.names.len() - 1)
    }
}

/// Processes on the left, whom they talked to on the right.
pub(super) fn map(text: &mut String, run: &Run) {
    let by_id: HashMap<&str, &Process> = run
        .processes
        .iter()
        .filter_map(|told| told.process.as_ref())
        .map(|process| (process.exec_id.as_str(), process))
        .collect();
    let (mut left, mut right, mut wires) = (Side::default(), Side::default(), Vec::new());
    let mut ordered: Vec<&Endpoint> = run.endpoints.iter().collect();
    ordered.sort_by_key(|endpoint| !is_outside(endpoint));
    for endpoint in ordered {
        let process = by_id.get(endpoint.exec_id.as_str());
        let pid = process.map_or(String::new(), |process| format!("process {}", process.pid));
        let name = words::clip(&words::shown(&endpoint.process, 80), 24).into_owned();
        let key = format!("{} {}", endpoint.exec_id, words::clip(&endpoint.process, 80));
        let from = left.place(&key, name, pid);
        let whom = if endpoint.name.is_empty() {
            &endpoint.address
        } else {
            &endpoint.name
        };
        let place = words::endpoint(&Endpoint {
            name: String::new(),
            ..endpoint.clone()
        });
        let to = right.place(
            &words::clip(&format!("{whom} {place}"), 2000),
            words::clip(&words::shown(whom, 200), 44).into_owned(),
            words::clip(&format!("{} {place}", words::shown(&endpoint.direction, 40)), 60).into_owned(),
        );
        if let (Some(from), Some(to), true) = (from, to, wires.len() < WIRES_MAX) {
            let bytes = endpoint.bytes_sent.saturating_add(endpoint.bytes_received);
            wires.push((from, to, is_outside(endpoint), bytes.max(1).ilog10()));
        }
    }
    const BOX: usize = 40;
    const STEP: usize = 52;
    let rows = left.names.len().max(right.names.len());
    let height = rows * STEP + 4;
    let y = |place: usize, side: &Side| 4 + place * STEP + (rows - side.names.len()) * STEP / 2;
    put!(
        text,
        "<div class=\"card pad\"><div class=\"scroll\"><svg class=\"chart\" viewBox=\"0 0 1020 {height}\" role=\"img\" \
         aria-label=\"{} processes and {} whom they talked to; the table below has the same\">",
        left.names.len(),
        right.names.len()
    );
    for (from, to, is_out, digits) in wires {
        let (start, end) = (y(from, &left) + BOX / 2, y(to, &right) + BOX / 2);
        let class = if is_out { "wire out" } else { "wire" };
        let width = 1.0 + f64::from(digits.min(12)) * 0.6;
        put!(
            text,
            "<path class=\"{class}\" stroke-width=\"{width:.1}\" d=\"M240 {start} C 420 {start}, 420 {end}, 600 {end}\"/>"
        );
    }
    for (side, x, width) in [(&left, 0, 240), (&right, 600, 420)] {
        for (place, (first, second)) in side.names.iter().enumerate() {
            let top = y(place, side);
            put!(
                text,
                "<rect class=\"node\" x=\"{x}.5\" y=\"{top}\" width=\"{}\" height=\"{BOX}\" rx=\"6\"/>\
                 <text x=\"{}\" y=\"{}\">{}</text><text class=\"quiet\" x=\"{}\" y=\"{}\">{}</text>",
                width - 1,
                x + 12,
                top + 17,
                escape(first),
                x + 12,
                top + 33,
                escape(second)
            );
        }
    }
    text.push_str("</svg></div></div><p></p>");
    more(text, left.not_drawn + right.not_drawn, "that are not drawn");
}
