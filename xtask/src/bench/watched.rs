//! The agent with a rule for what the benchmark does, and the alerts it prints.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::service::{Service, free_port, http_get};

/// Rules that hold for nothing but what is done here.
const RULES: &str = include_str!("rules.yaml");
/// What these rules look for.
pub(crate) const DECOYS: &str = "staghound-bench-decoys";
pub(crate) const TAG: &str = "staghound-bench-tag";

/// Alerts that may wait for us; the agent then waits with printing, and its queue tells what that costs.
const ALERTS_MAX: usize = 65_536;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// One alert that was read.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    /// When its line had been read.
    pub(super) at: Instant,
    /// When the kernel saw it happen, in nanoseconds since boot.
    pub(super) boot_ns: u64,
    pub(super) rule: String,
    /// The file it is about, or else its process's arguments.
    pub(super) subject: String,
}

/// The agent at work.
pub(super) struct Watched {
    agent: Service,
    pub(super) http: u16,
    /// When it was started, in nanoseconds since boot.
    pub(super) started_ns: u64,
    alerts: Receiver<Sighting>,
    reader: JoinHandle<Result<()>>,
    decoys: PathBuf,
}

impl Watched {
    /// Starts it, and returns at once: who wants to know when it is ready calls [`Self::wait_until_ready`].
    pub(super) fn start(program: &Path, arguments: &[String], directory: &Path) -> Result<Watched> {
        let state = directory.join("watched");
        if state.exists() {
            fs::remove_dir_all(&state).with_context(|| format!("cannot empty {}", state.display()))?;
        }
        let decoys = state.join(DECOYS);
        fs::create_dir_all(&decoys).with_context(|| format!("cannot create {}", decoys.display()))?;
        let rules = state.join("rules");
        write_rules(&rules)?;
        let http = free_port()?;
        let mut command = Command::new(program);
        command
            .args(["observe", "--output", "json", "--http", &format!("127.0.0.1:{http}")])
            .arg("--state-dir")
            .arg(state.join("agent"))
            .arg("--rules")
            .arg(&rules)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let started_ns = boot_ns()?;
        let mut agent = Service::start("the agent", &mut command)?;
        let output = agent.take_stdout().context("the agent has no standard output")?;
        let (sender, alerts) = sync_channel(ALERTS_MAX);
        let reader = std::thread::spawn(move || relay(output, &sender));
        Ok(Watched {
            agent,
            http,
            started_ns,
            alerts,
            reader,
            decoys,
        })
    }

    pub(super) fn wait_until_ready(&mut self) -> Result<()> {
        let http = self.http;
        self.agent.wait_until(
            "become ready",
            READY_TIMEOUT,
            || Ok(http_get(http, "/readyz").is_some()),
        )
    }

    pub(super) fn is_ready(&self) -> bool {
        http_get(self.http, "/readyz").is_some()
    }

    /// Writes a file that an alert will be about once it is read.
    pub(super) fn decoy(&self, name: &str) -> Result<PathBuf> {
        let path = self.decoys.join(name);
        fs::write(&path, "decoy").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The next alert of these rules, if one comes in time.
    pub(super) fn next(&mut self, timeout: Duration) -> Result<Option<Sighting>> {
        match self.alerts.recv_timeout(timeout) {
            Ok(sighting) => Ok(Some(sighting)),
            Err(RecvTimeoutError::Timeout) => {
                self.agent.expect_running()?;
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the agent closed its standard output"),
        }
    }

    /// Ends the agent; yields the alerts that nobody took.
    pub(super) fn stop(self) -> Result<Vec<Sighting>> {
        self.agent.stop()?;
        let rest = self.alerts.iter().collect();
        self.reader.join().expect("the relay does not panic")?;
        Ok(rest)
    }
}

/// Puts the rules into a directory for `--rules`.
pub(crate) fn write_rules(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join("bench.yaml");
    fs::write(&path, RULES).with_context(|| format!("cannot write {}", path.display()))
}

fn relay(output: ChildStdout, alerts: &SyncSender<Sighting>) -> Result<()> {
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the agent's alerts")?;
        let at = Instant::now();
        let alert: Value = serde_json::from_str(&line).context("the agent printed something that is not JSON")?;
        if let Some(sighting) = sighting(&alert, at)
            && alerts.send(sighting).is_err()
        {
            break;
        }
    }
    Ok(())
}

/// What is needed of an alert; `None` for those of other rules, about whatever else this machine does.
fn sighting(alert: &Value, at: Instant) -> Option<Sighting> {
    let rule = alert.pointer("/rule/id")?.as_str()?;
    let arguments = || {
        let arguments = alert.pointer("/process/args")?.as_array()?.iter();
        Some(arguments.filter_map(Value::as_str).collect::<Vec<_>>().join(" "))
    };
    let subject = match alert.pointer("/event/file/path").and_then(Value::as_str) {
        Some(path) if rule == "bench/read" => path.to_owned(),
        _ => arguments()?,
    };
    (subject.contains(DECOYS) || subject.contains(TAG)).then(|| Sighting {
        at,
        boot_ns: alert
            .get("bootTimeNs")
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        rule: rule.to_owned(),
        subject,
    })
}

/// The clock of the kernel's records.
pub(super) fn boot_ns() -> Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for what the call writes.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    if status != 0 {
        bail!("clock_gettime: {}", std::io::Error::last_os_error());
    }
    let seconds = u64::try_from(time.tv_sec).context("negative time")?;
    let nanos = u64::try_from(time.tv_nsec).context("negative time")?;
    Ok(seconds * 1_000_000_000 + nanos)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::sighting;

    #[test]
    fn our_alerts_are_told_from_others() {
        let read = json!({"rule": {"id": "bench/read"}, "bootTimeNs": "42",
            "event": {"file": {"path": "/x/staghound-bench-decoys/7"}}, "process": {"args": ["load"]}});
        let seen = sighting(&read, Instant::now()).unwrap();
        assert_eq!(
            (seen.boot_ns, seen.subject.as_str()),
            (42, "/x/staghound-bench-decoys/7")
        );
        let exec = json!({"rule": {"id": "stealth/memfd"}, "bootTimeNs": "43",
            "process": {"args": ["load", "noop", "staghound-bench-tag-1"]}});
        assert_eq!(
            sighting(&exec, Instant::now()).unwrap().subject,
            "load noop staghound-bench-tag-1"
        );
        let other = json!({"rule": {"id": "x/y"}, "process": {"args": ["sh"]}});
        assert!(sighting(&other, Instant::now()).is_none());
    }
}
