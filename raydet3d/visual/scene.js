"use strict";
// Draw frames of points and boxes with WebGL. Coordinates are the LiDAR's: x ahead, y to the left, z up, metres.

const readJson = (id) => JSON.parse(byId(id).textContent);
const page = readJson("page");

// ------------------------------------------------------------------------------------------------------------- state

const LEGEND = {
  true: "true positives",
  false: "false positives",
  miss: "missed objects",
  truth: page.compared ? "detected objects" : "ground truth",
  found: "predictions",
  pasted: "pasted objects",
};
const RAMPS = {  // colours of points from low to high
  dark: [[52, 70, 122], [70, 108, 166], [112, 150, 184], [180, 200, 210], [246, 244, 232]],
  light: [[176, 190, 210], [124, 152, 190], [74, 112, 164], [40, 70, 116], [16, 26, 46]],
};
const layers = Object.fromEntries([...page.kinds, "points", "rings", "images"].map((key) => [key, true]));
const state = { position: 0, byWorst: true, score: page.score, label: -1, hovered: null, pinned: null };
const view = { yaw: 0, pitch: 0.6, distance: 60, center: [20, 0, 0], isOrtho: false };
let order = page.frames.map((_, i) => i);
let frame = null;  // the shown frame with its decoded points
let boxes = [];    // the shown boxes: {kind, box, label, score, ...}
let cameras = [];  // {canvas, image, matrix}
let isFirst = true;

// -------------------------------------------------------------------------------------------------------------- data

async function decodePoints(points) {
  const bytes = Uint8Array.from(atob(points.data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = points.count;
  const xyz = new Float32Array(3 * n);
  for (let axis = 0; axis < 3; axis++) {
    const low = planes.subarray(2 * axis * n), high = planes.subarray((2 * axis + 1) * n);
    for (let i = 0, value = 0; i < n; i++) {
      value = (value + low[i] + 256 * high[i]) & 0xffff;
      xyz[3 * i + axis] = points.low[axis] + value * points.step;
    }
  }
  let start = 6 * n;
  const colors = points.colors.map(({ name, channels }) => {
    const values = Array.from({ length: channels }, (_, c) => planes.subarray(start + c * n, start + (c + 1) * n));
    start += channels * n;
    return { name, values };
  });
  return { xyz, colors };
}

async function showFrame(position) {
  state.position = (position + order.length) % order.length;
  const index = order[state.position];
  const data = readJson(`frame-${index}`);
  const decoded = await decodePoints(data.points);
  if (order[state.position] !== index) return;  // another frame was asked for meanwhile
  frame = { ...data, ...decoded };
  state.hovered = state.pinned = null;
  byId("frames").value = String(index);
  history.replaceState(null, "", `#${encodeURIComponent(frame.name)}`);
  if (isFirst) resetView();
  isFirst = false;
  const names = ["height", ...frame.colors.map((color) => color.name)];
  fillSelect(byId("colors"), names.map((name) => [name, name]), byId("colors").value);
  const { count, of } = frame.points;
  byId("point-count").textContent = `${of.toLocaleString("en")} points` +
    (count < of ? `, ${count.toLocaleString("en")} shown` : "");
  colorPoints();
  await loadImages();
  update();
}

function kindOf(item, isTruth, detected) {
  if (isTruth) return item.pasted ? "pasted" : !frame.compared || detected ? "truth" : "miss";
  return !frame.compared ? "found" : item.match >= 0 ? "true" : "false";
}

/** Work out which boxes are shown and what they are, at the current score, class and layers. */
function update() {
  const found = frame.found.filter((item) => item.score >= state.score);
  const detected = new Set(found.map((item) => item.match));
  const all = [
    ...frame.truth.map((item, i) => ({ ...item, kind: kindOf(item, true, detected.has(i)) })),
    ...found.map((item) => ({ ...item, kind: kindOf(item, false) })),
  ].filter((item) => state.label < 0 || item.label === state.label);
  for (const kind of page.kinds) {
    byId(`count-${kind}`).textContent = String(all.filter((item) => item.kind === kind).length);
  }
  const before = state.pinned;
  boxes = all.filter((item) => layers[item.kind]);
  state.hovered = null;
  state.pinned = before && boxes.find((item) => item.kind === before.kind && String(item.box) === String(before.box));
  describe();
  uploadLines();
  drawImages();
  requestDraw();
}

function className(label) {
  return page.classes[label] ?? `class ${label}`;
}

/** Lines of text about a box, the first one as its heading. */
function boxText(item) {
  const [x, y, , dx, dy, dz, yaw] = item.box;
  const singular = { true: "true positive", false: "false positive", miss: "missed object", found: "prediction",
    pasted: "pasted object", truth: page.compared ? "detected object" : "ground truth" };
  const lines = [`${className(item.label)}: ${singular[item.kind]}`];
  if (item.score !== undefined) lines.push(`score ${item.score.toFixed(3)}`);
  lines.push(`size ${[dx, dy, dz].map((length) => length.toFixed(2)).join(" × ")} m`);
  if (frame.compared) {
    const other = item.kind === "true" ? "" : item.score === undefined ? " with the best prediction" : " with the nearest object";
    lines.push(`IoU ${item.iou.toFixed(3)}${other}`);
  }
  lines.push(`distance ${Math.hypot(x, y).toFixed(1)} m, yaw ${(yaw * 180 / Math.PI).toFixed(0)}°`);
  lines.push(`${item.points} points inside`);
  return lines;
}

function writeText(element, item) {
  const lines = item ? boxText(item) : [];
  element.replaceChildren(...lines.map((text, i) => {
    const line = document.createElement(i ? "div" : "b");
    line.textContent = text;
    return line;
  }));
}

function describe() {
  writeText(byId("info"), state.pinned);
}

// ---------------------------------------------------------------------------------------------------------- controls

function fillSelect(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)));
  if (entries.some(([value]) => value === chosen)) select.value = chosen;
}

