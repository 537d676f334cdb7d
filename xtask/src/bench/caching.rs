//! Page views of a real browser under each policy for redirects: `tests/examples/browser_caching`, and the medians of what it measured.

use std::{
    fs,
    path::{Path, PathBuf},
};

use comfy_table::{Table, presets};
use serde::Serialize;
use serde_json::Value;

use super::{BenchError, median, write_json};
use crate::{layout::Layout, process};

const EXAMPLE: &str = "browser_caching";

#[derive(clap::Args)]
pub(crate) struct CachingArgs {
    /// Sessions under each policy; the result is the median.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(3..=99))]
    rounds: u32,

    /// Milliseconds between two page views of a session.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pause_ms: u32,

    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is summed up: name, where it stands in a session, whether in each of its page views.
const FIGURES: &[(&str, Place)] = &[
    ("first page: requests to the origin", Place::First("/origin_requests")),
    ("first page: requests to holders", Place::First("/holder_requests")),
    ("first page: connections", Place::First("/new_connections")),
    ("first page: bytes from holders", Place::First("/holder_bytes")),
    ("first page, ms", Place::First("/took_ms")),
    ("later page: requests to the origin", Place::Later("/origin_requests")),
    ("later page: bytes from the origin", Place::Later("/origin_bytes")),
    ("later page: requests to holders", Place::Later("/holder_requests")),
    ("later page: bytes from holders", Place::Later("/holder_bytes")),
    ("later page, ms", Place::Later("/took_ms")),
    ("holder dies: share of redirects to it", Place::Session("/death/share")),
    ("holder dies: broken, seen before", Place::Session("/death/broken_seen")),
    ("holder dies: broken, new", Place::Session("/death/broken_unseen")),
    ("holder dies: broken in all views", Place::Session("/death/broken_in_all")),
    ("holder dies: broken in all views, worst", Place::Worst("/death/broken_in_all")),
    ("holder dies: whole after, ms", Place::Session("/death/whole_after_ms")),
    ("holder dies: whole after, worst, ms", Place::Worst("/death/whole_after_ms")),
];

/// Where a figure stands.
#[derive(Clone, Copy)]
enum Place {
    First(&'static str),
    /// The mean over the page views after the first.
    Later(&'static str),
    Session(&'static str),
    /// The greatest of all sessions rather than the median.
    Worst(&'static str),
}

#[derive(Debug, Serialize)]
struct Figures {
    medians: Vec<Medians>,
    /// As the browser's own log has them.
    rounds: Vec<Value>,
}

#[derive(Debug, Serialize)]
struct Medians {
    policy: String,
    /// In the order of [`FIGURES`]; `None` where nothing died.
    figures: Vec<(&'static str, Option<f64>)>,
}

pub(super) fn run(layout: &Layout, envoy: &Path, args: &CachingArgs) -> Result<(), BenchError> {
    // Not optimised: the browser, the proxies and the agents do the work.
    let example = ["--locked", "--package", "p2pcdn-tests", "--example", EXAMPLE];
    process::show(process::cargo(layout, "build").args(example))?;
    let raw = layout.target().join("tmp/browser_caching.json");
    let fail = |what: &str| BenchError::io(format!("{what} {}", raw.display()));
    fs::create_dir_all(layout.target().join("tmp")).map_err(fail("create the directory of"))?;
    let mut program = std::process::Command::new(layout.target().join("debug/examples").join(EXAMPLE));
    program.args([args.rounds.to_string(), args.pause_ms.to_string()]).arg(&raw);
    process::show(program.env("ENVOY", envoy).env("P2PCDN_DIST", layout.dist()))?;
    let rounds: Vec<Value> = serde_json::from_slice(&fs::read(&raw).map_err(fail("read"))?)?;

    let figures = Figures { medians: medians(&rounds), rounds };
    show(&figures.medians);
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

fn medians(rounds: &[Value]) -> Vec<Medians> {
    let mut policies: Vec<&str> = Vec::new();
    for policy in rounds.iter().filter_map(|round| round["policy"].as_str()) {
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    let of_policy = |policy: &str| {
        let sessions: Vec<&Value> = rounds.iter().filter(|round| round["policy"] == policy).collect();
        let figure = |place| {
            let values: Vec<f64> = sessions.iter().filter_map(|session| read(session, place)).collect();
            match place {
                Place::Worst(_) => values.into_iter().reduce(f64::max),
                _ => (!values.is_empty()).then(|| median(values)),
            }
        };
        let figures = FIGURES.iter().map(|(name, place)| (*name, figure(*place))).collect();
        Medians { policy: policy.to_owned(), figures }
    };
    policies.into_iter().map(of_policy).collect()
}

fn read(session: &Value, place: Place) -> Option<f64> {
    let (first, later) = session["views"].as_array()?.split_first()?;
    let number = |value: &Value, pointer| value.pointer(pointer).and_then(Value::as_f64);
    match place {
        Place::First(pointer) => number(first, pointer),
        Place::Later(pointer) => {
            let values: Vec<f64> = later.iter().filter_map(|view| number(view, pointer)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        }
        Place::Session(pointer) | Place::Worst(pointer) => number(session, pointer),
    }
}

fn show(medians: &[Medians]) {
    let mut table = Table::new();
    let policies = medians.iter().map(|of_policy| of_policy.policy.clone());
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([String::new()].into_iter().chain(policies));
    for (at, (name, _)) in FIGURES.iter().enumerate() {
        let cell = |of_policy: &Medians| match of_policy.figures.get(at) {
            Some((_, Some(value))) if value.fract() == 0.0 => format!("{value:.0}"),
            Some((_, Some(value))) => format!("{value:.2}"),
            _ => String::from("-"),
        };
        table.add_row([(*name).to_owned()].into_iter().chain(medians.iter().map(cell)));
    }
    println!("\n{table}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn later_pages_are_averaged_and_sessions_without_a_death_have_none() {
        let view = |requests: u32| json!({ "origin_requests": requests });
        let session = json!({ "policy": "off", "views": [view(20), view(4), view(0)] });
        let medians = medians(&[session.clone(), session]);
        let of = |name| medians[0].figures.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(medians.len(), 1);
        assert_eq!(of("first page: requests to the origin"), Some(20.0));
        assert_eq!(of("later page: requests to the origin"), Some(2.0));
        assert_eq!(of("holder dies: broken, new"), None);
    }
}
