//! Boots a guest with another kernel and runs the live tests in it.
//!
//! The guest is an initramfs and nothing else: no disk, no network, no modules. So every program in it is linked
//! statically. That is glibc's static form of the very target the host uses: it needs no other toolchain and no other C
//! library than the one gcc brings, and what runs in the guest differs from the product in nothing but the link.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::command::{cargo, find, output, print, program, run_lines, tell};
use crate::stage::Tests;
use crate::verifier::Record;
use crate::{binaries, setup, workspace};

pub(crate) use kernel::Kernel;

pub(crate) mod kernel;

mod initramfs;

mod guest;

use guest::End;
use initramfs::Archive;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A guest takes eight minutes on an idle machine and twenty on a busy one.
const TIMEOUT_MIN: u64 = 45;

/// Test programs that act with the programs of a whole system, of which a guest has none.
const NOT_IN_GUESTS: [&str; 2] = ["scenarios-", "report-"];

/// Where things are in the guest.
const GUEST_BINARIES: &str = "tests/bin";

#[derive(Args)]
pub(crate) struct Options {
    /// Which kernel
    #[arg(long, value_enum, default_value_t = Kernel::V6_1)]
    kernel: Kernel,
    /// Every kernel, one after another
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// With or without `bpf` among the kernel's security modules; with, and for --all both, when not given
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// Run no tests, but write down how many instructions each kernel's verifier needed, in tests/verifier
    #[arg(long, conflicts_with_all = ["program", "filter", "with"])]
    record: bool,
    /// Only test programs whose name contains this
    #[arg(long)]
    program: Option<String>,
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Fetch the kernel again, for a newer package
    #[arg(long)]
    refresh: bool,
    /// Minutes until the guest is killed
    #[arg(long, default_value_t = TIMEOUT_MIN, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout_min: u64,
    /// Run this test program (linked statically) instead of building the live tests; for work on the guest itself
    #[arg(long, requires = "init")]
    with: Vec<PathBuf>,
    /// First process of the guest, when `--with` is given
    #[arg(long, requires = "with")]
    init: Option<PathBuf>,
    /// These guests, and not those that kernel and backend name.
    #[arg(skip)]
    chosen: Vec<Guest>,
}

impl Options {
    /// What `cargo xtask test` runs: one guest with programs on LSM hooks, and in full another that is as different as can
    /// be. `cargo xtask vm --all` runs the rest.
    pub(crate) fn of_test(full: bool) -> Options {
        let oldest_common = Guest {
            kernel: Kernel::V6_1,
            backend: Backend::Lsm,
        };
        let newest = Guest {
            kernel: Kernel::Newest,
            backend: Backend::Tracepoint,
        };
        Options {
            kernel: Kernel::V6_1,
            all: false,
            backend: None,
            record: false,
            program: None,
            filter: None,
            refresh: false,
            timeout_min: TIMEOUT_MIN,
            with: Vec::new(),
            init: None,
            chosen: if full {
                vec![oldest_common, newest]
            } else {
                vec![oldest_common]
            },
        }
    }

    pub(crate) fn record(&self) -> bool {
        self.record
    }

    /// Whether all tests run, and with them what counts the verifier's instructions.
    fn is_everything(&self) -> bool {
        self.program.is_none() && self.filter.is_none() && self.init.is_none()
    }

    pub(crate) fn guests(&self) -> Vec<Guest> {
        if !self.chosen.is_empty() {
            return self.chosen.clone();
        }
        let kernels = if self.all {
            Kernel::ALL.as_slice()
        } else {
            &[self.kernel]
        };
        let backends = match self.backend {
            Some(backend) => vec![backend],
            None if self.all => vec![Backend::Lsm, Backend::Tracepoint],
            None => vec![Backend::Lsm],
        };
        let guests = kernels.iter().flat_map(|&kernel| {
            let guest = move |&backend: &Backend| Guest { kernel, backend };
            backends.iter().map(guest).collect::<Vec<_>>()
        });
        guests.collect()
    }
}

