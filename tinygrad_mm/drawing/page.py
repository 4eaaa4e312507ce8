"""A picture as an HTML page of its own: the SVG, which is moved with the mouse, the keys or the fingers."""

from __future__ import annotations

import re

__all__ = ["page"]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>computation graph</title>
<style>
html, body { margin: 0; height: 100%; overflow: hidden; background: #fff; font: 14px/1.4 system-ui, sans-serif; }
#view { width: 100%; height: 100%; overflow: hidden; touch-action: none; cursor: grab; }
#view.moving { cursor: grabbing; }
#view:focus-visible { outline: 2px solid #2b7bb0; outline-offset: -2px; }
#view svg { position: absolute; left: 0; top: 0; transform-origin: 0 0; user-select: none; }
#view a:hover path, #view a:hover polygon, #view a:hover ellipse { stroke-width: 2; }
#tools { position: fixed; right: 12px; top: 12px; display: flex; gap: 4px; }
button { min-width: 36px; height: 36px; border: 1px solid #c5ced8; border-radius: 6px; background: #ffffffe6;
 color: #1f2933; font: inherit; cursor: pointer; }
button:hover { background: #ebeff4; }
#hint { position: fixed; left: 12px; bottom: 8px; color: #52606d; background: #ffffffcc; pointer-events: none; }
@media print { #tools, #hint { display: none; } }
</style>
</head>
<body>
<div id="view" tabindex="0" role="img" aria-label="computation graph">
@SVG@
</div>
<div id="tools">
<button id="out" title="smaller (-)">&minus;</button><button id="in" title="larger (+)">+</button>
<button id="fit" title="all of it (0)">fit</button>
</div>
<div id="hint">drag to move, wheel or + and &minus; to zoom, arrow keys, 0 fits</div>
<script>
"use strict";
const view = document.getElementById("view"), svg = view.querySelector("svg");
const width = svg.viewBox.baseVal.width, height = svg.viewBox.baseVal.height;
svg.setAttribute("width", width);
svg.setAttribute("height", height);
let x = 0, y = 0, scale = 1;
const place = () => { svg.style.transform = `translate(${x}px, ${y}px) scale(${scale})`; };
function fit() {
  scale = Math.min(view.clientWidth / width, view.clientHeight / height, 2);
  x = (view.clientWidth - width * scale) / 2;
  y = (view.clientHeight - height * scale) / 2;
  place();
}
function zoom(factor, cx = view.clientWidth / 2, cy = view.clientHeight / 2) {
  const next = Math.min(20, Math.max(0.01, scale * factor));
  x = cx - (cx - x) * next / scale;
  y = cy - (cy - y) * next / scale;
  scale = next;
  place();
}
function move(dx, dy) { x += dx; y += dy; place(); }
view.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX, event.clientY);
}, { passive: false });
const fingers = new Map();
view.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event);
  view.setPointerCapture(event.pointerId);
  view.classList.add("moving");
});
view.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  if (fingers.size === 2) {
    const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
    const span = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
    if (span(before) > 0) zoom(span(event) / span(before), other.clientX, other.clientY);
  } else {
    move(event.clientX - before.clientX, event.clientY - before.clientY);
  }
  fingers.set(event.pointerId, event);
});
for (const kind of ["pointerup", "pointercancel"]) {
  view.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
    if (!fingers.size) view.classList.remove("moving");
  });
}
const keys = {
  "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit,
  ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0),
  ArrowUp: () => move(0, 60), ArrowDown: () => move(0, -60),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});
document.getElementById("in").onclick = () => zoom(1.25);
document.getElementById("out").onclick = () => zoom(0.8);
document.getElementById("fit").onclick = fit;
window.addEventListener("resize", fit);
fit();
</script>
</body>
</html>
"""


def page(svg: str) -> str:
    """The page around an SVG.

    >>> "<svg" in page('<?xml version="1.0"?><svg viewBox="0 0 1 1"></svg>')
    True
    """
    inline = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)  # no XML declaration and doctype inside HTML
    return PAGE.replace("@SVG@", inline, 1)
