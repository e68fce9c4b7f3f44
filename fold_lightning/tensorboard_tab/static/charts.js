// Charts: functions of numbers that draw into an element with plotly.

import { classWords, plain, short } from "./dom.js";

export const DASHES = ["solid", "dash", "dot", "dashdot"];
const MAX_CELL_TEXT = 12; // classes up to which the values stand in the matrix
const MAX_CELLS = 30; // classes up to which cells are large enough to be seen one by one
const MAX_TICK = 12; // characters of a name at an axis
const MAX_SINGLE_TICKS = 8; // counts up to which each has a tick
const SCALES = [0.1, 0.2, 0.3, 0.5, 0.7, 1]; // ends of the scale of chi, as in the figures: few, so that steps can be compared
const MATRIX_HEIGHT = 370;
const NAME_HEIGHT = 6; // for each character of the longest name below
const CONFIG = { // buttons by name: plotly has some that send the chart to its cloud
  responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
};

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 6 }, gridcolor: css("--grid"), zerolinecolor: css("--line"), linecolor: css("--line"),
    automargin: true, ...more,
  };
}

function draw(div, data, layout, label) {
  div.setAttribute("role", "img");
  div.setAttribute("aria-label", label);
  const base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--text"), size: 12 },
    margin: { l: 48, r: 12, t: 8, b: 38 }, showlegend: false,
    hoverlabel: { bgcolor: css("--soft"), bordercolor: css("--line"), font: { color: css("--text") } },
  };
  return Plotly.react(div, data, { ...base, ...layout }, CONFIG);
}

const at = (step) => ({
  type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1, line: { color: css("--quiet"), width: 1, dash: "dot" },
});

// series: [{run, colour, tag, dash, steps, values}], one colour a run and one dash a tag.
export function curves(div, series, step, label) {
  const data = series.map(({ run, colour, tag, dash, steps, values }) => ({
    type: "scatter", x: steps, y: values, name: plain(`${short(run)} ${tag}`), mode: steps.length > 40 ? "lines" : "lines+markers",
    line: { color: colour, dash, width: 2 }, marker: { size: 4 },
    hovertemplate: `${plain(short(run))}<br>${plain(tag)} %{y:.4~g}<br>step %{x}<extra></extra>`,
  }));
  return draw(div, data, { xaxis: axis("step"), yaxis: axis("", { rangemode: "tozero" }), shapes: [at(step)], uirevision: "kept" }, label);
}

export const endOfScale = (largest) => SCALES.find((end) => largest <= end) ?? 1;

// Names for the axis of a matrix: short, and no two alike.
function ticks(classes) {
  const shortened = classes.map((name) => (name.length > MAX_TICK ? `${name.slice(0, MAX_TICK - 1)}…` : name));
  return shortened.map((name, i) => plain(shortened.indexOf(name) === shortened.lastIndexOf(name) ? name : `${name} (${i})`));
}

