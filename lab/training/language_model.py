"""Training a small language model, looking at its sinks and states on the way."""

import inspect
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm import tqdm

from lab import attention
from lab.data.tasks import Drawn
from lab.models import Loaded, describe
from lab.training import checkpoint
from lab.training.recipe import Recipe
from lab.training.vitals import vitals


@runtime_checkable
class Source(Protocol):
    """What can be trained on: lab.training.corpus of texts, or a task of lab.data.tasks."""

    vocab: int
    length: int

    def draw(self, size: int, seed: int) -> Drawn: ...


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model, what it was made of, and what was seen on the way."""

    model: Loaded
    recipe: Recipe
    curve: xr.Dataset  # per step looked at: loss, held_out, grad_norm; per layer too: sinks, kurtosis ...
    learned: dict[str, Tensor]  # the normalizer's own weights, which the model holds inside `attending` alone

    def attending(self) -> AbstractContextManager[Any]:
        """The model with the normalizer it was trained under and that one's weights; outside, it attends by softmax."""
        return _attending(self.model, self.recipe, self.learned)

    def losses(self, source: Source, *, texts: int = 32, seed: int = 0) -> xr.DataArray:
        """loss[text, position] in nats on held-out texts, NaN where a place does not count.

        source: that of the training, or another of the same tokens: longer windows, say. A seed draws the same texts
        for every run. Raises ValueError for a source of more tokens than the model knows.
        """
        logits, drawn = self._said(source, texts, seed)
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), drawn.targets, reduction="none").double()
        return _counted(loss, drawn).assign_attrs(unit="nats")

    def right(self, source: Source, *, texts: int = 256, seed: int = 0) -> xr.DataArray:
        """right[text, position] on held-out texts, 1 where the likeliest token is the right one, 0 where it is not.

        NaN where a place does not count. source, seed and errors as for `losses`.
        """
        logits, drawn = self._said(source, texts, seed)
        return _counted((logits.argmax(-1) == drawn.targets).double(), drawn)

    @torch.no_grad()
    def _said(self, source: Source, texts: int, seed: int) -> tuple[Tensor, Drawn]:
        """Logits [B, T, V] of held-out texts, and the texts."""
        net = self.model.model
        if source.vocab > net.config.vocab_size:
            raise ValueError(f"the source has {source.vocab} tokens, the model knows {net.config.vocab_size}")
        drawn = _held_out(source)(texts, seed=-1_000_003 - seed)  # training draws by seeds from 0 on
        with self.attending():
            logits = net.head(net(input_ids=drawn.ids.to(self.model.device)).last_hidden_state)
        return logits.float().cpu(), drawn


def _counted(values: Tensor, drawn: Drawn) -> xr.DataArray:
    return xr.DataArray(values.masked_fill(~drawn.counted, torch.nan).numpy(), dims=("text", "position"))


