// The map of a plane's window: every activation region as a polygon, by its distance from the first input's region or by prediction.

import { axis, css, draw } from "./charts.js";
import { loadTable } from "./data.js";
import { classWords, el, short } from "./dom.js";
import { cards, className, part, swatch, tellPerRun } from "./section.js";

const LEVELS = 24; // colours of distances: one trace each, so that thousands of regions draw quickly
const SURE_LEVELS = 5; // colours of a class, from pale where the model is unsure
const UNSURE = 0.3; // softmax up to which a class is palest
const STEP = 1 / 40; // of the window, by which an arrow key moves
const SCALE = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"];
const CLASSES = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee7733", "#009988", "#5b4fa8", "#999999"];
const NO_BORDERS = "The borders between classes are not in this log: a region has the colour of the class at its middle.";
const NO_MAP = "This run has no map: it needs a piecewise linear network and inputs of two features or more.";
const HINT = "Point at a region to name it, drag to zoom, double-click to zoom out; with the keyboard: arrows, + and -, Escape.";

function mix(from, to, share) {
  const parts = [1, 3, 5].map((i) => {
    const [a, b] = [from, to].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(a + (b - a) * share);
  });
  return `rgb(${parts.join(",")})`;
}

function colourOfShare(share) {
  const place = Math.min(0.999999, Math.max(0, share)) * (SCALE.length - 1);
  return mix(SCALE[Math.floor(place)], SCALE[Math.floor(place) + 1], place - Math.floor(place));
}

// As plot_slice_map's colours: the paler the less sure the model is.
const colourOfClass = (number, share) => mix("#ffffff", CLASSES[number], 0.12 + 0.82 * share);
const OTHERS = CLASSES.length - 1; // the colour that is left for all the rest, where there are more classes than colours

// The polygons of a table: {region, polygon: [[x, y], ...], prediction, confidence}.
function regionsOf(table) {
  return polygonsOf(table.vertices, table.corners, table.starts).map((polygon, region) => ({
    region, polygon, prediction: table.prediction?.[region], confidence: table.confidence?.[region],
  }));
}

// The same, with the parts of regions in which several classes are predicted in place of those.
function partsOf(table) {
  if (!table.part_region) return regionsOf(table);
  const divided = new Set(table.part_region);
  const parts = polygonsOf(table.vertices, table.part_corners, table.part_starts).map((polygon, i) => ({
    region: table.part_region[i], polygon, prediction: table.part_prediction[i], confidence: table.part_confidence[i],
  }));
  return [...regionsOf(table).filter(({ region }) => !divided.has(region)), ...parts];
}

function polygonsOf(vertices, corners, starts) {
  return starts.slice(1).map((end, i) => corners.slice(starts[i], end).map((v) => vertices[v]));
}

