//! A web server that was there before p2pcdn: serves the files of a directory, says what else it
//! was sent, and knows nothing of agents.

use std::convert::Infallible;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::content::digest;
use tokio::net::TcpListener;

/// Serves `directory` on a free port, which it returns, until the test ends.
pub(crate) async fn serve(directory: PathBuf) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let directory = directory.clone();
            let answer = service_fn(move |request: Request<Incoming>| {
                let file = directory.join(request.uri().path().trim_start_matches('/'));
                async move {
                    Ok::<_, Infallible>(match *request.method() {
                        Method::GET | Method::HEAD => answer(file).await,
                        _ => echo(request).await,
                    })
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    port
}

/// Method, path and the digest of the body.
async fn echo(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    Response::new(Full::new(format!("{asked} {}", digest(&body)).into()))
}

async fn answer(file: PathBuf) -> Response<Full<Bytes>> {
    let (status, body) = match std::fs::read(file) {
        Ok(bytes) => (200, bytes.into()),
        Err(_) => (404, Bytes::new()),
    };
    Response::builder().status(status).body(Full::new(body)).unwrap()
}
