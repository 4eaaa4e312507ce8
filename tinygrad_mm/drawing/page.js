const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const view = document.getElementById("view"), content = document.getElementById("content");
const details = document.getElementById("details"), search = document.getElementById("search");

const element = (name, attributes = {}, ...children) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const html = (name, text = "", attributes = {}) => {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};

// -- the graph

const given = (node) => !node.computed && !["output", "sum", "detached"].includes(node.kind);  // depends on nothing: comes first
const nodes = new Map(data.nodes.map((node, i) => [node.id, { ...node, order: given(node) ? i / data.nodes.length - 1 : i }]));
const frames = new Map(data.clusters.map((frame) => [frame.id, { ...frame, held: [], order: Infinity, operations: 0, parameters: 0 }]));
const outermost = [];
const around = (id) => (nodes.has(id) ? nodes.get(id).cluster : frames.get(id).parent) ?? null;
for (const node of nodes.values()) {
  let id = node.id, frame = around(id);
  for (;;) {
    const held = frame === null ? outermost : frames.get(frame).held;
    if (!held.includes(id)) held.push(id);
    if (frame === null) break;
    const one = frames.get(frame);
    if (node.computed) one.order = Math.min(one.order, node.order);
    if (node.computed) one.operations += 1;
    if (node.kind === "parameter" && !node.chip) one.parameters += (node.shape || []).reduce((a, b) => a * b, 1);
    [id, frame] = [frame, around(frame)];
  }
}
const open = new Set(data.open);
let kept = null;  // the nodes to show where not all are: what another one depends on, or what depends on it
let chosen = null, matches = [], current = -1;

const shape = (node) => node.shape ? `(${node.shape.join(", ")}${node.shape.length === 1 ? "," : ""}) ${node.dtype || ""}`.trim() : "";
const titleOf = (id) => {
  if (nodes.has(id)) { const node = nodes.get(id); return node.name ? `${node.name} = ${node.title}` : node.title; }
  const frame = frames.get(id);
  const call = frame.calls > 1 ? ` · call ${frame.call} of ${frame.calls}` : "";
  return `${frame.path || ""} ${frame.label}${call}`.trim();
};
const linesOf = (id) => {
  if (!nodes.has(id)) {
    const frame = frames.get(id);
    const lines = [...(frame.options || []), `${frame.operations} operation${frame.operations === 1 ? "" : "s"}`];
    return frame.parameters ? [...lines, `${frame.parameters.toLocaleString("en")} parameters`] : lines;
  }
  const node = nodes.get(id);
  if (node.chip) return [];
  const single = (node.views || []).filter(([, one]) => one.numbers.length === 1 && one.numbers[0].length === 1 && !one.missing);
  const numbers = single.map(([what, one]) => `${what} ${one.numbers[0][0]}`);
  return [...(numbers.length && !(node.shape || []).length ? [] : [shape(node)]), ...(node.options || []), ...numbers].filter(Boolean);
};

// -- drawing

const measure = document.createElement("canvas").getContext("2d");
const widthOf = (text, font) => { measure.font = font; return measure.measureText(text).width; };
const FONT = "13px system-ui, sans-serif", BOLD = "600 13px system-ui, sans-serif", SMALL = "11px system-ui, sans-serif";
const LONGEST = 42;
const short = (text) => text.length > LONGEST ? `${text.slice(0, LONGEST / 2 - 1)}…${text.slice(1 - LONGEST / 2)}` : text;
const kindOf = (id) => nodes.has(id) ? nodes.get(id).kind : frames.get(id).function ? "function" : "module";
const ROUND = new Set(["input", "output", "detached"]);

let layout, seen;
const shown = (id) => {  // the closed module around a node, or itself
  let found = id;
  for (let frame = around(id); frame !== null; frame = around(frame)) if (!open.has(frame)) found = frame;
  return found;
};

