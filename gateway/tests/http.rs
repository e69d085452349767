//! Plain HTTP as agents speak it. Ids in comments are rows of the conformance list.
#![allow(clippy::unwrap_used, reason = "the helpers of a test may fail it, too")]

mod support;

use std::io::Write;
use std::time::Duration;

use gateway::{Limits, LinkError};
use prost::Message;
use proto::edge;
use proto::opamp::{
    AgentConfigMap, AgentDisconnect, AgentRemoteConfig, ServerErrorResponseType, ServerToAgent,
};
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn small() -> Limits {
    Limits {
        receive_bytes: 100_000,
        ..Limits::default()
    }
}

fn offer(bytes: usize) -> ServerToAgent {
    let file = proto::opamp::AgentConfigObject {
        body: vec![b'x'; bytes],
        ..Default::default()
    };
    let config = AgentConfigMap {
        config_map: [(String::new(), file)].into(),
    };
    let remote_config = AgentRemoteConfig {
        config: Some(config),
        config_hash: vec![1; 32],
    };
    ServerToAgent {
        remote_config: Some(remote_config),
        ..ServerToAgent::default()
    }
}

fn assert_bad_request(answer: &Answer) {
    let message = answer.message();
    let error = message.error_response.clone().expect("an error_response");
    assert_eq!(error.r#type(), ServerErrorResponseType::BadRequest);
    assert!(!error.error_message.is_empty());
    let alone = ServerToAgent {
        instance_uid: message.instance_uid.clone(),
        error_response: Some(error),
        ..ServerToAgent::default()
    };
    assert_eq!(message, alone);
}

// T2
#[tokio::test]
async fn the_path_is_the_default_or_the_configured_one_and_all_others_are_404() {
    let link = TestLink::content();
    let default = start(&link, Limits::default());
    assert_eq!(post(default.address, &bare(1, 0)).await.status, 200);
    let answer = Http::connect(default.address)
        .await
        .send("POST", "/other", "", b"")
        .await;
    assert_eq!(answer.status, 404);
    let other = start_with(
        &link,
        gateway::Config {
            path: "/fleet".into(),
            ..config(Limits::default())
        },
        false,
    );
    let kind = "Content-Type: application/x-protobuf\r\n";
    let body = bare(1, 1).encode_to_vec();
    assert_eq!(
        Http::connect(other.address)
            .await
            .send("POST", "/fleet", kind, &body)
            .await
            .status,
        200
    );
    assert_eq!(post(other.address, &bare(1, 0)).await.status, 404);
}

// T4
#[tokio::test]
async fn another_content_type_is_a_websocket_initiation_and_never_decoded() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    for headers in ["Content-Type: application/json\r\n", ""] {
        let body = bare(1, 0).encode_to_vec();
        let answer = Http::connect(running.address)
            .await
            .send("POST", "/v1/opamp", headers, &body)
            .await;
        assert_eq!(
            (answer.status, answer.header("upgrade")),
            (426, Some("websocket"))
        );
    }
    assert_eq!(link.reports(), 0);
    let lenient = "Content-Type: Application/X-Protobuf; charset=utf-8\r\n";
    let body = bare(1, 0).encode_to_vec();
    let answer = Http::connect(running.address)
        .await
        .send("POST", "/v1/opamp", lenient, &body)
        .await;
    assert_eq!(answer.status, 200);
    let answer = Http::connect(running.address)
        .await
        .send(
            "GET",
            "/v1/opamp",
            "Content-Type: application/x-protobuf\r\n",
            b"",
        )
        .await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}

// T6
#[tokio::test]
async fn unknown_fields_and_bits_are_tolerated() {
    let running = start(&TestLink::content(), Limits::default());
    let mut body = proto::opamp::AgentToServer {
        capabilities: 0x8000_0001,
        ..bare(1, 0)
    }
    .encode_to_vec();
    body.extend([0x9a, 0x06, 0x01, b'x']); // field 99
    let answer = Http::connect(running.address)
        .await
        .post_bytes(&body, "")
        .await;
    assert_eq!(answer.message().error_response, None);
}

// T7, C1, C2, C6
#[tokio::test]
async fn every_reply_names_exactly_the_capabilities_of_this_server_and_no_undefined_flag() {
    let link = TestLink::new(|report| {
        let wild = ServerToAgent {
            capabilities: u64::MAX,
            flags: u64::MAX,
            ..ServerToAgent::default()
        };
        Ok(accept(report, vec![wild]))
    });
    let running = start(&link, Limits::default());
    let mut client = Http::connect(running.address).await;
    let first = client.post(&described(1, 0)).await.message();
    assert_eq!((first.capabilities, first.flags), (7, 3));
    assert_eq!(client.post(&bare(1, 1)).await.message().capabilities, 7);
}

