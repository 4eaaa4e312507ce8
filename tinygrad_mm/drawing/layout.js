"use strict";
/**
 * Where everything stands: modules are boxes in boxes. Each open module is laid out by itself, from the innermost on: what
 * it holds in layers from the top down, with room for the lines that pass a layer, and ports at its edges for lines that
 * come in and go out. Sizes are in pixels; places are those of left upper corners, relative to the module around.
 */
const GAP = { x: 16, y: 32 }, MARGIN = 12, HEADER = 26, LANE = 12, SWEEPS = 6;

class Layout {
  /**
   * `graph` has the items: `inside(frame)` gives the ids of those directly in a frame (null: outside of all), `around(id)`
   * the frame around one, `isOpen(id)`, `size(id)` the [width, height] of a closed one, `order(id)`; `edges` are [tail,
   * head] of items that are seen.
   */
  constructor(graph, edges) {
    this.graph = graph;
    this.edges = edges;
    this.frames = new Map();
    this.chains = new Map();
    for (const [tail, head] of edges) for (const id of [tail, head]) if (!this.chains.has(id)) this.chains.set(id, this.chain(id));
    this.crossing = new Map();
    for (const edge of edges) {
      const [up, down] = edge.map((id) => this.chains.get(id));
      const shared = up.filter((frame) => down.includes(frame));
      const note = (frame, from, to) => {
        if (!this.crossing.has(frame)) this.crossing.set(frame, []);
        this.crossing.get(frame).push({ tail: edge[0], head: edge[1], from, to });
      };
      const within = (id, chain, frame) => { const at = chain.indexOf(frame); return at ? chain[at - 1] : id; };
      for (const frame of up) if (!shared.includes(frame)) note(frame, within(edge[0], up, frame), null);
      for (const frame of down) if (!shared.includes(frame)) note(frame, null, within(edge[1], down, frame));
      note(shared[0], within(edge[0], up, shared[0]), within(edge[1], down, shared[0]));
    }
    this.size = this.lay(null);
    this.absolute = new Map();
    this.place(null, 0, 0);
  }

  /** The frames around an item, the innermost first; the last is null. */
  chain(id) {
    const found = [];
    for (let frame = this.graph.around(id); frame !== null; frame = this.graph.around(frame)) found.push(frame);
    return [...found, null];
  }

  /** Lay out one frame; returns its size. */
  lay(frame) {
    const items = new Map();
    for (const id of this.graph.inside(frame)) {
      const [w, h] = this.graph.isOpen(id) ? this.lay(id) : this.graph.size(id);
      items.set(id, { id, w, h, order: this.graph.order(id) });
    }
    const links = (this.crossing.get(frame) || []).map((one) => ({
      ...one, a: one.from === null ? `in ${one.tail}` : one.from, b: one.to === null ? `out ${one.tail}` : one.to,
    }));
    for (const link of links) {
      for (const port of [link.a, link.b]) {
        if (!items.has(port)) items.set(port, { id: port, w: LANE, h: 0, order: port.startsWith("in ") ? -1 : Infinity, port: port.split(" ")[0] });
      }
    }
    const layers = this.layers(items, links);
    const routes = this.lanes(items, links, layers);
    this.arrange(layers, routes);
    return this.measure(frame, items, layers, routes);
  }

  /** The items of each layer: behind all that leads to them; what nothing leads to stands before what it leads to. */
  layers(items, links) {
    const list = [...items.values()].sort((a, b) => a.order - b.order);
    list.forEach((item, i) => { item.rank = i; item.layer = 0; });
    const before = new Map(list.map((item) => [item.id, []])), after = new Map(list.map((item) => [item.id, []]));
    for (const { a, b } of links) {  // a line against the order of computation counts the other way round
      const [first, second] = items.get(a).rank < items.get(b).rank ? [a, b] : [b, a];
      before.get(second).push(first);
      after.get(first).push(second);
    }
    for (const item of list) for (const other of before.get(item.id)) item.layer = Math.max(item.layer, items.get(other).layer + 1);
    for (const item of [...list].reverse()) {
      if (!before.get(item.id).length && after.get(item.id).length && !item.port) {
        item.layer = Math.min(...after.get(item.id).map((other) => items.get(other).layer)) - 1;
        item.last = true;  // close to it
      }
    }
    const lowest = Math.min(0, ...list.map((item) => item.layer));
    const deepest = Math.max(0, ...list.filter((item) => item.port !== "out").map((item) => item.layer));
    for (const item of list) if (item.port) item.layer = item.port === "in" ? lowest : deepest + 1;
    const found = [];
    for (const item of list) (found[item.layer - lowest] ||= []).push(item);
    for (let i = 0; i < found.length; i++) (found[i] ||= []).forEach((item) => { item.layer = i; });
    return found;
  }

  /** The way of each link through the layers; links from one item share their lanes. */
  lanes(items, links, layers) {
    const lanes = new Map();
    return links.map((link) => {
      const a = items.get(link.a), b = items.get(link.b), way = [a];
      const step = a.layer < b.layer ? 1 : -1;
      for (let i = a.layer + step; step > 0 ? i < b.layer : i > b.layer; i += step) {
        const key = `${link.tail} ${i}`;
        if (!lanes.has(key)) {
          const lane = { id: key, w: LANE, h: 0, layer: i, rank: a.rank, lane: true };
          lanes.set(key, lane);
          layers[i].push(lane);
        }
        way.push(lanes.get(key));
      }
      return { ...link, way: [...way, b] };
    });
  }