function draw() {
  const visible = new Map([...nodes.keys()].filter((id) => !kept || kept.has(id)).map((id) => [id, shown(id)]));
  const items = new Set(visible.values());
  const holding = new Set();
  for (const id of items) for (let frame = around(id); frame !== null; frame = around(frame)) holding.add(frame);
  seen = new Map();
  for (const edge of data.edges) {
    const tail = visible.get(edge.tail), head = visible.get(edge.head);
    if (tail === undefined || head === undefined || tail === head) continue;
    const key = `${tail} ${head}`;
    if (seen.has(key)) seen.get(key).edges.push(edge); else seen.set(key, { tail, head, edges: [edge] });
  }
  const inside = (frame) => (frame === null ? outermost : frames.get(frame).held).filter((id) => items.has(id) || holding.has(id));
  layout = new Layout({
    inside, around, isOpen: (id) => holding.has(id), order: (id) => (nodes.get(id) || frames.get(id)).order,
    size: (id) => {
      const title = widthOf(short(titleOf(id)), BOLD), lines = linesOf(id).map((line) => widthOf(short(line), SMALL));
      const chip = nodes.has(id) && nodes.get(id).chip;
      return [Math.max(title, 0, ...lines) + (ROUND.has(kindOf(id)) || !nodes.has(id) ? 40 : 20), chip ? 22 : 26 + 14 * lines.length];
    },
    titleWidth: (frame) => widthOf(short(titleOf(frame)), FONT) + 34,
  }, [...seen.values()].map((one) => [one.tail, one.head]));
  const parts = [];
  for (const [id, place] of [...layout.absolute].sort((a, b) => holding.has(b[0]) - holding.has(a[0]))) {
    parts.push(holding.has(id) ? drawnFrame(id, place) : drawnNode(id, place));
  }
  const edges = [...seen.values()].map(drawnEdge);
  const frameCount = parts.filter((part) => part.classList.contains("frame")).length;
  content.replaceChildren(markers(), ...parts.slice(0, frameCount), ...edges, ...parts.slice(frameCount));
  mark();
}

const markers = () => element("defs", {}, element("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto" }, element("path", { d: "M0 0L8 4L0 8z" })));

function words(text, x, y, attributes) {
  const made = element("text", { x, y, ...attributes });
  made.textContent = text;
  return made;
}

function drawnFrame(id, { x, y, w, h }) {
  const made = element("g", { class: "frame", "data-id": id }, element("rect", { class: "shape", x, y, width: w, height: h, rx: 8 }));
  const header = element("g", { class: "header", role: "button", tabindex: 0, "aria-expanded": "true", "aria-label": `fold ${titleOf(id)}` },
    element("rect", { x, y, width: w, height: HEADER, fill: "transparent" }),
    words(`▾ ${short(titleOf(id))}`, x + 10, y + 17, { "font-size": 13 }));
  header.addEventListener("click", () => toggle(id));
  made.append(header);
  return made;
}

function drawnNode(id, { x, y, w, h }) {
  const kind = kindOf(id), node = nodes.get(id), closed = !node;
  const alarming = (node?.views || []).some(([, one]) => one.alarm);
  const made = element("g", {
    class: `node k-${kind}${node && !node.gradient && node.computed ? " nogradient" : ""}${alarming ? " alarming" : ""}`, "data-id": id,
    role: "button", tabindex: 0, "aria-label": `${titleOf(id)}: ${kind} ${linesOf(id).join(", ")}`, ...(closed ? { "aria-expanded": "false" } : {}),
  });
  const rx = ROUND.has(kind) ? Math.min(h / 2, 22) : kind === "parameter" || kind === "buffer" || kind === "constant" ? 2 : 7;
  made.append(element("rect", { class: "shape", x, y, width: w, height: h, rx }));
  if (kind === "parameter") made.append(element("line", { x1: x, x2: x + w, y1: y + 4, y2: y + 4, stroke: "var(--border)" }));
  if (closed || kind === "output") made.append(element("rect", { x: x + 3, y: y + 3, width: w - 6, height: h - 6, rx: Math.max(0, rx - 3), fill: "none", stroke: "var(--border)" }));
  const chip = node?.chip;
  made.append(words(`${closed ? "▸ " : ""}${short(titleOf(id))}`, x + w / 2, y + (chip ? 15 : 18), { "text-anchor": "middle", "font-size": chip ? 11 : 13, "font-weight": 600 }));
  linesOf(id).forEach((line, i) => made.append(words(short(line), x + w / 2, y + 32 + 14 * i, { "text-anchor": "middle", "font-size": 11, class: line.startsWith("gradient ") ? "sent" : "small" })));
  made.addEventListener("click", () => closed ? toggle(id) : choose(id));
  made.addEventListener("pointerenter", () => hover(id));
  made.addEventListener("focus", () => hover(id));
  return made;
}

