//! `staghound run`: wraps a command, watches its process tree and nothing else, and judges it.

mod cgroup;
mod command;
mod findings;
mod survivors;

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use staghound_engine::ruleset::Severity;
use staghound_gate::{
    policy::{self, Day, Inconclusive, Kill, Policy},
    report::{self, Format},
};
use staghound_proto::{
    text,
    v1::{self, Decision, FindingClass, Limit, PolicyMode, Verdict},
};

use crate::{
    alert::Origin,
    identity,
    metrics::Metrics,
    packs,
    process::ProcessTable,
    redact,
    reload::Reloadable,
    sensor::{Attachment, Outcome, REQUESTS, Sensor, SensorConfig},
    watch::{self, Counters, Watch, Watched},
};

use cgroup::Cgroup;
use command::{Waiter, exit_code, handle_signals, spawn_code};
use findings::Findings;
use survivors::Survivor;

/// Exit code for a run that failed its policy.
pub const EXIT_FAIL: u8 = 100;
/// Exit code for a run of which nobody knows, because events were lost.
pub const EXIT_INCONCLUSIVE: u8 = 102;
/// Exit code for errors of our own. 101 is what a Rust panic returns, so it stands for nothing here.
pub const EXIT_ERROR: u8 = 103;

/// Processes that outlived the command and are looked into; more are counted.
const SURVIVORS_MAX: usize = 100;

/// What to run and how to judge it.
#[derive(Debug)]
pub struct RunConfig {
    /// Rule packs on top of the embedded ones.
    pub rules: Vec<PathBuf>,
    /// What is tolerated, and what follows.
    pub policy: Policy,
    /// Where reports go; nowhere but standard error without.
    pub report: Option<PathBuf>,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// How to sense.
    pub sensor: SensorConfig,
}

/// Whether this names a finding that a run makes by itself, without a rule.
#[must_use]
pub fn is_own_rule(id: &str) -> bool {
    id == survivors::RULE
}