// H1, H8, I1, S3
#[tokio::test]
async fn an_idle_poll_is_answered_with_the_smallest_ack_byte_by_byte() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut client = Http::connect(running.address).await;
    client.post(&described(1, 0)).await;
    let answer = client.post(&bare(1, 1)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-protobuf")
    );
    assert_eq!(
        answer.body,
        [&[0x0a, 16][..], &[1; 16], &[0x38, 7]].concat()
    );
    assert_eq!(link.reports(), 1);
    assert_eq!(
        (running.metrics.memory.get(), running.metrics.reported.get()),
        (1, 1)
    );
}

// H2
#[tokio::test]
async fn gzip_and_identity_requests_are_read_and_other_encodings_are_415() {
    let running = start(&TestLink::content(), Limits::default());
    let mut client = Http::connect(running.address).await;
    let body = described(1, 0).encode_to_vec();
    assert_eq!(
        client
            .post_bytes(&gzip(&body), "Content-Encoding: gzip\r\n")
            .await
            .message()
            .error_response,
        None
    );
    assert_eq!(
        client
            .post_bytes(&body, "Content-Encoding: identity\r\n")
            .await
            .status,
        200
    );
    for encoding in ["br", "gzip, gzip", "deflate"] {
        let answer = client
            .post_bytes(&body, &format!("Content-Encoding: {encoding}\r\n"))
            .await;
        assert_eq!(answer.status, 415, "{encoding}");
    }
}

// H2, E1
#[tokio::test]
async fn a_damaged_or_repeated_gzip_member_is_a_bad_request() {
    let running = start(&TestLink::content(), Limits::default());
    let one = gzip(&described(1, 0).encode_to_vec());
    for body in [
        &[&one[..], &one].concat()[..],
        &one[..one.len() - 1],
        b"plain",
    ] {
        let answer = Http::connect(running.address)
            .await
            .post_bytes(body, "Content-Encoding: gzip\r\n")
            .await;
        assert_bad_request(&answer);
    }
}

// H3
#[tokio::test]
async fn large_answers_are_gzipped_only_for_those_who_ask() {
    let link = TestLink::new(|report| {
        Ok(edge::Answer {
            grant_ms: 2000,
            ..accept(report, vec![offer(5000)])
        })
    });
    let running = start(&link, Limits::default());
    let body = described(1, 0).encode_to_vec();
    let cases = [
        ("", false),
        ("gzip", true),
        ("gzip;q=0", false),
        ("identity, gzip;q=0.5", false),
        ("br;q=1, gzip;q=0.8", true),
    ];
    for (accepts, packed) in cases {
        let header = if accepts.is_empty() {
            String::new()
        } else {
            format!("Accept-Encoding: {accepts}\r\n")
        };
        let answer = Http::connect(running.address)
            .await
            .post_bytes(&body, &header)
            .await;
        assert_eq!(
            answer.header("content-encoding"),
            packed.then_some("gzip"),
            "{accepts}"
        );
        assert_eq!(
            answer.header("content-type"),
            Some("application/x-protobuf")
        );
        assert_eq!(answer.body.len() < 1000, packed, "{accepts}");
    }
}

// H4
#[tokio::test]
async fn bodies_over_the_limit_are_413_also_when_inflated_and_also_without_a_length() {
    let link = TestLink::content();
    let running = start(&link, small());
    let answer = Http::connect(running.address)
        .await
        .post_bytes(&vec![0; 100_001], "")
        .await;
    assert_eq!(answer.status, 413);
    let bomb = gzip(&vec![0; 200_000]);
    let answer = Http::connect(running.address)
        .await
        .post_bytes(&bomb, "Content-Encoding: gzip\r\n")
        .await;
    assert_eq!(answer.status, 413);
    let mut client = Http::connect(running.address).await;
    let chunk = format!("186a1\r\n{}\r\n0\r\n\r\n", "x".repeat(100_001));
    let head = "POST /v1/opamp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, format!("{head}{chunk}").as_bytes())
        .await
        .unwrap();
    assert_eq!(client.read().await.status, 413);
    assert_eq!(
        (link.reports(), running.metrics.refused.too_large.get()),
        (0, 3)
    );
}

