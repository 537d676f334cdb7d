use super::*;
use crate::replicate::host::deny::MAX_DENIALS;

fn load(toml: &str, overrides: &[&str]) -> Result<Settings, SettingsErrors> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("agent.toml");
    std::fs::write(&file, toml).expect("a file");
    Settings::load(&file, &overrides.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
}

fn keys_of(result: Result<Settings, SettingsErrors>) -> Vec<String> {
    result.expect_err("errors").0.into_iter().map(|error| error.key).collect()
}

#[test]
fn one_line_is_enough_and_the_rest_has_defaults() {
    let settings = load("site.domain = \"a.test\"", &[]).expect("good settings");
    assert_eq!(settings.public.replica_name, "replica.a.test");
    assert_eq!(settings.public.endpoint, "a.test");
    assert_eq!(settings.host.quota_bytes, 10_000_000_000);
    assert_eq!(settings.share.min_object_bytes, 8192);
    assert_eq!(settings.host.classes, Class::ALL);
    assert!(settings.site.learn && settings.share.code_paths.is_empty());
}

#[test]
fn objects_are_learned_only_where_no_directory_names_them() {
    let learns = |toml: &str| load(toml, &["site.domain=a.test"]).expect("good settings").site.learn;
    assert!(learns(""));
    assert!(!learns("site.learn = false"));
    assert!(!learns("site.directory = \"/srv\""));
    assert!(!learns("site.directory = \"/srv\"\nsite.learn = true"));
}

#[test]
fn code_is_shared_below_declared_paths_only() {
    let settings = load("site.domain = \"a.test\"\nshare.code_paths = [\"/static/\"]", &[]).expect("good settings");
    assert_eq!(settings.share.code_paths, ["/static/"]);
    let keys = keys_of(load(
        "site.domain = \"a.test\"\n[share]\nclasses = [\"script\"]\ncode_paths = [\"static\", \"/a//b\"]",
        &[],
    ));
    assert_eq!(keys, ["share.classes", "share.code_paths", "share.code_paths"]);
}

#[test]
fn every_error_is_reported_at_once_with_its_key() {
    let keys = keys_of(load(
        "[site]\ndomain = \"A.test\"\nmax_age = 7\n[listen]\nlocal = \"0.0.0.0:1\"\nreplica = true\n\
         [host]\nquotta = \"1GB\"\nquota = \"much\"\nclasses = [\"image\", \"html\"]\n[peers]\ninvited = \"b.test\"",
        &[],
    ));
    for key in [
        "site.domain",
        "site.max_age",
        "listen.local",
        "listen.replica",
        "host.quotta",
        "host.quota",
        "host.classes",
        "peers.invited",
    ] {
        assert!(keys.iter().any(|k| k == key), "{key} is missing in {keys:?}");
    }
}

#[test]
fn an_unknown_key_names_the_one_that_was_meant() {
    let error = load("site.domain = \"a.test\"\nhost.quotta = \"1GB\"", &[]).expect_err("an error");
    assert!(error.to_string().contains("host.quotta: is not a setting, did you mean host.quota?"), "{error}");
}

#[test]
fn a_missing_domain_is_one_error() {
    assert_eq!(keys_of(load("", &[])), ["site.domain"]);
}

#[test]
fn a_file_that_is_no_toml_says_so() {
    let error = load("site.domain = ", &[]).expect_err("an error");
    assert!(error.to_string().contains("agent.toml"), "{error}");
}

#[test]
fn flags_override_the_file() {
    let settings =
        load("site.domain = \"a.test\"", &["site.domain=b.test:8443", "host.quota=1GB"]).expect("good settings");
    assert_eq!(settings.site.domain, "b.test:8443");
    assert_eq!(settings.host.quota_bytes, 1_000_000_000);
    assert_eq!(keys_of(load("site.domain = \"a.test\"", &["oops"])), ["oops"]);
}

#[test]
fn replicas_need_a_name_of_their_own() {
    let keys = keys_of(load("site.domain = \"a.test\"\npublic.replica_name = \"a.test\"", &[]));
    assert_eq!(keys, ["public.replica_name"]);
}

