//! `staghound policy`: show, check and explain policies.

use std::{fmt::Write as _, path::Path, time::SystemTime};

use anyhow::{Result, bail};
use staghound_engine::ruleset::Severity;
use staghound_gate::{
    decision_name, mode_name,
    policy::{self, Day, Policy},
};
use staghound_proto::{
    text,
    v1::{self, Decision},
};

use crate::{packs, report, run};

/// The default policy, to begin one's own with.
#[must_use]
pub fn show() -> &'static str {
    policy::DEFAULT
}

/// Reads the policy as `staghound run` would, and tells what it says; fails where a rule it names is not loaded or a waiver
/// is over, since the first says nothing and the second does nothing.
///
/// # Errors
/// The policy cannot be read, has a mistake, or says something that means nothing today.
pub fn check(path: &Path, rules: &[std::path::PathBuf], now: SystemTime) -> Result<String> {
    let policy = run::read_policy(path)?;
    let loaded = packs::load_with_embedded(rules)?;
    let is_known = |id: &str| run::is_own_rule(id) || loaded.ruleset.rules().iter().any(|rule| &*rule.id == id);
    let today = Day::of(now);
    let mut problems: Vec<String> = policy
        .unknown_rules(is_known)
        .map(|rule| {
            format!(
                "no rule `{}` is loaded; `staghound rules list` names those that are",
                text::escape(rule)
            )
        })
        .collect();
    problems.extend(
        policy
            .waivers()
            .iter()
            .filter(|waiver| waiver.expires < today)
            .map(|waiver| {
                format!(
                    "waiver `{}` of {} is over; renew it or remove it",
                    text::escape(&waiver.id),
                    text::escape(&waiver.owner)
                )
            }),
    );
    if !problems.is_empty() {
        bail!("{}: {}", path.display(), problems.join("\n"));
    }
    Ok(format!(
        "{}: policy `{}` is sound: mode {}, scopes {}, {} waivers, {}\n",
        path.display(),
        text::escape(policy.name()),
        mode_name(policy.mode()),
        policy.scopes().map(text::escape).collect::<Vec<_>>().join(", "),
        policy.waivers().len(),
        policy.material().digest
    ))
}

/// What a policy makes of the findings of a run that was reported, one line each, with the reason. Without a policy: the
/// default one.
///
/// # Errors
/// Policy or report cannot be read.
pub fn explain(policy: Option<&Path>, stored: &Path, now: SystemTime) -> Result<String> {
    let policy = match policy {
        Some(path) => run::read_policy(path)?,
        None => Policy::default_policy(),
    };
    let run = report::read(stored)?;
    let today = Day::of(now);
    let mut explained = String::new();
    let mut failed = 0_usize;
    for finding in &run.findings {
        let alert = finding.alert.clone().unwrap_or_default();
        let rule = alert.rule.as_ref().map_or("", |rule| rule.id.as_str());
        let Some(severity) = severity(alert.severity()) else {
            bail!(
                "{}: the finding of `{}` has no severity; was it written by a newer version?",
                stored.display(),
                text::escape(rule)
            );
        };
        let judged = policy.judge(&alert, severity, today);
        failed += usize::from(judged.decision == Decision::Failed);
        let was = finding.decision();
        let was = if was == judged.decision || was == Decision::Unspecified {
            String::new()
        } else {
            format!(" (the run's own policy: {})", decision_name(was))
        };
        writeln!(
            explained,
            "{:<9} {severity:<13} {} in {}: {}{was}",
            decision_name(judged.decision),
            text::escape(rule),
            text::escape(judged.scope),
            text::escape(&judged.reason),
        )?;
    }
    let more = match run.findings_not_kept {
        0 => String::new(),
        more => format!("; {more} more are not in the report"),
    };
    writeln!(
        explained,
        "{failed} of {} findings fail under policy `{}`{more}",
        run.findings.len(),
        text::escape(policy.name())
    )?;
    Ok(explained)
}

fn severity(severity: v1::Severity) -> Option<Severity> {
    match severity {
        v1::Severity::Unspecified => None,
        v1::Severity::Informational => Some(Severity::Informational),
        v1::Severity::Low => Some(Severity::Low),
        v1::Severity::Medium => Some(Severity::Medium),
        v1::Severity::High => Some(Severity::High),
        v1::Severity::Critical => Some(Severity::Critical),
    }
}