// H4
#[tokio::test]
async fn a_bomb_under_the_size_limit_is_413_by_its_ratio() {
    let running = start(&TestLink::content(), Limits::default());
    let bomb = gzip(&vec![0; 4 << 20]);
    let answer = Http::connect(running.address)
        .await
        .post_bytes(&bomb, "Content-Encoding: gzip\r\n")
        .await;
    assert_eq!(answer.status, 413);
}

// H5, W7
#[tokio::test]
async fn an_answer_over_the_limit_is_not_sent_but_counted_and_the_status_is_acknowledged() {
    let link = TestLink::new(|report| Ok(accept(report, vec![offer(5000)])));
    let running = start(
        &link,
        Limits {
            send_bytes: 1000,
            ..Limits::default()
        },
    );
    let message = post(running.address, &described(1, 0)).await.message();
    assert_eq!((message.remote_config, message.capabilities), (None, 7));
    assert_eq!(running.metrics.oversized_answers.get(), 1);
}

// H6, S4
#[tokio::test]
async fn a_poll_carries_what_is_pending_and_a_retry_of_it_asks_the_leader_again() {
    let link = TestLink::new(|report| {
        let pending = report
            .session
            .as_ref()
            .is_some_and(|session| session.pending);
        let retry = report
            .session
            .as_ref()
            .is_some_and(|session| session.digest == report.digest);
        let replies = if pending || retry {
            vec![offer(10)]
        } else {
            vec![]
        };
        Ok(edge::Answer {
            grant_ms: 2000,
            ..accept(report, replies)
        })
    });
    let running = start(&link, Limits::default());
    let mut client = Http::connect(running.address).await;
    client.post(&described(1, 0)).await;
    link.notice(&[1; 16], edge::notice::Kind::Pending);
    // Notices come by a stream of their own, and say nothing when they were taken.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let first = client.post(&bare(1, 1)).await;
    assert!(first.message().remote_config.is_some());
    let again = client.post(&bare(1, 1)).await;
    assert_eq!(first.body, again.body);
    assert_eq!(link.reports(), 3);
    assert_eq!(client.post(&bare(1, 2)).await.message().remote_config, None);
    assert_eq!(link.reports(), 3);
}

// S4
#[tokio::test]
async fn a_retry_of_an_answer_without_an_offer_gets_the_identical_bytes_from_memory() {
    let link = TestLink::new(|report| {
        Ok(accept(
            report,
            vec![ServerToAgent {
                flags: 1,
                ..ServerToAgent::default()
            }],
        ))
    });
    let running = start(&link, Limits::default());
    let first = post(running.address, &bare(1, 7)).await;
    let again = post(running.address, &bare(1, 7)).await;
    assert_eq!(first.message().flags, 1);
    assert_eq!(first.body, again.body);
    assert_eq!((link.reports(), running.metrics.retried.get()), (1, 1));
}

// S4, section 6 of the design: a withdrawn offer is not repeated
#[tokio::test]
async fn a_recalled_answer_is_asked_for_again() {
    let link = TestLink::new(|report| {
        Ok(accept(
            report,
            vec![ServerToAgent {
                flags: 1,
                ..ServerToAgent::default()
            }],
        ))
    });
    let running = start(&link, Limits::default());
    post(running.address, &bare(1, 7)).await;
    link.notice(&[1; 16], edge::notice::Kind::Recall);
    // Notices come by a stream of their own, and say nothing when they were taken.
    tokio::time::sleep(Duration::from_millis(100)).await;
    post(running.address, &bare(1, 7)).await;
    assert_eq!(link.reports(), 2);
}

// H7
#[tokio::test]
async fn capabilities_that_are_not_stated_do_not_count_as_new() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    let mut client = Http::connect(running.address).await;
    client.post(&described(1, 0)).await;
    client
        .post(&proto::opamp::AgentToServer {
            capabilities: 0,
            ..bare(1, 1)
        })
        .await;
    assert_eq!(link.reports(), 1);
    client
        .post(&proto::opamp::AgentToServer {
            capabilities: 1,
            ..bare(1, 2)
        })
        .await;
    assert_eq!(link.reports(), 2);
    let only_uid = [&[0x0a, 16][..], &[2; 16]].concat();
    assert_eq!(
        client
            .post_bytes(&only_uid, "")
            .await
            .message()
            .instance_uid,
        [2; 16]
    );
}

