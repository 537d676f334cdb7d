//! Taking in what one source sends: never more than was asked for, and never for longer than it is worth.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;
use p2pcdn_core::object::{ObjectRecord, Sha256};
use sha2::Digest;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{Pull, Puller};
use crate::identity::{Peer, PeerClientError};
use crate::replicate::batch::{BATCHES_PATH, BatchError, BatchRequest, Decoder, Item};
use crate::replicate::messages::OBJECTS_PATH;
use crate::replicate::progress::Progress;
use crate::store::{Incoming, IncomingError};
use crate::telemetry::PeerLabel;

/// How long a source is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of an answer, connecting included.
    pub(super) head: Duration,
    /// For the next bytes.
    pub(super) silence: Duration,
    /// A source is judged by so much waiting for it.
    pub(super) window: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { head: s(8), silence: s(5), window: s(10) }
    }
}

/// A source that sends less than this over the window, in bytes per second, is given up.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;

/// Why a pull came to nothing, or a source was left.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error(transparent)]
    Peer(#[from] PeerClientError),
    #[error("the body broke off: {0}")]
    Body(#[from] hyper::Error),
    #[error("the body ended early")]
    CutOff,
    #[error("the source sends nothing, or too slowly")]
    Stalled,
    #[error("the answer is not the range that was asked for")]
    Range,
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("wrong bytes for {0}")]
    WrongBytes(String),
    #[error("the source does not have it")]
    Missing,
    #[error(transparent)]
    Incoming(#[from] IncomingError),
    #[error("signing the acknowledgement: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not wanted any more")]
    Cancelled,
}

/// What an error says about its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// It may do better the next time.
    Nobody,
    /// It is not asked for this object again.
    Source,
    /// No source would help.
    Here,
}

impl PullError {
    pub(super) fn blame(&self) -> Blame {
        match self {
            // Too much is under way there.
            Self::Peer(PeerClientError::Refused { status, .. }) if status.is_server_error() => Blame::Nobody,
            Self::Peer(PeerClientError::Refused { .. })
            | Self::Incoming(IncomingError::WrongBytes { .. } | IncomingError::TooLong)
            | Self::Stalled
            | Self::Range
            | Self::Batch(_)
            | Self::WrongBytes(_)
            | Self::Missing => Blame::Source,
            Self::Peer(_) | Self::Body(_) | Self::CutOff => Blame::Nobody,
            Self::Incoming(_) | Self::Json(_) | Self::Cancelled => Blame::Here,
        }
    }
}

/// The body of an answer, as far as it is worth waiting for.
struct Download<'a> {
    puller: &'a Puller,
    origin: &'a String,
    body: Body,
    progress: Progress,
    pulled: prometheus_client::metrics::counter::Counter,
    cancel: &'a CancellationToken,
}

impl<'a> Download<'a> {
    fn new(
        puller: &'a Puller,
        source: &Peer,
        origin: &'a String,
        response: Response<Body>,
        cancel: &'a CancellationToken,
    ) -> Self {
        let pulled = puller.metrics.pulled_bytes.get_or_create(&PeerLabel::of(&source.record.domain)).clone();
        let progress = Progress::new(puller.patience.window, SLOWEST_BYTES_PER_S);
        Self { puller, origin, body: response.into_body(), progress, pulled, cancel }
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, PullError> {
        let begun = Instant::now();
        let frame = self.cancel.run_until_cancelled(timeout(self.puller.patience.silence, self.body.frame())).await;
        let Some(frame) = frame.ok_or(PullError::Cancelled)?.map_err(|_| PullError::Stalled)? else { return Ok(None) };
        let bytes = frame?.into_data().unwrap_or_default();
        if !self.progress.goes_on(bytes.len() as u64, begun.elapsed()) {
            return Err(PullError::Stalled);
        }
        self.pulled.inc_by(bytes.len() as u64);
        let pace = self.puller.bandwidth.take(self.origin, bytes.len());
        self.cancel.run_until_cancelled(pace).await.ok_or(PullError::Cancelled)?;
        Ok(Some(bytes))
    }
}

impl Puller {
    /// Takes in from `source` whatever is still missing of an object. After an error everything up to the last whole chunk is kept.
    pub(super) async fn receive(
        &self,
        source: &Peer,
        record: &ObjectRecord,
        incoming: &mut Incoming,
        cancel: &CancellationToken,
    ) -> Result<(), PullError> {
        let (path, from) = (format!("{OBJECTS_PATH}{}", record.sha256), incoming.rewind());
        let mut headers = HeaderMap::new();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
            && from > 0
        {
            headers.insert(RANGE, range);
        }
        let asking = timeout(self.patience.head, self.client.get(&source.record, &path, headers));
        let answer = cancel.run_until_cancelled(asking).await.ok_or(PullError::Cancelled)?;
        let response = answer.map_err(|_| PullError::Stalled)??;
        let mut skip = beginning(&response, from, record.size)?;
        let mut download = Download::new(self, source, &record.origin, response, cancel);
        while incoming.received() < record.size {
            let mut bytes = download.next().await?.ok_or(PullError::CutOff)?;
            let skipped = bytes.split_to(bytes.len().min(usize::try_from(skip).unwrap_or(usize::MAX)));
            skip -= skipped.len() as u64;
            incoming.push(bytes).await?;
        }
        Ok(())
    }

    /// Takes in small objects from `source`; what it has given moves from `left` to `got`. After an error the rest is still to be had.
    pub(super) async fn receive_batch(
        &self,
        source: &Peer,
        left: &mut Vec<Pull>,
        got: &mut Vec<(Pull, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), PullError> {
        let Some(origin) = left.first().map(|pull| pull.record.origin.clone()) else { return Ok(()) };
        let wanted = BatchRequest { digests: left.iter().map(|pull| pull.record.sha256).collect() };
        let mut decoder = Decoder::new(left.iter().map(|pull| pull.record.size));
        let asking = timeout(self.patience.head, self.client.post(&source.record, BATCHES_PATH, &wanted));
        let answer = cancel.run_until_cancelled(asking).await.ok_or(PullError::Cancelled)?;
        let mut download = Download::new(self, source, &origin, answer.map_err(|_| PullError::Stalled)??, cancel);
        let mut asked = std::mem::take(left).into_iter();
        let result = async {
            while !decoder.is_complete() {
                let Some(mut bytes) = download.next().await? else { return Ok(decoder.end()?) };
                while let Some(item) = decoder.next(&mut bytes)? {
                    let Some(pull) = asked.next() else { return Ok(()) };
                    match item {
                        Item::Bytes(bytes) if digest(&bytes) == pull.record.sha256 => got.push((pull, bytes)),
                        Item::Bytes(_) => {
                            let path = pull.record.path.clone();
                            left.push(pull);
                            return Err(PullError::WrongBytes(path));
                        }
                        Item::Missing => left.push(pull),
                    }
                }
            }
            Ok(())
        }
        .await;
        left.extend(asked);
        result
    }
}

fn digest(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// Bytes to skip at the beginning of an answer to a request for everything after `from`.
fn beginning<B>(response: &Response<B>, from: u64, size: u64) -> Result<u64, PullError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        // Ranges are optional (RFC 9110, section 14.2).
        return Ok(from);
    }
    let expected = format!("bytes {from}-{}/{size}", size - 1);
    let range = response.headers().get(CONTENT_RANGE).map(HeaderValue::as_bytes);
    if range == Some(expected.as_bytes()) { Ok(0) } else { Err(PullError::Range) }
}
