//! OTLP logs over gRPC: one log record for each alert and gap.
//!
//! The few messages are written down here: the crate that has them all brings the whole SDK.

use super::{Sink, cef, identity};
use anyhow::{Context as _, bail};
use prost_types::Timestamp;
use staghound_proto::v1::{Entry, Severity, item};
use std::time::Duration;
use tonic::{
    Request,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "11")]
    observed_time_unix_nano: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

/// Only texts are sent.
#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string_value: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_log_records: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

pub(super) struct Otlp {
    channel: Channel,
}

impl Otlp {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned()).with_context(|| format!("{url:?} is no URL"))?;
        if endpoint.uri().scheme_str() != Some("http") {
            bail!("{url:?} is not http://; OTLP goes to a receiver on this host, which forwards it");
        }
        Ok(Self {
            channel: endpoint.connect_timeout(TIMEOUT).timeout(TIMEOUT).connect_lazy(),
        })
    }
}

#[async_trait::async_trait]
impl Sink for Otlp {
    async fn deliver(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let log_records: Vec<_> = entries.iter().filter_map(record).collect();
        if log_records.is_empty() {
            return Ok(());
        }
        let scope = Scope {
            name: "staghound".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let logs = ResourceLogs {
            resource: Some(Resource {
                attributes: vec![attribute("service.name", "staghound")],
            }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records,
            }],
        };
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.context("cannot connect")?;
        let request = Request::new(ExportRequest {
            resource_logs: vec![logs],
        });
        let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
        let answer = grpc.unary(request, PathAndQuery::from_static(EXPORT), codec).await;
        let answer = answer.map_err(|status| anyhow::anyhow!("{:?}: {}", status.code(), status.message()))?;
        match answer.into_inner().partial_success {
            // The receiver will not take these another time either.
            Some(partial) if partial.rejected_log_records > 0 => {
                tracing::warn!(records = partial.rejected_log_records, reason = ?partial.error_message, "OTLP receiver rejected records");
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

fn value(text: &str) -> Option<AnyValue> {
    Some(AnyValue {
        string_value: Some(text.to_owned()),
    })
}

fn attribute(key: &str, text: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: value(text),
    }
}

fn nanoseconds(time: Option<&Timestamp>) -> u64 {
    let part = |time: &Timestamp| {
        let seconds = u64::try_from(time.seconds).ok()?;
        seconds
            .checked_mul(1_000_000_000)?
            .checked_add(u64::try_from(time.nanos).ok()?)
    };
    time.and_then(part).unwrap_or(0)
}

fn record(entry: &Entry) -> Option<LogRecord> {
    let observed_time_unix_nano = nanoseconds(entry.ingest_time.as_ref());
    let mut attributes = vec![
        attribute("log.record.uid", &identity(entry)),
        attribute("staghound.agent.id", &entry.agent_id),
    ];
    match entry.item.as_ref()?.kind.as_ref()? {
        item::Kind::Run(_) => None,
        item::Kind::Gap(gap) => Some(LogRecord {
            time_unix_nano: observed_time_unix_nano,
            severity_number: 13,
            severity_text: "WARN".to_owned(),
            body: value(&cef::gap_text(gap)),
            attributes,
            observed_time_unix_nano,
            event_name: "staghound.gap".to_owned(),
        }),
        item::Kind::Alert(alert) => {
            // INFO, INFO2, WARN, ERROR, FATAL.
            let (severity_number, severity_text) = match alert.severity() {
                Severity::Unspecified => (0, ""),
                Severity::Informational => (9, "INFO"),
                Severity::Low => (10, "INFO2"),
                Severity::Medium => (13, "WARN"),
                Severity::High => (17, "ERROR"),
                Severity::Critical => (21, "FATAL"),
            };
            let mut add = |key: &str, text: &str| {
                if !text.is_empty() {
                    attributes.push(attribute(key, text));
                }
            };
            add("host.name", alert.host.as_ref().map_or("", |host| &host.name));
            add("security_rule.name", alert.rule.as_ref().map_or("", |rule| &rule.id));
            let techniques: Vec<_> = alert.techniques.iter().map(|technique| technique.id.as_str()).collect();
            add("staghound.attack.techniques", &techniques.join(","));
            add("staghound.run.id", &alert.run_id);
            add("staghound.fingerprint", &alert.fingerprint);
            if let Some(process) = &alert.process {
                add("process.pid", &process.pid.to_string());
                add("process.executable.path", &process.executable);
                add("process.command_line", &process.args.join(" "));
            }
            if let Some(container) = &alert.container {
                add("k8s.namespace.name", &container.pod_namespace);
                add("k8s.pod.name", &container.pod_name);
                add("container.id", &container.id);
            }
            Some(LogRecord {
                time_unix_nano: nanoseconds(alert.event_time.as_ref()),
                severity_number,
                severity_text: severity_text.to_owned(),
                body: value(&alert.message),
                attributes,
                observed_time_unix_nano,
                event_name: "staghound.alert".to_owned(),
            })
        }
    }
}
