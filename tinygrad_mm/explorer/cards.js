// The card of a step: what happens, in words, in mathematics, in source, and in numbers.
"use strict";

const partial = (label) => `∂L/∂${label}`;
const isSplit = (stored) => Array.isArray(stored);
const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

/** The cards of one page; `page` has the data and `go(kind, value)`. */
class Cards {
  constructor(data, go) {
    this.data = data;
    this.values = data.values;
    this.go = go;
  }

  array(number, options) {
    const entry = this.data.arrays[number];
    entry.index = number;
    return arrayFigure(entry, options);
  }

  /** The figures of a stored value or gradient: one array, or one for each result of a call with several. */
  figures(stored, name, options = {}) {
    if (stored === null || stored === undefined) return [make("p", { class: "note" }, "nothing has arrived: zero")];
    if (!isSplit(stored)) return [this.array(stored, { name, ...options })];
    return stored.map((one, i) =>
      one === null ? make("p", { class: "note" }, `${name}[${i}]: not used, so zero`) : this.array(one, { name: `${name}[${i}]`, ...options }),
    );
  }

  link(text, kind, value) {
    const button = make("button", { class: "link", type: "button" }, text);
    button.addEventListener("click", () => this.go(kind, value));
    return button;
  }

  /** "layers.0.weight" as a link to where its gradient is complete, or to where it is computed. */
  valueLink(id, kind = "backward") {
    const value = this.values[id];
    return this.link(value.operation ? `${value.label} (${value.operation})` : value.label, kind, id);
  }

  kicker(phase, ...about) {
    return make("p", { class: "kicker" }, make("span", { class: "phase" }, phase), about);
  }

  place(value) {
    const parts = [];
    if (value.modules.length) parts.push(make("span", {}, `in ${value.modules.join(" › ")}`));
    if (value.line) parts.push(make("span", { class: "mono" }, value.line));
    if (value.code) parts.push(make("code", {}, value.code));
    return parts;
  }

  // -- before and after

  start(spot) {
    const { values, data } = this;
    const leaves = values.filter((value) => !value.operation);
    const groups = [["input", "Inputs"], ["parameter", "Parameters"], ["buffer", "Buffers"], ["constant", "Constants"], ["detached", "Detached"]];
    const box = (kind, title) => {
      const found = leaves.filter((value) => value.kind === kind || (kind === "input" && value.kind === "output"));
      if (!found.length) return null;
      const shown = found.map((value) => {
        const holder = make("div", { "data-leaf": value.id, class: value.id === spot ? "spot" : "" }, this.figures(value.array, value.label));
        if (value.grads) holder.append(this.link(`its gradient`, "backward", value.id));
        return holder;
      });
      return make("section", { class: "box" }, make("h3", {}, title), make("div", { class: "numbers given" }, shown));
    };
    return [
      this.kicker("START", make("span", {}, `${plural(data.forward.length, "operation")} forward, ${plural(data.steps.length, "step")} backward`)),
      make("h2", {}, "What is given"),
      make("p", { class: "lead" },
        "Forward, each operation computes one array from others, until one number is left: the loss L. Backward, the same " +
        "operations are visited in the opposite order. Each one is handed ∂L/∂(its output): how much L changes for a small " +
        "change of every number in that array. Its own rule turns this into a contribution for each of its inputs. Where an " +
        "array was used more than once, its contributions add up. That is all of backpropagation."),
      ...data.notes.map((note) => make("p", { class: "problem" }, note)),
      make("div", { class: "panel-row" }, groups.map(([kind, title]) => box(kind, title))),
    ];
  }

  end() {
    const rows = this.values
      .filter((value) => !value.operation && value.grads)
      .map((value) => {
        const entry = this.data.arrays[value.gradient];
        return make("tr", { "data-result": value.id },
          make("td", {}, this.link(partial(value.label), "backward", value.id)),
          make("td", {}, shapeText(entry.shape)),
          make("td", { "data-norm": entry.norm }, short(entry.norm)),
          make("td", {}, String(this.data.steps[value.step].ledger.length)),
          make("td", {}, this.verdict(value.id)));
      });
    const head = ["gradient", "shape", "norm", "paths", "finite difference"].map((text) => make("th", { scope: "col" }, text));
    return [
      this.kicker("END"),
      make("h2", {}, "Every leaf has its gradient"),
      make("p", { class: "lead" }, "This is what backward() leaves in .grad. A step of gradient descent subtracts a small multiple of it."),
      make("section", { class: "box scroll" }, make("table", { class: "list" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows))),
    ];
  }

