// How well each dictionary fits.

// [what, value] for the whole input and, if a dictionary reconstructs several sources, for each.
function explainedVariance(stats) {
  const parts = ["base", "tuned", "difference"]
    .map((part) => [part, stats[`fve_${part}`]])
    .filter(([, value]) => known(value) && value !== stats.fve);
  return [[parts.length ? "all" : "", stats.fve], ...parts];
}

function fitCell(axis, values, tone) {
  const row = ([part, value]) =>
    el(
      "div",
      { class: "fit-row" },
      el("span", { class: `fit-part is-${part}` }, part),
      bar(axis, value, { tone: part === "base" || part === "tuned" ? part : tone, label: percent(value) }),
      el("span", { class: "fit-value" }, percent(value, 3)),
    );
  return el("td", { class: "chart-cell" }, values.map(row));
}

function drawDictionaries() {
  const host = section("dictionaries");
  const shown = DATA.dictionaries.filter((dictionary) => dictionary.stats);
  if (shown.length === 0) return host.append(absent("No dictionary was trained in this run."));
  const axis = shareAxis(shown.flatMap(({ stats }) => explainedVariance(stats).map(([, value]) => value)));
  const head = [
    ["", "Dictionary"],
    ["chart-cell", term("fve")],
    ["chart-cell", term("dead")],
    ["numeric", term("l0")],
    ["numeric", term("k")],
    ["numeric", "Latents"],
    ["numeric wide-only", "Training tokens"],
    ["numeric wide-only", "Tokens/s"],
  ];
  const table = el(
    "table",
    { class: "fit-table" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        head.map(([kind, label]) => el("th", { scope: "col", class: kind }, label)),
      ),
    ),
    el(
      "tbody",
      {},
      shown.map(({ name, stats, config }) =>
        el(
          "tr",
          {},
          el("th", { scope: "row" }, name),
          fitCell(axis, explainedVariance(stats), "main"),
          fitCell(shareAxis([]), [["", stats.dead_share]], "control"),
          el("td", { class: "numeric" }, number(stats.l0)),
          el("td", { class: "numeric" }, number(stats.k ?? config.k)),
          el("td", { class: "numeric" }, whole(config.latents)),
          el("td", { class: "numeric wide-only" }, whole(stats.tokens)),
          el("td", { class: "numeric wide-only" }, whole(stats.tokens_per_second)),
        ),
      ),
    ),
  );
  return host.append(el("div", { class: "scroll" }, table));
}
