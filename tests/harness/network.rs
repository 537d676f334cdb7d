//! A network of its own for some sites, where the link between two of them can be cut: namespaces on one bridge.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// A bridge in a namespace of its own. Namespaces end with this value.
pub struct Network {
    name: String,
    places: Vec<Place>,
}

/// A namespace for one site, with an address for its own name and one for its replica name.
#[derive(Debug, Clone)]
pub struct Place {
    /// The namespace, as `ip netns` knows it.
    pub(crate) namespace: String,
    /// Its end of the link at the bridge.
    port: String,
    /// Both addresses.
    pub(crate) addresses: [Ipv4Addr; 2],
}

const BRIDGE: &str = "bridge";
/// Inside a place, where the link to the bridge begins.
const UPLINK: &str = "uplink";

impl Network {
    /// A bridge, to which the calling thread moves: whatever it starts or connects to from now on is in this network.
    ///
    /// # Errors
    /// [`Error::Network`], for example because only root may do this.
    pub fn new() -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("p2pcdn-{}-{number}", std::process::id()), places: Vec::new() };
        let name = &network.name;
        ip(&["netns", "add", name])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["-n", name, "address", "add", "10.77.0.1/16", "dev", BRIDGE])?;
        ip(&["-n", name, "link", "set", BRIDGE, "up"])?;
        let path = Path::new("/run/netns").join(name);
        let namespace = File::open(&path).map_err(Error::io("open", &path))?;
        let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        moved.map_err(|error| Error::io("move into", &path)(error.into()))?;
        Ok(network)
    }

    /// A further place; there is room for 254.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn place(&mut self) -> Result<Place, Error> {
        let number =
            u8::try_from(self.places.len() + 1).map_err(|_| Error::Network("a network has room for 254".into()))?;
        let address = |host| Ipv4Addr::new(10, 77, number, host);
        let place = Place {
            namespace: format!("{}-{number}", self.name),
            port: format!("port{number}"),
            addresses: [address(1), address(2)],
        };
        let (bridge, inside, port) = (&self.name, &place.namespace, &place.port);
        ip(&["netns", "add", inside])?;
        // From here on it is removed with the network.
        self.places.push(place.clone());
        ip(&["-n", bridge, "link", "add", port, "type", "veth", "peer", "name", UPLINK, "netns", inside])?;
        ip(&["-n", bridge, "link", "set", port, "master", BRIDGE, "up"])?;
        ip(&["-n", inside, "link", "set", "lo", "up"])?;
        ip(&["-n", inside, "link", "set", UPLINK, "up"])?;
        for address in place.addresses {
            ip(&["-n", inside, "address", "add", &format!("{address}/16"), "dev", UPLINK])?;
        }
        Ok(place)
    }

    /// Lets nothing pass between the two, without a word to either; everybody else still reaches both.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn part(&self, places: [&Place; 2]) -> Result<(), Error> {
        self.isolate(places, "on")
    }

    /// Undoes [`Network::part`].
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn heal(&self, places: [&Place; 2]) -> Result<(), Error> {
        self.isolate(places, "off")
    }

    /// Isolated ports of a bridge reach every port but other isolated ones.
    fn isolate(&self, places: [&Place; 2], switch: &str) -> Result<(), Error> {
        places.into_iter().try_for_each(|place| {
            run("bridge", &["-n", &self.name, "link", "set", "dev", &place.port, "isolated", switch])
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let places = self.places.iter().map(|place| &place.namespace);
        for namespace in places.chain([&self.name]) {
            // What could not be removed is gone with the machine, and its name is never used again.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), Error> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Error> {
    let what = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| Error::Network(format!("{}: {error}: install iproute2", what())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Network(format!("{}: {}: this takes root", what(), said.trim_end())))
}
