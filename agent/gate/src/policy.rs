//! Policies: which findings a run may have, who answers for others, and what follows.
//!
//! A policy is read before the command starts, since the command may be able to change the file. It decides about each
//! alert by itself, before alerts are counted together: a waiver for one lineage cannot cover another's.

mod document;
mod lineage;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use sha2::{Digest as _, Sha256};
use staghound_engine::{
    attack::{self, Lookup},
    glob::Glob,
    ruleset::Severity,
};
use staghound_proto::v1::{Alert, Decision, Material, PolicyMode};

use document::{Condition, Document, Lineage, Tolerance};
pub use document::{Inconclusive, Kill, Level, Mode};

use crate::yaml::{self, Invalid};

/// The policy that holds where nobody gives one, as a file.
pub const DEFAULT: &str = include_str!("../policies/default.yaml");

/// The scope of what no other one claims.
pub const OWN_CODE: &str = "own-code";

/// The largest policy file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// A policy that makes sense in itself.
#[derive(Debug)]
pub struct Policy {
    name: String,
    path: Option<PathBuf>,
    digest: String,
    mode: Mode,
    inconclusive: Inconclusive,
    tolerance: Tolerance,
    scopes: Vec<Scope>,
    waivers: Vec<Waiver>,
    kill: Kill,
}

#[derive(Debug)]
struct Scope {
    name: String,
    lineage: Option<Lineage>,
    any: Vec<Matcher>,
    tolerance: Tolerance,
}

/// A finding that somebody answers for.
#[derive(Debug)]
pub struct Waiver {
    /// What reports call it.
    pub id: String,
    /// Who answers for it.
    pub owner: String,
    /// Why it is right.
    pub reason: String,
    /// The last day on which it holds.
    pub expires: Day,
    /// The rule whose findings it covers.
    pub rule: String,
    condition: Matcher,
}

/// A condition taken apart.
#[derive(Debug, Default)]
struct Matcher {
    executable: Option<Glob>,
    command: Option<Glob>,
    working_directory: Option<Glob>,
    ancestor: Option<Glob>,
    path: Option<Glob>,
    endpoint: Option<Glob>,
}

/// A day in UTC, as days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(i64);

/// Text that names no day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no day; write it as 2027-01-31", .0.escape_debug())]
pub struct NoDay(String);

impl Day {
    /// The day of a time in seconds since 1970-01-01 UTC.
    #[must_use]
    pub const fn of_unix_seconds(seconds: i64) -> Self {
        Self(seconds.div_euclid(86_400))
    }

    /// The day of a time. A time before 1970 counts as the first day there is: then every waiver holds.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::of_unix_seconds(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }

    /// Reads `2027-01-31`.
    ///
    /// # Errors
    /// There is no such day.
    pub fn parse(text: &str) -> Result<Self, NoDay> {
        let no_day = || NoDay(text.to_owned());
        let is_shaped = text.len() == 10
            && text.bytes().enumerate().all(|(at, byte)| {
                if matches!(at, 4 | 7) {
                    byte == b'-'
                } else {
                    byte.is_ascii_digit()
                }
            });
        if !is_shaped {
            return Err(no_day());
        }
        let time: prost_types::Timestamp = format!("{text}T00:00:00Z").parse().map_err(|_| no_day())?;
        // The parser may round a day that a month does not have into the next month.
        if !time.to_string().starts_with(text) {
            return Err(no_day());
        }
        Ok(Self::of_unix_seconds(time.seconds))
    }
}

/// What a policy says about an alert.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// What becomes of it.
    pub decision: Decision,
    /// The scope it was judged in.
    pub scope: &'a str,
    /// Why, in one sentence.
    pub reason: String,
    /// The waiver that covers it.
    pub waiver: Option<&'a Waiver>,
    /// A waiver that would cover it if it were not over.
    pub expired: Option<&'a Waiver>,
}

/// What decided, and how it was stated.
struct Stated {
    level: Level,
    by: String,
}

impl Policy {
    /// The policy that holds where nobody gives one.
    #[must_use]
    pub fn default_policy() -> Self {
        let mut policy = Self::parse(Path::new("default.yaml"), DEFAULT)
            .expect("the default policy is part of the build and tested");
        policy.path = None;
        policy
    }

