"""One expert on disk: a standard PEFT LoRA adapter, and beside it what LoRA cannot hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.adapters import EXTRA, PREFIX, Adapter
from compress.codes import QUANTISED, QuantisedFactors
from compress.lowrank import LowRank
from compress.parameters import Kind, Parameter
from compress.tensorfiles import save


class Expert:
    """An expert folder of a bundle, read lazily.

    ``low_rank(name)`` gives the delta of a matrix, ``vector(name)`` that of a norm weight or bias,
    both None where the expert leaves the parameter as it is.
    """

    def __init__(self, folder: Path, table: dict[str, Parameter]) -> None:
        self.table = table
        self.adapter = Adapter(folder, table)
        self.extra = self.adapter.extra

    def low_rank(self, name: str) -> LowRank | None:
        """Factors of one matrix: from the adapter, or from what stands beside it."""
        if self.extra is not None and name in self.extra.files and self.table[name].is_matrix:
            return LowRank.exactly(self.table[name].to_map(self.extra.read(name)).contiguous())
        factors = self.adapter.low_rank(name)
        return factors if factors is not None and factors.B.any() else None

    def vector(self, name: str) -> Tensor | None:
        """Delta of a one-dimensional parameter, float32."""
        if self.extra is None or name not in self.extra.files or self.table[name].is_matrix:
            return None
        return self.extra.read(name)


def write_expert(
    folder: Path,
    table: dict[str, Parameter],
    low_rank: dict[str, LowRank],
    dense: dict[str, Tensor],
    card: dict[str, Any],
    quantised: Mapping[str, QuantisedFactors] | None = None,
) -> int:
    """Write one expert; returns its bytes.

    ``low_rank``: parameter -> factors, stored in their own dtype; a tied embedding's go beside the
    adapter, because PEFT would apply them to the lookup and not to the head. ``dense``: parameter ->
    delta in the parameter's own layout, beside the adapter. ``card``: facts for the model card,
    ``base_weights_sha256`` among them. ``quantised``: parameter -> codes, in a file that only twinserve
    reads; there is then no adapter that PEFT could take for the whole.
    """
    quantised = quantised or {}
    folder.mkdir(parents=True)
    beside = {name: factors for name, factors in low_rank.items() if table[name].tied_head}
    inside = {name: factors for name, factors in low_rank.items() if name not in beside}
    if not inside and not quantised:
        # PEFT knows no adapter without a target: one matrix goes into it, if only to say zero.
        name = next(p.name for p in table.values() if p.kind in (Kind.LINEAR, Kind.CONV1D))
        if name in dense:
            dense = dict(dense)
            inside = {name: LowRank.exactly(table[name].to_map(dense.pop(name)))}
        else:
            d_out, d_in = table[name].to_map(torch.empty(table[name].shape, device="meta")).shape
            inside = {name: LowRank(A=torch.zeros(1, d_in), B=torch.zeros(d_out, 1))}
    tensors: dict[str, Tensor] = {}
    for name, factors in inside.items():
        module = PREFIX + table[name].module
        if table[name].kind is Kind.EMBEDDING:
            keys = (f"{module}.lora_embedding_A", f"{module}.lora_embedding_B")
        else:
            keys = (f"{module}.lora_A.weight", f"{module}.lora_B.weight")
        tensors |= {keys[0]: factors.A.contiguous(), keys[1]: factors.B.contiguous()}
    if tensors:
        save(tensors, folder / "adapter_model.safetensors")
    codes: dict[str, Tensor] = {}
    for name, factors_of in quantised.items():
        codes |= factors_of.tensors(name)
    if codes:
        save(codes, folder / f"{QUANTISED}.safetensors")
    extra = {name: delta.contiguous() for name, delta in dense.items()}
    for name, factors in beside.items():
        # Truncated deltas, or those of a bundle's expert: their scale is 1, and adapters that PEFT put
        # on tied embeddings are refused.
        extra |= {f"{name}.A": factors.A.contiguous(), f"{name}.B": factors.B.contiguous()}
    if extra:
        save(extra, folder / f"{EXTRA}.safetensors")
    config = _peft_config({table[name].module: f for name, f in inside.items()}, table)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "README.md").write_text(_card(card, bool(extra), bool(codes)))
    return sum(tensor.nbytes for tensor in (*tensors.values(), *extra.values(), *codes.values()))


def _peft_config(modules: dict[str, LowRank], table: dict[str, Parameter]) -> dict[str, Any]:
    alphas = {name: factors.scale * factors.rank for name, factors in modules.items()}
    rank = _commonest([factors.rank for factors in modules.values()])
    alpha = _commonest(list(alphas.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        # Relative to the expert's own folder, so that a bundle can be moved.
        "base_model_name_or_path": "../../base",
        "r": rank,
        "lora_alpha": _integral(alpha),
        "rank_pattern": {name: f.rank for name, f in modules.items() if f.rank != rank},
        "alpha_pattern": {name: _integral(a) for name, a in alphas.items() if a != alpha},
        "target_modules": list(modules),
        "fan_in_fan_out": any(p.kind is Kind.CONV1D for p in table.values()),
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


def _commonest(values: list[Any]) -> Any:
    return Counter(values).most_common(1)[0][0] if values else 1


def _integral(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _card(facts: dict[str, Any], has_extra: bool, has_codes: bool) -> str:
    front = {
        "library_name": "peft",
        "base_model": "../../base",
        "tags": ["twinserve", "lora"],
        **facts,
    }
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    note = (
        "What LoRA cannot hold (norms, biases, tied embeddings, replaced modules) is in "
        "`extra.safetensors`; PEFT alone does not read it."
        if has_extra
        else "This adapter is the whole expert."
    )
    if has_codes:
        note = (
            "Its factors are quantised, in `quantised.safetensors`, which PEFT does not read; "
            "`twinserve export` makes a PEFT adapter of it."
        )
    body = f"# Expert `{facts['task']}`\n\nA LoRA adapter over `../../base`. {note}\n"
    return "---\n" + "\n".join(lines) + "\n---\n\n" + body
