// Arrays on the page: small ones as a table of numbers, large ones as a heat-map, with the value under the pointer.
"use strict";

const TYPES = { f4: Float32Array, f8: Float64Array, u1: Uint8Array };
const NEGATIVE = "0,114,178"; // the blue and the vermilion of Okabe and Ito, apart for any kind of colour vision
const POSITIVE = "213,94,0";
const MOST_IN_TABLE = 80; // numbers
const MOST_COLUMNS = 10;

/** The numbers of an entry of the page's array store, decoded when first needed. */
function numbersOf(entry) {
  if (!entry.numbers) {
    const bytes = Uint8Array.from(atob(entry.data), (letter) => letter.charCodeAt(0));
    entry.numbers = new TYPES[entry.type](bytes.buffer);
  }
  return entry.numbers;
}

/** A number in four significant digits, with a real minus sign. */
function short(value, boolean = false) {
  if (boolean) return value ? "True" : "False";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e6) text = String(value);
  else if (size !== 0 && (size < 1e-3 || size >= 1e6)) text = value.toExponential(2).replace("e+", "e");
  else text = String(Number(value.toPrecision(4)));
  return text.replace(/-/g, "−");
}

/** A number in full: the shortest text that reads back as the same number of its dtype. */
function full(value, type) {
  if (!Number.isFinite(value)) return short(value);
  let text = String(value);
  for (let digits = 1; type === "f4" && digits < 10; digits += 1) {
    text = String(Number(value.toPrecision(digits)));
    if (Math.fround(Number(text)) === value) break;
  }
  return text.replace(/-/g, "−");
}

