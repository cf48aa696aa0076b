// Tables of text; every cell is a text node.
function plainTable(columns, rows, numbers, click) {
  const head = make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, said(name))));
  const body = rows.map((cells, i) => {
    const row = make("tr", {}, ...cells.map((cell) => make("td", {}, said(cell))));
    if (click) pressable(row, () => click(numbers[i])).setAttribute("aria-label", cells.join(", ").slice(0, 200));
    return row;
  });
  return make("table", { className: "lab-table" }, make("thead", {}, head), make("tbody", {}, ...body));
}

// a row per layer: does the choice hold together there, and what is nearest
function aroundTable(rows, chance, now, click) {
  const most = Math.max(0, ...rows.map((row) => row.near.length));
  const head = ["layer", "together", ...Array.from({ length: most }, (_, i) => `neighbour ${i + 1}`)];
  const title = "of the ten nearest of each chosen example, the share that is chosen too";
  const table = make("table", { className: "lab-table lab-around" },
    make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col", textContent: name, title: name === "together" ? title : "" })))));
  const body = rows.map((row) => {
    const share = row.together === null ? "" : `${Math.round(100 * row.together)} %`;
    const cells = row.near.map((one) => pressable(make("td", { title: `cosine ${one.cosine.toFixed(3)}` }, said(one.text)), () => click(one.number)));
    const made = make("tr", {}, make("th", { scope: "row", textContent: row.layer }), make("td", { textContent: share }), ...cells);
    if (row.layer === now) made.classList.add("lab-now");
    return made;
  });
  table.append(make("tbody", {}, ...body));
  const odds = rows.some((row) => row.together !== null) ? ` Together by chance: ${(100 * chance).toFixed(1)} %.` : "";
  return make("div", {}, make("div", { className: "lab-quiet", textContent: `Nearest to the choice in each layer, by cosine.${odds}` }), table);
}
