// The page's own arithmetic: the recorded calls again, forward and backward, after a number was changed.
"use strict";

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const logaddexp = (a, b) => Math.max(a, b) + Math.log1p(Math.exp(-Math.abs(a - b)));
const nothing = () => 0;

/** The normal distribution's cumulative probability: its series, whose terms all have one sign (DLMF 7.6.2). */
function normal(x) {
  const z = x / Math.SQRT2;
  if (Math.abs(z) > 6) return x > 0 ? 1 : 0;
  let [term, sum] = [z, z];
  for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n += 1) {
    term *= (2 * z * z) / (2 * n + 1);
    sum += term;
  }
  return 0.5 + (sum * Math.exp(-z * z)) / Math.sqrt(Math.PI);
}

// What works element by element: its value, and for each argument the slope, given the result and the arguments.
const ELEMENTWISE = {
  negative: [(x) => -x, [() => -1]],
  exp: [Math.exp, [(y) => y]],
  log: [Math.log, [(y, x) => 1 / x]],
  log1p: [Math.log1p, [(y, x) => 1 / (1 + x)]],
  expm1: [Math.expm1, [(y) => y + 1]],
  sqrt: [Math.sqrt, [(y) => 0.5 / y]],
  square: [(x) => x * x, [(y, x) => 2 * x]],
  tanh: [Math.tanh, [(y) => 1 - y * y]],
  sin: [Math.sin, [(y, x) => Math.cos(x)]],
  cos: [Math.cos, [(y, x) => -Math.sin(x)]],
  absolute: [Math.abs, [(y, x) => Math.sign(x)]],
  sign: [Math.sign, [nothing]],
  relu: [(x) => Math.max(x, 0), [(y, x) => (x <= 0 ? 0 : 1)]],
  sigmoid: [sigmoid, [(y) => y * (1 - y)]],
  gelu: [(x) => x * normal(x), [(y, x) => normal(x) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI)]],
  add: [(a, b) => a + b, [() => 1, () => 1]],
  subtract: [(a, b) => a - b, [() => 1, () => -1]],
  multiply: [(a, b) => a * b, [(y, a, b) => b, (y, a) => a]],
  divide: [(a, b) => a / b, [(y, a, b) => 1 / b, (y, a, b) => -y / b]],
  power: [(a, b) => a ** b, [(y, a, b) => (b === 0 ? 0 : b * a ** (b - 1)), (y, a) => (a > 0 ? y * Math.log(a) : 0)]],
  maximum: [Math.max, [(y, a, b) => share(a > b, a === b), (y, a, b) => share(b > a, a === b)]],
  minimum: [Math.min, [(y, a, b) => share(a < b, a === b), (y, a, b) => share(b < a, a === b)]],
  logaddexp: [logaddexp, [(y, a) => Math.exp(a - y), (y, a, b) => Math.exp(b - y)]],
  greater: [(a, b) => Number(a > b), [nothing, nothing]],
  less: [(a, b) => Number(a < b), [nothing, nothing]],
  greater_equal: [(a, b) => Number(a >= b), [nothing, nothing]],
  less_equal: [(a, b) => Number(a <= b), [nothing, nothing]],
  equal: [(a, b) => Number(a === b), [nothing, nothing]],
  not_equal: [(a, b) => Number(a !== b), [nothing, nothing]],
  where: [(c, a, b) => (c ? a : b), [nothing, (y, c) => (c ? 1 : 0), (y, c) => (c ? 0 : 1)]],
};

/** The larger one has all of a gradient, equal ones share it. */
const share = (wins, ties) => (wins ? 1 : ties ? 0.5 : 0);

const sizeOf = (shape) => shape.reduce((product, n) => product * n, 1);
const zeros = (shape) => ({ shape, numbers: new Float64Array(sizeOf(shape)) });
const places = new Map();