// rows: [{from, to, value}] of classes by their names; chosen: [from, to] or null. Sets div.onpair([from, to]) off when one is clicked.
export async function matrix(div, classes, rows, largest, chosen, label) {
  const place = new Map(classes.map((name, i) => [name, i]));
  const categories = ticks(classes);
  const isSparse = classes.length > MAX_CELLS && rows.length < (classes.length * classes.length) / 8;
  const scale = { colorscale: "Viridis", colorbar: { title: { text: "chi", side: "right" }, thickness: 12, outlinewidth: 0 } };
  const said = `${classes.some((name) => classWords(name) === name) ? "%{y} to %{x}" : "class %{y} to class %{x}"}<br>chi `;
  const data = isSparse ? markers() : heat();

  function heat() {
    const z = classes.map(() => classes.map(() => null));
    for (const { from, to, value } of rows) z[place.get(from)][place.get(to)] = value;
    const text = z.map((row) => row.map((value) => (value === null ? "" : value === 0 ? "0" : value.toFixed(2).replace(/^0/, ""))));
    const gap = classes.length > MAX_CELLS ? 0 : 1;
    return {
      type: "heatmap", z, x: categories, y: categories, zmin: 0, zmax: largest, ...scale, hoverongaps: false, xgap: gap, ygap: gap,
      hovertemplate: `${said}%{z:.3f}<extra></extra>`, ...(classes.length <= MAX_CELL_TEXT ? { text, texttemplate: "%{text}" } : {}),
    };
  }

  function markers() { // cells of so many classes would be specks
    const marker = { symbol: "square", size: 8, cmin: 0, cmax: largest, ...scale, color: rows.map(({ value }) => value), line: { width: 1, color: css("--quiet") } };
    return {
      type: "scatter", mode: "markers", cliponaxis: false, x: rows.map(({ to }) => categories[place.get(to)]), y: rows.map(({ from }) => categories[place.get(from)]),
      marker, hovertemplate: `${said}%{marker.color:.3f}<extra></extra>`,
    };
  }

  const shapes = [];
  if (chosen && rows.some(({ from, to }) => from === chosen[0] && to === chosen[1])) {
    const [y, x] = chosen.map((name) => place.get(name));
    const half = isSparse ? Math.max(0.5, classes.length / 50) : 0.5;
    const box = { type: "rect", x0: x - half, x1: x + half, y0: y - half, y1: y + half };
    shapes.push({ ...box, line: { color: "#000000", width: 4 } }, { ...box, line: { color: "#ffffff", width: 2 } });
  }
  const category = { type: "category", categoryorder: "array", categoryarray: categories, showgrid: isSparse, zeroline: false };
  const end = classes.length - 0.5;
  const layout = {
    xaxis: axis("to class", { ...category, range: [-0.5, end] }), yaxis: axis("from class", { ...category, range: [end, -0.5] }), shapes,
    uirevision: String(categories),
  };
  div.style.height = `${MATRIX_HEIGHT + NAME_HEIGHT * Math.max(...categories.map((name) => name.length))}px`;
  await draw(div, [data], layout, label);
  div.removeAllListeners("plotly_click");
  div.on("plotly_click", ({ points: [{ pointNumber }] }) => {
    const [from, to] = isSparse ? [rows[pointNumber].from, rows[pointNumber].to] : pointNumber.map((i) => classes[i]);
    if (rows.some((row) => row.from === from && row.to === to)) div.onpair([from, to]);
  });
}

// walks: [{segment, position, distance, length, chosen}] of one run; chosen ones are drawn in full.
export function walk(div, walks, colour, label) {
  const data = [];
  for (const { segment, position, distance, length, chosen } of walks) {
    const end = [...position, 1];
    const line = { color: colour, width: chosen ? 2.2 : 1, shape: "hv" };
    const common = { type: "scatter", mode: "lines", x: end, opacity: chosen ? 1 : 0.35 };
    let farthest = 0;
    const chi = distance.map((d, i) => ((farthest = Math.max(farthest, d)), length[i] ? 1 - farthest / length[i] : 0));
    const named = `segment ${segment}`;
    data.push({
      ...common, y: [...distance, distance.at(-1)], line,
      hovertemplate: `${named}<br>t %{x:.3f}<br>distance %{y}<extra></extra>`,
    });
    if (chosen) {
      const straight = (y, dash) => ({ type: "scatter", mode: "lines", x: [0, 1], y, line: { color: css("--text"), width: 1.4, dash } });
      data.push({ ...straight([0, length.at(-1)], "dash"), hovertemplate: `${named}, if it did not fold<br>%{y} switches<extra></extra>` });
      data.push({ ...straight([farthest, farthest], "dot"), hovertemplate: `${named}<br>largest distance %{y}<extra></extra>` });
    }
    data.push({
      ...common, y: [...chi, chi.at(-1)], yaxis: "y2", line,
      hovertemplate: `${named}<br>t %{x:.3f}<br>chi so far %{y:.3f}<extra></extra>`,
    });
  }
  const layout = {
    xaxis: axis("t, along the segment", { range: [0, 1], anchor: "y2" }),
    yaxis: axis("units that differ", { domain: [0.42, 1], rangemode: "tozero" }),
    yaxis2: axis("chi so far", { domain: [0, 0.34], rangemode: "tozero", range: chiRange(data) }),
  };
  return draw(div, data, layout, label);
}