  // -- forward

  forward(id) {
    const value = this.values[id];
    const literals = value.arguments.filter((one) => one.value === null);
    return [
      this.kicker("FORWARD", ...this.place(value)),
      make("h2", {}, value.operation, " ", make("code", {}, `${value.label} = ${value.expression}`)),
      make("p", { class: "lead shapes" }, this.shapeLine(value)),
      make("section", { class: "box" },
        make("h3", {}, "With the numbers"),
        make("div", { class: "numbers" }, this.equation(value)),
        literals.length ? make("p", { class: "note" }, `told: ${literals.map((one) => one.text).join(", ")}`) : null),
      value.requires ? make("p", { class: "note" }, "On the way back: ", this.link(`the gradient of ${value.label}`, "backward", id))
        : make("p", { class: "note" }, "No gradient comes back through this value."),
    ];
  }

  /** The arrays of a call: its inputs, an arrow, its output; of a leaf the array alone. */
  equation(value) {
    const signs = { matmul: "@", add: "+", subtract: "−", multiply: "·", divide: "/" };
    const pieces = [];
    for (const one of value.arguments.filter((argument) => argument.value !== null)) {
      if (pieces.length) pieces.push(sign(signs[value.operation] || ","));
      pieces.push(...this.figures(this.values[one.value].array, one.text, { role: "argument" }));
    }
    const output = this.figures(value.array, value.label, { role: "output" });
    return value.operation ? [...pieces, leads(output)] : output;
  }

  shapeLine(value) {
    const shapes = value.arguments.filter((one) => one.value !== null).map((one) => this.shapeOf(one.value));
    return `${shapes.join(value.operation === "matmul" ? " @ " : ", ")} → ${this.shapeOf(value.id)}`;
  }

  shapeOf(id) {
    const stored = this.values[id].array;
    return isSplit(stored) ? `(${stored.map((one) => shapeText(this.data.arrays[one].shape)).join(", ")})` : shapeText(this.data.arrays[stored].shape);
  }

  // -- backward

  backward(id) {
    const value = this.values[id];
    const step = this.data.steps[value.step];
    const leaf = !value.operation;
    const title = leaf ? `${partial(value.label)} is complete` : `Back through ${value.operation}`;
    return [
      this.kicker("BACKWARD", ...this.place(value)),
      make("h2", {}, title, leaf ? null : make("code", {}, ` ${value.label} = ${value.expression}`)),
      leaf ? make("p", { class: "lead" }, `${value.label} was given, not computed: its gradient stops here, and backward() leaves it in .grad.`) : null,
      this.arriving(value, step),
      step.sent.length ? make("div", { class: "panel-row" }, step.sent.map((entry) => this.contribution(value, step, entry))) : null,
      step.stopped.length
        ? make("p", { class: "note" }, "Nothing is sent to ", step.stopped.map(([argument, reason]) => `${value.arguments[argument].text} (${reason})`).join(", "), ".")
        : null,
    ];
  }

  /** The gradient that has arrived, what it is the sum of, and its numeric check. */
  arriving(value, step) {
    const [first] = step.ledger;
    const origin = step.ledger.length > 1
      ? [make("h4", {}, "It is a sum"), this.ledger(value, step.ledger.length - 1)]
      : make("p", { class: "note" }, ...(first.consumer === null
        ? ["Here the way back begins: a change of L changes L by just as much, so ∂L/∂L = 1."]
        : ["One path leads here: from ", this.valueLink(first.consumer), "."]));
    return make("div", { class: "panel-row" },
      make("section", { class: "box", "data-part": "incoming" },
        make("h3", {}, make("span", {}, make("span", { class: "maths" }, partial(value.label)), value.operation ? " arrives" : ""), this.verdict(value.id)),
        make("div", { class: "numbers" }, this.figures(step.gradient, partial(value.label), { role: "gradient" })),
        origin, this.comparison(value.id)),
      make("section", { class: "box", "data-part": "forward" },
        make("h3", {}, value.operation ? "Forward, this was" : "The value itself"),
        make("div", { class: "numbers" }, this.equation(value))));
  }

