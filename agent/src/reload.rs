//! A value that one thread uses without waiting while another one replaces it.
//!
//! Invariant: the user's thread takes no lock, and looks for a replacement only when it asks to.

use std::sync::{
    Arc,
    mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
};

/// The value as its user sees it.
#[derive(Debug)]
pub struct Reloadable<T> {
    current: Arc<T>,
    fresh: Option<Receiver<Arc<T>>>,
}

/// Replaces it.
#[derive(Debug)]
pub struct Replacer<T> {
    fresh: SyncSender<Arc<T>>,
    /// Those that the user may hold. Kept here, so that it is never the user's thread that pays for dropping one.
    handed: Vec<Arc<T>>,
}

/// The user has not taken the replacement before, or is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the one before was not taken yet")]
pub struct Busy;

/// A value and what replaces it.
#[must_use]
pub fn reloadable<T>(value: T) -> (Replacer<T>, Reloadable<T>) {
    let (sender, receiver) = sync_channel(1);
    let current = Arc::new(value);
    let replacer = Replacer {
        fresh: sender,
        handed: vec![Arc::clone(&current)],
    };
    let reloadable = Reloadable {
        current,
        fresh: Some(receiver),
    };
    (replacer, reloadable)
}

impl<T> Reloadable<T> {
    /// A value that stays.
    #[must_use]
    pub fn fixed(value: T) -> Self {
        Self {
            current: Arc::new(value),
            fresh: None,
        }
    }

    /// The value, as of the last [`Self::refresh`].
    #[must_use]
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Takes the replacement if there is one; whether there was. Costs a look at memory that nobody writes as a rule.
    pub fn refresh(&mut self) -> bool {
        match self.fresh.as_ref().map(Receiver::try_recv) {
            Some(Ok(fresh)) => {
                self.current = fresh;
                true
            }
            Some(Err(_)) | None => false,
        }
    }
}

impl<T> Replacer<T> {
    /// Hands a new value to the user.
    ///
    /// # Errors
    /// The user has not taken the one before.
    pub fn replace(&mut self, value: T) -> Result<(), Busy> {
        // What only this list still holds is dropped here.
        self.handed.retain(|handed| Arc::strong_count(handed) > 1);
        let value = Arc::new(value);
        match self.fresh.try_send(Arc::clone(&value)) {
            Ok(()) => {
                self.handed.push(value);
                Ok(())
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_is_seen_when_asked_for_and_dropped_by_the_replacer() {
        let (mut replacer, mut user) = reloadable(1);
        assert!(!user.refresh());
        replacer.replace(2).unwrap();
        assert_eq!(**user.current(), 1);
        assert_eq!(replacer.replace(3), Err(Busy));
        assert!(user.refresh() && !user.refresh());
        assert_eq!(**user.current(), 2);
        // The first one and the second: both still held here.
        assert_eq!(replacer.handed.len(), 2);
        replacer.replace(3).unwrap();
        assert_eq!(replacer.handed.len(), 2);
        drop(user);
        assert_eq!(replacer.replace(4), Err(Busy));
        assert!(!Reloadable::fixed(1).refresh());
    }
}
