// A grid of numbers as colours on a canvas: blue-black to yellow; a number that is not there is left blank.
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"].map(rgb);

function heatMap(title, { rows, columns, hover = () => {}, click = null, upward = false }) {
  const canvas = make("canvas", { className: "lab-heat", role: "img", tabIndex: 0 });
  const heading = make("h4", {}, said(title));
  const told = make("div", { className: "lab-quiet", role: "status", textContent: " " });
  const node = make("div", { className: "lab-panel" }, heading, canvas, told);
  const [L, B] = [74, 40];
  let now = null, marked = [null, null], pointed = null; // rows and columns; pointed: by keys
  if (click) canvas.style.cursor = "pointer";
  const name = (words) => canvas.setAttribute("aria-label", `${words}; arrow keys go from cell to cell`);
  name(title);

  function update(values, { named = title, down, across, low = 0, high = 1 }) {
    now = { values, down, across, low, high };
    heading.replaceChildren(said(named));
    name(named);
    draw();
  }
  function size() {
    const w = Math.max(120, canvas.clientWidth || 420), cell = (w - L) / Math.max(1, now.across.length);
    return { w, cell, tall: Math.max(5, Math.min(26, cell, 420 / Math.max(1, now.down.length))) };
  }
  function draw() {
    if (!now) return;
    const ratio = devicePixelRatio || 1, { w, cell, tall } = size(), n = now.down.length, h = n * tall + B;
    canvas.width = w * ratio;
    canvas.height = h * ratio;
    canvas.style.height = `${h}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif";
    const ink = getComputedStyle(canvas).color, at = (i) => (upward ? n - 1 - i : i);
    const gap = cell > 6 && tall > 6 ? 1 : 0;
    now.values.forEach((row, i) => row.forEach((value, j) => {
      if (value === null) return;
      const share = Math.max(0, Math.min(1, (value - now.low) / (now.high - now.low || 1))) * (CIVIDIS.length - 1);
      const below = Math.min(CIVIDIS.length - 2, Math.floor(share));
      pen.fillStyle = mixed(CIVIDIS[below], CIVIDIS[below + 1], share - below);
      pen.fillRect(L + j * cell, at(i) * tall, cell - gap, tall - gap);
    }));
    pen.fillStyle = ink;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const every = Math.ceil(12 / tall), along = Math.ceil(26 / cell);
    now.down.forEach((name, i) => { if (i % every === 0) pen.fillText(cut(name, 9), L - 5, at(i) * tall + tall / 2); });
    pen.textAlign = "center";
    now.across.forEach((name, j) => { if (j % along === 0) pen.fillText(cut(name, Math.max(3, (along * cell) / 7)), L + (j + 0.5) * cell, n * tall + 10); });
    pen.fillText(`${columns} (down: ${rows})`, L + (w - L) / 2, n * tall + 28);
    pen.strokeStyle = ink;
    pen.lineWidth = 2;
    for (const [i, j] of [marked, pointed ?? [null, null]]) if (i !== null && i >= 0 && i < n) pen.strokeRect(L + (j ?? 0) * cell, at(i) * tall, j === null ? w - L : cell, tall);
  }
  function place(event) {
    if (!now) return null;
    const box = canvas.getBoundingClientRect(), { cell, tall } = size(), n = now.down.length;
    const j = Math.floor((event.clientX - box.left - L) / cell), line = Math.floor((event.clientY - box.top) / tall);
    const i = upward ? n - 1 - line : line;
    return i >= 0 && i < n && j >= 0 && j < now.across.length ? [i, j] : null;
  }
  function tell(spot) {
    const value = spot && now.values[spot[0]][spot[1]];
    const words = spot ? `${rows} ${now.down[spot[0]]}, ${columns} ${now.across[spot[1]]}: ${value === null ? "none" : value.toPrecision(3)}` : " ";
    told.replaceChildren(said(words));
  }
  canvas.addEventListener("pointermove", (event) => { const spot = place(event); tell(spot); hover(spot); });
  for (const away of ["pointerleave", "blur"]) canvas.addEventListener(away, () => { pointed = null; tell(null); hover(null); draw(); });
  canvas.addEventListener("click", (event) => { const spot = place(event); if (spot && click) click(...spot); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [upward ? 1 : -1, 0], ArrowDown: [upward ? -1 : 1, 0] }[event.key];
    if (!step || !now) return;
    event.preventDefault();
    event.stopPropagation();
    const [i, j] = click ? marked : pointed ?? marked, spot = [(i ?? 0) + step[0], (j ?? 0) + step[1]];
    if (now.values[spot[0]]?.[spot[1]] === undefined) return;
    pointed = spot;
    tell(spot);
    if (click) click(...spot);
    else hover(spot);
    draw();
  });
  canvas.addEventListener("transitionend", draw); // another theme, another ink
  new ResizeObserver(draw).observe(canvas.parentNode);
  return { node, update, mark: (i, j = null) => { marked = [i, j]; draw(); } };
}

const cut = (text, most) => (String(text).length > most ? `${String(text).slice(0, Math.max(1, Math.floor(most) - 1))}…` : String(text));