/** For each element of a result the element of an array that broadcasting puts there. */
function broadcast(from, to) {
  const key = `${from}>${to}`;
  if (!places.has(key)) {
    const strides = [];
    for (let axis = from.length - 1, step = 1; axis >= 0; axis -= 1) {
      strides.unshift(from[axis] === 1 ? 0 : step);
      step *= from[axis];
    }
    const lead = to.length - from.length;
    const found = new Int32Array(sizeOf(to));
    for (let i = 0; i < found.length; i += 1) {
      let [left, at] = [i, 0];
      for (let axis = to.length - 1; axis >= lead; axis -= 1) {
        at += (left % to[axis]) * strides[axis - lead];
        left = Math.floor(left / to[axis]);
      }
      found[i] = at;
    }
    places.set(key, found);
  }
  return places.get(key);
}

function elementwise([value, slopes]) {
  const row = (maps, inputs, i) => inputs.map((one, k) => one.numbers[maps[k][i]]);
  return {
    forward(inputs, options, shape) {
      const maps = inputs.map((one) => broadcast(one.shape, shape));
      const y = zeros(shape);
      for (let i = 0; i < y.numbers.length; i += 1) y.numbers[i] = value(...row(maps, inputs, i));
      return y;
    },
    back(g, y, inputs, options, k) {
      const maps = inputs.map((one) => broadcast(one.shape, y.shape));
      const before = zeros(y.shape);
      const array = zeros(inputs[k].shape);
      for (let i = 0; i < y.numbers.length; i += 1) {
        before.numbers[i] = g.numbers[i] * slopes[k](y.numbers[i], ...row(maps, inputs, i));
        array.numbers[maps[k][i]] += before.numbers[i];
      }
      return { before, array };
    },
  };
}

/** Runs `visit(start)` for the beginning of each row: the elements along the last axis. */
function eachRow({ shape, numbers }, visit) {
  const width = shape[shape.length - 1];
  for (let start = 0; start < numbers.length; start += width) visit(start, width);
}

function logSoftmax(x) {
  const y = zeros(x.shape);
  eachRow(x, (start, width) => {
    let [most, sum] = [-Infinity, 0];
    for (let j = 0; j < width; j += 1) most = Math.max(most, x.numbers[start + j]);
    for (let j = 0; j < width; j += 1) sum += Math.exp(x.numbers[start + j] - most);
    for (let j = 0; j < width; j += 1) y.numbers[start + j] = x.numbers[start + j] - most - Math.log(sum);
  });
  return y;
}

/** How many examples there are, and how many numbers each has. */
function examples({ shape, numbers }) {
  const classes = shape[shape.length - 1];
  return [numbers.length / classes, classes];
}

const mapped = (x, f) => ({ shape: x.shape, numbers: x.numbers.map(f) });
const whole = (array) => ({ before: array, array });

function reduction(factor) {
  return {
    forward([x], { kept }, shape) {
      const y = zeros(shape);
      const map = broadcast(kept, x.shape);
      const by = factor(x, y);
      x.numbers.forEach((value, i) => { y.numbers[map[i]] += value * by; });
      return y;
    },
    back(g, y, [x], { kept }) {
      const map = broadcast(kept, x.shape);
      const by = factor(x, y);
      return whole(mapped(x, (_, i) => g.numbers[map[i]] * by));
    },
  };
}

/** Runs `visit(at, i, j)` for each product that a matrix product, or each of a stack, adds to its element `at`. */
function eachProduct(a, b, shape, visit) {
  const [rows, columns] = shape.slice(-2);
  const inner = a.shape[a.shape.length - 1];
  const lead = shape.slice(0, -2);
  const [first, second] = [a, b].map((one) => broadcast(one.shape.slice(0, -2), lead));
  for (let n = 0; n < first.length; n += 1)
    for (let i = 0; i < rows; i += 1)
      for (let k = 0; k < inner; k += 1)
        for (let j = 0; j < columns; j += 1)
          visit((n * rows + i) * columns + j, (first[n] * rows + i) * inner + k, (second[n] * inner + k) * columns + j);
}

