//! Builds the two programs we ship, and those that test them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command::{cargo, run, run_lines, tell};
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

/// Builds the agents that are only their sending half, optimised.
pub(crate) fn build_fleet() -> Result<PathBuf> {
    setup::build_tools()?;
    run(cargo(&["build", "--package", "staghound-tests", "--bin", "fleet"]).args(Profile::Release.arguments()))
        .context("cannot build the fleet")?;
    built(Profile::Release, "fleet")
}

/// Builds the tool that measures hooks; yields it and the object it loads.
pub(crate) fn build_floor(profile: Profile) -> Result<(PathBuf, PathBuf)> {
    setup::build_tools()?;
    let mut object = None;
    let mut command = cargo(&["build", "--package", "staghound-tests", "--bin", "floor"]);
    command
        .args(profile.arguments())
        .args(["--message-format", "json-render-diagnostics"]);
    let succeeded = run_lines(&mut command, |line| {
        object = object.take().or_else(|| floor_object(line));
    })?;
    ensure!(
        succeeded,
        "cannot build the tool that measures hooks; cargo's messages are above"
    );
    let object = object.context("the agent's build script made no object of floor programs")?;
    Ok((built(profile, "floor")?, object))
}

/// The object of empty and counting programs, if cargo's message is about the build script that made it.
pub(crate) fn floor_object(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_agent = message.get("package_id")?.as_str()?.contains("#staghound@");
    let object = Path::new(message.get("out_dir")?.as_str()?).join("staghound-floor");
    (is_agent && object.is_file()).then_some(object)
}

fn built(profile: Profile, name: &str) -> Result<PathBuf> {
    let path = workspace::target().join(profile.directory()).join(name);
    ensure!(path.is_file(), "cargo succeeded, but {} is not there", path.display());
    Ok(path)
}
