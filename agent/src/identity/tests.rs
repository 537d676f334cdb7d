//! Whole sites with real sockets, getting to know each other.

mod site;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use self::site::{Site, proxy_header, until};
use super::hello::{HELLO_PATH, Hello, HelloAnswer, HelloRefusal};
use super::peer_listener::{Dropped, ListenerBounds};
use super::sequence;
use super::testing::{self, Authority};
use super::tls::PeerCertificateError;
use super::{
    MeetError, NodeCertificate, NodeKey, OUR_VERSIONS, OpenBounds, PeerClientError, PeerIdentity, Refusal, Standing,
    sign,
};
use crate::clock::now_s;

async fn two_sites() -> (Site, Site) {
    let ca = Authority::new();
    (Site::start(&ca, "a").await, Site::start(&ca, "b").await)
}

/// Both have pinned each other.
async fn two_friends() -> (Site, Site) {
    let (a, b) = two_sites().await;
    a.membership.invite(b.domain()).unwrap();
    b.membership.invite(a.domain()).unwrap();
    a.introducer.meet(b.domain()).await.unwrap();
    assert!(b.membership.by_domain(a.domain()).is_some());
    b.introducer.meet(a.domain()).await.unwrap();
    (a, b)
}

fn refusal(error: MeetError) -> (StatusCode, Refusal) {
    match error {
        MeetError::Hello(PeerClientError::Refused { status, refusal }) => (status, refusal),
        other => panic!("not refused but: {other}"),
    }
}

#[tokio::test]
async fn those_who_invited_each_other_pin_each_others_keys() {
    let (a, b) = two_sites().await;
    a.introduce_itself();
    b.introduce_itself();
    a.membership.invite(b.domain()).unwrap();
    b.membership.invite(a.domain()).unwrap();
    for (this, that) in [(&a, &b), (&b, &a)] {
        let mutual = || this.introducer.contact(that.domain()).is_some_and(|contact| contact.mutual);
        until("both know each other", mutual).await;
        let Some(Standing::Pinned(peer)) = this.membership.standing(that.domain()) else { panic!("not pinned") };
        assert_eq!((peer.key(), peer.record.endpoint.as_str()), (that.key.public(), that.about.endpoint.as_str()));
        assert_eq!(this.membership.by_key(&that.key.public()), Some(peer));
    }
}

#[tokio::test]
async fn the_forgotten_are_no_longer_met() {
    let (a, b) = two_friends().await;
    a.introduce_itself();
    until("a has met b", || a.introducer.contact(b.domain()).is_some_and(|contact| contact.mutual)).await;
    assert!(a.membership.remove(b.domain(), 0).unwrap());
    assert!(matches!(a.introducer.meet(b.domain()).await, Err(MeetError::NotListed(_))));
    // Whatever wakes the loop makes it look at the list again.
    a.introducer.heard_from(b.domain());
    until("nothing is kept of b", || a.introducer.contact(b.domain()).is_none()).await;
}

#[tokio::test]
async fn a_changed_key_is_refused_and_reported_while_the_old_one_stays_valid() {
    let (a, b) = two_friends().await;
    let new = Arc::new(testing::node_key());
    b.show_key(&new);
    let error = a.introducer.meet(b.domain()).await.unwrap_err();
    assert!(matches!(&error, MeetError::KeyChanged { refused, .. } if *refused == new.public()), "{error}");
    let Some(Standing::KeyChanged { peer, refused, .. }) = a.membership.standing(b.domain()) else { panic!("{error}") };
    assert_eq!((peer.key(), refused), (b.key.public(), new.public()));
    assert!(a.membership.by_key(&new.public()).is_none());
    assert!(a.membership.by_key(&b.key.public()).is_some());
    b.introducer.meet(a.domain()).await.unwrap();

    b.show_own_key();
    a.introducer.meet(b.domain()).await.unwrap();
    assert!(matches!(a.membership.standing(b.domain()), Some(Standing::Pinned(_))));
}

