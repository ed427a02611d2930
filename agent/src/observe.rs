//! `staghound observe`: watches the host until told to stop.
//!
//! Stops in the order data flows: the programs are detached, the rings drained, the spool flushed, the exporter drained.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use prometheus_client::metrics::counter::Counter;
use staghound_engine::ruleset::{Loaded, Ruleset, Severity};
use staghound_proto::{
    json, text,
    v1::{Item, item},
};
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{self, oneshot},
    task,
};

use crate::{
    admin::{Admin, Readiness},
    alert::Origin,
    cli,
    config::{Config, Guard},
    export::{Exporter, Introduction},
    identity, memory,
    metrics::Metrics,
    packs,
    process::ProcessTable,
    reload::{Reloadable, Replacer, reloadable},
    sandbox::{self, Sandbox},
    sensor::{Attachment, Sensor, SensorConfig},
    shutdown::Shutdown,
    spool::{
        Opened, Spool, SpoolError,
        queue::{AlertSink, QueueLimits, queue},
        writer::{self, Tee},
    },
    watch::{self, Counters, Watch, Watched},
};

/// Alerts that are taken from the printer's queue together.
const PRINTED_AT_ONCE: usize = 64;
/// How long the end waits for a reader of standard output.
const PRINTING_MAX: Duration = Duration::from_secs(1);

/// How alerts are shown on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One `staghound.v1.Alert` per line, as canonical proto3 JSON.
    Json,
    /// Not at all.
    None,
}

/// Conditions of readiness: programs attached, spool writable.
const PROGRAMS: &str = "programs";
const SPOOL: &str = "spool";

/// Watches the host until a signal.
///
/// # Errors
/// The sensor, the rules, the state directory or a listener cannot be had; each message says what to do.
pub fn observe(config: Config) -> Result<ExitCode> {
    let sensor = SensorConfig {
        refuse: config.guard == Guard::Refuse,
        pin: config.sensor.pin.clone(),
        ..config.sensor_config()
    };
    let output = config.output.unwrap_or(if config.collectors.is_empty() {
        Output::Text
    } else {
        Output::None
    });
    memory::share_one_arena();
    let shutdown = Shutdown::new().context("cannot prepare for signals")?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    // Before anything that takes time: a reload that is asked for meanwhile would end the agent.
    let hangups = {
        let _inside = runtime.enter();
        signal(SignalKind::hangup()).context("cannot listen for signals")?
    };
    // Rules compile while the kernel verifies the programs: both take a while, and events wait in the rings.
    let paths = config.rules.clone();
    let rules = thread::Builder::new()
        .name("rules".to_owned())
        .spawn(move || packs::load_with_embedded(&paths))
        .context("cannot start a thread")?;
    let sensor = Sensor::start(&sensor);
    let loaded = rules.join().expect("the rules thread does not panic")?;
    let sensor = sensor?;
    report(&sensor, &loaded);
    memory::give_back();
    runtime.block_on(run(config, sensor, loaded, output, shutdown, hangups))
}

