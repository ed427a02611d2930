//! A filter's expression in CEL: compiled once, tried once on an empty alert, then asked about every alert.
//!
//! What it can cost is bounded: by its length, by the one loop it may have, and by the length of the lists it sees.

use cel::{Context, Program, Value, objects::Map};
use staghound_proto::v1::{Alert, Process, event};
use std::{collections::HashMap, fmt, sync::Arc};

/// Longest expression.
const BYTES_MAX: usize = 1024;
/// Loops (`all`, `exists`, `map`, `filter`) in one expression: two within each other cost the square.
const LOOPS_MAX: usize = 2;
/// Longest list and longest text that an expression sees.
const LIST_MAX: usize = 64;
const TEXT_MAX: usize = 4096;
/// What the deepest expression needs, to be parsed and, less, to be evaluated.
const STACK_BYTES: usize = 32 << 20;
const DEPTH_MAX: usize = 8;
const OPERATORS_MAX: usize = 64;
const MEMBERS_MAX: usize = 100;
const LOOPS: [&str; 6] = ["all", "exists", "exists_one", "map", "filter", "sortBy"];

/// An expression that says yes or no to an alert.
pub(crate) struct Expression {
    source: String,
    program: Program,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Expression {
    /// Compiles and tries it; the error says what is wrong.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        if source.len() > BYTES_MAX {
            return Err(format!(
                "it has {} bytes, at most {BYTES_MAX} are allowed",
                source.len()
            ));
        }
        if source.chars().any(char::is_control) {
            return Err("it has control characters; write it on one line".to_owned());
        }
        check_depth(source)?;
        // Without line feeds a comment hides nothing that comes after it.
        let dense: String = source.chars().filter(|character| !character.is_whitespace()).collect();
        let loops = LOOPS
            .iter()
            .map(|name| dense.matches(&format!("{name}(")).count())
            .sum::<usize>();
        if loops > LOOPS_MAX {
            return Err(format!("it has more than {LOOPS_MAX} of {}", LOOPS.join(", ")));
        }
        let source = source.to_owned();
        // On a thread with a stack of its own: the parser needs more than others have.
        let compiling = std::thread::Builder::new()
            .name("expression".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || Self::compile(source))
            .map_err(|error| format!("no thread to compile it: {error}"))?;
        let compiled = compiling
            .join()
            .unwrap_or_else(|_| Err("the parser gave up on it".to_owned()));
        compiled.map_err(|mut text| {
            text.truncate(text.floor_char_boundary(400));
            text
        })
    }

    fn compile(source: String) -> Result<Self, String> {
        let program = Program::compile(&source).map_err(|errors| errors.to_string())?;
        let expression = Self { source, program };
        match expression.value(&Alert::default()) {
            Ok(Value::Bool(_)) => Ok(expression),
            Ok(other) => Err(format!("it gives a {}, not true or false", other.type_of())),
            Err(error) => Err(error),
        }
    }

    /// Whether an alert passes. One for which it fails does: silence is never mistaken for safety.
    pub(crate) fn passes(&self, alert: &Alert) -> bool {
        !matches!(self.value(alert), Ok(Value::Bool(false)))
    }

    fn value(&self, alert: &Alert) -> Result<Value, String> {
        let mut context = Context::default();
        for (name, value) in variables(alert) {
            context.add_variable_from_value(name, value);
        }
        self.program.execute(&context).map_err(|error| error.to_string())
    }
}

/// The parser and the evaluation call themselves; what is written deep enough ends the process.
fn check_depth(source: &str) -> Result<(), String> {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut operators, mut members) = (0, 0);
    for character in source.chars() {
        match character {
            '(' | '[' | '{' => {
                depth += 1;
                members += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '?' => deepest += 1,
            '.' => members += 1,
            '!' | '-' | '+' | '*' | '/' | '%' | '<' | '>' | '=' => operators += 1,
            _ => {}
        }
    }
    if deepest > DEPTH_MAX || operators > OPERATORS_MAX || members > MEMBERS_MAX {
        return Err(format!(
            "it is nested too deep or too long; at most {DEPTH_MAX} brackets and question marks within each other, {OPERATORS_MAX} operators and {MEMBERS_MAX} dots and brackets are allowed"
        ));
    }
    Ok(())
}

