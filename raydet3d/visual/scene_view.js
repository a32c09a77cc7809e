"use strict";
// The view of a scene page: camera, WebGL drawing, camera images. Coordinates are the LiDAR's: x ahead, y to the left,
// z up, in metres. The page's state and its controls are in scene.js.

const byId = (id) => document.getElementById(id);

// ------------------------------------------------------------------------------------------------------------ camera

/** Axes and position of the view: looking along `ahead`, at yaw 0 along x. */
function viewAxes() {
  const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
  const ahead = [cp * cy, cp * sy, -sp];
  const eye = view.center.map((value, i) => value - ahead[i] * view.distance);
  return { ahead, right: [sy, -cy, 0], up: [sp * cy, sp * sy, cp], eye };
}

const TAN = Math.tan(Math.PI / 8);  // of half the vertical field of view
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** Matrix from the LiDAR's frame to clip space, by columns. */
function viewMatrix(aspect) {
  const { ahead, right, up, eye } = viewAxes();
  const row = (axis, factor, shift = 0) => [...axis.map((value) => value * factor), -dot(axis, eye) * factor + shift];
  let rows;
  if (view.isOrtho) {
    const half = view.distance * TAN, far = 4000;
    rows = [row(right, 1 / (half * aspect)), row(up, 1 / half), row(ahead, 1 / far), [0, 0, 0, 1]];
  } else {
    const near = 0.2, far = 2000, depth = (far + near) / (far - near);
    rows = [row(right, 1 / (TAN * aspect)), row(up, 1 / TAN), row(ahead, depth, -2 * far * near / (far - near)), row(ahead, 1)];
  }
  return new Float32Array([0, 1, 2, 3].flatMap((column) => rows.map((values) => values[column])));
}

/** Position of a point on the canvas in CSS pixels, or null behind the view. */
function project(point) {
  const canvas = byId("canvas");
  const m = viewMatrix(canvas.clientWidth / canvas.clientHeight);
  const [x, y, , w] = [0, 1, 2, 3].map((i) => m[i] * point[0] + m[4 + i] * point[1] + m[8 + i] * point[2] + m[12 + i]);
  return w <= 0.1 ? null : [(x / w + 1) / 2 * canvas.clientWidth, (1 - y / w) / 2 * canvas.clientHeight];
}

/** The box under a position of the canvas that is nearest to the eye, or null. */
function pick(left, top) {
  const canvas = byId("canvas");
  const { ahead, right, up, eye } = viewAxes();
  const x = (2 * left / canvas.clientWidth - 1) * TAN * canvas.clientWidth / canvas.clientHeight;
  const y = (1 - 2 * top / canvas.clientHeight) * TAN;
  const off = [0, 1, 2].map((i) => right[i] * x + up[i] * y);
  const from = view.isOrtho ? eye.map((value, i) => value + off[i] * view.distance) : eye;
  const way = view.isOrtho ? ahead : ahead.map((value, i) => value + off[i]);
  let best = null, nearest = Infinity;
  for (const item of boxes) {
    const [bx, by, bz, dx, dy, dz, yaw] = item.box;
    const c = Math.cos(yaw), s = Math.sin(yaw);
    const turn = ([px, py, pz]) => [c * px + s * py, c * py - s * px, pz];
    const start = turn([from[0] - bx, from[1] - by, from[2] - bz - dz / 2]), step = turn(way);
    let enter = view.isOrtho ? -Infinity : 0, leave = Infinity;
    [dx / 2, dy / 2, dz / 2].forEach((half, i) => {
      const [a, b] = [(-half - start[i]) / step[i], (half - start[i]) / step[i]];
      enter = Math.max(enter, Math.min(a, b));
      leave = Math.min(leave, Math.max(a, b));
    });
    if (enter < leave && enter < nearest) [best, nearest] = [item, enter];
  }
  return best;
}