// H9
#[tokio::test]
async fn the_uid_of_the_body_wins_over_the_header_and_the_difference_is_counted() {
    let running = start(&TestLink::content(), Limits::default());
    let body = described(1, 0).encode_to_vec();
    let mut client = Http::connect(running.address).await;
    for (header, mismatches) in [
        (
            "OpAMP-Instance-UID: 01010101-0101-0101-0101-010101010101\r\n",
            0,
        ),
        (
            "OpAMP-Instance-UID: 02010101-0101-0101-0101-010101010101\r\n",
            1,
        ),
        ("OpAMP-Instance-UID: nonsense\r\n", 2),
        ("", 2),
    ] {
        assert_eq!(
            client
                .post_bytes(&body, header)
                .await
                .message()
                .instance_uid,
            [1; 16]
        );
        assert_eq!(running.metrics.uid_mismatches.get(), mismatches, "{header}");
    }
}

// H10, E4
#[tokio::test]
async fn overload_is_503_with_a_spread_retry_after_before_the_body_is_read() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            in_flight_bytes: 1000,
            ..Limits::default()
        },
    );
    let answer = Http::connect(running.address)
        .await
        .post_bytes(&vec![0; 2000], "")
        .await;
    assert_eq!(answer.status, 503);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&seconds), "{seconds}");
    assert_eq!(
        (link.reports(), running.metrics.refused.bytes.get()),
        (0, 1)
    );
    assert_eq!(post(running.address, &bare(1, 0)).await.status, 200);
    assert_eq!(running.metrics.in_flight_bytes.get(), 0);
}

/// The head of a request whose body of 64 MiB is announced and never comes.
const ANNOUNCED: &[u8] = b"POST /v1/opamp HTTP/1.1\r\nHost: localhost\r\n\
    Content-Type: application/x-protobuf\r\nContent-Length: 67108864\r\n\r\n";

// H10: the budget
#[tokio::test]
async fn bodies_that_are_announced_and_never_sent_hold_nothing_and_are_408_before_the_timeout() {
    let limits = Limits {
        progress_timeout: Duration::from_secs(1),
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut client = Http::connect(running.address).await;
        client.stream.write_all(ANNOUNCED).await.unwrap();
        slow.push(client);
    }
    // Nothing tells when the server has read four heads; too early a look would pass and prove less.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(running.metrics.in_flight_bytes.get(), 0);
    let answer = post(running.address, &described(1, 0)).await;
    assert_eq!(answer.status, 200);
    for mut client in slow {
        assert_eq!(client.read().await.status, 408);
    }
    assert_eq!(running.metrics.refused.late.get(), 4);
}

// H10: the budget
#[tokio::test]
async fn a_body_that_trickles_holds_what_came_and_is_408_when_it_is_too_slow() {
    let limits = Limits {
        progress_timeout: Duration::from_millis(500),
        progress_bytes: 10_000,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut client = Http::connect(running.address).await;
    client.stream.write_all(ANNOUNCED).await.unwrap();
    client.stream.write_all(&[0; 10_000]).await.unwrap();
    let began = tokio::time::Instant::now();
    let trickle = async {
        loop {
            // The pace of the sender is what is tested.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if client.stream.write_all(&[0; 10]).await.is_err() {
                return;
            }
            assert!(running.metrics.in_flight_bytes.get() < 11_000);
            if running.metrics.refused.late.get() > 0 {
                return;
            }
        }
    };
    within(trickle).await;
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(client.read().await.status, 408);
    assert_eq!(running.metrics.in_flight_bytes.get(), 0);
}

