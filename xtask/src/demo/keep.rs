//! `--keep`: the sites run on for whoever wants to try them by hand.

use p2pcdn_tests::{Lab, Site, load::Generator};
use tokio::time::{Duration, interval};

use super::{
    DemoError,
    figures::{RAMP, TARGET},
    interruption,
};

/// Starts beta again, keeps alpha busy, says what to try, and waits for Ctrl-C.
pub(super) async fn until_interrupted(lab: &Lab, sites: &mut [Site; 3]) -> Result<(), DemoError> {
    sites[1].start().await?;
    let [alpha, ..] = sites;
    let generator = Generator::new(lab.client.clone(), alpha.domain.clone(), alpha.content.clone());
    generator.offer(RAMP.offered_rps);
    print(lab, sites);
    let mut second = interval(Duration::from_secs(1));
    tokio::select! {
        _ = interruption() => Ok(()),
        never = async { loop {
            second.tick().await;
            generator.take();
        } } => never,
    }
}

fn config(site: &Site) -> String {
    format!("--config {}", site.directory().join("agent.toml").display())
}

fn print(lab: &Lab, sites: &[Site; 3]) {
    let [alpha, beta, _] = sites;
    let ca = lab.directory().join("ca.pem");
    let curl = format!("curl --cacert {} --silent --output /dev/null", ca.display());
    let url = alpha.url(&alpha.content.path(0));
    let agent = lab.dist.agent.display();
    println!("\nAlpha carries {TARGET} requests/s itself and is offered {} until Ctrl-C. Try:\n", RAMP.offered_rps);
    println!("  # About two of three requests are redirected to whoever holds the object.");
    println!("  {curl} --write-out '%{{http_code}} %{{redirect_url}}\\n' {url}");
    println!("  # Followed, it ends with the same bytes.");
    println!("  curl --cacert {} --silent --location {url} | sha256sum", ca.display());
    println!(
        "  # Browsers get redirects for images, media and fonts of the page they show; this one asks for a document."
    );
    println!("  {curl} --write-out '%{{http_code}}\\n' --header 'Sec-Fetch-Mode: navigate' {url}");
    println!("  # Load, redirects and peers of each site; who holds what; an end to redirects, and a new beginning.");
    for site in sites {
        println!("  {agent} status {}", config(site));
    }
    for command in ["objects", "pause", "resume"] {
        println!("  {agent} {command} {}", config(alpha));
    }
    println!("  # Who a site is, as its peers read it.");
    println!("  curl --cacert {} {}", ca.display(), beta.url("/.well-known/p2pcdn/v1/peer"));
    if alpha.nginx.is_none() {
        println!("  # What the filter counts.");
        println!("  curl '{}'", alpha.admin_url("/stats?filter=wasmcustom"));
    }
    println!("\nConfiguration, logs and state: {}", lab.directory().display());
}
