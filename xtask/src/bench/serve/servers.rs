//! A host with replicas, nginx with the same files, and an Envoy in front of both.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use p2pcdn_tests::{
    Site,
    content::{digest, noise},
    invite_each_other, poll,
    process::Program,
};

use super::super::{
    Bed, BenchError, machine,
    proxy::{self, Proxy},
};
use crate::setup;

const LISTENER: &str = include_str!("listener.yaml");
/// With timeouts and limits of envoy-config/site.yaml.
const CLUSTER: &str = include_str!("cluster.yaml");
const NGINX: &str = include_str!("nginx.conf");
const NGINX_NAME: &str = "nginx.localhost";
/// How long it may take until all replicas are at the host, and until nginx answers.
const PATIENCE: Duration = Duration::from_secs(60);

/// Objects of one size.
pub(super) struct Size {
    pub(super) name: &'static str,
    pub(super) bytes: usize,
    /// Enough that no server can do with one open file.
    objects: u64,
}

pub(super) const SIZES: [Size; 3] = [
    Size { name: "4k", bytes: 4 << 10, objects: 16 },
    Size { name: "64k", bytes: 64 << 10, objects: 16 },
    Size { name: "8m", bytes: 8 << 20, objects: 4 },
];

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    Agent,
    Nginx,
}

impl Server {
    pub(super) const BOTH: [Self; 2] = [Self::Agent, Self::Nginx];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Nginx => "nginx",
        }
    }
}

/// All of them, running.
pub(super) struct Servers {
    site: Site,
    nginx: Program,
    nginx_address: SocketAddr,
    agent_address: SocketAddr,
    proxy: Proxy,
    paths: Vec<(&'static str, String)>,
}

impl Servers {
    /// Brings the objects to the host in the ordinary way, and then leaves nothing running but what is measured.
    pub(super) async fn start(bed: &Bed) -> Result<Self, BenchError> {
        let mut sites = [bed.lab.site("origin")?, bed.lab.site("host")?];
        let root = bed.lab.directory().join("nginx");
        let paths = publish(&sites[0], &root)?;
        sites[0].set("share.min_object", "1KiB");
        sites[0].set("share.upload_bandwidth", "1GB");
        sites[1].set("host.pull_bandwidth", "1GB");
        sites[1].set("host.lease", "1TB");
        invite_each_other(&mut sites);
        let [mut origin, mut site] = sites;
        origin.set("lab.time_scale", 0.05);
        origin.start().await?;
        bed.cores.start_alone(|| site.start_agent())??;
        site.start_envoy()?;
        site.ready().await?;
        let all_held = poll(PATIENCE, "replicas at the host", async || {
            let status = site.status().await.map_err(|error| error.to_string())?;
            let held = &status["objects"]["hosted"];
            if *held == paths.len() { Ok(()) } else { Err(format!("{held} of {}", paths.len())) }
        });
        all_held.await?;
        origin.stop().await?;
        site.envoy.stop().await?;

        let (nginx, nginx_address) = start_nginx(bed, &root).await?;
        let agent_address = address_of(&site);
        let shipped = proxy::shipped(bed)?;
        let listener = LISTENER.replace("«http»\n", proxy::http_settings(&shipped)?);
        let listener = listener.replace("«agent»", site.replica_name.as_str()).replace("«nginx»", NGINX_NAME);
        let cluster =
            |name, address: SocketAddr| CLUSTER.replace("«name»", name).replace("«port»", &address.port().to_string());
        let clusters = cluster("agent", agent_address) + &cluster("nginx", nginx_address);
        let configuration = proxy::ENVOY.replace("«listeners»\n", &listener).replace("«clusters»\n", &clusters);
        let proxy = Proxy::run(bed, "envoy", 1, "{}", &configuration).await?;
        Ok(Self { site, nginx, nginx_address, agent_address, proxy, paths })
    }

    /// Address of the server itself.
    pub(super) fn address(&self, server: Server) -> SocketAddr {
        match server {
            Server::Agent => self.agent_address,
            Server::Nginx => self.nginx_address,
        }
    }

    /// Address of the Envoy in front of both.
    pub(super) fn envoy(&self) -> Result<SocketAddr, BenchError> {
        self.proxy.address("serve")
    }

    /// The authority under which the server is asked.
    pub(super) fn host(&self, server: Server) -> &str {
        match server {
            Server::Agent => self.site.replica_name.as_str(),
            Server::Nginx => NGINX_NAME,
        }
    }

    /// Paths of all objects of one size, the same at both servers.
    pub(super) fn paths(&self, size: &Size) -> impl Iterator<Item = &str> {
        self.paths.iter().filter(move |(name, _)| *name == size.name).map(|(_, path)| path.as_str())
    }

    /// CPU time of the server's process so far.
    pub(super) fn cpu_s(&self, server: Server) -> Result<f64, BenchError> {
        let program = match server {
            Server::Agent => &self.site.agent,
            Server::Nginx => &self.nginx,
        };
        machine::cpu_s(program.id().unwrap_or_default()).map_err(BenchError::io("read the server's CPU time"))
    }

    /// Resident memory of the agent.
    pub(super) fn agent_bytes(&self) -> Result<u64, BenchError> {
        let process = self.site.agent.id().unwrap_or_default();
        machine::resident_bytes(process, "VmRSS").map_err(BenchError::io("read the agent's memory"))
    }
}

/// Makes the objects, as content of the site and as files for nginx; returns the size and the URL path of the replica of each.
fn publish(origin: &Site, root: &Path) -> Result<Vec<(&'static str, String)>, BenchError> {
    let mut paths = Vec::new();
    for (size, number) in SIZES.iter().flat_map(|size| (0..size.objects).map(move |number| (size, number))) {
        let (path, bytes) = (format!("/{}/{number}.png", size.name), noise(number, size.bytes));
        origin.content.put(&path, &bytes)?;
        let url = format!("/.well-known/p2pcdn/v1/r/{}/{}{path}", origin.domain, digest(&bytes));
        let file = root.join(&url[1..]);
        let write = || {
            fs::create_dir_all(file.parent().unwrap_or(root))?;
            fs::write(&file, &bytes)
        };
        write().map_err(BenchError::io(format!("write {}", file.display())))?;
        paths.push((size.name, url));
    }
    Ok(paths)
}

fn address_of(site: &Site) -> SocketAddr {
    let address = site.setting("listen.replica").as_str().and_then(|address| address.parse().ok());
    address.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into())
}

async fn start_nginx(bed: &Bed, root: &Path) -> Result<(Program, SocketAddr), BenchError> {
    let path = setup::find_program("nginx").unwrap_or_else(|| "nginx".into());
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|held| held.local_addr());
    let address = free.map_err(BenchError::io("find a free port"))?;
    let directory = bed.lab.directory();
    let configuration = NGINX.replace("«directory»", &directory.display().to_string());
    let configuration = configuration.replace("«port»", &address.port().to_string());
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration.replace("«root»", &root.display().to_string()))
        .map_err(BenchError::io("write nginx's configuration"))?;
    let arguments = vec!["-c".into(), file.into_os_string(), "-p".into(), directory.into()];
    let mut nginx = Program::new("nginx", &path, arguments, directory);
    bed.cores.start_alone(|| nginx.start())??;
    let ready = poll(PATIENCE, "answer from nginx", async || {
        if let Err(ended) = nginx.check() {
            return Ok(Err(ended));
        }
        bed.lab.client.get(&format!("http://{address}/")).await.map(|_| Ok(()))
    });
    ready.await??;
    Ok((nginx, address))
}
