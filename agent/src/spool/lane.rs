//! Which items go first when there is no room for all.

use staghound_proto::v1::{Item, Severity, item};

/// Items that are kept in files of their own, so that some can be dropped and others stay. In the order in which they
/// are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Alerts below medium severity.
    Low,
    /// Alerts of medium severity.
    Medium,
    /// Alerts above, runs, and gaps: what says that something is missing must not be missing itself.
    High,
}

impl Lane {
    pub(super) const ALL: [Lane; 3] = [Lane::Low, Lane::Medium, Lane::High];

    pub(super) fn of(item: &Item) -> Self {
        match &item.kind {
            Some(item::Kind::Alert(alert)) => match alert.severity() {
                Severity::Unspecified | Severity::Informational | Severity::Low => Lane::Low,
                Severity::Medium => Lane::Medium,
                Severity::High | Severity::Critical => Lane::High,
            },
            Some(item::Kind::Gap(_) | item::Kind::Run(_)) | None => Lane::High,
        }
    }

    /// As in the names of files and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Lane::Low => "low",
            Lane::Medium => "medium",
            Lane::High => "high",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Lane::Low => 0,
            Lane::Medium => 1,
            Lane::High => 2,
        }
    }
}

/// One of something for each lane.
#[derive(Clone, Debug, Default)]
pub(super) struct ByLane<T>([T; 3]);

impl<T> ByLane<T> {
    pub(super) fn get(&self, lane: Lane) -> &T {
        &self.0[lane.index()]
    }

    pub(super) fn get_mut(&mut self, lane: Lane) -> &mut T {
        &mut self.0[lane.index()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Lane, &T)> {
        Lane::ALL.into_iter().zip(&self.0)
    }
}
