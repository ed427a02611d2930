//! Loads the kernel object, and each program of it alone.
//!
//! Nearly all of the start is the kernel's verifier at work, which runs on the thread that loads. So all processors load,
//! and what tells of processes and opens is attached before the rest is looked at.

use std::{
    collections::HashMap,
    fmt, io,
    num::NonZero,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use aya::maps::{self, Map, MapData};
use staghound_ebpf::{Action, ENV_NAMES_ALIKE_MAX, ENV_NAMES_MAX, EnvName, Settings};
use zerocopy::IntoBytes as _;

use crate::sensor::{
    AGENT_PID, SensorConfig, SensorError,
    bpf::{self, Link, ProgramType, Refusal},
    hooks::{
        DISPATCHER, FIRST, Family, Hook, Kernel, LSM_OPEN, PROGRAMS, Program, Release, SOCKET_LENGTHS,
        syscall_exit_number,
    },
    object::{Object, chain},
    pin::{self, Identity, Pins},
    syscalls,
};

/// The kernel object, built by this package's build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/staghound-bpf"));

/// Environment variables whose values may leave the kernel: those that make a program load or run something else, or
/// that tell who drives a build. Never one that may hold a secret.
const ENV_NAMES: [&str; 22] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "GCONV_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PYTHONSTARTUP",
    "PYTHONPATH",
    "PYTHONHOME",
    "PERL5OPT",
    "PERL5LIB",
    "RUBYOPT",
    "RUBYLIB",
    "BASH_ENV",
    "ENV",
    "PROMPT_COMMAND",
    "GIT_SSH_COMMAND",
    "HISTFILE",
    "HISTSIZE",
    "RUNNER_ALLOW_RUNASROOT",
    "GITHUB_ACTIONS",
    "npm_lifecycle_event",
];
const _: () = assert!(ENV_NAMES.len() <= ENV_NAMES_MAX);

/// What became of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Name of the program.
    pub program: &'static str,
    /// The hook it is for.
    pub hook: &'static str,
    /// What became of it.
    pub attachment: Attachment,
    /// Instructions that the verifier went through; unknown before 5.16.
    pub verified_instructions: Option<u32>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.program, self.hook, self.attachment)
    }
}

/// What can become of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// It runs.
    Attached,
    /// It was left out on purpose.
    LeftOut,
    /// The kernel does not have its hook: what it would tell is missing.
    NoHook(String),
    /// It cannot run here, and what it would tell is told by another.
    NotNeeded(String),
    /// It should refuse what is done to the agent, and cannot here. Nothing is missing of what is seen.
    Powerless(String),
    /// The kernel refused to load it.
    Refused(String),
}

impl Attachment {
    /// Whether events are missing that the program would have told of, for whatever reason.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Attached | Self::NotNeeded(_) | Self::Powerless(_) => false,
            Self::LeftOut | Self::NoHook(_) | Self::Refused(_) => true,
        }
    }

    /// Its name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::LeftOut => "left_out",
            Self::NoHook(_) => "no_hook",
            Self::NotNeeded(_) => "not_needed",
            Self::Powerless(_) => "powerless",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.write_str("attached"),
            Self::LeftOut => f.write_str("left out as asked"),
            Self::NoHook(reason) => f.write_str(reason),
            Self::NotNeeded(reason) => write!(f, "not needed: {reason}"),
            Self::Powerless(reason) => write!(f, "cannot refuse what is done to the agent: {reason}"),
            Self::Refused(reason) => write!(f, "refused by the kernel: {reason}"),
        }
    }
}

/// The privileges of this process that matter to the sensor.
#[derive(Clone, Copy, Debug)]
pub struct Privileges {
    effective: u64,
}

impl Privileges {
    /// Capabilities by name and number (include/uapi/linux/capability.h), with what each is for.
    pub const NEEDED: [(&'static str, u32, &'static str); 4] = [
        ("CAP_BPF", 39, "load programs and maps"),
        ("CAP_PERFMON", 38, "trace: read kernel memory from programs"),
        ("CAP_SYS_PTRACE", 19, "read /proc of other users' processes at start"),
        (
            "CAP_DAC_READ_SEARCH",
            2,
            "read tracefs and the executables of other users",
        ),
    ];
    const CAP_SYS_ADMIN: u32 = 21;

