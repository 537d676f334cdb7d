//! The Metalink document (RFC 5854) from which a download tool takes one object from several holders at once.

use crate::object::Sha256;

/// Its media type.
pub const CONTENT_TYPE: &[u8] = b"application/metalink4+xml";

/// Writes the document into `out`, which is cleared first. `target` is canonical and names the file; `urls` are locations as
/// [`crate::redirect::write_location`] writes them, most wanted first.
pub fn write<'a>(
    out: &mut Vec<u8>,
    target: &str,
    size: u64,
    sha256: &Sha256,
    urls: impl IntoIterator<Item = &'a [u8]>,
) {
    out.clear();
    let path = target.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').find(|segment| !segment.is_empty()).unwrap_or("object");
    out.extend_from_slice(
        b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<metalink xmlns=\"urn:ietf:params:xml:ns:metalink\">\n",
    );
    out.extend_from_slice(b"<file name=\"");
    escape(out, name.as_bytes());
    out.extend_from_slice(b"\">\n<size>");
    out.extend_from_slice(size.to_string().as_bytes());
    out.extend_from_slice(b"</size>\n<hash type=\"sha-256\">");
    out.extend_from_slice(&sha256.hex());
    out.extend_from_slice(b"</hash>\n");
    for url in urls {
        out.extend_from_slice(b"<url>");
        escape(out, url);
        out.extend_from_slice(b"</url>\n");
    }
    out.extend_from_slice(b"</file>\n</metalink>\n");
}

/// The characters that XML reads otherwise; canonical targets have no others that matter.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for byte in text {
        match byte {
            b'&' => out.extend_from_slice(b"&amp;"),
            b'<' => out.extend_from_slice(b"&lt;"),
            b'>' => out.extend_from_slice(b"&gt;"),
            b'"' => out.extend_from_slice(b"&quot;"),
            _ => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_names_file_digest_and_places() {
        let mut out = b"old".to_vec();
        write(&mut out, "/a/b&c.iso?v=1", 7, &Sha256([0xab; 32]), [&b"https://b.test/x&y"[..], b"https://c.test/x"]);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("<?xml version=\"1.0\""));
        let want = format!(
            "<file name=\"b&amp;c.iso\">\n<size>7</size>\n<hash type=\"sha-256\">{}</hash>\n\
             <url>https://b.test/x&amp;y</url>\n<url>https://c.test/x</url>\n</file>",
            "ab".repeat(32)
        );
        assert!(text.contains(&want), "{text}");
    }
}
