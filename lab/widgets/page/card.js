// Points in one WebGL2 draw call. Arrays go to the card when it first meets them, and leave it when they are not asked for.
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

// Without a card a browser may play one by the processor: it gives nothing when it is asked not to, or says who plays.
const PLAYED = /swiftshader|llvmpipe|softpipe|software|basic render/i;

function hasCard() {
  const gl = document.createElement("canvas").getContext("webgl2", { failIfMajorPerformanceCaveat: true });
  if (!gl) return false;
  const name = gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return !PLAYED.test(name);
}

class Card {
  constructor(canvas) {
    Object.assign(this, { canvas, last: null });
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => { this.start(); if (this.last) this.paint(this.last); });
    this.start();
  }

  start() {
    const gl = this.canvas.getContext("webgl2", { antialias: false, alpha: true, depth: false });
    Object.assign(this, { gl, fence: null, buffers: new Map(), palette: null });
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
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  bind(array) {
    const { gl, buffers } = this, met = buffers.has(array);
    if (!met) buffers.set(array, gl.createBuffer());
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers.get(array));
    if (!met) gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
  }

  paint(view) {
    const { gl, at } = this, { before, after, palette, size, stride } = view;
    this.last = view;
    gl.viewport(0, 0, view.width, view.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!view.n) return;
    for (const [array, buffer] of this.buffers) {
      if (Object.values(view).includes(array)) continue;
      gl.deleteBuffer(buffer);
      this.buffers.delete(array);
    }
    const kind = { Float32Array: gl.FLOAT, Uint16Array: gl.UNSIGNED_SHORT, Uint8Array: gl.UNSIGNED_BYTE };
    for (const [name, slot] of Object.entries(this.slot)) {
      const array = view[name], count = array === before || array === after ? 2 : 1;
      this.bind(array);
      gl.enableVertexAttribArray(slot);
      gl.vertexAttribPointer(slot, count, kind[array.constructor.name], false, stride * array.BYTES_PER_ELEMENT * count, 0);
    }
    if (palette !== this.palette) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, palette);
    this.palette = palette;
    gl.uniform4f(at.unpack, ...packing(before), ...packing(after));
    gl.uniform1f(at.t, view.t);
    gl.uniform2f(at.centre, ...view.centre);
    gl.uniform2f(at.zoom, ...view.scale);
    gl.uniform1f(at.size, size);
    gl.uniform1f(at.faint, view.faint);
    gl.uniform1i(at.round_, size > 3);
    gl.drawArrays(gl.POINTS, 0, Math.floor((view.n - 1) / stride) + 1);
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

  close() {
    this.gl.getExtension("WEBGL_lose_context")?.loseContext();
  }
}