/// By which hooks the sensor sees files: the kernel's command line decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Backend {
    /// `bpf` is among the security modules
    Lsm,
    /// It is not: tracepoints must do
    Tracepoint,
}

impl Backend {
    /// Debian leaves `bpf` out; the other modules are its own.
    fn kernel_argument(self) -> &'static str {
        match self {
            Backend::Lsm => "lsm=landlock,lockdown,yama,integrity,apparmor,bpf",
            Backend::Tracepoint => "lsm=landlock,lockdown,yama,integrity,apparmor",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Backend::Lsm => "lsm",
            Backend::Tracepoint => "tracepoint",
        })
    }
}

/// One kernel with one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Guest {
    kernel: Kernel,
    backend: Backend,
}

impl fmt::Display for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kernel, self.backend)
    }
}

/// What became of each guest, for the table.
#[derive(Default)]
pub(crate) struct Summary(Vec<(Guest, Option<End>)>);

impl Summary {
    /// One line for each guest; nothing when there were none.
    pub(crate) fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        print(&format!(
            "\n{:<8} {:<24} {:<11} {:>7} {:>7} {:>12} {:>14}",
            "kernel", "version", "backend", "passed", "failed", "kernel lacks", "most verified"
        ));
        for (guest, end) in &self.0 {
            let (kernel, backend) = (guest.kernel.to_string(), guest.backend);
            match end {
                Some(end) => print(&format!(
                    "{kernel:<8} {:<24} {backend:<11} {:>7} {:>7} {:>12} {:>14}",
                    end.version,
                    end.passed,
                    end.failed,
                    end.lacks,
                    end.verified.most()
                )),
                None => print(&format!(
                    "{kernel:<8} {:<24} {backend:<11} did not come to its end",
                    "?"
                )),
            }
        }
    }
}

/// Programs that were linked for the guest.
struct Programs {
    init: PathBuf,
    /// Those that tests start: agent, collector, actor, load. Named in the guest as here.
    helpers: Vec<PathBuf>,
    /// Those that are tests.
    tests: Vec<PathBuf>,
}

/// Builds what the guests run, once for all of them, and packs it; yields the packed file.
pub(crate) fn prepare(options: &Options) -> Result<PathBuf> {
    setup::tools(&setup::VM_TOOLS)?;
    let programs = match &options.init {
        Some(init) => Programs {
            init: init.clone(),
            helpers: Vec::new(),
            tests: options.with.clone(),
        },
        None => build_programs()?,
    };
    let initramfs = directory().join("initramfs.cpio");
    pack(&Content::of_tests(&programs, options)?, &initramfs)?;
    Ok(initramfs)
}

/// Runs the live tests under one kernel.
pub(crate) fn run(
    guest: Guest,
    initramfs: &Path,
    options: &Options,
    tests: &mut Tests,
    summary: &mut Summary,
) -> Result<()> {
    summary.0.push((guest, None));
    let kernel_image = kernel::fetch(guest.kernel, options.refresh)?;
    let timeout = Duration::from_secs(options.timeout_min * 60);
    let arguments = format!("{} {}", guest::ARGUMENTS, guest.backend.kernel_argument());
    let end = guest::boot(&kernel_image, initramfs, &arguments, timeout)?;
    tests.passed += end.passed;
    tests.failed += end.failed;
    let (passed, failed, failed_programs, programs) = (end.passed, end.failed, end.failed_programs, end.programs);
    let recorded = if options.is_everything() {
        let record = Record::of(&format!("{}-{}", guest.kernel, guest.backend));
        if options.record {
            record.write(&end.version, &end.verified)
        } else {
            record.compare(&end.verified)
        }
    } else {
        Ok(())
    };
    if let Some((_, place)) = summary.0.last_mut() {
        *place = Some(end);
    }
    if failed > 0 || failed_programs > 0 {
        bail!(
            "{failed} tests failed in {failed_programs} of {programs} programs; the guest's console above names them"
        );
    }
    ensure!(passed > 0, "no test ran in the guest");
    recorded
}

