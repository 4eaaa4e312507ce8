// The cards of the wrong order: what following each path at once would do.
"use strict";

class Disorder {
  constructor(cards) {
    this.cards = cards;
  }

  start() {
    const { wrong, steps } = this.cards.data;
    const bad = wrong.wrong.length;
    const twice = steps.some((step) => this.cards.values[step.value].operation && step.ledger.length > 1);
    return [
      this.cards.kicker("WRONG ORDER", make("span", {}, "depth first")),
      make("h2", {}, "What if each path were followed at once?"),
      make("p", { class: "lead" },
        "Walking back recursively looks natural: hand a gradient to an input, then go on from there. But where an array was used " +
        "twice, its rules then run when only the first contribution has arrived. The second one comes too late: everything " +
        "below has been computed from half of the sum. Sorting the graph first, so that every use comes before the value, is what prevents this."),
      make("section", { class: "box" }, make("h3", {}, "The tempting code"), make("pre", { class: "source" },
        make("code", {}, "def backward(tensor, gradient):\n    tensor.grad += gradient\n    if tensor in visited:\n        return                      # its rules have run, with less\n    visited.add(tensor)\n    for argument, rule in tensor.made_by:\n        backward(argument, rule(tensor.grad))   # before other paths have arrived"))),
      make("p", { class: bad ? "problem" : "note" }, bad
        ? `In this graph ${bad} of ${steps.length} gradients come out wrong. Step on to see where.`
        : twice ? "In this graph even this order gives the right numbers."
          : "This graph has no fork: no computed array is used twice, so there is one path back to each and no order could go wrong."),
      twice ? make("p", { class: "note" }, `Handing every single contribution on by itself would give the right sums, too, but take ${wrong.visits} steps instead of ${steps.length}, and about twice as many after each further fork.`)
        : make("section", { class: "box" }, make("h3", {}, "A graph that has one"), make("pre", { class: "source" },
          make("code", {}, "a = tg.Tensor(3.0, requires_grad=True)\nb = a * a\ntg.explore(np.tanh(b) + b)   # b is used twice"))),
    ];
  }

  step(at) {
    const { wrong } = this.cards.data;
    const step = wrong.steps[at];
    const value = this.cards.values[step.value];
    const right = this.cards.data.steps[value.step];
    const missing = step.missing.length;
    const late = wrong.late.filter((one) => one.after === at);
    const total = right.ledger.length;
    const same = this.same(step.gradient, right.gradient);
    const mark = make("span", { class: `verdict ${same ? "agrees" : "differs"}` }, same ? "✓ right" : "✗ wrong");
    const arrived = total === 1 ? "Its one contribution has arrived" : `All ${total} contributions have arrived`;
    return [
      this.cards.kicker("WRONG ORDER", ...this.cards.place(value)),
      make("h2", {}, `${value.label} is handled`, missing ? " too early" : "", value.operation ? make("code", {}, ` ${value.expression}`) : null),
      make("p", { class: "lead" }, missing
        ? `${total - missing} of ${plural(total, "contribution")} ${total - missing === 1 ? "has" : "have"} arrived.`
        : same ? `${arrived}, and the gradient is right.` : `${arrived}, but from a rule that ran too early: the gradient is wrong.`),
      missing ? make("p", { class: "problem" }, "✗ Still missing: ", step.missing.flatMap((id, i) => [i ? ", " : "", this.cards.valueLink(id, "right")]), ".") : null,
      make("div", { class: "panel-row" },
        make("section", { class: "box", "data-part": "wrong" }, make("h3", {}, "In this order", mark), make("div", { class: "numbers" }, this.cards.figures(step.gradient, partial(value.label)))),
        make("section", { class: "box", "data-part": "right" }, make("h3", {}, "In the right order"), make("div", { class: "numbers" }, this.cards.figures(right.gradient, partial(value.label))))),
      ...late.map((one) => make("p", { class: "problem" },
        `✗ Too late: only now does ${this.cards.values[one.consumer].label} send this to ${partial(this.cards.values[one.target].label)}, whose rules have run already. It is added there, and goes no further. `,
        isSplit(one.array) ? null : this.cards.brief(one.array))),
    ];
  }

  /** Whether two stored gradients have the same numbers, but for rounding. */
  same(one, other) {
    if (isSplit(one)) return one.every((part, i) => part === other[i] || (part !== null && other[i] !== null && this.same(part, other[i])));
    if (one === other) return true;
    const [a, b] = [one, other].map((number) => numbersOf(this.cards.data.arrays[number]));
    const largest = b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    return a.every((x, i) => Math.abs(x - b[i]) <= 1e-6 * largest || (Number.isNaN(x) && Number.isNaN(b[i])));
  }

  end() {
    const { wrong } = this.cards.data;
    const rows = this.cards.values
      .filter((value) => value.step !== null && !isSplit(wrong.gradients[value.id]))
      .filter((value) => !value.operation || wrong.wrong.includes(value.id))
      .map((value) => {
        const bad = wrong.wrong.includes(value.id);
        const error = Number(wrong.errors[value.id]);
        return make("tr", { "data-astray": value.id },
          make("td", {}, this.cards.valueLink(value.id, "right")),
          make("td", { "data-part": "wrong" }, this.cards.brief(wrong.gradients[value.id])),
          make("td", { "data-part": "right" }, this.cards.brief(value.gradient)),
          make("td", {}, make("span", { class: `verdict ${bad ? "differs" : "agrees"}` }, bad ? `✗ wrong by ${short(100 * error)} %` : "✓ right")));
      });
    const head = ["gradient of", "depth first", "right order", ""].map((text) => make("th", { scope: "col" }, text));
    return [
      this.cards.kicker("WRONG ORDER"),
      make("h2", {}, wrong.wrong.length ? "Wrong numbers against the right ones" : "The same numbers, this time"),
      make("section", { class: "box scroll" }, make("table", { class: "list" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows))),
    ];
  }
}
