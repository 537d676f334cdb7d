//! What is seen while the demo runs.

use std::borrow::Cow;

use http::uri::Authority;
use indicatif::{ProgressBar, ProgressStyle};
use p2pcdn_tests::{
    load::Sample,
    tally::{Tally, tally},
};
use tokio::time::Duration;

/// A line that moves on a terminal; where there is none, only what is said last appears.
pub(super) struct Line {
    bar: ProgressBar,
    name: Cow<'static, str>,
}

impl Line {
    /// Begins a line for something that ends after `length` steps.
    pub(super) fn begin(name: impl Into<Cow<'static, str>>, length: u64) -> Self {
        let name = name.into();
        let style = ProgressStyle::with_template("{prefix:<14} {bar:20} {msg}").expect("the template is valid");
        let bar = ProgressBar::new(length).with_style(style).with_prefix(name.to_string());
        Self { bar, name }
    }

    /// Moves on.
    pub(super) fn show(&self, position: u64, message: String) {
        self.bar.set_position(position);
        self.bar.set_message(message);
    }

    /// Ends the line and leaves its last word.
    pub(super) fn end(self, message: &str) {
        self.bar.finish_and_clear();
        println!("{:<14} {message}", self.name);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Name of the site that serves replicas under this authority.
pub(super) fn site_of(replica_name: &str) -> &str {
    replica_name.split('.').nth(1).unwrap_or(replica_name)
}

/// What became of the requests of `span`, in one line.
pub(super) fn pulse<'a>(origin: &Authority, samples: impl IntoIterator<Item = &'a Sample>, span: Duration) -> String {
    let Tally { requests, failed, redirected, by_host, bytes_total, p99, .. } = tally(origin, samples);
    let per_second = |count: u64| count as f64 / span.as_secs_f64();
    let share = 100.0 * redirected as f64 / requests.max(1) as f64;
    let hosts = by_host.iter().map(|(host, count)| format!(", {} {:.0}/s", site_of(host), per_second(*count)));
    let failures = if failed == 0 { String::new() } else { format!(", {failed} FAILED") };
    format!(
        "{:.0} requests/s, {:.1} MB/s, {share:.0} % redirected{}, p99 {:.0} ms{failures}",
        per_second(requests),
        per_second(bytes_total) / 1e6,
        hosts.collect::<String>(),
        p99.as_secs_f64() * 1e3,
    )
}
