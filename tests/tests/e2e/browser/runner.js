// Runs the cells of a page and promises an object of what came of each.
"use strict";

const cells = [];
const cell = (name, run) => cells.push([name, run]);

const node = (tag, properties = {}, parent = document.body) => {
  const element = Object.assign(document.createElement(tag), properties);
  parent.append(element);
  return element;
};

const settled = (element, start, said) =>
  new Promise((resolve) => {
    element.addEventListener("load", () => resolve(said()), { once: true });
    element.addEventListener("error", () => resolve("error"), { once: true });
    start();
  });

const image = (src, properties = {}) => {
  const element = node("img", properties);
  return settled(element, () => (element.src = src), () => `${element.naturalWidth}x${element.naturalHeight}`);
};

const readback = async (src, properties = {}) => {
  const element = node("img", properties);
  const loaded = await settled(element, () => (element.src = src), () => "loaded");
  if (loaded !== "loaded") return loaded;
  const context = node("canvas").getContext("2d");
  context.drawImage(element, 0, 0);
  try {
    return `read ${context.getImageData(0, 0, 1, 1).data.length}`;
  } catch (error) {
    return error.name;
  }
};

const script = (src, properties = {}) => {
  const element = document.createElement("script");
  Object.assign(element, properties, { src });
  return settled(element, () => document.body.append(element), () => element.dataset.ran ?? "did not run");
};

const style = (href, properties = {}) => {
  const element = document.createElement("link");
  Object.assign(element, properties, { rel: "stylesheet", href });
  return settled(element, () => document.head.append(element), () => "loaded");
};

// What a font is seen by: every glyph of the test's is two em wide.
const width = (family) => {
  const element = node("span", { textContent: "MMMM" });
  element.style.setProperty("font", `16px ${family}, monospace`);
  return element.getBoundingClientRect().width;
};

const fetched = async (url, init = {}) => {
  try {
    const response = await fetch(url, init);
    if (response.type.startsWith("opaque")) return response.type;
    const { byteLength } = await response.arrayBuffer();
    return `${response.type} ${response.status}${byteLength > 12000 ? "" : ` but ${byteLength} bytes`}`;
  } catch (error) {
    return error.name;
  }
};

const message = (target, start) =>
  new Promise((resolve) => {
    target.addEventListener("message", (event) => resolve(String(event.data)), { once: true });
    target.addEventListener("error", () => resolve("error"), { once: true });
    start();
  });

const until = async (test) => {
  const end = Date.now() + 5000;
  while (!test() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 20));
  return test();
};

const run = async () => {
  const late = () => new Promise((resolve) => setTimeout(resolve, 12000, "nothing"));
  const one = async ([name, run]) => {
    const at = (file) => `${PAGE.origin}/${PAGE.name}/${name}/${file}`;
    const integrity = (file) => PAGE.integrity[`${name}/${file}`];
    const said = await Promise.race([run(at, integrity).catch((error) => `${error}`), late()]);
    return [name, String(said)];
  };
  return Object.fromEntries(await Promise.all(cells.map(one)));
};
