use p2pcdn_core::object::{Class, Embedding, Sharing};

use super::*;

fn row(class: Class) -> ObjectRow {
    ObjectRow {
        key: 1,
        sha256: Sha256([0xab; 32]),
        size: 100_000,
        class,
        validator: 0,
        fresh_until_s: 1000,
        stale_if_error_s: 0,
        sharing: Sharing::SameOrigin,
        embedding: Embedding::Unstated,
        set: 0,
    }
}

fn rules() -> Rules {
    Rules { classes: Class::ALL.to_vec(), min_bytes: 8192, exclude: vec!["/own/".into()], ..Rules::default() }
}

fn entry(path: &str, weights: &[u16]) -> Entry {
    let candidate = |(id, weight): (usize, &u16)| Candidate { holder: id as u16, weight: *weight, newcomer: false };
    let candidates = weights.iter().enumerate().map(candidate);
    Entry { kind: "image", path: path.into(), sha256: Sha256([0xab; 32]), candidates: candidates.collect() }
}

fn written(fraction_ppm: u32, entries: &[Entry]) -> String {
    let authorities = (0..5).map(|id| (id, format!("r{id}.test"))).collect();
    let steering = Steering { fraction_ppm, ..Steering::default() };
    render("a.test:84", steering, entries, &authorities, 1_700_000_000, 100)
}

#[test]
fn what_may_leave_is_what_the_filter_would_let_leave() {
    let may = |kind, path: &str, row: &ObjectRow| may_leave(kind, path, row, &rules(), 500, 100);
    assert!(may(Destination::Image, "/a.png", &row(Class::Image)));
    assert!(may(Destination::Media, "/a.mp4", &row(Class::Media)));
    for (kind, path, class) in [
        (Destination::Media, "/a.png", Class::Image),
        (Destination::Image, "/a.zip", Class::Archive),
        (Destination::Image, "/own/a.png", Class::Image),
        (Destination::Image, "/a.png?v=1", Class::Image),
        (Destination::Image, "/x//a.png", Class::Image),
        (Destination::Style, "/a.css", Class::Style),
    ] {
        assert!(!may(kind, path, &row(class)), "{kind:?} {path}");
    }
    assert!(!may(Destination::Image, "/a.png", &ObjectRow { size: 8191, ..row(Class::Image) }));
    assert!(
        !may(Destination::Image, "/a.png", &ObjectRow { fresh_until_s: 600, ..row(Class::Image) }),
        "stale too soon"
    );
}

#[test]
fn shares_are_those_of_the_choice_and_what_the_cap_leaves_over_stays() {
    let text = written(375_000, &[entry("/a.png", &[1000, 1000]), entry("/b.png", &[1000, 10, 10])]);
    for line in [
        "    37.50% 1;\n    * \"\";",
        "$p2pcdn_hosts_0 {\n    50.00% r0.test;\n    50.00% r1.test;\n}",
        "$p2pcdn_hosts_1 {\n    66.67% r0.test;\n    0.98% r1.test;\n    0.98% r2.test;\n}",
        &format!("    \"image/b.png\" \"${{p2pcdn_hosts_1}} {} /b.png\";", "ab".repeat(32)),
        "default a.test:84;",
        "    ~^17000000\\d\\d\\. 1;\n    ~^17000001\\d\\d\\. 1;\n}",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    assert_eq!(text.matches("split_clients \"hosts").count(), 2);
    let same = written(ONE_PPM, &[entry("/a.png", &[7]), entry("/b.png", &[7])]);
    assert_eq!(same.matches("split_clients \"hosts").count(), 1, "objects at the same hosts share a set");
    assert!(same.contains("$p2pcdn_leaves {\n    * 1;\n}") && same.contains("    * r0.test;"));
}

#[test]
fn nothing_is_redirected_below_the_smallest_share_nor_after_a_pause() {
    let killed = Steering { fraction_ppm: ONE_PPM, killed: true, ..Steering::default() };
    for text in [written(99, &[]), render("a.test", killed, &[], &BTreeMap::new(), 0, 0)] {
        assert!(text.contains("$p2pcdn_leaves {\n    * \"\";\n}"), "{text}");
    }
}

#[test]
fn paths_that_nginx_takes_for_the_same_are_left_out() {
    let text = written(ONE_PPM, &[entry("/a.png", &[1]), entry("/A.png", &[1]), entry("/b.png", &[1])]);
    assert!(!text.contains("/a.png") && !text.contains("/A.png") && text.contains("/b.png"), "{text}");
}

#[test]
fn a_dollar_sign_begins_no_variable() {
    let text = written(ONE_PPM, &[entry("/a$b.png", &[1])]);
    assert!(
        text.contains("\"image/a$b.png\" \"${p2pcdn_hosts_0} ") && text.contains(" /a${p2pcdn_dollar}b.png\";"),
        "{text}"
    );
}