    /// Of this process.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn of_this_process() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let effective = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
            .ok_or_else(|| io::Error::other("/proc/self/status has no CapEff"))?;
        Ok(Self { effective })
    }

    /// Whether the capability of this number is effective.
    #[must_use]
    pub fn has(self, capability: u32) -> bool {
        self.effective & (1 << capability) != 0
    }

    /// Capabilities without which nothing can be loaded. `CAP_SYS_ADMIN` stands for both on every kernel.
    #[must_use]
    pub fn missing_to_load(self) -> Vec<&'static str> {
        if self.has(Self::CAP_SYS_ADMIN) {
            return Vec::new();
        }
        Self::NEEDED[..2]
            .iter()
            .filter(|(_, number, _)| !self.has(*number))
            .map(|(name, _, _)| *name)
            .collect()
    }
}

/// A program that is loaded.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: &'static str,
    pub(super) program: OwnedFd,
    /// What the kernel numbers the program.
    pub(super) id: u32,
    /// What keeps it attached; none for what is tail-called.
    pub(super) link: Option<Link>,
    pub(super) actions: &'static [Action],
}

/// Programs that the others were told of when they were loaded: each does part of the work of some of them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Assumed {
    lsm_open: bool,
    socket_lengths: bool,
}

impl Assumed {
    /// Whether the others were told that the program of this name runs.
    fn has(self, name: &str) -> bool {
        (self.lsm_open && name == LSM_OPEN) || (self.socket_lengths && SOCKET_LENGTHS.contains(&name))
    }

    /// Whether the program of this name may run.
    fn admits(self, name: &str) -> bool {
        self.has(name) || (name != LSM_OPEN && !SOCKET_LENGTHS.contains(&name))
    }

    /// Without the program of this name, and without what works only with it.
    fn without(self, name: &str) -> Self {
        Self {
            lsm_open: self.lsm_open && name != LSM_OPEN,
            socket_lengths: self.socket_lengths && !SOCKET_LENGTHS.contains(&name),
        }
    }
}

/// Everything that lives in the kernel.
pub(super) struct Loaded {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) running: Vec<Running>,
    pub(super) maps: Maps,
    pub(super) family: Family,
}

