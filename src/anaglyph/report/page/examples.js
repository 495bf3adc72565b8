// Example windows: the text once, the base model's strength above it and the tuned model's below.

const WINDOWS_AT_FIRST = 3;
// Smaller bars would be hairlines under every word, so they are left out; the tooltip has the number.
const LEAST_BAR = 0.04;

// One scale for both models and all windows of a latent: that is what makes them comparable.
function strengthScale(windows) {
  let top = 0;
  for (const view of windows) {
    for (const row of [view.b, view.t])
      for (const value of row) if (known(value)) top = Math.max(top, Math.abs(value));
  }
  return top;
}

const isBreak = (text) => /^[\n\r]+$/.test(text);
function visible(text) {
  if (text === "") return "∅";
  return text.replace(/\r?\n|\r/g, "↵").replace(/\t/g, "⇥");
}

function tokenView(view, i, scale) {
  const height = (value) => {
    const part = known(value) && scale > 0 ? Math.abs(value) / scale : 0;
    return part < LEAST_BAR ? "0" : part.toFixed(3);
  };
  const [base, tuned, code, role] = [view.b[i], view.t[i], view.c[i], view.r[i]];
  const marks = ["token"];
  if (code > 0) marks.push("fires");
  if (i === view.p) marks.push("peak");
  if (role === "template" || role === "bos") marks.push("template");
  if (base < 0) marks.push("base-negative");
  if (tuned < 0) marks.push("tuned-negative");
  const node = el(
    "span",
    { class: marks.join(" "), vars: { "--up": height(base), "--down": height(tuned) } },
    visible(view.x[i]),
  );
  return withTip(node, () => [
    el("div", { class: "tip-title" }, `“${visible(view.x[i])}” · ${ROLES[role] ?? role}`),
    el("div", { class: "is-base" }, `base ${number(base)}`),
    el("div", { class: "is-tuned" }, `tuned ${number(tuned)}`),
    el("div", {}, code > 0 ? `code ${number(code)}` : "latent not active"),
  ]);
}

function windowView(view, scale) {
  const line = el("p", { class: "tokens" });
  let role = null;
  view.x.forEach((text, i) => {
    const now = view.r[i];
    // Template tokens interrupt roles all the time and are dimmed anyway: they get no label.
    if (now !== role && now !== "template" && now !== "bos" && now !== "text") {
      line.append(el("span", { class: "role" }, ROLES[now] ?? now));
    }
    if (now !== "template" && now !== "bos") role = now;
    line.append(tokenView(view, i, scale));
    if (isBreak(text)) line.append(el("wbr"));
  });
  const at = el(
    "div",
    { class: "window-facts" },
    el("span", { class: "is-base" }, `base ${number(view.b[view.p])}`),
    el("span", { class: "is-tuned" }, `tuned ${number(view.t[view.p])}`),
    known(view.s) ? el("span", { class: "quiet" }, `sequence ${whole(view.s)}`) : null,
  );
  return el("li", { class: "window" }, at, line);
}

function exampleLegend(scale) {
  if (scale === 0) {
    return absent("There are no strengths here: the models have different widths, or the latent has no direction.");
  }
  return el(
    "p",
    { class: "legend" },
    el("span", { class: "swatch base" }),
    "base, above the text ",
    el("span", { class: "swatch tuned" }),
    "tuned, below it ",
    el("span", {}, term("strength", "strength"), `: a full bar is ${number(scale)} for both`),
    el("span", {}, "hatched: negative"),
    el("span", {}, el("b", {}, "bold"), ": latent active"),
    el("span", {}, el("span", { class: "ring" }, "ring"), ": peak"),
  );
}

function windowsView(windows) {
  const scale = strengthScale(windows);
  const list = el("ol", { class: "windows" });
  windows.slice(0, WINDOWS_AT_FIRST).forEach((view) => list.append(windowView(view, scale)));
  const rest = windows.slice(WINDOWS_AT_FIRST);
  const more =
    rest.length === 0
      ? null
      : el(
          "button",
          {
            type: "button",
            class: "more",
            onclick: () => {
              rest.forEach((view) => list.append(windowView(view, scale)));
              more.remove();
            },
          },
          `Show ${plural(rest.length, "more example")}`,
        );
  return el("div", { class: "examples" }, exampleLegend(scale), list, more);
}

// The tokens at the peaks, most frequent first: a summary of what a latent is about.
function peakTokens(windows, limit = 3) {
  const counts = new Map();
  for (const view of windows ?? []) {
    const text = visible(view.x[view.p]).trim() || visible(view.x[view.p]);
    counts.set(text, (counts.get(text) ?? 0) + 1);
  }
  return [...counts]
    .sort((a, b) => b[1] - a[1])
    .slice(0, limit)
    .map(([text]) => text);
}
