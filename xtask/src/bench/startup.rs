//! From the agent's start to the first event of each sort, while something goes on all the time.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::figures::Figure;
use super::watched::{TAG, Watched, boot_ns};
use super::{Programs, median};

const TIMEOUT: Duration = Duration::from_secs(30);
const FIRST_EVENT_MS: f64 = 200.0;
const ATTACHED_MS: f64 = 500.0;

pub(super) fn measure(programs: &Programs, runs: u32) -> Result<Vec<Figure>> {
    let (mut execs, mut opens, mut attached) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        let one = start_once(programs)?;
        execs.push(one.exec_ms);
        opens.push(one.open_ms);
        attached.push(one.attached_ms);
    }
    let figure = |name: &str, values: &[f64], limit: f64, target: &'static str| {
        let middle = median(values.iter().copied());
        let most = values.iter().copied().fold(0.0, f64::max);
        Figure {
            name: name.to_owned(),
            value: format!("{middle:.0} ms (most {most:.0})"),
            target,
            is_met: middle <= limit,
        }
    };
    Ok(vec![
        figure("start to the first exec event", &execs, FIRST_EVENT_MS, "≤ 200 ms"),
        figure("start to the first open event", &opens, FIRST_EVENT_MS, "≤ 200 ms"),
        figure(
            "start to everything attached (/readyz)",
            &attached,
            ATTACHED_MS,
            "≤ 500 ms",
        ),
    ])
}

struct Start {
    exec_ms: f64,
    open_ms: f64,
    attached_ms: f64,
}

fn start_once(programs: &Programs) -> Result<Start> {
    let monitor = &programs.monitor;
    let mut watched = Watched::start(&monitor.agent, &monitor.arguments, &programs.directory)?;
    let deadline = Instant::now() + TIMEOUT;
    let (mut exec, mut open, mut attached) = (None, None, None);
    let mut number = 0_u64;
    while exec.is_none() || open.is_none() || attached.is_none() {
        ensure!(
            Instant::now() < deadline,
            "the agent saw nothing within {} s",
            TIMEOUT.as_secs()
        );
        number += 1;
        // Another name each time, so that none is counted as a repetition of one that was not reported.
        let decoy = watched.decoy(&number.to_string())?;
        drop(File::open(&decoy).with_context(|| format!("cannot open {}", decoy.display()))?);
        let status = Command::new(&programs.load)
            .args(["noop", &format!("{TAG}-{number}")])
            .stdin(Stdio::null())
            .status()
            .context("cannot start `load noop`")?;
        ensure!(status.success(), "`load noop` failed ({status})");
        if attached.is_none() && watched.is_ready() {
            attached = Some(boot_ns()?);
        }
        while let Some(sighting) = watched.next(Duration::ZERO)? {
            let first = if sighting.rule == "bench/read" {
                &mut open
            } else {
                &mut exec
            };
            // Alerts come in the order in which things happened.
            first.get_or_insert(sighting.boot_ns);
        }
    }
    let since_start = |time: Option<u64>| -> Result<f64> {
        let nanos = time.context("all three have come")?.saturating_sub(watched.started_ns);
        Ok(Duration::from_nanos(nanos).as_secs_f64() * 1000.0)
    };
    let start = Start {
        exec_ms: since_start(exec)?,
        open_ms: since_start(open)?,
        attached_ms: since_start(attached)?,
    };
    watched.stop()?;
    Ok(start)
}