/// Maps that the agent reads or writes, by name.
pub(super) struct Maps(HashMap<&'static str, Map>);

impl Maps {
    /// Every map that is asked for.
    pub(super) const NAMES: [&str; 11] = [
        "PROCESS_RING",
        "FILE_RING",
        "LOSSES",
        "AGENT",
        "SLEEPING",
        "SYSCALLS",
        "SCOPE",
        "OPEN_WANTED",
        "WANTED_NAMES",
        "ACTIONS",
        "ACTIONS_PERF",
    ];

    fn of(object: &mut Object) -> Self {
        Self(
            Self::NAMES
                .into_iter()
                .filter_map(|name| Some((name, object.maps.remove(name)?)))
                .collect(),
        )
    }

    /// Whether the object has it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Takes out a map, as what it is.
    pub(super) fn take<T>(&mut self, name: &'static str) -> Result<T, SensorError>
    where
        T: TryFrom<Map, Error = maps::MapError>,
    {
        let map = self.0.remove(name).ok_or_else(|| SensorError::Map {
            map: name,
            reason: "the object does not hold it".to_owned(),
        })?;
        map.try_into().map_err(|error: maps::MapError| SensorError::Map {
            map: name,
            reason: error.to_string(),
        })
    }

    /// The maps of a generation that is pinned.
    fn pinned(pins: &Pins, generation: u32) -> Result<Self, String> {
        let mut maps = HashMap::new();
        for name in Self::NAMES {
            let directory = if pin::SHARED.contains(&name) {
                pins.shared()
            } else {
                pins.generation(generation)
            };
            let path = directory.join(name);
            let map = MapData::from_pin(&path).and_then(Map::from_map_data);
            maps.insert(name, map.map_err(|error| format!("{}: {error}", path.display()))?);
        }
        Ok(Self(maps))
    }

    /// Pins a map that has not been taken out.
    pub(super) fn pin(&self, name: &'static str, path: &Path) -> Result<(), String> {
        let map = self
            .0
            .get(name)
            .ok_or_else(|| format!("the object does not hold the map {name}"))?;
        map.pin(path)
            .map_err(|error| format!("{}: {}", path.display(), chain(&error)))
    }

    /// Writes an element of an array of numbers that has not been taken out.
    fn write(&self, name: &'static str, index: u32, value: u32) -> Result<(), SensorError> {
        let map = self.descriptor(name)?;
        bpf::write_element(map.as_fd(), index, &value.to_ne_bytes()).map_err(|error| SensorError::Map {
            map: name,
            reason: error.to_string(),
        })
    }

    /// A descriptor of a map that has not been taken out.
    pub(super) fn descriptor(&self, name: &'static str) -> Result<OwnedFd, SensorError> {
        let refused = |reason: String| SensorError::Map { map: name, reason };
        match self.0.get(name) {
            Some(Map::Array(data) | Map::ProgramArray(data) | Map::HashMap(data)) => data
                .fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| refused(error.to_string())),
            Some(_) => Err(refused("it is of another type".to_owned())),
            None => Err(refused("the object does not hold it".to_owned())),
        }
    }
}

impl Loaded {
    /// Loads the object for a generation, with the shared maps of the last one if there are any.
    pub(super) fn load(plan: &Plan<'_>, generation: u32, shared: Option<&Path>) -> Result<Self, SensorError> {
        let mut assumed = plan.assumed;
        let mut refused: Vec<Outcome> = Vec::new();
        loop {
            match Self::load_with(plan, assumed, generation, shared)? {
                Ok(mut loaded) => {
                    for outcome in &mut loaded.outcomes {
                        if let Some(before) = refused.iter().find(|before| before.program == outcome.program) {
                            *outcome = before.clone();
                        }
                    }
                    return Ok(loaded);
                }
                Err(outcome) => {
                    assumed = assumed.without(outcome.program);
                    refused.push(outcome);
                }
            }
        }
    }

    /// Or the outcome of a program that the others would rely on, and that could not be had.
    fn load_with(
        plan: &Plan<'_>,
        assumed: Assumed,
        generation: u32,
        shared: Option<&Path>,
    ) -> Result<Result<Self, Outcome>, SensorError> {
        let config = plan.config;
        let settings = plan.settings(assumed, generation);
        let shapes = syscalls::shape_table();
        let uring = syscalls::uring_table();
        let globals = [
            ("OFFSETS", plan.kernel.types.offsets.as_bytes()),
            ("SETTINGS", settings.as_bytes()),
            ("SHAPES", shapes.as_bytes()),
            ("URING", uring.as_bytes()),
            ("AYA_LOG_LEVEL", &[u8::from(config.debug) * LOG_LEVEL_DEBUG]),
        ];
        let pinned: Vec<(&str, PathBuf)> = shared
            .iter()
            .flat_map(|directory| pin::SHARED.map(|name| (name, directory.join(name))))
            .collect();
        let pinned: Vec<(&str, &Path)> = pinned.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let mut object = Object::new(OBJECT, &globals, &pinned).map_err(SensorError::Object)?;
        allow_env_names(&mut object)?;
        let maps = Maps::of(&mut object);
        if shared.is_none() {
            // From the first event on: what the agent itself opens while it starts is no news.
            maps.write("AGENT", AGENT_PID, std::process::id())?;
        }
        let (family, other_too) = Family::choose(config.hook, plan.kernel.release);
        let loading = Loading {
            config,
            kernel: &plan.kernel,
            object: &object,
            assumed,
        };
        let mut started = Started::new(family);
        loading.start(&mut started, &maps, |program| FIRST.contains(&program.name))?;
        let served: Vec<Action> = started.actions().collect();
        for (number, action) in syscalls::table(&served, |_| true).actions.into_iter().enumerate() {
            if action != 0 {
                let number = u32::try_from(number).expect("there are few system calls");
                maps.write("SYSCALLS", number, action)?;
            }
        }
        loading.start(&mut started, &maps, |program| program.name == DISPATCHER)?;
        loading.start(&mut started, &maps, |program| {
            program.name != DISPATCHER && !FIRST.contains(&program.name)
        })?;
        if let Some(outcome) = started
            .outcomes
            .iter()
            .find(|outcome| assumed.has(outcome.program) && outcome.attachment != Attachment::Attached)
        {
            return Ok(Err(outcome.clone()));
        }
        if other_too && started.missing() > 0 && maps.has(family.other().actions()) {
            started = loading.try_other(started, &maps)?;
        }
        if config.debug {
            forward_logs(&started.running);
        }
        let place = |name: &str| PROGRAMS.iter().position(|program| program.name == name);
        started.outcomes.sort_by_key(|outcome| place(outcome.program));
        started.running.sort_by_key(|running| place(running.name));
        Ok(Ok(Self {
            outcomes: started.outcomes,
            running: started.running,
            maps,
            family: started.family,
        }))
    }

    /// What an earlier agent loaded and pinned, as it runs.
    pub(super) fn pinned(plan: &Plan<'_>, pins: &Pins, generation: u32, family: Family) -> Result<Self, String> {
        let directory = pins.generation(generation);
        let mut outcomes = Vec::with_capacity(PROGRAMS.len());
        let mut running = Vec::with_capacity(PROGRAMS.len());
        for program in &PROGRAMS {
            let (hook, found) = plan.kernel.hook(program, family);
            let mut outcome = Outcome {
                program: program.name,
                hook,
                attachment: Attachment::Attached,
                verified_instructions: None,
            };
            match pinned_program(program, &directory, family) {
                Ok(Some((program, verified_instructions))) => {
                    running.push(program);
                    outcome.verified_instructions = verified_instructions;
                }
                Ok(None) if matches!(program.hook, Hook::Guard(_)) && !plan.config.refuse => continue,
                Ok(None) => {
                    outcome.attachment = match found {
                        Err(attachment) => attachment,
                        Ok(_) if left_out(plan.config, program) => Attachment::LeftOut,
                        Ok(_) if matches!(program.hook, Hook::Guard(_)) => {
                            Attachment::Powerless("not had when the pinned programs were loaded".to_owned())
                        }
                        // The ends of calls do their work, as when they are not permitted.
                        Ok(_) if matches!(program.hook, Hook::Lsm(_)) => {
                            Attachment::NotNeeded("not had when the pinned programs were loaded".to_owned())
                        }
                        Ok(_) => Attachment::Refused("when the pinned programs were loaded".to_owned()),
                    };
                }
                Err(error) => return Err(format!("{}: {error}", program.name)),
            }
            outcomes.push(outcome);
        }
        if !running.iter().any(|running: &Running| running.name == DISPATCHER) {
            return Err(format!("{DISPATCHER} is not among the programs"));
        }
        Ok(Self {
            outcomes,
            running,
            maps: Maps::pinned(pins, generation)?,
            family,
        })
    }

    /// What the programs that run can do at the end of a system call.
    pub(super) fn served(&self) -> Vec<Action> {
        // Reads and writes among them also where the sockets' own hooks see those: these ask the table as well, and the
        // dispatcher leaves them alone by its settings.
        self.running
            .iter()
            .flat_map(|running| running.actions.iter().copied())
            .collect()
    }
}

/// A program and its link by their pins; none when neither is there.
fn pinned_program(program: &Program, directory: &Path, family: Family) -> io::Result<Option<(Running, Option<u32>)>> {
    /// What the kernel keeps of a name.
    const NAME_BYTES: usize = 15;
    let open = |prefix: &str| match bpf::open_pin(&directory.join(format!("{prefix}_{}", program.name))) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let (Some(descriptor), link) = (open("program")?, open("link")?) else {
        return Ok(None);
    };
    let info = bpf::program_info(descriptor.as_fd())?;
    let name = program.object_name(family_of(program, family));
    if info.name != name[..name.len().min(NAME_BYTES)] {
        return Err(io::Error::other(format!("the pinned program is `{}`", info.name)));
    }
    let link = link.map(Link::Object);
    let attached = link.as_ref().map(Link::program).transpose()?.flatten();
    if program.actions.is_empty() && attached != Some(info.id) {
        return Err(io::Error::other("the pinned program is not attached"));
    }
    let running = Running {
        name: program.name,
        program: descriptor,
        id: info.id,
        link,
        actions: program.actions,
    };
    Ok(Some((running, info.verified_instructions)))
}

/// What is going to be loaded, and for which kernel.
pub(super) struct Plan<'a> {
    config: &'a SensorConfig,
    kernel: Kernel,
    assumed: Assumed,
}

