"""A figure as a small still picture for the gallery: drawn here as SVG from the same arrays, a few kilobytes each.

Plotly itself needs a browser to make a picture, and its script to draw one in the page weighs two megabytes. So the
gallery has this sketch: lines, points, bars, areas and heat on their axes, without words. A figure with anything
else in it has no thumbnail, rather than a wrong one; the report draws it in full.
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from lab.reports import figures, rounding

WIDTH, HEIGHT, EDGE = 320, 180, 8
KINDS = {"scatter", "scattergl", "bar", "heatmap"}
MOST = 400  # points of a trace; of more, as many are drawn at even distances
CELLS = 64  # of a heatmap's side, likewise
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")  # plotly's own order
SAFE = re.compile(r"#[0-9a-fA-F]{3,8}|rgba?\([\d.,\s%]+\)|[a-z]+")  # a colour, and nothing else
GRADIENTS = {"Cividis": ("#00224e", "#7d7c78", "#fee838"), "Viridis": ("#440154", "#21918c", "#fde725")}


def thumbnail(figure: Mapping) -> Markup:
    """The figure as SVG of 320 x 180; "" where it is empty or has a kind of trace that cannot be sketched."""
    layout = figure.get("layout") or {}
    traces = [trace for trace in figure.get("data") or () if trace.get("visible", True) is True]
    if not traces or {trace.get("type", "scatter") for trace in traces} - KINDS:
        return Markup("")
    places = [(trace.get("xaxis", "x"), trace.get("yaxis", "y")) for trace in traces]
    shapes: list[str] = []
    for place in dict.fromkeys(places):
        here = [trace for trace, other in zip(traces, places, strict=True) if other == place]
        shapes += _panel(here, _layout_of(layout, place[0]), _layout_of(layout, place[1]), traces)
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">{}</svg>'
    ).format(WIDTH, HEIGHT, f"Thumbnail of the figure: {figures.label(figure)}", Markup("".join(shapes)))  # noqa: S704


def _layout_of(layout: Mapping, axis: str) -> Mapping:
    return layout.get(f"{axis[0]}axis{axis[1:]}") or {}


@dataclass(frozen=True)
class Axis:
    """Values to pixels. words: the categories, in their order, where the axis has them."""

    low: float | int
    high: float | int
    start: float | int
    end: float | int
    log: bool
    words: tuple[str, ...] | None

    def numbers(self, values: object) -> np.ndarray:
        flat = values if isinstance(values, np.ndarray) else rounding.array(values)
        if self.words is not None:
            place = {word: i for i, word in enumerate(self.words)}
            return np.array([place[str(value)] for value in flat], float)
        numbers = np.array([math.nan if not _is_number(value) else float(value) for value in flat])
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(numbers > 0, np.log10(numbers), np.nan) if self.log else numbers

    def pixels(self, numbers: np.ndarray) -> np.ndarray:
        return self.start + (numbers - self.low) / (self.high - self.low) * (self.end - self.start)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _axis(
    layout: Mapping, values: Sequence[object], start: float | int, end: float | int, margin: float, zero: bool
) -> Axis:
    """The axis over these arrays; its range is the layout's where that says one."""
    domain = layout.get("domain") or (0, 1)
    start, end = start + domain[0] * (end - start), start + domain[1] * (end - start)
    arrays = [found for one in values if (found := rounding.array(one)) is not None]
    flat = list(itertools.chain.from_iterable(found.ravel().tolist() for found in arrays))
    words = None
    if layout.get("type") == "category" or any(isinstance(value, str) for value in flat):
        words = tuple(dict.fromkeys(str(value) for value in flat))
    log = layout.get("type") == "log"
    blank = Axis(0, 1, start, end, log, words)
    numbers = np.concatenate([blank.numbers(found.ravel()) for found in arrays] or [np.zeros(0)])
    numbers = numbers[np.isfinite(numbers)]
    low, high = (numbers.min(), numbers.max()) if numbers.size else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.5 if words or high == low else margin * (high - low)
    low, high = low - pad, high + pad
    chosen = layout.get("range")
    if chosen and all(_is_number(value) for value in chosen) and chosen[0] != chosen[1]:
        low, high = map(float, chosen)
    elif layout.get("autorange") == "reversed":
        low, high = high, low
    return Axis(low, high, start, end, log, words)


