//! What demand makes of the plan: ranks, and how many copies each object should have.

use std::sync::Arc;

use super::Plan;
use super::desk::Desk;
use super::goal::{Presence, Relation};
use crate::demand::Heat;
use crate::replicate::origin::wanted::{Asked, HOT, desired};

impl Plan {
    /// Takes in how much is asked for: `leaving` as in [`Site`](crate::replicate::origin::wanted::Site); `demand` need not be in any order.
    pub fn weigh<'a>(&mut self, leaving: f64, demand: impl Iterator<Item = (&'a str, Heat)>, now_ms: u64) {
        let hosts: Vec<&Desk> = self.desks.values().filter(|desk| desk.takes_offers(now_ms)).collect();
        let lent: f64 = hosts.iter().map(|desk| desk.lease_bytes_per_s as f64).sum();
        self.site.leaving = leaving;
        self.site.hosts = hosts.len();
        self.site.lease_bytes_per_s = lent / hosts.len().max(1) as f64;
        self.lacking = 0;
        let mut quiet = std::mem::take(&mut self.raised);
        let mut asked = Vec::new();
        // All ranks first: what is settled now must not displace what only seems to be worth less.
        for (path, heat) in demand {
            let Some((path, _)) = self.objects.get_key_value(path) else { continue };
            let path = path.clone();
            quiet.remove(&path);
            let has_risen = self.rank(&path, &heat);
            asked.push((path, heat.at(now_ms, self.half_life_ms), has_risen));
        }
        for (path, heat, has_risen) in asked {
            // A steady rate counts for its half-life over the natural logarithm of two.
            let bytes_per_s = heat.bytes * std::f64::consts::LN_2 * 1000.0 / self.half_life_ms;
            self.follow(&path, &Asked { requests: heat.requests, bytes_per_s }, has_risen, now_ms);
        }
        quiet.iter().for_each(|path| self.follow(path, &Asked::default(), false, now_ms));
    }

    /// Notes what an object is worth; whether that has changed.
    fn rank(&mut self, path: &Arc<str>, heat: &Heat) -> bool {
        let Some(goal) = self.objects.get_mut(path) else { return false };
        let worth = self.policy.worth(heat, goal.version.size, self.half_life_ms);
        let has_changed = worth != goal.worth;
        if has_changed {
            goal.leave_queues(&mut self.desks, path);
            goal.set_worth(&mut self.desks, path, worth);
            goal.knock_again();
        }
        has_changed
    }

    fn follow(&mut self, path: &Arc<str>, asked: &Asked, has_risen: bool, now_ms: u64) {
        let Some(goal) = self.objects.get_mut(path) else { return };
        let before = goal.wanted.copies;
        // As long as no host is known, nothing is known of what they could take.
        goal.wanted.follow(desired(&self.site, asked).max(self.site.floor), now_ms, self.periods.keep);
        if goal.wanted.copies > self.site.floor {
            self.raised.insert(path.clone());
        }
        if has_risen || goal.wanted.copies != before {
            self.settle(path, now_ms);
        }
        let Some(goal) = self.objects.get(path) else { return };
        let is_hot = asked.requests >= HOT || goal.wanted.copies > self.site.floor;
        if is_hot && goal.presence == Presence::Present {
            let off = goal.relations.iter().filter(|(_, relation)| matches!(relation, Relation::Off { .. })).count();
            let held = goal.live_holders(&self.desks).count();
            self.lacking += usize::from(held < goal.wanted.copies.min(self.site.hosts.saturating_sub(off)));
        }
    }
}
