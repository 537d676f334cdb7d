//! Content-Security-Policy of pages, in headers and markup: adding a policy never lets more through.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use p2pcdn_agent::policy::{Policies, blocked, strictest};
use p2pcdn_core::destination::Destination;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (header, html) = input;
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(&header) {
        headers.append("content-security-policy", value);
    }
    let by_header = Policies::of_page(&headers, b"");
    let both = strictest([&by_header, &Policies::of_page(&HeaderMap::new(), &html)]);
    let (few, more) = (blocked(&by_header, "a.test", "replica.b.test"), blocked(&both, "a.test", "replica.b.test"));
    for destination in Destination::ALL {
        assert!(more.contains(destination) || !few.contains(destination), "{destination:?}");
    }
});