  /** The order in each layer (by the mean place of neighbours), and then x. */
  arrange(layers, routes) {
    const up = new Map(), down = new Map();
    const note = (map, one, other) => { if (!map.has(one)) map.set(one, new Set()); map.get(one).add(other); };
    for (const { way } of routes) {
      for (let i = 0; i + 1 < way.length; i++) {
        const [upper, lower] = way[i].layer < way[i + 1].layer ? [way[i], way[i + 1]] : [way[i + 1], way[i]];
        note(up, lower, upper);
        note(down, upper, lower);
      }
    }
    layers.forEach((layer) => { layer.sort((a, b) => a.rank - b.rank); layer.forEach((item, i) => { item.at = i; }); });
    const mean = (item, neighbours, key) => {
      const those = neighbours.get(item);
      if (!those) return null;
      let total = 0;
      for (const one of those) total += key(one);
      return total / those.size;
    };
    for (let sweep = 0; sweep < SWEEPS; sweep++) {
      const [neighbours, order] = sweep % 2 ? [down, [...layers].reverse()] : [up, layers];
      for (const layer of order) {
        layer.forEach((item) => { item.wish = mean(item, neighbours, (one) => one.at) ?? item.at; });
        layer.sort((a, b) => a.wish - b.wish || a.at - b.at);
        layer.forEach((item, i) => { item.at = i; });
      }
    }
    for (const layer of layers) {
      let x = 0;
      for (const item of layer) { item.x = x; x += item.w + GAP.x; }
    }
    const centre = (item) => item.x + item.w / 2;
    for (let sweep = 0; sweep < SWEEPS; sweep++) {
      const [neighbours, order] = sweep % 2 ? [down, [...layers].reverse()] : [up, layers];
      for (const layer of order) {
        const wishes = layer.map((item) => (mean(item, neighbours, centre) ?? mean(item, down, centre) ?? centre(item)) - item.w / 2);
        let edge = -Infinity, moved = 0;
        layer.forEach((item, i) => { item.x = Math.max(wishes[i], edge); edge = item.x + item.w + GAP.x; moved += wishes[i] - item.x; });
        layer.forEach((item) => { item.x += moved / layer.length; });
      }
    }
  }

  /** y, the size, and the ports of a frame. */
  measure(frame, items, layers, routes) {
    const all = layers.flat();
    const left = Math.min(0, ...all.map((item) => item.x)), title = frame === null ? 0 : this.graph.titleWidth(frame);
    const entering = all.filter((item) => item.port === "in").map((item) => item.x + item.w / 2 + MARGIN - left);
    const beside = frame === null || !entering.length ? 0 : Math.max(0, title - Math.min(...entering));  // of the title
    let right = 0, y = frame === null ? 0 : HEADER;
    for (const layer of layers) {
      const height = Math.max(0, ...layer.map((item) => item.h));
      for (const item of layer) {
        item.x += MARGIN - left + beside;
        item.y = y + (item.port ? 0 : item.last ? height - item.h : (height - item.h) / 2);
        if (item.lane) [item.y, item.bottom] = [y, y + height];  // straight through
        right = Math.max(right, item.x + item.w);
      }
      y += height + (height ? GAP.y : layer.length ? GAP.y / 2 : 0);
    }
    const size = [Math.max(right + MARGIN, title), Math.max(y - GAP.y / 2 + (frame === null ? 0 : 4), HEADER + MARGIN)];
    for (const item of items.values()) if (item.port) item.y = item.port === "in" ? 0 : size[1];
    this.frames.set(frame, { items, routes: new Map(routes.map((one) => [`${one.tail} ${one.head}`, one.way])), size });
    return size;
  }

  place(frame, x, y) {
    for (const item of this.frames.get(frame).items.values()) {
      if (item.port) continue;
      this.absolute.set(item.id, { x: x + item.x, y: y + item.y, w: item.w, h: item.h });
      if (this.frames.has(item.id)) this.place(item.id, x + item.x, y + item.y);
    }
  }

  /** The points that the line from one item to another passes, from the lower edge of the one to the upper of the other. */
  line(tail, head) {
    const up = this.chains.get(tail), down = this.chains.get(head);
    const shared = up.filter((frame) => down.includes(frame))[0];
    const frames = [...up.slice(0, up.indexOf(shared)), shared, ...down.slice(0, down.indexOf(shared)).reverse()];
    const points = [];
    for (const frame of frames) {
      const { x, y } = frame === null ? { x: 0, y: 0 } : this.absolute.get(frame);
      for (const item of this.frames.get(frame).routes.get(`${tail} ${head}`) || []) {
        if (item.lane || item.port) points.push([x + item.x + item.w / 2, y + item.y]);
        if (item.port === "in") points.push([x + item.x + item.w / 2, y + HEADER]);  // straight past the title
        if (item.bottom > item.y) points.push([x + item.x + item.w / 2, y + item.bottom]);
      }
    }
    const from = this.absolute.get(tail), to = this.absolute.get(head);
    return [[from.x + from.w / 2, from.y + from.h], ...points, [to.x + to.w / 2, to.y]];
  }
}
