"""A real browser around a real widget without a notebook: its page runs in Chromium, its Python here, and what they say
to each other is carried by hand, so that a test sees it all and decides when."""

import base64
import json
import time

MODEL = """
window.outbox = [];
window.traits = {};
window.heard = {};
window.pack = (buffers) => (buffers ?? []).map((b) => {
  const bytes = new Uint8Array(b instanceof ArrayBuffer ? b : b.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
});
window.unpack = (buffers) => buffers.map((b) => new DataView(Uint8Array.from(atob(b), (c) => c.charCodeAt(0)).buffer));
window.dirty = {};
window.model = {
  get: (name) => window.traits[name],
  set: (name, value) => {
    if (window.traits[name] === value) return;
    window.traits[name] = window.dirty[name] = value;
    window.fire(`change:${name}`);
  },
  save_changes: () => { window.outbox.push({ state: window.dirty }); window.dirty = {}; },
  on: (name, act) => { (window.heard[name] ??= []).push(act); },
  off: (name, act) => { window.heard[name] = (window.heard[name] ?? []).filter((one) => one !== act); },
  send: (content, _, buffers) => window.outbox.push({ content, buffers: window.pack(buffers) }),
};
window.fire = (name, ...given) => (window.heard[name] ?? []).slice().forEach((act) => act(...given));
window.take = (message) => {
  if (!message.state) { window.fire("msg:custom", message.content, window.unpack(message.buffers)); return; }
  Object.assign(window.traits, message.state);
  for (const name of Object.keys(message.state)) window.fire(`change:${name}`);
};
window.begin = async (esm, css, traits) => {
  Object.assign(window.traits, traits);
  document.head.append(Object.assign(document.createElement("style"), { textContent: css }));
  const url = URL.createObjectURL(new Blob([esm], { type: "text/javascript" }));
  window.end = await (await import(url)).default.render({ model: window.model, el: document.getElementById("root") });
};
"""
INNER = ("_esm", "_css", "_anywidget_id", "layout", "tooltip", "tabbable")


class Wire:
    """What ipywidgets takes for a comm; messages wait until the test carries them."""

    comm_id = "wire"

    def __init__(self):
        self.waiting = []

    def send(self, data=None, metadata=None, buffers=None):  # noqa: ARG002 - named so by who calls
        self.waiting.append((data, [bytes(buffer) for buffer in buffers or []]))

    def on_msg(self, act):
        pass

    def close(self, *given, **named):
        pass


class Host:
    """One page with one widget; `errors` and `requests` are what a test looks at when it ends.

    first: a script that runs before the widget's own."""

    def __init__(self, browser, widget, width=1100, height=900, first="() => {}", **options):
        self.widget, self.wire = widget, Wire()
        widget.comm = self.wire
        self.context = browser.new_context(offline=True, viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors, self.requests = [], []
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_content("<!doctype html><meta charset=utf-8><body><div id=root></div>")
        self.page.evaluate(f"() => {{{MODEL}}}")
        self.page.evaluate(first)
        state = {key: value for key, value in widget.get_state().items() if key not in INNER}
        json.dumps(state, allow_nan=False)  # as the kernel's own messages must be
        self.began = time.perf_counter()
        self.page.evaluate("([esm, css, state]) => window.begin(esm, css, state)", [widget._esm, widget._css, state])
        self.pump()

    def pump(self):
        """Carry what waits, both ways."""
        for message in self.page.evaluate("() => window.outbox.splice(0)"):
            data = (
                {"method": "update", "state": message["state"], "buffer_paths": []}
                if "state" in message
                else {"method": "custom", "content": message["content"]}
            )
            buffers = [memoryview(base64.b64decode(part)) for part in message.get("buffers", [])]
            self.widget._handle_msg({"content": {"data": data}, "buffers": buffers})
        while self.wire.waiting:
            data, buffers = self.wire.waiting.pop(0)
            if data["method"] == "echo_update":
                continue
            json.dumps(data, allow_nan=False)
            sent = {"state": data["state"]} if data["method"] == "update" else {"content": data["content"]}
            self.page.evaluate(
                "message => window.take(message)",
                sent | {"buffers": [base64.b64encode(part).decode() for part in buffers]},
            )

    def until(self, condition, seconds=90.0):
        """Carry messages until a condition in Python or in the page (a string) holds."""
        end = time.perf_counter() + seconds
        while not (self.page.evaluate(condition) if isinstance(condition, str) else condition()):
            if time.perf_counter() > end:
                raise TimeoutError(f"still not so after {seconds} s: {condition}; message {self.widget.message!r}")
            self.pump()
            time.sleep(0.02)
        self.pump()

    def box(self, selector):
        return self.page.locator(selector).first.bounding_box()

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def close(self):
        self.context.close()
