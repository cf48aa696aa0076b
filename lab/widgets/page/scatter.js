// The points of a map: two places each, from and to, mixed by t, a byte of colour and one of marks; and where one looks.
// A painter draws them: the graphics card, or where there is none the processor, which is quicker than playing a card.
const NOWHERE = 1.1; // places lie in [-1, 1]; beyond, a point has none
const CHOSEN = 1, FOUND = 2;

class Scatter {
  constructor(canvas, Painter = hasCard() ? Card : Pixels) {
    Object.assign(this, { canvas, n: 0, t: 1, centre: [0, 0], zoom: 1, marked: false, before: null, after: null });
    Object.assign(this, { code: new Uint8Array(0), mark: new Uint8Array(0), palette: new Uint8Array(4 * 256).fill(136) });
    this.painter = new Painter(canvas);
  }

  places(before, after) {
    Object.assign(this, { before, after, n: after.length / 2 });
    for (const name of ["code", "mark"]) if (this[name].length !== this.n) this[name] = new Uint8Array(this.n);
  }

  colours(codes, palette) {
    this.code = codes;
    this.palette = new Uint8Array(4 * 256).fill(136); // another array: painters see by that what changed
    palette.forEach((hex, i) => this.palette.set([...rgb(hex), 255], 4 * i));
  }

  marks(array) {
    this.marked = array.some((value) => value > 0);
    this.mark = array;
  }

  // every stride-th point: while a million move, a part of them is drawn, by stepping wider through the same arrays
  draw(stride = 1) {
    const { canvas, n, before, after, code, mark, palette, t, centre } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((v) => Math.round(v * (devicePixelRatio || 1)));
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const faint = this.marked ? 0.15 : n > 100000 ? 0.6 : 0.85, size = this.pointSize(), scale = this.scale();
    this.painter.paint({ width, height, n, stride, before, after, code, mark, palette, t, centre: [...centre], scale, size, faint });
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

// two bytes a number, or a place as it is: factor and offset
const packing = (array) => (array instanceof Uint16Array ? [2 / 60000, -1] : [1, 0]);

// two bytes a number as places; a plain loop is ten times as fast here as Float32Array.from
function unpacked(array) {
  const places = new Float32Array(array.length), [factor, offset] = packing(array);
  for (let i = 0; i < array.length; i++) places[i] = factor * array[i] + offset;
  return places;
}
