//! Whether a host takes an offered object: pure, so that the policy can be read and tested in one place.

use p2pcdn_core::object::{Class, ObjectRecord};

use crate::replicate::messages::Decline;
use crate::settings::Host;
use crate::store::Usage;

/// What is known of the origin that offers, beside its record.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstances {
    /// The operator does not carry this origin, path or digest.
    pub denied: bool,
    /// This host is leaving.
    pub leaving: bool,
    /// Who has carried how much for whom.
    pub balance: Balance,
    /// What is thought of the origin.
    pub reputation: Reputation,
}

/// Bytes served on both sides, as counted here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balance {
    /// Bytes of the origin's objects that this host has sent.
    pub given: u64,
    /// Bytes of this site's objects for which clients were redirected to the origin.
    pub received: u64,
}

/// What this host's own experience with an origin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reputation {
    /// Nothing bad.
    #[default]
    Good,
    /// Too little trust to take anything more.
    Poor,
}

/// Admits or declines a valid record of `class`, given what is in use already.
///
/// The version that it would replace stays on disk until the new one is committed, so its room does not count as free.
pub fn admit(
    host: &Host,
    circumstances: &Circumstances,
    usage: &Usage,
    record: &ObjectRecord,
    class: Class,
) -> Result<(), Decline> {
    let Circumstances { denied, leaving, balance, reputation } = circumstances;
    if *leaving {
        return Err(Decline::Leaving);
    }
    if *denied {
        return Err(Decline::Denied);
    }
    suits(host, record, class)?;
    if *reputation == Reputation::Poor {
        return Err(Decline::Reputation);
    }
    if is_in_debt(host, balance) {
        return Err(Decline::Reciprocity);
    }
    if usage.total_bytes.saturating_add(record.size) > host.quota_bytes {
        return Err(Decline::Quota);
    }
    let of_origin = usage.by_origin.get(&record.origin).copied().unwrap_or(0);
    if of_origin.saturating_add(record.size) > host.quota_of(&record.origin) {
        return Err(Decline::OriginQuota);
    }
    Ok(())
}

/// Whether the host carries objects of this kind at all, however much room there is.
pub fn suits(host: &Host, record: &ObjectRecord, class: Class) -> Result<(), Decline> {
    if !host.classes.contains(&class) {
        Err(Decline::Class)
    } else if record.size < host.min_object_bytes {
        Err(Decline::TooSmall)
    } else if record.size > host.max_object_bytes {
        Err(Decline::TooLarge)
    } else {
        Ok(())
    }
}

/// Bitswap's debt ratio, bytes sent over bytes received, with an allowance so that one who has not given yet can begin.
fn is_in_debt(host: &Host, balance: &Balance) -> bool {
    let Some(ratio) = host.debt_ratio else { return false };
    let owed = balance.given.saturating_sub(host.debt_allowance_bytes);
    owed as f64 > ratio * balance.received as f64
}

#[cfg(test)]
pub(crate) mod tests;
