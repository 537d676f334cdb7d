//! A web server that was there before p2pcdn, with answers that a test decides on and a log of who asked.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, ETAG, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p2pcdn_tests::Site;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The server; clones are the same one.
#[derive(Clone)]
pub(crate) struct OriginServer {
    pub(crate) port: u16,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    pages: HashMap<String, Page>,
    log: Vec<Asked>,
    failing: Failing,
}

/// For whom the server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Failing {
    #[default]
    Nobody,
    /// The agent gets a 503.
    Agent,
    /// Everybody gets a 503.
    Everybody,
    /// Everybody, and in this way.
    By(Failure),
}

/// How the server fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    Status(StatusCode),
    /// It closes the connection without an answer.
    Reset,
    /// It never answers.
    Silence,
}

/// What lies at a path.
#[derive(Clone, Default)]
pub(crate) struct Page {
    pub(crate) body: Bytes,
    /// Beside the type, which is that of PNG.
    pub(crate) headers: HeaderMap,
    /// Whoever has no cookie is sent to a login.
    pub(crate) needs_cookie: bool,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) path: String,
    pub(crate) by_agent: bool,
    pub(crate) status: u16,
}

impl OriginServer {
    /// Listens on a free port until the test ends.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { port: listener.local_addr().unwrap().port(), inner: Arc::default() };
        let this = server.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let this = this.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let response = this.answer(&request);
                    async move {
                        match response {
                            Ok(response) => Ok(response),
                            Err(Failure::Status(status)) => Ok(plain(status)),
                            Err(Failure::Reset) => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
                            Err(Failure::Silence) => std::future::pending().await,
                        }
                    }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        server
    }

    /// Makes it the origin of a site whose agent learns.
    pub(crate) fn serve(&self, site: &mut Site) {
        site.unset("site.directory");
        site.edit("port_value: 7083", format!("port_value: {}", self.port));
    }

    /// Puts a page at a path.
    pub(crate) fn put(&self, path: &str, page: Page) {
        self.inner.lock().unwrap().pages.insert(path.to_owned(), page);
    }

    /// Decides for whom it fails.
    pub(crate) fn fail(&self, failing: Failing) {
        self.inner.lock().unwrap().failing = failing;
    }

    /// Every request for a path.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let inner = self.inner.lock().unwrap();
        inner.log.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// Requests of the agent for a path.
    pub(crate) fn asked_by_agent(&self, path: &str) -> Vec<Asked> {
        self.asked(path).into_iter().filter(|asked| asked.by_agent).collect()
    }

    fn answer(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
        let mut inner = self.inner.lock().unwrap();
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let path = request.uri().path_and_query().unwrap().to_string();
        let by_agent = header(USER_AGENT).starts_with("p2pcdn/");
        if let Failing::By(failure) = inner.failing {
            return Err(failure);
        }
        let is_failing = inner.failing == Failing::Everybody || (by_agent && inner.failing == Failing::Agent);
        let mut response = match inner.pages.get(&path) {
            _ if is_failing => plain(StatusCode::SERVICE_UNAVAILABLE),
            None => plain(StatusCode::NOT_FOUND),
            Some(page) if page.needs_cookie && !request.headers().contains_key(COOKIE) => {
                let mut response = plain(StatusCode::FOUND);
                response.headers_mut().insert(LOCATION, "/login".parse().unwrap());
                response
            }
            Some(page) => page.answer(header(IF_NONE_MATCH)),
        };
        response.headers_mut().entry(CONTENT_TYPE).or_insert("image/png".parse().unwrap());
        let status = response.status().as_u16();
        inner.log.push(Asked { at: Instant::now(), path, by_agent, status });
        Ok(response)
    }
}

impl Page {
    fn answer(&self, known: &str) -> Response<Full<Bytes>> {
        let is_known = self.headers.get(ETAG).is_some_and(|etag| etag.as_bytes() == known.as_bytes());
        let mut response = plain(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
        if !is_known {
            *response.body_mut() = self.body.clone().into();
        }
        response.headers_mut().extend(self.headers.clone());
        response
    }
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
