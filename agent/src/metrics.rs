//! Every metric of the agent: name, unit, help text.
//!
//! Invariant: the hot thread only adds to atomics. Labels are looked up once, when a handle is made.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use staghound_proto::v1::Severity;

/// What the text of [`Metrics::text`] is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type One = [(&'static str, String); 1];
type Two = [(&'static str, String); 2];

/// All metrics of the agent. Handles made here are cheap to clone and to add to.
pub struct Metrics {
    registry: Registry,
    events: Family<One, Counter>,
    lost: Family<Two, Counter>,
    truncated: Family<One, Counter>,
    /// Equal opens that the kernel half counted instead of reporting.
    pub repeated_opens: Counter,
    /// Events that the kernel half left out because no loaded rule can want them.
    pub unwanted: Counter,
    /// Records that pinned programs made while no agent was running.
    pub unattended: Counter,
    matches: Family<One, Counter>,
    alerts: Family<One, Counter>,
    programs: Family<Two, Gauge>,
    rules: Family<One, Gauge>,
    /// Time from the kernel's record to its handling, for the newest record of each batch.
    pub event_lag: Histogram,
    /// Items that did not fit into the queue before the spool.
    pub queue_drops: Counter,
    /// The process table.
    pub process_table: ProcessTableMetrics,
    /// The spool.
    pub spool: SpoolMetrics,
    /// The exporter.
    pub export: ExportMetrics,
}

/// Metrics of the process table.
#[derive(Clone, Default)]
pub struct ProcessTableMetrics {
    /// Processes in the table.
    pub entries: Gauge,
    /// Entries that had to go because the table was full.
    pub evictions: Counter,
    /// Entries that were missing and read from /proc.
    pub repairs: Counter,
}

/// Metrics of the spool.
#[derive(Clone, Default)]
pub struct SpoolMetrics {
    /// Whether the spool is on disk: 1, or 0 when it is kept in memory.
    pub on_disk: Gauge,
    /// Bytes of all segments, what is reserved for them included.
    pub bytes: Gauge,
    /// Items that wait for acknowledgement.
    pub items: Gauge,
    /// Items dropped because the spool was full.
    pub lost_overflow: Counter,
    /// Items that could not be read back.
    pub lost_corrupt: Counter,
    /// Items that could not be written before the agent ended.
    pub lost_unwritten: Counter,
    /// How often the spool was found full.
    pub overflows: Counter,
    /// Failed writes and syncs.
    pub write_errors: Counter,
}

/// Metrics of the exporter.
#[derive(Clone, Default)]
pub struct ExportMetrics {
    /// Whether a collector has welcomed the agent: 1 or 0.
    pub connected: Gauge,
    /// Items sent, repeats included.
    pub sent: Counter,
    /// Items a collector acknowledged.
    pub acked: Counter,
    /// Items sent and not acknowledged.
    pub in_flight: Gauge,
    /// Connections lost or refused.
    pub failures: Counter,
    /// Those of them in which one end did not accept who the other is.
    pub refusals: Counter,
    /// Welcomes received.
    pub connects: Counter,
}

/// Alerts by severity, resolved in advance.
#[derive(Clone)]
pub struct BySeverity([Counter; 6]);

impl BySeverity {
    /// The counter of one severity.
    pub fn of(&self, severity: Severity) -> &Counter {
        let [unspecified, informational, low, medium, high, critical] = &self.0;
        match severity {
            Severity::Unspecified => unspecified,
            Severity::Informational => informational,
            Severity::Low => low,
            Severity::Medium => medium,
            Severity::High => high,
            Severity::Critical => critical,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Declares all metrics.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("staghound"),
            events: Family::default(),
            lost: Family::default(),
            truncated: Family::default(),
            repeated_opens: Counter::default(),
            unwanted: Counter::default(),
            unattended: Counter::default(),
            matches: Family::default(),
            alerts: Family::default(),
            programs: Family::default(),
            rules: Family::default(),
            event_lag: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            queue_drops: Counter::default(),
            process_table: ProcessTableMetrics::default(),
            spool: SpoolMetrics::default(),
            export: ExportMetrics::default(),
        };
        metrics.declare();
        metrics
    }

    fn declare(&mut self) {
        let registry = &mut self.registry;
        registry.register("events", "Events decoded, by kind", self.events.clone());
        registry.register(
            "records_lost",
            "Records the kernel could not deliver, by source (ring, program or table) and reason",
            self.lost.clone(),
        );
        registry.register(
            "events_truncated",
            "Events of which a part was cut at a limit, by part",
            self.truncated.clone(),
        );
        registry.register(
            "repeated_opens",
            "Equal opens by one process image that were counted instead of reported",
            self.repeated_opens.clone(),
        );
        registry.register(
            "unwanted_events",
            "Events that the programs left out because no loaded rule can want them",
            self.unwanted.clone(),
        );
        registry.register(
            "unattended_records",
            "Records that pinned programs made while no agent was running",
            self.unattended.clone(),
        );
        registry.register(
            "matches",
            "Rule matches before throttling, by severity",
            self.matches.clone(),
        );
        registry.register("alerts", "Alerts made, by severity", self.alerts.clone());
        registry.register(
            "programs",
            "BPF programs by name and outcome: 1 for the outcome it had",
            self.programs.clone(),
        );
        registry.register("rules", "Loaded rules by state (active, inactive)", self.rules.clone());
        registry.register_with_unit(
            "event_lag",
            "Time from the kernel's record to its handling, for the newest record of each batch",
            Unit::Seconds,
            self.event_lag.clone(),
        );
        registry.register(
            "queue_drops",
            "Items that did not fit into the queue before the spool",
            self.queue_drops.clone(),
        );

        let table = &self.process_table;
        registry.register("process_table_entries", "Processes in the table", table.entries.clone());
        registry.register(
            "process_table_evictions",
            "Processes not taken in, forgotten early or kept with less, for want of room",
            table.evictions.clone(),
        );
        registry.register(
            "process_table_repairs",
            "Entries mended after a lost record, and records about processes of the past",
            table.repairs.clone(),
        );

        let spool = &self.spool;
        registry.register_with_unit("spool", "Size of all spool segments", Unit::Bytes, spool.bytes.clone());
        registry.register(
            "spool_on_disk",
            "Whether the spool is on disk; 0 when its directory cannot be used and it is kept in memory",
            spool.on_disk.clone(),
        );
        registry.register(
            "spool_items",
            "Items in the spool that wait for acknowledgement",
            spool.items.clone(),
        );
        registry.register(
            "spool_lost_overflow_items",
            "Items dropped because the spool was full",
            spool.lost_overflow.clone(),
        );
        registry.register(
            "spool_lost_corrupt_items",
            "Items that could not be read back",
            spool.lost_corrupt.clone(),
        );
        registry.register(
            "spool_lost_unwritten_items",
            "Items that could not be written before the agent ended",
            spool.lost_unwritten.clone(),
        );
        registry.register(
            "spool_overflows",
            "How often the spool was found full",
            spool.overflows.clone(),
        );
        registry.register(
            "spool_write_errors",
            "Failed writes and syncs of the spool",
            spool.write_errors.clone(),
        );

        let export = &self.export;
        registry.register(
            "export_connected",
            "Whether a collector has welcomed the agent",
            export.connected.clone(),
        );
        registry.register(
            "export_sent_items",
            "Items sent to a collector, repeats included",
            export.sent.clone(),
        );
        registry.register(
            "export_acked_items",
            "Items a collector acknowledged",
            export.acked.clone(),
        );
        registry.register(
            "export_unacked_items",
            "Items sent and not yet acknowledged",
            export.in_flight.clone(),
        );
        registry.register(
            "export_connects",
            "Welcomes received from collectors",
            export.connects.clone(),
        );
        registry.register(
            "export_failures",
            "Connections to collectors lost or refused",
            export.failures.clone(),
        );
        registry.register(
            "export_authentication_failures",
            "Connections in which collector or agent did not accept who the other is",
            export.refusals.clone(),
        );
    }

    /// The counter of events of a kind, such as `execve`.
    pub fn events(&self, kind: &str) -> Counter {
        self.events.get_or_create_owned(&[("kind", kind.to_owned())])
    }

    /// The counter of what a ring, program or table lost for a reason, such as `ring_full`.
    pub fn records_lost(&self, source: &str, reason: &str) -> Counter {
        self.lost
            .get_or_create_owned(&[("source", source.to_owned()), ("reason", reason.to_owned())])
    }

    /// The counter of events of which this part was cut, such as `args_cut`.
    pub fn truncated(&self, part: &str) -> Counter {
        self.truncated.get_or_create_owned(&[("part", part.to_owned())])
    }

    /// The counters of matches.
    pub fn matches(&self) -> BySeverity {
        by_severity(&self.matches)
    }

    /// The counters of alerts.
    pub fn alerts(&self) -> BySeverity {
        by_severity(&self.alerts)
    }

    /// Says what became of a program, such as `attached` or `missing`; an earlier outcome is set to 0.
    pub fn program(&self, name: &str, outcome: &'static str, earlier: &[&str]) {
        for other in earlier.iter().filter(|&&other| other != outcome) {
            self.programs
                .get_or_create(&[("program", name.to_owned()), ("outcome", (*other).to_owned())])
                .set(0);
        }
        self.programs
            .get_or_create(&[("program", name.to_owned()), ("outcome", outcome.to_owned())])
            .set(1);
    }

    /// Says how many rules are active and how many were skipped.
    pub fn rules(&self, active: usize, inactive: usize) {
        for (state, count) in [("active", active), ("inactive", inactive)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.rules.get_or_create(&[("state", state.to_owned())]).set(count);
        }
    }

    /// All metrics as OpenMetrics text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string grows as needed");
        text
    }
}

fn by_severity(family: &Family<One, Counter>) -> BySeverity {
    let names = ["unspecified", "informational", "low", "medium", "high", "critical"];
    BySeverity(names.map(|name| family.get_or_create_owned(&[("severity", name.to_owned())])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_names_units_and_labels() {
        let metrics = Metrics::new();
        metrics.events("execve").inc_by(3);
        metrics.records_lost("files", "ring_full").inc();
        metrics.alerts().of(Severity::High).inc();
        metrics.program("exec", "attached", &["attached", "missing"]);
        metrics.rules(30, 2);
        metrics.spool.bytes.set(4096);
        metrics.event_lag.observe(0.001);
        let text = metrics.text();
        for line in [
            "staghound_events_total{kind=\"execve\"} 3",
            "staghound_records_lost_total{source=\"files\",reason=\"ring_full\"} 1",
            "staghound_alerts_total{severity=\"high\"} 1",
            "staghound_alerts_total{severity=\"critical\"} 0",
            "staghound_programs{program=\"exec\",outcome=\"attached\"} 1",
            "staghound_programs{program=\"exec\",outcome=\"missing\"} 0",
            "staghound_rules{state=\"inactive\"} 2",
            "staghound_spool_bytes 4096",
            "staghound_event_lag_seconds_count 1",
            "staghound_queue_drops_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in:\n{text}");
        }
    }
}
