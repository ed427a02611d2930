//! The durable store: what is acknowledged is here, and survives a crash at any moment.
//!
//! Entries have positions, 1 and up, in the order they were stored. Watermarks become durable together with the items,
//! which is what makes delivery exactly-once. Readers see what is durable and wait for nobody.

use crate::{
    filter::Filter,
    sequence::{self, Placed},
};
use prost::bytes::Bytes;
use prost_types::Timestamp;
use staghound_proto::v1::Hello;
use std::{io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

pub(crate) mod embedded;

mod agents;
mod disk;
mod index;
mod log;
mod migrate;
mod reader;
mod segment;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

/// Where alerts are kept: [`embedded::Embedded`] in a directory of this host.
#[async_trait::async_trait]
pub(crate) trait AlertLog: Send + Sync {
    /// Queues an append, waiting for room; the receiver tells when it is durable.
    async fn append(&self, append: Append) -> oneshot::Receiver<Appended>;

    /// The last durable sequence of an agent's epoch, everything queued before this included; 0 when there is none.
    async fn watermark(&self, agent_id: &Arc<str>, epoch: &Arc<str>) -> Result<u64, Unavailable>;

    /// Reads from a position on.
    async fn read(&self, from: u64, limit: ReadLimit, filter: Arc<Filter>) -> Result<Page, Unavailable>;

    /// Position of the oldest entry still stored; [`AlertLog::next`] when there is none.
    async fn earliest(&self) -> Result<u64, Unavailable>;

    /// Position the next entry will get; changes are notified.
    fn next(&self) -> watch::Receiver<u64>;

    /// Part of every cursor, so that one of another store is known for what it is.
    fn tag(&self) -> u32;

    /// Whether it can take data now.
    fn is_open(&self) -> bool;

    /// Where a named consumer or sink goes on; `None` when it has never been here.
    async fn position(&self, name: &str) -> Result<Option<u64>, Unavailable>;

    /// Keeps where a named consumer or sink goes on. Durable within a second or two: after a crash some entries come
    /// again.
    async fn keep_position(&self, name: &str, next: u64) -> Result<(), Unavailable>;

    /// An agent said hello.
    async fn greeted(&self, hello: Hello);

    /// Everyone who ever delivered here, as far as it is remembered.
    async fn agents(&self) -> Result<Vec<AgentRecord>, Unavailable>;

    /// Whether an agent has more of a full store than its share: it is slowed down so that it does not push out what
    /// all others have stored.
    fn has_more_than_its_share(&self, agent_id: &str) -> bool;

    /// Applies retention and reopens what failed; to be called about once a second.
    async fn tick(&self);

    /// Makes everything queued durable, answers it and ends.
    async fn close(&self);
}

/// What may be removed. Unset: nothing for that reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retention {
    /// Entries stored longer ago than this are removed.
    pub age: Option<Duration>,
    /// The oldest entries are removed while all together are larger than this.
    pub bytes: Option<u64>,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {0} is in use by another staghound-collector; stop that one or give another --data")]
    InUse(PathBuf),
    /// It was written by another version.
    #[error(
        "store {path} has format {found}, this collector reads format {}; use the collector that wrote it or give another --data",
        index::FORMAT
    )]
    Format {
        /// The store.
        path: PathBuf,
        /// The version it has.
        found: u64,
    },
    /// The file system refused.
    #[error("cannot use data directory {path}: {source}; check that it exists, is writable and has room")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is there and no store.
    #[error("cannot open store {path}: {reason}; restore it from a copy, or move it away to begin an empty one")]
    Unreadable {
        /// The store.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The store cannot serve now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("store unavailable: {0}; nothing of this was acknowledged, try again later")]
pub(crate) struct Unavailable(pub(crate) String);

impl Unavailable {
    pub(crate) fn closed() -> Self {
        Self("it is closed, or waits for its disk to work again".to_owned())
    }
}

/// The new items of one agent's batch, still to be checked against its watermark.
#[derive(Clone, Debug)]
pub(crate) struct Append {
    pub(crate) agent_id: Arc<str>,
    pub(crate) epoch: Arc<str>,
    pub(crate) host: Arc<str>,
    /// When it came, which is in the items, too.
    pub(crate) ingest_time: Timestamp,
    pub(crate) items: Vec<Placed>,
}

/// What became of an [`Append`]; sent when it is durable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// Everything through this sequence is durable.
    Through(u64),
    /// Nothing was stored: the batch begins after the sequence that is due.
    Hole(sequence::Hole),
    Unavailable(Unavailable),
}

/// How much to read at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimit {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    /// Entries looked at, passed or not: bounds the time of one read.
    pub(crate) scanned: usize,
}

/// One stored item, as it came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Position of the entry after this one: where a reader of it goes on.
    pub(crate) next: u64,
    pub(crate) agent_id: Arc<str>,
    pub(crate) epoch: Arc<str>,
    pub(crate) host: Arc<str>,
    pub(crate) sequence: u64,
    pub(crate) ingest_time: Option<Timestamp>,
    /// The encoded `Item`.
    pub(crate) item: Bytes,
}

/// What a read found.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) entries: Vec<Stored>,
    /// Everything before this was looked at.
    pub(crate) next: u64,
    /// Entries at the position asked for are gone: removed by retention, or damaged.
    pub(crate) lost_before: bool,
}

/// What is remembered of an agent.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AgentRecord {
    #[prost(string, tag = "1")]
    pub(crate) agent_id: String,
    /// As it last said.
    #[prost(message, optional, tag = "2")]
    pub(crate) hello: Option<Hello>,
    #[prost(int64, tag = "3")]
    pub(crate) first_seen_s: i64,
    #[prost(int64, tag = "4")]
    pub(crate) last_seen_s: i64,
    /// Items stored, gaps and run records among them.
    #[prost(uint64, tag = "5")]
    pub(crate) items: u64,
    /// Declared losses of items, and how many items they cover.
    #[prost(uint64, tag = "6")]
    pub(crate) sequence_gaps: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) lost_items: u64,
    /// Declared losses of events.
    #[prost(uint64, tag = "8")]
    pub(crate) observation_gaps: u64,
    #[prost(int64, tag = "9")]
    pub(crate) last_gap_s: i64,
    /// The last durable sequence of the epoch in `hello`.
    #[prost(uint64, tag = "10")]
    pub(crate) through: u64,
}
