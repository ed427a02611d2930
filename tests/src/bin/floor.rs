//! What a hook costs and what it loses, measured with programs that do next to nothing (`ebpf/src/floor.rs`).
//!
//! `floor hooks OBJECT` runs tasks on one processor that open files as fast as they can, and prints for each kind of hook,
//! and for the sensor itself, how many of the opens it saw. `floor hold OBJECT HOOK…` attaches an empty program to each
//! hook (`btf:sys_exit`, `perf:raw_syscalls/sys_exit`, `lsm:file_open`; `sensor` for all that the sensor hangs on here),
//! prints `ready`, and holds them until standard input ends. `floor drain OBJECT TURNS` lets the sensor's file ring run full and measures how fast it is read and decoded.
//! `floor verifier` loads what the agent loads and prints how many instructions the kernel's verifier needed for each.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{BtfTracePoint, FEntry, FExit, Lsm, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use staghound::sensor::decode::{Body, decode};
use staghound::sensor::{Attachment, Sensor, SensorConfig};
use staghound_ebpf::Loss;

const USAGE: &str = "usage: floor hooks OBJECT [OPENS] | hold OBJECT HOOK… | drain OBJECT TURNS | verifier | work open|exec TIMES DIRECTORY";

/// Whoever runs the workers: nobody else's opens are counted.
const USER: u32 = 61_803;
/// Tasks that share one processor.
const TASKS: u64 = 6;
/// Opens of each task, when not given.
const OPENS: u64 = 20_000;
/// So many opens take about as long as one fork with exec and exit, in a guest.
const OPENS_PER_EXEC: u64 = 200;
/// The processor of the workers; the reader of the rings is kept off it.
const WORKERS_CPU: usize = 0;
/// Files that each worker opens in turn: more than the sensor can tell equal opens among.
const FILES: u64 = 2048;
/// How their names begin.
const FILE_PREFIX: &str = "floor-";
/// Rounds of work in the program, for each open: none, and about as long as the sensor's own program takes.
const WORK: [u32; 2] = [0, 40];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when standard error is closed; the exit code still says it.
            drop(writeln!(io::stderr(), "floor: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["hooks", object] => hooks(Path::new(object), OPENS),
        ["hooks", object, opens] => hooks(Path::new(object), number(opens)?),
        ["hold", object, hooks @ ..] if !hooks.is_empty() => hold(Path::new(object), hooks),
        ["verifier"] => verifier(),
        // The object is what every action but `work` is given; here it is the agent's own that is loaded.
        ["drain", _, turns] => drain(number(turns)?),
        ["work", kind, times, directory] => work(Work::parse(kind)?, number(times)?, Path::new(directory)),
        _ => bail!(USAGE),
    }
}

fn number(text: &str) -> Result<u64> {
    text.parse()
        .with_context(|| format!("`{text}` is not a number; {USAGE}"))
}

