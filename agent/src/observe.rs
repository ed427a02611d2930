//! `staghound observe`: watches the host until told to stop.
//!
//! Stops in the order data flows: the programs are detached, the rings drained, the spool flushed, the exporter drained.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    sync::Arc,
    thread,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use staghound_engine::ruleset::Loaded;
use staghound_proto::{
    json, text,
    v1::{Item, item},
};
use tokio::{runtime, sync::oneshot, task};

use crate::{
    admin::{Admin, Readiness},
    alert::{self, Origin},
    cli,
    config::Config,
    export::{Exporter, Introduction},
    identity,
    metrics::Metrics,
    packs,
    process::ProcessTable,
    sensor::{Attachment, Sensor, SensorConfig},
    shutdown::Shutdown,
    spool::{
        Spool,
        queue::{AlertSink, queue},
        writer::{self, Tee},
    },
    watch::{self, Counters, Watch, Watched},
};

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
pub fn observe(config: Config, sensor: &SensorConfig, output: Output) -> Result<ExitCode> {
    let shutdown = Shutdown::new().context("cannot prepare for signals")?;
    // Rules compile while the kernel verifies the programs: both take a while, and events wait in the rings.
    let paths = config.rules.clone();
    let rules = thread::Builder::new()
        .name("rules".to_owned())
        .spawn(move || packs::load_with_embedded(&paths))
        .context("cannot start a thread")?;
    let sensor = Sensor::start(sensor);
    let loaded = rules.join().expect("the rules thread does not panic")?;
    let sensor = sensor?;
    report(&sensor, &loaded);
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(run(config, sensor, loaded, output, shutdown))
}

async fn run(config: Config, sensor: Sensor, loaded: Loaded, output: Output, shutdown: Shutdown) -> Result<ExitCode> {
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
    let agent_id = if config.collectors.is_empty() {
        identity::transient_agent_id(config.agent_id.as_ref())?
    } else {
        identity::agent_id(config.agent_id.as_ref(), &config.state_directory)?
    };
    let host = identity::host(&agent_id);
    let digest: Arc<str> = loaded.ruleset.digest().into();

    let mut first = watch::missing_hooks(&sensor);
    let (spool, exporter) = if config.collectors.is_empty() {
        (None, None)
    } else {
        let directory = config.spool_directory();
        let (spool, opened) = Spool::open(&directory, config.spool_config(), metrics.spool.clone())?;
        if let Some(since) = opened.unclean_since {
            tracing::warn!(
                "the agent ended without saying so; nothing was observed since {}",
                humantime(since)
            );
        }
        first.splice(0..0, opened.not_running(SystemTime::now()));
        let (digest_sender, ruleset_digest) = tokio::sync::watch::channel(digest.to_string());
        let introduction = Introduction {
            agent_version: cli::version().to_owned(),
            host: host.clone(),
            ruleset_digest,
        };
        let exporter = Exporter::new(
            config.collectors.clone(),
            config.export.clone(),
            introduction,
            spool.reader(),
            metrics.export.clone(),
        );
        // The sender lives as long as the exporter; a reload will send through it.
        let exporter = task::spawn(async move {
            let drained = exporter.run().await;
            drop(digest_sender);
            drained
        });
        (Some(spool), Some(exporter))
    };
    let (sink, source) = queue(config.queue_limits(), metrics.queue_drops.clone());
    let tee = tee(output, shutdown.clone());
    let writer = writer::spawn(spool, source, first, tee, readiness.clone(), metrics.spool.clone())
        .context("cannot start the spool's thread")?;
    let serving = admin.map(|admin| {
        tracing::info!("metrics and health on http://{}", admin.address());
        task::spawn(admin.serve(Arc::clone(&metrics), readiness.clone(), shutdown.clone()))
    });

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
            let result = hot(sensor, &loaded, &origin, &metrics, &sink, &stop);
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
    let watched = watched?;
    tracing::info!(
        "stopped: {} records, {} events lost, {} repeated opens counted",
        watched.records,
        watched.events_lost(),
        watched.losses.of(staghound_ebpf::Loss::Deduplicated)
    );
    Ok(ExitCode::SUCCESS)
}

/// Everything that happens on the sensor's thread.
fn hot(
    mut sensor: Sensor,
    loaded: &Loaded,
    origin: &Origin,
    metrics: &Arc<Metrics>,
    sink: &AlertSink,
    shutdown: &Shutdown,
) -> Result<Watched> {
    let mut processes = ProcessTable::seeded();
    let alerts = metrics.alerts();
    let mut items = |item: Item, rule: Option<&staghound_engine::ruleset::Rule>| {
        if let Some(rule) = rule {
            alerts.of(alert::severity(rule.severity)).inc();
        }
        sink.offer(item); // bounded; what does not fit is counted by the queue
    };
    let mut line = Watch {
        processes: &mut processes,
        rules: &loaded.ruleset,
        origin,
        counters: Counters::of(metrics),
        items: &mut items,
    };
    Ok(watch::watch(&mut sensor, &mut line, &|| shutdown.is_signalled())?)
}

/// Shows alerts on standard output. When nobody reads it any more, the agent has no purpose and stops.
fn tee(output: Output, shutdown: Shutdown) -> Option<Tee> {
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let show = move |item: &Item| {
        let line = match (&item.kind, output) {
            (Some(item::Kind::Alert(alert)), Output::Text) => text::alert(alert, colour),
            (Some(item::Kind::Alert(alert)), Output::Json) => json::to_string(alert) + "\n",
            _ => return,
        };
        let mut stdout = io::stdout().lock();
        if stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            shutdown.signal();
        }
    };
    (output != Output::None).then(|| Box::new(show) as Tee)
}

fn missing(sensor: &Sensor) -> String {
    let missing: Vec<String> = sensor
        .outcomes()
        .iter()
        .filter(|outcome| outcome.attachment != Attachment::Attached)
        .map(ToString::to_string)
        .collect();
    missing.join("; ")
}

fn report(sensor: &Sensor, loaded: &Loaded) {
    for outcome in sensor.outcomes() {
        match outcome.attachment {
            Attachment::Attached => tracing::debug!("{outcome}"),
            Attachment::LeftOut | Attachment::NoHook | Attachment::Refused(_) => tracing::warn!("{outcome}"),
        }
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for inactive in &loaded.inactive {
        tracing::warn!("{inactive}");
    }
    tracing::info!(
        "observing with {} rules ({} inactive), {}",
        loaded.ruleset.rules().len(),
        loaded.inactive.len(),
        loaded.ruleset.digest()
    );
}

fn humantime(time: SystemTime) -> String {
    prost_types::Timestamp::from(time).to_string()
}