// H10: a body that goes on is not too slow
#[tokio::test]
async fn a_slow_body_that_keeps_the_pace_is_read_to_its_end() {
    let limits = Limits {
        progress_timeout: Duration::from_millis(400),
        progress_bytes: 1000,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut client = Http::connect(running.address).await;
    let mut message = described(1, 0);
    message.health = Some(proto::opamp::ComponentHealth {
        last_error: "x".repeat(8000),
        ..Default::default()
    });
    let body = message.encode_to_vec();
    let head = format!(
        "POST /v1/opamp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-protobuf\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    client.stream.write_all(head.as_bytes()).await.unwrap();
    for part in body.chunks(1000) {
        client.stream.write_all(part).await.unwrap();
        // The pace of the sender is what is tested.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.read().await.message().error_response, None);
}

// H10, E4
#[tokio::test]
async fn a_body_of_unknown_length_is_503_before_it_is_read_when_there_are_too_many_reports() {
    let link = TestLink::content();
    let limits = Limits {
        in_flight_reports: 1,
        ..Limits::default()
    };
    let running = start(&link, limits);
    *link.delay.lock().unwrap() = Duration::from_millis(600);
    let message = described(1, 0);
    let (_, refused) = tokio::join!(post(running.address, &message), async {
        // In the middle of the first one's 600 ms.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut client = Http::connect(running.address).await;
        let head = "POST /v1/opamp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                    Content-Type: application/x-protobuf\r\n\r\n";
        client.stream.write_all(head.as_bytes()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_millis(200), client.read()).await;
        answer.expect("an answer before the first chunk")
    });
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
}

// design 10: limits
#[tokio::test]
async fn what_is_refused_is_counted_by_its_reason() {
    let running = start(&TestLink::content(), Limits::default());
    let refused = &running.metrics.refused;
    let mut client = Http::connect(running.address).await;
    let answer = client.post_bytes(b"x", "Content-Encoding: br\r\n").await;
    assert_eq!((answer.status, refused.encoding.get()), (415, 1));

    let mut client = Http::connect(running.address).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(20_000));
    let answer = client.send("POST", "/v1/opamp", &long, b"").await;
    assert_eq!(answer.status, 431);
    until(|| refused.header.get() == 1).await;

    let mut client = Http::connect(running.address).await;
    client.stream.write_all(ANNOUNCED).await.unwrap();
    client.stream.write_all(b"and no more").await.unwrap();
    drop(client);
    until(|| refused.broken.get() == 1).await;
}

// E6
#[tokio::test]
async fn connections_beyond_those_that_are_refused_wait_and_are_not_dropped() {
    let limits = Limits {
        connections: 1,
        refused_connections: 1,
        ..Limits::default()
    };
    let running = start(&TestLink::content(), limits);
    let mut served = Http::connect(running.address).await;
    assert_eq!(served.post(&bare(1, 0)).await.status, 200);
    let refused = Http::connect(running.address).await;
    until(|| running.metrics.refused.connections.get() == 1).await;
    let mut waiting = Http::connect(running.address).await;
    let message = bare(2, 0);
    let mut answer = std::pin::pin!(waiting.post(&message));
    let early = tokio::time::timeout(Duration::from_millis(300), answer.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(running.metrics.accepting_paused.get(), 1);
    drop(refused);
    assert_eq!(answer.await.status, 503);
}

// H10, E4, E6
#[tokio::test]
async fn connections_over_the_limit_are_answered_503_and_not_dropped() {
    let link = TestLink::content();
    let limits = Limits {
        connections: 1,
        refused_connections: 1,
        ..Limits::default()
    };
    let running = start(&link, limits);
    let mut first = Http::connect(running.address).await;
    assert_eq!(first.post(&bare(1, 0)).await.status, 200);
    let answer = post(running.address, &bare(2, 0)).await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (503, Some("close"))
    );
    assert_eq!(first.post(&bare(1, 1)).await.status, 200);
}

// H10, E4
#[tokio::test]
async fn reports_over_the_limit_are_503_while_idle_polls_are_still_answered() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            in_flight_reports: 1,
            ..Limits::default()
        },
    );
    post(running.address, &described(1, 0)).await;
    *link.delay.lock().unwrap() = Duration::from_millis(500);
    let mut slow = Http::connect(running.address).await;
    let mut fast = Http::connect(running.address).await;
    let message = described(2, 0);
    let (slow, refused, idle) = tokio::join!(
        slow.post(&message),
        // Both in the middle of the slow one's time at the leader.
        async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            fast.post(&described(3, 0)).await
        },
        async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            post(running.address, &bare(1, 1)).await
        }
    );
    assert_eq!((slow.status, refused.status, idle.status), (200, 503, 200));
}

// design 4: without a leader
#[tokio::test]
async fn without_a_leader_a_report_is_503_with_a_short_retry_after_and_the_number_stays() {
    let link =
        TestLink::new(
            |report| match report.message.as_ref().map(|message| message.sequence_num) {
                Some(1) => Err(LinkError::Unavailable {
                    retry_after: Duration::from_millis(1500),
                }),
                _ => Ok(accept(report, vec![])),
            },
        );
    let running = start(&link, Limits::default());
    post(running.address, &described(1, 0)).await;
    let answer = post(running.address, &described(1, 1)).await;
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(answer.status, 503);
    assert!((1..=5).contains(&seconds), "{seconds}");
    post(running.address, &described(1, 1)).await;
    let numbers: Vec<u64> = link
        .reports
        .lock()
        .unwrap()
        .iter()
        .filter_map(|report| Some(report.session.as_ref()?.number))
        .collect();
    assert_eq!(numbers, [0, 0]);
}

