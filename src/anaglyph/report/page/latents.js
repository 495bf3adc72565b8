// The latents of one dictionary: which are shown, and the table.

const PAGE_ROWS = 25;
// At or below these a latent counts as specific to the tuned model: for a crosscoder both thresholds
// of the paper, for an SAE that of the post.
const NU_LIMITS = { error: 0.2, recon: 0.5, act: 0.3 };

// [column, heading, format]
const COLUMNS = [
  ["class", "Class", plain],
  ["difference_share", "Diff. share", percent],
  ["recovered", "KL recov.", percent],
  ["frequency", "Frequency", percent],
  ["max_activation", "Max. code", number],
  ["delta_norm", "Δ norm", number],
  ["nu_error", "ν error", number],
  ["nu_recon", "ν recon.", number],
  ["nu_act", "ν act.", number],
  ["template_share", "Template", percent],
  ["twin", "Twin", whole],
];
const WORDY = new Set(["latent", "class"]);

const explorer = {
  name: null,
  latent: null,
  sort: null,
  down: true,
  page: 0,
  words: "",
  group: "all",
  template: true,
};

const currentDictionary = () => DATA.dictionaries.find((item) => item.name === explorer.name);
const inFindings = new Map();
(DATA.findings ?? []).forEach((finding, i) =>
  finding.latents.forEach(([name, latent]) => {
    const key = `${name}/${latent}`;
    if (!inFindings.has(key)) inFindings.set(key, i + 1);
  }),
);

// A dictionary's shown latents as rows; made once.
const rowsOf = (() => {
  const made = new Map();
  return (dictionary) => {
    if (!made.has(dictionary.name)) {
      const columns = dictionary.latents?.columns ?? { latent: [] };
      const names = Object.keys(columns);
      made.set(
        dictionary.name,
        columns.latent.map((latent, i) => {
          const row = {};
          for (const name of names) row[name] = columns[name][i];
          row.peaks = peakTokens(latentExamples(dictionary.name, latent), 3);
          row.finding = inFindings.get(`${dictionary.name}/${latent}`) ?? null;
          return row;
        }),
      );
    }
    return made.get(dictionary.name);
  };
})();

const has = (rows, column) => rows.some((row) => row[column] !== null && row[column] !== undefined);

function isSpecific(row) {
  if (known(row.nu_error) && known(row.nu_recon))
    return row.nu_error <= NU_LIMITS.error && row.nu_recon <= NU_LIMITS.recon;
  return known(row.nu_act) && row.nu_act <= NU_LIMITS.act;
}

function groupsOf(rows) {
  const groups = [["all", "All latents", () => true]];
  if (has(rows, "finding")) groups.push(["finding", "In a finding", (row) => row.finding !== null]);
  if (rows.some(isSpecific)) groups.push(["specific", "Specific to the tuned model, by ν", isSpecific]);
  const classes = [...new Set(rows.map((row) => row.class).filter(Boolean))].sort();
  for (const name of classes) groups.push([`class:${name}`, `Class ${name}`, (row) => row.class === name]);
  if (rows.some((row) => row.peaks.length))
    groups.push(["examples", "With examples", (row) => row.peaks.length > 0]);
  return groups;
}

function filteredRows(rows) {
  const group = groupsOf(rows).find(([key]) => key === explorer.group) ?? groupsOf(rows)[0];
  const words = explorer.words.trim().toLowerCase();
  const matches = (row) =>
    words === "" ||
    String(row.latent) === words ||
    row.peaks.some((text) => text.toLowerCase().includes(words)) ||
    String(row.class ?? "").toLowerCase().includes(words);
  return rows.filter(
    (row) => group[2](row) && matches(row) && (explorer.template || !(row.template_share > 0.5)),
  );
}

function sortedRows(rows) {
  if (explorer.sort === null) return rows;
  const sign = explorer.down ? -1 : 1;
  const value = (row) => row[explorer.sort] ?? null;
  // Undefined values stay at the end in both directions.
  return [...rows].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

function drawTable(host, rows) {
  const columns = COLUMNS.filter(([key]) => has(rows, key));
  const shown = sortedRows(filteredRows(rows));
  const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
  explorer.page = Math.min(explorer.page, pages - 1);
  const from = explorer.page * PAGE_ROWS;
  const again = () => drawTable(host, rows);
  const order = (key) => () => {
    explorer.down = explorer.sort === key ? !explorer.down : true;
    explorer.sort = key;
    explorer.page = 0;
    again();
    host.querySelector(`[data-sort="${key}"]`)?.focus();
  };
  const head = ([key, label]) =>
    el(
      "th",
      {
        scope: "col",
        class: WORDY.has(key) ? null : "numeric",
        "aria-sort": explorer.sort === key ? (explorer.down ? "descending" : "ascending") : null,
      },
      el(
        "span",
        { class: "sortable" },
        GLOSSARY[key] ? term(key, label) : label,
        el(
          "button",
          { type: "button", "data-sort": key, onclick: order(key), "aria-label": `Sort by ${label}` },
          explorer.sort === key ? (explorer.down ? "▼" : "▲") : "⇅",
        ),
      ),
    );
  const cell = (row, [key, , format]) => {
    const range = interval(row[`${key}_low`], row[`${key}_high`], format);
    const node = el("td", { class: WORDY.has(key) ? null : "numeric" }, format(row[key]));
    return range ? withTip(node, `95% interval ${range}`) : node;
  };
  const body = shown.slice(from, from + PAGE_ROWS).map((row) =>
    el(
      "tr",
      { class: row.latent === explorer.latent ? "selected" : null, onclick: () => choose(row.latent) },
      el(
        "th",
        { scope: "row" },
        el(
          "a",
          {
            href: latentLink(explorer.name, row.latent),
            onclick: (event) => {
              event.preventDefault();
              event.stopPropagation();
              choose(row.latent);
            },
          },
          String(row.latent),
        ),
        row.finding ? el("span", { class: "chip" }, `finding ${row.finding}`) : null,
      ),
      el(
        "td",
        { class: "peak-cell" },
        row.peaks.length ? row.peaks.map((text, i) => [i ? " " : "", el("q", {}, text)]) : NONE,
      ),
      columns.map((column) => cell(row, column)),
    ),
  );
  const turn = (step) => () => {
    explorer.page += step;
    again();
  };
  host.replaceChildren(
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        { class: "latent-table" },
        el(
          "thead",
          {},
          el("tr", {}, head(["latent", "Latent"]), el("th", { scope: "col" }, "Peaks on"), columns.map(head)),
        ),
        el(
          "tbody",
          {},
          body.length
            ? body
            : el("tr", {}, el("td", { colspan: columns.length + 2 }, "No latent matches these filters.")),
        ),
      ),
    ),
    el(
      "div",
      { class: "pager" },
      el("button", { type: "button", disabled: explorer.page === 0, onclick: turn(-1) }, "Previous"),
      el(
        "span",
        {},
        shown.length
          ? `${whole(from + 1)}–${whole(Math.min(from + PAGE_ROWS, shown.length))} of ${whole(shown.length)}`
          : "0",
      ),
      el("button", { type: "button", disabled: explorer.page >= pages - 1, onclick: turn(1) }, "Next"),
    ),
  );
}
