// Looks at what hosts give this page's visitors: a few of the page's own resources are loaded once more, from a host that the site names,
// as the page itself would be sent there for them. What came is hashed, and the site is told. Nothing here may break or slow a page:
// whatever goes wrong, the script just stops.
(() => {
  const base = "/.well-known/p2pcdn/v1/evidence";
  const sample = SAMPLE;
  const maxBytes = MAX_BYTES;
  const { connection } = navigator;
  if (!self.PerformanceObserver || !self.crypto || !crypto.subtle || (connection && connection.saveData)) return;

  const idle = self.requestIdleCallback || ((run) => setTimeout(run, 500));
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  const waiting = [];
  const policy = { referrerPolicy: "no-referrer" };
  let busy = false;
  let alarms = 5;
  // Sizes of what was fetched from the host that is being looked at.
  let looking = "";
  let sizes = [];

  const report = (facts) =>
    fetch(base, { method: "POST", body: JSON.stringify(facts), keepalive: true, credentials: "omit" }).catch(() => {});

  // Images and fonts are asked for as pages ask for them, so that no host can tell this from a page.
  const loadAs = {
    image: (url) =>
      new Promise((done, fail) => {
        const image = Object.assign(new Image(), policy);
        image.onload = done;
        image.onerror = fail;
        image.src = url;
      }),
    font: (url) => new FontFace("p2pcdn", `url("${url}")`).load(),
  };

  // Of no more than what is expected; the host could send without end.
  const read = async (body, size) => {
    const parts = [];
    const reader = body.getReader();
    for (let left = size; left >= 0; ) {
      const { value, done } = await reader.read();
      if (done) break;
      parts.push(value);
      left -= value.length;
      if (left < 0) reader.cancel();
    }
    return new Blob(parts).arrayBuffer();
  };

  const hex = (bytes) => Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, "0")).join("");

  const look = async (url, { sha256, size, kind }) => {
    // Loading fails where the bytes are no image, too, so the bytes have the last word.
    const load = loadAs[kind];
    let loaded = true;
    if (load) await load(url).catch(() => (loaded = false));
    // Replicas never change: these are the very bytes that came before, from the browser's cache. It asks the host at most whether
    // they still hold, and the host that sends others has something to hide.
    const answer = await fetch(url, { cache: "force-cache", redirect: "error", ...policy });
    if (answer.status != 200) return "failed";
    const bytes = await read(answer.body, size);
    if (hex(await crypto.subtle.digest("SHA-256", bytes)) != sha256) return "wrong";
    if (!load) return "good";
    for (let turn = 0; turn < 20 && !sizes.length; turn++) await pause(50);
    const last = sizes.pop();
    if (!loaded || !last) return "failed";
    return last.encodedBodySize && last.transferSize < last.encodedBodySize ? "good" : "resent";
  };

  const check = async (path) => {
    const answer = await fetch(`${base}/where?path=${path}`, { credentials: "omit" });
    if (answer.status == 204) return;
    const there = await answer.json();
    if (there.size > maxBytes) return;
    looking = there.url;
    sizes = [];
    const late = pause(30000).then(() => "failed");
    const outcome = await Promise.race([look(looking, there).catch(() => "failed"), late]);
    const { sha256, token } = there;
    await report({ path, outcome, sha256, holder: new URL(looking).host, token });
  };

  // One at a time; after an error, never again on this page.
  const next = () => {
    if (busy || !waiting.length) return;
    busy = true;
    idle(() =>
      check(waiting.shift()).then(
        () => {
          busy = false;
          next();
        },
        () => {},
      ),
    );
  };

  const enlist = (url) => {
    if (waiting.length < 20) waiting.push(url);
    next();
  };

  const ownPath = (url) => {
    const path = url.split("#")[0].slice(location.origin.length);
    return url.startsWith(location.origin) && path[0] == "/" && !path.startsWith(base) && path;
  };

  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) {
      const path = ownPath(entry.name);
      if (entry.name == looking && entry.initiatorType == "fetch") sizes.push(entry);
      if (path && Math.random() < sample) enlist(path);
    }
  });
  try {
    observer.observe({ type: "resource", buffered: true });
  } catch {
    return;
  }

  addEventListener(
    "error",
    ({ target }) => {
      const url = target && target.integrity && (target.src || target.href);
      const path = url && ownPath(url);
      if (path && alarms-- > 0) {
        report({ path, outcome: "integrity" });
        enlist(path);
      }
    },
    true,
  );
})();
