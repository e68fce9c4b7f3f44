// The parts of the tab. Each is made of the state and says what it shows, how that was measured, and how it draws itself.

import * as charts from "./charts.js";
import { dashLegend, el, short } from "./dom.js";
import { loadTable } from "./data.js";
import { map } from "./map.js";

const MAX_ROWS = 100; // segments in the list
const MAX_LINES = 12; // walks in a chart

const GROUPS = [
  ["Space folding chi", ["folding/chi_mean", "folding/chi_median", "folding/chi_max"],
    "0: no unit switches twice on the way between two inputs; towards 1: the path folds back over its own codes."],
  ["Phi_N, folding between classes", ["folding/phi"], "The folding of a typical pair of classes, by the segments of each that fold most."],
  ["Segments that fold", ["folding/fraction"], "Share of segments on which some unit switches back."],
  ["Regions on a segment", ["folding/regions"], "How many linear regions of the network lie between two inputs, on average."],
  ["Distinct codes", ["codes/distinct", "codes/distinct_correct"], "How many activation regions the inputs, and those classified right, occupy."],
  ["Distance of codes", ["codes/within", "codes/between"], "Share of units that differ between two inputs of one class, and of different classes."],
  ["Units", ["units/dead", "units/always_active", "units/active"], "Shares of units: never on, always on (linear), and on for a mean input."],
  ["Faces of a region", ["faces/mean", "faces/max", "faces/bound"], "Units that bound the region of an input; the bound holds for the mean over all regions."],
  ["Distance to the border", ["regions/distance_mean", "regions/distance_median"], "How far inputs lie from the border of their region, in the unit of the inputs."],
  ["Regularizer", ["regularizer/soft_chi", "regularizer/weight", "regularizer/term"], "The differentiable chi that is pushed, its weight, and the term in the loss."],
];

function part(id, title, meaning, ...content) {
  const how = el("p", { class: "how" });
  const element = el("section", { id, "aria-label": title }, el("h2", {}, title), el("p", {}, meaning), how, ...content);
  return { element, how };
}

// A card of a chart for each name; those of names that are gone are taken away.
function cards(grid, size) {
  const known = new Map();
  return {
    get(name, heading, colour) {
      if (!known.has(name)) {
        const plot = el("div", { class: `plot ${size}` });
        const title = el("h3", {}, ...(colour ? [el("span", { class: "swatch", style: `display: inline-block; background: ${colour}` }), " "] : []), heading);
        const above = el("div");
        const below = el("div", { class: "hint" });
        const card = el("div", { class: "card" }, title, above, plot, below);
        grid.append(card);
        known.set(name, { card, plot, above, below });
      }
      return known.get(name);
    },
    keep(names) {
      for (const [name, { card, plot }] of known) {
        if (names.includes(name)) continue;
        Plotly.purge(plot);
        card.remove();
        known.delete(name);
      }
    },
  };
}

// What is true of each run, said once for those of which the same is true.
function perRun(sentences) {
  const runs = new Map();
  for (const [run, text] of sentences) if (text) runs.set(text, [...(runs.get(text) || []), run]);
  if (runs.size === 1) return [...runs.keys()][0];
  return [...runs].map(([text, names]) => `${names.map((name) => short(name)).join(", ")}: ${text}`).join("  —  ");
}

function howFolding(about, segments) {
  if (!about?.method) return "";
  const method = about.method === "exact" ? "every region on each segment is found" : `${about.num_points} equidistant points of each segment`;
  const share = segments ? segments.exact.filter(Boolean).length / segments.exact.length : null;
  const exact = share === null ? "" : share === 1 ? " All walks are exact and verified." : ` ${Math.round(100 * share)} % of the walks are exact and verified.`;
  return `Method ${about.method}: ${method} (${about.method_reason}). ${about.segments}.${exact}`;
}