#[tokio::test]
async fn a_key_for_which_the_old_one_vouches_at_the_domain_takes_its_place() {
    let (a, b) = two_friends().await;
    let new = Arc::new(testing::node_key());
    b.show_key(&new);
    b.show_rotation(&b.key, &b.key, &new);
    // The agent behind the document has the old key still, so it is not talked to any more.
    let error = a.introducer.meet(b.domain()).await.unwrap_err();
    assert!(matches!(error, MeetError::Hello(PeerClientError::WrongKey(_))), "{error}");
    let Some(Standing::Pinned(peer)) = a.membership.standing(b.domain()) else { panic!("{error}") };
    assert!(peer.key() == new.public() && peer.invited);
    assert!(a.membership.by_key(&b.key.public()).is_none());
}

#[tokio::test]
async fn a_hello_with_the_new_key_is_enough_to_be_followed() {
    let (a, b) = two_friends().await;
    let new = Arc::new(testing::node_key());
    b.show_key(&new);
    b.show_rotation(&b.key, &b.key, &new);
    let (identity, body) = hello(&b, &new);
    a.introducer.answer_hello(&identity, &body).await.unwrap();
    assert_eq!(a.membership.by_domain(b.domain()).map(|peer| peer.key()), Some(new.public()));
}

#[tokio::test]
async fn a_forged_rotation_and_one_by_whoever_has_only_the_new_key_are_refused() {
    let (a, b) = two_friends().await;
    let (new, thief) = (Arc::new(testing::node_key()), testing::node_key());
    b.show_key(&new);
    for signer in [&*new, &thief] {
        b.show_rotation(signer, &b.key, &new);
        let error = a.introducer.meet(b.domain()).await.unwrap_err();
        assert!(matches!(&error, MeetError::KeyChanged { refused, .. } if *refused == new.public()), "{error}");
    }
    // Nor does it help to vouch for a key that the domain does not show.
    b.show_own_key();
    b.show_rotation(&b.key, &b.key, &thief);
    a.introducer.meet(b.domain()).await.unwrap();
    assert_eq!(a.membership.by_domain(b.domain()).map(|peer| peer.key()), Some(b.key.public()));
}

#[tokio::test]
async fn open_membership_lets_in_whoever_says_hello_and_shows_its_document() {
    let ca = Authority::new();
    let (a, b) = (Site::start_open(&ca, "a", OpenBounds::default()).await, Site::start(&ca, "b").await);
    b.membership.invite(a.domain()).unwrap();
    b.introducer.meet(a.domain()).await.unwrap();
    let Some(Standing::Pinned(peer)) = a.membership.standing(b.domain()) else { panic!("not let in") };
    assert!(peer.key() == b.key.public() && !peer.invited && peer.network.is_some());
    // Another key that claims the same domain changes nothing.
    let (identity, body) = hello(&b, &testing::node_key());
    assert!(a.introducer.answer_hello(&identity, &body).await.is_err());
    assert_eq!(a.membership.by_domain(b.domain()).map(|peer| peer.key()), Some(b.key.public()));

    a.membership.remove(b.domain(), now_s()).unwrap();
    let (status, refused) = refusal(b.introducer.meet(a.domain()).await.unwrap_err());
    assert_eq!((status, refused.error.as_str()), (StatusCode::FORBIDDEN, "not_invited"));
    assert!(matches!(a.membership.standing(b.domain()), Some(Standing::Away { .. })));
}

#[tokio::test]
async fn a_full_open_membership_says_so() {
    let ca = Authority::new();
    let open = OpenBounds { peers: 1, ..OpenBounds::default() };
    let (a, b, c) = (Site::start_open(&ca, "a", open).await, Site::start(&ca, "b").await, Site::start(&ca, "c").await);
    for site in [&b, &c] {
        site.membership.invite(a.domain()).unwrap();
    }
    b.introducer.meet(a.domain()).await.unwrap();
    let (status, refused) = refusal(c.introducer.meet(a.domain()).await.unwrap_err());
    assert_eq!((status, refused.error.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "no_room"));
    assert!(a.membership.by_domain(b.domain()).is_some());
}

#[tokio::test]
async fn strangers_are_asked_one_at_a_time_and_only_so_many() {
    let ca = Authority::new();
    let a = Site::start_open(&ca, "a", OpenBounds::default()).await;
    let mut asked = 0;
    for number in 0..100 {
        // Nobody listens there.
        let domain = format!("x{number}.localhost:9");
        asked += usize::from(a.introducer.discover(&domain).await.is_some());
        assert!(a.introducer.discover(&domain).await.is_none(), "the failure is remembered");
    }
    assert_eq!(asked, 16);
}

