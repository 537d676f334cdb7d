//! A host that answers some otherwise than others: what stands between its proxy and its agent turns over a bit for whom it likes.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::Site;
use tokio::net::{TcpListener, TcpStream};

/// Puts it in front of the host's replica socket until the test ends; `lies` says who gets a wrong last byte. Holds from the proxy's next
/// start.
pub(crate) async fn corrupt(host: &mut Site, lies: impl Fn(&Request<Incoming>) -> bool + Send + Sync + 'static) {
    let agent = host.setting("listen.replica").as_str().unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    host.edit("port_value: 7081", format!("port_value: {}", listener.local_addr().unwrap().port()));
    let lies = Arc::new(lies);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (agent, lies) = (agent.clone(), lies.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let (agent, is_lie) = (agent.clone(), lies(&request));
                async move { Ok::<_, Infallible>(answer(request, &agent, is_lie).await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
}

async fn answer(request: Request<Incoming>, agent: &str, is_lie: bool) -> Response<Full<Bytes>> {
    let Ok(response) = pass(request, agent).await else {
        return Response::builder().status(503).body(Full::default()).unwrap();
    };
    let (parts, mut body) = response.into_parts();
    if let Some(last) = body.last_mut().filter(|_| is_lie) {
        *last ^= 1;
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