const OPERATIONS = {
  matmul: {
    forward([a, b], options, shape) {
      const y = zeros(shape);
      eachProduct(a, b, shape, (at, i, j) => { y.numbers[at] += a.numbers[i] * b.numbers[j]; });
      return y;
    },
    back(g, y, [a, b], options, which) {
      const found = zeros(which ? b.shape : a.shape);
      if (which) eachProduct(a, b, y.shape, (at, i, j) => { found.numbers[j] += a.numbers[i] * g.numbers[at]; });
      else eachProduct(a, b, y.shape, (at, i, j) => { found.numbers[i] += g.numbers[at] * b.numbers[j]; });
      return whole(found);
    },
  },
  sum: reduction(() => 1),
  mean: reduction((x, y) => y.numbers.length / x.numbers.length),
  take: {
    forward(inputs, { from, fill }, shape) {
      const all = inputs.flatMap((one) => [...one.numbers]);
      return { shape, numbers: Float64Array.from(from, (place) => (place < 0 ? Number(fill) : all[place])) };
    },
    back(g, y, inputs, { from }, k) {
      const found = zeros(inputs[k].shape);
      const start = inputs.slice(0, k).reduce((sum, one) => sum + one.numbers.length, 0);
      from.forEach((place, i) => {
        if (place >= start && place < start + found.numbers.length) found.numbers[place - start] += g.numbers[i];
      });
      return whole(found);
    },
  },
  largest: {
    forward([x], { from, width, sign }, shape) {
      const y = zeros(shape);
      y.numbers.fill(-sign * Infinity);
      from.forEach((place, i) => {
        const at = Math.floor(i / width);
        if (place >= 0) y.numbers[at] = sign * Math.max(sign * y.numbers[at], sign * x.numbers[place]);
      });
      return y;
    },
    back(g, y, [x], { from, width }) {
      const found = zeros(x.shape);
      for (let at = 0; at < y.numbers.length; at += 1) {
        const equal = from.slice(at * width, (at + 1) * width).filter((place) => place >= 0 && x.numbers[place] === y.numbers[at]);
        for (const place of equal) found.numbers[place] += g.numbers[at] / equal.length;
      }
      return whole(found);
    },
  },
  softmax: {
    forward: ([x]) => mapped(logSoftmax(x), Math.exp),
    back(g, y) {
      const found = zeros(y.shape);
      eachRow(y, (start, width) => {
        let sum = 0;
        for (let j = start; j < start + width; j += 1) sum += g.numbers[j] * y.numbers[j];
        for (let j = start; j < start + width; j += 1) found.numbers[j] = y.numbers[j] * (g.numbers[j] - sum);
      });
      return whole(found);
    },
  },
  log_softmax: {
    forward: ([x]) => logSoftmax(x),
    back(g, y) {
      const found = zeros(y.shape);
      eachRow(y, (start, width) => {
        let sum = 0;
        for (let j = start; j < start + width; j += 1) sum += g.numbers[j];
        for (let j = start; j < start + width; j += 1) found.numbers[j] = g.numbers[j] - Math.exp(y.numbers[j]) * sum;
      });
      return whole(found);
    },
  },
  cross_entropy: {
    forward([logits, labels], { mean }, shape) {
      const y = zeros(shape);
      const logs = logSoftmax(logits);
      const [rows, classes] = examples(logits);
      for (let i = 0; i < rows; i += 1) y.numbers[0] -= logs.numbers[i * classes + labels.numbers[i]] / (mean ? rows : 1);
      return y;
    },
    back(g, y, [logits, labels], { mean }) {
      const [rows, classes] = examples(logits);
      const hit = (i) => Number(labels.numbers[Math.floor(i / classes)] === i % classes);
      return whole(mapped(logSoftmax(logits), (value, i) => (g.numbers[0] / (mean ? rows : 1)) * (Math.exp(value) - hit(i))));
    },
  },
  select: {
    forward: ([several], { index }) => several[index],
    back: (g, y, [several], { index }) => whole(several.map((one, i) => (i === index ? g : null))),
  },
  unstack: {
    forward: ([x], { from, shape }) => from.map((part) => ({ shape, numbers: Float64Array.from(part, (place) => x.numbers[place]) })),
    back(g, y, [x], { from }) {
      const found = zeros(x.shape);
      from.forEach((part, k) => part.forEach((place, i) => { found.numbers[place] += g[k] ? g[k].numbers[i] : 0; }));
      return whole(found);
    },
  },
  standardize: {
    forward([x], { kept, epsilon }) {
      const average = reduction((a, b) => b.numbers.length / a.numbers.length);
      const map = broadcast(kept, x.shape);
      const mean = average.forward([x], { kept }, kept);
      const centred = mapped(x, (value, i) => value - mean.numbers[map[i]]);
      const variance = average.forward([mapped(centred, (value) => value * value)], { kept }, kept);
      return [mapped(centred, (value, i) => value / Math.sqrt(variance.numbers[map[i]] + epsilon)), mean, variance];
    },
    back([g, toMean, toVariance], [y, mean, variance], [x], { kept, epsilon }) {
      const map = broadcast(kept, x.shape);
      const n = x.numbers.length / mean.numbers.length;
      const [shift, scale] = [zeros(kept), zeros(kept)];
      y.numbers.forEach((value, i) => {
        const upstream = g ? g.numbers[i] : 0;
        shift.numbers[map[i]] += upstream / n;
        scale.numbers[map[i]] += (upstream * value) / n;
      });
      return whole(mapped(y, (value, i) => {
        const at = map[i];
        const deviation = Math.sqrt(variance.numbers[at] + epsilon);
        const shifted = shift.numbers[at] - ((toMean ? toMean.numbers[at] : 0) * deviation) / n;
        const scaled = scale.numbers[at] - ((toVariance ? toVariance.numbers[at] : 0) * deviation * deviation * 2) / n;
        return ((g ? g.numbers[i] : 0) - shifted - value * scaled) / deviation;
      }));
    },
  },
  leaky_relu: {
    forward: ([x], { slope }) => mapped(x, (value) => (value > 0 ? value : slope * value)),
    back: (g, y, [x], { slope }) => whole(mapped(x, (value, i) => g.numbers[i] * (value > 0 ? 1 : slope))),
  },
};
for (const [name, rule] of Object.entries(ELEMENTWISE)) OPERATIONS[name] = elementwise(rule);

