//! Agent and collector under mixed load for a long time: memory must stay, and nothing may be missing without a reason.
//!
//! Two lanes of work run side by side: one builds a C project over and over; the other opens, executes, connects, runs
//! programs from memory, and reads decoys, each of which must become exactly one alert at a subscriber of the collector.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::bench::monitor::{METRIC_EVENTS, METRIC_LOST, kernel_mib, rss_anon_mib, sum};
use crate::bench::watched::{DECOYS, TAG, write_rules};
use crate::bench::workload::Workload;
use crate::binaries::{Profile, build_load, build_products};
use crate::command::{print, tell};
use crate::service::{Service, hold_interruptions, http_get, interruption};
use crate::up::{Arguments, Line};
use crate::{setup, workspace};

/// Between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Of the whole time, this part is warm-up: tables fill, allocators settle. The slope is taken over the rest. In half an
/// hour the collector's allocator took new ground until minute 20, by 0.5 MiB a time, and none after it.
const WARM_UP_SHARE: f64 = 0.5;
/// Fewer samples after the warm-up say nothing about growth.
const SAMPLES_LEAST: usize = 6;
/// Memory may seem to grow by so much over the time that is judged: by noise, and by what the collector keeps cached.
const GROWTH_MIB: f64 = 1.5;
/// Descriptors and threads may seem to grow by so many.
const GROWTH_COUNT: f64 = 2.0;
/// Most that the collector keeps. It holds in memory what it has stored lately, up to 48 MiB; with a store that is full
/// before the warm-up is over, what still grows is something else.
const STORE: &str = "2MiB";
/// How long the last alerts may take to the subscriber.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// What one turn of the second lane does.
const OPENS: u64 = 100_000;
const EXECS: u64 = 1_000;
const CONNECTIONS: u64 = 2_000;
const DECOYS_PER_TURN: u64 = 100;
const MEMFD_EXECS: u64 = 3;

#[derive(Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
}

pub(crate) fn soak(options: &Options) -> Result<()> {
    setup::tools(&setup::BENCH_TOOLS)?;
    let load = build_load()?;
    let products = build_products(Profile::Release)?;
    hold_interruptions()?;
    let directory = workspace::target().join("soak");
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    }
    let rules = directory.join("rules");
    write_rules(&rules)?;
    let agent: [&OsStr; 4] = ["--rules".as_ref(), rules.as_ref(), "--output".as_ref(), "none".as_ref()];
    let arguments = Arguments {
        agent: &agent,
        collector: &["--retention-bytes", STORE],
    };
    let mut line = Line::start(&products, &directory, 0, &arguments)?;
    let mut command = line.tail(&products, &["--from", "earliest", "--output", "json"]);
    let mut subscriber = Service::start("the subscriber", command.stdout(Stdio::piped()))?;
    let output = subscriber
        .take_stdout()
        .context("the subscriber has no standard output")?;
    let own = format!("soak-{}", std::process::id());
    let delivered = Arc::new(Mutex::new(Delivered::of(&own)));
    let reader = {
        let delivered = Arc::clone(&delivered);
        std::thread::spawn(move || read(output, &delivered))
    };

    let stop = Arc::new(AtomicBool::new(false));
    let build = Workload::build(&directory.join("project"))?;
    let lanes = [
        lane("builds", &stop, move |_| build.run().map(|_| 0)),
        lane("mixture", &stop, mixture(&load, &directory.join(DECOYS).join(&own))?),
    ];

    let samples = sample(&mut line, &mut subscriber, &delivered, options, &lanes);
    stop.store(true, Ordering::Relaxed);
    let mut decoys = 0;
    for lane in lanes {
        decoys += lane.join().expect("a lane does not panic")?;
    }
    let samples = samples?;

    let deadline = Instant::now() + DELIVERY_TIMEOUT;
    while lock(&delivered).decoys.len() < usize::try_from(decoys)? && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    let last = Sample::take(&line, &delivered)?;
    line.agent.expect_running()?;
    // The subscriber ends with its collector; it is stopped first so that it does not complain.
    subscriber.stop()?;
    reader.join().expect("the reader does not panic")?;
    line.stop()?;

    let problems = [grown(&samples), missing(&lock(&delivered), decoys, &last)].concat();
    for problem in &problems {
        print(&format!("PROBLEM: {problem}"));
    }
    ensure!(problems.is_empty(), "{} problems, listed above", problems.len());
    print("flat, and nothing is missing");
    Ok(())
}

