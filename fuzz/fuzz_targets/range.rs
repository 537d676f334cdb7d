//! Range and condition headers: whatever is asked for, what is served lies within the object.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use p2pcdn_agent::conditional::{Plan, plan};

const NAMES: [&str; 6] =
    ["range", "if-range", "if-none-match", "if-match", "if-modified-since", "if-unmodified-since"];

fuzz_target!(|input: (u64, Vec<(u8, Vec<u8>)>)| {
    let (size, lines) = input;
    let mut headers = HeaderMap::new();
    for (name, value) in lines.into_iter().take(8) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(NAMES[usize::from(name) % NAMES.len()], value);
        }
    }
    if let Plan::Partial(range) = plan(&headers, Some("\"x\""), None, size) {
        assert!(range.start < range.end && range.end <= size);
    }
});
