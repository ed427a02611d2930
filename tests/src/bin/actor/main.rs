//! Does one thing with raw system calls and nothing more, for tests to watch.
//!
//! `actor ACTION ARGUMENTS…`; prints nothing unless the action says so. Exits 0 when the calls were made, whatever they
//! returned: the tests read that from the events. Exits 99 when something that only prepares the act went wrong, and 77
//! when this kernel lacks what the act needs.

mod script;
mod uring;

use std::{
    env,
    ffi::{CStr, CString, OsStr, OsString},
    fs,
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::{
        fd::{FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use libc::c_long;

const AT_FDCWD: usize = (libc::AT_FDCWD as isize).cast_unsigned();

/// This kernel has no such thing.
#[derive(Debug)]
struct Lacks(String);

impl std::fmt::Display for Lacks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "this kernel lacks {}", self.0)
    }
}

impl std::error::Error for Lacks {}

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    match act(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody to tell when standard error is closed; the code still does.
            drop(writeln!(io::stderr(), "actor {words:?}: {error:#}"));
            ExitCode::from(if error.is::<Lacks>() { 77 } else { 99 })
        }
    }
}

/// One raw system call; a negative result is a negated errno.
fn call(number: c_long, arguments: &[usize]) -> i64 {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: every caller passes numbers, or addresses of values that live until the call returns.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if result == -1 {
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    } else {
        result
    }
}

/// A call that only prepares the act, and so must succeed.
fn prepare(what: &str, result: i64) -> Result<usize> {
    usize::try_from(result).map_err(|_| {
        let errno = i32::try_from(-result).unwrap_or(libc::EIO);
        anyhow::anyhow!("cannot {what}: {}", io::Error::from_raw_os_error(errno))
    })
}

fn c_string(word: &OsStr) -> Result<CString> {
    CString::new(word.as_bytes()).context("an argument holds a NUL")
}

fn address(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn number<T: std::str::FromStr>(word: &OsStr) -> Result<T> {
    let text = word.to_str().context("a number is not UTF-8")?;
    text.parse().ok().with_context(|| format!("`{text}` is no number"))
}

fn octal(word: &OsStr) -> Result<usize> {
    usize::from_str_radix(word.to_str().context("a mode is not UTF-8")?, 8).context("a mode is octal")
}

/// Flags as an argument of a system call.
fn flag_word(flags: i32) -> usize {
    flags.cast_unsigned() as usize
}

fn how(word: &OsStr) -> Result<usize> {
    let flags = match word.to_str() {
        Some("read") => libc::O_RDONLY,
        Some("write") => libc::O_WRONLY,
        Some("readwrite") => libc::O_RDWR,
        Some("append") => libc::O_WRONLY | libc::O_APPEND,
        Some("create") => libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL,
        Some("path") => libc::O_PATH,
        _ => bail!("{word:?} is no way to open"),
    };
    Ok(flag_word(flags))
}

fn open_directory(path: &OsStr) -> Result<usize> {
    let path = c_string(path)?;
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY) as usize;
    prepare(
        "open a directory",
        call(libc::SYS_openat, &[AT_FDCWD, address(&path), flags]),
    )
}

/// `-` is the working directory.
fn directory(word: &OsStr) -> Result<usize> {
    if word == "-" {
        Ok(AT_FDCWD)
    } else {
        open_directory(word)
    }
}

