//! Gets Debian's kernel packages, without touching what apt knows on this machine.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::command::{output, program, run, tell};
use crate::workspace;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel series that we support, by the Debian release that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Kernel {
    /// Debian 11
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable
    #[value(name = "newest")]
    Newest,
}

impl Kernel {
    pub(crate) const ALL: [Kernel; 4] = [Kernel::V6_1, Kernel::V5_10, Kernel::V6_12, Kernel::Newest];

    /// The Debian release whose default kernel it is.
    fn suite(self) -> &'static str {
        match self {
            Kernel::V5_10 => "bullseye",
            Kernel::V6_1 => "bookworm",
            Kernel::V6_12 => "trixie",
            Kernel::Newest => "sid",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Kernel::V5_10 => "5.10",
            Kernel::V6_1 => "6.1",
            Kernel::V6_12 => "6.12",
            Kernel::Newest => "newest",
        })
    }
}

/// The kernel's image, fetched once and kept below the target directory.
pub(crate) fn fetch(kernel: Kernel, refresh: bool) -> Result<PathBuf> {
    let directory = workspace::target().join("vm/kernel").join(kernel.to_string());
    let image = directory.join("vmlinuz");
    if image.is_file() && !refresh {
        tell(&format!("kernel {kernel} is {}", image.display()));
        return Ok(image);
    }
    let apt = Apt::new(&directory.join("apt"), kernel.suite())?;
    run(apt.get().args(["-qq", "update"])).context("cannot fetch the package lists")?;
    let package = apt.kernel_package()?;
    // Unpacked beside its place and moved into it when complete, so that an interrupted fetch is not taken for one.
    let work = directory.join("work");
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("cannot empty {}", work.display()))?;
    }
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    run(apt.get().current_dir(&work).args(["-qq", "download", &package]))
        .with_context(|| format!("cannot fetch {package}"))?;
    let archive = only_file(&work, ".deb")?;
    unpack_image(&archive, &work)?;
    let unpacked = only_file(&work, "vmlinuz")?;
    fs::rename(&unpacked, &image).with_context(|| format!("cannot move {}", unpacked.display()))?;
    fs::write(directory.join("package"), format!("{package}\n")).context("cannot note the package's name")?;
    // The image is what is needed; lists and package are hundreds of megabytes.
    for rest in [&work, &apt.directory] {
        fs::remove_dir_all(rest).with_context(|| format!("cannot remove {}", rest.display()))?;
    }
    tell(&format!("kernel {kernel} is {package}"));
    Ok(image)
}

/// Fetches a package of Debian unstable that cannot be installed here, and unpacks it into a directory.
pub(crate) fn unpack_unstable(package: &str, directory: &Path) -> Result<()> {
    let work = directory.join("work");
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    let apt = Apt::new(&directory.join("apt"), "sid")?;
    run(apt.get().args(["-qq", "update"])).context("cannot fetch the package lists")?;
    run(apt.get().current_dir(&work).args(["-qq", "download", package]))
        .with_context(|| format!("cannot fetch {package}"))?;
    let archive = only_file(&work, ".deb")?;
    run(program("dpkg-deb").arg("--extract").arg(&archive).arg(directory))
        .with_context(|| format!("cannot unpack {}", archive.display()))?;
    for rest in [&work, &apt.directory] {
        fs::remove_dir_all(rest).with_context(|| format!("cannot remove {}", rest.display()))?;
    }
    Ok(())
}

/// An apt of our own: its sources, lists and cache are in one directory.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    fn new(directory: &Path, suite: &str) -> Result<Apt> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing, so Debian's packages cannot be verified; install debian-archive-keyring"
        );
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        let mirror = debian_mirror()?;
        let sources = format!("deb [signed-by={KEYRING} arch=amd64] {mirror} {suite} main\n");
        fs::write(directory.join("sources.list"), sources).context("cannot write sources.list")?;
        let place = |option: &str, part: &str| format!("{option} \"{}\";\n", directory.join(part).display());
        let configuration = [
            place("Dir::Etc::sourcelist", "sources.list"),
            place("Dir::Etc::sourceparts", "parts"),
            place("Dir::State::lists", "lists"),
            place("Dir::Cache", "cache"),
            // What is installed here has no say in what the guest boots.
            "Dir::State::status \"/dev/null\";\n".to_owned(),
            // Translations are for people.
            "Acquire::Languages \"none\";\n".to_owned(),
            // Our directories may lie where apt's own user cannot write.
            "APT::Sandbox::User \"root\";\n".to_owned(),
        ];
        fs::write(directory.join("apt.conf"), configuration.concat()).context("cannot write apt.conf")?;
        Ok(Apt {
            directory: directory.to_owned(),
        })
    }

    fn get(&self) -> Command {
        self.command("apt-get")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(name);
        // Read after the machine's own configuration, so that a proxy set there is kept.
        command.env("APT_CONFIG", self.directory.join("apt.conf"));
        command
    }

    /// The package that holds the image of the newest kernel. From 7.x on, `linux-image-…` only depends on it.
    fn kernel_package(&self) -> Result<String> {
        let newest = self
            .dependency("linux-image-amd64", "linux-image-")?
            .context("linux-image-amd64 depends on no linux-image package")?;
        Ok(self.dependency(&newest, "linux-binary-")?.unwrap_or(newest))
    }

    /// What a package depends on whose name starts like this.
    fn dependency(&self, package: &str, prefix: &str) -> Result<Option<String>> {
        let depends = output(self.command("apt-cache").args(["depends", package]))?;
        let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.filter(|name| name.starts_with(prefix)).map(str::to_owned).next())
    }
}

/// The mirror that this machine already uses, or the one given.
fn debian_mirror() -> Result<String> {
    if let Ok(mirror) = std::env::var("STAGHOUND_DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let known = output(program("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Origin: Debian",
        "Component: main",
    ]))?;
    known
        .lines()
        .find(|uri| !uri.contains("security"))
        .map(str::to_owned)
        .context("apt knows no Debian mirror here; name one with STAGHOUND_DEBIAN_MIRROR=URL")
}

/// Unpacks the image alone; the modules are most of the package, and the guest loads none. Depending on the release it
/// is `boot/vmlinuz-…` or `usr/lib/modules/…/vmlinuz`.
fn unpack_image(archive: &Path, to: &Path) -> Result<()> {
    let mut reader = program("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let files = reader.stdout.take().expect("standard output was asked to be a pipe");
    let unpacked = program("tar")
        .args([
            "--extract",
            "--wildcards",
            "--no-same-owner",
            "--transform",
            "s|.*/||",
            "--directory",
        ])
        .arg(to)
        .arg("*/vmlinuz*")
        .stdin(files)
        .status()
        .context("cannot start tar")?;
    let read = reader.wait().context("cannot wait for dpkg-deb")?;
    ensure!(
        unpacked.success() && read.success(),
        "cannot unpack {}: it has no kernel image",
        archive.display()
    );
    Ok(())
}

/// The one file of a directory whose name contains this.
fn only_file(directory: &Path, part: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))? {
        let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
        if entry.file_name().to_string_lossy().contains(part) {
            found.push(entry.path());
        }
    }
    ensure!(
        found.len() == 1,
        "{} has {} files named like `{part}`, not one",
        directory.display(),
        found.len()
    );
    found.pop().context("the list has one element")
}
