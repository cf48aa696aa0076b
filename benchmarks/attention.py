"""What it costs to watch attention: time and peak memory beside the plain pass, eager matrices and FlexAttention.

    python benchmarks/attention.py [--lengths 512 2048 8192] [--rounds 5] [--only NAME ...]

A llama of 2 layers, 8 heads of 64, random weights, one text of each length, a process for each length in which the
variants take turns, round by round. Ratios are medians over rounds, each within its round. Beside the whole pass there
are two narrower bases, both measured in the plain model of the same round, to which what a variant takes more than
the plain pass is added:

    x SDPA call    (variant - plain + c) / c, c the seconds inside scaled dot product attention itself
    x module       the same with the attention modules, projections and rotation included

Peak memory is that of the process, taken anew for each variant. A variant whose pass takes more than --patience
seconds is timed once, and after --budget seconds no third or later round begins. The table is written after each
length, to benchmarks/results/ under the device's name; what cannot run says why.

Of the 1.5 x that watching may cost: what the columns of A need beyond the model's own pass is one more product of
queries and keys, of the two that attention takes (D of its 2 D multiplications a score), and one more exponential a
score; entropy and effective keys read each score twice more. "fused" has no second product and no second exponential:
the model's output is made there too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from shared.memory import anew, highest, number
from shared.results import FOLDER, write
from torch import Tensor
from tqdm import tqdm

import lab
from lab.attention.calls import attending
from lab.reports.machine import device, versions

PLAIN, EAGER, FLEX = "plain SDPA", "eager, output_attentions, column sums", "FlexAttention, compiled, no statistics"
BACKENDS = {f"lab.attention.watch, {name}": name for name in ("tiles", "flash", "chunked", "fused")}
ALONE = "lab.attention.watch, tiles, spread=False"
VARIANTS = (PLAIN, ALONE, *BACKENDS, EAGER, FLEX)
EAGER_BYTES = 3.1 * 4 * 8  # of each pair of tokens: matrices of 8 heads in float32 that stand at once, as was seen
MOST = 6 * 10**9  # bytes that one variant may take


def runner(variant: str, model: Any, ids: Tensor) -> Callable[[], float]:
    """A pass of this variant: seconds. ValueError where it cannot be had."""
    need = EAGER_BYTES * ids.numel() ** 2
    if variant == EAGER and not ids.is_cuda and need > min(MOST, 0.8 * available()):
        raise ValueError(f"needs some {need / 1e9:.1f} GB; {min(MOST, 0.8 * available()) / 1e9:.1f} are allowed")
    more = {"output_attentions": True} if variant == EAGER else {}
    own = {EAGER: "eager", FLEX: "flex_attention"}.get(variant, "sdpa")

    def run() -> float:
        model.model.set_attn_implementation(own)
        around = nullcontext()
        if variant in BACKENDS:
            around = lab.attention.watch(model, backend=BACKENDS[variant])
        elif variant == ALONE:
            around = lab.attention.watch(model, backend="tiles", spread=False)
        with torch.inference_mode(), around:
            began = clock()  # the switch, which runs a small example, is paid once for any number of passes
            out = model.model(input_ids=ids, use_cache=False, **more)
            [weights.sum(-2) for weights in out.attentions or ()]
            return clock() - began

    return run


def inside(model: Any, ids: Tensor) -> tuple[float, float]:
    """Of a plain pass, the seconds in scaled dot product attention, and in the attention modules."""
    spent = {"call": 0.0, "module": 0.0}
    model.model.set_attn_implementation("sdpa")

    def answer(call: Any) -> Tensor:
        began = clock()
        out = call.own()
        spent["call"] += clock() - began
        return out

    def enter(*_: Any) -> None:
        spent["module"] -= clock()

    def leave(*_: Any) -> None:
        spent["module"] += clock()

    with torch.inference_mode(), attending(model, answer), ExitStack() as hooks:
        for block in model.model.layers:
            hooks.callback(block.self_attn.register_forward_pre_hook(enter).remove)
            hooks.callback(block.self_attn.register_forward_hook(leave).remove)
        spent.update(call=0.0, module=0.0)  # the switch has run a small example
        model.model(input_ids=ids, use_cache=False)
    return spent["call"], spent["module"]


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def available() -> int:
    """Bytes that a new process may take."""
    return 1024 * number("/proc/meminfo", "MemAvailable")


def peak_of(run: Callable[[], float]) -> tuple[float, float]:
    """Seconds of one pass, and the highest that this process, or on a GPU its tensors, came to in it, in MiB."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return run(), torch.cuda.max_memory_allocated() / 2**20
    anew()
    return run(), highest()


