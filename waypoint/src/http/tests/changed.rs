//! What is under way when the rules change.

use std::sync::Arc;

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{Request, Response};
use mesh::{
    delta::Delta,
    plan::Source,
    waypoint::{Asked, Client, Generation, Load, Place, Store, judge_connection},
};
use proto::{
    security::{Authorization, Scope},
    waypoint::{Action, Protocol, policy},
};

use super::{
    fixture::{CLIENT, Endpoint, KEY, Lab, World, delta, rule, run},
    policy::deny,
    settled::by_header,
    two::{client, next, server},
};
use crate::{http::Version, recheck::Change};

const DENIED: &str = "rbac_access_denied_matched_policy[ns[shop]-policy[no-admin]-rule[0]]";

/// A waypoint, and its only endpoint over HTTP/2.
struct Way {
    endpoint: Endpoint,
    lab: Lab,
    send: SendRequest<Bytes>,
}

impl Way {
    async fn new() -> Self {
        let endpoint = Endpoint::listen().await;
        let lab = World::to(&endpoint).lab();
        let send = client(lab.client(Version::H2)).await;
        Self {
            endpoint,
            lab,
            send,
        }
    }

    /// From now on nobody may ask for a path.
    fn deny(&self, path: &str) {
        let world = World {
            policies: vec![deny(path)],
            ..World::to(&self.endpoint)
        };
        self.lab.front.adopt(world.generation());
    }
}

fn call(path: &str) -> Request<()> {
    let call = Request::post(format!("http://shop{path}"));
    let call = call.header("content-type", "application/grpc");
    call.body(()).unwrap()
}

fn called() -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    head.body(()).unwrap()
}

/// Nothing but a reset comes of the other side's bytes.
async fn reset(mut body: RecvStream) -> Option<Reason> {
    loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error.reason(),
            None => return None,
        }
    }
}

/// Both sides of a call that has begun in both directions.
struct Open {
    ask: SendStream<Bytes>,
    answer: RecvStream,
    asked: RecvStream,
    tell: SendStream<Bytes>,
}

impl Open {
    async fn talks(&mut self) {
        self.ask
            .send_data(Bytes::from_static(b"ask"), false)
            .unwrap();
        assert_eq!(self.asked.data().await.unwrap().unwrap(), "ask");
        self.tell
            .send_data(Bytes::from_static(b"tell"), false)
            .unwrap();
        assert_eq!(self.answer.data().await.unwrap().unwrap(), "tell");
    }
}

#[test]
fn a_call_that_is_denied_meanwhile_is_ended_and_others_go_on() {
    run(async {
        let mut way = Way::new().await;
        let mut calls = Vec::new();
        let mut connection = None;
        for path in ["/x.Y/Chat", "/x.Y/Feed"] {
            let (answer, ask) = way.send.send_request(call(path), false).unwrap();
            if connection.is_none() {
                connection = Some(server(&way.endpoint).await);
            }
            let next = connection.as_mut().unwrap().accept().await;
            let (request, mut respond): (_, SendResponse<Bytes>) = next.unwrap().unwrap();
            let tell = respond.send_response(called(), false).unwrap();
            calls.push((answer, ask, request.into_body(), tell));
        }
        let mut connection = connection.unwrap();
        net::task::spawn(async move { while connection.accept().await.is_some() {} });
        let mut open = Vec::new();
        for (answer, ask, asked, tell) in calls {
            let answer = answer.await.unwrap().into_body();
            open.push(Open {
                ask,
                answer,
                asked,
                tell,
            });
        }
        way.deny("/admin");
        for call in &mut open {
            call.talks().await;
        }
        assert_eq!(way.lab.told().len(), 0);
        way.deny("/x.Y/Chat");
        let mut cut = open.remove(0);
        let trailers = cut.answer.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        assert!(reset(cut.asked).await.is_some(), "the endpoint hears of it");
        let told = way.lab.told();
        assert_eq!(told.len(), 1);
        assert_eq!(
            (&*told[0].path, told[0].grpc_status),
            ("/x.Y/Chat", Some(7))
        );
        assert_eq!(told[0].details, DENIED);
        assert_eq!((told[0].received, told[0].sent), (3, 4));
        open[0].talks().await;
    });
}

