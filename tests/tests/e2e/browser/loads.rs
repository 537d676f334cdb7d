//! What pages load, in every way in which they can; what is to become of it is up to the page.

use super::fate::Fate::{self, Local, Redirected, Unasked};
use super::page::{Cell, cell, file, text};

/// What is to become of what a page loads, by the way in which it does.
#[derive(Clone, Copy)]
pub(super) struct Fates {
    /// Images and media, just so.
    pub(super) plain: Fate,
    /// Images, media and fonts with CORS.
    pub(super) cors: Fate,
    /// The same in credentials mode.
    pub(super) with_credentials: Fate,
    /// Images in a sandboxed frame, whose origin is `null`.
    pub(super) sandboxed: Fate,
    /// The same with CORS.
    pub(super) sandboxed_cors: Fate,
    /// What a module imports.
    pub(super) imported: Fate,
    /// What only pages of its own origin can load.
    pub(super) own_only: Fate,
    /// Whether images can be read back at home, and no longer once they were redirected.
    pub(super) is_own: bool,
}

/// A page of the site itself.
pub(super) const OWN: Fates = Fates {
    plain: Redirected,
    cors: Redirected,
    with_credentials: Redirected,
    sandboxed: Local,
    sandboxed_cors: Local,
    imported: Local,
    own_only: Local,
    is_own: true,
};
/// A page of another site.
pub(super) const THIRD: Fates = Fates {
    plain: Local,
    cors: Local,
    with_credentials: Local,
    sandboxed: Local,
    sandboxed_cors: Local,
    imported: Unasked,
    own_only: Unasked,
    is_own: false,
};

pub(super) const RAN: &str = "document.currentScript.dataset.ran = 'ran';";
pub(super) const CSS: &str = "@font-face { font-family: Wide; src: url(font.ttf); } \
    .content { display: inline-block; content: url(content.png); } \
    .back { width: 9px; height: 9px; background-image: image-set(url(back.png) 1x); }";
pub(super) const STYLED: &str = "const loaded = await style(at('main.css')); \
    const content = node('div', { className: 'content' }); node('div', { className: 'back' }); \
    await document.fonts.load('16px Wide'); await until(() => content.offsetWidth === 64); \
    return [loaded, width('Wide'), content.offsetWidth].join()";

/// Images and fonts.
pub(super) fn images(fates: Fates) -> Vec<Cell> {
    let Fates { plain, cors, .. } = fates;
    let picture = "const parent = node('picture'); \
        node('source', { srcset: at('small.png') + ' 1x, ' + at('large.png') + ' 2x', type: 'image/png' }, parent); \
        const element = node('img', {}, parent); \
        return settled(element, () => (element.src = at('fallback.png')), () => element.currentSrc.split('/').pop())";
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'><g id='g'><rect width='40' height='40'/></g></svg>";
    let svg_use = "const space = 'http://www.w3.org/2000/svg'; const root = document.createElementNS(space, 'svg'); \
        const element = document.createElementNS(space, 'use'); element.setAttribute('href', at('x.svg') + '#g'); \
        root.append(element); document.body.append(root); \
        await until(() => element.getBBox().width === 40); return element.getBBox().width";
    let preload = "const link = document.createElement('link'); Object.assign(link, { rel: 'preload', as: 'image', href: at('x.png') }); \
        const loaded = await settled(link, () => document.head.append(link), () => 'preloaded'); return loaded + await image(at('x.png'))";
    let font_face = "const face = new FontFace('Direct', `url(${at('font.ttf')})`); await face.load(); document.fonts.add(face); return width('Direct')";
    let canvas = cell("canvas", &[file("x.png", plain)], "return readback(at('x.png'))");
    vec![
        cell("img", &[file("x.png", plain)], "return image(at('x.png'))"),
        cell("img-lazy", &[file("x.png", plain)], "return image(at('x.png'), { loading: 'lazy' })"),
        cell("img-crossorigin", &[file("x.png", cors)], "return image(at('x.png'), { crossOrigin: 'anonymous' })"),
        cell(
            "img-use-credentials",
            &[file("x.png", fates.with_credentials)],
            "return image(at('x.png'), { crossOrigin: 'use-credentials' })",
        ),
        cell("img-svg", &[text("x.svg", plain, svg)], "return image(at('x.svg'))"),
        cell("img-query", &[file("x.png", Local)], "return image(at('x.png') + '?v=1')"),
        cell("img-preload", &[file("x.png", plain)], preload),
        cell(
            "picture",
            &[file("small.png", plain), file("large.png", Unasked), file("fallback.png", Unasked)],
            picture,
        ),
        cell("svg-use", &[text("x.svg", fates.own_only, svg)], svg_use),
        cell("font-face", &[file("font.ttf", cors)], font_face),
        // Nothing in the headers tells an image that will be read back from one that will only be shown.
        if fates.is_own { canvas.breaks("SecurityError") } else { canvas },
        cell(
            "canvas-crossorigin",
            &[file("x.png", cors)],
            "return readback(at('x.png'), { crossOrigin: 'anonymous' })",
        ),
        cell(
            "css",
            &[
                text("main.css", Local, CSS),
                file("font.ttf", cors),
                file("content.png", plain),
                file("back.png", plain),
            ],
            STYLED,
        ),
    ]
}