/// Runs one tool (a program of package `staghound-tests` that is no test) in a guest, once for each string of more kernel
/// arguments, with the floor programs' object as its second argument.
pub(crate) fn run_tool(kernel: Kernel, tool: &str, arguments: &[&str], kernel_arguments: &[&str]) -> Result<()> {
    setup::tools(&setup::VM_TOOLS)?;
    setup::build_tools()?;
    let kernel_image = kernel::fetch(kernel, false)?;
    let mut built = Vec::new();
    let mut object = None;
    build(&["build", "--bins", "--package", "staghound-tests"], |line| {
        built.extend(executable(line, Built::Program));
        object = object.take().or_else(|| binaries::floor_object(line));
    })?;
    let find = |wanted: &str| {
        built
            .iter()
            .find(|path| path.file_name() == Some(wanted.as_ref()))
            .cloned()
            .with_context(|| format!("cargo built no `{wanted}`"))
    };
    let content = Content {
        init: find("vm-init")?,
        executables: vec![find(tool)?],
        files: vec![(
            "tests/floor.o".to_owned(),
            object.context("the agent's build script made no object of floor programs")?,
        )],
        list: format!(
            "tool /{GUEST_BINARIES}/{tool} {} /tests/floor.o {}\n",
            arguments.first().copied().unwrap_or_default(),
            arguments.get(1..).unwrap_or_default().join(" ")
        ),
        environment: String::new(),
    };
    let initramfs = directory().join(format!("initramfs-{tool}.cpio"));
    pack(&content, &initramfs)?;
    for more in kernel_arguments {
        let all = format!("{} {} {more}", guest::ARGUMENTS, Backend::Lsm.kernel_argument());
        tell(&format!("kernel {kernel} with `{more}`"));
        let end = guest::boot(&kernel_image, &initramfs, &all, TOOL_TIMEOUT)?;
        ensure!(
            end.failed_programs == 0,
            "`{tool}` failed in the guest; its console above tells why"
        );
    }
    Ok(())
}

/// Longest that a tool may take in a guest.
const TOOL_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Where guests are put together.
fn directory() -> PathBuf {
    workspace::target().join("vm")
}

