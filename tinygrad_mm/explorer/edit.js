// Changing a number that was given: the page computes the graph again, forward and backward.
"use strict";

const MOST_DIFFERENCES = 12; // elements of a gradient that are checked after an edit
const MOST_CHECK_WORK = 60e6; // multiplications for the checks after one edit
const CLOSE = 1e-3; // recorded single precision beside double precision

class Edits {
  constructor(data) {
    this.recorded = data;
    this.data = data;
    this.changes = new Map(); // "id/position" -> {value, position, from, to}
    this.engine = new Computation(data.program, data.values, data.loss, (id) => this.arrayOf(data, data.values[id].array));
    this.leaves = data.values.filter((value) => !value.operation && this.entry(value).dtype.startsWith("float") && value.id !== data.loss);
    this.checked = null;
    this.last = [this.leaves.length ? this.leaves[0].id : null, 0]; // the number that was changed last
  }

  entry(value) {
    return this.recorded.arrays[value.array];
  }

  arrayOf(data, number) {
    const entry = data.arrays[number];
    return { shape: entry.shape, numbers: Float64Array.from(numbersOf(entry)) };
  }

  /** Why this page cannot be edited ("" where it can): found out once, by computing what was recorded. */
  get problem() {
    if (this.checked === null) this.checked = this.tried();
    return this.checked;
  }

  tried() {
    const { program, values, arrays } = this.recorded;
    if (program.problem) return program.problem;
    if (!this.leaves.length) return "nothing that was given is a floating number";
    const cut = values.find((value) => [value.array].flat().some((one) => arrays[one].every.some((step) => step > 1)));
    if (cut) return `only a sample of the numbers of ${cut.label} is on this page`;
    const found = this.engine.forward(new Map());
    const { gradients } = this.engine.backward(found);
    for (const value of values) {
      const isWrong = (part, number) => number !== null && (!part || isFar(part, numbersOf(arrays[number])));
      const areWrong = (part, stored) => (isSplit(stored) ? stored.some((one, i) => isWrong(part && part[i], one)) : isWrong(part, stored));
      if (areWrong(found[value.id], value.array)) return `its own ${value.operation} (${value.label}) is not the recorded one`;
      const rounded = value.check && value.check.status === "rounding";
      if (value.step !== null && !rounded && areWrong(gradients.get(value.id), value.gradient)) {
        return `its own gradient of ${value.label} is not the recorded one`;
      }
    }
    return "";
  }

  /** Change one number; the page's data are then those of the changed computation. */
  change(value, position, to) {
    const key = `${value.id}/${position}`;
    const from = this.changes.has(key) ? this.changes.get(key).from : numbersOf(this.entry(value))[position];
    if (from === to) this.changes.delete(key);
    else this.changes.set(key, { value, position, from, to });
    this.last = [value.id, position];
    this.data = this.changes.size ? this.computed() : this.recorded;
  }

  undo() {
    this.changes.clear();
    this.data = this.recorded;
  }

  changedLeaves() {
    const leaves = new Map();
    for (const { value, position, to } of this.changes.values()) {
      if (!leaves.has(value.id)) leaves.set(value.id, this.arrayOf(this.recorded, value.array));
      leaves.get(value.id).numbers[position] = to;
    }
    return leaves;
  }