function drawnEdge({ tail, head, edges }) {
  const points = layout.line(tail, head);
  let path = `M${points[0].map((n) => n.toFixed(1)).join(" ")}`;
  for (let i = 1; i < points.length; i++) {
    const [a, b] = points[i - 1], [c, d] = points[i], middle = (b + d) / 2;
    path += `C${[a, middle, c, middle, c, d].map((n) => n.toFixed(1)).join(" ")}`;
  }
  const dashed = edges.every((edge) => !edge.gradient);
  const made = element("g", { "data-tail": tail, "data-head": head }, element("path", { d: path, class: dashed ? "edge nogradient" : "edge" }));
  const sent = edges.length === 1 ? edges[0].sent : "";
  const label = [edges.length === 1 ? edges[0].label : "", sent].filter(Boolean).join(" · ");
  if (label) {
    const [x, y] = points[points.length - 1];
    made.append(words(short(label), x + 5, y - 8, { "font-size": 11, class: sent ? "sent" : "small" }));
  }
  return made;
}

// -- folding

function toggle(id) {
  if (open.has(id)) open.delete(id); else open.add(id);
  const before = layout.absolute.get(id);
  draw();
  const after = layout.absolute.get(id);  // what was clicked stays where it was
  if (before && after) move((before.x - after.x) * scale, (before.y - after.y) * scale);
  content.querySelector(`[data-id="${CSS.escape(id)}"]`)?.querySelector(".header")?.focus({ preventScroll: true });
}

function reveal(id) {
  for (let frame = around(id); frame !== null; frame = around(frame)) open.add(frame);
}

document.getElementById("fold").onclick = () => { open.clear(); draw(); fit(); };
document.getElementById("unfold").onclick = () => { for (const id of frames.keys()) open.add(id); draw(); fit(); };

// -- details

function hover(id) {
  if (chosen === null) tell(id);
  lit(id);
}

function choose(id) {
  chosen = chosen === id ? null : id;
  tell(id);
  mark();
}

function lit(id) {
  for (const edge of content.querySelectorAll("[data-tail]")) {
    edge.firstChild.classList.toggle("lit", edge.dataset.tail === id || edge.dataset.head === id);
  }
}

function tell(id) {
  const node = nodes.get(id), list = html("dl");
  const note = (what, text) => { if (text) list.append(html("dt", what), html("dd", text)); };
  details.replaceChildren(html("h2", titleOf(id)), list);
  note("kind", kindOf(id));
  note("in", around(id) === null ? "" : titleOf(around(id)));
  if (node) {
    note("shape", node.results > 1 ? `${node.results} results` : shape(node));
    note("options", (node.options || []).join(", "));
    const operands = node.operands || [];
    const named = operands.length > 1 && !node.commutative && operands.some(Boolean);
    const into = named ? data.edges.filter((edge) => edge.head === id && edge.kind === "forward") : [];
    note("takes", into.map((edge) => `${operands[edge.operand || 0]} = ${titleOf(edge.tail)}`).join(", "));
    note("gradient", node.computed && !node.gradient ? "none comes through" : "");
    for (const text of node.notes || []) note(/^[^ ]+\.py:\d+$/.test(text) ? "source" : "note", text);
    for (const [what, one] of node.views || []) show(what, one);
    if (!data.numbers && node.kind !== "output") note("numbers", "drawn with show=\"numbers\", a node has its value and gradient here");
  } else {
    for (const text of linesOf(id)) note("holds", text);
    note("takes", (frames.get(id).arguments || []).map(([tail, , name]) => `${name} = ${titleOf(tail)}`).join(", "));
  }
  const buttons = html("div", "", { class: "buttons" });
  for (const [label, way] of [["ancestors", 1], ["descendants", 2], ["both", 3]]) {
    const button = html("button", label, { title: `show only the ${label === "both" ? "ancestors and descendants" : label} of this` });
    button.onclick = () => focusOn(id, way);
    buttons.append(button);
  }
  const close = html("button", "close");
  close.onclick = () => { chosen = null; details.hidden = true; mark(); };
  buttons.append(close);
  details.append(buttons);
  details.hidden = false;
  details.classList.toggle("below", view.clientWidth < 700);
}