    /// Reads a policy; `path` is named in errors and reports.
    ///
    /// # Errors
    /// The text is no policy, or contradicts itself.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Invalid> {
        let fail = |message: String| Invalid {
            path: path.to_owned(),
            line: 1,
            column: 1,
            message,
        };
        let document: Document = yaml::parse(path, text)?
            .ok_or_else(|| fail("the policy is empty; it needs at least `version: 1`".to_owned()))?;
        let base = Self::default_scopes(document.scopes.is_none());
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let Document {
            version: _,
            name,
            mode,
            inconclusive,
            tolerance,
            scopes,
            waivers,
            on_failure,
        } = document;
        check_tolerance(&tolerance, "tolerance").map_err(fail)?;
        let mut names = BTreeSet::from([OWN_CODE.to_owned()]);
        let mut compiled = base;
        for scope in scopes.unwrap_or_default() {
            let name = &scope.name;
            if !names.insert(name.clone()) {
                return Err(fail(format!(
                    "two scopes are called `{}`; rename one",
                    name.escape_debug()
                )));
            }
            if scope.lineage.is_none() && scope.any.is_empty() {
                return Err(fail(format!(
                    "scope `{}` says nothing about what is in it; give it `lineage` or `any`",
                    name.escape_debug()
                )));
            }
            let place = format!("scope `{}`", name.escape_debug());
            check_tolerance(&scope.tolerance, &place).map_err(fail)?;
            let any = scope
                .any
                .iter()
                .map(|condition| Matcher::of(condition, &place))
                .collect::<Result<_, _>>()
                .map_err(fail)?;
            compiled.push(Scope {
                name: scope.name,
                lineage: scope.lineage,
                any,
                tolerance: scope.tolerance,
            });
        }
        let waivers = waivers
            .into_iter()
            .map(Waiver::of)
            .collect::<Result<Vec<_>, _>>()
            .map_err(fail)?;
        let mut ids = BTreeSet::new();
        if let Some(twice) = waivers.iter().find(|waiver| !ids.insert(&waiver.id)) {
            return Err(fail(format!(
                "two waivers are called `{}`; rename one",
                twice.id.escape_debug()
            )));
        }
        Ok(Self {
            name: name.unwrap_or(stem),
            path: Some(path.to_owned()),
            digest: format!("sha256:{:x}", Sha256::digest(text)),
            mode,
            inconclusive,
            tolerance,
            scopes: compiled,
            waivers,
            kill: on_failure.kill,
        })
    }

    /// The scopes of the default policy, for a policy that says nothing about scopes.
    fn default_scopes(wanted: bool) -> Vec<Scope> {
        if wanted {
            Self::default_policy().scopes
        } else {
            Vec::new()
        }
    }

    /// The default policy with one level for everything: what `--fail-on` stands for.
    #[must_use]
    pub fn failing_on(severity: Severity) -> Self {
        let mut policy = Self::default_policy();
        policy.tolerance.fail_on = Some(Level(Some(severity)));
        for scope in &mut policy.scopes {
            scope.tolerance = Tolerance::default();
        }
        policy
    }

    /// What reports call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a verdict does.
    #[must_use]
    pub const fn mode(&self) -> PolicyMode {
        match self.mode {
            Mode::Observe => PolicyMode::Observe,
            Mode::Warn => PolicyMode::Warn,
            Mode::Enforce => PolicyMode::Enforce,
        }
    }

    /// What a run counts as of which not everything was seen.
    #[must_use]
    pub const fn inconclusive(&self) -> Inconclusive {
        self.inconclusive
    }

    /// When a failing run is killed.
    #[must_use]
    pub const fn kill(&self) -> Kill {
        self.kill
    }

    /// The findings that somebody answers for.
    #[must_use]
    pub fn waivers(&self) -> &[Waiver] {
        &self.waivers
    }

    /// Names of the scopes in the order in which they are tried, the one for everything else last.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scopes.iter().map(|scope| scope.name.as_str()).chain([OWN_CODE])
    }

    /// What the report says of the policy.
    #[must_use]
    pub fn material(&self) -> Material {
        Material {
            kind: "policy".to_owned(),
            path: self
                .path
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            digest: self.digest.clone(),
        }
    }

    /// Decides about one alert.
    ///
    /// `Tolerated` and `Warned` need no waiver; one that is over does nothing.
    #[must_use]
    pub fn judge(&self, alert: &Alert, severity: Severity, today: Day) -> Judgement<'_> {
        let scope = self.scope_of(alert);
        let (name, stated) = self.fail_on(scope, alert);
        let decision = if stated.level.is_reached_by(severity) {
            Decision::Failed
        } else if self.warn_on(scope).is_reached_by(severity) {
            Decision::Warned
        } else {
            Decision::Tolerated
        };
        let reason = match decision {
            Decision::Failed => format!("{severity} reaches `{}`, {}", stated.level, stated.by),
            Decision::Warned | Decision::Tolerated | Decision::Waived | Decision::Unspecified => {
                format!("{severity} is below `{}`, {}", stated.level, stated.by)
            }
        };
        let mut judgement = Judgement {
            decision,
            scope: name,
            reason,
            waiver: None,
            expired: None,
        };
        if decision != Decision::Failed {
            return judgement;
        }
        for waiver in self.waivers.iter().filter(|waiver| waiver.covers(alert)) {
            if waiver.expires < today {
                judgement.expired = Some(waiver);
                continue;
            }
            judgement.decision = Decision::Waived;
            judgement.reason = format!("waived by {}: {}", waiver.owner, waiver.reason);
            judgement.waiver = Some(waiver);
            break;
        }
        if let (Some(expired), None) = (judgement.expired, judgement.waiver) {
            judgement.reason += &format!("; waiver `{}` of {} is over", expired.id, expired.owner);
        }
        judgement
    }

    fn scope_of(&self, alert: &Alert) -> Option<&Scope> {
        self.scopes.iter().find(|scope| {
            let by_lineage = match scope.lineage {
                Some(Lineage::ThirdParty) => lineage::is_third_party(alert),
                None => false,
            };
            by_lineage || scope.any.iter().any(|matcher| matcher.is_match(alert))
        })
    }

    /// From which severity on this alert fails, and who says so.
    fn fail_on<'a>(&'a self, scope: Option<&'a Scope>, alert: &Alert) -> (&'a str, Stated) {
        let name = scope.map_or(OWN_CODE, |scope| scope.name.as_str());
        let of_scope = scope.map(|scope| (&scope.tolerance, scope.name.as_str()));
        let both = of_scope.into_iter().chain([(&self.tolerance, OWN_CODE)]);
        for (tolerance, place) in both {
            if let Some((level, by)) = tolerance.narrowest(alert) {
                return (
                    name,
                    Stated {
                        level,
                        by: format!("the level of {by} in `{place}`"),
                    },
                );
            }
            if let Some(level) = tolerance.fail_on {
                return (
                    name,
                    Stated {
                        level,
                        by: format!("the level of `{place}`"),
                    },
                );
            }
        }
        let level = Level(Some(Severity::High));
        (
            name,
            Stated {
                level,
                by: "the level where none is given".to_owned(),
            },
        )
    }

    fn warn_on(&self, scope: Option<&Scope>) -> Level {
        scope
            .and_then(|scope| scope.tolerance.warn_on)
            .or(self.tolerance.warn_on)
            .unwrap_or(Level(Some(Severity::Low)))
    }

    /// Rules that the policy names and nobody has loaded.
    pub fn unknown_rules<'a>(&'a self, is_known: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = &'a str> {
        let tolerances = self
            .scopes
            .iter()
            .map(|scope| &scope.tolerance)
            .chain([&self.tolerance]);
        let of_tolerances = tolerances.flat_map(|tolerance| tolerance.rules.keys());
        let of_waivers = self.waivers.iter().map(|waiver| &waiver.rule);
        let named: BTreeSet<&str> = of_tolerances.chain(of_waivers).map(String::as_str).collect();
        named.into_iter().filter(move |rule| !is_known(rule))
    }
}