/// What came to the subscriber.
struct Delivered {
    /// What the paths of our decoys contain: the agent sees those of others, such as a benchmark beside us, as well.
    mark: String,
    /// The alerts of each decoy: when, by whom, and for how many events.
    decoys: BTreeMap<String, Vec<String>>,
    alerts: u64,
    /// By reason.
    gaps: BTreeMap<String, u64>,
}

impl Delivered {
    fn of(soak: &str) -> Delivered {
        Delivered {
            mark: format!("/{DECOYS}/{soak}/"),
            decoys: BTreeMap::new(),
            alerts: 0,
            gaps: BTreeMap::new(),
        }
    }

    fn add(&mut self, item: &Value) {
        if let Some(gap) = item.get("gap").or_else(|| item.pointer("/item/gap")) {
            let reason = ["/observation/reason", "/sequence/reason"]
                .iter()
                .find_map(|place| gap.pointer(place)?.as_str())
                .unwrap_or("without a reason");
            *self.gaps.entry(reason.to_owned()).or_default() += 1;
            return;
        }
        self.alerts += 1;
        let path = item
            .pointer("/event/file/path")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let is_ours = item.pointer("/rule/id").and_then(Value::as_str) == Some("bench/read");
        if let Some(name) = path.split_once(&self.mark).map(|(_, name)| name)
            && is_ours
            && name != STORM_FILE
        {
            let word = |pointer: &str| match item.pointer(pointer) {
                Some(Value::String(word)) => word.clone(),
                Some(value) => value.to_string(),
                None => "?".to_owned(),
            };
            self.decoys.entry(name.to_owned()).or_default().push(format!(
                "at {} ns by {} of {}",
                word("/bootTimeNs"),
                word("/process/pid"),
                word("/count")
            ));
        }
    }
}

/// The decoy that is opened over and over: how many alerts it makes depends on how its opens are counted together.
const STORM_FILE: &str = "storm";

fn lock(delivered: &Mutex<Delivered>) -> std::sync::MutexGuard<'_, Delivered> {
    // Whoever panicked has left counts that are as good as before.
    delivered.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(output: ChildStdout, delivered: &Mutex<Delivered>) -> Result<()> {
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read from the subscriber")?;
        let item = serde_json::from_str(&line).context("the subscriber printed something that is not JSON")?;
        lock(delivered).add(&item);
    }
    Ok(())
}

/// Repeats `turn` until it shall stop; yields the sum of what the turns yield. `turn` gets its number.
fn lane(
    name: &'static str,
    stop: &Arc<AtomicBool>,
    turn: impl Fn(u64) -> Result<u64> + Send + 'static,
) -> JoinHandle<Result<u64>> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut sum = 0;
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            sum += turn(number).with_context(|| format!("the lane `{name}` failed in turn {number}"))?;
            number += 1;
        }
        Ok(sum)
    })
}

/// The second lane: a bit of everything. Yields how many decoys it read.
fn mixture(load: &Path, decoys: &Path) -> Result<impl Fn(u64) -> Result<u64> + Send + 'static> {
    let decoys = decoys.to_owned();
    fs::create_dir_all(&decoys).with_context(|| format!("cannot create {}", decoys.display()))?;
    let storm = decoys.join(STORM_FILE);
    fs::write(&storm, "decoy").with_context(|| format!("cannot write {}", storm.display()))?;
    let steps = [
        Workload::open_file(load, OPENS, &storm)?,
        Workload::exec(load, EXECS),
        Workload::tcp(load, CONNECTIONS),
        Workload::memfd(load, MEMFD_EXECS, TAG),
    ];
    Ok(move |turn| {
        for step in &steps {
            step.run()?;
        }
        for number in 0..DECOYS_PER_TURN {
            read_decoy(&decoys.join(format!("{turn}-{number}")))?;
        }
        Ok(DECOYS_PER_TURN)
    })
}

