// The map of a plane's window: every activation region as a polygon, by its distance from the first input's region or by prediction.

import { axis, css, draw } from "./charts.js";
import { loadTable } from "./data.js";
import { el, plain, short } from "./dom.js";
import { cards, className, part, swatch, tellPerRun } from "./section.js";

const LEVELS = 24; // colours of distances: one trace each, so that thousands of regions draw quickly
const SURE_LEVELS = 5; // colours of a class, from pale where the model is unsure
const UNSURE = 0.3; // softmax up to which a class is palest
const MAX_NAMED = 12; // classes in the legend
const STEP = 1 / 40; // of the window, by which an arrow key moves
const SCALE = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"];
const CLASSES = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377", "#66ccee", "#ee7733", "#009988", "#5b4fa8", "#999999"];
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
const colourOfClass = (label, share) => mix("#ffffff", CLASSES[label % CLASSES.length], 0.12 + 0.82 * share);

// The polygons of a table: [[x, y], ...] of each region.
function polygonsOf(table) {
  const polygons = [];
  for (let r = 0; r + 1 < table.starts.length; r++) {
    polygons.push(table.corners.slice(table.starts[r], table.starts[r + 1]).map((v) => table.vertices[v]));
  }
  return polygons;
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

function describe(table, about, region) {
  const faces = table.faces[region];
  const words = [`Region ${region} of ${(table.starts.length - 1).toLocaleString()}`, `distance ${table.distance[region]} from the first input's region`];
  words.push(`${faces} ${faces === 1 ? "face" : "faces"} in this window`);
  if (table.prediction) words.push(`predicts class ${className(about, table.prediction[region])}, confidence ${Math.round(100 * table.confidence[region])} %`);
  return words.join(" · ");
}

// Colour of each region, in few kinds.
function coloursOf(table, how) {
  if (how === "prediction" && table.prediction) {
    return table.prediction.map((label, r) => {
      const sure = Math.min(1, Math.max(0, (table.confidence[r] - UNSURE) / (1 - UNSURE)));
      return colourOfClass(label, Math.round(sure * (SURE_LEVELS - 1)) / (SURE_LEVELS - 1));
    });
  }
  const most = Math.max(1, ...table.distance);
  return table.distance.map((distance) => colourOfShare(Math.round((distance / most) * (LEVELS - 1)) / (LEVELS - 1)));
}

// One trace for each colour: polygons one after the other, with gaps between.
function regionTraces(polygons, colours) {
  const traces = new Map();
  polygons.forEach((polygon, r) => {
    if (!traces.has(colours[r])) traces.set(colours[r], { x: [], y: [] });
    const trace = traces.get(colours[r]);
    for (const [x, y] of [...polygon, polygon[0]]) {
      trace.x.push(x);
      trace.y.push(y);
    }
    trace.x.push(null);
    trace.y.push(null);
  });
  const line = { color: "rgba(0,0,0,0.55)", width: Math.min(0.8, 12 / Math.sqrt(polygons.length)) };
  return [...traces].map(([fillcolor, { x, y }]) => ({ type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor, hoverinfo: "skip", line }));
}

function markTrace({ marks }) {
  const ring = marks.length > 2 ? [...marks, marks[0]] : marks;
  return {
    type: "scatter", mode: "lines+markers", x: ring.map(([x]) => x), y: ring.map(([, y]) => y), hoverinfo: "skip",
    line: { color: "#000000", width: 1.5, dash: "dash" }, marker: { color: "#ffffff", size: 8, line: { color: "#000000", width: 1.5 } },
  };
}

function markNames({ marks, mark_class: labels }, about) {
  return (labels || []).map((label, i) => ({
    x: marks[i][0], y: marks[i][1], text: label < 0 ? "" : plain(short(className(about, label), 24)), showarrow: false, yshift: 16,
    bgcolor: "rgba(255,255,255,0.85)", borderpad: 2, font: { color: "#000000", size: 12 },
  })).filter(({ text }) => text);
}

function scaleTrace(most) { // nothing but the scale of colours
  const colorscale = SCALE.map((colour, i) => [i / (SCALE.length - 1), colour]);
  return {
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
    marker: { color: [0], cmin: 0, cmax: most, colorscale, showscale: true, colorbar: { title: { text: "units", side: "right" }, thickness: 12, outlinewidth: 0, tickformat: "d", nticks: Math.min(6, most + 1) } },
  };
}

// The classes of the largest areas, with their colours.
function legendOf(table, polygons, about) {
  const areas = new Map();
  polygons.forEach((polygon, r) => areas.set(table.prediction[r], (areas.get(table.prediction[r]) || 0) + area(polygon)));
  const largest = [...areas].sort(([, a], [, b]) => b - a).slice(0, MAX_NAMED).map(([label]) => label).sort((a, b) => a - b);
  const rest = areas.size - largest.length;
  return el("div", { class: "hint legend" }, "Predicted: ", ...largest.map((label) => el("span", {}, swatch(colourOfClass(label, 1)), ` ${className(about, label)}`)), rest ? ` and ${rest} more` : null);
}

// Draws, and writes the region under the pointer or the keyboard's cursor into `named`.
async function map(div, table, about, how, named, label) {
  const polygons = polygonsOf(table);
  const data = [...regionTraces(polygons, coloursOf(table, how)), markTrace(table)];
  if (how !== "prediction") data.push(scaleTrace(Math.max(1, ...table.distance)));
  const [x0, x1, y0, y1] = table.window;
  const inPlane = { zeroline: false, showgrid: false, constrain: "domain", nticks: 5 };
  const layout = {
    xaxis: axis("distance along the first direction", { range: [x0, x1], ...inPlane }),
    yaxis: axis("along the second", { range: [y0, y1], scaleanchor: "x", ...inPlane }),
    dragmode: "zoom", plot_bgcolor: css("--soft"), annotations: markNames(table, about), uirevision: String(table.window),
  };
  await draw(div, data, layout, label);
  follow(div, polygons, table, named, (region) => (named.textContent = region < 0 ? HINT : describe(table, about, region)));
}

// Outlines and names the region under the pointer, or under a cursor that arrow keys move.
function follow(div, polygons, table, named, name) {
  const axes = () => [div._fullLayout.xaxis, div._fullLayout.yaxis]; // plotly makes new ones when it zooms
  div.tabIndex = 0;
  div.classList.add("map");
  div.querySelector(":scope > .over")?.remove();
  const over = div.appendChild(svg("svg", { class: "over", "aria-hidden": "true" }));
  let cursor = null;

  function show(x, y, isCursor) {
    const [xaxis, yaxis] = axes();
    const region = polygons.findIndex((polygon) => contains(polygon, x, y));
    name(region);
    const points = (region < 0 ? [] : polygons[region]).map(([px, py]) => `${xaxis.d2p(px)},${yaxis.d2p(py)}`).join(" ");
    const frame = svg("svg", { x: xaxis._offset, y: yaxis._offset, width: xaxis._length, height: yaxis._length });
    frame.append(svg("polygon", { points, fill: "none", stroke: "#ffffff", "stroke-width": 5 }), svg("polygon", { points, fill: "none", stroke: "#000000", "stroke-width": 2.5 }));
    if (isCursor) frame.append(svg("circle", { cx: xaxis.d2p(x), cy: yaxis.d2p(y), r: 5, fill: "#ffffff", stroke: "#000000", "stroke-width": 2 }));
    over.replaceChildren(frame);
  }

  function clear() {
    over.replaceChildren();
    name(-1);
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
  const made = part("map", "Map of a plane", "Every polygon is a region in which the network is one affine map. By distance: the darker, the more units differ from the region of the first " +
    "input. By prediction: a region has the colour of the class at its middle.", el("label", { class: "controls" }, "Colour", select), grid);
  const all = cards(grid, "square");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const read = await Promise.all(runs.map(async (run) => ({ run, found: await loadTable(run, state.runs, "map", step) })));
      const some = read.filter(({ found }) => found);
      made.element.hidden = !some.length;
      select.value = state.mapColour;
      for (const { run, found } of some) {
        const { plot, above, below } = all.get(run, run, swatchOf(run));
        const about = state.runs[run].about;
        plot.hidden = !found.starts;
        below.setAttribute("aria-live", "polite");
        if (found.reason) above.replaceChildren(el("p", {}, found.reason));
        else {
          const count = (found.starts.length - 1).toLocaleString();
          const isOlder = found.step === step ? "" : `, the last map up to step ${step}: maps are made when figures are due`;
          above.replaceChildren(el("p", { class: "hint" }, `${count} regions at step ${found.step}${isOlder}`));
          const how = found.prediction ? state.mapColour : "distance";
          if (how === "prediction") above.append(legendOf(found, polygonsOf(found), about));
          await map(plot, found, about, how, below, `Map of ${count} regions of ${run}: move with the arrow keys`);
        }
      }
      all.keep(some.map(({ run }) => run));
      tellPerRun(made.how, some.map(({ run, found }) => [run, found.reason ? "" : `All regions of the window, exact; the plane goes through ${found.marks.length === 3 ? "three inputs" : "one input, along two random directions"}, and the window is zoomed on the first where there are many.`]));
    },
  };
}
