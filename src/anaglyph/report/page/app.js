// Draws the page and keeps the explorer, the address and the chosen latent in step.

let explorerParts = null;

function redraw() {
  const dictionary = currentDictionary();
  const rows = rowsOf(dictionary);
  drawTable(explorerParts.table, rows);
  drawDetail(explorerParts.detail, rows);
  explorerParts.mark(explorer.latent, new Set(filteredRows(rows).map((row) => row.latent)));
}

// Chooses a latent from within the explorer: the address follows, the page stays where it is.
function choose(latent) {
  explorer.latent = latent;
  history.replaceState(null, "", latentLink(explorer.name, latent));
  redraw();
}

function shownCount(dictionary, rows) {
  const { total, alive, ranked_by: ranked } = dictionary.latents;
  const by = ranked ? `, by ${ranked.replaceAll("_", " ")}` : "";
  return rows.length < alive
    ? `The top ${whole(rows.length)} of ${whole(alive)} live latents${by} (${whole(total)} latents in total).`
    : `All ${whole(alive)} live latents${by} (${whole(total)} latents in total).`;
}

function openDictionary(name, latent) {
  Object.assign(explorer, {
    name,
    latent,
    sort: null,
    down: true,
    page: 0,
    words: "",
    group: "all",
    template: true,
  });
  const dictionary = currentDictionary();
  const host = document.getElementById("explorer");
  for (const tab of document.querySelectorAll(".tabs button"))
    tab.setAttribute("aria-pressed", String(tab.textContent === name));
  if (!dictionary.latents) {
    explorerParts = null;
    return host.replaceChildren(absent(`The latents of ${name} were not scored in this run.`));
  }
  const rows = rowsOf(dictionary);
  if (explorer.latent === null)
    explorer.latent =
      (rows.find((row) => row.finding) ?? rows.find((row) => row.peaks.length) ?? rows[0])?.latent ?? null;
  const chart = scatter(rows);
  explorerParts = {
    table: el("div", { class: "table-host" }),
    detail: el("div", { class: "detail", id: "detail", tabindex: -1, "aria-live": "polite" }),
    mark: chart.mark,
  };
  host.replaceChildren(
    el("p", { class: "quiet" }, shownCount(dictionary, rows)),
    drawControls(rows, () => {
      explorer.page = 0;
      redraw();
    }),
    el("div", { class: "explorer" }, chart.node, explorerParts.detail),
    explorerParts.table,
  );
  return redraw();
}

function drawLatents() {
  const host = section("latents");
  if (DATA.dictionaries.length === 0)
    return host.append(absent("There are no latents to show: no dictionary was trained in this run."));
  const tabs = el(
    "div",
    { class: "tabs", role: "group", "aria-label": "Dictionary" },
    DATA.dictionaries.map(({ name }) =>
      el(
        "button",
        { type: "button", "aria-pressed": "false", onclick: () => openDictionary(name, null) },
        name,
      ),
    ),
  );
  host.append(tabs, el("div", { id: "explorer" }));
  const first = DATA.findings?.find((finding) => finding.latents.length)?.latents[0][0];
  const start =
    DATA.dictionaries.find(({ name }) => name === first) ??
    DATA.dictionaries.find((item) => item.latents) ??
    DATA.dictionaries[0];
  return openDictionary(start.name, null);
}

// #latent=NAME/INDEX opens that latent.
function followAddress() {
  const match = location.hash.match(/^#latent=(.+)\/(\d+)$/);
  if (!match) return;
  const dictionary = DATA.dictionaries.find((item) => encodeURIComponent(item.name) === match[1]);
  if (!dictionary) return;
  openDictionary(dictionary.name, Number(match[2]));
  (document.getElementById("detail") ?? section("latents")).scrollIntoView({ block: "center" });
  document.getElementById("detail")?.focus({ preventScroll: true });
}

orderDictionaries();
drawVerdict();
drawClaims();
drawFindings();
drawCausal();
drawDictionaries();
drawLatents();
drawDirect();
drawRun();
drawGlossary();
window.addEventListener("hashchange", followAddress);
followAddress();
document.documentElement.dataset.ready = "true";
