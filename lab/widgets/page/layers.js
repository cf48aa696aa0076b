// The layer browser's page: three figures of the same layers; hovering one marks the layer in all.
const TOLD = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999933", "#882255", "#44AA99", "#AA4499"];

function render({ model, el: root }) {
  const data = model.get("data"), layers = data.layers;
  const hover = (layer) => { if (layer !== model.get("layer")) { model.set("layer", layer ?? -1); model.save_changes(); } };
  const scores = lineChart("what a probe finds", { across: "layer", unit: data.unit, hover });
  const alike = heatMap("how alike layers are", { rows: "layer", columns: "layer", upward: true, hover: (spot) => hover(spot ? layers[spot[0]] : -1) });
  const space = lineChart("the space", { across: "layer", unit: "", hover });
  const set = (name) => (value) => { model.set(name, value); model.save_changes(); };
  const pool = choice("pooling", data.pools, model.get("pool"), set("pool"));
  const metric = choice("number of the space", Object.keys(data.space), model.get("metric"), set("metric"));
  const told = make("div", { className: "lab-status lab-told", role: "status" });
  const colour = (i) => TOLD[i % TOLD.length];
  const curves = (table) => data.pools.filter((name) => table[name]).map((name) => ({ name, colour: colour(data.pools.indexOf(name)), points: table[name] }));
  function draw() {
    if (data.scores) scores.update(curves(data.scores), { references: data.references });
    if (data.similarity) {
      const here = data.similarity.values[model.get("pool")];
      alike.update(here, { named: `${data.similarity.name}, ${model.get("pool")}`, down: layers, across: layers, low: data.similarity.low, high: data.similarity.high });
    }
    const table = data.space[model.get("metric")];
    if (table) space.update(curves(table), { named: model.get("metric") });
    mark();
  }
  function mark() {
    const layer = model.get("layer"), there = layer >= 0 ? layer : null;
    scores.point(there);
    space.point(there);
    if (data.similarity) alike.mark(there === null ? null : layers.indexOf(layer));
    const at = (table) => table?.[model.get("pool")]?.find((p) => p[0] === layer)?.[1];
    const show = (name, value) => (value === undefined || value === null ? [] : [`${name} ${value.toPrecision(3)}`]);
    told.textContent = there === null ? " " : [`layer ${layer}, ${model.get("pool")}`, ...show(data.unit, at(data.scores)), ...show(model.get("metric"), at(data.space[model.get("metric")]))].join(" · ");
  }
  const follow = { layer: mark, pool: () => { pool.list.value = model.get("pool"); draw(); }, metric: () => { metric.list.value = model.get("metric"); draw(); } };
  for (const [name, act] of Object.entries(follow)) model.on(`change:${name}`, act);
  begin(root);
  root.append(make("div", { className: "lab-bar" }, pool.node, ...(Object.keys(data.space).length ? [metric.node] : [])), told,
    make("div", { className: "lab-panels" }, ...[data.scores && scores.node, data.similarity && alike.node, Object.keys(data.space).length && space.node].filter(Boolean)), statusLine(model));
  draw();
  return () => { for (const [name, act] of Object.entries(follow)) model.off(`change:${name}`, act); };
}

export default { render };