impl<'a> Plan<'a> {
    /// Looks at the kernel.
    pub(super) fn new(config: &'a SensorConfig) -> Result<Self, SensorError> {
        check(config)?;
        let kernel = Kernel::running(config)?;
        lift_memory_limit(kernel.release);
        let possible = |name: &str| {
            PROGRAMS
                .iter()
                .filter(|program| program.name == name)
                .all(|program| !left_out(config, program) && kernel.hook(program, Family::Raw).1.is_ok())
        };
        let assumed = Assumed {
            // It must tell io_uring's opens from those of calls, and does so by the number of the call under way.
            lsm_open: possible(LSM_OPEN) && kernel.types.features.task_registers,
            socket_lengths: SOCKET_LENGTHS.into_iter().all(possible),
        };
        Ok(Self {
            config,
            kernel,
            assumed,
        })
    }

    fn settings(&self, assumed: Assumed, generation: u32) -> Settings {
        let features = self.kernel.types.features;
        Settings {
            scoped: u32::from(self.config.scoped),
            task_pointers: u32::from(features.task_pointers),
            task_registers: u32::from(features.task_registers),
            lsm: u32::from(assumed.lsm_open),
            generation,
            socket_lengths: u32::from(assumed.socket_lengths),
            request_argument: self.kernel.request_argument(),
            // As old as that in programs of this kind.
            tick_ns: if features.task_pointers { tick_ns() } else { 0 },
        }
    }