async fn run(
    config: Config,
    sensor: Sensor,
    loaded: Loaded,
    output: Output,
    shutdown: Shutdown,
    hangups: Signal,
) -> Result<ExitCode> {
    let signals = task::spawn(shutdown.on_signals().context("cannot listen for signals")?);
    let metrics = Arc::new(Metrics::new());
    metrics.rules(loaded.ruleset.rules().len(), loaded.inactive.len());
    for outcome in sensor.outcomes() {
        metrics.program(outcome.program, outcome.attachment.name(), &[]);
    }
    let readiness = Readiness::new(&[PROGRAMS, SPOOL]);
    match missing(&sensor) {
        missing if missing.is_empty() => readiness.ready(PROGRAMS),
        missing => readiness.not_ready(PROGRAMS, &missing),
    }
    let admin = match config.http.listen {
        Some(address) => Some(Admin::bind(address, config.http.insecure).await?),
        None => None,
    };
    // Everything that takes privileges is done, and no thread but this one runs that could keep them.
    give_up_privileges(config.sandbox)?;
    let agent_id = if config.collectors.is_empty() {
        identity::transient_agent_id(config.agent_id.as_ref())?
    } else {
        identity::agent_id(config.agent_id.as_ref(), &config.state_directory)?
    };
    let host = identity::host(&agent_id);
    let digest: Arc<str> = loaded.ruleset.digest().into();
    let (digest_sender, ruleset_digest) = sync::watch::channel(digest.to_string());

    let mut first = watch::missing_hooks(&sensor);
    let captured = sensor.captured_unattended_until_ns().is_some();
    let (spool, exporter) = if config.collectors.is_empty() {
        (None, None)
    } else {
        let directory = config.spool_directory();
        let (spool, opened) = match Spool::open(&directory, config.spool_config(), metrics.spool.clone()) {
            Ok(opened) => opened,
            // Somebody else delivers under this identity already.
            Err(error @ SpoolError::Locked(_)) => return Err(error.into()),
            Err(error) => {
                let (spool, gap) = Spool::in_memory(config.spool_config(), metrics.spool.clone(), &error)?;
                first.insert(0, gap);
                (spool, Opened::default())
            }
        };
        match (opened.unclean_since, captured) {
            (Some(since), false) => tracing::warn!(
                "the agent ended without saying so; nothing was observed since {}",
                humantime(since)
            ),
            (Some(since), true) => tracing::warn!(
                "the agent ended without saying so after {}; its programs went on recording",
                humantime(since)
            ),
            (None, _) => {}
        }
        // What pinned programs could not record they have counted: that alone is a gap.
        if !captured {
            first.splice(0..0, opened.not_running(SystemTime::now()));
        }
        let introduction = Introduction {
            agent_version: cli::version().to_owned(),
            host: host.clone(),
            ruleset_digest,
        };
        let exporter = Exporter::new(
            config.collectors.clone(),
            config.export.clone(),
            &config.tls,
            introduction,
            spool.reader(),
            metrics.export.clone(),
        )?;
        (Some(spool), Some(task::spawn(exporter.run())))
    };
    let (sink, source) = queue(config.queue_limits(), metrics.queue_drops.clone());
    let printer = match output {
        Output::None => None,
        Output::Text | Output::Json => {
            let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let printer = Printer::start(output, colour, io::stdout(), shutdown.clone());
            Some(printer.context("cannot start a thread for standard output")?)
        }
    };
    let tee = printer.as_ref().map(Printer::tee);
    let writer = writer::spawn(spool, source, first, tee, readiness.clone(), metrics.spool.clone())
        .context("cannot start the spool's thread")?;
    let serving = admin.map(|admin| {
        tracing::info!("metrics and health on http://{}", admin.address());
        task::spawn(admin.serve(Arc::clone(&metrics), readiness.clone(), shutdown.clone()))
    });

    let (replacer, rules) = reloadable(loaded.ruleset);
    let reloading = task::spawn(
        Reload {
            paths: config.rules,
            replacer,
            digest: digest_sender,
            metrics: Arc::clone(&metrics),
            terminal: [io::stdin().is_terminal(), io::stdout().is_terminal()],
        }
        .on(hangups, shutdown.clone()),
    );
    let origin = Origin {
        host,
        run_id: String::new(),
        ruleset_digest: digest,
    };
    let (done, watched) = oneshot::channel();
    let stop = shutdown.clone();
    let hot = thread::Builder::new()
        .name("sensor".to_owned())
        .spawn(move || {
            let result = hot(sensor, rules, origin, &metrics, &sink, &stop);
            stop.signal();
            // Nobody listens any more only when the agent is ending anyway.
            let _unheard = done.send(result);
        })
        .context("cannot start the sensor's thread")?;

    let watched = watched.await.context("the sensor's thread ended without a word")?;
    hot.join().expect("the sensor's thread has ended");
    let written = task::spawn_blocking(move || writer.join())
        .await?
        .expect("the spool's thread does not panic");
    if let Some(printer) = printer {
        match task::spawn_blocking(move || printer.end()).await? {
            0 => {}
            unshown => tracing::warn!("{unshown} alerts were not shown: standard output was not read fast enough"),
        }
    }
    if let Some(exporter) = exporter {
        let drained = exporter.await?;
        if drained.unacked > 0 {
            tracing::warn!("{} items wait in the spool for the next start", drained.unacked);
        }
    }
    if let Some(spool) = written.spool {
        spool.close()?;
    }
    if let Some(serving) = serving {
        serving.await?.context("the http listener broke")?;
    }
    signals.abort();
    reloading.abort();
    let watched = watched?;
    tracing::info!(
        "stopped: {} records, {} events lost, {} repeated opens counted",
        watched.records,
        watched.events_lost(),
        watched.losses.of(staghound_ebpf::Loss::Deduplicated)
    );
    Ok(ExitCode::SUCCESS)
}