#[tokio::test]
async fn only_the_holder_of_the_pinned_key_is_talked_to() {
    let (a, b) = two_friends().await;
    let new = Arc::new(testing::node_key());
    b.show_key(&new);
    a.introducer.meet(b.domain()).await.unwrap_err();
    a.membership.accept(b.domain()).unwrap();
    // The document's key is pinned now, but the agent still has the old one.
    let error = a.introducer.meet(b.domain()).await.unwrap_err();
    let MeetError::Hello(PeerClientError::WrongKey(wrong)) = error else { panic!("{error}") };
    assert_eq!(wrong, PeerCertificateError::WrongKey { expected: new.public(), got: b.key.public() });
    assert!(a.membership.by_key(&b.key.public()).is_none());
}

#[tokio::test]
async fn the_uninvited_wait_until_they_are_accepted() {
    let (a, b) = two_sites().await;
    a.membership.invite(b.domain()).unwrap();
    let (status, refused) = refusal(a.introducer.meet(b.domain()).await.unwrap_err());
    assert_eq!((status, refused.error.as_str()), (StatusCode::FORBIDDEN, "not_invited"));
    assert!(refused.remedy.contains(&format!("p2pcdn peer accept {}", a.domain())), "{}", refused.remedy);
    assert!(matches!(b.membership.standing(a.domain()), Some(Standing::Pending { .. })));
    assert!(b.membership.by_key(&a.key.public()).is_none());

    b.membership.accept(a.domain()).unwrap();
    a.introducer.meet(b.domain()).await.unwrap();
    assert_eq!(b.membership.by_domain(a.domain()).map(|peer| peer.key()), Some(a.key.public()));
}

#[tokio::test]
async fn a_hello_of_somebody_who_refused_before_is_followed_by_a_retry_at_once() {
    let (a, b) = two_sites().await;
    a.introduce_itself();
    a.membership.invite(b.domain()).unwrap();
    until("a is refused", || a.introducer.contact(b.domain()).is_some_and(|contact| contact.failures == 1)).await;
    let contact = a.introducer.contact(b.domain()).unwrap();
    assert!(!contact.mutual && contact.last_error.unwrap().contains("not_invited"));
    assert!(contact.next_try > Instant::now() + Duration::from_secs(3600));

    b.membership.accept(a.domain()).unwrap();
    b.introducer.meet(a.domain()).await.unwrap();
    until("a tries again", || a.introducer.contact(b.domain()).is_some_and(|contact| contact.mutual)).await;
    assert_eq!(a.introducer.contact(b.domain()).unwrap().last_error, None);
}

/// What `caller` says if it claims to be `site`.
fn hello(site: &Site, caller: &NodeKey) -> (PeerIdentity, Vec<u8>) {
    let record = testing::peer_record(site.domain(), caller.public(), sequence::at(now_s() + 1));
    let hello = Hello { record: sign(caller, &record).unwrap(), versions: OUR_VERSIONS.to_vec() };
    let identity = PeerIdentity { key: caller.public(), remote: "203.0.113.1:4711".parse().unwrap() };
    (identity, serde_json::to_vec(&hello).unwrap())
}

#[tokio::test]
async fn a_stranger_cannot_pass_for_a_peer() {
    let (a, b) = two_friends().await;
    let before = a.membership.standing(b.domain());
    let (identity, body) = hello(&b, &testing::node_key());
    let refused = a.introducer.answer_hello(&identity, &body).await.unwrap_err();
    assert!(matches!(refused, HelloRefusal::KeyChanged { .. }), "{refused}");
    // The domain is not asked for every such hello.
    let refused = a.introducer.answer_hello(&identity, &body).await.unwrap_err();
    assert!(matches!(refused, HelloRefusal::TryLater), "{refused}");
    assert_eq!(a.membership.standing(b.domain()), before);

    let (_, own) = hello(&b, &b.key);
    let refused = a.introducer.answer_hello(&identity, &own).await.unwrap_err();
    assert!(matches!(refused, HelloRefusal::WrongSigner), "{refused}");
}

