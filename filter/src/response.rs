//! The response to a request that stayed: opened to a client that a host sent back, compared with the table, or replaced if the
//! origin failed.

use p2pcdn_core::gate::{Kept, Look, Returned, Verdict, Watched};

use crate::host::Host;
use crate::request::{Request, Through};
use crate::root::Vm;

impl<H: Host> Request<H> {
    /// Takes in the response's headers; `true` if it has been replaced by a redirect.
    pub fn complete_response(&mut self) -> bool {
        let Some(mut vm) = self.vm.as_ref().and_then(|vm| vm.try_borrow_mut().ok()) else { return false };
        // The proxy calls again for the answer that replaces this one.
        match std::mem::take(&mut self.kept) {
            Kept::Nothing => {}
            Kept::Returned(returned) => vm.open_to_pages(&returned),
            // What leads on or fails is no page whose policy counts.
            Kept::Page(path) if matches!(vm.host.response_status(), Some(200 | 304)) => vm.gate.see_page(&path),
            Kept::Page(_) => {}
            Kept::Shared(leaving) => {
                leaving.shared_with().for_each(|(name, value)| vm.host.set_response_header(name, value));
            }
            Kept::Watched(watched) => {
                if let Some(kept) = vm.compare(&watched) {
                    self.verdict = Verdict::Redirected;
                    self.kept = kept;
                    return true;
                }
            }
        }
        false
    }
}

impl<H: Host> Vm<H> {
    /// After two redirects across origins a CORS request comes from `null` (Fetch, "redirect-tainted origin").
    ///
    /// The version in the table is public. Any other answer is opened only if it cannot be for one visitor: the request carried no
    /// credentials, and the origin does not call it private. Requests in credentials mode get the version in the table only, since
    /// a client certificate is not seen here. `Referrer-Policy` stays as the origin has it: nobody is sent on from here.
    fn open_to_pages(&self, returned: &Returned) {
        let host = &self.host;
        if !matches!(host.response_status(), Some(200 | 206 | 304)) {
            return;
        }
        let etag = host.response_header("etag");
        let is_public = returned.validator != 0 && etag.is_some_and(|e| self.gate.validator(&e) == returned.validator);
        let cache_control = host.response_header("cache-control").unwrap_or_default().to_ascii_lowercase();
        let says = |word: &[u8]| cache_control.windows(word.len()).any(|window| window == word);
        let is_private = says(b"private") || says(b"no-store") || host.response_header("set-cookie").is_some();
        if !is_public && (returned.has_credentials || is_private) {
            return;
        }
        // An origin has no bytes that could end a header, whatever the client has sent.
        let is_plain = |origin: &&[u8]| origin.iter().all(|b| (0x21..=0x7e).contains(b));
        match returned.origin.as_deref().filter(is_plain).filter(|_| is_public && !returned.has_credentials) {
            Some(origin) => {
                host.set_response_header("access-control-allow-origin", origin);
                host.set_response_header("access-control-allow-credentials", b"true");
            }
            None => host.set_response_header("access-control-allow-origin", b"*"),
        }
        let mut vary = host.response_header("vary").unwrap_or_default();
        if !vary.is_empty() {
            vary.extend_from_slice(b", ");
        }
        vary.extend_from_slice(b"origin, cookie, authorization");
        host.set_response_header("vary", &vary);
        host.set_response_header("cross-origin-resource-policy", b"cross-origin");
    }

    /// Sees whether the origin still has the version in the table; if it failed, and the client was sent to a replica instead, what is to
    /// be kept of that.
    fn compare(&mut self, watched: &Watched) -> Option<Kept> {
        match self.host.response_status() {
            Some(500 | 502..=504) => {
                return self.gate.rescue(watched, &mut Through(&self.host));
            }
            Some(200) if watched.look == Look::Proof => self.compare_version(watched),
            Some(200 | 206) if watched.look == Look::Hint => self.question_version(watched),
            // What is wrong with a request says nothing of the object.
            Some(200 | 206 | 304 | 400 | 408 | 412..=414 | 416 | 429 | 431) | None => {}
            Some(_) if watched.look != Look::Nothing => self.gate.tally.questioned.note(watched.key),
            Some(_) => {}
        }
        None
    }

    /// Only another strong entity tag of the plain representation proves that the table is out of date.
    fn compare_version(&mut self, watched: &Watched) {
        let is_coded = self.host.response_header("content-encoding").is_some_and(|coding| coding != b"identity");
        if watched.validator == 0 || is_coded {
            return;
        }
        match self.host.response_header("etag") {
            Some(etag) if self.gate.validator(&etag) == watched.validator => {}
            Some(etag) if etag.starts_with(b"\"") => self.gate.contradict(watched.key),
            _ => self.gate.tally.questioned.note(watched.key),
        }
    }

    /// Another strong entity tag of what may be for one visitor only proves nothing, but the agent had better look.
    fn question_version(&mut self, watched: &Watched) {
        let is_coded = self.host.response_header("content-encoding").is_some_and(|coding| coding != b"identity");
        let etag = self.host.response_header("etag").filter(|etag| etag.starts_with(b"\""));
        let is_other = etag.is_some_and(|etag| self.gate.validator(&etag) != watched.validator);
        if watched.validator != 0 && !is_coded && is_other {
            self.gate.tally.questioned.note(watched.key);
        }
    }
}
