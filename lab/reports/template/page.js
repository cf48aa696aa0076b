(() => {
  "use strict";
  const root = document.documentElement;
  const nonce = document.currentScript.nonce;
  const boxes = [...document.querySelectorAll("[data-figure]")];
  const drawn = new Set();
  const PAPER = 680; // CSS pixels: what A4 leaves between the margins of the style sheet

  // ---- theme: the reader's choice, else the system's
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("lab-theme"); } catch { /* some browsers refuse storage to files */ }
  const toggle = document.getElementById("theme");
  let printing = false;
  const setTheme = () => {
    root.dataset.theme = printing ? "light" : (chosen ?? (system.matches ? "dark" : "light"));
    toggle.textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
    toggle.setAttribute("aria-label", `${toggle.textContent} theme`);
    for (const box of drawn) Plotly.react(box, box.data, themed(box.layout), box.config);
  };
  toggle.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("lab-theme", chosen); } catch { /* the choice then lasts until the page closes */ }
    setTheme();
  });
  system.addEventListener("change", setTheme);

  // ---- figures: transparent, with the page's ink and lines
  function themed(layout) {
    const style = getComputedStyle(root);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
    const out = { ...layout, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true };
    out.font = { ...layout.font, color: ink, family: style.getPropertyValue("--sans").trim() };
    const template = { ...layout.template };
    const base = { ...template.layout };
    for (const name of ["xaxis", "yaxis"]) base[name] = { ...base[name], ...axis };
    base.scene = { ...base.scene };
    for (const name of ["xaxis", "yaxis", "zaxis"]) base.scene[name] = { ...base.scene[name], ...axis, backgroundcolor: "rgba(0,0,0,0)" };
    if (base.legend) base.legend = { ...base.legend, bgcolor: "rgba(0,0,0,0)" };
    out.template = { ...template, layout: base };
    for (const name of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(name)) out[name] = { ...layout[name], ...axis };
    }
    if (layout.title?.font) out.title = { ...layout.title, font: { ...layout.title.font, color: ink } };
    if (layout.legend) out.legend = { ...layout.legend, bgcolor: "rgba(0,0,0,0)" };
    if (!layout.margin && !base.margin) out.margin = { l: 64, r: 24, t: layout.title ? 60 : 24, b: 56 };
    delete out.width;
    if (printing) Object.assign(out, { width: PAPER, autosize: false });
    return out;
  }

  // ---- plotly: unpacked once, when the first figure is near the window
  let plotly = null;
  async function unpack() {
    const packed = document.getElementById("plotly-gzip");
    const bytes = Uint8Array.from(atob(packed.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.nonce = nonce;
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    packed.remove();
  }
  function draw(box) {
    if (drawn.has(box)) return;
    drawn.add(box);
    const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    box.config = { responsive: true, displaylogo: false, ...figure.config };
    const spec = { data: figure.data ?? [], layout: themed(figure.layout ?? {}), config: box.config, frames: figure.frames ?? [] };
    Plotly.newPlot(box, spec).then(() => {
      root.dataset.firstFigure ??= Math.round(performance.now());
      level(box);
      root.dataset.figuresDrawn = document.querySelectorAll(".js-plotly-plot").length;
    });
  }

  // ---- two runs: the same scale on both sides, so that higher is higher
  function level(box) {
    const sides = [...(box.closest(".sides")?.children ?? [])].map((side) => [...side.querySelectorAll("[data-figure]")]);
    const n = Math.max(...sides.map((side) => side.indexOf(box)));
    const pair = sides.map((side) => side[n]);
    if (sides.length !== 2 || !pair.every((other) => other?._fullLayout)) return;
    const [a, b] = pair.map((other) => other._fullLayout);
    const change = {};
    for (const name of Object.keys(a).filter((key) => /^[xy]axis\d*$/.test(key) && b[key])) {
      const [one, other] = [a[name], b[name]];
      const alike = one.type === other.type && one.title?.text === other.title?.text && ["linear", "log"].includes(one.type);
      if (one.ticktext || other.ticktext) continue; // rows and columns with names, not a scale
      const turned = one.range[0] > one.range[1];
      if (!alike || turned !== other.range[0] > other.range[1]) continue;
      const ends = [...one.range, ...other.range];
      const range = [Math.min(...ends), Math.max(...ends)];
      change[`${name}.range`] = turned ? range.reverse() : range;
    }
    for (const other of pair) Plotly.relayout(other, change);
  }
  async function show(some) {
    try {
      plotly ??= unpack();
      await plotly;
    } catch (error) {
      for (const box of boxes) box.innerHTML = '<div class="missing">This browser cannot unpack the figures; a current one can.</div>';
      throw error;
    }
    some.forEach(draw);
  }
  root.dataset.figures = boxes.length;
  root.dataset.figuresDrawn = 0;

  setTheme();
  if (boxes.length) {
    const near = new IntersectionObserver((seen) => {
      const now = seen.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
      now.forEach((box) => near.unobserve(box));
      if (now.length) show(now);
    }, { rootMargin: "600px 0px" });
    boxes.forEach((box) => near.observe(box));
    // on paper: light, as wide as the paper, all drawn; plotly draws at once where it is unpacked
    addEventListener("beforeprint", () => {
      printing = true;
      if (window.Plotly) boxes.forEach(draw);
      setTheme();
    });
    addEventListener("afterprint", () => {
      printing = false;
      setTheme();
    });
  }

  // ---- tables: numbers stand right, columns of words left
  const numeric = /^[-+\u2212]?[\d.,]+(e[-+]?\d+)?\s*%?$|^(nan|-?inf|none|)$/i;
  for (const table of document.querySelectorAll(".html table")) {
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    for (let column = 0; column < (rows[0]?.cells.length ?? 0); column++) {
      if (rows.every((row) => numeric.test(row.cells[column]?.textContent.trim() ?? ""))) continue;
      for (const row of table.rows) row.cells[column]?.classList.add("words");
    }
  }

  // ---- what scrolls can be scrolled by keyboard
  const reach = (part) => {
    for (const area of part.querySelectorAll("pre, .wide, .prose, .equation, .contents, .why, .note")) {
      if (area.scrollWidth > area.clientWidth + 1 || area.scrollHeight > area.clientHeight + 1) area.tabIndex = 0;
    }
  };
  reach(document);
  document.addEventListener("toggle", (event) => reach(event.target), true);

  // ---- gallery and names: by word and status
  const words = document.getElementById("words");
  const status = document.getElementById("status");
  if (words) {
    const entries = [...document.querySelectorAll(".findable")];
    const texts = entries.map((entry) => entry.textContent.toLowerCase());
    const filter = () => {
      const asked = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      entries.forEach((entry, n) => {
        entry.hidden = Boolean(status?.value && entry.dataset.status !== status.value) || !asked.every((word) => texts[n].includes(word));
        shown += !entry.hidden;
      });
      const all = shown === entries.length;
      document.getElementById("found").textContent = all ? "" : `${shown} of ${entries.length}`;
    };
    words.form.addEventListener("submit", (event) => event.preventDefault());
    words.addEventListener("input", filter);
    status?.addEventListener("change", filter);
    filter();
  }

  // ---- a long verdict is folded in the gallery, where its neighbours are to be seen too
  for (const verdict of document.querySelectorAll(".entry .verdict")) {
    verdict.classList.add("folded");
    if (verdict.scrollHeight <= verdict.clientHeight + 40) {
      verdict.classList.remove("folded");
      continue;
    }
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    const show = (whole) => {
      verdict.classList.toggle("folded", !whole);
      more.setAttribute("aria-expanded", whole);
      more.textContent = whole ? "Less" : "The whole verdict";
    };
    more.addEventListener("click", () => show(verdict.classList.contains("folded")));
    show(false);
    verdict.after(more);
    addEventListener("beforeprint", () => show(true));
  }

  // ---- contents: beside the text where there is room, else folded above it
  const contents = document.querySelector(".contents details");
  if (contents && innerWidth < 1280) contents.open = false;

  // ---- code
  const code = document.getElementById("code");
  const folds = [...document.querySelectorAll("details.code")];
  if (code && !folds.length) code.remove();
  code?.addEventListener("click", () => {
    const open = code.getAttribute("aria-pressed") !== "true";
    folds.forEach((fold) => { fold.open = open; });
    code.setAttribute("aria-pressed", open);
    code.textContent = open ? "Hide all code" : "Show all code";
  });
})();
