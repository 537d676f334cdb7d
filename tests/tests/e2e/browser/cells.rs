//! The matrix: what browsers do, and what becomes of it at a site that redirects everything it may.

use super::fate::Fate::{self, Local, Redirected, Refused, Returned, Unasked};
use super::page::{Cell, Page, cell, code, file, text};

const RAN: &str = "document.currentScript.dataset.ran = 'ran';";
const CSS: &str = "@font-face { font-family: Wide; src: url(font.ttf); } \
    .content { display: inline-block; content: url(content.png); } \
    .back { width: 9px; height: 9px; background-image: image-set(url(back.png) 1x); }";
const STYLED: &str = "const loaded = await style(at('main.css')); \
    const content = node('div', { className: 'content' }); node('div', { className: 'back' }); \
    await document.fonts.load('16px Wide'); await until(() => content.offsetWidth === 64); \
    return [loaded, width('Wide'), content.offsetWidth].join()";

/// Every page.
pub(super) fn pages() -> Vec<Page> {
    vec![
        own(),
        cookie(),
        embedder(),
        policy(),
        third(),
        opted(),
        Page::new("declared", declared()),
        Page { is_foreign: true, ..Page::new("shared", shared()) },
        Page { is_returned: true, ..Page::new("returned", returned()) },
        Page { is_returned: true, ..Page::new("isolated-returned", returned()) },
    ]
}

/// A page of the site itself, without cookies and policies.
fn own() -> Page {
    let mut cells = images();
    cells.extend(scripts());
    cells.extend(frames_and_workers());
    cells.extend(downloads("clicked.zip", "named.zip", Local));
    cells.extend(fetches("fetch", |_, _, _| (Local, None)));
    Page::new("own", cells)
}