impl Tolerance {
    /// What it says of this alert in particular, and by what.
    fn narrowest(&self, alert: &Alert) -> Option<(Level, String)> {
        let rule = alert.rule.as_ref().map_or("", |rule| rule.id.as_str());
        if let Some(level) = self.rules.get(rule) {
            return Some((*level, format!("rule `{rule}`")));
        }
        let strictest = |found: &mut dyn Iterator<Item = (Level, String)>| {
            // Of several the one that fails first.
            found.min_by_key(|(level, _)| level.0.map_or(u8::MAX, |severity| severity as u8))
        };
        let mut techniques = alert.techniques.iter().filter_map(|technique| {
            let whole = technique.id.split('.').next().unwrap_or_default();
            let named = [technique.id.as_str(), whole];
            named
                .iter()
                .find_map(|id| Some((*self.techniques.get(*id)?, format!("technique {id}"))))
        });
        if let Some(found) = strictest(&mut techniques) {
            return Some(found);
        }
        let mut tactics = alert
            .techniques
            .iter()
            .flat_map(|technique| &technique.tactics)
            .filter_map(|tactic| Some((*self.tactics.get(tactic)?, format!("tactic {tactic}"))));
        strictest(&mut tactics)
    }
}

fn check_tolerance(tolerance: &Tolerance, place: &str) -> Result<(), String> {
    for id in tolerance.techniques.keys() {
        match attack::lookup(id) {
            Lookup::Known(_) => {}
            Lookup::Renumbered(technique) => {
                return Err(format!(
                    "{place}: technique {id} is {} in ATT&CK {}; write that",
                    technique.id,
                    attack::version()
                ));
            }
            Lookup::Unknown => {
                return Err(format!(
                    "{place}: ATT&CK {} has no technique `{}`",
                    attack::version(),
                    id.escape_debug()
                ));
            }
        }
    }
    let tactics: BTreeMap<&str, &str> = attack::tactics().collect();
    match tolerance
        .tactics
        .keys()
        .find(|tactic| !tactics.contains_key(tactic.as_str()))
    {
        Some(tactic) => Err(format!(
            "{place}: unknown tactic `{}`; valid here: {}",
            tactic.escape_debug(),
            tactics.keys().copied().collect::<Vec<_>>().join(", ")
        )),
        None => Ok(()),
    }
}

