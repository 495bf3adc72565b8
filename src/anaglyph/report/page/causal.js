// How much of the difference in behaviour each edit carries.

function interventionWords(name) {
  for (const [pattern, label, what, tone] of INTERVENTIONS) {
    const match = name.match(pattern);
    if (match) return { label: label.replace("$1", match[1]), what, tone };
  }
  return { label: name, what: null, tone: "main" };
}

function drawCausal() {
  const host = section("causal");
  const shown = DATA.dictionaries.filter((dictionary) => dictionary.causal);
  if (shown.length === 0) return host.append(absent("No intervention was measured in this run."));
  const rows = shown.flatMap((dictionary) => dictionary.causal);
  const axis = shareAxis(rows.flatMap((row) => [row.recovered, row.recovered_low, row.recovered_high]));
  const table = el(
    "table",
    { class: "causal-table" },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        el("th", { scope: "col" }, "Put into the tuned model"),
        el("th", { scope: "col", class: "chart-cell" }, axisHead(axis)),
        el("th", { scope: "col", class: "numeric" }, term("recovered")),
        el("th", { scope: "col", class: "numeric wide-only" }, term("kl", "KL, nats")),
        el("th", { scope: "col", class: "numeric wide-only" }, "Latents"),
      ),
    ),
  );
  const shared = sharedRows(shown);
  const isShared = (row) => shared.some((other) => other.intervention === row.intervention);
  const groups = shown.map(({ name, causal }) => [name, causal.filter((row) => !isShared(row))]);
  if (shared.length) groups.push([shown.length > 1 ? "without a dictionary" : "for comparison", shared]);
  for (const [name, members] of groups) {
    table.append(
      el(
        "tbody",
        {},
        el("tr", { class: "group" }, el("th", { scope: "rowgroup", colspan: 5 }, name)),
        members.map((row) => causalRow(row, axis)),
      ),
    );
  }
  const { tokens, sequences } = rows.find((row) => known(row.tokens)) ?? {};
  const content = el("div", { class: "scroll" }, table);
  if (!rows.some((row) => known(row.recovered) && row.intervention !== "none")) {
    return host.append(
      absent(
        "There is no gap to explain: with the base model's activation in its place the tuned model predicts the same, up to numerical noise.",
      ),
      el("details", {}, el("summary", {}, "What was measured"), content),
    );
  }
  return host.append(
    el(
      "p",
      { class: "lead" },
      "An edited activation goes into the tuned model at this layer; its remaining layers run on. The more of the ",
      term("kl", "KL gap"),
      " closes, the more of the difference in behaviour the edit carries. ",
      known(tokens)
        ? `Measured on ${whole(tokens)} held-out tokens of ${plural(sequences, "sequence")}; whiskers are 95% intervals over sequences.`
        : null,
    ),
    content,
  );
}

// Rows in which no dictionary plays a part stand in every table; where all agree they are shown once.
function sharedRows(shown) {
  const same = (row) => (other) => Object.keys(row).every((key) => row[key] === other[key]);
  return shown[0].causal.filter(
    (row) => row.dictionary === null && shown.every(({ causal }) => causal.some(same(row))),
  );
}

function causalRow(row, axis) {
  const { label, what, tone } = interventionWords(row.intervention);
  const range = interval(row.recovered_low, row.recovered_high, percent);
  const name = el(
    "th",
    { scope: "row" },
    el(
      "span",
      { class: what || row.formula ? "term" : null, tabindex: what || row.formula ? 0 : null },
      label,
    ),
  );
  if (what || row.formula)
    withTip(name.firstChild, [what ?? [], row.formula ? el("div", { class: "formula" }, row.formula) : []]);
  return el(
    "tr",
    { class: tone },
    name,
    el(
      "td",
      { class: "chart-cell" },
      bar(axis, row.recovered, {
        low: row.recovered_low,
        high: row.recovered_high,
        tone,
        label: `${label}: ${percent(row.recovered)} recovered`,
      }),
    ),
    el("td", { class: "numeric" }, percent(row.recovered), range ? el("small", {}, range) : null),
    el(
      "td",
      { class: "numeric wide-only" },
      number(row.kl),
      known(row.kl_low) ? el("small", {}, interval(row.kl_low, row.kl_high)) : null,
    ),
    el("td", { class: "numeric wide-only" }, whole(row.n_latents)),
  );
}
