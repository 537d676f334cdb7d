//! Programs that people use, as they are: those that may be redirected get the same bytes from hosts, the others never notice.

use std::path::Path;

use p2pcdn_tests::access::Access;
use p2pcdn_tests::content::{Content, digest, noise};
use p2pcdn_tests::load::Generator;
use p2pcdn_tests::process::Program;
use p2pcdn_tests::tunnel::Tunnel;
use p2pcdn_tests::{Lab, Site, poll};

use crate::support::{PATIENCE, PRESSURE, befriend, busy, fill, installed, lab, redirects_to};

/// Large enough that a download tool divides it.
const LARGE: usize = 6 << 20;
/// The least that a download tool fetches from one place at a time, as it is told to.
const PART: u64 = 1 << 20;

/// A git bundle under the name of an archive.
const BUNDLE: &str = "/bundle.iso";

/// What a program is run with.
struct Machine {
    tunnel: Tunnel,
    /// The CA of the lab.
    ca: String,
    directory: tempfile::TempDir,
}

impl Machine {
    /// Runs a program to its end, which has to be a success; what it said is returned.
    async fn run(&self, path: &Path, arguments: &[&str]) -> String {
        let proxy = self.tunnel.url();
        let name = path.file_name().unwrap().to_str().unwrap();
        let environment = [
            "-i".into(),
            format!("PATH={}", std::env::var("PATH").unwrap_or_default()),
            format!("HOME={}", self.directory.path().display()),
            "LC_ALL=C".into(),
            format!("https_proxy={proxy}"),
            format!("CURL_CA_BUNDLE={}", self.ca),
            format!("GIT_SSL_CAINFO={}", self.ca),
            format!("REQUESTS_CA_BUNDLE={}", self.ca),
            path.to_str().unwrap().into(),
        ];
        let arguments = environment.into_iter().chain(arguments.iter().map(|a| (*a).to_owned()));
        let env = Path::new("/usr/bin/env");
        let mut program = Program::new(name, env, arguments.map(Into::into).collect(), self.directory.path());
        program.start().unwrap();
        let status = program.end(PATIENCE).await.unwrap();
        assert!(status.success(), "{name}: {status}\n{}", program.tail());
        program.tail()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.directory.path().join(name)).unwrap()
    }
}

#[tokio::test]
async fn programs_get_the_same_bytes_from_hosts_or_never_notice() {
    let (lab, mut sites) = lab(["alpha", "bravo", "charlie"]);
    sites.iter_mut().for_each(Site::log_accesses);
    let alpha = &mut sites[0];
    busy(alpha);
    // A worker that has served nothing yet knows no replicas, and each program makes few requests.
    alpha.workers(1);
    fill(alpha, 4);
    let hot = Content::scan(&alpha.directory().join("srv")).unwrap();
    alpha.content.put("/archive.zip", &noise(10, 100 << 10)).unwrap();
    alpha.content.put("/large.iso", &noise(11, LARGE)).unwrap();
    alpha.content.put("/described.iso", &noise(13, LARGE)).unwrap();
    let machine = Machine {
        tunnel: Tunnel::open().await.unwrap(),
        ca: lab.directory().join("ca.pem").display().to_string(),
        directory: tempfile::tempdir().unwrap(),
    };
    let package = package(&machine, alpha).await;
    repository(&machine, alpha).await;
    bundle(&machine, alpha).await;
    befriend(&mut sites).await;
    let load = Generator::new(lab.client.clone(), sites[0].domain.clone(), hot);
    load.offer(PRESSURE);
    redirects_to(&load, &sites[1]).await;
    redirects_to(&load, &sites[2]).await;

    simple_clients(&machine, &sites).await;
    apt(&machine, &sites, &lab, &package).await;
    git(&machine, &sites).await;
    aria2(&machine, &sites).await;
    metalink(&machine, &sites).await;
}

