//! `staghound preflight`: what this host can and cannot do for the agent, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs, io,
    path::Path,
};

use staghound_engine::{demand::Demand, event::EventKind};
use staghound_proto::text::escape;

use crate::{
    config::Config,
    identity,
    sensor::{self, Attachment, Outcome, Privileges, Sensor, SensorConfig, SensorError, offsets},
};

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Good,
    /// The agent runs, with less.
    Less,
    /// The agent cannot run.
    Bad,
}

/// One thing that was checked.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found; for anything but good, what follows from it and what to do.
    pub detail: String,
}

/// What became of a program, for other programs to read.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramReport {
    /// Name of the program.
    pub program: &'static str,
    /// The hook it is for.
    pub hook: &'static str,
    /// Name of its outcome, as in metrics.
    pub outcome: &'static str,
    /// The outcome in words.
    pub detail: String,
    /// Instructions that the verifier went through; unknown before 5.16.
    pub verified_instructions: Option<u32>,
}

/// Everything that was checked, in order.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Preflight {
    /// The worst of all checks.
    pub status: Status,
    /// Release of the kernel.
    pub kernel: String,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What became of each program; empty when none could be loaded.
    pub programs: Vec<ProgramReport>,
}

impl Preflight {
    /// Checks this host. Loads and attaches the programs for a moment, since nothing else tells for sure.
    #[must_use]
    pub fn of_this_host(config: &Config, sensor: &SensorConfig) -> Self {
        let mut checks = vec![kernel(), btf()];
        checks.extend(capabilities());
        let sensor = Sensor::start(sensor);
        checks.extend(programs(&sensor));
        checks.push(control_groups());
        checks.push(state_directory(config));
        let has = |status| checks.iter().any(|check| check.status == status);
        let status = if has(Status::Bad) {
            Status::Bad
        } else if has(Status::Less) {
            Status::Less
        } else {
            Status::Good
        };
        Self {
            status,
            kernel: release(),
            checks,
            programs: reports(&sensor),
        }
    }

    /// As one line of JSON.
    ///
    /// # Errors
    /// None that can happen: everything in it can be written.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let status = match check.status {
                Status::Good => "ok",
                Status::Less => "LESS",
                Status::Bad => "FAIL",
            };
            writeln!(f, "{status:<5} {:<28} {}", check.name, escape(&check.detail))?;
        }
        f.write_str(match self.status {
            Status::Good => "this host can do everything the agent needs\n",
            Status::Less => "the agent runs here, with less: see the lines marked LESS\n",
            Status::Bad => "the agent cannot run here: see the lines marked FAIL\n",
        })
    }
}

fn check(name: &str, status: Status, detail: impl Into<String>) -> Check {
    Check {
        name: name.to_owned(),
        status,
        detail: detail.into(),
    }
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn reports(sensor: &Result<Sensor, SensorError>) -> Vec<ProgramReport> {
    let outcomes = sensor.as_ref().map_or(&[][..], Sensor::outcomes);
    outcomes
        .iter()
        .map(|outcome| ProgramReport {
            program: outcome.program,
            hook: outcome.hook,
            outcome: outcome.attachment.name(),
            detail: outcome.attachment.to_string(),
            verified_instructions: outcome.verified_instructions,
        })
        .collect()
}

fn kernel() -> Check {
    let release = release();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (5, 10) => check("kernel", Status::Good, release),
        _ => check(
            "kernel",
            Status::Bad,
            format!("{release}; the programs need 5.10 or newer"),
        ),
    }
}

fn btf() -> Check {
    match offsets::KernelTypes::of_running_kernel() {
        Ok(_) => check("type information (BTF)", Status::Good, offsets::VMLINUX),
        Err(error) => check("type information (BTF)", Status::Bad, error.to_string()),
    }
}

fn capabilities() -> Vec<Check> {
    let privileges = match Privileges::of_this_process() {
        Ok(privileges) => privileges,
        Err(error) => {
            return vec![check(
                "capabilities",
                Status::Bad,
                format!("cannot be read: {error}; mount /proc"),
            )];
        }
    };
    let missing = privileges.missing_to_load();
    Privileges::NEEDED
        .into_iter()
        .map(|(name, number, purpose)| {
            if privileges.has(number) {
                check(name, Status::Good, purpose)
            } else if missing.contains(&name) {
                check(
                    name,
                    Status::Bad,
                    format!("missing, needed to {purpose}; run as root or grant it"),
                )
            } else {
                check(
                    name,
                    Status::Less,
                    format!("missing, needed to {purpose}; run as root or grant it"),
                )
            }
        })
        .collect()
}

