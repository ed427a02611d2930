//! Subscribers get what they asked for, from where they asked, at their own pace.

use crate::harness::{Agent, Running, Subscriber, after, alert, alerts, earliest, filtered, hello, lost, sequences};
use proptest::prelude::*;
use staghound_proto::v1::{
    Alert, Edge, Filter, Item, ListAgentsRequest, RunRecord, Severity, Start, Technique,
    agent_service_client::AgentServiceClient, item, start, subscribe_response,
};
use std::time::Duration;
use tonic::Code;

#[tokio::test]
async fn filters_are_applied_and_bad_ones_refused() {
    let running = Running::start().await;
    let severe = |severity: Severity, technique: &str| {
        let techniques = vec![Technique {
            id: technique.to_owned(),
            ..Technique::default()
        }];
        let alert = Alert {
            severity: severity.into(),
            techniques,
            ..Alert::default()
        };
        Item {
            kind: Some(item::Kind::Alert(alert)),
        }
    };
    let run = Item {
        kind: Some(item::Kind::Run(RunRecord {
            run_id: "r".to_owned(),
            ..RunRecord::default()
        })),
    };
    let items = vec![
        severe(Severity::Low, "T1003.008"),
        severe(Severity::High, "T1059"),
        lost(3, 4),
        run,
    ];
    running.agent("a").await.deliver(1, items, 5).await;
    running.agent("b").await.deliver(1, alerts(1..=1), 1).await;
    let gets = async |filter: Filter, expected: &[u64]| {
        let entries = running.subscribe(filtered(filter)).await.entries(expected.len()).await;
        assert_eq!(sequences(&entries), expected);
    };
    gets(Filter::default(), &[1, 2, 4, 5, 1]).await;
    gets(
        Filter {
            min_severity: Severity::High.into(),
            ..Filter::default()
        },
        &[2, 4, 5],
    )
    .await;
    gets(
        Filter {
            alerts_only: true,
            ..Filter::default()
        },
        &[1, 2, 1],
    )
    .await;
    gets(
        Filter {
            techniques: vec!["T1003".to_owned()],
            alerts_only: true,
            ..Filter::default()
        },
        &[1],
    )
    .await;
    gets(
        Filter {
            hosts: vec!["host-of-a".to_owned()],
            ..Filter::default()
        },
        &[1, 2, 4, 5],
    )
    .await;
    gets(
        Filter {
            run_ids: vec!["r".to_owned()],
            ..Filter::default()
        },
        &[4, 5],
    )
    .await;

    let bad = Filter {
        techniques: vec!["shadow".to_owned()],
        ..Filter::default()
    };
    let status = running.subscribe(filtered(bad)).await.next().await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("T1003.008"), "{status:?}");
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_cursor_resumes_across_a_restart_and_another_store_refuses_it() {
    let running = Running::start().await;
    running.agent("a").await.deliver(1, alerts(1..=600), 600).await;
    let entries = running.stored(600).await;
    let running = running.restart().await;
    for place in [0, 299, 598] {
        let mut subscriber = running.subscribe(after(&entries[place].cursor)).await;
        assert_eq!(subscriber.entries(599 - place).await, entries[place + 1..]);
    }
    let mut latest = running.subscribe(after(&entries[599].cursor)).await;
    running.agent("a").await.deliver(601, alerts(601..=601), 601).await;
    assert_eq!(sequences(&latest.entries(1).await), [601]);

    let other = Running::start().await;
    let refused = async |cursor: &str, part: &str| {
        let status = other.subscribe(after(cursor)).await.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{status:?}");
    };
    refused(&entries[0].cursor, "of another store; start at earliest").await;
    refused("yesterday\u{1b}", "\"yesterday\\u{1b}\" is invalid").await;
    let mut subscriber = other.subscribe(earliest_with_heartbeats()).await;
    let own = subscriber.heartbeat().await.cursor;
    let beyond = format!("{}{:016x}", &own[..10], 2);
    refused(&beyond, "not within this store").await;
    refused(&format!("{}{:016x}", &own[..10], 0), "not within this store").await;
    other.collector.shutdown().await;
    running.collector.shutdown().await;
}

