//! Layers for ATT&CK Navigator (format 4.5): techniques with a score and the reason for it.
//!
//! <https://github.com/mitre-attack/attack-navigator/blob/master/layers/spec/v4.5/layerformat.md>

use std::collections::BTreeMap;

use serde_json::{Value, json};
use staghound_engine::attack;
use staghound_proto::v1::{Run, Severity};

use super::words;
use crate::{decision_name, severity_name, verdict_name};

/// Version of the layer format that ATT&CK Navigator reads, and of the Navigator that wrote it first.
const LAYER_VERSION: &str = "4.5";
const NAVIGATOR_VERSION: &str = "5.1.0";
/// Techniques of a layer; ATT&CK has some seven hundred.
const TECHNIQUES_MAX: usize = 1000;
/// Findings named in the comment of a technique.
const COMMENTS_MAX: usize = 20;

/// A technique in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scored {
    /// Its id.
    pub id: String,
    /// How much of it there is.
    pub score: u64,
    /// Why, in lines.
    pub comment: String,
}

/// What a layer is called, and what its scores mean.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the scores say.
    pub description: &'a str,
    /// Colours from the lowest score to the highest.
    pub colours: &'a [&'a str],
    /// The highest score there can be.
    pub score_max: u64,
    /// Colour and meaning, for the legend.
    pub legend: &'a [(&'a str, &'a str)],
}

/// The layer as JSON, ending with a line feed.
#[must_use]
pub fn layer(layer: &Layer<'_>, techniques: &[Scored]) -> String {
    let techniques: Vec<Value> = techniques
        .iter()
        .map(|technique| {
            json!({
                "techniqueID": technique.id,
                "score": technique.score,
                "comment": technique.comment,
                "showSubtechniques": true,
            })
        })
        .collect();
    let legend: Vec<Value> = layer
        .legend
        .iter()
        .map(|(colour, label)| json!({"label": label, "color": colour}))
        .collect();
    let layer = json!({
        "name": layer.name,
        "description": layer.description,
        "domain": "enterprise-attack",
        "versions": {
            "attack": attack::version().split('.').next().unwrap_or_default(),
            "navigator": NAVIGATOR_VERSION,
            "layer": LAYER_VERSION,
        },
        "filters": {"platforms": ["Linux", "Containers"]},
        "techniques": techniques,
        "gradient": {"colors": layer.colours, "minValue": 1, "maxValue": layer.score_max.max(2)},
        "legendItems": legend,
        "hideDisabled": false,
    });
    format!("{layer:#}\n")
}

/// The techniques of a run, scored by the worst finding of each.
#[must_use]
pub fn render(run: &Run) -> String {
    let mut found: BTreeMap<&str, (u64, Vec<String>, usize)> = BTreeMap::new();
    for finding in words::ordered(run) {
        for technique in finding.alert.as_ref().map_or(&[][..], |alert| &alert.techniques) {
            // What is no id would make the layer unreadable as a whole.
            if !attack::is_technique_id(&technique.id) {
                continue;
            }
            let (score, comments, more) = found.entry(&technique.id).or_default();
            *score = (*score).max(score_of(words::severity(finding)));
            if comments.len() < COMMENTS_MAX {
                comments.push(format!(
                    "{} {}: {} ({})",
                    severity_name(words::severity(finding)),
                    words::rule_id(finding),
                    words::clip(&words::message(finding), words::NAME_BYTES_MAX),
                    decision_name(finding.decision())
                ));
            } else {
                *more += 1;
            }
        }
    }
    let techniques: Vec<Scored> = found
        .into_iter()
        .take(TECHNIQUES_MAX)
        .map(|(id, (score, mut comments, more))| {
            if more > 0 {
                comments.push(format!("… and {more} more"));
            }
            Scored {
                id: id.to_owned(),
                score,
                comment: comments.join("\n"),
            }
        })
        .collect();
    let not_kept = match run.findings_not_kept {
        0 => String::new(),
        more => format!(" {more} more findings were not kept."),
    };
    layer(
        &Layer {
            name: &format!("Staghound run {}", words::shown(&run.run_id, words::NAME_BYTES_MAX)),
            description: &format!(
                "Verdict {}: {}. The score is the severity of the worst finding, 1 to 5.{not_kept}",
                verdict_name(run.verdict()),
                words::why(run)
            ),
            colours: &["#c6dbef", "#fdd49e", "#fc8d59", "#d7301f", "#7f0000"],
            score_max: 5,
            legend: &[
                ("#c6dbef", "informational"),
                ("#fdd49e", "low"),
                ("#fc8d59", "medium"),
                ("#d7301f", "high"),
                ("#7f0000", "critical"),
            ],
        },
        &techniques,
    )
}

const fn score_of(severity: Severity) -> u64 {
    match severity {
        Severity::Unspecified | Severity::Informational => 1,
        Severity::Low => 2,
        Severity::Medium => 3,
        Severity::High => 4,
        Severity::Critical => 5,
    }
}
