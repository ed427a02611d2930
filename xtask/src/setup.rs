//! Finds what a command needs and installs what is missing, or says how to.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, find, is_root, output, program, run, tell};
use crate::vm::kernel;
use crate::workspace;

/// Links the kernel object.
const BPF_LINKER_VERSION: &str = "0.10.0";
/// Checks bans, licences and sources. Compiling it takes four minutes, once per machine.
const CARGO_DENY_VERSION: &str = "0.20.2";
/// Validates SARIF.
const SARIF_MULTITOOL_VERSION: &str = "5.7.0";
/// Has the schema of JUnit that the plug-in of Jenkins has, among its own tests.
const PYTEST_VERSION: &str = "8.4.2";
/// Lints the wire contract.
const BUF_VERSION: &str = "1.75.0";

/// A program and the Debian package that has it.
#[derive(Clone, Copy)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
}

/// What `vm` needs. `busybox` must be the static one: the guest has no libraries.
pub(crate) const VM_TOOLS: [Tool; 5] = [
    Tool {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    },
    Tool {
        program: "busybox",
        package: "busybox-static",
    },
    Tool {
        program: "dpkg-deb",
        package: "dpkg",
    },
    Tool {
        program: "tar",
        package: "tar",
    },
    Tool {
        program: "gcc",
        package: "gcc",
    },
];

/// What `bench build` compiles with.
pub(crate) const BENCH_TOOLS: [Tool; 2] = [
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "gcc",
        package: "gcc",
    },
];

/// What the scenarios act with.
pub(crate) const SCENARIO_TOOLS: [Tool; 20] = [
    Tool {
        program: "unshare",
        package: "util-linux",
    },
    Tool {
        program: "ip",
        package: "iproute2",
    },
    Tool {
        program: "python3",
        package: "python3",
    },
    Tool {
        program: "pip3",
        package: "python3-pip",
    },
    Tool {
        program: "node",
        package: "nodejs",
    },
    Tool {
        program: "npm",
        package: "npm",
    },
    Tool {
        program: "curl",
        package: "curl",
    },
    Tool {
        program: "socat",
        package: "socat",
    },
    Tool {
        program: "xz",
        package: "xz-utils",
    },
    Tool {
        program: "openssl",
        package: "openssl",
    },
    Tool {
        program: "pgrep",
        package: "procps",
    },
    Tool {
        program: "git",
        package: "git",
    },
    Tool {
        program: "ssh",
        package: "openssh-client",
    },
    Tool {
        program: "gdb",
        package: "gdb",
    },
    Tool {
        program: "strace",
        package: "strace",
    },
    Tool {
        program: "dpkg-buildpackage",
        package: "dpkg-dev",
    },
    Tool {
        program: "fakeroot",
        package: "fakeroot",
    },
    Tool {
        program: "zip",
        package: "zip",
    },
    Tool {
        program: "make",
        package: "make",
    },
    Tool {
        program: "gcc",
        package: "gcc",
    },
];

/// What looks at reports.
const REPORT_TOOLS: [Tool; 4] = [
    Tool {
        program: "chromium",
        package: "chromium",
    },
    Tool {
        program: "xmllint",
        package: "libxml2-utils",
    },
    Tool {
        program: "npm",
        package: "npm",
    },
    Tool {
        program: "pip3",
        package: "python3-pip",
    },
];

const NPM: [Tool; 1] = [Tool {
    program: "npm",
    package: "npm",
}];

/// Everything any command needs.
pub(crate) fn everything() -> Result<()> {
    build_tools()?;
    tools(&VM_TOOLS)?;
    tools(&BENCH_TOOLS)?;
    tools(&SCENARIO_TOOLS)?;
    report_tools()?;
    buf()?;
    cargo_deny()?;
    tell("everything is installed");
    Ok(())
}

/// What building the agent needs: the sources of `core` for the kernel target, and the linker for it.
pub(crate) fn build_tools() -> Result<()> {
    rust_src()?;
    cargo_install("bpf-linker", "bpf-linker", BPF_LINKER_VERSION)
}

/// cargo-deny in the pinned version.
pub(crate) fn cargo_deny() -> Result<()> {
    cargo_install("cargo-deny", "cargo-deny", CARGO_DENY_VERSION)
}

/// Where `buf` is, after installing it below the target directory.
pub(crate) fn buf() -> Result<PathBuf> {
    let directory = workspace::target().join("tools/buf");
    let buf = directory.join("node_modules/.bin/buf");
    let is_current = |buf: &Path| {
        buf.is_file() && output(program(buf).arg("--version")).is_ok_and(|version| version.trim() == BUF_VERSION)
    };
    if is_current(&buf) {
        return Ok(buf);
    }
    tools(&NPM)?;
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    run(program("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--no-save",
            "--no-package-lock",
            "--loglevel",
            "error",
        ])
        .arg("--prefix")
        .arg(&directory)
        .arg(format!("@bufbuild/buf@{BUF_VERSION}")))
    .context("cannot install buf")?;
    ensure!(
        is_current(&buf),
        "npm installed buf, but {} does not run as version {BUF_VERSION}",
        buf.display()
    );
    Ok(buf)
}

