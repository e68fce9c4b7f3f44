// The Folding tab: which runs and which measurement are shown, and its parts. TensorBoard calls `render` in a frame of its page.

import { el, followTheme } from "./dom.js";
import { css } from "./charts.js";
import { forgetFrom, loadCurves, loadPlotly, loadRuns } from "./data.js";
import { PARTS } from "./parts.js";
import { swatch } from "./section.js";

const POLL_SECONDS = 10;
const PLAY_SECONDS = 0.6;
const MAX_CHOSEN = 4; // runs that are chosen at first
const NUM_COLOURS = 8; // as in page.css

const state = {
  runs: {}, // run -> what the server says of it
  curves: {}, // run -> tag -> curve, of chosen runs
  chosen: new Set(),
  known: new Set(),
  steps: [],
  place: 0, // of the step in `steps`
  pair: null, // [from, to], classes
  segment: null,
  metric: "folding/layer/",
  mapColour: "distance",
};
let parts = [];
let playing = null;
let drawing = Promise.resolve();

const usable = () => Object.keys(state.runs).filter((run) => state.runs[run].curves || state.runs[run].tables.length);

// A run gets the colour that fewest chosen runs have, and keeps it while it is chosen.
const given = new Map();
function numberOf(run) {
  if (!given.has(run)) {
    const uses = Array.from({ length: NUM_COLOURS }, (_, i) => [...given.values()].filter((number) => number === i).length);
    given.set(run, uses.indexOf(Math.min(...uses)));
  }
  return given.get(run);
}
const swatchOf = (run) => `var(--run-${numberOf(run)})`; // follows the theme by itself
const colourOf = (run) => css(`--run-${numberOf(run)}`);

export async function render() {
  document.head.append(el("link", { rel: "stylesheet", href: new URL("./page.css", import.meta.url) }));
  document.title = "Folding";
  document.documentElement.lang = "en";
  followTheme(() => redraw());
  const content = el("main");
  document.body.replaceChildren(el("p", { class: "hint", style: "padding: 16px" }, "Loading…"));
  if (!(await loadPlotly())) {
    return document.body.replaceChildren(
      message("This tab is drawn by plotly, which is not installed where TensorBoard runs.",
        "pip install 'fold-lightning[tensorboard]'   # then start TensorBoard again"),
    );
  }
  document.body.replaceChildren(bar(), content);
  parts = PARTS.map((make) => make(state, { colourOf, swatchOf, change }));
  content.append(el("div", { id: "messages" }), ...parts.map((part) => part.element));
  await refresh();
  setInterval(() => document.hidden || refresh(), POLL_SECONDS * 1000);
}

function bar() {
  const runs = el("fieldset", { class: "runs", id: "runs" });
  const slider = el("input", { type: "range", id: "step", min: 0, max: 0, value: 0, "aria-label": "measurement", oninput: () => go(+slider.value) });
  const play = el("button", { id: "play", type: "button", "aria-pressed": "false", onclick: togglePlay }, "▶ Play");
  return el("div", { class: "bar" }, runs, el("div", { class: "steps" }, play, slider, el("output", { id: "where", for: "step" })));
}

function message(text, code) {
  return el("div", { class: "message", role: "status" }, text, code ? el("pre", {}, code) : null);
}

// Asks the server for what is new, also of runs that are still training, and draws if there is something.
async function refresh() {
  let runs;
  try {
    runs = await loadRuns();
  } catch (error) {
    return tell([message(`TensorBoard does not answer: ${error.message}. This page asks again every ${POLL_SECONDS} s.`)]);
  }
  for (const run of Object.keys(state.runs)) if (state.runs[run].written !== runs[run]?.written) forgetFrom(run, state.runs[run].last_step);
  const isNew = !document.body.dataset.drawn || JSON.stringify(runs) !== JSON.stringify(state.runs);
  state.runs = runs;
  const begun = usable().sort((a, b) => runs[b].tables.length - runs[a].tables.length);
  for (const run of begun) {
    if (!state.known.has(run) && state.chosen.size < MAX_CHOSEN) state.chosen.add(run);
    state.known.add(run);
  }
  for (const run of [...state.chosen]) if (!runs[run]) state.chosen.delete(run), given.delete(run);
  if (isNew) listRuns();
  if ((await readCurves()) || isNew) redraw();
}

