//! Empty programs on the agent's hooks.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::program;
use crate::service::Service;

/// The sensor is started once to learn its hooks, and each empty program reads the kernel's type information.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The tool and the object that it loads.
pub(super) struct Floor {
    pub(super) program: PathBuf,
    pub(super) object: PathBuf,
}

impl Floor {
    pub(super) fn command(&self, action: &str) -> Command {
        let mut command = program(&self.program);
        command.arg(action).arg(&self.object);
        command
    }

    /// Attaches the empty programs; they stay until the service is stopped.
    pub(super) fn hold(&self) -> Result<Service> {
        let mut command = self.command("hold");
        // Its end of standard input would let go; it gets one that never ends, and is ended by a signal.
        command.arg("sensor").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut held = Service::start("the empty programs", &mut command)?;
        let output = held.take_stdout().context("the tool has no standard output")?;
        let mut ready = Ready::of(output);
        held.wait_until("attach", READY_TIMEOUT, || Ok(ready.has_come()))?;
        Ok(held)
    }
}

/// Waits for the first line on a thread of its own, since reading a pipe cannot be limited in time.
struct Ready(std::sync::mpsc::Receiver<()>);

impl Ready {
    fn of(output: std::process::ChildStdout) -> Ready {
        use std::io::BufRead as _;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut line = String::new();
            // A tool that ends without its line is found by its end.
            if std::io::BufReader::new(output).read_line(&mut line).is_ok() && !line.is_empty() {
                // Nobody waits any more when this fails.
                sender.send(()).ok();
            }
        });
        Ready(receiver)
    }

    fn has_come(&mut self) -> bool {
        self.0.try_recv().is_ok()
    }
}