/// Images in a frame that is nobody's.
pub(super) fn sandboxed(fates: Fates) -> [Cell; 2] {
    let script = |attribute: &str| {
        format!(
            "const frame = node('iframe', {{ sandbox: 'allow-scripts' }}); const said = new Promise((resolve) => \
             window.addEventListener('message', (event) => event.source === frame.contentWindow && resolve(event.data))); \
             frame.srcdoc = `<img {attribute} src='${{at('x.png')}}' \
             onload='parent.postMessage(this.naturalWidth, \"*\")' onerror='parent.postMessage(\"error\", \"*\")'>`; return said"
        )
    };
    [
        cell("img-sandboxed", &[file("x.png", fates.sandboxed)], &script("")),
        cell("img-sandboxed-crossorigin", &[file("x.png", fates.sandboxed_cors)], &script("crossorigin")),
    ]
}

/// Audio and video, each with and without CORS.
pub(super) fn media(fates: Fates) -> Vec<Cell> {
    let of_tag = |tag: &str| {
        let script = |properties: &str| {
            format!(
                "const element = node('{tag}', {{ preload: 'metadata', {properties} }}); return new Promise((resolve) => {{ \
                 element.onloadedmetadata = () => resolve(`${{element.duration.toFixed(1)}} s`); \
                 element.onerror = () => resolve(`error ${{element.error.code}}`); element.src = at('x.wav'); }})"
            )
        };
        [
            cell(tag, &[file("x.wav", fates.plain)], &script("")),
            cell(&format!("{tag}-crossorigin"), &[file("x.wav", fates.cors)], &script("crossOrigin: 'anonymous'")),
        ]
    };
    ["audio", "video"].into_iter().flat_map(of_tag).collect()
}

/// Scripts, styles and modules on paths that the operator says nothing of.
pub(super) fn scripts(fates: Fates) -> Vec<Cell> {
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
                text("dep.js", fates.imported, "export const word = 'imported';"),
            ],
            module,
        ),
    ]
}

/// What becomes a page or a program of its own.
pub(super) fn frames_and_workers(fates: Fates) -> Vec<Cell> {
    let own_only = fates.own_only;
    let frame = "const frame = node('iframe'); \
        return settled(frame, () => (frame.src = at('frame.html')), () => frame.contentDocument?.title ?? 'opaque')";
    let object = "const element = document.createElement('object'); element.type = 'image/svg+xml'; element.data = at('x.svg'); \
        return settled(element, () => document.body.append(element), () => element.contentDocument ? 'same origin' : 'opaque')";
    let worker =
        "const worker = new Worker(at('worker.js')); return message(worker, () => worker.postMessage(at('x.png')))";
    let svg = "<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>";
    vec![
        cell("iframe", &[text("frame.html", Local, "<!doctype html><title>framed</title>")], frame),
        cell("object", &[text("x.svg", Local, svg)], object),
        cell(
            "worker",
            &[
                text(
                    "worker.js",
                    own_only,
                    "importScripts('more.js'); onmessage = async (event) => postMessage(word + (await fetch(event.data)).type);",
                ),
                text("more.js", own_only, "const word = 'worked ';"),
                file("x.png", own_only),
            ],
            worker,
        ),
    ]
}

/// What a site has for all of its pages.
pub(super) fn site_wide() -> Vec<Cell> {
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
    vec![
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
pub(super) fn fetches(name: &str, expected: impl Fn(&str, &str, &str) -> (Fate, Option<&'static str>)) -> Vec<Cell> {
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

/// Clicks on archives; the second link has a `download` attribute.
pub(super) fn downloads(clicked: &'static str, named: &'static str, fate: Fate) -> [Cell; 2] {
    let link = |name: &str, download: &str| {
        format!("node('a', {{ href: at('{name}'), {download} textContent: 'get' }}); return '{name}'")
    };
    [
        cell("download", &[file(clicked, fate)], &link(clicked, "")),
        cell("download-attribute", &[file(named, fate)], &link(named, "download: '',")),
    ]
}