function curvesPart(state, { colourOf }) {
  const grid = el("div", { class: "grid" });
  const made = part("curves", "How folding grows", "One colour for each run, one dash for each tag; the dotted line is the measurement that is chosen above.", grid);
  const all = cards(grid, "");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const drawn = [];
      for (const [title, tags, text] of GROUPS) {
        const present = tags.filter((tag) => runs.some((run) => state.curves[run]?.[tag]));
        if (!present.length) continue;
        drawn.push(title);
        const { plot, above } = all.get(title, title);
        above.replaceChildren(el("p", { class: "hint" }, text), present.length > 1 ? dashLegend(present) : el("div", { class: "hint" }, present[0]));
        const series = runs.flatMap((run) => present.map((tag, i) => ({ run, tag, dash: charts.DASHES[i % 4], colour: colourOf(run), ...state.curves[run]?.[tag] })));
        await charts.curves(plot, series.filter(({ steps }) => steps), step, `${title}: curves of ${runs.join(", ")}`);
      }
      all.keep(drawn);
      made.how.textContent = perRun(runs.map((run) => {
        const about = state.runs[run].about;
        return [run, about.num_inputs ? `codes and units of ${about.num_inputs} inputs, the same at each measurement.` : ""];
      }));
    },
  };
}

function pairsPart(state, { colourOf, change }) {
  const [grid, walks] = [el("div", { class: "grid" }), el("div", { class: "grid wide" })];
  const [from, to] = ["from", "to"].map((side, i) => el("select", { id: `pair-${side}`, "aria-label": `${side} class`, onchange: () => choose(i) }));
  const list = el("div", { class: "scroll card", tabindex: 0, id: "segments" });
  const controls = el("div", { class: "controls" }, "Pair: from class", from, "to class", to);
  const heading = el("h3", { style: "margin-top: 10px" });
  const text = el("p", { class: "hint" }, "Solid: how many units differ from the first code. Dotted: how often any unit has switched so far. A walk that never folds has both " +
    "lines as one; the gap between them is folding, chi = 1 - largest distance / switches.");
  const made = part("pairs", "Folding between classes", "The brighter a cell, the more the network folds on the way between inputs of those two classes. Click a cell to see its " +
    "segments and walk along each.", grid, controls, heading, list, text, walks);
  const [matrices, charted] = [cards(grid, "square"), cards(walks, "tall")];

  function choose(side) {
    const value = [from, to].map((select) => Number(select.value));
    change(() => ((state.pair = side === 0 ? [value[0], state.pair[1]] : [state.pair[0], value[1]]), (state.segment = null)));
  }

  function fill(select, classes, chosen) {
    if (select.dataset.classes !== String(classes)) {
      select.dataset.classes = String(classes);
      select.replaceChildren(...classes.map((name) => el("option", { value: name }, String(name))));
    }
    select.value = chosen;
  }

  async function drawMatrices(read, classes) {
    const withPairs = read.filter(({ pairs }) => pairs);
    const largest = Math.max(0.1, ...withPairs.flatMap(({ pairs }) => pairs.folding));
    for (const { run, pairs } of withPairs) {
      const { plot, below } = matrices.get(run, run, colourOf(run));
      const rows = pairs.folding.map((value, i) => ({ from: pairs.start_class[i], to: pairs.end_class[i], value }));
      await charts.matrix(plot, classes, rows, largest, state.pair, `Folding between classes of ${run}`);
      below.textContent = pairs.num_rows ? `${rows.length.toLocaleString()} of ${pairs.num_rows.toLocaleString()} pairs are in the log.` : "";
      if (!plot.dataset.listens) {
        plot.dataset.listens = "1";
        plot.on("plotly_click", ({ points: [point] }) => change(() => ((state.pair = [Number(point.y), Number(point.x)]), (state.segment = null))));
      }
    }
    matrices.keep(withPairs.map(({ run }) => run));
  }

  function rowsOf({ run, segments }) {
    const all = segments.segment.map((segment, i) => ({
      run, segment, chi: segments.chi[i], regions: segments.regions?.[i], exact: segments.exact[i], start: segments.start[i],
      end: segments.end[i], classes: segments.start_class ? [segments.start_class[i], segments.end_class[i]] : null,
    }));
    const pair = state.pair;
    const chosen = pair ? all.filter(({ classes }) => classes && classes[0] === pair[0] && classes[1] === pair[1]) : all;
    return chosen.sort((a, b) => b.chi - a.chi);
  }

  function drawList(rows) {
    const columns = ["segment", "from input", "to input", "chi", "regions", "exact"];
    const body = rows.slice(0, MAX_ROWS).map((row) => {
      const isChosen = row.segment === state.segment;
      const button = el("button", { type: "button", "aria-pressed": String(isChosen), onclick: () => change(() => (state.segment = row.segment)) },
        el("span", { class: "swatch", style: `display: inline-block; background: ${colourOf(row.run)}` }), ` ${row.segment}`);
      const ends = [row.start, row.end].map((input, i) => (row.classes ? `${input} (class ${row.classes[i]})` : String(input)));
      const cells = [button, ...ends, row.chi.toFixed(3), row.regions ?? "–", row.exact ? "yes" : "no"];
      return el("tr", { class: isChosen ? "chosen" : null }, ...cells.map((cell) => el("td", {}, cell)));
    });
    list.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...body)));
  }

  async function drawWalks(read, rows, step) {
    const shown = [];
    for (const { run } of read) {
      const found = await loadTable(run, state.runs, "walks", step);
      const wanted = rows.filter((row) => row.run === run);
      if (!found || !wanted.length) continue;
      const points = new Map();
      found.segment.forEach((segment, i) => points.set(segment, [...(points.get(segment) || []), i]));
      const chosen = wanted.some(({ segment }) => segment === state.segment) ? state.segment : wanted[0].segment;
      const lines = wanted.filter(({ segment }, i) => points.has(segment) && (i < MAX_LINES || segment === chosen)).map(({ segment }) => {
        const column = (name) => points.get(segment).map((i) => found[name][i]);
        return { segment, position: column("position"), distance: column("distance"), length: column("length"), chosen: segment === chosen };
      });
      shown.push(run);
      const { plot, below } = charted.get(run, run, colourOf(run));
      await charts.walk(plot, lines.sort((a, b) => a.chosen - b.chosen), colourOf(run), `Walks of ${run}`);
      const row = wanted.find(({ segment }) => segment === chosen);
      below.textContent = !points.has(chosen)
        ? `The walk of segment ${chosen} is not in the log, which keeps those of ${points.size} segments.`
        : `Strong: segment ${chosen}, chi ${row.chi.toFixed(3)}${row.regions ? `, ${row.regions} regions` : ""}.` + (lines.length > 1 ? ` Faint: ${lines.length - 1} others.` : "");
    }
    charted.keep(shown);
  }

  return {
    element: made.element,
    async draw({ step, runs }) {
      const read = await Promise.all(runs.map(async (run) => {
        const [pairs, segments] = await Promise.all(["pairs", "segments"].map((name) => loadTable(run, state.runs, name, step)));
        return { run, pairs, segments };
      }));
      const some = read.filter(({ segments }) => segments);
      made.element.hidden = !some.length;
      const found = new Set(some.flatMap(({ pairs }) => (pairs ? [...pairs.start_class, ...pairs.end_class] : [])));
      const classes = [...found].sort((a, b) => a - b);
      if (!classes.length) state.pair = null;
      else if (!state.pair || !state.pair.every((name) => found.has(name))) state.pair = farthest(some);
      controls.hidden = grid.hidden = !classes.length;
      if (classes.length) {
        fill(from, classes, state.pair[0]);
        fill(to, classes, state.pair[1]);
      }
      await drawMatrices(some, classes);
      const rows = some.flatMap(rowsOf);
      if (!rows.some(({ segment }) => segment === state.segment)) state.segment = rows[0]?.segment ?? null;
      const count = rows.length > MAX_ROWS ? `, the ${MAX_ROWS} that fold most of each` : "";
      heading.textContent = state.pair ? `Segments from class ${state.pair[0]} to class ${state.pair[1]}` : `Segments${count}`;
      drawList(rows);
      await drawWalks(some, rows, step);
      made.how.textContent = perRun(some.map(({ run, segments }) => [run, howFolding(state.runs[run].about, segments)]));
    },
  };
}

