//! The time that was last believed, kept on disk, so that a clock which is wrong from the start does not have everything expire.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redb::TableDefinition;
use tokio_util::sync::CancellationToken;

use crate::clock::{doubt_from_the_start, expiry_now_s};
use crate::state_db::StateDb;

/// Seconds since the Unix epoch.
const TIMES: TableDefinition<&str, u64> = TableDefinition::new("times");
const BELIEVED: &str = "believed";
/// How often it is written down.
const PERIOD: Duration = Duration::from_secs(600);

/// Has the clock doubted if it is far from the time that was last believed; blocks.
pub fn recall(db: &StateDb) -> Result<(), redb::Error> {
    let times: BTreeMap<String, u64> = db.rows(TIMES, |time| time)?;
    if let Some(believed_s) = times.get(BELIEVED)
        && doubt_from_the_start(*believed_s)
    {
        tracing::warn!(
            "the clock is more than a day away from when this agent last ran: for an hour, nothing expires by it (if it is wrong, set it)"
        );
    }
    Ok(())
}

/// Writes down the time that is believed until cancelled.
pub async fn keep(db: Arc<StateDb>, cancel: CancellationToken) {
    let mut period = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = period.tick() => {}
        }
        let db = db.clone();
        let write = move || db.change(TIMES, |table| table.insert(BELIEVED, expiry_now_s()).map(drop));
        let written = tokio::task::spawn_blocking(write).await;
        if let Ok(Err(error)) = written {
            tracing::debug!(%error, "the time could not be written down");
        }
    }
}
