//! A real Envoy with one plain HTTP listener for each thing to be measured.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use p2pcdn_tests::{client::Client, poll, process::Program};
use serde::Deserialize;

use super::{
    Bed, BenchError,
    machine::{self, Thread},
    publisher::Publisher,
};

pub(super) const ENVOY: &str = include_str!("envoy.yaml");
const LISTENER: &str = include_str!("listener.yaml");
const CLUSTER: &str = include_str!("cluster.yaml");
const LUA: &str = include_str!("lua.yaml");
const GATE: &str = include_str!("gate.lua");
/// Switches a filter on for one route, as envoy-config/site.yaml does.
const SWITCH: &str = r#"                          typed_per_filter_config:
                            «filter»: { "@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, config: {} }
"#;
/// How long Envoy may take to start.
const START: Duration = Duration::from_secs(30);

/// What handles requests before the router, on all routes but `/forward/` and `/replies/`.
pub(super) enum Handler<'a> {
    /// Nothing.
    Bare,
    /// The filter, in a VM of its own, with this table.
    Filter(&'a Publisher),
    /// A Lua filter with so many objects.
    Lua(u32),
}

/// A running Envoy.
pub(super) struct Proxy {
    program: Program,
    client: Client,
    admin: String,
    listeners: Vec<(String, SocketAddr)>,
    worker: Thread,
}

impl Proxy {
    /// Starts one with a listener for each handler and with `overlay` merged into its configuration; a single worker gets the core that
    /// is kept free for it.
    pub(super) async fn start(
        bed: &Bed,
        name: &str,
        workers: u32,
        overlay: &str,
        handlers: &[(&'static str, Handler<'_>)],
    ) -> Result<Self, BenchError> {
        let proxy = Self::run(bed, name, workers, overlay, &configuration(bed, handlers)?).await?;
        if workers == 1 {
            bed.cores.pin(proxy.worker)?;
        }
        Ok(proxy)
    }

    /// Starts one with this configuration; its workers share the core of everything else.
    pub(super) async fn run(
        bed: &Bed,
        name: &str,
        workers: u32,
        overlay: &str,
        configuration: &str,
    ) -> Result<Self, BenchError> {
        let directory = bed.lab.directory();
        let file = |extension| directory.join(format!("{name}.{extension}"));
        fs::write(file("yaml"), configuration).map_err(BenchError::io("write Envoy's configuration"))?;
        let workers_text = workers.to_string();
        let mut arguments: Vec<_> =
            ["--concurrency", &workers_text, "--disable-hot-restart", "--log-level", "warn"].map(Into::into).into();
        arguments.extend(["-c".into(), file("yaml").into_os_string()]);
        arguments.extend(["--config-yaml".into(), overlay.into()]);
        arguments.extend(["--admin-address-path".into(), file("admin").into_os_string()]);
        let mut program = Program::new(name, &bed.lab.dist.envoy, arguments, directory);
        program.start()?;
        let client = bed.lab.client.clone();
        let (admin, listeners) = ready(&mut program, &client, file("admin")).await?;
        let process = program.id().unwrap_or_default();
        let worker = Thread::find(process, "wrk:worker_0").map_err(BenchError::io("list Envoy's threads"))?;
        let worker = worker.ok_or_else(|| BenchError::Stat("thread wrk:worker_0".into()))?;
        Ok(Self { program, client, admin, listeners, worker })
    }

    /// Address of a listener.
    pub(super) fn address(&self, listener: &str) -> Result<SocketAddr, BenchError> {
        let found = self.listeners.iter().find(|(name, _)| name == listener);
        found.map(|(_, address)| *address).ok_or_else(|| BenchError::Stat(format!("listener {listener}")))
    }

    /// CPU time of the (first) worker so far in nanoseconds.
    pub(super) fn worker_ns(&self) -> Result<u64, BenchError> {
        self.worker.cpu_ns().map_err(BenchError::io("read the worker's CPU time"))
    }

    /// Bytes of all WebAssembly memories, and of the whole process.
    pub(super) fn memory(&self) -> Result<(u64, u64), BenchError> {
        let process = self.program.id().unwrap_or_default();
        let read = || Ok((machine::wasm_bytes(process)?, machine::resident_bytes(process, "VmRSS")?));
        read().map_err(BenchError::io("read Envoy's memory"))
    }

    /// Values of the counters and gauges whose names end so, in the order of their names.
    pub(super) async fn stats(&self, end: &str) -> Result<Vec<u64>, BenchError> {
        let text = self.admin("/stats").await?;
        let lines = text.lines().filter_map(|line| line.split_once(": ")).filter(|(name, _)| name.ends_with(end));
        Ok(lines.filter_map(|(_, value)| value.parse().ok()).collect())
    }

    /// Answers of a listener so far whose status begins with this digit.
    pub(super) async fn answers(&self, listener: &str, digit: char) -> Result<u64, BenchError> {
        let name = format!("http.{listener}.downstream_rq_{digit}xx");
        self.stats(&name).await?.first().copied().ok_or(BenchError::Stat(name))
    }

    /// Waits until the listener has no connection, and so nothing to do: wrk leaves requests behind when its time is over.
    pub(super) async fn at_rest(&self, listener: &str) -> Result<(), BenchError> {
        let name = format!("http.{listener}.downstream_cx_active");
        let rest = poll(START, format!("end of all connections to {listener}"), async || {
            let open = self.stats(&name).await.map_err(|error| error.to_string())?;
            if open == [0] { Ok(()) } else { Err(format!("{open:?} open")) }
        });
        Ok(rest.await?)
    }

    /// What the admin interface answers.
    pub(super) async fn admin(&self, path: &str) -> Result<String, BenchError> {
        let answer = self.client.get(&format!("http://{}{path}", self.admin)).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }
}

/// Addresses of the admin interface and of the listeners, once there are any.
async fn ready(
    program: &mut Program,
    client: &Client,
    admin_file: PathBuf,
) -> Result<(String, Vec<(String, SocketAddr)>), BenchError> {
    let found = poll(START, "answer from Envoy", async || {
        if let Err(ended) = program.check() {
            return Ok(Err(ended));
        }
        let admin = fs::read_to_string(&admin_file).map_err(|error| error.to_string())?;
        let state = client.get(&format!("http://{admin}/ready")).await.map_err(|error| error.to_string())?;
        let listeners = client.get(&format!("http://{admin}/listeners?format=json")).await;
        let listeners = listeners.map_err(|error| error.to_string())?;
        if state.status() == 200 { Ok(Ok((admin, listeners))) } else { Err(state.status().to_string()) }
    });
    let (admin, listeners) = found.await??;
    let listeners: Listeners = serde_json::from_slice(listeners.body())?;
    let address = |listener: ListenerStatus| {
        let SocketAddress { address, port_value } = listener.local_address.socket_address;
        Some((listener.name, SocketAddr::new(address.parse().ok()?, port_value)))
    };
    Ok((admin, listeners.listener_statuses.into_iter().filter_map(address).collect()))
}

#[derive(Deserialize)]
struct Listeners {
    listener_statuses: Vec<ListenerStatus>,
}

#[derive(Deserialize)]
struct ListenerStatus {
    name: String,
    local_address: Address,
}

#[derive(Deserialize)]
struct Address {
    socket_address: SocketAddress,
}

#[derive(Deserialize)]
struct SocketAddress {
    address: String,
    port_value: u16,
}

fn configuration(bed: &Bed, handlers: &[(&'static str, Handler<'_>)]) -> Result<String, BenchError> {
    let shipped = shipped(bed)?;
    let http = http_settings(&shipped)?;
    let (mut listeners, mut clusters) = (String::new(), String::new());
    for (name, handler) in handlers {
        let (filter, switch) = match handler {
            Handler::Bare => (String::new(), None),
            Handler::Lua(objects) => {
                let file = bed.lab.directory().join(format!("{name}.lua"));
                let gate = GATE.replace("«objects»", &objects.to_string());
                fs::write(&file, gate).map_err(BenchError::io(format!("write {}", file.display())))?;
                (LUA.replace("«file»", &file.display().to_string()), Some("lua"))
            }
            Handler::Filter(publisher) => {
                let port = publisher.address.rsplit(':').next().unwrap_or_default();
                clusters += &CLUSTER.replace("«name»", name).replace("«port»", port);
                (filter(&shipped, name, bed)?, Some("p2pcdn"))
            }
        };
        let switch = switch.map(|filter| SWITCH.replace("«filter»", filter)).unwrap_or_default();
        let listener = LISTENER.replace("«name»", name).replace("«http»\n", http);
        listeners += &listener.replace("«filter»\n", &filter).replace("«switch»\n", &switch);
    }
    Ok(ENVOY.replace("«listeners»\n", &listeners).replace("«clusters»\n", &clusters))
}

/// envoy-config/site.yaml.
pub(super) fn shipped(bed: &Bed) -> Result<String, BenchError> {
    let shipped = &bed.lab.dist.site_yaml;
    fs::read_to_string(shipped).map_err(BenchError::io(format!("read {}", shipped.display())))
}

/// Its settings of HTTP connections.
pub(super) fn http_settings(shipped: &str) -> Result<&str, BenchError> {
    between(shipped, "use_remote_address:", "http_filters:")
}

/// The filter as it ships, but with a VM and a table of its own, and with no first request that stays at home.
fn filter(shipped: &str, name: &str, bed: &Bed) -> Result<String, BenchError> {
    let mut filter = between(shipped, "- name: p2pcdn\n", "- name: envoy.filters.http.router")?.to_owned();
    let edits = [
        (r#""cluster": "p2pcdn_agent""#, format!(r#""cluster": "{name}""#)),
        (r#""exclude": []"#, r#""exclude": [], "stay_local_s": 0"#.into()),
        ("vm_id: p2pcdn", format!("vm_id: {name}")),
        ("/etc/p2pcdn/p2pcdn_filter.wasm", bed.lab.dist.wasm.display().to_string()),
    ];
    for (example, value) in edits {
        if !filter.contains(example) {
            return Err(BenchError::Marker(example));
        }
        filter = filter.replace(example, &value);
    }
    Ok(filter)
}

/// The lines from the one that has `first` up to the one that has `last`.
pub(super) fn between<'a>(text: &'a str, first: &'static str, last: &'static str) -> Result<&'a str, BenchError> {
    let line_of = |from: usize, marker: &'static str| {
        let at = text[from..].find(marker).ok_or(BenchError::Marker(marker))? + from;
        Ok::<_, BenchError>(text[..at].rfind('\n').map_or(0, |end| end + 1))
    };
    let start = line_of(0, first)?;
    Ok(&text[start..line_of(start, last)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_out_in_whole() {
        let text = "a\n  first: 1\n  b\n    last: 2\nlast: 3\n";
        assert_eq!(between(text, "first:", "last:").unwrap(), "  first: 1\n  b\n");
        assert!(matches!(between(text, "b\n", "first:"), Err(BenchError::Marker("first:"))));
    }
}