#[tokio::test]
async fn an_invited_domain_is_pinned_with_the_key_of_its_document_whoever_knocks() {
    let (a, b) = two_sites().await;
    a.membership.invite(b.domain()).unwrap();
    let (identity, body) = hello(&b, &testing::node_key());
    let refused = a.introducer.answer_hello(&identity, &body).await.unwrap_err();
    assert!(matches!(refused, HelloRefusal::KeyMismatch(_)), "{refused}");
    assert_eq!(a.membership.by_domain(b.domain()).map(|peer| peer.key()), Some(b.key.public()));
}

#[tokio::test]
async fn hostile_messages_are_refused_with_a_reason() {
    let (a, b) = two_friends().await;
    let record = a.membership.by_domain(b.domain()).unwrap().record.clone();
    let refusal = |error| refusal(MeetError::Hello(error));
    let nonsense = a.client.json::<_, HelloAnswer>(&record, HELLO_PATH, &[1, 2, 3], 1024).await.unwrap_err();
    let long = "x".repeat(super::hello::MAX_HELLO_BYTES);
    let long = a.client.json::<_, HelloAnswer>(&record, HELLO_PATH, &long, 1024).await.unwrap_err();
    for error in [nonsense, long] {
        let (status, refused) = refusal(error);
        assert_eq!((status, refused.error.as_str()), (StatusCode::BAD_REQUEST, "malformed"));
    }
    let (_, Hello { record: ours, .. }) = {
        let (identity, body) = hello(&a, &a.key);
        (identity, serde_json::from_slice(&body).unwrap())
    };
    let newer = Hello { record: ours, versions: vec![7] };
    let error = a.client.json::<_, HelloAnswer>(&record, HELLO_PATH, &newer, 1024).await.unwrap_err();
    assert_eq!(refusal(error).1.error, "no_common_version");
    let missing = a.client.get(&record, "/v1/nothing", HeaderMap::new()).await.unwrap_err();
    assert_eq!(refusal(missing).0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_peer_that_says_hello_without_pause_is_not_listened_to_and_others_are() {
    let ca = Authority::new();
    let (a, b, c) = (Site::start(&ca, "a").await, Site::start(&ca, "b").await, Site::start(&ca, "c").await);
    for (one, other) in [(&a, &b), (&b, &a), (&b, &c), (&c, &b)] {
        one.membership.invite(other.domain()).unwrap();
    }
    a.introducer.meet(b.domain()).await.unwrap();
    let record = a.membership.by_domain(b.domain()).unwrap().record.clone();
    let newest = || b.membership.by_domain(a.domain()).unwrap().record.sequence;
    let (mut heard, mut refused) = (0, 0);
    for n in 0..100 {
        let newer = testing::peer_record(a.domain(), a.key.public(), newest() + 1);
        let hello = Hello { record: sign(&a.key, &newer).unwrap(), versions: OUR_VERSIONS.to_vec() };
        match a.client.json::<_, HelloAnswer>(&record, HELLO_PATH, &hello, 32 * 1024).await {
            Ok(_) => heard += 1,
            Err(error) => {
                let (status, said) = refusal(MeetError::Hello(error));
                assert_eq!((status, said.error.as_str()), (StatusCode::TOO_MANY_REQUESTS, "too_often"), "hello {n}");
                refused += 1;
            }
        }
    }
    assert!(heard <= 16 && heard + refused == 100, "{heard} heard, {refused} refused");
    c.introducer.meet(b.domain()).await.unwrap();
}

#[tokio::test]
async fn hostile_bytes_at_the_listener_disturb_nobody_else() {
    let (a, b) = two_sites().await;
    a.membership.invite(b.domain()).unwrap();
    b.membership.invite(a.domain()).unwrap();
    let header = proxy_header("127.0.0.1:4711");
    let plain_http = b"GET / HTTP/1.1\r\nHost: b.localhost\r\n\r\n".to_vec();
    let _silent = TcpStream::connect(b.behind_proxy).await.unwrap();
    for bytes in [plain_http.clone(), [header.clone(), plain_http].concat(), [header, vec![0; 4096]].concat()] {
        let mut stream = TcpStream::connect(b.behind_proxy).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        // Bytes left unread make the system reset the connection.
        let _ = stream.read_to_end(&mut rest).await;
    }
    until("the drops are counted", || {
        (b.counters.dropped(Dropped::ProxyHeader), b.counters.dropped(Dropped::Tls)) == (1, 2)
    })
    .await;
    a.introducer.meet(b.domain()).await.unwrap();
    assert_eq!(b.counters.accepted(), 1);
}

/// A connection past the proxy, from `client`; the task ends with the connection.
async fn connect(
    site: &Site,
    key: &NodeKey,
    client: &str,
) -> Option<(http2::SendRequest<Empty<Bytes>>, JoinHandle<()>)> {
    let mut stream = TcpStream::connect(site.behind_proxy).await.unwrap();
    stream.write_all(&proxy_header(client)).await.unwrap();
    let tls = NodeCertificate::new(key).unwrap().client_config(site.key.public()).unwrap();
    let name = ServerName::try_from("any.invalid").unwrap();
    let stream = TlsConnector::from(tls).connect(name, stream).await.ok()?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
    let ended = tokio::spawn(async move {
        // However it ends.
        let _ = connection.await;
    });
    Some((sender, ended))
}

#[tokio::test]
async fn a_connection_lasts_only_while_its_key_is_pinned() {
    let ca = Authority::new();
    let bounds = ListenerBounds { stranger_life: Duration::from_millis(100), ..ListenerBounds::default() };
    let (a, b) = (Site::start(&ca, "a").await, Site::start_with(&ca, "b", bounds).await);
    b.membership.invite(a.domain()).unwrap();
    b.introducer.meet(a.domain()).await.unwrap_err();
    assert!(b.membership.by_key(&a.key.public()).is_some());

    let (mut friend, friend_ended) = connect(&b, &a.key, "127.0.0.1:1").await.unwrap();
    let (_stranger, stranger_ended) = connect(&b, &testing::node_key(), "127.0.0.1:2").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), stranger_ended).await.expect("the stranger stays").unwrap();
    let request = http::Request::get("https://b.localhost/v1/nothing").body(Empty::new()).unwrap();
    assert_eq!(friend.send_request(request).await.unwrap().status(), StatusCode::NOT_FOUND);

    b.membership.remove(a.domain(), 0).unwrap();
    tokio::time::timeout(Duration::from_secs(20), friend_ended).await.expect("the former friend stays").unwrap();
}

