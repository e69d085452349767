//! WebSocket as agents speak it. Ids in comments are rows of the conformance list.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod support;

use std::time::{Duration, Instant};

use gateway::{Limits, LinkError};
use prost::Message;
use proto::edge;
use proto::opamp::server_error_response::Details;
use proto::opamp::{
    AgentDisconnect, AgentRemoteConfig, AgentToServer, ServerErrorResponseType, ServerToAgent,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn offer() -> ServerToAgent {
    let remote_config = AgentRemoteConfig {
        config: None,
        config_hash: vec![1; 32],
    };
    ServerToAgent {
        remote_config: Some(remote_config),
        ..ServerToAgent::default()
    }
}

fn assert_bad_request(message: &ServerToAgent) {
    let error = message.error_response.clone().expect("an error_response");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert!(!error.error_message.is_empty());
}

// T1
#[tokio::test]
async fn the_same_script_has_the_same_replies_over_both_transports() {
    let link = TestLink::new(|report| {
        let flags = u64::from(report.session.is_none());
        Ok(accept(
            report,
            vec![ServerToAgent {
                flags,
                ..ServerToAgent::default()
            }],
        ))
    });
    let running = start(&link, Limits::default());
    let mut http = Http::connect(running.address).await;
    let mut ws = Ws::connect(running.address).await;
    for number in 0..4 {
        let mut over_http = http.post(&described(1, number)).await.message();
        let over_ws = ws.ask(&described(2, number)).await;
        over_http.instance_uid = over_ws.instance_uid.clone();
        assert_eq!(over_http, over_ws);
    }
    let transports: Vec<i32> = link
        .reports
        .lock()
        .unwrap()
        .iter()
        .map(|report| report.transport)
        .collect();
    assert_eq!(transports, [1, 2, 1, 2, 1, 2, 1, 2]);
}

// T5
#[tokio::test]
async fn several_agents_on_one_connection_are_kept_apart() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    for agent in 1..=3 {
        assert_eq!(ws.ask(&described(agent, 0)).await.instance_uid, [agent; 16]);
    }
    for number in 1..4 {
        for agent in 1..=3 {
            assert_eq!(ws.ask(&bare(agent, number)).await.instance_uid, [agent; 16]);
        }
    }
    assert_eq!(link.reports(), 3);
    drop(ws);
    until(|| link.closed.lock().unwrap().len() == 3).await;
}

// W1, W2, W3
#[tokio::test]
async fn the_header_is_a_varint_of_value_zero_in_any_spelling() {
    let running = start(&TestLink::content(), Limits::default());
    let mut ws = Ws::connect(running.address).await;
    let body = described(1, 0).encode_to_vec();
    let ten = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0];
    for header in [&[0][..], &[0x80, 0], &ten] {
        ws.frame(BINARY, &[header, &body].concat()).await;
        assert_eq!(ws.hear().await.error_response, None, "{header:?}");
    }
    for header in [&[1][..], &[0x80; 11], &[0x81, 0]] {
        ws.frame(BINARY, &[header, &body].concat()).await;
        assert_bad_request(&ws.hear().await);
    }
}

