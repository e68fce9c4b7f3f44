// The parts of the tab. Each is made of the state and says what it shows, how that was measured, and how it draws itself.

import * as charts from "./charts.js";
import { loadTable } from "./data.js";
import { dashLegend, el } from "./dom.js";
import { mapPart } from "./map.js";
import { pairsPart } from "./pairs.js";
import { cards, howFolding, part, tellPerRun } from "./section.js";

const GROUPS = [
  ["Space folding chi", ["folding/chi_mean", "folding/chi_median", "folding/chi_max"],
    "0: no unit switches twice on the way between two inputs; towards 1: the path folds back over its own codes. The median is that of the segments that fold."],
  ["Phi_N, folding between classes", ["folding/phi"], "The folding of a typical pair of classes, by the segments of each that fold most. More segments of a pair raise it: compare runs that have equally many."],
  ["Segments that fold", ["folding/fraction"], "Share of segments on which some unit switches back."],
  ["Regions on a segment", ["folding/regions"], "How many linear regions of the network lie between two inputs, on average."],
  ["Distinct codes", ["codes/distinct", "codes/distinct_correct"], "How many activation regions the inputs, and those classified right, occupy."],
  ["Distance of codes", ["codes/within", "codes/between"], "Share of units that differ between two inputs of one class, and of different classes."],
  ["Units", ["units/dead", "units/always_active", "units/active"], "Shares of units: never on, always on (linear), and on for a mean input."],
  ["Faces of a region", ["faces/mean", "faces/max", "faces/bound"], "Units that bound the region of an input; the bound holds for the mean over all regions."],
  ["Distance to the boundary", ["regions/distance_mean", "regions/distance_median"], "How far inputs lie from the boundary of their region, in the unit of the inputs."],
  ["Regularizer", ["regularizer/soft_chi", "regularizer/weight", "regularizer/term"], "The differentiable chi that is pushed, its weight, and the term in the loss."],
];

const inputsOf = (about) => (about.num_inputs ? `Codes and units of ${about.num_inputs} inputs, the same at each measurement.` : "");

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
      made.element.hidden = !drawn.length;
      tellPerRun(made.how, runs.map((run) => [run, inputsOf(state.runs[run].about)]));
    },
  };
}

const METRICS = [
  ["folding/layer/", "chi through the bits of one layer", "chi"],
  ["codes/layer/", "distinct codes of one layer", "codes"],
  ["units/dead/", "share of dead units", "dead"],
  ["units/always_active/", "share of units that are always on", "always on"],
  ["units/active/", "mean share of active units", "active"],
];

function layersPart(state, { swatchOf, change }) {
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
        const [order, segments] = await Promise.all([loadTable(run, state.runs, "layers", step).then((found) => found?.layer ?? []), loadTable(run, state.runs, "segments", step)]);
        const place = (name) => (order.includes(name) ? order.indexOf(name) : order.length);
        const names = Object.keys(curves).filter((tag) => tag.startsWith(prefix)).map((tag) => tag.slice(prefix.length));
        names.sort((a, b) => place(a) - place(b) || a.localeCompare(b, undefined, { numeric: true }));
        const steps = [...new Set(names.flatMap((name) => curves[prefix + name].steps))].sort((a, b) => a - b);
        const values = names.map((name) => {
          const { steps: at, values } = curves[prefix + name];
          const known = new Map(at.map((each, i) => [each, values[i]]));
          return steps.map((each) => known.get(each) ?? null);
        });
        return { run, names, steps, values, segments };
      }));
      const some = read.filter(({ names }) => names.length);
      made.element.hidden = !runs.some((run) => METRICS.some(([prefix]) => Object.keys(state.curves[run] || {}).some((tag) => tag.startsWith(prefix))));
      const largest = Math.max(1e-3, ...some.flatMap(({ values }) => values.flat()));
      for (const { run, names, steps, values } of some) {
        const { plot } = all.get(run, run, swatchOf(run));
        plot.style.height = `${Math.min(560, 110 + 26 * names.length)}px`;
        await charts.layers(plot, names, steps, values, [0, largest], step, what, `${what} of each layer of ${run} over training`);
      }
      all.keep(some.map(({ run }) => run));
      tellPerRun(made.how, some.map(({ run, segments }) => [run, prefix === "folding/layer/" ? howFolding(state.runs[run].about, segments) : inputsOf(state.runs[run].about)]));
    },
  };
}

function facesPart(state, { colourOf, swatchOf }) {
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
        const { plot } = all.get(run, run, swatchOf(run));
        await charts.faces(plot, found.faces, found.bound, colourOf(run), range, `Faces of regions of ${run}`);
      }
      all.keep(some.map(({ run }) => run));
      tellPerRun(made.how, some.map(({ run, found }) => [run, `${found.num_rows ?? found.faces.length} regions. ${state.runs[run].about.faces ?? ""}`]));
    },
  };
}

export const PARTS = [curvesPart, pairsPart, mapPart, layersPart, facesPart];
