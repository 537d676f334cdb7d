//! Headless Chromium, driven through chromedriver.
//!
//! It resolves every name below `localhost` to loopback by itself and nothing else at all, and takes the certificates of the lab's sites for
//! good by their keys: unlike a switch that ignores every certificate error, that leaves caching and service workers as they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use p2pcdn_tests::process::Program;
use p2pcdn_tests::tunnel::Tunnel;
use p2pcdn_tests::{Site, poll};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{PATIENCE, installed};

/// How long a script in a page may take.
const SCRIPT: Duration = Duration::from_secs(60);
const FLAGS: [&str; 12] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE *.localhost",
    // The browser ends with chromedriver, which holds the other end of the pipe.
    "--remote-debugging-pipe",
];

/// A running chromedriver; browsers end with it.
pub(crate) struct Driver {
    url: String,
    pins: Vec<String>,
    // Before the directory in which it writes.
    program: Program,
    directory: TempDir,
}

/// One browser with a profile of its own.
pub(crate) struct Browser {
    pub(crate) client: Client,
    downloads: PathBuf,
}

/// A command of the Chrome DevTools Protocol.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl Driver {
    /// Starts chromedriver for browsers that trust these sites.
    pub(crate) async fn start(sites: &[Site]) -> Self {
        installed("chromium", "chromium");
        let path = installed("chromedriver", "chromium-driver");
        let directory = tempfile::Builder::new().prefix("p2pcdn-browser-").tempdir().unwrap();
        let mut program = Program::new("chromedriver", &path, vec!["--port=0".into()], directory.path());
        program.start().unwrap();
        let port = poll(PATIENCE, "port of chromedriver", async || {
            let said = program.tail();
            let port = said.split("successfully on port ").nth(1).and_then(|rest| rest.split_once('.'));
            port.map(|(port, _)| port.to_owned()).ok_or(said)
        });
        let url = format!("http://127.0.0.1:{}", port.await.unwrap());
        Self { url, pins: sites.iter().map(pin).collect(), program, directory }
    }

    /// Starts a browser with a new profile of this name.
    pub(crate) async fn browser(&self, name: &str) -> Browser {
        self.browser_with(name, json!({})).await
    }

    /// Like [`Driver::browser`], for a visitor whose connections go through the tunnel.
    pub(crate) async fn browser_through(&self, name: &str, tunnel: &Tunnel) -> Browser {
        // By a name, since addresses are not resolved; loopback is not proxied unless one says so.
        let proxy = format!("--proxy-server=http://tunnel.localhost:{}", tunnel.port());
        self.launch(name, json!({}), &[proxy, "--proxy-bypass-list=<-loopback>".into()]).await
    }

    /// Like [`Driver::browser`], with what chromedriver is to log: `goog:loggingPrefs`.
    pub(crate) async fn browser_with(&self, name: &str, logging: Value) -> Browser {
        self.launch(name, logging, &[]).await
    }

    async fn launch(&self, name: &str, logging: Value, more_flags: &[String]) -> Browser {
        let profile = self.directory.path().join(name);
        let downloads = self.directory.path().join(format!("{name}-downloads"));
        std::fs::create_dir_all(&downloads).unwrap();
        let mut flags: Vec<String> = FLAGS.map(Into::into).into();
        flags.extend_from_slice(more_flags);
        flags.push(format!("--user-data-dir={}", profile.display()));
        flags.push(format!("--ignore-certificate-errors-spki-list={}", self.pins.join(",")));
        let options = json!({
            "args": flags,
            "prefs": { "download.default_directory": downloads, "download.prompt_for_download": false },
        });
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), options);
        capabilities.insert("goog:loggingPrefs".into(), logging);
        capabilities.insert("timeouts".into(), json!({ "script": SCRIPT.as_millis() as u64 }));
        let client = Client::with_capabilities_and_connector(&self.url, &capabilities, HttpConnector::new()).await;
        let client = client.unwrap_or_else(|error| panic!("{error}\n{}", self.program.tail()));
        Browser { client, downloads }
    }
}

impl Browser {
    /// Opens a page and waits until it has loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap_or_else(|error| panic!("{url}: {error}"));
    }

    /// Runs a script in the page; what the promise that it returns comes to is the result.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Clicks on an element as a visitor does.
    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Issues a command of the Chrome DevTools Protocol.
    pub(crate) async fn devtools(&self, command: &'static str, parameters: Value) -> Value {
        self.client.issue_cmd(DevTools { command, parameters }).await.unwrap()
    }

    /// Where downloads go.
    pub(crate) fn downloads(&self) -> &Path {
        &self.downloads
    }

    /// Ends the browser.
    pub(crate) async fn close(self) {
        self.client.close().await.unwrap();
    }
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (http::Method::POST, Some(body.to_string()))
    }
}

/// SHA-256 of the site's public key, as Chromium takes it.
fn pin(site: &Site) -> String {
    let pem = std::fs::read_to_string(site.directory().join("key.pem")).unwrap();
    let key = KeyPair::from_pem(&pem).unwrap();
    BASE64_STANDARD.encode(Sha256::digest(key.subject_public_key_info()))
}