function show(what, one) {
  details.append(html("h3", what, { class: what }));
  if (one.missing) { details.append(html("div", one.missing)); return; }
  if (one.numbers.length) {
    const table = html("table");
    for (const row of one.numbers) { const line = html("tr"); line.append(...row.map((n) => html("td", n))); table.append(line); }
    details.append(table);
  } else if (one.cells.length) {
    const size = Math.max(2, Math.min(8, Math.floor(200 / Math.max(one.cells.length, one.cells[0].length))));
    const canvas = html("canvas", "", { width: size * one.cells[0].length, height: size * one.cells.length, role: "img", "aria-label": `heat map of the ${what}` });
    const ink = canvas.getContext("2d");
    one.cells.forEach((row, i) => row.forEach((cell, j) => { ink.fillStyle = colour(cell); ink.fillRect(j * size, i * size, size, size); }));
    details.append(canvas, html("div", `colours: 0 ± ${one.scale.toPrecision(3)}`));
  }
  if (one.statistics) details.append(html("div", one.statistics));
  if (one.alarm) details.append(html("div", one.alarm, { class: "alarm" }));
}

/** From blue by white to orange; red for what is not finite. */
function colour(cell) {
  if (cell === null) return "#e0002d";
  const [middle, end] = cell > 0 ? [[245, 176, 76], [168, 79, 0]] : [[106, 174, 224], [0, 76, 153]];
  const share = Math.min(1, Math.abs(cell)), white = [250, 250, 250];
  const [from, to, along] = share < 0.5 ? [white, middle, 2 * share] : [middle, end, 2 * share - 1];
  return `rgb(${from.map((a, i) => Math.round(a + (to[i] - a) * along)).join(" ")})`;
}

// -- ancestors and descendants

function focusOn(id, way) {
  const start = nodes.has(id) ? [id] : [...nodes.keys()].filter((node) => { for (let f = around(node); f !== null; f = around(f)) if (f === id) return true; return false; });
  const found = new Set(start);
  for (const [bit, from, to] of [[1, "head", "tail"], [2, "tail", "head"]]) {
    if (!(way & bit)) continue;
    const next = new Map();
    for (const edge of data.edges) { if (!next.has(edge[from])) next.set(edge[from], []); next.get(edge[from]).push(edge[to]); }
    const waiting = [...start], met = new Set(start);
    while (waiting.length) for (const other of next.get(waiting.pop()) || []) if (!met.has(other)) { met.add(other); found.add(other); waiting.push(other); }
  }
  kept = found;
  document.getElementById("focused").textContent = `${["", "ancestors", "descendants", "ancestors and descendants"][way]} of ${titleOf(id)}`;
  document.getElementById("focus").hidden = false;
  draw();
  fit();
}

function unfocus() {
  kept = null;
  document.getElementById("focus").hidden = true;
  draw();
  fit();
}
document.getElementById("everything").onclick = unfocus;

// -- search

