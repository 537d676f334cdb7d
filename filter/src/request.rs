//! A request, from its headers to its verdict.

use std::cell::RefCell;
use std::rc::Rc;

use p2pcdn_core::gate::Surroundings;
pub use p2pcdn_core::gate::{Kept, Verdict};
use p2pcdn_core::request_head::RequestHead;

use crate::host::{Host, now_ms, pairs};
use crate::root::Vm;
use crate::settings::Proxy;

/// One request and, later, its response.
#[derive(Debug)]
pub struct Request<H: Host> {
    /// `None` while the filter is off: then nothing is looked at.
    pub(crate) vm: Option<Rc<RefCell<Vm<H>>>>,
    pub(crate) verdict: Verdict,
    pub(crate) kept: Kept,
    is_counted: bool,
}

impl<H: Host> Request<H> {
    /// A request of which nothing is known yet.
    pub fn new(vm: Option<Rc<RefCell<Vm<H>>>>) -> Self {
        Self { vm, verdict: Verdict::Local, kept: Kept::Nothing, is_counted: false }
    }

    /// Takes in the request's headers, and answers it if it is redirected.
    ///
    /// `is_whole` says that no body follows, where the proxy knows.
    pub fn head(&mut self, is_whole: bool) -> Verdict {
        if let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) {
            if !self.is_counted {
                self.is_counted = true;
                vm.in_flight = vm.in_flight.saturating_add(1);
            }
            let headers = vm.host.request_headers();
            (self.verdict, self.kept) = vm.decide(&headers, is_whole);
        }
        self.verdict
    }
}

impl<H: Host> Drop for Request<H> {
    fn drop(&mut self) {
        if self.is_counted
            && let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok())
        {
            vm.in_flight = vm.in_flight.saturating_sub(1);
        }
    }
}

impl<H: Host> Vm<H> {
    fn decide(&mut self, headers: &[u8], is_whole: bool) -> (Verdict, Kept) {
        #[cfg(all(feature = "fault-injection", target_arch = "wasm32"))]
        if pairs(headers).any(|header| header == (b"x-p2pcdn-crash", b"1")) {
            crate::host::wasm::trap();
        }
        let raw_path;
        let mut head = RequestHead::default();
        match self.proxy {
            Proxy::Envoy => {
                pairs(headers).for_each(|(name, value)| head.observe(name, value));
                if !is_whole {
                    head.note_body();
                }
            }
            // Its `:path` is decoded and its `:authority` made up, and it never knows whether a body follows.
            Proxy::Nginx => {
                raw_path = self.host.raw_path();
                let told = pairs(headers).filter(|(name, _)| !matches!(*name, b":path" | b":authority"));
                told.for_each(|(name, value)| lower_case(name, |name| head.observe(name, value)));
                head.path = &raw_path;
            }
        }
        self.gate.decide(&head, self.in_flight_everywhere(), &mut Through(&self.host))
    }
}

/// nginx shows names as clients wrote them. One that is longer than any that matters may stay as it is.
fn lower_case(name: &[u8], take: impl FnOnce(&[u8])) {
    let mut lower = [0; 40];
    match lower.get_mut(..name.len()) {
        Some(lower) => {
            lower.copy_from_slice(name);
            lower.make_ascii_lowercase();
            take(lower);
        }
        None => take(name),
    }
}

/// The proxy, as the gate knows it.
pub(crate) struct Through<'a, H>(pub(crate) &'a H);

impl<H: Host> Surroundings for Through<'_, H> {
    fn now_ms(&self) -> u64 {
        now_ms(self.0)
    }

    fn answer(&mut self, status: u16, headers: &[(&str, &[u8])], body: &[u8]) {
        self.0.respond(status, headers, body);
    }
}