#[tokio::test]
async fn one_network_gets_no_more_than_its_share_of_connections() {
    let ca = Authority::new();
    let bounds = ListenerBounds { per_prefix: 2, ..ListenerBounds::default() };
    let site = Site::start_with(&ca, "a", bounds).await;
    let key = testing::node_key();
    let mut held = Vec::new();
    for client in ["203.0.113.1:1", "203.0.113.2:1", "[2001:db8:1::1]:1", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"] {
        held.push(connect(&site, &key, client).await.expect(client));
    }
    assert!(connect(&site, &key, "203.0.113.3:1").await.is_none());
    until("the drop is counted", || site.counters.dropped(Dropped::PrefixFull) == 1).await;
    assert!(connect(&site, &key, "203.0.114.1:1").await.is_some());
}

#[tokio::test]
async fn strangers_leave_half_of_the_connections_to_peers() {
    let ca = Authority::new();
    // However long the handshakes take, none of the held ones ends meanwhile.
    let stranger_life = Duration::from_secs(3600);
    let bounds = ListenerBounds { connections: 4, stranger_life, ..ListenerBounds::default() };
    let (a, b) = (Site::start(&ca, "a").await, Site::start_with(&ca, "b", bounds).await);
    b.membership.invite(a.domain()).unwrap();
    b.introducer.meet(a.domain()).await.unwrap_err();
    let mut held = Vec::new();
    for n in 0..20 {
        held.push(connect(&b, &testing::node_key(), &format!("203.0.{n}.1:1")).await);
        until("it is let in or dropped", || {
            b.counters.accepted() + b.counters.dropped(Dropped::StrangersFull) == n + 1
        })
        .await;
    }
    assert_eq!((b.counters.accepted(), b.counters.dropped(Dropped::Full)), (2, 0));
    let (mut friend, _ended) = connect(&b, &a.key, "198.51.100.1:1").await.unwrap();
    let request = http::Request::get("https://b.localhost/v1/nothing").body(Empty::new()).unwrap();
    assert_eq!(friend.send_request(request).await.unwrap().status(), StatusCode::NOT_FOUND);
}
