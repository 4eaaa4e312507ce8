// The page: where it stands, and how one moves.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
for (const value of data.values) value.grads = value.step !== null;

// The items of a deck are the stops of the slider: {kind, value}.
const RIGHT = [
  { kind: "start", value: null },
  ...data.forward.map((value) => ({ kind: "forward", value })),
  ...data.steps.map((step) => ({ kind: "backward", value: step.value })),
  { kind: "end", value: null },
  ...(data.learning ? data.learning.updates.map((one, number) => ({ kind: "update", value: one.value, number })) : []),
  ...(data.learning && data.learning.steps.length > 1 ? [{ kind: "training", value: null }] : []),
];
const ASTRAY = [
  { kind: "astrayStart", value: null },
  ...data.wrong.steps.map((step) => ({ kind: "astray", value: step.value })),
  { kind: "astrayEnd", value: null },
];
const COLOURS = {
  start: "forward", forward: "forward", backward: "backward", end: "backward", update: "right", training: "right", quizStart: "near", quiz: "near",
};
const LOOKS = { forward: "forward", backward: "backward", right: "learning", near: "asking", wrong: "astray" };
const WORDS = {
  start: "start", forward: "forward", backward: "backward", end: "end", update: "update", training: "training", astrayStart: "wrong order",
  astray: "wrong order", astrayEnd: "wrong order, end", quizStart: "quiz", quiz: "question",
};

let deck = RIGHT;
let position = 0;
let spot = null; // a leaf to show on the first card
let before = 0; // where the right order was left for another deck
let playing = null;

const cards = new Cards(data, go);
const disorder = new Disorder(cards);
const learning = new LearningCards(data, cards);
const quiz = new Quiz(data, cards);
const edits = new Edits(data);
const QUIZ = [{ kind: "quizStart", value: null }, ...quiz.asked.map((value) => ({ kind: "quiz", value }))];
const graph = new Graph(at("picture"), data.values, data.layers, jump, () => {
  at("fold").textContent = graph.hidden.size ? "Unfold all layers" : "Fold all layers";
  show();
});

// -- moving

/** Go to the card of a kind for a value, leaving the wrong order or the quiz. */
function go(kind, value) {
  if (deck !== RIGHT) change(RIGHT);
  if (kind === "right") kind = data.values[value].grads ? "backward" : "start";
  let found = RIGHT.findIndex((item) => item.kind === kind && (item.value === value || item.value === null));
  if (found < 0) found = RIGHT.findIndex((item) => item.value === value);
  move(found < 0 ? 0 : found, value);
}

/** Go to a value: to its step in the direction we are in, or, if it was given, to where that is shown. */
function jump(value) {
  if (deck !== RIGHT) {
    const found = deck.findIndex((item) => item.value === value);
    if (found >= 0) move(found);
    return;
  }
  const forward = RIGHT.findIndex((item) => item.kind === "backward") > position;
  const kinds = forward ? ["forward", "start"] : ["backward", "forward", "start"];
  for (const kind of kinds) {
    const found = RIGHT.findIndex((item) => item.kind === kind && (item.value === value || kind === "start"));
    if (found >= 0) return move(found, value);
  }
}

function move(to, leaf = null) {
  position = Math.max(0, Math.min(deck.length - 1, to));
  spot = deck[position].kind === "start" ? leaf : null;
  show();
}

/** Step on or back; the steps inside a folded layer count as one. */
function step(by) {
  let to = position + by;
  while (to > 0 && to < deck.length - 1 && isSkipped(to)) to += by;
  move(to);
}

/** Whether the next item is in the same folded layer, and so this one is not the last there. */
function isSkipped(i) {
  const layer = foldOf(deck[i]);
  return layer !== null && deck[i + 1].kind === deck[i].kind && foldOf(deck[i + 1]) === layer;
}

const foldOf = (item) => (item.value === null || !graph.svg ? null : graph.foldOf(item.value));

/** The items that a folded layer's stop stands for. */
function run(i) {
  const layer = foldOf(deck[i]);
  if (layer === null) return [];
  let first = i;
  while (first > 0 && deck[first - 1].kind === deck[i].kind && foldOf(deck[first - 1]) === layer) first -= 1;
  let last = i;
  while (deck[last + 1].kind === deck[i].kind && foldOf(deck[last + 1]) === layer) last += 1;
  return deck.slice(first, last + 1);
}

