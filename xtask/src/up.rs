//! Collector, agent and subscriber on this machine: to look at (`up`), or to see once that the whole line works (`up --demo`).

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::binaries::{Products, Profile, build_products};
use crate::command::{print, run, tell};
use crate::service::{Service, free_port, hold_interruptions, http_get, interruption, port_from_file};
use crate::workspace;

/// How long collector and agent may take until they are ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the alert of the demonstration may take to its subscriber.
const ALERT_TIMEOUT: Duration = Duration::from_secs(30);

/// What the demonstration does. Reading it needs root, which it has, and changes nothing.
const ATTACK: &str = "cat /etc/shadow > /dev/null";
const ATTACKED_FILE: &str = "/etc/shadow";

/// Lines of the subscriber that may wait for us; it waits when there are more.
const LINES_MAX: usize = 256;

#[derive(Args)]
pub(crate) struct Options {
    /// Free ports and a temporary directory: perform one harmless attack, print its alert, end everything
    #[arg(long)]
    demo: bool,
    /// Port of the collector on loopback
    #[arg(long, default_value_t = 50051, conflicts_with = "demo")]
    port: u16,
}

pub(crate) fn up(options: &Options) -> Result<()> {
    let products = build_products(Profile::Release)?;
    hold_interruptions()?;
    if options.demo {
        demonstrate(&products)
    } else {
        show(&products, options.port)
    }
}

/// What the two are started with besides what every line needs.
#[derive(Default)]
pub(crate) struct Arguments<'a> {
    pub(crate) agent: &'a [&'a OsStr],
    pub(crate) collector: &'a [&'a str],
}

/// The running line. Fields are dropped, and so ended, in the order data flows.
pub(crate) struct Line {
    pub(crate) agent: Service,
    pub(crate) collector: Service,
    collector_url: String,
    pub(crate) agent_http: u16,
}

impl Line {
    /// Starts collector and agent and waits until both are ready.
    pub(crate) fn start(products: &Products, directory: &Path, port: u16, more: &Arguments<'_>) -> Result<Line> {
        let port_file = directory.join("collector.port");
        if port_file.exists() {
            fs::remove_file(&port_file).with_context(|| format!("cannot remove {}", port_file.display()))?;
        }
        let mut command = Command::new(&products.collector);
        command
            .args([
                "serve",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--http",
                "127.0.0.1:0",
            ])
            .arg("--data")
            .arg(directory.join("collector"))
            .arg("--port-file")
            .arg(&port_file)
            .args(more.collector)
            .stdin(Stdio::null());
        let mut collector = Service::start("the collector", &mut command)?;
        let mut bound = None;
        collector.wait_until("listen", READY_TIMEOUT, || {
            bound = port_from_file(&port_file)?;
            Ok(bound.is_some())
        })?;
        let collector_url = format!(
            "http://127.0.0.1:{}",
            bound.context("the collector listens on no port")?
        );

        let agent_http = free_port()?;
        let mut command = Command::new(&products.agent);
        command
            .args([
                "observe",
                "--collector",
                &collector_url,
                "--http",
                &format!("127.0.0.1:{agent_http}"),
            ])
            .arg("--state-dir")
            .arg(directory.join("agent"))
            .args(more.agent)
            .stdin(Stdio::null())
            // It prints alerts too; here they shall come from the subscriber.
            .stdout(Stdio::null());
        let mut agent = Service::start("the agent", &mut command)?;
        agent.wait_until("become ready", READY_TIMEOUT, || {
            Ok(http_get(agent_http, "/readyz").is_some())
        })?;
        Ok(Line {
            agent,
            collector,
            collector_url,
            agent_http,
        })
    }

    /// Ends the agent, which delivers what it still has, and then the collector.
    pub(crate) fn stop(self) -> Result<()> {
        self.agent.stop()?;
        self.collector.stop()
    }

    pub(crate) fn expect_running(&mut self) -> Result<()> {
        self.agent.expect_running()?;
        self.collector.expect_running()
    }

    pub(crate) fn tail(&self, products: &Products, arguments: &[&str]) -> Command {
        let mut command = Command::new(&products.collector);
        command
            .args(["tail", "--url", &self.collector_url])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }
}

/// Shows alerts as they come until Ctrl-C.
fn show(products: &Products, port: u16) -> Result<()> {
    let directory = workspace::target().join("up");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let mut line = Line::start(products, &directory, port, &Arguments::default())?;
    let mut subscriber = Service::start("the subscriber", &mut line.tail(products, &["--from", "latest"]))?;
    tell(&format!(
        "collector at {}, agent's metrics at http://127.0.0.1:{}/metrics, state in {}",
        line.collector_url,
        line.agent_http,
        directory.display()
    ));
    tell(&format!("try `{ATTACK}` in another shell; Ctrl-C ends all"));
    while interruption(Duration::from_millis(250))?.is_none() {
        line.expect_running()?;
        subscriber.expect_running()?;
    }
    tell("ending agent, collector and subscriber");
    line.agent.stop()?;
    subscriber.stop()?;
    line.collector.stop()
}

