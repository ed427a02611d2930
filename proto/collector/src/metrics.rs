//! Every metric of the collector, declared once; units are part of the names.

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Why a stream or batch was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    pub(crate) reason: &'static str,
}

/// A sink, by its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SinkName {
    sink: String,
}

/// Counters and gauges, updated where the things happen.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) ingest_streams: Gauge,
    pub(crate) ingest_batches: Counter,
    pub(crate) ingest_items: Counter,
    pub(crate) ingest_duplicates: Counter,
    pub(crate) ingest_sequence_gaps: Counter,
    pub(crate) ingest_slowed: Counter,
    pub(crate) ingest_rejected: Family<Reason, Counter>,
    pub(crate) connections_refused: Family<Reason, Counter>,
    pub(crate) tls_reloads: Counter,
    pub(crate) tls_files_bad: Gauge,
    pub(crate) feed_subscribers: Gauge,
    pub(crate) feed_named: Gauge,
    pub(crate) feed_entries: Counter,
    pub(crate) feed_lost_before: Counter,
    sink_sent: Family<SinkName, Counter>,
    sink_failures: Family<SinkName, Counter>,
    sink_lost_before: Family<SinkName, Counter>,
    sink_lag: Family<SinkName, Gauge>,
    pub(crate) store_commits: Counter,
    pub(crate) store_commit_seconds: Histogram,
    pub(crate) store_bytes: Gauge,
    pub(crate) store_entries: Gauge,
    pub(crate) store_next_position: Gauge,
    pub(crate) store_segments: Gauge,
    pub(crate) store_damaged_bytes: Gauge,
    pub(crate) store_damage_met: Counter,
    pub(crate) store_removed: Counter,
    pub(crate) store_failures: Counter,
    pub(crate) store_open: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("staghound_collector");
        let counter = |registry: &mut Registry, name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge: Gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let r = &mut registry;
        let ingest_streams = gauge(r, "ingest_streams", "Agents with a live stream");
        let ingest_batches = counter(r, "ingest_batches", "Batches made durable");
        let ingest_items = counter(r, "ingest_items", "Items made durable");
        let ingest_duplicates = counter(
            r,
            "ingest_duplicate_items",
            "Items dropped because they were stored before",
        );
        let ingest_sequence_gaps = counter(r, "ingest_sequence_gaps", "Declared losses of items that were stored");
        let ingest_slowed = counter(
            r,
            "ingest_slowed_batches",
            "Batches of agents that have more than their share of a full store",
        );
        let ingest_rejected = Family::<Reason, Counter>::default();
        r.register(
            "ingest_rejected_streams",
            "Streams ended with an error, by reason",
            ingest_rejected.clone(),
        );
        let connections_refused = Family::<Reason, Counter>::default();
        r.register(
            "connections_refused",
            "Connections that ended before their first request, by reason",
            connections_refused.clone(),
        );
        let tls_reloads = counter(r, "tls_reloads", "Times that new certificates were taken over");
        let tls_files_bad = gauge(
            r,
            "tls_files_bad",
            "Whether the files of certificates cannot be used (1), so that those from before are served",
        );
        let feed_subscribers = gauge(r, "feed_subscribers", "Live subscribers");
        let feed_named = gauge(
            r,
            "feed_named_subscribers",
            "Live subscribers whose position is kept here",
        );
        let feed_entries = counter(r, "feed_sent_entries", "Entries sent to subscribers");
        let feed_lost_before = counter(
            r,
            "feed_lost_before",
            "Times a subscriber was told that retention overtook its cursor",
        );
        let sink = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<SinkName, Counter>::default();
            registry.register(name, help, family.clone());
            family
        };
        let sink_sent = sink(r, "sink_sent_entries", "Entries that a sink took");
        let sink_failures = sink(r, "sink_failures", "Times that a sink did not take what it was given");
        let sink_lost_before = sink(r, "sink_lost_before", "Times that retention overtook a sink");
        let sink_lag = Family::<SinkName, Gauge>::default();
        r.register(
            "sink_lag_entries",
            "Entries that a sink has not taken yet",
            sink_lag.clone(),
        );
        let store_commits = counter(
            r,
            "store_commits",
            "Durable commits; each holds the batches that had gathered",
        );
        let store_commit_seconds = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0]);
        r.register(
            "store_commit_seconds",
            "Time of a durable commit",
            store_commit_seconds.clone(),
        );
        let store_bytes = gauge(r, "store_bytes", "Bytes of stored entries");
        let store_entries = gauge(r, "store_entries", "Stored entries");
        let store_next_position = gauge(r, "store_next_position", "Position the next entry will get");
        let store_segments = gauge(r, "store_segments", "Files that entries are stored in");
        let store_damaged_bytes = gauge(
            r,
            "store_damaged_bytes",
            "Bytes of stored entries that were found damaged or missing when the store was opened",
        );
        let store_damage_met = counter(r, "store_damage_met", "Times a reader came upon damaged entries");
        let store_removed = counter(r, "store_removed_entries", "Entries removed by retention");
        let store_failures = counter(r, "store_failures", "Storage errors; the store is reopened after each");
        let store_open = gauge(
            r,
            "store_open",
            "Whether the store is open (1) or waits for its disk (0)",
        );
        Self {
            registry,
            ingest_streams,
            ingest_batches,
            ingest_items,
            ingest_duplicates,
            ingest_sequence_gaps,
            ingest_slowed,
            ingest_rejected,
            connections_refused,
            tls_reloads,
            tls_files_bad,
            feed_subscribers,
            feed_named,
            feed_entries,
            feed_lost_before,
            sink_sent,
            sink_failures,
            sink_lost_before,
            sink_lag,
            store_commits,
            store_commit_seconds,
            store_bytes,
            store_entries,
            store_next_position,
            store_segments,
            store_damaged_bytes,
            store_damage_met,
            store_removed,
            store_failures,
            store_open,
        }
    }

    pub(crate) fn rejected(&self, reason: &'static str) {
        self.ingest_rejected.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn sink_sent(&self, sink: &str, entries: usize) {
        let name = SinkName { sink: sink.to_owned() };
        self.sink_sent.get_or_create(&name).inc_by(entries as u64);
    }

    pub(crate) fn sink_failed(&self, sink: &str) {
        let name = SinkName { sink: sink.to_owned() };
        self.sink_failures.get_or_create(&name).inc();
    }

    pub(crate) fn sink_lost(&self, sink: &str) {
        let name = SinkName { sink: sink.to_owned() };
        self.sink_lost_before.get_or_create(&name).inc();
    }

    pub(crate) fn sink_lag(&self, sink: &str, entries: u64) {
        let name = SinkName { sink: sink.to_owned() };
        let entries = i64::try_from(entries).unwrap_or(i64::MAX);
        self.sink_lag.get_or_create(&name).set(entries);
    }

    /// The OpenMetrics text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing into a string cannot fail");
        text
    }
}