fn earliest_with_heartbeats() -> Start {
    Start {
        heartbeat_interval_s: 1,
        ..earliest()
    }
}

#[tokio::test]
async fn heartbeats_carry_the_cursor_past_what_was_filtered_out() {
    let running = Running::start().await;
    let filter = Filter {
        rule_ids: vec!["none".to_owned()],
        ..Filter::default()
    };
    let start = Start {
        filter: Some(filter),
        ..earliest_with_heartbeats()
    };
    let mut subscriber = running.subscribe(start).await;
    let before = subscriber.heartbeat().await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=5), 5).await;
    let mut heartbeat = subscriber.heartbeat().await;
    while heartbeat.cursor == before.cursor {
        heartbeat = subscriber.heartbeat().await;
    }
    assert!(!heartbeat.lost_before);
    agent.deliver(6, alerts(6..=6), 6).await;
    let mut resumed = running.subscribe(after(&heartbeat.cursor)).await;
    assert_eq!(sequences(&resumed.entries(1).await), [6]);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn latest_gets_only_what_comes_after() {
    let running = Running::start().await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=3), 3).await;
    for position in [None, Some(start::Position::Edge(Edge::Latest.into()))] {
        let start = Start {
            position,
            heartbeat_interval_s: 1,
            ..Start::default()
        };
        let mut subscriber = running.subscribe(start).await;
        // The first heartbeat proves that the position is taken.
        subscriber.heartbeat().await;
        let next = 1 + Agent::connect(running.address(), hello("a"))
            .await
            .unwrap()
            .1
            .resume_after;
        running.agent("a").await.deliver(next, alerts(next..=next), next).await;
        assert_eq!(sequences(&subscriber.entries(1).await), [next]);
    }
    running.collector.shutdown().await;
}

