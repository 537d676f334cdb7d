//! The matrix: what browsers do, and what becomes of it at a site that redirects everything it may.

use super::fate::Fate::{Local, Redirected, Refused, Returned, Unasked};
use super::loads::{
    CSS, Fates, OWN, RAN, STYLED, THIRD, downloads, fetches, frames_and_workers, images, media, sandboxed, scripts,
    site_wide,
};
use super::page::{Cell, Page, cell, code, file, text};

/// A page of another site, below what is shared with such: what is only shown goes, and what is read stays, since the origin lets no other
/// site read it.
const SHARED: Fates = Fates { plain: Redirected, sandboxed: Redirected, ..THIRD };
/// The same, and the origin lets everybody read; but nobody with credentials (Fetch, section 3.2.5).
const OPEN: Fates =
    Fates { cors: Redirected, with_credentials: Refused, sandboxed_cors: Redirected, imported: Local, ..SHARED };

/// Every page.
pub(super) fn pages() -> Vec<Page> {
    let foreign = |name, cells| Page { is_foreign: true, ..Page::new(name, cells) };
    vec![
        own(),
        cookie(),
        embedder(),
        policy(),
        foreign(
            "third",
            [elsewhere(THIRD), fetched_from_elsewhere(), downloads("theirs.zip", "called-theirs.zip", Local).into()]
                .concat(),
        ),
        foreign("shared", elsewhere(SHARED)),
        foreign("open", [elsewhere(OPEN), fetched_from_elsewhere()].concat()),
        // Of a site that requires the word of whoever is embedded.
        foreign("corp", [isolated(), elsewhere(SHARED)].concat()),
        opted(),
        Page::new("declared", declared()),
        Page { is_returned: true, ..Page::new("returned", returned()) },
        Page { is_returned: true, ..Page::new("isolated-returned", returned()) },
    ]
}

/// A page of the site itself, without cookies and policies.
fn own() -> Page {
    let mut cells = everything();
    cells.extend(sandboxed(OWN));
    cells.extend(site_wide());
    cells.extend(downloads("clicked.zip", "named.zip", Local));
    Page::new("own", cells)
}

/// What every page of the site itself can load.
fn everything() -> Vec<Cell> {
    [images(OWN), media(OWN), scripts(OWN), frames_and_workers(OWN), fetched_at_home()].concat()
}

/// What a page of another site can load.
fn elsewhere(fates: Fates) -> Vec<Cell> {
    let sandboxed = sandboxed(fates).into();
    [images(fates), sandboxed, media(fates), scripts(fates), frames_and_workers(fates)].concat()
}

fn fetched_at_home() -> Vec<Cell> {
    fetches("fetch", |_, _, _| (Local, None))
}

/// Across origins a browser does not even try what it could not show: `same-origin`, and `no-cors` that follows no redirect.
fn fetched_from_elsewhere() -> Vec<Cell> {
    fetches("fetch", |mode, _, redirect| match (mode, redirect) {
        ("same-origin", _) | ("no-cors", "error" | "manual") => (Unasked, None),
        _ => (Local, None),
    })
}

fn isolated() -> Vec<Cell> {
    vec![cell("isolated", &[], "return [self.crossOriginIsolated, typeof SharedArrayBuffer].join()")]
}

/// A page whose visitors carry a cookie.
fn cookie() -> Page {
    let cells = vec![
        cell("img", &[file("x.png", Redirected)], "return image(at('x.png'))"),
        cell("img-crossorigin", &[file("x.png", Local)], "return image(at('x.png'), { crossOrigin: 'anonymous' })"),
        cell(
            "css",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", Local),
                file("content.png", Redirected),
                file("back.png", Redirected),
            ],
            STYLED,
        ),
    ];
    Page::new("cookie", cells)
}

/// A page with `Cross-Origin-Embedder-Policy: require-corp`.
fn embedder() -> Page {
    let mut cells = [isolated(), everything(), site_wide()].concat();
    cells.extend(sandboxed(OWN));
    cells.extend(downloads("isolated.zip", "called-isolated.zip", Local));
    Page::new("isolated", cells)
}

