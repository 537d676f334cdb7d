//! The visitor's request, as the proxy tells of it beside the visitor's own headers.

use http::HeaderMap;
use p2pcdn_core::request_head::RequestHead;

/// `$request_uri`: the target as the visitor wrote it.
pub(super) const URI: &str = "x-original-uri";
/// `$request_method`.
pub(super) const METHOD: &str = "x-original-method";
/// `$http_host`.
pub(super) const HOST: &str = "x-original-host";
/// `$http_content_length$http_transfer_encoding`: whether a body follows.
pub(super) const BODY: &str = "x-original-body";
/// `$http_upgrade`.
pub(super) const UPGRADE: &str = "x-original-upgrade";
/// `$http_expect`.
pub(super) const EXPECT: &str = "x-original-expect";

/// The head of that request; `None` if the proxy does not tell what was asked for, or more than once.
pub(super) fn head(headers: &HeaderMap) -> Option<RequestHead<'_>> {
    let mut head = RequestHead::default();
    (head.method, head.authority, head.path) = (only(headers, METHOD)?, only(headers, HOST)?, only(headers, URI)?);
    for (name, value) in headers {
        let value = value.as_bytes();
        match name.as_str() {
            URI | METHOD | HOST | "host" | "connection" => {}
            BODY if value == b"0" => {}
            // Neither is passed on by proxies under its own name.
            BODY | "content-length" | "transfer-encoding" => head.note_body(),
            UPGRADE => head.observe(b"upgrade", value),
            EXPECT => head.observe(b"expect", value),
            name => head.observe(name.as_bytes(), value),
        }
    }
    Some(head)
}

fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.as_bytes();
    values.next().is_none().then_some(value)
}
