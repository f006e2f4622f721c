"""What the ways to compute a batch cost on this machine: measured once at start-up, or given."""

from __future__ import annotations

import itertools
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from scipy.optimize import nnls

from serve.kernels import Bank, Grouped, Kernel, Sliced, Stacked, Weights
from serve.mixture import MixtureModel

# Enough banks to see memory and not only a cache, few enough to start quickly.
MOST_BANKS = 32
REPEATS = 3
# Bytes that push everything else out of the caches of today's processors.
CACHE = 256 * 2**20
# Tokens of the timed passes of the plain model; a slow machine stops at the first that takes long.
BASE_TOKENS = (1, 4, 16, 64)
LONG = 1.0


class Rates(BaseModel):
    """Seconds a call of a library routine, a byte read or written, a floating-point operation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    call: float = Field(ge=0, allow_inf_nan=False)
    byte: float = Field(ge=0, allow_inf_nan=False)
    flop: float = Field(ge=0, allow_inf_nan=False)

    def seconds(self, work: Work) -> float:
        return self.call * work[0] + self.byte * work[1] + self.flop * work[2]


class Costs(BaseModel):
    """A linear model for each kernel, seconds of the plain model's pass by tokens, and seconds an
    operation of composing dense weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sliced: Rates
    stacked: Rates
    grouped: Rates
    base: dict[int, float] = Field(min_length=1)
    compose: float = Field(ge=0, allow_inf_nan=False)

    def plain(self, tokens: int) -> float:
        """Seconds of a pass over ``tokens`` tokens without experts: linear between measured points."""
        known = sorted(self.base)
        at = bisect_left(known, tokens)
        if len(known) == 1 or at == 0:
            return self.base[known[at - 1 if at else 0]]
        low, high = known[at - 1 : at + 1] if at < len(known) else known[-2:]
        slope = (self.base[high] - self.base[low]) / (high - low)
        return max(self.base[low], self.base[low] + slope * (tokens - low))


Work = tuple[float, float, float]
"""(calls, bytes, floating-point operations)"""


class Shape:
    """Sizes of all experts' factors, from which the work of a kernel follows."""

    def __init__(self, mixture: MixtureModel, banks: Sequence[Bank] | None = None) -> None:
        banks = mixture.banks if banks is None else banks
        experts = range(len(mixture.tasks))
        self.banks, self.members = len(banks), sum(len(bank.B) for bank in banks)
        self.inputs = sum(bank.A.shape[1] for bank in banks)
        self.outputs = sum(b.shape[1] for bank in banks for b in bank.B)
        self.expert = [sum(_size(bank, k) for bank in banks) for k in experts]
        self.all = sum(self.expert)
        self.item = next(mixture.model.parameters()).element_size()
        self.uniform = bool(banks) and all(bank.rank is not None for bank in banks)
        self.dense = [sum(_dense(bank, k) for bank in banks) for k in experts]

    def sliced(self, tokens: int, experts: Sequence[int]) -> Work:
        size = sum(self.expert[k] for k in experts)
        touched = size + 2 * len(experts) * tokens * self.outputs
        return (self.banks + self.members) * len(experts), touched * self.item, 2 * tokens * size

    def stacked(self, tokens: int) -> Work:
        touched = self.all + 2 * tokens * self.outputs
        return 2 * self.banks + 2 * self.members, touched * self.item, 2 * tokens * self.all

    def grouped(self, low: int, high: int, most: int, uses: int) -> Work:
        """Experts ``low`` to ``high``, each with ``most`` places; a token gathers from ``uses`` of them,
        0 where tokens stand in their places already."""
        size, places = sum(self.expert[low:high]), most * (high - low)
        gathered = places * (2 * self.inputs + 2 * self.outputs) if uses else 0
        touched = size + gathered + places * self.outputs
        calls = (2 if uses else 1) * self.banks + (1 + 2 * uses) * self.members
        return calls, touched * self.item, 2 * most * size


