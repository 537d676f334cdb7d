use super::*;
use p2pcdn_core::decide::Steering;
use p2pcdn_core::destination::{Destination, Destinations};
use p2pcdn_core::object::{Class, Embedding, Sha256, Sharing};
use p2pcdn_core::sync::{HolderRow, ObjectRow, Op, Progress};

use crate::host::fake::FakeHost;
use crate::request::Verdict;

mod exchanges;
mod requests;
mod responses;

const NOW_MS: u64 = 1_700_000_000_000;
const HASH_KEY: HashKey = HashKey([1, 2]);
const BYTES: u64 = 100_000;
const ALL: Steering = Steering { fraction_ppm: ONE_PPM, pure_balancer: false, killed: false };

/// One VM of a proxy, with the agent's side of its exchanges.
struct Site {
    host: FakeHost,
    root: Root<FakeHost>,
}

impl Site {
    /// Configured with `keys` on top of the required one, and without the rule of staying local; it knows nothing yet.
    fn new(keys: &str) -> Self {
        let rule = if keys.contains("stay_local_s") { "" } else { r#", "stay_local_s": 0"# };
        Self::beside(&FakeHost::new(NOW_MS, &format!(r#"{{"agent": {{"cluster": "agent"}}{rule}{keys}}}"#)), 1)
    }

    /// One more VM of the same proxy.
    fn beside(host: &FakeHost, context_id: u32) -> Self {
        let mut root = Root::new(host.clone(), context_id);
        assert!(root.configure(host.configuration_bytes()), "{:?}", host.logged());
        Self { host: host.clone(), root }
    }

    /// Holds [`table`] and redirects all that is eligible.
    fn loaded(keys: &str) -> Self {
        let mut site = Self::new(keys);
        site.load(update(table()));
        site
    }

    fn load(&mut self, update: Update) {
        self.get("/not-replicated");
        self.root.tick();
        self.answer(&update);
    }

    fn get(&self, path: &str) -> Verdict {
        self.fate(&[(":method", "GET"), (":path", path)])
    }

    fn fate(&self, headers: &[(&str, &str)]) -> Verdict {
        self.ask(headers).verdict
    }

    /// The request is in flight until it is dropped.
    fn ask(&self, headers: &[(&str, &str)]) -> Request<FakeHost> {
        self.host.set_request(&[&[(":authority", "a.test")], headers].concat());
        let mut request = self.root.request();
        request.head(true);
        request
    }

    /// Answers the callout that was sent last.
    fn answer(&mut self, update: &Update) {
        self.answer_bytes(Some(200), encode(update).unwrap());
    }

    fn answer_bytes(&mut self, status: Option<u16>, body: Vec<u8>) {
        let size = body.len();
        self.host.set_answer(status, body);
        self.root.answered(self.token(), 1, size);
    }

    fn fail(&mut self) {
        self.root.answered(self.token(), 0, 0);
    }

    fn token(&self) -> u32 {
        self.host.posts().len() as u32
    }

    /// A metric as the next tick shows it.
    fn metric(&self, name: &str) -> u64 {
        if let Some(vm) = &self.root.vm {
            let mut vm = vm.borrow_mut();
            let counted = std::mem::take(&mut vm.counted);
            vm.metrics.show(&self.host, &counted);
        }
        self.host.metric(name)
    }

    fn last_report(&self) -> Report {
        decode(&self.host.posts().last().unwrap().body).unwrap()
    }

    fn locations(&self) -> Vec<String> {
        let location = |headers: &[(String, Vec<u8>)]| String::from_utf8(headers[0].1.clone()).unwrap();
        self.host.local_responses().iter().map(|response| location(&response.headers)).collect()
    }
}

fn update(ops: Vec<Op>) -> Update {
    Update {
        now: Have { session: 1, version: 1, progress: Progress::Complete },
        more: false,
        clear: true,
        hash_key: HASH_KEY,
        ttl_ms: 60_000,
        steering: ALL,
        lease_share_ppm: ONE_PPM,
        ops,
    }
}

/// Confirms what the VM has.
fn nothing_new() -> Update {
    Update { clear: false, ..update(vec![]) }
}

/// `/a.png` and `/b.woff2`, both at `replica.b.test`.
fn table() -> Vec<Op> {
    let set = Op::Set { id: 0, holders: vec![0] };
    vec![holder(1 << 30), set, object("/a.png", Class::Image), object("/b.woff2", Class::Font)]
}

fn holder(lease_bytes_per_s: u64) -> Op {
    Op::Holder(holder_row(lease_bytes_per_s))
}

fn holder_row(lease_bytes_per_s: u64) -> HolderRow {
    let authority = "replica.b.test".into();
    HolderRow { id: 0, authority, weight: 1000, newcomer: false, lease_bytes_per_s, blocked: Destinations::NONE }
}

fn object(path: &str, class: Class) -> Op {
    Op::Object(row(path, class))
}

fn row(path: &str, class: Class) -> ObjectRow {
    let sha256 = Sha256([0xab; 32]);
    ObjectRow {
        key: key(path),
        sha256,
        size: BYTES,
        class,
        validator: HASH_KEY.validator(b"\"one\""),
        fresh_until_s: u32::MAX,
        stale_if_error_s: 0,
        sharing: Sharing::SameOrigin,
        embedding: Embedding::Unstated,
        set: 0,
    }
}

fn key(path: &str) -> u64 {
    HASH_KEY.of(b"a.test", path.as_bytes())
}

fn location(path: &str) -> String {
    format!("https://replica.b.test/.well-known/p2pcdn/v1/r/a.test/{}{path}", "ab".repeat(32))
}
