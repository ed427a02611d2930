//! The straight line: from records to alerts, on one plain thread.
//!
//! Invariant: nothing here writes to a disk, waits for the network, or takes a lock that something slow holds. What is
//! read is small and local: `/proc/PID` of a process that was not known, and the names of users when they have changed.

use std::{
    fs, io,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use prometheus_client::metrics::counter::Counter;
use staghound_ebpf::{Kind, Loss};
use staghound_engine::{
    compile::Scratch,
    event::EventKind,
    memory::{Memory, MemoryCounts},
    ruleset::{Found, Rule, Ruleset, Severity},
    throttle::Throttles,
};
use staghound_proto::v1::{self, GapReason, ObservationGap, item};

use crate::{
    alert::{self, Earlier, Origin},
    event::{EarlierAgent, Event, Host, Names, Recall, RecallCounts},
    guard::Guard,
    metrics::{BySeverity, Metrics},
    process::{ProcessTable, TableCounts},
    reload::Reloadable,
    sensor::{Losses, Sensor, SensorError, decode},
    spool::queue::observation_gap,
};

/// Records between two looks at the clock and at the shutdown.
const BATCH: usize = 4096;
/// How often losses are read and told.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long to go on reading after the end was asked for, if records keep coming.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Events of other processors, and those that are being read, come so late at most as a rule, in nanoseconds: a time is
/// over only then.
const LATE_NS: u64 = 2_000_000_000;

/// Longer than this beyond the wait that it asked for, the loop was kept from running.
const STALL: Duration = Duration::from_secs(2);

/// So many looks at empty rings end the drain.
const QUIET_ROUNDS: u32 = 3;

/// What the straight line needs beside the sensor.
pub struct Watch<'a> {
    /// Who is who.
    pub processes: &'a mut ProcessTable,
    /// What to look for; a replacement is taken between two batches.
    pub rules: &'a mut Reloadable<Ruleset>,
    /// What all alerts have in common; the digest follows the rules.
    pub origin: &'a mut Origin,
    /// Counters, resolved in advance.
    pub counters: Counters,
    /// Takes alerts, with their severity, and gaps; must not block.
    pub items: &'a mut dyn FnMut(v1::Item, Option<Severity>),
}

/// Everything the loop counts.
pub struct Counters {
    events: [Counter; Kind::ALL.len()],
    undecodable: Counter,
    losses: [Counter; Loss::ALL.len()],
    matches: BySeverity,
    metrics: std::sync::Arc<Metrics>,
}

impl Counters {
    /// Resolves the counters of the agent's metrics.
    #[must_use]
    pub fn of(metrics: &std::sync::Arc<Metrics>) -> Self {
        Self {
            events: Kind::ALL.map(|kind| metrics.events(&format!("{kind:?}").to_ascii_lowercase())),
            undecodable: metrics.records_lost("decode", "undecodable"),
            losses: Loss::ALL.map(|loss| loss_counter(metrics, loss)),
            matches: metrics.matches(),
            metrics: std::sync::Arc::clone(metrics),
        }
    }
}

/// Where a loss is counted: events that are gone, events that were cut, and opens that were only counted.
fn loss_counter(metrics: &Metrics, loss: Loss) -> Counter {
    match loss {
        Loss::ProcessRingFull | Loss::FileRingFull => metrics.records_lost("ring", loss.name()),
        Loss::DescriptorGone
        | Loss::ReadFailed
        | Loss::ScopeFull
        | Loss::ProgramMissing
        | Loss::MessageSkipped
        | Loss::ScratchBusy => metrics.records_lost("program", loss.name()),
        Loss::PathCut | Loss::ArgsCut | Loss::EnvCut => metrics.truncated(loss.name()),
        Loss::Deduplicated => metrics.repeated_opens.clone(),
        Loss::Unwanted => metrics.unwanted.clone(),
    }
}