/** Change to the wrong order or to the quiz, or back to where we were. */
function change(to) {
  if (deck === RIGHT) before = position;
  deck = to;
  position = to === RIGHT ? before : 0;
  at("wrong").setAttribute("aria-pressed", String(to === ASTRAY));
  at("wrong").textContent = to === ASTRAY ? "Back to the right order" : "Replay in the wrong order";
  at("quiz").setAttribute("aria-pressed", String(to === QUIZ));
  at("quiz").textContent = to === QUIZ ? "End quiz" : "Quiz";
  prepare();
}

/** Show the numbers as they are after an edit, or as they were recorded. */
function renew() {
  cards.data = edits.data;
  cards.values = edits.data.values;
  for (const id of ["wrong", "quiz"]) at(id).disabled = edits.changes.size > 0;
  summarize();
  show();
}

function play(on) {
  clearInterval(playing);
  playing = null;
  if (on) {
    if (position === deck.length - 1) move(0);
    playing = setInterval(() => (position === deck.length - 1 ? play(false) : step(1)), 1600);
  }
  at("play").querySelector("path").setAttribute("d", on ? "M4 3h3v10H4zM9 3h3v10H9z" : "M2 3l6 5-6 5zM8 3l6 5-6 5z");
  at("play").setAttribute("aria-label", on ? "Pause" : "Play");
}

// -- showing

function textOf(item) {
  if (item.value === null) return { start: "What is given", end: "Every leaf has its gradient", astrayStart: "Depth first", astrayEnd: "Wrong against right", training: "The training steps", quizStart: "Which number comes here?" }[item.kind];
  const value = data.values[item.value];
  if (item.kind === "update") return `${data.learning.optimizer} changes ${value.label}`;
  if (item.kind === "quiz") return `${partial(value.label)} = ?`;
  if (item.kind === "forward") return `${value.label} = ${value.expression}`;
  return value.operation ? `${partial(value.label)}, back through ${value.operation}` : partial(value.label);
}

/** "backward 3 of 7" */
function whereText(i) {
  const { kind } = deck[i];
  const same = deck.filter((item) => item.kind === kind);
  return same.length > 1 || deck[i].value !== null ? `${WORDS[kind]} ${same.indexOf(deck[i]) + 1} of ${same.length}` : WORDS[kind];
}

function contentOf(item) {
  switch (item.kind) {
    case "start": return cards.start(spot);
    case "forward": return cards.forward(item.value);
    case "backward": return cards.backward(item.value);
    case "end": return cards.end();
    case "update": return learning.update(item.number);
    case "training": return learning.training();
    case "quizStart": return quiz.start();
    case "quiz": return quiz.card(item.value);
    case "astrayStart": return disorder.start();
    case "astray": return disorder.step(position - 1);
    default: return disorder.end();
  }
}

/** What stands above a card while numbers are changed: which, and the way back. */
function editBanner(item) {
  const undo = make("button", { type: "button", id: "undo" }, "Undo all changes");
  undo.addEventListener("click", () => { edits.undo(); renew(); });
  const recorded = item.kind === "update" || item.kind === "training" ? " The optimizer's steps below are those from the recorded numbers." : "";
  return make("div", { class: "why edited", "data-part": "edited" }, make("p", {}, edits.text() + recorded), undo);
}

