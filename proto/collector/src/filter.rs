//! Which entries a subscriber wants.

use expression::Expression;
use staghound_proto::v1::{Alert, Filter as Wanted, Item, Severity, item};
use std::collections::HashSet;

mod expression;

/// Most values in one list of a filter.
const VALUES_MAX: usize = 1000;

/// A checked `staghound.v1.Filter`.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    min_severity: i32,
    techniques: HashSet<String>,
    rules: HashSet<String>,
    hosts: HashSet<String>,
    runs: HashSet<String>,
    namespaces: HashSet<String>,
    expression: Option<Expression>,
    alerts_only: bool,
}

/// A filter that cannot mean what it says.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFilter {
    #[error("{0} is not a severity of this contract; use 1 (informational) to 5 (critical), or 0 for all")]
    Severity(i32),
    #[error("{0:?} is not an ATT&CK technique; write it as T1003 or T1003.008")]
    Technique(String),
    #[error("the filter's expression cannot be used: {0}")]
    Expression(String),
    #[error("the filter has {count} {part}; at most {VALUES_MAX} are allowed, filter the rest on your side")]
    TooMany { part: &'static str, count: usize },
}

impl TryFrom<Wanted> for Filter {
    type Error = BadFilter;

    fn try_from(wanted: Wanted) -> Result<Self, BadFilter> {
        if Severity::try_from(wanted.min_severity).is_err() {
            return Err(BadFilter::Severity(wanted.min_severity));
        }
        if let Some(bad) = wanted.techniques.iter().find(|id| !is_technique(id)) {
            return Err(BadFilter::Technique(bad.chars().take(32).collect()));
        }
        let set = |part, values: Vec<String>| match values.len() {
            count if count > VALUES_MAX => Err(BadFilter::TooMany { part, count }),
            _ => Ok(values.into_iter().collect::<HashSet<_>>()),
        };
        Ok(Self {
            min_severity: wanted.min_severity,
            techniques: set("techniques", wanted.techniques)?,
            rules: set("rule ids", wanted.rule_ids)?,
            hosts: set("hosts", wanted.hosts)?,
            runs: set("run ids", wanted.run_ids)?,
            namespaces: set("namespaces", wanted.namespaces)?,
            expression: match wanted.expression.as_str() {
                "" => None,
                source => Some(Expression::new(source).map_err(BadFilter::Expression)?),
            },
            alerts_only: wanted.alerts_only,
        })
    }
}

impl Filter {
    /// Whether everything passes.
    pub(crate) fn is_all(&self) -> bool {
        let lists = [&self.techniques, &self.rules, &self.hosts, &self.runs, &self.namespaces];
        self.min_severity == 0
            && !self.alerts_only
            && self.expression.is_none()
            && lists.into_iter().all(HashSet::is_empty)
    }

    /// Whether looking at an entry costs far more than usual.
    pub(crate) fn is_costly(&self) -> bool {
        self.expression.is_some()
    }

    /// Whether an item passes; `stream_host` is the host of the stream it came in on.
    pub(crate) fn passes(&self, item: &Item, stream_host: &str) -> bool {
        let host = match &item.kind {
            Some(item::Kind::Alert(alert)) => alert.host.as_ref().map_or(stream_host, |host| host.name.as_str()),
            Some(item::Kind::Gap(_) | item::Kind::Run(_)) | None => stream_host,
        };
        if !self.hosts.is_empty() && !self.hosts.contains(host) {
            return false;
        }
        match &item.kind {
            Some(item::Kind::Alert(alert)) => self.passes_alert(alert),
            Some(item::Kind::Run(run)) => {
                !self.alerts_only && (self.runs.is_empty() || self.runs.contains(&run.run_id))
            }
            // What was not seen may belong to any run, so a filter for runs lets gaps pass.
            Some(item::Kind::Gap(_)) => !self.alerts_only,
            None => false,
        }
    }

    fn passes_alert(&self, alert: &Alert) -> bool {
        let rule = alert.rule.as_ref().map_or("", |rule| rule.id.as_str());
        let namespace = alert
            .container
            .as_ref()
            .map_or("", |container| container.pod_namespace.as_str());
        alert.severity >= self.min_severity
            && (self.techniques.is_empty()
                || alert
                    .techniques
                    .iter()
                    .any(|technique| self.wants_technique(&technique.id)))
            && (self.rules.is_empty() || self.rules.contains(rule))
            && (self.runs.is_empty() || self.runs.contains(&alert.run_id))
            && (self.namespaces.is_empty() || self.namespaces.contains(namespace))
            && self
                .expression
                .as_ref()
                .is_none_or(|expression| expression.passes(alert))
    }

