//! A host that serves pages otherwise than agents and tools: what stands between its proxy and its agent turns over a bit for browsers.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, ETAG};
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::Site;
use tokio::net::{TcpListener, TcpStream};

/// How it treats images of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// The last byte is wrong.
    Wrong,
    /// So it is, and browsers are not to keep the answer, so that whoever looks again gets right bytes.
    Hiding,
}

/// Puts it in front of the host's replica socket, until the test ends; holds from the proxy's next start.
pub(super) async fn corrupt(host: &mut Site, face: Face) {
    let agent = host.setting("listen.replica").as_str().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.edit("port_value: 7081", format!("port_value: {}", listener.local_addr().unwrap().port()));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let agent = agent.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let agent = agent.clone();
                async move { Ok::<_, Infallible>(answer(request, &agent, face).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
}

async fn answer(request: Request<Incoming>, agent: &str, face: Face) -> Response<Full<Bytes>> {
    let is_for_page = request.headers().get("sec-fetch-dest").is_some_and(|dest| dest == "image");
    let Ok(response) = pass(request, agent).await else {
        return Response::builder().status(503).body(Full::default()).unwrap();
    };
    let (mut parts, mut body) = response.into_parts();
    if is_for_page {
        if let Some(last) = body.last_mut() {
            *last ^= 1;
        }
        if face == Face::Hiding {
            parts.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            parts.headers.remove(ETAG);
        }
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
