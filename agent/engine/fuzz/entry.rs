//! What a fuzzer gives its bytes to. `tests/mutated.rs` gives the same functions damaged rule files, so that they run with
//! every test.

use staghound_engine::compile::Scratch;
use staghound_engine::example::events;
use staghound_engine::ruleset::load;
use staghound_engine::source::Source;
use staghound_engine::syntax;

/// Longer texts take long and find nothing that shorter ones do not.
const BYTES_MAX: usize = 64 << 10;

/// Bytes as a rule file: rules or mistakes, and the compiled rules find in their examples what the plain reading finds.
pub(crate) fn rules(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(loaded) = load(&[Source {
        name: "fuzzed.yaml",
        text,
    }]) else {
        return;
    };
    let ruleset = loaded.ruleset;
    let mut scratch = Scratch::new();
    for rule in ruleset.rules() {
        for example in rule.examples.matching.iter().chain(&rule.examples.missing) {
            for event in example.events().iter().take(3) {
                let mut found = Vec::new();
                ruleset.matches(event, &mut scratch, &mut |rule| found.push(&*rule.id));
                let plain: Vec<&str> = ruleset
                    .rules()
                    .iter()
                    .filter(|rule| !rule.is_correlated() && ruleset.interpret(rule, event))
                    .map(|rule| &*rule.id)
                    .collect();
                assert_eq!(found, plain, "the compiled rules say something else of {event:?}");
            }
        }
    }
}

/// Bytes as a condition and as events: printing and reading again gives the same.
pub(crate) fn condition(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(condition) = syntax::parse(text) {
        let printed = condition.to_string();
        let again = syntax::parse(&printed).map(|again| again.to_string());
        assert_eq!(again.as_deref().ok(), Some(&*printed), "printed otherwise than read");
    }
    let _outcome = events(&Source {
        name: "fuzzed.json",
        text,
    });
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.len() <= BYTES_MAX)
}
