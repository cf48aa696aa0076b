// Frames while something moves and one more when it rests; none before the painter is through with the last, since what it
// is asked meanwhile waits in a row and all moves late. Of very many points every stride-th is drawn while they move.
const REST = 140; // ms after the last movement
const MANY = 20000; // points up to which every frame has all
const FEWEST = 5000;
const SLOW = 40, QUICK = 24; // ms of a frame: above, fewer points; below, more
const BESIDE = 16; // ms of a frame that are not the painter's, where it says what it took

class Pace {
  constructor(scatter, drawn) {
    Object.assign(this, { scatter, drawn, moving: null, stride: 1, woken: 0, last: 0, times: [], asked: 0 });
    this.tick = this.tick.bind(this);
  }

  wake() {
    this.woken = performance.now();
    if (this.asked) return;
    this.last = 0;
    this.times = [];
    this.asked = requestAnimationFrame(this.tick);
  }

  stop() {
    cancelAnimationFrame(this.asked);
    this.asked = -1; // nothing wakes it again
  }

  tick(now) {
    const awake = this.moving !== null || now - this.woken < REST;
    this.asked = awake || !this.scatter.painter.ready() ? requestAnimationFrame(this.tick) : 0;
    if (!this.scatter.painter.ready()) return;
    if (this.last) this.learn(now - this.last);
    this.last = now;
    this.moving?.(now);
    this.scatter.draw(awake ? Math.round(this.stride) : 1);
    this.drawn();
  }

  learn(between) {
    this.times = [...this.times.slice(-59), Math.round(between)];
    if (this.scatter.n <= MANY) return;
    const { took } = this.scatter.painter, spent = took === undefined ? between : took + BESIDE;
    if (spent > SLOW) this.stride = Math.min(this.scatter.n / FEWEST, this.stride * Math.min(8, spent / QUICK));
    else if (spent < QUICK) this.stride = Math.max(1, this.stride / 1.2);
  }
}
