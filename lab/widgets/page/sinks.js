// The sink viewer's page: a mosaic of heads, and what the chosen head does with one text.
function render({ model, el: root }) {
  let seen = null;
  const mosaic = heatMap("sink rate", { rows: "layer", columns: "head", upward: true, click: (i, j) => set({ layer: seen.layers[i], head: j }) });
  const rows = heatMap("who looks where", { rows: "query", columns: "key" });
  const hover = (x) => [mass, norms].forEach((chart) => chart.point(x));
  const mass = lineChart("attention received", { across: "place", unit: "mean over texts", hover });
  const norms = lineChart("length of the value", { across: "place", unit: "|v|", hover });
  const text = make("div", { className: "lab-full" });
  const set = (values) => { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); };
  const normalizer = choice("normalizer", model.get("normalizers"), model.get("normalizer"), (value) => set({ normalizer: value }));
  const which = slider("text", Array.from({ length: model.get("n") }, (_, i) => i), model.get("text"), (value) => set({ text: value }));
  const ask = (what) => model.send({ ask: what, layer: model.get("layer"), head: model.get("head"), text: model.get("text"), normalizer: model.get("normalizer") });
  function heard(answer) {
    if (answer.normalizer !== model.get("normalizer")) return;
    if (answer.answer === "mosaic") {
      seen = answer;
      mosaic.update(answer.rate, { named: `share of texts whose first token gets more than ${answer.threshold}`, down: answer.layers, across: answer.heads });
      mosaic.mark(answer.layers.indexOf(model.get("layer")), model.get("head"));
    } else if (answer.layer === model.get("layer") && answer.head === model.get("head")) {
      const colour = "#0072B2", name = `layer ${answer.layer}, head ${answer.head}`;
      const curve = (values) => [{ name, colour, points: values.map((v, i) => [i + 1, v]) }];
      if (answer.answer === "places") {
        mass.update(curve(answer.mass));
        norms.update(curve(answer.norms));
      } else if (answer.text === model.get("text")) {
        text.replaceChildren(said(answer.words));
        rows.update(answer.weights, { named: name, down: answer.tokens, across: answer.tokens, high: answer.high });
        root.dataset.pattern = `${answer.normalizer}/${answer.layer}/${answer.head}/${answer.text}`;
      }
    }
  }
  function look() {
    mosaic.mark(seen?.layers.indexOf(model.get("layer")) ?? null, model.get("head"));
    ask("places");
    ask("pattern");
  }
  const follow = {
    layer: look, head: look, text: () => { which.set(model.get("text")); ask("pattern"); },
    normalizer: () => { normalizer.list.value = model.get("normalizer"); ask("mosaic"); look(); },
  };
  for (const [name, act] of Object.entries(follow)) model.on(`change:${name}`, act);
  model.on("msg:custom", heard);
  root.classList.add("lab-widget");
  root.append(make("div", { className: "lab-bar" }, normalizer.node, which.node), statusLine(model), text,
    make("div", { className: "lab-panels" }, mosaic.node, rows.node, mass.node, norms.node));
  ask("mosaic");
  look();
  return () => {
    for (const [name, act] of Object.entries(follow)) model.off(`change:${name}`, act);
    model.off("msg:custom", heard);
  };
}

export default { render };