#[tokio::test]
async fn no_more_is_sent_than_credit_allows() {
    let running = Running::start().await;
    running.agent("a").await.deliver(1, alerts(1..=100), 100).await;
    let mut subscriber = running
        .subscribe(Start {
            window: 3,
            ..earliest_with_heartbeats()
        })
        .await;
    assert_eq!(sequences(&subscriber.entries(3).await), [1, 2, 3]);
    subscriber.heartbeat().await;
    subscriber.credit(2).await;
    assert_eq!(sequences(&subscriber.entries(2).await), [4, 5]);
    subscriber.heartbeat().await;
    subscriber.credit(u32::MAX).await;
    assert_eq!(subscriber.entries(95).await.len(), 95);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_slows_neither_ingest_nor_another() {
    let running = Running::start().await;
    let mut slow = running.subscribe(earliest()).await;
    let mut quick = running.subscribe(earliest()).await;
    let mut agent = running.agent("a").await;
    let large = |sequence| {
        let alert = Alert {
            boot_time_ns: sequence,
            message: "x".repeat(50_000),
            ..Alert::default()
        };
        Item {
            kind: Some(item::Kind::Alert(alert)),
        }
    };
    // 40 MB, far more than the transport takes for a reader that does not read; with `--full` for more than a minute.
    let minute = std::env::var_os("STAGHOUND_FULL").is_some();
    let pause = Duration::from_millis(if minute { 1600 } else { 0 });
    for first in (1..=781).step_by(20) {
        tokio::time::sleep(pause).await;
        agent
            .deliver(first, (first..first + 20).map(large).collect(), first + 19)
            .await;
        assert_eq!(
            sequences(&quick.entries(20).await),
            (first..first + 20).collect::<Vec<_>>()
        );
    }
    assert_eq!(sequences(&slow.entries(800).await), (1..=800).collect::<Vec<_>>());
    running.collector.shutdown().await;
}

#[tokio::test]
async fn retention_that_overtakes_a_cursor_is_told() {
    let running = Running::start_with(|config| config.retention.bytes = Some(10_000)).await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=10), 10).await;
    let cursor = running.stored(10).await[4].cursor.clone();
    for first in (11..=4001).step_by(10) {
        agent.deliver(first, alerts(first..=first + 9), first + 9).await;
    }
    let mut subscriber = running.subscribe(after(&cursor)).await;
    let subscribe_response::Phase::Entries(entries) = subscriber.next().await.unwrap() else {
        panic!("no entries")
    };
    assert!(entries.lost_before);
    let first = entries.entries[0].sequence;
    assert!((100..4000).contains(&first), "{first}");
    let mut rest = running.subscribe(earliest()).await;
    let subscribe_response::Phase::Entries(entries) = rest.next().await.unwrap() else {
        panic!("no entries")
    };
    assert!(!entries.lost_before);
    let filter = Filter {
        rule_ids: vec!["none".to_owned()],
        ..Filter::default()
    };
    let mut none = running
        .subscribe(Start {
            filter: Some(filter),
            ..after(&cursor)
        })
        .await;
    assert!(none.heartbeat().await.lost_before);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn age_removes_everything_and_positions_go_on() {
    let running = Running::start_with(|config| config.retention.age = Some(Duration::from_secs(1))).await;
    let mut agent = running.agent("a").await;
    agent.deliver(1, alerts(1..=3), 3).await;
    let cursor = running.stored(3).await[0].cursor.clone();
    let filter = Filter {
        rule_ids: vec!["none".to_owned()],
        ..Filter::default()
    };
    loop {
        let start = Start {
            filter: Some(filter.clone()),
            heartbeat_interval_s: 1,
            ..after(&cursor)
        };
        if running.subscribe(start).await.heartbeat().await.lost_before {
            break;
        }
    }
    let running = running.restart().await;
    let mut subscriber = running.subscribe(after(&cursor)).await;
    running.agent("a").await.deliver(4, vec![alert(4)], 4).await;
    assert_eq!(sequences(&subscriber.entries(1).await), [4]);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn bad_subscriptions_are_refused() {
    let running = Running::start_with(|config| config.subscribers_max = 1).await;
    let start = Start {
        position: Some(start::Position::Edge(7)),
        ..Start::default()
    };
    let mut first = running.subscribe(start).await;
    assert_eq!(first.next().await.unwrap_err().code(), Code::InvalidArgument);
    // The place of the refused one becomes free when its task ends.
    let held = loop {
        if let Ok(subscriber) = Subscriber::connect(running.address(), earliest()).await {
            break subscriber;
        }
    };
    let status = Subscriber::connect(running.address(), earliest()).await.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop(held);
    running.collector.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_cursor_are_refused_and_harm_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        static RUNNING: std::sync::LazyLock<(tokio::runtime::Runtime, Running)> = std::sync::LazyLock::new(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let running = runtime.block_on(Running::start());
            (runtime, running)
        });
        let (runtime, running) = &*RUNNING;
        let status = runtime.block_on(async {
            running.subscribe(after(&String::from_utf8_lossy(&bytes))).await.next().await.unwrap_err()
        });
        prop_assert_eq!(status.code(), Code::InvalidArgument);
    }
}

fn named(name: &str) -> Start {
    Start {
        consumer: name.to_owned(),
        heartbeat_interval_s: 1,
        ..earliest()
    }
}

#[tokio::test]
async fn a_named_consumer_goes_on_where_it_was_even_after_a_restart() {
    let running = Running::start().await;
    running.agent("a").await.deliver(1, alerts(1..=20), 20).await;
    let mut first = running.subscribe(named("siem")).await;
    let entries = first.entries(20).await;
    first.commit(&entries[4].cursor).await;
    // The newer stream of the same consumer ends the older one; another name has its own position.
    let mut second = loop {
        let mut second = running.subscribe(named("siem")).await;
        if second.next_entries().await[0].sequence == 6 {
            break second;
        }
    };
    let status = loop {
        if let Err(status) = first.next().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Aborted, "{status:?}");
    assert_eq!(
        sequences(&running.subscribe(named("other")).await.entries(20).await)[0],
        1
    );
    second.commit(&entries[9].cursor).await;
    // Answered after the commit, which is in the same queue.
    running.agent("a").await.deliver(21, alerts(21..=21), 21).await;
    while second.next_entries().await.last().unwrap().sequence < 21 {}
    second.heartbeat().await;
    let running = running.restart().await;
    let mut third = running.subscribe(named("siem")).await;
    assert_eq!(sequences(&third.entries(11).await), (11..=21).collect::<Vec<_>>());

    let refused = async |start: Start, part: &str| {
        let status = running.subscribe(start).await.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{status:?}");
    };
    refused(named("a b"), "is not 1 to 64").await;
    refused(named(&"x".repeat(65)), "is not 1 to 64").await;
    let mut nameless = running.subscribe(earliest()).await;
    nameless.commit(&entries[0].cursor).await;
    let status = loop {
        if let Err(status) = nameless.next().await {
            break status;
        }
    };
    assert!(status.message().contains("needs a consumer's name"), "{status:?}");
    third.commit("no cursor").await;
    assert_eq!(third.next().await.unwrap_err().code(), Code::InvalidArgument);
    running.collector.shutdown().await;
}

