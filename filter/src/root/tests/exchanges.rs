//! Between the VM, the agent and the other VMs.

use super::*;
use crate::host::fake::Post;
use proptest::prelude::*;

#[test]
fn every_tick_reports_to_the_agents_cluster_once_the_vm_serves() {
    let mut site = Site::new(r#", "tick_ms": 500, "target": {"requests_per_s": 9}"#);
    site.root.tick();
    assert_eq!((site.host.posts().len(), site.host.tick_ms()), (0, 500));
    site.get("/a.png");
    site.host.pass_ms(500);
    site.root.tick();
    let Post { cluster, path, timeout_ms, .. } = site.host.posts().remove(0);
    assert_eq!((&*cluster, &*path, timeout_ms), (AGENT, SYNC_PATH, 1000));
    let report = site.last_report();
    assert_eq!((report.have, report.interval_ms, report.counts.requests), (Have::default(), 500, 1));
    assert_eq!((report.targets.requests_per_s, report.vm != 0), (9, true));
}

#[test]
fn a_bad_configuration_is_no_use_and_every_error_is_in_the_log() {
    let host = FakeHost::new(PROXY, NOW_MS, r#"{"tick_ms": 1, "mode": "maybe"}"#);
    let mut root = Root::new(host.clone(), 1);
    let is_survived = PROXY == Proxy::Nginx;
    assert_eq!(host.configuring(|size| root.configure(size)), is_survived, "nginx's workers would die of a refusal");
    let expected =
        ["agent.cluster: is required", "tick_ms: must be within 25 to 2000", "mode: must be one of: on, observe, off"];
    assert_eq!(host.logged(), expected.map(|text| (Level::Error, text.into())));
    assert_eq!(root.request().head(true), Verdict::Local);
}

#[test]
fn a_table_that_nobody_confirms_is_void_after_its_time_to_live() {
    let mut site = Site::new("");
    site.load(Update { ttl_ms: 1000, ..update(table()) });
    site.host.pass_ms(999);
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
    site.host.pass_ms(1);
    assert_eq!(site.get("/a.png"), Verdict::Local);
    site.root.tick();
    site.answer(&nothing_new());
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
}

#[test]
fn a_clock_that_was_set_back_makes_the_table_void() {
    let site = Site::loaded("");
    site.host.set_now_ms(NOW_MS - 60_000);
    assert_eq!(site.get("/a.png"), Verdict::Local);
}

#[test]
fn a_snapshot_is_loaded_page_by_page_at_a_quicker_pace() {
    let page = |progress| Have { session: 1, version: 1, progress };
    let mut site = Site::new("");
    let (first, rest) = (table()[..3].to_vec(), table()[3..].to_vec());
    site.load(Update { now: page(Progress::UpTo(7)), more: true, ..update(first) });
    assert_eq!(site.host.tick_ms(), LOADING_TICK_MS);
    assert_eq!((site.get("/a.png"), site.get("/b.woff2")), (Verdict::Redirected, Verdict::Local));
    site.root.tick();
    assert_eq!(site.last_report().have, page(Progress::UpTo(7)));
    site.answer(&Update { ops: rest, ..nothing_new() });
    assert_eq!(site.host.tick_ms(), 250);
    assert_eq!((site.get("/a.png"), site.get("/b.woff2")), (Verdict::Redirected, Verdict::Redirected));
    assert_eq!((site.metric("p2pcdn.table_objects"), site.metric("p2pcdn.table_version")), (2, 1));
}

#[test]
fn an_exchange_that_fails_while_loading_is_not_repeated_at_the_quicker_pace() {
    let mut site = Site::new("");
    site.load(Update {
        now: Have { session: 1, version: 1, progress: Progress::UpTo(7) },
        more: true,
        ..update(table())
    });
    site.root.tick();
    site.fail();
    assert_eq!(site.host.tick_ms(), 250);
}

#[test]
fn a_new_session_or_hash_key_replaces_the_table() {
    let mut site = Site::loaded("");
    site.get("/a.png");
    site.root.tick();
    site.answer(&update(table()[..2].to_vec()));
    assert_eq!(site.get("/a.png"), Verdict::Local);

    let mut site = Site::loaded("");
    site.root.tick();
    site.get("/a.png");
    site.answer(&Update { hash_key: HashKey([3, 4]), ..nothing_new() });
    assert_eq!((site.get("/a.png"), site.metric("p2pcdn.table_objects")), (Verdict::Local, 0));
    site.root.tick();
    let report = site.last_report();
    let old_key = report.hot.iter().any(|(hot, _)| *hot == key("/a.png"));
    assert_eq!((report.counts.requests, old_key, report.redirected_to.len()), (2, false, 0));
}

#[test]
fn a_malformed_update_changes_nothing_and_is_logged_once_a_minute() {
    let mut site = Site::loaded("");
    let injected = HolderRow { id: 1, authority: "x\r\ny".into(), ..holder_row(1) };
    let malformed = update(vec![Op::Remove { key: key("/a.png") }, Op::Holder(injected)]);
    for _ in 0..3 {
        site.root.tick();
        site.answer(&malformed);
    }
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
    let text = format!("cluster {AGENT}: the agent's changes could not be applied: holder 1 has no plain authority");
    assert_eq!((site.host.logged(), site.metric("p2pcdn.sync_failures")), (vec![(Level::Warn, text)], 3));
    site.host.pass_ms(LOG_PERIOD_MS);
    site.root.tick();
    site.answer(&malformed);
    assert_eq!(site.host.logged().len(), 2);
    assert_eq!(site.get("/a.png"), Verdict::Local, "a malformed update confirms nothing");
}

#[test]
fn every_cause_of_failure_is_logged_with_its_name() {
    let mut site = Site::loaded("");
    site.host.set_can_send(false);
    site.root.tick();
    site.host.set_can_send(true);
    let answers = [(Some(503), vec![]), (None, vec![]), (Some(200), vec![0; MAX_FRAME_BYTES + 1])];
    for (status, body) in answers {
        site.root.tick();
        site.answer_bytes(status, body);
    }
    let expected = [
        "the proxy has no cluster of this name, or cannot send to it",
        "the agent's socket answered with status 503",
        "the agent did not answer",
        "the agent's answer was not understood: the frame is longer than 1048576 bytes",
    ];
    let logged: Vec<String> = site.host.logged().into_iter().map(|(_, text)| text).collect();
    assert_eq!(logged, expected.map(|text| format!("cluster {AGENT}: {text}")));
}

#[test]
fn one_callout_is_in_flight_and_only_its_answer_counts() {
    let mut site = Site::new("");
    site.get("/a.png");
    (0..3).for_each(|_| site.root.tick());
    assert_eq!(site.host.posts().len(), 1);
    site.host.set_answer(Some(200), encode(&update(table())).unwrap());
    site.root.answered(99, 1, 0);
    assert_eq!(site.get("/a.png"), Verdict::Local);
    site.answer(&update(table()));
    assert_eq!(site.get("/a.png"), Verdict::Redirected);
}

#[test]
fn counts_are_carried_over_until_a_report_is_answered() {
    let mut site = Site::loaded("");
    for _ in 0..2 {
        site.get("/a.png");
        site.host.pass_ms(250);
        site.root.tick();
        site.get("/b.woff2");
        site.fail();
    }
    site.host.pass_ms(250);
    site.root.tick();
    let report = site.last_report();
    assert_eq!((report.counts.requests, report.counts.redirected, report.interval_ms), (4, 4, 750));
    assert_eq!((report.redirected_to[0].requests, report.redirected_to[0].bytes), (4, 4 * BYTES));
    site.answer(&nothing_new());
    site.host.pass_ms(250);
    site.root.tick();
    assert_eq!((site.last_report().counts.requests, site.last_report().interval_ms), (0, 250));
}

#[test]
fn a_callout_that_the_proxy_forgot_is_given_up_after_twice_its_timeout() {
    let mut site = Site::new("");
    site.get("/a.png");
    site.root.tick();
    site.host.pass_ms(2000);
    site.root.tick();
    assert_eq!(site.host.posts().len(), 1);
    site.host.pass_ms(1);
    site.root.tick();
    assert_eq!((site.host.posts().len(), site.last_report().counts.requests), (2, 1));
    site.host.set_answer(Some(200), encode(&update(table())).unwrap());
    site.root.answered(1, 1, MAX_FRAME_BYTES);
    assert_eq!(site.get("/a.png"), Verdict::Local, "what it says by now is not listened to");
}

#[test]
fn vms_of_one_proxy_agree_on_the_steering_within_a_tick() {
    let mut first = Site::new("");
    let mut second = Site::beside(&first.host, 2);
    first.load(Update { steering: Steering::default(), ..update(table()) });
    second.load(Update { steering: Steering::default(), ..update(table()) });
    assert_eq!((first.get("/a.png"), second.get("/a.png")), (Verdict::Local, Verdict::Local));

    first.host.pass_ms(250);
    first.root.tick();
    first.answer(&nothing_new());
    second.root.tick();
    assert_eq!((first.get("/a.png"), second.get("/a.png")), (Verdict::Redirected, Verdict::Redirected));
}

#[test]
fn requests_in_flight_add_up_over_the_vms_of_one_proxy() {
    let mut first = Site::new(r#", "in_flight_limit": 2"#);
    let mut second = Site::beside(&first.host, 2);
    second.load(Update { steering: Steering::default(), ..update(table()) });
    let held = [first.ask(&[]), first.ask(&[])];
    assert_eq!(second.get("/a.png"), Verdict::Local);
    first.root.tick();
    second.root.tick();
    assert_eq!((second.get("/a.png"), second.metric("p2pcdn.in_flight")), (Verdict::Redirected, 2));
    drop(held);
    first.root.tick();
    second.root.tick();
    assert_eq!(second.get("/a.png"), Verdict::Local);
}

proptest! {
    #[test]
    fn hostile_answers_never_panic_and_change_nothing(status: Option<u16>, body: Vec<u8>, headers in 0..3usize, size: usize) {
        let mut site = Site::loaded("");
        site.root.tick();
        site.host.set_answer(status, body);
        site.root.answered(site.token(), headers, size);
        prop_assert_eq!(site.get("/a.png"), Verdict::Redirected);
    }
}