#[test]
fn the_policy_is_read_unless_the_operator_declares_it() {
    let policy = |lines: &str| load(&format!("[site]\ndomain = \"a.test\"\n{lines}"), &[]).map(|s| s.policy);
    let read = policy("").expect("good settings");
    assert_eq!(read, PolicySettings { csp: Csp::Read, pages: vec!["/".into()] });
    assert_eq!(policy("csp = \"none\"").expect("good settings").csp, Csp::None);
    let declared = policy("csp = \"img-src 'self' https:\"\npages = [\"/\", \"/shop/\"]").expect("good settings");
    assert_eq!(declared.csp, Csp::Declared("img-src 'self' https:".into()));
    for lines in ["csp = \"raed\"", "csp = \"\"", "pages = [\"shop\"]", "pages = [\"//b.test/\"]", "pages = []"] {
        assert!(policy(lines).is_err(), "{lines}");
    }
    let many = vec!["\"/\""; 65].join(",");
    assert!(policy(&format!("pages = [{many}]")).is_err());
}

#[test]
fn one_origin_may_have_limits_of_its_own() {
    let toml = "[site]\ndomain = \"a.test\"\n[host]\nlease = \"2MB\"\n[host.origin.\"www.b.test:8443\"]\nquota = \"1KB\"\n\
                [host.origin.\"c.test\"]\nlease = 7\n";
    let host = load(toml, &[]).expect("good settings").host;
    assert_eq!((host.quota_of("www.b.test:8443"), host.lease_of("www.b.test:8443")), (1000, 2_000_000));
    assert_eq!((host.quota_of("c.test"), host.lease_of("c.test")), (5_000_000_000, 7));
    assert_eq!(host.quota_of("b.test"), 5_000_000_000);
    assert_eq!(host.lease_total_bytes_per_s, 10_000_000, "five leases");
    let wrong = "[site]\ndomain = \"a.test\"\n[host.origin.\"B.test\"]\n[host.origin.\"c.test\"]\nqouta = 1\n\
                 [host.origin.\"e.test\"]\nlease = \"fast\"";
    let keys = keys_of(load(wrong, &["host.origin.d=5"]));
    for key in ["\"B.test\"", "\"c.test\".qouta", "\"d\"", "\"e.test\""] {
        assert!(keys.contains(&format!("host.origin.{key}")), "{key} is missing in {keys:?}");
    }
}

#[test]
fn the_agent_decides_by_the_filters_keys() {
    let decide = |lines: &str| load(&format!("site.domain = \"a.test\"\n[decide]\n{lines}"), &[]).map(|s| s.decide);
    let plain = decide("").expect("good settings");
    assert_eq!((plain.gate.stay_local_s, plain.gate.rules.min_bytes, plain.max_objects), (0, 8192, 1 << 20));
    let lines = "target.requests_per_s = 9\nexclude = [\"/x/\"]\nmode = \"observe\"";
    let gate = decide(lines).expect("good settings").gate;
    assert_eq!((gate.targets.requests_per_s, &*gate.rules.exclude), (9, &["/x/".to_owned()][..]));
    let flags = load("site.domain = \"a.test\"", &["decide.target.requests_per_s=7"]).expect("good settings");
    assert_eq!(flags.decide.gate.targets.requests_per_s, 7);
    let errors = decide("target.request_per_s = 9\nmode = \"maybe\"\nin_flight_limit = 5").expect_err("errors");
    let text = errors.to_string();
    for error in [
        "decide.mode: must be one of: on, observe, off",
        "decide.target.request_per_s: is not a setting; did you mean target.requests_per_s?",
        "decide: cannot limit requests in flight",
    ] {
        assert!(text.contains(error), "{error} is missing in {text}");
    }
    assert!(decide("").is_ok() && load("site.domain = \"a.test\"\ndecide = 5", &[]).is_err());
}

