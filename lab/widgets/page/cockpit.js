// The training cockpit's page: curves that grow, and the two buttons.
const PARTS = [["loss", "nats a token"], ["sink_rate", "share of heads and texts"], ["kurtosis", "of the states"], ["effective_rank", "of the states"]];
const DEEP = ["#56B4E9", "#0072B2", "#009E73", "#999933", "#E69F00", "#D55E00", "#CC79A7", "#882255", "#AA4499", "#44AA99"];

function render({ model, el: root }) {
  const charts = Object.fromEntries(PARTS.map(([name, unit]) => [name, lineChart(name.replace("_", " "), { across: "step", unit, hover: (x) => Object.values(charts).forEach((chart) => chart.point(x)) })]));
  const go = make("button", { onclick: () => model.send({ ask: "start" }) });
  const stop = make("button", { textContent: "stop", onclick: () => model.send({ ask: "stop" }) });
  const told = make("span", { className: "lab-quiet lab-state" });
  let rows = [];
  function draw() {
    const pick = (name) => rows.map((row) => [row.step, row[name]]);
    charts.loss.update([{ name: "training", colour: "#0072B2", points: pick("loss") }, { name: "held out", colour: "#D55E00", points: pick("held_out") }]);
    for (const [name] of PARTS.slice(1)) {
      const layers = Math.max(0, ...rows.map((row) => row[name]?.length ?? 0));
      const series = Array.from({ length: layers }, (_, i) => ({ name: `layer ${i + (name === "sink_rate" ? 1 : 0)}`, colour: DEEP[i % DEEP.length], points: rows.map((row) => [row.step, row[name]?.[i] ?? null]) }));
      charts[name].update(series);
    }
    root.dataset.rows = rows.length;
    state();
  }
  function state() {
    const now = model.get("state"), last = rows.at(-1);
    go.textContent = { ready: "start", stopped: "resume", failed: "try again" }[now] ?? "start";
    go.disabled = ["running", "stopping", "done"].includes(now);
    stop.disabled = now !== "running";
    told.textContent = now === "stopping" ? "stops at the next look" : last ? `${now}, step ${last.step}` : now;
  }
  function heard(answer) {
    if (answer.answer === "rows") rows = answer.rows;
    else if (answer.answer === "row") rows = [...rows.filter((row) => row.step < answer.row.step), answer.row];
    draw();
  }
  model.on("change:state", state);
  model.on("msg:custom", heard);
  begin(root);
  root.append(make("div", { className: "lab-bar" }, go, stop, told), statusLine(model), make("div", { className: "lab-panels" }, ...PARTS.map(([name]) => charts[name].node)));
  draw();
  model.send({ ask: "rows" });
  return () => { model.off("change:state", state); model.off("msg:custom", heard); };
}

export default { render };