/// curl, wget and Python's requests.
async fn simple_clients(machine: &Machine, sites: &[Site]) {
    let url = sites[0].url("/archive.zip");
    let whole = noise(10, 100 << 10);
    let wget_ca = format!("--ca-certificate={}", machine.ca);
    let script = "import requests, sys; answer = requests.get(sys.argv[1], timeout=30); answer.raise_for_status(); \
                  open('requests.zip', 'wb').write(answer.content)";
    let clients: [(&str, &Path, Vec<&str>); 3] = [
        ("curl", &installed("curl", "curl"), vec!["-sSfL", "-o", "curl.zip", &url]),
        ("Wget", &installed("wget", "wget"), vec!["-q", &wget_ca, "-O", "wget.zip", &url]),
        // Debian's Python is the one that python3-requests is for.
        ("python-requests", Path::new("/usr/bin/python3"), vec!["-c", script, &url]),
    ];
    for ((agent, program, arguments), saved) in clients.into_iter().zip(["curl.zip", "wget.zip", "requests.zip"]) {
        machine.run(program, &arguments).await;
        assert!(machine.read(saved) == whole, "{agent} saved something else");
        let seen = seen(sites, agent, "/archive.zip", 1).await;
        assert_eq!((seen.redirected, seen.local), (1, 0), "{agent}");
    }
}

/// A package is redirected; what says which packages there are is not.
async fn apt(machine: &Machine, sites: &[Site], lab: &Lab, package: &[u8]) {
    let program = installed("apt-get", "apt");
    for directory in ["apt/lists/partial", "apt/archives/partial", "apt/parts"] {
        std::fs::create_dir_all(machine.directory.path().join(directory)).unwrap();
    }
    let root = machine.directory.path().join("apt");
    let root = root.display();
    let settings = format!(
        "Dir::Etc::SourceList \"{root}/sources.list\";\nDir::Etc::SourceParts \"{root}/parts\";\nDir::Etc::Parts \"{root}/parts\";\n\
         Dir::Etc::Main \"/dev/null\";\nDir::State::Lists \"{root}/lists\";\nDir::State::status \"{root}/status\";\n\
         Dir::Cache \"{root}\";\nDir::Cache::archives \"{root}/archives\";\nAPT::Sandbox::User \"\";\n\
         Acquire::https::Proxy \"{}\";\nAcquire::https::CaInfo \"{}\";\nAcquire::Languages \"none\";\n",
        machine.tunnel.url(),
        lab.directory().join("ca.pem").display(),
    );
    let write =
        |name: &str, text: String| std::fs::write(machine.directory.path().join("apt").join(name), text).unwrap();
    write("settings", settings);
    write("sources.list", format!("deb [trusted=yes] {} ./\n", sites[0].url("/debian")));
    write("status", String::new());
    let settings = format!("{root}/settings");
    machine.run(&program, &["-c", &settings, "update"]).await;
    machine.run(&program, &["-c", &settings, "download", "noise"]).await;
    assert!(machine.read("noise_1.0_all.deb") == package);
    let seen_package = seen(sites, "APT", "/debian/noise_1.0_all.deb", 1).await;
    assert_eq!((seen_package.redirected, seen_package.local), (1, 0));
    for index in ["/debian/InRelease", "/debian/Packages"] {
        let seen = seen(sites, "APT", index, 0).await;
        assert_eq!(seen.redirected, 0, "{index}");
        assert!(seen.local > 0, "{index}");
    }
}

