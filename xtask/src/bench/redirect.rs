//! What a request costs the proxy's worker, by what happens to it.

use std::{collections::BTreeMap, path::PathBuf};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::{
    Bed, BenchError, load, median,
    proxy::{Handler, Proxy},
    publisher::{ALL, Publisher},
    report::{self, Line, Required},
    write_json,
};

#[derive(clap::Args)]
pub(crate) struct RedirectArgs {
    /// Rounds; the result is the median. Many short ones tell more than few long ones: what disturbs a shared machine lasts for seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=99))]
    rounds: u32,

    /// Seconds of each measurement; there are nine in a round.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,

    /// Write ratios and every round's figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One way that a request can take.
struct Variant {
    name: &'static str,
    listener: &'static str,
    prefix: &'static str,
    /// First digit of the status of every answer.
    status: char,
}

/// Prefixes are equally long. `native`, `direct` and `lua` are the references; `direct` and `native` pass no filter at all.
const VARIANTS: [Variant; 9] = [
    Variant { name: "native", listener: "bare", prefix: "/forward/", status: '3' },
    Variant { name: "direct", listener: "bare", prefix: "/replies/", status: '2' },
    Variant { name: "disabled", listener: "k100", prefix: "/replies/", status: '2' },
    Variant { name: "pass", listener: "k100", prefix: "/missing/", status: '2' },
    Variant { name: "idle", listener: "idle", prefix: "/objects/", status: '2' },
    Variant { name: "redirect_k1", listener: "k1", prefix: "/objects/", status: '3' },
    Variant { name: "redirect_k100", listener: "k100", prefix: "/objects/", status: '3' },
    Variant { name: "redirect_m1", listener: "m1", prefix: "/objects/", status: '3' },
    Variant { name: "lua", listener: "lua", prefix: "/objects/", status: '3' },
];
const K1: u32 = 1000;
const K100: u32 = 100_000;
const M1: u32 = 1_000_000;

/// One variant in one round.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figure {
    /// CPU time of the worker in microseconds per request.
    cpu_us: f64,
    requests_per_s: f64,
    requests: u64,
    p99_us: u64,
}

type Round = BTreeMap<&'static str, Figure>;

#[derive(Debug, Serialize)]
struct Ratios {
    redirect_over_native: f64,
    redirect_over_lua: f64,
    pass_over_direct: f64,
    disabled_over_direct: f64,
    m1_over_k1: f64,
}

#[derive(Debug, Serialize)]
struct Figures {
    ratios: Ratios,
    /// Growth of WebAssembly memory over loading a million objects, for each of them.
    bytes_per_object: f64,
    /// The same for the whole process, with what the proxy itself keeps of it.
    resident_bytes_per_object: f64,
    rounds: Vec<Round>,
}

pub(super) async fn run(bed: &Bed, args: &RedirectArgs) -> Result<(), BenchError> {
    println!("filling tables of {K1}, {K100} and {M1} objects");
    let k1 = Publisher::start(bed, "k1", K1, ALL).await?;
    let k100 = Publisher::start(bed, "k100", K100, ALL).await?;
    let m1 = Publisher::start(bed, "m1", M1, ALL).await?;
    let idle = Publisher::start(bed, "idle", K100, 0).await?;
    let handlers = [
        ("bare", Handler::Bare),
        ("k1", Handler::Filter(&k1)),
        ("k100", Handler::Filter(&k100)),
        ("m1", Handler::Filter(&m1)),
        ("idle", Handler::Filter(&idle)),
        ("lua", Handler::Lua(K100)),
    ];
    let proxy = Proxy::start(bed, "envoy", 1, "{}", &handlers).await?;
    // A VM asks for the table once it has served a request; the largest one alone, so that what memory grows by is its own.
    for (listener, publisher) in [("k1", &k1), ("k100", &k100), ("idle", &idle)] {
        offer(bed, &proxy, listener, "/objects/", 1)?;
        proxy.at_rest(listener).await?;
        publisher.loaded_by(1).await?;
    }
    let (wasm_before, resident_before) = proxy.memory()?;
    offer(bed, &proxy, "m1", "/objects/", 1)?;
    proxy.at_rest("m1").await?;
    m1.loaded_by(1).await?;
    let (wasm_after, resident_after) = proxy.memory()?;
    let per_object = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(M1);

    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        let mut round = Round::new();
        for variant in &VARIANTS {
            round.insert(variant.name, measure(bed, &proxy, variant, args.seconds).await?);
        }
        let line: Vec<_> = VARIANTS.iter().map(|v| format!("{} {:.1}", v.name, round[v.name].cpu_us)).collect();
        println!("round {number}, us of CPU a request: {}", line.join(", "));
        rounds.push(round);
    }
    let figures = Figures {
        ratios: ratios(&rounds),
        bytes_per_object: per_object(wasm_before, wasm_after),
        resident_bytes_per_object: per_object(resident_before, resident_after),
        rounds,
    };
    show(&figures);
    args.json.as_ref().map_or(Ok(()), |path| write_json(path, &figures))
}