def _panel(traces: list[Mapping], across: Mapping, up: Mapping, every: list[Mapping]) -> list[str]:
    """The shapes of the traces that share a pair of axes."""
    heat, bars = ([t for t in traces if t.get("type") == kind] for kind in ("heatmap", "bar"))
    lying = any(bar.get("orientation") == "h" for bar in bars)
    margin = 0.0 if heat else 0.06
    xs = [trace["x"] if "x" in trace else _indices(trace, 1) for trace in traces]
    ys = [trace["y"] if "y" in trace else _indices(trace, 0) for trace in traces]
    x = _axis(across, [_halves(v, bool(heat or (bars and not lying))) for v in xs], EDGE, WIDTH - EDGE, margin, lying)
    y = _axis(up, [_halves(v, bool(heat or lying)) for v in ys], HEIGHT - EDGE, EDGE, margin, bool(bars) and not lying)
    shapes = []
    for trace, places, heights in zip(traces, xs, ys, strict=True):
        colour = _colour(trace, every.index(trace))
        px, py = x.pixels(x.numbers(places)), y.pixels(y.numbers(heights))
        match trace.get("type", "scatter"):
            case "heatmap":
                shapes += _cells(trace, px, py)
            case "bar":
                widths = abs(_step(py if lying else px)) * 0.8 / len(bars)
                offset = (bars.index(trace) - (len(bars) - 1) / 2) * widths
                shapes += _bars(
                    px, py, x.pixels(np.zeros(1))[0], y.pixels(np.zeros(1))[0], widths, offset, lying, colour
                )
            case _:
                shapes += _line(trace, px, py, colour)
    return shapes


def _indices(trace: Mapping, axis: int) -> list[int]:
    """0, 1, 2, ... for an axis that a trace leaves out."""
    for name in ("z", "y", "x"):
        values = rounding.array(trace.get(name))
        if values is not None:
            return list(range(len(values[0]) if name == "z" and axis else len(values)))
    return []


def _halves(values: object, broad: bool) -> object:
    """The values, and where cells or bars stand on them, half a step more on either side."""
    found = rounding.array(values)
    if not broad or found is None or not len(found) or not all(_is_number(value) for value in found):
        return values
    numbers = np.array(found, float)
    half = _step(numbers) / 2
    return [*numbers.tolist(), float(numbers.min() - half), float(numbers.max() + half)]


def _step(values: np.ndarray) -> float:
    gaps = np.diff(np.unique(values[np.isfinite(values)]))
    return float(gaps.min()) if gaps.size else 1.0


def _line(trace: Mapping, px: np.ndarray, py: np.ndarray, colour: str) -> list[str]:
    n = min(len(px), len(py))
    seen = np.flatnonzero(np.isfinite(px[:n]) & np.isfinite(py[:n]))
    if seen.size > MOST:
        seen = seen[np.linspace(0, seen.size - 1, MOST).astype(int)]
    points = [(px[i], py[i]) for i in seen]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    mode, line = str(trace.get("mode", "lines")), trace.get("line") or {}
    shapes = []
    if trace.get("fill") in ("toself", "tonext", "tonexty", "tozeroy"):
        shapes.append(f'<polygon points="{path}" fill="{_safe(trace.get("fillcolor"), colour)}"/>')
    if "lines" in mode and line.get("width", 2) and len(points) > 1:
        dash = ' stroke-dasharray="4 3"' if line.get("dash", "solid") != "solid" else ""
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>')
    if "markers" in mode:
        radius = 2.2 if len(points) < 80 else 1.2
        each = _each((trace.get("marker") or {}), n, colour)
        shapes += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{radius}" fill="{each[i]}"/>'
            for i, (a, b) in zip(seen, points, strict=True)
        ]
    return shapes


