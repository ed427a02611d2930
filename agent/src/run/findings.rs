//! What was found in a run: alerts, judged one by one and counted together.

use std::collections::{BTreeMap, BTreeSet};

use staghound_engine::ruleset::Severity;
use staghound_gate::policy::{Day, Policy};
use staghound_proto::v1::{self, Decision, FindingClass};

/// Different findings that are kept; more are counted.
pub(super) const KEPT_MAX: usize = 1000;

/// Alerts with the same identity that were judged alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    fingerprint: String,
    scope: String,
    waiver: String,
    decision: i32,
}

struct Finding {
    finding: v1::Finding,
    severity: Severity,
    decision: Decision,
}

/// Findings by what they are.
pub(super) struct Findings<'p> {
    policy: &'p Policy,
    today: Day,
    kept: BTreeMap<Key, Finding>,
    not_kept: u64,
    /// Of those not kept, how many fail the run.
    failed_not_kept: u64,
    used: BTreeSet<String>,
    missed: BTreeSet<String>,
}

impl<'p> Findings<'p> {
    pub(super) fn new(policy: &'p Policy, today: Day) -> Self {
        Self {
            policy,
            today,
            kept: BTreeMap::new(),
            not_kept: 0,
            failed_not_kept: 0,
            used: BTreeSet::new(),
            missed: BTreeSet::new(),
        }
    }

    /// Takes in an alert; yields what the policy says.
    pub(super) fn add(&mut self, alert: v1::Alert, severity: Severity, class: FindingClass) -> Decision {
        let judged = self.policy.judge(&alert, severity, self.today);
        let decision = judged.decision;
        let waiver = judged.waiver.map(|waiver| waiver.id.clone()).unwrap_or_default();
        if !waiver.is_empty() {
            self.used.insert(waiver.clone());
        }
        self.missed.extend(judged.expired.map(|waiver| waiver.id.clone()));
        let times = alert.count.max(1).saturating_add(alert.held_back);
        let last_time = alert.event_time;
        let key = Key {
            fingerprint: alert.fingerprint.clone(),
            scope: judged.scope.to_owned(),
            waiver: waiver.clone(),
            decision: decision.into(),
        };
        if let Some(known) = self.kept.get_mut(&key) {
            known.finding.times = known.finding.times.saturating_add(times);
            known.finding.last_time = last_time;
            return decision;
        }
        if self.kept.len() >= KEPT_MAX && !self.replace_less_than(decision, severity) {
            self.count_not_kept(times, decision);
            return decision;
        }
        let finding = v1::Finding {
            alert: Some(slim(alert)),
            times,
            last_time,
            class: class.into(),
            decision: decision.into(),
            scope: judged.scope.to_owned(),
            reason: judged.reason,
            waiver,
        };
        self.kept.insert(
            key,
            Finding {
                finding,
                severity,
                decision,
            },
        );
        decision
    }

    /// Gives up one finding that matters less, the least of all.
    fn replace_less_than(&mut self, decision: Decision, severity: Severity) -> bool {
        let weight = |finding: &Finding| (is_failed(finding.decision), finding.severity);
        let least = self.kept.iter().min_by_key(|(_, finding)| weight(finding));
        let Some((key, _)) = least.filter(|(_, least)| weight(least) < (is_failed(decision), severity)) else {
            return false;
        };
        let key = key.clone();
        if let Some(given_up) = self.kept.remove(&key) {
            self.count_not_kept(given_up.finding.times, given_up.decision);
        }
        true
    }

    fn count_not_kept(&mut self, times: u64, decision: Decision) {
        self.not_kept += times;
        if is_failed(decision) {
            self.failed_not_kept += times;
        }
    }

    /// Whether anything fails the run.
    pub(super) fn fail(&self) -> bool {
        self.failed_not_kept > 0 || self.kept.values().any(|finding| is_failed(finding.decision))
    }

    /// Why the run fails, one sentence for each finding that does, worst first; empty if it does not.
    pub(super) fn reasons(&self) -> Vec<String> {
        let mut failed: Vec<&Finding> = self
            .kept
            .values()
            .filter(|finding| is_failed(finding.decision))
            .collect();
        failed.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        let mut reasons: Vec<String> = failed
            .into_iter()
            .map(|Finding { finding, .. }| {
                let rule = finding.alert.as_ref().and_then(|alert| alert.rule.as_ref());
                let id = rule.map_or("", |rule| rule.id.as_str());
                format!("{id} in {}: {}", finding.scope, finding.reason)
            })
            .collect();
        if self.failed_not_kept > 0 {
            reasons.push(format!(
                "{} more findings that fail the run, beyond the {KEPT_MAX} that are kept",
                self.failed_not_kept
            ));
        }
        reasons
    }

    /// Waivers that covered nothing, and those that would have if they were not over.
    pub(super) fn unused_waivers(&self) -> Vec<v1::UnusedWaiver> {
        self.policy
            .waivers()
            .iter()
            .filter(|waiver| !self.used.contains(&waiver.id))
            .map(|waiver| {
                let missed = self.missed.contains(&waiver.id);
                let expired = waiver.expires < self.today;
                let reason = match (missed, expired) {
                    (true, _) => "it is over, and what it covered counts; renew it or mend what was found",
                    (false, true) => "it is over, and nothing met it; remove it",
                    (false, false) => "nothing met it",
                };
                v1::UnusedWaiver {
                    id: waiver.id.clone(),
                    owner: waiver.owner.clone(),
                    reason: reason.to_owned(),
                    expired,
                }
            })
            .collect()
    }