function resetView() {
  const [[x0, x1], [y0, y1]] = frame.points.extent;
  const size = Math.min(Math.max(x1 - x0, y1 - y0, 20), 150);
  Object.assign(view, { yaw: 0, pitch: 0.6, isOrtho: false, distance: 1.1 * size,
    center: [x0 + 0.45 * (x1 - x0), (y0 + y1) / 2, frame.points.heights[1]] });
  requestDraw();
}

function topView() {
  const [[x0, x1], [y0, y1]] = frame.points.extent, canvas = byId("canvas");
  const half = Math.max(x1 - x0, (y1 - y0) * canvas.clientHeight / canvas.clientWidth, 20) / 2;
  Object.assign(view, { yaw: 0, pitch: Math.PI / 2, isOrtho: true, distance: 1.08 * half / TAN,
    center: [(x0 + x1) / 2, (y0 + y1) / 2, frame.points.heights[1]] });
  requestDraw();
}

// ------------------------------------------------------------------------------------------------------------- WebGL

// Points are drawn by this script into an image: without a GPU that takes a twentieth of the time of WebGL's points.
const IMAGE_SHADERS = [`#version 300 es
in vec2 place; out vec2 at;
void main() { gl_Position = vec4(place, 0.0, 1.0); at = 0.5 * place + 0.5; }`, `#version 300 es
precision mediump float; in vec2 at; uniform sampler2D image; out vec4 pixel;
void main() { pixel = texture(image, at); }`];

// A line is a rectangle whose corners know both ends: WebGL's own lines are one pixel wide.
const LINE_SHADERS = [`#version 300 es
in vec3 from; in vec3 to; in vec2 corner; in vec4 color; in float width;
uniform mat4 matrix; uniform vec2 size; uniform float ratio; out vec4 ink; out float across; out float reach;
void main() {
  vec4 a = matrix * vec4(from, 1.0), b = matrix * vec4(to, 1.0);
  float near = 0.1;
  if (a.w < near && b.w < near) { gl_Position = vec4(2.0, 2.0, 2.0, 1.0); return; }
  if (a.w < near) a = mix(a, b, (near - a.w) / (b.w - a.w));
  else if (b.w < near) b = mix(b, a, (near - b.w) / (a.w - b.w));
  vec2 along = (b.xy / b.w - a.xy / a.w) * size;
  along = dot(along, along) > 1e-8 ? normalize(along) : vec2(1.0, 0.0);
  reach = 0.5 * width * ratio + 1.0;
  across = corner.y * reach;
  vec4 end = corner.x < 0.0 ? a : b;
  end.xy += (vec2(-along.y, along.x) * across + along * corner.x * 0.5 * width * ratio) * 2.0 / size * end.w;
  gl_Position = end; ink = color;
}`, `#version 300 es
precision mediump float; in vec4 ink; in float across; in float reach; out vec4 pixel;
void main() { pixel = vec4(ink.rgb, ink.a * clamp(reach - abs(across), 0.0, 1.0)); }`];

const gl = byId("canvas").getContext("webgl2", { antialias: false, alpha: false, depth: false });
let imageProgram, lineProgram, squareBuffer, ringLines, boxLines;
let inks = new Uint32Array(0);  // colours of the points, as bytes red, green, blue, alpha
let image = new Uint32Array(0), depths = new Float32Array(0);

function makeProgram(sources) {
  const program = gl.createProgram();
  [gl.VERTEX_SHADER, gl.FRAGMENT_SHADER].forEach((type, i) => {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, sources[i]);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(program, shader);
  });
  gl.linkProgram(program);
  return program;
}

function initialize() {
  imageProgram = makeProgram(IMAGE_SHADERS);
  lineProgram = makeProgram(LINE_SHADERS);
  squareBuffer = gl.createBuffer();
  upload(squareBuffer, new Float32Array([-1, -1, 3, -1, -1, 3]));  // a triangle around the view
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  [ringLines, boxLines] = [{ buffer: gl.createBuffer(), count: 0 }, { buffer: gl.createBuffer(), count: 0 }];
  gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
}

function upload(buffer, values) {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
}

