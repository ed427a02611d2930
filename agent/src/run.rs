//! `staghound run`: wraps a command, watches its process tree and nothing else, and judges it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use staghound_engine::ruleset::Severity;
use staghound_proto::{text, v1};

use crate::{
    alert::Origin,
    event::printable,
    identity,
    metrics::Metrics,
    packs,
    process::{Process, ProcessTable},
    reload::Reloadable,
    sensor::{Attachment, Outcome, REQUESTS, Sensor, SensorConfig},
    watch::{self, Counters, Watch, Watched},
};

/// Exit code for a run that failed its policy.
pub const EXIT_FAIL: u8 = 100;
/// Exit code for a run of which nobody knows, because events were lost or processes outlived the command.
pub const EXIT_INCONCLUSIVE: u8 = 102;
/// Exit code for errors of our own. 101 is what a Rust panic returns, so it stands for nothing here.
pub const EXIT_ERROR: u8 = 103;
/// Different findings that are kept; more are counted.
const FINDINGS_MAX: usize = 1000;

/// Processes that outlived the command and are named; more are counted.
const SURVIVORS_MAX: usize = 20;

/// What to run and how to judge it.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Rule packs on top of the embedded ones.
    pub rules: Vec<PathBuf>,
    /// An alert of this severity or worse fails the run.
    pub fail_on: Severity,
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// How to sense.
    pub sensor: SensorConfig,
}

/// One kind of finding, with how often it was made.
struct Finding {
    alert: v1::Alert,
    severity: Severity,
    times: u64,
}

struct Findings {
    by_fingerprint: BTreeMap<String, Finding>,
    /// From this severity on, a finding fails the run.
    fail_on: Severity,
    not_kept: u64,
    /// Of those not kept, how many fail the run.
    fatal_not_kept: u64,
    /// The worst of all, kept or not.
    worst: Option<Severity>,
}

impl Findings {
    fn new(fail_on: Severity) -> Self {
        Self {
            by_fingerprint: BTreeMap::new(),
            fail_on,
            not_kept: 0,
            fatal_not_kept: 0,
            worst: None,
        }
    }

    fn add(&mut self, alert: v1::Alert, severity: Severity) {
        self.worst = self.worst.max(Some(severity));
        let times = alert.count + alert.held_back;
        if let Some(finding) = self.by_fingerprint.get_mut(&alert.fingerprint) {
            finding.times += times;
            return;
        }
        if self.by_fingerprint.len() >= FINDINGS_MAX && !self.replace_less_than(severity) {
            self.count_not_kept(times, severity);
            return;
        }
        let alert = slim(alert);
        self.by_fingerprint
            .insert(alert.fingerprint.clone(), Finding { alert, severity, times });
    }

    /// Gives up one finding that is less severe, the least severe of all.
    fn replace_less_than(&mut self, severity: Severity) -> bool {
        let least = self.by_fingerprint.iter().min_by_key(|(_, finding)| finding.severity);
        let Some((fingerprint, _)) = least.filter(|(_, least)| least.severity < severity) else {
            return false;
        };
        let fingerprint = fingerprint.clone();
        if let Some(given_up) = self.by_fingerprint.remove(&fingerprint) {
            self.count_not_kept(given_up.times, given_up.severity);
        }
        true
    }

    fn count_not_kept(&mut self, times: u64, severity: Severity) {
        self.not_kept += times;
        if severity >= self.fail_on {
            self.fatal_not_kept += times;
        }
    }

    /// How many findings fail the run, in words: those not kept may be repeats of each other.
    fn fatal(&self) -> String {
        let kept = self
            .by_fingerprint
            .values()
            .filter(|finding| finding.severity >= self.fail_on)
            .count();
        match (kept, self.fatal_not_kept) {
            (1, 0) => "1 finding".to_owned(),
            (_, 0) => format!("{kept} findings"),
            _ => format!("more than {kept} findings"),
        }
    }
}

/// What a summary shows of an alert: of ancestors who they are, of nobody the environment.
fn slim(mut alert: v1::Alert) -> v1::Alert {
    for ancestor in &mut alert.ancestors {
        *ancestor = v1::Process {
            pid: ancestor.pid,
            name: std::mem::take(&mut ancestor.name),
            executable: std::mem::take(&mut ancestor.executable),
            ..v1::Process::default()
        };
    }
    if let Some(process) = &mut alert.process {
        process.env = Vec::new();
    }
    alert
}

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    Fail,
    Inconclusive,
}

