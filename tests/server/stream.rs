//! UpsertStream message by message.

use v1::{upsert_stream_request::Message as Send, upsert_stream_response::Message as Reply};

use super::*;

type Sender = tokio::sync::mpsc::Sender<v1::UpsertStreamRequest>;
type Replies = tonic::Streaming<v1::UpsertStreamResponse>;

fn message(message: Send) -> v1::UpsertStreamRequest {
    v1::UpsertStreamRequest { message: Some(message) }
}

fn data_of(points: Vec<v1::PointInput>) -> v1::UpsertStreamRequest {
    message(Send::Data(v1::UpsertStreamData { points }))
}

/// A stream that has answered Started.
pub async fn open_stream(client: &Client, collection: &str) -> (Sender, Replies) {
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let start = v1::UpsertStreamStart { collection_name: collection.into() };
    sender.send(message(Send::Start(start))).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.points_service().upsert_stream(stream).await.unwrap().into_inner();
    assert!(matches!(next(&mut replies).await, Reply::Started(_)));
    (sender, replies)
}

async fn next(replies: &mut Replies) -> Reply {
    replies.message().await.unwrap().unwrap().message.unwrap()
}

#[tokio::test]
async fn a_stream_answers_every_message_and_every_point() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let (stream, mut replies) = open_stream(&client, "c").await;
    let bad = vec![vector_point(10, &AXES[0]), vector_point(11, &[1.0]), vector_point(12, &AXES[1])];
    stream.send(data_of(bad)).await.unwrap();
    let Reply::Errors(errors) = next(&mut replies).await else { panic!("expected errors") };
    assert_eq!((errors.errors.len(), errors.errors[0].reason.as_str()), (1, "WRONG_DIMENSION"));
    assert_eq!(errors.errors[0].id, Some(firn_client::id(11)));
    assert!(errors.errors[0].message.contains("points[1]"), "{}", errors.errors[0].message);
    let Reply::Acks(acks) = next(&mut replies).await else { panic!("expected acks") };
    assert_eq!(acks.ids, nums(&[10, 12]));

    stream.send(data_of(vec![vector_point(13, &AXES[0]), vector_point(13, &AXES[2])])).await.unwrap();
    let Reply::Acks(acks) = next(&mut replies).await else { panic!("expected acks") };
    assert_eq!(acks.ids, nums(&[13, 13]));
    let kept = client.get("c", nums(&[13]), v1::Include { vectors: true, ..Default::default() }).await.unwrap();
    assert_eq!(firn_client::unpack(&kept[0].vectors["v"]), AXES[2], "the last one wins");

    stream.send(data_of(vec![])).await.unwrap();
    assert!(matches!(next(&mut replies).await, Reply::Acks(acks) if acks.ids.is_empty()));
    for id in 20..60 {
        stream.send(data_of(vec![vector_point(id, &AXES[0])])).await.unwrap();
    }
    stream.send(message(Send::Stop(v1::UpsertStreamStop {}))).await.unwrap();
    let mut acked = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        if let Some(Reply::Acks(acks)) = reply.message {
            acked.extend(acks.ids);
        }
    }
    assert_eq!(acked, nums(&(20..60).collect::<Vec<_>>()));
    assert_eq!(client.count("c").await.unwrap(), 3 + 3 + 40);
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_ends_with_the_reason() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let start = |name: &str| message(Send::Start(v1::UpsertStreamStart { collection_name: name.into() }));
    let cases = [
        (vec![data_of(vec![])], Code::InvalidArgument, "MISSING_FIELD", "start"),
        (vec![start("x")], Code::NotFound, "COLLECTION_NOT_FOUND", ""),
        (vec![start("c"), start("c")], Code::InvalidArgument, "UNEXPECTED_MESSAGE", "start"),
        (
            vec![start("c"), v1::UpsertStreamRequest { message: None }],
            Code::InvalidArgument,
            "MISSING_FIELD",
            "message",
        ),
    ];
    for (messages, code, reason, field) in cases {
        let mut replies =
            client.points_service().upsert_stream(tokio_stream::iter(messages)).await.unwrap().into_inner();
        let error = loop {
            match replies.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{reason}: the stream ended well"),
                Err(status) => break status,
            }
        };
        check(Err::<(), _>(error.into()), code, reason, field);
    }
}

#[tokio::test]
async fn a_stream_in_flight_is_answered_before_the_server_stops() {
    let (_dir, data) = data();
    let server = Server::start(&data, &[]);
    let client = server.client().await;
    axes(&client).await;
    let (stream, mut replies) = open_stream(&client, "c").await;
    for id in 100..200 {
        // Once the server stops, it takes no more: the rest is not sent.
        if stream.send(data_of(vec![vector_point(id, &AXES[0])])).await.is_err() {
            assert!(id > 150, "the stream ended before the server was told to stop");
            break;
        }
        if id == 150 {
            server.terminate();
        }
    }
    let (mut acked, mut is_told) = (Vec::new(), false);
    while let Some(reply) = replies.message().await.unwrap() {
        match reply.message.unwrap() {
            Reply::Acks(acks) if !is_told => acked.extend(acks.ids),
            Reply::ShuttingDown(_) => is_told = true,
            other => panic!("{other:?}"),
        }
    }
    assert!(is_told, "the stream ends with ShuttingDown");
    drop((stream, replies, client));
    let (status, said) = server.ended();
    assert!(status.success(), "{said}");

    let server = Server::start(&data, &[]);
    let client = server.client().await;
    let found = client.get("c", acked.clone(), v1::Include::default()).await;
    assert_eq!(if acked.is_empty() { 0 } else { found.unwrap().len() }, acked.len());
}