/** Bind attributes that lie interleaved in a buffer: [name, numbers] in order. */
function bindAttributes(program, buffer, parts) {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  const stride = 4 * parts.reduce((sum, [, numbers]) => sum + numbers, 0);
  let offset = 0;
  for (const [name, numbers] of parts) {
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, numbers, gl.FLOAT, false, stride, offset);
    offset += 4 * numbers;
  }
}

function isDark() {
  return document.documentElement.dataset.theme === "dark" ||
    (document.documentElement.dataset.theme === undefined && matchMedia("(prefers-color-scheme: dark)").matches);
}

const knownColors = new Map();  // cleared when the page's colours change

/** A CSS colour as red, green, blue from 0 to 1. */
function cssColor(text) {
  if (!knownColors.has(text)) {
    const probe = byId("message");
    probe.style.color = text;
    const numbers = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3);
    knownColors.set(text, numbers.map((value) => value / 255));
    probe.style.color = "";
  }
  return knownColors.get(text);
}

/** Colour of a class; on a light page it is darker, since the palette is made for a dark one. */
function classColor(label) {
  const color = page.palette[label % page.palette.length];
  return `rgb(${color.map((value) => Math.round(value * (isDark() ? 1 : 0.6))).join(",")})`;
}

function boxColor(item) {
  if (byId("paint").value === "class") return classColor(item.label);
  return `var(--${item.kind === "truth" && !page.compared ? "true" : item.kind})`;
}

function colorPoints() {
  const n = frame.points.count;
  inks = new Uint32Array(n);
  const bytes = new Uint8Array(inks.buffer).fill(255);
  const chosen = frame.colors.find((color) => color.name === byId("colors").value);
  if (chosen && chosen.values.length === 3) {
    for (let i = 0; i < n; i++) for (let c = 0; c < 3; c++) bytes[4 * i + c] = chosen.values[c][i];
    return;
  }
  const [low, , high] = frame.points.heights, scale = 255 / Math.max(high - low, 1);
  const stops = RAMPS[isDark() ? "dark" : "light"], steps = stops.length - 1;
  const table = Array.from({ length: 256 }, (_, value) => {
    const place = value / 255 * steps, at = Math.min(Math.floor(place), steps - 1);
    return stops[at].map((channel, c) => channel + (stops[at + 1][c] - channel) * (place - at));
  });
  for (let i = 0; i < n; i++) {
    const value = chosen ? chosen.values[0][i] : (frame.xyz[3 * i + 2] - low) * scale;
    bytes.set(table[Math.min(Math.max(Math.round(value), 0), 255)], 4 * i);
  }
}

/** Draw the points as squares of a size in pixels, near ones over far ones. */
function drawPoints(m, width, height, size) {
  if (image.length !== width * height) [image, depths] = [new Uint32Array(width * height), new Float32Array(width * height)];
  image.fill(0);
  depths.fill(Infinity);
  const { xyz } = frame, d = view.isOrtho ? 2 : 3;  // depth: row z or row w of the matrix
  for (let i = 0; i < inks.length; i++) {
    const x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
    const w = m[3] * x + m[7] * y + m[11] * z + m[15];
    if (w < 0.2) continue;
    const left = Math.round(((m[0] * x + m[4] * y + m[8] * z + m[12]) / w + 1) / 2 * width - size / 2);
    const low = Math.round(((m[1] * x + m[5] * y + m[9] * z + m[13]) / w + 1) / 2 * height - size / 2);
    if (left < 0 || low < 0 || left + size > width || low + size > height) continue;
    const depth = m[d] * x + m[4 + d] * y + m[8 + d] * z + m[12 + d];
    for (let row = low; row < low + size; row++) {
      for (let at = row * width + left; at < row * width + left + size; at++) {
        if (depth < depths[at]) {
          depths[at] = depth;
          image[at] = inks[i];
        }
      }
    }
  }
  gl.useProgram(imageProgram);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(image.buffer));
  bindAttributes(imageProgram, squareBuffer, [["place", 2]]);
  gl.drawArrays(gl.TRIANGLES, 0, 3);
}

