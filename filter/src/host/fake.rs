//! A proxy made of plain values, with the ways of Envoy or those of nginx. Clones are the same proxy, as VMs see it.
//!
//! What would kill a worker of nginx panics here; what it gets wrong is wrong here, too (`quirks` below).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use p2pcdn_core::sync::{Report, decode};

use super::{Host, Level, MetricId, MetricKind, encode_pairs, pairs};
use crate::settings::Proxy as Kind;

mod quirks;

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeHost {
    proxy: Rc<Proxy>,
}

#[derive(Debug, Default)]
struct Proxy {
    kind: Kind,
    is_configuring: Cell<bool>,
    /// When the callouts that are under way time out, by the number of their VM.
    callouts_until_ms: RefCell<HashMap<u64, u64>>,
    torn: Cell<bool>,
    now_ms: Cell<u64>,
    tick_ms: Cell<u32>,
    can_send: Cell<bool>,
    configuration: RefCell<Vec<u8>>,
    request: RefCell<Vec<u8>>,
    answer: RefCell<(Option<u16>, Vec<u8>)>,
    /// By what the proxy compares of a key.
    shared: RefCell<HashMap<Vec<u8>, Value>>,
    metrics: RefCell<Vec<(String, u64)>>,
    log: RefCell<Vec<(Level, String)>>,
    posts: RefCell<Vec<Post>>,
    local_responses: RefCell<Vec<LocalResponse>>,
    response_status: Cell<Option<u16>>,
    received_headers: RefCell<Vec<(String, Vec<u8>)>>,
    response_headers: RefCell<Vec<(String, Vec<u8>)>>,
}

/// A shared value and its cas number.
type Value = (Vec<u8>, u32);

/// A callout that has left; its token is its place in the order of sending, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Post {
    pub(crate) cluster: String,
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) timeout_ms: u32,
}

/// What the filter answered in the origin's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
}

impl FakeHost {
    /// At `now_ms`, with this configuration and a way to the agent.
    pub(crate) fn new(kind: Kind, now_ms: u64, configuration: &str) -> Self {
        let host = Self { proxy: Rc::new(Proxy { kind, ..Proxy::default() }) };
        host.set_now_ms(now_ms);
        host.configure(configuration);
        host.set_can_send(true);
        host
    }

    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        self.proxy.now_ms.set(now_ms);
    }

    pub(crate) fn pass_ms(&self, ms: u64) {
        self.set_now_ms(self.proxy.now_ms.get() + ms);
    }

    pub(crate) fn configure(&self, json: &str) {
        *self.proxy.configuration.borrow_mut() = json.into();
    }

    /// Has the filter configured, which gets the size of its configuration.
    pub(crate) fn configuring(&self, configure: impl FnOnce(usize) -> bool) -> bool {
        self.proxy.is_configuring.set(true);
        let is_accepted = configure(self.proxy.configuration.borrow().len());
        self.proxy.is_configuring.set(false);
        is_accepted
    }

    /// The callouts under way have come to their end.
    pub(crate) fn end_callouts(&self) {
        self.proxy.callouts_until_ms.borrow_mut().clear();
    }

    /// The next shared value is read while another VM writes it.
    pub(crate) fn tear_next_value(&self) {
        self.proxy.torn.set(true);
    }

    /// The proxy is reloaded.
    pub(crate) fn reload(&self) {
        self.proxy.shared.borrow_mut().clear();
    }

    /// Whether callouts can be sent at all.
    pub(crate) fn set_can_send(&self, can_send: bool) {
        self.proxy.can_send.set(can_send);
    }

    pub(crate) fn set_request(&self, headers: &[(&str, &str)]) {
        self.set_request_map(encode_pairs(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))));
    }

    pub(crate) fn set_request_map(&self, map: Vec<u8>) {
        *self.proxy.request.borrow_mut() = map;
    }

    /// What the origin answers.
    pub(crate) fn set_response(&self, status: u16, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        // As Envoy does once the request has gone on.
        self.set_request_map(Vec::new());
        self.proxy.response_status.set(Some(status));
        *self.proxy.received_headers.borrow_mut() = headers;
    }

    pub(crate) fn set_answer(&self, status: Option<u16>, body: Vec<u8>) {
        self.end_callouts();
        *self.proxy.answer.borrow_mut() = (status, body);
    }

    pub(crate) fn tick_ms(&self) -> u32 {
        self.proxy.tick_ms.get()
    }

    /// 0 for a metric that nobody defined.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.proxy.metrics.borrow().iter().find(|(known, _)| known == name).map_or(0, |(_, value)| *value)
    }

    pub(crate) fn logged(&self) -> Vec<(Level, String)> {
        self.proxy.log.borrow().clone()
    }

    pub(crate) fn posts(&self) -> Vec<Post> {
        self.proxy.posts.borrow().clone()
    }

    pub(crate) fn local_responses(&self) -> Vec<LocalResponse> {
        self.proxy.local_responses.borrow().clone()
    }

    pub(crate) fn response_headers(&self) -> Vec<(String, Vec<u8>)> {
        self.proxy.response_headers.borrow().clone()
    }
}

