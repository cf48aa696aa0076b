// Which point is under the pointer, and which are inside a drawn line: points in cells of a grid, found by counting.
class Grid {
  constructor(places) {
    const n = places.length / 2, side = Math.max(1, Math.min(1024, Math.round(Math.sqrt(n / 3))));
    const cell = new Int32Array(n), starts = new Uint32Array(side * side + 1);
    for (let i = 0; i < n; i++) {
      const x = places[2 * i], y = places[2 * i + 1];
      cell[i] = x > NOWHERE ? -1 : clamp(y, side) * side + clamp(x, side);
      if (cell[i] >= 0) starts[cell[i] + 1]++;
    }
    for (let c = 0; c < side * side; c++) starts[c + 1] += starts[c];
    const next = starts.slice(), items = new Uint32Array(starts[side * side]);
    for (let i = 0; i < n; i++) if (cell[i] >= 0) items[next[cell[i]]++] = i;
    Object.assign(this, { places, side, starts, items });
  }

  // the number of the nearest point within a radius, -1 without one; the later of two in one place lies on top
  nearest(x, y, radius) {
    const { places, side, starts, items } = this;
    let best = -1, far = radius * radius;
    for (let row = clamp(y - radius, side); row <= clamp(y + radius, side); row++) {
      for (let column = clamp(x - radius, side); column <= clamp(x + radius, side); column++) {
        const c = row * side + column;
        for (let k = starts[c]; k < starts[c + 1]; k++) {
          const i = items[k], dx = places[2 * i] - x, dy = places[2 * i + 1] - y, d = dx * dx + dy * dy;
          if (d < far || (d === far && i > best)) { far = d; best = i; }
        }
      }
    }
    return best;
  }
}

function clamp(value, side) {
  return Math.min(side - 1, Math.max(0, Math.floor(((value + 1) / 2) * side)));
}

// numbers of the points inside a closed line [[x, y], ...], by the even-odd rule
function inside(places, line) {
  const xs = line.map((p) => p[0]), ys = line.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const found = [];
  for (let i = 0; i < places.length / 2; i++) {
    const x = places[2 * i], y = places[2 * i + 1];
    if (x > NOWHERE || x < x0 || x > x1 || y < y0 || y > y1) continue;
    let odd = false;
    for (let a = 0, b = line.length - 1; a < line.length; b = a++) {
      if (ys[a] > y !== ys[b] > y && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) odd = !odd;
    }
    if (odd) found.push(i);
  }
  return Uint32Array.from(found);
}
