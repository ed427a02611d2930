//! The sensor: loads the programs, reads their rings, decodes their records.
//!
//! Invariants: nothing outside knows aya; nothing in here knows rules or alerts.

pub mod decode;
mod load;
mod losses;
pub mod offsets;
mod ring;
pub mod syscalls;

pub use load::{Attachment, Outcome, Privileges, object_digest};
pub use losses::Losses;

use crate::sensor::{
    load::Loaded,
    losses::Counters,
    offsets::OffsetsError,
    ring::{Rings, Sleeper},
};
use aya::maps::{HashMap, MapData};
use std::time::Duration;

/// What a sensor watches.
#[derive(Clone, Debug, Default)]
pub struct SensorConfig {
    /// Report only processes that [`Sensor::watch`] names, and their descendants.
    pub scoped: bool,
    /// Programs left out on purpose, by name.
    pub without: Vec<String>,
    /// Pass on what the programs log, for debugging them.
    pub debug: bool,
}

/// Why the sensor cannot start. Every message names the next step.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// Offsets of kernel structs cannot be had.
    #[error(transparent)]
    Offsets(#[from] OffsetsError),
    /// A privilege is missing.
    #[error(
        "cannot load BPF programs: {0}; run as root, or with CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH (`staghound preflight` tells more)"
    )]
    Privilege(String),
    /// The object or one of its maps cannot be loaded.
    #[error("cannot load the kernel object: {0}; `staghound preflight` tells what this kernel lacks")]
    Object(String),
    /// Nothing could be attached.
    #[error("no program could be attached: {0}")]
    NothingAttached(String),
    /// A map refused an operation.
    #[error("cannot use the map `{map}`: {reason}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// A program named in `without` does not exist.
    #[error("there is no program `{0}` to leave out; the programs are {1}")]
    UnknownProgram(String, String),
}

/// Programs in the kernel and the rings they write to.
pub struct Sensor {
    rings: Rings,
    sleeper: Sleeper,
    counters: Counters,
    scope: HashMap<MapData, u32, u32>,
    outcomes: Vec<Outcome>,
    /// Keeps programs and links alive; dropping it detaches them.
    loaded: Option<Loaded>,
}

impl Sensor {
    /// Loads and attaches what this kernel allows. A program that cannot be had is an [`Outcome`], not an error, unless
    /// none can.
    ///
    /// # Errors
    /// Privileges, BTF or maps are missing.
    pub fn start(config: &SensorConfig) -> Result<Self, SensorError> {
        let mut loaded = Loaded::load(config)?;
        let outcomes = loaded.outcomes().to_vec();
        if !outcomes
            .iter()
            .any(|outcome| outcome.attachment == Attachment::Attached)
        {
            let reasons: Vec<String> = outcomes.iter().map(Outcome::to_string).collect();
            return Err(SensorError::NothingAttached(reasons.join("; ")));
        }
        Ok(Self {
            rings: loaded.rings()?,
            sleeper: loaded.sleeper()?,
            counters: loaded.counters()?,
            scope: loaded.scope()?,
            outcomes,
            loaded: Some(loaded),
        })
    }

    /// What became of each program.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// Takes a process into the scope; its descendants follow by themselves. Without effect when the sensor watches all.
    ///
    /// # Errors
    /// The map of processes in scope refuses.
    pub fn watch(&mut self, pid: u32) -> Result<(), SensorError> {
        self.scope.insert(pid, 1, 0).map_err(|error| SensorError::Map {
            map: "SCOPE",
            reason: error.to_string(),
        })
    }

    /// The processes in the scope. They stay to be read after [`Self::detach`], but from then on nobody takes out those
    /// that end.
    ///
    /// # Errors
    /// The map of processes in scope cannot be read.
    pub fn watched(&self) -> Result<Vec<u32>, SensorError> {
        self.scope
            .keys()
            .collect::<Result<_, _>>()
            .map_err(|error| SensorError::Map {
                map: "SCOPE",
                reason: error.to_string(),
            })
    }

    /// Detaches every program. What they wrote until now stays to be drained, and what they lost to be read.
    pub fn detach(&mut self) {
        self.loaded = None;
    }

    /// Waits until there are records, at most `limit`. Naps while records keep coming, sleeps until woken when none do.
    pub fn wait(&mut self, limit: Duration) {
        self.sleeper.wait(&mut self.rings, limit);
    }

    /// Hands every record that is there to `each`, in order of time across both rings; yields how many. Takes at most
    /// `limit` records, so that a flood cannot keep the caller from looking up.
    pub fn drain(&mut self, limit: usize, each: impl FnMut(&[u8])) -> usize {
        let drained = self.rings.drain(limit, each);
        self.sleeper.note(drained);
        drained
    }

    /// What the programs have lost so far, all processors together.
    ///
    /// # Errors
    /// The counters cannot be read.
    pub fn losses(&self) -> Result<Losses, SensorError> {
        self.counters.read()
    }
}
