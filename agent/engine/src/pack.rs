//! Rule files read into definitions: lists, macros and rules, with appends, overrides and exceptions merged.
//!
//! Conditions are still text here; names in them are resolved by `check`.

use std::collections::HashMap;

use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::source::{Files, Place, Text};
use crate::yaml::{Node, Value};

/// Everything that was defined, in the order of definition.
#[derive(Default)]
pub(crate) struct Pack {
    pub(crate) lists: Vec<List>,
    pub(crate) macros: Vec<Macro>,
    pub(crate) rules: Vec<Definition>,
    /// Documents in the language of Sigma.
    pub(crate) sigma: Vec<Node>,
    list_names: HashMap<String, usize>,
    macro_names: HashMap<String, usize>,
    rule_names: HashMap<String, usize>,
    /// Counts objects: what is defined later is not visible to what was defined before.
    objects: usize,
}

/// A list of values.
pub(crate) struct List {
    pub(crate) name: String,
    pub(crate) items: Vec<(String, Place)>,
    pub(crate) index: usize,
    pub(crate) visibility: usize,
}

/// A named condition.
pub(crate) struct Macro {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) condition: Text,
    pub(crate) index: usize,
    pub(crate) visibility: usize,
}

/// A rule as written.
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) condition: Option<Text>,
    pub(crate) output: Text,
    pub(crate) description: String,
    pub(crate) priority: Option<(String, Place)>,
    pub(crate) severity: Option<(String, Place)>,
    pub(crate) id: Option<(String, Place)>,
    pub(crate) source: String,
    pub(crate) enabled: bool,
    pub(crate) tags: Vec<(String, Place)>,
    pub(crate) attack: Vec<(String, Place)>,
    pub(crate) remediation: String,
    pub(crate) references: Vec<String>,
    pub(crate) exceptions: Vec<Exception>,
    pub(crate) throttle: Option<Node>,
    pub(crate) sequence: Option<Node>,
    pub(crate) threshold: Option<Node>,
    pub(crate) examples: Option<Node>,
    /// Keys this version reads but cannot yet act on.
    pub(crate) later: Option<(&'static str, Place)>,
}

/// When a rule does not apply.
#[derive(Clone)]
pub(crate) struct Exception {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) fields: Fields,
    pub(crate) values: Vec<(ExceptionValue, Place)>,
}

/// The columns of an exception.
#[derive(Clone)]
pub(crate) enum Fields {
    /// One field and the operator that takes all values at once.
    One(String, String),
    /// Several fields, each with its operator.
    Tuple(Vec<(String, String)>),
}

/// An entry of an exception: a scalar, or one value or list of values per field.
#[derive(Clone)]
pub(crate) enum ExceptionValue {
    Scalar(String),
    Tuple(Vec<TupleValue>),
}

/// A value for one field of a tuple.
#[derive(Clone)]
pub(crate) enum TupleValue {
    Scalar(String),
    List(Vec<String>),
}

const LIST_KEYS: &[&str] = &["list", "items", "append", "override"];
const MACRO_KEYS: &[&str] = &["macro", "condition", "append", "override"];
const RULE_KEYS: &[&str] = &[
    "rule",
    "desc",
    "condition",
    "output",
    "priority",
    "source",
    "enabled",
    "tags",
    "exceptions",
    "warn_evttypes",
    "skip-if-unknown-filter",
    "capture",
    "capture_duration",
    "append",
    "override",
    "id",
    "attack",
    "severity",
    "remediation",
    "references",
    "throttle",
    "sequence",
    "threshold",
    "scope",
    "response",
    "examples",
];
const LATER_KEYS: &[&str] = &["scope", "response"];
/// Keys that can stand for a condition.
const CONDITION_KEYS: &[&str] = &["sequence", "threshold"];
/// Keys that `override` may append to.
const APPENDABLE: &[&str] = &[
    "condition",
    "output",
    "desc",
    "tags",
    "exceptions",
    "attack",
    "references",
    "items",
    "examples",
];