fn images() -> Vec<Cell> {
    let picture = "const parent = node('picture'); \
        node('source', { srcset: at('small.png') + ' 1x, ' + at('large.png') + ' 2x', type: 'image/png' }, parent); \
        const element = node('img', {}, parent); \
        return settled(element, () => (element.src = at('fallback.png')), () => element.currentSrc.split('/').pop())";
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'><g id='g'><rect width='40' height='40'/></g></svg>";
    let svg_use = "const space = 'http://www.w3.org/2000/svg'; const root = document.createElementNS(space, 'svg'); \
        const element = document.createElementNS(space, 'use'); element.setAttribute('href', at('x.svg') + '#g'); \
        root.append(element); document.body.append(root); \
        await until(() => element.getBBox().width === 40); return element.getBBox().width";
    let sandboxed = "const frame = node('iframe', { sandbox: 'allow-scripts' }); \
        return message(window, () => (frame.srcdoc = `<img src='${at('x.png')}' \
            onload='parent.postMessage(this.naturalWidth, \"*\")' onerror='parent.postMessage(\"error\", \"*\")'>`))";
    let preload = "const link = document.createElement('link'); Object.assign(link, { rel: 'preload', as: 'image', href: at('x.png') }); \
        const loaded = await settled(link, () => document.head.append(link), () => 'preloaded'); return loaded + await image(at('x.png'))";
    let font_face = "const face = new FontFace('Direct', `url(${at('font.ttf')})`); await face.load(); document.fonts.add(face); return width('Direct')";
    vec![
        cell("img", &[file("x.png", Redirected)], "return image(at('x.png'))"),
        cell("img-lazy", &[file("x.png", Redirected)], "return image(at('x.png'), { loading: 'lazy' })"),
        cell(
            "img-crossorigin",
            &[file("x.png", Redirected)],
            "return image(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "img-use-credentials",
            &[file("x.png", Redirected)],
            "return image(at('x.png'), { crossOrigin: 'use-credentials' })",
        ),
        cell("img-svg", &[text("x.svg", Redirected, svg)], "return image(at('x.svg'))"),
        cell("img-query", &[file("x.png", Local)], "return image(at('x.png') + '?v=1')"),
        cell("img-sandboxed", &[file("x.png", Local)], sandboxed),
        cell("img-preload", &[file("x.png", Redirected)], preload),
        cell(
            "picture",
            &[file("small.png", Redirected), file("large.png", Unasked), file("fallback.png", Unasked)],
            picture,
        ),
        cell("svg-use", &[text("x.svg", Local, svg)], svg_use),
        cell("font-face", &[file("font.ttf", Redirected)], font_face),
        // Nothing in the headers tells an image that will be read back from one that will only be shown.
        cell("canvas", &[file("x.png", Redirected)], "return readback(at('x.png'))").breaks("SecurityError"),
        cell(
            "canvas-crossorigin",
            &[file("x.png", Redirected)],
            "return readback(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "css",
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

fn scripts() -> Vec<Cell> {
    let right = "return script(at('main.js'), { integrity: integrity('main.js') })";
    let right_cors = "return script(at('main.js'), { integrity: integrity('main.js'), crossOrigin: 'anonymous' })";
    let wrong =
        "return script(at('main.js'), { integrity: 'sha256-' + btoa('\\0'.repeat(32)), crossOrigin: 'anonymous' })";
    let module =
        "const loaded = await script(at('main.js'), { type: 'module' }); return globalThis.module_says ?? loaded";
    let style_right = "return style(at('main.css'), { integrity: integrity('main.css'), crossOrigin: 'anonymous' })";
    let style_wrong =
        "return style(at('main.css'), { integrity: 'sha256-' + btoa('\\0'.repeat(32)), crossOrigin: 'anonymous' })";
    vec![
        cell("script", &[text("main.js", Local, RAN)], "return script(at('main.js'))"),
        cell(
            "script-crossorigin",
            &[text("main.js", Local, RAN)],
            "return script(at('main.js'), { crossOrigin: 'anonymous' })",
        ),
        cell("script-integrity", &[text("main.js", Local, RAN)], right),
        cell("script-integrity-crossorigin", &[text("main.js", Local, RAN)], right_cors),
        cell("script-wrong-integrity", &[text("main.js", Local, RAN)], wrong),
        cell("style-integrity", &[text("main.css", Local, ".a {}")], style_right),
        cell("style-wrong-integrity", &[text("main.css", Local, ".a {}")], style_wrong),
        cell(
            "module",
            &[
                text("main.js", Local, "import { word } from './dep.js'; globalThis.module_says = word;"),
                text("dep.js", Local, "export const word = 'imported';"),
            ],
            module,
        ),
    ]
}

fn frames_and_workers() -> Vec<Cell> {
    let frame = "const frame = node('iframe'); \
        return settled(frame, () => (frame.src = at('frame.html')), () => frame.contentDocument.title)";
    let object = "const element = document.createElement('object'); element.type = 'image/svg+xml'; element.data = at('x.svg'); \
        return settled(element, () => document.body.append(element), () => element.contentDocument ? 'same origin' : 'opaque')";
    let worker =
        "const worker = new Worker(at('worker.js')); return message(worker, () => worker.postMessage(at('x.png')))";
    let service = "const registration = await navigator.serviceWorker.register(at('sw.js')); \
        const worker = registration.installing ?? registration.waiting ?? registration.active; \
        await until(() => worker.state === 'activated'); \
        const frame = node('iframe'); \
        const said = await settled(frame, () => (frame.src = at('frame.html')), () => frame.contentDocument.title); \
        const loaded = await new Promise((resolve) => { const inner = frame.contentDocument.createElement('img'); \
            inner.onload = () => resolve(inner.naturalWidth); inner.onerror = () => resolve('error'); inner.src = at('x.png'); }); \
        await registration.unregister(); return [worker.state, said, loaded].join()";
    let manifest = "const link = document.createElement('link'); Object.assign(link, { rel: 'manifest', href: at('app.webmanifest') }); \
        document.head.append(link); return 'linked'";
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>";
    vec![
        cell("iframe", &[text("frame.html", Local, "<!doctype html><title>framed</title>")], frame),
        cell("object", &[text("x.svg", Local, svg)], object),
        cell(
            "worker",
            &[
                text(
                    "worker.js",
                    Local,
                    "importScripts('more.js'); onmessage = async (event) => postMessage(word + (await fetch(event.data)).type);",
                ),
                text("more.js", Local, "const word = 'worked ';"),
                file("x.png", Local),
            ],
            worker,
        ),
        cell(
            "service-worker",
            &[
                text("sw.js", Local, "addEventListener('fetch', (event) => event.respondWith(fetch(event.request)));"),
                text("frame.html", Local, "<!doctype html><title>served</title>"),
                // A worker asks as fetch does, whatever for.
                file("x.png", Local),
            ],
            service,
        ),
        cell("manifest", &[text("app.webmanifest", Local, "{ \"name\": \"cells\" }")], manifest),
    ]
}

/// `fetch` with every mode, credentials and redirect setting that a browser sends.
fn fetches(name: &str, expected: impl Fn(&str, &str, &str) -> (Fate, Option<&'static str>)) -> Vec<Cell> {
    let mut cells = Vec::new();
    for mode in ["cors", "no-cors", "same-origin"] {
        for credentials in ["omit", "same-origin", "include"] {
            for redirect in ["follow", "error", "manual"] {
                let (fate, breaks) = expected(mode, credentials, redirect);
                let script = format!(
                    "return fetched(at('x.png'), {{ mode: '{mode}', credentials: '{credentials}', redirect: '{redirect}' }})"
                );
                let name = format!("{name}-{mode}-{credentials}-{redirect}");
                let made = cell(&name, &[file("x.png", fate)], &script);
                cells.push(Cell { breaks, ..made });
            }
        }
    }
    cells
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
    let cells = vec![
        cell("isolated", &[], "return [self.crossOriginIsolated, typeof SharedArrayBuffer].join()"),
        cell("img", &[file("x.png", Redirected)], "return image(at('x.png'))"),
        cell(
            "img-crossorigin",
            &[file("x.png", Redirected)],
            "return image(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "canvas-crossorigin",
            &[file("x.png", Redirected)],
            "return readback(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "css",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", Redirected),
                file("content.png", Redirected),
                file("back.png", Redirected),
            ],
            STYLED,
        ),
        cell("script", &[text("main.js", Local, RAN)], "return script(at('main.js'))"),
        cell("fetch", &[file("x.png", Local)], "return fetched(at('x.png'))"),
    ];
    Page::new("isolated", cells)
}

/// A page whose Content-Security-Policy allows what the site itself and its hosts serve, and nothing else.
fn policy() -> Page {
    let cells = vec![
        cell("img", &[file("x.png", Redirected)], "return image(at('x.png'))"),
        cell(
            "css",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", Redirected),
                file("content.png", Redirected),
                file("back.png", Redirected),
            ],
            STYLED,
        ),
        cell("script", &[text("main.js", Local, RAN)], "return script(at('main.js'))"),
        cell("fetch", &[file("x.png", Local)], "return fetched(at('x.png'))"),
        cell(
            "worker",
            &[text("worker.js", Local, "onmessage = () => postMessage('worked');")],
            "const worker = new Worker(at('worker.js')); return message(worker, () => worker.postMessage(''))",
        ),
    ];
    Page::new("policy", cells)
}

/// A page of another site.
fn third() -> Page {
    let cells = vec![
        cell("img", &[file("x.png", Local)], "return image(at('x.png'))"),
        cell("img-crossorigin", &[file("x.png", Local)], "return image(at('x.png'), { crossOrigin: 'anonymous' })"),
        cell("canvas", &[file("x.png", Local)], "return readback(at('x.png'))"),
        cell("script", &[text("main.js", Local, RAN)], "return script(at('main.js'))"),
        cell("fetch", &[file("x.png", Local)], "return fetched(at('x.png'))"),
        cell("fetch-no-cors", &[file("x.png", Local)], "return fetched(at('x.png'), { mode: 'no-cors' })"),
    ];
    Page { is_foreign: true, ..Page::new("third", cells) }
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

/// Clicks on archives; the second link has a `download` attribute.
fn downloads(clicked: &'static str, named: &'static str, fate: Fate) -> [Cell; 2] {
    let link = |name: &str, download: &str| {
        format!("node('a', {{ href: at('{name}'), {download} textContent: 'get' }}); return '{name}'")
    };
    [
        cell("download", &[file(clicked, fate)], &link(clicked, "")),
        cell("download-attribute", &[file(named, fate)], &link(named, "download: '',")),
    ]
}

/// A page of another site, below what is shared with such.
fn shared() -> Vec<Cell> {
    vec![
        cell("img", &[file("x.png", Redirected)], "return image(at('x.png'))"),
        // The origin lets no other site read its images, redirected or not.
        cell("img-crossorigin", &[file("x.png", Refused)], "return image(at('x.png'), { crossOrigin: 'anonymous' })"),
        cell("canvas", &[file("x.png", Redirected)], "return readback(at('x.png'))"),
        cell("fetch", &[file("x.png", Local)], "return fetched(at('x.png'))"),
        cell("script", &[text("main.js", Local, RAN)], "return script(at('main.js'))"),
    ]
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