// H11
#[tokio::test]
async fn one_connection_serves_many_polls_and_is_closed_when_idle_for_long() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            keep_alive: Duration::from_millis(600),
            ..Limits::default()
        },
    );
    let mut client = Http::connect(running.address).await;
    for number in 0..5 {
        assert_eq!(client.post(&bare(1, number)).await.status, 200);
        // The time between two requests is what is tested.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut byte = [0];
    let read = within(tokio::io::AsyncReadExt::read(&mut client.stream, &mut byte)).await;
    assert_eq!(read.unwrap(), 0);
}

// design 10: limits
#[tokio::test]
async fn a_header_that_does_not_arrive_in_time_ends_the_connection() {
    let running = start(
        &TestLink::content(),
        Limits {
            header_timeout: Duration::from_millis(300),
            ..Limits::default()
        },
    );
    for (before, part) in [
        (false, &b"POST /v1/op"[..]),
        (true, &b"POST /v1/op"[..]),
        (false, &b""[..]),
    ] {
        let mut client = Http::connect(running.address).await;
        if before {
            client.post(&bare(1, 0)).await;
        }
        tokio::io::AsyncWriteExt::write_all(&mut client.stream, part)
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _reset = within(tokio::io::AsyncReadExt::read_to_end(
            &mut client.stream,
            &mut rest,
        ))
        .await;
    }
}

// I2
#[tokio::test]
async fn uids_that_are_not_16_bytes_are_bad_requests_which_echo_them() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    for length in [0usize, 15, 17, 26] {
        let message = proto::opamp::AgentToServer {
            instance_uid: vec![b'0'; length].into(),
            ..bare(1, 0)
        };
        let answer = post(running.address, &message).await;
        assert_bad_request(&answer);
        assert_eq!(answer.message().instance_uid, vec![b'0'; length]);
    }
    assert_eq!(link.reports(), 0);
}

// I1, I3 (edge part), I7
#[tokio::test]
async fn a_new_uid_travels_in_the_reply_to_the_old_one_and_the_session_moves() {
    let link = TestLink::new(|report| {
        let mut answer = accept(report, vec![]);
        if report
            .message
            .as_ref()
            .is_some_and(|message| message.flags == 1)
        {
            answer.new_instance_uid = vec![9; 16].into();
            let identification = proto::opamp::AgentIdentification {
                new_instance_uid: vec![9; 16],
            };
            answer.replies = vec![ServerToAgent {
                agent_identification: Some(identification),
                ..ServerToAgent::default()
            }];
        }
        Ok(answer)
    });
    let running = start(&link, Limits::default());
    let message = post(
        running.address,
        &proto::opamp::AgentToServer {
            flags: 1,
            ..described(1, 0)
        },
    )
    .await
    .message();
    assert_eq!(message.instance_uid, [1; 16]);
    assert_eq!(
        message.agent_identification.unwrap().new_instance_uid,
        [9; 16]
    );
    post(running.address, &bare(9, 1)).await;
    assert_eq!(link.reports(), 1);
    post(running.address, &bare(1, 2)).await;
    assert_eq!(link.reports(), 2);
    assert_eq!(link.reports.lock().unwrap()[1].session, None);
}

// S5, S6
#[tokio::test]
async fn an_error_of_the_leader_excludes_all_else() {
    let link = TestLink::new(|report| {
        let error = proto::opamp::ServerErrorResponse {
            r#type: ServerErrorResponseType::BadRequest.into(),
            error_message: "no".into(),
            details: None,
        };
        let both = ServerToAgent {
            flags: 1,
            error_response: Some(error),
            ..offer(1)
        };
        Ok(accept(report, vec![both]))
    });
    let running = start(&link, Limits::default());
    assert_bad_request(&post(running.address, &described(1, 0)).await);
}

// S9
#[tokio::test]
async fn a_quiescent_agent_sees_the_leaders_flag_once() {
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
    let mut client = Http::connect(running.address).await;
    let mut flagged = 0;
    for number in 7..30 {
        flagged += client.post(&bare(1, number)).await.message().flags;
    }
    assert_eq!((flagged, link.reports()), (1, 1));
}