fn act(words: &[OsString]) -> Result<()> {
    let (action, rest) = words.split_first().context("no action")?;
    let action = action.to_str().context("the action is not UTF-8")?;
    let word = |index: usize| {
        rest.get(index)
            .map(OsString::as_os_str)
            .with_context(|| format!("argument {index} is missing"))
    };
    let text = |index: usize| word(index).and_then(c_string);
    match action {
        "nothing" => {}
        // What happens before the act.
        "in" => {
            env::set_current_dir(word(0)?).context("cannot change the directory")?;
            act(rest.get(1..).unwrap_or_default())?;
        }
        "gated" => {
            // The tests close their end, or write, when the act may begin.
            let mut byte = [0];
            let _bytes = io::stdin().read(&mut byte).context("cannot wait for the gate")?;
            act(rest)?;
        }
        "as" => {
            let (real, effective) = (number::<usize>(word(0)?)?, number::<usize>(word(1)?)?);
            let kept = usize::MAX;
            prepare("set users", call(libc::SYS_setresuid, &[real, effective, kept]))?;
            act(rest.get(2..).unwrap_or_default())?;
        }
        "daemon" => daemon(rest)?,
        "in-thread" => {
            let words = rest.to_vec();
            thread::spawn(move || act(&words))
                .join()
                .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        }

        "calls" => script::run(rest)?,

        // Files.
        "open" => drop_result(call(libc::SYS_open, &[address(&text(0)?), how(word(1)?)?, 0o640])),
        "openat" => {
            let from = directory(word(0)?)?;
            drop_result(call(
                libc::SYS_openat,
                &[from, address(&text(1)?), how(word(2)?)?, 0o640],
            ));
        }
        "openat2" => {
            let open_how: [u64; 3] = [how(word(1)?)? as u64, if word(1)? == "create" { 0o640 } else { 0 }, 0];
            let path = text(0)?;
            let arguments = [
                AT_FDCWD,
                address(&path),
                open_how.as_ptr() as usize,
                size_of_val(&open_how),
            ];
            drop_result(call(libc::SYS_openat2, &arguments));
        }
        "creat" => drop_result(call(libc::SYS_creat, &[address(&text(0)?), 0o600])),
        "open-repeat" => open_repeat(&text(0)?, number(word(1)?)?)?,
        "open-during" => open_during(&text(0)?, Duration::from_millis(number(word(1)?)?))?,
        "open-many" => open_many(word(0)?, number(word(1)?)?, number(word(2)?)?)?,
        "open-all" => {
            for index in number::<u32>(word(1)?)?..number(word(2)?)? {
                let mut path = word(0)?.to_owned();
                path.push(format!("/{index}"));
                open_and_close(&c_string(&path)?, libc::O_RDONLY)?;
            }
        }
        "open-bound" => open_bound(rest)?,
        "open-removed" => {
            // Opens a file through its descriptor after its name has gone.
            let path = text(0)?;
            let fd = prepare("open", call(libc::SYS_open, &[address(&path), 0]))?;
            prepare("unlink", call(libc::SYS_unlink, &[address(&path)]))?;
            let again = CString::new(format!("/proc/self/fd/{fd}")).context("no NUL")?;
            drop_result(call(libc::SYS_open, &[address(&again), 0]));
        }
        "rename" => drop_result(call(libc::SYS_rename, &[address(&text(0)?), address(&text(1)?)])),
        "renameat" | "renameat2" => {
            let (from, to) = (directory(word(0)?)?, directory(word(2)?)?);
            let (old, new) = (text(1)?, text(3)?);
            if action == "renameat" {
                drop_result(call(libc::SYS_renameat, &[from, address(&old), to, address(&new)]));
            } else {
                let flags: usize = number(word(4)?)?;
                let arguments = [from, address(&old), to, address(&new), flags];
                drop_result(call(libc::SYS_renameat2, &arguments));
            }
        }
        "unlink" => drop_result(call(libc::SYS_unlink, &[address(&text(0)?)])),
        "unlinkat" => {
            let (from, name) = (directory(word(0)?)?, text(1)?);
            let arguments = [from, address(&name), number(word(2)?)?];
            drop_result(call(libc::SYS_unlinkat, &arguments));
        }
        "rmdir" => drop_result(call(libc::SYS_rmdir, &[address(&text(0)?)])),
        "chmod" => drop_result(call(libc::SYS_chmod, &[address(&text(0)?), octal(word(1)?)?])),
        "fchmod" => {
            let fd = prepare("open", call(libc::SYS_open, &[address(&text(0)?), 0]))?;
            drop_result(call(libc::SYS_fchmod, &[fd, octal(word(1)?)?]));
        }
        "fchmodat" => {
            let (from, name) = (directory(word(0)?)?, text(1)?);
            let arguments = [from, address(&name), octal(word(2)?)?];
            drop_result(call(libc::SYS_fchmodat, &arguments));
        }

        // Sockets.
        "connect" => {
            let to = SocketAddress::new(number(word(0)?)?, number(word(1)?)?);
            let socket = socket(to.family(), libc::SOCK_STREAM)?;
            drop_result(to.call(libc::SYS_connect, socket));
        }
        "connect-unix" => connect_unix(word(0)?)?,
        "accept" => accept(number(word(0)?)?, word(1)?)?,
        "dns" => dns(
            number(word(0)?)?,
            number(word(1)?)?,
            word(2)?,
            word(3)?.to_str().unwrap_or_default(),
        )?,

        // Processes.
        "exit" => drop_result(call(libc::SYS_exit_group, &[number(word(0)?)?])),
        "kill-self" => {
            let pid = usize::try_from(std::process::id())?;
            let signal: usize = number(word(0)?)?;
            drop_result(call(libc::SYS_kill, &[pid, signal]));
            bail!("still alive after signal {signal}");
        }
        "fork" => {
            let code: usize = number(word(0)?)?;
            match fork()? {
                0 => drop_result(call(libc::SYS_exit_group, &[code])),
                child => wait(child)?,
            }
        }
        "spawn" => spawn(word(0)?, word(1)?, rest.get(2..).unwrap_or_default())?,
        "exec" => exec(word(0)?, rest.get(1..).unwrap_or_default())?,
        "exec-memfd" => {
            let name = text(0)?;
            let fd = prepare("make a memfd", call(libc::SYS_memfd_create, &[address(&name), 1]))?;
            // SAFETY: the descriptor was just made and belongs to nobody else.
            let file = unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd)?) };
            let mut file = fs::File::from(file);
            let image = fs::read("/proc/self/exe").context("cannot read this program")?;
            file.write_all(&image).context("cannot fill the memfd")?;
            exec_descriptor(file, rest.get(1..).unwrap_or_default())?;
        }
        "exec-removed" => {
            fs::copy("/proc/self/exe", word(0)?).context("cannot copy this program")?;
            let file = fs::File::open(word(0)?).context("cannot open the copy")?;
            fs::remove_file(word(0)?).context("cannot remove the copy")?;
            exec_descriptor(file, rest.get(1..).unwrap_or_default())?;
        }
        _ => bail!("no such action"),
    }
    Ok(())
}