// W3
#[tokio::test]
async fn a_message_of_the_header_alone_is_valid_on_the_wire_and_fails_on_its_missing_uid() {
    let running = start(&TestLink::content(), Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.frame(BINARY, &[0]).await;
    let message = ws.hear().await;
    assert_bad_request(&message);
    assert!(
        message
            .error_response
            .unwrap()
            .error_message
            .contains("instance_uid")
    );
}

// W4, E1
#[tokio::test]
async fn text_headerless_and_garbage_messages_are_answered_and_the_connection_stays() {
    let running = start(&TestLink::content(), Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.frame(TEXT, b"hello").await;
    assert_bad_request(&ws.hear().await);
    ws.frame(BINARY, &described(1, 0).encode_to_vec()).await;
    assert_bad_request(&ws.hear().await);
    ws.frame(BINARY, b"\0\xff\xff").await;
    assert_bad_request(&ws.hear().await);
    ws.frame(BINARY, b"").await;
    assert_bad_request(&ws.hear().await);
    assert_eq!(ws.ask(&described(1, 0)).await.instance_uid, [1; 16]);
}

// E1
#[tokio::test]
async fn a_peer_that_sends_only_garbage_is_closed_in_the_end() {
    let running = start(
        &TestLink::content(),
        Limits {
            malformed_in_a_row: 3,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    for _ in 0..3 {
        ws.frame(BINARY, b"\x01").await;
    }
    assert_eq!(ws.close_code().await, 1008);
}

// W5, W6
#[tokio::test]
async fn a_message_over_the_limit_is_closed_with_1009() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            receive_bytes: 100_000,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    ws.frame(BINARY, &vec![0; 100_001]).await;
    assert_eq!(ws.close_code().await, 1009);
    assert_eq!(
        (link.reports(), running.metrics.refused.too_large.get()),
        (0, 1)
    );
}

// W5
#[tokio::test]
async fn fragments_that_add_up_to_too_much_are_closed_with_1009() {
    let running = start(
        &TestLink::content(),
        Limits {
            receive_bytes: 100_000,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    let mut first = frame(BINARY, &vec![0; 60_000]);
    first[0] &= 0x7f;
    let mut second = frame(0, &vec![0; 60_000]);
    second[0] &= 0x7f;
    ws.http
        .stream
        .write_all(&[first, second].concat())
        .await
        .unwrap();
    assert_eq!(ws.close_code().await, 1009);
}

// W5: permessage-deflate is not negotiated, so no bomb can be sent
#[tokio::test]
async fn compression_is_not_negotiated_and_compressed_frames_are_refused() {
    let running = start(&TestLink::content(), Limits::default());
    let (mut ws, answer) = Ws::upgrade(
        running.address,
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    )
    .await;
    assert_eq!(
        (answer.status, answer.header("sec-websocket-extensions")),
        (101, None)
    );
    let mut compressed = frame(BINARY, &[0]);
    compressed[0] |= 0x40;
    ws.http.stream.write_all(&compressed).await.unwrap();
    assert_eq!(ws.close_code().await, 1002);
}

// W5: the global budget
#[tokio::test]
async fn a_message_over_the_global_budget_is_closed_with_1013() {
    let running = start(
        &TestLink::content(),
        Limits {
            in_flight_bytes: 200_000,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    ws.frame(BINARY, &vec![0; 1_000_000]).await;
    assert_eq!(ws.close_code().await, 1013);
    assert_eq!(running.metrics.refused.bytes.get(), 1);
}

// W5: the global budget
#[tokio::test]
async fn unfinished_messages_of_many_connections_stay_within_the_global_budget() {
    let limits = Limits {
        in_flight_bytes: 1_000_000,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let part = &frame(BINARY, &[0; 64_001])[..60_000];
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let mut ws = Ws::connect(running.address).await;
        let _closed_meanwhile = ws.http.stream.write_all(part).await;
        sockets.push(ws);
    }
    // 16 of 60,000 bytes fit into the budget, each with its TCP segments as they come.
    until(|| running.metrics.refused.bytes.get() >= 33).await;
    assert!(running.metrics.in_flight_bytes.get() <= 1_000_000);
    drop(sockets);
    until(|| running.metrics.in_flight_bytes.get() == 0).await;
}

// W5: the global budget; an idle check-in asks nothing of what all share
#[tokio::test]
async fn idle_agents_are_answered_when_the_budget_is_spent_and_reports_are_not() {
    let limits = Limits {
        in_flight_bytes: 40,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut ws = Ws::connect(running.address).await;
    assert_eq!(ws.ask(&described(1, 0)).await.error_response, None);
    let mut large = described(1, 1);
    large.health = Some(proto::opamp::ComponentHealth {
        last_error: "x".repeat(100),
        ..Default::default()
    });
    let error = ws.ask(&large).await.error_response.unwrap();
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    assert_eq!(ws.ask(&bare(1, 1)).await.error_response, None);
    assert_eq!(running.metrics.refused.bytes.get(), 1);
}

// limits: slow clients
#[tokio::test]
async fn a_message_that_has_begun_and_does_not_go_on_is_closed_with_1008() {
    let limits = Limits {
        progress_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let whole = frame(BINARY, &[0; 20_000]);
    let mut fragment = frame(BINARY, &[0; 10]);
    fragment[0] &= 0x7f;
    for part in [&whole[..10_000], &whole[..1], &fragment] {
        let mut ws = Ws::connect(running.address).await;
        ws.http.stream.write_all(part).await.unwrap();
        assert_eq!(ws.close_code().await, 1008);
    }
    assert_eq!(running.metrics.refused.late.get(), 3);
    assert_eq!(running.metrics.in_flight_bytes.get(), 0);
    let mut idle = Ws::connect(running.address).await;
    idle.ask(&described(1, 0)).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(idle.ask(&bare(1, 1)).await.error_response, None);
}

// limits: slow clients
#[tokio::test]
async fn a_message_whose_fragments_trickle_is_closed_with_1008_also_among_pings() {
    let limits = Limits {
        progress_timeout: Duration::from_millis(400),
        progress_bytes: 10_000,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut ws = Ws::connect(running.address).await;
    let mut first = frame(BINARY, &[0; 10]);
    first[0] &= 0x7f;
    ws.http.stream.write_all(&first).await.unwrap();
    let trickle = async {
        while running.metrics.refused.late.get() == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut next = frame(0, &[0; 10]);
            next[0] &= 0x7f;
            let both = [next, frame(PING, b"x")].concat();
            if ws.http.stream.write_all(&both).await.is_err() {
                return;
            }
        }
    };
    within(trickle).await;
    assert_eq!(ws.close_code().await, 1008);
}

// limits: agents of one connection
#[tokio::test]
async fn an_agent_too_many_on_one_connection_is_refused_and_counted() {
    let limits = Limits {
        agents_per_connection: 1,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut ws = Ws::connect(running.address).await;
    assert_eq!(ws.ask(&described(1, 0)).await.error_response, None);
    let error = ws.ask(&described(2, 0)).await.error_response.unwrap();
    assert!(error.error_message.contains("agents_per_connection"));
    assert_eq!(running.metrics.refused.agents.get(), 1);
    assert_eq!(ws.ask(&bare(1, 1)).await.error_response, None);
}

// W7
#[tokio::test]
async fn an_answer_over_the_limit_is_not_sent_in_part() {
    let link = TestLink::new(|report| Ok(accept(report, vec![offer()])));
    let running = start(
        &link,
        Limits {
            send_bytes: 30,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    let expected = ServerToAgent {
        instance_uid: vec![1; 16],
        capabilities: 7,
        ..ServerToAgent::default()
    };
    assert_eq!(ws.ask(&described(1, 0)).await, expected);
    assert_eq!(running.metrics.oversized_answers.get(), 1);
}

// W8
#[tokio::test]
async fn a_drain_closes_with_1001_spread_over_time_and_ends_in_bounded_time() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut clients = Vec::new();
    for agent in 1..=10 {
        let mut ws = Ws::connect(running.address).await;
        ws.ask(&described(agent, 0)).await;
        clients.push(ws);
    }
    let began = Instant::now();
    running.drain.cancel();
    let waiting = clients
        .into_iter()
        .map(|mut ws| async move { (ws.close_code().await, began.elapsed()) });
    let closed = futures::future::join_all(waiting).await;
    assert!(closed.iter().all(|(code, _)| *code == 1001));
    let times = closed.iter().map(|(_, at)| *at);
    let spread = times.clone().max().unwrap() - times.min().unwrap();
    assert!(spread > Duration::from_millis(300), "{spread:?}");
    within(running.task).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(link.closed.lock().unwrap().len(), 10);
}

// W8
#[tokio::test]
async fn a_report_under_way_is_answered_during_a_drain() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    *link.delay.lock().unwrap() = Duration::from_millis(500);
    let drain = running.drain.clone();
    let message = described(1, 0);
    let (answer, ()) = tokio::join!(post(running.address, &message), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drain.cancel();
    });
    assert_eq!(answer.status, 200);
    within(running.task).await.unwrap();
}

// W9, R8 (edge part)
#[tokio::test]
async fn what_becomes_pending_is_pushed_without_waiting_for_the_agent() {
    let link = TestLink::new(|report| {
        let replies = if report.message.is_none() {
            vec![offer(), ServerToAgent::default()]
        } else {
            vec![]
        };
        Ok(edge::Answer {
            grant_ms: 2000,
            ..accept(report, replies)
        })
    });
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    link.notice(&[1; 16], edge::notice::Kind::Pending);
    assert!(ws.hear().await.remote_config.is_some());
    assert_eq!(ws.hear().await.remote_config, None);
    assert!(
        link.reports.lock().unwrap()[1]
            .session
            .as_ref()
            .unwrap()
            .pending
    );
    ws.ask(&bare(1, 1)).await;
    assert_eq!((link.reports(), running.metrics.pushes.get()), (2, 1));
}

// R9 (edge part)
#[tokio::test]
async fn a_notice_during_a_report_leads_to_exactly_one_pull() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    *link.delay.lock().unwrap() = Duration::from_millis(300);
    ws.say(&described(1, 1)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    link.notice(&[1; 16], edge::notice::Kind::Pending);
    ws.hear().await;
    // The notice came during the report, so it counts: one pull, and no more.
    until(|| link.reports() == 3).await;
    assert!(ws.is_silent().await);
    assert_eq!(link.reports(), 3);
}

// W10, S3
#[tokio::test]
async fn every_message_has_its_reply_also_when_many_are_sent_at_once() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            waiting_per_agent: 100,
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    let burst: Vec<u8> = (0..50)
        .flat_map(|number| {
            let agent = 1 + (number % 2) as u8;
            frame(
                BINARY,
                &[&[0][..], &described(agent, number / 2).encode_to_vec()].concat(),
            )
        })
        .collect();
    ws.http.stream.write_all(&burst).await.unwrap();
    let mut replies = [0; 2];
    for _ in 0..50 {
        replies[usize::from(ws.hear().await.instance_uid[0] - 1)] += 1;
    }
    assert_eq!(replies, [25, 25]);
    for agent in 1..=2u8 {
        let reports = link.reports.lock().unwrap();
        let numbers: Vec<u64> = reports
            .iter()
            .filter(|report| report.instance_uid[0] == agent)
            .map(|report| report.message.as_ref().unwrap().sequence_num)
            .collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
    }
}

// W11, Z1
#[tokio::test]
async fn a_wrong_token_is_401_before_the_upgrade() {
    let running = start_with(&TestLink::content(), config(Limits::default()), true);
    let (_, answer) = Ws::upgrade(running.address, "").await;
    assert_eq!(
        (answer.status, answer.header("www-authenticate")),
        (401, Some("Bearer realm=\"muster\""))
    );
    let (mut ws, answer) = Ws::upgrade(running.address, "Authorization: Bearer secret-b\r\n").await;
    assert_eq!(answer.status, 101);
    assert_eq!(ws.ask(&described(1, 0)).await.instance_uid, [1; 16]);
}

// W12
#[tokio::test]
async fn an_overloaded_gateway_answers_503_before_the_upgrade() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            in_flight_reports: 1,
            ..Limits::default()
        },
    );
    *link.delay.lock().unwrap() = Duration::from_millis(600);
    let message = described(1, 0);
    let (_, (_, refused)) = tokio::join!(post(running.address, &message), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ws::upgrade(running.address, "").await
    });
    assert_eq!(refused.status, 503);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&seconds));
}

// T4
#[tokio::test]
async fn a_handshake_that_is_none_is_refused_by_status() {
    let running = start(&TestLink::content(), Limits::default());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let cases = [
        ("GET", String::new(), 426),
        (
            "GET",
            format!(
                "{upgrade}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            ),
            426,
        ),
        (
            "GET",
            format!("{upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n"),
            400,
        ),
        (
            "POST",
            format!(
                "{upgrade}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            ),
            400,
        ),
    ];
    for (method, headers, status) in cases {
        let answer = Http::connect(running.address)
            .await
            .send(method, "/v1/opamp", &headers, b"")
            .await;
        assert_eq!(answer.status, status, "{method} {headers}");
    }
}

// W13
#[tokio::test]
async fn a_silent_peer_is_pinged_and_given_up_when_it_stays_silent() {
    let link = TestLink::content();
    let limits = Limits {
        ws_ping: Duration::from_millis(200),
        ws_read_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let running = start(&link, limits);
    let mut alive = Ws::connect(running.address).await;
    alive.ask(&described(1, 0)).await;
    let mut dead = Ws::connect(running.address).await;
    dead.ask(&described(2, 0)).await;
    assert_eq!(dead.next().await.0, PING);
    for _ in 0..5 {
        let (opcode, payload) = alive.next().await;
        assert_eq!(opcode, PING);
        alive.frame(PONG, &payload).await;
    }
    until(|| link.closed.lock().unwrap().len() == 1).await;
    assert!(!link.closed.lock().unwrap()[0].2);
    assert_eq!(
        (
            link.closed.lock().unwrap()[0].0.as_bytes()[0],
            running.metrics.silent.get()
        ),
        (2, 1)
    );
    assert_eq!(alive.ask(&bare(1, 1)).await.instance_uid, [1; 16]);
}

// W13
#[tokio::test]
async fn pings_of_the_peer_are_answered() {
    let running = start(&TestLink::content(), Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.frame(PING, b"are you there").await;
    assert_eq!(ws.next().await, (PONG, b"are you there".to_vec()));
}

// limits: slow clients
#[tokio::test]
async fn a_peer_that_takes_no_bytes_is_dropped() {
    let link = TestLink::new(|report| {
        let file = proto::opamp::AgentConfigObject {
            body: vec![b'x'; 32 << 20],
            ..Default::default()
        };
        let config = proto::opamp::AgentConfigMap {
            config_map: [(String::new(), file)].into(),
        };
        let remote_config = AgentRemoteConfig {
            config: Some(config),
            config_hash: vec![1; 32],
        };
        let reply = ServerToAgent {
            remote_config: Some(remote_config),
            ..ServerToAgent::default()
        };
        Ok(edge::Answer {
            grant_ms: 60_000,
            ..accept(report, vec![reply])
        })
    });
    let running = start(
        &link,
        Limits {
            write_timeout: Duration::from_millis(500),
            ..Limits::default()
        },
    );
    let mut ws = Ws::connect(running.address).await;
    ws.say(&described(1, 0)).await;
    until(|| link.closed.lock().unwrap().len() == 1).await;
    assert!(!link.closed.lock().unwrap()[0].2);
}

// S8 (edge part), I5 (edge part)
#[tokio::test]
async fn another_connection_of_the_same_uid_is_reported_with_its_own_number() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut first = Ws::connect(running.address).await;
    first.ask(&described(1, 0)).await;
    first.ask(&bare(1, 1)).await;
    let mut second = Ws::connect(running.address).await;
    second.ask(&bare(1, 2)).await;
    let reports = link.reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 2);
    assert_ne!(reports[0].connection, reports[1].connection);
    assert_eq!(reports[1].session.as_ref().unwrap().number, 1);
}

// D1
#[tokio::test]
async fn an_agent_that_says_it_leaves_is_reported_answered_and_closed_clean() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    let leave = AgentToServer {
        agent_disconnect: Some(AgentDisconnect {}),
        ..bare(1, 1)
    };
    assert_eq!(ws.ask(&leave).await.instance_uid, [1; 16]);
    drop(ws);
    until(|| link.closed.lock().unwrap().len() == 1).await;
    assert!(link.closed.lock().unwrap()[0].2);
    assert!(
        link.reports.lock().unwrap()[1]
            .message
            .as_ref()
            .unwrap()
            .agent_disconnect
            .is_some()
    );
}

// D1: opamp-go sends both at once
#[tokio::test]
async fn a_farewell_whose_close_frame_follows_at_once_is_still_reported() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    *link.delay.lock().unwrap() = Duration::from_millis(200);
    let mut ws = Ws::connect(running.address).await;
    let leave = AgentToServer {
        agent_disconnect: Some(AgentDisconnect {}),
        ..described(1, 0)
    };
    let message = frame(BINARY, &[&[0][..], &leave.encode_to_vec()].concat());
    let close = frame(CLOSE, &1000u16.to_be_bytes());
    ws.http
        .stream
        .write_all(&[message, close].concat())
        .await
        .unwrap();
    assert_eq!(ws.close_code().await, 1000);
    until(|| link.closed.lock().unwrap().len() == 1).await;
    assert!(link.closed.lock().unwrap()[0].2);
    assert_eq!(link.reports(), 1);
}

// D2 (edge part)
#[tokio::test]
async fn a_dropped_connection_is_told_with_its_number_and_does_not_take_over_the_newer_one() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut old = Ws::connect(running.address).await;
    old.ask(&described(1, 0)).await;
    let mut new = Ws::connect(running.address).await;
    new.ask(&bare(1, 1)).await;
    drop(old);
    until(|| link.closed.lock().unwrap().len() == 1).await;
    let (_, connection, clean) = link.closed.lock().unwrap()[0];
    assert_eq!(
        (connection, clean),
        (link.reports.lock().unwrap()[0].connection, false)
    );
    link.notice(&[1; 16], edge::notice::Kind::Pending);
    until(|| link.reports() == 3).await;
    let reports = link.reports.lock().unwrap().clone();
    assert_eq!(reports[2].connection, reports[1].connection);
}

#[tokio::test]
async fn what_becomes_pending_is_pushed_also_while_nobody_can_be_told_where_sessions_stood() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    post(running.address, &described(1, 0)).await;
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(2, 0)).await;
    link.deaf.store(true, std::sync::atomic::Ordering::Relaxed);
    link.notice(&[1; 16], edge::notice::Kind::Moved);
    link.notice(&[2; 16], edge::notice::Kind::Pending);
    until(|| link.reports() == 3).await;
    assert_eq!(running.metrics.moved.get(), 1);
    assert_eq!(link.reports.lock().unwrap()[2].message, None);
}