    /// What identifies the programs that would be loaded: pinned ones of the same identity can be used as they are.
    pub(super) fn identity(&self) -> Identity {
        let mut bytes = self.settings(self.assumed, 0).as_bytes().to_vec();
        bytes.extend_from_slice(self.kernel.types.offsets.as_bytes());
        bytes.extend_from_slice(syscalls::shape_table().as_bytes());
        bytes.extend_from_slice(syscalls::uring_table().as_bytes());
        let choices = format!(
            "{:?} {:?} {:?} {:?} {} {}",
            ENV_NAMES, self.config.without, self.config.hook, self.config.lsm, self.config.refuse, self.config.debug
        );
        bytes.extend_from_slice(choices.as_bytes());
        Identity {
            object: crc32c::crc32c(OBJECT),
            configuration: crc32c::crc32c(&bytes),
        }
    }
}

/// The object while its programs are being started.
struct Loading<'a> {
    config: &'a SensorConfig,
    kernel: &'a Kernel,
    object: &'a Object,
    assumed: Assumed,
}

/// Programs that were started, those at the ends of system calls by the hook of a family.
struct Started {
    family: Family,
    outcomes: Vec<Outcome>,
    running: Vec<Running>,
}

impl Started {
    fn new(family: Family) -> Self {
        Self {
            family,
            outcomes: Vec::new(),
            running: Vec::new(),
        }
    }

    /// What those that run do behind the dispatcher.
    fn actions(&self) -> impl Iterator<Item = Action> {
        self.running.iter().flat_map(|running| running.actions.iter().copied())
    }

    /// How many of the family's programs are missing; without the dispatcher, all are.
    fn missing(&self) -> usize {
        let dispatched = self.running.iter().any(|running| running.name == DISPATCHER);
        if !dispatched {
            return usize::MAX;
        }
        let refused = |outcome: &&Outcome| {
            of_family(outcome.program) && matches!(outcome.attachment, Attachment::NoHook(_) | Attachment::Refused(_))
        };
        self.outcomes.iter().filter(refused).count()
    }