/// The tests read from the event what the call returned.
fn drop_result(_result: i64) {}

/// A call through the 32-bit entry, whose arguments have 32 bits.
#[cfg(target_arch = "x86_64")]
fn call32(number: u32, arguments: [usize; 6]) -> i64 {
    // What does not fit is cut, as the entry would.
    let arguments = arguments.map(|argument| u32::try_from(argument & 0xffff_ffff).unwrap_or_default());
    let result: u64;
    // SAFETY: every caller passes numbers, or addresses of values that live until the call returns. The entry clears the
    // registers that are named here, and rbx and rbp are put back.
    unsafe {
        std::arch::asm!(
            "push rbx",
            "push rbp",
            "mov ebx, [r12]",
            "mov ecx, [r12 + 4]",
            "mov edx, [r12 + 8]",
            "mov esi, [r12 + 12]",
            "mov edi, [r12 + 16]",
            "mov ebp, [r12 + 20]",
            "int 0x80",
            "pop rbp",
            "pop rbx",
            in("r12") arguments.as_ptr(),
            inlateout("rax") u64::from(number) => result,
            out("rcx") _,
            out("rdx") _,
            out("rsi") _,
            out("rdi") _,
            lateout("r8") _,
            lateout("r9") _,
            lateout("r10") _,
            lateout("r11") _,
        );
    }
    // Only the low half is the result. Errors are negative; addresses above 2 GiB are not.
    let low = u32::try_from(result & 0xffff_ffff).unwrap_or_default();
    match low.cast_signed() {
        error @ -4095..=-1 => i64::from(error),
        _ => i64::from(low),
    }
}

/// Stays on one processor, as the table of recent opens is per processor.
fn stay_on_one_processor() -> Result<()> {
    let mut processors = [0_u64; 16];
    let bytes = prepare(
        "ask for the processors",
        call(
            libc::SYS_sched_getaffinity,
            &[0, size_of_val(&processors), processors.as_mut_ptr() as usize],
        ),
    )?;
    let first = processors
        .iter()
        .position(|word| *word != 0)
        .context("no processor is allowed")?;
    let lowest = processors[first] & processors[first].wrapping_neg();
    processors = [0; 16];
    processors[first] = lowest;
    prepare(
        "stay on one processor",
        call(libc::SYS_sched_setaffinity, &[0, bytes, processors.as_ptr() as usize]),
    )?;
    Ok(())
}