const shapeText = (shape) => (shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`);

/** An element with attributes and children; text becomes text nodes, never markup. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The index, in the whole array, of the element at a flat position among those shown. */
function indexAt(entry, position) {
  const index = [];
  for (let axis = entry.grid.length - 1; axis >= 0; axis -= 1) {
    index.unshift((position % entry.grid[axis]) * entry.every[axis]);
    position = Math.floor(position / entry.grid[axis]);
  }
  return index;
}

const indexText = (entry, position) => (entry.shape.length ? `[${indexAt(entry, position).join(", ")}]` : "");

/** What a screen reader says, and what stands below a large array. */
function summary(entry) {
  const parts = [];
  if (entry.size > 1 && entry.type !== "u1") {
    parts.push(`from ${short(entry.least)} to ${short(entry.most)}, mean ${short(entry.mean)}, norm ${short(entry.norm)}`);
  }
  if (entry.every.some((step) => step > 1)) {
    const steps = entry.every.map((step, axis) => (step > 1 ? `every ${ordinal(step)} along axis ${axis}` : ""));
    parts.push(`a sample: ${steps.filter(Boolean).join(", ")}`);
  }
  if (entry.odd) parts.push(`⚠ ${entry.odd} not finite (NaN or ∞)`);
  return parts.join("; ");
}

const ordinal = (n) =>
  `${n}${n % 100 > 10 && n % 100 < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[n % 10] || "th"}`;

/** Whether colours say something about the numbers: not about labels, indices and masks. */
const isTinted = (entry) => entry.dtype.startsWith("float");

function tint(value, scale) {
  if (!Number.isFinite(value)) return "rgb(204,0,102)";
  const strength = scale > 0 ? Math.min(1, Math.abs(value) / scale) : 0;
  return `rgba(${value < 0 ? NEGATIVE : POSITIVE},${(strength ** 0.8).toFixed(3)})`;
}

/** The largest finite size among the numbers shown: where colours are full. */
function scaleOf(entry) {
  let scale = 0;
  for (const value of numbersOf(entry)) if (Number.isFinite(value)) scale = Math.max(scale, Math.abs(value));
  return scale;
}

/**
 * The figure of an array: a name, the numbers, and what there is to say about them. `options.name` stands above it;
 * `options.mark(position)` is told where the pointer is, null when it leaves.
 */
function arrayFigure(entry, options = {}) {
  const columns = entry.grid.length ? entry.grid[entry.grid.length - 1] : 1;
  const numbers = numbersOf(entry);
  const asTable = numbers.length === 0 || (!isImage(entry) && numbers.length <= MOST_IN_TABLE && columns <= MOST_COLUMNS);
  const content = asTable ? table(entry, options) : heatMap(entry, options);
  const figure = make("figure", { class: "array", "data-array": entry.index, "data-role": options.role });
  if (options.name) {
    figure.append(
      make("figcaption", {}, make("span", { class: "name" }, options.name), " ",
        make("span", { class: "shape" }, `${shapeText(entry.shape)} ${entry.dtype}`)),
    );
  }
  figure.append(content);
  const said = asTable && !entry.odd && entry.every.every((step) => step === 1) ? "" : summary(entry);
  if (said) figure.append(make("p", { class: "said" }, said));
  return figure;
}

/** Rows and columns of numbers; arrays of more than two axes are cut into panels, named by their leading indices. */
function table(entry, options) {
  const numbers = numbersOf(entry);
  const grid = entry.grid;
  const columns = grid.length ? grid[grid.length - 1] : 1;
  const rows = grid.length > 1 ? grid[grid.length - 2] : 1;
  const scale = options.scale || scaleOf(entry);
  const before = entry.was && entry.was.every.every((step) => step === 1) ? numbersOf(entry.was) : null;
  const boolean = entry.dtype === "bool";
  if (!numbers.length) return make("p", { class: "said" }, "no elements");
  const panels = make("div", { class: "panels" });
  for (let start = 0; start < numbers.length; start += rows * columns) {
    const body = make("tbody");
    for (let row = 0; row < rows; row += 1) {
      const line = make("tr");
      for (let column = 0; column < columns; column += 1) {
        const position = start + row * columns + column;
        const value = numbers[position];
        const cell = make("td", { "data-at": position, "data-value": String(value) }, short(value, boolean));
        if (isTinted(entry)) cell.style.backgroundColor = tint(value * 0.999, scale * 2.2);
        if (!Number.isFinite(value)) cell.className = "odd";
        if (before && Math.abs(before[position] - value) > 1e-6 * scale) cell.classList.add("changed");
        line.append(cell);
      }
      body.append(line);
    }
    const panel = make("table", { class: grid.length ? "matrix" : "matrix number" }, body);
    if (grid.length > 2) {
      const lead = indexAt(entry, start).slice(0, -2).join(", ");
      panels.append(make("div", { class: "panel" }, make("span", { class: "lead" }, `[${lead}]`), panel));
    } else panels.append(panel);
    if (!numbers.length) break;
  }
  const show = (cell) => {
    if (cell) point(entry, Number(cell.dataset.at), cell.getBoundingClientRect(), options);
    if (cell) panels.dataset.at = cell.dataset.at;
  };
  panels.addEventListener("pointerover", (event) => show(event.target.closest("td")));
  panels.addEventListener("click", (event) => show(event.target.closest("td")));
  panels.addEventListener("pointerleave", () => unpoint(options));
  if (options.mark) {
    panels.tabIndex = 0;
    panels.setAttribute("role", "group");
    panels.setAttribute("aria-label", `${options.name}: arrow keys move over its values and write out their sums`);
    panels.addEventListener("blur", () => unpoint(options));
    panels.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      show(panels.querySelector(`td[data-at="${Number(panels.dataset.at ?? -step) + step}"]`));
    });
  }
  return panels;
}

/** Whether an axis holds the pixels of images, all of them. */
const isImage = (entry) => Boolean(entry.image) && entry.every[entry.image.axis] === 1;

/** How the numbers of an array lie in panels side by side: images, or the leading indices; a long row is broken. */
function panelsOf(entry) {
  const { grid } = entry;
  const total = sizeOf(grid);
  if (isImage(entry)) {
    const [rows, columns] = entry.image.size;
    const count = total / (rows * columns);
    const last = entry.image.axis === grid.length - 1;
    const split = last ? (position) => [Math.floor(position / (rows * columns)), position % (rows * columns)] : (position) => [position % count, Math.floor(position / count)];
    const join = last ? (panel, inside) => panel * rows * columns + inside : (panel, inside) => inside * count + panel;
    return { rows, columns, count, split, join, stride: last ? 1 : count };
  }
  const isRow = grid.length === 1;
  const columns = isRow ? Math.ceil(Math.sqrt(4 * grid[0])) : grid[grid.length - 1];
  const rows = isRow ? Math.ceil(grid[0] / columns) : grid[grid.length - 2];
  const count = isRow ? 1 : Math.max(1, Math.round(total / (rows * columns)));
  const split = (position) => [Math.floor(position / (rows * columns)), position % (rows * columns)];
  return { rows, columns, count, split, join: (panel, inside) => panel * rows * columns + inside, stride: 1 };
}

/**
 * One coloured square per number.
 */
function heatMap(entry, options) {
  const numbers = numbersOf(entry);
  const { rows, columns, count, split, join, stride } = panelsOf(entry);
  const gap = count > 1 ? 1 : 0;
  const across = Math.max(1, Math.min(count, Math.ceil(Math.sqrt((count * rows * 2) / columns))));
  const down = Math.ceil(count / across);
  const what = isImage(entry) ? `${count} images of ${rows} x ${columns} pixels` : `heat-map of shape ${shapeText(entry.shape)}`;
  const canvas = make("canvas", {
    class: "heat", tabindex: "0", role: "img", width: across * (columns + gap) - gap, height: down * (rows + gap) - gap,
    "aria-label": `${what}: ${summary(entry)}; arrow keys move over its values`,
  });
  const size = Math.max(isImage(entry) ? 2 : 3, Math.min(14, Math.floor(Math.min(340 / canvas.width, 240 / canvas.height))));
  canvas.style.width = `${canvas.width * size}px`;
  canvas.style.height = `${canvas.height * size}px`;
  const holder = make("div", { class: "heat-holder" }, canvas);
  const drawing = canvas.getContext("2d");
  const scale = options.scale || scaleOf(entry);
  const placeOf = (position) => {
    const [panel, inside] = split(position);
    return [
      (panel % across) * (columns + gap) + (inside % columns),
      Math.floor(panel / across) * (rows + gap) + Math.floor(inside / columns),
    ];
  };
  for (let position = 0; position < numbers.length; position += 1) {
    drawing.fillStyle = tint(numbers[position], scale);
    drawing.fillRect(...placeOf(position), 1, 1);
  }
  const positionAt = (x, y) => {
    const panel = Math.floor(y / (rows + gap)) * across + Math.floor(x / (columns + gap));
    const row = y % (rows + gap);
    const column = x % (columns + gap);
    const position = join(panel, row * columns + column);
    return row < rows && column < columns && panel < count && position < numbers.length ? position : null;
  };
  const show = (position) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = placeOf(position);
    point(entry, position, { left: box.left + x * size, top: box.top + y * size, width: size, height: size }, options);
    canvas.dataset.at = position;
  };
  const follow = (event) => {
    const box = canvas.getBoundingClientRect();
    const position = positionAt(Math.floor((event.clientX - box.left) / size), Math.floor((event.clientY - box.top) / size));
    if (position !== null) show(position);
  };
  canvas.addEventListener("pointermove", follow);
  canvas.addEventListener("click", follow);
  canvas.addEventListener("pointerleave", () => unpoint(options));
  canvas.addEventListener("blur", () => unpoint(options));
  canvas.addEventListener("keydown", (event) => {
    const step = stride * { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = Number(canvas.dataset.at ?? -step) + step;
    if (next < 0 || next >= numbers.length) return;
    const [x, y] = placeOf(next);
    holder.scrollTo(x * size - holder.clientWidth / 2, y * size - holder.clientHeight / 2);
    show(next);
  });
  return holder;
}

/** Show the value at a position beside the pointer. */
function point(entry, position, box, options) {
  const tip = document.getElementById("tip");
  const value = numbersOf(entry)[position];
  const said = entry.dtype === "bool" ? short(value, true) : full(value, entry.type);
  tip.textContent = `${options.name || ""}${indexText(entry, position)} = ${said}${wasText(entry, position)}`;
  tip.hidden = false;
  const size = tip.getBoundingClientRect();
  const width = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(4, Math.min(box.left + box.width / 2 - size.width / 2, width - size.width - 4))}px`;
  tip.style.top = `${box.top - size.height - 8 > 0 ? box.top - size.height - 8 : box.top + box.height + 8}px`;
  if (options.mark) options.mark(position);
  else document.getElementById("announce").textContent = tip.textContent;
}

/** What stood there before an edit. */
function wasText(entry, position) {
  if (!entry.was || entry.was.every.some((step) => step > 1)) return "";
  const before = numbersOf(entry.was)[position];
  return before === numbersOf(entry)[position] ? "" : ` (was ${short(before)})`;
}

function unpoint(options) {
  document.getElementById("tip").hidden = true;
  if (options.mark) options.mark(null);
}