/// A clone is served by the origin alone, packs and all.
async fn git(machine: &Machine, sites: &[Site]) {
    let url = sites[0].url("/noise.git");
    machine.run(&installed("git", "git"), &["clone", "--quiet", &url, "clone"]).await;
    assert!(machine.read("clone/noise.png") == noise(20, 50 << 10));
    let all = sites[0].accesses().unwrap();
    let asked: Vec<_> = all.iter().filter(|access| is_by(access, "git/")).collect();
    assert!(asked.iter().any(|access| access.path.ends_with(".pack")), "{asked:#?}");
    assert!(asked.iter().all(|access| access.path.starts_with("/noise.git/") && access.status != 307), "{asked:#?}");
    // Nor is a bundle, which would be redirected for any other tool: git takes no redirect for what it did not begin with.
    let bundle = format!("--bundle-uri={}", sites[0].url(BUNDLE));
    machine.run(&installed("git", "git"), &["clone", "--quiet", &bundle, &url, "bundled"]).await;
    machine.run(&installed("curl", "curl"), &["-sSfL", "-o", "curl.bundle", &sites[0].url(BUNDLE)]).await;
    for (agent, redirected, local) in [("git/", 0, 1), ("curl", 1, 0)] {
        let seen = seen(sites, agent, BUNDLE, 0).await;
        assert_eq!((seen.redirected, seen.local), (redirected, local), "{agent}");
    }
}

/// A document that lists every place, fetched by one program and worked off by another.
async fn metalink(machine: &Machine, sites: &[Site]) {
    let url = sites[0].url("/described.iso");
    let accept = "Accept: application/metalink4+xml";
    machine.run(&installed("curl", "curl"), &["-sSf", "-H", accept, "-o", "described.meta4", &url]).await;
    let document = String::from_utf8(machine.read("described.meta4")).unwrap();
    for place in [&sites[1].replica_name, &sites[2].replica_name, &sites[0].domain] {
        assert!(document.contains(&format!("<url>https://{place}/")), "{document}");
    }
    let (proxy, ca) = (format!("--all-proxy={}", machine.tunnel.url()), format!("--ca-certificate={}", machine.ca));
    let split = format!("--min-split-size={PART}");
    let limit = "--max-download-limit=3M";
    let arguments = [&*proxy, &*ca, &*split, limit, "--log-level=info", "--log=-", "-M", "described.meta4"];
    let said = machine.run(&installed("aria2c", "aria2"), &arguments).await;
    assert!(machine.read("described.iso") == noise(13, LARGE));
    assert!(said.contains("Verification finished successfully"), "{said}");
    let served = poll(PATIENCE, "what both hosts have sent", async || {
        let is_it = |access: &&Access| is_by(access, "aria2/") && access.path.ends_with("/described.iso");
        let sent = |site: &Site| site.accesses().unwrap().iter().filter(is_it).map(|access| access.sent).sum::<u64>();
        let served: Vec<u64> = sites[1..].iter().map(sent).collect();
        if served.iter().all(|bytes| *bytes >= PART) { Ok(served) } else { Err(format!("{served:?}")) }
    });
    served.await.unwrap();
}

/// One download from several hosts at once, checked against the origin's digest.
async fn aria2(machine: &Machine, sites: &[Site]) {
    let url = sites[0].url("/large.iso");
    let (proxy, ca) = (format!("--all-proxy={}", machine.tunnel.url()), format!("--ca-certificate={}", machine.ca));
    let split = format!("--min-split-size={PART}");
    // Without a limit one host may have sent everything before the other's connection is up.
    let limit = "--max-download-limit=3M";
    let arguments = [&*proxy, &*ca, &*split, limit, "--log-level=info", "--log=-", &*url];
    let said = machine.run(&installed("aria2c", "aria2"), &arguments).await;
    assert!(machine.read("large.iso") == noise(11, LARGE));
    assert!(said.contains("Verification finished successfully"), "{said}");
    let seen = seen(sites, "aria2/", "/large.iso", LARGE as u64).await;
    assert_eq!((seen.redirected, seen.local), (1, 0));
    assert!(seen.served.iter().all(|bytes| *bytes >= PART), "{:?}", seen.served);
}

/// A program's requests for a path, as the proxies saw them.
#[derive(Debug, Default)]
struct Seen {
    /// Redirects of the origin.
    redirected: usize,
    /// Other answers of the origin.
    local: usize,
    /// Bytes that each host has sent.
    served: Vec<u64>,
}

