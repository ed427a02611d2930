//! The plain thread that takes items from the queue and makes them durable.

use super::Spool;
use super::queue::AlertSource;
use crate::admin::Readiness;
use crate::metrics::SpoolMetrics;
use staghound_proto::v1::Item;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Most items per sync. While one sync runs the next group gathers, so that a burst pays few syncs and a single item
/// waits for none but its own.
const GROUP_ITEMS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// How long to wait for items before housekeeping.
const TICK: Duration = Duration::from_secs(1);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long to go on trying when the agent is stopping and the disk refuses.
const STOPPING_MAX: Duration = Duration::from_secs(2);

/// Sees every item after it is durable (or at once where there is no spool), on the writer's thread. While it blocks,
/// items wait in the queue and then count as lost, so it should not.
pub type Tee = Box<dyn FnMut(&Item) + Send>;

/// What the writer returns when the queue has ended.
pub struct Written {
    /// The spool, sealed. Close it when the exporter has ended.
    pub spool: Option<Spool>,
    /// Items that could not be made durable before the end.
    pub lost: u64,
}

/// Starts the thread. `first` is appended before anything from the queue: the gap of an unclean end.
///
/// It ends when every sink of the queue is dropped and what was in it is durable; the spool is then sealed, which tells
/// the exporter to drain. `readiness` follows whether the spool can be written.
///
/// # Errors
/// The system has no thread to give.
pub fn spawn(
    spool: Option<Spool>,
    source: AlertSource,
    first: Vec<Item>,
    tee: Option<Tee>,
    readiness: Readiness,
    metrics: SpoolMetrics,
) -> io::Result<JoinHandle<Written>> {
    thread::Builder::new().name("spool".to_owned()).spawn(move || {
        Writer {
            spool,
            tee,
            readiness,
            metrics,
            failing_since: None,
            untidy: false,
        }
        .run(&source, first)
    })
}

struct Writer {
    spool: Option<Spool>,
    tee: Option<Tee>,
    readiness: Readiness,
    metrics: SpoolMetrics,
    failing_since: Option<Instant>,
    untidy: bool,
}

impl Writer {
    fn run(mut self, source: &AlertSource, mut pending: Vec<Item>) -> Written {
        self.readiness.ready("spool");
        let mut retry = RETRY_MIN;
        let mut stopping_since = None;
        loop {
            let mut ended = false;
            if pending.is_empty() {
                let taken = source.take(GROUP_ITEMS_MAX, GROUP_BYTES_MAX, TICK);
                (pending, ended) = (taken.items, taken.ended);
            }
            if let Some(spool) = &mut self.spool {
                pending.extend(spool.take_notices());
                // Housekeeping that fails is repeated; what it would have written down can be found out again.
                let tidied = spool.tick();
                let was_untidy = std::mem::replace(&mut self.untidy, tidied.is_err());
                if let Some(error) = tidied.err().filter(|_| !was_untidy) {
                    tracing::warn!(error = %error, "the spool cannot be kept tidy");
                }
            }
            if pending.is_empty() || self.append(&pending) {
                if let Some(tee) = &mut self.tee {
                    pending.iter().for_each(tee);
                }
                pending.clear();
                retry = RETRY_MIN;
                if ended {
                    return self.end(0);
                }
            } else {
                // The disk may come back. Until then items wait in the queue, and what the queue cannot hold is counted.
                if source.is_closed() && stopping_since.get_or_insert_with(Instant::now).elapsed() > STOPPING_MAX {
                    let lost = (pending.len() + source.take(usize::MAX, usize::MAX, Duration::ZERO).items.len()) as u64;
                    self.metrics.lost_unwritten.inc_by(lost);
                    tracing::error!(items = lost, "stopped with items that could not be written");
                    return self.end(lost);
                }
                thread::sleep(retry);
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }

    /// Appends; true when the items are durable.
    fn append(&mut self, items: &[Item]) -> bool {
        let Some(spool) = &mut self.spool else { return true };
        match spool.append(items) {
            Ok(_) => {
                if let Some(since) = self.failing_since.take() {
                    tracing::info!(after_s = since.elapsed().as_secs(), "the spool can be written again");
                    self.readiness.ready("spool");
                }
                true
            }
            Err(super::SpoolError::Overtaken) => false,
            Err(error) => {
                if self.failing_since.is_none() {
                    tracing::error!(error = %error, "the spool cannot be written; alerts wait in memory");
                    self.readiness.not_ready("spool", &error.to_string());
                    self.failing_since = Some(Instant::now());
                }
                false
            }
        }
    }

    fn end(mut self, lost: u64) -> Written {
        if let Some(spool) = &mut self.spool {
            spool.seal();
        }
        Written {
            spool: self.spool,
            lost,
        }
    }
}