/// Reads the definitions of parsed files.
pub(crate) struct Reader<'a, 'f> {
    files: &'f Files<'a>,
    pub(crate) pack: Pack,
    pub(crate) errors: Vec<Diagnostic>,
    pub(crate) warnings: Vec<Diagnostic>,
}

/// A mapping with its place.
type Entries = [(Node, Node)];

/// What `append` and `override` say about one object.
enum Change<'n> {
    Define,
    Append,
    Override(Vec<(&'n str, bool)>),
}

impl<'a, 'f> Reader<'a, 'f> {
    pub(crate) fn new(files: &'f Files<'a>) -> Self {
        Self {
            files,
            pack: Pack::default(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn error(&mut self, place: Place, message: impl Into<String>) {
        self.errors.push(self.files.diagnostic(place, message.into(), None));
    }

    fn error_with(&mut self, place: Place, message: impl Into<String>, help: Option<String>) {
        self.errors.push(self.files.diagnostic(place, message.into(), help));
    }

    fn warn(&mut self, place: Place, message: impl Into<String>, help: Option<String>) {
        self.warnings.push(self.files.diagnostic(place, message.into(), help));
    }

    /// Takes in one document of a file.
    pub(crate) fn document(&mut self, document: &Node) {
        if document.is_null() {
            return;
        }
        if is_sigma(document) {
            self.pack.sigma.push(document.clone());
            return;
        }
        let Value::Sequence(objects) = &document.value else {
            let help = "begin each rule, macro and list with `- `".to_owned();
            let message = format!(
                "a rule file is a list of rules, macros and lists; found {}",
                document.kind()
            );
            self.error_with(document.place, message, Some(help));
            return;
        };
        for object in objects {
            self.pack.objects += 1;
            match &object.value {
                Value::Mapping(entries) => self.object(object, entries),
                Value::Scalar { .. } | Value::Sequence(_) => {
                    let message = format!("expected a rule, a macro or a list; found {}", object.kind());
                    self.error(object.place, message);
                }
            }
        }
    }

    fn object(&mut self, object: &Node, entries: &Entries) {
        let mut seen: Vec<&str> = Vec::new();
        for (key, _) in entries {
            match key.scalar() {
                Some(name) if seen.contains(&name) => self.error(key.place, format!("key `{name}` is given twice")),
                Some(name) => seen.push(name),
                None => self.error(key.place, format!("keys are names; found {}", key.kind())),
            }
        }
        if get(entries, "rule").is_some() {
            self.keys(entries, RULE_KEYS, "rule");
            self.rule(object, entries);
        } else if get(entries, "macro").is_some() {
            self.keys(entries, MACRO_KEYS, "macro");
            self.macro_(object, entries);
        } else if get(entries, "list").is_some() {
            self.keys(entries, LIST_KEYS, "list");
            self.list(object, entries);
        } else if let Some(version) = get(entries, "required_engine_version") {
            self.engine_version(version);
        } else if let Some(plugins) = get(entries, "required_plugin_versions") {
            self.plugin_versions(plugins);
        } else {
            let known = [
                "rule",
                "macro",
                "list",
                "required_engine_version",
                "required_plugin_versions",
            ];
            let help = seen.iter().find_map(|name| did_you_mean(name, known));
            self.error_with(
                object.place,
                "expected a rule, a macro or a list: none of these keys is given",
                help,
            );
        }
    }

    fn keys(&mut self, entries: &Entries, known: &[&str], what: &str) {
        for (key, _) in entries {
            let Some(name) = key.scalar() else { continue };
            if !known.contains(&name) {
                let help = did_you_mean(name, known.iter().copied());
                self.warn(key.place, format!("unknown key `{name}` of a {what} is ignored"), help);
            }
        }
    }

    /// We read the language, not one engine's version of it: what we cannot supply is found rule by rule.
    fn engine_version(&mut self, version: &Node) {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let text = version.scalar().unwrap_or_default();
        let parts: Vec<&str> = text.split('.').collect();
        if !(matches!(parts.len(), 1 | 3) && parts.iter().all(|part| digits(part))) {
            self.error_with(
                version.place,
                format!("required_engine_version `{text}` is not a version"),
                Some("write a number or three numbers with dots, such as 0.57.0".to_owned()),
            );
        }
    }

    fn plugin_versions(&mut self, plugins: &Node) {
        let Value::Sequence(items) = &plugins.value else {
            self.error(
                plugins.place,
                "required_plugin_versions is a list of names and versions",
            );
            return;
        };
        for item in items {
            let named = match &item.value {
                Value::Mapping(entries) => get(entries, "name").is_some() && get(entries, "version").is_some(),
                Value::Scalar { .. } | Value::Sequence(_) => false,
            };
            if !named {
                self.error(item.place, "a required plugin has a `name` and a `version`");
            }
        }
    }

    fn change<'n>(&mut self, entries: &'n Entries) -> Option<Change<'n>> {
        let append = match get(entries, "append") {
            Some(node) => self.flag(node, "append")?,
            None => false,
        };
        let Some(node) = get(entries, "override") else {
            return Some(if append { Change::Append } else { Change::Define });
        };
        if get(entries, "append").is_some() {
            self.error(node.place, "`append` and `override` cannot be given together");
            return None;
        }
        let Value::Mapping(overrides) = &node.value else {
            self.error(node.place, "`override` says `append` or `replace` for each key");
            return None;
        };
        let mut changes = Vec::new();
        for (key, how) in overrides {
            let name = key.scalar().unwrap_or_default();
            if get(entries, name).is_none() {
                self.error(key.place, format!("`override` names `{name}`, which is not given"));
                return None;
            }
            match how.scalar() {
                Some("replace") => changes.push((name, true)),
                Some("append") if APPENDABLE.contains(&name) => changes.push((name, false)),
                Some("append") => {
                    self.error_with(
                        how.place,
                        format!("key `{name}` cannot be appended to"),
                        Some("use `replace`".to_owned()),
                    );
                    return None;
                }
                _ => {
                    self.error(how.place, format!("override of `{name}` must be `append` or `replace`"));
                    return None;
                }
            }
        }
        Some(Change::Override(changes))
    }

    fn flag(&mut self, node: &Node, key: &str) -> Option<bool> {
        match node.scalar().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "yes" | "on") => Some(true),
            Some("false" | "no" | "off") => Some(false),
            _ => {
                self.error(node.place, format!("key `{key}` must be true or false"));
                None
            }
        }
    }

    fn text(&mut self, node: &Node, key: &str) -> Option<String> {
        match node.scalar() {
            Some(text) => Some(text.trim_end().to_owned()),
            None => {
                self.error(node.place, format!("key `{key}` must be text; found {}", node.kind()));
                None
            }
        }
    }

    fn placed(&mut self, node: &Node, key: &str) -> Option<Text> {
        let text = self.text(node, key)?;
        let mut placed = node.placed(self.files);
        placed.truncate(text.len());
        if text.trim().is_empty() && key == "condition" {
            self.error(node.place, "condition is empty");
            return None;
        }
        Some(placed)
    }

    fn texts(&mut self, node: &Node, key: &str) -> Option<Vec<(String, Place)>> {
        let items = match &node.value {
            Value::Sequence(items) => items,
            _ if node.is_null() => return Some(Vec::new()),
            Value::Scalar { .. } | Value::Mapping(_) => {
                self.error(node.place, format!("key `{key}` must be a list; found {}", node.kind()));
                return None;
            }
        };
        let mut texts = Vec::with_capacity(items.len());
        for item in items {
            match item.scalar() {
                Some(text) => texts.push((text.to_owned(), item.place)),
                None => {
                    self.error(
                        item.place,
                        format!("`{key}` holds single values; found {}", item.kind()),
                    );
                    return None;
                }
            }
        }
        Some(texts)
    }

    /// The name of an object, which `key` gives.
    fn name(&mut self, entries: &Entries, key: &str) -> Option<(String, Place)> {
        let node = get(entries, key)?;
        let name = self.text(node, key)?;
        if name.trim().is_empty() {
            self.error(node.place, format!("{key} has no name"));
            return None;
        }
        Some((name, node.place))
    }

    fn list(&mut self, object: &Node, entries: &Entries) {
        let Some((name, place)) = self.name(entries, "list") else {
            return;
        };
        let Some(change) = self.change(entries) else { return };
        let Some(items) = get(entries, "items") else {
            self.error(object.place, format!("list `{name}` has no `items`"));
            return;
        };
        let Some(items) = self.texts(items, "items") else {
            return;
        };
        let append = match change {
            Change::Define => false,
            Change::Append => true,
            Change::Override(changes) => changes.iter().any(|(_, replace)| !replace),
        };
        let objects = self.pack.objects;
        match self.pack.list_names.get(&name) {
            Some(at) => {
                let list = &mut self.pack.lists[*at];
                list.visibility = objects;
                if append {
                    list.items.extend(items);
                } else {
                    list.items = items;
                }
            }
            None if append || get(entries, "override").is_some() => {
                let help = did_you_mean(&name, self.pack.list_names.keys().map(String::as_str));
                self.error_with(place, format!("list `{name}` is changed before it is defined"), help);
            }
            None => {
                self.pack.list_names.insert(name.clone(), self.pack.lists.len());
                self.pack.lists.push(List {
                    name,
                    items,
                    index: objects,
                    visibility: objects,
                });
            }
        }
    }

    fn macro_(&mut self, object: &Node, entries: &Entries) {
        let Some((name, place)) = self.name(entries, "macro") else {
            return;
        };
        let mut characters = name.chars();
        let valid = characters.next().is_some_and(|c| c.is_ascii_alphabetic())
            && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !valid {
            let help = "use letters, digits and `_`, beginning with a letter".to_owned();
            self.error_with(place, format!("`{name}` cannot name a macro"), Some(help));
            return;
        }
        let Some(change) = self.change(entries) else { return };
        let Some(condition) = get(entries, "condition") else {
            self.error(object.place, format!("macro `{name}` has no `condition`"));
            return;
        };
        let Some(condition) = self.placed(condition, "condition") else {
            return;
        };
        let append = match change {
            Change::Define => false,
            Change::Append => true,
            Change::Override(changes) => changes.iter().any(|(_, replace)| !replace),
        };
        let objects = self.pack.objects;
        match self.pack.macro_names.get(&name) {
            Some(at) => {
                let found = &mut self.pack.macros[*at];
                found.visibility = objects;
                if append {
                    append_text(&mut found.condition, &condition);
                } else {
                    found.condition = condition;
                    found.place = place;
                }
            }
            None if append || get(entries, "override").is_some() => {
                let help = did_you_mean(&name, self.pack.macro_names.keys().map(String::as_str));
                self.error_with(place, format!("macro `{name}` is changed before it is defined"), help);
            }
            None => {
                self.pack.macro_names.insert(name.clone(), self.pack.macros.len());
                self.pack.macros.push(Macro {
                    name,
                    place,
                    condition,
                    index: objects,
                    visibility: objects,
                });
            }
        }
    }

    fn rule(&mut self, object: &Node, entries: &Entries) {
        let Some((name, place)) = self.name(entries, "rule") else {
            return;
        };
        let Some(change) = self.change(entries) else { return };
        let found = self.pack.rule_names.get(&name).copied();
        match change {
            Change::Define => {
                let toggles = get(entries, "enabled").filter(|_| entries.len() == 2);
                if let Some(node) = toggles {
                    let Some(enabled) = self.flag(node, "enabled") else {
                        return;
                    };
                    match found {
                        Some(at) => self.pack.rules[at].enabled = enabled,
                        None => self.undefined_rule(&name, place),
                    }
                    return;
                }
                let Some(rule) = self.definition(object, entries, name.clone(), place) else {
                    return;
                };
                match found {
                    Some(at) => self.pack.rules[at] = rule,
                    None => {
                        self.pack.rule_names.insert(name, self.pack.rules.len());
                        self.pack.rules.push(rule);
                    }
                }
            }
            Change::Append => {
                let Some(at) = found else {
                    return self.undefined_rule(&name, place);
                };
                let mut any = false;
                for key in APPENDABLE {
                    if let Some(node) = get(entries, key) {
                        any = true;
                        self.set(at, key, node, false);
                    }
                }
                for (key, _) in entries {
                    let name = key.scalar().unwrap_or_default();
                    if RULE_KEYS.contains(&name) && !APPENDABLE.contains(&name) && !matches!(name, "rule" | "append") {
                        self.warn(
                            key.place,
                            format!("key `{name}` is ignored in a rule with `append`"),
                            Some(format!("use `override: {{{name}: replace}}`")),
                        );
                    }
                }
                if !any {
                    self.error(
                        object.place,
                        "a rule with `append` needs a `condition` or `exceptions` to append",
                    );
                }
            }
            Change::Override(changes) => {
                let Some(at) = found else {
                    return self.undefined_rule(&name, place);
                };
                for (key, replace) in changes {
                    if key == "rule" || !RULE_KEYS.contains(&key) {
                        self.error(place, format!("key `{key}` of a rule cannot be overridden"));
                        continue;
                    }
                    if let Some(node) = get(entries, key) {
                        self.set(at, key, node, replace);
                    }
                }
            }
        }
    }

    fn undefined_rule(&mut self, name: &str, place: Place) {
        let help = did_you_mean(name, self.pack.rule_names.keys().map(String::as_str));
        self.error_with(place, format!("rule `{name}` is changed before it is defined"), help);
    }

    fn definition(&mut self, object: &Node, entries: &Entries, name: String, place: Place) -> Option<Definition> {
        let later = LATER_KEYS.iter().find_map(|key| Some((*key, get(entries, key)?.place)));
        let mut missing: Vec<&str> = Vec::new();
        for key in ["desc", "condition", "output"] {
            // A sequence has conditions of its own, and a threshold may be over other rules.
            let has_other = CONDITION_KEYS.iter().any(|key| get(entries, key).is_some());
            if get(entries, key).is_none() && !(key == "condition" && (later.is_some() || has_other)) {
                missing.push(key);
            }
        }
        if get(entries, "priority").is_none() && get(entries, "severity").is_none() {
            missing.push("severity");
        }
        if !missing.is_empty() {
            let missing: Vec<String> = missing.iter().map(|key| format!("`{key}`")).collect();
            self.error(object.place, format!("rule `{name}` has no {}", missing.join(", ")));
            return None;
        }
        let rule = Definition {
            later,
            ..Definition::new(name, place)
        };
        // Filled in by the same code that serves `override`, at the place the rule will have.
        let errors = self.errors.len();
        self.pack.rules.push(rule);
        let at = self.pack.rules.len() - 1;
        for (key, node) in entries {
            if let Some(key) = key.scalar().filter(|key| RULE_KEYS.contains(key)) {
                self.set(at, key, node, true);
            }
        }
        let rule = self.pack.rules.pop()?;
        (self.errors.len() == errors).then_some(rule)
    }

    /// Sets one key of a rule, or appends to it.
    fn set(&mut self, at: usize, key: &str, node: &Node, replace: bool) {
        match key {
            "condition" => {
                let Some(text) = self.placed(node, key) else { return };
                match &mut self.pack.rules[at].condition {
                    Some(condition) if !replace => append_text(condition, &text),
                    condition => *condition = Some(text),
                }
            }
            "output" => {
                let Some(text) = self.placed(node, key) else { return };
                let output = &mut self.pack.rules[at].output;
                if replace {
                    *output = text;
                } else {
                    append_text(output, &text);
                }
            }
            "desc" => {
                let Some(text) = self.text(node, key) else { return };
                let description = &mut self.pack.rules[at].description;
                if replace || description.is_empty() {
                    *description = text;
                } else {
                    description.push(' ');
                    description.push_str(&text);
                }
            }
            "priority" => {
                if let Some(text) = self.text(node, key) {
                    let rule = &mut self.pack.rules[at];
                    rule.priority = Some((text, node.place));
                }
            }
            "severity" => self.pack.rules[at].severity = self.text(node, key).map(|text| (text, node.place)),
            "id" => self.pack.rules[at].id = self.text(node, key).map(|text| (text, node.place)),
            "source" => {
                if let Some(text) = self.text(node, key) {
                    self.pack.rules[at].source = text;
                }
            }
            "enabled" => {
                if let Some(enabled) = self.flag(node, key) {
                    self.pack.rules[at].enabled = enabled;
                }
            }
            "tags" | "attack" | "references" => {
                let Some(mut texts) = self.texts(node, key) else { return };
                let rule = &mut self.pack.rules[at];
                match key {
                    "references" => {
                        let texts = texts.drain(..).map(|(text, _)| text);
                        if replace {
                            rule.references = texts.collect();
                        } else {
                            rule.references.extend(texts);
                        }
                    }
                    _ => {
                        let target = if key == "tags" {
                            &mut rule.tags
                        } else {
                            &mut rule.attack
                        };
                        if replace {
                            target.clear();
                        }
                        target.append(&mut texts);
                    }
                }
            }
            "remediation" => {
                if let Some(text) = self.text(node, key) {
                    self.pack.rules[at].remediation = text;
                }
            }
            "exceptions" => self.exceptions(at, node, replace),
            "throttle" => self.pack.rules[at].throttle = Some(node.clone()),
            "sequence" => self.pack.rules[at].sequence = Some(node.clone()),
            "threshold" => self.pack.rules[at].threshold = Some(node.clone()),
            "examples" => self.pack.rules[at].examples = Some(node.clone()),
            "capture" | "skip-if-unknown-filter" | "warn_evttypes" => {
                // Understood; they steer what only the other engine does.
                self.flag(node, key);
            }
            _ => {}
        }
    }

    fn exceptions(&mut self, at: usize, node: &Node, replace: bool) {
        if replace {
            self.pack.rules[at].exceptions.clear();
        }
        if node.is_null() {
            return;
        }
        let Value::Sequence(items) = &node.value else {
            self.error(node.place, format!("`exceptions` is a list; found {}", node.kind()));
            return;
        };
        for item in items {
            let Value::Mapping(entries) = &item.value else {
                self.error(
                    item.place,
                    format!("an exception has a name and fields; found {}", item.kind()),
                );
                continue;
            };
            self.keys(entries, &["name", "fields", "comps", "values"], "exception");
            self.exception(at, item, entries);
        }
    }

    fn exception(&mut self, at: usize, item: &Node, entries: &Entries) {
        let Some((name, place)) = self.name(entries, "name") else {
            if get(entries, "name").is_none() {
                self.error(item.place, "an exception needs a `name`");
            }
            return;
        };
        let known = self.pack.rules[at]
            .exceptions
            .iter()
            .position(|exception| exception.name == name);
        let fields = match (get(entries, "fields"), known) {
            (None, Some(known)) => self.pack.rules[at].exceptions[known].fields.clone(),
            (None, None) => {
                self.error(item.place, format!("exception `{name}` has no `fields`"));
                return;
            }
            (Some(node), Some(_)) => {
                let message = format!("exception `{name}` exists already; only `values` can be added to it");
                self.error(node.place, message);
                return;
            }
            (Some(node), None) => {
                let Some(fields) = self.exception_fields(&name, node, get(entries, "comps")) else {
                    return;
                };
                fields
            }
        };
        let mut values = Vec::new();
        if let Some(node) = get(entries, "values").filter(|node| !node.is_null()) {
            let Value::Sequence(items) = &node.value else {
                self.error(
                    node.place,
                    format!("`values` of exception `{name}` is a list; found {}", node.kind()),
                );
                return;
            };
            for item in items {
                let Some(value) = self.exception_value(&name, &fields, item) else {
                    return;
                };
                values.push((value, item.place));
            }
        }
        let exceptions = &mut self.pack.rules[at].exceptions;
        match known {
            Some(known) => exceptions[known].values.extend(values),
            None => exceptions.push(Exception {
                name,
                place,
                fields,
                values,
            }),
        }
    }

    fn exception_fields(&mut self, name: &str, fields: &Node, comps: Option<&Node>) -> Option<Fields> {
        match &fields.value {
            Value::Scalar { text, .. } => {
                let operator = match comps {
                    Some(node) => self.text(node, "comps")?,
                    None => "in".to_owned(),
                };
                let quantified = operator
                    .split_once(char::is_whitespace)
                    .is_some_and(|(word, quantifier)| {
                        is_operator(word) && matches!(quantifier.trim(), "oneof" | "anyof" | "allof")
                    });
                if !quantified && !takes_list(&operator) {
                    let place = comps.map_or(fields.place, |node| node.place);
                    self.error_with(
                        place,
                        format!("operator `{operator}` of exception `{name}` takes one value"),
                        Some(
                            "use `in`, `pmatch`, `intersects` or an operator with `anyof`, `allof` or `oneof`"
                                .to_owned(),
                        ),
                    );
                    return None;
                }
                Some(Fields::One(text.clone(), operator))
            }
            Value::Sequence(_) => {
                let names = self.texts(fields, "fields")?;
                let operators = match comps {
                    Some(node) => self.texts(node, "comps")?.into_iter().map(|(text, _)| text).collect(),
                    None => vec!["=".to_owned(); names.len()],
                };
                if names.len() != operators.len() {
                    let message = format!(
                        "exception `{name}` has {} fields and {} comparison operators",
                        names.len(),
                        operators.len()
                    );
                    self.error(comps.map_or(fields.place, |node| node.place), message);
                    return None;
                }
                for operator in &operators {
                    if !is_operator(operator) {
                        let help =
                            did_you_mean(operator, crate::syntax::Operator::ALL.iter().map(|known| known.word()));
                        let place = comps.map_or(fields.place, |node| node.place);
                        self.error_with(
                            place,
                            format!("unknown operator `{operator}` in exception `{name}`"),
                            help,
                        );
                        return None;
                    }
                }
                Some(Fields::Tuple(
                    names.into_iter().map(|(name, _)| name).zip(operators).collect(),
                ))
            }
            Value::Mapping(_) => {
                self.error(
                    fields.place,
                    format!("`fields` of exception `{name}` is a field or a list of fields"),
                );
                None
            }
        }
    }

    fn exception_value(&mut self, name: &str, fields: &Fields, item: &Node) -> Option<ExceptionValue> {
        match (fields, &item.value) {
            (Fields::One(..), Value::Scalar { text, .. }) => Some(ExceptionValue::Scalar(text.clone())),
            (Fields::One(..), Value::Sequence(_) | Value::Mapping(_)) => {
                self.error(
                    item.place,
                    format!("exception `{name}` has one field: its values are single values"),
                );
                None
            }
            (Fields::Tuple(columns), Value::Sequence(values)) if values.len() == columns.len() => {
                let mut tuple = Vec::new();
                for value in values {
                    tuple.push(match &value.value {
                        Value::Scalar { text, .. } => TupleValue::Scalar(text.clone()),
                        Value::Sequence(_) => {
                            let texts = self.texts(value, "values")?;
                            TupleValue::List(texts.into_iter().map(|(text, _)| text).collect())
                        }
                        Value::Mapping(_) => {
                            self.error(
                                value.place,
                                format!("a value of exception `{name}` cannot be a mapping"),
                            );
                            return None;
                        }
                    });
                }
                Some(ExceptionValue::Tuple(tuple))
            }
            (Fields::Tuple(columns), _) => {
                let message = format!(
                    "each entry of exception `{name}` is a list of {} values, one per field",
                    columns.len()
                );
                self.error(item.place, message);
                None
            }
        }
    }
}

