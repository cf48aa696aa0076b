// The same points drawn by the processor, pixel by pixel into one array: discs whose pixels' centres lie within, laid over
// each other in their order, on the ground that the canvas has in the page. Nothing is left for a compositor to blend,
// which where it is played by the processor too takes twice as long for a canvas that lets something through.
class Pixels {
  constructor(canvas) {
    Object.assign(this, { canvas, pen: canvas.getContext("2d", { alpha: false }), image: null, named: null, ground: 0, took: 0 });
  }

  paint({ width, height, n, stride, before, after, code, mark, palette, t, centre, scale, size, faint }) {
    const began = performance.now();
    if (this.image?.width !== width || this.image.height !== height) this.image = this.pen.createImageData(width, height);
    const ink = new Uint32Array(this.image.data.buffer), colours = new Uint32Array(palette.buffer);
    const [fa, oa] = packing(before), [fb, ob] = packing(after);
    const kx = (scale[0] * width) / 2, ky = (-scale[1] * height) / 2, x0 = width / 2 - centre[0] * kx, y0 = height / 2 - centre[1] * ky;
    this.lookBelow();
    ink.fill(this.ground);
    for (let i = 0; i < n; i += stride) {
      const bx = after[2 * i] * fb + ob, by = after[2 * i + 1] * fb + ob;
      if (bx > NOWHERE) continue;
      let ax = before[2 * i] * fa + oa, ay = before[2 * i + 1] * fa + oa;
      if (ax > NOWHERE) { ax = bx; ay = by; }
      const x = (ax + t * (bx - ax)) * kx + x0, y = (ay + t * (by - ay)) * ky + y0;
      const alpha = mark[i] ? 1 : faint, radius = ((mark[i] ? 1.7 : 1) * size) / 2, colour = colours[code[i]];
      if (!(x > -radius && x < width + radius && y > -radius && y < height + radius)) continue;
      const last = Math.min(height - 1, Math.ceil(y + radius - 0.5) - 1);
      for (let row = Math.max(0, Math.ceil(y - radius - 0.5)); row <= last; row++) {
        const dy = row + 0.5 - y, half = size > 3 ? Math.sqrt(radius * radius - dy * dy) : radius;
        const from = row * width + Math.max(0, Math.ceil(x - half - 0.5));
        cover(ink, from, row * width + Math.min(width - 1, Math.ceil(x + half - 0.5) - 1), colour, alpha);
      }
    }
    this.pen.putImageData(this.image, 0, 0);
    this.took = performance.now() - began;
  }

  // the colour of the canvas's own ground in this page, under this theme; the pen reads any form of it
  lookBelow() {
    const { pen } = this, named = getComputedStyle(this.canvas).backgroundColor;
    if (named === this.named) return;
    for (const colour of ["white", named]) {
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
    }
    this.named = named;
    this.ground = new Uint32Array(pen.getImageData(0, 0, 1, 1).data.buffer)[0];
  }

  ready() {
    return true; // what was painted is there
  }

  close() {}
}

// ink over what is there, from one pixel of a row to another
function cover(ink, from, to, colour, alpha) {
  const red = colour & 255, green = (colour >>> 8) & 255, blue = (colour >>> 16) & 255;
  for (let k = from; k <= to; k++) {
    const was = ink[k], r = was & 255, g = (was >>> 8) & 255, b = (was >>> 16) & 255;
    ink[k] = 0xff000000 | ((b + alpha * (blue - b) + 0.5) << 16) | ((g + alpha * (green - g) + 0.5) << 8) | (r + alpha * (red - r) + 0.5);
  }
}