  contribution(value, step, number) {
    const entry = this.data.entries[number];
    const target = this.values[entry.target];
    const name = value.arguments[entry.argument].name;
    const place = this.data.steps[target.step].ledger.findIndex((one) => one.entry === number);
    const sum = make("div", { class: "sum" });
    const box = make("section", { class: "box", "data-target": target.id, "data-argument": entry.argument },
      make("h3", {}, make("span", {}, "to ", this.valueLink(target.id)), name ? make("span", { class: "note" }, `argument ${name}`) : null),
      entry.formula ? make("h4", {}, "The local rule") : null,
      entry.formula ? make("p", { class: "maths" }, entry.formula) : null,
      entry.where.length ? make("p", { class: "maths" }, "where ", entry.where.map((line, i) => [i ? make("br") : null, line])) : null,
      entry.source ? make("code", { class: "source" }, entry.source) : null,
      entry.shapes ? make("h4", {}, "Shapes") : null,
      entry.shapes ? make("p", { class: "shapes" }, entry.shapes) : null,
      make("h4", {}, "With the numbers"),
      entry.numbers ? make("p", { class: "shapes" }, entry.numbers) : null,
      this.product(value, step, entry, target, sum));
    if (entry.summed.length) box.append(make("p", { class: "note" }, `Broadcasting had repeated ${target.label} along ${plural(entry.summed.length, "axis", "axes")} (${entry.summed.join(", ")}): each number of it was used several times, so its contributions are summed.`));
    if (entry.cast) box.append(make("p", { class: "note" }, `Cast from ${entry.cast} to ${target.dtype}.`));
    if (entry.rates !== null) {
      sum.append(make("p", { class: "note" }, "Point at a number of the result to see what it is the sum of."));
      box.append(sum);
    }
    if (isMatrixProduct(this, value)) box.append(this.reason(value, entry));
    box.append(make("h4", {}, "The ledger of ", make("span", { class: "name" }, partial(target.label))), this.ledger(target, place));
    return box;
  }

  /** The arrays of a contribution: for a matrix product as the product that it is, else side by side. */
  product(value, step, entry, target, sum) {
    const marks = [];
    const mark = (position) => this.mark(value, step, entry, target, position, sum, marks);
    const mine = partial(value.label);
    const g = () => this.figures(step.gradient, mine, { role: "g" });
    const result = (summed) => {
      const parts = [];
      if (!isSplit(entry.before) && entry.summed.length) parts.push(leads(this.figures(entry.before, "before the sum")));
      parts.push(leads(this.figures(entry.array, summed, { role: "contribution", mark: entry.rates === null ? undefined : mark })));
      return parts;
    };
    const pieces = [];
    if (isMatrixProduct(this, value)) {
      const other = value.arguments[1 - entry.argument];
      const turned = this.turned(this.values[other.value].array, `${other.text}ᵀ`);
      pieces.push(...(entry.argument === 1 ? [turned, sign("·"), ...g()] : [...g(), sign("·"), turned]));
    } else {
      for (const { text, array } of entry.operands) { // what the rule computes with, and nothing else
        if (pieces.length) pieces.push(sign(","));
        pieces.push(...this.figures(array, text, { role: text === mine ? "g" : "operand" }));
      }
    }
    pieces.push(...result(this.data.steps[target.step].ledger.length > 1 ? `path to ${partial(target.label)}` : partial(target.label)));
    return make("div", { class: "numbers" }, pieces);
  }

  /** The figure of a transposed matrix. */
  turned(number, name) {
    const entry = this.data.arrays[number];
    if (!entry.turned) {
      const [rows, columns] = entry.grid;
      const numbers = numbersOf(entry);
      const other = new numbers.constructor(numbers.length);
      for (let i = 0; i < rows; i += 1) for (let j = 0; j < columns; j += 1) other[j * rows + i] = numbers[i * columns + j];
      const flip = (list) => [...list].reverse();
      entry.turned = { ...entry, numbers: other, grid: flip(entry.grid), every: flip(entry.every), shape: flip(entry.shape), index: number };
    }
    return arrayFigure(entry.turned, { name, role: "turned" });
  }

