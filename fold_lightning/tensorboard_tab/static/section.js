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
  const found = share === null || share === 1 ? "every region on each segment is found" : "switches are sought on the whole segment, and found to a small resolution where the network curves";
  const method = about.method === "exact" ? found : `${about.num_points} equidistant points of each segment`;
  const exact = share === null || about.method !== "exact" ? "" : share === 1 ? " All walks are exact and verified." : ` ${Math.round(100 * share)} % of the walks are exact and verified.`;
  return `Method ${about.method}: ${method} (${about.method_reason}). ${about.segments}.${exact}`;
}

// The name of a class where the log has one, else its number.
export const className = (about, label) => about?.class_names?.[label] ?? String(label);

// The name of a class and its number, for names may be alike.
export const classTitle = (about, label) => (about?.class_names?.[label] ? `${about.class_names[label]} (${label})` : String(label));
