//! Why a peer's weight is what it is, in words for its operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::account::{Line, Membership, Verdict};
use super::{Reputation, State, bandwidth};

/// Why a peer's weight is what it is: the factors whose product it is, and what happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The product of the factors.
    pub weight: f64,
    /// Where the peer stands.
    pub state: State,
    /// The factors.
    pub factors: Vec<Factor>,
    /// Audits by verdict.
    pub audits: BTreeMap<Verdict, u64>,
    /// What happened, the oldest first.
    pub lines: Vec<Line>,
}

/// One factor of a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Factor {
    /// What it is about.
    pub name: String,
    /// 0 to 1.
    pub value: f64,
    /// What it follows from.
    pub because: String,
}

impl Reputation {
    /// Why a peer's weight is what it is; none if nothing is known of it.
    pub fn why(&self, domain: &str, needed_bytes_per_s: f64, now_ms: u64) -> Option<Explanation> {
        let account = self.accounts.get(domain)?;
        let formulas = &self.formulas;
        let standing = self.standing(domain, needed_bytes_per_s, now_ms);
        let score = account.reliability.score(account.prior(formulas), formulas, now_ms);
        let [(good, bad), (good_long, bad_long)] = account.reliability.counts(formulas, now_ms);
        let invited = if account.membership == Membership::Invited { "invited, counts as" } else { "open, counts as" };
        let factor = |name: &str, value: f64, because| Factor { name: name.to_owned(), value, because };
        let factors = vec![
            factor(
                "integrity",
                if standing.state.gets_redirects() { 1.0 } else { 0.0 },
                self.integrity_in_words(domain, now_ms),
            ),
            factor(
                "reliability",
                score * score,
                format!(
                    "{good:.1} good and {bad:.1} bad lately, {good_long:.1} and {bad_long:.1} in the long run; {invited} {} good from the start",
                    account.prior(formulas)
                ),
            ),
            factor(
                "bandwidth",
                bandwidth(account.measured_bytes_per_s, needed_bytes_per_s),
                format!("{:.0} bytes/s measured, {needed_bytes_per_s:.0} needed", account.measured_bytes_per_s),
            ),
            factor(
                "newness",
                account.ramp(formulas),
                format!("{} clean audits since the last wrong one", account.clean),
            ),
            factor(
                "suspicion",
                account.exposure(formulas, now_ms),
                if account.is_suspected(now_ms) { "being looked at more closely" } else { "none" }.to_owned(),
            ),
        ];
        let verdicts =
            [Verdict::Good, Verdict::WrongBytes, Verdict::Missing, Verdict::Slow, Verdict::Unreachable].into_iter();
        let audits = verdicts.zip(account.audits).filter(|(_, count)| *count > 0).collect();
        Some(Explanation {
            weight: standing.weight,
            state: standing.state,
            factors,
            audits,
            lines: account.lines().cloned().collect(),
        })
    }

    fn integrity_in_words(&self, domain: &str, now_ms: u64) -> String {
        let Some(marks) = self.marks(domain) else { return "no wrong body was ever seen".to_owned() };
        let integrity = &marks.integrity;
        if let Some(because) = &marks.convicted {
            return format!("convicted: {because}");
        }
        let isolated = if integrity.is_isolated(now_ms) { "isolated, " } else { "" };
        format!(
            "{isolated}{} strikes, {} clean audits owed, sum {:.2} of {:.1}, isolated {} times",
            integrity.strikes.len(),
            integrity.owed,
            integrity.cusum,
            self.formulas.isolate_at,
            integrity.isolations
        )
    }
}
