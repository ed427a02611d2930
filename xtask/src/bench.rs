//! What the agent costs: the same workload without it, with it, and with empty programs on its hooks (the floor, which no
//! agent on these hooks can go below), in turn, as ratios.
//!
//! Machines drift (other tenants, heat, caches); runs that follow each other drift together. So each round gives one
//! ratio, and the median of the ratios is the result.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::binaries::{Profile, build_fleet, build_floor, build_load, build_products};
use crate::command::{cargo, output, print, run, tell};
use crate::vm::Kernel;
use crate::{setup, vm, workspace};

pub(crate) mod workload;

pub(crate) mod monitor;

mod floor;

mod figures;

pub(crate) mod watched;

mod startup;

mod latency;

mod flood;

mod delivery;

use floor::Floor;
use monitor::{Monitor, Seen};
use workload::{Cost, Target, Workload};

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure; all but `hooks` and `criterion` when not given
    #[arg(value_enum)]
    workload: Option<Choice>,
    /// Rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// For `hooks`: in a guest with this kernel, under each of its preemption models
    #[arg(long, value_enum)]
    kernel: Option<Kernel>,
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
    /// 10,000,000 × getppid
    Getppid,
    /// 3,000,000 × read and write of 512 bytes
    Rw,
    /// grep -r over 8,000 files, five times
    Grep,
    /// A small C project, make -j2
    Build,
    /// From the agent's start to its first exec and open event, and until everything is attached
    Startup,
    /// From a system call to its alert, idle and under the open storm
    Latency,
    /// 1,000,000 opens of a watched file, and 50 executions from memory that must be found among them
    Flood,
    /// How fast full rings are read and decoded
    Drain,
    /// What one agent and a thousand deliver to a collector, beside bare TLS and fsync; and a subscriber catching up
    Delivery,
    /// How much each kind of hook delivers when six tasks on one processor open files
    Hooks,
    /// The engine's and the decoder's micro-benchmarks
    Criterion,
}

impl Choice {
    /// What runs when nothing is chosen.
    const ALL: [Choice; 11] = [
        Choice::Exec,
        Choice::Open,
        Choice::Tcp,
        Choice::Getppid,
        Choice::Rw,
        Choice::Grep,
        Choice::Build,
        Choice::Startup,
        Choice::Latency,
        Choice::Flood,
        Choice::Drain,
    ];
}

/// One round: the same workload three times.
struct Round {
    without: Cost,
    with: Cost,
    floor: Cost,
    seen: Seen,
}

impl Round {
    fn ratio(&self) -> f64 {
        ratio(self.with.wall.as_secs_f64(), self.without.wall.as_secs_f64())
    }

    /// The agent works for the workload, so its time is part of the total.
    fn cpu_ratio(&self) -> f64 {
        ratio(
            (self.with.cpu + self.seen.cpu).as_secs_f64(),
            self.without.cpu.as_secs_f64(),
        )
    }

    fn floor_ratio(&self) -> f64 {
        ratio(self.floor.wall.as_secs_f64(), self.without.wall.as_secs_f64())
    }

    fn over_floor(&self) -> f64 {
        ratio(self.with.wall.as_secs_f64(), self.floor.wall.as_secs_f64())
    }
}

/// What is built for measuring.
struct Programs {
    load: PathBuf,
    monitor: Monitor,
    floor: Floor,
    /// Where files are put.
    directory: PathBuf,
}

pub(crate) fn bench(options: &Options) -> Result<()> {
    let choices = match options.workload {
        Some(Choice::Criterion) => return criterion(),
        Some(Choice::Hooks) => return hooks(options.kernel, options.quick),
        Some(Choice::Delivery) => return deliver(options.quick),
        Some(choice) => vec![choice],
        None => Choice::ALL.to_vec(),
    };
    let load = build_load()?;
    let products = build_products(Profile::Release)?;
    let (floor, object) = build_floor(Profile::Release)?;
    let agent = options.agent.clone().unwrap_or(products.agent);
    let collector = options.collector.then_some(products.collector);
    let programs = Programs {
        load,
        monitor: Monitor {
            agent,
            collector,
            arguments: options.agent_arguments.clone(),
        },
        floor: Floor { program: floor, object },
        directory: workspace::target().join("bench"),
    };

    let divisor = if options.quick { 10 } else { 1 };
    let mut results = Vec::new();
    let mut figures = Vec::new();
    for choice in choices {
        let load = &programs.load;
        let workload = match choice {
            Choice::Exec => Workload::exec(load, 20_000 / divisor),
            Choice::Open => Workload::open(load, 1_000_000 / divisor),
            Choice::Tcp => Workload::tcp(load, 50_000 / divisor),
            Choice::Getppid => Workload::getppid(load, 10_000_000 / divisor),
            Choice::Rw => Workload::read_write(load, 3_000_000 / divisor),
            Choice::Grep => Workload::grep(load, &programs.directory.join("tree"), 8_000)?,
            Choice::Build => {
                setup::tools(&setup::BENCH_TOOLS)?;
                Workload::build(&programs.directory.join("project"))?
            }
            Choice::Startup => {
                figures.extend(startup::measure(&programs, options.runs)?);
                continue;
            }
            Choice::Latency => {
                figures.extend(latency::measure(&programs, if options.quick { 50 } else { 500 })?);
                continue;
            }
            Choice::Flood => {
                figures.extend(flood::measure(&programs, 1_000_000 / divisor)?);
                continue;
            }
            Choice::Drain => {
                let turns = if options.quick { "5" } else { "20" };
                let text = output(programs.floor.command("drain").arg(turns))?;
                print(text.trim_end());
                figures.push(floor::drained(&text)?);
                continue;
            }
            Choice::Hooks | Choice::Delivery | Choice::Criterion => continue,
        };
        let rounds = measure(&workload, &programs, options.runs)?;
        results.push((workload, rounds));
    }
    if !results.is_empty() {
        table(&results, options);
    }
    figures::print_all(&figures);
    Ok(())
}