    fn wants_technique(&self, id: &str) -> bool {
        self.techniques.contains(id)
            || id
                .split_once('.')
                .is_some_and(|(parent, _)| self.techniques.contains(parent))
    }
}

fn is_technique(id: &str) -> bool {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some(number) = id.strip_prefix('T') else {
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
    use staghound_proto::v1::{Container, Gap, Host, RuleRef, RunRecord, Technique};

    fn alert() -> Item {
        Item {
            kind: Some(item::Kind::Alert(Alert {
                severity: Severity::High.into(),
                techniques: vec![Technique {
                    id: "T1003.008".to_owned(),
                    ..Technique::default()
                }],
                rule: Some(RuleRef {
                    id: "credential-access/shadow-read".to_owned(),
                    ..RuleRef::default()
                }),
                host: Some(Host {
                    name: "node-1".to_owned(),
                    ..Host::default()
                }),
                container: Some(Container {
                    pod_namespace: "staging".to_owned(),
                    ..Container::default()
                }),
                run_id: "run-1".to_owned(),
                ..Alert::default()
            })),
        }
    }

    fn gap() -> Item {
        Item {
            kind: Some(item::Kind::Gap(Gap::default())),
        }
    }

    fn run() -> Item {
        Item {
            kind: Some(item::Kind::Run(RunRecord {
                run_id: "run-1".to_owned(),
                ..RunRecord::default()
            })),
        }
    }

    /// Whether an alert, a gap and a run record pass.
    fn passes(wanted: Wanted, expected: [bool; 3]) {
        let text = format!("{wanted:?}");
        let filter = Filter::try_from(wanted).unwrap();
        assert_eq!(
            [alert(), gap(), run()].map(|item| filter.passes(&item, "node-1")),
            expected,
            "{text}"
        );
    }

    #[test]
    fn filters() {
        let list = |value: &str| vec!["other".to_owned(), value.to_owned()];
        let technique = |value: &str| vec![value.to_owned()];
        let all = Wanted::default;
        passes(all(), [true, true, true]);
        passes(
            Wanted {
                alerts_only: true,
                ..all()
            },
            [true, false, false],
        );
        passes(
            Wanted {
                min_severity: Severity::High.into(),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                min_severity: Severity::Critical.into(),
                ..all()
            },
            [false, true, true],
        );
        passes(
            Wanted {
                techniques: technique("T1003"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                techniques: technique("T1003.008"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                techniques: technique("T1003.001"),
                ..all()
            },
            [false, true, true],
        );
        passes(
            Wanted {
                techniques: technique("T1059"),
                ..all()
            },
            [false, true, true],
        );
        passes(
            Wanted {
                rule_ids: list("credential-access/shadow-read"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                rule_ids: list("shadow-read"),
                ..all()
            },
            [false, true, true],
        );
        passes(
            Wanted {
                hosts: list("node-1"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                hosts: list("node-2"),
                ..all()
            },
            [false, false, false],
        );
        passes(
            Wanted {
                run_ids: list("run-1"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                run_ids: list("run-2"),
                ..all()
            },
            [false, true, false],
        );
        passes(
            Wanted {
                namespaces: list("staging"),
                ..all()
            },
            [true, true, true],
        );
        passes(
            Wanted {
                namespaces: list("production"),
                ..all()
            },
            [false, true, true],
        );
        passes(
            Wanted {
                rule_ids: list("credential-access/shadow-read"),
                run_ids: list("run-2"),
                ..all()
            },
            [false, true, false],
        );
    }

    #[test]
    fn bad_filters() {
        let fails = |wanted: Wanted, expected| assert_eq!(Filter::try_from(wanted).unwrap_err(), expected);
        fails(
            Wanted {
                min_severity: 6,
                ..Wanted::default()
            },
            BadFilter::Severity(6),
        );
        for bad in [
            "",
            "1003",
            "T103",
            "T1003.",
            "T1003.08",
            "T1003.0081",
            "t1003",
            "TA0006",
        ] {
            fails(
                Wanted {
                    techniques: vec![bad.to_owned()],
                    ..Wanted::default()
                },
                BadFilter::Technique(bad.to_owned()),
            );
        }
        let many = vec!["h".to_owned(); VALUES_MAX + 1];
        fails(
            Wanted {
                hosts: many,
                ..Wanted::default()
            },
            BadFilter::TooMany {
                part: "hosts",
                count: VALUES_MAX + 1,
            },
        );
    }
}