def _bars(px, py, zero_x: float, zero_y: float, width: float, offset: float, lying: bool, colour: str) -> list[str]:
    shapes = []
    for a, b in zip(px, py, strict=False):
        if not (math.isfinite(a) and math.isfinite(b)):
            continue
        left, top, wide, high = (
            (min(a, zero_x), b + offset - width / 2, abs(a - zero_x), width)
            if lying
            else (a + offset - width / 2, min(b, zero_y), width, abs(b - zero_y))
        )
        shapes.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{high:.1f}" fill="{colour}"/>')
    return shapes


def _cells(trace: Mapping, px: np.ndarray, py: np.ndarray) -> list[str]:
    rows = rounding.array(trace.get("z"))
    heat = np.array([[float(v) if _is_number(v) else math.nan for v in row] for row in rows])
    finite = heat[np.isfinite(heat)]
    if not finite.size:
        return []
    low, high = float(trace.get("zmin", finite.min())), float(trace.get("zmax", finite.max()))
    colours = _gradient(trace.get("colorscale"), bool(trace.get("reversescale")))
    keep = [np.unique(np.linspace(0, n - 1, min(n, CELLS)).astype(int)) for n in heat.shape]
    wide, tall = (abs(_step(p[k])) for p, k in ((px, keep[1]), (py, keep[0])))
    shapes = []
    for i, j in itertools.product(*keep):
        if math.isfinite(heat[i, j]):
            share = min(1.0, max(0.0, (heat[i, j] - low) / (high - low))) if high > low else 0.5
            shapes.append(
                f'<rect x="{px[j] - wide / 2:.1f}" y="{py[i] - tall / 2:.1f}" width="{wide:.1f}" height="{tall:.1f}" '
                f'fill="{_between(colours, share)}"/>'
            )
    return shapes


def _gradient(scale: object, turned: bool) -> list[tuple[float, tuple[int, int, int]]]:
    """[(place, (red, green, blue))]; Viridis where a scale is none that can be read."""
    if isinstance(scale, str) or not scale:
        names = GRADIENTS.get(str(scale), GRADIENTS["Viridis"])
        scale = [[i / (len(names) - 1), name] for i, name in enumerate(names)]
    stops = [(float(place), _rgb(str(name))) for place, name in scale]
    return [(1 - place, rgb) for place, rgb in reversed(stops)] if turned else stops


def _rgb(colour: str) -> tuple[int, int, int]:
    if re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
    numbers = [int(float(n)) for n in re.findall(r"[\d.]+", colour)[:3]]
    return tuple(numbers) if len(numbers) == 3 else (128, 128, 128)


def _between(stops: list[tuple[float, tuple[int, int, int]]], share: float) -> str:
    places = [place for place, _ in stops]
    mixed = (round(float(np.interp(share, places, [rgb[i] for _, rgb in stops]))) for i in range(3))
    return "#" + "".join(f"{min(255, max(0, part)):02x}" for part in mixed)


def _colour(trace: Mapping, n: int) -> str:
    marker, line = trace.get("marker") or {}, trace.get("line") or {}
    return _safe(line.get("color"), _safe(marker.get("color"), COLOURS[n % len(COLOURS)]))


def _each(marker: Mapping, n: int, otherwise: str) -> list[str]:
    """A colour for each of n points: the array's own, or its numbers on the colour scale."""
    found = rounding.array(marker.get("color"))
    if found is None or len(found) < n:
        return [otherwise] * n
    numbers = np.array([float(value) if _is_number(value) else math.nan for value in found[:n]])
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        return [_safe(value, otherwise) for value in found[:n]]
    stops = _gradient(marker.get("colorscale"), bool(marker.get("reversescale")))
    low, span = float(finite.min()), float(finite.max() - finite.min()) or 1.0
    return [_between(stops, (value - low) / span) if math.isfinite(value) else otherwise for value in numbers]


def _safe(colour: object, otherwise: str) -> str:
    """The colour if it is one; whatever else stands there cannot leave its attribute."""
    return colour if isinstance(colour, str) and SAFE.fullmatch(colour) else otherwise