fn open_and_close(path: &CStr, flags: i32) -> Result<()> {
    let fd = prepare("open", call(libc::SYS_open, &[address(path), flag_word(flags), 0o640]))?;
    call(libc::SYS_close, &[fd]);
    Ok(())
}

fn open_repeat(path: &CStr, times: u64) -> Result<()> {
    stay_on_one_processor()?;
    for _ in 0..times {
        open_and_close(path, libc::O_RDONLY)?;
    }
    Ok(())
}

/// Prints how often.
fn open_during(path: &CStr, time: Duration) -> Result<()> {
    stay_on_one_processor()?;
    let begun = Instant::now();
    let mut times = 0_u64;
    while begun.elapsed() < time {
        open_and_close(path, libc::O_RDONLY)?;
        times += 1;
    }
    writeln!(io::stdout(), "{times}").context("cannot print")
}

/// So many processes at once, each of which creates so many files of its own.
fn open_many(directory: &OsStr, processes: u32, each: u32) -> Result<()> {
    let mut children = Vec::new();
    for process in 0..processes {
        match fork()? {
            0 => {
                for index in 0..each {
                    let mut path = directory.as_bytes().to_vec();
                    path.extend_from_slice(format!("/{process}-{index}").as_bytes());
                    let path = CString::new(path).context("a path holds a NUL")?;
                    open_and_close(&path, libc::O_WRONLY | libc::O_CREAT)?;
                    call(libc::SYS_unlink, &[address(&path)]);
                }
                drop_result(call(libc::SYS_exit_group, &[0]));
            }
            child => children.push(child),
        }
    }
    children.into_iter().try_for_each(wait)
}

/// In a mount namespace of its own: binds one directory over another and opens a file below the second.
fn open_bound(words: &[OsString]) -> Result<()> {
    let [source, target, name] = words else {
        bail!("open-bound SOURCE TARGET NAME");
    };
    prepare(
        "leave the mount namespace",
        call(libc::SYS_unshare, &[libc::CLONE_NEWNS as usize]),
    )?;
    let (none, root) = (c"none", c"/");
    let private = usize::try_from(libc::MS_REC | libc::MS_PRIVATE)?;
    prepare(
        "make mounts private",
        call(libc::SYS_mount, &[address(none), address(root), 0, private, 0]),
    )?;
    let (source, target_text) = (c_string(source)?, c_string(target)?);
    let arguments = [
        address(&source),
        address(&target_text),
        0,
        usize::try_from(libc::MS_BIND)?,
        0,
    ];
    prepare("bind", call(libc::SYS_mount, &arguments))?;
    let mut path = target.clone();
    path.push("/");
    path.push(name);
    drop_result(call(libc::SYS_open, &[address(&c_string(&path)?), 0]));
    Ok(())
}

fn fork() -> Result<u32> {
    Ok(u32::try_from(prepare("fork", call(libc::SYS_fork, &[]))?)?)
}

fn wait(child: u32) -> Result<()> {
    let mut status = 0_i32;
    let arguments = [child as usize, &raw mut status as usize, 0, 0];
    prepare("wait", call(libc::SYS_wait4, &arguments))?;
    Ok(())
}

/// As daemons detach: a child in a session of its own, whose child acts, while both its elders end at once.
fn daemon(words: &[OsString]) -> Result<()> {
    match fork()? {
        0 => {
            call(libc::SYS_setsid, &[]);
            if fork()? == 0 {
                return act(words);
            }
            drop_result(call(libc::SYS_exit_group, &[0]));
            Ok(())
        }
        child => wait(child),
    }
}

/// Pointers to C strings, ended by null, and what they point to.
struct Strings {
    pointers: Vec<usize>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(words: impl Iterator<Item = OsString>) -> Result<Self> {
        let strings = words
            .map(|word| CString::new(word.into_vec()).context("a NUL"))
            .collect::<Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|string| address(string)).chain([0]).collect();
        Ok(Self {
            pointers,
            _strings: strings,
        })
    }

    fn of_environment() -> Result<Self> {
        Self::new(env::vars_os().map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            name
        }))
    }
}

