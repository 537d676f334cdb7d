//! How the agent decides for proxies without the filter: the filter's own keys, below `decide`.

use p2pcdn_core::gate::reader::Reader;
use p2pcdn_core::gate::settings::GateSettings;

use super::keys::Keys;

/// What the operator decides about redirects where the agent decides.
#[derive(Debug, Clone, PartialEq)]
pub struct DecideSettings {
    /// What is redirected, when, and how.
    pub gate: GateSettings,
    /// Most objects in the table; further ones stay local.
    pub max_objects: usize,
}

impl DecideSettings {
    pub(super) fn read(keys: &mut Keys<'_>) -> Self {
        let mut reader = Reader::of(keys.section("decide"));
        let settings = Self {
            max_objects: reader.number("max_objects", 1 << 20, 1, 1 << 23),
            gate: GateSettings::read(&mut reader, false),
        };
        for error in reader.finish().err().into_iter().flatten() {
            keys.reject(&format!("decide.{}", error.key), &error.problem.to_string());
        }
        if settings.gate.in_flight_limit > 0 || settings.gate.targets.in_flight > 0 {
            keys.reject("decide", "cannot limit requests in flight: a proxy without the filter does not count them");
        }
        settings
    }
}
