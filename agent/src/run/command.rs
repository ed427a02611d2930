//! The command of a run: started in its control group, waited for, and told of signals that are meant for it.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};

use super::EXIT_ERROR;

/// Starts the command; with the file of a control group's processes, in that group from its first instruction on.
///
/// # Errors
/// It cannot be started; [`spawn_code`] says what a shell would return. That it cannot be put into the group is no error
/// here: see [`super::cgroup::Cgroup::lacks`].
pub(super) fn spawn(program: &OsString, arguments: &[OsString], group: Option<BorrowedFd<'_>>) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(group) = group.map(|group| group.as_raw_fd()) {
        let enter = move || {
            // SAFETY: write(2) may be called between fork and exec; the descriptor is open until the spawn is over.
            let _written = unsafe { libc::write(group, b"0".as_ptr().cast(), 1) };
            Ok(())
        };
        // SAFETY: `enter` does nothing but what may be done between fork and exec.
        unsafe { command.pre_exec(enter) };
    }
    command.spawn()
}

/// Waits for the command on a thread of its own, and passes on the signals that ask us to end.
pub(super) struct Waiter {
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
pub(super) fn handle_signals() {
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
    pub(super) fn start(mut child: Child) -> Result<Self> {
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

    /// Kills the command, if it has not ended.
    pub(super) fn kill(&self) {
        let command = COMMAND.load(Ordering::SeqCst);
        if command > 0 {
            // SAFETY: kill(2) has no preconditions. The waiter forgets the pid as soon as it is waited for.
            unsafe { libc::kill(command, libc::SIGKILL) };
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn status(self) -> Result<ExitStatus> {
        self.thread
            .join()
            .expect("the waiter does not panic")
            .context("cannot wait for the command")
    }
}

/// As a shell gives it: 127 for what is not there, 126 for what may not be run; anything else is a failure of ours.
pub(super) fn spawn_code(error: &io::Error) -> u8 {
    match error.raw_os_error() {
        Some(libc::ENOENT) => 127,
        Some(libc::EACCES | libc::ENOEXEC) => 126,
        _ => EXIT_ERROR,
    }
}

/// As a shell gives it: the code, or 128 and the signal.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(i32::from(EXIT_ERROR));
    u8::try_from(code & 0xff).expect("masked to a byte")
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
}