function frameText({ name, misses, falses }) {
  return page.compared ? `${name} (missed ${misses}, false ${falses})` : name;
}

function sortFrames() {
  const shown = order[state.position];
  const errors = ({ misses, falses }) => misses + falses;
  const compare = (a, b) => page.frames[a].name.localeCompare(page.frames[b].name, "en", { numeric: true });
  order.sort((a, b) => (state.byWorst && errors(page.frames[b]) - errors(page.frames[a])) || compare(a, b));
  fillSelect(byId("frames"), order.map((i) => [String(i), frameText(page.frames[i])]));
  byId("order").textContent = state.byWorst ? "worst first" : "by name";
  byId("order").hidden = !page.compared;
  state.position = Math.max(order.indexOf(shown), 0);
  byId("frames").value = String(order[state.position]);
}

function addLayer(key, text, color) {
  const row = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.id = `layer-${key}`;
  box.checked = true;
  box.addEventListener("change", async () => {
    layers[key] = box.checked;
    if (key === "images") await loadImages();
    update();
  });
  row.append(box);
  if (color) {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = color;
    row.append(swatch);
  }
  const count = document.createElement("span");
  count.className = "count dim";
  count.id = `count-${key}`;
  row.append(text, count);
  byId("layers").append(row);
}

function setTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `colours: ${name}`;
  knownColors.clear();
  if (!frame) return;
  colorPoints();
  setPaint();
}

function setPaint() {
  const isByClass = byId("paint").value === "class";
  byId("class-colors").replaceChildren(...(isByClass ? page.classes : []).map((name, label) => {
    const entry = document.createElement("span"), swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.background = classColor(label);
    entry.append(swatch, name);
    return entry;
  }));
  for (const swatch of document.querySelectorAll("#layers .swatch")) swatch.hidden = isByClass;
  update();
}