fn build_programs() -> Result<Programs> {
    setup::build_tools()?;
    let mut helpers = Vec::new();
    let mut init = None;
    let packages = [
        "--package",
        "staghound",
        "--package",
        "staghound-collector",
        "--package",
        "staghound-tests",
    ];
    for executable in executables(&[&["build", "--bins"], packages.as_slice()].concat(), Built::Program)? {
        if executable.file_name() == Some("vm-init".as_ref()) {
            init = Some(executable);
        } else {
            helpers.push(executable);
        }
    }
    let tests = executables(
        &["test", "--no-run", "--tests", "--package", "staghound-tests"],
        Built::Test,
    )?;
    ensure!(!tests.is_empty(), "package staghound-tests has no test programs");
    Ok(Programs {
        init: init.context("cargo built no `vm-init`")?,
        helpers,
        tests,
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Built {
    Program,
    Test,
}

/// Builds for the guest and returns the executables cargo reports.
fn executables(arguments: &[&str], wanted: Built) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    build(arguments, |line| found.extend(executable(line, wanted)))?;
    Ok(found)
}

/// Builds for the guest and hands each of cargo's messages to `each`.
fn build(arguments: &[&str], each: impl FnMut(&str)) -> Result<()> {
    let mut command = cargo(arguments);
    command
        .args(["--target", TARGET, "--message-format", "json-render-diagnostics"])
        // For this target only: the kernel object and build scripts must not be linked like this.
        .env(
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "-C target-feature=+crt-static",
        )
        // The guest is emulated: a little optimisation at compile time saves minutes there. Debug information would
        // only make the initramfs ten times as large.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols");
    let succeeded = run_lines(&mut command, each)?;
    ensure!(succeeded, "cannot build for the guest; cargo's messages are above");
    Ok(())
}

/// The path in one of cargo's messages, if it is about an executable of the wanted sort.
fn executable(line: &str, wanted: Built) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = PathBuf::from(message.get("executable")?.as_str()?);
    let is_test = message.pointer("/profile/test")?.as_bool()?;
    (is_test == (wanted == Built::Test)).then_some(path)
}

/// What a guest holds besides what every guest does.
struct Content {
    init: PathBuf,
    /// Below [`GUEST_BINARIES`], named as here.
    executables: Vec<PathBuf>,
    /// Where they are in the guest, and here.
    files: Vec<(String, PathBuf)>,
    /// What `vm-init` runs.
    list: String,
    /// What it runs it with.
    environment: String,
}

impl Content {
    fn of_tests(programs: &Programs, options: &Options) -> Result<Content> {
        let mut executables = programs.helpers.clone();
        let mut list = String::new();
        if options.is_everything() {
            list.push_str(&format!("tool /{GUEST_BINARIES}/floor verifier\n"));
        }
        let tests = if options.record { &[] } else { programs.tests.as_slice() };
        for test in tests {
            let name = name(test)?;
            if NOT_IN_GUESTS.iter().any(|other| name.starts_with(other)) {
                continue;
            }
            if options
                .program
                .as_ref()
                .is_some_and(|wanted| !name.contains(wanted.as_str()))
            {
                continue;
            }
            executables.push(test.clone());
            list.push_str(&format!(
                "/{GUEST_BINARIES}/{name} {}\n",
                options.filter.as_deref().unwrap_or_default()
            ));
        }
        ensure!(
            !list.is_empty(),
            "no test program has a name that contains the one given with --program"
        );
        Ok(Content {
            init: programs.init.clone(),
            executables,
            files: Vec::new(),
            list,
            environment: format!(
                "STAGHOUND_BIN=/{GUEST_BINARIES}/staghound\n\
                 STAGHOUND_COLLECTOR_BIN=/{GUEST_BINARIES}/staghound-collector\n\
                 STAGHOUND_ACTOR_BIN=/{GUEST_BINARIES}/actor\n\
                 STAGHOUND_VM=1\n\
                 STAGHOUND_VM_PROGRAM_TIMEOUT_S={}\n",
                // What hangs is named by the guest before the host kills it.
                options.timeout_min * 60 * 2 / 3
            ),
        })
    }
}

/// Writes the guest's only file system.
fn pack(content: &Content, path: &Path) -> Result<()> {
    let mut archive = Archive::create(path)?;
    for directory in [
        "bin",
        "dev",
        "etc",
        "home",
        "proc",
        "root",
        "run",
        "sbin",
        "sys",
        "tests",
        GUEST_BINARIES,
        "tmp",
        "usr",
        "usr/bin",
        "usr/sbin",
        "var",
        "var/lib",
        "var/log",
        "var/tmp",
    ] {
        archive.directory(directory, 0o755)?;
    }
    // The first process writes to it before it can mount anything.
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.character_device("dev/null", 0o666, 1, 3)?;

    archive.text(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    archive.text("etc/group", 0o644, "root:x:0:\nnogroup:x:65534:\n")?;
    // No password can have these hashes: there is nothing to protect in the guest, only something to read.
    archive.text(
        "etc/shadow",
        0o640,
        "root:*:20000:0:99999:7:::\nnobody:*:20000:0:99999:7:::\n",
    )?;
    archive.text("etc/hostname", 0o644, "staghound-vm\n")?;
    archive.text("etc/hosts", 0o644, "127.0.0.1 localhost staghound-vm\n::1 localhost\n")?;
    archive.text("etc/machine-id", 0o444, "57a6000000000000000000000000beef\n")?;
    archive.text(
        "etc/os-release",
        0o644,
        "ID=staghound-vm\nNAME=\"Staghound test guest\"\n",
    )?;

    let busybox = find("busybox").context("busybox is not in PATH")?;
    for executable in [&busybox, &content.init].into_iter().chain(&content.executables) {
        ensure_static(executable)?;
    }
    archive.file("bin/busybox", 0o755, &busybox)?;
    for applet in output(program(&busybox).arg("--list"))?
        .lines()
        .filter(|name| *name != "busybox")
    {
        archive.symbolic_link(&format!("bin/{applet}"), "/bin/busybox")?;
    }

    archive.file("init", 0o755, &content.init)?;
    for executable in &content.executables {
        archive.file(&format!("{GUEST_BINARIES}/{}", name(executable)?), 0o755, executable)?;
    }
    for (place, file) in &content.files {
        archive.file(place, 0o644, file)?;
    }
    archive.text("tests/list", 0o644, &content.list)?;
    archive.text("tests/env", 0o644, &content.environment)?;
    let bytes = archive.finish()?;
    tell(&format!(
        "packed {} ({} MiB, {} programs to run)",
        path.display(),
        bytes >> 20,
        content.list.lines().count()
    ));
    Ok(())
}

/// What the guest runs must bring all its code: there is no loader in the guest that could find the rest.
fn ensure_static(path: &Path) -> Result<()> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    ensure!(
        is_static(&content).with_context(|| format!("{} is not a 64-bit ELF file", path.display()))?,
        "{} is linked dynamically, and the guest has no libraries{}",
        path.display(),
        if name(path)? == "busybox" {
            "; install busybox-static"
        } else {
            ""
        }
    );
    Ok(())
}

/// Whether an ELF file asks for no loader: none of its program headers is `PT_INTERP`.
fn is_static(elf: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let offset = usize::try_from(u64::from_le_bytes(elf.get(32..40)?.try_into().ok()?)).ok()?;
    let size = usize::from(u16::from_le_bytes(elf.get(54..56)?.try_into().ok()?));
    let count = usize::from(u16::from_le_bytes(elf.get(56..58)?.try_into().ok()?));
    let table = elf.get(offset..offset.checked_add(size.checked_mul(count)?)?)?;
    // An executable has program headers, of at least the size of their first field.
    if size < 4 || count == 0 {
        return None;
    }
    Some(
        table
            .chunks_exact(size)
            .all(|header| header[..4] != PT_INTERP.to_le_bytes()),
    )
}

fn name(path: &Path) -> Result<&str> {
    path.file_name()
        .and_then(|name| name.to_str())
        .with_context(|| format!("{} has no plain name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Backend, Built, Guest, Kernel, Options, executable, is_static};

    #[test]
    fn a_test_runs_one_guest_and_a_full_one_two() {
        let guest = |kernel, backend| Guest { kernel, backend };
        let first = guest(Kernel::V6_1, Backend::Lsm);
        assert_eq!(Options::of_test(false).guests(), [first]);
        let second = guest(Kernel::Newest, Backend::Tracepoint);
        assert_eq!(Options::of_test(true).guests(), [first, second]);
    }

    #[test]
    fn executables_are_told_apart() {
        let program = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/staghound"}"#;
        let test = r#"{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/deps/live-1"}"#;
        let library = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(program, Built::Program), Some("/t/staghound".into()));
        assert_eq!(executable(program, Built::Test), None);
        assert_eq!(executable(test, Built::Test), Some("/t/deps/live-1".into()));
        assert_eq!(executable(test, Built::Program), None);
        for line in [library, "{}", "not JSON", ""] {
            assert_eq!(executable(line, Built::Program), None, "{line}");
        }
    }

    #[test]
    fn programs_that_need_a_loader_are_recognised() {
        let mut elf = vec![0_u8; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[32] = 64;
        elf[54] = 56;
        elf[56] = 2;
        elf[64] = 1;
        elf[64 + 56] = 2;
        assert_eq!(is_static(&elf), Some(true));
        elf[64 + 56] = 3;
        assert_eq!(is_static(&elf), Some(false));
        let ourselves = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&ourselves), Some(cfg!(target_feature = "crt-static")));
    }

    #[test]
    fn what_is_no_program_is_neither() {
        for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF\x02\x01", &[0xff; 200]] {
            assert_eq!(is_static(bytes), None, "{bytes:?}");
        }
        let mut elf = vec![0xff_u8; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(is_static(&elf), None);
    }
}
