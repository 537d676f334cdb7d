use super::super::*;
use super::PROXY;
use p2pcdn_core::decide::{ONE_PPM, Steering};
use p2pcdn_core::destination::{Destination, Destinations};
use p2pcdn_core::lookup::HashKey;
use p2pcdn_core::object::{Class, Embedding, Sha256, Sharing};
use p2pcdn_core::sync::{Have, HolderRow, ObjectRow, Op, Progress, Report};

use crate::host::fake::FakeHost;
use crate::request::Verdict;

#[path = "tests/exchanges.rs"]
mod exchanges;
#[path = "tests/requests.rs"]
mod requests;
#[path = "tests/responses.rs"]
mod responses;

const NOW_MS: u64 = 1_700_000_000_000;
const HASH_KEY: HashKey = HashKey([1, 2]);
const BYTES: u64 = 100_000;
const ALL: Steering = Steering { fraction_ppm: ONE_PPM, pure_balancer: false, killed: false };

/// The agent's local socket as this proxy's operator writes it.
const AGENT: &str = match PROXY {
    Proxy::Envoy => "agent",
    Proxy::Nginx => "127.0.0.1:7080",
};

/// One VM of a proxy, with the agent's side of its exchanges.
pub(super) struct Site {
    pub(super) host: FakeHost,
    pub(super) root: Root<FakeHost>,
}

impl Site {
    /// Configured with `keys` on top of the required one, and without the rule of staying local; it knows nothing yet.
    pub(super) fn new(keys: &str) -> Self {
        let rule = if keys.contains("stay_local_s") { "" } else { r#", "stay_local_s": 0"# };
        let proxy = match PROXY {
            Proxy::Envoy => "",
            Proxy::Nginx => r#""proxy": "nginx", "#,
        };
        let configuration = format!(r#"{{{proxy}"agent": {{"cluster": "{AGENT}"}}{rule}{keys}}}"#);
        Self::beside(&FakeHost::new(PROXY, NOW_MS, &configuration), 1)
    }

    /// One more VM of the same proxy.
    pub(super) fn beside(host: &FakeHost, context_id: u32) -> Self {
        let mut root = Root::new(host.clone(), context_id);
        assert!(host.configuring(|size| root.configure(size)), "{:?}", host.logged());
        assert_eq!(host.logged(), []);
        Self { host: host.clone(), root }
    }

    /// Holds [`table`] and redirects all that is eligible.
    pub(super) fn loaded(keys: &str) -> Self {
        let mut site = Self::new(keys);
        site.load(update(table()));
        site
    }

    pub(super) fn load(&mut self, update: Update) {
        self.get("/not-replicated");
        self.root.tick();
        self.answer(&update);
    }

    pub(super) fn get(&self, path: &str) -> Verdict {
        self.fate(&[(":method", "GET"), (":path", path)])
    }

    pub(super) fn fate(&self, headers: &[(&str, &str)]) -> Verdict {
        self.ask(headers).verdict
    }

    /// The request is in flight until it is dropped.
    pub(super) fn ask(&self, headers: &[(&str, &str)]) -> Request<FakeHost> {
        self.host.set_request(&[&[(":authority", "a.test")], headers].concat());
        let mut request = self.root.request();
        request.head(PROXY == Proxy::Envoy);
        request
    }

    /// Answers the callout that was sent last.
    pub(super) fn answer(&mut self, update: &Update) {
        self.answer_bytes(Some(200), encode(update).unwrap());
    }

    fn answer_bytes(&mut self, status: Option<u16>, body: Vec<u8>) {
        let size = body.len();
        self.host.set_answer(status, body);
        self.root.answered(self.token(), 1, size);
    }

    fn fail(&mut self) {
        self.host.end_callouts();
        self.root.answered(self.token(), 0, 0);
    }

    fn token(&self) -> u32 {
        self.host.posts().len() as u32
    }

    /// A metric as the next tick shows it.
    pub(super) fn metric(&self, name: &str) -> u64 {
        if let Some(vm) = &self.root.vm {
            let mut vm = vm.borrow_mut();
            let counted = std::mem::take(&mut vm.gate.counted);
            vm.metrics.show(&self.host, &counted);
        }
        self.host.metric(name)
    }

    pub(super) fn last_report(&self) -> Report {
        decode(&self.host.posts().last().unwrap().body).unwrap()
    }

    pub(super) fn locations(&self) -> Vec<String> {
        let location = |headers: &[(String, Vec<u8>)]| String::from_utf8(headers[0].1.clone()).unwrap();
        self.host.local_responses().iter().map(|response| location(&response.headers)).collect()
    }
}

pub(super) fn update(ops: Vec<Op>) -> Update {
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
pub(super) fn nothing_new() -> Update {
    Update { clear: false, ..update(vec![]) }
}

/// `/a.png` and `/b.woff2`, both at `replica.b.test`.
pub(super) fn table() -> Vec<Op> {
    let set = Op::Set { id: 0, holders: vec![0] };
    vec![holder(1 << 30), set, object("/a.png", Class::Image), object("/b.woff2", Class::Font)]
}

fn holder(lease_bytes_per_s: u64) -> Op {
    Op::Holder(holder_row(lease_bytes_per_s))
}

pub(super) fn holder_row(lease_bytes_per_s: u64) -> HolderRow {
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

pub(super) fn key(path: &str) -> u64 {
    HASH_KEY.of(b"a.test", path.as_bytes())
}

pub(super) fn location(path: &str) -> String {
    format!("https://replica.b.test/.well-known/p2pcdn/v1/r/a.test/{}{path}", "ab".repeat(32))
}
