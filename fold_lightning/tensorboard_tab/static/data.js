// The logs as the plugin's server gives them. Tables never change, so each is asked for once.

const cache = new Map();
const MAX_CACHED = 400;

async function get(path, parameters = {}) {
  const address = new URL(`../${path}`, import.meta.url);
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  const response = await fetch(address);
  const content = await response.json();
  if (!response.ok) throw new Error(content.error || response.statusText);
  return content;
}

export const loadRuns = () => get("runs");
export const loadCurves = (run) => get("curves", { run });

// Columns of a table at the last measurement up to a step; null where the run has no such table.
export function loadTable(run, runs, table, step) {
  if (!runs[run]?.tables.includes(table)) return Promise.resolve(null);
  const key = JSON.stringify([run, table, step]);
  if (!cache.has(key)) {
    if (cache.size > MAX_CACHED) cache.delete(cache.keys().next().value);
    const answer = get("table", { run, table, step }).then((found) => ({ ...found.columns, step: found.step }));
    answer.catch(() => cache.delete(key));
    cache.set(key, answer);
  }
  return cache.get(key);
}

// What was asked for at a run's last step or past it is stale once the run has written more: its next measurement, or the map when training ended.
export function forgetFrom(run, step) {
  for (const key of [...cache.keys()]) {
    const [name, , at] = JSON.parse(key);
    if (name === run && at >= step) cache.delete(key);
  }
}

export function loadPlotly() {
  return new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = new URL("./plotly.js", import.meta.url);
    script.onload = () => resolve(true);
    script.onerror = () => resolve(false);
    document.head.append(script);
  });
}
