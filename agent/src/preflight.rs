//! `staghound preflight`: what this host can and cannot do for the agent, and why.

use std::{fmt, fs, io, path::Path};

use staghound_proto::text::escape;

use crate::{
    config::Config,
    identity,
    sensor::{Attachment, Privileges, Sensor, SensorConfig, offsets},
};

/// How one check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should be.
    Good,
    /// The agent runs, with less.
    Less,
    /// The agent cannot run.
    Bad,
}

/// One thing that was checked.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found; for anything but good, what follows from it and what to do.
    pub detail: String,
}

/// Everything that was checked, in order.
#[derive(Clone, Debug)]
pub struct Preflight(pub Vec<Check>);

impl Preflight {
    /// Checks this host. Loads and attaches the programs for a moment, since nothing else tells for sure.
    #[must_use]
    pub fn of_this_host(config: &Config, sensor: &SensorConfig) -> Self {
        let mut checks = vec![kernel(), btf()];
        checks.extend(capabilities());
        checks.extend(programs(sensor));
        checks.push(control_groups());
        checks.push(state_directory(config));
        Self(checks)
    }

    /// The worst of all checks.
    #[must_use]
    pub fn status(&self) -> Status {
        let has = |status| self.0.iter().any(|check| check.status == status);
        if has(Status::Bad) {
            Status::Bad
        } else if has(Status::Less) {
            Status::Less
        } else {
            Status::Good
        }
    }
}

impl fmt::Display for Preflight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.0 {
            let status = match check.status {
                Status::Good => "ok",
                Status::Less => "LESS",
                Status::Bad => "FAIL",
            };
            writeln!(f, "{status:<5} {:<28} {}", check.name, escape(&check.detail))?;
        }
        f.write_str(match self.status() {
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

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
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
    match offsets::of_running_kernel() {
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

fn programs(config: &SensorConfig) -> Vec<Check> {
    let sensor = match Sensor::start(config) {
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