    /// Takes out what is of the family.
    fn take_family(&mut self) -> Self {
        Self {
            family: self.family,
            outcomes: self
                .outcomes
                .extract_if(.., |outcome| of_family(outcome.program))
                .collect(),
            running: self.running.extract_if(.., |running| of_family(running.name)).collect(),
        }
    }

    fn extend(&mut self, other: Self) {
        self.family = other.family;
        self.outcomes.extend(other.outcomes);
        self.running.extend(other.running);
    }
}

/// Whether the program of this name exists for both families.
fn of_family(name: &str) -> bool {
    PROGRAMS
        .iter()
        .any(|program| program.name == name && program.at_syscall_exit())
}

impl Loading<'_> {
    /// Starts programs, those that take longest first, on all processors.
    fn start(&self, started: &mut Started, maps: &Maps, which: impl Fn(&Program) -> bool) -> Result<(), SensorError> {
        let family = started.family;
        let actions = maps.descriptor(family.actions())?;
        let mut programs: Vec<&Program> = PROGRAMS.iter().filter(|program| which(program)).collect();
        programs.sort_by_key(|program| std::cmp::Reverse(self.object.len_of(program.object_name(family))));
        let next = AtomicUsize::new(0);
        let work = || {
            let mut done = Vec::new();
            while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(self.start_one(program, family, &actions));
            }
            done
        };
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let done = thread::scope(|scope| {
            let others: Vec<_> = (1..processors.min(THREADS_MAX).min(programs.len()))
                .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut done = work();
            for other in others {
                done.extend(other.join().expect("loading does not panic"));
            }
            done
        });
        for (outcome, running) in done {
            started.outcomes.extend(outcome);
            started.running.extend(running);
        }
        Ok(())
    }

    /// Starts the programs of the other family, and keeps those of the family of which fewer are missing.
    fn try_other(&self, mut started: Started, maps: &Maps) -> Result<Started, SensorError> {
        let mut first = started.take_family();
        // Detached meanwhile, so that no call is told twice.
        first.running.iter_mut().for_each(|running| running.link = None);
        let mut other = Started::new(first.family.other());
        self.start(&mut other, maps, |program| {
            program.at_syscall_exit() && program.name != DISPATCHER
        })?;
        self.start(&mut other, maps, |program| program.name == DISPATCHER)?;
        started.extend(if other.missing() < first.missing() {
            other
        } else {
            drop(other);
            attach_again(first)
        });
        Ok(started)
    }

    /// Loads a program and attaches it, or puts it behind the dispatcher.
    fn start_one(&self, program: &Program, family: Family, actions: &OwnedFd) -> (Option<Outcome>, Option<Running>) {
        if matches!(program.hook, Hook::Guard(_)) && !self.config.refuse {
            return (None, None);
        }
        let (hook, found) = self.kernel.hook(program, family);
        let outcome = |attachment, verified_instructions| {
            Some(Outcome {
                program: program.name,
                hook,
                attachment,
                verified_instructions,
            })
        };
        if left_out(self.config, program) {
            return (outcome(Attachment::LeftOut, None), None);
        }
        if found.is_ok() && !self.assumed.admits(program.name) {
            let reason = "one that it works with is missing, and others do its work".to_owned();
            return (outcome(Attachment::NotNeeded(reason), None), None);
        }
        let program_type = match found {
            Ok(program_type) => program_type,
            Err(attachment) => return (outcome(attachment, None), None),
        };
        match self.try_start(program, program_type, family, actions) {
            Ok((running, verified)) => (outcome(Attachment::Attached, verified), Some(running)),
            // Some hosts have these hooks and keep them from everybody; the ends of calls do their work there.
            Err(StartError(reason, NotPermitted(true))) if matches!(program.hook, Hook::Lsm(_)) => {
                let reason = format!("this host does not permit programs on LSM hooks ({reason})");
                (outcome(Attachment::NotNeeded(reason), None), None)
            }
            Err(StartError(reason, _)) if matches!(program.hook, Hook::Guard(_)) => {
                let reason = format!("refused by the kernel: {reason}");
                (outcome(Attachment::Powerless(reason), None), None)
            }
            Err(StartError(reason, _)) => (outcome(Attachment::Refused(reason), None), None),
        }
    }

    fn try_start(
        &self,
        program: &Program,
        program_type: ProgramType,
        family: Family,
        actions: &OwnedFd,
    ) -> Result<(Running, Option<u32>), StartError> {
        let loaded = self.object.load(program.object_name(family), program_type);
        let descriptor = loaded.ok_or_else(|| {
            StartError(
                "the object does not hold it, which is a mistake of this build".to_owned(),
                NotPermitted(false),
            )
        })??;
        let info = bpf::program_info(descriptor.as_fd())?;
        let mut running = Running {
            name: program.name,
            program: descriptor,
            id: info.id,
            link: None,
            actions: program.actions,
        };
        if program.actions.is_empty() {
            running.link = Some(attach(&running.program, family_of(program, family))?);
        }
        for action in program.actions {
            bpf::put_program(actions.as_fd(), *action as u32, running.program.as_fd())?;
        }
        Ok((running, info.verified_instructions))
    }
}

