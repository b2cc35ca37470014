"use strict";
// A page of d2tiny/inference/page.py. Objects come by ascending score, so that "score at least" is a first index.
(function () {
  const BOXES = 20000; // more in view are drawn as a density map
  const MOST_BOXES = 50000; // drawn even where boxes are asked for
  const MOST_MOVING = 10000; // drawn while the view moves
  const DENSITY_CELLS = [24, 256]; // on the longer side, for few and for many objects
  const POINT = 3; // smaller boxes are drawn as points, in px of the screen
  const byId = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en-US");

  // ---- data -------------------------------------------------------------------------------------------------------

  function bytesOf(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const part = 1 << 20; // characters; whole groups of four
    const end = text.length - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0);
    const result = new Uint8Array(Math.floor((end * 3) / 4));
    for (let at = 0, out = 0; at < text.length; at += part) {
      const binary = atob(text.slice(at, at + part));
      for (let i = 0; i < binary.length; i++) result[out++] = binary.charCodeAt(i);
    }
    return result;
  }

  function arrayOf(id) {
    const element = byId(id);
    const bytes = bytesOf(element.textContent);
    element.remove(); // the text is not needed twice
    const type = { f4: Float32Array, u2: Uint16Array, u1: Uint8Array }[element.dataset.kind];
    return new type(bytes.buffer, bytes.byteOffset, bytes.byteLength / type.BYTES_PER_ELEMENT);
  }

  const scene = JSON.parse(byId("data-scene").textContent);
  const boxes = arrayOf("data-boxes");
  const scores = arrayOf("data-scores");
  const classes = arrayOf("data-classes");
  const count = scores.length;
  const sizeOf = (i) => {
    const w = boxes[4 * i + 2] - boxes[4 * i];
    const h = boxes[4 * i + 3] - boxes[4 * i + 1];
    return Math.sqrt(Math.max(0, w) * Math.max(0, h));
  };

  // ---- grid: which objects lie where ------------------------------------------------------------------------------

  /** Objects by the cell of their centre, by ascending score within a cell; larger ones than four cells apart. */
  function makeGrid() {
    const area = Math.max(1, scene.width * scene.height);
    const cell = Math.max(16, Math.sqrt((area * 32) / Math.max(1, count)), Math.sqrt(area / 250000));
    const columns = Math.ceil(scene.width / cell) || 1;
    const rows = Math.ceil(scene.height / cell) || 1;
    const cellOf = new Int32Array(count);
    const starts = new Uint32Array(columns * rows + 1);
    const large = [];
    for (let i = 0, k = 0; i < count; i++, k += 4) {
      if (Math.max(boxes[k + 2] - boxes[k], boxes[k + 3] - boxes[k + 1]) > 4 * cell) {
        cellOf[i] = -1;
        large.push(i);
        continue;
      }
      const x = Math.floor((boxes[k] + boxes[k + 2]) / 2 / cell);
      const y = Math.floor((boxes[k + 1] + boxes[k + 3]) / 2 / cell);
      cellOf[i] = Math.min(rows - 1, Math.max(0, y)) * columns + Math.min(columns - 1, Math.max(0, x));
      starts[cellOf[i] + 1]++;
    }
    for (let c = 0; c < columns * rows; c++) starts[c + 1] += starts[c];
    const next = starts.slice();
    const items = new Uint32Array(count - large.length);
    for (let i = 0; i < count; i++) if (cellOf[i] >= 0) items[next[cellOf[i]]++] = i;
    return { cell, columns, rows, starts, items, large, cellOf, counts: new Uint32Array(columns * rows) };
  }

  const grid = makeGrid();

  /** The cells whose objects can meet a rectangle in px of the scene: [first column, last, first row, last]. */
  function cellsOf(x1, y1, x2, y2) {
    const at = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value / grid.cell)));
    const more = 2 * grid.cell; // half of the largest object of a cell
    return [
      at(x1 - more, grid.columns), at(x2 + more, grid.columns), at(y1 - more, grid.rows), at(y2 + more, grid.rows),
    ];
  }

  function meets(i, x1, y1, x2, y2) {
    const k = 4 * i;
    return boxes[k] <= x2 && boxes[k + 2] >= x1 && boxes[k + 1] <= y2 && boxes[k + 3] >= y1;
  }

  /** Call visit(i) for the objects that are shown and meet a rectangle. */
  function query(x1, y1, x2, y2, visit) {
    const [left, right, top, bottom] = cellsOf(x1, y1, x2, y2);
    for (let row = top; row <= bottom; row++) {
      for (let c = row * grid.columns + left; c <= row * grid.columns + right; c++) {
        if (!grid.counts[c]) continue;
        for (let at = grid.starts[c + 1] - 1; at >= grid.starts[c] && grid.items[at] >= state.first; at--) {
          const i = grid.items[at];
          if (state.on[classes[i]] && meets(i, x1, y1, x2, y2)) visit(i);
        }
      }
    }
    for (const i of grid.large) {
      if (i >= state.first && state.on[classes[i]] && meets(i, x1, y1, x2, y2)) visit(i);
    }
  }

  function countIn(x1, y1, x2, y2) {
    const [left, right, top, bottom] = cellsOf(x1, y1, x2, y2);
    let sum = grid.large.length;
    for (let row = top; row <= bottom; row++) {
      for (let c = row * grid.columns + left; c <= row * grid.columns + right; c++) sum += grid.counts[c];
    }
    return sum;
  }

  // ---- what is shown ----------------------------------------------------------------------------------------------

  const state = {
    first: 0, on: new Uint8Array(scene.classes.length).fill(1), draw: "auto", selected: -1, moving: false,
  };
  const density = { top: 0, canvas: document.createElement("canvas") };
  density.cell = Math.max(scene.width, scene.height)
    / Math.min(DENSITY_CELLS[1], Math.max(DENSITY_CELLS[0], Math.ceil(Math.sqrt(count))));
  density.columns = Math.max(1, Math.ceil(scene.width / density.cell));
  density.rows = Math.max(1, Math.ceil(scene.height / density.cell));
  density.canvas.width = density.columns;
  density.canvas.height = density.rows;
  density.counts = new Uint32Array(density.columns * density.rows);

  /** Bins of sizes, two an octave, from the smallest to the largest object. */
  const binOf = new Int8Array(count);
  let lowest = 127;
  let highest = -128;
  for (let i = 0; i < count; i++) {
    binOf[i] = Math.min(60, Math.max(-4, Math.floor(2 * Math.log2(sizeOf(i) || 0.25))));
    lowest = Math.min(lowest, binOf[i]);
    highest = Math.max(highest, binOf[i]);
  }

  function firstAtLeast(score) {
    const wanted = Math.round(score * 65535);
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (scores[middle] < wanted) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Count what is shown: by class, by size, by cell of the grid and of the density map. */
  function filter() {
    const perClass = new Uint32Array(scene.classes.length);
    const perSize = new Uint32Array(Math.max(0, highest - lowest + 1));
    const { counts, columns, rows, cell } = density;
    grid.counts.fill(0);
    counts.fill(0);
    let shown = 0;
    for (let i = state.first, k = 4 * i; i < count; i++, k += 4) {
      perClass[classes[i]]++;
      if (!state.on[classes[i]]) continue;
      shown++;
      perSize[binOf[i] - lowest]++;
      if (grid.cellOf[i] >= 0) grid.counts[grid.cellOf[i]]++;
      const x = Math.min(columns - 1, Math.max(0, Math.floor((boxes[k] + boxes[k + 2]) / 2 / cell)));
      const y = Math.min(rows - 1, Math.max(0, Math.floor((boxes[k + 1] + boxes[k + 3]) / 2 / cell)));
      counts[y * columns + x]++;
    }
    paintDensity();
    tell(shown, perClass, perSize);
    if (state.selected >= 0 && !isShown(state.selected)) select(-1);
    draw();
  }

  const isShown = (i) => i >= state.first && i < count && state.on[classes[i]] === 1;

  const RAMP = [[52, 32, 138], [160, 42, 120], [238, 106, 58], [253, 210, 60], [252, 255, 164]];

  function paintDensity() {
    const { counts, canvas } = density;
    density.top = 0;
    for (let c = 0; c < counts.length; c++) if (counts[c] > density.top) density.top = counts[c];
    const picture = new ImageData(canvas.width, canvas.height);
    const scale = 1 / Math.log(Math.max(2, density.top));
    for (let c = 0; c < counts.length; c++) {
      if (!counts[c]) continue;
      const t = Math.log(counts[c]) * scale * (RAMP.length - 1);
      const step = Math.min(RAMP.length - 2, Math.floor(t));
      for (let b = 0; b < 3; b++) {
        picture.data[4 * c + b] = RAMP[step][b] + (RAMP[step + 1][b] - RAMP[step][b]) * (t - step);
      }
      picture.data[4 * c + 3] = 120 + (100 * t) / (RAMP.length - 1);
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
    const objects = density.top === 1 ? "object" : "objects";
    byId("ramp-top").textContent = `${number(density.top)} ${objects} in ${density.cell.toFixed(0)} px square`;
  }

  // ---- panel ------------------------------------------------------------------------------------------------------

  const classCounts = [];

  function listClasses() {
    const all = new Uint32Array(scene.classes.length);
    for (let i = 0; i < count; i++) all[classes[i]]++;
    scene.classes.forEach((name, index) => {
      if (!all[index]) return;
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      box.dataset.index = index;
      box.addEventListener("change", () => {
        state.on[index] = box.checked ? 1 : 0;
        later();
      });
      const mark = document.createElement("i");
      mark.style.borderColor = scene.colors[index];
      const text = Object.assign(document.createElement("span"), { className: "name", textContent: name });
      const counted = Object.assign(document.createElement("span"), { className: "count" });
      label.append(box, mark, text, counted);
      byId("classes").append(label);
      classCounts.push([index, counted, all[index]]);
    });
  }

  function switchAll(on) {
    state.on.fill(on ? 1 : 0);
    for (const box of byId("classes").querySelectorAll("input")) box.checked = on;
    later();
  }

  function listSizes() {
    for (let bin = lowest; bin <= highest; bin++) {
      const column = document.createElement("div");
      const label = document.createElement("span");
      if (bin % 2 === 0) label.textContent = number(2 ** (bin / 2));
      column.append(document.createElement("i"), label);
      byId("sizes").append(column);
    }
  }

  function tell(shown, perClass, perSize) {
    byId("shown").textContent = number(shown);
    for (const [index, element, all] of classCounts) {
      element.textContent = `${number(perClass[index])} / ${number(all)}`;
    }
    const top = Math.max(1, ...perSize);
    [...byId("sizes").children].forEach((column, at) => {
      const low = (2 ** ((at + lowest) / 2)).toFixed(1);
      const high = (2 ** ((at + lowest + 1) / 2)).toFixed(1);
      column.title = `${low} to ${high} px: ${number(perSize[at])}`;
      column.firstChild.style.height = `${(90 * perSize[at]) / top}px`;
    });
    const most = perSize.indexOf(Math.max(0, ...perSize));
    byId("sizes").setAttribute("aria-label", shown
      ? `Histogram of sizes; most objects have about ${(2 ** ((most + lowest + 0.5) / 2)).toFixed(0)} px.`
      : "Histogram of sizes; no objects.");
  }

  // ---- coordinates ------------------------------------------------------------------------------------------------

  /** Coordinates of a pixel as text: px, and those of the reference system where there is one. */
  function ground(x, y) {
    const t = scene.transform;
    if (!t) return "";
    const east = t[0] * x + t[1] * y + t[2];
    const north = t[3] * x + t[4] * y + t[5];
    const step = Math.max(Math.hypot(t[0], t[3]), Math.hypot(t[1], t[4]));
    const digits = Math.min(10, Math.max(0, Math.ceil(1 - Math.log10(step || 1))));
    return `${east.toFixed(digits)}, ${north.toFixed(digits)}`;
  }

  function rowOf(name, value) {
    const row = document.createElement("tr");
    row.append(
      Object.assign(document.createElement("th"), { textContent: name }),
      Object.assign(document.createElement("td"), { textContent: value }),
    );
    return row;
  }

  function select(i) {
    state.selected = i;
    const panel = byId("object");
    panel.replaceChildren();
    if (i < 0) {
      const hint = "Click on a box, or step through the objects by score.";
      panel.append(Object.assign(document.createElement("p"), { textContent: hint }));
      draw();
      return;
    }
    const [x1, y1, x2, y2] = boxes.subarray(4 * i, 4 * i + 4);
    const table = document.createElement("table");
    table.append(
      rowOf("class", scene.classes[classes[i]]),
      rowOf("score", (scores[i] / 65535).toFixed(3)),
      rowOf("size", `${(x2 - x1).toFixed(1)} × ${(y2 - y1).toFixed(1)} px, √area ${sizeOf(i).toFixed(1)} px`),
      rowOf("corners", `${x1.toFixed(1)}, ${y1.toFixed(1)} – ${x2.toFixed(1)}, ${y2.toFixed(1)}`),
    );
    const place = ground((x1 + x2) / 2, (y1 + y2) / 2);
    if (place) table.append(rowOf("centre", place), rowOf("in", scene.crs));
    panel.append(table);
    draw();
  }

  /** Select the next object that is shown: step -1 towards lower scores, 1 towards higher ones. */
  function step(by) {
    let i = state.selected < 0 ? (by < 0 ? count : state.first - 1) : state.selected;
    do i += by;
    while (i >= state.first && i < count && !isShown(i));
    if (!isShown(i)) return;
    select(i);
    const [x1, y1, x2, y2] = boxes.subarray(4 * i, 4 * i + 4);
    const side = Math.max(x2 - x1, y2 - y1, 8);
    const zoom = Math.max(1, toScreen().zoom, Math.min(8, 60 / side));
    const size = toScreen().size;
    const [w, h] = [size.x / (zoom * unit), size.y / (zoom * unit)];
    viewer.viewport.fitBounds(
      new OpenSeadragon.Rect((x1 + x2) / 2 / unit - w / 2, (y1 + y2) / 2 / unit - h / 2, w, h),
    );
  }

  // ---- viewer -----------------------------------------------------------------------------------------------------

  const image = scene.image;
  const unit = image.width / image.factor; // px of the scene in one unit of the viewport
  const viewer = OpenSeadragon({
    element: byId("view"),
    drawer: "canvas",
    showNavigationControl: false,
    showNavigator: image.levels > 1,
    navigatorPosition: "TOP_RIGHT",
    navigatorBackground: "#0d1117",
    navigatorAutoFade: false,
    animationTime: 0.4,
    maxZoomPixelRatio: 24 / image.factor,
    visibilityRatio: 0.3,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    tileSources: {
      width: image.width,
      height: image.height,
      tileSize: image.tile,
      tileOverlap: 0,
      minLevel: 0,
      maxLevel: image.levels - 1,
      getTileUrl: (level, x, y) => `data:image/jpeg;base64,${byId(`tile-${level}-${x}-${y}`).textContent}`,
      getTileHashKey: (level, x, y) => `${level}/${x}_${y}`,
    },
  });
  const canvas = Object.assign(document.createElement("canvas"), { id: "boxes" });
  viewer.canvas.append(canvas);

  /** How px of the scene become px of the screen: screen = (scene - origin) · zoom. */
  function toScreen() {
    const bounds = viewer.viewport.getBounds(true);
    const size = viewer.viewport.getContainerSize();
    return { x: bounds.x * unit, y: bounds.y * unit, zoom: size.x / (bounds.width * unit), size };
  }

  function draw() {
    if (!viewer.viewport || !viewer.world.getItemCount()) return;
    const view = toScreen();
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [Math.round(view.size.x * ratio), Math.round(view.size.y * ratio)];
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      Object.assign(canvas.style, { width: `${view.size.x}px`, height: `${view.size.y}px` });
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, view.size.x, view.size.y);
    const box = [view.x, view.y, view.x + view.size.x / view.zoom, view.y + view.size.y / view.zoom];
    const dense = state.draw === "density" || (state.draw === "auto" && countIn(...box) > BOXES);
    byId("ramp").hidden = !dense;
    let text = `${(view.zoom * 100).toPrecision(3)} %`;
    if (dense) {
      drawDensity(pen, view);
      text += " · density map" + (state.draw === "auto" ? ": zoom in or raise the score to see boxes" : "");
    } else if (state.draw !== "none") {
      const [drawn, all] = drawBoxes(pen, view, box);
      text += ` · ${number(drawn)} boxes in view`;
      if (drawn < all) text += `, those of the highest scores of about ${number(all)}`;
    }
    if (state.selected >= 0) drawSelected(pen, view);
    if (byId("mode").textContent !== text) byId("mode").textContent = text;
  }

  function drawDensity(pen, view) {
    const side = density.cell * view.zoom;
    pen.imageSmoothingEnabled = side < 12; // far in, cells are seen as they are
    pen.drawImage(
      density.canvas, -view.x * view.zoom, -view.y * view.zoom, density.columns * side, density.rows * side,
    );
  }

  /** Draw the boxes that meet the view, high scores last; return how many were drawn, of how many. */
  function drawBoxes(pen, view, box) {
    const [order, all] = inView(box);
    const { x, y, zoom } = view;
    pen.lineWidth = zoom > 2 ? 2 : 1.3;
    let last = -1;
    for (const i of order) {
      if (classes[i] !== last) {
        last = classes[i];
        pen.strokeStyle = pen.fillStyle = scene.colors[last];
      }
      const k = 4 * i;
      const [w, h] = [(boxes[k + 2] - boxes[k]) * zoom, (boxes[k + 3] - boxes[k + 1]) * zoom];
      const [left, top] = [(boxes[k] - x) * zoom, (boxes[k + 1] - y) * zoom];
      if (w < POINT && h < POINT) pen.fillRect(left + w / 2 - 1, top + h / 2 - 1, 2, 2);
      else pen.strokeRect(left - 0.5, top - 0.5, w + 1, h + 1);
    }
    return [order.length, all];
  }

  /** The objects that meet a rectangle, by ascending score, at most so many; and about how many there are in all. */
  function inView(box) {
    const found = [];
    const about = countIn(...box);
    const most = state.moving ? MOST_MOVING : MOST_BOXES;
    if (about <= 2 * MOST_BOXES) {
      query(...box, (i) => found.push(i));
      const order = Uint32Array.from(found).sort();
      return [order.subarray(Math.max(0, order.length - most)), order.length];
    }
    for (let i = count - 1; i >= state.first && found.length < most; i--) {
      if (state.on[classes[i]] && meets(i, ...box)) found.push(i);
    }
    return [found.reverse(), about];
  }

  function drawSelected(pen, view) {
    const [x1, y1, x2, y2] = boxes.subarray(4 * state.selected, 4 * state.selected + 4);
    const place = [
      (x1 - view.x) * view.zoom - 4, (y1 - view.y) * view.zoom - 4,
      (x2 - x1) * view.zoom + 8, (y2 - y1) * view.zoom + 8,
    ];
    for (const [color, line] of [["#000", 5], ["#fff", 2.5]]) {
      pen.strokeStyle = color;
      pen.lineWidth = line;
      pen.strokeRect(...place);
    }
  }

  /** Select the smallest box at a point of the screen. */
  function pick(position) {
    const view = toScreen();
    const [x, y] = [view.x + position.x / view.zoom, view.y + position.y / view.zoom];
    const slack = 4 / view.zoom;
    let best = -1;
    query(x - slack, y - slack, x + slack, y + slack, (i) => {
      if (best < 0 || sizeOf(i) < sizeOf(best) || (sizeOf(i) === sizeOf(best) && i > best)) best = i;
    });
    select(state.draw === "none" ? -1 : best);
  }

  let waiting = false;
  /** Filter before the next frame, once however many switches are turned. */
  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      filter();
    });
  }

  viewer.addHandler("open", filter);
  viewer.addHandler("update-viewport", draw);
  for (const [kind, moving] of [["animation-start", true], ["animation-finish", false]]) {
    viewer.addHandler(kind, () => {
      state.moving = moving;
      draw();
    });
  }
  viewer.addHandler("resize", () => requestAnimationFrame(draw));
  viewer.addHandler("canvas-click", (event) => {
    if (event.quick) pick(event.position);
  });
  byId("view").addEventListener("pointermove", (event) => {
    const view = toScreen();
    const frame = viewer.canvas.getBoundingClientRect();
    const x = view.x + (event.clientX - frame.left) / view.zoom;
    const y = view.y + (event.clientY - frame.top) / view.zoom;
    const inside = x >= 0 && y >= 0 && x < scene.width && y < scene.height;
    const place = inside ? ground(x, y) : "";
    const text = inside ? `column ${Math.floor(x)}, row ${Math.floor(y)}` : "";
    byId("pointer").textContent = place ? `${text} · ${place} (${scene.crs})` : text;
  });

  const zoomBy = (factor) => {
    viewer.viewport.zoomBy(factor);
    viewer.viewport.applyConstraints();
  };
  byId("zoom-in").addEventListener("click", () => zoomBy(2));
  byId("zoom-out").addEventListener("click", () => zoomBy(0.5));
  byId("home").addEventListener("click", () => viewer.viewport.goHome());
  byId("pixel").addEventListener("click", () => {
    viewer.viewport.zoomTo(unit / viewer.viewport.getContainerSize().x);
    viewer.viewport.applyConstraints();
  });
  byId("score").addEventListener("input", (event) => {
    byId("score-value").textContent = Number(event.target.value).toFixed(2);
    state.first = firstAtLeast(Number(event.target.value));
    later();
  });
  for (const choice of document.querySelectorAll("input[name=draw]")) {
    choice.addEventListener("change", () => {
      state.draw = choice.value;
      draw();
    });
  }
  byId("all-classes").addEventListener("click", () => switchAll(true));
  byId("no-classes").addEventListener("click", () => switchAll(false));
  byId("previous").addEventListener("click", () => step(1));
  byId("next").addEventListener("click", () => step(-1));

  // The browser may keep the controls of the last visit.
  byId("score").value = 0;
  document.querySelector("input[name=draw][value=auto]").checked = true;
  byId("all").textContent = number(count);
  listClasses();
  listSizes();
})();
