//! What belongs to hosting: limits for single origins, and how its settings are understood.

use super::Host;
use super::values::{authority, bytes};
use crate::replicate::host::deny::{Denial, DenialError};

/// Limits for one origin; those for each hold where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OriginLimits {
    /// Bytes of replicas.
    pub quota_bytes: Option<u64>,
    /// Bytes per second that it may send here.
    pub lease_bytes_per_s: Option<u64>,
}

impl Host {
    /// Bytes of replicas for this origin.
    pub fn quota_of(&self, origin: &str) -> u64 {
        let own = self.origins.get(origin).and_then(|limits| limits.quota_bytes);
        own.unwrap_or(self.quota_per_origin_bytes)
    }

    /// Bytes per second that this origin may send here at most.
    pub fn lease_of(&self, origin: &str) -> u64 {
        let own = self.origins.get(origin).and_then(|limits| limits.lease_bytes_per_s);
        own.unwrap_or(self.lease_bytes_per_s)
    }
}

pub(super) fn debt_ratio(text: &str) -> Result<Option<f64>, String> {
    match text.parse::<f64>() {
        Ok(0.0) => Ok(None),
        Ok(ratio) if (0.01..=1_000_000.0).contains(&ratio) => Ok(Some(ratio)),
        _ => Err("must be 0, for no limit, or a number from 0.01 to 1000000".into()),
    }
}

pub(super) fn denial(text: &str) -> Result<Denial, String> {
    text.parse().map_err(|error: DenialError| error.to_string())
}

pub(super) fn origin_limits(origin: &str, [quota, lease]: [Option<&str>; 2]) -> Result<(String, OriginLimits), String> {
    let limits =
        OriginLimits { quota_bytes: quota.map(bytes).transpose()?, lease_bytes_per_s: lease.map(bytes).transpose()? };
    Ok((authority(origin)?, limits))
}