/// A directory of this process that is removed with the value.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn create() -> Result<TemporaryDirectory> {
        let path = std::env::temp_dir().join(format!("staghound-demo-{}", std::process::id()));
        // Fails if it exists: somebody else could have prepared it for us.
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(TemporaryDirectory(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tell(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// One attack, one alert, the end.
fn demonstrate(products: &Products) -> Result<()> {
    let directory = TemporaryDirectory::create()?;
    let mut line = Line::start(products, &directory.0, 0, &Arguments::default())?;
    let mut command = line.tail(products, &["--from", "earliest", "--output", "json"]);
    let mut subscriber = Service::start("the subscriber", command.stdout(Stdio::piped()))?;
    let output = subscriber
        .take_stdout()
        .context("the subscriber has no standard output")?;
    let (sender, lines) = sync_channel(LINES_MAX);
    let reader = std::thread::spawn(move || relay(output, &sender));

    print(&format!("attack: sh -c '{ATTACK}'"));
    let attacked = Instant::now();
    run(Command::new("sh").args(["-c", ATTACK]))?;
    let alert = wait_for_alert(&lines, &mut line, &mut subscriber)?;
    print(&format!(
        "alert at the subscriber after {} ms:",
        attacked.elapsed().as_millis()
    ));
    let rule = alert
        .pointer("/rule/id")
        .and_then(Value::as_str)
        .context("the alert names no rule")?;
    let mut command = line.tail(
        products,
        &[
            "--from",
            "earliest",
            "--alerts-only",
            "--rule",
            rule,
            "--count",
            "1",
            "--timeout",
            "10",
        ],
    );
    run(&mut command).context("cannot show the alert as text")?;
    print(&format!("techniques: {}", techniques(&alert).join(", ")));

    subscriber.stop()?;
    drop(lines);
    reader.join().expect("the relay does not panic")?;
    line.stop()
}

fn relay(output: impl Read, lines: &SyncSender<String>) -> Result<()> {
    for line in BufReader::new(output).lines() {
        if lines.send(line.context("cannot read from the subscriber")?).is_err() {
            break;
        }
    }
    Ok(())
}

/// The alert about our attack; others, of whatever else this machine does, are passed over.
fn wait_for_alert(lines: &Receiver<String>, line: &mut Line, subscriber: &mut Service) -> Result<Value> {
    let deadline = Instant::now() + ALERT_TIMEOUT;
    let mut others = 0_u64;
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Ok(alert) if is_ours(&alert) => return Ok(alert),
                Ok(_) => others += 1,
                Err(error) => bail!("the subscriber printed something that is not JSON: {error}"),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                line.expect_running()?;
                subscriber.expect_running()?;
            }
        }
        if interruption(Duration::ZERO)?.is_some() {
            bail!("interrupted");
        }
        if Instant::now() >= deadline {
            bail!(
                "no alert about {ATTACKED_FILE} reached the subscriber within {} s ({others} other items did); \
                 `staghound preflight` tells what this kernel lacks",
                ALERT_TIMEOUT.as_secs()
            );
        }
    }
}

fn is_ours(alert: &Value) -> bool {
    alert.pointer("/event/file/path").and_then(Value::as_str) == Some(ATTACKED_FILE) && !techniques(alert).is_empty()
}

fn techniques(alert: &Value) -> Vec<&str> {
    let techniques = alert.get("techniques").and_then(Value::as_array);
    techniques
        .into_iter()
        .flatten()
        .filter_map(|technique| technique.get("id")?.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{is_ours, techniques};

    #[test]
    fn our_alert_is_recognised() {
        let ours = json!({"event": {"file": {"path": "/etc/shadow"}}, "techniques": [{"id": "T1003.008"}]});
        assert!(is_ours(&ours));
        assert_eq!(techniques(&ours), ["T1003.008"]);
    }

    #[test]
    fn other_items_are_not() {
        for other in [
            json!({"event": {"file": {"path": "/etc/passwd"}}, "techniques": [{"id": "T1003.008"}]}),
            json!({"event": {"file": {"path": "/etc/shadow"}}, "techniques": []}),
            json!({"event": {"file": {"path": "/etc/shadow"}}}),
            json!({"gap": {}}),
            json!(null),
        ] {
            assert!(!is_ours(&other), "{other}");
        }
    }
}