  computed() {
    const { recorded, engine } = this;
    const leaves = this.changedLeaves();
    const found = engine.forward(leaves);
    const { gradients, sent } = engine.backward(found);
    const arrays = [...recorded.arrays];
    const add = (array, was) => {
      if (array === null) return null;
      if (Array.isArray(array)) return array.map((one, i) => add(one, isSplit(was) ? was[i] : null));
      arrays.push(freshEntry(array, was === null ? null : recorded.arrays[was]));
      return arrays.length - 1;
    };
    const values = recorded.values.map((value) => ({
      ...value,
      array: add(found[value.id], value.array),
      gradient: gradients.has(value.id) ? add(gradients.get(value.id), value.gradient) : value.gradient,
    }));
    const texts = new Map(values.flatMap((value) => [[value.label, value.array], [partial(value.label), value.gradient]]));
    const calls = new Map(recorded.program.calls.map((call) => [call.value, call]));
    const entries = recorded.entries.map((entry) => {
      if (entry.consumer === null) return entry;
      const part = sent.get(`${entry.consumer}/${entry.argument}`);
      return {
        ...entry,
        before: add(part.before, entry.before),
        array: add(part.array, entry.array),
        numbers: null,
        places: [],
        operands: entry.operands.filter((one) => texts.has(one.text)).map((one) => ({ ...one, array: texts.get(one.text) })),
        rates: entry.rates === null ? null : add(this.rates(calls.get(entry.consumer), entry.argument, found), null),
      };
    });
    const steps = recorded.steps.map((step) => {
      let total = null;
      const ledger = step.ledger.map((one) => {
        if (isSplit(entries[one.entry].array)) return { ...one, sum: entries[one.entry].array };
        const part = this.arrayOf({ arrays }, entries[one.entry].array);
        total = total ? sumOf(total, part) : part;
        return { ...one, sum: add(total, one.sum) };
      });
      return { ...step, gradient: values[step.value].gradient, ledger };
    });
    this.check(values, leaves, found, gradients);
    return { ...recorded, arrays, values, entries, steps };
  }

  /** How much each element of a result changes for each of an argument: the rule, run for one element at a time. */
  rates(call, position, found) {
    const y = found[call.value];
    const rows = [];
    for (let j = 0; j < y.numbers.length; j += 1) {
      const one = zeros(y.shape);
      one.numbers[j] = 1;
      rows.push(this.engine.sent(call, found, one, position).array.numbers);
    }
    const size = rows.length ? rows[0].length : 0;
    const numbers = Float64Array.from({ length: size * rows.length }, (_, i) => rows[i % rows.length][Math.floor(i / rows.length)]);
    return { shape: [size, rows.length], numbers };
  }

  /** Each new gradient beside finite differences of the new loss, as far as a bound on the work allows. */
  check(values, leaves, found, gradients) {
    let left = MOST_CHECK_WORK;
    const pass = 2000 * this.recorded.program.calls.length + this.recorded.program.calls.reduce((sum, call) => sum + call.work, 0);
    for (const value of [...values].sort((a, b) => Boolean(a.operation) - Boolean(b.operation))) {  // what was given first
      const gradient = gradients.get(value.id);
      if (!gradient || Array.isArray(gradient)) continue;
      const count = Math.min(MOST_DIFFERENCES, gradient.numbers.length);
      left -= 2 * count * pass;
      if (left < 0) {
        value.check = { status: "not checked", reason: "beyond the bound on the work", places: [], error: 0 };
        continue;
      }
      const at = Array.from({ length: count }, (_, i) => Math.floor((i * gradient.numbers.length) / count));
      const base = leaves.get(value.id) || found[value.id];
      const slope = (position) => {
        const h = 6e-6 * Math.max(1, Math.abs(base.numbers[position]));
        const side = (sign) => {
          const moved = { shape: base.shape, numbers: Float64Array.from(base.numbers) };
          moved.numbers[position] += sign * h;
          return [this.engine.lossOf(new Map(leaves).set(value.id, moved)), moved.numbers[position]];
        };
        const [[above, right], [below, before]] = [side(1), side(-1)];
        return (above - below) / (right - before);
      };
      const engine = at.map((position) => gradient.numbers[position]);
      const numeric = at.map(slope);
      const size = Math.max(...engine.map(Math.abs), ...numeric.map(Math.abs));
      const error = size > 0 ? Math.max(...engine.map((x, i) => Math.abs(x - numeric[i]))) / size : 0;
      const entry = { grid: gradient.shape, every: gradient.shape.map(() => 1) };
      value.check = {
        status: error <= 1e-4 || size < 1e-9 ? "agrees" : "differs", reason: "", error, tolerance: 1e-4, engine, numeric,
        places: at.map((position) => indexAt(entry, position)), left: numeric, right: numeric,
        kinks: at.map(() => false), sampled: count < gradient.numbers.length,
      };
    }
  }

  /** What a reader is told: which numbers were changed, and what became of the loss. */
  text() {
    const one = ({ value, position, from, to }) => `${value.label}${indexText(this.entry(value), position)} from ${short(from)} to ${short(to)}`;
    const all = [...this.changes.values()].map(one);
    const loss = (data) => short(numbersOf(data.arrays[data.values[data.loss].array])[0]);
    return `Changed: ${all.slice(-4).join(", ")}${all.length > 4 ? ` and ${all.length - 4} more` : ""}. L was ${loss(this.recorded)} and is ${loss(this.data)}.`;
  }
}

