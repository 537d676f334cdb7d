//! Changes of the replica table as the agent sends them: no sequence of them breaks the table or writes a header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2pcdn_core::object::is_authority;
use p2pcdn_core::replica_table::ReplicaTable;
use p2pcdn_core::sync::{FORMAT, Message, Op, Update, checksum, decode};

fuzz_target!(|bodies: Vec<Vec<u8>>| {
    let mut table = ReplicaTable::new(64);
    for body in bodies {
        let mut frame = b"p2p\x01".to_vec();
        frame.extend_from_slice(&[FORMAT, Update::KIND]);
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&checksum(&body).to_le_bytes());
        frame.extend_from_slice(&body);
        let Ok(update) = decode::<Update>(&frame) else { continue };
        let keys: Vec<u64> = update
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Object(row) => Some(row.key),
                Op::Remove { key } => Some(*key),
                Op::Holder(_) | Op::Set { .. } => None,
            })
            .collect();
        let _ = table.apply(update.ops);
        assert!(table.len() <= 64);
        for found in keys.into_iter().filter_map(|key| table.find(key)) {
            for holder in found.holders.iter().filter_map(|id| table.holder(*id)) {
                assert!(is_authority(&holder.authority));
            }
        }
    }
});