    /// Those that are kept, worst first, and the number of the others.
    pub(super) fn into_messages(self) -> (Vec<v1::Finding>, u64) {
        let mut kept: Vec<Finding> = self.kept.into_values().collect();
        kept.sort_by_key(|finding| {
            let began = finding.finding.alert.as_ref().map_or(0, |alert| alert.boot_time_ns);
            (
                std::cmp::Reverse((is_failed(finding.decision), finding.severity)),
                began,
            )
        });
        (kept.into_iter().map(|finding| finding.finding).collect(), self.not_kept)
    }
}

fn is_failed(decision: Decision) -> bool {
    decision == Decision::Failed
}

/// Ancestors that a report shows of each finding, the nearest ones.
const ANCESTORS_MAX: usize = 24;

/// What a report shows of an alert: of ancestors who they are and what they were asked, of nobody the environment.
fn slim(mut alert: v1::Alert) -> v1::Alert {
    alert.ancestors.truncate(ANCESTORS_MAX);
    for ancestor in &mut alert.ancestors {
        *ancestor = v1::Process {
            pid: ancestor.pid,
            exec_id: std::mem::take(&mut ancestor.exec_id),
            name: std::mem::take(&mut ancestor.name),
            executable: std::mem::take(&mut ancestor.executable),
            args: std::mem::take(&mut ancestor.args),
            cwd: std::mem::take(&mut ancestor.cwd),
            ..v1::Process::default()
        };
    }
    if let Some(process) = &mut alert.process {
        process.env = Vec::new();
    }
    alert
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(fingerprint: &str) -> v1::Alert {
        v1::Alert {
            fingerprint: fingerprint.to_owned(),
            count: 2,
            ..v1::Alert::default()
        }
    }

    fn today() -> Day {
        Day::parse("2026-06-15").unwrap()
    }

    fn add(findings: &mut Findings<'_>, fingerprint: &str, severity: Severity) -> Decision {
        findings.add(alert(fingerprint), severity, FindingClass::Rule)
    }

    #[test]
    fn findings_are_counted_and_those_that_fail_are_kept() {
        let policy = Policy::failing_on(Severity::High);
        let mut findings = Findings::new(&policy, today());
        add(&mut findings, "a", Severity::Low);
        add(&mut findings, "a", Severity::Low);
        assert!(!findings.fail());
        assert_eq!(findings.kept.values().next().unwrap().finding.times, 4);
        for index in 0..2 * KEPT_MAX {
            add(&mut findings, &index.to_string(), Severity::Medium);
        }
        assert!(!findings.fail());
        assert_eq!(add(&mut findings, "fatal", Severity::High), Decision::Failed);
        assert!(findings.fail());
        assert_eq!(findings.kept.len(), KEPT_MAX);
        assert_eq!(findings.reasons().len(), 1);
        let (kept, not_kept) = findings.into_messages();
        assert_eq!(kept[0].alert.as_ref().unwrap().fingerprint, "fatal");
        assert_eq!(kept[0].decision(), Decision::Failed);
        assert!(not_kept > 0);
    }

    #[test]
    fn more_than_can_be_kept_still_fails() {
        let policy = Policy::failing_on(Severity::High);
        let mut findings = Findings::new(&policy, today());
        for index in 0..2 * KEPT_MAX {
            add(&mut findings, &index.to_string(), Severity::Critical);
        }
        assert_eq!(findings.reasons().len(), KEPT_MAX + 1);
        assert_eq!(findings.failed_not_kept, 2 * KEPT_MAX as u64);
    }

    #[test]
    fn the_same_behaviour_under_another_judgement_is_another_finding() {
        let text = "version: 1\nwaivers:\n  - {id: W, owner: o, reason: r, expires: 2026-06-15, rule: a/b, \
                    where: {ancestor: /bin/make}}\n  - {id: V, owner: o, reason: r, expires: 2020-01-01, rule: a/b, \
                    where: {ancestor: /bin/ninja}}\n  - {id: U, owner: o, reason: r, expires: 2030-01-01, rule: c, \
                    where: {path: /x}}\n";
        let policy = Policy::parse(std::path::Path::new("p.yaml"), text).unwrap();
        let mut findings = Findings::new(&policy, today());
        let below = |executable: &str| v1::Alert {
            rule: Some(v1::RuleRef {
                id: "a/b".to_owned(),
                ..v1::RuleRef::default()
            }),
            ancestors: vec![v1::Process {
                executable: executable.to_owned(),
                env: vec!["SECRET=1".to_owned()],
                ..v1::Process::default()
            }],
            ..alert("same")
        };
        for (executable, expected) in [
            ("/bin/make", Decision::Waived),
            ("/bin/sh", Decision::Failed),
            ("/bin/ninja", Decision::Failed),
        ] {
            let decision = findings.add(below(executable), Severity::High, FindingClass::Rule);
            assert_eq!(decision, expected, "{executable}");
        }
        assert!(findings.fail());
        let unused: Vec<_> = findings
            .unused_waivers()
            .into_iter()
            .map(|waiver| (waiver.id, waiver.expired))
            .collect();
        assert_eq!(unused, [("V".to_owned(), true), ("U".to_owned(), false)]);
        let (kept, _) = findings.into_messages();
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[1].waiver, "W");
        assert_eq!(kept[0].alert.as_ref().unwrap().ancestors[0].env, [""; 0]);
    }
}
