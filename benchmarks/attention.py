"""What it costs to watch attention: time and peak memory beside the plain pass, eager matrices and FlexAttention.

    python benchmarks/attention.py [--lengths 512 2048 8192] [--rounds 5] [--only NAME ...]

A llama of 2 layers, 8 heads of 64, random weights, one text of each length. Variants take turns in one process, round
by round; ratios are medians over rounds of (variant / plain) within the round. "attention" is the same ratio for the
attention alone: the pass less what it spends outside of attention, which is measured in the plain model. Peak memory
is that of a process for each variant. The table is written after each length, to benchmarks/results/ under the
device's name; what cannot run says why.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from shared.results import FOLDER, write
from torch import Tensor
from tqdm import tqdm

import lab
from lab.attention.calls import attending
from lab.reports.machine import device, versions

PLAIN, EAGER, FLEX = "plain SDPA", "eager, output_attentions, column sums", "FlexAttention, compiled, no statistics"
BACKENDS = {f"lab.attention.watch, {name}": name for name in ("flash", "chunked", "fused")}
VARIANTS = (PLAIN, *BACKENDS, EAGER, FLEX)
OUTSIDE = "plain SDPA, outside of attention"
EAGER_BYTES = 3.1 * 4 * 8  # of each pair of tokens: matrices of 8 heads in float32 that stand at once, as was seen


def runner(variant: str, length: int) -> Callable[[], float]:
    """A pass of this variant, and what it is to be charged with: seconds."""
    model = lab.models.tiny("llama", layers=2, dim=512, heads=8, window=max(length, 512))
    if torch.cuda.is_available():
        model.model.cuda()
    ids = torch.randint(5, 900, (1, length), device=model.device)
    free = available()
    if variant == EAGER and model.device.type == "cpu" and EAGER_BYTES * length**2 > 0.8 * free:
        raise SystemExit(f"needs some {EAGER_BYTES * length**2 / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
    if variant in (EAGER, FLEX):
        model.model.set_attn_implementation("eager" if variant == EAGER else "flex_attention")
    inside = 0.0

    def timed(call: Any) -> Tensor:
        nonlocal inside
        began = clock()
        out = call.own()
        inside += clock() - began
        return out

    def run() -> float:
        nonlocal inside
        inside, began = 0.0, clock()
        around = nullcontext()
        if variant in BACKENDS:
            around = lab.attention.watch(model, backend=BACKENDS[variant])
        elif variant == OUTSIDE:
            around = attending(model, timed)
        with torch.inference_mode(), around:
            began = clock()  # the switch, which runs a small example, is paid once for any number of passes
            out = model.model(
                input_ids=ids, use_cache=False, **({"output_attentions": True} if variant == EAGER else {})
            )
            if variant == EAGER:
                [weights.sum(-2) for weights in out.attentions]
        return clock() - began - inside

    return run


def clock() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def available() -> int:
    """Bytes that a new process may take."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024


def serve(variants: list[str], length: int, rounds: int) -> None:
    """Print the seconds of each variant in each round, and the peak memory of this process in MiB."""
    runs = {variant: runner(variant, length) for variant in variants}
    for run in runs.values():
        run()
    seconds = {variant: [] for variant in variants}
    for _ in tqdm(range(rounds), desc=f"{length} tokens", unit="round"):
        for variant, run in runs.items():
            seconds[variant].append(run())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"seconds": seconds, "peak": peak}))


def asked(variants: list[str], length: int, rounds: int) -> dict[str, Any] | str:
    """What a process of its own measures, or the last line of why it could not."""
    command = [sys.executable, __file__, "--serve", *variants, "--lengths", str(length), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"])[-1][:160]
    return json.loads(done.stdout.splitlines()[-1])


def measure(names: list[str], length: int, rounds: int) -> str:
    """The table of one length."""
    alone = {name: asked([name], length, 1) for name in names}
    able = [name for name in names if not isinstance(alone[name], str)]
    together = asked([*able, OUTSIDE], length, rounds)
    if isinstance(together, str):
        raise SystemExit(f"the variants cannot run side by side: {together}")
    seconds, plain = together["seconds"], alone[PLAIN]["peak"]
    rows = ["| variant | seconds | time, x plain | (spread) | attention, x own | peak MiB | x plain |"]
    rows.append("|---|---|---|---|---|---|---|")
    for name in names:
        if name not in able:
            rows.append(f"| {name} | not measured: {alone[name]} | | | | | |")
            continue
        pairs = list(zip(seconds[name], seconds[PLAIN], seconds[OUTSIDE], strict=True))
        ratios = sorted(own / base for own, base, _ in pairs)
        inside = statistics.median((own - rest) / (base - rest) for own, base, rest in pairs)
        peak = alone[name]["peak"]
        rows.append(
            f"| {name} | {statistics.median(seconds[name]):.3f} | {statistics.median(ratios):.2f} "
            f"| {ratios[0]:.2f} to {ratios[-1]:.2f} | {inside:.2f} | {peak:.0f} | {peak / plain:.2f} |"
        )
    return f"## {length:,} tokens, {rounds} rounds\n\n" + "\n".join(rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the table is stored")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve, given.lengths[0], given.rounds)
    names = [PLAIN, *(name for name in given.only if name != PLAIN)]
    used = {name: versions()[name] for name in ("python", "torch", "transformers")}
    words = ", ".join(f"{name} {version}" for name, version in used.items())
    page = f"# Watching attention on {device()}\n\n{words}. Llama, 2 layers, 8 heads of 64, float32, one text.\n"
    page += f"Load average at the start, of all that ran on the machine: {os.getloadavg()[0]:.1f}.\n"
    for length in given.lengths:
        page += f"\n{measure(names, length, given.rounds)}"
        where = write("attention", "md", page, given.folder)
    print(where.read_text(encoding="utf-8"))
    return None


if __name__ == "__main__":
    main()
