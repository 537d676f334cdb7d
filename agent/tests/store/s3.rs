//! A bucket on a real server of the S3 protocol, which can be cut off.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use p2pcdn_agent::identity::NodeKey;
use p2pcdn_agent::store::{IncomingError, Location, Place, ReadError, ReplicaStore, StoreError};

use crate::lab::{assert_whole, location, noise, object, reserve, small, take_in};
use crate::{part, runtime};

/// Path of moto's server; `cargo xtask test` sets it, and by default it is where `cargo xtask setup` puts it.
const MOTO: &str = "MOTO_SERVER";
const MOTO_BY_DEFAULT: &str = "../target/tools/moto-5.2.5/bin/moto_server";

/// The server; stopped when dropped.
struct Moto(Child, SocketAddr);

/// Passes connections on to the server, unless the line is cut.
struct Line {
    address: SocketAddr,
    state: Arc<Mutex<LineState>>,
    /// Bytes in either direction.
    carried: Arc<AtomicU64>,
}

#[derive(Default)]
struct LineState {
    is_cut: bool,
    open: Vec<TcpStream>,
}

pub(crate) fn bucket() {
    let directory = tempfile::tempdir().unwrap();
    let moto = Moto::start(directory.path());
    assert!(moto.put("/replicas", b"").starts_with("HTTP/1.1 200"));
    let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
    let status = part("s3").arg(directory.path()).arg(moto.1.to_string()).envs(keys).status().unwrap();
    assert!(status.success(), "{status}");
    let mut without = part("s3");
    for (key, _) in keys {
        without.env_remove(key);
    }
    let output = without.arg(directory.path()).arg("no keys").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn child(directory: &Path, server: &str) {
    let Ok(server) = server.parse::<SocketAddr>() else { return without_keys(directory) };
    let line = Line::to(server);
    let directory = directory.join("replicas");
    runtime().block_on(async {
        let key = NodeKey::load_or_create(&directory.join("key")).unwrap();
        let at = |bucket: &str| at(&directory, bucket, line.address);
        let open = || async { Ok::<_, StoreError>(Arc::new(ReplicaStore::open(at("replicas")).await?)) };
        let store = open().await.unwrap();

        let bytes = noise(1, 17 << 20);
        take_in(&store, object(&key, "a.test", "/large", 1, &bytes), &bytes).await.unwrap();
        let batch = (0..20_u64).map(|number| {
            let bytes = noise(number / 2, 4096);
            let (record, signed) =
                object(&key, ["a.test", "b.test"][number as usize % 2], &format!("/{number}"), 1, &bytes);
            small(&store, &record, signed, bytes)
        });
        for outcome in store.commit_small(batch.collect()).await {
            outcome.unwrap();
        }
        let held = assert_whole(&store).await;
        assert_eq!(held.len(), 21);
        let large = store.find("a.test", "/large").unwrap();
        let range = store.read(&large.record.sha256, (8 << 20) - 5..(8 << 20) + 5).await.unwrap();
        let range: Vec<bytes::Bytes> = range.try_collect().await.unwrap();
        assert_eq!(range.concat(), bytes[(8 << 20) - 5..(8 << 20) + 5]);

        // A restart, and one that has lost the metadata.
        drop(store);
        let store = open().await.unwrap();
        assert_eq!(assert_whole(&store).await, held);
        drop(store);
        std::fs::remove_file(directory.join("replicas.redb")).unwrap();
        let store = open().await.unwrap();
        assert_eq!(assert_whole(&store).await, held);

        // Bytes that somebody else has changed are noticed, and go.
        store.scrub(&large.record).await.unwrap();
        // To look whether it is still there costs no download.
        let before = line.carried();
        store.inspect(&large.record).await.unwrap();
        assert!(line.carried() - before < 64 << 10, "{} bytes", line.carried() - before);
        let hex = large.record.sha256.to_string();
        Moto::put_at(server, &format!("/replicas/site/blobs/{}/{hex}", &hex[..2]), b"other bytes");
        assert!(matches!(store.inspect(&large.record).await, Err(ReadError::Corrupt)));
        assert!(matches!(store.verify(&large.record).await, Err(ReadError::Corrupt)));
        assert!(store.retire(&large).await.unwrap());
        store.remove_unused(&large.record.sha256).await.unwrap();
        assert!(matches!(store.scrub(&large.record).await, Err(ReadError::Missing)));
        let held = assert_whole(&store).await;
        assert_eq!(held.len(), 20);

        line.cut(true);
        let kept = store.find("a.test", "/0").unwrap();
        assert!(matches!(store.verify(&kept.record).await, Err(ReadError::Store(StoreError::Bytes(_)))));
        let cut = take_in(&store, object(&key, "a.test", "/late", 2, &bytes), &bytes).await;
        assert!(matches!(cut, Err(IncomingError::Store(StoreError::Bytes(_)))), "{cut:?}");
        assert!(store.declines() && store.trouble().is_some());
        assert_eq!(store.list().len(), 20);
        // The site itself needs its agent, whatever the bucket does.
        drop((store, kept));
        let store = open().await.unwrap();
        assert_eq!(store.list().len(), 20);

        line.cut(false);
        let (record, signed) = object(&key, "a.test", "/late", 2, &bytes);
        let again = store.begin(&record).await.unwrap();
        assert_eq!(again.received(), record.size, "what was received is not fetched again");
        store.commit(again, signed, reserve(&store, &record)).await.unwrap();
        assert_eq!(store.trouble(), None);
        assert_eq!(assert_whole(&store).await.len(), 21);
        drop(store);

        let error = ReplicaStore::open(at("no-such-bucket")).await.err().expect("the operator has to hear of it");
        assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains("check store.url"), "{error}");
    });
}

fn without_keys(directory: &Path) {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let error = runtime().block_on(ReplicaStore::open(at(directory, "replicas", nowhere))).err().unwrap();
    assert!(matches!(error, StoreError::NoKeys), "{error}");
}

fn at(directory: &Path, bucket: &str, server: SocketAddr) -> Location {
    let mut location = location(directory);
    location.place = Place::Bucket { bucket: bucket.into(), prefix: "site".into() };
    location.access.endpoint = format!("http://{server}");
    location
}

impl Moto {
    fn start(directory: &Path) -> Self {
        let program = std::env::var_os(MOTO)
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(MOTO_BY_DEFAULT), PathBuf::from);
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let log = std::fs::File::create(directory.join("moto.log")).unwrap();
        let mut server = Command::new(&program);
        server.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]).stdout(Stdio::null()).stderr(log);
        let child = server.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}; cargo xtask setup installs it, or name it in {MOTO}", program.display())
        });
        let moto = Self(child, address);
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(60), "moto does not answer; see its log");
            std::thread::sleep(Duration::from_millis(50));
        }
        moto
    }

    fn put(&self, path: &str, body: &[u8]) -> String {
        Self::put_at(self.1, path, body)
    }

    fn put_at(server: SocketAddr, path: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(server).unwrap();
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let line = Self { address: listener.local_addr().unwrap(), state: Arc::default(), carried: Arc::default() };
        let (state, carried) = (line.state.clone(), line.carried.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let mut state = state.lock().unwrap();
                if state.is_cut {
                    continue;
                }
                let far = TcpStream::connect(server).unwrap();
                state.open.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                copy(near.try_clone().unwrap(), far.try_clone().unwrap(), carried.clone());
                copy(far, near, carried.clone());
            }
        });
        line
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    fn cut(&self, is_cut: bool) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = is_cut;
        state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, carried: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            carried.fetch_add(length as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
}
