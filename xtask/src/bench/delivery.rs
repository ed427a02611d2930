//! What delivery achieves from agents to a collector and on to a subscriber.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::figures::Figure;
use crate::command::output;

/// Names that the fleet gives its figures, what they are, and what they should be at least or, the last, at most.
const FIGURES: [(&str, &str, Option<f64>, &str); 9] = [
    (
        "floor_items_per_s",
        "bare TLS and fsync, 256 × 500 bytes: items/s",
        None,
        "",
    ),
    (
        "one_agent_items_per_s",
        "one agent, mTLS, durable: items/s",
        Some(50_000.0),
        "≥ 50000",
    ),
    ("one_agent_per_floor", "one agent ÷ floor", Some(0.5), "≥ 0.5"),
    ("fleet_items_per_s", "all agents in sum: items/s", None, ""),
    ("fleet_per_one_agent", "all agents ÷ one agent", Some(0.8), "≥ 0.8"),
    (
        "fleet_collector_cpu_us_per_item",
        "collector, CPU per item: µs",
        None,
        "",
    ),
    (
        "catch_up_items_per_s",
        "subscriber catching up: items/s",
        Some(200_000.0),
        "≥ 200000",
    ),
    ("collector_rss_anon_mib", "collector, RssAnon: MiB", None, ""),
    (
        "collector_rss_mib",
        "collector, RSS with all agents: MiB",
        Some(150.0),
        "≤ 150",
    ),
];

/// Runs the fleet against a collector.
pub(super) fn measure(fleet: &Path, collector: &Path, directory: &Path, quick: bool) -> Result<Vec<Figure>> {
    let (items, agents) = if quick { ("51200", "50") } else { ("512000", "1000") };
    let mut command = Command::new(fleet);
    command
        .arg(collector)
        .arg(directory.join("delivery"))
        .args([items, agents]);
    let text = output(&mut command).context("the fleet did not deliver")?;
    FIGURES
        .iter()
        .map(|(key, name, target, target_text)| {
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('\t'));
            let value: f64 = value
                .with_context(|| format!("the fleet did not tell {key}"))?
                .parse()?;
            let is_most = target_text.starts_with('≤');
            Ok(Figure {
                name: (*name).to_owned(),
                value: format!("{value:.2}"),
                target: target_text,
                is_met: target.is_none_or(|target| if is_most { value <= target } else { value >= target }),
            })
        })
        .collect()
}