function contains(polygon, x, y) {
  let inside = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [xi, yi] = polygon[i];
    const [xj, yj] = polygon[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}

function area(polygon) {
  const [[x0, y0]] = polygon;
  return polygon.reduce((sum, [x, y], i) => {
    const [nextX, nextY] = polygon[(i + 1) % polygon.length];
    return sum + ((x - x0) * (nextY - y0) - (nextX - x0) * (y - y0)) / 2;
  }, 0);
}

function describe(table, about, { region, prediction, confidence }) {
  const faces = table.faces[region];
  const words = [`Region ${region} of ${(table.starts.length - 1).toLocaleString()}`, `distance ${table.distance[region]} from the first input's region`];
  words.push(`${faces} ${faces === 1 ? "face" : "faces"} in this window`);
  if (prediction !== undefined) words.push(`predicts ${classWords(className(about, prediction))}, confidence ${Math.round(100 * confidence)} % at its middle`);
  return words.join(" · ");
}

// Colour of each polygon, in few kinds.
function coloursOf(table, shapes, how) {
  if (how === "prediction") {
    const numbers = numbersOf(shapes);
    return shapes.map(({ prediction, confidence }) => {
      const sure = Math.min(1, Math.max(0, (confidence - UNSURE) / (1 - UNSURE)));
      return colourOfClass(numbers.get(prediction), Math.round(sure * (SURE_LEVELS - 1)) / (SURE_LEVELS - 1));
    });
  }
  const most = largest(table.distance);
  return shapes.map(({ region }) => colourOfShare(Math.round((table.distance[region] / most) * (LEVELS - 1)) / (LEVELS - 1)));
}

const largest = (distances) => distances.reduce((most, each) => Math.max(most, each), 1);

// One trace for each colour: polygons one after the other, with gaps between.
function regionTraces(shapes, colours, edges) {
  const traces = new Map();
  shapes.forEach(({ polygon }, r) => {
    if (!traces.has(colours[r])) traces.set(colours[r], { x: [], y: [] });
    const trace = traces.get(colours[r]);
    for (const [x, y] of [...polygon, polygon[0]]) {
      trace.x.push(x);
      trace.y.push(y);
    }
    trace.x.push(null);
    trace.y.push(null);
  });
  const line = { color: edges, width: Math.min(0.8, 12 / Math.sqrt(shapes.length)) };
  return [...traces].map(([fillcolor, { x, y }]) => ({ type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor, hoverinfo: "skip", line }));
}

// Where the class changes that is predicted.
function borderTrace({ vertices, borders }) {
  const points = borders.flatMap(([from, to]) => [vertices[from], vertices[to], [null, null]]);
  return {
    type: "scatter", mode: "lines", x: points.map(([x]) => x), y: points.map(([, y]) => y), hoverinfo: "skip", line: { color: "#000000", width: 2.2 },
  };
}

function markTrace({ marks }) {
  const ring = marks.length > 2 ? [...marks, marks[0]] : marks;
  return {
    type: "scatter", mode: "lines+markers", x: ring.map(([x]) => x), y: ring.map(([, y]) => y), hoverinfo: "skip",
    line: { color: "#000000", width: 1.5, dash: "dash" }, marker: { color: "#ffffff", size: 8, line: { color: "#000000", width: 1.5 } },
  };
}

const LETTERS = "ABC";

// Letters at the inputs: names would hide the map.
function markLetters({ marks }) {
  return marks.map(([x, y], i) => ({
    x, y, text: LETTERS[i], showarrow: false, yshift: 14, bgcolor: "rgba(255,255,255,0.85)", borderpad: 1, font: { color: "#000000", size: 12 },
  }));
}

// What the letters stand for.
function inputsOf({ marks, mark_class: labels, window: [x0, x1, y0, y1] }, about) {
  const entries = marks.map(([x, y], i) => {
    const name = labels && labels[i] >= 0 ? short(classWords(className(about, labels[i])), 40) : "no label";
    return el("span", {}, el("b", {}, LETTERS[i]), ` ${name}${x < x0 || x > x1 || y < y0 || y > y1 ? " (outside)" : ""}`);
  });
  return el("div", { class: "hint legend" }, marks.length > 1 ? "Inputs: " : "Input: ", ...entries);
}

function scaleTrace(most) { // nothing but the scale of colours
  const colorscale = SCALE.map((colour, i) => [i / (SCALE.length - 1), colour]);
  return {
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
    marker: { color: [0], cmin: 0, cmax: most, colorscale, showscale: true, colorbar: { title: { text: "units", side: "right" }, thickness: 12, outlinewidth: 0, tickformat: "d", nticks: Math.min(6, most + 1) } },
  };
}

// Class -> number of its colour, no two alike: its own where no class of a larger area has it. Beyond the colours the smallest share one.
function numbersOf(shapes) {
  const areas = new Map();
  shapes.forEach(({ polygon, prediction }) => areas.set(prediction, (areas.get(prediction) || 0) + area(polygon)));
  const free = new Set(CLASSES.keys());
  if (areas.size > CLASSES.length) free.delete(OTHERS);
  return new Map([...areas].sort(([, a], [, b]) => b - a).map(([label]) => {
    const own = label % CLASSES.length;
    const number = free.has(own) ? own : [...free][0] ?? OTHERS;
    free.delete(number);
    return [label, number];
  }));
}

// The classes with their colours; those that share one are named under the pointer.
function legendOf(shapes, about) {
  const numbers = numbersOf(shapes);
  const isCrowded = numbers.size > CLASSES.length;
  const named = [...numbers].filter(([, number]) => !(isCrowded && number === OTHERS)).sort(([a], [b]) => a - b);
  const entry = (number, text) => el("span", {}, swatch(colourOfClass(number, 1)), ` ${text}`);
  const rest = isCrowded ? entry(OTHERS, `${numbers.size - named.length} others: point at them`) : null;
  return el("div", { class: "hint legend" }, "Predicted: ", ...named.map(([label, number]) => entry(number, classWords(className(about, label)))), rest, confidenceScale());
}

// From the palest, where the model is unsure, to the full colour, in grey.
function confidenceScale() {
  const ramp = `linear-gradient(to right, ${colourOfClass(OTHERS, 0)}, ${colourOfClass(OTHERS, 1)})`;
  return el("span", { class: "confidence" }, `confidence ${100 * UNSURE} % or less `, el("span", { class: "ramp", style: `background: ${ramp}`, "aria-hidden": "true" }), " 100 %");
}

// What the map shows, from the table alone: a window that is zoomed has the first input in its middle.
function windowOf({ marks, window: [x0, x1, y0, y1] }) {
  if (marks.length === 1) return "The plane goes through one input, along two random directions; the window is as large around it as its regions can be told apart.";
  const isZoomed = Math.hypot((x0 + x1) / 2 - marks[0][0], (y0 + y1) / 2 - marks[0][1]) < 1e-6 * (x1 - x0);
  const outside = marks.filter(([x, y]) => x < x0 || x > x1 || y < y0 || y > y1).length;
  const where = isZoomed ? `is zoomed on the first${outside ? ` (${outside} of them ${outside === 1 ? "lies" : "lie"} outside)` : ""}, for one around all of them holds too many regions` : "holds all of them";
  return `The plane goes through ${marks.length} inputs; the window ${where}.`;
}

// Draws, and writes the region under the pointer or the keyboard's cursor into `named`.
async function map(div, table, shapes, about, how, named, label) {
  const byClass = how === "prediction";
  const data = regionTraces(shapes, coloursOf(table, shapes, how), byClass ? "rgba(255,255,255,0.75)" : "rgba(0,0,0,0.55)");
  if (byClass && table.borders) data.push(borderTrace(table));
  data.push(markTrace(table));
  if (!byClass) data.push(scaleTrace(largest(table.distance)));
  const [x0, x1, y0, y1] = table.window;
  const inPlane = { zeroline: false, showgrid: false, constrain: "domain", nticks: 5 };
  const layout = {
    xaxis: axis("distance along the first direction", { range: [x0, x1], ...inPlane }),
    yaxis: axis("along the second", { range: [y0, y1], scaleanchor: "x", ...inPlane }),
    dragmode: "zoom", plot_bgcolor: byClass ? "#ffffff" : css("--soft"), annotations: markLetters(table), uirevision: String(table.window),
  };
  await draw(div, data, layout, label);
  follow(div, shapes, table, (found) => (named.textContent = found ? describe(table, about, found) : HINT));
}

// Outlines and names the region under the pointer, or under a cursor that arrow keys move.
function follow(div, shapes, table, name) {
  const axes = () => [div._fullLayout.xaxis, div._fullLayout.yaxis]; // plotly makes new ones when it zooms
  div.tabIndex = 0;
  div.classList.add("map");
  div.querySelector(":scope > .over")?.remove();
  const over = div.appendChild(svg("svg", { class: "over", "aria-hidden": "true" }));
  let cursor = null;

  function show(x, y, isCursor) {
    const [xaxis, yaxis] = axes();
    const found = shapes.find(({ polygon }) => contains(polygon, x, y));
    name(found);
    const points = (found?.polygon ?? []).map(([px, py]) => `${xaxis.d2p(px)},${yaxis.d2p(py)}`).join(" ");
    const frame = svg("svg", { x: xaxis._offset, y: yaxis._offset, width: xaxis._length, height: yaxis._length });
    frame.append(svg("polygon", { points, fill: "none", stroke: "#ffffff", "stroke-width": 5 }), svg("polygon", { points, fill: "none", stroke: "#000000", "stroke-width": 2.5 }));
    if (isCursor) frame.append(svg("circle", { cx: xaxis.d2p(x), cy: yaxis.d2p(y), r: 5, fill: "#ffffff", stroke: "#000000", "stroke-width": 2 }));
    over.replaceChildren(frame);
  }

  function clear() {
    over.replaceChildren();
    name(null);
  }

  function zoom(factor) {
    const ranges = axes().map(({ range: [low, high] }, i) => {
      const middle = cursor ? cursor[i] : (low + high) / 2;
      return [middle - (factor * (high - low)) / 2, middle + (factor * (high - low)) / 2];
    });
    return Plotly.relayout(div, { "xaxis.range": ranges[0], "yaxis.range": ranges[1] });
  }

  function reset() {
    cursor = null;
    const [x0, x1, y0, y1] = table.window;
    return Plotly.relayout(div, { "xaxis.range": [x0, x1], "yaxis.range": [y0, y1] }).then(clear);
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  div.onmousemove = (event) => {
    const [box, [xaxis, yaxis]] = [div.getBoundingClientRect(), axes()];
    const [x, y] = [event.clientX - box.left - xaxis._offset, event.clientY - box.top - yaxis._offset];
    if (x < 0 || y < 0 || x > xaxis._length || y > yaxis._length) clear();
    else show(xaxis.p2d(x), yaxis.p2d(y), false);
  };
  div.onmouseleave = clear;
  div.onkeydown = (event) => {
    const { key } = event;
    if (moves[key]) {
      const ranges = axes().map(({ range }) => range);
      cursor = (cursor || ranges.map(([low, high]) => (low + high) / 2)).map((at, i) => Math.min(Math.max(at + moves[key][i] * STEP * (ranges[i][1] - ranges[i][0]), ranges[i][0]), ranges[i][1]));
      show(...cursor, true);
    } else if (key === "+" || key === "=") zoom(0.5).then(() => cursor && show(...cursor, true));
    else if (key === "-") zoom(2).then(() => cursor && show(...cursor, true));
    else if (key === "Escape") reset();
    else return;
    event.preventDefault();
  };
  clear();
}

function svg(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

export function mapPart(state, { swatchOf, change }) {
  const grid = el("div", { class: "grid wide" });
  const select = el("select", { id: "map-colour", onchange: () => change(() => (state.mapColour = select.value)) },
    el("option", { value: "distance" }, "distance from the first input's region"), el("option", { value: "prediction" }, "predicted class, paler where unsure"));
  const controls = el("label", { class: "controls" }, "Colour", select);
  const made = part("map", "Map of a plane", "Every polygon is a region in which the network is one affine map. By distance: the darker, the more units differ from the region of the first " +
    "input. By prediction: the colour of the class that the network predicts there, paler where it is less sure; thick black lines are the exact borders between classes.", controls, grid);
  const all = cards(grid, "square");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const read = await Promise.all(runs.map(async (run) => ({ run, found: await loadTable(run, state.runs, "map", step) })));
      const some = read.filter(({ run }) => state.runs[run].tables.length).map(({ run, found }) => ({ run, found: found ?? { reason: NO_MAP } }));
      made.element.hidden = !some.length;
      controls.hidden = !some.some(({ found }) => found.starts);
      select.value = state.mapColour;
      for (const { run, found } of some) {
        const { plot, above, below } = all.get(run, run, swatchOf(run));
        const about = state.runs[run].about;
        plot.hidden = below.hidden = !found.starts;
        below.setAttribute("aria-live", "polite");
        if (found.reason) above.replaceChildren(el("p", {}, found.reason));
        else {
          const count = (found.starts.length - 1).toLocaleString();
          const isOlder = found.step === step ? "" : `, the last map up to step ${step}: maps are made when figures are due`;
          above.replaceChildren(el("p", { class: "hint" }, `${count} regions at step ${found.step}${isOlder}`));
          const how = found.prediction ? state.mapColour : "distance";
          const shapes = how === "prediction" ? partsOf(found) : regionsOf(found);
          if (how === "prediction") above.append(legendOf(shapes, about), ...(found.borders ? [] : [el("p", { class: "hint" }, NO_BORDERS)]));
          above.append(inputsOf(found, about));
          await map(plot, found, shapes, about, how, below, `Map of ${count} regions of ${run}: move with the arrow keys`);
        }
      }
      all.keep(some.map(({ run }) => run));
      tellPerRun(made.how, some.map(({ run, found }) => [run, found.reason ? "" : `All regions of the window, exact. ${windowOf(found)}`]));
    },
  };
}
