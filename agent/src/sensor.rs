//! The sensor: loads the programs, reads their rings, decodes their records.
//!
//! Invariants: nothing outside knows aya; nothing in here knows rules or alerts.

mod bpf;
mod check;
pub mod decode;
mod demand;
mod hooks;
mod load;
mod losses;
mod object;
pub mod offsets;
mod pin;
mod ring;
pub mod syscalls;

pub use check::Tampering;
pub use demand::is_always_recorded;
pub use hooks::{HookChoice, LsmChoice, REQUESTS, Release, lsm_runs_programs};
pub use load::{Attachment, Outcome, Privileges, object_digest};
pub use losses::Losses;
pub use pin::{DIRECTORY as PIN_DIRECTORY, unpin};

use crate::sensor::{
    demand::Tables,
    hooks::Family,
    load::{Loaded, Plan, Running},
    losses::Counters,
    offsets::OffsetsError,
    pin::{Found, Pins},
    ring::{Rings, Sleeper},
};
use aya::maps::{Array, HashMap, MapData};
use staghound_engine::demand::Demand;
use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

/// What a sensor watches.
#[derive(Clone, Debug, Default)]
pub struct SensorConfig {
    /// Report only processes that [`Sensor::watch`] names, and their descendants.
    pub scoped: bool,
    /// Programs left out on purpose, by name.
    pub without: Vec<String>,
    /// Pass on what the programs log, for debugging them.
    pub debug: bool,
    /// By which hook the ends of system calls are seen.
    pub hook: HookChoice,
    /// Whether programs on LSM hooks are used.
    pub lsm: LsmChoice,
    /// Pin everything below this directory of a BPF file system, so that it goes on when the agent does not; and take over
    /// what an earlier agent pinned there.
    pub pin: Option<PathBuf>,
    /// Refuse, by LSM hooks, what would stop or take over the agent.
    pub refuse: bool,
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
    /// Pins cannot be had.
    #[error("cannot pin at {}: {reason}", .directory.display())]
    Pin {
        /// Where.
        directory: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// A program named in `without` does not exist.
    #[error("there is no program `{0}` to leave out; the programs are {1}")]
    UnknownProgram(String, String),
}

/// Elements of the map `AGENT`.
const AGENT_PID: u32 = 0;
const GENERATION: u32 = 1;

/// Programs in the kernel and the rings they write to.
pub struct Sensor {
    rings: Rings,
    sleeper: Sleeper,
    counters: Counters,
    scope: HashMap<MapData, u32, u32>,
    tables: Tables,
    /// The map of the system calls, to read it as a whole.
    syscalls: OwnedFd,
    agent: Array<MapData, u32>,
    generation: u32,
    outcomes: Vec<Outcome>,
    /// Keeps programs and links alive; without it nothing is attached.
    running: Vec<Running>,
    /// Likewise what is tail-called.
    actions: Option<OwnedFd>,
    family: Family,
    pins: Option<Pins>,
    taken_over: TakenOver,
    /// Whether the rest of the records was left for the next agent.
    left: bool,
}

/// What an agent found of an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Until then, in nanoseconds since boot, the programs of an earlier agent recorded while no agent was running. Older
    /// records were made then.
    pub unattended_until_ns: Option<u64>,
    /// The process of that agent, by its number as the agents count: what was done to it is found in those records.
    pub earlier_agent: Option<u32>,
    /// Pins that could not be used, why, and how many records were in their rings that nobody will read.
    pub replaced: Option<(String, u64)>,
}

impl Sensor {
    /// Loads and attaches what this kernel allows. A program that cannot be had is an [`Outcome`], not an error, unless
    /// none can.
    ///
    /// # Errors
    /// Privileges, BTF or maps are missing.
    pub fn start(config: &SensorConfig) -> Result<Self, SensorError> {
        let plan = Plan::new(config)?;
        let Some(directory) = &config.pin else {
            return Self::of(Loaded::load(&plan, 0, None)?, 0, None);
        };
        let mut pins = Pins::open(directory)?;
        let identity = plan.identity();
        let mut taken_over = TakenOver::default();
        let mut found = pins.find(identity);
        if let Found::Same(generation, family) = found {
            match Loaded::pinned(&plan, &pins, generation, family) {
                Ok(loaded) => {
                    pins.clear_but(generation)?;
                    pins.remember_all(generation)?;
                    let told = pins.told()?;
                    let mut this = Self::of(loaded, generation, Some(pins))?;
                    this.counters.go_on(told, true)?;
                    this.unattended();
                    return Ok(this);
                }
                Err(reason) => {
                    tracing::warn!("pinned programs are replaced: {reason}");
                    found = Found::Older(generation);
                }
            }
        }
        let (generation, shared) = match found {
            Found::Older(generation) | Found::Same(generation, _) => {
                // What a killed upgrade left behind is in the way of this one.
                pins.clear_but(generation)?;
                (generation.wrapping_add(1), Some(pins.shared()))
            }
            Found::Nothing => {
                pins.begin()?;
                (0, None)
            }
            Found::Stale(reason) => {
                let unread = pins.clear()?;
                tracing::warn!(
                    "pins at {} are replaced: {reason}; {unread} records were lost",
                    directory.display()
                );
                taken_over.replaced = Some((reason, unread));
                pins.begin()?;
                (0, None)
            }
        };
        let loaded = Loaded::load(&plan, generation, shared.as_deref())?;
        let family = loaded.family;
        pins.pin_shared(&loaded.maps)?;
        pins.pin_generation(generation, &loaded.maps, &loaded.running)?;
        let told = pins.told()?;
        // From here on these programs report, and those of the last generation do not.
        let mut this = Self::of(loaded, generation, None)?;
        pins.complete(identity, family)?;
        pins.clear_but(generation)?;
        this.pins = Some(pins);
        this.counters.go_on(told, false)?;
        this.taken_over.replaced = taken_over.replaced;
        if shared.is_some() {
            this.unattended();
        }
        Ok(this)
    }