/// Waits until the hosts have logged so many bytes.
async fn seen(sites: &[Site], agent: &str, path: &str, bytes: u64) -> Seen {
    poll(PATIENCE, format!("what {agent} was served of {path}"), async || {
        let logs: Vec<_> = sites.iter().map(|site| site.accesses().unwrap()).collect();
        let (origin, hosts) = logs.split_first().unwrap();
        let mut seen = Seen::default();
        for access in origin.iter().filter(|access| is_by(access, agent) && access.path == path) {
            *(if access.status == 307 { &mut seen.redirected } else { &mut seen.local }) += 1;
        }
        let is_it = |access: &&Access| is_by(access, agent) && access.path.ends_with(path) && access.status / 100 == 2;
        seen.served = hosts.iter().map(|log| log.iter().filter(is_it).map(|access| access.sent).sum()).collect();
        let is_whole = seen.served.iter().sum::<u64>() >= bytes && seen.redirected + seen.local > 0;
        if is_whole { Ok(seen) } else { Err(format!("{seen:?}")) }
    })
    .await
    .unwrap()
}

fn is_by(access: &Access, agent: &str) -> bool {
    access.agent.as_deref().is_some_and(|it| it.contains(agent))
}

/// Builds a Debian package and puts a flat repository with it on the site; returns its bytes.
async fn package(machine: &Machine, site: &Site) -> Vec<u8> {
    let tree = machine.directory.path().join("package");
    std::fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    std::fs::create_dir_all(tree.join("usr/share/noise")).unwrap();
    let control = "Package: noise\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: noise\n";
    std::fs::write(tree.join("DEBIAN/control"), control).unwrap();
    std::fs::write(tree.join("usr/share/noise/noise.bin"), noise(12, 100 << 10)).unwrap();
    machine.run(&installed("dpkg-deb", "dpkg"), &["--build", "--root-owner-group", "package", "noise.deb"]).await;
    let bytes = machine.read("noise.deb");
    site.content.put("/debian/noise_1.0_all.deb", &bytes).unwrap();
    let (size, sha256) = (bytes.len(), digest(&bytes));
    // Larger than the smallest object that is redirected, so that it is not its size that keeps it.
    let packages = format!(
        "{control}Filename: ./noise_1.0_all.deb\nSize: {size}\nSHA256: {sha256}\nComment: {}\n",
        "x".repeat(9 << 10)
    );
    let (length, packages_digest) = (packages.len(), digest(packages.as_bytes()));
    let release =
        format!("Origin: noise\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {packages_digest} {length} Packages\n");
    let srv = site.directory().join("srv/debian");
    std::fs::write(srv.join("Packages"), packages).unwrap();
    std::fs::write(srv.join("Release"), release).unwrap();
    bytes
}

/// Puts a bare git repository on the site, ready for clients that read plain files.
async fn repository(machine: &Machine, site: &Site) {
    let git = installed("git", "git");
    let work = machine.directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("noise.png"), noise(20, 50 << 10)).unwrap();
    let bare = site.directory().join("srv/noise.git").display().to_string();
    let author = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org"];
    machine.run(&git, &["-C", "work", "init", "--quiet"]).await;
    machine.run(&git, &["-C", "work", "add", "noise.png"]).await;
    machine.run(&git, &[&["-C", "work"][..], &author, &["commit", "--quiet", "-m", "noise"]].concat()).await;
    machine.run(&git, &["clone", "--quiet", "--bare", "work", &bare]).await;
    machine.run(&git, &["-C", &bare, "repack", "-a", "-d", "-q"]).await;
    machine.run(&git, &["-C", &bare, "update-server-info"]).await;
}

/// Puts everything that the repository has into one file.
async fn bundle(machine: &Machine, site: &Site) {
    machine.run(&installed("git", "git"), &["-C", "work", "bundle", "create", "--quiet", "../bundle", "--all"]).await;
    site.content.put(BUNDLE, &machine.read("bundle")).unwrap();
}
