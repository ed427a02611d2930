//! Agents and collectors as processes: started with directories and ports of their own, killed when let go.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use tempfile::TempDir;

use crate::{DECOY_RULES, agent_path, collector_path, until};

/// Lines of its output that a process leaves behind when its test fails.
const LINES_SHOWN: usize = 40;

/// A process whose output goes to files.
pub struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    _output: TempDir,
}

impl Running {
    /// Starts a command that reads nothing.
    pub fn start(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::null())
    }

    /// Starts a command that reads from a pipe, which [`Running::write`] writes to.
    pub fn start_piped(command: &mut Command) -> Self {
        Self::start_reading(command, Stdio::piped())
    }

    fn start_reading(command: &mut Command, stdin: Stdio) -> Self {
        let output = TempDir::new().expect("a directory for output");
        let (stdout, stderr) = (output.path().join("stdout"), output.path().join("stderr"));
        let create = |path: &Path| File::create(path).expect("a file for output");
        let child = command
            .stdin(stdin)
            .stdout(create(&stdout))
            .stderr(create(&stderr))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            child,
            stdout,
            stderr,
            _output: output,
        }
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output.
    #[must_use]
    pub fn stdout(&self) -> Vec<u8> {
        fs::read(&self.stdout).expect("the file is ours")
    }

    /// What it has written to standard output from this byte on.
    fn stdout_from(&self, start: u64) -> Vec<u8> {
        let file = File::open(&self.stdout).expect("the file is ours");
        let length = file.metadata().expect("the file is ours").len();
        let mut bytes = vec![0; usize::try_from(length.saturating_sub(start)).expect("a length fits")];
        file.read_exact_at(&mut bytes, start).expect("it only grows");
        bytes
    }

    /// What it has written to standard error.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).expect("the file is ours")).into_owned()
    }

    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("it was started with a pipe");
        stdin.write_all(bytes).expect("it reads");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill(2) touches no memory; the child is not waited for yet, so the pid is its.
        let status = unsafe { libc::kill(pid, signal) };
        assert_eq!(status, 0, "signal {signal}: {}", std::io::Error::last_os_error());
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        until("end of a process", || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        self.signal(libc::SIGKILL);
        self.wait();
    }

    /// SIGTERM, and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Waits until its standard error holds something.
    pub fn until_told<T>(&mut self, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        until(what, || {
            let stderr = self.stderr();
            let found = find(&stderr);
            if found.is_none() {
                let ended = self.ended();
                assert!(ended.is_none(), "ended with {ended:?} before {what}: {stderr}");
            }
            found
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (stream, text) in [
                ("output", String::from_utf8_lossy(&self.stdout()).into_owned()),
                ("error", self.stderr()),
            ] {
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
                drop(writeln!(
                    std::io::stderr(),
                    "standard {stream} of process {}:\n{}",
                    self.child.id(),
                    last.join("\n")
                ));
            }
        }
        // It may have ended already.
        let _ended = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// What a command that ran to its end did.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Its exit code; none when a signal ended it.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    let mut running = Running::start(command);
    let status = running.wait();
    Output {
        status,
        stdout: running.stdout(),
        stderr: running.stderr(),
    }
}

/// The agent with these arguments, in an environment without its variables.
pub fn staghound<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(agent_path());
    command
        .args(arguments)
        .env_remove("STAGHOUND_CONFIG")
        .env("NO_COLOR", "1");
    command
}

/// One request to an HTTP port.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// An agent that observes.
pub struct Agent {
    /// The process.
    pub running: Running,
    http: SocketAddr,
    shown: Mutex<Shown>,
}

/// What was read of an agent's output so far: tests look again and again, and an emulated processor reads slowly.
#[derive(Default)]
struct Shown {
    bytes: u64,
    alerts: Vec<Arc<Value>>,
}

impl Agent {
    /// Starts `staghound observe` with the decoy rules and more arguments, and waits until it is ready.
    pub fn observe<A: AsRef<OsStr>>(state: &Path, arguments: impl IntoIterator<Item = A>) -> Self {
        let rules = state.join("rules");
        fs::create_dir_all(&rules).expect("a directory for rules");
        fs::write(rules.join("decoy.yaml"), DECOY_RULES).expect("a file for rules");
        let mut command = staghound(["observe", "--http-listen", "127.0.0.1:0", "--state-directory"]);
        command.arg(state).arg("--rules").arg(rules).args(arguments);
        let mut running = Running::start(&mut command);
        let http = running.until_told("address of metrics and health", |stderr| {
            let (_, rest) = stderr.split_once("metrics and health on http://")?;
            rest.split_once('\n')?.0.trim().parse().ok()
        });
        until("readiness of the agent", || {
            assert!(running.ended().is_none(), "the agent ended: {}", running.stderr());
            let answer = get(http, "/readyz").ok()?;
            answer.starts_with("HTTP/1.1 200").then_some(())
        });
        Self {
            running,
            http,
            shown: Mutex::default(),
        }
    }

    /// The value of a sample in its metrics, by the beginning of the line: name and labels.
    #[must_use]
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let metrics = get(self.http, "/metrics").ok()?;
        metrics
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
    }

    /// Everything it has shown on standard output, as lines of JSON. A line that is being written does not count yet.
    #[must_use]
    pub fn shown(&self) -> Vec<Arc<Value>> {
        // Whoever panicked had not yet changed anything.
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let new = self.running.stdout_from(shown.bytes);
        let lines = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let text = std::str::from_utf8(&new[..lines]).expect("JSON is UTF-8");
        let alerts: Vec<Arc<Value>> = text
            .lines()
            .map(|line| Arc::new(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))))
            .collect();
        shown.bytes += u64::try_from(lines).expect("a length fits");
        shown.alerts.extend(alerts);
        shown.alerts.clone()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(metrics) = get(self.http, "/metrics")
        {
            // What was lost decides whether the test or the host failed.
            let telling: Vec<&str> = metrics
                .lines()
                .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
                .collect();
            drop(writeln!(
                std::io::stderr(),
                "metrics of process {}:\n{}",
                self.running.pid(),
                telling.join("\n")
            ));
        }
    }
}

/// A collector.
pub struct Collector {
    /// The process.
    pub running: Running,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Collector {
    /// Starts one that keeps its data in `data`, and waits until it serves. `listen` is its old address after a restart,
    /// or port 0.
    #[must_use]
    pub fn serve(data: &Path, listen: SocketAddr) -> Self {
        Self::serve_with(data, listen, std::iter::empty::<&str>())
    }

    /// Likewise, with more arguments.
    #[must_use]
    pub fn serve_with<A: AsRef<OsStr>>(
        data: &Path,
        listen: SocketAddr,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let port_file = data.with_extension("port");
        // That of an earlier one.
        if let Err(error) = fs::remove_file(&port_file) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", port_file.display());
        }
        let mut command = Command::new(collector_path());
        command
            .args(["serve", "--listen", &listen.to_string(), "--no-http", "--data"])
            .arg(data)
            .arg("--port-file")
            .arg(&port_file)
            .args(arguments);
        let mut running = Running::start(&mut command);
        let address = until("port of the collector", || {
            assert!(running.ended().is_none(), "the collector ended: {}", running.stderr());
            fs::read_to_string(&port_file).ok()?.lines().next()?.parse().ok()
        });
        Self { running, address }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
