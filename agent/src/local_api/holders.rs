//! Who holds what, for a look from outside.

use super::LocalApi;
use crate::doctor::{AgentFacts, HolderFacts, Sample};
use crate::replicate::origin::holders::Holder;

impl LocalApi {
    /// Every host that has granted a lease, each with one replica that it should have.
    pub(super) fn agent_facts(&self) -> AgentFacts {
        let sample = |domain: &str| {
            let copy = self.board.sample(domain)?;
            let record = &self.catalogue.as_ref()?.find(&copy.path)?.record;
            let (size, content_type) = (record.size, record.content_type.clone());
            (record.sha256 == copy.sha256).then_some(Sample {
                path: copy.path,
                sha256: copy.sha256,
                size,
                content_type,
            })
        };
        let facts = |(domain, holder): (String, Holder)| {
            let (blocked, sample) = (self.board.blocked(&domain), sample(&domain));
            HolderFacts { domain, replica_name: holder.replica_name, blocked, sample }
        };
        let holders = self.holders.list().into_iter().map(facts).collect();
        AgentFacts { knows_policy: self.policy.status().known, holders }
    }
}
