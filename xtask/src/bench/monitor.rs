//! The agent while a workload is measured, and what it used and saw.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::service::{Service, free_port, http_get, port_from_file};
use crate::workspace;

/// The metrics that are read, named as in the agent's `metrics.rs`.
pub(crate) const METRIC_EVENTS: &str = "staghound_events_total";
const METRIC_PROGRAMS: &str = "staghound_programs";
pub(crate) const METRIC_LOST: &str = "staghound_records_lost_total";

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the agent may take to finish what the workload left in its buffers.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
const SETTLE_INTERVAL: Duration = Duration::from_millis(200);

/// Events that anything else on the machine makes in an interval: fewer do not mean that the agent is still behind.
const SETTLE_EVENTS: u64 = 50;

/// How to start the agent.
pub(super) struct Monitor {
    pub(super) agent: PathBuf,
    pub(super) collector: Option<PathBuf>,
    pub(super) arguments: Vec<String>,
}

/// The agent at work. Fields are dropped, and so ended, in the order data flows.
pub(super) struct Session {
    agent: Service,
    collector: Option<Service>,
    http: u16,
    cpu_before: Duration,
    before: Counters,
}

/// What the agent used and saw since it became ready.
pub(super) struct Seen {
    pub(super) cpu: Duration,
    pub(super) rss_anon_mib: f64,
    /// Rings, maps and programs: memory of the kernel that the agent holds.
    pub(super) kernel_mib: f64,
    pub(super) events: u64,
    pub(super) lost: u64,
}

impl Monitor {
    /// Starts the agent, with the collector if one is wanted, in an empty directory; returns when programs are attached.
    pub(super) fn start(&self) -> Result<Session> {
        let directory = workspace::target().join("bench/state");
        if directory.exists() {
            fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
        }
        fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;

        let http = free_port()?;
        let mut command = Command::new(&self.agent);
        command.args(["observe", "--output", "json", "--http", &format!("127.0.0.1:{http}")]);
        command
            .arg("--state-dir")
            .arg(directory.join("agent"))
            .args(&self.arguments);
        let mut collector = None;
        if let Some(program) = &self.collector {
            let port_file = directory.join("collector.port");
            let mut serve = Command::new(program);
            serve
                .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
                .arg("--data")
                .arg(directory.join("collector"))
                .arg("--port-file")
                .arg(&port_file)
                .stdin(Stdio::null());
            let mut service = Service::start("the collector", &mut serve)?;
            let mut port = None;
            service.wait_until("listen", READY_TIMEOUT, || {
                port = port_from_file(&port_file)?;
                Ok(port.is_some())
            })?;
            let port = port.context("the collector listens on no port")?;
            command.args(["--collector", &format!("http://127.0.0.1:{port}")]);
            collector = Some(service);
        }
        let mut agent = Service::start("the agent", command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        agent.wait_until(
            "become ready",
            READY_TIMEOUT,
            || Ok(http_get(http, "/readyz").is_some()),
        )?;
        let cpu_before = cpu(agent.pid())?;
        let before = Counters::read(http)?;
        Ok(Session {
            agent,
            collector,
            http,
            cpu_before,
            before,
        })
    }
}

impl Session {
    /// Waits until the agent has caught up, then reads what it used and saw.
    pub(super) fn seen(&mut self) -> Result<Seen> {
        self.agent.expect_running()?;
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        let mut counters = Counters::read(self.http)?;
        while Instant::now() < deadline {
            std::thread::sleep(SETTLE_INTERVAL);
            let next = Counters::read(self.http)?;
            let new = next.events.saturating_sub(counters.events);
            counters = next;
            if new < SETTLE_EVENTS {
                break;
            }
        }
        Ok(Seen {
            cpu: cpu(self.agent.pid())?.saturating_sub(self.cpu_before),
            rss_anon_mib: rss_anon_mib(self.agent.pid())?,
            kernel_mib: kernel_mib(self.agent.pid())?,
            events: counters.events.saturating_sub(self.before.events),
            lost: counters.lost.saturating_sub(self.before.lost),
        })
    }