/// Enters the sandbox as configured, and says what that came to.
fn give_up_privileges(sandbox: Sandbox) -> Result<()> {
    if sandbox == Sandbox::Off {
        tracing::warn!("sandbox: off; the agent keeps every privilege that it was started with");
        return Ok(());
    }
    let entered = sandbox::enter();
    let failures = entered.failures.join("; ");
    if failures.is_empty() {
        tracing::info!("sandbox: {entered}");
        return Ok(());
    }
    ensure!(
        sandbox == Sandbox::On,
        "sandbox: {failures}; it is required: start without what hinders it, or configure `sandbox: on` to go on regardless"
    );
    tracing::error!("sandbox: incomplete: {failures}; going on with more privileges than needed ({entered})");
    Ok(())
}

/// Reads rules again while the agent runs.
struct Reload {
    paths: Vec<PathBuf>,
    replacer: Replacer<Ruleset>,
    digest: sync::watch::Sender<String>,
    metrics: Arc<Metrics>,
    /// Whether standard input and output were a terminal at the start.
    terminal: [bool; 2],
}

impl Reload {
    /// Reloads on SIGHUP: with mistakes the old rules stay. Where a terminal was and is no more, the signal tells of its
    /// end, and the agent's with it. Never returns; spawn it.
    async fn on(mut self, mut hangups: Signal, shutdown: Shutdown) {
        while hangups.recv().await.is_some() {
            let terminal = [io::stdin().is_terminal(), io::stdout().is_terminal()];
            if self.terminal.iter().zip(terminal).any(|(before, now)| *before && !now) {
                tracing::info!("stopping, as the terminal has gone");
                shutdown.signal();
                continue;
            }
            let paths = self.paths.clone();
            let loaded = task::spawn_blocking(move || packs::load_with_embedded(&paths)).await;
            match loaded
                .context("the rules thread ended without a word")
                .and_then(|loaded| Ok(loaded?))
            {
                Ok(loaded) => self.take(loaded),
                Err(error) => {
                    let mistakes = format!("{error:#}");
                    let mistakes: Vec<&str> = mistakes.lines().collect();
                    tracing::error!("rules not reloaded, the old ones stay: {}", mistakes.join("; "));
                }
            }
        }
    }

    fn take(&mut self, loaded: Loaded) {
        let (active, inactive) = (loaded.ruleset.rules().len(), loaded.inactive.len());
        let digest = loaded.ruleset.digest().to_owned();
        doubts(&loaded);
        if let Err(busy) = self.replacer.replace(loaded.ruleset) {
            tracing::error!("rules not reloaded, the old ones stay: {busy}; send SIGHUP again");
            return;
        }
        self.metrics.rules(active, inactive);
        tracing::info!("rules reloaded: {active} rules ({inactive} inactive), {digest}");
        self.digest.send_replace(digest);
    }
}

/// Everything that happens on the sensor's thread.
fn hot(
    mut sensor: Sensor,
    mut rules: Reloadable<Ruleset>,
    mut origin: Origin,
    metrics: &Arc<Metrics>,
    sink: &AlertSink,
    shutdown: &Shutdown,
) -> Result<Watched> {
    let mut processes = ProcessTable::seeded();
    let alerts = metrics.alerts();
    let mut items = |item: Item, _severity: Option<Severity>| {
        let severity = match &item.kind {
            Some(item::Kind::Alert(alert)) => Some(alert.severity()),
            Some(item::Kind::Gap(_) | item::Kind::Run(_)) | None => None,
        };
        // Bounded; what does not fit is counted by the queue, and is no alert that anybody will see.
        if sink.offer(item)
            && let Some(severity) = severity
        {
            alerts.of(severity).inc();
        }
    };
    let mut line = Watch {
        processes: &mut processes,
        rules: &mut rules,
        origin: &mut origin,
        counters: Counters::of(metrics),
        items: &mut items,
    };
    Ok(watch::watch(&mut sensor, &mut line, &|| shutdown.is_signalled())?)
}

