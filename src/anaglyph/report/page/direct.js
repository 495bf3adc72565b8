// The tables of the commands that need no dictionary.

function drawDirect() {
  const host = section("direct");
  if (!DATA.direct.length)
    return host.append(
      absent("Nothing yet: run tokens, pca, weights, stitch, lens or amplify on this folder."),
    );
  return host.append(
    ...DATA.direct.map((table, place) =>
      el(
        "details",
        { open: place < 2 },
        el("summary", {}, table.title),
        el("p", { class: "quiet" }, directNote(table)),
        el("div", { class: "scroll" }, directTable(table)),
      ),
    ),
  );
}

function directNote({ note, rows, total }) {
  return rows.length < total ? `${note} The top ${whole(rows.length)} of ${whole(total)} rows.` : note;
}

function directTable({ columns, rows }) {
  const numeric = columns.map((_, place) => rows.every((row) => row[place] === null || known(row[place])));
  const cell = (tag, place, text) => el(tag, { class: numeric[place] ? "numeric" : null }, text);
  return el(
    "table",
    {},
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        columns.map((column, place) => cell("th", place, column.replaceAll("_", " "))),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map((row) =>
        el(
          "tr",
          {},
          row.map((value, place) => cell("td", place, plain(value))),
        ),
      ),
    ),
  );
}
