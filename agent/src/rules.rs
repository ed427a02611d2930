//! `staghound rules`: checks, lists, shows and explains rules and fields.

pub mod explain;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Result, bail};
use staghound_engine::{
    field::{ArgKind, Field, Supply},
    ruleset::{Inactivity, Loaded, Rule},
};

use crate::packs;

/// Reads rules as `observe` would, and tells what is wrong with them; yields the report.
///
/// # Errors
/// The rules have mistakes, or an example of theirs does not do what it says.
pub fn check(paths: &[PathBuf], alone: bool) -> Result<String> {
    let mut packs = if alone && !paths.is_empty() {
        Vec::new()
    } else {
        packs::embedded()
    };
    packs.extend(packs::in_paths(paths)?);
    let loaded = packs::load(&packs)?;
    let mut report = String::new();
    for warning in &loaded.warnings {
        writeln!(report, "warning: {warning}")?;
    }
    for inactive in &loaded.inactive {
        writeln!(report, "{inactive}")?;
    }
    examples(&loaded)?;
    report += &counts(&loaded);
    Ok(report)
}

fn counts(loaded: &Loaded) -> String {
    let active = loaded.ruleset.rules().len();
    let of = |why| loaded.inactive.iter().filter(|inactive| inactive.why == why).count();
    let told = |reasons: &[(Inactivity, &str)]| -> Vec<String> {
        let found = reasons.iter().filter(|(why, _)| of(*why) > 0);
        found.map(|(why, text)| format!("{} {text}", of(*why))).collect()
    };
    let unsupported = [
        (
            Inactivity::Field,
            "need a field or a modifier this version does not supply",
        ),
        (Inactivity::Event, "need an event this version does not record"),
        (Inactivity::Key, "need a key this version cannot act on"),
        (Inactivity::Unsatisfiable, "can never match"),
        (Inactivity::Rule, "count matches of a rule that does not run"),
    ];
    let mut reasons = told(&[
        (Inactivity::Disabled, "disabled in their file"),
        (Inactivity::Source, "not applicable, being for another source"),
    ]);
    let count: usize = unsupported.iter().map(|(why, _)| of(*why)).sum();
    if count > 0 {
        reasons.push(format!("{count} unsupported: {}", told(&unsupported).join(", ")));
    }
    let examples: usize = loaded
        .ruleset
        .rules()
        .iter()
        .map(|rule| rule.examples.matching.len() + rule.examples.missing.len())
        .sum();
    let mut text = format!("{active} rules active, {} inactive", loaded.inactive.len());
    if !reasons.is_empty() {
        text += &format!(" ({})", reasons.join(", "));
    }
    text + &format!(
        "; {examples} examples do what they say; {} warnings\n",
        loaded.warnings.len()
    )
}

/// One line for each rule, in the order of loading.
///
/// # Errors
/// The rules cannot be read.
pub fn list(paths: &[PathBuf], markdown: bool) -> Result<String> {
    let loaded = packs::load_with_embedded(paths)?;
    let mut text = String::new();
    if markdown {
        text += "## Rules\n\n| rule | severity | techniques | what it looks for |\n|---|---|---|---|\n";
    }
    for rule in loaded.ruleset.rules() {
        if markdown {
            let row = [&*rule.id, rule.severity.name(), &techniques(rule), &rule.name]
                .map(cell)
                .join(" | ");
            writeln!(text, "| {row} |")?;
        } else {
            writeln!(
                text,
                "{:<55} {:<13} {:<22} {}",
                rule.id,
                rule.severity,
                techniques(rule),
                rule.name
            )?;
        }
    }
    Ok(text)
}

fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

fn techniques(rule: &Rule) -> String {
    rule.attack
        .iter()
        .map(|technique| &*technique.id)
        .collect::<Vec<_>>()
        .join(",")
}

/// The rule of this id or name.
///
/// # Errors
/// There is none, or it does not run.
pub(crate) fn find<'l>(loaded: &'l Loaded, id: &str) -> Result<&'l Rule> {
    let rules = loaded.ruleset.rules();
    let Some(rule) = rules.iter().find(|rule| &*rule.id == id || &*rule.name == id) else {
        if let Some(inactive) = loaded.inactive.iter().find(|inactive| &*inactive.rule == id) {
            bail!("{inactive}");
        }
        let like: Vec<&str> = rules
            .iter()
            .map(|rule| &*rule.id)
            .filter(|other| other.contains(id))
            .take(10)
            .collect();
        let hint = if like.is_empty() {
            "`staghound rules list` lists them".to_owned()
        } else {
            format!("did you mean {}?", like.join(", "))
        };
        bail!("there is no rule `{id}`; {hint}");
    };
    Ok(rule)
}

