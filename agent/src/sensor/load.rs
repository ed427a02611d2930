//! Loads the kernel object, and each program of it alone.

use std::{fmt, io, os::fd::OwnedFd, thread};

use aya::{
    Btf, Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{BtfTracePoint, ProgramError},
};
use staghound_ebpf::{Action, ENV_NAMES_ALIKE_MAX, ENV_NAMES_MAX, EnvName, Settings};
use zerocopy::IntoBytes as _;

use crate::sensor::{
    SensorConfig, SensorError,
    losses::Counters,
    offsets,
    ring::{Rings, Sleeper},
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

/// One program of the object.
struct Program {
    name: &'static str,
    /// The tracepoint it is written for.
    tracepoint: &'static str,
    /// What it serves behind `sys_exit`; empty for programs that are attached themselves.
    actions: &'static [Action],
}

/// In the order of loading: what keeps the process table comes first, the dispatcher last.
const PROGRAMS: [Program; 11] = [
    Program {
        name: "process_fork",
        tracepoint: "sched_process_fork",
        actions: &[],
    },
    Program {
        name: "process_exec",
        tracepoint: "sched_process_exec",
        actions: &[],
    },
    Program {
        name: "process_exit",
        tracepoint: "sched_process_exit",
        actions: &[],
    },
    Program {
        name: "process_chdir",
        tracepoint: "sys_exit",
        actions: &[Action::Chdir],
    },
    Program {
        name: "file_open",
        tracepoint: "sys_exit",
        actions: &[Action::Open],
    },
    Program {
        name: "file_rename",
        tracepoint: "sys_exit",
        actions: &[Action::Rename, Action::RenameAt],
    },
    Program {
        name: "file_unlink",
        tracepoint: "sys_exit",
        actions: &[Action::Unlink, Action::UnlinkAt],
    },
    Program {
        name: "file_chmod",
        tracepoint: "sys_exit",
        actions: &[Action::Chmod, Action::ChmodAt, Action::ChmodDescriptor],
    },
    Program {
        name: "socket_state",
        tracepoint: "sys_exit",
        actions: &[Action::Connect, Action::Listen, Action::Accept],
    },
    Program {
        name: "socket_send",
        tracepoint: "sys_exit",
        actions: &[Action::SendTo, Action::SendMsg, Action::SendMmsg],
    },
    Program {
        name: "sys_exit",
        tracepoint: "sys_exit",
        actions: &[],
    },
];

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
    /// The kernel does not have its hook.
    NoHook,
    /// The kernel refused to load it.
    Refused(String),
}

impl Attachment {
    /// Its name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::LeftOut => "left_out",
            Self::NoHook => "no_hook",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached => f.write_str("attached"),
            Self::LeftOut => f.write_str("left out as asked"),
            Self::NoHook => f.write_str("this kernel does not have the hook"),
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

/// Everything that lives in the kernel.
pub(super) struct Loaded {
    ebpf: Ebpf,
    outcomes: Vec<Outcome>,
    attached: Vec<(&'static str, OwnedFd)>,
    /// Holds the tail-called programs.
    _actions: ProgramArray<MapData>,
}

impl Loaded {
    pub(super) fn load(config: &SensorConfig) -> Result<Self, SensorError> {
        for name in &config.without {
            if !PROGRAMS.iter().any(|program| program.name == name) {
                let names: Vec<&str> = PROGRAMS.iter().map(|program| program.name).collect();
                return Err(SensorError::UnknownProgram(name.clone(), names.join(", ")));
            }
        }
        let missing = Privileges::of_this_process()
            .map_err(|error| SensorError::Privilege(error.to_string()))?
            .missing_to_load();
        if !missing.is_empty() {
            return Err(SensorError::Privilege(format!(
                "this process lacks {}",
                missing.join(" and ")
            )));
        }
        let served: Vec<Action> = PROGRAMS
            .iter()
            .filter(|program| !config.without.iter().any(|name| name == program.name))
            .flat_map(|program| program.actions.iter().copied())
            .collect();
        let syscalls = syscalls::table(&served, |_| true);
        let shapes = syscalls::shape_table();
        let uring = syscalls::uring_table();
        let log_level = u8::from(config.debug) * LOG_LEVEL_DEBUG;
        // Each of these three reads all of the kernel's type information, one of them inside aya, where it cannot be
        // turned off: so side by side.
        let (offsets, btf, mut loader) = thread::scope(|scope| {
            let offsets = scope.spawn(offsets::of_running_kernel);
            let btf = scope.spawn(Btf::from_sys_fs);
            let loader = EbpfLoader::new();
            (
                offsets.join().expect("does not panic"),
                btf.join().expect("does not panic"),
                loader,
            )
        });
        let offsets = offsets?;
        let settings = settings(config, offsets::features_of_running_kernel()?);
        let btf = btf.map_err(|error| SensorError::Object(error.to_string()))?;
        let mut ebpf = loader
            .btf(Some(&btf))
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("OFFSETS", offsets.as_bytes(), true)
            .override_global("SETTINGS", settings.as_bytes(), true)
            .override_global("SHAPES", shapes.as_bytes(), true)
            .override_global("URING", uring.as_bytes(), true)
            .override_global("AYA_LOG_LEVEL", &log_level, true)
            .load(OBJECT)
            .map_err(|error| SensorError::Object(chain(&error)))?;
        let mut names: HashMap<MapData, u32, [EnvNameWords; ENV_NAMES_ALIKE_MAX]> = take(&mut ebpf, "ENV_NAMES")?;
        for (key, alike) in env_names() {
            names.insert(key, alike, 0).map_err(|error| SensorError::Map {
                map: "ENV_NAMES",
                reason: error.to_string(),
            })?;
        }
        let mut agent: Array<MapData, u32> = take(&mut ebpf, "AGENT")?;
        let own = [(0, std::process::id()), (1, settings.generation)];
        for (index, value) in own {
            agent.set(index, value, 0).map_err(|error| SensorError::Map {
                map: "AGENT",
                reason: error.to_string(),
            })?;
        }
        let mut table: Array<MapData, u32> = take(&mut ebpf, "SYSCALLS")?;
        for (number, actions) in (0_u32..).zip(syscalls.actions).filter(|(_, actions)| *actions != 0) {
            table.set(number, actions, 0).map_err(|error| SensorError::Map {
                map: "SYSCALLS",
                reason: error.to_string(),
            })?;
        }
        let mut actions: ProgramArray<MapData> = take(&mut ebpf, "ACTIONS")?;
        let mut outcomes = Vec::with_capacity(PROGRAMS.len());
        let mut attached = Vec::new();
        for program in &PROGRAMS {
            let (attachment, verified_instructions) = if config.without.iter().any(|name| name == program.name) {
                (Attachment::LeftOut, None)
            } else {
                match start(&mut ebpf, &btf, program, &mut actions) {
                    Ok((descriptor, verified)) => {
                        attached.extend(descriptor.map(|descriptor| (program.name, descriptor)));
                        (Attachment::Attached, verified)
                    }
                    Err(ProgramError::Btf(_)) => (Attachment::NoHook, None),
                    Err(error) => (Attachment::Refused(reason(&error)), None),
                }
            };
            outcomes.push(Outcome {
                program: program.name,
                hook: program.tracepoint,
                attachment,
                verified_instructions,
            });
        }
        if config.debug {
            forward_logs(&mut ebpf);
        }
        Ok(Self {
            ebpf,
            outcomes,
            attached,
            _actions: actions,
        })
    }

