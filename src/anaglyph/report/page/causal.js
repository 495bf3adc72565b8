// How much of the change in behaviour each edit carries.

function interventionWords(name) {
  for (const [pattern, label, what, tone] of INTERVENTIONS) {
    const match = name.match(pattern);
    if (match) return { label: label.replace("$1", match[1]).replace("$2", match[2]), what, tone };
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
        el("th", { scope: "col" }, "Patched into the tuned model"),
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
        "There is no gap to explain: with the base model's activation patched in, the tuned model predicts the same, up to numerical noise.",
      ),
      el("details", {}, el("summary", {}, "What was measured"), content),
    );
  }
  return host.append(
    el(
      "p",
      { class: "lead" },
      "We patch an edited activation into the tuned model at this layer and run its remaining layers. The more of the ",
      term("kl", "KL gap"),
      " an edit closes, the more of the change in behaviour it carries. ",
      known(tokens)
        ? `Measured on ${whole(tokens)} held-out tokens of ${plural(sequences, "sequence")}; whiskers show 95% intervals over sequences.`
        : null,
    ),
    content,
    ...[curves(shown, axis), otherPlaces(shown)].flat(),
  );
}

// KL recovered against the number of latents added, compared with PCA of the same rank.
function curves(shown, axis) {
  const points = (rows, pattern) =>
    rows
      .map((row) => [row.intervention.match(pattern), row])
      .filter(([match, row]) => match && known(row.recovered))
      .map(([match, row]) => [Number(match[1]), row])
      .sort(([a], [b]) => a - b);
  const series = shown.map(({ name, causal }) => [name, points(causal, /^subset top (\d+)$/)]);
  series.push(["PCA", points(shown[0].causal, /^pca rank (\d+)$/)]);
  const drawn = series.filter(([, found]) => found.length > 1);
  if (drawn.length === 0) return [];
  const cell = ([count, row]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, whole(count)),
      el(
        "td",
        { class: "chart-cell" },
        bar(axis, row.recovered, {
          low: row.recovered_low,
          high: row.recovered_high,
          label: `${row.intervention}: ${percent(row.recovered)} recovered`,
        }),
      ),
      el("td", { class: "numeric" }, percent(row.recovered)),
    );
  return el(
    "details",
    { class: "curve" },
    el("summary", {}, "KL recovered by number of latents"),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        { class: "causal-table" },
        drawn.map(([name, found]) =>
          el(
            "tbody",
            {},
            el("tr", { class: "group" }, el("th", { scope: "rowgroup", colspan: 3 }, name)),
            found.map(cell),
          ),
        ),
      ),
    ),
  );
}

// The same edits judged at other tokens, or in the other direction.
function otherPlaces(shown) {
  const rows = shown.flatMap(({ name, places }) =>
    (places ?? [])
      .filter((row) => known(row.recovered) && /^(reconstruction|error|template only)$/.test(row.intervention))
      .map((row) => [name, row]),
  );
  if (rows.length === 0) return [];
  return el(
    "details",
    {},
    el("summary", {}, "At other tokens"),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        { class: "causal-table" },
        rows.map(([name, row]) =>
          el(
            "tr",
            {},
            el("th", { scope: "row" }, `${name}: ${interventionWords(row.intervention).label}`),
            el("td", {}, `${row.positions}, into ${row.into}`),
            el("td", { class: "numeric" }, percent(row.recovered)),
            el("td", { class: "numeric" }, interval(row.recovered_low, row.recovered_high, percent)),
          ),
        ),
      ),
    ),
  );
}

// Rows without a dictionary are in every table; where all tables agree they are shown once.
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
