//! What the kernel half lost: its own counters, and the misses that only the kernel knows of.

use aya::maps::{MapData, PerCpuArray};
use staghound_ebpf::Loss;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::sensor::{SensorError, bpf, load::Running};

/// Losses since the sensor started, all processors together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    counts: Vec<u64>,
    /// By program: how often the kernel skipped it because it was already running on that processor.
    pub recursion_misses: Vec<(&'static str, u64)>,
}

impl Losses {
    /// How often this happened.
    #[must_use]
    pub fn of(&self, loss: Loss) -> u64 {
        self.counts.get(loss as usize).copied().unwrap_or(0)
    }

    /// Whole events that are gone.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        let counted: u64 = Loss::ALL
            .into_iter()
            .filter(|loss| loss.loses_event())
            .map(|loss| self.of(loss))
            .sum();
        counted + self.recursion_misses.iter().map(|(_, misses)| misses).sum::<u64>()
    }
}

/// Where the losses are counted.
pub(super) struct Counters {
    losses: PerCpuArray<MapData, u64>,
    /// Attached programs, by name.
    programs: Vec<(&'static str, OwnedFd)>,
}

impl Counters {
    pub(super) fn new(losses: PerCpuArray<MapData, u64>, running: &[Running]) -> Result<Self, SensorError> {
        let mut programs = Vec::new();
        // Only attached programs can be skipped: a tail call is part of its caller.
        for running in running.iter().filter(|running| running.link.is_some()) {
            let program = running.program.try_clone().map_err(|error| SensorError::Map {
                map: "bpf_prog_info",
                reason: error.to_string(),
            })?;
            programs.push((running.name, program));
        }
        Ok(Self { losses, programs })
    }

    pub(super) fn read(&self) -> Result<Losses, SensorError> {
        let mut counts = Vec::with_capacity(Loss::ALL.len());
        for loss in Loss::ALL {
            let values = self.losses.get(&(loss as u32), 0).map_err(|error| SensorError::Map {
                map: "LOSSES",
                reason: error.to_string(),
            })?;
            counts.push(values.iter().sum());
        }
        let mut recursion_misses = Vec::with_capacity(self.programs.len());
        for (name, program) in &self.programs {
            let info = bpf::program_info(program.as_fd()).map_err(|error| SensorError::Map {
                map: "bpf_prog_info",
                reason: error.to_string(),
            })?;
            recursion_misses.push((*name, info.recursion_misses));
        }
        Ok(Losses {
            counts,
            recursion_misses,
        })
    }
}
