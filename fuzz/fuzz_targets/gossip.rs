//! Gossip messages and the records in them: hostile ones are refused, and what is understood is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2pcdn_agent::gossip::messages::Message;
use p2pcdn_agent::gossip::{Bounds, Check, Claim, Record, Table};

const NOW_S: u64 = 1_800_000_000;

fuzz_target!(|bytes: &[u8]| {
    let mut table = Table::new(Bounds::default(), 0);
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
        let mut check = |_: &Claim<'_>| Check::Good;
        match message {
            Message::Opening(opening) => drop(table.answer(&opening)),
            Message::Reply(reply) => drop(table.close(1, &reply, NOW_S, &mut check)),
            Message::Closing(closing) => drop(table.finish(&closing, NOW_S, &mut check)),
            Message::Last(last) => drop(table.take(&last.records, NOW_S, &mut check)),
        }
    }
    if let Ok(record) = Record::read(bytes.into(), NOW_S) {
        // Whoever was admitted is heard.
        let _ = table.admit(&record, None, false);
        table.insert(&record, &mut |_| Check::Good);
    }
    assert!(table.len() <= 1);
});
