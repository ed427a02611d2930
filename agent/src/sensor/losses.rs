//! What the kernel half lost: its own counters, and the misses that only the kernel knows of.

use aya::maps::{Array, MapData, MapError, PerCpuArray};
use staghound_ebpf::Loss;
use std::{
    cell::RefCell,
    os::fd::{AsFd as _, OwnedFd},
};

use crate::sensor::{SensorError, bpf, hooks::PROGRAMS, load::Running, pin};

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
    /// What an earlier agent told of, which is no news; and where the next one finds what this one told of.
    before: Vec<u64>,
    told: Option<RefCell<Array<MapData, u64>>>,
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
        Ok(Self {
            losses,
            programs,
            before: Vec::new(),
            told: None,
        })
    }

    /// Goes on where an earlier agent ended. With other programs than that one had, their misses begin anew.
    pub(super) fn go_on(&mut self, told: Array<MapData, u64>, same_programs: bool) -> Result<(), SensorError> {
        self.before = told
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|error| map_error(&error))?;
        if !same_programs {
            self.before.truncate(pin::TOLD_LOSSES as usize);
        }
        self.told = Some(RefCell::new(told));
        self.read().map(drop)
    }

    /// What was told of before this agent, at this element.
    fn before(&self, element: u32) -> u64 {
        self.before.get(element as usize).copied().unwrap_or(0)
    }

    /// Keeps what is told of for the next agent.
    fn keep(&self, element: u32, value: u64) -> Result<(), SensorError> {
        match &self.told {
            Some(told) => told
                .borrow_mut()
                .set(element, value, 0)
                .map_err(|error| map_error(&error)),
            None => Ok(()),
        }
    }

    pub(super) fn read(&self) -> Result<Losses, SensorError> {
        let mut counts = Vec::with_capacity(Loss::ALL.len());
        for loss in Loss::ALL {
            let values = self.losses.get(&(loss as u32), 0).map_err(|error| SensorError::Map {
                map: "LOSSES",
                reason: error.to_string(),
            })?;
            let count: u64 = values.iter().sum();
            counts.push(count.saturating_sub(self.before(loss as u32)));
            self.keep(loss as u32, count)?;
        }
        let mut recursion_misses = Vec::with_capacity(self.programs.len());
        for (name, program) in &self.programs {
            let info = bpf::program_info(program.as_fd()).map_err(|error| SensorError::Map {
                map: "bpf_prog_info",
                reason: error.to_string(),
            })?;
            let place = PROGRAMS.iter().position(|program| program.name == *name);
            let element = pin::TOLD_LOSSES + u32::try_from(place.unwrap_or(0)).expect("there are few programs");
            recursion_misses.push((*name, info.recursion_misses.saturating_sub(self.before(element))));
            self.keep(element, info.recursion_misses)?;
        }
        Ok(Losses {
            counts,
            recursion_misses,
        })
    }
}

fn map_error(error: &MapError) -> SensorError {
    SensorError::Map {
        map: "TOLD",
        reason: error.to_string(),
    }
}