search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  const text = (id) => `${titleOf(id)} ${nodes.has(id) ? `${nodes.get(id).kind} ${shape(nodes.get(id))} ${around(id) === null ? "" : titleOf(around(id))}` : ""}`.toLowerCase();
  matches = wanted ? [...nodes.keys(), ...frames.keys()].filter((id) => text(id).includes(wanted) && (!kept || !nodes.has(id) || kept.has(id))) : [];
  current = -1;
  document.getElementById("count").textContent = wanted ? `${matches.length} found` : "";
  mark();
});
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { search.value = ""; search.dispatchEvent(new Event("input")); }
  if (event.key !== "Enter" || !matches.length) return;
  current = (current + (event.shiftKey ? matches.length - 1 : 1)) % matches.length;
  document.getElementById("count").textContent = `${current + 1} of ${matches.length}`;
  reveal(matches[current]);
  draw();
  centre(matches[current]);
  tell(matches[current]);
});

function mark() {
  const wanted = new Set(matches), hidden = new Set(matches.filter((id) => !layout.absolute.has(id)).map((id) => nodes.has(id) ? shown(id) : id));
  for (const part of content.querySelectorAll("[data-id]")) {
    part.classList.toggle("found", wanted.has(part.dataset.id) || hidden.has(part.dataset.id));
    part.classList.toggle("chosen", part.dataset.id === chosen);
  }
}

// -- moving

let x = 0, y = 0, scale = 1;
const place = () => content.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)}) scale(${scale.toFixed(4)})`);
function fit() {
  const [w, h] = layout.size;
  const whole = Math.min(view.clientWidth / w, (view.clientHeight - 20) / h);
  scale = Math.min(1.5, Math.max(whole, Math.min(view.clientWidth / w, 0.75)));  // what is too long to be read is moved through
  x = (view.clientWidth - w * scale) / 2;
  y = Math.max(4, (view.clientHeight - h * scale) / 2);
  place();
}
function zoom(factor, cx = view.clientWidth / 2, cy = view.clientHeight / 2) {
  const next = Math.min(8, Math.max(0.02, scale * factor));
  x = cx - (cx - x) * next / scale;
  y = cy - (cy - y) * next / scale;
  scale = next;
  place();
}
function move(dx, dy) { x += dx; y += dy; place(); }
function centre(id) {
  const at = layout.absolute.get(id);
  if (!at) return;
  scale = Math.max(scale, 0.8);
  x = view.clientWidth / 2 - (at.x + at.w / 2) * scale;
  y = view.clientHeight / 2 - (at.y + at.h / 2) * scale;
  place();
}
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = view.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });
for (const kind of ["pointerdown", "keydown", "wheel"]) {
  document.addEventListener(kind, () => { document.getElementById("hint").hidden = true; }, { once: true, passive: true });
}
const fingers = new Map();
let dragged = 0;
view.addEventListener("pointerdown", (event) => { fingers.set(event.pointerId, event); dragged = 0; });
window.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
  dragged += Math.abs(dx) + Math.abs(dy);
  if (dragged > 4) view.classList.add("moving");
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const span = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    const box = view.getBoundingClientRect();
    if (span(before) > 0) zoom(span(event) / span(before), other.clientX - box.left, other.clientY - box.top);
  } else {
    move(dx, dy);
  }
  fingers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  window.addEventListener(kind, (event) => { fingers.delete(event.pointerId); if (!fingers.size) view.classList.remove("moving"); });
}
view.addEventListener("click", (event) => { if (dragged > 4) { event.stopPropagation(); event.preventDefault(); } }, true);  // the end of a drag
const keys = {
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit,
  ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
  Escape: () => { chosen = null; details.hidden = true; if (kept) unfocus(); mark(); },
};
document.addEventListener("keydown", (event) => {
  if (event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
  const part = event.target.closest?.("[role=button][tabindex]");
  if (part && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); part.dispatchEvent(new MouseEvent("click", { bubbles: true })); return; }
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
document.getElementById("in").onclick = () => zoom(1.25);
document.getElementById("out").onclick = () => zoom(0.8);
document.getElementById("fit").onclick = fit;
document.getElementById("theme").onclick = () => {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
};
window.addEventListener("resize", fit);
draw();
fit();