fn deliver(quick: bool) -> Result<()> {
    let collector = build_products(Profile::Release)?.collector;
    let fleet = build_fleet()?;
    let figures = delivery::measure(&fleet, &collector, &workspace::target().join("bench"), quick)?;
    figures::print_all(&figures);
    Ok(())
}

fn measure(workload: &Workload, programs: &Programs, runs: u32) -> Result<Vec<Round>> {
    // Once without counting: files into the page cache, code into memory.
    workload.run()?;
    let mut rounds = Vec::new();
    for number in 1..=runs {
        let (mut without, mut with, mut floor) = (None, None, None);
        // In turn, and each round begins elsewhere: whoever comes second finds another machine, and must not always be
        // the same.
        for turn in 0..3 {
            match (number + turn) % 3 {
                0 => without = Some(workload.run()?),
                1 => with = Some(monitored(workload, &programs.monitor)?),
                _ => {
                    let held = programs.floor.hold()?;
                    floor = Some(workload.run()?);
                    held.stop()?;
                }
            }
        }
        let (with, seen) = with.context("three turns have each of the three")?;
        let round = Round {
            without: without.context("three turns have each of the three")?,
            with,
            floor: floor.context("three turns have each of the three")?,
            seen,
        };
        tell(&format!(
            "{} {number}/{runs}: {:.2} s without, {:.2} s with, {:.2} s with empty programs; {} events, {} lost",
            workload.name,
            round.without.wall.as_secs_f64(),
            round.with.wall.as_secs_f64(),
            round.floor.wall.as_secs_f64(),
            round.seen.events,
            round.seen.lost
        ));
        rounds.push(round);
    }
    Ok(rounds)
}

fn monitored(workload: &Workload, monitor: &Monitor) -> Result<(Cost, Seen)> {
    let mut session = monitor.start()?;
    let with = workload.run()?;
    let seen = session.seen()?;
    session.stop()?;
    Ok((with, seen))
}

fn table(results: &[(Workload, Vec<Round>)], options: &Options) {
    let scale = if options.quick { ", a tenth of the work" } else { "" };
    print(&format!(
        "\nmedians of {} rounds{scale}; × = time with the agent / without it; floor = empty programs on the same hooks",
        options.runs
    ));
    print(&format!(
        "{:<26} {:>9} {:>7} {:>13} {:>13} {:<4} {:>7} {:>8} {:>7} {:>9} {:>9} {:>9} {:>10} {:>7}",
        "workload",
        "without",
        "wall",
        "(least–most)",
        "target",
        "",
        "floor",
        "÷ floor",
        "CPU",
        "agent CPU",
        "RssAnon",
        "in kernel",
        "events",
        "lost"
    ));
    for (workload, rounds) in results {
        let walls: Vec<f64> = rounds.iter().map(Round::ratio).collect();
        let wall = median(walls.iter().copied());
        let over_floor = median(rounds.iter().map(Round::over_floor));
        let least = walls.iter().copied().fold(f64::INFINITY, f64::min);
        let most = walls.iter().copied().fold(0.0, f64::max);
        let (target, is_met) = match workload.target {
            Target::Ratio(limit) => (format!("≤ {limit:.2}"), wall <= limit),
            Target::OverFloor(limit) => (format!("≤ {limit:.2} floor"), over_floor <= limit),
        };
        print(&format!(
            "{:<26} {:>7.2} s {:>5.2} × {:>13} {:>13} {:<4} {:>5.2} × {:>8.2} {:>5.2} × {:>7.2} s {:>5.1} MiB {:>5.1} MiB {:>10} {:>7}",
            workload.name,
            median(rounds.iter().map(|round| round.without.wall.as_secs_f64())),
            wall,
            format!("({least:.2}–{most:.2})"),
            target,
            if is_met { "met" } else { "OVER" },
            median(rounds.iter().map(Round::floor_ratio)),
            over_floor,
            median(rounds.iter().map(Round::cpu_ratio)),
            median(rounds.iter().map(|round| round.seen.cpu.as_secs_f64())),
            median(rounds.iter().map(|round| round.seen.rss_anon_mib)),
            median(rounds.iter().map(|round| round.seen.kernel_mib)),
            rounds.iter().map(|round| round.seen.events).sum::<u64>(),
            rounds.iter().map(|round| round.seen.lost).sum::<u64>(),
        ));
    }
    print(
        "events and lost are sums over all rounds, as the agent counted them; in kernel = its rings, maps and programs",
    );
}

/// Kernel arguments for each preemption model. A kernel that does not have one stays with its own and says so.
const PREEMPTION: [&str; 3] = ["preempt=none", "preempt=lazy", "preempt=full"];

fn hooks(kernel: Option<Kernel>, quick: bool) -> Result<()> {
    let opens = if quick { "2000" } else { "20000" };
    match kernel {
        Some(kernel) => vm::run_tool(kernel, "floor", &["hooks", opens], &PREEMPTION),
        None => {
            let (program, object) = build_floor(Profile::Release)?;
            run(Floor { program, object }.command("hooks").arg(opens))
        }
    }
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
