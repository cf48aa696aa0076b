// Curves in an SVG: [{name, colour, points: [[x, y, low?, high?], ...]}]; a band where there is low and high.
function lineChart(title, { across, unit, hover = () => {} }) {
  const [W, H, L, B, T, R] = [480, 230, 46, 34, 8, 10];
  const chart = svg("svg", { class: "lab-chart", viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0, "data-lm-suppress-shortcuts": true });
  const heading = make("h4", {}, said(title));
  const keys = make("div", { className: "lab-keys" });
  const told = make("div", { className: "lab-quiet lab-values", textContent: " " });
  const node = make("div", { className: "lab-panel" }, heading, chart, keys, told);
  let xs = [], drawn = [], toX = () => L, mark = null, pointed = null;
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect(), x = ((event.clientX - box.left) / box.width) * W;
    const near = xs.reduce((best, v) => (best === null || Math.abs(toX(v) - x) < Math.abs(toX(best) - x) ? v : best), null);
    if (near !== null) hover(near);
  });
  for (const away of ["pointerleave", "blur"]) chart.addEventListener(away, () => hover(null));
  chart.addEventListener("focus", () => told.setAttribute("role", "status")); // of figures that move together one is read out
  chart.addEventListener("blur", () => told.removeAttribute("role"));
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !xs.length) return;
    event.preventDefault();
    event.stopPropagation();
    const at = xs.indexOf(pointed);
    hover(xs[Math.max(0, Math.min(xs.length - 1, at < 0 ? (step > 0 ? 0 : xs.length - 1) : at + step))]);
  });

  function update(series, { named = title, references = [] } = {}) {
    heading.replaceChildren(said(named));
    chart.setAttribute("aria-label", `${named} by ${across}: ${series.map((one) => one.name).join(", ") || "nothing yet"}; arrow keys go along`);
    const real = (v) => v !== null && v !== undefined && Number.isFinite(v);
    const all = series.flatMap((one) => one.points.filter((p) => real(p[1])));
    xs = [...new Set(all.map((p) => p[0]))].sort((a, b) => a - b);
    const ys = [...all.flatMap((p) => p.slice(1).filter(real)), ...references.map((one) => one.height)];
    const [x0, x1] = xs.length ? [xs[0], xs.at(-1)] : [0, 1];
    let [y0, y1] = ys.length ? [Math.min(...ys), Math.max(...ys)] : [0, 1];
    if (y1 - y0 < 1e-12) [y0, y1] = y0 < 0 ? [2 * y0, 0] : [0, 2 * y0 || 1];
    toX = (x) => L + ((x - x0) / (x1 - x0 || 1)) * (W - L - R);
    const toY = (y) => H - B - ((y - y0) / (y1 - y0)) * (H - B - T);
    chart.replaceChildren();
    const label = (x, y, text, anchor) => chart.append(Object.assign(svg("text", { x, y, "text-anchor": anchor }), { textContent: text }));
    for (const y of ticks(y0, y1, 4)) {
      chart.append(svg("line", { x1: L, x2: W - R, y1: toY(y), y2: toY(y), stroke: "currentColor", "stroke-opacity": 0.15 }));
      label(L - 5, toY(y) + 4, short(y), "end");
    }
    const some = xs.length <= 14 ? xs : ticks(x0, x1, 6);
    for (const x of some) label(toX(x), H - B + 15, short(x), "middle");
    label((L + W - R) / 2, H - 4, across, "middle");
    chart.append(Object.assign(svg("text", { x: 11, y: (H - B + T) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(H - B + T) / 2})` }), { textContent: unit }));
    for (const one of references) chart.append(svg("line", { x1: L, x2: W - R, y1: toY(one.height), y2: toY(one.height), stroke: "currentColor", "stroke-opacity": 0.6, "stroke-dasharray": "5 4" }));
    for (const one of series) {
      const points = one.points.filter((p) => real(p[1]));
      if (points.length && points.every((p) => real(p[2]) && real(p[3]))) {
        const band = [...points.map((p) => [p[0], p[3]]), ...points.toReversed().map((p) => [p[0], p[2]])];
        chart.append(svg("polygon", { points: band.map(([x, y]) => `${toX(x)},${toY(y)}`).join(" "), fill: one.colour, "fill-opacity": 0.16 }));
      }
      chart.append(svg("polyline", { points: points.map((p) => `${toX(p[0])},${toY(p[1])}`).join(" "), fill: "none", stroke: one.colour, "stroke-width": 2 }));
      if (points.length < 40) for (const p of points) chart.append(svg("circle", { cx: toX(p[0]), cy: toY(p[1]), r: 3, fill: one.colour }));
    }
    if (!all.length) label((L + W - R) / 2, H / 2, "nothing yet", "middle");
    mark = svg("line", { y1: T, y2: H - B, stroke: "currentColor", "stroke-width": 1.5, visibility: "hidden" });
    chart.append(mark);
    const swatch = (colour) => { const box = make("span", { className: "lab-swatch" }); box.style.background = colour; return box; };
    drawn = series;
    keys.replaceChildren(...series.map((one) => make("span", {}, swatch(one.colour), said(one.name))),
      ...references.map((one) => make("span", { className: "lab-quiet" }, "- - ", said(one.name))));
    point(pointed);
  }
  function point(x) { // a line across at x, where another figure may have been pointed at, and each curve's value there
    pointed = x;
    if (!mark) return;
    const heights = drawn.map((one) => [one.name, one.points.find((p) => p[0] === x)?.[1]]).filter(([, y]) => Number.isFinite(y));
    told.replaceChildren(said(heights.length ? `${across} ${short(x)}: ${heights.map(([name, y]) => `${name} ${short(y)}`).join(", ")}` : " "));
    mark.setAttribute("visibility", x === null || !xs.includes(x) ? "hidden" : "visible");
    if (x !== null) { mark.setAttribute("x1", toX(x)); mark.setAttribute("x2", toX(x)); }
  }
  return { node, update, point };
}

function ticks(low, high, many) {
  const rough = (high - low) / many || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(i * step);
  return found;
}

function short(value) {
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e5) ? value.toExponential(0) : String(+value.toPrecision(4));
}
