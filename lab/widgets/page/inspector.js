// The pooling inspector's page: a text, what each pooling hears of it, and what stands near it then.
function render({ model, el: root }) {
  const type = make("textarea", { className: "lab-type", value: model.get("text"), ariaLabel: "text", dir: "auto" });
  const set = (name) => (value) => { model.set(name, value); model.save_changes(); };
  let typing = 0;
  type.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => set("text")(type.value), 400); });
  const layer = slider("layer", model.get("layers"), model.get("layer"), set("layer"));
  const words = make("div"), near = make("div", { className: "lab-scroll" });
  const ask = () => model.send({ ask: "look", text: model.get("text"), layer: model.get("layer") });
  function heard(answer) {
    if (answer.text !== model.get("text") || answer.layer !== model.get("layer")) return;
    words.replaceChildren(...(answer.pools.length ? [wordRows(answer.words, answer.pools)] : []));
    const columns = ["pooling", ...Array.from({ length: answer.most }, (_, i) => `neighbour ${i + 1}`)];
    const rows = answer.near.map((one) => [one.pool, ...one.texts]);
    near.replaceChildren(...(rows.length ? [plainTable(columns, rows, [], null)] : []));
    root.dataset.layer = answer.layer;
  }
  const follow = {
    text: () => { if (type.value !== model.get("text")) type.value = model.get("text"); ask(); },
    layer: () => { layer.set(model.get("layer")); ask(); },
  };
  for (const [name, act] of Object.entries(follow)) model.on(`change:${name}`, act);
  model.on("msg:custom", heard);
  begin(root);
  root.append(type, make("div", { className: "lab-bar" }, layer.node), statusLine(model), words, near);
  ask();
  return () => {
    for (const [name, act] of Object.entries(follow)) model.off(`change:${name}`, act);
    model.off("msg:custom", heard);
  };
}

export default { render };
