//! What the operator decides about redirects, read by the same keys wherever a gate runs.

use super::reader::Reader;
use crate::decide::Targets;
use crate::eligibility::Rules;
use crate::lookup::MAX_PATH_BYTES;
use crate::object::Class;
use crate::redirect::MAX_LIFETIME_S;

/// Most prefixes in one list: each is compared on the request path.
pub const MAX_PREFIXES: usize = 64;
/// Most query parameters.
pub const MAX_QUERIES: usize = 16;

/// Who is sent to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Each request anew.
    None,
    /// Requests from one address to one holder, so that a page comes from few connections.
    Client,
}

/// What is done with decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Redirects.
    On,
    /// Decides and counts, but redirects nothing.
    Observe,
    /// Nothing is decided.
    Off,
}

/// Checked settings. The table of keys in `envoy-config/README.md` is this list, with what else the filter has to know.
#[derive(Debug, Clone, PartialEq)]
pub struct GateSettings {
    /// `target.requests_per_s`, `target.egress_bytes_per_s`, `target.in_flight`: what the site carries itself; 0, none.
    /// `pure_balancer_at`: multiple of a target beyond which all that can be is redirected; 5, within 1 to 1000, or 0, never.
    pub targets: Targets,
    /// `in_flight_limit`: requests in flight in this proxy beyond which all that can be is redirected at once; 0, none.
    pub in_flight_limit: u32,
    /// `stay_local_s`: in every such period, the first request for an object stays at each gate; 10 s, at most 3600; 0, never, which is
    /// the default where nobody sees the origin's answers.
    pub stay_local_s: u32,
    /// `min_bytes`: 8192, at most 1 GiB. `classes`: all. `exclude`, `fetch_paths`, `plain_style_paths`, `download_paths` and
    /// `cross_site_paths`: at most [`MAX_PREFIXES`] each; none. `queries`: at most [`MAX_QUERIES`]; none. `ranges`: `from_start`, or
    /// `any`.
    pub rules: Rules,
    /// `affinity`: whether a `client` address is always sent to the same holder; `none`.
    pub affinity: Affinity,
    /// `redirect_max_age_s`: how long a browser may keep a redirect; 0 s, at most [`MAX_LIFETIME_S`].
    pub redirect_max_age_s: u32,
    /// `metalink`: whether download tools are told every place and the digest; true.
    pub metalink: bool,
    /// `rescue`: whether a request that the origin fails to answer is redirected; true.
    pub rescue: bool,
    /// `mode`: `on`, `observe` or `off`; `on`.
    pub mode: Mode,
}

impl GateSettings {
    /// Reads its keys; those that are wrong are errors of the reader. `sees_answers` says whether the origin's answers are looked at.
    pub fn read(read: &mut Reader, sees_answers: bool) -> Self {
        Self {
            targets: Targets {
                requests_per_s: read.number("target.requests_per_s", 0, 0, u32::MAX.into()),
                egress_bytes_per_s: read.number("target.egress_bytes_per_s", 0, 0, 1 << 50),
                in_flight: read.number("target.in_flight", 0, 0, u32::MAX.into()),
                pure_balancer_at: read.factor("pure_balancer_at", 5.0, 1.0, 1000.0),
            },
            in_flight_limit: read.number("in_flight_limit", 0, 0, u32::MAX.into()),
            stay_local_s: read.number("stay_local_s", if sees_answers { 10 } else { 0 }, 0, 3600),
            rules: Rules {
                min_bytes: read.number("min_bytes", 8192, 0, 1 << 30),
                classes: read.words("classes", &Class::ALL.map(|class| (class.name(), class))),
                exclude: read.prefixes("exclude", MAX_PREFIXES, MAX_PATH_BYTES),
                queries: read.parameters("queries", MAX_QUERIES, 64),
                fetch_paths: read.prefixes("fetch_paths", MAX_PREFIXES, MAX_PATH_BYTES),
                plain_style_paths: read.prefixes("plain_style_paths", MAX_PREFIXES, MAX_PATH_BYTES),
                download_paths: read.prefixes("download_paths", MAX_PREFIXES, MAX_PATH_BYTES),
                cross_site_paths: read.prefixes("cross_site_paths", MAX_PREFIXES, MAX_PATH_BYTES),
                any_range: read.word("ranges", false, &[("from_start", false), ("any", true)]),
            },
            affinity: read.word("affinity", Affinity::None, &[("none", Affinity::None), ("client", Affinity::Client)]),
            redirect_max_age_s: read.number("redirect_max_age_s", 0, 0, MAX_LIFETIME_S.into()),
            metalink: read.flag("metalink", true),
            rescue: read.flag("rescue", true),
            mode: read.word("mode", Mode::On, &[("on", Mode::On), ("observe", Mode::Observe), ("off", Mode::Off)]),
        }
    }
}
