//! What is stored goes on to other systems, each at its own pace, from where it was.

use crate::{
    harness::{Running, alerts, lost, within},
    server::get,
};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use staghound_collector::{
    collector::{Collector, Config},
    sinks::SinkConfig,
};
use staghound_proto::v1::{Alert, Item, Process, RuleRef, Severity, Technique, item};
use std::{fs, path::Path};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

fn sink(text: &str) -> SinkConfig {
    text.parse().unwrap()
}

fn suspicious(message: &str) -> Item {
    let alert = Alert {
        message: message.to_owned(),
        severity: Severity::High.into(),
        rule: Some(RuleRef {
            id: "credential-access/shadow-read".to_owned(),
            ..RuleRef::default()
        }),
        techniques: vec![Technique {
            id: "T1003.008".to_owned(),
            ..Technique::default()
        }],
        process: Some(Process {
            pid: 7,
            name: "cat".to_owned(),
            executable: "/bin/cat".to_owned(),
            ..Process::default()
        }),
        ..Alert::default()
    };
    Item {
        kind: Some(item::Kind::Alert(alert)),
    }
}

async fn lines(path: &Path, count: usize) -> Vec<serde_json::Value> {
    within("lines", async {
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if text.lines().count() >= count && text.ends_with('\n') {
                break text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn findings_are_appended_and_go_on_after_a_restart() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("findings.jsonl");
    let config = || {
        let mut config = Config::new(directory.path().join("data"));
        config.sinks = vec![sink(&format!("siem=ocsf:{}", out.display()))];
        config
    };
    let running = Running {
        collector: Collector::start(config()).await.unwrap(),
        directory: TempDir::new().unwrap(),
    };
    let mut agent = running.agent("a").await;
    agent
        .deliver(1, vec![suspicious("one"), lost(2, 4), suspicious("two\n\u{1b}")], 5)
        .await;
    let findings = lines(&out, 3).await;
    for (finding, (uid, severity, message)) in findings.iter().zip([
        ("1", 4, "one"),
        ("4", 3, "items 2 to 4 are lost: GAP_REASON_SPOOL_OVERFLOW"),
        ("5", 4, "two\n\u{1b}"),
    ]) {
        assert_eq!(finding["class_uid"], 2004);
        assert_eq!(finding["type_uid"], 200_401);
        assert_eq!(finding["metadata"]["version"], "1.8.0");
        assert_eq!(finding["severity_id"], severity);
        assert_eq!(finding["message"], message);
        assert!(
            finding["finding_info"]["uid"]
                .as_str()
                .unwrap()
                .ends_with(&format!("/{uid}"))
        );
    }
    assert_eq!(
        findings[0]["finding_info"]["attacks"][0]["technique"]["uid"],
        "T1003.008"
    );
    assert_eq!(findings[0]["evidences"][0]["process"]["file"]["path"], "/bin/cat");
    within("shutdown", running.collector.shutdown()).await;
    let running = Running {
        collector: Collector::start(config()).await.unwrap(),
        directory: running.directory,
    };
    running.agent("a").await.deliver(6, vec![suspicious("three")], 6).await;
    let findings = lines(&out, 4).await;
    assert_eq!((findings.len(), findings[3]["message"].as_str()), (4, Some("three")));
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_sink_that_is_down_delays_itself_only_and_gets_everything_later() {
    let directory = TempDir::new().unwrap();
    let out = directory.path().join("findings.jsonl");
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = receiver.local_addr().unwrap();
    drop(receiver);
    let running = Running::start_with(|config| {
        config.sinks = vec![
            sink(&format!("log=syslog+tcp:{address}")),
            sink(&format!("file=ocsf:{}", out.display())),
        ];
    })
    .await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=300), 300).await;
    agent.deliver(301, vec![suspicious("x=y|z\nCEF:0|fake")], 301).await;
    assert_eq!(lines(&out, 301).await.len(), 301);
    let http = running.collector.http_address().unwrap();
    within("failure", async {
        while !get(http, "/metrics")
            .await
            .contains("staghound_collector_sink_failures_total{sink=\"log\"}")
        {}
    })
    .await;
    let receiver = TcpListener::bind(address).await.unwrap();
    let mut messages = Vec::new();
    while messages.len() < 301 {
        let (mut stream, _) = within("connection", receiver.accept()).await.unwrap();
        let mut bytes = Vec::new();
        within("messages", stream.read_to_end(&mut bytes)).await.unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').unwrap();
            let length: usize = std::str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
            let message = &rest[space + 1..space + 1 + length];
            messages.push(String::from_utf8(message.to_vec()).unwrap());
            rest = &rest[space + 1 + length..];
        }
    }
    assert_eq!(messages.len(), 301);
    let last = messages.last().unwrap();
    assert!(
        last.starts_with("<83>1 2") && last.contains(" staghound - alert - \u{feff}CEF:0|Staghound|"),
        "{last}"
    );
    assert!(
        last.contains("msg=x\\=y|z\\nCEF:0|fake") && !last.contains('\n'),
        "{last}"
    );
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_webhook_is_signed_and_tried_again() {
    let directory = TempDir::new().unwrap();
    let secret = directory.path().join("secret");
    fs::write(&secret, "s3cret\n").unwrap();
    let receiver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = receiver.local_addr().unwrap();
    let running = Running::start_with(|config| {
        config.sinks = vec![sink(&format!(
            "hook=webhook:http://{address}/in?a=b,secret={}",
            secret.display()
        ))];
    })
    .await;
    running.agent("a").await.deliver(1, alerts(1..=3), 3).await;
    let mut bodies = Vec::new();
    for answer in ["500 Internal Server Error", "302 Found", "204 No Content"] {
        let (mut stream, _) = within("connection", receiver.accept()).await.unwrap();
        let mut request = String::new();
        let (head, body) = loop {
            let mut bytes = [0; 4096];
            let read = within("request", stream.read(&mut bytes)).await.unwrap();
            request.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            let Some((head, body)) = request.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head
                .split("Content-Length: ")
                .nth(1)
                .unwrap()
                .split("\r\n")
                .next()
                .unwrap();
            if body.len() == length.parse::<usize>().unwrap() {
                break (head, body);
            }
        };
        assert!(head.starts_with("POST /in?a=b HTTP/1.1\r\n"), "{head}");
        let header = |name: &str| {
            head.split(&format!("{name}: "))
                .nth(1)
                .unwrap()
                .split("\r\n")
                .next()
                .unwrap()
        };
        let mut mac = Hmac::<Sha256>::new_from_slice(b"s3cret").unwrap();
        mac.update(format!("{}.{body}", header("X-Staghound-Timestamp")).as_bytes());
        let expected: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(header("X-Staghound-Signature"), format!("sha256={expected}"));
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["entries"].as_array().unwrap().len(), 3);
        assert_eq!(body["entries"][2]["sequence"], "3");
        bodies.push(body);
        stream
            .write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .await
            .unwrap();
    }
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2]);
    let http = running.collector.http_address().unwrap();
    within("delivery", async {
        while !get(http, "/metrics")
            .await
            .contains("staghound_collector_sink_sent_entries_total{sink=\"hook\"} 3")
        {}
    })
    .await;
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_sink_that_cannot_be_used_stops_the_start() {
    let directory = TempDir::new().unwrap();
    for (text, part) in [
        ("a=webhook:ftp://h/", "neither https"),
        ("a=webhook:https://h/", "needs ca=FILE"),
        ("a=webhook:http://h/,secret=/nowhere/secret", "/nowhere/secret"),
        ("a=otlp:https://h:4317", "forwards it"),
        ("a=syslog+tls:h:6514,ca=/nowhere/ca", "/nowhere/ca"),
    ] {
        let mut config = Config::new(directory.path());
        config.sinks = vec![sink(text)];
        let error = Collector::start(config).await.err().unwrap().to_string();
        assert!(error.contains(part) && error.contains("sink a"), "{error}");
    }
}
