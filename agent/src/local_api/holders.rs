//! Who holds what, for a look from outside.

use super::LocalApi;
use crate::doctor::{HolderFacts, Sample};

impl LocalApi {
    /// Every host that has granted a lease, each with one replica that it should have.
    pub(super) fn holder_facts(&self) -> Vec<HolderFacts> {
        let sample = |domain: &str| {
            let copy = self.board.sample(domain, 0)?;
            let record = &self.catalogue.as_ref()?.find(&copy.path)?.record;
            let (size, content_type) = (record.size, record.content_type.clone());
            (record.sha256 == copy.sha256).then_some(Sample {
                path: copy.path,
                sha256: copy.sha256,
                size,
                content_type,
            })
        };
        let holders = self.holders.list().into_iter();
        let facts = |(domain, holder): (String, crate::replicate::holders::Holder)| {
            let sample = sample(&domain);
            HolderFacts { domain, replica_name: holder.replica_name, sample }
        };
        holders.map(facts).collect()
    }
}
