//! What is run, and what it cost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Every open of the storm is of this file: on every system, readable by all, and no secret.
const OPENED_FILE: &str = "/etc/hostname";

const PROJECT_FILES: usize = 40;
const PROJECT_FUNCTIONS_PER_FILE: usize = 60;

/// One workload: programs that run at the same time.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    /// Runs before each measurement and is not measured.
    prepare: Option<Invocation>,
    work: Vec<Invocation>,
}

/// The most that the median ratio of the time may be.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// With the agent over without.
    Ratio(f64),
    /// With the agent over with empty programs on the same hooks.
    OverFloor(f64),
}

struct Invocation {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Invocation {
    fn new(program: &Path, arguments: &[&str]) -> Invocation {
        Invocation {
            program: program.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        }
    }

    fn spawn(&self) -> Result<Child> {
        Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))
    }
}

/// What one run of a workload took.
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// User and system time of its processes and all they waited for.
    pub(crate) cpu: Duration,
}

impl Workload {
    pub(crate) fn exec(load: &Path, times: u64) -> Workload {
        let work = vec![Invocation::new(load, &["exec", &times.to_string()])];
        Workload {
            name: "exec storm",
            target: Target::Ratio(1.05),
            prepare: None,
            work,
        }
    }

    /// Two at a time, so that both processors of a small machine are busy.
    pub(crate) fn open(load: &Path, times: u64) -> Workload {
        let times = times.to_string();
        let arguments = ["open", &times, OPENED_FILE];
        let work = vec![Invocation::new(load, &arguments), Invocation::new(load, &arguments)];
        Workload {
            name: "open storm, 2 processes",
            target: Target::Ratio(1.35),
            prepare: None,
            work,
        }
    }

    /// Programs that are run from memory, each with a tag.
    pub(crate) fn memfd(load: &Path, times: u64, tag: &str) -> Workload {
        Workload {
            name: "executions from memory",
            target: Target::Ratio(1.05),
            prepare: None,
            work: vec![Invocation::new(load, &["memfd", &times.to_string(), tag])],
        }
    }

    /// The same over another file.
    pub(crate) fn open_file(load: &Path, times: u64, file: &Path) -> Result<Workload> {
        let file = file.to_str().context("the path of the file is not UTF-8")?;
        let mut workload = Workload::open(load, times);
        for invocation in &mut workload.work {
            invocation.arguments[2] = file.to_owned();
        }
        Ok(workload)
    }

    pub(crate) fn tcp(load: &Path, times: u64) -> Workload {
        let work = vec![Invocation::new(load, &["tcp", &times.to_string()])];
        Workload {
            name: "TCP storm",
            target: Target::Ratio(1.10),
            prepare: None,
            work,
        }
    }

    /// A call that nobody wants: what is left of the agent is the hook.
    pub(crate) fn getppid(load: &Path, times: u64) -> Workload {
        Workload {
            name: "getppid loop",
            target: Target::OverFloor(1.0),
            prepare: None,
            work: vec![Invocation::new(load, &["getppid", &times.to_string()])],
        }
    }

    /// Calls that make files busy but touch no path.
    pub(crate) fn read_write(load: &Path, times: u64) -> Workload {
        Workload {
            name: "read/write loop",
            target: Target::OverFloor(1.05),
            prepare: None,
            work: vec![Invocation::new(load, &["rw", &times.to_string()])],
        }
    }

    /// A tree of files is written here first. What is sought is in none of them.
    pub(crate) fn grep(load: &Path, directory: &Path, files: u64) -> Result<Workload> {
        let directory = directory.to_str().context("the path of the files is not UTF-8")?;
        if Path::new(directory).exists() {
            fs::remove_dir_all(directory).with_context(|| format!("cannot empty {directory}"))?;
        }
        wait(&Invocation::new(load, &["files", &files.to_string(), directory]).spawn()?)
            .with_context(|| format!("cannot write files to {directory}"))?;
        Ok(Workload {
            name: "grep -r over the tree, 5 ×",
            target: Target::Ratio(1.15),
            prepare: None,
            // It ends with 1 when it finds nothing, as it must here.
            work: vec![Invocation::new(
                Path::new("sh"),
                &[
                    "-c",
                    "for turn in 1 2 3 4 5; do grep -r needle-in-the-hay \"$0\"; test $? = 1 || exit 2; done",
                    directory,
                ],
            )],
        })
    }

