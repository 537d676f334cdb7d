//! The proxy as seen from inside its sandbox: proxy-wasm ABI 0.2.1.
//!
//! Declared here rather than taken from the SDK, whose wrappers panic on statuses that they do not list and on text that is not UTF-8.
#![allow(unsafe_code)]

use std::ptr::{null, null_mut};
use std::time::Duration;

use proxy_wasm::hostcalls::dispatch_http_call;

use super::{Host, Level, MetricId, MetricKind, encode_pairs};

const OK: u32 = 0;
const ANSWER_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;
const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
const ANSWER_HEADERS: u32 = 6;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(ms: u32) -> u32;
    fn proxy_get_buffer_bytes(kind: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, value_size: usize, cas: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
}

/// The proxy that loaded this module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proxy;

impl Host for Proxy {
    fn now_ns(&self) -> u64 {
        let mut time = 0;
        // SAFETY: the host writes one u64.
        let status = unsafe { proxy_get_current_time_nanoseconds(&mut time) };
        if status == OK { time } else { 0 }
    }

    fn log(&self, level: Level, text: &str) {
        let level = match level {
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        // SAFETY: the host reads within the text.
        unsafe { proxy_log(level, text.as_ptr(), text.len()) };
    }

    fn set_tick_ms(&self, ms: u32) {
        // SAFETY: no memory is passed.
        unsafe { proxy_set_tick_period_milliseconds(ms) };
    }

    fn configuration(&self, size: usize) -> Vec<u8> {
        buffer(PLUGIN_CONFIGURATION, size)
    }

    fn request_headers(&self) -> Vec<u8> {
        // SAFETY: see `received`.
        received(|data, size| unsafe { proxy_get_header_map_pairs(REQUEST_HEADERS, data, size) }).unwrap_or_default()
    }

    fn raw_path(&self) -> Vec<u8> {
        const PATH: &[u8] = b"request\0path";
        // SAFETY: the host reads within the path of the property; see `received`.
        received(|data, size| unsafe { proxy_get_property(PATH.as_ptr(), PATH.len(), data, size) }).unwrap_or_default()
    }

    fn respond(&self, status: u16, headers: &[(&str, &[u8])], body: &[u8]) {
        let map = encode_pairs(headers.iter().map(|(name, value)| (name.as_bytes(), *value)));
        let (map, size) = (map.as_ptr(), map.len());
        // SAFETY: the host reads within map and body; null is given with length 0 only.
        unsafe { proxy_send_local_response(status.into(), null(), 0, body.as_ptr(), body.len(), map, size, -1) };
    }

    fn response_status(&self) -> Option<u16> {
        status_in(RESPONSE_HEADERS)
    }

    fn response_header(&self, name: &str) -> Option<Vec<u8>> {
        header(RESPONSE_HEADERS, name)
    }

    fn set_response_header(&self, name: &str, value: &[u8]) {
        // SAFETY: the host reads within name and value.
        unsafe {
            proxy_replace_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len(), value.as_ptr(), value.len())
        };
    }

    fn post(&self, cluster: &str, path: &str, body: &[u8], timeout_ms: u32) -> Option<u32> {
        let headers = vec![(":method", "POST"), (":path", path), (":authority", "p2pcdn")];
        // The one call that has to go through the SDK: its dispatcher panics on the answer to a call that it has not seen leave.
        dispatch_http_call(cluster, headers, Some(body), vec![], Duration::from_millis(timeout_ms.into())).ok()
    }

    fn answer_status(&self) -> Option<u16> {
        status_in(ANSWER_HEADERS)
    }

    fn answer_body(&self, size: usize) -> Vec<u8> {
        buffer(ANSWER_BODY, size)
    }

    fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let mut cas = 0;
        let value = received(|data, size| {
            // SAFETY: the host reads within the key and writes one u32; see `received`.
            unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut cas) }
        })?;
        Some((value, cas))
    }

    fn set_shared(&self, key: &str, value: &[u8], cas: u32) -> bool {
        // SAFETY: the host reads within key and value.
        unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) == OK }
    }

    fn define(&self, kind: MetricKind, name: &str) -> MetricId {
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
        };
        let mut id = 0;
        // SAFETY: the host reads within the name and writes one u32.
        let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
        (status == OK).then_some(id)
    }

    fn add(&self, metric: MetricId, n: u32) {
        if let Some(id) = metric {
            // SAFETY: no memory is passed.
            unsafe { proxy_increment_metric(id, n.into()) };
        }
    }

    fn set(&self, metric: MetricId, value: u64) {
        if let Some(id) = metric {
            // SAFETY: no memory is passed.
            unsafe { proxy_record_metric(id, value) };
        }
    }
}

/// Makes the filter trap, as a defect in it would.
#[cfg(feature = "fault-injection")]
pub(crate) fn trap() -> ! {
    core::arch::wasm32::unreachable()
}

fn status_in(map: u32) -> Option<u16> {
    std::str::from_utf8(&header(map, ":status")?).ok()?.parse().ok()
}

fn header(map: u32, name: &str) -> Option<Vec<u8>> {
    received(|data, size| {
        // SAFETY: the host reads within the name; see `received`.
        unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, size) }
    })
}

fn buffer(kind: u32, max: usize) -> Vec<u8> {
    // SAFETY: see `received`.
    received(|data, size| unsafe { proxy_get_buffer_bytes(kind, 0, max, data, size) }).unwrap_or_default()
}

/// Takes over the block that the host call fills in, or nothing if the call fails.
fn received(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let (mut data, mut size) = (null_mut(), 0);
    let status = call(&mut data, &mut size);
    if status != OK {
        return None;
    }
    if data.is_null() || size == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the host got the block of exactly this size from the SDK's `malloc`, which makes it of a boxed slice.
    Some(unsafe { Vec::from_raw_parts(data, size, size) })
}
