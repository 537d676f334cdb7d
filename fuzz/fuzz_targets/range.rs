//! Range and condition headers: whatever is asked for, what is served lies within the object; and what the filter sends to a host begins where
//! the object does.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use p2pcdn_agent::conditional::{Plan, plan};
use p2pcdn_core::eligibility::{Rules, judge};
use p2pcdn_core::request_head::RequestHead;

const NAMES: [&str; 6] = ["range", "if-range", "if-none-match", "if-match", "if-modified-since", "if-unmodified-since"];

fuzz_target!(|input: (u64, Vec<(u8, Vec<u8>)>)| {
    let (size, lines) = input;
    let mut headers = HeaderMap::new();
    let ranges: Vec<Vec<u8>> = lines.iter().filter(|(name, _)| *name == 0).map(|(_, value)| value.clone()).collect();
    for (name, value) in lines.into_iter().take(8) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(NAMES[usize::from(name) % NAMES.len()], value);
        }
    }
    if let Plan::Partial(range) = plan(&headers, Some("\"x\""), None, size) {
        assert!(range.start < range.end && range.end <= size);
    }
    sent_to_host(size, &ranges);
});

fn sent_to_host(size: u64, ranges: &[Vec<u8>]) {
    let mut head = RequestHead::default();
    (head.method, head.path) = (b"GET", b"/x");
    ranges.iter().for_each(|range| head.observe(b"range", range));
    let any = Rules { any_range: true, ..Rules::default() };
    let _ = judge(&head, &any, false);
    if judge(&head, &Rules::default(), false).is_err() {
        return;
    }
    let values = ranges.iter().map(|range| HeaderValue::from_bytes(range).unwrap());
    let headers: HeaderMap = values.map(|value| (http::header::RANGE, value)).collect();
    match plan(&headers, Some("\"x\""), None, size) {
        Plan::Full => {}
        Plan::Partial(range) => assert_eq!(range.start, 0),
        Plan::Unsatisfiable => assert_eq!(size, 0),
        plan => panic!("{plan:?}"),
    }
}
