//! Stops when asked to: the first signal lets everything finish, the second ends at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status when a second signal cut the drain short, as shells give it for SIGINT.
const INTERRUPTED: i32 = 130;

/// Cancels the token on SIGTERM or SIGINT.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let cancel = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = cancel.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        next().await;
        tracing::info!("stopping: finishing what is under way");
        token.cancel();
        next().await;
        tracing::warn!("stopping at once");
        #[expect(clippy::disallowed_methods, reason = "the operator has asked twice")]
        std::process::exit(INTERRUPTED);
    });
    Ok(cancel)
}