    pub(super) fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    pub(super) fn rings(&mut self) -> Result<Rings, SensorError> {
        let process: RingBuf<MapData> = take(&mut self.ebpf, "PROCESS_RING")?;
        let file: RingBuf<MapData> = take(&mut self.ebpf, "FILE_RING")?;
        Ok(Rings::new(process, file))
    }

    pub(super) fn sleeper(&mut self) -> Result<Sleeper, SensorError> {
        let sleeping: Array<MapData, u32> = take(&mut self.ebpf, "SLEEPING")?;
        Ok(Sleeper::new(sleeping))
    }

    pub(super) fn counters(&mut self) -> Result<Counters, SensorError> {
        let losses: PerCpuArray<MapData, u64> = take(&mut self.ebpf, "LOSSES")?;
        Ok(Counters {
            losses,
            programs: std::mem::take(&mut self.attached),
        })
    }

    pub(super) fn scope(&mut self) -> Result<HashMap<MapData, u32, u32>, SensorError> {
        take(&mut self.ebpf, "SCOPE")
    }
}

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

fn settings(config: &SensorConfig, features: offsets::Features) -> Settings {
    Settings {
        scoped: u32::from(config.scoped),
        task_pointers: u32::from(features.task_pointers),
        task_registers: u32::from(features.task_registers),
        lsm: 0,
        generation: 0,
        socket_lengths: 0,
    }
}

/// Loads a program and attaches it, or puts it behind the dispatcher. Yields a descriptor for attached ones.
fn start(
    ebpf: &mut Ebpf,
    btf: &Btf,
    program: &Program,
    actions: &mut ProgramArray<MapData>,
) -> Result<(Option<OwnedFd>, Option<u32>), ProgramError> {
    let loaded: &mut BtfTracePoint = ebpf
        .program_mut(program.name)
        .expect("the object holds every program of the list")
        .try_into()?;
    loaded.load(program.tracepoint, btf)?;
    let verified = loaded.info()?.verified_instruction_count();
    for action in program.actions {
        actions.set(*action as u32, loaded.fd()?, 0)?;
    }
    if !program.actions.is_empty() {
        return Ok((None, verified));
    }
    loaded.attach()?;
    let descriptor = std::os::fd::AsFd::as_fd(loaded.fd()?)
        .try_clone_to_owned()
        .map_err(ProgramError::IOError)?;
    Ok((Some(descriptor), verified))
}

fn take<T>(ebpf: &mut Ebpf, map: &'static str) -> Result<T, SensorError>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    ebpf.take_map(map)
        .expect("the object holds every map the sensor asks for")
        .try_into()
        .map_err(|error: aya::maps::MapError| SensorError::Map {
            map,
            reason: error.to_string(),
        })
}

/// The last lines of a verifier's log say what it is about; all of it would drown the reader.
fn reason(error: &ProgramError) -> String {
    let text = chain(error);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.first().copied().unwrap_or_default();
    let first: String = first.chars().take(200).collect();
    match lines.len() {
        0 | 1 => first,
        len => format!("{first} … {}", lines[len.saturating_sub(4).max(1)..].join(" / ")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Passes on what the programs log. A thread of its own, since it is for debugging only and may block.
fn forward_logs(ebpf: &mut Ebpf) {
    match aya_log::EbpfLogger::init(ebpf) {
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
