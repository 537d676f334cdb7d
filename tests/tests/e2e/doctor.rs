//! An operator asks what redirects would break on a page.

use p2pcdn_tests::content::noise;
use p2pcdn_tests::{Lab, Site};
use serde_json::Value;

use crate::support::{befriend, fill, lab, p2pcdn};

struct Diagnosis {
    exit: Option<i32>,
    findings: Vec<Value>,
}

impl Diagnosis {
    /// What was looked at and the lines to add, for findings of one severity.
    fn of(&self, severity: &str) -> Vec<(&str, &str)> {
        let found = self.findings.iter().filter(|finding| finding["severity"] == severity);
        found.map(|finding| (finding["check"].as_str().unwrap(), finding["add"].as_str().unwrap_or_default())).collect()
    }
}

fn doctor(lab: &Lab, site: &Site, url: &str) -> Diagnosis {
    let output = p2pcdn(lab, site, ["doctor", url, "--json"]);
    let said: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(said["passed"], output.status.success());
    Diagnosis { exit: output.status.code(), findings: said["findings"].as_array().unwrap().clone() }
}

fn put(site: &Site, name: &str, html: &str) {
    std::fs::write(site.directory().join("srv").join(name), html).unwrap();
}

#[tokio::test]
async fn a_healthy_page_passes_and_each_ill_names_its_remedy() {
    let (lab, mut sites) = lab(["alpha", "beta"]);
    sites[0].set("share.code_paths", vec!["/lib/"]);
    fill(&sites[0], 1);
    let directory = sites[0].directory().join("srv/lib");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("a.js"), noise(3, 100)).unwrap();
    put(&sites[0], "index.html", "<!doctype html><title>x</title><img src=/images/0.png>");
    put(
        &sites[0],
        "strict.html",
        "<meta http-equiv=content-security-policy content=\"default-src *; img-src 'self' data:\"><img src=/images/0.png>",
    );
    put(&sites[0], "code.html", "<script src=/lib/a.js></script>");
    put(&sites[0], "mixed.html", "<img src=http://example.test/x.png>");
    befriend(&mut sites).await;
    let (alpha, rest) = sites.split_first_mut().unwrap();
    let replica_name = rest[0].replica_name.to_string();

    let healthy = doctor(&lab, alpha, &alpha.url("/"));
    assert_eq!((healthy.exit, healthy.of("warn"), healthy.of("fail")), (Some(0), vec![], vec![]));
    let looked_at: Vec<&str> = healthy.of("ok").into_iter().map(|(check, _)| check).collect();
    assert_eq!(looked_at, ["clock", "mixed_content", "csp", "tls", "clock", "replica", "cors", "corp"]);

    let strict = doctor(&lab, alpha, &alpha.url("/strict.html"));
    let line = format!("img-src 'self' data: https://{replica_name}");
    assert_eq!((strict.exit, strict.of("fail")), (Some(5), vec![("csp", line.as_str())]));
    let table = p2pcdn(&lab, alpha, ["doctor", &alpha.url("/strict.html")]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("img-src blocks images") && table.contains("FAIL"), "{table}");

    let code = doctor(&lab, alpha, &alpha.url("/code.html"));
    let [(check, add)] = code.of("warn").try_into().unwrap();
    assert_eq!((code.exit, check), (Some(0), "integrity"));
    assert!(add.starts_with("integrity=\"sha384-") && add.ends_with("\" crossorigin=\"anonymous\""), "{add}");

    let mixed = doctor(&lab, alpha, &alpha.url("/mixed.html"));
    assert_eq!((mixed.exit, mixed.of("fail")), (Some(5), vec![("mixed_content", "https://example.test/x.png")]));
    let missing = doctor(&lab, alpha, &alpha.url("/missing.html"));
    assert_eq!(
        (missing.exit, missing.of("fail")),
        (Some(5), vec![("page", "p2pcdn doctor https://SITE/PATH/OF/A/PAGE")])
    );

    // What the holder serves in another's name is looked at as well.
    rest[0].envoy.kill();
    let dead: Vec<String> =
        doctor(&lab, alpha, &alpha.url("/")).of("fail").iter().map(|(c, _)| (*c).to_owned()).collect();
    assert_eq!(dead, ["tls", "replica"]);

    alpha.agent.kill();
    let alone = doctor(&lab, alpha, "https://alpha.invalid/");
    assert_eq!(alone.exit, Some(5));
    assert_eq!(alone.of("warn"), [("holders", "p2pcdn run")], "it works without an agent");
    let output = p2pcdn(&lab, alpha, ["doctor", "not a url"]);
    assert_eq!(output.status.code(), Some(2));
}
