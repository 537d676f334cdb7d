//! Where nginx with ngx_wasm_module differs from Envoy.

use super::LocalResponse;
use crate::host::{encode_pairs, pairs};

/// Bytes of the zone for shared data, as nginx-config/wasmx.conf has it.
const ZONE_BYTES: usize = 256 << 10;
/// Keys that make up a zone which is not one for each object.
const MAX_KEYS: usize = 4;
/// Beyond this, taking in a callout's body stalls the worker.
const MAX_BODY_BYTES: usize = 1 << 20;

/// The headers as a filter is shown them: the path decoded and normalised, the authority that of the server block, and beside it what
/// the client sent as Host.
pub(super) fn request_headers(map: &[u8]) -> Vec<u8> {
    let mut shown: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (name, value) in pairs(map) {
        match name {
            b":path" => shown.push((name.to_vec(), normalised(value))),
            b":authority" => {
                shown.push((name.to_vec(), b"server.name:443".to_vec()));
                shown.push((b"Host".to_vec(), value.to_vec()));
            }
            _ => shown.push((name.to_vec(), value.to_vec())),
        }
    }
    encode_pairs(shown.iter().map(|(name, value)| (&name[..], &value[..])))
}

/// `/a%2Fb//c/../d?e` becomes `/a/b/d?e`.
fn normalised(target: &[u8]) -> Vec<u8> {
    let end = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let decoded = decoded(path);
    for segment in decoded.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(segment.to_vec()),
        }
    }
    let end: &[u8] = if decoded.ends_with(b"/") && !segments.is_empty() { b"/" } else { b"" };
    [b"/", &segments.join(&b'/')[..], end, query].concat()
}

fn decoded(path: &[u8]) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < path.len() {
        match (path[at], hex(path.get(at + 1)), hex(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// Of repeated headers the last one wins, and the body ends with a newline.
pub(super) fn local_response(answer: LocalResponse) -> LocalResponse {
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, value) in answer.headers {
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => headers.push((name, value)),
        }
    }
    LocalResponse { headers, body: [&answer.body[..], b"\n"].concat(), ..answer }
}

/// What a callout can be sent to: an address, a name with a port, or a Unix socket, but no cluster.
pub(super) fn is_address(target: &str) -> bool {
    target.starts_with("unix:/") || target.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

pub(super) fn check_callout(path: &str, body: &[u8], is_configuring: bool) {
    assert!(!is_configuring, "a callout from on_configure kills the worker");
    assert!(path.starts_with('/'), "a callout without a path kills the worker");
    assert!(body.len() <= MAX_BODY_BYTES, "a callout of {} bytes stalls the worker", body.len());
}

pub(super) fn check_zone(values: impl ExactSizeIterator<Item = usize>) {
    assert!(values.len() <= MAX_KEYS, "keys are compared by their checksum: {} of them may collide", values.len());
    let bytes: usize = values.sum();
    assert!(bytes <= ZONE_BYTES, "a full zone kills the worker: {bytes} bytes");
}

/// The beginning is another value's already.
pub(super) fn tear(value: &mut [u8]) {
    let half = value.len() / 2;
    value[half..].iter_mut().for_each(|byte| *byte ^= 0x55);
}

/// CRC-32 of IEEE 802.3.
pub(super) fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_keys_are_read_as_nginx_reads_them() {
        for (raw, shown) in [("/a%2Fb//c/../d", "/a/b/d"), ("/", "/"), ("/x/?y=%2F", "/x/?y=%2F"), ("/%2e%2e/x", "/x")]
        {
            assert_eq!(String::from_utf8_lossy(&normalised(raw.as_bytes())), shown, "{raw}");
        }
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
