// All shown latents of a dictionary as points: nu against nu for a crosscoder, nu against frequency
// for an SAE. Latents specific to the tuned model are at the lower left.

const CHART = { width: 560, height: 470, left: 58, right: 14, top: 14, bottom: 46 };

function linearScale(from, to, start, end) {
  const at = (value) => start + ((Math.min(Math.max(value, from), to) - from) / (to - from)) * (end - start);
  return { at, inside: (value) => value >= from && value <= to };
}

// nu outside this range means "shared" or "undetermined": such points are drawn on the edge.
const NU_RANGE = [-0.25, 1.5];
const NU_TICKS = [0, 0.5, 1, 1.5];

function scatterAxes(rows) {
  const right = CHART.width - CHART.right;
  const bottom = CHART.height - CHART.bottom;
  const nuX = {
    ...linearScale(...NU_RANGE, CHART.left, right),
    ticks: NU_TICKS,
    format: (tick) => String(tick),
  };
  const nuY = {
    ...linearScale(...NU_RANGE, bottom, CHART.top),
    ticks: NU_TICKS,
    format: (tick) => String(tick),
  };
  if (rows.some((row) => known(row.nu_error) && known(row.nu_recon))) {
    return {
      x: { key: "nu_error", ...nuX },
      y: { key: "nu_recon", ...nuY },
      zone: [NU_LIMITS.error, NU_LIMITS.recon],
    };
  }
  if (!has(rows, "nu_act")) return null;
  const seen = rows.map((row) => row.frequency).filter((value) => value > 0);
  if (seen.length === 0) return null;
  const low = Math.floor(Math.log10(Math.min(...seen)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...seen))));
  const log = linearScale(low, high, bottom, CHART.top);
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => 10 ** (low + i));
  return {
    x: { key: "nu_act", ...nuX },
    y: {
      key: "frequency",
      ticks,
      format: (tick) => percent(tick),
      at: (value) => log.at(Math.log10(value)),
      inside: (value) => log.inside(Math.log10(value)),
    },
    zone: [NU_LIMITS.act, null],
  };
}

function scatterFrame(axes) {
  const { width, height, left, right, top, bottom } = CHART;
  const zoneTop = axes.zone[1] === null ? top : axes.y.at(axes.zone[1]);
  const frame = [
    svg("rect", {
      class: "zone",
      x: left,
      y: zoneTop,
      width: axes.x.at(axes.zone[0]) - left,
      height: height - bottom - zoneTop,
    }),
    svg("text", { class: "zone-label", x: left + 6, y: zoneTop + 14 }, "tuned-specific"),
  ];
  for (const tick of axes.x.ticks) {
    frame.push(
      svg("line", { class: "grid", x1: axes.x.at(tick), x2: axes.x.at(tick), y1: top, y2: height - bottom }),
      svg(
        "text",
        { class: "tick", x: axes.x.at(tick), y: height - bottom + 16, "text-anchor": "middle" },
        axes.x.format(tick),
      ),
    );
  }
  for (const tick of axes.y.ticks) {
    frame.push(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: axes.y.at(tick), y2: axes.y.at(tick) }),
      svg(
        "text",
        { class: "tick", x: left - 7, y: axes.y.at(tick), dy: "0.35em", "text-anchor": "end" },
        axes.y.format(tick),
      ),
    );
  }
  frame.push(
    svg(
      "text",
      { class: "axis-name", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" },
      GLOSSARY[axes.x.key][0],
    ),
    svg(
      "text",
      {
        class: "axis-name",
        transform: `translate(13 ${(top + height - bottom) / 2}) rotate(-90)`,
        "text-anchor": "middle",
      },
      GLOSSARY[axes.y.key][0],
    ),
  );
  return frame;
}

function pointTone(row) {
  if (row.class === "base-only") return "base";
  return isSpecific(row) ? "tuned" : "neutral";
}

function pointTip(row, axes) {
  return [
    el("div", { class: "tip-title" }, `latent ${row.latent}`),
    row.peaks.length ? `peaks on ${row.peaks.map((text) => `“${text}”`).join(", ")}` : [],
    `${GLOSSARY[axes.x.key][0]} ${number(row[axes.x.key])}`,
    `${GLOSSARY[axes.y.key][0]} ${axes.y.key === "frequency" ? percent(row.frequency) : number(row[axes.y.key])}`,
    row.finding ? `finding ${row.finding}` : [],
  ];
}

