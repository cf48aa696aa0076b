// Elements. Strings become text nodes, never markup; what comes from data stands in a <bdi>, so that marks that turn
// the direction of writing end where it ends.
const SVG = "http://www.w3.org/2000/svg";

const KEYED = ["input", "select", "button", "textarea", "canvas", "tr", "td"];

function make(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  // JupyterLab would take arrow keys and letters for its own commands; it looks for this on what has the focus
  if (KEYED.includes(tag)) node.dataset.lmSuppressShortcuts = "true";
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// what a click does on it, Enter does too
function pressable(node, act) {
  node.tabIndex = 0;
  node.addEventListener("click", act);
  node.addEventListener("keydown", (event) => { if (event.key === "Enter") act(); });
  return node;
}

const said = (text, props = {}) => make("bdi", { textContent: text, ...props });

function choice(label, options, value, change) {
  const list = make("select", { onchange: () => change(list.value) });
  const fill = (names, chosen) => {
    list.replaceChildren(...names.map((name) => make("option", { value: name, textContent: name })));
    list.value = chosen;
  };
  fill(options, value);
  const node = make("label", { className: "lab-field" }, make("span", { textContent: label }), list);
  return { node, list, fill };
}

function slider(label, values, value, change) {
  const shown = make("output", { textContent: value });
  const bar = make("input", { type: "range", min: 0, max: Math.max(0, values.length - 1), step: 1 });
  bar.value = values.indexOf(value);
  bar.disabled = values.length < 2;
  const set = (now) => {
    bar.value = values.indexOf(now);
    shown.textContent = now;
    bar.setAttribute("aria-valuetext", now);
  };
  bar.addEventListener("input", () => { set(values[+bar.value]); change(values[+bar.value]); });
  set(value);
  return { node: make("label", { className: "lab-field" }, make("span", { textContent: label }), bar, shown), bar, set };
}

// what the kernel says: its message and what it is working on
function statusLine(model) {
  const node = make("div", { className: "lab-status", role: "status" });
  const show = () => {
    const [busy, message] = [model.get("busy"), model.get("message")];
    node.replaceChildren();
    if (busy) node.append(make("span", { className: "lab-busy", textContent: busy }));
    if (message) {
      node.append(said(message, { className: "lab-message" }),
        make("button", { textContent: "dismiss", onclick: () => { model.set("message", ""); model.save_changes(); } }));
    }
  };
  model.on("change:busy", show);
  model.on("change:message", show);
  show();
  return node;
}

function bytesOf(buffer) {
  if (buffer instanceof ArrayBuffer) return buffer;
  return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength);
}

// white text on it, or black?
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
const mixed = (a, b, share) => `rgb(${a.map((v, i) => Math.round(v + share * (b[i] - v))).join(",")})`;