/// What was seen and lost until the end.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Records handed on.
    pub records: u64,
    /// Records that could not be decoded.
    pub undecodable: u64,
    /// What the kernel half lost.
    pub losses: Losses,
    /// What keeping the process table has cost.
    pub table: TableCounts,
    /// What remembering from one record to the next has cost.
    pub recall: RecallCounts,
    /// Events about io_uring itself: a ring that was made or used.
    pub rings: u64,
    /// What remembering for rules over several events has cost.
    pub memory: MemoryCounts,
}

/// An alert that waits to be told, with its severity.
type Waiting = (Box<v1::Alert>, Severity);

/// What rules remember from one event to the next.
#[derive(Default)]
struct Remembered {
    memory: Memory<Earlier>,
    throttles: Throttles<Waiting>,
}

/// What turns matches into alerts that are told.
struct Told<'a> {
    rules: &'a Ruleset,
    origin: &'a Origin,
    counters: &'a Counters,
    items: &'a mut dyn FnMut(v1::Item, Option<Severity>),
}

impl Remembered {
    /// Takes in an event: what matches becomes an alert, unless its rule has told enough for now.
    fn take_in(&mut self, event: &Event<'_>, unattended: bool, scratch: &mut Scratch, told: Told<'_>) {
        let Self { memory, throttles } = self;
        let Told {
            rules,
            origin,
            counters,
            items,
        } = told;
        rules.follow(
            event,
            scratch,
            memory,
            &mut || Earlier::of(event),
            &mut |found| match found {
                Found::Now(rule, earlier) => {
                    counters.matches.of(alert::severity(rule.severity)).inc();
                    let make = || {
                        let alert = v1::Alert {
                            unattended,
                            earlier: alert::earlier(&earlier),
                            ..alert::of(rule, event, origin)
                        };
                        (Box::new(alert), rule.severity)
                    };
                    if origin.run_id.is_empty() {
                        throttles.offer(rule, event, make, &mut |waiting, more| tell(waiting, more, items));
                    } else {
                        // A gate judges each by itself: one that is held back may be of another lineage.
                        tell(make(), 0, items);
                    }
                }
                Found::Late(rule, events) => tell_late(rule, &events, counters, origin, items),
            },
        );
    }

    /// Tells what was held back until now, and judges times that are over.
    fn pass_time(&mut self, now_ns: u64, told: Told<'_>) {
        let Told {
            rules,
            origin,
            counters,
            items,
        } = told;
        self.throttles
            .pass_time(now_ns, &mut |waiting, more| tell(waiting, more, items));
        rules.pass_time(now_ns.saturating_sub(LATE_NS), &mut self.memory, &mut |found| {
            let (Found::Now(rule, events) | Found::Late(rule, events)) = found;
            tell_late(rule, &events, counters, origin, items);
        });
    }
}

impl Watch<'_> {
    fn told(&mut self) -> Told<'_> {
        Told {
            rules: self.rules.current(),
            origin: self.origin,
            counters: &self.counters,
            items: self.items,
        }
    }
}

fn tell((alert, severity): Waiting, held_back: u64, items: &mut dyn FnMut(v1::Item, Option<Severity>)) {
    let alert = v1::Alert { held_back, ..*alert };
    let item = v1::Item {
        kind: Some(item::Kind::Alert(alert)),
    };
    items(item, Some(severity));
}

fn tell_late(
    rule: &Rule,
    events: &[Earlier],
    counters: &Counters,
    origin: &Origin,
    items: &mut dyn FnMut(v1::Item, Option<Severity>),
) {
    counters.matches.of(alert::severity(rule.severity)).inc();
    tell((Box::new(alert::late(rule, events, origin)), rule.severity), 0, items);
}

impl Watched {
    /// Events that are gone.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.losses.events_lost() + self.undecodable + self.table.evicted
    }
}

