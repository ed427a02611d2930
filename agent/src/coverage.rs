//! `staghound rules coverage`: which ATT&CK techniques rules look for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::PathBuf,
};

use anyhow::Result;
use staghound_engine::{
    attack::{self, Observable},
    ruleset::Rule,
};
use staghound_gate::report::navigator::{self, Layer, Scored};

use crate::packs;

/// Tactics of before the victim's hosts are reached: no rule of ours can look for them.
const ELSEWHERE: [&str; 2] = ["reconnaissance", "resource-development"];

/// As what coverage is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// A layer for ATT&CK Navigator (format 4.5): techniques coloured by how many rules look for them.
    Navigator,
}

/// What the rules cover; yields the report.
///
/// # Errors
/// The rules cannot be read.
pub fn coverage(paths: &[PathBuf], format: Format) -> Result<String> {
    let loaded = packs::load_with_embedded(paths)?;
    let rules = loaded.ruleset.rules();
    match format {
        Format::Table => Ok(table(rules)),
        Format::Navigator => Ok(layer(rules)),
    }
}

/// The rules of each technique.
fn by_technique(rules: &[Rule]) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut covered: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for rule in rules {
        for technique in &rule.attack {
            covered.entry(&technique.id).or_default().insert(&rule.id);
        }
    }
    covered
}

fn table(rules: &[Rule]) -> String {
    let covered = by_technique(rules);
    // A sub-technique that is looked for is its technique looked for, but not the other way round.
    let is_covered = |id: &str| {
        covered.contains_key(id)
            || covered
                .range(id..)
                .take_while(|(other, _)| other.starts_with(id))
                .any(|(other, _)| other[id.len()..].starts_with('.'))
    };
    let mut text = format!(
        "{:<27} {:>8} {:>17} {:>17} {:>6}\n",
        "tactic", "covered", "of the observable", "of those in part", "rules"
    );
    for (tactic, id) in attack::tactics().filter(|(tactic, _)| !ELSEWHERE.contains(tactic)) {
        let of_tactic: Vec<_> = attack::techniques()
            .filter(|technique| technique.tactics.iter().any(|other| &**other == tactic))
            .collect();
        let share = |observable: Observable| {
            let (mut found, mut all) = (0, 0);
            for technique in &of_tactic {
                if attack::observable(&technique.id) == observable {
                    all += 1;
                    found += usize::from(is_covered(&technique.id));
                }
            }
            format!("{found} / {all}")
        };
        let all = of_tactic.iter().filter(|technique| is_covered(&technique.id)).count();
        let used: BTreeSet<&str> = of_tactic
            .iter()
            .filter_map(|technique| covered.get(&*technique.id))
            .flatten()
            .copied()
            .collect();
        // Writing to a string cannot fail.
        let _written = writeln!(
            text,
            "{tactic:<20} {id} {all:>8} {:>17} {:>17} {:>6}",
            share(Observable::Direct),
            share(Observable::Partial),
            used.len()
        );
    }
    let techniques: BTreeSet<&str> = covered.keys().map(|id| id.split('.').next().unwrap_or(id)).collect();
    let _written = writeln!(
        text,
        "\n{} techniques and sub-techniques ({} techniques) of ATT&CK v{} by {} rules; a technique can be of several tactics.\n\
         Observable: on Linux or in containers, by what processes, files and connections do.",
        covered.len(),
        techniques.len(),
        attack::version(),
        rules.len()
    );
    text
}

fn layer(rules: &[Rule]) -> String {
    let covered = by_technique(rules);
    let most = covered.values().map(BTreeSet::len).max().unwrap_or(0);
    let score = |number: usize| u64::try_from(number).expect("no more rules than a u64 can count");
    let techniques: Vec<Scored> = covered
        .iter()
        .map(|(id, rules)| Scored {
            id: (*id).to_owned(),
            score: score(rules.len()),
            comment: rules.iter().copied().collect::<Vec<_>>().join("\n"),
        })
        .collect();
    navigator::layer(
        &Layer {
            name: "Staghound rules",
            description: &format!(
                "Techniques that {} rules look for; the score is the number of rules.",
                rules.len()
            ),
            colours: &["#dbe9ff", "#0b3d91"],
            score_max: score(most),
            legend: &[],
        },
        &techniques,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_layer_is_what_navigator_reads() {
        let layer: Value = serde_json::from_str(&coverage(&[], Format::Navigator).unwrap()).unwrap();
        assert_eq!(layer["versions"]["layer"], "4.5");
        assert_eq!(layer["domain"], "enterprise-attack");
        let techniques = layer["techniques"].as_array().unwrap();
        assert!(techniques.len() > 100);
        let shadow = techniques
            .iter()
            .find(|technique| technique["techniqueID"] == "T1003.008")
            .unwrap();
        assert!(shadow["score"].as_u64().unwrap() >= 1);
        assert!(
            shadow["comment"]
                .as_str()
                .unwrap()
                .contains("credential-access/shadow-read")
        );
    }

    #[test]
    fn every_tactic_on_a_host_has_a_row() {
        let table = coverage(&[], Format::Table).unwrap();
        assert!(
            !table.contains("reconnaissance") && table.contains("impact               TA0040"),
            "{table}"
        );
        assert_eq!(
            table
                .lines()
                .filter(|line| line.contains(" TA00") || line.contains(" TA01"))
                .count(),
            13
        );
    }
}
