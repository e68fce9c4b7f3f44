// Charts: functions of numbers that draw into an element with plotly.

import { plain, short } from "./dom.js";

export const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
export const DASHES = ["solid", "dash", "dot", "dashdot"];
const MAX_CELL_TEXT = 12; // classes up to which the values stand in the matrix
const CONFIG = {
  responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
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
  return draw(div, data, { xaxis: axis("step"), yaxis: axis("", { rangemode: "tozero" }), shapes: [at(step)] }, label);
}

// rows: [{from, to, value}]; chosen: [from, to] or null.
export function matrix(div, classes, rows, largest, chosen, label) {
  const place = new Map(classes.map((name, i) => [name, i]));
  const z = classes.map(() => classes.map(() => null));
  for (const { from, to, value } of rows) z[place.get(from)][place.get(to)] = value;
  const names = classes.map(String);
  const text = z.map((row) => row.map((value) => (value === null ? "" : value === 0 ? "0" : value.toFixed(2).replace(/^0/, ""))));
  const heat = {
    type: "heatmap", z, x: names, y: names, zmin: 0, zmax: largest, colorscale: "Viridis", hoverongaps: false, xgap: 1, ygap: 1,
    hovertemplate: "class %{y} to class %{x}<br>largest chi %{z:.3f}<extra></extra>",
    colorbar: { title: { text: "chi" }, thickness: 12, outlinewidth: 0 },
    ...(classes.length <= MAX_CELL_TEXT ? { text, texttemplate: "%{text}" } : {}),
  };
  const shapes = [];
  if (chosen && place.has(chosen[0]) && place.has(chosen[1])) {
    const [y, x] = chosen.map((name) => place.get(name));
    const box = { type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5 };
    shapes.push({ ...box, line: { color: "#000000", width: 4 } }, { ...box, line: { color: "#ffffff", width: 2 } });
  }
  const category = { type: "category", showgrid: false, zeroline: false };
  const layout = {
    xaxis: axis("to class", category), yaxis: axis("from class", { ...category, autorange: "reversed" }), shapes,
  };
  return draw(div, [heat], layout, label);
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
      data.push({
        ...common, y: [...length, length.at(-1)], line: { ...line, color: css("--text"), width: 1.2, dash: "dot" },
        hovertemplate: `${named}<br>t %{x:.3f}<br>switches so far %{y}<extra></extra>`,
      });
    }
    data.push({
      ...common, y: [...chi, chi.at(-1)], yaxis: "y2", line,
      hovertemplate: `${named}<br>t %{x:.3f}<br>chi so far %{y:.3f}<extra></extra>`,
    });
  }
  const layout = {
    xaxis: axis("t, along the segment", { range: [0, 1], anchor: "y2" }),
    yaxis: axis("units", { domain: [0.42, 1], rangemode: "tozero" }),
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
  return draw(div, [heat], { xaxis: axis("step", { showgrid: false }), yaxis: axis("", y), shapes: [at(step)] }, label);
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
  const side = (x, other) => (x <= other ? "right" : "left");
  const layout = {
    xaxis: axis("faces", { range: [Math.min(range[0], bound) - 0.8, Math.max(range[1], bound) + 0.8], tickformat: "d" }),
    yaxis: axis("regions", { rangemode: "tozero" }), margin: { l: 48, r: 12, t: 34, b: 38 },
    shapes: [line(bound, "dash"), line(mean, "solid")],
    annotations: [note(bound, `bound ${bound}`, 1.07, side(bound, mean)), note(mean, `mean ${mean.toFixed(2)}`, 1, side(mean, bound))],
  };
  return draw(div, [bar], layout, label);
}

export { axis, css, draw };
