// After the backward pass: the optimizer's update of each parameter, and the training steps that follow.
"use strict";

class LearningCards {
  constructor(data, cards) {
    Object.assign(this, { data, cards, learning: data.learning, at: 0 });
  }

  /** The update of one parameter. */
  update(number) {
    const { cards, learning } = this;
    const one = learning.updates[number];
    const value = this.data.values[one.value];
    const state = (figure) => one.states.flatMap((s) => cards.figures(s[figure], figure === "after" ? `${s.name}, after` : s.name, { role: "state" }));
    return [
      cards.kicker("UPDATE", make("span", {}, learning.optimizer), ...cards.place(value)),
      make("h2", {}, `${learning.optimizer} changes ${value.label}`),
      make("p", { class: "lead" }, "The gradient says in which direction L grows. The optimizer takes a step the other way; how long, its formula says."),
      make("div", { class: "panel-row" },
        make("section", { class: "box", "data-part": "formula" },
          make("h3", {}, "The formula"),
          make("p", { class: "maths" }, one.formula),
          one.where.length ? make("p", { class: "maths" }, "where ", one.where.map((line, i) => [i ? make("br") : null, line])) : null,
          make("code", { class: "source" }, one.source),
          make("p", { class: "note" }, one.options.join(", ")),
          one.numbers.length ? make("h4", {}, `With the numbers${one.place.length ? ` at [${one.place.join(", ")}], where the gradient is largest` : ""}`) : null,
          one.numbers.map((line) => make("p", { class: "shapes" }, line))),
        make("section", { class: "box", "data-part": "update" },
          make("h3", {}, make("span", {}, "Before and after"), make("span", { class: "verdict unchecked", "data-ratio": one.ratio }, `moves by ${percent(one.ratio)} of its norm`)),
          make("div", { class: "numbers" },
            cards.figures(one.before, value.label, { role: "before" }),
            cards.figures(value.gradient, partial(value.label), { role: "gradient" }),
            leads(cards.figures(one.after, `${value.label}, after`, { role: "after" })[0])),
          one.states.length ? make("h4", {}, "What the optimizer keeps") : null,
          one.states.length ? make("div", { class: "numbers" }, state("before"), state("after")) : null)),
      number === learning.updates.length - 1 && learning.loss !== null && learning.steps.length === 1
        ? make("p", { class: "good", "data-part": "outcome" }, `Computed again with all new values, on the same data, L goes from ${short(Number(learning.steps[0].loss))} to ${short(Number(learning.loss))}.`) : null,
    ];
  }

  /** All training steps, with a slider. */
  training() {
    const { cards, learning } = this;
    const last = learning.steps.length - 1;
    const holder = make("div", { "data-part": "moment" });
    const slider = make("input", { id: "moment", type: "range", min: 0, max: last, value: this.at, "aria-label": "training step" });
    const told = make("output", { for: "moment" });
    const chart = make("div", { class: "scroll" });
    const show = () => {
      this.at = Number(slider.value);
      told.textContent = `step ${this.at + 1} of ${last + 1}`;
      chart.replaceChildren(this.chart());
      holder.replaceChildren(this.moment());
    };
    slider.addEventListener("input", show);
    show();
    return [
      cards.kicker("TRAINING", make("span", {}, learning.optimizer)),
      make("h2", {}, `${plural(last + 1, "training step")} on the same graph`),
      make("p", { class: "lead" }, `Forward, backward, update, again and again, on the same data; random draws stay the recorded ones. L goes from ${short(Number(learning.steps[0].loss))} to ${short(Number(learning.loss))}.`),
      make("section", { class: "box" }, make("div", { class: "edit" }, slider, told), chart),
      holder,
    ];
  }

  /** The losses as a curve, the current step marked. */
  chart() {
    const losses = [...this.learning.steps.map((step) => Number(step.loss)), Number(this.learning.loss)];
    const finite = losses.filter(Number.isFinite);
    const [low, high] = [Math.min(...finite), Math.max(...finite)];
    const [width, height, left] = [560, 130, 62];
    const x = (i) => left + ((width - left - 10) * i) / Math.max(1, losses.length - 1);
    const y = (loss) => 12 + (height - 36) * (high > low ? (high - loss) / (high - low) : 0.5);
    const points = losses.map((loss, i) => (Number.isFinite(loss) ? `${x(i).toFixed(1)},${y(loss).toFixed(1)}` : "")).filter(Boolean);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, class: "curve", role: "img" });
    svg.setAttribute("aria-label", `the loss after each step: ${losses.map((loss) => short(loss)).join(", ")}`);
    svg.append(draw("polyline", { points: points.join(" ") }));
    svg.append(draw("text", { x: left - 6, y: y(high) + 4, class: "end" }, short(high)));
    if (high > low) svg.append(draw("text", { x: left - 6, y: y(low) + 4, class: "end" }, short(low)));
    svg.append(draw("text", { x: x(0), y: height - 4 }, "L at step 1"));
    svg.append(draw("text", { x: x(losses.length - 1), y: height - 4, class: "end" }, `after step ${losses.length - 1}`));
    if (Number.isFinite(losses[this.at])) svg.append(draw("circle", { cx: x(this.at), cy: y(losses[this.at]), r: 5 }));
    return svg;
  }

  /** Weights and gradients at the current step, and by how much each parameter moves. */
  moment() {
    const { cards, data, learning } = this;
    const step = learning.steps[this.at];
    const rows = Object.keys(step.weights).map((id) => {
      const value = data.values[id];
      const most = (what) => Math.max(...learning.steps.map((one) => scaleOf(data.arrays[one[what][id]])));
      const ratio = Number(step.ratios[id]);
      return make("section", { class: "box", "data-moment": id },
        make("h3", {}, make("span", {}, value.label), make("span", { class: `verdict ${!Number.isFinite(ratio) ? "unchecked" : ratio > 0.1 ? "differs" : ratio > 1e-5 ? "agrees" : "near"}`, "data-ratio": ratio }, `update / weight ${percent(ratio)}`)),
        make("div", { class: "numbers" },
          cards.array(step.weights[id], { name: value.label, role: "weight", scale: most("weights") }),
          cards.array(step.gradients[id], { name: partial(value.label), role: "gradient", scale: most("gradients") })),
        make("h4", {}, "Update / weight at each step, logarithmic"),
        this.ratios(id));
    });
    return make("div", {},
      make("p", { class: "shapes", "data-loss": step.loss }, `L = ${short(Number(step.loss))}`),
      make("p", { class: "note" }, "The ratio is the norm of the update over that of the weights: about 0.1 % is usual for stochastic gradient descent; far more unlearns, far less stands still. Colours mean the same at every step."),
      make("div", { class: "panel-row" }, rows));
  }

  /** The ratio at every step, on a logarithmic scale. */
  ratios(id) {
    const all = this.learning.steps.map((step) => Number(step.ratios[id]));
    const bars = all.map((ratio, i) => {
      const level = ratio > 0 && Number.isFinite(ratio) ? Math.max(2, Math.min(100, 100 + 20 * Math.log10(ratio))) : ratio > 0 ? 100 : 2;
      const bar = make("span", { class: i === this.at ? "now" : "", title: `step ${i + 1}: ${percent(ratio)}` });
      bar.style.height = `${level}%`;
      return bar;
    });
    return make("div", { class: "bars", role: "img", "aria-label": `update over weight at each step: ${all.map(percent).join(", ")}` }, bars);
  }
}

const percent = (ratio) => (Number.isFinite(Number(ratio)) ? `${short(100 * Number(ratio))} %` : "∞");
