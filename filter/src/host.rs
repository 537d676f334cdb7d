//! Everything the filter asks of the proxy, behind a trait that tests can fake.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(target_arch = "wasm32")]
pub(crate) mod wasm;

/// A metric of the proxy; `None` where the proxy has no such metric, and then counting is skipped.
pub type MetricId = Option<u32>;

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Info,
    /// Something is not as it should be; requests go on.
    Warn,
    /// The filter cannot work as told.
    Error,
}

/// Kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Is set.
    Gauge,
}

/// The proxy. Calls that fail are harmless: readers get nothing and writers are told so where it matters.
pub trait Host: Clone {
    /// Nanoseconds since the Unix epoch; 0 if the clock cannot be read, which makes every table void.
    fn now_ns(&self) -> u64;
    /// Writes one log line.
    fn log(&self, level: Level, text: &str);
    /// Asks for a tick every `ms` milliseconds.
    fn set_tick_ms(&self, ms: u32);
    /// The first `size` bytes of the filter's configuration.
    fn configuration(&self, size: usize) -> Vec<u8>;

    /// All headers of the current request in the proxy's encoding, for [`pairs`]; only until the request has gone on.
    fn request_headers(&self) -> Vec<u8>;
    /// The current request's path as the client sent it, where [`Host::request_headers`] have it otherwise; empty if it cannot be had.
    fn raw_path(&self) -> Vec<u8>;
    /// Answers the current request, before or in place of the origin.
    fn respond(&self, status: u16, headers: &[(&str, &[u8])], body: &[u8]);
    /// `:status` of the current response.
    fn response_status(&self) -> Option<u16>;
    /// A header of the current response; the first of that name.
    fn response_header(&self, name: &str) -> Option<Vec<u8>>;
    /// Sets a header of the current response, in place of all of that name.
    fn set_response_header(&self, name: &str, value: &[u8]);

    /// Sends `POST path` to a cluster; the token that its answer will carry, or `None` if it could not be sent.
    fn post(&self, cluster: &str, path: &str, body: &[u8], timeout_ms: u32) -> Option<u32>;
    /// `:status` of the answer that has just come in.
    fn answer_status(&self) -> Option<u16>;
    /// The first `size` bytes of the body of the answer that has just come in.
    fn answer_body(&self, size: usize) -> Vec<u8>;

    /// A value that the VMs of this proxy share, and its cas number.
    fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)>;
    /// Sets a shared value if its cas number is still this one (0: it did not exist); whether that was so.
    fn set_shared(&self, key: &str, value: &[u8], cas: u32) -> bool;

    /// Defines a metric, or finds the one that another VM defined.
    fn define(&self, kind: MetricKind, name: &str) -> MetricId;
    /// Adds to a counter.
    fn add(&self, metric: MetricId, n: u32);
    /// Sets a gauge.
    fn set(&self, metric: MetricId, value: u64);
}

/// Milliseconds since the Unix epoch.
pub fn now_ms<H: Host>(host: &H) -> u64 {
    host.now_ns() / 1_000_000
}

/// The names and values in a header map as proxies encode it; ends early where the encoding is broken.
///
/// Little endian: number of headers (4 bytes), then for each the lengths of name and value (4 + 4), then each name and value with a
/// zero byte behind it.
pub fn pairs(map: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let (count, rest) = map.split_first_chunk::<4>().map_or((0, map), |(n, rest)| (length(n), rest));
    let (lengths, mut text) = rest.split_at_checked(count.saturating_mul(8)).unwrap_or_default();
    lengths.chunks_exact(8).map_while(move |pair| {
        let (name, value) = pair.split_first_chunk::<4>()?;
        let name = take(&mut text, length(name))?;
        let value = take(&mut text, length(value.first_chunk()?))?;
        Some((name, value))
    })
}

fn length(bytes: &[u8; 4]) -> usize {
    usize::try_from(u32::from_le_bytes(*bytes)).unwrap_or(usize::MAX)
}

fn take<'a>(text: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = text.split_at_checked(length)?;
    *text = rest.get(1..)?;
    Some(taken)
}

/// The encoding that [`pairs`] reads.
#[cfg(any(test, target_arch = "wasm32"))]
pub(crate) fn encode_pairs<'a>(headers: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone) -> Vec<u8> {
    let text = headers.clone().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
    let mut map = Vec::with_capacity(4 + 8 * headers.len() + text);
    map.extend_from_slice(&(headers.len() as u32).to_le_bytes());
    for (name, value) in headers.clone() {
        map.extend_from_slice(&(name.len() as u32).to_le_bytes());
        map.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in headers {
        map.extend_from_slice(name);
        map.push(0);
        map.extend_from_slice(value);
        map.push(0);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn header_maps_survive_their_encoding(headers in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
            let headers: Vec<(&[u8], &[u8])> = headers.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            let map = encode_pairs(headers.iter().copied());
            prop_assert_eq!(pairs(&map).collect::<Vec<_>>(), headers);
        }

        #[test]
        fn hostile_header_maps_end_early(map: Vec<u8>, count in 0..4u32) {
            let _ = pairs(&map).count();
            let hostile = [&count.to_le_bytes()[..], &map].concat();
            prop_assert!(pairs(&hostile).count() <= 4);
        }
    }
}
