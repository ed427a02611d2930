//! Builds the kernel half for its own target and hands the agent its object and its digest.
//!
//! The pinned stable compiler builds it (`RUSTC_BOOTSTRAP=1` lets it build `core` for the BPF target), so that one
//! toolchain is enough; see ARCHITECTURE.md, decision 2.

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};
use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf");
    // SAFETY: a build script has one thread here, and nobody reads the environment meanwhile.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    let out = PathBuf::from(env::var("OUT_DIR")?);
    share_work(&out).context("cannot share the work on the BPF programs between builds")?;
    aya_build::build_ebpf(
        [Package {
            name: "staghound-ebpf",
            root_dir: root,
            no_default_features: false,
            features: &[],
        }],
        Toolchain::Custom("1.95.0"),
    )
    .context(
        "cannot build the BPF programs; `cargo xtask build` installs what they need (rust-src, bpf-linker 0.10.0)",
    )?;
    let object = out.join("staghound-bpf");
    name_unions_as_the_kernel_allows(&object).with_context(|| format!("cannot mend {}", object.display()))?;
    strip(&object).with_context(|| format!("cannot strip {}", object.display()))?;
    println!("cargo:rustc-env=STAGHOUND_COMMIT={}", commit());
    Ok(())
}

/// Debug, release, clippy's and the guests' builds of the agent need the same object: what compiling it leaves is kept in
/// one place of the target directory, so that only the first of them takes the time.
fn share_work(out: &Path) -> io::Result<()> {
    // Cargo marks the target directory so.
    let Some(target) = out.ancestors().find(|ancestor| ancestor.join("CACHEDIR.TAG").is_file()) else {
        return Ok(());
    };
    let shared = target.join("bpf");
    fs::create_dir_all(&shared)?;
    let link = out.join("aya-build");
    if fs::read_link(&link).is_ok_and(|known| known == shared) {
        return Ok(());
    }
    match fs::symlink_metadata(&link) {
        Ok(known) if known.is_dir() => fs::remove_dir_all(&link)?,
        Ok(_) => fs::remove_file(&link)?,
        Err(_) => {}
    }
    symlink(shared, link)
}

/// The kernel refuses type information with `<` in a name. bpf-linker 0.10 rewrites such names of structs, but not of
/// unions, and one gets in by aya-log's `Global<u8>`, which holds a `MaybeUninit<u8>`. Same length, so nothing moves.
fn name_unions_as_the_kernel_allows(object: &Path) -> Result<()> {
    const REFUSED: &[u8] = b"MaybeUninit<u8>\0";
    const ALLOWED: &[u8] = b"MaybeUninit_u8_\0";
    let mut bytes = fs::read(object)?;
    let places: Vec<usize> = bytes
        .windows(REFUSED.len())
        .enumerate()
        .filter(|(_, window)| *window == REFUSED)
        .map(|(at, _)| at)
        .collect();
    for at in places {
        bytes[at..at + ALLOWED.len()].copy_from_slice(ALLOWED);
    }
    Ok(fs::write(object, bytes)?)
}

/// Leaves out what only debuggers read: nine tenths of the object, which the agent would carry, and parse at each start.
/// The kernel's type information stays, less its relocations: what they say is in it already.
fn strip(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let mut object = object::build::elf::Builder::read(bytes.as_slice())?;
    for section in &mut object.sections {
        let name: &[u8] = &section.name;
        section.delete = [&b".debug_"[..], b".rel.debug_", b".rel.BTF"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
    }
    object.delete_orphans();
    // LLVM keeps names of sections among those of symbols; what is written here has a table of their own.
    let names = object.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(fs::write(path, stripped)?)
}

/// The commit being built, or `unknown` outside a repository.
fn commit() -> String {
    let head = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.git/logs/HEAD"));
    if head.exists() {
        println!("cargo:rerun-if-changed={}", head.display());
    }
    Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map_or_else(
            || "unknown".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
}
