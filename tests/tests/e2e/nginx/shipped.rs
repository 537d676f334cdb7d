//! What ships is accepted by the real nginx.

use std::process::Command;

use p2pcdn_tests::{Lab, Nginx};

use crate::support::installed;

#[tokio::test]
async fn every_stock_configuration_is_valid() {
    let lab = Lab::new().unwrap();
    for (at, nginx) in [Nginx::AuthRequest, Nginx::Map].into_iter().enumerate() {
        let mut site = lab.nginx_site(&format!("site-{at}"), nginx).unwrap();
        site.start_envoy().unwrap();
        let file = site.directory().join("nginx.conf");
        let output = Command::new(installed("nginx", "nginx")).arg("-t").arg("-c").arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{nginx:?}: {said}");
        assert!(!said.contains("[warn]"), "{nginx:?}: {said}");
    }
}
