// The verdict in plain words, and the numbers that a reader looks for first.

function pairNames() {
  const short = (name) => name.replace(/\/+$/, "").split("/").pop();
  const { base, tuned } = DATA.run ?? {};
  if (!base) return null;
  // If two paths have the same last part, show them whole.
  return base !== tuned && short(base) === short(tuned) ? [base, tuned] : [short(base), short(tuned)];
}

function drawVerdict() {
  const names = pairNames();
  const verdict = DATA.verdict?.verdict ?? null;
  const found = verdict !== null && !/^no\b/i.test(verdict);
  const state = verdict === null ? "unknown" : found ? "found" : "same";
  const headline = verdict === null ? "No verdict yet" : found ? "The models differ" : "No difference found";
  const where = [];
  const { layer, layers, n_layers: depth, corpus } = DATA.run ?? {};
  const read = layers?.length > 1 ? `layers ${layers.join(", ")}` : `layer ${layer}`;
  if (known(layer)) where.push(`${read}${known(depth) ? ` of ${depth}` : ""}`);
  if (known(corpus?.tokens)) where.push(`${whole(corpus.tokens)} tokens`);
  if (known(corpus?.sequences)) where.push(`${whole(corpus.sequences)} sequences`);
  fill(section("verdict"), { class: `verdict ${state}` }, [
    names === null
      ? null
      : el(
          "p",
          { class: "models" },
          el("span", { class: "model is-base" }, el("small", {}, "base"), names[0]),
          el("span", { class: "versus", "aria-hidden": "true" }, "→"),
          el("span", { class: "model is-tuned" }, el("small", {}, "tuned"), names[1]),
        ),
    el("h1", {}, headline),
    DATA.behaviour?.claims?.length ? el("p", { class: "reason claimed" }, DATA.behaviour.headline) : null,
    el(
      "p",
      { class: "reason" },
      verdict === null
        ? "This run has no findings yet. Finished stages are shown below."
        : `${sentence(DATA.verdict.reason)}.`,
    ),
    DATA.verdict?.advice ? el("p", { class: "reason" }, `What would help: ${DATA.verdict.advice}.`) : null,
    where.length === 0 ? null : el("p", { class: "where" }, where.join(" · ")),
    gapByRole(),
    summary(found),
  ]);
}

function sentence(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : text;
}

// Where the predictions differ: one row a role of token, the largest share of the KL first.
function gapByRole() {
  const roles = DATA.verdict?.apart?.roles ?? [];
  if (roles.length < 2) return null;
  const head = ["tokens of role", "held-out tokens", "KL, nats a token", "share of the KL"];
  return el(
    "details",
    { class: "by-role" },
    el("summary", {}, "Where the predictions differ"),
    el(
      "table",
      {},
      el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))),
      el(
        "tbody",
        {},
        roles.map(({ role, tokens, kl, share }) =>
          el(
            "tr",
            {},
            el("td", {}, role),
            el("td", { class: "numeric" }, whole(tokens)),
            el("td", { class: "numeric" }, number(kl)),
            el("td", { class: "numeric" }, known(share) ? percent(share) : NONE),
          ),
        ),
      ),
    ),
  );
}

function reconstructionOf(dictionary) {
  return dictionary.causal?.find((row) => row.intervention === "reconstruction") ?? null;
}

// The dictionary that explains the behaviour best comes first in every section of the page.
function orderDictionaries() {
  const merit = (dictionary) => reconstructionOf(dictionary)?.recovered ?? -Infinity;
  DATA.dictionaries.sort((a, b) => merit(b) - merit(a) || 0);
}

// The two or three numbers that a reader would look for first, as sentences.
function summary(found) {
  const lines = [];
  const [dictionary] = DATA.dictionaries;
  const best = dictionary ? reconstructionOf(dictionary) : null;
  if (found && known(best?.recovered)) {
    const none = dictionary.causal.find((item) => item.intervention === "none");
    const error = dictionary.causal.find((item) => item.intervention === "error");
    const range = interval(best.recovered_low, best.recovered_high, percent);
    lines.push(
      el(
        "p",
        {},
        known(none?.kl)
          ? [
              "Patching the base model's activation into the tuned model costs ",
              el("b", {}, `${number(none.kl)} nats per token`),
              ". ",
            ]
          : null,
        `Patching in the reconstruction of the ${dictionary.name} recovers `,
        el("b", {}, percent(best.recovered)),
        range ? ` (${range})` : null,
        " of this gap",
        known(error?.recovered)
          ? ["; patching in its error recovers ", el("b", {}, percent(error.recovered))]
          : null,
        ".",
      ),
    );
  }
  if (!found && DATA.verdict) {
    lines.push(
      el(
        "p",
        {},
        "Activations and predictions are equal up to rounding on this text. A change that this text never triggers is not visible here.",
      ),
    );
  }
  const limit = DATA.verdict?.detection_limit ?? null;
  if (limit !== null) {
    lines.push(
      el(
        "p",
        {},
        `Detection limit: with a probability of ${percent(limit.probability)}, this run finds a new feature of strength `,
        el("b", {}, number(limit.size)),
        ` (${percent(limit.relative)} of a typical activation) that is active at ${percent(limit.frequency)} of the tokens. We planted ${whole(limit.trials)} test features near this size in the activations; ${whole(limit.found)} were found.`,
      ),
    );
  }
  for (const reason of DATA.verdict?.skipped ?? []) lines.push(el("p", {}, `Skipped: ${reason}.`));
  return lines.length ? el("div", { class: "summary" }, lines) : null;
}