/// Runs the examples of all rules; yields how many there are.
///
/// # Errors
/// The rules have mistakes, or an example of theirs does not do what it says.
pub fn test(paths: &[PathBuf]) -> Result<String> {
    let loaded = packs::load_with_embedded(paths)?;
    examples(&loaded)?;
    let rules = loaded.ruleset.rules();
    let of = |rule: &&Rule| rule.examples.matching.len() + rule.examples.missing.len();
    let without = rules.iter().filter(|rule| of(rule) == 0).count();
    Ok(format!(
        "{} examples of {} rules do what they say; {without} rules have none\n",
        rules.iter().map(|rule| of(&rule)).sum::<usize>(),
        rules.len() - without
    ))
}

fn examples(loaded: &Loaded) -> Result<()> {
    let failures = loaded.ruleset.check_all_examples();
    if failures.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = failures.iter().map(ToString::to_string).collect();
    bail!(
        "{}\n{} examples do not do what they say; mend the rules or their examples",
        told.join("\n"),
        failures.len()
    );
}

/// Everything about one rule.
///
/// # Errors
/// The rules cannot be read, or there is no such rule.
pub fn show(paths: &[PathBuf], id: &str) -> Result<String> {
    let loaded = packs::load_with_embedded(paths)?;
    let rule = find(&loaded, id)?;
    let mut text = String::new();
    writeln!(text, "{}\n", rule.name)?;
    let mut row = |label: &str, value: &str| {
        if value.is_empty() {
            return Ok(());
        }
        writeln!(
            text,
            "{label:<12} {}",
            value.trim_end().replace('\n', "\n             ")
        )
    };
    row("id", &rule.id)?;
    row("severity", rule.severity.name())?;
    for technique in &rule.attack {
        row(
            "technique",
            &format!("{} {} ({})", technique.id, technique.name, technique.tactics.join(", ")),
        )?;
    }
    row("why", &rule.description)?;
    row("condition", &rule.condition)?;
    row(
        "events",
        &rule
            .kinds
            .iter()
            .flat_map(|kind| kind.event_types())
            .copied()
            .collect::<Vec<_>>()
            .join(", "),
    )?;
    row("remediation", &rule.remediation)?;
    row("tags", &rule.tags.join(", "))?;
    row("references", &rule.references.join("\n"))?;
    row("defined in", &format!("{}:{}", rule.source, rule.line))?;
    Ok(text)
}

/// Every field that conditions and outputs may use.
#[must_use]
pub fn fields(markdown: bool) -> String {
    let mut text = String::new();
    if markdown {
        text += "## Fields\n\n| field | type | what it is |\n|---|---|---|\n";
    }
    for field in Field::ALL {
        let name = match field.arg_kind() {
            ArgKind::None => field.name().to_owned(),
            ArgKind::OptionalIndex => format!("{}[n]?", field.name()),
            ArgKind::RequiredIndex => format!("{}[n]", field.name()),
            ArgKind::OptionalKey => format!("{}[name]?", field.name()),
            ArgKind::RequiredKey => format!("{}[name]", field.name()),
        };
        let supply = match field.supply() {
            Supply::Now => "",
            Supply::Cluster => " (in containers and clusters, in a later version)",
            Supply::Later => " (not supplied by this version)",
        };
        let doc = format!("{}{supply}", field.doc());
        let line = if markdown {
            format!("| `{name}` | {} | {} |\n", field.ty().name(), cell(&doc))
        } else {
            format!("{name:<42} {:<15} {doc}\n", field.ty().name())
        };
        text += &line;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_pack_checks_lists_and_shows() {
        assert!(check(&[], false).unwrap().contains("0 inactive"));
        let list = list(&[], true).unwrap();
        assert!(list.lines().count() > 30);
        let id = list
            .lines()
            .nth(4)
            .unwrap()
            .split('|')
            .nth(1)
            .unwrap()
            .trim()
            .to_owned();
        assert!(show(&[], &id).unwrap().contains("remediation"));
        assert!(
            show(&[], "no-such-rule")
                .unwrap_err()
                .to_string()
                .contains("there is no rule")
        );
        assert!(fields(false).contains("proc.aname[n]?"));
    }
}