#[test]
fn a_call_without_an_answer_yet_is_denied_as_if_it_came_now() {
    run(async {
        let mut way = Way::new().await;
        let (answer, mut ask) = way.send.send_request(call("/x.Y/Put"), false).unwrap();
        ask.send_data(Bytes::from_static(b"ask"), false).unwrap();
        let mut connection = server(&way.endpoint).await;
        let (request, _respond) = next!(connection);
        let mut asked = request.into_body();
        assert_eq!(asked.data().await.unwrap().unwrap(), "ask");
        way.deny("/x.Y/Put");
        let answer = answer.await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "7");
        assert!(reset(asked).await.is_some(), "the endpoint hears of it");
        assert_eq!(way.lab.told()[0].details, DENIED);
    });
}

#[test]
fn a_download_over_http2_that_is_denied_meanwhile_is_reset() {
    run(async {
        let mut way = Way::new().await;
        let get = Request::get("http://shop/large").body(()).unwrap();
        let (answer, _) = way.send.send_request(get, true).unwrap();
        let mut connection = server(&way.endpoint).await;
        let (_, mut respond) = next!(connection);
        let mut tell = respond.send_response(Response::new(()), false).unwrap();
        tell.send_data(Bytes::from_static(b"some"), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "some");
        way.deny("/large");
        assert!(reset(body).await.is_some());
        let reason = std::future::poll_fn(|cx| tell.poll_reset(cx)).await;
        assert!(reason.is_ok(), "the endpoint hears of it");
        let told = way.lab.told();
        assert_eq!((told[0].status, told[0].sent), (200, 4));
        assert_eq!(told[0].details, DENIED);
    });
}

#[test]
fn over_http1_uploads_and_events_end_too() {
    run(async {
        let endpoint = Endpoint::listen().await;
        let world = World {
            protocol: Protocol::Http1,
            ..World::to(&endpoint)
        };
        let lab = world.clone().lab();
        let mut events = lab.h1();
        events
            .write("GET /x HTTP/1.1\r\nHost: a\r\nAccept: a/b, text/event-stream;q=1\r\n\r\n")
            .await;
        let mut teller = endpoint.accept().await;
        teller.head().await;
        teller
            .write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
            .await;
        events.until("ping\r\n").await;
        let mut upload = lab.h1();
        upload
            .write("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf ")
            .await;
        let mut taker = endpoint.accept().await;
        taker.until("half ").await;
        let world = World {
            policies: vec![deny("/x")],
            ..world
        };
        lab.front.adopt(world.generation());
        assert_eq!(events.rest().await, "", "no last chunk");
        let answer = upload.head().await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
        for peer in [&mut teller, &mut taker] {
            assert_eq!(peer.rest().await, "");
        }
        assert_eq!(lab.told().len(), 2);
        assert!(lab.told().iter().all(|told| told.details == DENIED));
    });
}

