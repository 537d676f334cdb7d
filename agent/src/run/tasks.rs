//! What runs side by side.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The agent's parts. If one of them ends, all do: half an agent would let redirects go on by what it no longer checks.
pub(super) struct Tasks {
    pub(super) tracker: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl Tasks {
    pub(super) fn spawn(&self, part: impl Future<Output = ()> + Send + 'static) {
        let guard = self.cancel.clone().drop_guard();
        self.tracker.spawn(async move {
            let _guard = guard;
            part.await;
        });
    }
}

/// Each visitor of the embedded origin takes a connection and a file; the usual soft limit of 1024 is soon reached.
pub(super) fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
