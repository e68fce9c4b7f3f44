// Folding between classes: the matrix of pairs, the segments of the pair that is chosen, and the walk along each.

import * as charts from "./charts.js";
import { loadTable } from "./data.js";
import { classWords, el, short } from "./dom.js";
import { cards, classKey, howFolding, part, swatch, tellPerRun } from "./section.js";

const MAX_ROWS = 100; // segments in the list
const MAX_LINES = 12; // walks in a chart

export function pairsPart(state, { colourOf, swatchOf, change }) {
  const [grid, walks] = [el("div", { class: "grid" }), el("div", { class: "grid wide" })];
  const [from, to] = ["from", "to"].map((side, i) => el("select", { id: `pair-${side}`, "aria-label": `${side} class`, onchange: () => choose(i) }));
  const list = el("div", { class: "scroll card", tabindex: 0, id: "segments", role: "group", "aria-label": "segments" });
  const controls = el("div", { class: "controls" }, el("label", {}, "From class ", from), el("label", {}, "to class ", to));
  const heading = el("h3");
  const text = el("p", { class: "hint" }, "Solid: how many units differ from the first code, on the way from one input (t = 0) to the other (t = 1). Dashed: the same for a walk that does not " +
    "fold, which takes as many switches evenly and takes none back. Dotted: the largest distance that the walk reaches. The gap between the ends of these two is folding: chi = 1 - largest distance / switches.");
  const lacking = el("div", { id: "lacking", role: "status" });
  const body = el("div", { class: "pairs" }, el("div", {}, grid, controls), el("div", {}, heading, list, lacking, text, walks));
  const made = part("pairs", "Folding between classes", "The brighter a cell, the more the network folds on the way between inputs of those two classes. Click a cell to see its " +
    "segments and the walk along each.", body);
  const [matrices, charted] = [cards(grid, "square"), cards(walks, "tall")];
  let partners = new Map(); // class -> classes to which some run has segments

  function choose(side) {
    const [start, end] = [from, to].map((select) => select.value);
    const ends = partners.get(start) || [];
    change(() => ((state.pair = [start, side === 0 && !ends.includes(end) ? ends[0] : end]), (state.segment = null)));
  }

  function fill(select, classes, chosen) {
    const key = JSON.stringify(classes);
    if (select.dataset.classes !== key) {
      select.dataset.classes = key;
      select.replaceChildren(...classes.map((name) => el("option", { value: name }, name)));
    }
    select.value = chosen;
  }

  async function drawMatrices(read) {
    const withPairs = read.filter(({ pairs }) => pairs);
    const largest = charts.endOfScale(Math.max(0, ...withPairs.flatMap(({ pairs }) => pairs.folding)));
    for (const { run, pairs } of withPairs) {
      const { plot, below } = matrices.get(run, run, swatchOf(run));
      const rows = pairs.folding.map((value, i) => ({ from: pairs.start_class[i], to: pairs.end_class[i], value }));
      const classes = inOrder([pairs]);
      await charts.matrix(plot, classes, rows, largest, state.pair, `Folding between classes of ${run}`);
      const all = classes.length * (classes.length - 1);
      below.textContent = pairs.num_rows ? `${rows.length.toLocaleString()} of ${pairs.num_rows.toLocaleString()} pairs are in the log.`
        : rows.length < all ? "Pairs without segments are empty, and classes without any are left out." : "";
      plot.onpair = (pair) => change(() => ((state.pair = pair), (state.segment = null)));
    }
    matrices.keep(withPairs.map(({ run }) => run));
  }

  function drawList(rows) {
    const columns = ["segment", "from input", "to input", "chi", "regions", "exact"];
    const body = rows.slice(0, MAX_ROWS).map((row) => {
      const isChosen = row.segment === state.segment;
      const button = el("button", { type: "button", "aria-pressed": String(isChosen), onclick: () => change(() => (state.segment = row.segment)) },
        swatch(swatchOf(row.run)), ` ${row.segment}`);
      const ends = [row.start, row.end].map((input, i) => (row.classes ? `${input} (${classWords(row.classes[i])})` : String(input)));
      const cells = [button, ...ends, row.chi.toFixed(3), row.regions ?? "–", row.exact ? "yes" : "no"];
      return el("tr", { class: isChosen ? "chosen" : null }, ...cells.map((cell) => el("td", {}, cell)));
    });
    list.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...body)));
  }

  async function drawWalks(read, rows) {
    const shown = [];
    for (const { run, kept } of read) {
      const wanted = rows.filter((row) => row.run === run);
      if (!kept || !wanted.length) continue;
      const points = pointsOf(kept);
      const chosen = wanted.some(({ segment }) => segment === state.segment) ? state.segment : wanted[0].segment;
      const lines = wanted.filter(({ segment }, i) => points.has(segment) && (i < MAX_LINES || segment === chosen)).map(({ segment }) => {
        const column = (name) => points.get(segment).map((i) => kept[name][i]);
        return { segment, position: column("position"), distance: column("distance"), length: column("length"), chosen: segment === chosen };
      });
      shown.push(run);
      const { plot, below } = charted.get(run, run, swatchOf(run));
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
        const [pairs, segments, kept] = await Promise.all(["pairs", "segments", "walks"].map((name) => loadTable(run, state.runs, name, step)));
        const { about } = state.runs[run];
        return { run, pairs: withKeys(pairs, about), segments: withKeys(segments, about), kept };
      }));
      const some = read.filter(({ segments }) => segments);
      made.element.hidden = !some.length;
      partners = partnersOf(some);
      const classes = inOrder(some.map(({ pairs }) => pairs)).filter((name) => partners.has(name));
      if (!classes.length) state.pair = null;
      else if (!state.pair || !partners.get(state.pair[0])?.includes(state.pair[1])) state.pair = firstPair(some, partners);
      controls.hidden = grid.hidden = !classes.length;
      if (state.pair) {
        fill(from, classes, state.pair[0]);
        fill(to, partners.get(state.pair[0]), state.pair[1]);
      }
      body.classList.toggle("single", some.length === 1 && classes.length > 0); // one matrix leaves room beside it
      await drawMatrices(some);
      const rows = some.flatMap((each) => rowsOf(each, state.pair));
      if (!rows.some(({ segment }) => segment === state.segment)) state.segment = rows[0]?.segment ?? null;
      const count = rows.length > MAX_ROWS ? `, the ${MAX_ROWS} that fold most` : "";
      const [start, end] = (state.pair || []).map(classWords);
      heading.textContent = state.pair ? `Segments from ${start} to ${end}${count}` : `Segments${count}`;
      drawList(rows);
      lacking.replaceChildren(...(state.pair ? some : []).flatMap((each) => lackOf(each, state.pair)).map((text) => el("p", {}, text)));
      await drawWalks(some, rows);
      tellPerRun(made.how, some.map(({ run, segments }) => [run, howFolding(state.runs[run].about, segments)]));
    },
  };
}

