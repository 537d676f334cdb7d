//! What ships is accepted by the real Envoy, and what is wrong is refused with everything that is wrong.

use std::path::Path;
use std::process::Command;

use p2pcdn_tests::{Error, Lab, poll};

use crate::support::{PATIENCE, lab};

#[tokio::test]
async fn every_shipped_configuration_is_valid() {
    let lab = Lab::new().unwrap();
    let leaf = lab.ca.issue(&["www.example.org", "replica.example.org"]).unwrap();
    let etc = lab.directory().join("etc");
    std::fs::create_dir_all(etc.join("tls")).unwrap();
    std::fs::write(etc.join("tls/cert.pem"), &leaf.certificate_pem).unwrap();
    std::fs::write(etc.join("tls/key.pem"), &leaf.key_pem).unwrap();
    std::fs::copy(&lab.dist.wasm, etc.join("p2pcdn_filter.wasm")).unwrap();
    let shipped = lab.dist.site_yaml.parent().unwrap();
    let mut tried = 0;
    for entry in std::fs::read_dir(shipped).unwrap().flatten() {
        if entry.path().extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let copy = lab.directory().join(entry.file_name());
        std::fs::write(&copy, text.replace("/etc/p2pcdn", etc.to_str().unwrap())).unwrap();
        validate(&lab, &copy);
        tried += 1;
    }
    assert!(tried > 0, "no configuration in {}", shipped.display());
}

fn validate(lab: &Lab, file: &Path) {
    let output = Command::new(&lab.dist.envoy).args(["--mode", "validate", "-c"]).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", file.display());
}

#[tokio::test]
async fn a_configuration_with_errors_is_refused_with_all_of_them() {
    let (_lab, [mut alpha]) = lab(["alpha"]);
    alpha.edit(r#""mode": "on""#, r#""mode": "maybe""#);
    alpha.edit(r#""in_flight_limit": 0"#, r#""in_flight_limit": -1"#);
    alpha.edit(r#""exclude": []"#, r#""exclude": ["no-slash"], "tick": 5"#);
    alpha.start_envoy().unwrap();
    let ended = poll(PATIENCE, "end of the proxy", async || alpha.envoy.check().err().ok_or("it runs")).await.unwrap();
    let Error::Ended { status, .. } = ended else { panic!("{ended}") };
    assert!(!status.success());
    let said = std::fs::read_to_string(alpha.envoy.log()).unwrap();
    for error in [
        "in_flight_limit: must be",
        "exclude: must be",
        "mode: must be one of: on, observe, off",
        "tick: is not a setting",
    ] {
        assert!(said.contains(error), "not reported: {error}\n{said}");
    }
}