/// Writes a decoy, reads it, removes it.
fn read_decoy(path: &PathBuf) -> Result<()> {
    fs::write(path, "decoy").with_context(|| format!("cannot write {}", path.display()))?;
    drop(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}

/// Agent and collector at one moment.
struct Sample {
    agent: Usage,
    collector: Usage,
    kernel_mib: f64,
    events: u64,
    lost: u64,
    alerts: u64,
    gaps: u64,
}

struct Usage {
    rss_anon_mib: f64,
    descriptors: f64,
    threads: f64,
}

impl Usage {
    fn of(pid: u32) -> Result<Usage> {
        let count = |what: &str| -> Result<f64> {
            let path = format!("/proc/{pid}/{what}");
            let entries = fs::read_dir(&path)
                .with_context(|| format!("cannot read {path}"))?
                .count();
            Ok(f64::from(u32::try_from(entries)?))
        };
        Ok(Usage {
            rss_anon_mib: rss_anon_mib(pid)?,
            descriptors: count("fd")?,
            threads: count("task")?,
        })
    }
}

impl Sample {
    fn take(line: &Line, delivered: &Mutex<Delivered>) -> Result<Sample> {
        let metrics = http_get(line.agent_http, "/metrics").context("the agent does not answer at /metrics")?;
        let delivered = lock(delivered);
        Ok(Sample {
            agent: Usage::of(line.agent.pid())?,
            collector: Usage::of(line.collector.pid())?,
            kernel_mib: kernel_mib(line.agent.pid())?,
            events: sum(&metrics, METRIC_EVENTS).unwrap_or(0),
            lost: sum(&metrics, METRIC_LOST).unwrap_or(0),
            alerts: delivered.alerts,
            gaps: delivered.gaps.values().sum(),
        })
    }

    fn print(&self, seconds: u64) {
        print(&format!(
            "{seconds:>7} {:>10.2} {:>10.1} {:>6} {:>8} {:>10.2} {:>6} {:>8} {:>11} {:>8} {:>6} {:>9}",
            self.agent.rss_anon_mib,
            self.kernel_mib,
            self.agent.descriptors,
            self.agent.threads,
            self.collector.rss_anon_mib,
            self.collector.descriptors,
            self.collector.threads,
            self.events,
            self.lost,
            self.gaps,
            self.alerts
        ));
    }
}

fn sample(
    line: &mut Line,
    subscriber: &mut Service,
    delivered: &Mutex<Delivered>,
    options: &Options,
    lanes: &[JoinHandle<Result<u64>>],
) -> Result<Vec<Sample>> {
    print(&format!(
        "{:>7} {:>10} {:>10} {:>6} {:>8} {:>10} {:>6} {:>8} {:>11} {:>8} {:>6} {:>9}",
        "seconds",
        "agent MiB",
        "in kernel",
        "fds",
        "threads",
        "coll. MiB",
        "fds",
        "threads",
        "events",
        "lost",
        "gaps",
        "alerts"
    ));
    let begun = Instant::now();
    let end = begun + Duration::from_secs(options.minutes * 60);
    let mut samples = Vec::new();
    while Instant::now() < end {
        if let Some(signal) = interruption(SAMPLE_INTERVAL)? {
            bail!("interrupted by signal {signal}");
        }
        line.expect_running()?;
        subscriber.expect_running()?;
        if lanes.iter().any(JoinHandle::is_finished) {
            tell("a lane of work has ended early");
            break;
        }
        let sample = Sample::take(line, delivered)?;
        sample.print(begun.elapsed().as_secs());
        samples.push(sample);
    }
    Ok(samples)
}

/// One number of a sample.
type Measure = fn(&Sample) -> f64;

/// What has grown over the time after the warm-up.
fn grown(samples: &[Sample]) -> Vec<String> {
    let judged = after_warm_up(samples);
    if judged.len() < SAMPLES_LEAST {
        return vec![format!(
            "only {} samples after the warm-up, too few to judge growth; run longer",
            judged.len()
        )];
    }
    let measures: [(&str, Measure, f64); 7] = [
        (
            "RssAnon of the agent, MiB",
            |sample| sample.agent.rss_anon_mib,
            GROWTH_MIB,
        ),
        (
            "memory of the agent in the kernel, MiB",
            |sample| sample.kernel_mib,
            GROWTH_MIB,
        ),
        (
            "descriptors of the agent",
            |sample| sample.agent.descriptors,
            GROWTH_COUNT,
        ),
        ("threads of the agent", |sample| sample.agent.threads, GROWTH_COUNT),
        (
            "RssAnon of the collector, MiB",
            |sample| sample.collector.rss_anon_mib,
            GROWTH_MIB,
        ),
        (
            "descriptors of the collector",
            |sample| sample.collector.descriptors,
            GROWTH_COUNT,
        ),
        (
            "threads of the collector",
            |sample| sample.collector.threads,
            GROWTH_COUNT,
        ),
    ];
    let mut problems = Vec::new();
    print(&format!(
        "\n{:<40} {:>10} {:>10} {:>8}",
        "after the warm-up", "mean", "growth", "limit"
    ));
    for (name, of, limit) in measures {
        let values: Vec<f64> = judged.iter().map(of).collect();
        let growth = growth(&values);
        print(&format!(
            "{name:<40} {:>10.2} {growth:>10.2} {limit:>8.1}",
            mean(&values)
        ));
        if growth > limit {
            problems.push(format!("{name} grew by {growth:.2}, more than {limit}"));
        }
    }
    problems
}

fn after_warm_up(samples: &[Sample]) -> &[Sample] {
    let skipped = (0..samples.len())
        .take_while(|&index| number(index) < WARM_UP_SHARE * number(samples.len()))
        .count();
    &samples[skipped..]
}

/// Growth from first to last value by the line of least squares through all.
fn growth(values: &[f64]) -> f64 {
    let middle = (number(values.len()) - 1.0) / 2.0;
    let mean = mean(values);
    let (mut above, mut below) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let distance = number(index) - middle;
        above += distance * (value - mean);
        below += distance * distance;
    }
    if below > 0.0 { above / below * 2.0 * middle } else { 0.0 }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / number(values.len())
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// What should have come and has not, or came twice, or was lost without a word.
fn missing(delivered: &Delivered, decoys: u64, last: &Sample) -> Vec<String> {
    let came = u64::try_from(delivered.decoys.len()).unwrap_or(u64::MAX);
    let twice: Vec<_> = delivered.decoys.iter().filter(|(_, alerts)| alerts.len() > 1).collect();
    let gaps: Vec<String> = delivered
        .gaps
        .iter()
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    print(&format!(
        "\n{came} of {decoys} decoys came as alerts, {} more than once; {} records lost, gaps: {}",
        twice.len(),
        last.lost,
        if gaps.is_empty() {
            "none".to_owned()
        } else {
            gaps.join(", ")
        }
    ));
    let mut problems = Vec::new();
    if came > decoys {
        problems.push(format!("{} decoys came that nobody read", came - decoys));
    }
    if came < decoys && (last.lost == 0 || gaps.is_empty()) {
        problems.push(format!(
            "{} decoys are missing, and nothing tells of a loss",
            decoys - came
        ));
    }
    problems.extend(
        twice
            .iter()
            .map(|(name, alerts)| format!("decoy {name} came more than once: {}", alerts.join("; "))),
    );
    if last.lost > 0 && gaps.is_empty() {
        problems.push(format!(
            "{} records were lost, and no gap came to the subscriber",
            last.lost
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Delivered, growth};

    #[test]
    fn growth_is_that_of_the_line() {
        for (values, expected) in [
            (vec![1.0, 1.0, 1.0, 1.0], 0.0),
            (vec![0.0, 1.0, 2.0, 3.0], 3.0),
            (vec![5.0, 4.0, 3.0], -2.0),
            (vec![1.0, 2.0, 1.0, 2.0, 1.0], 0.0),
            (vec![7.0], 0.0),
        ] {
            let found = growth(&values);
            assert!((found - expected).abs() < 1e-9, "{values:?}: {found}");
        }
    }

    #[test]
    fn items_are_told_apart() {
        let mut delivered = Delivered::of("soak-1");
        let read = |path: &str| json!({"rule": {"id": "bench/read"}, "event": {"file": {"path": path}}});
        for item in [
            read("/x/staghound-bench-decoys/soak-1/1-2"),
            json!({
                "rule": {"id": "bench/read"},
                "event": {"file": {"path": "/x/staghound-bench-decoys/soak-1/1-2"}},
                "bootTimeNs": "7",
                "process": {"pid": 8},
            }),
            read("/x/staghound-bench-decoys/soak-1/storm"),
            read("/x/staghound-bench-decoys/soak-2/1-2"),
            json!({"rule": {"id": "a/b"}, "event": {"file": {"path": "/x/staghound-bench-decoys/soak-1/1-3"}}}),
            json!({"gap": {"observation": {"reason": "GAP_REASON_RING_FULL"}}}),
        ] {
            delivered.add(&item);
        }
        assert_eq!(delivered.alerts, 5);
        assert_eq!(
            delivered.decoys.into_iter().collect::<Vec<_>>(),
            [(
                "1-2".to_owned(),
                vec!["at ? ns by ? of ?".to_owned(), "at 7 ns by 8 of ?".to_owned()]
            )]
        );
        assert_eq!(
            delivered.gaps.into_iter().collect::<Vec<_>>(),
            [("GAP_REASON_RING_FULL".to_owned(), 1)]
        );
    }
}
