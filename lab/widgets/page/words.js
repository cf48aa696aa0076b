// A text once for each pool, every token on the colour of its share: grey-white is 1/n, orange more, blue less.
const LESS = [90, 155, 208], EVEN = [245, 245, 240], MORE = [232, 135, 45];

function wordRows(words, pools, ahead = null) {
  const rows = pools.map((pool) => {
    const n = pool.shares.length;
    const silent = pool.shares.every((share) => !share);
    const tokens = words.map((word, i) => {
      const lift = Math.max(-3, Math.min(3, Math.log2(Math.max(1e-9, (pool.shares[i] ?? 0) * n))));
      const token = said(word, { className: "lab-token", title: `${pool.name}: ${(pool.shares[i] ?? 0).toFixed(3)}` });
      if (!silent) token.style.background = mixed(EVEN, lift > 0 ? MORE : LESS, Math.abs(lift) / 3);
      return token;
    });
    const name = said(pool.name + (silent ? " (no gradient)" : ""), { className: "lab-pool" });
    const row = make("div", { className: "lab-words" }, name, make("div", {}, ...tokens));
    if (pool.name === ahead) row.classList.add("lab-now");
    return row;
  });
  const scale = ["1/8", "1", "8"].map((text, i) => {
    const token = make("span", { className: "lab-token", textContent: text });
    token.style.background = mixed(EVEN, i ? MORE : LESS, i === 1 ? 0 : 1);
    return token;
  });
  const legend = make("div", { className: "lab-words" }, make("span", { className: "lab-quiet", textContent: "times 1/n" }), make("div", {}, ...scale));
  return make("div", { className: "lab-rows" }, ...rows, legend);
}
