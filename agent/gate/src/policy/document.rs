//! A policy file as it is written.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, Error as _},
};
use staghound_engine::ruleset::Severity;

/// The whole file. Every key but `version` has a default; an unknown key is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Version of this schema: 1.
    #[serde(deserialize_with = "version")]
    #[expect(dead_code, reason = "checked while it is read")]
    pub version: u32,
    /// What reports call the policy. Default: the file's name.
    #[serde(default)]
    pub name: Option<String>,
    /// What a verdict does.
    #[serde(default)]
    pub mode: Mode,
    /// What a run counts as of which not everything was seen.
    #[serde(default)]
    pub inconclusive: Inconclusive,
    /// What is tolerated where no scope says otherwise: by the run's own code.
    #[serde(default)]
    pub tolerance: Tolerance,
    /// Parts of the run with tolerances of their own, told apart by lineage. The first that holds decides.
    /// Default: `third-party`, as in the default policy. `[]`: none.
    #[serde(default)]
    pub scopes: Option<Vec<Scope>>,
    /// Findings that somebody answers for until a date.
    #[serde(default)]
    pub waivers: Vec<Waiver>,
    /// What follows when a run fails.
    #[serde(default)]
    pub on_failure: OnFailure,
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        1 => Ok(1),
        other => Err(D::Error::custom(format_args!(
            "policies of version {other} are not known; this version of staghound reads version 1"
        ))),
    }
}

/// What a verdict does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reports; the exit code is the command's.
    Observe,
    /// As observe, and says what would have failed.
    Warn,
    /// A failed run has an exit code of its own.
    #[default]
    Enforce,
}

/// What an inconclusive run counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Inconclusive {
    /// As failed: the exit code is 102.
    #[default]
    Fail,
    /// It is told, and the exit code is the command's.
    Warn,
}

/// The mildest severity that has a consequence; `None` where none has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(pub Option<Severity>);

impl Level {
    /// Whether a finding of this severity has the consequence.
    pub fn is_reached_by(self, severity: Severity) -> bool {
        self.0.is_some_and(|level| severity >= level)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(severity) => severity.fmt(f),
            None => f.write_str("never"),
        }
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "never" {
            return Ok(Self(None));
        }
        match text.parse() {
            Ok(severity) => Ok(Self(Some(severity))),
            Err(_) => Err(D::Error::custom(format_args!(
                "unknown level `{}`; use informational, low, medium, high, critical or never",
                text.escape_debug()
            ))),
        }
    }
}

/// From which severity on findings have consequences. The narrowest statement decides: a rule's before a technique's,
/// a technique's before a tactic's, a tactic's before `fail_on`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tolerance {
    /// From here on findings fail the run. Default: `high`.
    pub fail_on: Option<Level>,
    /// From here on they are told as warnings. Default: `low`.
    pub warn_on: Option<Level>,
    /// `fail_on` of single rules, by id.
    pub rules: BTreeMap<String, Level>,
    /// `fail_on` of techniques, by ATT&CK id; one of a technique holds for its sub-techniques, too.
    pub techniques: BTreeMap<String, Level>,
    /// `fail_on` of tactics, by ATT&CK short name.
    pub tactics: BTreeMap<String, Level>,
}

/// A part of the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scope {
    /// What reports call it.
    pub name: String,
    /// A lineage that is known by name: `third-party`.
    #[serde(default)]
    pub lineage: Option<Lineage>,
    /// It holds too where one of these does.
    #[serde(default)]
    pub any: Vec<Condition>,
    /// What is tolerated in it. Without `fail_on`, what it does not name is as outside; with it, it stands by itself.
    #[serde(default)]
    pub tolerance: Tolerance,
}

/// Lineages that are known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lineage {
    /// Code of others that a package manager runs while it installs or builds it.
    ThirdParty,
}

/// What an alert is compared with. All keys that are given must match; values are shell patterns in which `*` crosses `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Condition {
    /// Absolute path of the process's executable.
    pub executable: Option<String>,
    /// Its arguments, joined by blanks.
    pub command: Option<String>,
    /// Its working directory.
    pub working_directory: Option<String>,
    /// The arguments of some ancestor, or its executable.
    pub ancestor: Option<String>,
    /// The path of the file that the event is about.
    pub path: Option<String>,
    /// The other end of the socket, as `address:port` or `name`.
    pub endpoint: Option<String>,
}

/// A finding that somebody answers for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiver {
    /// What reports call it.
    pub id: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is right.
    pub reason: String,
    /// The last day on which it holds, in UTC: `2027-01-31`.
    pub expires: String,
    /// The rule whose findings it covers, by id.
    pub rule: String,
    /// What is true of exactly those findings; at least one key, and more than `*`.
    #[serde(rename = "where")]
    pub condition: Condition,
}

/// When a failing run is killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// The command ends by itself, and so does what it left running.
    #[default]
    Never,
    /// What the command left running is killed when it has ended.
    AtEnd,
    /// The whole run is killed at the first finding that fails it.
    AtOnce,
}

/// What follows when a run fails.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OnFailure {
    /// Whether it is killed.
    pub kill: Kill,
}