    /// A sensor of what is loaded, whose programs report from now on.
    fn of(mut loaded: Loaded, generation: u32, pins: Option<Pins>) -> Result<Self, SensorError> {
        if loaded.running.is_empty() {
            let reasons: Vec<String> = loaded.outcomes.iter().map(Outcome::to_string).collect();
            return Err(SensorError::NothingAttached(reasons.join("; ")));
        }
        let served = loaded.served();
        let maps = &mut loaded.maps;
        let actions = maps.descriptor(loaded.family.actions())?;
        let syscalls = maps.descriptor("SYSCALLS")?;
        let tables = Tables::new(maps, served)?;
        let mut agent: Array<MapData, u32> = maps.take("AGENT")?;
        // Nobody's where the map is new.
        let earlier_agent = agent.get(&AGENT_PID, 0).ok().filter(|pid| *pid != 0);
        for (element, value) in [(AGENT_PID, std::process::id()), (GENERATION, generation)] {
            agent.set(element, value, 0).map_err(|error| SensorError::Map {
                map: "AGENT",
                reason: error.to_string(),
            })?;
        }
        Ok(Self {
            tables,
            syscalls,
            agent,
            generation,
            rings: Rings::new(maps.take("PROCESS_RING")?, maps.take("FILE_RING")?),
            sleeper: Sleeper::new(maps.take("SLEEPING")?),
            counters: Counters::new(maps.take("LOSSES")?, &loaded.running)?,
            scope: maps.take("SCOPE")?,
            outcomes: loaded.outcomes,
            running: loaded.running,
            actions: Some(actions),
            family: loaded.family,
            pins,
            taken_over: TakenOver {
                earlier_agent,
                ..TakenOver::default()
            },
            left: false,
        })
    }

    /// Marks what is in the rings now, and looks whether somebody changed tables while no agent did.
    fn unattended(&mut self) {
        self.taken_over.unattended_until_ns = Some(since_boot_ns());
        for tampering in self.check() {
            tracing::warn!("while the agent was not running, {tampering}");
        }
    }

    /// What was found of an earlier agent.
    #[must_use]
    pub fn taken_over(&self) -> &TakenOver {
        &self.taken_over
    }

    /// Records older than this, in nanoseconds since boot, were made while no agent was running.
    #[must_use]
    pub fn captured_unattended_until_ns(&self) -> Option<u64> {
        self.taken_over.unattended_until_ns
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

    /// Tells the programs what the rules that are loaded can want: the rest is not reported from now on. Call it again when
    /// other rules are loaded, before they are used: then it first lets in what is new. Until the first time, everything
    /// is reported.
    ///
    /// # Errors
    /// A map refuses.
    pub fn demand(&mut self, demand: &Demand) -> Result<(), SensorError> {
        self.tables.tell(demand)
    }

    /// Detaches every program. What they wrote until now stays to be drained, and what they lost to be read.
    pub fn detach(&mut self) {
        self.running.clear();
        self.actions = None;
        self.left = self.pins.is_some();
    }

    /// Waits until there are records, at most `limit`. Naps while records keep coming, sleeps until woken when none do.
    pub fn wait(&mut self, limit: Duration) {
        self.sleeper.wait(&mut self.rings, limit);
    }

    /// Hands every record that is there to `each`, in order of time across both rings; yields how many. Takes at most
    /// `limit` records, so that a flood cannot keep the caller from looking up.
    pub fn drain(&mut self, limit: usize, each: impl FnMut(&[u8])) -> usize {
        if self.left {
            return self.rings.drain_held(each);
        }
        if let Err(error) = self.tables.settle() {
            // More is reported than is wanted: nothing is lost.
            tracing::warn!("{error}");
        }
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

/// The clock of records.
fn since_boot_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    assert_eq!(status, 0, "every kernel has this clock");
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}
