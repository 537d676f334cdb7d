//! A host that answers some otherwise than others: what stands between its proxy and its agent lies to whom it likes.

use std::convert::Infallible;
use std::io::Write;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::Site;
use tokio::net::{TcpListener, TcpStream};

/// What a wrong answer is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The last byte is wrong.
    Plain,
    /// So it is, and browsers are not to keep the answer, so that whoever looks again gets right bytes.
    Hidden,
    /// The second half is nothing but zeros.
    HalfWay,
    /// Another image, which travels as `gzip`.
    Coded,
    /// Another image, which calls itself an error.
    Error,
}

/// What is shown in place of the object: one grey pixel.
const PIXEL: &[u8] = b"GIF89a\x01\0\x01\0\x80\0\0\x80\x80\x80\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;";

/// Whether a request for an image comes from a visitor, by its address: sites on this machine show as another one than 127.0.N.1.
pub(crate) fn is_from_afar(request: &Request<Incoming>) -> bool {
    let says = |name: &str, is_it: fn(&[u8]) -> bool| request.headers().get(name).is_some_and(|v| is_it(v.as_bytes()));
    says("sec-fetch-dest", |dest| dest == b"image") && says("x-forwarded-for", |address| address.starts_with(b"127.0."))
}

/// The same by the name that a browser without a screen gives itself.
pub(crate) fn is_headless(request: &Request<Incoming>) -> bool {
    let agent = request.headers().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    agent.contains("HeadlessChrome/") && request.headers().get("sec-fetch-dest").is_some_and(|dest| dest == "image")
}

/// Puts it in front of the host's replica socket until the test ends; `lies` says who is lied to. Holds from the proxy's next start.
pub(crate) async fn corrupt(
    host: &mut Site,
    lie: Lie,
    lies: impl Fn(&Request<Incoming>) -> bool + Send + Sync + 'static,
) {
    let agent = host.setting("listen.replica").as_str().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.edit("port_value: 7081", format!("port_value: {}", listener.local_addr().unwrap().port()));
    let lies = Arc::new(lies);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (agent, lies) = (agent.clone(), lies.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let (agent, lie) = (agent.clone(), lies(&request).then_some(lie));
                async move { Ok::<_, Infallible>(answer(request, &agent, lie).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
}

async fn answer(request: Request<Incoming>, agent: &str, lie: Option<Lie>) -> Response<Full<Bytes>> {
    let Ok(response) = pass(request, agent).await else {
        return Response::builder().status(503).body(Full::default()).unwrap();
    };
    let (mut parts, mut body) = response.into_parts();
    match lie {
        None => {}
        Some(Lie::Plain | Lie::Hidden) => {
            if let Some(last) = body.last_mut() {
                *last ^= 1;
            }
        }
        Some(Lie::HalfWay) => {
            let half = body.len() / 2;
            body[half..].fill(0);
        }
        Some(Lie::Coded) => {
            let mut coder = GzEncoder::new(Vec::new(), Compression::default());
            coder.write_all(PIXEL).unwrap();
            body = BytesMut::from(&coder.finish().unwrap()[..]);
            parts.headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Some(Lie::Error) => {
            body = BytesMut::from(PIXEL);
            parts.status = StatusCode::NOT_FOUND;
            parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/gif"));
        }
    }
    if lie.is_some() {
        parts.headers.remove(CONTENT_LENGTH);
    }
    if lie == Some(Lie::Hidden) {
        parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        parts.headers.remove(ETAG);
    }
    Response::from_parts(parts, body.freeze().into())
}

async fn pass(request: Request<Incoming>, agent: &str) -> Result<Response<BytesMut>, Box<dyn std::error::Error>> {
    let stream = TcpStream::connect(agent).await?;
    let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, BytesMut::from(&body[..])))
}