function isFar(array, recorded) {
  if (array.numbers.length !== recorded.length) return true;
  let [far, most] = [0, 0];
  for (let i = 0; i < recorded.length; i += 1) {
    if (Number.isNaN(recorded[i]) && Number.isNaN(array.numbers[i])) continue;
    if (recorded[i] === array.numbers[i]) continue;
    const difference = Math.abs(recorded[i] - array.numbers[i]);
    far = Math.max(far, Number.isNaN(difference) ? Infinity : difference);
    most = Math.max(most, Math.abs(recorded[i]));
  }
  return far > CLOSE * most + 1e-6;
}

/** An entry of the array store for numbers that the page computed; `was` is the recorded one. */
function freshEntry({ shape, numbers }, was) {
  const finite = numbers.filter(Number.isFinite);
  const sum = finite.reduce((total, value) => total + value, 0);
  return {
    shape, grid: shape, every: shape.map(() => 1), type: "f8", dtype: was ? was.dtype : "float64", numbers, size: numbers.length, was,
    least: finite.length ? Math.min(...finite) : 0, most: finite.length ? Math.max(...finite) : 0,
    mean: finite.length ? sum / finite.length : 0, norm: Math.sqrt(finite.reduce((total, value) => total + value * value, 0)),
    odd: numbers.length - finite.length, image: was ? was.image : null,
  };
}

/** The form on the first card; `applied()` is called after a change. */
function editForm(edits, applied) {
  const box = (...inside) => make("section", { class: "box", "data-part": "edit" }, make("h3", {}, "Change a number"), ...inside);
  if (edits.problem) return box(make("p", { class: "note" }, `This page cannot compute its graph again: ${edits.problem}.`));
  const select = make("select", { id: "editLeaf", "aria-label": "array" }, edits.leaves.map((value) => make("option", { value: value.id }, value.label)));
  const index = make("input", { id: "editIndex", "aria-label": "index", size: 8, autocomplete: "off", placeholder: "0, 0" });
  const number = make("input", { id: "editNumber", "aria-label": "new value", size: 9, inputmode: "decimal", autocomplete: "off" });
  const said = make("p", { class: "note", role: "status" }, "Point at a number below, or write its place; then everything is computed again, here in the page.");
  const leaf = () => edits.recorded.values[Number(select.value)];
  const entry = () => edits.entry(leaf());
  const position = () => {
    const parts = index.value.split(/[\s,]+/).filter(Boolean).map(Number);
    const { shape } = entry();
    if (parts.length !== shape.length || !parts.every((n, axis) => Number.isInteger(n) && n >= 0 && n < shape[axis])) return null;
    return parts.reduce((at, n, axis) => at * shape[axis] + n, 0);
  };
  const fill = (at) => {
    index.value = entry().shape.length ? indexAt(entry(), at).join(", ") : "";
    place.hidden = !entry().shape.length;
    number.value = full(numbersOf(edits.data.arrays[edits.data.values[leaf().id].array])[at], "f4").replace("−", "-");
  };
  const place = make("span", { class: "index" }, "[", index, "]");
  const form = make("form", { id: "edit", class: "edit" }, select, place, "=", number, make("button", { type: "submit" }, "Change"));
  select.addEventListener("change", () => fill(0));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const [at, to] = [position(), Number(number.value.replace("−", "-"))];
    if (at === null) said.textContent = `${leaf().label} has the shape ${shapeText(entry().shape)}; its places begin at 0.`;
    else if (!number.value.trim() || !Number.isFinite(to)) said.textContent = "The new value must be a number.";
    else {
      edits.change(leaf(), at, to);
      applied();
    }
  });
  const section = box(form, said);
  section.choose = (id, at) => {
    if (!edits.leaves.some((value) => value.id === id)) return;
    select.value = String(id);
    fill(at);
    if (matchMedia("(hover: hover)").matches) number.select();
  };
  select.value = String(edits.last[0]);
  fill(edits.last[1]);
  return section;
}