impl Definition {
    /// A rule of which nothing is known but its name.
    pub(crate) fn new(name: String, place: Place) -> Self {
        Self {
            name,
            place,
            condition: None,
            output: Text::default(),
            description: String::new(),
            priority: None,
            severity: None,
            id: None,
            source: "syscall".to_owned(),
            enabled: true,
            tags: Vec::new(),
            attack: Vec::new(),
            remediation: String::new(),
            references: Vec::new(),
            exceptions: Vec::new(),
            throttle: None,
            sequence: None,
            threshold: None,
            examples: None,
            later: None,
        }
    }

    /// The condition with its exceptions, as text.
    pub(crate) fn full_condition(&self) -> Option<Text> {
        let condition = self.condition.as_ref()?;
        let applied: Vec<&Exception> = self
            .exceptions
            .iter()
            .filter(|exception| !exception.values.is_empty())
            .collect();
        let [first, ..] = applied.as_slice() else {
            return Some(condition.clone());
        };
        let mut text = Text::default();
        text.push_str("(", first.place);
        text.push_part(condition, 0..condition.as_str().len());
        text.push_str(")", first.place);
        for exception in applied {
            text.push_str(" and not ", exception.place);
            exception.write(&mut text);
        }
        Some(text)
    }
}

impl Exception {
    fn write(&self, text: &mut Text) {
        match &self.fields {
            Fields::One(field, operator) => {
                text.push_str(&format!("({field} {operator} ("), self.place);
                for (index, (value, place)) in self.values.iter().enumerate() {
                    if index > 0 {
                        text.push_str(", ", *place);
                    }
                    if let ExceptionValue::Scalar(value) = value {
                        text.push_str(&quoted_if_needed(value), *place);
                    }
                }
                text.push_str("))", self.place);
            }
            Fields::Tuple(columns) => {
                text.push_str("(", self.place);
                for (index, (value, place)) in self.values.iter().enumerate() {
                    text.push_str(if index > 0 { " or (" } else { "(" }, *place);
                    let ExceptionValue::Tuple(tuple) = value else { continue };
                    for (column, ((field, operator), value)) in columns.iter().zip(tuple).enumerate() {
                        if column > 0 {
                            text.push_str(" and ", *place);
                        }
                        text.push_str(&format!("{field} {operator} "), *place);
                        match value {
                            TupleValue::Scalar(value) if takes_list(operator) => {
                                // A scalar may already be a list in parentheses.
                                let value = value.trim();
                                if value.starts_with('(') {
                                    text.push_str(value, *place);
                                } else {
                                    text.push_str(&format!("({})", quoted_if_needed(value)), *place);
                                }
                            }
                            TupleValue::Scalar(value) => text.push_str(&quoted_if_needed(value), *place),
                            TupleValue::List(values) => {
                                let values: Vec<String> = values.iter().map(|value| quoted_if_needed(value)).collect();
                                text.push_str(&format!("({})", values.join(", ")), *place);
                            }
                        }
                    }
                    text.push_str(")", *place);
                }
                text.push_str(")", self.place);
            }
        }
    }
}

