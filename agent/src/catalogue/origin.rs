//! The embedded origin: serves the content directory, so that a site can be nothing but a proxy, an agent and files.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, LOCATION,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use p2pcdn_core::object::content_type_of_extension;
use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::files::FileStamp;
use super::watch::Watcher;
use crate::conditional::{Plan, plan};
use crate::http_server::{Body, empty, text};

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 * 1024;

/// Answers one request of the site's visitors.
pub async fn answer(watcher: Arc<Watcher>, request: Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let Some(path) = decode(request.uri().path()) else { return text(StatusCode::BAD_REQUEST, "malformed path\n") };
    let path = if path.ends_with('/') { format!("{path}index.html") } else { path };
    let opened = {
        let (directory, path) = (watcher.directory.clone(), path.clone());
        tokio::task::spawn_blocking(move || directory.open_file(&path)).await
    };
    match opened {
        Ok(Ok((file, stamp))) => {
            serve(&watcher.catalogue, &request, &path, file, stamp).await.unwrap_or_else(|error| failed(&path, &error))
        }
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::IsADirectory => to_directory(request.uri().path()),
            io::ErrorKind::PermissionDenied => text(StatusCode::FORBIDDEN, "forbidden\n"),
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::InvalidFilename => text(StatusCode::NOT_FOUND, "not found\n"),
            // Links that lead in a circle.
            _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => text(StatusCode::NOT_FOUND, "not found\n"),
            _ => failed(&path, &error),
        },
        Err(error) => failed(&path, &io::Error::other(error)),
    }
}

async fn serve(
    catalogue: &super::Catalogue,
    request: &Request<Incoming>,
    path: &str,
    file: std::fs::File,
    stamp: FileStamp,
) -> io::Result<Response<Body>> {
    let modified = file.metadata()?.modified()?;
    let known = catalogue.find(path).filter(|object| object.stamp == Some(stamp));
    let etag = known.as_ref().map(|object| object.record.etag.as_str());
    let size = stamp.size();
    let (status, range) = match plan(request.headers(), etag, Some(modified), size) {
        Plan::Full => (StatusCode::OK, 0..size),
        Plan::Partial(range) => (StatusCode::PARTIAL_CONTENT, range),
        Plan::NotModified => (StatusCode::NOT_MODIFIED, 0..0),
        Plan::PreconditionFailed => return Ok(empty(StatusCode::PRECONDITION_FAILED)),
        Plan::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0),
    };
    let has_body = status.is_success() && *request.method() == Method::GET;
    let mut response = if has_body { body_of(file, range.clone()).await? } else { empty(status) };
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, cache_control(catalogue.site().max_age));
    insert(headers, LAST_MODIFIED, &httpdate::fmt_http_date(modified.min(SystemTime::now())));
    etag.inspect(|etag| insert(headers, ETAG, etag));
    if status.is_success() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(path)));
        headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
    }
    match status {
        StatusCode::PARTIAL_CONTENT => {
            insert(headers, CONTENT_RANGE, &format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => insert(headers, CONTENT_RANGE, &format!("bytes */{size}")),
        _ => {}
    }
    Ok(response)
}

async fn body_of(file: std::fs::File, range: Range<u64>) -> io::Result<Response<Body>> {
    let mut file = tokio::fs::File::from_std(file);
    file.seek(io::SeekFrom::Start(range.start)).await?;
    let bytes = ReaderStream::with_capacity(file.take(range.end - range.start), READ_BYTES);
    Ok(Response::new(StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()))
}

fn content_type(path: &str) -> &'static str {
    let extension = Path::new(path).extension().and_then(|e| e.to_str()).unwrap_or_default();
    content_type_of_extension(extension)
        .or_else(|| mime_guess::from_ext(extension).first_raw())
        .unwrap_or("application/octet-stream")
}

fn cache_control(max_age: Duration) -> HeaderValue {
    let value = format!("public, max-age={}", max_age.as_secs());
    HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("no-cache"))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Relative references in an index page need the slash.
fn to_directory(raw: &str) -> Response<Body> {
    // A path with two leading slashes would name another host.
    let mut response = text(StatusCode::MOVED_PERMANENTLY, "");
    insert(response.headers_mut(), LOCATION, &format!("/{}/", raw.trim_matches('/')));
    response
}

fn failed(path: &str, error: &io::Error) -> Response<Body> {
    tracing::error!(%path, %error, "serving a file");
    text(StatusCode::INTERNAL_SERVER_ERROR, "the file could not be read\n")
}

/// Percent-decodes a path; `None` if it is not UTF-8 or has a NUL.
fn decode(raw: &str) -> Option<String> {
    let path = percent_encoding::percent_decode_str(raw).decode_utf8().ok()?;
    (path.starts_with('/') && !path.contains('\0')).then(|| path.into_owned())
}