#[test]
fn a_host_says_what_it_spares() {
    let host = |lines: &str| load(&format!("[site]\ndomain = \"a.test\"\n{lines}"), &[]).map(|settings| settings.host);
    let plain = host("").expect("good settings");
    assert_eq!((plain.uplink_bytes_per_s, plain.debt_ratio, plain.min_object_bytes), (None, None, 0));
    assert_eq!((plain.lease_total_bytes_per_s, plain.deny.len()), (50_000_000, 0));
    let known = host("[public]\nuplink = \"5MB\"\n[host]\ndebt_ratio = 2.5\n[proxy]\nadmin = \"127.0.0.1:9901\"")
        .expect("good");
    assert_eq!((known.uplink_bytes_per_s, known.debt_ratio), (Some(5_000_000), Some(2.5)));
    let deny = host(&format!("[host]\ndeny = [\"b.test\", \"b.test/x\", \"/y/\", \"{}\"]", "0".repeat(64)));
    assert_eq!(deny.expect("good settings").deny.len(), 4);
    for (lines, key) in [
        ("[public]\nuplink = \"5MB\"", "public.uplink"),
        ("[host]\ndebt_ratio = -1", "host.debt_ratio"),
        ("[host]\ndeny = [\"B\"]", "host.deny"),
    ] {
        assert_eq!(keys_of(load(&format!("[site]\ndomain = \"a.test\"\n{lines}"), &[])), [key]);
    }
}

#[test]
fn browsers_look_at_hosts_only_where_the_operator_says_so() {
    let evidence =
        |lines: &str| load(&format!("[site]\ndomain = \"a.test\"\n[evidence]\n{lines}"), &[]).map(|s| s.evidence);
    let off = EvidenceSettings { enabled: false, sample: 0.01, max_object_bytes: 1 << 20 };
    assert_eq!(evidence("").expect("good settings"), off);
    let all = evidence("enabled = true\nsample = 1\nmax_object = \"2MB\"").expect("good settings");
    assert_eq!(all, EvidenceSettings { enabled: true, sample: 1.0, max_object_bytes: 2_000_000 });
    for sample in ["0", "-0.1", "1.5", "\"some\""] {
        assert_eq!(
            keys_of(load(&format!("[site]\ndomain = \"a.test\"\n[evidence]\nsample = {sample}"), &[])),
            ["evidence.sample"]
        );
    }
}

#[test]
fn membership_is_by_invitation_unless_it_is_opened() {
    let open = |lines: &str| load(&format!("site.domain = \"a.test\"\n{lines}"), &[]).map(|s| s.open_membership);
    assert!(!open("").expect("good settings") && open("peers.membership = \"open\"").expect("good settings"));
    assert_eq!(keys_of(load("site.domain = \"a.test\"\npeers.membership = \"closed\"", &[])), ["peers.membership"]);
}

#[test]
fn sockets_of_one_address_are_told_by_the_later_key() {
    let listen = |toml: &str| load(&format!("site.domain = \"a.test\"\n{toml}"), &[]);
    assert_eq!(keys_of(listen("listen.peer = \"127.0.0.1:7081\"")), ["listen.peer"]);
    assert_eq!(keys_of(listen("listen.replica = \"0.0.0.0:7080\"")), ["listen.replica"]);
    assert_eq!(keys_of(listen("site.directory = \"srv\"\nlisten.origin = \"127.0.0.1:7082\"")), ["listen.origin"]);
    // Where there is no directory, nobody listens there.
    assert!(listen("listen.origin = \"127.0.0.1:7082\"").is_ok());
    assert!(listen("listen.peer = \"127.0.0.2:7081\"").is_ok());
}

#[test]
fn a_deny_list_beyond_its_bound_is_refused() {
    let list = |entries: usize| {
        let entries: Vec<String> = (0..entries).map(|n| format!("\"d{n}.test\"")).collect();
        load(&format!("site.domain = \"a.test\"\n[host]\ndeny = [{}]", entries.join(",")), &[])
    };
    assert!(list(MAX_DENIALS).is_ok());
    assert_eq!(keys_of(list(MAX_DENIALS + 1)), ["host.deny"]);
}

#[test]
fn what_is_wrong_with_a_flag_is_said_to_come_from_it() {
    let errors = load("site.domain = \"a.test\"", &["host.quota=much"]).expect_err("an error").0;
    assert!(errors[0].problem.ends_with("(from --set)"), "{errors:?}");
}
