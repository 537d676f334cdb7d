//! `p2pcdn peers`, `why`, `forgive` and `ban`.

use std::fmt::Write;

use super::client::Agent;
use super::show::{Format, print, print_json, size, table};
use super::{CliError, PeerArgs};
use crate::identity::plain;
use crate::local_api::PeerRequest;
use crate::local_api::trust::{
    TRUST_BAN_PATH, TRUST_FORGIVE_PATH, TRUST_PATH, TRUST_WHY_PATH, TrustStatus, TrustedPeer,
};
use crate::reputation::account::{Cause, Event, Line, Membership, Verdict};
use crate::reputation::book::Mode;
use crate::reputation::{Explanation, State};

pub(super) async fn peers(agent: &Agent<'_>, format: Format) -> Result<(), CliError> {
    let status: TrustStatus = agent.get(TRUST_PATH).await?;
    if format.json {
        return print_json(&status);
    }
    let mut rows = table();
    rows.set_header(["peer", "joined", "stands", "weight", "clean", "audits", "measured"]);
    for peer in &status.peers {
        rows.add_row([
            plain(&peer.domain),
            match peer.membership {
                Membership::Invited => "invited".to_owned(),
                Membership::Open => "open".to_owned(),
            },
            standing(peer.standing),
            format!("{:.3}", peer.weight),
            peer.clean.to_string(),
            verdicts(peer),
            if peer.measured_bytes_per_s > 0.0 {
                format!("{}/s", size(peer.measured_bytes_per_s as u64))
            } else {
                "-".into()
            },
        ]);
    }
    print(&rows)?;
    if status.mode == Mode::Observe {
        println!("trust.mode is \"observe\": nothing follows from this but for bans");
    }
    Ok(())
}

pub(super) async fn why(agent: &Agent<'_>, args: PeerArgs) -> Result<(), CliError> {
    let why: Explanation = agent.post(TRUST_WHY_PATH, &PeerRequest { domain: args.domain.clone() }).await?;
    if args.json { print_json(&why) } else { explain(&args.domain, &why) }
}

pub(super) async fn forgive(agent: &Agent<'_>, args: PeerArgs) -> Result<(), CliError> {
    let why: Explanation = agent.post(TRUST_FORGIVE_PATH, &PeerRequest { domain: args.domain.clone() }).await?;
    if args.json { print_json(&why) } else { explain(&args.domain, &why) }
}

pub(super) async fn ban(agent: &Agent<'_>, args: PeerArgs) -> Result<(), CliError> {
    let why: Explanation = agent.post(TRUST_BAN_PATH, &PeerRequest { domain: args.domain.clone() }).await?;
    if args.json { print_json(&why) } else { explain(&args.domain, &why) }
}

fn explain(domain: &str, why: &Explanation) -> Result<(), CliError> {
    println!("{}: {}, weight {:.3}", plain(domain), standing(why.state), why.weight);
    let mut factors = table();
    factors.set_header(["factor", "value", "because"]);
    for factor in &why.factors {
        factors.add_row([plain(&factor.name), format!("{:.3}", factor.value), plain(&factor.because)]);
    }
    print(&factors)?;
    let mut lines = table();
    lines.set_header(["when", "times", "what"]);
    for line in &why.lines {
        lines.add_row([when(line), line.count.to_string(), plain(what(&line.event))]);
    }
    print(&lines)
}

fn standing(state: State) -> String {
    match state {
        State::Trusted => "trusted".into(),
        State::Newcomer => "newcomer".into(),
        State::Struck { owed } => format!("no redirects until {owed} audits are clean"),
        State::Suspended { until_ms } => format!("suspended until {}", time(until_ms)),
        State::Isolated { until_ms } => format!("isolated until {}", time(until_ms)),
        State::Convicted => "convicted (p2pcdn forgive ends that)".into(),
        State::Banned => "banned (p2pcdn forgive ends that)".into(),
    }
}

fn verdicts(peer: &TrustedPeer) -> String {
    let mut text = String::new();
    for (verdict, count) in &peer.audits {
        let separator = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{count} {}", in_words(*verdict));
    }
    if text.is_empty() { "none yet".into() } else { text }
}

fn in_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::WrongBytes => "wrong bytes",
        other => other.name(),
    }
}

fn what(event: &Event) -> String {
    match event {
        Event::Met { membership: Membership::Invited } => "became a peer by invitation".into(),
        Event::Met { membership: Membership::Open } => "joined the open membership".into(),
        Event::Audit { verdict: Verdict::Good, .. } => "audit: good".into(),
        Event::Audit { verdict, path } => format!("audit: {} at {path}", in_words(*verdict)),
        Event::Strike { owed } => format!("strike: no redirects until {owed} audits are clean"),
        Event::Isolated { until_ms } => format!("isolated until {}", time(*until_ms)),
        Event::Suspected { cause: Cause::Return } => "looked at more closely: clients came back from it".into(),
        Event::Suspected { cause: Cause::Hearsay } => {
            "looked at more closely, and sent less: credible peers speak ill of it".into()
        }
        Event::Suspected { cause: Cause::Visitors } => "looked at more closely: visitors report wrong bytes".into(),
        Event::Cleared => "own audits have ended the suspicion".into(),
        Event::Suspended { until_ms, because } => format!("suspended until {}: {because}", time(*until_ms)),
        Event::Resumed => "suspended no longer".into(),
        Event::Convicted { because } => format!("convicted: {because}"),
        Event::Banned => "banned by the operator".into(),
        Event::Forgiven => "forgiven by the operator".into(),
    }
}

fn when(line: &Line) -> String {
    time(line.at_ms)
}

fn time(ms: u64) -> String {
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms)).to_string()
}