#[test]
fn what_is_judged_again_is_what_its_client_sent() {
    run(async {
        let mut way = Way::new().await;
        let get = Request::get("http://shop/a").header("x-role", "guest");
        let (answer, _) = way.send.send_request(get.body(()).unwrap(), true).unwrap();
        let mut connection = server(&way.endpoint).await;
        let (_, mut respond) = next!(connection);
        let allowing = |role| {
            let world = World {
                policies: vec![by_header(Action::Allow, "x-role", role)],
                ..World::to(&way.endpoint)
            };
            world.generation()
        };
        way.lab.front.adopt(allowing("guest"));
        let mut tell = respond.send_response(Response::new(()), false).unwrap();
        let mut body = answer.await.unwrap().into_body();
        tell.send_data(Bytes::from_static(b"some"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "some");
        way.lab.front.adopt(allowing("admin"));
        assert!(reset(body).await.is_some());
        let none = "rbac_access_denied_matched_policy[none]";
        assert_eq!(way.lab.told()[0].details, none);
    });
}

/// What tells of a layer 4 policy without rules: it allows nobody.
fn layer4(name: &str, scope: Scope) -> Delta {
    let policy = Authorization {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        scope: scope.into(),
        ..Authorization::default()
    };
    let policy = proto::waypoint::Policy {
        policy: Some(policy::Policy::Connection(policy)),
        requires: Vec::new(),
    };
    let name = format!("connection/shop/{name}");
    delta(proto::POLICY_TYPE, &[(name, policy)].into())
}

#[test]
fn where_a_call_is_may_deny_it_though_its_route_leads_there_no_more() {
    run(async {
        let mut way = Way::new().await;
        let (answer, ask) = way.send.send_request(call("/x.Y/Chat"), false).unwrap();
        let mut connection = server(&way.endpoint).await;
        let (request, mut respond) = next!(connection);
        let tell = respond.send_response(called(), false).unwrap();
        let mut open = Open {
            ask,
            answer: answer.await.unwrap().into_body(),
            asked: request.into_body(),
            tell,
        };
        let elsewhere = World {
            rules: vec![rule("/elsewhere")],
            ..World::to(&way.endpoint)
        };
        let mut store = Store::new("ambit-system".into());
        for delta in elsewhere.deltas() {
            store.apply(&delta);
        }
        way.lab.front.adopt(Arc::clone(store.current()));
        open.talks().await;
        store.apply(&layer4("nobody", Scope::Namespace));
        way.lab.front.adopt(Arc::clone(store.current()));
        let trailers = open.answer.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "7");
        assert!(
            reset(open.asked).await.is_some(),
            "the endpoint hears of it"
        );
        assert_eq!(way.lab.told().len(), 1);
    });
}

#[test]
fn a_request_whose_service_goes_comes_to_its_end() {
    run(async {
        let mut way = Way::new().await;
        let (answer, _) = way.send.send_request(call("/x.Y/Z"), true).unwrap();
        let mut connection = server(&way.endpoint).await;
        let (_, mut respond) = next!(connection);
        way.lab.front.adopt(Generation::default().into());
        tokio::task::yield_now().await;
        respond.send_response(called(), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        assert_eq!(way.lab.told()[0].details, "via_upstream");
    });
}

/// Where a connection for the service leads.
fn place(generation: &Generation, from: &Source) -> Place {
    let table = generation.table(KEY.into()).unwrap();
    let asked = Asked {
        table,
        port: &table.ports[0],
        client: &Client {
            peer: None,
            address: CLIENT.parse().unwrap(),
            destination: None,
        },
        from,
        seed: 0,
        tried: &[],
        load: &|_| Load::default(),
    };
    let judgement = judge_connection(generation, &asked);
    judgement.outcome.unwrap().place(table.key).unwrap()
}

#[test]
fn only_what_a_change_concerns_is_judged_again() {
    run(async {
        let (one, other) = (Endpoint::listen().await, Endpoint::listen().await);
        let world = World::to(&one);
        let mut store = Store::new("ambit-system".into());
        for delta in world.deltas() {
            store.apply(&delta);
        }
        let place = place(store.current(), &world.clone().lab().front.from);
        let mut concerns = |delta: &Delta| {
            let before = Arc::clone(store.current());
            assert_eq!(store.apply(delta), []);
            let change = Change::new(&before, store.current());
            change.concerns(KEY.into(), Some(&place))
        };
        let [_, _, more, _] = World::to_all(&[&one, &other]).deltas();
        assert!(!concerns(&more), "one endpoint more");
        let [_, _, moved, _] = World::to_all(&[&other, &one]).deltas();
        assert!(concerns(&moved), "another endpoint of the same name");
        let policies = layer4("quiet", Scope::Global);
        assert!(concerns(&policies), "a policy of layer 4");
        let denying = World {
            policies: vec![deny("/a")],
            ..world
        };
        let [_, policies, _, table] = denying.deltas();
        assert!(!concerns(&policies), "a policy that no table names yet");
        assert!(concerns(&table), "a policy of layer 7");
    });
}