impl Waiver {
    fn of(written: document::Waiver) -> Result<Self, String> {
        let id = written.id.escape_debug().to_string();
        let empty = [
            ("id", &written.id),
            ("owner", &written.owner),
            ("reason", &written.reason),
            ("rule", &written.rule),
        ]
        .into_iter()
        .find(|(_, value)| value.trim().is_empty());
        if let Some((key, _)) = empty {
            return Err(format!("waiver `{id}`: `{key}` is empty"));
        }
        let expires = Day::parse(&written.expires).map_err(|error| format!("waiver `{id}`: {error}"))?;
        let condition = Matcher::of(&written.condition, &format!("waiver `{id}`"))?;
        Ok(Self {
            id: written.id,
            owner: written.owner,
            reason: written.reason,
            expires,
            rule: written.rule,
            condition,
        })
    }

    fn covers(&self, alert: &Alert) -> bool {
        alert.rule.as_ref().is_some_and(|rule| rule.id == self.rule) && self.condition.is_match(alert)
    }
}

impl Matcher {
    fn of(condition: &Condition, place: &str) -> Result<Self, String> {
        let Condition {
            executable,
            command,
            working_directory,
            ancestor,
            path,
            endpoint,
        } = condition;
        let keys = [executable, command, working_directory, ancestor, path, endpoint];
        let says_something = |pattern: &String| pattern.chars().any(|character| !matches!(character, '*' | '?' | '/'));
        if !keys.into_iter().flatten().any(says_something) {
            return Err(format!(
                "{place}: the condition holds for everything; give at least one of executable, command, \
                 working_directory, ancestor, path and endpoint more than `*`"
            ));
        }
        let glob = |pattern: &Option<String>| pattern.as_ref().map(|pattern| Glob::new(pattern.as_bytes(), false));
        Ok(Self {
            executable: glob(executable),
            command: glob(command),
            working_directory: glob(working_directory),
            ancestor: glob(ancestor),
            path: glob(path),
            endpoint: glob(endpoint),
        })
    }

    fn is_match(&self, alert: &Alert) -> bool {
        let process = alert.process.as_ref();
        let holds = |glob: &Option<Glob>, text: &dyn Fn() -> Option<String>| match glob {
            Some(glob) => text().is_some_and(|text| glob.is_match(text.as_bytes())),
            None => true,
        };
        let is_ancestor = |glob: &Glob| {
            alert.ancestors.iter().any(|ancestor| {
                glob.is_match(ancestor.executable.as_bytes()) || glob.is_match(ancestor.args.join(" ").as_bytes())
            })
        };
        holds(&self.executable, &|| Some(process?.executable.clone()))
            && holds(&self.command, &|| Some(process?.args.join(" ")))
            && holds(&self.working_directory, &|| Some(process?.cwd.clone()))
            && self.ancestor.as_ref().is_none_or(is_ancestor)
            && self.is_path(alert)
            && self.is_endpoint(alert)
    }

    fn is_path(&self, alert: &Alert) -> bool {
        let Some(glob) = &self.path else { return true };
        match alert.event.as_ref().and_then(|event| event.object.as_ref()) {
            Some(staghound_proto::v1::event::Object::File(file)) => {
                // Of a rename or a link both names must be covered: the other one may be what matters.
                glob.is_match(file.path.as_bytes())
                    && (file.new_path.is_empty() || glob.is_match(file.new_path.as_bytes()))
            }
            Some(staghound_proto::v1::event::Object::Socket(_)) | None => false,
        }
    }

    fn is_endpoint(&self, alert: &Alert) -> bool {
        let Some(glob) = &self.endpoint else { return true };
        match alert.event.as_ref().and_then(|event| event.object.as_ref()) {
            Some(staghound_proto::v1::event::Object::Socket(socket)) => {
                let address = format!("{}:{}", socket.remote_address, socket.remote_port);
                [address.as_str(), &socket.dns_name, &socket.tls_server_name]
                    .into_iter()
                    .any(|text| !text.is_empty() && glob.is_match(text.as_bytes()))
            }
            Some(staghound_proto::v1::event::Object::File(_)) | None => false,
        }
    }
}

#[cfg(test)]
mod tests;
