//! What the kernel half lost: its own counters, and the misses that only the kernel knows of.

use aya::maps::{MapData, PerCpuArray};
use staghound_ebpf::Loss;
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use crate::sensor::SensorError;

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
    pub(super) losses: PerCpuArray<MapData, u64>,
    /// Attached programs, by name.
    pub(super) programs: Vec<(&'static str, OwnedFd)>,
}

impl Counters {
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
            let misses = recursion_misses_of(program).map_err(|error| SensorError::Map {
                map: "bpf_prog_info",
                reason: error.to_string(),
            })?;
            recursion_misses.push((*name, misses));
        }
        Ok(Losses {
            counts,
            recursion_misses,
        })
    }
}

/// `bpf_attr` of `BPF_OBJ_GET_INFO_BY_FD` (include/uapi/linux/bpf.h).
#[repr(C)]
struct InfoRequest {
    program: u32,
    info_bytes: u32,
    info: u64,
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Where `recursion_misses` lies in `struct bpf_prog_info`, whose layout is ABI; aya does not show it.
const RECURSION_MISSES_AT: usize = 208;
const INFO_BYTES: usize = 232;

fn recursion_misses_of(program: &OwnedFd) -> io::Result<u64> {
    let mut info = [0_u64; INFO_BYTES / 8];
    let request = InfoRequest {
        program: u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?,
        info_bytes: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
        info: info.as_mut_ptr() as u64,
    };
    // SAFETY: the kernel writes at most `info_bytes` to `info`, which outlives the call.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_OBJ_GET_INFO_BY_FD,
            &raw const request,
            size_of_val(&request),
        )
    };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(info[RECURSION_MISSES_AT / 8])
}