#[tokio::test]
async fn expressions_choose_alerts_and_bad_ones_are_refused() {
    let running = Running::start().await;
    let items = (1..=4).map(|sequence| {
        let alert = Alert {
            message: format!("m{sequence}"),
            severity: sequence,
            ..Alert::default()
        };
        Item {
            kind: Some(item::Kind::Alert(alert)),
        }
    });
    let items = items.chain([lost(5, 6)]).collect();
    running.agent("a").await.deliver(1, items, 6).await;
    let expression = |expression: &str| {
        filtered(Filter {
            expression: expression.to_owned(),
            ..Filter::default()
        })
    };
    let mut subscriber = running.subscribe(expression("severity >= 3 || message == 'm1'")).await;
    assert_eq!(sequences(&subscriber.entries(4).await), [1, 3, 4, 6]);
    for (bad, part) in [
        ("severity", "not true or false"),
        ("nothing == 1", "nothing"),
        ("severity >=", "expression"),
    ] {
        let status = running.subscribe(expression(bad)).await.next().await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(part), "{status:?}");
    }
    running.collector.shutdown().await;
}

#[tokio::test]
async fn too_many_messages_end_a_subscription() {
    let running = Running::start().await;
    let mut subscriber = running.subscribe(earliest()).await;
    for _ in 0..2000 {
        if !subscriber.try_credit(1).await {
            break;
        }
    }
    let status = loop {
        if let Err(status) = subscriber.next().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    running.collector.shutdown().await;
}

#[tokio::test]
async fn agents_are_listed_with_what_they_said_and_lost() {
    let running = Running::start().await;
    let mut held = running.agent("b").await;
    held.deliver(1, alerts(1..=2), 2).await;
    running
        .agent("a")
        .await
        .deliver(1, vec![alert(1), lost(2, 9), alert(10)], 10)
        .await;
    let channel = running.channel().await;
    let mut client = AgentServiceClient::new(channel.clone());
    let mut list = async |page_size, page_token: &str| {
        let request = ListAgentsRequest {
            page_size,
            page_token: page_token.to_owned(),
        };
        client.list_agents(request).await.unwrap().into_inner()
    };
    let first = list(1, "").await;
    assert_eq!((first.agents.len(), first.next_page_token.as_str()), (1, "a"));
    let a = &first.agents[0];
    assert_eq!(
        (a.agent_id.as_str(), a.items, a.sequence_gaps, a.lost_items, a.through),
        ("a", 3, 1, 8, 10)
    );
    assert_eq!(a.host.as_ref().unwrap().name, "host-of-a");
    assert!(a.first_seen.is_some() && a.last_seen.is_some() && a.last_gap.is_some());
    let second = list(1, &first.next_page_token).await;
    assert_eq!((second.agents.len(), second.next_page_token.as_str()), (1, ""));
    let b = &second.agents[0];
    assert_eq!(
        (b.agent_id.as_str(), b.items, b.connected, b.last_gap),
        ("b", 2, true, None)
    );
    drop(held);
    let before = list(0, "").await.agents;
    let running = running.restart().await;
    let mut client = AgentServiceClient::new(running.channel().await);
    let after = client
        .list_agents(ListAgentsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .agents;
    let known = |agents: &[staghound_proto::v1::Agent]| {
        agents
            .iter()
            .map(|agent| (agent.agent_id.clone(), agent.items, agent.lost_items, agent.through))
            .collect::<Vec<_>>()
    };
    assert_eq!(known(&before), known(&after));
    running.collector.shutdown().await;
}
