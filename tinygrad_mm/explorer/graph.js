// The picture of the graph: which node is the current one, what has been computed, which layers are folded.
"use strict";

const LEAST_SCALE = 0.5; // below, letters cannot be read
const SPACE = "http://www.w3.org/2000/svg";

class Graph {
  /** `jump(value)` is called when the node of a value is chosen, `folded()` when layers were folded or unfolded. */
  constructor(pane, values, layers, jump, folded) {
    this.pane = pane;
    this.svg = pane.querySelector("svg");
    this.values = values;
    this.layers = layers; // id -> {parent, title, operations, inner}
    this.hidden = new Set(); // ids of folded layers
    this.folded = folded;
    this.nodes = new Map(); // id of a value -> its elements: a leaf may have several, one at each use
    if (!this.svg) return;
    this.box = this.svg.viewBox.baseVal;
    this.scale = 1;
    const elements = new Map([...this.svg.querySelectorAll(".node")].map((node) => [node.dataset.node, node]));
    for (const value of values) {
      const own = value.nodes.map((node) => elements.get(node)).filter(Boolean);
      this.nodes.set(value.id, own);
      for (const element of own) {
        if (element.dataset.value !== undefined) continue; // several results of one call share its node
        element.dataset.value = value.id;
        decorate(element);
        element.addEventListener("click", () => jump(value.id));
        whenPressed(element, () => jump(value.id));
      }
    }
    for (const element of this.svg.querySelectorAll("[data-fold]")) {
      const toggle = () => this.fold(element.dataset.fold);
      element.addEventListener("click", toggle);
      whenPressed(element, toggle);
    }
    this.fit();
  }

  // -- size

  fit() {
    if (!this.svg) return;
    const across = (this.pane.clientWidth - 16) / this.box.width;
    const down = (parseFloat(getComputedStyle(this.pane).maxHeight) - 16) / this.box.height;
    this.resize(Math.max(LEAST_SCALE, Math.min(across, 1), Math.min(across, down, 1.2)));  // rows are moved through
  }

  resize(scale) {
    if (!this.svg) return;
    this.scale = Math.min(4, Math.max(0.1, scale));
    this.svg.style.width = `${this.box.width * this.scale}px`;
    this.svg.style.height = `${this.box.height * this.scale}px`;
  }

  // -- what the current step is

  /**
   * Show a step: the `current` value, values that are still `later`, values that `passed`, those that went `bad`, and
   * the pairs of values (from, to) between which something `flows` now, in the direction of the arrows or `back`.
   */
  show({ current, later, passed, bad, flows, back }) {
    if (!this.svg) return;
    const nodesOf = (value) => this.values[value].nodes;
    const lit = new Set(flows.flatMap(([a, b]) => nodesOf(a).flatMap((tail) => nodesOf(b).map((head) => `${tail}>${head}`))));
    for (const [value, elements] of this.nodes) {
      for (const element of elements) {
        element.classList.toggle("here", value === current);
        element.classList.toggle("later", later.has(value));
        element.classList.toggle("passed", passed.has(value));
        element.classList.toggle("bad", bad.has(value));
        if (value === current) element.setAttribute("aria-current", "step");
        else element.removeAttribute("aria-current");
      }
    }
    for (const edge of this.svg.querySelectorAll(".edge")) {
      const { tail, head } = edge.dataset;
      edge.classList.toggle("flows", lit.has(`${tail}>${head}`));
      edge.classList.toggle("back", back);
    }
    const cover = this.coverOf(current);
    for (const element of this.svg.querySelectorAll(".cover")) element.classList.toggle("here", element === cover);
    this.reveal(cover || (this.nodes.get(current) || [])[0]);
  }

  /** Scroll the picture, and only the picture, so that an element is well inside. */
  reveal(element) {
    if (!element) return;
    const pane = this.pane.getBoundingClientRect();
    const box = element.getBoundingClientRect();
    const margin = 40;
    const beyond = (low, high, from, to) => (low < from + margin ? low - from - margin : high > to - margin ? high - to + margin : 0);
    this.pane.scrollLeft += beyond(box.left, box.right, pane.left, pane.right);
    this.pane.scrollTop += beyond(box.top, box.bottom, pane.top, pane.bottom);
  }

  /** Dim every node whose value was not found; null shows all again. */
  find(found) {
    for (const [value, elements] of this.nodes) {
      for (const element of elements) element.classList.toggle("unfound", found !== null && !found.has(value));
    }
  }

  // -- folding