// The pair of classes that folds most in the first run.
function farthest(read) {
  const { pairs } = read.find(({ pairs }) => pairs);
  const i = pairs.folding.indexOf(Math.max(...pairs.folding));
  return [pairs.start_class[i], pairs.end_class[i]];
}

const METRICS = [
  ["folding/layer/", "chi through the bits of one layer", "chi"],
  ["codes/layer/", "distinct codes of one layer", "codes"],
  ["units/dead/", "share of dead units", "dead"],
  ["units/always_active/", "share of units that are always on", "always on"],
  ["units/active/", "mean share of active units", "active"],
];

function layersPart(state, { colourOf, change }) {
  const grid = el("div", { class: "grid wide" });
  const options = METRICS.map(([prefix, text]) => el("option", { value: prefix }, text));
  const select = el("select", { id: "metric", onchange: () => change(() => (state.metric = select.value)) }, ...options);
  const made = part("layers", "Layer by layer", "Where in the network folding lies: rows are layers from input to output, columns are measurements, and " +
    "all runs have one scale of colours.", el("label", { class: "controls" }, "Show", select), grid);
  const all = cards(grid, "tall");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const [prefix, , what] = METRICS.find(([prefix]) => prefix === state.metric);
      const read = await Promise.all(runs.map(async (run) => {
        const curves = state.curves[run] || {};
        const order = (await loadTable(run, state.runs, "layers", step))?.layer ?? [];
        const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
        const names = Object.keys(curves).filter((tag) => tag.startsWith(prefix)).map((tag) => tag.slice(prefix.length));
        names.sort((a, b) => place(a) - place(b) || a.localeCompare(b, undefined, { numeric: true }));
        const steps = [...new Set(names.flatMap((name) => curves[prefix + name].steps))].sort((a, b) => a - b);
        const values = names.map((name) => {
          const { steps: at, values } = curves[prefix + name];
          const known = new Map(at.map((each, i) => [each, values[i]]));
          return steps.map((each) => known.get(each) ?? null);
        });
        return { run, names, steps, values };
      }));
      const some = read.filter(({ names }) => names.length);
      made.element.hidden = !runs.some((run) => METRICS.some(([prefix]) => Object.keys(state.curves[run] || {}).some((tag) => tag.startsWith(prefix))));
      const largest = Math.max(1e-3, ...some.flatMap(({ values }) => values.flat()));
      for (const { run, names, steps, values } of some) {
        const { plot } = all.get(run, run, colourOf(run));
        plot.style.height = `${Math.min(560, 110 + 26 * names.length)}px`;
        await charts.layers(plot, names, steps, values, [0, largest], step, what, `${what} of each layer of ${run} over training`);
      }
      all.keep(some.map(({ run }) => run));
      made.how.textContent = prefix === "folding/layer/" ? perRun(some.map(({ run }) => [run, howFolding(state.runs[run].about, null)])) : "";
    },
  };
}