fn exec(path: &OsStr, arguments: &[OsString]) -> Result<()> {
    let path = c_string(path)?;
    let (arguments, environment) = (Strings::new(arguments.iter().cloned())?, Strings::of_environment()?);
    let addresses = [
        address(&path),
        arguments.pointers.as_ptr() as usize,
        environment.pointers.as_ptr() as usize,
    ];
    prepare("exec", call(libc::SYS_execve, &addresses))?;
    Ok(())
}

/// What a child needs to execute a program without touching memory that it may share.
struct Program {
    path: usize,
    arguments: usize,
    environment: usize,
}

extern "C" fn execute(program: *mut libc::c_void) -> i32 {
    // SAFETY: the one caller passes a program that lives until the child has executed it.
    let program = unsafe { &*program.cast::<Program>() };
    let addresses = [program.path, program.arguments, program.environment];
    call(libc::SYS_execve, &addresses);
    call(libc::SYS_exit_group, &[98]);
    98
}

/// Makes a child in a certain way, which executes a program.
fn spawn(way: &OsStr, path: &OsStr, arguments: &[OsString]) -> Result<()> {
    let path = c_string(path)?;
    let (arguments, environment) = (Strings::new(arguments.iter().cloned())?, Strings::of_environment()?);
    let mut program = Program {
        path: address(&path),
        arguments: arguments.pointers.as_ptr() as usize,
        environment: environment.pointers.as_ptr() as usize,
    };
    let child = match way.to_str() {
        Some("vfork") => {
            let mut stack = vec![0_u8; 64 * 1024];
            let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
            // SAFETY: one past the end of the allocation.
            let top = unsafe { stack.as_mut_ptr().add(stack.len()) };
            // SAFETY: the stack is large enough, and this thread waits until the child has left it.
            let child = unsafe { libc::clone(execute, top.cast(), flags, (&raw mut program).cast()) };
            u32::try_from(child).context("cannot clone")?
        }
        Some("clone3") => {
            // `struct clone_args`: the fifth member is the signal at the end.
            let mut clone = [0_u64; 11];
            clone[4] = u64::try_from(libc::SIGCHLD)?;
            let made = call(libc::SYS_clone3, &[clone.as_ptr() as usize, size_of_val(&clone)]);
            if made == -i64::from(libc::ENOSYS) {
                return Err(Lacks("the call clone3".to_owned()).into());
            }
            let child = u32::try_from(prepare("clone", made)?)?;
            if child == 0 {
                execute((&raw mut program).cast());
            }
            child
        }
        Some("fork") => {
            let child = fork()?;
            if child == 0 {
                execute((&raw mut program).cast());
            }
            child
        }
        _ => bail!("no such way to make a child"),
    };
    wait(child)
}

/// Executes what a descriptor leads to.
fn exec_descriptor(file: fs::File, arguments: &[OsString]) -> Result<()> {
    let (arguments, environment) = (Strings::new(arguments.iter().cloned())?, Strings::of_environment()?);
    let fd = usize::try_from(file.into_raw_fd())?;
    let addresses = [
        fd,
        address(c""),
        arguments.pointers.as_ptr() as usize,
        environment.pointers.as_ptr() as usize,
        libc::AT_EMPTY_PATH as usize,
    ];
    prepare("exec", call(libc::SYS_execveat, &addresses))?;
    Ok(())
}

fn socket(family: i32, kind: i32) -> Result<usize> {
    prepare(
        "make a socket",
        call(libc::SYS_socket, &[usize::try_from(family)?, usize::try_from(kind)?, 0]),
    )
}

/// A `struct sockaddr_in` or `sockaddr_in6`, as bytes.
struct SocketAddress(Vec<u8>);

