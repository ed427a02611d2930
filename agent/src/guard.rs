//! Alerts about the agent itself: what it put into the kernel was changed by somebody else.
//!
//! No rule can tell of it, since no event does: what was changed is found by looking, once a second.

use std::{collections::BTreeSet, time::SystemTime};

use sha2::{Digest as _, Sha256};
use staghound_engine::attack::{self, Lookup};
use staghound_proto::v1::{self, GapReason, ObservationGap, item};

use crate::{alert::Origin, event::printable, sensor::Tampering, spool::queue::observation_gap};

/// Identity of the alerts, as a rule's.
pub const RULE: &str = "defense-impairment/agent-tampering";
/// ATT&CK: Disable or Modify Tools.
const TECHNIQUE: &str = "T1685";
/// Most tamperings that are told of at once; there are no more links and maps than that, many times over.
const TOLD_MAX: usize = 64;

/// Remembers what was told, so that what stays changed is told once.
#[derive(Debug, Default)]
pub struct Guard {
    standing: BTreeSet<(String, String)>,
}

impl Guard {
    /// What is to be said of what was found at this look. `from` is when the last look was, `to` when this one.
    pub fn tell(
        &mut self,
        found: Vec<Tampering>,
        origin: &Origin,
        (from, to): (SystemTime, SystemTime),
        boot_time_ns: u64,
    ) -> Vec<v1::Item> {
        let mut items = Vec::new();
        let mut standing = BTreeSet::new();
        for tampering in found.into_iter().take(TOLD_MAX) {
            let key = (tampering.what.clone(), tampering.found.clone());
            if !self.standing.contains(&key) && !standing.contains(&key) {
                tracing::error!("somebody changed what the agent put into the kernel: {tampering}");
                items.push(v1::Item {
                    kind: Some(item::Kind::Alert(alert(&tampering, origin, to, boot_time_ns))),
                });
                // What happened since the last look may not have been seen.
                items.push(observation_gap(ObservationGap {
                    from: Some(from.into()),
                    to: Some(to.into()),
                    hook: tampering.what,
                    count: 0,
                    reason: GapReason::HookMissing.into(),
                }));
            }
            standing.insert(key);
        }
        self.standing = standing;
        items
    }
}

fn alert(tampering: &Tampering, origin: &Origin, at: SystemTime, boot_time_ns: u64) -> v1::Alert {
    let mut hasher = Sha256::new();
    hasher.update(RULE.as_bytes());
    hasher.update([0]);
    hasher.update(tampering.what.as_bytes());
    let fingerprint = hasher.finalize()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (Lookup::Known(technique) | Lookup::Renumbered(technique)) = attack::lookup(TECHNIQUE) else {
        unreachable!("the technique is in the data, as a test shows")
    };
    v1::Alert {
        fingerprint,
        event_time: Some(at.into()),
        boot_time_ns,
        rule: Some(v1::RuleRef {
            id: RULE.to_owned(),
            name: "Staghound's programs or maps changed".to_owned(),
            description: "A program in the kernel was detached or replaced, or a map that tells the programs what to \
                          report was changed, by somebody other than the agent."
                .to_owned(),
            remediation: "Treat what this host did since then as unseen, and find who has CAP_BPF or can act inside \
                          the agent's process. Start the agent again if it could not repair the change."
                .to_owned(),
            tags: ["host", "ci", "self"].map(str::to_owned).to_vec(),
            ruleset_digest: origin.ruleset_digest.to_string(),
        }),
        severity: v1::Severity::Critical.into(),
        techniques: vec![v1::Technique {
            id: technique.id.to_string(),
            name: technique.name.to_string(),
            tactics: technique.tactics.iter().map(ToString::to_string).collect(),
        }],
        message: printable(tampering.to_string().as_bytes()),
        host: Some(origin.host.clone()),
        run_id: origin.run_id.clone(),
        count: 1,
        ..v1::Alert::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn found(what: &str, found: &str) -> Tampering {
        Tampering {
            what: what.to_owned(),
            found: found.to_owned(),
            repaired: Ok(()),
        }
    }

    fn origin() -> Origin {
        Origin {
            host: v1::Host::default(),
            run_id: "r".to_owned(),
            ruleset_digest: "sha256:x".into(),
        }
    }

    #[test]
    fn a_change_is_told_once_with_a_gap_and_again_when_it_comes_back() {
        let mut guard = Guard::default();
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let times = (from, from + Duration::from_secs(1));
        let mut tell = |found: Vec<Tampering>| guard.tell(found, &origin(), times, 7);
        assert_eq!(tell(Vec::new()), []);
        let link = || found("link of process_exec", "it was detached");
        let items = tell(vec![link(), found("map SYSCALLS", "1\u{7}elements were changed")]);
        let [
            Some(item::Kind::Alert(alert)),
            Some(item::Kind::Gap(gap)),
            Some(item::Kind::Alert(other)),
            Some(_),
        ] = [0, 1, 2, 3].map(|index| items[index].kind.clone())
        else {
            panic!("{items:#?}")
        };
        assert_eq!(alert.message, "link of process_exec: it was detached; repaired");
        assert_eq!(other.message, "map SYSCALLS: 1\\x07elements were changed; repaired");
        assert_ne!(alert.fingerprint, other.fingerprint);
        assert_eq!(alert.techniques[0].tactics, ["defense-impairment"]);
        assert_eq!((alert.severity(), alert.boot_time_ns), (v1::Severity::Critical, 7));
        assert_eq!(alert.rule.unwrap().ruleset_digest, "sha256:x");
        let Some(v1::gap::Kind::Observation(gap)) = gap.kind else {
            panic!("{items:#?}")
        };
        assert_eq!(gap.hook, "link of process_exec");
        assert_eq!((gap.from, gap.to), (Some(times.0.into()), Some(times.1.into())));

        assert_eq!(tell(vec![link()]), [], "it stays as it was");
        assert_eq!(tell(vec![link(), link()]), []);
        assert_eq!(tell(Vec::new()), []);
        assert_eq!(tell(vec![link()]).len(), 2, "it was put right, and was changed again");
    }

    #[test]
    fn what_is_told_of_is_bounded() {
        let many = (0..10_000).map(|number| found("map ACTIONS", &number.to_string()));
        let now = SystemTime::now();
        let items = Guard::default().tell(many.collect(), &origin(), (now, now), 0);
        assert_eq!(items.len(), 2 * TOLD_MAX);
    }
}
