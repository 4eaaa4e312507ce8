// The quiz: which number comes here? What likely mistakes give lies in the page, and names them.
"use strict";

class Quiz {
  constructor(data, cards) {
    Object.assign(this, { data, cards });
    this.asked = data.steps.map((step) => step.value).filter((value) => data.quiz[value]);
    this.answers = new Map(); // value -> Map(position -> whether right at the first attempt)
    this.right = 0;
    this.tries = 0;
  }

  score() {
    return this.tries ? `${this.right} of ${plural(this.tries, "answer")} right` : "no answer yet";
  }

  /** The first card of the quiz. */
  start() {
    return [
      this.cards.kicker("QUIZ", make("span", {}, `${plural(this.asked.length, "gradient")}`)),
      make("h2", {}, "Which number comes here?"),
      make("p", { class: "lead" }, this.asked.length
        ? "Each card shows a rule, its operands, and a gradient without its numbers. Choose a place, work its number out, " +
          "and write it down, three digits are enough. Where a wrong answer is what a likely mistake gives, the mistake is named."
        : "All gradients here are too large to be worked out by hand: a quiz asks for at most 80 numbers of one array."),
      make("p", { class: "note" }, this.score()),
    ];
  }

  /** The card that asks for a gradient. */
  card(id) {
    const { cards, data } = this;
    const value = data.values[id];
    const step = data.steps[value.step];
    const known = this.answers.get(id) || this.answers.set(id, new Map()).get(id);
    const said = make("div", { class: "answer", role: "status" });
    const holder = make("div", { class: "panels" });
    let chosen = null;
    const field = make("input", { id: "answer", inputmode: "decimal", autocomplete: "off", size: 10, "aria-label": "your answer" });
    const label = make("label", { for: "answer", class: "maths" });
    const entry = data.arrays[step.gradient];
    const form = make("form", { class: "edit", id: "question" }, label, field, make("button", { type: "submit" }, "Check"),
      make("button", { type: "button", id: "reveal" }, "Show it"));
    const choose = (position) => {
      chosen = position;
      label.textContent = `${partial(value.label)}${indexText(entry, position)} =`;
      for (const cell of holder.querySelectorAll("button")) cell.setAttribute("aria-pressed", String(Number(cell.dataset.at) === position));
      field.value = "";
    };
    const draw = () => {
      holder.replaceChildren(...this.grid(entry, known, (position) => { choose(position); field.focus(); }));
      choose(chosen ?? 0);
    };
    const reveal = (position, right) => {
      known.set(position, right);
      const open = Array.from({ length: entry.size }, (_, i) => i).find((i) => !known.has(i));
      chosen = open ?? position;
      draw();
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const answer = Number(field.value.replace("−", "-").replace(",", "."));
      if (!field.value.trim() || Number.isNaN(answer)) {
        said.replaceChildren(make("p", { class: "note" }, "Write a number."));
        return;
      }
      const verdict = this.judge(id, chosen, answer, field.value);
      if (!known.has(chosen)) {
        this.tries += 1;
        this.right += Number(verdict.right);
      }
      said.replaceChildren(make("p", { class: verdict.right ? "good" : "problem", "data-verdict": verdict.right ? "right" : "wrong" }, verdict.text), make("p", { class: "note" }, this.score()));
      if (verdict.right) reveal(chosen, true);
    });
    form.querySelector("#reveal").addEventListener("click", () => {
      const at = `${partial(value.label)}${indexText(entry, chosen)}`;
      said.replaceChildren(make("p", { class: "note" }, `${at} = ${short(numbersOf(entry)[chosen])}`));
      reveal(chosen, false);
    });
    draw();
    return [
      cards.kicker("QUIZ", ...cards.place(value)),
      make("h2", {}, "Which number comes here?"),
      make("div", { class: "panel-row" },
        make("section", { class: "box", "data-part": "question" },
          make("h3", {}, make("span", { class: "maths" }, partial(value.label)), make("span", { class: "shape" }, shapeText(entry.shape))),
          holder, form, said),
        ...step.ledger.map((one, i) => this.rule(value, data.entries[one.entry], i, step.ledger.length))),
    ];
  }

  /** The gradient with a question mark in each place that is not known yet. */
  grid(entry, known, choose) {
    const columns = entry.grid.length ? entry.grid[entry.grid.length - 1] : 1;
    const numbers = numbersOf(entry);
    const rows = [];
    for (let start = 0; start < numbers.length; start += columns) {
      const cells = Array.from({ length: Math.min(columns, numbers.length - start) }, (_, j) => {
        const at = start + j;
        const open = !known.has(at);
        const button = make("button", { type: "button", "data-at": at, "aria-label": `${indexText(entry, at)} ${open ? "not known" : ""}`, class: open ? "open" : known.get(at) ? "good" : "shown" }, open ? "?" : short(numbers[at]));
        button.addEventListener("click", () => choose(at));
        return make("td", {}, button);
      });
      rows.push(make("tr", {}, cells));
    }
    return [make("table", { class: "matrix" }, make("tbody", {}, rows))];
  }

  /** One path: the rule in mathematics and what it computes with, but not its result. */
  rule(value, entry, i, paths) {
    const { cards, data } = this;
    const from = entry.consumer === null ? null : data.values[entry.consumer];
    const shown = entry.operands.map((one) => cards.array(one.array, { name: one.text }));
    return make("section", { class: "box" },
      make("h3", {}, make("span", {}, paths > 1 ? `path ${i + 1} of ${paths}` : "the one path", from ? `, back through ${from.operation}` : ", the start")),
      from ? make("p", { class: "note" }, `${from.label} = ${from.expression}`) : null,
      make("p", { class: "maths" }, entry.formula),
      entry.where.length ? make("p", { class: "maths" }, "where ", entry.where.map((line, k) => [k ? make("br") : null, line])) : null,
      entry.shapes ? make("p", { class: "shapes" }, entry.shapes) : null,
      make("div", { class: "numbers" }, shown));
  }

  /** Whether an answer is right, or which mistake gives it; an answer is as exact as it was written. */
  judge(id, position, answer, text) {
    const { data } = this;
    const entry = data.arrays[data.steps[data.values[id].step].gradient];
    const right = numbersOf(entry)[position];
    const near = (number) => Math.abs(number - answer) <= Math.max(0.006 * Math.abs(number), 1e-9) || rounded(number, text) === answer;
    if (near(right)) return { right: true, text: `✓ Right: ${short(right)}.` };
    const index = indexAt(entry, position);
    for (const { name, array } of data.quiz[id]) {
      const wrong = data.arrays[array];
      const at = wrong.shape.length === index.length && index.every((n, axis) => n < wrong.shape[axis])
        ? index.reduce((place, n, axis) => place * wrong.shape[axis] + n, 0) : null;
      if (at !== null && near(numbersOf(wrong)[at])) return { right: false, text: `✗ No. That is ${name}.` };
    }
    return { right: false, text: "✗ No, and it is not what one of the likely mistakes gives." };
  }
}

/** A number with as many decimals as an answer has. */
function rounded(number, text) {
  const decimals = (/\.(\d+)\s*$/.exec(text.replace(",", ".")) || ["", ""])[1].length;
  return decimals ? Number(number.toFixed(decimals)) : NaN;
}
