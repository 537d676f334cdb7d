//! How many copies an object should have: pure, so that the policy can be read and tested in one place.

/// What holds for all objects of the site alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Site {
    /// Copies that every object should have, asked for or not.
    pub floor: usize,
    /// Hosts that take offers.
    pub hosts: usize,
    /// The share of what could leave the site that has to, from 0 (the site meets its target) to 1 (it is a pure load balancer).
    pub leaving: f64,
    /// Bytes per second that a host lends, on average; 0 if that is not known yet.
    pub lease_bytes_per_s: f64,
}

/// How much one object is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Asked {
    /// Requests that still count.
    pub requests: f64,
    /// Bytes per second.
    pub bytes_per_s: f64,
}

/// How many copies an object is meant to have by now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// So many.
    pub copies: usize,
    /// Since when fewer would do.
    lull_ms: Option<u64>,
}

/// Requests that still count from which on an object is hot: about one in ten seconds.
pub const HOT: f64 = 8.0;
/// One object is to take no more than this share of what a host lends, since it has others to serve.
const LEASE_SHARE: f64 = 0.25;

/// How many copies an object should have: the floor, and while the site is beyond its target as many as carry what has to leave,
/// or as bring the site closer to a pure load balancer the further beyond its target it is, up to all hosts.
pub fn desired(site: &Site, asked: &Asked) -> usize {
    let floor = site.floor.min(site.hosts);
    let leaving = site.leaving.clamp(0.0, 1.0);
    if leaving <= 0.0 || asked.requests < 1.0 {
        return floor;
    }
    let heat = (asked.requests / HOT).min(1.0);
    let spread = floor + ((site.hosts - floor) as f64 * leaving * heat).ceil() as usize;
    let per_host = site.lease_bytes_per_s * LEASE_SHARE;
    let carrying = if per_host > 0.0 { (asked.bytes_per_s * leaving / per_host).ceil() as usize } else { 0 };
    spread.max(carrying).clamp(floor, site.hosts)
}

impl Wanted {
    /// At once up to what is desired; down only by half of what is too much each time that less was desired for `keep_ms`, so that
    /// a crowd that comes in waves is not copied anew with each.
    pub fn follow(&mut self, desired: usize, now_ms: u64, keep_ms: u64) {
        if desired >= self.copies {
            *self = Self { copies: desired, lull_ms: None };
        } else if now_ms.saturating_sub(*self.lull_ms.get_or_insert(now_ms)) >= keep_ms {
            *self = Self { copies: desired + (self.copies - desired) / 2, lull_ms: Some(now_ms) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn site(leaving: f64) -> Site {
        Site { floor: 2, hosts: 10, leaving, lease_bytes_per_s: 1e6 }
    }

    #[test]
    fn copies_follow_load_heat_and_bandwidth() {
        let hot = Asked { requests: 100.0, bytes_per_s: 1.0 };
        let warm = Asked { requests: HOT / 2.0, bytes_per_s: 1.0 };
        let cold = Asked::default();
        let heavy = Asked { requests: 2.0, bytes_per_s: 1e6 };
        for (leaving, asked, copies) in [
            (0.0, hot, 2),
            (0.01, hot, 3),
            (0.5, hot, 6),
            (1.0, hot, 10),
            (1.0, warm, 6),
            (1.0, cold, 2),
            (0.0, heavy, 2),
            (0.5, heavy, 3),
            (1.0, heavy, 4),
            (1.0, Asked { bytes_per_s: 2e6, ..heavy }, 8),
        ] {
            assert_eq!(desired(&site(leaving), &asked), copies, "{leaving} {asked:?}");
        }
        assert_eq!(desired(&Site { hosts: 1, ..site(0.0) }, &cold), 1);
        assert_eq!(desired(&Site { hosts: 0, ..site(1.0) }, &hot), 0);
    }

    #[test]
    fn copies_rise_at_once_and_fall_slowly() {
        let mut wanted = Wanted::default();
        wanted.follow(2, 0, 100);
        wanted.follow(10, 1, 100);
        assert_eq!(wanted.copies, 10);
        let mut fallen = Vec::new();
        for now_ms in (50..=700).step_by(50) {
            wanted.follow(2, now_ms, 100);
            fallen.push(wanted.copies);
        }
        assert_eq!(fallen, [10, 10, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2]);
        wanted.follow(10, 1000, 100);
        wanted.follow(2, 1001, 100);
        wanted.follow(10, 1050, 100);
        wanted.follow(2, 1110, 100);
        assert_eq!(wanted.copies, 10, "a wave in between begins the wait anew");
    }

    proptest! {
        #[test]
        fn never_below_the_floor_nor_above_all_and_never_less_for_more(
            floor in 0..8usize, hosts in 0..64usize, leaving in 0.0..1.0f64, more in 0.0..1.0f64,
            lease_bytes_per_s in 0.0..1e9f64, requests in 0.0..1e4f64, bytes_per_s in 0.0..1e10f64,
        ) {
            let site = Site { floor, hosts, leaving, lease_bytes_per_s };
            let asked = Asked { requests, bytes_per_s };
            let copies = desired(&site, &asked);
            prop_assert!((floor.min(hosts)..=hosts).contains(&copies));
            let beyond = Site { leaving: leaving.max(more), ..site };
            let asked_more = Asked { requests: requests * (1.0 + more), ..asked };
            let more_bytes = Asked { bytes_per_s: bytes_per_s * (1.0 + more), ..asked };
            prop_assert!(desired(&beyond, &asked) >= copies);
            prop_assert!(desired(&site, &asked_more) >= copies);
            prop_assert!(desired(&site, &more_bytes) >= copies);
            if requests >= HOT {
                let balancer = Site { leaving: 1.0, ..site };
                prop_assert_eq!(desired(&balancer, &asked), hosts, "a pure balancer needs it everywhere");
            }
        }

        #[test]
        fn what_is_desired_is_reached_in_the_end_and_never_undercut(
            steps in prop::collection::vec((0..20usize, 0..300u64), 1..40),
        ) {
            let (mut wanted, mut now_ms) = (Wanted::default(), 0);
            for (desired, pause_ms) in &steps {
                now_ms += pause_ms;
                let before = wanted.copies;
                wanted.follow(*desired, now_ms, 100);
                prop_assert!(wanted.copies >= *desired);
                prop_assert!(wanted.copies >= before / 2);
            }
            let last = steps.last().unwrap().0;
            for _ in 0..10 {
                now_ms += 100;
                wanted.follow(last, now_ms, 100);
            }
            prop_assert_eq!(wanted.copies, last);
        }
    }
}