// Returns the chart and a function that marks the chosen latent and fades what is filtered out.
function scatter(rows) {
  const axes = scatterAxes(rows);
  if (axes === null)
    return { node: absent("ν was not determined for these latents, so there is no chart."), mark: () => {} };
  const points = rows
    .filter(
      (row) =>
        known(row[axes.x.key]) && known(row[axes.y.key]) && (axes.y.key !== "frequency" || row.frequency > 0),
    )
    .map((row) => ({
      row,
      x: axes.x.at(row[axes.x.key]),
      y: axes.y.at(row[axes.y.key]),
      edge: !axes.x.inside(row[axes.x.key]) || !axes.y.inside(row[axes.y.key]),
    }));
  // Findings are drawn last, on top.
  points.sort((a, b) => (a.row.finding !== null) - (b.row.finding !== null));
  for (const point of points) {
    const kind = `dot ${pointTone(point.row)}${point.edge ? " edge" : ""}${point.row.finding ? " in-finding" : ""}`;
    point.node = svg("circle", {
      class: kind,
      cx: point.x.toFixed(1),
      cy: point.y.toFixed(1),
      r: point.row.finding ? 5 : 3,
    });
  }
  const halo = svg("circle", { class: "halo", r: 9, visibility: "hidden" });
  const chart = svg(
    "svg",
    {
      class: "scatter",
      viewBox: `0 0 ${CHART.width} ${CHART.height}`,
      tabindex: 0,
      role: "img",
      "aria-label": `${GLOSSARY[axes.y.key][0]} against ${GLOSSARY[axes.x.key][0]} of ${whole(points.length)} latents; arrow keys step through them, Enter opens one. The table below has the same values.`,
    },
    scatterFrame(axes),
    points.map((point) => point.node),
    halo,
  );
  const toScreen = (point) => {
    const box = chart.getBoundingClientRect();
    return [box.left + (point.x / CHART.width) * box.width, box.top + (point.y / CHART.height) * box.height];
  };
  const show = (point) => showTip(pointTip(point.row, axes), ...toScreen(point));
  const nearest = (event) => {
    const box = chart.getBoundingClientRect();
    const [x, y] = [
      ((event.clientX - box.left) * CHART.width) / box.width,
      ((event.clientY - box.top) * CHART.height) / box.height,
    ];
    let best = null;
    let least = 14 ** 2;
    for (const point of points) {
      const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
      if (distance <= least && !point.node.classList.contains("faded")) [best, least] = [point, distance];
    }
    return best;
  };
  chart.addEventListener("pointermove", (event) => {
    const point = nearest(event);
    chart.style.cursor = point ? "pointer" : "";
    if (point) show(point);
    else hideTip();
  });
  chart.addEventListener("pointerleave", hideTip);
  chart.addEventListener("click", (event) => {
    const point = nearest(event);
    if (point) choose(point.row.latent);
  });
  const inOrder = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  let at = -1;
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && inOrder.length) {
      at = (at + step + inOrder.length) % inOrder.length;
      show(inOrder[at]);
      event.preventDefault();
    }
    if (event.key === "Enter" && at >= 0) choose(inOrder[at].row.latent);
  });
  const mark = (latent, kept) => {
    for (const point of points) point.node.classList.toggle("faded", !kept.has(point.row.latent));
    const chosen = points.find((point) => point.row.latent === latent);
    halo.setAttribute("visibility", chosen ? "visible" : "hidden");
    if (chosen) {
      halo.setAttribute("cx", chosen.x);
      halo.setAttribute("cy", chosen.y);
    }
  };
  return {
    node: el(
      "figure",
      {},
      chart,
      el(
        "figcaption",
        { class: "quiet" },
        el("span", { class: "dot-key tuned" }),
        "tuned-specific ",
        el("span", { class: "dot-key base" }),
        "base-only by norm ",
        el("span", { class: "dot-key neutral" }),
        "other ",
        el("span", { class: "dot-key in-finding" }),
        "in a finding ",
        points.some((point) => point.edge) ? el("span", {}, "Hollow points at the edge are beyond the axis.") : null,
      ),
    ),
    mark,
  };
}