fn attach_again(mut started: Started) -> Started {
    let family = started.family;
    for running in started.running.iter_mut().filter(|running| running.actions.is_empty()) {
        match attach(&running.program, family) {
            Ok(link) => running.link = Some(link),
            Err(error) => {
                let outcome = started
                    .outcomes
                    .iter_mut()
                    .find(|outcome| outcome.program == running.name);
                outcome.expect("every program has one").attachment = Attachment::Refused(error.to_string());
            }
        }
    }
    started
}

/// Why a program could not be started.
struct StartError(String, NotPermitted);

/// Whether it was for lack of permission.
struct NotPermitted(bool);

impl From<Refusal> for StartError {
    fn from(refusal: Refusal) -> Self {
        // The verifier says EACCES of what it does not accept.
        let not_permitted = refusal.error.raw_os_error() == Some(libc::EPERM);
        Self(shortened(&refusal.to_string()), NotPermitted(not_permitted))
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        let not_permitted = error.kind() == io::ErrorKind::PermissionDenied;
        Self(error.to_string(), NotPermitted(not_permitted))
    }
}

/// Attaches a program again, by its name.
pub(super) fn attach_as(name: &str, program: &OwnedFd, family: Family) -> io::Result<Link> {
    let known = PROGRAMS.iter().find(|known| known.name == name);
    attach(
        program,
        family_of(known.expect("only programs of the list run"), family),
    )
}

/// Programs elsewhere than at the ends of system calls hang on their hook itself.
fn family_of(program: &Program, family: Family) -> Family {
    if program.at_syscall_exit() { family } else { Family::Raw }
}

/// Attaches a program to the hook it was loaded for.
fn attach(program: &OwnedFd, family: Family) -> io::Result<Link> {
    match family {
        Family::Raw => bpf::attach(program.as_fd()),
        Family::Perf => {
            let number = syscall_exit_number().map_err(io::Error::other)?;
            bpf::attach_to_event(program.as_fd(), number)
        }
    }
}

/// What cannot work is told before anything is loaded.
fn check(config: &SensorConfig) -> Result<(), SensorError> {
    for name in &config.without {
        if !PROGRAMS.iter().any(|program| program.name == name) {
            let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
            return Err(SensorError::UnknownProgram(name.clone(), names.join(", ")));
        }
    }
    let missing = Privileges::of_this_process()
        .map_err(|error| SensorError::Privilege(error.to_string()))?
        .missing_to_load();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(SensorError::Privilege(format!(
            "this process lacks {}",
            missing.join(" and ")
        )))
    }
}

fn left_out(config: &SensorConfig, program: &Program) -> bool {
    config.without.iter().any(|name| name == program.name)
}

/// Before 5.11 the memory of maps counts as locked memory of the process. Without the right to lift the limit, creating
/// the maps fails and says so.
fn lift_memory_limit(release: Release) {
    if release >= Release(5, 11) {
        return;
    }
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel reads `unlimited` and keeps nothing of it.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) };
    if status < 0 {
        let error = io::Error::last_os_error();
        tracing::warn!("cannot lift the limit of locked memory: {error}; grant CAP_SYS_RESOURCE or raise `ulimit -l`");
    }
}

