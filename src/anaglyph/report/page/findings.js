// One card per finding: kind, size, frequency, how much behaviour it carries, and examples.

const CARDS_AT_FIRST = 10;

const latentLink = (name, latent) => `#latent=${encodeURIComponent(name)}/${latent}`;

function latentExamples(name, latent) {
  const dictionary = DATA.dictionaries.find((item) => item.name === name);
  return dictionary?.examples?.[latent] ?? null;
}

// A finding's own windows, or else those of its first latent that has some.
function findingWindows(finding) {
  if (finding.windows?.length) return finding.windows;
  for (const [name, latent] of finding.latents) {
    const windows = latentExamples(name, latent);
    if (windows) return windows;
  }
  return [];
}

function measure(label, ...content) {
  return el("div", { class: "measure" }, el("div", { class: "measure-name" }, label), content);
}

// The effect in the unit of the finding's kind: its format and its meaning.
const EFFECTS = {
  new: [percent, "of its strength is in the base model"],
  removed: [percent, "of its strength remains in the tuned model"],
  scaled: [(value) => `×${number(value)}`, "strength in the tuned model / in the base model"],
  rotated: [(value) => `${number(value)}°`, "between its directions in the two models"],
  retriggered: [(value) => `×${number(value)}`, "frequency in the tuned model / in the base model"],
  refrequencied: [(value) => `×${number(value)}`, "frequency in the tuned model / in the base model"],
  "mean-shift": [number, "length of the shift, in units of the activations"],
};

function foundAt([strongest, ...others]) {
  if (others.length === 0) return `Found at layer ${strongest}.`;
  return `Found at layer ${strongest}, where it closes most, and at ${others.join(" and ")}.`;
}

function findingCard(finding, rank) {
  const label = KINDS[finding.kind] ?? finding.kind;
  const windows = findingWindows(finding);
  const peaks = peakTokens(windows);
  const [written, meaning] = EFFECTS[finding.kind] ?? [number, null];
  const range = interval(finding.low, finding.high, written);
  const links = finding.latents.map(([name, latent]) =>
    el("a", { href: latentLink(name, latent) }, `${name} ${latent}`),
  );
  const rest = Object.entries(finding.evidence ?? {});
  return el(
    "article",
    { class: "card", id: `finding-${rank}`, "aria-labelledby": `finding-${rank}-title` },
    el(
      "header",
      {},
      el("span", { class: "rank", "aria-hidden": "true" }, String(rank)),
      el(
        "h3",
        { id: `finding-${rank}-title` },
        label,
        peaks.length
          ? el(
              "span",
              { class: "peaks" },
              " — strongest on ",
              peaks.map((text, i) => [i ? ", " : "", el("q", {}, text)]),
            )
          : null,
      ),
      el("span", { class: "kind" }, finding.kind),
    ),
    el(
      "div",
      { class: "measures" },
      measure(
        term("effect"),
        el("div", { class: "big" }, written(finding.effect), range ? el("small", {}, range) : null),
        el("div", { class: "quiet" }, meaning),
      ),
      measure(
        term("frequency"),
        known(finding.frequency_base) || known(finding.frequency_tuned)
          ? [
              pairBars(finding.frequency_base, finding.frequency_tuned, percent),
              el("div", { class: "quiet" }, "of tokens"),
            ]
          : [el("div", { class: "big" }, NONE), el("div", { class: "quiet" }, "not measured")],
      ),
      measure(
        term("recovered"),
        el("div", { class: "big" }, percent(finding.kl_recovered)),
        known(finding.kl_recovered)
          ? bar(shareAxis([finding.kl_recovered]), finding.kl_recovered, {
              label: percent(finding.kl_recovered),
            })
          : null,
        el(
          "div",
          { class: "quiet" },
          known(finding.kl_recovered) ? "of the KL gap, by this finding alone" : "not measured",
        ),
      ),
      measure(
        term("q_value"),
        el("div", { class: "big" }, number(finding.q_value, 2)),
        el(
          "div",
          { class: "quiet" },
          known(finding.q_value) ? null : "not tested; ",
          links.length
            ? ["shown by ", links.map((link, i) => [i ? ", " : "", link])]
            : "no single latent shows it",
        ),
      ),
    ),
    finding.depth.length
      ? el("p", { class: "quiet" }, foundAt(finding.layers))
      : null,
    windows.length
      ? windowsView(windows)
      : absent(
          finding.windows === null
            ? "The examples are left out to keep this page small; findings.json has them."
            : "This run kept no examples of this finding.",
        ),
    rest.length
      ? el("details", {}, el("summary", {}, "Evidence"), pairsTable(Object.fromEntries(rest)))
      : null,
  );
}

function drawFindings() {
  const host = section("findings");
  const findings = DATA.findings;
  if (findings === null)
    return host.append(absent("The findings stage has not run: findings.json is missing."));
  if (findings.length === 0)
    return host.append(
      absent("No findings: nothing stands out from the noise."),
      likeNoise(1) ?? "",
    );
  const { found } = DATA.verdict;
  host.append(
    el(
      "p",
      { class: "lead" },
      `${plural(found, "finding")}, strongest first.`,
      found > findings.length
        ? ` This page shows the top ${whole(findings.length)}; findings.json lists them all.`
        : null,
    ),
  );
  const list = el("div", { class: "cards" });
  findings.slice(0, CARDS_AT_FIRST).forEach((finding, i) => list.append(findingCard(finding, i + 1)));
  const rest = findings.slice(CARDS_AT_FIRST);
  const more =
    rest.length === 0
      ? null
      : el(
          "button",
          {
            type: "button",
            class: "more",
            onclick: () => {
              rest.forEach((finding, i) => list.append(findingCard(finding, CARDS_AT_FIRST + i + 1)));
              more.remove();
            },
          },
          `Show ${plural(rest.length, "more finding")}`,
        );
  return host.append(list, more ?? "", likeNoise(findings.length + 1) ?? "");
}

function likeNoise(first) {
  const further = DATA.like_noise ?? [];
  if (further.length === 0) return null;
  return el(
    "details",
    {},
    el(
      "summary",
      {},
      `${plural(further.length, "more change")} not named: like random weight noise, or only estimated`,
    ),
    el(
      "div",
      { class: "cards" },
      further.map((finding, i) => findingCard(finding, first + i)),
    ),
  );
}