const CORNERS = [[-1, -1], [1, -1], [1, 1], [-1, -1], [1, 1], [-1, 1]];
const LINE_PARTS = [["from", 3], ["to", 3], ["corner", 2], ["color", 4], ["width", 1]];

function uploadSegments(lines, segments) {
  const values = [];
  for (const { from, to, color, alpha, width } of segments) {
    for (const corner of CORNERS) values.push(...from, ...to, ...corner, ...color, alpha, width);
  }
  upload(lines.buffer, new Float32Array(values));
  lines.count = segments.length * CORNERS.length;
}

/** Corners of a box: at [ahead, left, up] from -0.5 to 0.5 (up from 0 to 1) of its size. */
function corner([x, y, z, dx, dy, dz, yaw], [ahead, left, up]) {
  const c = Math.cos(yaw), s = Math.sin(yaw);
  return [x + c * ahead * dx - s * left * dy, y + s * ahead * dx + c * left * dy, z + up * dz];
}

/** Edges of a box, then the cross on its front, then a tick ahead on the ground; as pairs of ends. */
function boxEdges(box) {
  const at = (ahead, left, up) => corner(box, [ahead, left, up]);
  const half = [-0.5, 0.5], edges = [];
  for (const a of half) for (const b of half) {
    edges.push([at(a, b, 0), at(a, b, 1)]);
    for (const up of [0, 1]) edges.push(a < 0 ? [at(b, -0.5, up), at(b, 0.5, up)] : [at(-0.5, b, up), at(0.5, b, up)]);
  }
  const tip = 0.5 + 0.6 / Math.max(box[3], 0.1);
  return [...edges, [at(0.5, -0.5, 0), at(0.5, 0.5, 1)], [at(0.5, 0.5, 0), at(0.5, -0.5, 1)], [at(0, 0, 0), at(tip, 0, 0)]];
}

const RINGS = Array.from({ length: 15 }, (_, i) => 10 * (i + 1));

function uploadLines() {
  const gray = cssColor("var(--line)"), ground = frame.points.heights[1], steps = 96, rings = [];
  const at = (radius, i) => [radius * Math.cos(2 * Math.PI * i / steps), radius * Math.sin(2 * Math.PI * i / steps), ground];
  for (const radius of RINGS) {
    for (let i = 0; i < steps; i++) rings.push({ from: at(radius, i), to: at(radius, i + 1), color: gray, alpha: 1, width: 1 });
  }
  for (const [from, to] of [[[-1, 0.7], [1.4, 0]], [[1.4, 0], [-1, -0.7]], [[-1, -0.7], [-1, 0.7]]]) {
    rings.push({ from: [...from, ground], to: [...to, ground], color: cssColor("var(--dim)"), alpha: 1, width: 1.5 });
  }
  uploadSegments(ringLines, rings);
  const shown = boxes.flatMap((item) => {
    const color = cssColor(boxColor(item)), isMarked = item === state.hovered || item === state.pinned;
    return boxEdges(item.box).map(([from, to], i) =>
      ({ from, to, color, alpha: i < 12 || i === 14 ? 1 : 0.5, width: isMarked ? 3.5 : i < 12 || i === 14 ? 2 : 1 }));
  });
  uploadSegments(boxLines, shown);
}

function drawLines(lines, matrix, ratio) {
  const uniform = (name) => gl.getUniformLocation(lineProgram, name);
  gl.useProgram(lineProgram);
  gl.uniformMatrix4fv(uniform("matrix"), false, matrix);
  gl.uniform2f(uniform("size"), gl.canvas.width, gl.canvas.height);
  gl.uniform1f(uniform("ratio"), ratio);
  bindAttributes(lineProgram, lines.buffer, LINE_PARTS);
  gl.drawArrays(gl.TRIANGLES, 0, lines.count);
}

