//! Empty programs on the agent's hooks.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::program;
use crate::service::Service;

use super::figures::Figure;

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

/// What one processor must read and decode in a second, in millions.
const DRAINED_LEAST: f64 = 1.0;

/// The figure in what the action `drain` printed.
pub(super) fn drained(text: &str) -> Result<Figure> {
    let rate: f64 = text
        .split_once("drained and decoded ")
        .and_then(|(_, rest)| rest.split_once(" M events/s"))
        .and_then(|(rate, _)| rate.parse().ok())
        .with_context(|| format!("no rate in what `floor drain` printed: {text:?}"))?;
    Ok(Figure {
        name: "records read from full rings and decoded, per core".to_owned(),
        value: format!("{rate:.2} M/s"),
        target: "≥ 1 M/s",
        is_met: rate >= DRAINED_LEAST,
    })
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

#[cfg(test)]
mod tests {
    use super::drained;

    #[test]
    fn the_rate_is_read() {
        for (rate, is_met) in [("3.21", true), ("1.00", true), ("0.99", false)] {
            let text = format!("drained and decoded {rate} M events/s on one processor (median of 5)\n");
            let figure = drained(&text).unwrap();
            assert_eq!((figure.value, figure.is_met), (format!("{rate} M/s"), is_met));
        }
        assert!(drained("floor: nothing\n").is_err());
    }
}