impl FakeHost {
    /// What the proxy compares of a shared key.
    fn compared(&self, key: &str) -> Vec<u8> {
        match self.proxy.kind {
            Kind::Envoy => key.into(),
            Kind::Nginx => quirks::crc32(key.as_bytes()).to_be_bytes().into(),
        }
    }
}

impl Host for FakeHost {
    fn now_ns(&self) -> u64 {
        self.proxy.now_ms.get() * 1_000_000
    }

    fn log(&self, level: Level, text: &str) {
        self.proxy.log.borrow_mut().push((level, text.into()));
    }

    fn set_tick_ms(&self, ms: u32) {
        self.proxy.tick_ms.set(ms);
    }

    fn configuration(&self, size: usize) -> Vec<u8> {
        self.proxy.configuration.borrow().iter().take(size).copied().collect()
    }

    fn request_headers(&self) -> Vec<u8> {
        let map = self.proxy.request.borrow();
        match self.proxy.kind {
            Kind::Envoy => map.clone(),
            Kind::Nginx => quirks::request_headers(&map),
        }
    }

    fn raw_path(&self) -> Vec<u8> {
        assert!(!self.proxy.is_configuring.get(), "there is no request yet: a segmentation fault");
        pairs(&self.proxy.request.borrow())
            .find(|(name, _)| *name == b":path")
            .map(|(_, path)| path.to_vec())
            .unwrap_or_default()
    }

    fn respond(&self, status: u16, headers: &[(&str, &[u8])], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), value.to_vec())).collect();
        let answer = LocalResponse { status, headers, body: body.into() };
        self.proxy.local_responses.borrow_mut().push(match self.proxy.kind {
            Kind::Envoy => answer,
            Kind::Nginx => quirks::local_response(answer),
        });
    }

    fn response_status(&self) -> Option<u16> {
        self.proxy.response_status.get()
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        self.proxy.received_headers.borrow().iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn set_response_header(&self, name: &str, value: &[u8]) {
        let mut headers = self.proxy.response_headers.borrow_mut();
        headers.retain(|(known, _)| known != name);
        headers.push((name.into(), value.into()));
    }

    fn post(&self, cluster: &str, path: &str, body: &[u8], timeout_ms: u32) -> Option<u32> {
        if !self.proxy.can_send.get() || (self.proxy.kind == Kind::Nginx && !quirks::is_address(cluster)) {
            return None;
        }
        if self.proxy.kind == Kind::Nginx {
            quirks::check_callout(path, body, self.proxy.is_configuring.get());
            let (vm, now_ms) = (decode::<Report>(body).unwrap().vm, self.proxy.now_ms.get());
            let until_ms = self.proxy.callouts_until_ms.borrow_mut().insert(vm, now_ms + u64::from(timeout_ms));
            assert!(until_ms.is_none_or(|until_ms| until_ms < now_ms), "two callouts at once");
        }
        let mut posts = self.proxy.posts.borrow_mut();
        posts.push(Post { cluster: cluster.into(), path: path.into(), body: body.into(), timeout_ms });
        u32::try_from(posts.len()).ok()
    }

    fn answer_status(&self) -> Option<u16> {
        self.proxy.answer.borrow().0
    }

    fn answer_body(&self, size: usize) -> Vec<u8> {
        self.proxy.answer.borrow().1.iter().take(size).copied().collect()
    }

    fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let (mut value, cas) = self.proxy.shared.borrow().get(&self.compared(key)).cloned()?;
        if self.proxy.torn.replace(false) {
            quirks::tear(&mut value);
        }
        Some((value, cas))
    }

    fn set_shared(&self, key: &str, value: &[u8], cas: u32) -> bool {
        let mut shared = self.proxy.shared.borrow_mut();
        let key = self.compared(key);
        let known = shared.get(&key).map_or(0, |(_, cas)| *cas);
        let is_current = cas == known || (cas == 0 && self.proxy.kind == Kind::Envoy);
        if is_current {
            shared.insert(key, (value.into(), known + 1));
        }
        if self.proxy.kind == Kind::Nginx {
            quirks::check_zone(shared.values().map(|(value, _)| value.len()));
        }
        is_current
    }

    fn define(&self, _: MetricKind, name: &str) -> MetricId {
        let mut metrics = self.proxy.metrics.borrow_mut();
        let at = metrics.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            metrics.push((name.into(), 0));
            metrics.len() - 1
        });
        u32::try_from(at).ok()
    }

    fn add(&self, metric: MetricId, n: u32) {
        if let Some(id) = metric {
            self.proxy.metrics.borrow_mut()[id as usize].1 += u64::from(n);
        }
    }

    fn set(&self, metric: MetricId, value: u64) {
        if let Some(id) = metric {
            self.proxy.metrics.borrow_mut()[id as usize].1 = value;
        }
    }
}
