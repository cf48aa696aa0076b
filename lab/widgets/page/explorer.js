// The explorer's page: controls, the points and their pointer, and what is said about the chosen ones.
const MORPH = 550; // ms, and at least so many frames:
const STEPS = 8;
const PREFETCH = 24e6; // bytes of maps asked for before they are needed

function render({ model, el: root }) {
  const n = model.get("n");
  const key = () => [model.get("layer"), model.get("pool"), model.get("method")];
  const maps = new Map(), asked = new Set(), texts = new Map(), waiting = new Set();
  const canvas = make("canvas", { className: "lab-points", tabIndex: 0, role: "img" });
  const ring = (radius, width) => svg("circle", { r: radius, "stroke-width": width });
  const rings = { focus: ring(9, 2.5), hover: ring(7, 1.5) }, drawn = svg("path", { "stroke-dasharray": "5 4" });
  const over = svg("svg", { class: "lab-over", "aria-hidden": "true" }, rings.focus, rings.hover, drawn);
  const tip = make("div", { className: "lab-tip", hidden: true });
  const note = make("div", { className: "lab-note" });
  const legend = make("div", { className: "lab-legend" });
  const stage = make("div", { className: "lab-stage" }, canvas, over, tip, note);
  const count = make("span", { className: "lab-quiet" });
  const table = make("div", { className: "lab-scroll" }), near = make("div", { className: "lab-scroll" }), words = make("div");
  const scatter = new Scatter(canvas);
  let neighbours = null, shown = null, places = null, grid = null, chosen = new Uint32Array(), found = new Uint32Array();
  let lassoing = false, line = null, hovered = -1, version = 0;
  canvas.setAttribute("aria-label", `map of ${n} examples; arrow keys move it, plus and minus zoom`);

  // ---- what was asked of the kernel
  const ask = (what, more = {}, buffers) => model.send({ ask: what, ...more }, undefined, buffers);
  function want(one) {
    const name = JSON.stringify(one);
    if (maps.has(name) || asked.has(name)) return;
    asked.add(name);
    ask("map", { layer: one[0], pool: one[1], method: one[2] });
  }
  function heard(answer, buffers) {
    const bytes = buffers?.length ? bytesOf(buffers[0]) : null;
    if (answer.answer === "map") {
      const array = answer.kind === "float32" ? new Float32Array(bytes) : new Uint16Array(bytes);
      asked.delete(JSON.stringify(answer.key));
      while (maps.size && (maps.size + 1) * bytes.byteLength > 4 * PREFETCH) maps.delete(maps.keys().next().value);
      maps.set(JSON.stringify(answer.key), { array, note: answer.note });
      if (JSON.stringify(answer.key) === JSON.stringify(key())) move();
      else prefetch();
    } else if (answer.answer === "hues") {
      if (answer.column !== model.get("colour")) return;
      scatter.colours(new Uint8Array(bytes), answer.palette);
      drawLegend(answer.legend, answer.palette);
      pace.wake();
    } else if (answer.answer === "texts") {
      waiting.delete(answer.chunk);
      answer.texts.forEach((text, i) => texts.set(answer.chunk * 1024 + i, text));
      if (hovered >= 0) point(hovered);
    } else if (answer.answer === "search") {
      if (answer.query !== model.get("query")) return;
      found = new Uint32Array(bytes);
      count.textContent = answer.query.trim() ? `${found.length.toLocaleString()} found` : "";
      mark();
    } else if (answer.answer === "selected") {
      chosen = new Uint32Array(bytes);
      mark();
      around();
    } else if (answer.answer === "table") {
      const head = answer.n > answer.rows.length ? `${answer.n.toLocaleString()} chosen; the first ${answer.rows.length} below` : `${answer.n} chosen`;
      table.replaceChildren(...(answer.n ? [make("div", { className: "lab-quiet", textContent: head }), plainTable(answer.columns, answer.rows, answer.numbers, focus)] : []));
    } else if (answer.answer === "around") {
      if (answer.version === version) { neighbours = answer; showAround(); }
    } else if (answer.answer === "focus") {
      if (answer.number !== model.get("focus")) return;
      const close = make("button", { textContent: "close", onclick: () => focus(-1) });
      words.replaceChildren(make("div", { className: "lab-full" }, said(answer.text)), close);
      if (answer.note) words.append(said(answer.note, { className: "lab-message" }));
      if (answer.pools.length) words.append(wordRows(answer.words, answer.pools, model.get("pool")));
    }
  }
  function prefetch() {
    const { layers, pools } = { layers: model.get("layers"), pools: model.get("pools") };
    if (asked.size || n * 8 * layers.length * pools.length > PREFETCH) return;
    const at = layers.indexOf(model.get("layer")), here = model.get("pool");
    const order = pools.flatMap((pool) => layers.map((layer, i) => [Math.abs(i - at) + (pool === here ? 0 : 100), layer, pool]));
    const next = order.sort((a, b) => a[0] - b[0]).map(([, layer, pool]) => [layer, pool, "pca"]).find((one) => !maps.has(JSON.stringify(one)));
    if (next) want(next);
  }

  // ---- points that move
  function move() {
    const map = maps.get(JSON.stringify(key()));
    stage.classList.toggle("lab-stale", !map);
    if (!map) { note.textContent = `no map yet of layer ${key().join(", ")}`; want(key()); return; }
    note.textContent = map.note;
    if (map.array === shown) { prefetch(); return; }
    const before = shown ? between() : map.array;
    shown = map.array;
    grid = null;
    places = shown instanceof Float32Array ? shown : unpacked(shown);
    scatter.places(before, shown);
    scatter.t = 0;
    const began = performance.now();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches || before === shown;
    let share = 0;
    pace.moving = (now) => { // where frames are slow it takes longer, and does not jump
      share = still ? 1 : Math.min(1, share + 1 / STEPS, Math.max(0, now - began) / MORPH);
      scatter.t = share * share * (3 - 2 * share);
      if (share === 1) { pace.moving = null; root.dataset.shown = JSON.stringify(key()); prefetch(); }
    };
    pace.wake();
  }
  function between() { // where the points are now, if they are on their way
    if (scatter.t >= 1 || !(shown instanceof Float32Array)) return shown;
    const { before, after, t } = scatter;
    return Float32Array.from(after, (v, i) => (before[i] > NOWHERE || v > NOWHERE ? v : before[i] + t * (v - before[i])));
  }
  const pace = new Pace(scatter, () => {
    overlay();
    root.dataset.frames = JSON.stringify(pace.times);
    if (pace.asked) root.dataset.stride = Math.round(pace.stride);
    root.dataset.rests = pace.asked === 0;
  });
  function mark() {
    const marks = new Uint8Array(n);
    for (const i of found) marks[i] |= FOUND;
    for (const i of chosen) marks[i] |= CHOSEN;
    scatter.marks(marks);
    root.dataset.chosen = chosen.length;
    pace.wake();
  }
  function overlay() { // over the points, so that a ring that moves does not draw them again
    const still = places && scatter.t >= 1;
    for (const [name, i] of [["focus", model.get("focus")], ["hover", hovered]]) {
      const seen = still && i >= 0 && places[2 * i] <= NOWHERE;
      rings[name].style.display = seen ? "" : "none";
      if (seen) rings[name].setAttribute("transform", `translate(${scatter.toPixel(places[2 * i], places[2 * i + 1])})`);
    }
    drawn.setAttribute("d", line ? `M${line.join("L")}Z` : "");
    over.style.display = line || Object.values(rings).some((one) => one.style.display === "") ? "" : "none";
  }

  // ---- the pointer
  const spot = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  function under([x, y]) {
    if (!places || scatter.t < 1) return -1;
    grid ??= new Grid(places);
    return grid.nearest(...scatter.toPlace(x, y), 9 * scatter.pixel());
  }
  function point(i, [x, y] = []) {
    hovered = i;
    tip.hidden = i < 0;
    overlay();
    if (i < 0) return;
    const chunk = Math.floor(i / 1024);
    if (!texts.has(i) && !waiting.has(chunk)) { waiting.add(chunk); ask("texts", { chunk }); }
    tip.replaceChildren(make("b", { textContent: `${i}: ` }), said(texts.get(i) ?? "..."));
    if (x === undefined) return;
    const right = x > stage.clientWidth / 2, low = y > stage.clientHeight / 2;
    Object.assign(tip.style, { left: right ? "" : `${x + 14}px`, right: right ? `${stage.clientWidth - x + 14}px` : "",
      top: low ? "" : `${y + 14}px`, bottom: low ? `${stage.clientHeight - y + 14}px` : "" });
  }
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held = { from: spot(event), centre: [...scatter.centre], far: false };
    if (lassoing || event.shiftKey) line = [held.from];
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = spot(event);
    if (!held) { point(under(here), here); return; }
    held.far ||= Math.hypot(here[0] - held.from[0], here[1] - held.from[1]) > 4;
    if (line) { line.push(here); overlay(); }
    else if (held.far) {
      const unit = scatter.pixel();
      scatter.centre = [held.centre[0] - (here[0] - held.from[0]) * unit, held.centre[1] + (here[1] - held.from[1]) * unit];
      tip.hidden = true;
      pace.wake();
    }
  });
  canvas.addEventListener("pointerup", (event) => {
    const was = held, drawn = line;
    held = line = null;
    if (!was) return;
    if (drawn && was.far && places) select(inside(places, drawn.map(([x, y]) => scatter.toPlace(x, y))));
    else if (!was.far) focus(under(spot(event)));
    overlay();
  });
  canvas.addEventListener("transitionend", () => pace.wake()); // another theme, another ground
  canvas.addEventListener("pointerleave", () => { if (!held) point(-1); });
  canvas.addEventListener("dblclick", () => { scatter.centre = [0, 0]; scatter.zoom = 1; pace.wake(); });
  function zoom(factor, [x, y]) {
    const [px, py] = scatter.toPlace(x, y);
    scatter.zoom = Math.min(2000, Math.max(0.3, scatter.zoom * factor));
    const [qx, qy] = scatter.toPlace(x, y);
    scatter.centre = [scatter.centre[0] + px - qx, scatter.centre[1] + py - qy];
    pace.wake();
  }
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 400), spot(event)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 60 * scatter.pixel(), moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    const middle = [stage.clientWidth / 2, stage.clientHeight / 2];
    if (event.key in moves) scatter.centre = scatter.centre.map((v, i) => v + moves[event.key][i]);
    else if (event.key === "+" || event.key === "=") zoom(1.3, middle);
    else if (event.key === "-") zoom(1 / 1.3, middle);
    else if (event.key === "Escape") { select(new Uint32Array()); focus(-1); }
    else return;
    event.preventDefault();
    event.stopPropagation();
    pace.wake();
  });

  // ---- choosing
  function select(numbers) {
    chosen = numbers;
    mark();
    around("select", [numbers.buffer]);
  }
  function showAround() {
    near.replaceChildren(...(neighbours?.rows.length ? [aroundTable(neighbours.rows, neighbours.chance, model.get("layer"), focus)] : []));
  }
  function around(what = "around", buffers = undefined) {
    version += 1;
    neighbours = null;
    showAround();
    ask(what, { version }, buffers);
  }
  function focus(i) {
    model.set("focus", i);
    model.save_changes();
  }
  function focused() {
    words.replaceChildren();
    if (model.get("focus") >= 0) ask("focus", { number: model.get("focus") });
    overlay();
  }
  function drawLegend(about, palette) {
    const swatch = (colour) => { const box = make("span", { className: "lab-swatch" }); box.style.background = colour; return box; };
    if (about.kind === "classes") {
      legend.replaceChildren(...about.entries.map((one) => make("div", {}, swatch(one.colour), said(one.label), make("span", { className: "lab-quiet", textContent: ` ${one.n.toLocaleString()}` }))));
      return;
    }
    const bar = make("div", { className: "lab-scale" });
    bar.style.background = `linear-gradient(to right, ${palette.slice(0, -1).filter((_, i) => i % 16 === 0).join(",")})`;
    const ends = make("div", { className: "lab-ends" }, make("span", { textContent: about.low.toPrecision(3) }), make("span", { textContent: about.high.toPrecision(3) }));
    legend.replaceChildren(bar, ends);
    if (about.missing) legend.append(make("div", {}, swatch(palette.at(-1)), `${about.missing.toLocaleString()} without a number`));
  }

  // ---- controls
  const set = (name) => (value) => { model.set(name, value); model.save_changes(); };
  const layer = slider("layer", model.get("layers"), model.get("layer"), set("layer"));
  const pool = slider("pooling", model.get("pools"), model.get("pool"), set("pool"));
  const method = choice("map", model.get("methods"), model.get("method"), set("method"));
  const colour = choice("colour", model.get("columns"), model.get("colour"), set("colour"));
  const search = make("input", { type: "search", placeholder: "search", ariaLabel: "search all columns", value: model.get("query") });
  let typing = 0;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => set("query")(search.value), 250); });
  const lasso = make("button", { textContent: "lasso", title: "draw around points; Shift does the same", ariaPressed: "false" });
  lasso.addEventListener("click", () => { lassoing = !lassoing; lasso.ariaPressed = String(lassoing); canvas.classList.toggle("lab-drawing", lassoing); });
  const take = make("button", { textContent: "choose found", onclick: () => select(found.slice()) });
  const clear = make("button", { textContent: "clear", onclick: () => { select(new Uint32Array()); focus(-1); } });
  const bar = make("div", { className: "lab-bar" }, layer.node, pool.node, method.node, ...(model.get("columns").length ? [colour.node] : []), search, count, take, lasso, clear);
  const follow = {
    layer: () => { layer.set(model.get("layer")); move(); showAround(); if (model.get("focus") >= 0) focused(); },
    pool: () => { pool.set(model.get("pool")); move(); if (chosen.length) around(); },
    method: () => { method.list.value = model.get("method"); move(); },
    colour: () => { colour.list.value = model.get("colour"); if (model.get("colour")) ask("hues", { column: model.get("colour") }); },
    query: () => { if (search.value !== model.get("query")) search.value = model.get("query"); ask("search", { query: model.get("query") }); },
    focus: focused,
    message: () => asked.clear(),
  };
  for (const [name, act] of Object.entries(follow)) model.on(`change:${name}`, act);
  model.on("msg:custom", heard);
  root.classList.add("lab-widget");
  root.dataset.painter = scatter.painter.constructor.name;
  root.append(bar, make("div", { className: "lab-beside" }, stage, legend), statusLine(model), words, table, near);
  const watcher = new ResizeObserver(() => pace.wake());
  watcher.observe(stage);
  move();
  follow.colour();
  if (model.get("query")) follow.query();
  if (model.get("focus") >= 0) focused();
  ask("again");
  return () => {
    pace.stop();
    watcher.disconnect();
    for (const [name, act] of Object.entries(follow)) model.off(`change:${name}`, act);
    model.off("msg:custom", heard);
    scatter.painter.close();
  };
}

export default { render };