/** The sum of two gradients; of a call with several results of two lists, null for what has none. */
function sumOf(a, b) {
  if (a === null || b === null) return a || b;
  return Array.isArray(a) ? a.map((one, i) => sumOf(one, b[i])) : mapped(a, (value, i) => value + b.numbers[i]);
}

/** The computation of one page; `recorded(id)` is the recorded array of a value as {shape, numbers}. */
class Computation {
  constructor(program, values, loss, recorded) {
    Object.assign(this, { program, values, loss, recorded });
  }

  /** Forward: the arrays of all values, with `given` (a map by id) in place of recorded leaves and of results. */
  forward(given) {
    const arrays = this.values.map((value) => given.get(value.id) || (value.operation ? null : this.recorded(value.id)));
    for (const call of this.program.calls) {
      if (given.has(call.value)) continue;
      arrays[call.value] = call.op === "kept" ? this.recorded(call.value)
        : OPERATIONS[call.op].forward(this.inputs(call, arrays), call.options, call.shape);
    }
    return arrays;
  }

  inputs(call, arrays) {
    return call.inputs.map((one) => (one.value === undefined ? { shape: [], numbers: Float64Array.of(Number(one.number)) } : arrays[one.value]));
  }

  /** What the rule of a call sends to the argument at a position, given the gradient of its result. */
  sent(call, arrays, g, position) {
    const which = call.inputs.findIndex((one) => one.position === position);
    return OPERATIONS[call.op].back(g, arrays[call.value], this.inputs(call, arrays), call.options, which);
  }

  /** Backward: the gradients by the ids of values, and what each call sent to each argument. */
  backward(arrays) {
    const gradients = new Map([[this.loss, mapped(arrays[this.loss], () => 1)]]);
    const sent = new Map();
    for (const call of [...this.program.calls].reverse()) {
      const g = gradients.get(call.value);
      if (!g) continue;
      for (const position of call.needed) {
        const part = this.sent(call, arrays, g, position);
        const target = call.inputs.find((one) => one.position === position).value;
        sent.set(`${call.value}/${position}`, part);
        gradients.set(target, gradients.has(target) ? sumOf(gradients.get(target), part.array) : part.array);
      }
    }
    return { gradients, sent };
  }

  lossOf(given) {
    return this.forward(given)[this.loss].numbers.reduce((sum, value) => sum + value, 0);
  }
}