fn say(line: &str) -> Result<()> {
    let mut output = io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

/// A hook, as written on the command line.
enum Hook<'a> {
    Btf(&'a str),
    Perf(&'a str, &'a str),
    Fentry(&'a str),
    Fexit(&'a str),
    Lsm(&'a str),
}

impl<'a> Hook<'a> {
    fn parse(text: &'a str) -> Result<Hook<'a>> {
        let (kind, place) = text.split_once(':').unwrap_or_default();
        Ok(match (kind, place, place.split_once('/')) {
            ("btf", place, None) => Hook::Btf(place),
            ("perf", _, Some((category, name))) => Hook::Perf(category, name),
            ("fentry", place, None) => Hook::Fentry(place),
            ("fexit", place, None) => Hook::Fexit(place),
            ("lsm", place, None) => Hook::Lsm(place),
            _ => {
                bail!("`{text}` is no hook; hooks are btf:NAME, perf:CATEGORY/NAME, fentry:NAME, fexit:NAME, lsm:NAME")
            }
        })
    }
}

/// An attached program and what it counts.
struct Attached {
    /// Keeps program and link alive.
    ebpf: Ebpf,
    program: &'static str,
}

impl Attached {
    fn attach(object: &[u8], btf: &Btf, program: &'static str, hook: &Hook<'_>, work: u32) -> Result<Attached> {
        let mut ebpf = EbpfLoader::new()
            .btf(Some(btf))
            .override_global("USER", &USER, true)
            .override_global("WORK", &work, true)
            .load(object)?;
        let loaded = ebpf
            .program_mut(program)
            .with_context(|| format!("the object has no program `{program}`"))?;
        match *hook {
            Hook::Btf(name) => {
                let program: &mut BtfTracePoint = loaded.try_into()?;
                program.load(name, btf)?;
                program.attach()?;
            }
            Hook::Perf(category, name) => {
                let program: &mut TracePoint = loaded.try_into()?;
                program.load()?;
                program.attach(category, name)?;
            }
            Hook::Fentry(name) => {
                let program: &mut FEntry = loaded.try_into()?;
                program.load(name, btf)?;
                program.attach()?;
            }
            Hook::Fexit(name) => {
                let program: &mut FExit = loaded.try_into()?;
                program.load(name, btf)?;
                program.attach()?;
            }
            Hook::Lsm(name) => {
                let program: &mut Lsm = loaded.try_into()?;
                program.load(name, btf)?;
                program.attach()?;
            }
        }
        Ok(Attached { ebpf, program })
    }

    fn events(&self) -> Result<u64> {
        let map = self.ebpf.map("EVENTS").context("the object has no map `EVENTS`")?;
        let events: PerCpuArray<&MapData, u64> = map.try_into()?;
        Ok(events.get(&0, 0)?.iter().sum())
    }

    /// How often the kernel skipped the program since it already ran on that processor.
    fn misses(&self) -> Result<u64> {
        let program = self.ebpf.program(self.program).context("the program is gone")?;
        let descriptor = program.fd()?;
        let path = format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd());
        let info = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // Kernels before 5.12 have no such line and no such guard.
        Ok(info
            .lines()
            .find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse().ok())
            .unwrap_or(0))
    }
}

fn hold(object: &Path, hooks: &[&str]) -> Result<()> {
    let object = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let btf = Btf::from_sys_fs()?;
    let of_sensor = match hooks {
        ["sensor"] => sensors_hooks()?,
        _ => Vec::new(),
    };
    let hooks = if of_sensor.is_empty() {
        hooks.to_vec()
    } else {
        of_sensor.iter().map(String::as_str).collect()
    };
    let mut attached = Vec::new();
    for text in hooks {
        let hook = Hook::parse(text)?;
        let program = match hook {
            Hook::Btf(_) => "empty_btf",
            Hook::Perf(..) => "empty_perf",
            Hook::Lsm(_) => "empty_lsm",
            Hook::Fentry(_) | Hook::Fexit(_) => bail!("there is no empty program for `{text}`"),
        };
        attached.push(
            Attached::attach(&object, &btf, program, &hook, 0).with_context(|| format!("cannot attach to {text}"))?,
        );
    }
    say("ready")?;
    io::copy(&mut io::stdin(), &mut io::sink()).context("cannot wait for the end of standard input")?;
    drop(attached);
    Ok(())
}

/// Where the sensor hangs on this kernel, each hook once; found out by starting it for a moment.
fn sensors_hooks() -> Result<Vec<String>> {
    let sensor = Sensor::start(&SensorConfig::default())?;
    let mut hooks: Vec<String> = Vec::new();
    for outcome in sensor.outcomes() {
        if outcome.attachment != Attachment::Attached {
            continue;
        }
        let kind = match outcome.program {
            // Named by their attribute in the object.
            program if program.starts_with("lsm_") || program.starts_with("guard_") => "lsm",
            _ if outcome.hook.contains('/') => "perf",
            _ => "btf",
        };
        let hook = format!("{kind}:{}", outcome.hook);
        // Those that are tail-called have the hook of the one that calls them.
        if !hooks.contains(&hook) {
            hooks.push(hook);
        }
    }
    ensure!(!hooks.is_empty(), "the sensor hangs nowhere");
    Ok(hooks)
}

/// What one hook saw.
struct Row {
    hook: &'static str,
    work: String,
    seen: u64,
    counted: u64,
    misses: u64,
    seconds: f64,
}

fn hooks(object: &Path, opens: u64) -> Result<()> {
    let object = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let btf = Btf::from_sys_fs()?;
    pin_to(WORKERS_CPU + 1)?;
    say(&format!(
        "kernel {}, preemption {}; {TASKS} tasks on one processor, {opens} opens each; {} opens in all",
        fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
        preemption(),
        TASKS * opens
    ))?;
    say(&format!(
        "{:<34} {:>6} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "hook", "work", "seen", "counted", "unseen", "misses", "unseen %", "seconds"
    ))?;
    let mut had = 0;
    for (hook, program) in [
        ("btf:sys_exit", "count_btf"),
        ("perf:raw_syscalls/sys_exit", "count_perf"),
        ("perf:syscalls/sys_exit_openat", "count_openat"),
        ("fentry:do_sys_openat2", "count_fentry"),
        ("fexit:do_sys_openat2", "count_fexit"),
        ("lsm:file_open", "count_lsm"),
    ] {
        had += deliver(&object, &btf, hook, program, Work::Open, opens)?;
    }
    sensor(Work::Open, opens)?.print(TASKS * opens)?;

    let execs = opens / OPENS_PER_EXEC;
    say(&format!(
        "{TASKS} tasks on one processor, {execs} times fork, exec and exit each; {} in all",
        TASKS * execs
    ))?;
    for (hook, program) in [
        ("btf:sched_process_fork", "count_any_btf"),
        ("perf:sched/sched_process_fork", "count_any_perf"),
        ("btf:sched_process_exec", "count_any_btf"),
        ("perf:sched/sched_process_exec", "count_any_perf"),
        ("btf:sched_process_exit", "count_any_btf"),
        ("perf:sched/sched_process_exit", "count_any_perf"),
    ] {
        had += deliver(&object, &btf, hook, program, Work::Exec, execs)?;
    }
    sensor(Work::Exec, execs)?.print(TASKS * execs)?;
    ensure!(had > 0, "no hook could be measured");
    Ok(())
}

/// Measures one hook, with each amount of work; yields how often it could be had.
fn deliver(
    object: &[u8],
    btf: &Btf,
    hook: &'static str,
    program: &'static str,
    kind: Work,
    times: u64,
) -> Result<usize> {
    let mut had = 0;
    for work in WORK {
        match Attached::attach(object, btf, program, &Hook::parse(hook)?, work) {
            Ok(attached) => {
                let seconds = storm(kind, times, || Ok(()))?;
                let row = Row {
                    hook,
                    work: work.to_string(),
                    seen: attached.events()?,
                    counted: 0,
                    misses: attached.misses()?,
                    seconds,
                };
                // The workers end too.
                let own = if hook.ends_with("sched_process_exit") { TASKS } else { 0 };
                row.print(TASKS * times + own)?;
                had += 1;
            }
            Err(error) => say(&format!("{hook:<34} {work:>6} not had here: {error:#}"))?,
        }
    }
    Ok(had)
}

impl Row {
    fn print(&self, total: u64) -> Result<()> {
        let unseen = total.saturating_sub(self.seen + self.counted);
        let share = 100.0 * lossless(unseen) / lossless(total);
        say(&format!(
            "{:<34} {:>6} {:>9} {:>9} {:>9} {:>9} {:>8.2} {:>8.1}",
            self.hook, self.work, self.seen, self.counted, unseen, self.misses, share, self.seconds
        ))
    }
}

/// For shares of counts, which are small.
fn lossless(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The same with everything the agent loads; `seen` are its records, `counted` what it knows to have left out.
fn sensor(kind: Work, times: u64) -> Result<Row> {
    let config = SensorConfig {
        scoped: true,
        ..SensorConfig::default()
    };
    let mut sensor = Sensor::start(&config)?;
    for outcome in sensor.outcomes() {
        say(&format!("  {outcome}"))?;
    }
    sensor.watch(std::process::id())?;
    let mut seen = 0;
    let mut drain = || {
        sensor.drain(usize::MAX, |bytes| {
            let Ok(record) = decode(bytes) else { return };
            let is_ours = match (kind, record.body) {
                (Work::Open, Body::Open(open)) => record.bytes(open.path).starts_with(FILE_PREFIX.as_bytes()),
                (Work::Exec, Body::Exec(_)) => record.header.uid == USER,
                _ => false,
            };
            seen += u64::from(is_ours);
        })
    };
    let seconds = storm(kind, times, || {
        drain();
        Ok(())
    })?;
    while drain() > 0 {}
    let losses = sensor.losses()?;
    for loss in Loss::ALL.into_iter().filter(|&loss| losses.of(loss) > 0) {
        say(&format!("  {} {}", loss.name(), losses.of(loss)))?;
    }
    let counted = [
        Loss::Deduplicated,
        Loss::FileRingFull,
        Loss::DescriptorGone,
        Loss::ReadFailed,
    ]
    .into_iter()
    .map(|loss| losses.of(loss))
    .sum();
    Ok(Row {
        hook: "the sensor",
        work: "own".to_owned(),
        seen,
        counted,
        misses: losses.recursion_misses.iter().map(|(_, misses)| misses).sum(),
        seconds,
    })
}

fn verifier() -> Result<()> {
    let sensor = Sensor::start(&SensorConfig::default())?;
    for outcome in sensor.outcomes() {
        if outcome.attachment != Attachment::Attached {
            say(&format!("{outcome}"))?;
            continue;
        }
        // Kernels before 5.16 do not tell.
        let count = outcome
            .verified_instructions
            .map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        say(&format!("verifier: {} on {} {count}", outcome.program, outcome.hook))?;
    }
    Ok(())
}

/// More opens than fit into the file ring.
const OPENS_TO_FILL: u64 = 20_000;

/// Reads and decodes a ring that others have filled; everything they do is over before it is read, so that nothing but
/// reading is measured.
fn drain(turns: u64) -> Result<()> {
    let config = SensorConfig {
        scoped: true,
        ..SensorConfig::default()
    };
    let mut sensor = Sensor::start(&config)?;
    sensor.watch(std::process::id())?;
    let mut rates = Vec::new();
    for _ in 0..turns {
        storm(Work::Open, OPENS_TO_FILL, || Ok(()))?;
        let mut bytes = 0;
        let mut undecoded = 0;
        let begun = Instant::now();
        let records = sensor.drain(usize::MAX, |record| {
            bytes += record.len();
            undecoded += u64::from(decode(record).is_err());
        });
        let seconds = begun.elapsed().as_secs_f64();
        ensure!(undecoded == 0, "{undecoded} of {records} records could not be decoded");
        let records = u64::try_from(records).context("too many records")?;
        ensure!(
            records > 1000,
            "the ring held {records} records; they are too few to measure with"
        );
        rates.push((lossless(records) / seconds, records, bytes));
    }
    rates.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (rate, records, bytes) = rates[rates.len() / 2];
    say(&format!(
        "drained and decoded {:.2} M events/s on one processor (median of {turns} full rings of {records} records, {} KiB; least {:.2} M)",
        rate / 1e6,
        bytes >> 10,
        rates[0].0 / 1e6
    ))
}

/// Runs the workers to their end; yields how many seconds that took. `meanwhile` is called over and over.
fn storm(kind: Work, times: u64, mut meanwhile: impl FnMut() -> Result<()>) -> Result<f64> {
    let files = Files::create()?;
    let mut workers = Workers(Vec::new());
    for _ in 0..TASKS {
        let mut worker = Command::new(std::env::current_exe().context("cannot find this program")?)
            .args(["work", kind.name(), &times.to_string()])
            .arg(&files.0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a worker")?;
        let output = worker.stdout.take().context("the worker has no output")?;
        workers.0.push(worker);
        BufReader::new(output)
            .read_line(&mut String::new())
            .context("a worker did not get ready")?;
    }
    let begun = Instant::now();
    for worker in &mut workers.0 {
        // Its end starts the worker.
        drop(worker.stdin.take());
    }
    let mut left = workers.0.len();
    while left > 0 {
        meanwhile()?;
        left = 0;
        for worker in &mut workers.0 {
            match worker.try_wait().context("cannot wait for a worker")? {
                Some(status) => ensure!(status.success(), "a worker failed ({status})"),
                None => left += 1,
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(begun.elapsed().as_secs_f64())
}

/// Killed when they are let go of, should one of them or we fail.
struct Workers(Vec<Child>);

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            // One that has ended cannot be killed, and needs not.
            drop(worker.kill());
            drop(worker.wait());
        }
    }
}

/// The files that the workers open; removed in the end.
struct Files(PathBuf);

impl Files {
    fn create() -> Result<Files> {
        let directory = std::env::temp_dir().join(format!("floor.{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let files = Files(directory);
        for number in 0..FILES {
            let path = files.0.join(format!("{FILE_PREFIX}{number}"));
            fs::write(&path, b"").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(files)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What is left in a directory of temporary files does no harm.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// What a worker does.
#[derive(Clone, Copy)]
enum Work {
    /// Open and close, and nothing else.
    Open,
    /// Fork, exec, exit.
    Exec,
}

impl Work {
    fn parse(text: &str) -> Result<Work> {
        match text {
            "open" => Ok(Work::Open),
            "exec" => Ok(Work::Exec),
            _ => bail!("`{text}` is no work; {USAGE}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Work::Open => "open",
            Work::Exec => "exec",
        }
    }
}

/// One worker.
fn work(kind: Work, times: u64, directory: &Path) -> Result<()> {
    pin_to(WORKERS_CPU)?;
    let mut paths = Vec::new();
    for number in 0..FILES {
        let path = directory.join(format!("{FILE_PREFIX}{number}"));
        paths.push(CString::new(path.into_os_string().into_vec()).context("path has a NUL byte")?);
    }
    say("ready")?;
    io::stdin()
        .read_to_end(&mut Vec::new())
        .context("cannot wait for the start")?;
    // SAFETY: takes numbers only.
    let status = unsafe { libc::setresuid(USER, USER, USER) };
    ensure!(status == 0, "cannot become user {USER}: {}", io::Error::last_os_error());
    match kind {
        Work::Open => {
            let mut paths = paths.iter().cycle();
            for _ in 0..times {
                open(paths.next().context("there are no files")?)?;
            }
        }
        Work::Exec => {
            for _ in 0..times {
                exec()?;
            }
        }
    }
    Ok(())
}

fn open(path: &CStr) -> Result<()> {
    // SAFETY: `path` is NUL-terminated and lives.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    ensure!(fd >= 0, "cannot open {path:?}: {}", io::Error::last_os_error());
    // SAFETY: `fd` was just opened and is not used after this.
    unsafe { libc::close(fd) };
    Ok(())
}

/// On every system, in the guest as well, and small: starting it takes little but the exec.
const EXECUTED: &CStr = c"/bin/true";

fn exec() -> Result<()> {
    let arguments = [EXECUTED.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: this process has one thread, and the child makes system calls only.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: the path and both arrays are NUL-terminated and live.
        unsafe { libc::execve(EXECUTED.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        // SAFETY: ends the child at once; no destructor may run in it.
        unsafe { libc::_exit(127) };
    }
    ensure!(pid > 0, "fork: {}", io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: `status` is a valid place for the wait status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    ensure!(waited == pid, "waitpid: {}", io::Error::last_os_error());
    ensure!(status == 0, "{EXECUTED:?} ended with wait status {status}");
    Ok(())
}

fn pin_to(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is valid, and empty.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is far below the size of the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the pointer and the size describe `set`.
    let status = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    ensure!(
        status == 0,
        "cannot run on processor {cpu} alone: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// As the kernel tells it, the model in force in parentheses.
fn preemption() -> String {
    match fs::read_to_string("/sys/kernel/debug/sched/preempt") {
        Ok(models) => models.trim().to_owned(),
        Err(error) => format!("unknown ({error})"),
    }
}