  /** The layers around a layer, itself first. */
  *around(layer) {
    for (; layer; layer = this.layers[layer].parent) yield layer;
  }

  /** The outermost folded layer that a value is hidden in, or null. */
  foldOf(value) {
    let found = null;
    if (!this.hidden.size) return found;
    const element = (this.nodes.get(value) || [])[0];
    for (const layer of this.around(element && element.dataset.layer)) if (this.hidden.has(layer)) found = layer;
    return found;
  }

  coverOf(value) {
    const layer = this.foldOf(value);
    return layer && this.svg.querySelector(`.cover[data-fold="${layer}"]`);
  }

  /** Fold or unfold a layer, with its pieces in other rows. */
  fold(layer) {
    const [own] = layer.split("_");
    const hide = !this.hidden.has(layer);
    for (const id of Object.keys(this.layers).filter((one) => one.split("_")[0] === own)) {
      if (hide) this.hidden.add(id);
      else this.hidden.delete(id);
    }
    this.refold();
  }

  /** Fold every outermost layer that has no other folded, or unfold all. */
  foldAll() {
    if (this.hidden.size) this.hidden.clear();
    else for (const id of Object.keys(this.layers)) if (this.layers[id].inner) this.hidden.add(id);
    this.refold();
  }

  refold() {
    for (const old of this.svg.querySelectorAll(".cover")) old.remove();
    const isInside = (layer, itself) => {
      const layers = [...this.around(layer)];
      return layers.slice(itself ? 0 : 1).some((one) => this.hidden.has(one));
    };
    for (const node of this.svg.querySelectorAll(".node")) node.classList.toggle("inside", isInside(node.dataset.layer, true));
    for (const frame of this.svg.querySelectorAll(".cluster[data-layer]")) {
      const inside = isInside(frame.dataset.layer, false);
      frame.classList.toggle("inside", inside);
      const label = frame.querySelector("[data-fold]");
      if (label) label.setAttribute("aria-expanded", String(!this.hidden.has(frame.dataset.layer)));
      if (this.hidden.has(frame.dataset.layer) && !inside) this.cover(frame);
    }
    for (const edge of this.svg.querySelectorAll(".edge")) {
      const [one, other] = [edge.dataset.from, edge.dataset.to].map((layer) => this.outermost(layer));
      edge.classList.toggle("inside", one !== null && one === other);
    }
    this.folded();
  }

  outermost(layer) {
    let found = null;
    for (const one of this.around(layer)) if (this.hidden.has(one)) found = one;
    return found;
  }

  /** A box over the frame of a folded layer, which hides what crosses it, too. */
  cover(frame) {
    const id = frame.dataset.layer;
    const box = frame.querySelector("path, polygon").getBBox();
    const layer = this.layers[id];
    const group = draw("g", { class: "cover", "data-fold": id, role: "button", tabindex: "0", "aria-expanded": "false" });
    group.setAttribute("aria-label", `unfold ${layer.title}, ${layer.operations} operations`);
    group.append(draw("rect", { x: box.x, y: box.y, width: box.width, height: box.height, rx: 12 }));
    const middle = box.y + box.height / 2;
    group.append(draw("text", { x: box.x + box.width / 2, y: middle }, `▸ ${layer.title}`));
    const many = layer.operations === 1 ? "1 operation" : `${layer.operations} operations`;
    group.append(draw("text", { x: box.x + box.width / 2, y: middle + 17 }, `${many}, folded`));
    const unfold = () => this.fold(id);
    group.addEventListener("click", unfold);
    whenPressed(group, unfold);
    this.svg.querySelector(".graph").append(group);
  }
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** Give a node a halo, shown around the current one, and a mark, shown once its gradient is complete. */
function decorate(element) {
  const box = element.getBBox();
  const [x, y, width, height] = [box.x - 5, box.y - 5, box.width + 10, box.height + 10];
  element.append(draw("rect", { class: "halo", x, y, width, height, rx: 10 }));
  const round = [...element.querySelectorAll("ellipse")].pop(); // of a double line the outer one
  const [right, top] = round
    ? [round.cx.baseVal.value + round.rx.baseVal.value * Math.SQRT1_2, round.cy.baseVal.value - round.ry.baseVal.value * Math.SQRT1_2]
    : [box.x + box.width - 2, box.y + 2];
  element.append(draw("circle", { class: "mark", cx: right, cy: top, r: 4 }));
  element.append(draw("path", { class: "cross", d: `M${right - 4} ${top - 4}l8 8m0 -8l-8 8` }));
}

function whenPressed(element, action) {
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });
}
