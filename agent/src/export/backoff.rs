//! Pauses between attempts: doubling, bounded, and random, so that a collector that comes back is not met by all its
//! agents at once.

use std::time::Duration;

/// The pauses of one exporter.
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The next pause: between half and all of what is due.
    pub(super) fn next(&mut self) -> Duration {
        let due = self.next;
        self.next = (due * 2).min(self.max);
        let mut random = [0; 4];
        // Without chance the pause is merely the longest.
        let share =
            getrandom::fill(&mut random).map_or(1.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
        due.mul_f64(0.5 + share / 2.0)
    }

    /// Things went well: begin from the shortest again.
    pub(super) fn reset(&mut self) {
        self.next = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (min, max) = (Duration::from_millis(250), Duration::from_secs(30));
        let mut backoff = Backoff::new(min, max);
        for due_ms in [250, 500, 1000, 2000, 4000, 8000, 16000, 30000, 30000] {
            let due = Duration::from_millis(due_ms);
            let pause = backoff.next();
            assert!(due / 2 <= pause && pause <= due, "{pause:?} of {due:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= min);
    }
}
