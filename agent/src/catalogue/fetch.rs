//! One question to the site, asked as any stranger would: over its public name, without cookies, without credentials.

use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use p2pcdn_core::object::Sha256;
use tokio::time::timeout;

use super::area::{Draft, Whole};
use super::cacheable::{Shareable, WhyNot, announced, judge};
use super::learn::Learner;
use super::references;
use super::stranger::{check_authority, question};
use crate::identity::EgressError;
use crate::identity::web::WebStream;
use crate::store::StoreError;

/// What the site has answered.
pub(super) enum Answer {
    /// The version that the conditions name is current.
    NotModified(HeaderMap),
    /// A version that may be shared.
    Version(Box<Version>),
    /// Nothing that may be shared.
    Not(WhyNot),
}

/// A version that may be shared.
pub(super) struct Version {
    pub(super) shareable: Shareable,
    pub(super) headers: HeaderMap,
    pub(super) whole: Whole,
}

/// Why there was no answer; another time there may be one.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The site's fault, or the network's.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The proxy is so busy that it redirected even this request.
    #[error("the proxy redirects everything just now")]
    Busy,
    /// The origin fails.
    #[error("the site answers with {0}")]
    Failing(StatusCode),
    /// The body broke off.
    #[error("the body broke off: {0}")]
    Body(#[from] hyper::Error),
    /// Too slow.
    #[error("the site sends nothing, or too slowly")]
    Stalled,
    /// Everything that is kept is asked for more.
    #[error("share.cache is full of what is asked for more")]
    NoRoom,
    /// This machine's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A head that is not there by then is given up.
const HEAD: Duration = Duration::from_secs(10);
/// And so is a body of which nothing has come for so long.
const STALLED: Duration = Duration::from_secs(10);
/// A whole body may take as long as this rate needs, and so much time on top.
const SLOWEST_BYTES_PER_S: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

impl Learner {
    /// Asks for a path under these conditions.
    pub(super) async fn ask(&self, path: &str, conditions: HeaderMap) -> Result<Answer, FetchError> {
        let mut headers = conditions;
        headers.extend(question());
        let sent = SystemTime::now();
        let domain = &self.catalogue.site().domain;
        let stream = self.connector.open_web(Method::GET, domain, path, headers, HEAD).await?;
        let status = stream.status;
        if status == StatusCode::NOT_MODIFIED {
            let headers = stream.headers.clone();
            self.connector.reuse(domain, stream);
            return Ok(Answer::NotModified(headers));
        }
        check_authority(status, &stream.headers)?;
        let judged = judge(status, &stream.headers, sent, SystemTime::now(), self.catalogue.share.heuristic);
        let expected = judged.and_then(|shareable| {
            if !self.catalogue.is_offered(path, shareable.class) {
                return Err(WhyNot::Class(shareable.class));
            }
            let length = announced(&stream.headers)?;
            self.check_size(length)?;
            Ok((shareable, length))
        });
        match expected {
            Ok((shareable, length)) => self.take_in(path, stream, shareable, length).await,
            Err(why) => Ok(Answer::Not(why)),
        }
    }

    fn check_size(&self, bytes: u64) -> Result<(), WhyNot> {
        // What the area could never keep would only drive out the rest.
        let fits = bytes <= self.catalogue.share.cache_bytes && self.catalogue.is_shared_size(bytes);
        if fits { Ok(()) } else { Err(WhyNot::Size(bytes)) }
    }

    async fn take_in(
        &self,
        path: &str,
        mut stream: WebStream,
        shareable: Shareable,
        length: u64,
    ) -> Result<Answer, FetchError> {
        let mut draft = self.area.draft().await?;
        let received = match self.make_room(path, &mut draft, length).await {
            Ok(()) => self.receive(&mut stream, &mut draft, &shareable).await,
            Err(error) => Err(error),
        };
        let code = match received {
            Ok(Ok(code)) => code,
            Ok(Err(why)) => {
                draft.discard().await;
                return Ok(Answer::Not(why));
            }
            Err(error) => {
                draft.discard().await;
                return Err(error);
            }
        };
        let headers = stream.headers.clone();
        self.connector.reuse(&self.catalogue.site().domain, stream);
        let whole = draft.finish().await?;
        if let Err(why) = self.check_size(whole.size).and_then(|()| check_code(&shareable, &code)) {
            whole.discard().await;
            return Ok(Answer::Not(why));
        }
        Ok(Answer::Version(Box::new(Version { shareable, headers, whole })))
    }

    /// Reads the body to its end; returns its bytes if it is a style or script.
    async fn receive(
        &self,
        stream: &mut WebStream,
        draft: &mut Draft,
        shareable: &Shareable,
    ) -> Result<Result<Vec<u8>, WhyNot>, FetchError> {
        let mut code = Vec::new();
        let mut received = 0;
        let mut waited = Duration::ZERO;
        loop {
            // What has come so far buys the time for more, so that a drip does not occupy one of the few places for long.
            let patience = PATIENCE + Duration::from_secs(received / SLOWEST_BYTES_PER_S);
            let left = patience.saturating_sub(waited).min(STALLED);
            let asked = Instant::now();
            let frame = timeout(left, stream.body.frame()).await.map_err(|_| FetchError::Stalled)?;
            waited += asked.elapsed();
            let Some(frame) = frame else { break };
            let Ok(bytes) = frame?.into_data() else { continue };
            received += bytes.len() as u64;
            if received > self.catalogue.share.max_object_bytes {
                return Ok(Err(WhyNot::Size(received)));
            }
            if !shareable.class.is_leaf() {
                if code.len() + bytes.len() > references::MAX_CODE_BYTES {
                    return Ok(Err(references::Reference::TooLong.into()));
                }
                code.extend_from_slice(&bytes);
            }
            self.bandwidth.take(bytes.len()).await;
            draft.push(bytes).await?;
        }
        Ok(Ok(code))
    }

    /// Sets the bytes of the object at `path` aside, at the cost of what is asked for less.
    async fn make_room(&self, path: &str, draft: &mut Draft, bytes: u64) -> Result<(), FetchError> {
        // More than once only where the bytes that were given up belong to other objects, too.
        while let Err(missing) = draft.reserve(bytes) {
            let given_up = self.give_up_for(path, missing);
            if given_up.is_empty() {
                return Err(FetchError::NoRoom);
            }
            for coldest in given_up {
                tracing::debug!(path = %coldest, "given up to make room");
                self.remove(&coldest).await?;
            }
        }
        Ok(())
    }

    /// Takes an object out of the table, then out of the area.
    pub(super) async fn remove(&self, path: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        match self.catalogue.retract(path) {
            Some(old) => self.delete_unused(&old.record.sha256).await,
            None => Ok(()),
        }
    }

    /// Deletes bytes that no object has; whoever calls holds `changing`.
    pub(super) async fn delete_unused(&self, digest: &Sha256) -> Result<(), StoreError> {
        if self.catalogue.find_digest(digest).is_none() {
            self.area.delete(digest).await?;
        }
        Ok(())
    }
}

fn check_code(shareable: &Shareable, code: &[u8]) -> Result<(), WhyNot> {
    if shareable.class.is_leaf() {
        return Ok(());
    }
    // A byte order mark decides before any charset (Encoding, "BOM sniff"); modules are UTF-8 in any case, but nothing says which they are.
    if shareable.has_charset && !code.is_ascii() && !code.starts_with(b"\xef\xbb\xbf") {
        return Err(WhyNot::Charset);
    }
    Ok(references::check(shareable.class, code)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pcdn_core::object::{Class, Embedding, Sharing};

    #[test]
    fn code_in_a_named_charset_has_to_read_alike_without_the_name() {
        let shareable = |class, has_charset| Shareable {
            content_type: "text/css",
            class,
            etag: None,
            max_age_s: 1,
            fresh_until_s: 1,
            stale_if_error_s: 0,
            sharing: Sharing::SameOrigin,
            embedding: Embedding::Unstated,
            has_charset,
        };
        let accent = "a::after { content: \"\u{e9}\" }".as_bytes();
        let marked = [b"\xef\xbb\xbf", accent].concat();
        assert_eq!(check_code(&shareable(Class::Style, false), accent), Ok(()));
        assert_eq!(check_code(&shareable(Class::Style, true), accent), Err(WhyNot::Charset));
        assert_eq!(check_code(&shareable(Class::Style, true), &marked), Ok(()));
        assert_eq!(check_code(&shareable(Class::Style, true), b"a {}"), Ok(()));
        assert_eq!(check_code(&shareable(Class::Image, true), accent), Ok(()));
    }
}