def calibrate(mixture: MixtureModel) -> Costs:
    """Time the kernels on this bundle's own factors and the plain model's pass, here and now."""
    device = next(mixture.model.parameters()).device
    step = max(1, len(mixture.banks) // MOST_BANKS)
    banks = mixture.banks[::step]
    if not banks:
        none = Rates(call=0, byte=0, flop=0)
        return Costs(sliced=none, stacked=none, grouped=none, base={1: 0.0}, compose=0)
    watch = _Stopwatch(device)
    with torch.inference_mode():
        base = _base(mixture, watch)
        shape = Shape(mixture, banks)
        rates = {name: _fit(banks, cases, watch) for name, cases in _cases(mixture, shape).items()}
        bank = max(banks, key=lambda bank: bank.A.shape[1] * bank.B[0].shape[1])
        dense = torch.zeros(bank.B[0].shape[1], bank.A.shape[1], dtype=bank.A.dtype, device=device)
        # As compose_weight does it: a copy in, a product, a copy out.
        part = next(found for k in range(len(mixture.tasks)) if (found := bank.factors(0, k)) is not None)
        a, b = part[0], part[1].T
        seconds = watch.seconds(lambda: dense.float().addmm_(b.float(), a.float()).to(dense.dtype))
        per_flop = seconds / (2 * len(a) * dense.numel())
    return Costs(**rates, base=base, compose=per_flop)


def _cases(mixture: MixtureModel, shape: Shape) -> dict[str, list[tuple[Work, int, list[Kernel]]]]:
    experts = len(mixture.tasks)
    like = mixture.g([(1.0,)])
    cases: dict[str, list[tuple[Work, int, list[Kernel]]]] = {"sliced": [], "stacked": [], "grouped": []}
    for tokens in (1, 4, 16, 64):
        span = slice(0, tokens)
        for used in {1, min(3, experts)}:
            weights = tuple((k, 0.5) for k in range(used))
            cases["sliced"].append((shape.sliced(tokens, range(used)), tokens, [Sliced(span, weights)]))
        stacked: list[Kernel] = [Stacked(span, like.expand(tokens, experts) * 0.5)]
        cases["stacked"].append((shape.stacked(tokens), tokens, stacked))
    for tokens, distinct in itertools.product((2, 8, 16, 32), {min(2, experts), experts}):
        if not shape.uniform or tokens < distinct:
            continue
        for order in (sorted, list):
            chosen = order(i % distinct for i in range(tokens))
            kernel = Grouped.of(slice(0, tokens), [_one_hot(k, experts) for k in chosen], like)
            work = shape.grouped(0, distinct, kernel.most, 0 if kernel.places is None else 1)
            cases["grouped"].append((work, tokens, [kernel]))
    return cases


def _fit(banks: Sequence[Bank], cases: list[tuple[Work, int, list[Kernel]]], watch: _Stopwatch) -> Rates:
    if not cases:
        return Rates(call=0, byte=0, flop=0)
    work, seconds = [], []
    for done, tokens, kernels in cases:
        xs = {bank.A.shape[1]: torch.rand(tokens, bank.A.shape[1]).to(banks[0].A) for bank in banks}
        ys = {b.shape[1]: torch.rand(tokens, b.shape[1]).to(b) for bank in banks for b in bank.B}
        seconds.append(watch.seconds(partial(_run, banks, kernels, xs, ys)))
        work.append(done)
    # Relative errors count: a rate must be right for small batches as well as for large ones.
    scaled = np.array(work, dtype=float) / np.array(seconds)[:, None]
    sizes = np.maximum(scaled.max(0), 1e-30)
    call, byte, flop = nnls(scaled / sizes, np.ones(len(work)))[0] / sizes
    return Rates(call=call, byte=byte, flop=flop)


def _run(
    banks: Sequence[Bank],
    kernels: list[Kernel],
    xs: dict[int, torch.Tensor],
    ys: dict[int, torch.Tensor],
) -> None:
    for bank in banks:
        hidden = [kernel.shrink(bank, xs[bank.A.shape[1]]) for kernel in kernels]
        for m, b in enumerate(bank.B):
            for kernel, h in zip(kernels, hidden, strict=True):
                kernel.expand(bank, m, h, ys[b.shape[1]])


def _base(mixture: MixtureModel, watch: _Stopwatch) -> dict[int, float]:
    found: dict[int, float] = {}
    for tokens in BASE_TOKENS:
        ids = torch.zeros(1, tokens, dtype=torch.long, device=watch.device)
        run = partial(mixture.model, input_ids=ids, use_cache=False, logits_to_keep=1)
        found[tokens] = watch.seconds(run)
        if found[tokens] > LONG:
            break
    return found


class _Stopwatch:
    """Times runs none of which finds its data in a cache: between two uses of a layer's factors, a pass
    reads all the others."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.flush = torch.ones(CACHE // 4, device=device)

    def seconds(self, run: Callable[[], object]) -> float:
        """The best of a few runs."""
        best = float("inf")
        for _ in range(REPEATS):
            self.flush.add_(1.0)
            self._wait()
            started = time.perf_counter()
            run()
            self._wait()
            best = min(best, time.perf_counter() - started)
            if best > LONG:
                break
        return best

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _size(bank: Bank, k: int) -> int:
    """Numbers that expert k's factors hold."""
    d_in = bank.A.shape[1]
    return sum(size * (d_in + b.shape[1]) for size, b in zip(bank.sizes[k], bank.B, strict=True))


def _dense(bank: Bank, k: int) -> int:
    """Operations of adding expert k to the bank's dense weights."""
    d_in = bank.A.shape[1]
    return sum(2 * size * d_in * b.shape[1] for size, b in zip(bank.sizes[k], bank.B, strict=True))


def _one_hot(k: int, experts: int) -> Weights:
    return tuple(float(i == k) for i in range(experts))
