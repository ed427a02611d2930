//! The live stream of each agent, or of each named consumer: a newer one ends the older.

use prometheus_client::metrics::gauge::Gauge;
use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot;

/// Who has a stream.
#[derive(Default)]
pub(crate) struct Live {
    streams: Mutex<HashMap<Arc<str>, LiveStream>>,
}

struct LiveStream {
    number: u64,
    /// Dropped to end it.
    _end: oneshot::Sender<()>,
}

/// Membership in [`Live`] as long as it lives.
pub(crate) struct Entered {
    live: Arc<Live>,
    gauge: Gauge,
    name: Arc<str>,
    number: u64,
    replaced: oneshot::Receiver<()>,
}

impl Live {
    /// Makes a stream the only one of its name, ending the older one. `None`: there are too many names.
    pub(crate) fn enter(self: &Arc<Self>, name: &Arc<str>, max: usize, gauge: &Gauge) -> Option<Entered> {
        let (end, replaced) = oneshot::channel();
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.len();
        let number = match streams.entry(Arc::clone(name)) {
            hash_map::Entry::Vacant(_) if count >= max => return None,
            hash_map::Entry::Vacant(entry) => entry.insert(LiveStream { number: 0, _end: end }).number,
            hash_map::Entry::Occupied(mut entry) => {
                let number = entry.get().number + 1;
                entry.insert(LiveStream { number, _end: end });
                number
            }
        };
        gauge.inc();
        Some(Entered {
            live: Arc::clone(self),
            gauge: gauge.clone(),
            name: Arc::clone(name),
            number,
            replaced,
        })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(name)
    }
}

impl Entered {
    /// Waits until a newer stream took over.
    pub(crate) async fn replaced(&mut self) {
        if !self.replaced.is_terminated() {
            drop((&mut self.replaced).await);
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.gauge.dec();
        let mut streams = self.live.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if streams
            .get(&self.name)
            .is_some_and(|stream| stream.number == self.number)
        {
            streams.remove(&self.name);
        }
    }
}