/// Reads a policy file.
///
/// # Errors
/// It cannot be read, or is no policy.
pub fn read_policy(path: &Path) -> Result<Policy> {
    let cannot = || format!("cannot read the policy {}", path.display());
    let file = fs::File::open(path).with_context(cannot)?;
    let mut text = String::new();
    file.take(policy::FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    if text.len() as u64 > policy::FILE_BYTES_MAX {
        bail!(
            "{} is larger than {} bytes; this is no policy",
            path.display(),
            policy::FILE_BYTES_MAX
        );
    }
    Ok(Policy::parse(path, &text)?)
}

/// Runs the command and judges it; yields the exit code.
///
/// # Errors
/// Rules or sensor cannot be had, or the command cannot be waited for. A command that cannot be started is told here, and
/// yields 126 or 127, as in a shell, or [`EXIT_ERROR`].
pub fn run(config: &RunConfig) -> Result<u8> {
    // Read before the command starts: it may be able to change them afterwards.
    let loaded = packs::load_with_embedded(&config.rules)?;
    let is_known = |id: &str| is_own_rule(id) || loaded.ruleset.rules().iter().any(|rule| &*rule.id == id);
    for rule in config.policy.unknown_rules(is_known) {
        say(&format!(
            "staghound: the policy names the rule `{}`, which is not loaded; `staghound rules list` names those that are\n",
            text::escape(rule)
        ));
    }
    if let Some(directory) = &config.report {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut sensor = Sensor::start(&SensorConfig {
        scoped: true,
        ..config.sensor.clone()
    })?;
    // The scope is inherited on fork: with this process in it, the command is from its first instant. Our own files are
    // left out by the programs.
    sensor.watch(std::process::id())?;
    // What only some rules want to be told of is told from its first instant, too.
    sensor.demand(&loaded.ruleset.demand())?;
    let mut origin = Origin {
        host: identity::host(&identity::transient_agent_id(None)?),
        run_id: identity::random_id()?,
        ruleset_digest: loaded.ruleset.digest().into(),
    };
    let metrics = Arc::new(Metrics::new());
    let mut processes = ProcessTable::seeded();
    let mut limits = Vec::new();
    let group = Cgroup::create(&origin.run_id)
        .inspect_err(|error| limits.push(no_group(error)))
        .ok();

    let (program, arguments) = config.command.split_first().context("no command was given")?;
    // Before the command exists: a signal that comes in between would end us and leave it alone.
    handle_signals();
    let started = SystemTime::now();
    let child = match command::spawn(program, arguments, group.as_ref().map(Cgroup::entrance)) {
        Ok(child) => child,
        Err(error) => {
            say(&format!(
                "staghound: cannot run {}: {error}\n",
                text::escape(&program.to_string_lossy())
            ));
            return Ok(spawn_code(&error));
        }
    };
    if group.as_ref().is_some_and(|group| group.lacks(child.id())) {
        limits.push(no_group(&io::Error::other("it was refused entry")));
    }
    let waiter = Waiter::start(child)?;
    let mut findings = Findings::new(&config.policy, Day::of(started));
    let mut gaps = 0_u64;
    let mut killed = false;
    let watched = {
        let mut items = |item: v1::Item, severity: Option<Severity>| match (item.kind, severity) {
            (Some(v1::item::Kind::Alert(alert)), Some(severity)) => {
                let decision = findings.add(alert, severity, FindingClass::Rule);
                if decision == Decision::Failed && config.policy.kill() == Kill::AtOnce && !killed {
                    killed = true;
                    waiter.kill();
                    if let Some(group) = &group {
                        group.kill_now();
                    }
                }
            }
            _ => gaps += 1,
        };
        let mut rules = Reloadable::fixed(loaded.ruleset);
        let mut line = Watch {
            processes: &mut processes,
            rules: &mut rules,
            origin: &mut origin,
            counters: Counters::of(&metrics),
            items: &mut items,
        };
        watch::watch(&mut sensor, &mut line, &|| waiter.has_ended())?
    };
    let finished = SystemTime::now();
    let code = exit_code(waiter.status()?);
    let survivors = survivors(&sensor, group.as_ref(), &processes, &mut limits)?;
    for survivor in &survivors {
        let (alert, severity) = survivor.alert(&origin);
        findings.add(alert, severity, FindingClass::Survivor);
    }
    let lost = losses(&watched, gaps, &missing(sensor.outcomes(), &watched));
    limits.extend(lost.iter().map(|sentence| Limit {
        sentence: sentence.clone(),
        inconclusive: true,
    }));
    limits.extend(left_out(sensor.outcomes()));
    let mut responses = Vec::new();
    if killed {
        responses.push(response(
            "kill the run",
            "killed at the first finding that fails it".to_owned(),
        ));
    }
    if findings.fail() && config.policy.kill() != Kill::Never {
        let left = end(&survivors, group.as_ref());
        responses.extend((!survivors.is_empty()).then(|| {
            let outcome = match left {
                0 => format!("{} killed", survivors.len()),
                left => format!("{left} of {} are still there", survivors.len()),
            };
            response("kill what outlived the command", outcome)
        }));
    }
    let mut run = v1::Run {
        run_id: origin.run_id.clone(),
        host: Some(origin.host.clone()),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        materials: materials(&config.policy, &origin),
        command: command_line(&config.command),
        working_directory: std::env::current_dir()
            .map(|path| path.to_string_lossy().into_owned())
            .unwrap_or_default(),
        started: Some(started.into()),
        finished: Some(finished.into()),
        exit_code: Some(code.into()),
        mode: config.policy.mode().into(),
        reasons: findings.reasons(),
        unused_waivers: findings.unused_waivers(),
        processes: survivors.iter().map(Survivor::to_message).collect(),
        limits,
        events: watched.records,
        events_lost: watched.events_lost(),
        responses,
        ..v1::Run::default()
    };
    let verdict = match (findings.fail(), lost.is_empty()) {
        (true, _) => Verdict::Fail,
        (false, false) => Verdict::Inconclusive,
        (false, true) => Verdict::Pass,
    };
    run.set_verdict(verdict);
    if verdict == Verdict::Inconclusive {
        run.reasons = lost;
    }
    (run.findings, run.findings_not_kept) = findings.into_messages();
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    say(&report::console::render(&run, colour));
    if let Some(directory) = &config.report {
        report_to(directory, &run)?;
    }
    Ok(final_code(&config.policy, verdict, code))
}

/// The exit code: in all modes but `enforce` the command's own.
fn final_code(policy: &Policy, verdict: Verdict, code: u8) -> u8 {
    match (policy.mode(), verdict) {
        (PolicyMode::Observe | PolicyMode::Warn, _) | (_, Verdict::Pass | Verdict::Unspecified) => code,
        (PolicyMode::Enforce | PolicyMode::Unspecified, Verdict::Fail) => EXIT_FAIL,
        (PolicyMode::Enforce | PolicyMode::Unspecified, Verdict::Inconclusive) => match policy.inconclusive() {
            Inconclusive::Fail => EXIT_INCONCLUSIVE,
            Inconclusive::Warn => code,
        },
    }
}

fn no_group(error: &io::Error) -> Limit {
    Limit {
        sentence: format!(
            "the command has no control group of its own ({error}); what outlives it is found by its lineage alone"
        ),
        inconclusive: false,
    }
}

/// Who goes on: in the control group, or in the scope of the programs in the kernel.
fn survivors(
    sensor: &Sensor,
    group: Option<&Cgroup>,
    processes: &ProcessTable,
    limits: &mut Vec<Limit>,
) -> Result<Vec<Survivor>> {
    let mut pids = sensor.watched()?;
    pids.extend(group.map(Cgroup::pids).unwrap_or_default());
    pids.sort_unstable();
    pids.dedup();
    pids.retain(|pid| *pid != std::process::id());
    let mut found = processes.survivors(&pids);
    if found.len() > SURVIVORS_MAX {
        limits.push(Limit {
            sentence: format!(
                "{} processes outlived the command; the first {SURVIVORS_MAX} were looked into",
                found.len()
            ),
            inconclusive: false,
        });
        found.truncate(SURVIVORS_MAX);
    }
    if !found.is_empty() {
        limits.push(Limit {
            sentence: "what processes that outlived the command do from now on is not seen".to_owned(),
            inconclusive: false,
        });
    }
    Ok(found.into_iter().map(Survivor::of).collect())
}

/// Kills what goes on; yields how many are left.
fn end(survivors: &[Survivor], group: Option<&Cgroup>) -> usize {
    let left = group.map_or(0, Cgroup::kill);
    left + survivors.iter().filter(|survivor| !survivor.kill()).count()
}

fn response(action: &str, outcome: String) -> v1::Response {
    v1::Response {
        action: action.to_owned(),
        outcome,
    }
}

fn materials(policy: &Policy, origin: &Origin) -> Vec<v1::Material> {
    let rules = v1::Material {
        kind: "rules".to_owned(),
        path: String::new(),
        digest: origin.ruleset_digest.to_string(),
    };
    vec![policy.material(), rules]
}

fn command_line(command: &[OsString]) -> Vec<String> {
    let printed: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    redact::arguments(&printed).arguments
}

/// Programs that were left out because somebody asked for it: told, and not counted as a loss.
fn left_out(outcomes: &[Outcome]) -> impl Iterator<Item = Limit> {
    outcomes
        .iter()
        .filter(|outcome| outcome.attachment == Attachment::LeftOut)
        .map(|outcome| Limit {
            sentence: format!(
                "{} was left out as asked, and what it would have reported was not seen",
                outcome.program
            ),
            inconclusive: false,
        })
}

/// Writes the reports, each whole or not at all.
fn report_to(directory: &Path, run: &v1::Run) -> Result<()> {
    for format in Format::ALL {
        let name = format.file_name();
        let path = directory.join(name);
        let temporary = directory.join(format!(".{name}.new"));
        fs::write(&temporary, report::render(run, format))
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Programs whose events are missing from the run. What is asked for through io_uring cannot be, where nobody had a ring.
fn missing(outcomes: &[Outcome], watched: &Watched) -> Vec<String> {
    outcomes
        .iter()
        .filter(|outcome| outcome.attachment.is_missing() && outcome.attachment != Attachment::LeftOut)
        .filter(|outcome| {
            let no_hook = matches!(outcome.attachment, Attachment::NoHook(_));
            outcome.program != REQUESTS || !no_hook || watched.rings > 0
        })
        .map(ToString::to_string)
        .collect()
}

/// Why not everything was seen, one sentence each; empty when it was.
fn losses(watched: &Watched, gaps: u64, missing: &[String]) -> Vec<String> {
    let mut lost: Vec<String> = missing.to_vec();
    let events = watched.events_lost();
    if events > 0 {
        let kinds: Vec<String> = staghound_ebpf::Loss::ALL
            .into_iter()
            .filter(|loss| loss.loses_event() && watched.losses.of(*loss) > 0)
            .map(|loss| format!("{} {}", watched.losses.of(loss), loss.name()))
            .chain(
                watched
                    .losses
                    .recursion_misses
                    .iter()
                    .filter(|(_, misses)| *misses > 0)
                    .map(|(program, misses)| format!("{misses} recursion_miss in {program}")),
            )
            .collect();
        lost.push(format!("{events} events were lost ({})", kinds.join(", ")));
    } else if gaps > 0 {
        lost.push(format!("{gaps} gaps in what was observed"));
    }
    lost
}

/// Writes to standard error; the command owns standard output.
fn say(what: &str) {
    // If nobody reads it, the exit code still tells.
    let _unread = io::stderr().lock().write_all(what.as_bytes());
}

/// The severity as the command line names it.
///
/// # Errors
/// There is no such severity.
pub fn parse_severity(text: &str) -> Result<Severity, staghound_engine::ruleset::UnknownSeverity> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_enforces_changes_the_exit_code() {
        let policy = |text: &str| Policy::parse(Path::new("p.yaml"), &format!("version: 1\n{text}")).unwrap();
        for (text, verdict, expected) in [
            ("", Verdict::Pass, 7),
            ("", Verdict::Fail, EXIT_FAIL),
            ("", Verdict::Inconclusive, EXIT_INCONCLUSIVE),
            ("inconclusive: warn", Verdict::Inconclusive, 7),
            ("mode: warn", Verdict::Fail, 7),
            ("mode: observe", Verdict::Inconclusive, 7),
        ] {
            assert_eq!(final_code(&policy(text), verdict, 7), expected, "{text} {verdict:?}");
        }
    }

    #[test]
    fn what_io_uring_is_asked_for_is_missing_only_where_somebody_had_a_ring() {
        let outcome = |program, attachment| Outcome {
            program,
            hook: "h",
            attachment,
            verified_instructions: None,
        };
        let no_hook = || Attachment::NoHook("not here".to_owned());
        let told = |outcome: Outcome, rings| {
            let watched = Watched {
                rings,
                ..Watched::default()
            };
            missing(&[outcome], &watched).len()
        };
        assert_eq!(told(outcome(REQUESTS, no_hook()), 0), 0);
        assert_eq!(told(outcome(REQUESTS, no_hook()), 1), 1);
        assert_eq!(told(outcome(REQUESTS, Attachment::Refused("r".to_owned())), 0), 1);
        assert_eq!(told(outcome("process_fork", no_hook()), 0), 1);
        assert_eq!(told(outcome("process_fork", Attachment::LeftOut), 1), 0);
    }

    #[test]
    fn a_lost_event_is_told() {
        assert_eq!(losses(&Watched::default(), 0, &[]), [""; 0]);
        let told = losses(
            &Watched {
                undecodable: 3,
                ..Watched::default()
            },
            1,
            &["x missing".to_owned()],
        );
        assert_eq!(told.len(), 2);
        assert!(told[1].starts_with("3 events were lost"), "{told:?}");
    }
}
