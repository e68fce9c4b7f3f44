// Elements of the page. All text goes through text nodes, so that no name of a run or layer is read as HTML.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Text for plotly, which reads some tags itself.
export function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

export function short(text, most = 40) {
  return text.length <= most ? text : `${text.slice(0, most / 2)}…${text.slice(-most / 2 + 1)}`;
}

// "class 3" and "class cat", but not "class class 3".
export const classWords = (name) => (/^class(?![a-z])/i.test(name) ? name : `class ${name}`);

// A line of each dash with its name: the legend of a chart in which colours are runs.
export function dashLegend(names) {
  const legend = el("div", { class: "hint legend" });
  names.forEach((name, i) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", 30);
    svg.setAttribute("height", 8);
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const shape = { x1: 0, x2: 28, y1: 4, y2: 4, stroke: "currentColor", "stroke-width": 2 };
    if (["", "7 4", "2 3", "7 3 2 3"][i % 4]) shape["stroke-dasharray"] = ["", "7 4", "2 3", "7 3 2 3"][i % 4];
    for (const [key, value] of Object.entries(shape)) line.setAttribute(key, value);
    svg.append(line);
    legend.append(el("span", {}, svg, ` ${name}`));
  });
  return legend;
}

// TensorBoard's page marks its dark mode on its body; this page lies in a frame of it. Elsewhere the browser's wish counts.
export function followTheme(changed) {
  const wish = window.matchMedia("(prefers-color-scheme: dark)");
  let host = null;
  try {
    host = window.parent !== window ? window.parent.document.body : null;
  } catch {
    host = null; // a page of another origin
  }
  const apply = () => {
    const isTensorBoard = host !== null && host.querySelector("tb-webapp") !== null;
    const dark = isTensorBoard ? host.classList.contains("dark-mode") : wish.matches;
    if (document.documentElement.classList.contains("dark") === dark) return;
    document.documentElement.classList.toggle("dark", dark);
    changed();
  };
  wish.addEventListener("change", apply);
  if (host !== null) new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class"] });
  apply();
}
