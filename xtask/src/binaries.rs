//! Builds the two programs we ship, and those that test them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, run, tell};
use crate::{setup, workspace};

/// How to compile.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    Debug,
    Release,
}

impl Profile {
    pub(crate) fn of(release: bool) -> Profile {
        if release { Profile::Release } else { Profile::Debug }
    }

    /// The name of its directory below `target`.
    fn directory(self) -> &'static str {
        match self {
            Profile::Debug => "debug",
            Profile::Release => "release",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Profile::Debug => &[],
            Profile::Release => &["--release"],
        }
    }
}

/// The two programs we ship.
pub(crate) struct Products {
    pub(crate) agent: PathBuf,
    pub(crate) collector: PathBuf,
}

/// Builds both, with one cargo call so that they share what they depend on.
pub(crate) fn build_products(profile: Profile) -> Result<Products> {
    setup::build_tools()?;
    run(cargo(&[
        "build",
        "--package",
        "staghound",
        "--package",
        "staghound-collector",
        "--bins",
    ])
    .args(profile.arguments()))?;
    let products = Products {
        agent: built(profile, "staghound")?,
        collector: built(profile, "staghound-collector")?,
    };
    tell(&format!(
        "built {} and {}",
        products.agent.display(),
        products.collector.display()
    ));
    Ok(products)
}

/// The programs of the live tests, debug: both products and the actor, which performs what the tests watch for.
pub(crate) struct LivePrograms {
    pub(crate) products: Products,
    pub(crate) actor: PathBuf,
}

impl LivePrograms {
    /// The variables that tell the tests where they are.
    pub(crate) fn environment(&self) -> [(&'static str, &PathBuf); 3] {
        [
            ("STAGHOUND_BIN", &self.products.agent),
            ("STAGHOUND_COLLECTOR_BIN", &self.products.collector),
            ("STAGHOUND_ACTOR_BIN", &self.actor),
        ]
    }
}

pub(crate) fn build_live_programs() -> Result<LivePrograms> {
    setup::build_tools()?;
    run(&mut cargo(&[
        "build",
        "--package",
        "staghound",
        "--package",
        "staghound-collector",
        "--package",
        "staghound-tests",
        "--bins",
    ]))?;
    Ok(LivePrograms {
        products: Products {
            agent: built(Profile::Debug, "staghound")?,
            collector: built(Profile::Debug, "staghound-collector")?,
        },
        actor: built(Profile::Debug, "actor")?,
    })
}

/// Builds the load generators, optimised. Only this program is linked statically; what it depends on is shared.
pub(crate) fn build_load() -> Result<PathBuf> {
    setup::build_tools()?;
    run(cargo(&[
        "rustc",
        "--package",
        "staghound-tests",
        "--bin",
        "load",
        "--release",
        "--",
    ])
    .args(["-C", "target-feature=+crt-static"]))
    .context("cannot build the load generators")?;
    built(Profile::Release, "load")
}

fn built(profile: Profile, name: &str) -> Result<PathBuf> {
    let path = workspace::target().join(profile.directory()).join(name);
    ensure!(path.is_file(), "cargo succeeded, but {} is not there", path.display());
    Ok(path)
}
