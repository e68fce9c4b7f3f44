// The map of a plane's window: every activation region as a polygon, coloured by its distance from the region in the middle.

import { axis, css, draw } from "./charts.js";

const LEVELS = 24; // colours of a map: one trace each, so that thousands of regions draw quickly
const SCALE = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"];

function colourOf(share) {
  const place = Math.min(0.999999, Math.max(0, share)) * (SCALE.length - 1);
  const [low, high] = [SCALE[Math.floor(place)], SCALE[Math.floor(place) + 1]];
  const part = place - Math.floor(place);
  const mix = [1, 3, 5].map((i) => {
    const [a, b] = [low, high].map((colour) => parseInt(colour.slice(i, i + 2), 16));
    return Math.round(a + (b - a) * part);
  });
  return `rgb(${mix.join(",")})`;
}

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

function describe(table, region) {
  const words = [`region ${region} of ${(table.starts.length - 1).toLocaleString()}`, `distance ${table.distance[region]}`];
  if (table.faces) words.push(`${table.faces[region]} faces in the plane`);
  if (table.prediction) words.push(`predicts class ${table.prediction[region]}`);
  return words.join(" · ");
}

// Draws, and writes the region under the pointer into `named`.
export async function map(div, table, named, label) {
  const polygons = polygonsOf(table);
  const most = Math.max(1, ...table.distance);
  const levels = new Map();
  polygons.forEach((polygon, r) => {
    const level = Math.round((table.distance[r] / most) * (LEVELS - 1));
    if (!levels.has(level)) levels.set(level, { x: [], y: [] });
    const trace = levels.get(level);
    for (const [x, y] of [...polygon, polygon[0]]) {
      trace.x.push(x);
      trace.y.push(y);
    }
    trace.x.push(null);
    trace.y.push(null);
  });
  const data = [...levels].map(([level, { x, y }]) => ({
    type: "scatter", mode: "lines", x, y, fill: "toself", fillcolor: colourOf(level / (LEVELS - 1)), hoverinfo: "skip",
    line: { color: "rgba(0,0,0,0.55)", width: Math.min(0.8, 12 / Math.sqrt(polygons.length)) },
  }));
  if (table.marks?.length) {
    const ring = table.marks.length > 2 ? [...table.marks, table.marks[0]] : table.marks;
    data.push({
      type: "scatter", mode: "lines+markers", x: ring.map(([x]) => x), y: ring.map(([, y]) => y), hoverinfo: "skip",
      line: { color: "#000000", width: 1.5, dash: "dash" }, marker: { color: "#ffffff", size: 8, line: { color: "#000000", width: 1.5 } },
    });
  }
  const scale = Array.from({ length: 9 }, (_, i) => [i / 8, SCALE[i]]);
  data.push({ // nothing but the scale of colours
    type: "scatter", mode: "markers", x: [null], y: [null], hoverinfo: "skip",
    marker: { color: [0], cmin: 0, cmax: most, colorscale: scale, showscale: true, colorbar: { title: { text: "units" }, thickness: 12, outlinewidth: 0 } },
  });
  const [x0, x1, y0, y1] = table.window;
  const inPlane = { zeroline: false, showgrid: false, constrain: "domain" };
  const layout = {
    xaxis: axis("first direction of the plane", { range: [x0, x1], ...inPlane }),
    yaxis: axis("second direction", { range: [y0, y1], scaleanchor: "x", ...inPlane }),
    dragmode: "zoom", plot_bgcolor: css("--soft"),
  };
  await draw(div, data, layout, label);
  div.onmousemove = (event) => {
    const { xaxis, yaxis } = div._fullLayout;
    const box = div.getBoundingClientRect();
    const x = xaxis.p2d(event.clientX - box.left - xaxis._offset);
    const y = yaxis.p2d(event.clientY - box.top - yaxis._offset);
    const region = polygons.findIndex((polygon) => contains(polygon, x, y));
    named.textContent = region < 0 ? "Point at a region to name it; drag to zoom, double-click to zoom out." : describe(table, region);
  };
}
