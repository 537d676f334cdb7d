//! One site: Envoy in front, an agent beside it, a directory of content behind them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::uri::Authority;
use p2pcdn_core::peer::PEER_DOCUMENT_PATH;
use serde_json::{Value, json};

use crate::access::{self, Access};
use crate::client::Client;
use crate::config;
use crate::content::Content;
use crate::network::Place;
use crate::nginx::{self, Nginx, Values};
use crate::ports::Port;
use crate::process::Program;
use crate::{Error, Lab, poll};

/// Where further keys of the filter find their place in the configuration that ships.
const NO_KEYS: &str = r#""exclude": []"#;
/// How long a site may take to start.
const START: Duration = Duration::from_secs(30);

/// A site; it is stopped when this value is dropped, and then, if the thread panics, shows the end of its logs.
pub struct Site {
    /// Its name in the lab.
    pub name: String,
    /// Authority of the site itself.
    pub domain: Authority,
    /// Authority under which it serves replicas.
    pub replica_name: Authority,
    /// What the site serves.
    pub content: Content,
    /// The agent.
    pub agent: Program,
    /// The proxy: Envoy, or nginx in its place.
    pub envoy: Program,
    /// Which nginx stands in Envoy's place.
    pub nginx: Option<Nginx>,
    client: Client,
    directory: PathBuf,
    /// The configuration that ships, and the name of this site's own.
    shipped: (PathBuf, &'static str),
    settings: BTreeMap<String, Value>,
    edits: BTreeMap<&'static str, String>,
    invited: Vec<String>,
    public: Port,
    admin: Port,
    /// Where nginx hears itself of requests that came back.
    returns: Port,
    /// Whether its loopback is not this thread's.
    is_apart: bool,
    /// The agent's own: local, replica, peer, origin.
    internal: [Port; 4],
}

impl Site {
    pub(crate) fn new(lab: &Lab, name: &str, place: Option<&Place>) -> Result<Self, Error> {
        let directory = lab.directory().join(name);
        let held = |_| Port::hold();
        let ports = (|| Ok((held(())?, held(())?, held(())?, [held(())?, held(())?, held(())?, held(())?])))();
        let (public, admin, returns, internal) = ports.map_err(Error::io("find free ports for", Path::new(name)))?;
        let local = || [format!("{name}.localhost"), format!("replica.{name}.localhost")];
        let [site_name, replica_host] = place.map_or_else(local, |place| place.addresses.map(|a| a.to_string()));
        let address = if place.is_some() { "0.0.0.0" } else { "127.0.0.1" };
        let authority = |host: &str| -> Authority {
            format!("{host}:{}", public.number).parse().expect("a DNS label and a port make an authority")
        };
        let (domain, replica_name) = (authority(&site_name), authority(&replica_host));

        let srv = directory.join("srv");
        fs::create_dir_all(&srv).map_err(Error::io("create", &srv))?;
        let leaf = lab.ca.issue(&[&site_name, &replica_host])?;
        write(&directory.join("cert.pem"), &leaf.certificate_pem)?;
        write(&directory.join("key.pem"), &leaf.key_pem)?;

        let settings = [
            ("site.domain", json!(domain.as_str())),
            ("site.directory", json!(srv)),
            ("public.replica_name", json!(replica_name.as_str())),
            ("listen.local", json!(loopback(&internal[0]))),
            ("listen.replica", json!(loopback(&internal[1]))),
            ("listen.peer", json!(loopback(&internal[2]))),
            ("listen.origin", json!(loopback(&internal[3]))),
            ("state.directory", json!(directory.join("state"))),
            ("trust.extra_roots", json!([lab.directory().join("ca.pem")])),
            ("egress.allow_private", json!(true)),
            ("proxy.admin", json!(loopback(&admin))),
        ];
        let port = |port: &Port| format!("port_value: {}", port.number);
        let file = |path: &Path| path.display().to_string();
        let edits = [
            (r#"address: "::", ipv4_compat: true, port_value: 443"#, format!("address: {address}, {}", port(&public))),
            ("port_value: 9901", port(&admin)),
            ("port_value: 7080", port(&internal[0])),
            ("port_value: 7081", port(&internal[1])),
            ("port_value: 7082", port(&internal[2])),
            ("port_value: 7083", port(&internal[3])),
            ("www.example.org", site_name),
            ("replica.example.org", replica_host),
            ("/etc/p2pcdn/tls/cert.pem", file(&directory.join("cert.pem"))),
            ("/etc/p2pcdn/tls/key.pem", file(&directory.join("key.pem"))),
            ("/etc/p2pcdn/p2pcdn_filter.wasm", file(&lab.dist.wasm)),
        ];
        let mut site = Self {
            name: name.into(),
            domain,
            replica_name,
            content: Content::scan(&srv)?,
            agent: Program::new(
                "agent",
                &lab.dist.agent,
                ["run", "--config", "agent.toml"].map(Into::into).into(),
                &directory,
            ),
            envoy: Program::new("envoy", &lab.dist.envoy, Vec::new(), &directory),
            client: lab.client.clone(),
            directory,
            nginx: None,
            shipped: (lab.dist.site_yaml.clone(), "envoy.yaml"),
            settings: settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            edits: edits.into(),
            invited: Vec::new(),
            public,
            admin,
            returns,
            is_apart: false,
            internal,
        };
        site.workers(2);
        if let Some(place) = place {
            site.agent.within(&place.namespace);
            site.envoy.within(&place.namespace);
            site.is_apart = true;
        }
        Ok(site)
    }

    /// Puts nginx in Envoy's place.
    pub(crate) fn use_nginx(&mut self, lab: &Lab, nginx: Nginx) -> Result<(), Error> {
        let arguments = vec!["-c".into(), self.directory.join("nginx.conf").into()];
        self.envoy = Program::new("nginx", &nginx::program()?, arguments, &self.directory);
        self.shipped = (lab.dist.nginx_config.join(nginx.file()), "nginx.conf");
        self.nginx = Some(nginx);
        let agent = [&self.internal[0], &self.internal[1], &self.internal[2]].map(loopback);
        self.edits = nginx::edits(
            nginx,
            Values {
                directory: &self.directory,
                names: [self.domain.host(), self.replica_name.host()],
                public: loopback(&self.public),
                behind: loopback(&self.admin),
                returns: loopback(&self.returns),
                agent,
                log: loopback(&self.internal[3]),
            },
        );
        if nginx == Nginx::Map {
            let program = nginx::program()?;
            let configuration = self.directory.join("nginx.conf");
            self.set("nginx.map", json!(self.directory.join(nginx::MAP)));
            self.set("nginx.reload", format!("{} -s reload -c {}", program.display(), configuration.display()));
            self.set("nginx.period", "1s");
            // The same number as that of a TCP socket.
            self.set("nginx.log", loopback(&self.internal[3]));
        }
        self.unset("proxy.admin");
        Ok(())
    }

    /// Sets what decides about redirects by the filter's key, as in `target.requests_per_s`, wherever the decision is made; holds from the
    /// next start of proxy and agent.
    pub fn decide(&mut self, key: &'static str, value: impl Into<Value>) {
        let value = value.into();
        if self.nginx.is_some() {
            return self.set(&format!("decide.{key}"), value);
        }
        let shipped = match key {
            "target.requests_per_s" => (r#""requests_per_s": 0"#, format!(r#""requests_per_s": {value}"#)),
            key => {
                let others = self.edits.get(NO_KEYS).cloned().unwrap_or_else(|| NO_KEYS.into());
                (NO_KEYS, format!(r#"{others}, "{key}": {value}"#))
            }
        };
        self.edit(shipped.0, shipped.1);
    }

    /// Sets one of the agent's settings by its path, as in `host.quota`; holds from the agent's next start.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.settings.insert(key.into(), value.into());
    }

    /// Leaves one of the agent's settings to its default.
    pub fn unset(&mut self, key: &str) {
        self.settings.remove(key);
    }

    /// One of the agent's settings that the harness or the test has set, for example the address in `listen.origin`.
    pub fn setting(&self, key: &str) -> &Value {
        &self.settings[key]
    }

    /// Replaces a piece of the shipped Envoy configuration, for example `"exclude": []`; holds from the proxy's next start.
    pub fn edit(&mut self, example: &'static str, value: impl Into<String>) {
        self.edits.insert(example, value.into());
    }

    /// Number of Envoy's worker threads; holds from its next start.
    pub fn workers(&mut self, count: u32) {
        let count = count.to_string();
        let log = ["--log-level", "warn", "--file-flush-interval-msec", "50"];
        let arguments = ["-c", "envoy.yaml", "--concurrency", &count, "--disable-hot-restart"];
        self.envoy.arguments(arguments.into_iter().chain(log).map(Into::into).collect());
    }

    /// Makes Envoy write an access log, for [`Site::accesses`]; holds from its next start.
    pub fn log_accesses(&mut self) {
        let log = access::setting(&self.access_log());
        self.edit("stat_prefix: site #", format!("{log}\n                stat_prefix: site #"));
    }

    /// Every request that Envoy has logged, the oldest first. A request is logged within 50 ms of its end.
    ///
    /// # Errors
    /// [`Error::Json`].
    pub fn accesses(&self) -> Result<Vec<Access>, Error> {
        access::read(&self.access_log())
    }

    fn access_log(&self) -> PathBuf {
        self.directory.join("access.log")
    }

    /// Lists the other site's domain as a peer; a friendship needs both.
    pub fn invite(&mut self, other: &Site) {
        self.invited.push(other.domain.to_string());
        self.set("peers.invited", self.invited.clone());
    }

    /// Starts agent and proxy and waits until both answer.
    ///
    /// # Errors
    /// [`Error::Ended`] with the log if one of them does not start, [`Error::Deadline`] if it does not answer.
    pub async fn start(&mut self) -> Result<(), Error> {
        self.start_agent()?;
        self.start_envoy()?;
        self.ready().await
    }

    /// Starts the agent with its present settings.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn start_agent(&mut self) -> Result<(), Error> {
        write(&self.directory.join("agent.toml"), &config::agent_toml(&self.settings))?;
        self.internal.iter_mut().for_each(Port::release);
        self.agent.start()
    }

    /// Starts the proxy with its shipped configuration, in which only names, paths, ports and what was edited differ.
    ///
    /// # Errors
    /// [`Error::Marker`] or [`Error::Io`].
    pub fn start_envoy(&mut self) -> Result<(), Error> {
        let (shipped, own) = &self.shipped;
        let text = fs::read_to_string(shipped).map_err(Error::io("read", shipped))?;
        write(&self.directory.join(own), &config::of_proxy(&text, &self.edits)?)?;
        if self.nginx == Some(Nginx::Map) && !self.directory.join(nginx::MAP).exists() {
            write(&self.directory.join("agent.toml"), &config::agent_toml(&self.settings))?;
            self.agent.printed(&["nginx-map", "--empty", "--config", "agent.toml"])?;
        }
        self.public.release();
        self.admin.release();
        self.returns.release();
        self.envoy.start()
    }

    /// Waits until agent and proxy answer, and the agent answers through the proxy.
    ///
    /// # Errors
    /// [`Error::Ended`] with the log if one of them ended, [`Error::Deadline`] if one does not answer.
    pub async fn ready(&mut self) -> Result<(), Error> {
        let url = self.url(PEER_DOCUMENT_PATH);
        let (client, agent, envoy) = (&self.client, &mut self.agent, &mut self.envoy);
        // The outer result ends the wait, the inner one says whether it was a success.
        let ready = poll(START, format!("answer from {url}"), async || {
            if let Err(ended) = agent.check().and_then(|_| envoy.check()) {
                return Ok(Err(ended));
            }
            match client.get(&url).await {
                Ok(response) if response.status() == 200 => Ok(Ok(())),
                Ok(response) => Err(response.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        });
        ready.await?
    }

    /// Kills agent and proxy at once, as a power failure would.
    pub fn kill(&mut self) {
        self.envoy.kill();
        self.agent.kill();
    }

    /// Stops proxy and agent in order.
    ///
    /// # Errors
    /// [`Error::Deadline`] if one of them had to be killed.
    pub async fn stop(&mut self) -> Result<(), Error> {
        let envoy = self.envoy.stop().await.map(drop);
        self.agent.stop().await.map(drop).and(envoy)
    }

    /// URL of a path of this site.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.domain)
    }

    /// What the agent's local API answers for a path.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub async fn local(&self, path: &str) -> Result<Response<Bytes>, Error> {
        Ok(self.client.get(&format!("http://{}{path}", loopback(&self.internal[0]))).await?)
    }

    /// The agent's status.
    ///
    /// # Errors
    /// [`Error::Client`] or [`Error::Json`]; [`Error::Ended`] for a site at a place of its own.
    pub async fn status(&self) -> Result<Value, Error> {
        self.known("status").await
    }

    /// What the agent knows by gossip.
    ///
    /// # Errors
    /// As [`Site::status`].
    pub async fn gossip(&self) -> Result<Value, Error> {
        self.known("gossip").await
    }

    async fn known(&self, what: &str) -> Result<Value, Error> {
        if self.is_apart {
            let printed = self.agent.printed(&[what, "--json", "--config", "agent.toml"])?;
            return Ok(serde_json::from_slice(&printed)?);
        }
        Ok(serde_json::from_slice(self.local(&format!("/v1/{what}")).await?.body())?)
    }

    /// What Envoy's admin interface answers for a path, for example `/stats?filter=wasmcustom`.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub async fn admin(&self, path: &str) -> Result<Response<Bytes>, Error> {
        Ok(self.client.get(&self.admin_url(path)).await?)
    }

    /// URL of a path of Envoy's admin interface.
    pub fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", loopback(&self.admin))
    }

    /// Where its configuration, logs and state lie; `srv` in it is the content.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Makes every two of the sites friends.
pub fn invite_each_other(sites: &mut [Site]) {
    for at in 0..sites.len() {
        let (before, rest) = sites.split_at_mut(at);
        let Some((site, after)) = rest.split_first_mut() else { return };
        before.iter().chain(after.iter()).for_each(|other| site.invite(other));
    }
}

fn loopback(port: &Port) -> String {
    format!("127.0.0.1:{}", port.number)
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io("write", path))
}
