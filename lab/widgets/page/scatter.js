// Points in one WebGL2 draw call: two places each, from and to, mixed by t, one byte of colour and one of marks.
const NOWHERE = 1.1; // places lie in [-1, 1]; beyond, a point has none
const CHOSEN = 1, FOUND = 2;
const VERTEX = `#version 300 es
in vec2 before; in vec2 after; in float code; in float mark;
uniform vec4 unpack; uniform float t; uniform vec2 centre; uniform vec2 zoom; uniform float size; uniform float faint;
uniform sampler2D palette;
out vec4 colour;
void main() {
  vec2 a = before * unpack.x + unpack.y, b = after * unpack.z + unpack.w;
  if (a.x > ${NOWHERE}) a = b;
  gl_Position = b.x > ${NOWHERE} ? vec4(2., 2., 2., 1.) : vec4((mix(a, b, t) - centre) * zoom, 0., 1.);
  float alpha = mark > 0.5 ? 1. : faint;
  colour = vec4(texelFetch(palette, ivec2(int(code + 0.5), 0), 0).rgb * alpha, alpha);
  gl_PointSize = mark > 0.5 ? size * 1.7 : size;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 colour; out vec4 ink;
uniform bool round_;
void main() {
  if (round_) { vec2 d = gl_PointCoord - 0.5; if (dot(d, d) > 0.25) discard; }
  ink = colour;
}`;

class Scatter {
  constructor(canvas) {
    this.canvas = canvas;
    this.n = 0;
    this.t = 1;
    this.centre = [0, 0];
    this.zoom = 1;
    this.marked = false;
    this.bytes = {}; // name: what was last uploaded, for a card that forgets
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.start(); this.again(); });
    this.start();
  }

  start() {
    const gl = this.canvas.getContext("webgl2", { antialias: false, alpha: true, depth: false });
    this.gl = gl;
    this.fence = null;
    if (!gl) return;
    const shader = (kind, source) => {
      const made = gl.createShader(kind);
      gl.shaderSource(made, source);
      gl.compileShader(made);
      return made;
    };
    const program = gl.createProgram();
    gl.attachShader(program, shader(gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(program, shader(gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    const at = ["unpack", "t", "centre", "zoom", "size", "faint", "round_"].map((name) => [name, gl.getUniformLocation(program, name)]);
    this.at = Object.fromEntries(at);
    this.slot = Object.fromEntries(["before", "after", "code", "mark"].map((name) => [name, gl.getAttribLocation(program, name)]));
    this.buffer = Object.fromEntries(Object.keys(this.slot).map((name) => [name, gl.createBuffer()]));
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  again() {
    for (const [name, array] of Object.entries(this.bytes)) name === "palette" ? this.colours(null, array) : this.load(name, array);
    this.draw();
  }

  load(name, array) {
    this.bytes[name] = array;
    if (!this.gl) return;
    this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffer[name]);
    this.gl.bufferData(this.gl.ARRAY_BUFFER, array, this.gl.STATIC_DRAW);
  }

  places(before, after) {
    this.n = after.length / 2;
    if (before === this.bytes.after) { // the card has it already
      for (const kept of [this.buffer, this.bytes]) [kept.before, kept.after] = [kept.after, kept.before];
    } else this.load("before", before);
    this.load("after", after);
    if ((this.bytes.mark?.length ?? 0) !== this.n) this.load("mark", new Uint8Array(this.n));
    if ((this.bytes.code?.length ?? 0) !== this.n) this.load("code", new Uint8Array(this.n));
  }

  colours(codes, palette) {
    if (codes) this.load("code", codes);
    this.bytes.palette = palette;
    if (!this.gl) return;
    const texels = new Uint8Array(256 * 4).fill(136);
    palette.forEach((hex, i) => texels.set([...rgb(hex), 255], 4 * i));
    this.gl.texImage2D(this.gl.TEXTURE_2D, 0, this.gl.RGBA, 256, 1, 0, this.gl.RGBA, this.gl.UNSIGNED_BYTE, texels);
  }

  marks(array) {
    this.marked = array.some((value) => value > 0);
    this.load("mark", array);
  }

  // every stride-th point: while a million move, a part of them is drawn, by stepping wider through the same buffers
  draw(stride = 1) {
    const { gl, canvas } = this;
    if (!gl || !this.n) return;
    const [w, h] = [canvas.clientWidth, canvas.clientHeight].map((v) => Math.round(v * (devicePixelRatio || 1)));
    if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    const set = (name, count, size) => {
      const array = this.bytes[name], kind = { Float32Array: gl.FLOAT, Uint16Array: gl.UNSIGNED_SHORT, Uint8Array: gl.UNSIGNED_BYTE };
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffer[name]);
      gl.enableVertexAttribArray(this.slot[name]);
      gl.vertexAttribPointer(this.slot[name], count, kind[array.constructor.name], false, stride * size * count, 0);
    };
    set("before", 2, this.bytes.before.BYTES_PER_ELEMENT);
    set("after", 2, this.bytes.after.BYTES_PER_ELEMENT);
    set("code", 1, 1);
    set("mark", 1, 1);
    const size = this.pointSize();
    const unpack = (array) => (array instanceof Uint16Array ? [2 / 60000, -1] : [1, 0]);
    gl.uniform4f(this.at.unpack, ...unpack(this.bytes.before), ...unpack(this.bytes.after));
    gl.uniform1f(this.at.t, this.t);
    gl.uniform2f(this.at.centre, ...this.centre);
    gl.uniform2f(this.at.zoom, ...this.scale());
    gl.uniform1f(this.at.size, size);
    gl.uniform1f(this.at.faint, this.marked ? 0.15 : this.n > 100000 ? 0.6 : 0.85);
    gl.uniform1i(this.at.round_, size > 3);
    gl.drawArrays(gl.POINTS, 0, Math.floor((this.n - 1) / stride) + 1);
    this.fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
  }

  // is the card through with what it was last given?
  ready() {
    const { gl, fence } = this;
    if (!fence || gl.getSyncParameter(fence, gl.SYNC_STATUS) === gl.UNSIGNALED) return !fence;
    gl.deleteSync(fence);
    this.fence = null;
    return true;
  }

  pointSize() {
    const ratio = devicePixelRatio || 1;
    return ratio * Math.min(10, Math.max(this.n > 200000 ? 1 : 2, (420 / Math.sqrt(this.n + 50)) * Math.sqrt(this.zoom)));
  }

  scale() {
    const { width, height } = this.canvas, side = 0.94 * Math.min(width, height) * this.zoom;
    return [side / (width || 1), side / (height || 1)];
  }

  // between the page's pixels, from the canvas's upper left, and places
  toPlace(x, y) {
    const [sx, sy] = this.scale(), { clientWidth: w, clientHeight: h } = this.canvas;
    return [((2 * x) / w - 1) / sx + this.centre[0], (1 - (2 * y) / h) / sy + this.centre[1]];
  }

  toPixel(px, py) {
    const [sx, sy] = this.scale(), { clientWidth: w, clientHeight: h } = this.canvas;
    return [(((px - this.centre[0]) * sx + 1) * w) / 2, ((1 - (py - this.centre[1]) * sy) * h) / 2];
  }

  pixel() {
    return 2 / (this.scale()[0] * this.canvas.clientWidth || 1); // its width in places
  }
}

// two bytes a number as places; a plain loop is ten times as fast here as Float32Array.from
function unpacked(array) {
  const places = new Float32Array(array.length);
  for (let i = 0; i < array.length; i++) places[i] = (2 * array[i]) / 60000 - 1;
  return places;
}