function show() {
  const item = deck[position];
  const look = COLOURS[item.kind] || "wrong";
  document.documentElement.style.setProperty("--here", `var(--${look})`);
  at("tip").hidden = true;
  const card = at("card");
  card.className = LOOKS[look];
  card.dataset.kind = item.kind;
  card.dataset.value = item.value ?? "";
  const inside = run(position);
  const content = contentOf(item).filter(Boolean);
  if (item.kind === "start") {
    const form = editForm(edits, renew);
    content.splice(3 + data.notes.length, 0, form);
    card.onclick = (event) => {
      const leaf = event.target.closest("[data-leaf]");
      const place = leaf && event.target.closest("td, canvas");
      if (place && form.choose) form.choose(Number(leaf.dataset.leaf), Number(place.dataset.at));
    };
  } else card.onclick = null;
  if (edits.changes.size) content.unshift(editBanner(item));
  if (inside.length > 1) {
    const layer = foldOf(item);
    const links = inside.map((one) => ({ ...one, text: textOf(one) }));
    content.unshift(cards.foldedLayer(data.layers[layer].title, links, () => graph.fold(layer)));
  }
  card.replaceChildren(...content);
  at("slider").value = position;
  at("slider").setAttribute("aria-valuetext", `${whereText(position)}: ${textOf(item)}`);
  at("where").textContent = whereText(position);
  at("announce").textContent = `${whereText(position)}: ${textOf(item)}`;
  for (const id of ["first", "back"]) at(id).disabled = position === 0;
  for (const id of ["next", "last"]) at(id).disabled = position === deck.length - 1;
  for (const button of at("list").querySelectorAll("button")) {
    if (Number(button.dataset.at) === position) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  }
  graph.show(graphAt(item));
  hintAll();
  if (spot !== null) {
    const leaf = card.querySelector(`[data-leaf="${spot}"]`);
    if (leaf) leaf.scrollIntoView({ block: "nearest" });
  }
}

function hintAll() {
  for (const element of [at("picture"), ...at("card").querySelectorAll(".panels, .heat-holder, .scroll")]) hint(element);
}

/** Let what is wider than its box fade at the side where there is more to see. */
function hint(element) {
  const update = () => {
    const more = element.scrollWidth - element.clientWidth;
    element.classList.toggle("more-left", element.scrollLeft > 2);
    element.classList.toggle("more-right", more > 2 && element.scrollLeft < more - 2);
  };
  if (!element.dataset.hinted) element.addEventListener("scroll", update, { passive: true });
  element.dataset.hinted = "true";
  update();
}

/** What the graph looks like at an item. */
function graphAt(item) {
  const later = new Set();
  const passed = new Set();
  const bad = new Set();
  let flows = [];
  const back = item.kind !== "forward";
  if (deck === QUIZ) for (const value of quiz.answers.keys()) if (data.values[value].step !== null) passed.add(value);
  if (item.kind === "start") for (const value of data.forward) later.add(value);
  if (item.kind === "forward") {
    for (const one of deck.slice(position + 1)) if (one.kind === "forward") later.add(one.value);
    flows = data.values[item.value].arguments.filter((one) => one.value !== null).map((one) => [one.value, item.value]);
  }
  if (back) for (const one of deck.slice(0, position + 1)) if (one.kind === "backward" || one.kind === "astray") passed.add(one.value);
  if (deck === ASTRAY) {
    const early = data.wrong.steps.filter((one) => one.missing.length).map((one) => one.value);
    for (const value of [...early, ...data.wrong.wrong]) if (passed.has(value)) bad.add(value);
  }
  if (["end", "update", "training"].includes(item.kind)) for (const one of data.steps) passed.add(one.value);
  if (["backward", "astray", "quiz"].includes(item.kind)) {
    const now = data.steps[data.values[item.value].step];
    flows = now.sent.map((entry) => [data.entries[entry].target, item.value]);
    if (!flows.length) flows = now.ledger.filter((one) => one.consumer !== null).map((one) => [item.value, one.consumer]);
  }
  return { current: item.value ?? spot, later, passed, bad, flows, back };
}

/** Everything that depends on the deck: the slider, its coloured band, the list of steps. */
function prepare() {
  at("slider").max = deck.length - 1;
  const bands = [];
  for (const { kind } of deck) {
    const look = COLOURS[kind] || "wrong";
    if (bands.length && bands[bands.length - 1].look === look) bands[bands.length - 1].many += 1;
    else bands.push({ look, many: 1 });
  }
  at("phases").replaceChildren(...bands.map(({ look, many }) => {
    const band = make("span");
    band.style.flexGrow = many;
    band.style.background = `var(--${look})`;
    return band;
  }));
  at("list").replaceChildren(...deck.map((item, i) => {
    const button = make("button", { type: "button", "data-at": i }, make("span", { class: "n" }, String(i)), " ", textOf(item));
    button.addEventListener("click", () => move(i));
    return make("li", {}, button);
  }));
  show();
}

