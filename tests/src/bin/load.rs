//! Load generators of `cargo xtask bench`: tight loops over one system call each, with nothing around them to measure.
//!
//! `load exec N | open N FILE | tcp N | getppid N | rw N | memfd N TAG | files N DIRECTORY`; `load noop` is what the exec
//! storm executes.
//! Linked statically, so that an exec opens no libraries and the storm measures exec alone.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

const USAGE: &str =
    "usage: load exec N | open N FILE | tcp N | getppid N | rw N | memfd N TAG | files N DIRECTORY | noop [TAG]";

/// Between two executions from memory, so that they spread over the storm that they must be found in.
const MEMFD_PAUSE: Duration = Duration::from_millis(10);

/// Files in one directory of a tree.
const FILES_PER_DIRECTORY: u64 = 400;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // First, since this is the work of the exec storm.
    if arguments.first().is_some_and(|first| first == "noop") {
        return ExitCode::SUCCESS;
    }
    match generate(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed; the exit code still says it.
            drop(writeln!(io::stderr(), "load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn generate(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["exec", times] => exec(number(times)?),
        ["open", times, file] => open(number(times)?, file),
        ["tcp", times] => tcp(number(times)?),
        ["getppid", times] => getppid(number(times)?),
        ["rw", times] => read_write(number(times)?),
        ["memfd", times, tag] => memfd(number(times)?, tag),
        ["files", count, directory] => files(number(count)?, Path::new(directory)),
        _ => bail!(USAGE),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse()
        .with_context(|| format!("`{text}` is not a number of repetitions; {USAGE}"))
}

/// fork, execve of `load noop`, wait.
fn exec(times: u64) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = CString::new(program.into_os_string().into_vec()).context("path of this program has a NUL byte")?;
    let noop = c"noop";
    let arguments = [program.as_ptr(), noop.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    for _ in 0..times {
        in_child(|| {
            // SAFETY: path and both arrays are NUL-terminated and live.
            unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        })?;
    }
    Ok(())
}

/// fork, execve of a copy of this program that is in memory only, wait. Each child has its own tag: `TAG-0`, `TAG-1`, …
fn memfd(times: u64, tag: &str) -> Result<()> {
    let program = fs::read("/proc/self/exe").context("cannot read this program")?;
    let environment = [std::ptr::null()];
    for number in 0..times {
        // SAFETY: the name is NUL-terminated.
        let fd = unsafe { libc::memfd_create(c"load".as_ptr(), libc::MFD_CLOEXEC) };
        ensure!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
        // SAFETY: the descriptor was just made and nobody else owns it.
        let mut copy = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        copy.write_all(&program).context("cannot copy this program to memory")?;
        let tag = CString::new(format!("{tag}-{number}")).context("the tag has a NUL byte")?;
        let arguments = [c"load".as_ptr(), c"noop".as_ptr(), tag.as_ptr(), std::ptr::null()];
        in_child(|| {
            // SAFETY: the descriptor is open, both arrays are NUL-terminated and live.
            unsafe { libc::fexecve(copy.as_raw_fd(), arguments.as_ptr(), environment.as_ptr()) };
        })?;
        std::thread::sleep(MEMFD_PAUSE);
    }
    Ok(())
}

/// Forks, lets the child execute something, and waits for that to end well. `execute` returns only when it fails, and
/// must make system calls and nothing else.
fn in_child(execute: impl FnOnce()) -> Result<()> {
    // SAFETY: this process has one thread, and the child makes system calls only.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        execute();
        // SAFETY: ends the child at once; no destructor may run in it.
        unsafe { libc::_exit(127) };
    }
    ensure!(pid > 0, "fork: {}", io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: `status` is a valid place for the wait status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(waited == pid, "waitpid: {}", io::Error::last_os_error());
    ensure!(status == 0, "`load noop` ended with wait status {status}");
    Ok(())
}

/// Writes a tree of small files, for others to read.
fn files(count: u64, directory: &Path) -> Result<()> {
    for number in 0..count {
        let below = directory.join(format!("part-{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&below).with_context(|| format!("cannot create {}", below.display()))?;
        }
        let path = below.join(format!("file-{number}"));
        let text = format!("{number} is one of many lines in which nobody finds what they seek\n").repeat(40);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// open for reading, close.
fn open(times: u64, file: &str) -> Result<()> {
    let path = CString::new(file).context("path has a NUL byte")?;
    for _ in 0..times {
        // SAFETY: `path` is NUL-terminated and lives.
        let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        ensure!(fd >= 0, "cannot open {file:?}: {}", io::Error::last_os_error());
        // SAFETY: `fd` was just opened and is not used after this.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// connect, accept, close on loopback.
fn tcp(times: u64) -> Result<()> {
    let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    let address = listener
        .local_addr()
        .context("cannot read the address of the listener")?;
    for _ in 0..times {
        let client = TcpStream::connect(address).context("cannot connect to loopback")?;
        let (server, _) = listener.accept().context("cannot accept")?;
        // Closed by a reset: otherwise the ports would wait in TIME_WAIT and run out after 28,000 connections.
        reset_on_close(&client)?;
        drop(client);
        drop(server);
    }
    Ok(())
}

fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let length = libc::socklen_t::try_from(size_of::<libc::linger>()).context("size does not fit")?;
    // SAFETY: the pointer and the length describe `linger`.
    let status = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
    ensure!(status == 0, "SO_LINGER: {}", io::Error::last_os_error());
    Ok(())
}

/// A system call that nobody monitors.
fn getppid(times: u64) -> Result<()> {
    for _ in 0..times {
        // By number, since a C library may answer without asking the kernel.
        // SAFETY: takes no arguments.
        let parent = unsafe { libc::syscall(libc::SYS_getppid) };
        ensure!(parent >= 0, "getppid: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// Reads and writes of 512 bytes, which touch no path.
fn read_write(times: u64) -> Result<()> {
    let mut zero = File::open("/dev/zero").context("cannot open /dev/zero")?;
    let mut null = OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .context("cannot open /dev/null")?;
    let mut buffer = [0_u8; 512];
    for _ in 0..times {
        zero.read_exact(&mut buffer).context("cannot read /dev/zero")?;
        null.write_all(&buffer).context("cannot write /dev/null")?;
    }
    Ok(())
}