/// The agent whose programs recorded while none was running.
fn earlier_agent(sensor: &Sensor) -> Option<EarlierAgent> {
    let taken_over = sensor.taken_over();
    Some(EarlierAgent {
        pid: taken_over.earlier_agent?,
        until_ns: taken_over.unattended_until_ns?,
    })
}

/// Observes until `ended`, then drains. One plain thread.
///
/// # Errors
/// The loss counters cannot be read: then nothing that was seen can be trusted to be all.
pub fn watch(sensor: &mut Sensor, watch: &mut Watch<'_>, ended: &dyn Fn() -> bool) -> Result<Watched, SensorError> {
    sensor.demand(&watch.rules.current().demand())?;
    let host = Host {
        name: watch.origin.host.name.clone(),
        boot_to_wall_ns: boot_to_wall_ns(),
        in_run: !watch.origin.run_id.is_empty(),
        earlier_agent: earlier_agent(sensor),
    };
    let mut names = Names::of_host();
    let mut names_read = names_changed();
    let mut scratch = Scratch::new();
    let mut recall = Recall::default();
    let mut remembered = Remembered::default();
    let mut guard = Guard::default();
    let mut watched = Watched::default();
    let mut housekeeping = Instant::now();
    let mut gap_from = SystemTime::now();
    let mut deadline: Option<Instant> = None;
    let mut quiet = 0;
    let mut turn = (Instant::now(), SystemTime::now());
    let attended_from_ns = sensor.captured_unattended_until_ns().unwrap_or(0);
    loop {
        let ending = ended();
        if ending {
            sensor.detach();
        } else {
            sensor.wait(HOUSEKEEPING);
        }
        let before = std::sync::Arc::clone(watch.rules.current());
        if watch.rules.refresh() {
            // Before the rules are used, so that nothing they want is left out.
            sensor.demand(&watch.rules.current().demand())?;
            watch.origin.ruleset_digest = watch.rules.current().digest().into();
            watch.rules.current().take_over(&mut remembered.memory, &before);
            scratch = Scratch::new();
        }
        drop(before);
        let last = std::mem::replace(&mut turn, (Instant::now(), SystemTime::now()));
        if is_stalled(turn.0 - last.0) {
            tell_stall(watch, last.1, turn.1);
        }
        let mut newest_ns = None;
        let drained = sensor.drain(BATCH, |bytes| {
            watched.records += 1;
            let Ok(record) = decode::decode(bytes) else {
                watched.undecodable += 1;
                watch.counters.undecodable.inc();
                return;
            };
            newest_ns = Some(record.header.time_ns);
            let unattended = record.header.time_ns < attended_from_ns;
            if unattended {
                watch.counters.metrics.unattended.inc();
            }
            watch.counters.events[usize::from(record.header.kind) - 1].inc();
            let Some(process) = recall.actor(&record, watch.processes) else {
                return;
            };
            let number = watched.records;
            let Some(event) = Event::of(&record, process, number, &mut recall, watch.processes, &host, &names) else {
                return;
            };
            watched.rings += u64::from(event.kind == EventKind::IoUring);
            let told = Told {
                rules: watch.rules.current(),
                origin: watch.origin,
                counters: &watch.counters,
                items: watch.items,
            };
            remembered.take_in(&event, unattended, &mut scratch, told);
        });
        if let Some(newest_ns) = newest_ns {
            // Once for each batch: a histogram costs more than a match.
            let lag = u64::try_from(clock_ns(libc::CLOCK_BOOTTIME))
                .unwrap_or(0)
                .saturating_sub(newest_ns);
            watch
                .counters
                .metrics
                .event_lag
                .observe(Duration::from_nanos(lag).as_secs_f64());
        }
        if housekeeping.elapsed() >= HOUSEKEEPING {
            housekeeping = Instant::now();
            let now = SystemTime::now();
            tell_losses(sensor, watch, &mut watched, recall.counts(), (gap_from, now))?;
            tell_forgotten(watch, &mut watched, remembered.memory.counts(), (gap_from, now));
            let boot_time_ns = u64::try_from(clock_ns(libc::CLOCK_BOOTTIME)).unwrap_or(0);
            remembered.pass_time(boot_time_ns, watch.told());
            for item in guard.tell(sensor.check(), watch.origin, (gap_from, now), boot_time_ns) {
                (watch.items)(item, None);
            }
            gap_from = now;
            watch.processes.check_some();
            let changed = names_changed();
            if changed != names_read {
                names = Names::of_host();
                names_read = changed;
            }
        }
        if ending {
            // A record may be under way on another processor when its program is detached: look again before the end.
            quiet = if drained == 0 { quiet + 1 } else { 0 };
            if quiet >= QUIET_ROUNDS || Instant::now() >= *deadline.get_or_insert_with(|| Instant::now() + DRAIN_MAX) {
                break;
            }
            if drained == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    // A run is over as a whole, and so is every time in it; that of the host goes on without us.
    if watch.origin.run_id.is_empty() {
        let Remembered { throttles, .. } = &mut remembered;
        throttles.finish(&mut |waiting, more| tell(waiting, more, watch.items));
    } else {
        remembered.pass_time(u64::MAX, watch.told());
    }
    let until = (gap_from, SystemTime::now());
    tell_forgotten(watch, &mut watched, remembered.memory.counts(), until);
    tell_losses(sensor, watch, &mut watched, recall.counts(), until)?;
    Ok(watched)
}

/// Tells what rules over several events had to forget: what they would have matched with is not known.
fn tell_forgotten(
    watch: &mut Watch<'_>,
    watched: &mut Watched,
    counts: MemoryCounts,
    (from, to): (SystemTime, SystemTime),
) {
    let count = |counts: MemoryCounts| counts.forgotten + counts.left_out;
    let more = count(counts) - count(watched.memory);
    watched.memory = counts;
    if more == 0 {
        return;
    }
    watch
        .counters
        .metrics
        .records_lost("sequences", "memory_full")
        .inc_by(more);
    let gap = ObservationGap {
        from: Some(from.into()),
        to: Some(to.into()),
        hook: "sequences".to_owned(),
        count: more,
        reason: GapReason::TableEviction.into(),
    };
    (watch.items)(observation_gap(gap), None);
}

/// Puts what was lost since the last time into metrics and, as gaps, into the stream.
fn tell_losses(
    sensor: &Sensor,
    watch: &mut Watch<'_>,
    watched: &mut Watched,
    recall: RecallCounts,
    (from, to): (SystemTime, SystemTime),
) -> Result<(), SensorError> {
    let losses = sensor.losses()?;
    let mut gap = |hook: &str, count: u64, reason: GapReason| {
        let gap = ObservationGap {
            from: Some(from.into()),
            to: Some(to.into()),
            hook: hook.to_owned(),
            count,
            reason: reason.into(),
        };
        (watch.items)(observation_gap(gap), None);
    };
    for (loss, counter) in Loss::ALL.into_iter().zip(&watch.counters.losses) {
        let more = losses.of(loss).saturating_sub(watched.losses.of(loss));
        counter.inc_by(more);
        if more > 0 && loss.loses_event() {
            let reason = match loss {
                Loss::ProcessRingFull | Loss::FileRingFull => GapReason::RingFull,
                Loss::ScopeFull => GapReason::TableEviction,
                Loss::ProgramMissing => GapReason::HookMissing,
                Loss::DescriptorGone
                | Loss::ReadFailed
                | Loss::MessageSkipped
                | Loss::ScratchBusy
                | Loss::PathCut
                | Loss::ArgsCut
                | Loss::EnvCut
                | Loss::Deduplicated
                | Loss::Unwanted => GapReason::Unspecified,
            };
            gap(loss.name(), more, reason);
        }
    }
    for (program, misses) in &losses.recursion_misses {
        let before = watched
            .losses
            .recursion_misses
            .iter()
            .find(|(name, _)| name == program)
            .map_or(0, |(_, n)| *n);
        if *misses > before {
            watch
                .counters
                .metrics
                .records_lost(program, "recursion_miss")
                .inc_by(misses - before);
            gap(program, misses - before, GapReason::RecursionMiss);
        }
    }
    if losses.events_lost() > watched.losses.events_lost() {
        watch.processes.events_were_lost();
    }
    let table = watch.processes.counts();
    if table.evicted > watched.table.evicted {
        gap(
            "process_table",
            table.evicted - watched.table.evicted,
            GapReason::TableEviction,
        );
    }
    let forgotten = recall.connections_evicted - watched.recall.connections_evicted;
    if forgotten > 0 {
        watch
            .counters
            .metrics
            .records_lost("connections", "table_full")
            .inc_by(forgotten);
        gap("connections", forgotten, GapReason::TableEviction);
    }
    watched.recall = recall;
    let metrics = &watch.counters.metrics.process_table;
    metrics.evictions.inc_by(table.evictions() - watched.table.evictions());
    metrics.repairs.inc_by(table.repairs() - watched.table.repairs());
    metrics
        .entries
        .set(i64::try_from(watch.processes.len()).unwrap_or(i64::MAX));
    watched.losses = losses;
    watched.table = table;
    Ok(())
}

/// Whether the loop was kept from running between two turns: somebody stopped or froze the agent, or the host was busy
/// beyond measure. The clock stands still while the host sleeps.
fn is_stalled(between: Duration) -> bool {
    between > HOUSEKEEPING + STALL
}

/// Tells that nobody looked for a while: what the rings could not hold meanwhile is lost, and counted as such.
fn tell_stall(watch: &mut Watch<'_>, from: SystemTime, to: SystemTime) {
    let gap = ObservationGap {
        from: Some(from.into()),
        to: Some(to.into()),
        hook: String::new(),
        count: 0,
        reason: GapReason::AgentStalled.into(),
    };
    (watch.items)(observation_gap(gap), None);
}

/// A gap for each program that could not be attached: from now on its events are missing; and one for the records of an
/// earlier agent that nobody can read.
#[must_use]
pub fn missing_hooks(sensor: &Sensor) -> Vec<v1::Item> {
    let now = Some(SystemTime::now().into());
    let unread = sensor.taken_over().replaced.iter().map(|(_, records)| {
        observation_gap(ObservationGap {
            from: None,
            to: now,
            hook: "pins".to_owned(),
            count: *records,
            reason: GapReason::AgentNotRunning.into(),
        })
    });
    let missing = sensor
        .outcomes()
        .iter()
        .filter(|outcome| outcome.attachment.is_missing())
        .map(|outcome| {
            observation_gap(ObservationGap {
                from: now,
                to: now,
                hook: outcome.program.to_owned(),
                count: 0,
                reason: GapReason::HookMissing.into(),
            })
        });
    unread.chain(missing).collect()
}

/// When the files behind [`Names`] were last changed. They are small and local, and asked once a second at most.
fn names_changed() -> [Option<SystemTime>; 2] {
    ["/etc/passwd", "/etc/group"].map(|path| {
        fs::metadata(Path::new(path))
            .and_then(|metadata| metadata.modified())
            .ok()
    })
}

/// Wall time minus time since boot, in nanoseconds.
fn boot_to_wall_ns() -> i64 {
    clock_ns(libc::CLOCK_REALTIME) - clock_ns(libc::CLOCK_BOOTTIME)
}

/// A clock, in nanoseconds.
fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert_eq!(status, 0, "the kernel has this clock: {}", io::Error::last_os_error());
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_longer_than_any_wait() {
        for (between_ms, expected) in [(0, false), (1000, false), (2999, false), (3001, true), (60_000, true)] {
            assert_eq!(is_stalled(Duration::from_millis(between_ms)), expected, "{between_ms}");
        }
    }
}