fn text(text: &str) -> Value {
    Value::String(Arc::new(text[..text.floor_char_boundary(TEXT_MAX)].to_owned()))
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a String>) -> Value {
    let texts = texts.into_iter().take(LIST_MAX).map(|each| text(each));
    Value::List(Arc::new(texts.collect()))
}

fn number(number: impl Into<u64>) -> Value {
    Value::Int(i64::try_from(number.into()).unwrap_or(i64::MAX))
}

fn map<const N: usize>(members: [(&'static str, Value); N]) -> Value {
    let members: HashMap<&'static str, Value> = members.into_iter().collect();
    Value::Map(Map::from(members))
}

fn process(process: Option<&Process>) -> Value {
    let none = Process::default();
    let process = process.unwrap_or(&none);
    let credentials = process.credentials.as_ref();
    map([
        ("pid", number(process.pid)),
        ("name", text(&process.name)),
        ("executable", text(&process.executable)),
        ("args", texts(&process.args)),
        ("cwd", text(&process.cwd)),
        ("user", text(credentials.map_or("", |credentials| &credentials.user))),
        ("uid", number(credentials.map_or(0, |credentials| credentials.uid))),
    ])
}

fn variables(alert: &Alert) -> [(&'static str, Value); 17] {
    let rule = alert.rule.as_ref();
    let container = alert.container.as_ref();
    let (file, socket) = match alert.event.as_ref().and_then(|event| event.object.as_ref()) {
        Some(event::Object::File(file)) => (Some(file), None),
        Some(event::Object::Socket(socket)) => (None, Some(socket)),
        None => (None, None),
    };
    let tactics = alert.techniques.iter().flat_map(|technique| &technique.tactics);
    [
        ("severity", Value::Int(alert.severity.into())),
        ("rule", text(rule.map_or("", |rule| &rule.id))),
        ("tags", texts(rule.into_iter().flat_map(|rule| &rule.tags))),
        (
            "techniques",
            texts(alert.techniques.iter().map(|technique| &technique.id)),
        ),
        ("tactics", texts(tactics)),
        ("message", text(&alert.message)),
        ("host", text(alert.host.as_ref().map_or("", |host| &host.name))),
        (
            "namespace",
            text(container.map_or("", |container| &container.pod_namespace)),
        ),
        ("pod", text(container.map_or("", |container| &container.pod_name))),
        ("image", text(container.map_or("", |container| &container.image))),
        ("run", text(&alert.run_id)),
        ("count", number(alert.count)),
        ("event", text(alert.event.as_ref().map_or("", |event| &event.r#type))),
        ("process", process(alert.process.as_ref())),
        ("parent", process(alert.ancestors.first())),
        (
            "file",
            map([
                ("path", text(file.map_or("", |file| &file.path))),
                ("new_path", text(file.map_or("", |file| &file.new_path))),
            ]),
        ),
        (
            "socket",
            map([
                ("protocol", text(socket.map_or("", |socket| &socket.protocol))),
                (
                    "remote_address",
                    text(socket.map_or("", |socket| &socket.remote_address)),
                ),
                ("remote_port", number(socket.map_or(0, |socket| socket.remote_port))),
                ("local_port", number(socket.map_or(0, |socket| socket.local_port))),
                ("dns_name", text(socket.map_or("", |socket| &socket.dns_name))),
                (
                    "tls_server_name",
                    text(socket.map_or("", |socket| &socket.tls_server_name)),
                ),
            ]),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use staghound_proto::v1::{Event, File, RuleRef, Severity, Technique};

    fn alert() -> Alert {
        Alert {
            severity: Severity::High.into(),
            techniques: vec![Technique {
                id: "T1003.008".to_owned(),
                tactics: vec!["credential-access".to_owned()],
                ..Technique::default()
            }],
            rule: Some(RuleRef {
                id: "credential-access/shadow-read".to_owned(),
                ..RuleRef::default()
            }),
            process: Some(Process {
                name: "cat".to_owned(),
                args: vec!["cat".to_owned(), "/etc/shadow".to_owned()],
                ..Process::default()
            }),
            event: Some(Event {
                object: Some(event::Object::File(File {
                    path: "/etc/shadow".to_owned(),
                    ..File::default()
                })),
                ..Event::default()
            }),
            ..Alert::default()
        }
    }

    #[test]
    fn expressions() {
        for (source, expected) in [
            ("true", true),
            ("severity >= 4", true),
            ("severity > 4", false),
            ("process.name == 'cat' && file.path.startsWith('/etc/')", true),
            ("'T1003.008' in techniques", true),
            ("tactics.exists(t, t == 'exfiltration')", false),
            ("process.args.exists(a, a.matches('^/etc/(shadow|gshadow)$'))", true),
            ("socket.remote_port == 4444 || rule.endsWith('shadow-read')", true),
            ("parent.name == ''", true),
        ] {
            assert_eq!(Expression::new(source).unwrap().passes(&alert()), expected, "{source}");
        }
        // What fails on an alert passes.
        assert!(
            Expression::new("process.args.size() == 0 || process.args[7] == 'x'")
                .unwrap()
                .passes(&alert())
        );
    }

    #[test]
    fn bad_expressions() {
        for (source, part) in [
            ("severity", "not true or false"),
            ("", ""),
            ("severity >", ""),
            ("nothing.there == 1", "nothing"),
            ("process.nam == 'x'", "nam"),
            ("severity == ", ""),
            ("tags.all(a, tags.all(b, tags.all(c, true)))", "more than 2"),
            ("tags . all (a, tags . all (b, tags . all (c, true)))", "more than 2"),
        ] {
            let error = Expression::new(source).unwrap_err();
            assert!(error.contains(part), "{source}: {error}");
        }
        let long = format!("severity == {}", "1 + ".repeat(300) + "1");
        assert!(Expression::new(&long).unwrap_err().contains("at most 1024"));
        for deep in [
            format!("{}true{}", "(".repeat(400), ")".repeat(400)),
            format!("{} true", "true ? true : ".repeat(70)),
            format!("{}true", "!".repeat(1000)),
            format!("1 {} == 1", "+ 1".repeat(300)),
        ] {
            assert!(Expression::new(&deep).unwrap_err().contains("too deep"), "{deep}");
        }
    }

    #[test]
    fn the_deepest_that_is_allowed_fits_on_the_stack() {
        let all = DEPTH_MAX;
        for (source, good) in [
            (format!("{}true{}", "(".repeat(all), ")".repeat(all)), true),
            (
                format!("size({}1{}) == 1", "[".repeat(all - 1), "]".repeat(all - 1)),
                true,
            ),
            (format!("{}true", "true ? true : ".repeat(all)), true),
            (format!("{}true", "!".repeat(OPERATORS_MAX)), true),
            (format!("1 {} > 0", "+ 1 ".repeat(OPERATORS_MAX - 1)), true),
            (format!("{}true", "true && ".repeat(120)), true),
            (format!("{}1{} > 0", "-(".repeat(all), ")".repeat(all)), true),
            (format!("a{}", ".b".repeat(MEMBERS_MAX)), false),
            (format!("'x'{} != 1", ".size()".repeat(MEMBERS_MAX / 2)), false),
        ] {
            let expression = Expression::new(&source);
            assert_eq!(expression.is_ok(), good, "{source}: {expression:?}");
            if let Ok(expression) = expression {
                // As large as those of the collector's threads.
                let evaluating = std::thread::Builder::new().stack_size(crate::cli::STACK_BYTES);
                let passes = evaluating
                    .spawn(move || expression.passes(&alert()))
                    .unwrap()
                    .join()
                    .unwrap();
                assert!(passes, "{source}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_an_expression_or_an_error(text in "[a-z0-9 .()'\\[\\]{}?:,!=<>&|+*/%\"\\\\-]{0,60}") {
            drop(Expression::new(&text));
        }

        #[test]
        fn any_unicode_is_an_expression_or_an_error(text in any::<String>()) {
            drop(Expression::new(&text));
        }
    }
}