fn programs(sensor: &Result<Sensor, SensorError>) -> Vec<Check> {
    let sensor = match sensor {
        Ok(sensor) => sensor,
        Err(error) => return vec![check("programs", Status::Bad, error.to_string())],
    };
    sensor
        .outcomes()
        .iter()
        .map(|outcome| {
            let name = format!("program {}", outcome.program);
            match &outcome.attachment {
                Attachment::Attached => {
                    let verified = outcome
                        .verified_instructions
                        .map_or_else(String::new, |count| format!(", {count} instructions verified"));
                    check(&name, Status::Good, format!("attached to {}{verified}", outcome.hook))
                }
                Attachment::NotNeeded(_) => check(&name, Status::Good, outcome.attachment.to_string()),
                Attachment::Powerless(_) => check(&name, Status::Less, outcome.attachment.to_string()),
                other @ (Attachment::LeftOut | Attachment::NoHook(_) | Attachment::Refused(_)) => check(
                    &name,
                    Status::Less,
                    format!("{other}; its events will be missing, and reports say so"),
                ),
            }
        })
        .collect()
}

fn control_groups() -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let unified = mounts.lines().find_map(|line| {
        let mut parts = line.split(' ');
        let (_, target, kind) = (parts.next()?, parts.next()?, parts.next()?);
        (kind == "cgroup2").then(|| target.to_owned())
    });
    match unified {
        Some(path) => check("control groups (v2)", Status::Good, path),
        None => check(
            "control groups (v2)",
            Status::Less,
            "not mounted; events carry no control group",
        ),
    }
}

fn state_directory(config: &Config) -> Check {
    let path = &config.state_directory;
    let name = "state directory";
    match probe(path) {
        Ok(()) => check(name, Status::Good, path.display().to_string()),
        Err(error) => check(
            name,
            Status::Less,
            format!(
                "{}: {error}; needed to deliver to a collector: make it writable or name another with --state-directory",
                path.display()
            ),
        ),
    }
}

/// Whether a directory can be made there and written to, without leaving one that was not there.
fn probe(path: &Path) -> io::Result<()> {
    let existing = path
        .ancestors()
        .find(|ancestor| ancestor.exists())
        .ok_or(io::ErrorKind::NotFound)?;
    let file = existing.join(format!(".staghound-preflight-{}", identity::random_id()?));
    fs::write(&file, b"")?;
    fs::remove_file(&file)
}

/// What will be recorded for these rules, and why: one line for each type of event, then the names that opens must have.
#[must_use]
pub fn plan(demand: &Demand, outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for kind in EventKind::ALL {
        for event_type in kind.event_types() {
            let reasons: Vec<&str> = demand.reasons(event_type).map(|reason| reason.rule).collect();
            let hook = hook_of(kind, outcomes);
            if demand.wants(event_type) {
                text += &format!("yes  {event_type:<22} {hook:<24} {}\n", rules_in_words(&reasons));
            } else if sensor::is_always_recorded(event_type) {
                text += &format!("yes  {event_type:<22} {hook:<24} the process table or the agent's safety needs it\n");
            } else {
                text += &format!("no   {event_type:<22} {:<24} no rule wants it\n", "-");
            }
        }
    }
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (pattern, accesses) in demand.names() {
        names.entry(accesses.to_string()).or_default().push(pattern.to_string());
    }
    let all = demand.all_opens();
    if !all.is_empty() {
        text += &format!("opens ({all}): all\n");
    }
    for (accesses, names) in names {
        text += &format!("opens ({accesses}): {}\n", escape(&names.join(", ")));
    }
    let mut told = BTreeSet::new();
    for event_type in EventKind::Open.event_types() {
        for reason in demand.reasons(event_type) {
            if let Some(why) = reason.why_all
                && told.insert(reason.rule)
            {
                text += &format!("all opens of some access because of {}: {}\n", reason.rule, escape(why));
            }
        }
    }
    text
}

/// How many rules, and the first three of them.
fn rules_in_words(rules: &[&str]) -> String {
    const NAMED: usize = 3;
    let named = rules.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match rules.len() {
        1 => format!("1 rule: {named}"),
        count if count > NAMED => format!("{count} rules: {named}, …"),
        count => format!("{count} rules: {named}"),
    }
}

/// The hook that serves a kind of event: that of the first program which does, as it came out here.
fn hook_of(kind: EventKind, outcomes: &[Outcome]) -> &'static str {
    let program = [
        (EventKind::Exec, "process_exec"),
        (EventKind::Fork, "process_fork"),
        (EventKind::Exit, "process_exit"),
        (EventKind::SocketEnd, "socket_change"),
    ]
    .into_iter()
    .find_map(|(other, program)| (other == kind).then_some(program))
    .unwrap_or("sys_exit");
    let outcome = outcomes.iter().find(|outcome| outcome.program == program);
    match outcome {
        Some(outcome) if outcome.attachment == Attachment::Attached => outcome.hook,
        Some(_) | None => "missing",
    }
}