impl SocketAddress {
    fn new(ip: IpAddr, port: u16) -> Self {
        let family = match ip {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let mut bytes = u16::try_from(family).unwrap_or(0).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&port.to_be_bytes());
        match ip {
            IpAddr::V4(ip) => {
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 8]);
            }
            IpAddr::V6(ip) => {
                bytes.extend_from_slice(&[0; 4]);
                bytes.extend_from_slice(&ip.octets());
                bytes.extend_from_slice(&[0; 4]);
            }
        }
        Self(bytes)
    }

    fn family(&self) -> i32 {
        i32::from(u16::from_ne_bytes([self.0[0], self.0[1]]))
    }

    /// `connect` or `bind`.
    fn call(&self, number: c_long, socket: usize) -> i64 {
        call(number, &[socket, self.0.as_ptr() as usize, self.0.len()])
    }
}

fn connect_unix(path: &OsStr) -> Result<()> {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
    let mut bytes = u16::try_from(libc::AF_UNIX)?.to_ne_bytes().to_vec();
    match path.as_bytes() {
        // An abstract name.
        [b'@', name @ ..] => {
            bytes.push(0);
            bytes.extend_from_slice(name);
        }
        path => {
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
    }
    drop_result(call(libc::SYS_connect, &[socket, bytes.as_ptr() as usize, bytes.len()]));
    Ok(())
}

/// Listens, connects to itself and accepts; prints the ports of server and client.
fn accept(ip: IpAddr, variant: &OsStr) -> Result<()> {
    let any = SocketAddress::new(ip, 0);
    let server = socket(any.family(), libc::SOCK_STREAM)?;
    prepare("bind", any.call(libc::SYS_bind, server))?;
    prepare("listen", call(libc::SYS_listen, &[server, 1]))?;
    let client = socket(any.family(), libc::SOCK_STREAM)?;
    let server_port = port_of(server)?;
    prepare(
        "connect",
        SocketAddress::new(ip, server_port).call(libc::SYS_connect, client),
    )?;
    match variant.to_str() {
        Some("accept") => prepare("accept", call(libc::SYS_accept, &[server, 0, 0]))?,
        Some("accept4") => prepare("accept", call(libc::SYS_accept4, &[server, 0, 0, 0]))?,
        _ => bail!("no such way to accept"),
    };
    writeln!(io::stdout(), "{server_port} {}", port_of(client)?).context("cannot print")
}

fn port_of(socket: usize) -> Result<u16> {
    let mut bytes = [0_u8; 28];
    let mut len = 28_u32;
    let arguments = [socket, bytes.as_mut_ptr() as usize, &raw mut len as usize];
    prepare("ask for the name", call(libc::SYS_getsockname, &arguments))?;
    Ok(u16::from_be_bytes([bytes[2], bytes[3]]))
}

/// A question for the address of a name.
fn question(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// Sends a question, or for `sendmmsg` two, the second for `second.NAME`.
fn dns(ip: IpAddr, port: u16, name: &OsStr, variant: &str) -> Result<()> {
    let to = SocketAddress::new(ip, port);
    let socket = socket(to.family(), libc::SOCK_DGRAM)?;
    let name = name.to_str().context("the name is not UTF-8")?;
    let questions = [question(name), question(&format!("second.{name}"))];
    let buffer = questions[0].as_ptr() as usize;
    let (to_address, to_len) = (to.0.as_ptr() as usize, to.0.len());
    // `struct iovec`, then `struct mmsghdr` of a `struct msghdr` and the length that the kernel fills in.
    let vectors = questions.each_ref().map(|bytes| [bytes.as_ptr() as usize, bytes.len()]);
    let mut messages = vectors
        .each_ref()
        .map(|vector| [to_address, to_len, vector.as_ptr() as usize, 1, 0, 0, 0, 0]);
    let messages_address = messages.as_mut_ptr() as usize;
    let sent = match variant {
        "sendto" => call(
            libc::SYS_sendto,
            &[socket, buffer, questions[0].len(), 0, to_address, to_len],
        ),
        "sendmsg" => call(libc::SYS_sendmsg, &[socket, messages_address, 0]),
        "sendmmsg" => call(libc::SYS_sendmmsg, &[socket, messages_address, 2, 0]),
        "connected" => {
            prepare("connect", to.call(libc::SYS_connect, socket))?;
            call(libc::SYS_sendto, &[socket, buffer, questions[0].len(), 0, 0, 0])
        }
        _ => bail!("no such way to send"),
    };
    prepare("send", sent)?;
    drop((questions, vectors, messages));
    Ok(())
}
