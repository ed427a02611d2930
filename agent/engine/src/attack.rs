//! ATT&CK techniques by id. Versioned data, not code: `data/attack-enterprise-v19.1.json`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

const DATA: &str = include_str!("../data/attack-enterprise-v19.1.json");

/// A technique or sub-technique.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Technique {
    /// Identifier, such as `T1003.008`.
    pub id: Box<str>,
    /// Name, such as `/etc/passwd and /etc/shadow`. Empty when the data does not know the technique.
    pub name: Box<str>,
    /// Short names of its tactics, such as `credential-access`.
    pub tactics: Box<[Box<str>]>,
}

/// Whether what a technique does can be seen by watching processes, files and connections of a Linux host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observable {
    /// It can.
    Direct,
    /// Some ways of doing it can, or it only looks like something else.
    Partial,
    /// It cannot, or it is not done on Linux or in containers.
    No,
}

/// What an id means to the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A technique of this version.
    Known(&'static Technique),
    /// An id of version 18 that has another one now.
    Renumbered(&'static Technique),
    /// Not in the data.
    Unknown,
}

struct Attack {
    version: String,
    notice: String,
    tactics: BTreeMap<String, String>,
    techniques: BTreeMap<Box<str>, Technique>,
    observable: BTreeMap<Box<str>, Observable>,
    renumbered: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct File {
    attack_version: String,
    notice: String,
    tactics: BTreeMap<String, String>,
    v18_to_v19_renumbering: BTreeMap<String, String>,
    techniques: Vec<FileTechnique>,
}

#[derive(Deserialize)]
struct FileTechnique {
    id: Box<str>,
    name: Box<str>,
    tactics: Box<[Box<str>]>,
    platforms: Vec<String>,
    /// Of those that are done on Linux.
    runtime_observable: Option<Observable>,
}

fn attack() -> &'static Attack {
    static ATTACK: OnceLock<Attack> = OnceLock::new();
    ATTACK.get_or_init(|| {
        let file: File = serde_json::from_str(DATA).expect("the data file is part of the build and tested");
        let mut techniques = BTreeMap::new();
        let mut observable = BTreeMap::new();
        for technique in file.techniques {
            let FileTechnique {
                id,
                name,
                tactics,
                platforms,
                runtime_observable,
            } = technique;
            let is_ours = platforms
                .iter()
                .any(|platform| platform == "Linux" || platform == "Containers");
            let seen = runtime_observable.filter(|_| is_ours).unwrap_or(Observable::No);
            observable.insert(id.clone(), seen);
            techniques.insert(id.clone(), Technique { id, name, tactics });
        }
        Attack {
            version: file.attack_version,
            notice: file.notice,
            tactics: file.tactics,
            techniques,
            observable,
            renumbered: file.v18_to_v19_renumbering,
        }
    })
}

/// The version of the data, such as `19.1`.
pub fn version() -> &'static str {
    &attack().version
}

/// The notice that goes with the data.
pub fn notice() -> &'static str {
    &attack().notice
}

/// Short name and id of every tactic, such as `credential-access` and `TA0006`, by name.
pub fn tactics() -> impl Iterator<Item = (&'static str, &'static str)> {
    attack().tactics.iter().map(|(name, id)| (name.as_str(), id.as_str()))
}

/// Every technique, by id.
pub fn techniques() -> impl Iterator<Item = &'static Technique> {
    attack().techniques.values()
}

/// Whether a technique of the data can be seen where we look; by its id.
pub fn observable(id: &str) -> Observable {
    attack().observable.get(id).copied().unwrap_or(Observable::No)
}

/// Looks an id up, in its old spelling too.
pub fn lookup(id: &str) -> Lookup {
    let attack = attack();
    if let Some(technique) = attack.techniques.get(id) {
        return Lookup::Known(technique);
    }
    match attack
        .renumbered
        .get(id)
        .and_then(|new| attack.techniques.get(new.as_str()))
    {
        Some(technique) => Lookup::Renumbered(technique),
        None => Lookup::Unknown,
    }
}

/// Whether `text` has the form of a technique id: `T` and four digits, a dot and three digits for a sub-technique.
pub fn is_technique_id(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = text.strip_prefix('T') else {
        return false;
    };
    match number.split_once('.') {
        Some((technique, sub)) => digits(technique, 4) && digits(sub, 3),
        None => digits(number, 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn techniques_are_found() {
        let Lookup::Known(technique) = lookup("T1003.008") else {
            panic!("T1003.008 is in the data")
        };
        assert_eq!(&*technique.name, "/etc/passwd and /etc/shadow");
        assert_eq!(&*technique.tactics, &["credential-access".into()]);
        assert_eq!(lookup("T9999"), Lookup::Unknown);
        assert_eq!(observable("T1003.008"), Observable::Direct);
        assert_eq!(observable("T9999"), Observable::No);
        // Of Windows alone.
        assert_eq!(observable("T1003.001"), Observable::No);
    }

    #[test]
    fn old_ids_lead_to_new_ones() {
        let Lookup::Renumbered(technique) = lookup("T1562.004") else {
            panic!("T1562.004 was renumbered")
        };
        assert_eq!(&*technique.id, "T1686");
        for (old, new) in &attack().renumbered {
            assert!(
                matches!(lookup(new), Lookup::Known(_)),
                "{old} leads to {new}, which is not in the data"
            );
        }
    }

    #[test]
    fn every_tactic_of_a_technique_is_known() {
        let known: Vec<&str> = tactics().map(|(name, _)| name).collect();
        for technique in techniques() {
            assert!(is_technique_id(&technique.id), "{}", technique.id);
            for tactic in &technique.tactics {
                assert!(known.contains(&&**tactic), "{tactic} of {}", technique.id);
            }
        }
        assert_eq!(version(), "19.1");
        assert!(notice().contains("MITRE"));
    }

    #[test]
    fn ids_have_a_form() {
        for (text, expected) in [
            ("T1059", true),
            ("T1059.004", true),
            ("T105", false),
            ("T1059.4", false),
            ("mitre_T1059", false),
            ("TA0006", false),
        ] {
            assert_eq!(is_technique_id(text), expected, "{text}");
        }
    }
}
