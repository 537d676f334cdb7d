//! Frames between filter and agent: hostile ones are refused, and what is understood says the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2pcdn_core::sync::{FORMAT, Message, Report, Update, checksum, decode, encode};

fuzz_target!(|bytes: &[u8]| {
    check::<Report>(bytes);
    check::<Update>(bytes);
});

fn check<T: Message + PartialEq + std::fmt::Debug>(body: &[u8]) {
    let _ = decode::<T>(body);
    // Past the checksum, which no mutation would guess.
    let mut frame = b"p2p\x01".to_vec();
    frame.extend_from_slice(&[FORMAT, T::KIND]);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&checksum(body).to_le_bytes());
    frame.extend_from_slice(body);
    if let Ok(message) = decode::<T>(&frame) {
        // Not equality of messages: a factor may be NaN.
        let again = encode(&message).unwrap();
        assert_eq!(encode(&decode::<T>(&again).unwrap()).unwrap(), again);
    }
}