  /** Why the rule of a matrix product is what it is. */
  reason(value, entry) {
    const [a, b] = value.arguments.map((one) => one.text);
    const here = make("p", { class: "note" }, `Here a is ${a}, b is ${b}, and y is ${value.label}.`);
    const told = entry.argument === 1
      ? [make("p", {}, "Why the transpose? In y = a @ b the number b[i, j] meets every row n of a:"),
        make("p", { class: "maths" }, "y[n, j] = … + a[n, i] · b[i, j] + …"),
        make("p", {}, "A change of it moves each y[n, j] at the rate a[n, i]. So its gradient is a sum over all rows,"),
        make("p", { class: "maths" }, "∂L/∂b[i, j] = Σₙ a[n, i] · ∂L/∂y[n, j],"),
        make("p", {}, "and that is row i of aᵀ times column j of ∂L/∂y.")]
      : [make("p", {}, "Why the transpose? In y = a @ b the number a[n, i] meets every column j of b:"),
        make("p", { class: "maths" }, "y[n, j] = … + a[n, i] · b[i, j] + …"),
        make("p", {}, "A change of it moves each y[n, j] at the rate b[i, j]. So its gradient is a sum over all columns,"),
        make("p", { class: "maths" }, "∂L/∂a[n, i] = Σⱼ ∂L/∂y[n, j] · b[i, j],"),
        make("p", {}, "and that is row n of ∂L/∂y times column i of bᵀ.")];
    return make("div", { class: "why" }, told, here);
  }

  /** Mark the outputs that one number of an argument moves, and write out the sum that its gradient is. */
  mark(value, step, entry, target, position, sum, marks) {
    for (const cell of marks.splice(0)) cell.classList.remove("marked");
    if (position === null) return; // what was written stays: nothing jumps where the pointer leaves
    const rates = this.data.arrays[entry.rates];
    const outputs = rates.shape[1];
    const row = Array.from(numbersOf(rates).subarray(position * outputs, (position + 1) * outputs));
    const box = sum.closest(".box");
    const light = (role, j) => {
      for (const cell of box.querySelectorAll(`[data-role="${role}"] td[data-at="${j}"]`)) {
        cell.classList.add("marked");
        marks.push(cell);
      }
    };
    light("contribution", position);
    let met = row.map((rate, j) => j).filter((j) => row[j] !== 0); // the outputs that this number moves
    if (isMatrixProduct(this, value)) {
      const [, width] = this.data.arrays[target.array].shape;
      const [height, breadth] = this.data.arrays[value.array].shape;
      const [i, j] = [Math.floor(position / width), position % width];
      if (entry.argument === 1) met = Array.from({ length: height }, (_, n) => n * breadth + j);
      else met = Array.from({ length: breadth }, (_, m) => i * breadth + m);
      met.forEach((_, n) => light("turned", entry.argument === 1 ? i * height + n : n * width + j));
    }
    for (const j of met) light("g", j);
    const g = this.data.arrays[step.gradient];
    const numbers = numbersOf(g);
    const [most, more] = [8, met.length > 8 ? " + …" : ""];
    const places = met.slice(0, most).map((j) => `${value.label}${indexText(g, j)}`).join(", ");
    const { places: told } = entry;
    const terms = met.slice(0, most).map((j) => `${bracket(row[j])} · ${bracket(numbers[j])}`).join(" + ");
    const here = `${target.label}${indexText(this.data.arrays[entry.array], position)}`;
    const total = short(numbersOf(this.data.arrays[entry.array])[position]);
    if (told.length) {
      sum.replaceChildren(make("p", {}, `${here} takes ${places}; by the rule:`), make("p", { class: "terms" }, told[position]));
      return;
    }
    sum.replaceChildren(
      make("p", {}, met.length ? `${here} moves ${places}${more ? ` and ${met.length - most} more` : ""}; rate times gradient, added up:` : `${here} moves no output here, so it gets`),
      make("p", { class: "terms" }, met.length ? `${terms}${more} = ${total}` : total));
  }

  // -- ledgers and checks

  /** What a gradient is the sum of: the entries so far, the one of `now` marked, those still to come. */
  ledger(value, now) {
    const { ledger } = this.data.steps[value.step];
    const list = make("ol", { class: "ledger", "data-ledger": value.id });
    const whole = make("span", { class: "from" }, "the whole ", make("span", { class: "name" }, partial(value.label)));
    if (ledger.length === 1) {
      list.append(make("li", {}, sign("="), make("span", { class: "from" }, whole, ": there is one path only"), this.verdict(value.id)));
      return list;
    }
    ledger.forEach((one, i) => {
      const entry = this.data.entries[one.entry];
      const come = i <= now;
      const row = make("li", { class: i === now ? "now" : come ? "" : "later" }, sign(i ? "+" : "="),
        make("span", { class: "from" }, `path ${i + 1}, from `, one.consumer === null ? "the start" : this.valueLink(one.consumer)));
      if (!come) row.append(make("span", { class: "note" }, "still to come"));
      else if (!isSplit(entry.array)) row.append(this.brief(entry.array));
      if (come && i && !isSplit(one.sum)) row.append(make("span", { class: "note" }, "sum so far"), this.brief(one.sum));
      list.append(row);
    });
    const complete = now === ledger.length - 1;
    const last = complete ? [sign("="), whole, this.verdict(value.id)] : [sign("…"), make("span", { class: "from note" }, `${now + 1} of ${ledger.length} paths so far`)];
    list.append(make("li", { class: complete ? "total" : "later" }, last));
    return list;
  }