#[tokio::test]
async fn who_has_got_a_session_is_told_where_it_stood() {
    let link = TestLink::content();
    let limits = Limits {
        presence_every: Duration::from_secs(3600),
        ..Limits::default()
    };
    let running = start(&link, limits);
    post(running.address, &described(1, 0)).await;
    post(running.address, &bare(1, 1)).await;
    link.notice(&[1; 16], edge::notice::Kind::Moved);
    until(|| !link.presence.lock().unwrap().is_empty()).await;
    assert_eq!(link.presence.lock().unwrap()[0].number, 1);
}

// I6, D3, DROP notices
#[tokio::test]
async fn a_dropped_agent_is_forgotten_and_its_connection_closed() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    link.notice(&[1; 16], edge::notice::Kind::Drop);
    assert_eq!(ws.close_code().await, 1008);
    post(running.address, &bare(1, 1)).await;
    assert_eq!(link.reports.lock().unwrap()[1].session, None);
}

// I6
#[tokio::test]
async fn an_answer_may_end_the_connection_after_its_replies() {
    let link = TestLink::new(|report| {
        Ok(edge::Answer {
            disconnect: true,
            ..accept(report, vec![])
        })
    });
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    assert_eq!(ws.ask(&described(1, 0)).await.instance_uid, [1; 16]);
    assert_eq!(ws.close_code().await, 1008);
}

