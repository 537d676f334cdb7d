//! `p2pcdn doctor`.

use clap::Args;
use serde::Serialize;
use url::Url;

use super::CliError;
use super::client::Agent;
use super::show::{Format, print, print_json, table};
use crate::doctor::{AgentFacts, Finding, Severity, examine};
use crate::local_api::HOLDERS_PATH;
use crate::settings::Settings;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// The page to look at.
    #[arg(value_parser = page_url)]
    url: Url,
    #[command(flatten)]
    format: Format,
}

/// What is printed with `--json`.
#[derive(Serialize)]
struct Diagnosis<'a> {
    url: &'a str,
    passed: bool,
    findings: &'a [Finding],
}

/// Looks at the page and at every holder, and fails if something would go wrong.
pub(super) async fn doctor(settings: &Settings, args: DoctorArgs) -> Result<(), CliError> {
    // Without an agent there is still the page to look at.
    let agent = Agent::of(settings).get::<AgentFacts>(HOLDERS_PATH).await.ok();
    let findings = examine(settings, &args.url, agent.as_ref()).await?;
    let problems = findings.iter().filter(|finding| finding.severity == Severity::Fail).count();
    if args.format.json {
        print_json(&Diagnosis { url: args.url.as_str(), passed: problems == 0, findings: &findings })?;
    } else {
        let mut table = table();
        table.set_header(["", "what", "where", "finding", "line to add"]);
        for Finding { severity, check, place, says, add } in findings {
            let word = match severity {
                Severity::Ok => "ok",
                Severity::Warn => "warn",
                Severity::Fail => "FAIL",
            };
            table.add_row([word, check.name(), &place, &says, add.as_deref().unwrap_or_default()]);
        }
        print(&table)?;
    }
    if problems == 0 { Ok(()) } else { Err(CliError::Problems(problems)) }
}

fn page_url(text: &str) -> Result<Url, String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        _ => Err("must be a URL, as in https://www.example.org/".into()),
    }
}