// -- searching

/** Layers and values whose words contain all that was typed. */
function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  return data.values.filter((value) => {
    const shape = isSplit(value.array) ? "" : shapeText(data.arrays[value.array].shape);
    const all = [value.label, value.operation, value.kind, shape, ...value.modules].join(" ").toLowerCase();
    return words.every((word) => all.includes(word));
  });
}

function showFound() {
  const found = search(at("search").value);
  graph.find(found && new Set(found.map((value) => value.id)));
  const list = at("found");
  list.hidden = found === null;
  at("search").setAttribute("aria-expanded", String(found !== null));
  if (found === null) return;
  list.replaceChildren(...found.slice(0, 40).map((value) => {
    const button = make("button", { type: "button", "data-found": value.id }, value.label, " ", make("small", {}, [value.operation || value.kind, ...value.modules.slice(-1)].join(" in ")));
    button.addEventListener("click", () => choose(value.id));
    return make("li", {}, button);
  }));
  if (!found.length) list.append(make("li", { class: "note" }, "nothing found"));
  at("announce").textContent = `${plural(found.length, "result")}`;
}

function choose(value) {
  at("search").value = "";
  showFound();
  jump(value);
  at("card").focus();
}

at("search").addEventListener("input", showFound);
at("search").addEventListener("keydown", (event) => {
  const first = at("found").querySelector("button");
  if (event.key === "Enter" && first) first.click();
  if (event.key === "ArrowDown" && first) { event.preventDefault(); first.focus(); }
  if (event.key === "Escape") { at("search").value = ""; showFound(); at("search").blur(); }
});
at("found").addEventListener("keydown", (event) => {
  const buttons = [...at("found").querySelectorAll("button")];
  const to = buttons.indexOf(document.activeElement) + { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (event.key === "Escape") { at("search").value = ""; showFound(); at("search").focus(); }
  if (Number.isNaN(to)) return;
  event.preventDefault();
  event.stopPropagation();
  (buttons[to] || at("search")).focus();
});

// -- buttons and keys

at("first").addEventListener("click", () => move(0));
at("back").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("last").addEventListener("click", () => move(deck.length - 1));
at("play").addEventListener("click", () => play(playing === null));
at("slider").addEventListener("input", () => move(Number(at("slider").value)));
at("wrong").addEventListener("click", () => change(deck === ASTRAY ? RIGHT : ASTRAY));
at("quiz").addEventListener("click", () => change(deck === QUIZ ? RIGHT : QUIZ));
at("wrong").hidden = false;
at("fold").addEventListener("click", () => graph.foldAll());
at("fold").hidden = !graph.svg || !Object.keys(data.layers).length;
at("larger").addEventListener("click", () => graph.resize(graph.scale * 1.25));
at("smaller").addEventListener("click", () => graph.resize(graph.scale / 1.25));
at("fit").addEventListener("click", () => graph.fit());
for (const id of ["larger", "smaller", "fit"]) at(id).hidden = !graph.svg;
window.addEventListener("resize", () => { graph.fit(); hintAll(); }); // a keyboard on the screen resizes: what is typed stays

at("theme").addEventListener("click", () => {
  const order = ["auto", "light", "dark"];
  const next = order[(order.indexOf(document.documentElement.dataset.theme || "auto") + 1) % 3];
  document.documentElement.dataset.theme = next;
  at("theme").textContent = `Theme: ${next}`;
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
  const pressed = event.target.closest("button, summary, [role=button]");
  const actions = {
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    Home: () => move(0),
    End: () => move(deck.length - 1),
    "/": () => at("search").focus(),
    " ": pressed ? null : () => play(playing === null),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});

/** The line below the heading. */
function summarize() {
  const operations = plural(data.forward.length, "operation");
  const given = plural(data.values.filter((value) => value.kind === "parameter").length, "parameter");
  const [loss] = numbersOf(edits.data.arrays[edits.data.values[data.loss].array]);
  at("summary").replaceChildren(`${operations}, ${given}; L = ${short(loss)}. `, make("span", { class: "keys" }, "Arrow keys step, / searches."));
}

summarize();
prepare();
