//! How the proxy enters the filter: the lifecycle callbacks of the SDK, handed on.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use crate::host::wasm::Proxy;
use crate::request::{Request, Verdict};
use crate::root::Root;

proxy_wasm::main! {{
    // Also makes the SDK log the message of a panic.
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|context_id| Box::new(Root::new(Proxy, context_id)));
}}

impl Context for Root<Proxy> {
    fn on_http_call_response(&mut self, token: u32, num_headers: usize, body_size: usize, _num_trailers: usize) {
        self.answered(token, num_headers, body_size);
    }
}

impl RootContext for Root<Proxy> {
    fn on_configure(&mut self, size: usize) -> bool {
        self.configure(size)
    }

    fn on_tick(&mut self) {
        self.tick();
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(self.request()))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

impl Context for Request<Proxy> {}

impl HttpContext for Request<Proxy> {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        match self.head(end_of_stream) {
            Verdict::Redirected => Action::Pause,
            Verdict::Local | Verdict::Returned => Action::Continue,
        }
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        if self.complete_response() { Action::Pause } else { Action::Continue }
    }
}
