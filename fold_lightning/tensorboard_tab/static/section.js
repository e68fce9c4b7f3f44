// What parts of the tab are made of: a section with its sentences, and a card of a chart for each run.

import { el, short } from "./dom.js";

export function part(id, title, meaning, ...content) {
  const how = el("p", { class: "how" });
  const element = el("section", { id, "aria-label": title }, el("h2", {}, title), el("p", {}, meaning), how, ...content);
  return { element, how };
}

export const swatch = (colour) => el("span", { class: "swatch", style: `background: ${colour}`, "aria-hidden": "true" });

// A card of a chart for each name; those of names that are gone are taken away.
export function cards(grid, size) {
  const known = new Map();
  return {
    get(name, heading, colour) {
      if (!known.has(name)) {
        const plot = el("div", { class: `plot ${size}` });
        const [title, above, below] = [el("h3"), el("div"), el("div", { class: "hint" })];
        const card = el("div", { class: "card" }, title, above, plot, below);
        grid.append(card);
        known.set(name, { card, plot, above, below, title });
      }
      const found = known.get(name);
      found.title.replaceChildren(...(colour ? [swatch(colour)] : []), el("span", {}, heading));
      return found;
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

// Fills the sentences that say how each run was measured; what is true of several runs is said once.
export function tellPerRun(how, sentences) {
  const runs = new Map();
  for (const [run, text] of sentences) if (text) runs.set(text, [...(runs.get(text) || []), run]);
  const lines = [...runs].map(([text, names]) => el("span", { class: "line" }, ...(runs.size > 1 ? [el("b", {}, names.map((name) => short(name)).join(", ")), ": "] : []), text));
  how.replaceChildren(...lines);
}

export function howFolding(about, segments) {
  if (!about?.method) return "";
  const share = segments ? segments.exact.filter(Boolean).length / segments.exact.length : null;
  const reason = reasonOf(about.method_reason);
  if (about.method !== "exact") return `Method ${about.method}: ${about.num_points} equidistant points of each segment${reason}. ${about.segments}.`;
  if (share === null || share === 1) return `Method exact: every region on each segment is found${reason}. ${about.segments}.${share ? " All walks are exact and verified." : ""}`;
  const way = "Walked over whole segments, to a small resolution: where the network curves, it is interpolated, and switches are sought on the interpolation";
  const few = share ? ` ${percent(share)} of the walks are exact and verified.` : "";
  return `${way}${reason}. ${about.segments}.${few}`;
}

// Why a method was chosen, from the words of the log: "because a walk evaluates ...", "as before the checkpoint".
function reasonOf(text) {
  return text ? ` (chosen ${text})` : "";
}

// Not all, so not 100 %; and not none, so not 0 %.
function percent(share) {
  const rounded = Math.round(100 * share);
  return rounded === 0 ? "Less than 1 %" : `${Math.min(99, rounded)} %`;
}

// The name of a class where the log has one, else its number.
export const className = (about, label) => about?.class_names?.[label] ?? String(label);

// What tells a class of a run from others, and is the same in all runs that have the class: its name, with its number where names are alike.
export function classKey(about, label) {
  const [names, name] = [about?.class_names, className(about, label)];
  return names && names.indexOf(name) !== names.lastIndexOf(name) ? `${name} (${label})` : name;
}
