// One latent in detail, and the controls that choose which latents are shown.

const DETAIL = [
  "difference_share",
  "recovered",
  "frequency",
  "active_tokens",
  "mean_activation",
  "max_activation",
  "delta_norm",
  "cosine",
  "norm_base",
  "norm_tuned",
  "nu_error",
  "nu_recon",
  "nu_act",
  "template_share",
  "twin",
  "twin_cosine",
  "class",
];
const AS_PERCENT = new Set(["difference_share", "recovered", "frequency", "template_share"]);
const AS_WHOLE = new Set(["active_tokens", "twin"]);

function drawDetail(host, rows) {
  const { name, latent } = explorer;
  const row = rows.find((item) => item.latent === latent);
  const windows = latentExamples(name, latent);
  if (latent === null) return host.replaceChildren(absent("Choose a latent in the chart or the table."));
  if (!row && !windows)
    return host.replaceChildren(
      el("h3", {}, `${name} ${latent}`),
      absent(
        `This latent is not among the ${whole(rows.length)} shown here; latents/${name}.parquet lists them all.`,
      ),
    );
  const facts = DETAIL.filter((key) => row && row[key] !== null && row[key] !== undefined).map((key) => {
    const format = AS_PERCENT.has(key)
      ? percent
      : AS_WHOLE.has(key)
        ? whole
        : key === "class"
          ? plain
          : number;
    const range = interval(row[`${key}_low`], row[`${key}_high`], format);
    return el(
      "div",
      {},
      el("dt", {}, GLOSSARY[key] ? term(key) : key.replaceAll("_", " ")),
      el("dd", {}, format(row[key]), range ? el("small", {}, range) : null),
    );
  });
  const roles = Object.keys(ROLES).filter((role) => row?.[`share_${role}`] > 0);
  roles.sort((a, b) => row[`share_${b}`] - row[`share_${a}`]);
  const roleText = roles.map((role) => `${ROLES[role]} ${percent(row[`share_${role}`])}`).join(", ");
  const betas = ["error", "recon", "act"].filter((target) => known(row?.[`beta_${target}_tuned`]));
  return host.replaceChildren(
    el(
      "h3",
      {},
      el("a", { href: latentLink(name, latent) }, `${name} ${latent}`),
      row?.finding
        ? el("a", { class: "chip", href: `#finding-${row.finding}` }, `finding ${row.finding}`)
        : null,
    ),
    el(
      "dl",
      { class: "facts small" },
      facts,
      betas.map((target) =>
        el(
          "div",
          {},
          el("dt", {}, term("beta", `β ${target}`)),
          el(
            "dd",
            {},
            el("span", { class: "is-base" }, number(row[`beta_${target}_base`])),
            " / ",
            el("span", { class: "is-tuned" }, number(row[`beta_${target}_tuned`])),
          ),
        ),
      ),
      roles.length
        ? el("div", { class: "whole-row" }, el("dt", {}, "fires on"), el("dd", {}, roleText))
        : null,
    ),
    windows ? windowsView(windows) : absent("This run kept no examples of this latent."),
  );
}

function drawControls(rows, changed) {
  const search = el("input", {
    type: "search",
    placeholder: "number or token",
    value: explorer.words,
    oninput: (event) => {
      explorer.words = event.target.value;
      changed();
    },
  });
  const group = el(
    "select",
    {
      onchange: (event) => {
        explorer.group = event.target.value;
        changed();
      },
    },
    groupsOf(rows).map(([key, label]) =>
      el("option", { value: key, selected: key === explorer.group }, label),
    ),
  );
  const template = has(rows, "template_share")
    ? el(
        "label",
        { class: "check" },
        el("input", {
          type: "checkbox",
          checked: !explorer.template,
          onchange: (event) => {
            explorer.template = !event.target.checked;
            changed();
          },
        }),
        "hide latents that fire mainly on template tokens",
      )
    : null;
  return el(
    "div",
    { class: "controls" },
    el("label", {}, "Find ", search),
    el("label", {}, "Show ", group),
    template,
  );
}