// S12
#[tokio::test]
async fn deep_health_is_refused_by_a_named_limit_and_not_by_a_crash() {
    let running = start(&TestLink::content(), Limits::default());
    let tree = |depth| {
        (1..depth).fold(proto::opamp::ComponentHealth::default(), |inner, _| {
            proto::opamp::ComponentHealth {
                component_health_map: [("c".to_owned(), inner)].into(),
                ..Default::default()
            }
        })
    };
    let message = |depth| proto::opamp::AgentToServer {
        health: Some(tree(depth)),
        ..bare(1, 0)
    };
    assert_eq!(
        post(running.address, &message(32))
            .await
            .message()
            .error_response,
        None
    );
    let answer = post(running.address, &message(64)).await;
    assert_bad_request(&answer);
    assert!(
        answer
            .message()
            .error_response
            .unwrap()
            .error_message
            .contains("limit depth")
    );
}

// E1, E2
#[tokio::test]
async fn garbage_is_status_200_with_a_bad_request_inside() {
    let running = start(&TestLink::content(), Limits::default());
    let mut client = Http::connect(running.address).await;
    for garbage in [&b"\xff\xff\xff"[..], b"garbage", &[0x0a, 200], &[0x0b], b""] {
        let answer = client.post_bytes(garbage, "").await;
        assert_eq!(
            answer.header("content-type"),
            Some("application/x-protobuf")
        );
        assert_bad_request(&answer);
    }
    assert_eq!(running.metrics.refused.malformed.get(), 5);
}

// E1: what only the leader sees
#[tokio::test]
async fn a_rejection_by_the_leader_is_a_bad_request() {
    let link = TestLink::new(|_| Err(LinkError::Rejected("unknown certificate request".into())));
    let running = start(&link, Limits::default());
    let answer = post(running.address, &described(1, 0)).await;
    assert_bad_request(&answer);
    assert_eq!(answer.message().instance_uid, [1; 16]);
}

// D1
#[tokio::test]
async fn a_disconnect_over_http_is_reported_and_answered() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    post(running.address, &described(1, 0)).await;
    let leave = proto::opamp::AgentToServer {
        agent_disconnect: Some(AgentDisconnect {}),
        ..bare(1, 1)
    };
    assert_eq!(
        post(running.address, &leave).await.message().instance_uid,
        [1; 16]
    );
    assert!(
        link.reports.lock().unwrap()[1]
            .message
            .as_ref()
            .unwrap()
            .agent_disconnect
            .is_some()
    );
}

// Z1, Z2, H10
#[tokio::test]
async fn a_wrong_token_is_401_with_a_challenge_and_a_right_one_is_named_in_the_report() {
    let link = TestLink::content();
    let running = start_with(&link, config(Limits::default()), true);
    let body = described(1, 0).encode_to_vec();
    for header in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Basic c2VjcmV0\r\n",
    ] {
        let answer = Http::connect(running.address)
            .await
            .post_bytes(&body, header)
            .await;
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer realm=\"muster\""))
        );
    }
    assert_eq!(link.reports(), 0);
    let mut client = Http::connect(running.address).await;
    assert_eq!(
        client
            .post_bytes(&body, "Authorization: Bearer secret-a\r\n")
            .await
            .status,
        200
    );
    assert_eq!(link.reports.lock().unwrap()[0].token, "a");
}

// design 10: another token speaking for a uid
#[tokio::test]
async fn another_token_is_never_answered_from_the_memory_of_the_first() {
    let link = TestLink::content();
    let running = start_with(&link, config(Limits::default()), true);
    let mut client = Http::connect(running.address).await;
    let (a, b) = (
        "Authorization: Bearer secret-a\r\n",
        "Authorization: Bearer secret-b\r\n",
    );
    client.post_bytes(&described(1, 0).encode_to_vec(), a).await;
    client.post_bytes(&bare(1, 1).encode_to_vec(), a).await;
    assert_eq!(link.reports(), 1);
    client.post_bytes(&bare(1, 1).encode_to_vec(), b).await;
    client.post_bytes(&bare(1, 2).encode_to_vec(), b).await;
    assert_eq!(link.reports.lock().unwrap()[1].token, "b");
}

