//! Whether a flood of alerts hides anything: a watched file is opened over and over while programs run from memory.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Programs;
use super::figures::Figure;
use super::monitor::Counters;
use super::watched::{TAG, Watched};
use super::workload::Workload;

const EXECS: usize = 50;
/// The rule that must find them.
const MEMFD_RULE: &str = "stealth/exec-from-memory";
/// How long the agent may take for what is left when all is done.
const TIMEOUT: Duration = Duration::from_secs(30);

pub(super) fn measure(programs: &Programs, opens: u64) -> Result<Vec<Figure>> {
    let monitor = &programs.monitor;
    let mut watched = Watched::start(&monitor.agent, &monitor.arguments, &programs.directory)?;
    watched.wait_until_ready()?;
    let before = Counters::read(watched.http)?;
    let file = watched.decoy("flood")?;
    let storm = Workload::open_file(&programs.load, opens / 2, &file)?.start()?;
    let begun = Instant::now();
    let status = Command::new(&programs.load)
        .args(["memfd", &EXECS.to_string(), TAG])
        .stdin(Stdio::null())
        .status()
        .context("cannot start `load memfd`")?;
    ensure!(status.success(), "`load memfd` failed ({status})");
    let execs_took = begun.elapsed();
    storm.wait()?;
    let storm_took = begun.elapsed();

    let mut found = BTreeSet::new();
    let mut alerts = 0_u64;
    let deadline = Instant::now() + TIMEOUT;
    while found.len() < EXECS && Instant::now() < deadline {
        while let Some(sighting) = watched.next(Duration::from_millis(200))? {
            alerts += 1;
            if sighting.rule == MEMFD_RULE
                && let Some((_, number)) = sighting.subject.rsplit_once(&format!("{TAG}-"))
            {
                found.insert(number.to_owned());
            }
        }
    }
    let after = Counters::read(watched.http)?;
    watched.stop()?;
    Ok(vec![
        Figure {
            name: format!("executions from memory found among {opens} watched opens"),
            value: format!("{} of {EXECS}", found.len()),
            target: "all",
            is_met: found.len() == EXECS,
        },
        Figure {
            name: format!(
                "records lost meanwhile (storm {:.1} s, executions {:.1} s, {alerts} alerts)",
                storm_took.as_secs_f64(),
                execs_took.as_secs_f64()
            ),
            value: after.lost.saturating_sub(before.lost).to_string(),
            target: "0",
            is_met: after.lost == before.lost,
        },
    ])
}
