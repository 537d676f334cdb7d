use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::*;
use crate::ca::Ca;
use crate::content::noise;
use crate::poll;
use crate::ports::Port;
use crate::tally::{Tally, tally};

/// What a scripted server does with a path.
#[derive(Clone)]
enum Reply {
    Body(Vec<u8>),
    /// Announces the whole body, sends half and closes.
    Half(Vec<u8>),
    To(String),
    Status(u16),
    Never,
}

type Script = BTreeMap<String, Reply>;

/// A TLS server on a free port that follows its script and counts its requests.
struct Server {
    authority: Authority,
    listener: TcpListener,
    requests: Arc<AtomicUsize>,
}

impl Server {
    async fn bind(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = format!("{name}:{}", listener.local_addr().unwrap().port()).parse().unwrap();
        Self { authority, listener, requests: Arc::default() }
    }

    fn serve(self, ca: &Ca, script: Script) -> Arc<AtomicUsize> {
        let leaf = ca.issue(&[self.authority.host()]).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.certificate], leaf.key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (script, requests) = (Arc::new(script), self.requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = self.listener.accept().await {
                let (acceptor, script, requests) = (acceptor.clone(), script.clone(), self.requests.clone());
                tokio::spawn(async move {
                    let stream = acceptor.accept(stream).await.unwrap();
                    let _ = converse(BufReader::new(stream), &script, &requests).await;
                });
            }
        });
        requests
    }
}

async fn converse<S>(mut stream: BufReader<S>, script: &Script, requests: &AtomicUsize) -> std::io::Result<()>
where
    S: tokio::io::AsyncRead + AsyncWriteExt + Unpin,
{
    loop {
        let mut first = String::new();
        stream.read_line(&mut first).await?;
        let Some(path) = first.split(' ').nth(1) else { return Ok(()) };
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            stream.read_line(&mut line).await?;
        }
        requests.fetch_add(1, Ordering::Relaxed);
        let (head, body, close) = match script[path].clone() {
            Reply::Body(body) => (format!("200 OK\r\ncontent-length: {}", body.len()), body, false),
            Reply::Half(body) => {
                (format!("200 OK\r\ncontent-length: {}", body.len()), body[..body.len() / 2].to_vec(), true)
            }
            Reply::To(url) => (format!("307 X\r\nlocation: {url}\r\ncontent-length: 0"), Vec::new(), false),
            Reply::Status(status) => (format!("{status} X\r\ncontent-length: 4"), b"sad\n".to_vec(), false),
            Reply::Never => std::future::pending().await,
        };
        stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes()).await?;
        stream.write_all(&body).await?;
        stream.flush().await?;
        if close {
            return stream.shutdown().await;
        }
    }
}

fn empty_site() -> (Ca, TempDir, Content) {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::scan(directory.path()).unwrap();
    (Ca::new().unwrap(), directory, content)
}

fn generator(ca: &Ca, origin: Authority, content: &Content) -> Generator {
    Generator::new(Client::new(ca.roots()), origin, content.clone())
}

/// Requests one object, by its path, from the clients of a generator that offers nothing by itself.
async fn request(generator: &Generator, path: &str, redirects: usize) -> Tally {
    let clients = &generator.clients;
    let number = clients.content.objects().iter().position(|o| o.path == path).unwrap();
    start(clients, number, Instant::now());
    let all = clients.slots.acquire_many(MAX_IN_FLIGHT).await.unwrap();
    drop(all);
    let samples = generator.take();
    assert_eq!(samples.iter().map(|s| s.redirects.len()).collect::<Vec<_>>(), [redirects], "{path}");
    tally(&clients.origin, &samples)
}