/// A page whose Content-Security-Policy allows what the site itself and its hosts serve, and nothing else: neither frames nor plug-ins.
fn policy() -> Page {
    let mut cells = everything();
    cells.extend(downloads("policy.zip", "called-policy.zip", Local));
    cells.iter_mut().filter(|cell| matches!(&*cell.name, "iframe" | "object")).for_each(Cell::unask);
    Page::new("policy", cells)
}

/// What the hosts send back.
fn returned() -> Vec<Cell> {
    vec![
        cell("img", &[file("x.png", Returned)], "return image(at('x.png'))"),
        cell("img-crossorigin", &[file("x.png", Returned)], "return image(at('x.png'), { crossOrigin: 'anonymous' })"),
        cell(
            "img-use-credentials",
            &[file("x.png", Returned)],
            "return image(at('x.png'), { crossOrigin: 'use-credentials' })",
        ),
        cell(
            "canvas-crossorigin",
            &[file("x.png", Returned)],
            "return readback(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "css",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", Returned),
                file("content.png", Returned),
                file("back.png", Returned),
            ],
            STYLED,
        ),
    ]
}

/// What only an operator can allow who knows the site's pages.
fn opted() -> Page {
    let mut cells = fetches("fetch", |mode, _, redirect| match (mode, redirect) {
        ("same-origin", _) => (Local, None),
        ("cors", "follow") => (Redirected, Some("cors 200")),
        ("no-cors", "follow") => (Redirected, Some("opaque")),
        (_, "error") => (Refused, Some("TypeError")),
        (_, _) => (Refused, Some("opaqueredirect")),
    });
    cells.extend(downloads("asked.zip", "called.zip", Redirected));
    Page::new("opted", cells)
}

/// Styles and scripts below a path of which the operator says that they may be shared.
fn declared() -> Vec<Cell> {
    let plain = "return script(at('main.js'))";
    let shared = "return script(at('main.js'), { crossOrigin: 'anonymous' })";
    let right = "return script(at('main.js'), { integrity: integrity('main.js'), crossOrigin: 'anonymous' })";
    let right_plain = "return script(at('main.js'), { integrity: integrity('main.js') })";
    let wrong =
        "return script(at('main.js'), { integrity: 'sha256-' + btoa('\\0'.repeat(32)), crossOrigin: 'anonymous' })";
    let module =
        "const loaded = await script(at('main.js'), { type: 'module' }); return globalThis.declared_says ?? loaded";
    let sheet = ".declared { width: 40px; }";
    let styled = "const loaded = await style(at('main.css'), ATTRIBUTES); const sheet = [...document.styleSheets].find((sheet) => sheet.href === at('main.css')); \
        const width = node('div', { className: 'declared' }).offsetWidth; \
        try { return [loaded, width, sheet.cssRules.length].join() } catch (error) { return [loaded, width, error.name].join() }";
    let style = |attributes: &str| styled.replace("ATTRIBUTES", attributes);
    let worker = "const worker = new Worker(at('worker.js')); return message(worker, () => worker.postMessage(''))";
    vec![
        cell("script", &[code("main.js", Local, RAN)], plain),
        cell("script-crossorigin", &[code("main.js", Redirected, RAN)], shared),
        cell("script-integrity", &[code("main.js", Local, RAN)], right_plain),
        cell("script-integrity-crossorigin", &[code("main.js", Redirected, RAN)], right),
        cell("script-wrong-integrity", &[code("main.js", Redirected, RAN)], wrong),
        // Relative to a replica there is nothing to import.
        cell(
            "module",
            &[
                text("main.js", Local, "import { word } from './dep.js'; globalThis.declared_says = word;"),
                code("dep.js", Redirected, "export const word = 'imported';"),
            ],
            module,
        ),
        cell("worker", &[code("worker.js", Local, "onmessage = () => postMessage('worked');")], worker),
        cell("style", &[code("main.css", Local, sheet)], &style("{}")),
        cell("style-crossorigin", &[code("main.css", Redirected, sheet)], &style("{ crossOrigin: 'anonymous' }")),
        // Without crossorigin it is another site's: it applies, but scripts cannot read it.
        cell("plain-style", &[code("main.css", Redirected, sheet)], &style("{}")).breaks("loaded,40,SecurityError"),
        cell(
            "relative-style",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", Redirected),
                file("content.png", Redirected),
                file("back.png", Redirected),
            ],
            STYLED,
        ),
    ]
}
