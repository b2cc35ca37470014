// Run the script of a scene's page in node, with just enough of a browser, and print what it shows as json.
// node page.js PAGE.html '[["score", 0.5], ["class", 1, false], ["draw", "density"], ["click", x, y], ["next"]]'
// Positions are px of a view of 100 x 100 px that shows the rectangle VIEW of the scene, by default all of it.
"use strict";
const fs = require("fs");
const vm = require("vm");

const page = fs.readFileSync(process.argv[2], "utf8");
const actions = JSON.parse(process.argv[3] || "[]");
const elements = new Map();
const log = { rects: [], points: [], images: 0, tiles: 0 };

class Element {
  constructor(tag) {
    Object.assign(this, { tag, style: {}, dataset: {}, children: [], listeners: {}, text: "", attributes: {} });
  }
  get textContent() { return this.text + this.children.map((c) => c.textContent).join(" "); }
  set textContent(value) { this.text = String(value); this.children = []; }
  get firstChild() { return this.children[0]; }
  append(...items) { this.children.push(...items); }
  replaceChildren(...items) { this.text = ""; this.children = items; }
  remove() { this.removed = true; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(kind, call) { this.listeners[kind] = call; }
  fire(kind, event = { target: this }) { this.listeners[kind](event); }
  querySelectorAll(tag) {
    return this.children.flatMap((c) => [...(c.tag === tag ? [c] : []), ...c.querySelectorAll(tag)]);
  }
  getBoundingClientRect() { return { left: 0, top: 0 }; }
  getContext() {
    return {
      setTransform() {}, clearRect() { log.rects = []; log.points = []; log.images = 0; }, putImageData() {},
      drawImage() { log.images++; },
      strokeRect(...box) { log.rects.push([this.strokeStyle, ...box]); },
      fillRect(...box) { log.points.push([this.fillStyle, ...box]); },
    };
  }
}

for (const [, attributes, text] of page.matchAll(/<script([^>]*)>([^<]*)<\/script>/g)) {
  const id = /id="([^"]*)"/.exec(attributes);
  if (!id) continue;
  const element = new Element("script");
  element.text = text;
  element.dataset.kind = (/data-kind="([^"]*)"/.exec(attributes) || [])[1];
  elements.set(id[1], element);
  if (id[1].startsWith("tile-")) log.tiles++;
}
const byId = (id) => {
  if (!elements.has(id)) elements.set(id, new Element("div"));
  return elements.get(id);
};
const choices = ["auto", "boxes", "density", "none"].map((value) => Object.assign(new Element("input"), { value }));
const scene = JSON.parse(byId("data-scene").textContent);
const handlers = {};
const unit = scene.image.width / scene.image.factor;
let view = [0, 0, scene.width, scene.width]; // x1, y1, x2, y2 in px of the scene; square
const viewer = {
  canvas: new Element("div"),
  world: { getItemCount: () => 1 },
  viewport: {
    getBounds: () => ({ x: view[0] / unit, y: view[1] / unit, width: (view[2] - view[0]) / unit }),
    getContainerSize: () => ({ x: 100, y: 100 }),
    fitBounds: (r) => { view = [r.x * unit, r.y * unit, (r.x + r.w) * unit, (r.y + r.h) * unit]; },
  },
  addHandler: (kind, call) => { handlers[kind] = call; },
};
let source = null;
const OpenSeadragon = Object.assign((options) => { source = options.tileSources; return viewer; }, {
  Rect: class { constructor(x, y, w, h) { Object.assign(this, { x, y, w, h }); } },
});
const document = {
  getElementById: byId, createElement: (tag) => new Element(tag),
  querySelector: () => choices[0], querySelectorAll: () => choices,
};
const context = {
  document, OpenSeadragon, console, atob, window: {}, requestAnimationFrame: (call) => call(),
  ImageData: class { constructor(w, h) { this.data = new Uint8ClampedArray(4 * w * h); } },
};
vm.runInNewContext(page.slice(page.lastIndexOf("<script>") + 8, page.lastIndexOf("</script>")), context);
handlers.open();

const act = {
  score: (value) => byId("score").fire("input", { target: { value: String(value) } }),
  class: (index, checked) => {
    const box = byId("classes").querySelectorAll("input").find((b) => b.dataset.index === index);
    box.checked = checked;
    box.fire("change");
  },
  draw: (value) => choices.find((c) => c.value === value).fire("change"),
  view: (...box) => { view = box; handlers["update-viewport"](); },
  click: (x, y) => handlers["canvas-click"]({ quick: true, position: { x, y } }),
  point: (x, y) => byId("view").fire("pointermove", { clientX: x, clientY: y }),
  event: (kind) => handlers[kind](),
  next: () => byId("next").fire("click"),
  previous: () => byId("previous").fire("click"),
  none: () => byId("no-classes").fire("click"),
};
for (const [name, ...values] of actions) act[name](...values);
const names = ["shown", "all", "mode", "pointer", "object", "classes", "score-value", "ramp-top"];
const texts = Object.fromEntries(names.map((id) => [id, byId(id).textContent]));
const sizes = byId("sizes").children.map((c) => c.title);
console.log(JSON.stringify({ ...log, ...texts, sizes, tile: source.getTileUrl(0, 0, 0).slice(0, 30), view }));