fn offer(bed: &Bed, proxy: &Proxy, listener: &str, prefix: &str, seconds: u32) -> Result<load::Counted, BenchError> {
    let objects = match listener {
        "k1" => K1,
        "m1" => M1,
        _ => K100,
    };
    load::offer(bed, &format!("http://{}", proxy.address(listener)?), prefix, objects, seconds)
}

async fn measure(bed: &Bed, proxy: &Proxy, variant: &Variant, seconds: u32) -> Result<Figure, BenchError> {
    let Variant { name, listener, prefix, status } = *variant;
    let other = if status == '2' { '3' } else { '2' };
    let before = (proxy.answers(listener, status).await?, proxy.answers(listener, other).await?);
    let ran_before = proxy.worker_ns()?;
    let counted = offer(bed, proxy, listener, prefix, seconds)?;
    proxy.at_rest(listener).await?;
    let ran_ns = proxy.worker_ns()?.saturating_sub(ran_before);
    let right = proxy.answers(listener, status).await? - before.0;
    let wrong = proxy.answers(listener, other).await? - before.1;
    let requests = right + wrong;
    if wrong > requests / 1000 {
        return Err(BenchError::Answers { variant: name, wrong, all: requests, expected: status });
    }
    Ok(Figure {
        cpu_us: ran_ns as f64 / 1000.0 / requests.max(1) as f64,
        requests_per_s: counted.requests as f64 * 1e6 / counted.duration_us.max(1) as f64,
        requests,
        p99_us: counted.p99_us,
    })
}

fn ratios(rounds: &[Round]) -> Ratios {
    let ratio = |reference: &str, ours: &str| median(rounds.iter().map(|r| r[reference].cpu_us / r[ours].cpu_us));
    Ratios {
        redirect_over_native: ratio("native", "redirect_k100"),
        redirect_over_lua: ratio("lua", "redirect_k100"),
        pass_over_direct: ratio("direct", "pass"),
        disabled_over_direct: ratio("direct", "disabled"),
        m1_over_k1: ratio("redirect_k1", "redirect_m1"),
    }
}

fn show(figures: &Figures) {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header([
        "median of rounds",
        "CPU us/request",
        "requests/s",
        "p99 us",
    ]);
    for variant in &VARIANTS {
        let of = |field: fn(&Figure) -> f64| median(figures.rounds.iter().map(|round| field(&round[variant.name])));
        let (cpu, rate, p99) = (of(|f| f.cpu_us), of(|f| f.requests_per_s), of(|f| f.p99_us as f64));
        table.add_row([variant.name.to_owned(), format!("{cpu:.2}"), format!("{rate:.0}"), format!("{p99:.0}")]);
    }
    println!("\n{table}");
    let Ratios { redirect_over_native, redirect_over_lua, pass_over_direct, disabled_over_direct, m1_over_k1 } =
        figures.ratios;
    let line = |name, reached, required| Line { name, reached, required };
    report::print(&[
        line("redirect over native", redirect_over_native, Required::AtLeast(0.65)),
        line("redirect over Lua", redirect_over_lua, Required::AtLeast(0.90)),
        line("pass over direct", pass_over_direct, Required::AtLeast(0.66)),
        line("disabled over direct", disabled_over_direct, Required::AtLeast(0.98)),
        line("1M over 1k objects", m1_over_k1, Required::AtLeast(0.95)),
        line("bytes per object", figures.bytes_per_object, Required::AtMost(72.0)),
    ]);
    println!("resident bytes per object, the proxy's own included: {:.1}", figures.resident_bytes_per_object);
}
