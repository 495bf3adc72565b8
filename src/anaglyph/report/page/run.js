// The run's facts and the glossary.

function drawRun() {
  const host = section("run");
  const run = DATA.run;
  if (run === null)
    return host.append(absent("There are no facts about this run: run.json is missing."));
  const stages = Object.entries(run.stages ?? {});
  const seconds = stages.reduce((sum, [, stage]) => sum + (stage.seconds ?? 0), 0);
  const { corpus = {}, config = {} } = run;
  const facts = [
    ["Base", run.base],
    ["Tuned", run.tuned],
    [
      "Layer",
      known(run.layer)
        ? `${run.layers?.length > 1 ? run.layers.join(", ") : run.layer}${known(run.n_layers) ? ` of ${run.n_layers}, counted from 0` : ""}`
        : NONE,
    ],
    ["Text", [run.data?.length ? run.data.join(", ") : (corpus.source ?? NONE)]],
    ["Size", `${whole(corpus.tokens)} tokens in ${whole(corpus.sequences)} sequences`],
    ["Seed", config.seed ?? run.seeds?.seed ?? NONE],
    [
      "Time",
      stages.length
        ? `${duration(seconds)}${known(run.threads) ? ` on ${plural(run.threads, "thread")}` : ""}`
        : NONE,
    ],
    ["Made", run.created ? run.created.replace("T", " ").slice(0, 16) : NONE],
    ["anaglyph", run.anaglyph ?? NONE],
  ];
  host.append(
    el(
      "dl",
      { class: "facts" },
      facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
    ),
  );
  const warnings = [...(run.notes ?? []), ...(DATA.reading?.warnings ?? [])];
  if (warnings.length)
    host.append(
      el("p", {}, "What to know of the pair and the text:"),
      el("ul", {}, warnings.map((line) => el("li", {}, line))),
    );
  const read = DATA.reading ?? {};
  const vocabulary = Object.entries(run.vocabulary ?? {}).map(([name, value]) => [
    name,
    Array.isArray(value) ? (value.length ? value.slice(0, 20).join(", ") : NONE) : value,
  ]);
  const details = [
    ["Tokens read, by role", read.tokens_read],
    ["Tokens beyond the context, by role", read.tokens_cut],
    ["Rows skipped, by reason", read.skipped],
    ["Vocabularies", Object.fromEntries(vocabulary)],
    ["Settings", config],
    ["Fingerprints", run.fingerprints],
    ["Versions", run.versions],
    ["Seconds per stage", Object.fromEntries(stages.map(([name, stage]) => [name, stage.seconds]))],
  ];
  for (const [title, values] of details) {
    if (values && Object.keys(values).length)
      host.append(el("details", {}, el("summary", {}, title), pairsTable(values)));
  }
  return host;
}

function drawGlossary() {
  const list = el("dl", { class: "glossary" });
  for (const [key, [label, text]] of Object.entries(GLOSSARY)) {
    const [cited, place] = SOURCES[key] ?? [];
    list.append(
      el(
        "div",
        { id: `glossary-${key}` },
        el("dt", {}, label),
        el("dd", {}, text, cited ? el("span", { class: "quiet" }, ` [${cited}: ${place}]`) : null),
      ),
    );
  }
  section("glossary").append(
    list,
    el(
      "p",
      { class: "quiet" },
      Object.entries(CITED).map(([key, [title, link]]) => [
        el("span", {}, `[${key}] `),
        el("a", { href: link, rel: "noreferrer" }, title),
        ". ",
      ]),
    ),
  );
}
