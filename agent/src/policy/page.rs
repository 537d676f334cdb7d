//! Gets a page of a site as somebody would who has never been there: no cookies, no credentials.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use url::{Position, Url};

use crate::identity::{Connector, EgressError};

/// A page with its headers.
#[derive(Debug)]
pub struct Page {
    /// Where it was found in the end.
    pub url: Url,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its HTML.
    pub html: Bytes,
}

/// Why nobody knows what a page says.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// Nothing came.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// It is not there, or not for strangers.
    #[error("answers {0} to a stranger")]
    Status(StatusCode),
    /// It leads to another site, or to no URL.
    #[error("leads to {0}")]
    Elsewhere(String),
    /// More redirects than are followed.
    #[error("leads on and on")]
    Redirects,
    /// It is no HTML.
    #[error("is of type {0}, not text/html")]
    NotHtml(String),
    /// It is compressed although nobody asked for that.
    #[error("comes compressed although that was not asked for")]
    Encoded,
}

/// Longest page in bytes.
pub const MAX_PAGE_BYTES: usize = 2 << 20;
/// Redirects that are followed for one page.
pub const MAX_REDIRECTS: usize = 5;
/// Time that each request has.
const TIMEOUT: Duration = Duration::from_secs(10);

impl PageError {
    /// Whether the site has said that this is no page for strangers, so that asking again soon is of no use.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Egress(_) => false,
            Self::Status(status) => status.is_client_error() && *status != StatusCode::TOO_MANY_REQUESTS,
            Self::Elsewhere(_) | Self::Redirects | Self::NotHtml(_) | Self::Encoded => true,
        }
    }

    /// Whether what visitors see there is kept from strangers: they are turned away, or led on.
    pub fn is_private(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status.as_u16(), 401 | 403 | 407),
            Self::Elsewhere(_) | Self::Redirects => true,
            Self::Egress(_) | Self::NotHtml(_) | Self::Encoded => false,
        }
    }
}

/// Gets `url` over HTTPS with these headers, following redirects within its site, or anywhere if `may_leave`.
pub async fn get(connector: &Connector, url: Url, headers: &HeaderMap, may_leave: bool) -> Result<Page, PageError> {
    let mut url = url;
    for _ in 0..=MAX_REDIRECTS {
        let target = &url[Position::BeforePath..Position::AfterQuery];
        let authority = &url[Position::BeforeHost..Position::AfterPort];
        let answer =
            connector.request_web(Method::GET, authority, target, headers.clone(), MAX_PAGE_BYTES, TIMEOUT).await?;
        if !answer.status.is_redirection() {
            return page(url, answer.status, answer.headers, answer.body);
        }
        let location = answer.headers.get(LOCATION).and_then(|location| location.to_str().ok()).unwrap_or_default();
        let next = url.join(location).map_err(|_| PageError::Elsewhere(location.to_owned()))?;
        if next.scheme() != "https" || !(may_leave || next.origin() == url.origin()) {
            return Err(PageError::Elsewhere(next.to_string()));
        }
        url = next;
    }
    Err(PageError::Redirects)
}

fn page(url: Url, status: StatusCode, headers: HeaderMap, html: Bytes) -> Result<Page, PageError> {
    // Servers put policies of their own on their error pages, which say nothing about the site's.
    if status != StatusCode::OK {
        return Err(PageError::Status(status));
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !["text/html", "application/xhtml+xml"].iter().any(|html| essence.eq_ignore_ascii_case(html)) {
        return Err(PageError::NotHtml(essence.to_owned()));
    }
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(PageError::Encoded);
    }
    Ok(Page { url, headers, html })
}
