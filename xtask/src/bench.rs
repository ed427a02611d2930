//! What the agent costs: the same workload without and with it, in turn, as ratios.
//!
//! Machines drift (other tenants, heat, caches); pairs that follow each other drift together. So each pair gives one
//! ratio, and the median of the ratios is the result.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::binaries::{Profile, build_load, build_products};
use crate::command::{cargo, print, run, tell};
use crate::{setup, workspace};

mod workload;

mod monitor;

use monitor::{Monitor, Seen};
use workload::{Cost, Workload};

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure; all but `criterion` when not given
    #[arg(value_enum)]
    workload: Option<Choice>,
    /// Pairs
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// A tenth of the work: to see that it works, not to believe
    #[arg(long)]
    quick: bool,
    /// The agent delivers to a collector, as in production
    #[arg(long)]
    collector: bool,
    /// Measure this program instead of building one; called as `PROGRAM observe …`
    #[arg(long)]
    agent: Option<PathBuf>,
    /// More arguments for the agent's `observe`, such as `--agent-argument=--rules=DIR`
    #[arg(long = "agent-argument", value_name = "ARGUMENT", allow_hyphen_values = true)]
    agent_arguments: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// 20,000 × fork and exec
    Exec,
    /// 2 × 1,000,000 × open and close of one file, two at a time
    Open,
    /// 50,000 × connect, accept and close on loopback
    Tcp,
    /// A small C project, make -j2
    Build,
    /// The engine's and the decoder's micro-benchmarks
    Criterion,
}

/// One pair: the same workload without and with the agent.
struct Pair {
    without: Cost,
    with: Cost,
    seen: Seen,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let choices = match options.workload {
        Some(Choice::Criterion) => return criterion(),
        Some(choice) => vec![choice],
        None => vec![Choice::Exec, Choice::Open, Choice::Tcp, Choice::Build],
    };
    let load = build_load()?;
    let products = build_products(Profile::Release)?;
    let agent = options.agent.clone().unwrap_or(products.agent);
    let collector = options.collector.then_some(products.collector);
    let monitor = Monitor {
        agent,
        collector,
        arguments: options.agent_arguments.clone(),
    };

    let directory = workspace::target().join("bench");
    let divisor = if options.quick { 10 } else { 1 };
    let mut results = Vec::new();
    for choice in choices {
        let workload = match choice {
            Choice::Exec => Workload::exec(&load, 20_000 / divisor),
            Choice::Open => Workload::open(&load, 1_000_000 / divisor),
            Choice::Tcp => Workload::tcp(&load, 50_000 / divisor),
            Choice::Build => {
                setup::tools(&setup::BENCH_TOOLS)?;
                Workload::build(&directory.join("project"))?
            }
            Choice::Criterion => continue,
        };
        let pairs = measure(&workload, &monitor, options.runs)?;
        results.push((workload, pairs));
    }
    table(&results, options);
    Ok(())
}

fn measure(workload: &Workload, monitor: &Monitor, runs: u32) -> Result<Vec<Pair>> {
    // Once without counting: files into the page cache, code into memory.
    workload.run()?;
    let mut pairs = Vec::new();
    for number in 1..=runs {
        // In turn, A B B A: whoever comes second finds another machine, and must not always be the same.
        let pair = if number % 2 == 1 {
            let without = workload.run()?;
            let (with, seen) = monitored(workload, monitor)?;
            Pair { without, with, seen }
        } else {
            let (with, seen) = monitored(workload, monitor)?;
            let without = workload.run()?;
            Pair { without, with, seen }
        };
        tell(&format!(
            "{} {number}/{runs}: {:.2} s without, {:.2} s with; {} events, {} lost",
            workload.name,
            pair.without.wall.as_secs_f64(),
            pair.with.wall.as_secs_f64(),
            pair.seen.events,
            pair.seen.lost
        ));
        pairs.push(pair);
    }
    Ok(pairs)
}

fn monitored(workload: &Workload, monitor: &Monitor) -> Result<(Cost, Seen)> {
    let mut session = monitor.start()?;
    let with = workload.run()?;
    let seen = session.seen()?;
    session.stop()?;
    Ok((with, seen))
}

fn table(results: &[(Workload, Vec<Pair>)], options: &Options) {
    let scale = if options.quick { ", a tenth of the work" } else { "" };
    print(&format!(
        "\nmedians of {} pairs{scale}; × = with the agent / without it",
        options.runs
    ));
    print(&format!(
        "{:<26} {:>9} {:>7} {:>15} {:>7} {:>9} {:>8} {:>9} {:>10} {:>8}",
        "workload", "without", "wall", "(least–most)", "CPU", "agent CPU", "of wall", "RssAnon", "events", "lost"
    ));
    for (workload, pairs) in results {
        let walls: Vec<f64> = pairs
            .iter()
            .map(|pair| ratio(pair.with.wall.as_secs_f64(), pair.without.wall.as_secs_f64()))
            .collect();
        // The agent works for the workload, so its time is part of the total.
        let cpus = pairs.iter().map(|pair| {
            ratio(
                (pair.with.cpu + pair.seen.cpu).as_secs_f64(),
                pair.without.cpu.as_secs_f64(),
            )
        });
        let shares = pairs
            .iter()
            .map(|pair| ratio(pair.seen.cpu.as_secs_f64(), pair.with.wall.as_secs_f64()));
        let least = walls.iter().copied().fold(f64::INFINITY, f64::min);
        let most = walls.iter().copied().fold(0.0, f64::max);
        print(&format!(
            "{:<26} {:>7.2} s {:>5.2} × {:>15} {:>5.2} × {:>7.2} s {:>6.1} % {:>5.1} MiB {:>10} {:>8}",
            workload.name,
            median(pairs.iter().map(|pair| pair.without.wall.as_secs_f64())),
            median(walls.iter().copied()),
            format!("({least:.2}–{most:.2})"),
            median(cpus),
            median(pairs.iter().map(|pair| pair.seen.cpu.as_secs_f64())),
            100.0 * median(shares),
            median(pairs.iter().map(|pair| pair.seen.rss_anon_mib)),
            pairs.iter().map(|pair| pair.seen.events).sum::<u64>(),
            pairs.iter().map(|pair| pair.seen.lost).sum::<u64>(),
        ));
    }
    print("events and lost are sums over all pairs, as the agent counted them");
}

fn criterion() -> Result<()> {
    setup::build_tools()?;
    run(&mut cargo(&[
        "bench",
        "--package",
        "staghound-engine",
        "--package",
        "staghound",
        "--bench",
        "*",
    ]))
}

fn ratio(with: f64, without: f64) -> f64 {
    if without > 0.0 { with / without } else { f64::NAN }
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::{median, ratio};

    #[test]
    fn medians() {
        for (values, expected) in [
            (vec![3.0], 3.0),
            (vec![5.0, 1.0, 3.0], 3.0),
            (vec![4.0, 1.0, 3.0, 2.0], 2.5),
        ] {
            assert!((median(values.iter().copied()) - expected).abs() < 1e-9, "{values:?}");
        }
        assert!(median(std::iter::empty()).is_nan());
    }

    #[test]
    fn nothing_divided_by_nothing_is_not_a_result() {
        assert!(ratio(1.0, 0.0).is_nan());
    }
}
