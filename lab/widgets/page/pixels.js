// The same points drawn by the processor, pixel by pixel into one array: discs whose pixels' centres lie within, laid over
// each other in their order. A card that is only played takes ten times as long for ten thousand points.
class Pixels {
  constructor(canvas) {
    this.pen = canvas.getContext("2d", { willReadFrequently: true }); // kept where the processor reads it
    this.image = null;
  }

  paint({ width, height, n, stride, before, after, code, mark, palette, t, centre, scale, size, faint }) {
    if (this.image?.width !== width || this.image.height !== height) this.image = this.pen.createImageData(width, height);
    const ink = new Uint32Array(this.image.data.buffer), colours = new Uint32Array(palette.buffer);
    const [fa, oa] = packing(before), [fb, ob] = packing(after);
    const kx = (scale[0] * width) / 2, ky = (-scale[1] * height) / 2, x0 = width / 2 - centre[0] * kx, y0 = height / 2 - centre[1] * ky;
    ink.fill(0);
    for (let i = 0; i < n; i += stride) {
      const bx = after[2 * i] * fb + ob, by = after[2 * i + 1] * fb + ob;
      if (bx > NOWHERE) continue;
      let ax = before[2 * i] * fa + oa, ay = before[2 * i + 1] * fa + oa;
      if (ax > NOWHERE) { ax = bx; ay = by; }
      const x = (ax + t * (bx - ax)) * kx + x0, y = (ay + t * (by - ay)) * ky + y0;
      const alpha = mark[i] ? 1 : faint, radius = (mark[i] ? 1.7 : 1) * size / 2, colour = colours[code[i]] & 0xffffff;
      if (!(x > -radius && x < width + radius && y > -radius && y < height + radius)) continue;
      const last = Math.min(height - 1, Math.ceil(y + radius - 0.5) - 1);
      for (let row = Math.max(0, Math.ceil(y - radius - 0.5)); row <= last; row++) {
        const dy = row + 0.5 - y, half = size > 3 ? Math.sqrt(radius * radius - dy * dy) : radius;
        const from = row * width + Math.max(0, Math.ceil(x - half - 0.5));
        cover(ink, from, row * width + Math.min(width - 1, Math.ceil(x + half - 0.5) - 1), colour, alpha);
      }
    }
    this.pen.putImageData(this.image, 0, 0);
  }

  ready() {
    return true; // what was painted is there
  }

  close() {}
}

// ink over what is there, from one pixel of a row to another; colours are not multiplied by their alpha
function cover(ink, from, to, colour, alpha) {
  const over = 255 * alpha, first = (Math.round(over) << 24) | colour;
  const red = colour & 255, green = (colour >>> 8) & 255, blue = colour >>> 16;
  for (let k = from; k <= to; k++) {
    const was = ink[k];
    if (was === 0 || alpha === 1) { ink[k] = first; continue; }
    const all = over + (was >>> 24) * (1 - alpha), share = over / all;
    const r = was & 255, g = (was >>> 8) & 255, b = (was >>> 16) & 255;
    ink[k] = ((all + 0.5) << 24) | ((b + share * (blue - b) + 0.5) << 16) | ((g + share * (green - g) + 0.5) << 8) | (r + share * (red - r) + 0.5);
  }
}