/// What other people's tools need to look at reports; yields their directory, below the target directory.
pub(crate) fn report_tools() -> Result<PathBuf> {
    tools(&REPORT_TOOLS)?;
    let directory = workspace::target().join("tools/report");
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let cosign = directory.join("cosign");
    if !cosign.is_file() {
        let unpacked = directory.join("debian");
        kernel::unpack_unstable("cosign", &unpacked)?;
        std::fs::rename(unpacked.join("usr/bin/cosign"), &cosign).context("the package has no usr/bin/cosign")?;
    }
    if !directory.join("sarif-multitool/Sarif.Multitool").is_file() {
        let name = format!("@microsoft/sarif-multitool-linux@{SARIF_MULTITOOL_VERSION}");
        run(program("npm").current_dir(&directory).args(["pack", "--silent", &name]))
            .context("cannot fetch the SARIF multitool")?;
        let archive = format!("microsoft-sarif-multitool-linux-{SARIF_MULTITOOL_VERSION}.tgz");
        extract(&directory, &archive, &["package"])?;
        run(program("chmod")
            .arg("+x")
            .arg(directory.join("package/Sarif.Multitool")))?;
        // Moved when complete, so that an interrupted fetch is not taken for one.
        std::fs::rename(directory.join("package"), directory.join("sarif-multitool"))
            .context("cannot move the SARIF multitool")?;
    }
    if !directory.join("junit-10.xsd").is_file() {
        run(program("pip3").current_dir(&directory).args([
            "download",
            "--quiet",
            "--no-deps",
            "--no-binary",
            ":all:",
            &format!("pytest=={PYTEST_VERSION}"),
        ]))
        .context("cannot fetch the sources of pytest")?;
        let schema = format!("pytest-{PYTEST_VERSION}/testing/example_scripts/junit-10.xsd");
        extract(&directory, &format!("pytest-{PYTEST_VERSION}.tar.gz"), &[&schema])?;
        std::fs::rename(directory.join(&schema), directory.join("junit-10.xsd")).context("cannot move the schema")?;
    }
    Ok(directory)
}

/// Extracts files of an archive in a directory, and removes the archive.
fn extract(directory: &Path, archive: &str, files: &[&str]) -> Result<()> {
    run(program("tar")
        .current_dir(directory)
        .args(["--extract", "--no-same-owner", "--file", archive])
        .args(files))
    .with_context(|| format!("cannot unpack {archive}"))?;
    std::fs::remove_file(directory.join(archive)).with_context(|| format!("cannot remove {archive}"))
}

/// Programs from Debian packages; installs all that are missing at once.
pub(crate) fn tools(wanted: &[Tool]) -> Result<()> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|tool| find(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if find("apt-get").is_none() || !is_root() {
        bail!("missing: {packages}; install with `apt-get install {packages}` as root, or what your system calls them");
    }
    // A fresh machine has no package lists; a stale list names files that are gone.
    run(program("apt-get")
        .args(["-qq", "update"])
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    run(program("apt-get")
        .args(["-qq", "--yes", "--no-install-recommends", "install"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null()))
    .with_context(|| format!("cannot install {packages}"))
}

fn rust_src() -> Result<()> {
    let sysroot =
        output(program("rustc").args(["--print", "sysroot"])).context("cannot ask rustc for its directory")?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if sources.is_file() {
        return Ok(());
    }
    ensure!(
        find("rustup").is_some(),
        "{} is missing, and there is no rustup to install it: install the component rust-src of this toolchain",
        sources.display()
    );
    run(program("rustup").args(["component", "add", "rust-src"])).context("cannot install rust-src")?;
    ensure!(
        sources.is_file(),
        "rustup installed rust-src, but {} is still missing",
        sources.display()
    );
    Ok(())
}

/// Installs a program with cargo unless `PATH` has this very version.
fn cargo_install(package: &str, binary: &str, version: &str) -> Result<()> {
    let is_current = || {
        find(binary).is_some()
            && output(program(binary).arg("--version"))
                .is_ok_and(|answer| answer.split_whitespace().nth(1) == Some(version))
    };
    if is_current() {
        return Ok(());
    }
    tell(&format!(
        "installing {package} {version}; this compiles it and takes minutes, once per machine"
    ));
    // Its own target directory, or it would be kept for ever in ours.
    run(cargo(&["install", package, "--version", version, "--locked", "--force"]).env_remove("CARGO_TARGET_DIR"))
        .with_context(|| format!("cannot install {package}"))?;
    ensure!(
        is_current(),
        "{package} {version} was installed, but PATH does not find it first; put cargo's bin directory before others"
    );
    Ok(())
}