    /// A C project that is written here first.
    pub(crate) fn build(directory: &Path) -> Result<Workload> {
        write_project(directory).with_context(|| format!("cannot write {}", directory.display()))?;
        let directory = directory.to_str().context("the path of the project is not UTF-8")?;
        let make = Path::new("make");
        Ok(Workload {
            name: "C build, make -j2",
            target: Target::Ratio(1.02),
            prepare: Some(Invocation::new(make, &["--silent", "--directory", directory, "clean"])),
            work: vec![Invocation::new(
                make,
                &["--silent", "--directory", directory, "--jobs=2"],
            )],
        })
    }

    /// Starts it and returns at once.
    pub(crate) fn start(&self) -> Result<Running> {
        let mut running = Running(Vec::new());
        for invocation in &self.work {
            running.0.push(invocation.spawn()?);
        }
        Ok(running)
    }

    pub(crate) fn run(&self) -> Result<Cost> {
        if let Some(prepare) = &self.prepare {
            wait(&prepare.spawn()?).context("cannot prepare the workload")?;
        }
        let begun = Instant::now();
        let children = self
            .work
            .iter()
            .map(Invocation::spawn)
            .collect::<Result<Vec<Child>>>()?;
        let mut cpu = Duration::ZERO;
        for child in &children {
            cpu += wait(child).with_context(|| format!("the workload `{}` failed", self.name))?;
        }
        Ok(Cost {
            wall: begun.elapsed(),
            cpu,
        })
    }
}

/// A workload that was started. Killed when it is let go of.
pub(crate) struct Running(Vec<Child>);

impl Running {
    /// Until its end.
    pub(crate) fn wait(mut self) -> Result<()> {
        for child in &mut self.0 {
            let status = child.wait().context("cannot wait for the workload")?;
            ensure!(status.success(), "the workload failed ({status})");
        }
        Ok(())
    }

    /// Ends it now.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended cannot be killed, and needs not.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Waits for the child and returns its processor time; std's own `wait` does not tell that.
fn wait(child: &Child) -> Result<Duration> {
    let pid = libc::pid_t::try_from(child.id()).context("pid does not fit")?;
    let mut status = 0;
    // SAFETY: an all-zero `rusage` is valid: it is made of integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid places for what the call writes.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    ensure!(waited == pid, "wait4: {}", io::Error::last_os_error());
    ensure!(status == 0, "it ended with wait status {status:#x}");
    Ok(duration(usage.ru_utime)? + duration(usage.ru_stime)?)
}

fn duration(time: libc::timeval) -> Result<Duration> {
    let seconds = u64::try_from(time.tv_sec).context("negative time")?;
    let micros = u64::try_from(time.tv_usec).context("negative time")?;
    Ok(Duration::from_secs(seconds) + Duration::from_micros(micros))
}

/// Forty files of plain arithmetic, a header that all include, and a makefile: many short processes that read and
/// write many files, as builds do.
fn write_project(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut header = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    let mut main = String::from("#include \"all.h\"\nint main(void) {\n    long sum = 0;\n");
    for file in 0..PROJECT_FILES {
        header.push_str(&format!("long part_{file}(long x);\n"));
        main.push_str(&format!("    sum += part_{file}(sum);\n"));
        let mut source = String::from("#include \"all.h\"\n");
        for function in 0..PROJECT_FUNCTIONS_PER_FILE {
            source.push_str(&format!(
                "static long step_{function}(long x) {{\n    for (long i = 0; i < {function} + 3; i++) x = x * {file}1 + i % 7;\n    return x;\n}}\n"
            ));
        }
        source.push_str(&format!("long part_{file}(long x) {{\n"));
        for function in 0..PROJECT_FUNCTIONS_PER_FILE {
            source.push_str(&format!("    x ^= step_{function}(x);\n"));
        }
        source.push_str("    return x;\n}\n");
        fs::write(directory.join(format!("part_{file}.c")), source)?;
    }
    main.push_str("    printf(\"%ld\\n\", sum);\n    return 0;\n}\n");
    fs::write(directory.join("all.h"), header)?;
    fs::write(directory.join("main.c"), main)?;
    fs::write(
        directory.join("Makefile"),
        "SOURCES := $(wildcard *.c)\n\
         OBJECTS := $(SOURCES:.c=.o)\n\
         project: $(OBJECTS)\n\
         \tgcc -o $@ $^\n\
         %.o: %.c all.h\n\
         \tgcc -O1 -c -o $@ $<\n\
         clean:\n\
         \trm -f $(OBJECTS) project\n\
         .PHONY: clean\n",
    )?;
    Ok(())
}
