//! One signal to stop, seen by plain threads and tasks alike.

use std::io::{self, PipeReader, PipeWriter, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether to stop. Clones share it.
#[derive(Clone)]
pub struct Shutdown(Arc<Inner>);

struct Inner {
    flag: AtomicBool,
    /// Carries one byte once signalled, which is never read: the other end stays readable for every poller.
    bell: PipeWriter,
    heard: PipeReader,
    tasks: watch::Sender<bool>,
}

impl Shutdown {
    /// Makes one that is not signalled.
    ///
    /// # Errors
    /// There is no file descriptor left.
    pub fn new() -> io::Result<Self> {
        let (heard, bell) = io::pipe()?;
        Ok(Self(Arc::new(Inner {
            flag: AtomicBool::new(false),
            bell,
            heard,
            tasks: watch::Sender::new(false),
        })))
    }

    /// Says to stop. Only the first call has an effect.
    pub fn signal(&self) {
        if !self.0.flag.swap(true, Ordering::AcqRel) {
            (&self.0.bell)
                .write_all(&[1])
                .expect("an empty pipe with a reader takes one byte");
            self.0.tasks.send_replace(true);
        }
    }

    /// Whether to stop; one atomic load.
    pub fn is_signalled(&self) -> bool {
        self.0.flag.load(Ordering::Acquire)
    }

    /// Waits, in a task, until it is signalled.
    pub async fn signalled(&self) {
        let mut tasks = self.0.tasks.subscribe();
        tasks
            .wait_for(|signalled| *signalled)
            .await
            .expect("the sender lives in what is borrowed here");
    }

    /// Signals on SIGTERM and SIGINT, and ends the process at once on the second one. Never returns; spawn it.
    ///
    /// # Errors
    /// The system refuses to register a handler.
    pub fn on_signals(&self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        Ok(async move {
            loop {
                let (name, code) = tokio::select! {
                    _ = term.recv() => ("SIGTERM", 128 + libc::SIGTERM),
                    _ = interrupt.recv() => ("SIGINT", 128 + libc::SIGINT),
                };
                if shutdown.is_signalled() {
                    tracing::warn!(signal = name, "asked again; ending at once");
                    std::process::exit(code);
                }
                tracing::info!(signal = name, "stopping");
                shutdown.signal();
            }
        })
    }
}

/// Readable from the moment it is signalled, for epoll beside a ring buffer. Do not read it.
impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.heard.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::fd::AsRawFd as _;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn readable(shutdown: &Shutdown) -> bool {
        let mut poll = libc::pollfd {
            fd: shutdown.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: the pointer is to one valid pollfd, as the count says.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn the_first_signal_stops_and_the_second_ends() {
        if std::env::var_os("STAGHOUND_TEST_SIGNALS").is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let shutdown = Shutdown::new().unwrap();
                let signals = tokio::spawn(shutdown.on_signals().unwrap());
                println!("ready");
                shutdown.signalled().await;
                println!("stopping");
                signals.await.unwrap();
            });
        }
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "shutdown::tests::the_first_signal_stops_and_the_second_ends",
                "--nocapture",
            ])
            .env("STAGHOUND_TEST_SIGNALS", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let pid = libc::pid_t::try_from(process.id()).unwrap();
        for (said, signal) in [("ready", libc::SIGTERM), ("stopping", libc::SIGINT)] {
            assert!(lines.any(|line| line == said), "the child never said {said}");
            // SAFETY: the child is ours and was not waited for, so the pid is still its own.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        }
        assert_eq!(process.wait().unwrap().code(), Some(130));
    }

    #[tokio::test]
    async fn threads_and_tasks_see_it() {
        let shutdown = Shutdown::new().unwrap();
        assert!(!shutdown.is_signalled() && !readable(&shutdown));
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.signalled().await }
        });
        shutdown.signal();
        shutdown.signal();
        assert!(shutdown.is_signalled() && readable(&shutdown) && readable(&shutdown));
        tokio::time::timeout(Duration::from_secs(10), task)
            .await
            .unwrap()
            .unwrap();
        shutdown.signalled().await;
    }
}
