// Elements, numbers and tooltips. Text from the run only ever becomes a text node.

const SVG_SPACE = "http://www.w3.org/2000/svg";
const NONE = "–";

window.addEventListener("error", (event) => fail(event.message));

// Marks the page as broken, for readers and for tests.
function fail(message) {
  document.documentElement.dataset.error = message;
  document
    .querySelector("main")
    .prepend(
      el("p", { class: "absent", role: "alert" }, `A part of this page could not be drawn: ${message}`),
    );
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "vars")
      for (const [key, item] of Object.entries(value)) node.style.setProperty(key, item);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG_SPACE, tag), attributes, children);

const DATA = JSON.parse(document.getElementById("data").textContent);
const section = (id) => document.getElementById(id);
const absent = (text) => el("p", { class: "absent" }, text);

// --- numbers ---
const known = (value) => typeof value === "number" && Number.isFinite(value);

function whole(value) {
  return known(value) ? Math.round(value).toLocaleString("en-GB") : NONE;
}

function number(value, digits = 3) {
  if (!known(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4)
    return value
      .toExponential(digits - 1)
      .replace("e+", "e")
      .replace("-", "−");
  const places = Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  const text = Number(value.toFixed(places)).toLocaleString("en-GB", { maximumFractionDigits: places });
  return text.replace("-", "−");
}

function percent(value, digits = 2) {
  if (!known(value)) return NONE;
  const size = Math.abs(value) * 100;
  if (size === 0) return "0%";
  if (size < 0.001) return "<0.001%";
  const places = size >= 10 ? (digits > 2 ? 1 : 0) : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return `${(value * 100).toFixed(places).replace("-", "−")}%`;
}

function interval(low, high, format = number) {
  if (known(low) && known(high)) return low !== high ? `${format(low)} to ${format(high)}` : null;
  if (known(low)) return `${format(low)} or more`;
  return known(high) ? `${format(high)} or less` : null;
}

function duration(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 60) return `${number(seconds, 2)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60
    ? `${minutes} min ${Math.round(seconds % 60)} s`
    : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

// A value of any kind, from a part of an artifact that this page does not know.
function plain(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "number") return number(value, 4);
  if (Array.isArray(value)) return value.map(plain).join(", ") || NONE;
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function pairsTable(values) {
  return el(
    "table",
    { class: "pairs" },
    el(
      "tbody",
      {},
      Object.entries(values).map(([name, value]) =>
        el("tr", {}, el("th", { scope: "row" }, name.replaceAll("_", " ")), el("td", {}, plain(value))),
      ),
    ),
  );
}

// --- tooltips: one bubble, filled from whatever is under the pointer or has the focus ---
const tip = document.getElementById("tip");
const tips = new WeakMap();

// `content` is text, an array of lines or a function that returns one of them.
function withTip(node, content) {
  tips.set(node, content);
  node.classList.add("has-tip");
  return node;
}

function showTip(content, x, y) {
  const lines = [content].flat(Infinity);
  tip.replaceChildren(...lines.map((line) => (line instanceof Node ? line : el("div", {}, line))));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x - box.width / 2), document.documentElement.clientWidth - box.width - 8);
  const above = y - box.height - 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : y + 22}px`;
}
const hideTip = () => {
  tip.hidden = true;
};

function tipOf(target) {
  const node = target instanceof Element ? target.closest(".has-tip") : null;
  return node && tips.has(node) ? node : null;
}

function openTip(node) {
  const content = tips.get(node);
  const box = node.getBoundingClientRect();
  node.setAttribute("aria-describedby", "tip");
  showTip(typeof content === "function" ? content() : content, box.left + box.width / 2, box.top);
}
document.addEventListener("pointerover", (event) => {
  const node = tipOf(event.target);
  if (node) openTip(node);
  else hideTip();
});
document.addEventListener("focusin", (event) => {
  const node = tipOf(event.target);
  if (node && node.matches(":focus-visible")) openTip(node);
});
document.addEventListener("focusout", hideTip);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
});
document.addEventListener("scroll", hideTip, { passive: true, capture: true });

// A word with its definition: hover or focus shows it, and a click leads to the glossary.
function term(key, label = GLOSSARY[key][0]) {
  return withTip(el("a", { class: "term", href: `#glossary-${key}` }, label), GLOSSARY[key][1]);
}
