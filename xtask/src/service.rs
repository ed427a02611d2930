//! Starts collector, agent and guests as children that cannot outlive us, and ends them in order.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::tell;

/// How long a service may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Most bytes of an HTTP answer that are read.
const HTTP_BYTES_MAX: u64 = 4 << 20;

/// A program that runs beside us. Dropping it ends it.
pub(crate) struct Service {
    name: &'static str,
    child: Child,
}

impl Service {
    /// Starts it in a process group of its own, so that Ctrl-C reaches only us and we end things in order. If we die,
    /// the kernel sends it SIGTERM.
    pub(crate) fn start(name: &'static str, command: &mut Command) -> Result<Service> {
        command.process_group(0);
        let us = std::process::id();
        // SAFETY: between fork and exec the closure makes only system calls and allocates nothing.
        unsafe { command.pre_exec(move || before_exec(us)) };
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name} ({program})"))?;
        Ok(Service { name, child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, if that was asked to be a pipe; once.
    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails if it has ended.
    pub(crate) fn expect_running(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("cannot ask about {}", self.name))?
        {
            Some(status) => bail!("{} has ended ({status}); its messages above tell why", self.name),
            None => Ok(()),
        }
    }

    /// Whether it has ended, and how.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot ask about {}", self.name))
    }

    /// Waits until `is_ready`, watching that it still runs.
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        timeout: Duration,
        mut is_ready: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            self.expect_running()?;
            if is_ready()? {
                return Ok(());
            }
            if let Some(signal) = interruption(Duration::from_millis(20))? {
                bail!(
                    "interrupted by signal {signal} while waiting until {} {what}",
                    self.name
                );
            }
            ensure!(
                Instant::now() < deadline,
                "{} did not {what} within {} s",
                self.name,
                timeout.as_secs()
            );
        }
    }

    /// Asks it to end, and kills it if it does not.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait().context("cannot wait")?.is_some() {
            return Ok(());
        }
        let pid = libc::pid_t::try_from(self.child.id()).context("pid does not fit")?;
        // SAFETY: no pointers; the child was not waited for, so the pid is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if self.child.try_wait().context("cannot wait")?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        tell(&format!(
            "{} did not end within {} s after SIGTERM and is killed",
            self.name,
            STOP_TIMEOUT.as_secs()
        ));
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.name))?;
        self.child
            .wait()
            .with_context(|| format!("cannot wait for {}", self.name))?;
        bail!("{} had to be killed", self.name)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tell(&format!("{}: {error:#}", self.name));
        }
    }
}

/// Runs in the child between fork and exec.
fn before_exec(parent: u32) -> io::Result<()> {
    // SAFETY: this option takes a signal number and no pointers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // We might have died before that call; then nobody would ever send the signal.
    // SAFETY: takes no arguments.
    let parent_now = unsafe { libc::getppid() };
    if u32::try_from(parent_now).ok() != Some(parent) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    change_mask(libc::SIG_UNBLOCK)
}

/// From now on Ctrl-C and SIGTERM are told by [`interruption`] instead of ending us at once.
pub(crate) fn hold_interruptions() -> Result<()> {
    change_mask(libc::SIG_BLOCK).context("cannot block signals")
}

/// Waits for Ctrl-C or SIGTERM.
pub(crate) fn interruption(timeout: Duration) -> Result<Option<i32>> {
    let signals = interrupting_signals();
    let seconds = libc::time_t::try_from(timeout.as_secs()).context("timeout does not fit")?;
    let limit = libc::timespec {
        tv_sec: seconds,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: both pointers are valid for the call, and a null `info` means that it is not wanted.
    let signal = unsafe { libc::sigtimedwait(&raw const signals, std::ptr::null_mut(), &raw const limit) };
    Ok((signal > 0).then_some(signal))
}

fn change_mask(how: libc::c_int) -> io::Result<()> {
    let signals = interrupting_signals();
    // SAFETY: `signals` is initialised, and a null old set means that it is not wanted.
    match unsafe { libc::pthread_sigmask(how, &raw const signals, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn interrupting_signals() -> libc::sigset_t {
    // SAFETY: an all-zero set is a valid value, and is overwritten next.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `signals` is a valid place for a set.
    unsafe { libc::sigemptyset(&raw mut signals) };
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `signals` is initialised, and the number is a signal.
        unsafe { libc::sigaddset(&raw mut signals, signal) };
    }
    signals
}

/// A loopback port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    Ok(listener.local_addr().context("cannot read the port")?.port())
}

/// The port in a file where a service writes the address it listens on; `None` until it has.
pub(crate) fn port_from_file(path: &Path) -> Result<Option<u16>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let Some(first) = text.lines().next() else {
        return Ok(None);
    };
    let digits = first.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits
        .parse()
        .map(Some)
        .with_context(|| format!("{}: `{first}` does not end in a port", path.display()))
}

/// The body of an HTTP answer with status 200; `None` for any other status, or when nobody answers yet.
pub(crate) fn http_get(port: u16, path: &str) -> Option<String> {
    let timeout = Duration::from_secs(2);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    stream.set_write_timeout(Some(timeout)).ok()?;
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.take(HTTP_BYTES_MAX).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?;
    (status == "200").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{Service, http_get, port_from_file};

    #[test]
    fn ports_are_read_from_addresses() {
        let path = std::env::temp_dir().join(format!("xtask-port-{}", std::process::id()));
        assert_eq!(port_from_file(&path).unwrap(), None);
        for (text, port) in [
            ("", None),
            ("127.0.0.1:50051\n", Some(50051)),
            ("[::1]:443", Some(443)),
            ("8080\n", Some(8080)),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(port_from_file(&path).unwrap(), port, "{text:?}");
        }
        for text in ["no port\n", "127.0.0.1:99999\n"] {
            std::fs::write(&path, text).unwrap();
            assert!(port_from_file(&path).is_err(), "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_service_that_ends_early_is_noticed() {
        let mut service = Service::start("false", Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let error = service
            .wait_until("be ready", Duration::from_secs(20), || Ok(false))
            .unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_service_is_ended() {
        let service = Service::start("sleep", Command::new("sleep").arg("600").stdout(Stdio::null())).unwrap();
        let directory = format!("/proc/{}", service.pid());
        assert!(std::path::Path::new(&directory).exists());
        service.stop().unwrap();
        assert!(!std::path::Path::new(&directory).exists());
    }

    #[test]
    fn nobody_answers_on_a_free_port() {
        assert_eq!(http_get(super::free_port().unwrap(), "/readyz"), None);
    }
}