#[tokio::test]
async fn every_way_in_which_a_request_can_end_is_counted_as_what_it_is() {
    let (ca, _directory, content) = empty_site();
    let body = noise(7, 20_000);
    let wrong = noise(8, 20_000);
    let (origin, host) = (Server::bind("alpha.localhost").await, Server::bind("replica.beta.localhost").await);
    let (alpha, beta) = (origin.authority.clone(), host.authority.clone());
    let mut free = Port::hold().unwrap();
    free.release();
    let dead: Authority = format!("replica.gamma.localhost:{}", free.number).parse().unwrap();

    let mut at_origin = Script::new();
    let mut at_host = Script::new();
    for (path, reply) in [
        ("/local.png", Reply::Body(body.clone())),
        ("/moved.png", Reply::To(format!("https://{beta}/moved.png"))),
        ("/moved-wrong.png", Reply::To(format!("https://{beta}/moved-wrong.png"))),
        ("/returned.png", Reply::To(format!("https://{beta}/returned.png"))),
        ("/dead.png", Reply::To(format!("https://{dead}/dead.png"))),
        ("/loop.png", Reply::To(format!("https://{alpha}/loop.png"))),
        ("/half.png", Reply::Half(body.clone())),
        ("/gone.png", Reply::Status(503)),
        ("/stale.png", Reply::Body(body.clone())),
        ("/cut.png", Reply::Body(body[..19_999].to_vec())),
    ] {
        content.put(path, &body).unwrap();
        at_origin.insert(path.into(), reply);
    }
    content.put("/stale.png", &wrong).unwrap();
    at_origin.insert("/back/returned.png".into(), Reply::Body(body.clone()));
    at_host.insert("/moved.png".into(), Reply::Body(body.clone()));
    at_host.insert("/moved-wrong.png".into(), Reply::Body(wrong));
    at_host.insert("/returned.png".into(), Reply::To(format!("https://{alpha}/back/returned.png")));
    origin.serve(&ca, at_origin);
    host.serve(&ca, at_host);

    let one = Tally { requests: 1, ..Tally::default() };
    let by = |host: &Authority| BTreeMap::from([(host.to_string(), 1)]);
    let local = Tally { local: 1, bytes_total: 20_000, ..one.clone() };
    let redirected =
        Tally { redirected: 1, by_host: by(&beta), bytes_total: 20_000, bytes_offloaded: 20_000, ..one.clone() };
    let failed = |at: &Authority| Tally { failed: 1, failed_at: by(at), ..one.clone() };
    let generator = generator(&ca, alpha.clone(), &content);
    for (path, redirects, want) in [
        ("/local.png", 0, local.clone()),
        ("/moved.png", 1, redirected.clone()),
        ("/moved-wrong.png", 1, Tally { corrupt: 1, ..redirected }),
        ("/returned.png", 2, Tally { returned: 1, ..local.clone() }),
        ("/dead.png", 1, failed(&dead)),
        ("/loop.png", 4, failed(&alpha)),
        ("/half.png", 0, failed(&alpha)),
        ("/gone.png", 0, failed(&alpha)),
        ("/stale.png", 0, Tally { stale: 1, ..local.clone() }),
        ("/cut.png", 0, Tally { corrupt: 1, bytes_total: 19_999, ..local }),
    ] {
        let got = request(&generator, path, redirects).await;
        assert!(got.failed == 1 || got.p50 > Duration::ZERO, "{path}");
        let comparable = Tally { p50: Duration::ZERO, p99: Duration::ZERO, failed_why: BTreeMap::new(), ..got };
        assert_eq!(comparable, want, "{path}");
    }
}

#[tokio::test]
async fn load_is_offered_on_schedule_whether_or_not_anything_is_answered() {
    let (ca, _directory, content) = empty_site();
    content.put("/a.png", b"never sent").unwrap();
    let server = Server::bind("alpha.localhost").await;
    let authority = server.authority.clone();
    let requests = server.serve(&ca, Script::from([("/a.png".into(), Reply::Never)]));
    let generator = generator(&ca, authority, &content);
    let start = Instant::now();
    generator.offer(100.0);
    let count = || requests.load(Ordering::Relaxed);
    let arrived = async || if count() >= 50 { Ok(()) } else { Err(count().to_string()) };
    poll(Duration::from_secs(8), "50 requests", arrived).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(480), "no faster than offered");
    assert!(generator.take().is_empty());
}

#[tokio::test]
async fn turns_that_were_missed_are_made_up_for_or_left_out_as_one_says() {
    let (ca, _directory, content) = empty_site();
    content.put("/a.png", b"x").unwrap();
    let origin: Authority = "alpha.localhost:1".parse().unwrap();
    for (missed, is_burst) in [(Missed::Burst, true), (Missed::Skip, false)] {
        let generator = Generator::with_missed(Client::new(ca.roots()), origin.clone(), content.clone(), missed);
        generator.offer(100.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let stalled = Instant::now();
        std::thread::sleep(Duration::from_millis(500));
        let stalled = stalled..Instant::now() - Duration::from_millis(20);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let samples = generator.finish().await;
        let made_up = samples.iter().filter(|sample| stalled.contains(&sample.due)).count();
        assert_eq!(made_up >= 40, is_burst, "{made_up}");
    }
}

#[tokio::test]
async fn what_cannot_even_be_sent_counts_as_failed() {
    let (ca, _directory, content) = empty_site();
    content.put("/a.png", b"x").unwrap();
    let origin: Authority = "alpha.localhost:1".parse().unwrap();
    let generator = generator(&ca, origin.clone(), &content);
    let busy = generator.clients.slots.clone().acquire_many_owned(MAX_IN_FLIGHT).await.unwrap();
    generator.offer(1000.0);
    let mut samples = Vec::new();
    let failures = poll(Duration::from_secs(8), "failures", async || {
        samples.extend(generator.take());
        if samples.len() >= 3 { Ok(()) } else { Err(samples.len()) }
    });
    failures.await.unwrap();
    drop(busy);
    let tally = tally(&origin, &samples);
    assert_eq!(tally.failed, tally.requests);
    assert!(matches!(samples[0].outcome, Outcome::Failed { why: Failure::Overrun, .. }));
}