def language_model(
    source: Source,
    recipe: Recipe = Recipe(),  # noqa: B008 (frozen)
    *,
    folder: str | Path | None = None,
    every: int = 50,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    see: Callable[[int, dict[str, Any]], bool | None] | None = None,
    progress: bool = True,
) -> Run:
    """Train a small decoder to say what comes next, -mean log p(target) over the places that count.

    source: `lab.training.corpus(texts)` or a task such as `lab.data.tasks.BigramBackcopy()`.
    folder: where a checkpoint is written every `every` steps, whole or not at all. Called again with the same recipe
        and source it goes on from there, to the same result on the same device; finished, it is only read. Without a
        folder nothing is written.
    see: called as see(step, values) at every look; a true answer ends the run there, checkpointed.
    autocast: half precision for the forward pass, e.g. torch.bfloat16 on a GPU.

    curve has, for step 0, every, 2 every, ... and the last: loss (of the steps since the last look), held_out (of the
    same batch at every look), grad_norm (before clipping; per layer as grad_norm_layer), and what `vitals` sees.

    Raises ValueError for a folder that holds another run; FloatingPointError when the loss is no number, with the
    batch saved beside the checkpoint.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = _drawn(source, recipe, device)
    said = {"recipe": asdict(recipe), "source": _described(source), "every": every}
    net = model.model
    plain = net.state_dict().keys()
    with _attending(model, recipe):
        optimiser = torch.optim.AdamW(
            net.parameters(), lr=recipe.rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay, fused=True
        )
        step, rows = checkpoint.read(folder, said, net, optimiser) if folder else (0, [])
        looked = _look(model, source, recipe, device)
        if not rows:
            rows.append({"step": 0, "loss": float("nan"), "grad_norm": float("nan")} | looked())
        bar = tqdm(
            total=recipe.steps, initial=step, desc=f"train {recipe.normalizer}", disable=not progress, leave=False
        )
        losses: list[Tensor] = []
        ended = False
        with bar:
            while step < recipe.steps and not ended:
                drawn = source.draw(recipe.batch, seed=recipe.seed * 2_000_003 + step)
                for group in optimiser.param_groups:
                    group["lr"] = recipe.rate_at(step)
                with nullcontext() if autocast is None else torch.autocast(device.type, autocast):
                    loss = next_token_loss(net, drawn, device)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(net.parameters(), recipe.clip)
                if not torch.isfinite(norm):
                    where = checkpoint.save_batch(folder, drawn, step) if folder else "not saved: no folder was given"
                    raise FloatingPointError(
                        f"the loss is {loss.item()} and its gradient {norm.item()} at step {step}; the batch: {where}"
                    )
                by_layer = _by_layer(model) if (step + 1) % every == 0 or step + 1 == recipe.steps else None
                optimiser.step()
                losses.append(loss.detach())
                step += 1
                bar.update()
                if by_layer is not None:
                    seen = {"step": step, "loss": float(torch.stack(losses).mean()), "grad_norm": float(norm)}
                    rows.append(seen | {"grad_norm_layer": by_layer} | looked())
                    losses.clear()
                    bar.set_postfix(loss=f"{seen['loss']:.3f}", held_out=f"{rows[-1]['held_out']:.3f}")
                    ended = bool(see(step, rows[-1])) if see else False
                    if folder:
                        checkpoint.write(folder, said, net, optimiser, step, rows)
        learned = {name: value.clone() for name, value in net.state_dict().items() if name not in plain}
    curve = _curve(rows, recipe.layers).assign_attrs(
        recipe=json.dumps(asdict(recipe)), source=_described(source), device=str(device)
    )
    return Run(model, recipe, curve, learned)


def next_token_loss(net: nn.Module, drawn: Drawn, device: torch.device) -> Tensor:
    """-mean log p(target) over the counted places, in nats."""
    states = net(input_ids=drawn.ids.to(device)).last_hidden_state
    counted = drawn.counted.to(device)
    logits = net.get_output_embeddings()(states[counted]).float()
    return nn.functional.cross_entropy(logits, drawn.targets.to(device)[counted])


def _drawn(source: Source, recipe: Recipe, device: torch.device) -> Loaded:
    """The decoder with its random weights, described."""
    from lab.training.decoder import Decoder, DecoderConfig

    config = DecoderConfig(
        vocab_size=source.vocab,
        hidden_size=recipe.dim,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.hidden,
        max_position_embeddings=max(1024, source.length),
        norm=recipe.norm,
        position=recipe.position,
        bias=recipe.bias,
        bias_norm=recipe.bias_norm,
        window=recipe.window,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = Decoder(config)
    name = f"decoder {recipe.layers} x {recipe.dim}, {recipe.normalizer}"
    made = describe(name, f"random weights, seed {recipe.seed}", net.to(device), None, None)
    again = partial(_drawn, source, recipe, device)
    return replace(made, recipe=again)


@contextmanager
def _attending(model: Loaded, recipe: Recipe, learned: dict[str, Tensor] | None = None) -> Iterator[None]:
    if recipe.normalizer == "softmax":
        yield
        return
    with attention.use(model, recipe.normalizer):
        if learned:
            model.model.load_state_dict(learned, strict=False)
        yield


def _look(model: Loaded, source: Source, recipe: Recipe, device: torch.device) -> Callable[[], dict[str, Any]]:
    """What is looked at again and again: the loss and the vitals on one held-out batch."""
    drawn = _held_out(source)(max(recipe.batch, 32), seed=-1 - recipe.seed)  # training draws by seeds from 0 on

    def look() -> dict[str, Any]:
        with torch.no_grad():
            found = vitals(model, drawn.ids.to(device))
            return {"held_out": float(next_token_loss(model.model, drawn, device))} | found

    return look


def _held_out(source: Source) -> Callable[..., Drawn]:
    """How a source draws what training never saw: a task draws anew, a corpus keeps some back."""
    apart = "held_out" in inspect.signature(source.draw).parameters
    return partial(source.draw, held_out=True) if apart else source.draw


def _by_layer(model: Loaded) -> list[float]:
    """The norm of the gradient in each block."""
    modules = dict(model.model.named_modules())
    return [
        float(torch.stack([p.grad.norm() for p in modules[name].parameters() if p.grad is not None]).norm())
        for name in model.blocks
    ]


def _described(source: Source) -> str:
    """A source in words that tell it from another: its settings, and a checksum of what it holds."""
    return source.describe() if hasattr(source, "describe") else repr(source)


def _curve(rows: list[dict[str, Any]], layers: int) -> xr.Dataset:
    """One row per look to one array per number, over step and, where there is one per layer, layer."""
    found = {}
    for name in sorted({key for row in rows for key in row} - {"step"}):
        values = [row.get(name) for row in rows]
        size = max((len(value) for value in values if isinstance(value, list)), default=0)
        if not size:
            found[name] = ("step", np.array([float("nan") if v is None else v for v in values]))
            continue
        first = layers + 1 - size  # states have a layer 0, what blocks do has not
        table = np.full((len(rows), layers + 1), np.nan)
        for i, value in enumerate(values):
            if value is not None:
                table[i, first:] = value
        found[name] = (("step", "layer"), table)
    return xr.Dataset(found, coords={"step": [row["step"] for row in rows], "layer": np.arange(layers + 1)})