// E3, E5
#[tokio::test]
async fn without_a_leader_the_reply_is_unavailable_with_a_retry_time_and_the_number_stays() {
    let link = TestLink::new(|report| match &report.message {
        Some(message) if message.sequence_num == 1 => Err(LinkError::Unavailable {
            retry_after: Duration::from_secs(2),
        }),
        _ => Ok(accept(report, vec![])),
    });
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    let error = ws.ask(&described(1, 1)).await.error_response.unwrap();
    assert_eq!(error.r#type(), ServerErrorResponseType::Unavailable);
    let Some(Details::RetryInfo(retry)) = error.details else {
        panic!("retry_info is missing")
    };
    assert!((1_000_000_000..=5_000_000_000).contains(&retry.retry_after_nanoseconds));
    ws.ask(&described(1, 2)).await;
    assert_eq!(
        link.reports.lock().unwrap()[2]
            .session
            .as_ref()
            .unwrap()
            .number,
        0
    );
}

// X1
#[tokio::test]
async fn several_replies_are_sent_one_by_one_in_order() {
    let link = TestLink::new(|report| {
        let command = proto::opamp::ServerToAgentCommand::default();
        let first = ServerToAgent {
            command: Some(command),
            ..ServerToAgent::default()
        };
        Ok(edge::Answer {
            grant_ms: 2000,
            ..accept(report, vec![first, offer()])
        })
    });
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    let first = ws.ask(&described(1, 0)).await;
    let second = ws.hear().await;
    assert!(first.command.is_some() && first.remote_config.is_none());
    assert!(second.command.is_none() && second.remote_config.is_some());
}

// I3, I7 (edge part)
#[tokio::test]
async fn an_agent_that_moved_to_a_new_uid_can_be_pushed_to_under_it() {
    let link = TestLink::new(|report| {
        let mut answer = accept(report, vec![]);
        if report.session.is_none() {
            answer.new_instance_uid = vec![9; 16].into();
        }
        Ok(answer)
    });
    let running = start(&link, Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.ask(&described(1, 0)).await;
    link.notice(&[9; 16], edge::notice::Kind::Pending);
    until(|| link.reports() == 2).await;
    assert_eq!(link.reports.lock().unwrap()[1].instance_uid[..], [9; 16]);
}

// RFC 6455
#[tokio::test]
async fn an_unmasked_frame_is_a_protocol_error() {
    let running = start(&TestLink::content(), Limits::default());
    let mut ws = Ws::connect(running.address).await;
    ws.http.stream.write_all(&[0x82, 0x01, 0x00]).await.unwrap();
    assert_eq!(ws.close_code().await, 1002);
    let mut rest = Vec::new();
    let _reset = within(ws.http.stream.read_to_end(&mut rest)).await;
}