// design 6: grants
#[tokio::test]
async fn an_offer_whose_grant_has_run_out_is_not_written_and_is_asked_for_again() {
    let link = TestLink::new(|report| {
        Ok(edge::Answer {
            grant_ms: 100,
            ..accept(report, vec![offer(10)])
        })
    });
    let running = start(&link, Limits::default());
    *link.delay.lock().unwrap() = Duration::from_millis(300);
    assert_eq!(
        post(running.address, &described(1, 0))
            .await
            .message()
            .remote_config,
        None
    );
    assert_eq!(running.metrics.grants_expired.get(), 1);
    *link.delay.lock().unwrap() = Duration::ZERO;
    assert!(
        post(running.address, &bare(1, 1))
            .await
            .message()
            .remote_config
            .is_some()
    );
    let reports = link.reports.lock().unwrap();
    let unsent = reports[1].unsent.as_ref();
    assert_eq!(
        unsent.map(|unsent| unsent.config_hash.len()),
        Some(32),
        "the leader is told what was not written"
    );
    assert!(reports[2].session.as_ref().unwrap().pending);
}

// design 4
#[tokio::test]
async fn without_contact_to_the_leader_nothing_is_answered_from_memory() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    post(running.address, &described(1, 0)).await;
    link.in_contact
        .store(false, std::sync::atomic::Ordering::Relaxed);
    post(running.address, &bare(1, 1)).await;
    assert_eq!(link.reports(), 2);
}

// design 4: X1 over HTTP
#[tokio::test]
async fn http_takes_the_first_of_several_replies() {
    let link = TestLink::new(|report| {
        let command = proto::opamp::ServerToAgentCommand::default();
        let first = ServerToAgent {
            command: Some(command),
            ..ServerToAgent::default()
        };
        Ok(edge::Answer {
            grant_ms: 2000,
            ..accept(report, vec![first, offer(1)])
        })
    });
    let running = start(&link, Limits::default());
    let message = post(running.address, &described(1, 0)).await.message();
    let expected = ServerToAgent {
        instance_uid: vec![1; 16],
        capabilities: 7,
        command: Some(proto::opamp::ServerToAgentCommand::default()),
        ..ServerToAgent::default()
    };
    assert_eq!(message, expected);
}

// design 4
#[tokio::test]
async fn messages_of_one_agent_are_handled_one_at_a_time_and_a_bounded_number_waits() {
    let link = TestLink::content();
    let running = start(
        &link,
        Limits {
            waiting_per_agent: 1,
            ..Limits::default()
        },
    );
    *link.delay.lock().unwrap() = Duration::from_millis(400);
    let message = described(1, 0);
    let send = |after: u64| {
        let message = message.clone();
        async move {
            // One after the other, within the first one's time at the leader.
            tokio::time::sleep(Duration::from_millis(after)).await;
            post(running.address, &message).await.status
        }
    };
    assert_eq!(tokio::join!(send(0), send(100), send(200)), (200, 200, 503));
    // The second was a retry of the first by the time its turn came.
    assert_eq!(
        (link.reports(), running.metrics.refused.queue.get()),
        (1, 1)
    );
}

// design 4
#[tokio::test]
async fn presence_is_sent_for_agents_that_spoke() {
    let link = TestLink::content();
    let running = start(&link, Limits::default());
    post(running.address, &described(1, 0)).await;
    post(running.address, &bare(1, 1)).await;
    until(|| {
        link.presence
            .lock()
            .unwrap()
            .iter()
            .any(|presence| presence.number == 1)
    })
    .await;
}

// W8
#[tokio::test]
async fn who_polls_during_a_drain_is_told_when_to_try_again_until_the_spread_is_over() {
    let link = TestLink::content();
    let limits = Limits {
        drain_spread: Duration::from_secs(1),
        ..Limits::default()
    };
    let running = start(&link, limits);
    let mut kept = Http::connect(running.address).await;
    kept.post(&described(1, 0)).await.message();
    running.drain.cancel();
    let began = std::time::Instant::now();
    let mut rest = Vec::new();
    within(kept.stream.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "an idle connection is closed");
    let mut polls = Http::connect(running.address).await;
    let answer = polls.post(&bare(1, 1)).await;
    assert_eq!(answer.status, 503);
    let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&pause), "{pause}");
    assert_eq!(answer.header("connection"), Some("close"));
    let (_ws, answer) = Ws::upgrade(running.address, "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(link.reports(), 1, "nothing is handled any more");
    // One that asks nothing keeps nobody waiting.
    let _silent = Http::connect(running.address).await;
    within(running.task).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(began.elapsed() < Duration::from_secs(4));
    let refused = tokio::net::TcpStream::connect(running.address).await;
    assert!(refused.is_err(), "nobody is accepted after the spread");
}
