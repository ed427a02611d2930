//! `staghound rules explain`: which checks of a rule hold for an event that is written down, and which do not.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use staghound_engine::{
    compile::Scratch,
    example,
    memory::Memory,
    ruleset::{FILE_BYTES_MAX, Found, Rule, Ruleset},
    source::Source,
};

use crate::{packs, rules};

/// How each check of the rule's condition turns out for the events of a file, and whether the rule matches.
///
/// # Errors
/// The rules or the file cannot be read, or there is no such rule.
pub fn explain(paths: &[PathBuf], id: &str, event: &PathBuf) -> Result<String> {
    let loaded = packs::load_with_embedded(paths)?;
    let rule = rules::find(&loaded, id)?;
    let name = event.display().to_string();
    let length = fs::metadata(event)
        .with_context(|| format!("cannot read {name}"))?
        .len();
    if length > FILE_BYTES_MAX as u64 {
        bail!("{name} is longer than {FILE_BYTES_MAX} bytes; write down fewer events");
    }
    let text = fs::read_to_string(event).with_context(|| format!("cannot read {name}"))?;
    explain_text(&loaded.ruleset, rule, &name, &text)
}

fn explain_text(ruleset: &Ruleset, rule: &Rule, name: &str, text: &str) -> Result<String> {
    let events = example::events(&Source { name, text })
        .with_context(|| format!("{name} is not an event: a mapping of fields to values, or a list of them"))?;
    let mut told = format!("{}\n", rule.id);
    let mut scratch = Scratch::new();
    let mut memory = Memory::<()>::default();
    let mut matched = false;
    for (number, event) in (1..).zip(&events) {
        if events.len() > 1 {
            writeln!(told, "\nevent {number}")?;
        }
        for line in ruleset.explain(rule, event) {
            writeln!(told, "  {line}")?;
        }
        let mut now = false;
        ruleset.follow(event, &mut scratch, &mut memory, &mut || (), &mut |found| {
            let (Found::Now(found, _) | Found::Late(found, _)) = found;
            now |= std::ptr::eq(found, rule);
        });
        // A rule that only serves others tells nothing by itself.
        now |= rule.is_silent && !rule.is_correlated() && ruleset.interpret(rule, event);
        if now && (events.len() > 1 || rule.is_correlated()) {
            writeln!(told, "  the rule matches with this event")?;
        }
        matched |= now;
    }
    ruleset.pass_time(u64::MAX, &mut memory, &mut |found| {
        let (Found::Now(found, _) | Found::Late(found, _)) = found;
        matched |= std::ptr::eq(found, rule);
    });
    if rule.is_correlated() {
        writeln!(told, "\ncounted: {}", rule.condition.replace('\n', " "))?;
    }
    writeln!(told, "\n{}", if matched { "matches" } else { "does not match" })?;
    Ok(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rule: &str, event: &str) -> Result<String> {
        let text = format!("- rule: r\n  desc: d\n  output: o\n  severity: low\n{rule}");
        let loaded = staghound_engine::ruleset::load(&[Source {
            name: "r.yaml",
            text: &text,
        }])
        .unwrap();
        explain_text(&loaded.ruleset, &loaded.ruleset.rules()[0], "e.json", event)
    }

    #[test]
    fn the_check_that_decides_is_seen() {
        let rule = "  condition: evt.type = execve and proc.name in (nc, ncat)\n";
        let matching = told(rule, "{\"evt.type\": \"execve\", \"proc.name\": \"nc\"}").unwrap();
        assert_eq!(
            matching,
            "r\n  yes all of\n  yes   evt.type = execve\n  yes   proc.name in (nc, ncat)\n\nmatches\n"
        );
        let missing = told(rule, "{\"evt.type\": \"execve\", \"proc.name\": \"cat\"}").unwrap();
        assert!(missing.contains("no    proc.name in (nc, ncat)"), "{missing}");
        assert!(missing.ends_with("\ndoes not match\n"));
        let error = format!("{:#}", told(rule, "{\"proc.name\": \"cat\"}").unwrap_err());
        assert!(
            error.contains("e.json is not an event") && error.contains("`evt.type`"),
            "{error}"
        );
    }

    #[test]
    fn rules_over_several_events_say_with_which_they_match() {
        let rule = "  sequence: {steps: [proc.name = a, proc.name = b], within: 10s, by: process}\n";
        let events =
            "[{\"evt.type\": \"execve\", \"proc.name\": \"a\"}, {\"evt.type\": \"execve\", \"proc.name\": \"b\"}]";
        let told = told(rule, events).unwrap();
        let (first, second) = told.split_once("event 2").unwrap();
        assert!(
            !first.contains("matches") && second.contains("the rule matches with this event"),
            "{told}"
        );
        assert!(
            told.contains("counted: proc.name = a then proc.name = b within 10 s by process"),
            "{told}"
        );
    }
}
