//! How many bytes the process table keeps alive, ancestors and images that only descendants still need included.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// From here on the table keeps less of each process.
pub(super) const TIGHT_BYTES: usize = 128 << 20;
/// From here on the table takes in nobody.
pub(super) const FULL_BYTES: usize = 192 << 20;

/// The count.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    bytes: AtomicUsize,
}

impl Ledger {
    pub(super) fn bytes(&self) -> usize {
        // Only a count: nothing else is read because of it.
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn is_tight(&self) -> bool {
        self.bytes() >= TIGHT_BYTES
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes() >= FULL_BYTES
    }
}

/// An entry in the ledger, made with the thing that it is of, and struck out with it. A clone is another thing.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: usize,
    ledger: Option<Arc<Ledger>>,
}

impl Held {
    pub(super) fn new(ledger: &Arc<Ledger>, bytes: usize) -> Self {
        ledger.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            ledger: Some(Arc::clone(ledger)),
        }
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        self.ledger
            .as_ref()
            .map_or_else(Self::default, |ledger| Self::new(ledger, self.bytes))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            ledger.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_of_is_struck_out() {
        let ledger = Arc::new(Ledger::default());
        let first = Held::new(&ledger, 100);
        let second = first.clone();
        assert_eq!(ledger.bytes(), 200);
        drop(first);
        assert_eq!(ledger.bytes(), 100);
        drop(second);
        assert_eq!(ledger.bytes(), 0);
        drop(Held::default());
        assert_eq!(ledger.bytes(), 0);
    }
}
