//! What the agent knows, as tables or as JSON.

use std::io::{self, Write};

use bytesize::ByteSize;
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::client::Agent;
use super::{CliError, leave};
use crate::gossip::Observation;
use crate::gossip::teller::GossipStatus;
use crate::identity::plain;
use crate::local_api::status::{ObjectStatus, PeerState, PeerStatus, Status};
use crate::local_api::{GOSSIP_PATH, OBJECTS_PATH, PAUSE_PATH, RESUME_PATH, STATUS_PATH};
use crate::policy::watch::PageStatus;
use crate::replicate::host::terms::DepartureState;
use crate::replicate::origin::holders::Health;

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Format {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn status(agent: &Agent<'_>, format: Format) -> Result<(), CliError> {
    let status: Status = agent.get(STATUS_PATH).await?;
    if format.json {
        return print_json(&status);
    }
    let steering = &status.steering;
    let redirects = if steering.killed {
        "paused (p2pcdn resume ends that)".to_owned()
    } else if steering.pure_balancer {
        "everything eligible (pure load balancer)".to_owned()
    } else {
        format!("{:.1} % of eligible requests", f64::from(steering.fraction_ppm) / 10_000.0)
    };
    let rates = &status.load.rates;
    let load = format!(
        "{:.1} requests/s ({:.1} eligible, {:.1} redirected), {} in flight, {} workers",
        rates.requests, rates.eligible, rates.redirected, status.load.in_flight, status.load.workers
    );
    let lack = if status.objects.lacks_replicas { "; hot ones are still being copied" } else { "" };
    let mut own = format!("{}, {} with replicas elsewhere{lack}", status.objects.own, status.table.objects);
    let looks = &status.objects.looks;
    if looks.waiting > 0 {
        own.push_str(&format!("; {} files are yet to be asked for as a stranger", looks.waiting));
    }
    if looks.not_public > 0 {
        own.push_str(&format!("; {} files are not for strangers and stay here", looks.not_public));
    }
    if let Some(trouble) = &looks.trouble {
        own.push_str(&format!("\nnothing new is shared: {}", plain(trouble)));
    }
    let hosting = &status.hosting;
    let lease = match (hosting.lease_available_bytes_per_s, hosting.lease_total_bytes_per_s) {
        (now, total) if now == total => format!("leases of {}/s in total", size(total)),
        (now, total) => format!("leases of {}/s in total, now {}/s beside own visitors", size(total), size(now)),
    };
    let held = format!("{} replicas, {}", status.objects.hosted, size(status.objects.hosted_bytes));
    let mut hosted = match (hosting.departure.state, hosting.denied) {
        (DepartureState::Staying, 0) => format!("{held}; {lease}"),
        (DepartureState::Staying, denied) => format!("{held}; {lease}; {denied} denied (p2pcdn deny list)"),
        _ => leave::describe(&hosting.departure),
    };
    if let Some(trouble) = &status.objects.trouble {
        hosted.push_str(&format!("\ntakes no more: {}", plain(trouble)));
    }
    let mut facts = table();
    facts.add_row(["site".to_owned(), format!("{} (p2pcdn {})", plain(&status.domain), plain(&status.version))]);
    facts.add_row(["redirects".to_owned(), redirects]);
    facts.add_row(["load".to_owned(), load]);
    if let Some(sent) = status.load.sent_bytes_per_s {
        facts.add_row(["egress".to_owned(), format!("{}/s", size(sent as u64))]);
    }
    facts.add_row(["own objects".to_owned(), own]);
    facts.add_row(["for others".to_owned(), hosted]);
    facts.add_row(["policy".to_owned(), policy(&status)]);
    if !status.refused.is_empty() {
        let mut reasons: Vec<_> = status.refused.iter().collect();
        reasons.sort_by_key(|(_, requests)| std::cmp::Reverse(**requests));
        let reasons: Vec<String> = reasons.iter().map(|(reason, n)| format!("{} {n}", plain(reason))).collect();
        facts.add_row(["stayed here".to_owned(), reasons.join(", ")]);
    }
    print(&facts)?;
    print(&peer_table(&status.peers))
}

/// Why browsers are redirected or not, as far as the pages decide.
fn policy(status: &Status) -> String {
    let policy = &status.policy;
    let problem = |page: &PageStatus| Some(format!("{} {}", plain(&page.path), plain(page.problem.as_ref()?)));
    let problems: Vec<String> = policy.pages.iter().filter_map(problem).collect();
    if !policy.known {
        let pages: Vec<&str> = policy.pages.iter().filter(|page| page.listed).map(|page| page.path.as_str()).collect();
        let why = if problems.is_empty() { plain(pages.join(", ")) } else { problems.join("; ") };
        return format!(
            "pages not read yet: {why}\nno browser is redirected; see site.pages, or declare the policy in site.csp"
        );
    }
    let source = match policy.csp.as_str() {
        "none" => "none, by site.csp".to_owned(),
        "declared" => "declared in site.csp".to_owned(),
        _ => format!("{} of {} pages read", policy.pages.iter().filter(|page| page.known).count(), policy.pages.len()),
    };
    // That a host serves no downloads is no matter of policy.
    let forbidden = |peer: &PeerStatus| {
        let what: Vec<&str> = peer.blocked.iter().map(String::as_str).filter(|what| *what != "downloads").collect();
        (!what.is_empty()).then(|| format!("forbids {} at {}", plain(what.join(", ")), plain(&peer.domain)))
    };
    let lines = [source].into_iter().chain(status.peers.iter().filter_map(forbidden)).chain(problems);
    lines.collect::<Vec<_>>().join("\n")
}

pub(super) async fn peers(agent: &Agent<'_>, format: Format) -> Result<(), CliError> {
    let status: Status = agent.get(STATUS_PATH).await?;
    if format.json { print_json(&status.peers) } else { print(&peer_table(&status.peers)) }
}

pub(super) async fn objects(agent: &Agent<'_>, format: Format) -> Result<(), CliError> {
    let objects: Vec<ObjectStatus> = agent.get(OBJECTS_PATH).await?;
    if format.json {
        return print_json(&objects);
    }
    let mut table = table();
    table.set_header(["path", "size", "class", "sha256", "wanted", "held", "held by"]);
    for object in objects {
        let digest = object.sha256.to_string();
        table.add_row([
            plain(&object.path),
            size(object.size),
            object.class.name().to_owned(),
            digest[..12].to_owned(),
            object.wanted.to_string(),
            object.holders.len().to_string(),
            if object.holders.is_empty() { "nobody yet".to_owned() } else { plain(object.holders.join(", ")) },
        ]);
    }
    print(&table)
}

pub(super) async fn gossip(agent: &Agent<'_>, format: Format) -> Result<(), CliError> {
    let gossip: GossipStatus = agent.get(GOSSIP_PATH).await?;
    if format.json {
        return print_json(&gossip);
    }
    let mut table = table();
    table.set_header(["site", "its word counts", "says of others", "convicted"]);
    for member in &gossip.members {
        let said = |entry: &Observation| {
            format!("{}: {} good, {} bad, {} wrong", entry.subject, entry.good, entry.bad, entry.wrong)
        };
        let list = member.observations.iter().flat_map(|list| &list.entries).map(said).map(plain);
        table.add_row([
            plain(&member.domain),
            format!("{:.0}%", member.credit * 100.0),
            list.collect::<Vec<_>>().join("\n"),
            gossip.convicted.get(&member.key).map(plain).unwrap_or_default(),
        ]);
    }
    print(&table)
}

pub(super) async fn pause(agent: &Agent<'_>) -> Result<(), CliError> {
    let _: Status = agent.post(PAUSE_PATH, &()).await?;
    println!("redirects end in every worker within a few ticks; p2pcdn resume brings them back");
    Ok(())
}

pub(super) async fn resume(agent: &Agent<'_>) -> Result<(), CliError> {
    let _: Status = agent.post(RESUME_PATH, &()).await?;
    println!("redirects follow the load again");
    Ok(())
}

fn peer_table(peers: &[PeerStatus]) -> Table {
    let mut table = table();
    table.set_header(["peer", "state", "health", "holds", "declined", "redirects", "lease", "held for it", "note"]);
    for peer in peers {
        let state = match peer.state {
            PeerState::Invited => "invited",
            PeerState::Pinned if peer.invited => "peer",
            PeerState::Pinned => "open peer",
            PeerState::Removed => "removed",
            PeerState::Pending => "pending",
            PeerState::KeyChanged => "key changed",
        };
        let health = match peer.health {
            None => "-".to_owned(),
            Some(Health::Unproven) => "unproven".to_owned(),
            Some(Health::Down) => "down".to_owned(),
            Some(Health::Up { weight }) => format!("up {}%", weight / 10),
        };
        table.add_row([
            plain(&peer.domain),
            state.to_owned(),
            health,
            peer.holds.to_string(),
            peer.declined.to_string(),
            peer.redirects.to_string(),
            format!("{}/s", size(peer.lease_bytes_per_s)),
            size(peer.hosted_bytes),
            note(peer),
        ]);
    }
    table
}

/// What is wrong, what the peer did not take or keep, and whom to ask about that.
fn note(peer: &PeerStatus) -> String {
    let declined = peer.declined_for.iter().map(|(reason, n)| format!("declined {n}: {reason}"));
    let withdrawn = peer.withdrawn_for.iter().map(|(reason, n)| format!("withdrew {n}: {reason}"));
    let contact = (!peer.contact.is_empty()).then(|| format!("contact: {}", peer.contact));
    let note = (!peer.note.is_empty()).then(|| peer.note.clone());
    let lines: Vec<String> = note.into_iter().chain(declined).chain(withdrawn).chain(contact).map(plain).collect();
    lines.join("\n")
}

pub(super) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    // To the width of the terminal, if there is one.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table
}

pub(super) fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

pub(super) fn print(table: &Table) -> Result<(), CliError> {
    writeln!(io::stdout(), "{table}").or_else(ignore_closed_pipe)?;
    Ok(())
}

pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(io::stdout(), "{text}").or_else(ignore_closed_pipe)?;
    Ok(())
}

/// `p2pcdn objects | head` is no error.
fn ignore_closed_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_of_80_columns_has_room_for_the_widest_table() {
        let mut peers = peer_table(&[]);
        let domain = "a-rather-long-name.of-a-site.example.org:8443";
        let note = "declined 12: over_quota\ncontact: somebody@example.org";
        peers.add_row([domain, "key changed", "unproven", "100000", "100", "1000000", "10.0 MB/s", "5.0 GB", note]);
        peers.set_width(80);
        assert!(peers.lines().all(|line| line.chars().count() <= 80), "{peers}");
    }
}