// Reads the curves of the chosen runs, and returns whether they have changed.
async function readCurves() {
  const before = JSON.stringify(state.curves);
  const wanted = usable().filter((run) => state.chosen.has(run) && state.runs[run].curves);
  const read = await Promise.all(wanted.map((run) => loadCurves(run).catch(() => state.curves[run] || {})));
  state.curves = Object.fromEntries(wanted.map((run, i) => [run, read[i]]));
  if (JSON.stringify(state.curves) === before) return false;
  const isAtEnd = state.place >= state.steps.length - 1;
  const step = state.steps[state.place];
  const all = Object.values(state.curves).flatMap((curves) => Object.entries(curves));
  const found = new Set(all.filter(([tag]) => !tag.startsWith("regularizer/")).flatMap(([, curve]) => curve.steps));
  state.steps = [...found].sort((a, b) => a - b);
  const last = Math.max(0, state.steps.length - 1);
  state.place = isAtEnd ? last : Math.max(0, state.steps.findLastIndex((each) => each <= step));
  return true;
}

function listRuns() {
  const boxes = usable().map((run) => {
    const box = el("input", {
      type: "checkbox", checked: state.chosen.has(run),
      onchange: () => change(() => choose(run, box.checked), true),
    });
    return el("label", {}, box, state.chosen.has(run) ? swatch(swatchOf(run)) : null, run);
  });
  const others = Object.keys(state.runs).filter((run) => !usable().includes(run)).sort();
  const hint = others.length && boxes.length ? [el("span", { class: "hint" }, `Without a FoldingMonitor: ${others.join(", ")}`)] : [];
  document.getElementById("runs").replaceChildren(el("legend", {}, "Runs"), ...boxes, ...hint);
}

function choose(run, isChosen) {
  if (isChosen) state.chosen.add(run);
  else state.chosen.delete(run), given.delete(run);
  listRuns();
  [...document.querySelectorAll("#runs input")][usable().indexOf(run)].focus(); // where the keyboard was
}

// Changes what is shown, reads what that needs, and draws.
export async function change(make, needsCurves = false) {
  make();
  if (needsCurves) await readCurves();
  return redraw();
}

function go(place) {
  return change(() => (state.place = Math.min(Math.max(0, place), Math.max(0, state.steps.length - 1))));
}

async function togglePlay() {
  const button = document.getElementById("play");
  if (playing) {
    clearTimeout(playing);
    playing = null;
  } else {
    if (state.place >= state.steps.length - 1) state.place = -1;
    const next = async () => {
      await go(state.place + 1);
      if (playing === null) return;
      if (state.place < state.steps.length - 1) playing = setTimeout(next, PLAY_SECONDS * 1000);
      else togglePlay();
    };
    playing = setTimeout(next, 0);
  }
  button.setAttribute("aria-pressed", String(playing !== null));
  button.textContent = playing ? "❚❚ Pause" : "▶ Play";
}

// One drawing after the other: of those that were asked for meanwhile, the last.
let isAsked = false;
function redraw() {
  if (!parts.length || isAsked) return drawing;
  isAsked = true;
  drawing = drawing.then(async () => {
    isAsked = false;
    showPlace();
    tell(advice());
    const shown = { step: state.steps[state.place] ?? 0, runs: usable().filter((run) => state.chosen.has(run)) };
    for (const part of parts) {
      try {
        await part.draw(shown);
      } catch (error) {
        console.error(error);
        tell([...advice(), message(`A part can't be drawn: ${error.message}`)]);
      }
    }
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  });
  return drawing;
}

function showPlace() {
  const slider = document.getElementById("step");
  slider.max = Math.max(0, state.steps.length - 1);
  slider.value = state.place;
  slider.disabled = document.getElementById("play").disabled = state.steps.length < 2;
  const step = state.steps[state.place];
  const text = step === undefined ? "no measurement yet" : `step ${step} · ${state.place + 1} of ${state.steps.length}`;
  document.getElementById("where").textContent = text;
  slider.setAttribute("aria-valuetext", text);
}

function tell(messages) {
  document.getElementById("messages").replaceChildren(...messages);
}

function advice() {
  const all = usable();
  const code = "trainer = Trainer(callbacks=[FoldingMonitor()], logger=TensorBoardLogger('logs'))";
  if (!all.length) {
    const seen = Object.keys(state.runs).length;
    const which = { 0: "There are no runs with", 1: "The run here has no" }[seen] ?? `None of the ${seen} runs here has`;
    return [message(`${which} measurements of FoldingMonitor. Train with:`,
      `from fold_lightning import FoldingMonitor\n${code}`)];
  }
  if (!state.chosen.size) return [message("Choose a run above.")];
  const old = all.filter((run) => state.chosen.has(run) && !state.runs[run].tables.length);
  if (!old.length) return [];
  return [message(`${old.join(", ")}: this log has curves but no tables of segments, walks and faces, because an older version of ` +
    "fold_lightning wrote it. Train again to see them, or measure a checkpoint: trainer.validate(model, data) with the monitor.", code)];
}