/// Whether a document is a rule, a correlation or a filter of Sigma: those are mappings, ours are lists.
fn is_sigma(document: &Node) -> bool {
    let keys = ["detection", "logsource", "correlation", "filter"];
    match &document.value {
        Value::Mapping(entries) => keys.iter().any(|key| get(entries, key).is_some()),
        Value::Scalar { .. } | Value::Sequence(_) => false,
    }
}

fn takes_list(operator: &str) -> bool {
    matches!(operator, "in" | "pmatch" | "intersects")
}

fn is_operator(word: &str) -> bool {
    word == "=="
        || crate::syntax::Operator::ALL
            .iter()
            .any(|operator| operator.word() == word)
}

/// A value as a condition can hold it: in quotes when it contains a blank and is not yet quoted.
pub(crate) fn quoted_if_needed(value: &str) -> String {
    let quoted = value.starts_with(['"', '\'']);
    if value.is_empty() || (value.contains([' ', '\t', '\n']) && !quoted) {
        format!("\"{value}\"")
    } else {
        value.to_owned()
    }
}

fn append_text(to: &mut Text, more: &Text) {
    to.push_str(" ", more.place(0));
    to.push_part(more, 0..more.as_str().len());
}

/// The value of a key.
pub(crate) fn get<'n>(entries: &'n [(Node, Node)], key: &str) -> Option<&'n Node> {
    entries
        .iter()
        .find(|(name, _)| name.scalar() == Some(key))
        .map(|(_, value)| value)
}