/// More would only wait for memory: the verifier walks through megabytes of states.
const THREADS_MAX: usize = 4;

/// aya's number for the level `debug`.
const LOG_LEVEL_DEBUG: u8 = 4;

/// An [`EnvName`] as a map takes it: its value, then its mask.
type EnvNameWords = [u64; 6];

/// The allow-listed names as the programs look them up: by their first four bytes, their `=` included.
fn env_names() -> Vec<(u32, [EnvNameWords; ENV_NAMES_ALIKE_MAX])> {
    let none: EnvNameWords = zerocopy::transmute!(EnvName::NONE);
    let mut names: Vec<(u32, [EnvNameWords; ENV_NAMES_ALIKE_MAX])> = Vec::new();
    for name in ENV_NAMES {
        let first = name.bytes().chain([b'=']).take(4).collect::<Vec<_>>();
        let key = u32::from_ne_bytes(first.try_into().expect("every name has three letters or more"));
        let index = names.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
            names.push((key, [none; ENV_NAMES_ALIKE_MAX]));
            names.len() - 1
        });
        let place = names[index].1.iter_mut().find(|place| **place == none);
        *place.expect("no more than four names begin alike") = zerocopy::transmute!(EnvName::new(name));
    }
    names
}

fn allow_env_names(object: &mut Object) -> Result<(), SensorError> {
    let refused = |error: maps::MapError| SensorError::Map {
        map: "ENV_NAMES",
        reason: error.to_string(),
    };
    let map = object.maps.get_mut("ENV_NAMES").ok_or_else(|| SensorError::Map {
        map: "ENV_NAMES",
        reason: "the object does not hold it".to_owned(),
    })?;
    let mut names: maps::HashMap<&mut MapData, u32, [EnvNameWords; ENV_NAMES_ALIKE_MAX]> =
        map.try_into().map_err(refused)?;
    for (key, alike) in env_names() {
        names.insert(key, alike, 0).map_err(refused)?;
    }
    Ok(())
}

/// The last lines of a verifier's log say what it is about; all of it would drown the reader.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.first().copied().unwrap_or_default();
    let first: String = first.chars().take(200).collect();
    match lines.len() {
        0 | 1 => first,
        len => format!("{first} … {}", lines[len.saturating_sub(4).max(1)..].join(" / ")),
    }
}

/// Passes on what the programs log. A thread of its own, since it is for debugging only and may block.
fn forward_logs(running: &[Running]) {
    // All write to one ring, which is found by any program that uses it.
    let Some(program) = running.iter().find(|running| FIRST.contains(&running.name)) else {
        return;
    };
    match aya_log::EbpfLogger::init_from_id(program.id) {
        Ok(mut logger) => {
            let started = thread::Builder::new().name("bpf-log".to_owned()).spawn(move || {
                loop {
                    logger.flush();
                    thread::sleep(std::time::Duration::from_millis(50));
                }
            });
            if let Err(error) = started {
                tracing::warn!("cannot show what the programs log: {error}");
            }
        }
        Err(error) => tracing::warn!("cannot show what the programs log: {error}"),
    }
}

/// SHA-256 would need a dependency for one line of `--version`; CRC32C tells two objects apart as well.
#[must_use]
pub fn object_digest() -> String {
    format!("{:08x}", crc32c::crc32c(OBJECT))
}

/// Nanoseconds of a tick: what the coarse clock counts by (kernel/time/posix-timers.c); 0 when it does not tell.
fn tick_ns() -> u32 {
    // SAFETY: an all-zero `timespec` is valid: it is made of integers.
    let mut resolution: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: a valid place for what the call writes.
    let status = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    if status != 0 || resolution.tv_sec != 0 {
        return 0;
    }
    u32::try_from(resolution.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_holds_every_program_and_map() {
        let in_object = |name: &str| memchr::memmem::find(OBJECT, format!("\0{name}\0").as_bytes()).is_some();
        for program in &PROGRAMS {
            assert!(in_object(program.name) && in_object(program.perf_name), "{program:?}");
        }
        for map in Maps::NAMES {
            assert!(in_object(map), "{map}");
        }
    }
}