function chiRange(data) {
  const most = Math.max(0, ...data.filter((trace) => trace.yaxis === "y2").map((trace) => Math.max(...trace.y)));
  return [0, most < 0.05 ? 0.1 : most * 1.1];
}

// values[layer][i] at steps[i].
export function layers(div, names, steps, values, range, step, what, label) {
  const heat = {
    type: "heatmap", z: values, x: steps, y: names.map((name) => plain(short(name, 28))), zmin: range[0], zmax: range[1],
    colorscale: "Viridis", hovertemplate: `layer %{y}<br>step %{x}<br>${plain(what)} %{z:.4~g}<extra></extra>`,
    colorbar: { thickness: 12, outlinewidth: 0 },
  };
  const y = { type: "category", autorange: "reversed", showgrid: false, dtick: Math.ceil(names.length / 24) };
  const shapes = step <= steps.at(-1) ? [at(step)] : []; // past its end the line would stretch the axis
  return draw(div, [heat], { xaxis: axis("step", { showgrid: false }), yaxis: axis("", y), shapes }, label);
}

// An axis of counts: ticks at whole numbers, also where there are few of them, at which plotly would put halves.
function wholeTicks(least, most) {
  return most - least <= MAX_SINGLE_TICKS ? { tick0: 0, dtick: 1, tickformat: "d" } : {};
}

// Bars of whole numbers, with the mean and the bound.
export function faces(div, counts, bound, colour, range, label) {
  const width = Math.max(1, Math.ceil((range[1] - range[0] + 1) / 40));
  const bars = new Map();
  for (const count of counts) {
    const bin = Math.floor((count - range[0]) / width);
    bars.set(bin, (bars.get(bin) || 0) + 1);
  }
  const bins = [...bars.keys()].sort((a, b) => a - b);
  const first = (bin) => range[0] + bin * width;
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  const bar = {
    type: "bar", x: bins.map((bin) => first(bin) + (width - 1) / 2), y: bins.map((bin) => bars.get(bin)), width: width * 0.86,
    marker: { color: colour }, customdata: bins.map((bin) => (width === 1 ? first(bin) : `${first(bin)} to ${first(bin) + width - 1}`)),
    hovertemplate: "%{y} regions with %{customdata} faces<extra></extra>",
  };
  const line = (x, dash) => ({ ...at(x), line: { color: css("--text"), width: 1.6, dash } });
  const note = (x, text, y, anchor) => ({ x, y, yref: "paper", text, showarrow: false, xanchor: anchor, yanchor: "bottom", font: { size: 11 } });
  const [least, most] = [Math.min(range[0], bound), Math.max(range[1], bound)];
  const side = (x, other) => (x <= other ? "right" : "left");
  const layout = {
    xaxis: axis("faces", { range: [least - 0.8, most + 0.8], ...wholeTicks(least, most) }),
    yaxis: axis("regions", { rangemode: "tozero", ...wholeTicks(0, Math.max(...bars.values())) }), margin: { l: 48, r: 12, t: 34, b: 38 },
    shapes: [line(bound, "dash"), line(mean, "solid")],
    annotations: [note(bound, `bound ${bound}`, 1.07, side(bound, mean)), note(mean, `mean ${mean.toFixed(2)}`, 1, side(mean, bound))],
  };
  return draw(div, [bar], layout, label);
}

export { axis, css, draw };