function draw() {
  const canvas = byId("canvas"), ratio = window.devicePixelRatio;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  gl.viewport(0, 0, width, height);
  gl.clearColor(...cssColor("var(--page)"), 1);
  gl.clear(gl.COLOR_BUFFER_BIT);
  if (!frame) return;
  gl.enable(gl.BLEND);
  const matrix = viewMatrix(width / height);
  if (layers.rings) drawLines(ringLines, matrix, ratio);
  if (layers.points) drawPoints(matrix, width, height, Math.max(Math.round(byId("point-size").value * ratio), 1));
  drawLines(boxLines, matrix, ratio);
  drawRingTexts(ratio);
}

function drawRingTexts(ratio) {
  const overlay = byId("overlay"), context = overlay.getContext("2d");
  [overlay.width, overlay.height] = [overlay.clientWidth * ratio, overlay.clientHeight * ratio];
  if (!layers.rings) return;
  context.scale(ratio, ratio);
  context.font = "12px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillStyle = resolveColor("var(--dim)");
  context.strokeStyle = resolveColor("var(--page)");  // an outline, to be read over points
  context.lineWidth = 3;
  let last = null;
  for (const radius of RINGS) {
    const place = project([radius, 0, frame.points.heights[1]]);
    if (!place || place[1] < 16 || (last && Math.hypot(place[0] - last[0], place[1] - last[1]) < 34)) continue;
    context.strokeText(`${radius} m`, place[0], place[1] - 3);
    context.fillText(`${radius} m`, place[0], place[1] - 3);
    last = place;
  }
}

let isAsked = false;
function requestDraw() {
  if (isAsked) return;
  isAsked = true;
  requestAnimationFrame(() => {
    isAsked = false;
    draw();
  });
}

// ------------------------------------------------------------------------------------------------------------ images

async function loadImages() {
  const holder = byId("cameras"), shown = frame;
  const loaded = await Promise.all(frame.cameras.map(async (camera) => {
    const image = new Image();
    image.src = `data:image/jpeg;base64,${camera.jpeg}`;
    await image.decode();
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    caption.textContent = camera.name;
    caption.className = "dim";
    [canvas.width, canvas.height] = camera.size;
    canvas.addEventListener("click", () => figure.classList.toggle("large"));
    figure.append(canvas, caption);
    return { figure, canvas, image, matrix: camera.matrix };
  }));
  if (shown !== frame) return;
  cameras = loaded;
  holder.classList.toggle("many", loaded.length > 3);
  byId("views").classList.toggle("below", loaded.length === 1 && loaded[0].canvas.width > 2 * loaded[0].canvas.height);
  holder.replaceChildren(...(layers.images ? loaded.map((camera) => camera.figure) : []));
}

/** Ends of an edge in pixels of an image, cut at the near plane; null behind the camera. */
function projectEdge(matrix, [from, to]) {
  const near = 0.3;
  const ends = [from, to].map((point) => matrix.map((row) => dot(row, point) + row[3]));
  if (ends[0][2] < near && ends[1][2] < near) return null;
  return ends.map((end, i) => {
    if (end[2] < near) {
      const other = ends[1 - i], share = (near - end[2]) / (other[2] - end[2]);
      end = end.map((value, k) => value + share * (other[k] - value));
    }
    return [end[0] / end[2], end[1] / end[2]];
  });
}

function drawImages() {
  for (const { canvas, image, matrix } of cameras) {
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    for (const item of boxes) {
      context.strokeStyle = resolveColor(boxColor(item));
      const isMarked = item === state.hovered || item === state.pinned;
      boxEdges(item.box).slice(0, 14).forEach((edge, i) => {
        const ends = projectEdge(matrix, edge);
        if (!ends) return;
        context.lineWidth = (isMarked ? 4 : 2) * (i < 12 ? 1 : 0.5);
        context.beginPath();
        context.moveTo(...ends[0]);
        context.lineTo(...ends[1]);
        context.stroke();
      });
    }
  }
}

function resolveColor(text) {
  return `rgb(${cssColor(text).map((value) => Math.round(255 * value)).join(",")})`;
}