def serve(variants: list[str], length: int, rounds: int, patience: float, budget: float) -> None:
    """Print, of each variant, its seconds in each round and its peak in MiB, or why it cannot run."""
    torch.manual_seed(0)
    model = lab.models.tiny("llama", layers=2, dim=512, heads=8, window=max(length, 512))
    if torch.cuda.is_available():
        model.model.cuda()
    ids = torch.randint(5, 900, (1, length), device=model.device)
    found, runs = {}, {}
    for variant in tqdm(variants, desc=f"{length} tokens", unit="variant"):
        try:
            run = runner(variant, model, ids)
            if variant == FLEX or length <= 2048:
                run()  # compiles, or finds its memory
            seconds, peak = peak_of(run)
        except (ValueError, RuntimeError, NotImplementedError) as reason:
            found[variant] = {"why": str(reason).strip().splitlines()[0][:160]}
            continue
        runs[variant] = run
        found[variant] = {"seconds": [seconds] if seconds > patience else [], "peak": peak}
    bases, began = [], clock()
    for done in tqdm(range(rounds), desc=f"{length} tokens", unit="round"):
        if done >= 2 and clock() - began > budget:
            break
        bases.append(inside(model, ids))
        for variant, run in runs.items():
            if not found[variant]["seconds"] or found[variant]["seconds"][0] <= patience:
                found[variant]["seconds"].append(run())
    print(json.dumps({"found": found, "bases": bases}))


def measure(names: list[str], length: int, rounds: int, limits: list[str]) -> str:
    """The table of one length."""
    command = [sys.executable, __file__, "--serve", *names, "--lengths", str(length), "--rounds", str(rounds)]
    done = subprocess.run([*command, *limits], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the variants did not run at {length} tokens: exit code {done.returncode}")
    told = json.loads(done.stdout.splitlines()[-1])
    found, bases = told["found"], told["bases"]
    plain = found[PLAIN]
    rows = ["| variant | seconds | x plain pass | (spread) | x SDPA call | x module | peak MiB | x plain |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name in names:
        if "why" in found[name]:
            rows.append(f"| {name} | not measured: {found[name]['why']} | | | | | | |")
            continue
        seconds, peak = found[name]["seconds"], found[name]["peak"]
        pairs = list(zip(seconds, plain["seconds"], bases, strict=False))  # a slow one has a single round
        ratios = sorted(own / base for own, base, _ in pairs)
        over = partial(beside, pairs)
        rows.append(
            f"| {name} | {statistics.median(seconds):.3f} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} to "
            f"{ratios[-1]:.2f} | {over(0):.2f} | {over(1):.2f} | {peak:.0f} | {peak / plain['peak']:.2f} |"
        )
    call, module = (statistics.median(base) for base in zip(*bases, strict=True))
    words = f"SDPA calls {call:.3f} s, attention modules {module:.3f} s of the plain pass."
    return f"## {length:,} tokens, {len(bases)} rounds\n\n{words}\n\n" + "\n".join(rows) + "\n"


def beside(pairs: list[tuple[float, float, tuple[float, float]]], which: int) -> float:
    """What a variant takes more than the plain pass, and this base, over this base."""
    return statistics.median((own - plain + bases[which]) / bases[which] for own, plain, bases in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patience", type=float, default=10, help="seconds of a pass that is taken more than once")
    parser.add_argument("--budget", type=float, default=90, help="seconds of a length after which rounds end early")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.lengths[0], given.rounds, given.patience, given.budget)
    names = [PLAIN, *(name for name in given.only if name != PLAIN)]
    used = {name: versions()[name] for name in ("python", "torch", "transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    page = f"# Watching attention on {device()}\n\n{words}. Llama, 2 layers, 8 heads of 64, float32, one text.\n"
    page += f"Load average at the start, of all that ran on the machine: {os.getloadavg()[0]:.1f}.\n"
    limits = ["--patience", str(given.patience), "--budget", str(given.budget)]
    for length in given.lengths:
        page += f"\n{measure(names, length, given.rounds, limits)}"
        where = write("attention", "md", page, given.folder)
    print(where.read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
