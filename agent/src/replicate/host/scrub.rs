//! Looking at every replica now and then, in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::withdraw::Withdrawer;
use crate::store::{ReadError, Replica, ReplicaStore};

/// Bytes per second that the background scrub reads on average; it pauses after each replica for so long as that takes.
const BYTES_PER_S: u64 = 16 << 20;
/// And for so long at least, since many small files are work, too.
const PAUSE: Duration = Duration::from_millis(20);
/// Pause between two passes of the scrub.
const PERIOD: Duration = Duration::from_secs(3600);
/// However it is scaled: a lab is not to do nothing but scrub.
const LEAST_PERIOD: Duration = Duration::from_secs(1);

/// Looks at every replica now and then, and gives up what is damaged or has expired; `time_scale` is a factor on its pauses.
pub async fn scrub(
    store: Arc<ReplicaStore>,
    withdrawer: Arc<Withdrawer>,
    doomed: mpsc::Sender<Arc<Replica>>,
    time_scale: f64,
    cancel: CancellationToken,
) {
    loop {
        for replica in store.list() {
            let pause = PAUSE + Duration::from_secs_f64(replica.record.size as f64 / BYTES_PER_S as f64);
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause.mul_f64(time_scale)) => {}
            }
            let is_lost = tokio::select! {
                () = cancel.cancelled() => return,
                is_lost = is_lost(&store, &withdrawer, &replica) => is_lost,
            };
            if is_lost {
                // Full means that many are going already.
                let _ = doomed.try_send(replica);
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD.mul_f64(time_scale).max(LEAST_PERIOD)) => {}
        }
    }
}

async fn is_lost(store: &ReplicaStore, withdrawer: &Withdrawer, replica: &Replica) -> bool {
    match store.inspect(&replica.record).await {
        _ if withdrawer.is_unwanted(replica) => true,
        Ok(()) => false,
        Err(ReadError::Store(error)) => {
            tracing::error!(%error, "scrubbing");
            false
        }
        Err(ReadError::Missing | ReadError::Corrupt) => true,
    }
}
