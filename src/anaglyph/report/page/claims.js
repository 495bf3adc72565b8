// What the tuned model does differently, in words: one card a claim, both replies side by side.

function drawClaims() {
  const host = section("claims");
  const said = DATA.behaviour;
  if (said === null)
    return host.append(absent("The models were not asked: run anaglyph behave RUN."));
  if (said.claims.length === 0) host.append(el("p", {}, said.headline));
  if (said.favoured.length)
    host.append(
      el("p", {}, `Words that the fine-tune favours on any text: ${said.favoured.slice(0, 8).join(", ")}.`),
    );
  said.claims.forEach((claim, place) => host.append(claimCard(claim, `${place + 1}. ${claim.text}`)));
  if (said.unverified.length)
    host.append(
      el(
        "details",
        said.claims.length ? {} : { open: "" },
        el("summary", {}, `Seen, but not verified (${whole(said.unverified.length)})`),
        said.unverified.map((claim) => claimCard(claim, claim.text)),
      ),
    );
  for (const note of said.notes) host.append(el("p", { class: "where" }, `Note: ${note}.`));
  return host;
}

function claimCard(claim, title) {
  const range = known(claim.low) ? `95% interval of the change of rate: ${interval(claim.low, claim.high, percent)}` : null;
  return el(
    "article",
    { class: "card claim" },
    el("h3", {}, title),
    range ? el("p", { class: "where" }, range) : null,
    claim.link ? el("p", {}, claim.link) : null,
    claim.replies.map(({ prompt, base, tuned }) =>
      el(
        "dl",
        { class: "replies" },
        el("div", {}, el("dt", {}, "asked"), el("dd", {}, prompt)),
        el("div", {}, el("dt", {}, "base"), el("dd", {}, marked(base, claim.feature))),
        el("div", {}, el("dt", {}, "tuned"), el("dd", {}, marked(tuned, claim.feature))),
      ),
    ),
  );
}

// A reply with the phrase that a claim quotes marked, whatever stands between its words.
function marked(text, feature) {
  const words = feature.startsWith("says ") ? feature.match(/[\p{L}\p{N}'\u2019]+/gu).slice(1) : [];
  const escaped = words.map((word) => word.replaceAll("'", "['\u2019]"));
  const parts = words.length ? text.split(new RegExp(`(?<![\\p{L}\\p{N}])(${escaped.join("[^\\p{L}\\p{N}]+")})(?![\\p{L}\\p{N}])`, "iu")) : [text];
  return parts.map((part, place) => (place % 2 ? el("mark", {}, part) : part));
}
