//! From a system call to its alert on the agent's standard output.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Programs;
use super::figures::{Figure, quantile};
use super::watched::Watched;
use super::workload::Workload;

/// Between two samples: long enough for the agent to go to sleep again.
const PAUSE: Duration = Duration::from_millis(10);
const TIMEOUT: Duration = Duration::from_secs(10);
/// Opens of each of the storm's processes; far more than are done while we measure.
const STORM_OPENS: u64 = 1_000_000_000;

pub(super) fn measure(programs: &Programs, samples: u32) -> Result<Vec<Figure>> {
    let monitor = &programs.monitor;
    let mut watched = Watched::start(&monitor.agent, &monitor.arguments, &programs.directory)?;
    watched.wait_until_ready()?;
    let idle = sample(&mut watched, "idle", samples)?;
    let storm = Workload::open(&programs.load, STORM_OPENS).start()?;
    let busy = sample(&mut watched, "busy", samples)?;
    storm.stop();
    watched.stop()?;

    let figure = |name: &str, sorted: &[f64], share: f64, limit: f64, target: &'static str| {
        let value = quantile(sorted, share);
        Figure {
            name: name.to_owned(),
            value: format!("{value:.2} ms"),
            target,
            is_met: value <= limit,
        }
    };
    Ok(vec![
        figure("system call to alert, idle, p50", &idle, 0.5, 2.0, "≤ 2 ms"),
        figure("system call to alert, idle, p99", &idle, 0.99, 10.0, "≤ 10 ms"),
        figure("system call to alert, open storm, p50", &busy, 0.5, 25.0, "≤ 25 ms"),
        figure("system call to alert, open storm, p99", &busy, 0.99, 25.0, "≤ 25 ms"),
    ])
}

/// Milliseconds, sorted.
fn sample(watched: &mut Watched, name: &str, samples: u32) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for number in 0..samples {
        let decoy = watched.decoy(&format!("{name}-{number}"))?;
        // Writing it was an event too.
        std::thread::sleep(PAUSE);
        let begun = Instant::now();
        drop(File::open(&decoy).with_context(|| format!("cannot open {}", decoy.display()))?);
        let text = decoy.to_str().context("the path is not UTF-8")?;
        let seen = loop {
            let sighting = watched.next(TIMEOUT)?;
            let sighting = sighting.with_context(|| format!("no alert about {text} within {} s", TIMEOUT.as_secs()))?;
            if sighting.subject.ends_with(text) {
                break sighting;
            }
        };
        times.push(seen.at.saturating_duration_since(begun).as_secs_f64() * 1000.0);
    }
    ensure!(!times.is_empty(), "no samples were wanted");
    times.sort_by(f64::total_cmp);
    Ok(times)
}