    pub(super) fn stop(self) -> Result<()> {
        self.agent.stop()?;
        self.collector.map_or(Ok(()), Service::stop)
    }
}

pub(super) struct Counters {
    pub(super) events: u64,
    pub(super) lost: u64,
}

impl Counters {
    pub(super) fn read(http: u16) -> Result<Counters> {
        let metrics = http_get(http, "/metrics").context("the agent does not answer at /metrics")?;
        // Counters without a sample are left out: when nothing that a rule wants has happened yet, and nothing was lost. What
        // became of the programs is always told, so that an answer without it is none of the agent's.
        ensure!(
            metrics.contains(METRIC_PROGRAMS),
            "the agent's metrics have no {METRIC_PROGRAMS}"
        );
        Ok(Counters {
            events: sum(&metrics, METRIC_EVENTS).unwrap_or(0),
            lost: sum(&metrics, METRIC_LOST).unwrap_or(0),
        })
    }
}

/// The sum of a counter over its labels; `None` if it has no sample.
pub(crate) fn sum(metrics: &str, name: &str) -> Option<u64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        // A label's value may contain spaces; the sample's value does not.
        rest.rsplit(' ').next()?.parse::<u64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0) + value))
}

/// User and system time that a process has used.
fn cpu(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} is not as proc(5) describes it"))?;
    // SAFETY: takes a number and no pointers.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u64::try_from(per_second).context("the system does not tell its clock tick")?;
    ensure!(per_second > 0, "the system does not tell its clock tick");
    Ok(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second)))
}

/// Fields 14 and 15. Field 2 is the name, which may contain anything, so they are counted from its last parenthesis.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// What the kernel says about the descriptors that stand for maps and programs (`memlock` in proc_pid_fdinfo(5)).
pub(crate) fn kernel_mib(pid: u32) -> Result<f64> {
    let directory = format!("/proc/{pid}/fdinfo");
    let mut by_id = std::collections::BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))? {
        let path = entry.with_context(|| format!("cannot read {directory}"))?.path();
        // Descriptors come and go while the agent works.
        let Ok(info) = fs::read_to_string(&path) else { continue };
        by_id.extend(held_by_kernel(&info));
    }
    let kib: u32 = by_id.values().map(|bytes| bytes / 1024).sum();
    Ok(f64::from(kib) / 1024.0)
}

/// Which map or program it is, and its bytes. One can have several descriptors.
fn held_by_kernel(info: &str) -> Option<(String, u32)> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = field("memlock:")?.parse().ok()?;
    let id = match (field("map_id:"), field("prog_id:")) {
        (Some(id), _) => format!("map {id}"),
        (None, Some(id)) => format!("program {id}"),
        (None, None) => return None,
    };
    Some((id, bytes))
}

pub(crate) fn rss_anon_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?.parse().ok())
        .with_context(|| format!("{path} has no RssAnon"))?;
    Ok(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::{held_by_kernel, rss_anon_mib, sum, ticks};

    #[test]
    fn memory_of_the_kernel_is_told_apart() {
        let map = "pos:\t0\nmap_type:\t27\nmap_id:\t7\nmemlock:\t8454144\nfrozen:\t0\n";
        assert_eq!(held_by_kernel(map), Some(("map 7".to_owned(), 8_454_144)));
        let program = "prog_type:\t26\nmemlock:\t4096\nprog_id:\t9\n";
        assert_eq!(held_by_kernel(program), Some(("program 9".to_owned(), 4096)));
        for other in [
            "pos:\t0\nflags:\t02\n",
            "link_type:\ttracing\nlink_id:\t3\nprog_id:\t9\n",
            "",
        ] {
            assert_eq!(held_by_kernel(other), None, "{other}");
        }
    }

    #[test]
    fn counters_are_summed_over_labels() {
        let metrics =
            "# TYPE a counter\na_total{kind=\"x\"} 3\na_total{kind=\"y z\"} 4\na_total_more 9\nb_total 5\n# EOF\n";
        assert_eq!(sum(metrics, "a_total"), Some(7));
        assert_eq!(sum(metrics, "b_total"), Some(5));
        assert_eq!(sum(metrics, "c_total"), None);
    }

    #[test]
    fn processor_time_is_read_behind_hostile_names() {
        let stat = "7 (a) R 1) S 1 7 7 0 -1 4194560 100 0 0 0 250 31 0 0 20 0 1 0 100 1000 1";
        assert_eq!(ticks(stat), Some(281));
        assert_eq!(ticks("7 (a"), None);
    }

    #[test]
    fn our_own_memory_is_known() {
        assert!(rss_anon_mib(std::process::id()).unwrap() > 0.0);
    }
}
