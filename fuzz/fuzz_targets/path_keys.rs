//! Request targets, replica paths and return URLs: what is accepted can stand in a header and is read the same way again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2pcdn_core::lookup::{HashKey, RETURN_PREFIX, ReplicaPath, canonical_target, returned_path};
use p2pcdn_core::object::Sha256;
use p2pcdn_core::redirect::write_location;

fuzz_target!(|bytes: &[u8]| {
    let (authority, target) = bytes.split_at(bytes.len().min(12));
    HashKey([1, 2]).of(authority, target);
    if let Ok(text) = canonical_target(target) {
        assert!(text.bytes().all(|b| (0x21..=0x7e).contains(&b)));
        let back = [RETURN_PREFIX.as_bytes(), &target[1..]].concat();
        assert_eq!(returned_path(&back), Some(target));
        let mut location = Vec::new();
        if write_location(&mut location, "b.test", b"a.test", &Sha256([7; 32]), text) {
            let url = String::from_utf8(location).unwrap();
            let parsed = ReplicaPath::parse(url.strip_prefix("https://b.test").unwrap()).unwrap();
            assert_eq!(parsed.path, text);
        }
    }
    let mut location = Vec::new();
    write_location(&mut location, "b.test", authority, &Sha256([7; 32]), "/x");
    assert!(location.iter().all(|b| (0x21..=0x7e).contains(b)));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = ReplicaPath::parse(text);
    }
});