  /** A small array in full, a larger one by its norm. */
  brief(number) {
    const entry = this.data.arrays[number];
    if (entry.size <= 12 && entry.shape.length <= 2) return this.array(number, { role: "brief" });
    return make("span", { class: "shapes", "data-norm": entry.norm }, `norm ${short(entry.norm)}`);
  }

  verdict(id) {
    const check = this.values[id].check;
    if (!check) return make("span", { class: "verdict unchecked" }, "– not checked");
    const error = Number(check.error);
    const texts = {
      agrees: ["agrees", `✓ finite difference agrees${error > 0 ? `, error ${short(error)}` : ""}`],
      kink: ["near", "≈ a kink: between the slopes on both sides"],
      rounding: ["near", "≈ agrees in float64: rounding hides this number"],
      differs: ["differs", `✗ finite difference differs, error ${short(error)}`],
      "not checked": ["unchecked", "– not checked"],
    };
    const [look, text] = texts[check.status];
    return make("span", { class: `verdict ${look}`, "data-check": check.status, title: check.reason || false }, text);
  }

  /** The check, number by number. */
  comparison(id) {
    const check = this.values[id].check;
    if (!check || !check.places.length) return check && check.reason ? make("p", { class: "note" }, `Not checked numerically: ${check.reason}.`) : "";
    const rows = check.places.map((place, i) => {
      const [engine, numeric] = [Number(check.engine[i]), Number(check.numeric[i])];
      const size = Math.max(...check.engine.map((x) => Math.abs(Number(x))), ...check.numeric.map((x) => Math.abs(Number(x))));
      const error = size > 0 ? Math.abs(engine - numeric) / size : 0;
      const good = check.status !== "differs" || error <= check.tolerance; // else it was within the rounding of the loss
      const [look, mark] = check.status === "rounding" ? ["near", "≈ rounding"] : check.kinks[i] ? ["near", "≈ kink"] : good ? ["agrees", "✓"] : ["differs", "✗"];
      return make("tr", {},
        make("td", {}, place.length ? `[${place.join(", ")}]` : "the number"),
        make("td", { "data-engine": String(engine) }, short(engine)),
        make("td", {}, check.kinks[i] ? `${short(Number(check.left[i]))} to ${short(Number(check.right[i]))}` : short(numeric)),
        make("td", {}, make("span", { class: `verdict ${look}` }, `${mark} ${error.toExponential(0).replace("-", "−")}`)));
    });
    const head = ["element", "backpropagation", "finite difference", "error"].map((text) => make("th", { scope: "col" }, text));
    return make("details", { class: "comparison" },
      make("summary", { class: "note" }, check.sampled ? `Compare ${rows.length} of its numbers with finite differences` : "Compare each number with finite differences"),
      make("div", { class: "scroll" }, make("table", { class: "list" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows))));
  }

  /** What stands in place of the steps inside a folded layer. */
  foldedLayer(title, items, unfold) {
    const links = items.map((item) => make("li", {}, this.link(item.text, item.kind, item.value)));
    const button = make("button", { type: "button" }, "Unfold");
    button.addEventListener("click", unfold);
    return make("section", { class: "box folded" }, make("h3", {}, make("span", {}, `${title} is folded: ${plural(items.length, "step")} at once`), button), make("ul", {}, links));
  }
}

/** A number as a factor: negative ones in brackets. */
const bracket = (value) => (value < 0 ? `(${short(value)})` : short(value));

const sign = (text) => make("span", { class: "sign" }, text);

/** An arrow and what it leads to, which stay together where the line breaks. */
const leads = (figures) => make("div", { class: "leads" }, sign("→"), figures);

/** Whether a value is the product of two matrices, all small enough to be shown whole. */
function isMatrixProduct(cards, value) {
  if (value.operation !== "matmul") return false;
  const numbers = [value.array, ...value.arguments.filter((one) => one.value !== null).map((one) => cards.values[one.value].array)];
  return numbers.length === 3 && numbers.every((number) => cards.data.arrays[number].shape.length === 2);
}
