// Small charts for table cells. Positions are percentages, so they stretch with the page.

// A horizontal axis that covers all `values` and the marks 0 and 1, cut where it would only serve an
// outlier.
function shareAxis(values) {
  const seen = values.filter(known);
  const low = Math.max(-0.5, Math.min(0, ...seen));
  const high = Math.min(1.5, Math.max(1, ...seen));
  const pad = 0.02 * (high - low);
  const from = low < 0 ? low - pad : 0;
  const to = high + pad;
  return {
    from,
    to,
    at: (value) => (100 * (Math.min(Math.max(value, from), to) - from)) / (to - from),
    ticks: [-0.5, 0, 0.5, 1, 1.5].filter((tick) => tick >= from && tick <= to),
  };
}

const pc = (value) => `${value.toFixed(2)}%`;

function axisHead(axis) {
  return el(
    "div",
    { class: "axis" },
    axis.ticks.map((tick) => el("span", { vars: { left: pc(axis.at(tick)) } }, percent(tick))),
  );
}

// A bar from zero with a whisker for its interval.
function bar(axis, value, { low = null, high = null, tone = "main", label = "" } = {}) {
  const middle = "50%";
  const node = svg("svg", { class: `bar-chart ${tone}`, role: "img", "aria-label": label });
  for (const tick of axis.ticks) {
    node.append(
      svg("line", {
        class: tick === 0 || tick === 1 ? "grid strong" : "grid",
        x1: pc(axis.at(tick)),
        x2: pc(axis.at(tick)),
        y1: 0,
        y2: "100%",
      }),
    );
  }
  if (!known(value)) {
    node.append(svg("text", { class: "nothing", x: pc(axis.at(0)), dx: 6, y: middle, dy: "0.35em" }, NONE));
    return node;
  }
  const [left, right] = [axis.at(Math.min(0, value)), axis.at(Math.max(0, value))];
  node.append(
    svg("rect", { class: "bar-fill", x: pc(left), width: pc(right - left), y: "22%", height: "56%" }),
  );
  if (value < axis.from || value > axis.to) {
    // The value is beyond the axis: an open end instead of a whisker.
    const end = value < axis.from ? 0 : 100;
    node.append(
      svg(
        "text",
        { class: "beyond", x: pc(end), dx: end ? -12 : 3, y: middle, dy: "0.35em" },
        end ? "»" : "«",
      ),
    );
  } else if (known(low) && known(high)) {
    const [a, b] = [pc(axis.at(low)), pc(axis.at(high))];
    node.append(
      svg("line", { class: "whisker", x1: a, x2: b, y1: middle, y2: middle }),
      svg("line", { class: "whisker", x1: a, x2: a, y1: "32%", y2: "68%" }),
      svg("line", { class: "whisker", x1: b, x2: b, y1: "32%", y2: "68%" }),
    );
  }
  return node;
}

// Base and tuned value of one quantity, one bar each, on one scale.
function pairBars(base, tuned, format) {
  const top = Math.max(base ?? 0, tuned ?? 0);
  const row = (side, value) =>
    el(
      "div",
      { class: `pair-row is-${side}` },
      el("span", { class: "pair-name" }, side),
      el(
        "span",
        { class: "pair-track" },
        el("span", {
          class: `pair-fill ${side}`,
          vars: { width: pc(top > 0 && known(value) ? (100 * value) / top : 0) },
        }),
      ),
      el("span", { class: "pair-value" }, format(value)),
    );
  return el("div", { class: "pair" }, row("base", base), row("tuned", tuned));
}