/// Runs the command and judges it; yields the exit code.
///
/// # Errors
/// Rules or sensor cannot be had, or the command cannot be waited for. A command that cannot be started is told here, and
/// yields 126 or 127, as in a shell, or [`EXIT_ERROR`].
pub fn run(config: &RunConfig) -> Result<u8> {
    // Read before the command starts: it may be able to change them afterwards.
    let loaded = packs::load_with_embedded(&config.rules)?;
    let mut sensor = Sensor::start(&SensorConfig {
        scoped: true,
        ..config.sensor.clone()
    })?;
    // The scope is inherited on fork: with this process in it, the command is from its first instant. Our own files are
    // left out by the programs.
    sensor.watch(std::process::id())?;
    // What only some rules want to be told of is told from its first instant, too.
    sensor.demand(&loaded.ruleset.demand())?;
    let host = identity::host(&identity::transient_agent_id(None)?);
    let mut origin = Origin {
        host,
        run_id: identity::random_id()?,
        ruleset_digest: loaded.ruleset.digest().into(),
    };
    let metrics = Arc::new(Metrics::new());
    let mut processes = ProcessTable::seeded();

    let (program, arguments) = config.command.split_first().context("no command was given")?;
    // Before the command exists: a signal that comes in between would end us and leave it alone.
    handle_signals();
    let child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            say(&format!(
                "staghound: cannot run {}: {error}\n",
                text::escape(&program.to_string_lossy())
            ));
            return Ok(spawn_code(&error));
        }
    };
    let waiter = Waiter::start(child)?;
    let mut findings = Findings::new(config.fail_on);
    let mut gaps = 0_u64;
    let watched = {
        let mut items = |item: v1::Item, severity: Option<Severity>| match (item.kind, severity) {
            (Some(v1::item::Kind::Alert(alert)), Some(severity)) => findings.add(alert, severity),
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
    let status = waiter.status()?;
    let code = exit_code(status);
    let mut in_scope = sensor.watched()?;
    in_scope.retain(|pid| *pid != std::process::id());
    let lost = losses(&watched, gaps, &missing(sensor.outcomes(), &watched));
    // Told, and not judged: build daemons outlive their step as a rule, and what they did until now was seen.
    let mut told = outlived(&processes.survivors(&in_scope));
    told.extend(
        sensor
            .outcomes()
            .iter()
            .filter(|outcome| outcome.attachment == Attachment::LeftOut)
            .map(|outcome| {
                format!(
                    "{} was left out as asked, and what it would have reported was not seen",
                    outcome.program
                )
            }),
    );
    let verdict = match findings.worst {
        Some(worst) if worst >= config.fail_on => Verdict::Fail,
        _ if !lost.is_empty() => Verdict::Inconclusive,
        _ => Verdict::Pass,
    };
    say(&summary(config, &findings, &watched, (&lost, &told), verdict, code));
    Ok(match verdict {
        Verdict::Pass => code,
        Verdict::Fail => EXIT_FAIL,
        Verdict::Inconclusive => EXIT_INCONCLUSIVE,
    })
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

/// What still runs when the command has ended: one sentence and one line for each; empty when nothing does.
fn outlived(survivors: &[(u32, Option<Arc<Process>>)]) -> Vec<String> {
    if survivors.is_empty() {
        return Vec::new();
    }
    let processes = if survivors.len() == 1 { "process" } else { "processes" };
    let mut told = vec![format!(
        "{} {processes} outlived the command, and what they do from now on is not seen; end them or wait for them in the command",
        survivors.len()
    )];
    told.extend(
        survivors
            .iter()
            .take(SURVIVORS_MAX)
            .map(|(pid, process)| match process {
                Some(process) => {
                    let (name, executable) = (&process.image.name, &process.image.executable);
                    format!("still running: {pid} {} ({})", printable(name), printable(executable))
                }
                None => format!("still running: {pid}"),
            }),
    );
    if survivors.len() > SURVIVORS_MAX {
        told.push(format!("still running: {} more", survivors.len() - SURVIVORS_MAX));
    }
    told
}

/// Waits for the command on a thread of its own, and passes on the signals that ask us to end.
struct Waiter {
    ended: Arc<AtomicBool>,
    thread: thread::JoinHandle<io::Result<ExitStatus>>,
}

/// The command, for the signal handler; 0 when there is none.
static COMMAND: AtomicI32 = AtomicI32::new(0);
/// A signal that came before the command was there; 0 when none did.
static WAITING: AtomicI32 = AtomicI32::new(0);

extern "C" fn pass_on(signal: libc::c_int) {
    let command = COMMAND.load(Ordering::SeqCst);
    if command > 0 {
        // SAFETY: kill(2) may be called from a signal handler.
        unsafe { libc::kill(command, signal) };
    } else {
        WAITING.store(signal, Ordering::SeqCst);
    }
}

extern "C" fn stay(_: libc::c_int) {}

/// From now on, signals that ask us to end go to the command. The command gets none of the handlers: exec resets them.
fn handle_signals() {
    type Handler = extern "C" fn(libc::c_int);
    for (signal, handler) in [
        (libc::SIGTERM, pass_on as Handler),
        (libc::SIGHUP, pass_on),
        // A terminal sends these to the command as well; we stay to judge how it ended.
        (libc::SIGINT, stay),
        (libc::SIGQUIT, stay),
    ] {
        // SAFETY: the handlers do nothing but what a handler may.
        let before = unsafe { libc::signal(signal, handler as libc::sighandler_t) };
        if before == libc::SIG_IGN {
            // Under nohup, say: the command is to ignore it as well, and inherits that.
            // SAFETY: ignoring a signal has no preconditions.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    }
}

impl Waiter {
    fn start(mut child: Child) -> Result<Self> {
        let command = i32::try_from(child.id())?;
        COMMAND.store(command, Ordering::SeqCst);
        let waiting = WAITING.swap(0, Ordering::SeqCst);
        if waiting != 0 {
            // SAFETY: the command is ours and was not waited for, so the pid is still its own.
            unsafe { libc::kill(command, waiting) };
        }
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = thread::Builder::new()
            .name("waiter".to_owned())
            .spawn(move || {
                let status = child.wait();
                COMMAND.store(0, Ordering::SeqCst);
                told.store(true, Ordering::Release);
                status
            })
            .context("cannot start a thread")?;
        Ok(Self { ended, thread })
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    fn status(self) -> Result<ExitStatus> {
        self.thread
            .join()
            .expect("the waiter does not panic")
            .context("cannot wait for the command")
    }
}

/// As a shell gives it: 127 for what is not there, 126 for what may not be run; anything else is a failure of ours.
fn spawn_code(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT) => 127,
        Some(libc::EACCES | libc::ENOEXEC) => 126,
        _ => EXIT_ERROR,
    }
}

/// As a shell gives it: the code, or 128 and the signal.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(i32::from(EXIT_ERROR));
    u8::try_from(code & 0xff).expect("masked to a byte")
}

fn summary(
    config: &RunConfig,
    findings: &Findings,
    watched: &Watched,
    (lost, told): (&[String], &[String]),
    verdict: Verdict,
    code: u8,
) -> String {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut summary = String::from("\n");
    let mut sorted: Vec<&Finding> = findings.by_fingerprint.values().collect();
    sorted.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), finding.alert.boot_time_ns));
    for finding in &sorted {
        let shown = v1::Alert {
            count: finding.times,
            held_back: 0,
            ..finding.alert.clone()
        };
        summary += &text::alert(&shown, colour);
    }
    if findings.not_kept > 0 {
        summary += &format!("    … and {} more findings that are not shown\n", findings.not_kept);
    }
    for reason in lost {
        summary += &format!("    not everything was seen: {}\n", text::escape(reason));
    }
    for sentence in told {
        summary += &format!("    {}\n", text::escape(sentence));
    }
    let paint = |code: &'static str| if colour { code } else { "" };
    let reset = paint("\u{1b}[0m");
    let (word, style, why) = match verdict {
        Verdict::Pass => (
            "PASS",
            paint("\u{1b}[1;32m"),
            format!("nothing at or above {} was found", config.fail_on),
        ),
        Verdict::Fail => (
            "FAIL",
            paint("\u{1b}[1;31m"),
            format!(
                "{} at or above {}; fix each as told above, or run with a higher --fail-on",
                findings.fatal(),
                config.fail_on
            ),
        ),
        Verdict::Inconclusive => (
            "INCONCLUSIVE",
            paint("\u{1b}[1;33m"),
            "not everything was seen, so nobody knows; mend what is told above and run it again".to_owned(),
        ),
    };
    summary += &format!(
        "staghound: {style}{word}{reset}: {why} ({} records, {} findings, {} events lost; the command exited with {code})\n",
        watched.records,
        sorted.len(),
        watched.events_lost(),
    );
    summary
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
    fn exit_codes_are_a_shells() {
        for (raw, code) in [(0, 0), (0x0300, 3), (9, 137), (0x8b, 139)] {
            assert_eq!(exit_code(ExitStatus::from_raw(raw)), code);
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
    fn findings_are_counted_and_the_worst_is_kept() {
        let mut findings = Findings::new(Severity::Critical);
        let alert = |fingerprint: &str| v1::Alert {
            fingerprint: fingerprint.to_owned(),
            count: 2,
            ..v1::Alert::default()
        };
        findings.add(alert("a"), Severity::Low);
        findings.add(alert("a"), Severity::Low);
        findings.add(alert("b"), Severity::High);
        assert_eq!(findings.by_fingerprint["a"].times, 4);
        assert_eq!(findings.worst, Some(Severity::High));
        for index in 0..2 * FINDINGS_MAX {
            findings.add(alert(&index.to_string()), Severity::Critical);
        }
        assert!(
            findings
                .by_fingerprint
                .values()
                .all(|finding| finding.severity == Severity::Critical)
        );
        assert_eq!(findings.fatal(), "more than 1000 findings");
        assert_eq!(findings.by_fingerprint.len(), FINDINGS_MAX);
        assert_eq!(findings.worst, Some(Severity::Critical));
        assert!(findings.not_kept > 0);
    }

    #[test]
    fn what_fails_the_run_is_counted_as_such() {
        let mut findings = Findings::new(Severity::High);
        let alert = |fingerprint: &str| v1::Alert {
            fingerprint: fingerprint.to_owned(),
            count: 1,
            ..v1::Alert::default()
        };
        for index in 0..2 * FINDINGS_MAX {
            findings.add(alert(&index.to_string()), Severity::Low);
        }
        assert_eq!(findings.fatal(), "0 findings");
        findings.add(alert("fatal"), Severity::High);
        findings.add(alert("fatal"), Severity::High);
        assert_eq!(findings.fatal(), "1 finding");
        assert_eq!(findings.by_fingerprint["fatal"].times, 2);
        assert_eq!(findings.not_kept, FINDINGS_MAX as u64 + 1);
    }

    #[test]
    fn findings_keep_who_the_ancestors_are_and_no_more() {
        let process = v1::Process {
            pid: 7,
            name: "sh".to_owned(),
            executable: "/bin/sh".to_owned(),
            args: vec!["sh".to_owned()],
            ..v1::Process::default()
        };
        let slim = slim(v1::Alert {
            ancestors: vec![process.clone()],
            ..v1::Alert::default()
        });
        let expected = v1::Process {
            args: Vec::new(),
            ..process
        };
        assert_eq!(slim.ancestors, [expected]);
    }

    #[test]
    fn a_command_that_cannot_be_started_is_told_as_in_a_shell() {
        for (number, code) in [
            (libc::ENOENT, 127),
            (libc::EACCES, 126),
            (libc::ENOEXEC, 126),
            (libc::E2BIG, 103),
            (libc::EAGAIN, 103),
        ] {
            assert_eq!(spawn_code(&io::Error::from_raw_os_error(number)), code);
        }
    }

    #[test]
    fn what_outlives_the_command_is_told() {
        assert_eq!(outlived(&[]), [""; 0]);
        let table = ProcessTable::seeded();
        let this = std::process::id();
        let survivors = table.survivors(&[this, u32::MAX]);
        assert_eq!(survivors.len(), 1);
        let told = outlived(&survivors);
        assert!(told[0].starts_with("1 process outlived the command"), "{told:?}");
        assert!(told[1].starts_with(&format!("still running: {this} ")), "{told:?}");
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
