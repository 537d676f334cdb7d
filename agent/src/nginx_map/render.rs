//! The text of the map file: what nginx needs to redirect by itself for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use p2pcdn_core::decide::{Candidate, ONE_PPM, Steering, choose};
use p2pcdn_core::destination::Destination;
use p2pcdn_core::eligibility::{Client, Rules, judge, judge_object};
use p2pcdn_core::object::Sha256;
use p2pcdn_core::request_head::RequestHead;
use p2pcdn_core::sync::ObjectRow;

/// What browsers ask for that nginx can tell apart by itself, and the words by which it does (nginx-config/stock-map.conf).
///
/// Nothing in CORS mode: when a host sends such a visitor back, nginx would have to know what may be read from where.
pub const KINDS: [(Destination, &str); 2] = [(Destination::Image, "image"), (Destination::Media, "media")];
/// How finely requests are divided among holders: nginx counts in hundredths of a percent.
const PARTS: u32 = 10_000;
/// nginx tells the time by the first digits of its seconds.
const STRETCH_S: u64 = 100;

/// One object that requests of one kind are redirected for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Word for the kind of request.
    pub kind: &'static str,
    /// Its path.
    pub path: String,
    /// Its present version.
    pub sha256: Sha256,
    /// Who holds it and could take such a request.
    pub candidates: Vec<Candidate>,
}

/// Whether a request of this kind for this object may leave, by the same judgement as everywhere; it has to be fresh for `for_s` more
/// seconds.
pub fn may_leave(kind: Destination, path: &str, row: &ObjectRow, rules: &Rules, now_s: u64, for_s: u64) -> bool {
    // A request just as the configuration lets through.
    let dest: &[u8] = if kind == Destination::Media { b"video" } else { b"image" };
    let mut head = RequestHead::default();
    let headers: [(&[u8], &[u8]); 5] = [
        (b":method", b"GET"),
        (b":path", path.as_bytes()),
        (b"sec-fetch-site", b"same-origin"),
        (b"sec-fetch-mode", b"no-cors"),
        (b"sec-fetch-dest", dest),
    ];
    headers.into_iter().for_each(|(name, value)| head.observe(name, value));
    let is_fresh = u64::from(row.fresh_until_s) > now_s.saturating_add(for_s);
    let accepted = judge(&head, rules, false).ok().filter(|accepted| accepted.client == Client::Browser(kind));
    let may_leave = |accepted| judge_object(&accepted, row.class, row.size, row.sharing, rules).is_ok();
    is_fresh && accepted.is_some_and(may_leave)
}

/// Writes the file.
///
/// `authorities` names the candidates. nginx redirects until about `ttl_s` seconds after `now_s` and no longer, unless it gets another
/// file. Paths that differ in upper and lower case only are left out, since nginx takes them for the same.
pub fn render(
    origin: &str,
    steering: Steering,
    entries: &[Entry],
    authorities: &BTreeMap<u16, String>,
    now_s: u64,
    ttl_s: u64,
) -> String {
    let fraction_ppm = if steering.killed { 0 } else { steering.fraction_ppm.min(ONE_PPM) };
    let mut text = String::from("# Written by the p2pcdn agent and included by nginx; changes are lost.\n");
    let _ =
        writeln!(text, "geo $p2pcdn_origin {{\n    default {origin};\n}}\ngeo $p2pcdn_dollar {{\n    default $;\n}}");
    text += "# Until when this holds: the first digits of the seconds since 1970.\nmap $msec $p2pcdn_is_current {\n    default \"\";\n";
    for stretch in now_s / STRETCH_S..=(now_s + ttl_s) / STRETCH_S {
        let _ = writeln!(text, "    ~^{stretch}\\d\\d\\. 1;");
    }
    text += "}\n# Which share of what can be redirected is redirected.\nsplit_clients $request_id $p2pcdn_leaves {\n";
    match u64::from(fraction_ppm) * u64::from(PARTS) / u64::from(ONE_PPM) {
        0 => text += "    * \"\";\n",
        10_000 => text += "    * 1;\n",
        parts => {
            let _ = writeln!(text, "    {}% 1;\n    * \"\";", percent(parts));
        }
    }
    text += "}\n";

    let mut known = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for entry in entries {
        let key = (entry.kind, entry.path.to_ascii_lowercase());
        if !known.insert(key.clone()) {
            twice.insert(key);
        }
    }
    let mut sets: BTreeMap<Vec<(u16, u16, bool)>, usize> = BTreeMap::new();
    let mut lines = String::new();
    for entry in entries.iter().filter(|entry| !twice.contains(&(entry.kind, entry.path.to_ascii_lowercase()))) {
        let set: Vec<_> = entry.candidates.iter().map(|c| (c.holder, c.weight, c.newcomer)).collect();
        let next = sets.len();
        let number = *sets.entry(set).or_insert_with(|| {
            divide(&mut text, next, &entry.candidates, steering.pure_balancer, authorities);
            next
        });
        let Entry { kind, path, sha256, .. } = entry;
        // A canonical path has neither quotes nor backslashes; in the value, a dollar sign would begin a variable.
        let value = path.replace('$', "${p2pcdn_dollar}");
        let _ = writeln!(lines, "    \"{kind}{path}\" \"${{p2pcdn_hosts_{number}}} {sha256} {value}\";");
    }
    text += "# What requests of which kind are for: by whom, which version, and the path letter by letter.\n";
    text += "map \"$p2pcdn_kind$request_uri\" $p2pcdn_found {\n    default \"\";\n";
    text + &lines + "}\n"
}

/// Divides requests among the candidates just as `choose` does.
fn divide(
    text: &mut String,
    number: usize,
    candidates: &[Candidate],
    pure_balancer: bool,
    authorities: &BTreeMap<u16, String>,
) {
    let mut shares: BTreeMap<u16, u64> = BTreeMap::new();
    for part in 0..PARTS {
        if let Some(holder) = choose(candidates, pure_balancer, part.into(), part * (ONE_PPM / PARTS)) {
            *shares.entry(holder).or_default() += 1;
        }
    }
    let _ = writeln!(text, "split_clients \"hosts$request_id\" $p2pcdn_hosts_{number} {{");
    for (holder, parts) in shares {
        if let Some(authority) = authorities.get(&holder) {
            let _ = match parts {
                10_000 => writeln!(text, "    * {authority};"),
                parts => writeln!(text, "    {}% {authority};", percent(parts)),
            };
        }
    }
    text.push_str("}\n");
}

fn percent(parts: u64) -> String {
    format!("{}.{:02}", parts / 100, parts % 100)
}

#[cfg(test)]
mod tests;