function addControls() {
  byId("title").textContent = page.title;
  byId("rule").textContent = page.compared ? `A prediction detects an object of its class if ${page.rule}.` : "";
  for (const kind of page.kinds) addLayer(kind, LEGEND[kind], `var(--${kind === "truth" && !page.compared ? "true" : kind})`);
  addLayer("points", "points");
  addLayer("rings", "range rings");
  if (page.images) addLayer("images", "camera images");
  sortFrames();
  const isScored = page.kinds.some((kind) => ["true", "false", "found"].includes(kind));
  byId("score-row").hidden = !isScored;
  byId("score").value = state.score;
  byId("score-text").textContent = state.score.toFixed(2);
  if (page.kinds.every((kind) => kind === "found")) byId("paint").value = "class";  // nothing to compare with
  fillSelect(byId("class"), [["-1", "all"], ...page.classes.map((name, label) => [String(label), name])]);
  byId("notes").hidden = byId("notes").children.length < 2;

  byId("previous").addEventListener("click", () => showFrame(state.position - 1));
  byId("next").addEventListener("click", () => showFrame(state.position + 1));
  byId("frames").addEventListener("change", (event) => showFrame(order.indexOf(Number(event.target.value))));
  byId("order").addEventListener("click", () => {
    state.byWorst = !state.byWorst;
    sortFrames();
  });
  byId("top").addEventListener("click", topView);
  byId("reset").addEventListener("click", resetView);
  byId("theme").addEventListener("click", () => {
    const names = ["auto", "light", "dark"];
    setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3]);
  });
  byId("score").addEventListener("input", (event) => {
    state.score = Number(event.target.value);
    byId("score-text").textContent = state.score.toFixed(2);
    update();
  });
  byId("class").addEventListener("change", (event) => {
    state.label = Number(event.target.value);
    update();
  });
  byId("paint").addEventListener("change", setPaint);
  byId("colors").addEventListener("change", () => {
    colorPoints();
    requestDraw();
  });
  byId("point-size").addEventListener("input", requestDraw);
  addEventListener("keydown", (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
    const action = { ArrowLeft: () => showFrame(state.position - 1), ArrowRight: () => showFrame(state.position + 1),
      t: topView, r: resetView }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme(document.documentElement.dataset.theme ?? "auto"));
  new ResizeObserver(requestDraw).observe(byId("stage"));
  addPointer();
}

// Orbit with one pointer; move with the right button, Shift, or two fingers; zoom with the wheel or two fingers.
function addPointer() {
  const canvas = byId("canvas"), pointers = new Map();
  let travelled = 0;
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 400))));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    travelled = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = pointers.get(event.pointerId), now = { x: event.offsetX, y: event.offsetY };
    if (!place) return hover(now.x, now.y);
    const [dx, dy] = [now.x - place.x, now.y - place.y];
    const before = pointers.size === 2 ? spread() : 0;
    pointers.set(event.pointerId, now);
    travelled += Math.abs(dx) + Math.abs(dy);
    if (pointers.size === 2) {
      zoom(before / Math.max(spread(), 1));
      move(dx / 2, dy / 2);
    } else if (event.buttons & 2 || event.shiftKey) {
      move(dx, dy);
    } else {
      view.yaw -= dx * 0.006;
      view.pitch = Math.min(Math.max(view.pitch + dy * 0.006, -0.2), Math.PI / 2);
      if (view.pitch < Math.PI / 2 - 0.05) view.isOrtho = false;
      requestDraw();
    }
    byId("tip").hidden = true;
  });
  canvas.addEventListener("pointerup", (event) => {
    pointers.delete(event.pointerId);
    if (travelled > 4) return;
    state.pinned = pick(event.offsetX, event.offsetY);
    describe();
    mark(state.hovered);
  });
  canvas.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("pointerleave", () => hover(-1, -1));
}

function zoom(factor) {
  view.distance = Math.min(Math.max(view.distance * factor, 1.5), 600);
  requestDraw();
}

/** Move the centre of the view on the screen's plane, by CSS pixels. */
function move(dx, dy) {
  const { right, up } = viewAxes(), scale = 2 * view.distance * TAN / byId("canvas").clientHeight;
  view.center = view.center.map((value, i) => value - (right[i] * dx - up[i] * dy) * scale);
  requestDraw();
}

function mark(item) {
  state.hovered = item;
  uploadLines();
  drawImages();
  requestDraw();
}

function hover(left, top) {
  if (!frame) return;
  const item = left < 0 ? null : pick(left, top), tip = byId("tip"), stage = byId("stage");
  if (item !== state.hovered) {
    mark(item);
    writeText(tip, item);
  }
  tip.hidden = !item;
  if (!item) return;
  tip.style.left = `${Math.min(left + 14, stage.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${Math.min(top + 14, stage.clientHeight - tip.offsetHeight - 4)}px`;
}

function fail(text) {
  byId("message").textContent = text;
  byId("message").hidden = false;
}

async function start() {
  addControls();
  setTheme("auto");
  if (!gl) return fail("This browser offers no WebGL 2.");
  if (!page.frames.length) return fail("There is no frame to show.");
  initialize();
  const wanted = decodeURIComponent(location.hash.slice(1));
  await showFrame(Math.max(order.findIndex((i) => page.frames[i].name === wanted), 0));
  setPaint();
}

// For tests and for the console: what is shown, where a box lies on the canvas, and one synchronous drawing.
window.scene = { state, view, layers, boxes: () => boxes, frame: () => frame, project, draw, showFrame, topView, gl };
start().catch((error) => fail(String(error)));
