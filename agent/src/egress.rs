//! What the proxy sends, read from its own counters on its admin interface.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use crate::http_server::read_body;
use crate::load::LoadMeter;
use crate::settings::ProxyStats;
use crate::telemetry::Metrics;

/// The counters are read this often, and an answer has as long.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest answer in bytes: one counter by its full name.
const MAX_BYTES: usize = 64 * 1024;

/// Why the counters could not be read.
#[derive(Debug, thiserror::Error)]
enum StatsError {
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the counter {0} is not in the answer: check proxy.stat_prefix")]
    Missing(String),
    #[error("no answer within a second")]
    Timeout,
}

/// Bytes sent so far.
#[derive(Clone, Copy)]
struct Sent {
    total: u64,
    for_peers: u64,
    at: Instant,
}

/// Feeds the load meter until cancelled.
///
/// Replicas that are served for peers pass through the same proxy, but are not this site's own load.
pub async fn run(proxy: ProxyStats, load: Arc<Mutex<LoadMeter>>, metrics: Arc<Metrics>, cancel: CancellationToken) {
    let mut last: Option<Sent> = None;
    let mut failing = false;
    let mut tick = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = tick.tick() => {}
        }
        let read = tokio::time::timeout(PERIOD, sent_bytes(proxy.admin, &proxy.stat_prefix)).await;
        let mut load = load.lock().unwrap_or_else(PoisonError::into_inner);
        match read.unwrap_or(Err(StatsError::Timeout)) {
            Ok(total) => {
                let now = Sent { total, for_peers: metrics.served_bytes.get(), at: Instant::now() };
                // A proxy that was restarted counts from zero.
                if let Some(before) = last.filter(|before| before.total <= total) {
                    let own = (total - before.total).saturating_sub(now.for_peers - before.for_peers);
                    load.observe_sent(own, now.at.duration_since(before.at).as_secs_f64());
                }
                last = Some(now);
                failing = false;
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(admin = %proxy.admin, %error, "the proxy's counters cannot be read");
                }
                failing = true;
                last = None;
                load.forget_sent();
            }
        }
    }
}

async fn sent_bytes(admin: SocketAddr, stat_prefix: &str) -> Result<u64, StatsError> {
    let name = format!("http.{stat_prefix}.downstream_cx_tx_bytes_total");
    let stream = tokio::net::TcpStream::connect(admin).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let filter = name.replace('.', "\\.");
    let request = Request::get(format!("/stats?filter=^{filter}$")).header("host", admin.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    if response.status() != StatusCode::OK {
        return Err(StatsError::Status(response.status()));
    }
    let body = read_body(response.into_body(), MAX_BYTES).await.unwrap_or_default();
    value_of(&String::from_utf8_lossy(&body), &name).ok_or(StatsError::Missing(name))
}

fn value_of(stats: &str, name: &str) -> Option<u64> {
    stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_its_whole_name() {
        let stats = "http.site.downstream_cx_tx_bytes_total: 42\nhttp.site2.downstream_cx_tx_bytes_total: 7\n";
        assert_eq!(value_of(stats, "http.site.downstream_cx_tx_bytes_total"), Some(42));
        assert_eq!(value_of(stats, "http.other.downstream_cx_tx_bytes_total"), None);
        assert_eq!(value_of("<html>", "x"), None);
    }
}