// Segments of a run, the ones that fold most first: those of a pair of classes, or all.
function rowsOf({ run, segments }, pair) {
  const all = segments.segment.map((segment, i) => ({
    run, segment, chi: segments.chi[i], regions: segments.regions?.[i], exact: segments.exact[i], start: segments.start[i],
    end: segments.end[i], classes: segments.start_class ? [segments.start_class[i], segments.end_class[i]] : null,
  }));
  const chosen = pair ? all.filter(({ classes }) => classes && classes[0] === pair[0] && classes[1] === pair[1]) : all;
  return chosen.sort((a, b) => b.chi - a.chi || (b.regions ?? 0) - (a.regions ?? 0));
}

// A table with what tells each class, in place of its number, which may be another class in another run.
function withKeys(table, about) {
  if (!table?.start_class) return table;
  const [start_class, end_class] = [table.start_class, table.end_class].map((labels) => labels.map((label) => classKey(about, label)));
  const numbers = new Map([...table.start_class, ...table.end_class].map((label) => [classKey(about, label), label]));
  return { ...table, start_class, end_class, numbers };
}

// The classes of tables of pairs, each once, by their numbers in the first table that has them.
function inOrder(tables) {
  const numbers = new Map();
  for (const table of tables) for (const [name, number] of table?.numbers ?? []) if (!numbers.has(name)) numbers.set(name, number);
  return [...numbers].sort(([, a], [, b]) => a - b).map(([name]) => name);
}

// Why a run shows no segment of a pair of classes: a sentence, or nothing.
function lackOf({ run, pairs, segments }, [start, end]) {
  if (!pairs) return [`${short(run)} has segments without classes, which are in no pair.`];
  const missing = [...new Set([start, end])].filter((name) => !pairs.numbers.has(name)).map(classWords);
  if (missing.length) return [`${short(run)} has no segments of ${missing.join(" or ")}.`];
  const has = segments.start_class.some((name, i) => name === start && segments.end_class[i] === end);
  return has ? [] : [`${short(run)} has no segments from ${classWords(start)} to ${classWords(end)}.`];
}

// Class -> classes to which some run has pairs, in order.
function partnersOf(read) {
  const found = new Map();
  for (const { pairs } of read) {
    pairs?.start_class.forEach((start, i) => found.set(start, (found.get(start) || new Set()).add(pairs.end_class[i])));
  }
  const order = inOrder(read.map(({ pairs }) => pairs));
  return new Map([...found].map(([start, ends]) => [start, order.filter((name) => ends.has(name))]));
}

// Segment -> its rows in the table of walks.
function pointsOf(kept) {
  const points = new Map();
  kept.segment.forEach((segment, i) => (points.has(segment) ? points.get(segment).push(i) : points.set(segment, [i])));
  return points;
}

// The pair of classes of the segment that folds most in any run, of those whose walk is kept; of equal ones the longest walk.
function firstPair(read, partners) {
  const found = read.filter(({ pairs }) => pairs).flatMap((run) => {
    const steps = new Map([...(run.kept ? pointsOf(run.kept) : [])].map(([segment, rows]) => [segment, rows.length - 1]));
    return rowsOf(run, null).map(({ chi, classes, segment }) => ({ chi, classes, steps: steps.get(segment) ?? 0 }));
  }).filter(({ classes: [start, end] }) => partners.get(start)?.includes(end));
  const walked = found.filter(({ steps }) => steps > 0);
  const [best] = (walked.length ? walked : found).sort((a, b) => b.chi - a.chi || b.steps - a.steps);
  return best ? best.classes : [...partners].map(([start, [end]]) => [start, end])[0];
}