/// Shows alerts on a thread of its own: a terminal or a pipe may take them slowly or not at all.
struct Printer {
    sink: AlertSink,
    dropped: Counter,
    unread: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Printer {
    /// Starts the thread. When nobody reads what it shows any more, the agent has no purpose and stops.
    fn start(
        output: Output,
        colour: bool,
        mut into: impl io::Write + Send + 'static,
        shutdown: Shutdown,
    ) -> io::Result<Self> {
        let dropped = Counter::default();
        let (sink, source) = queue(QueueLimits::default(), dropped.clone());
        let unread = Arc::new(AtomicU64::new(0));
        let left = Arc::clone(&unread);
        let thread = thread::Builder::new().name("output".to_owned()).spawn(move || {
            loop {
                let taken = source.take(PRINTED_AT_ONCE, usize::MAX, Duration::from_secs(1));
                for item in &taken.items {
                    let Some(item::Kind::Alert(alert)) = &item.kind else {
                        continue; // that something did not fit is told at the end
                    };
                    let line = match output {
                        Output::Text => text::alert(alert, colour),
                        Output::Json => json::to_string(alert) + "\n",
                        Output::None => continue,
                    };
                    if into.write_all(line.as_bytes()).and_then(|()| into.flush()).is_err() {
                        shutdown.signal();
                        return;
                    }
                    left.fetch_sub(1, Ordering::Relaxed);
                }
                if taken.ended {
                    return;
                }
            }
        })?;
        Ok(Self {
            sink,
            dropped,
            unread,
            thread,
        })
    }

    /// What the spool's thread hands its items to; never waits.
    fn tee(&self) -> Tee {
        let sink = self.sink.clone();
        let unread = Arc::clone(&self.unread);
        let mut told = false;
        Box::new(move |item: &Item| {
            if !matches!(item.kind, Some(item::Kind::Alert(_))) {
                return;
            }
            unread.fetch_add(1, Ordering::Relaxed);
            if !sink.offer(item.clone()) {
                unread.fetch_sub(1, Ordering::Relaxed);
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("standard output is read too slowly; not all alerts are shown there");
                }
            }
        })
    }

    /// Waits a moment for what is left to be shown; yields how many alerts were not. The tee must be gone.
    fn end(self) -> u64 {
        drop(self.sink);
        let deadline = Instant::now() + PRINTING_MAX;
        while !self.thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.dropped.get() + self.unread.load(Ordering::Relaxed)
    }
}

fn missing(sensor: &Sensor) -> String {
    let missing: Vec<String> = sensor
        .outcomes()
        .iter()
        .filter(|outcome| outcome.attachment.is_missing())
        .map(ToString::to_string)
        .collect();
    missing.join("; ")
}

fn report(sensor: &Sensor, loaded: &Loaded) {
    for outcome in sensor.outcomes() {
        match outcome.attachment {
            Attachment::Attached | Attachment::NotNeeded(_) => tracing::debug!("{outcome}"),
            Attachment::LeftOut | Attachment::NoHook(_) | Attachment::Powerless(_) | Attachment::Refused(_) => {
                tracing::warn!("{outcome}");
            }
        }
    }
    doubts(loaded);
    tracing::info!(
        "observing with {} rules ({} inactive), {}",
        loaded.ruleset.rules().len(),
        loaded.inactive.len(),
        loaded.ruleset.digest()
    );
}

/// What is not right with rules that were loaded all the same.
fn doubts(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for inactive in &loaded.inactive {
        tracing::warn!("{inactive}");
    }
}

fn humantime(time: SystemTime) -> String {
    prost_types::Timestamp::from(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use staghound_proto::v1::Alert;
    use std::io::Read as _;

    fn alert(message: &str) -> Item {
        Item {
            kind: Some(item::Kind::Alert(Alert {
                message: message.to_owned(),
                ..Alert::default()
            })),
        }
    }

    #[test]
    fn alerts_are_shown_in_order() {
        let (mut reader, writer) = io::pipe().unwrap();
        let printer = Printer::start(Output::Json, false, writer, Shutdown::new().unwrap()).unwrap();
        let mut tee = printer.tee();
        ["one", "two"].into_iter().for_each(|message| tee(&alert(message)));
        drop(tee);
        assert_eq!(printer.end(), 0);
        let mut shown = String::new();
        reader.read_to_string(&mut shown).unwrap();
        let at = |message: &str| shown.lines().position(|line| line.contains(message));
        assert_eq!((at("one"), at("two")), (Some(0), Some(1)));
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up() {
        let (_reader, writer) = io::pipe().unwrap();
        let shutdown = Shutdown::new().unwrap();
        let printer = Printer::start(Output::Text, false, writer, shutdown.clone()).unwrap();
        let mut tee = printer.tee();
        let long = alert(&"x".repeat(1024 * 1024));
        let begun = Instant::now();
        for _ in 0..40 {
            tee(&long);
        }
        drop(tee);
        assert_eq!(printer.end(), 40);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(!shutdown.is_signalled());
    }

    #[test]
    fn the_agent_stops_when_its_reader_has_gone() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let shutdown = Shutdown::new().unwrap();
        let printer = Printer::start(Output::Text, false, writer, shutdown.clone()).unwrap();
        let mut tee = printer.tee();
        tee(&alert("x"));
        drop(tee);
        assert_eq!(printer.end(), 1);
        assert!(shutdown.is_signalled());
    }
}