function facesPart(state, { colourOf }) {
  const grid = el("div", { class: "grid" });
  const made = part("faces", "Faces of the regions around inputs", "How many units bound the region in which an input lies: the more, the closer its neighbours are packed " +
    "around it. The dashed bound holds for the mean over all regions of a network, which inputs may exceed.", grid);
  const all = cards(grid, "");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const read = await Promise.all(runs.map(async (run) => ({ run, found: await loadTable(run, state.runs, "faces", step) })));
      const some = read.filter(({ found }) => found?.faces.length);
      made.element.hidden = !some.length;
      const counts = some.flatMap(({ found }) => found.faces);
      const range = [Math.min(...counts), Math.max(...counts)];
      for (const { run, found } of some) {
        const { plot } = all.get(run, run, colourOf(run));
        await charts.faces(plot, found.faces, found.bound, colourOf(run), range, `Faces of regions of ${run}`);
      }
      all.keep(some.map(({ run }) => run));
      made.how.textContent = perRun(some.map(({ run, found }) => [run, `${found.num_rows ?? found.faces.length} regions. ${state.runs[run].about.faces ?? ""}`]));
    },
  };
}

function mapPart(state, { colourOf }) {
  const grid = el("div", { class: "grid wide" });
  const made = part("map", "Map of a plane", "Every polygon is a region in which the network is one affine map; the darker, the more units differ from the region in the middle.", grid);
  const all = cards(grid, "square");
  return {
    element: made.element,
    async draw({ step, runs }) {
      const read = await Promise.all(runs.map(async (run) => ({ run, found: await loadTable(run, state.runs, "map", step) })));
      const some = read.filter(({ found }) => found?.starts.length > 1);
      made.element.hidden = !some.length;
      for (const { run, found } of some) {
        const { plot, below } = all.get(run, run, colourOf(run));
        below.setAttribute("aria-live", "polite");
        await map(plot, found, below, `Map of ${found.starts.length - 1} regions of ${run}`);
        below.textContent = below.textContent || "Point at a region to name it; drag to zoom, double-click to zoom out.";
      }
      all.keep(some.map(({ run }) => run));
      made.how.textContent = perRun(some.map(({ run, found }) => [run, `${(found.starts.length - 1).toLocaleString()} regions of the window, all of them and exact.`]));
    },
  };
}

export const PARTS = [curvesPart, pairsPart, mapPart, layersPart, facesPart];
