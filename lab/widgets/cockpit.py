"""A small model while it trains: its curves as they grow, and two buttons."""

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from typing import Any

import numpy as np
import plotly.graph_objects as go
import traitlets
import xarray as xr

from lab.plots.panels import curve_panels
from lab.widgets.live import Live, finite, plain, script, style

SHOWN = ("loss", "held_out", "sink_rate", "kurtosis", "effective_rank")
STATES = ("ready", "running", "stopping", "stopped", "done", "failed")


class Cockpit(Live):
    """What `cockpit` gives: start(), stop(), wait(), and .run, .rows, .curve, .state."""

    _esm = script("lines", "cockpit")
    _css = style()

    state = traitlets.Enum(STATES, "ready").tag(sync=True)

    def __init__(self, train: Callable[..., Any]) -> None:
        self.train, self.run = train, None
        self.rows: list[dict[str, Any]] = []
        self._stopping = False
        self._work: Future | None = None
        super().__init__()

    def start(self) -> None:
        """Begin, or go on from the checkpoint; nothing where it runs already or is done."""
        if self.state in ("running", "stopping", "done"):
            return
        self.message, self._stopping, self.state = "", False, "running"
        self._work = self.later("train", self._train)

    def stop(self) -> None:
        """End at the next look, where a checkpoint is written if the training has a folder."""
        if self.state == "running":
            self._stopping, self.state = True, "stopping"

    def wait(self, timeout: float | int | None = None) -> Any:
        """Until training ends: what it gave, None where it was stopped or failed. TimeoutError after the seconds."""
        if self._work is not None:
            try:
                self._work.exception(timeout)
            except Late as error:
                raise TimeoutError(f"still training after {timeout} s, {len(self.rows)} looks") from error
        return self.run

    @property
    def curve(self) -> xr.Dataset:
        """The looks so far: loss, held_out [step]; sink_rate [step, block]; kurtosis, effective_rank [step, layer]."""
        steps = [row["step"] for row in self.rows]
        found = {}
        for name in SHOWN:
            values = [row.get(name) for row in self.rows]
            if not any(isinstance(value, list) for value in values):
                found[name] = ("step", np.array([np.nan if v is None else v for v in values], float))
                continue
            wide = max(len(value) for value in values if isinstance(value, list))
            table = np.full((len(values), wide), np.nan)
            for i, value in enumerate(values):
                if value is not None:
                    table[i] = [np.nan if v is None else v for v in value]
            found[name] = (("step", "block" if name == "sink_rate" else "layer"), table)
        return xr.Dataset(found, coords={"step": steps})

    def figure(self) -> go.Figure:
        if not self.rows:
            figure = curve_panels({"nothing yet": xr.DataArray(np.empty(0), dims="step", coords={"step": []})},
                                  title="Nothing was trained yet", along="step")  # fmt: skip
            told = "In a notebook with a kernel the button begins; in one that becomes a report, .start() and .wait()."
            return figure.update_layout(meta={"caption": told})
        curve = self.curve
        loss = xr.concat([curve.loss, curve.held_out], "line").assign_coords(line=["training", "held out"])
        parts = {"loss, nats a token": loss, "sink rate": curve.sink_rate, "kurtosis": curve.kurtosis}
        parts["effective rank"] = curve.effective_rank
        return curve_panels(parts, title=f"Training, {self.rows[-1]['step']:,} steps", along="step")

    def answers(self) -> dict[str, Callable[..., None]]:
        return {
            "start": lambda *_: self.start(), "stop": lambda *_: self.stop(),
            "rows": lambda *_: self.send({"answer": "rows", "rows": self.rows}),
        }  # fmt: skip

    def _train(self) -> None:
        try:
            run = self.train(see=self._see, progress=False)
        finally:
            ended = "stopped" if self._stopping else "failed"
            self.state = ended
        curve = getattr(run, "curve", None)
        if isinstance(curve, xr.Dataset):  # all of it, also what was trained before this kernel
            self.rows = [_row(int(step), _values(curve.sel(step=step))) for step in curve.step.values]
            self.send({"answer": "rows", "rows": self.rows})
        if not self._stopping:
            self.run, self.state = run, "done"

    def _see(self, step: int, values: dict[str, Any]) -> bool:
        row = _row(step, values)
        self.rows = [*(other for other in self.rows if other["step"] < step), row]
        self.send({"answer": "row", "row": row})
        return self._stopping


def _row(step: int, values: dict[str, Any]) -> dict[str, Any]:
    return {"step": step} | {name: finite(values[name]) for name in SHOWN if name in values}


def _values(curve: xr.Dataset) -> dict[str, Any]:
    """One step of a run's curve as a look gives it: the sinks of a layer begin with layer 1."""
    found = {}
    for name in SHOWN:
        if name in curve:
            value = curve[name].values
            found[name] = float(value) if value.ndim == 0 else value[1 if name == "sink_rate" else 0 :]
    return found


def cockpit(train: Any) -> Cockpit:
    """Curves of loss, sink rate, kurtosis and effective rank while a model trains, with start, stop and resume.

        train = functools.partial(lab.training.language_model, source, recipe, folder="run", every=20)
        lab.widgets.cockpit(train)

    train: called as train(see=..., progress=False) in a thread beside the kernel's; see(step, values) is called at
    each look, and training ends where it is true. Stopped, it is called again to go on: a `folder` makes that go on
    from the checkpoint, without one it begins anew. The page may be closed and opened again. While it trains, cells can
    run; they should not draw from torch's global generator, which a thread shares.

    Read from Python: .state, .rows, .curve, .run (what train gave, once done); .start(), .stop(), .wait(). In a report
    nobody presses a button: start, wait, and show it again. What goes wrong while training is the message.

    Raises TypeError for what cannot be called, or not with see and progress.
    """
    import inspect

    if not callable(train):
        raise TypeError(f"train must be a function that trains, called with see and progress; got {plain(train, 80)}")
    asks = inspect.signature(train).parameters
    takes_any = any(one.kind == one.VAR_KEYWORD for one in asks.values())
    if missing := [name for name in ("see", "progress") if name not in asks and not takes_any]:
        raise TypeError(
            f"train must take {missing}, as lab.training.language_model does; functools.partial gives it the rest"
        )
    return Cockpit(train)
