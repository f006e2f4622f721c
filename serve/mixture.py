"""A decoder with the experts of a bundle attached: exact, with another mixture in every token.

The decoder stays the unmodified Hugging Face model. ``y = W x + B (g * (A x))`` adds the experts'
factors (``serve.layers``, ``serve.kernels``); ``compose`` makes the dense weights of one mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.bundle import Bundle
from compress.compose import compose_weight
from compress.experts import Expert
from compress.lowrank import LowRank
from compress.parameters import Kind, Parameter
from serve.baseweights import BaseWeights
from serve.kernels import Bank, Kernel, Weights
from serve.layers import Group, MixedEmbedding, MixedLinear, MixedNorm, Pass

# Lengths of the probing pass: primes, so that one of them is no other dimension of an activation.
PROBES = (7, 11, 13, 17, 19, 23)
# Where a matrix's factors are: its bank, and which member of it.
Place = tuple[Bank, int]


class MixtureModel:
    """Not thread-safe: one forward pass at a time.

    body, head: what the current pass adds inside the decoder and at its output head, which sees
    only those tokens whose logits are wanted. base: what the model stands on, None where nobody may share
    it. files: what the experts were read from, with hashes.
    """

    def __init__(
        self, model: PreTrainedModel, tasks: Sequence[str] = (), base: BaseWeights | None = None
    ) -> None:
        self.model: Any = model.eval()
        self.base = base
        self.files: dict[str, str] = {}
        self.tasks = list(tasks)
        self.body, self.head = Pass(), Pass()
        self.groups: list[Group] = []
        self.banks: list[Bank] = []
        self._places: dict[str, tuple[Parameter, Place]] = {}
        self._vectors: dict[str, tuple[Parameter, Tensor]] = {}

    @classmethod
    def load(
        cls, bundle: Bundle, *, device: str = "cpu", dtype: torch.dtype, beside: MixtureModel | None = None
    ) -> MixtureModel:
        """Load base/ and attach every expert, in ``dtype`` on ``device``.

        beside: another model, whose tensors are used where they are this bundle's: its base, and on that the
        factors of its experts, where all of them are the same.
        """
        base = None if beside is None else beside.base
        twin = beside if beside is not None and beside.carries(bundle, device, dtype) else None
        if base is None or not base.serves(bundle, device, dtype):
            base = BaseWeights.load(bundle, device, dtype)
        mixture = cls(base.model(), bundle.carried, base)
        mixture.files = bundle.manifest.expert_files
        table = bundle.table()
        experts = [bundle.expert(task, table) for task in bundle.carried]
        _Attachment(mixture, table, experts, twin).attach()
        return mixture

    def stands_on(self, bundle: Bundle, device: str, dtype: torch.dtype) -> bool:
        """Whether loading the bundle's base would give the very same tensors."""
        return self.base is not None and self.base.serves(bundle, device, dtype)

    def carries(self, bundle: Bundle, device: str, dtype: torch.dtype) -> bool:
        """Whether loading the bundle's base and experts would give the very same tensors."""
        same = list(self.files.items()) == list(bundle.manifest.expert_files.items())
        return same and self.stands_on(bundle, device, dtype)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of a full set of the weights that experts change: the price of one composed copy."""
        names = (*self._places, *self._vectors)
        return sum(self.model.get_parameter(name).nbytes for name in names)

    @contextmanager
    def factored(
        self, g: Tensor, kernels: Sequence[Kernel], head_g: Tensor, head_kernels: Sequence[Kernel]
    ) -> Iterator[None]:
        """Forward passes inside add the experts as ``kernels`` say.

        g [tokens or 1, experts], from compose.factor_weights; head_g and head_kernels the same for
        the tokens that reach the output head.
        """
        self.body.set(g, kernels)
        self.head.set(head_g, head_kernels)
        try:
            yield
        finally:
            self.body.set(None)
            self.head.set(None)
            for group in self.groups:
                group.forget()

    def compose(self, g: Sequence[float]) -> dict[str, Tensor]:
        """Dense weights of one mixture for every parameter that experts change."""
        composed: dict[str, Tensor] = {}
        for name, (parameter, (bank, m)) in self._places.items():
            factors = [(weight, bank.factors(m, k)) for k, weight in enumerate(g)]
            deltas = [(weight, part and LowRank(part[0], part[1].T)) for weight, part in factors]
            composed[name] = compose_weight(self.model.get_parameter(name).data, parameter, deltas)
        for name, (parameter, rows) in self._vectors.items():
            composed[name] = compose_weight(
                self.model.get_parameter(name).data, parameter, [(w, rows[k]) for k, w in enumerate(g)]
            )
        return composed

    @contextmanager
    def composed(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Forward passes inside use these weights (from ``compose``) for every token."""
        kept = [parameters[leaf] for _, parameters, leaf in self._owners]
        try:
            for name, parameters, leaf in self._owners:
                parameters[leaf] = weights[name]
            yield
        finally:
            for (_, parameters, leaf), parameter in zip(self._owners, kept, strict=True):
                parameters[leaf] = parameter

    def g(self, rows: Sequence[Weights]) -> Tensor:
        """Weights of the experts' factors as a tensor in the model's own dtype and place."""
        like = next(self.model.parameters())
        return torch.tensor(rows, dtype=like.dtype, device=like.device)

    @cached_property
    def _owners(self) -> list[tuple[str, dict[str, Any], str]]:
        """Every place that holds a parameter which experts change: (name, a module's own parameters,
        leaf). A tied head is a second place of its embedding's."""
        owners = []
        for name, (parameter, _) in (*self._places.items(), *self._vectors.items()):
            leaf = name.rpartition(".")[2]
            modules = [
                (parameter.module, leaf),
                *([(tied, "weight")] if (tied := parameter.tied_head) else []),
            ]
            owners += [(name, self.model.get_submodule(m)._parameters, leaf) for m, leaf in modules]
        return owners


class _Attachment:
    """Extends the modules of one model; lives only as long as that takes. twin: a model of the same base
    and experts, whose factors are used."""

    def __init__(
        self,
        mixture: MixtureModel,
        table: dict[str, Parameter],
        experts: Sequence[Expert],
        twin: MixtureModel | None,
    ) -> None:
        self.mixture, self.table, self.experts, self.twin = mixture, table, experts, twin
        self.model = mixture.model
        like = next(self.model.parameters())
        self.device, self.dtype = like.device, like.dtype
        head = self.model.get_output_embeddings()
        self.head = next((n for n, module in self.model.named_modules() if module is head), None)
        self.linears: dict[str, MixedLinear] = {}
        self.norms: list[MixedNorm] = []

    def attach(self) -> None:
        parts: dict[str, list[tuple[Tensor, Tensor] | None]] = {}
        vectors: dict[str, dict[str, Tensor]] = {}
        for parameter in self.table.values():
            if self.twin is not None and parameter.name in self.twin._places:
                parts[parameter.name] = []
            elif parameter.is_matrix and self.twin is None:
                found = [expert.low_rank(parameter.name) for expert in self.experts]
                if any(found):
                    parts[parameter.name] = [None if one is None else self._factors(one) for one in found]
            elif (rows := self._rows(parameter)) is not None:
                self.mixture._vectors[parameter.name] = (parameter, rows)
                vectors.setdefault(parameter.module, {})[parameter.name.rpartition(".")[2]] = rows
        for name in parts:
            if self.table[name].kind is not Kind.EMBEDDING:
                self._linear(self.table[name].module)
        for module, deltas in vectors.items():
            self._attach_vectors(module, deltas)
        for together in self._inputs(list(parts)):
            self._attach_bank(together, [parts.pop(name) for name in together])
        for name in list(parts):
            self._attach_embedding(self.table[name], parts.pop(name))

    def _factors(self, part: LowRank) -> tuple[Tensor, Tensor]:
        a, b = part.A.to(torch.float32), part.B.to(torch.float32) * part.scale
        return a.to(self.device, self.dtype), b.T.contiguous().to(self.device, self.dtype)

    def _rows(self, parameter: Parameter) -> Tensor | None:
        if self.twin is not None:
            known = self.twin._vectors.get(parameter.name)
            return None if known is None else known[1]
        deltas = [expert.vector(parameter.name) for expert in self.experts]
        if all(delta is None for delta in deltas):
            return None
        zero = torch.zeros(parameter.shape)
        rows = torch.stack([zero if delta is None else delta for delta in deltas])
        return rows.to(self.device, self.dtype)

    def _linear(self, name: str) -> MixedLinear:
        if name not in self.linears:
            module = self.model.get_submodule(name)
            current = self.mixture.head if name == self.head else self.mixture.body
            self.linears[name] = module.forward = MixedLinear(current, module.forward)
        return self.linears[name]

    def _attach_vectors(self, name: str, deltas: dict[str, Tensor]) -> None:
        module = self.model.get_submodule(name)
        weight = module._parameters.get("weight")
        if set(deltas) == {"bias"} and weight is not None and weight.dim() == 2:
            self._linear(name).bias = deltas["bias"]
        else:
            module.forward = MixedNorm(self.mixture.body, module, module.forward, deltas)
            self.norms.append(module.forward)

    def _inputs(self, names: list[str]) -> list[list[str]]:
        """Matrices (by name) that read the same tensor together, found by watching a short pass;
        finds out as well along which axis norms see tokens."""
        linear = {self.table[n].module: n for n in names if self.table[n].kind is not Kind.EMBEDDING}
        for length in PROBES:
            groups, certain = self._probe(linear, length)
            if certain:
                break
        missing = set(linear.values()).difference(*groups)
        return groups + [[name] for name in linear.values() if name in missing]

    def _probe(self, linear: dict[str, str], length: int) -> tuple[list[list[str]], bool]:
        """One pass over ``length`` tokens: what was read together, and whether no norm was left in doubt
        about its axis."""
        seen: dict[int, list[str]] = {}
        held: list[Tensor] = []  # ids of tensors that are freed would be given out again
        certain = True

        def note(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            held.append(inputs[0])
            seen.setdefault(id(inputs[0]), []).append(name)

        def place(norm: MixedNorm, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal certain
            axes = [axis for axis, size in enumerate(inputs[0].shape) if size == length]
            norm.axis, certain = (axes or [1])[0], certain and len(axes) == 1

        hooks = [
            self.model.get_submodule(module).register_forward_pre_hook(partial(note, name))
            for module, name in linear.items()
        ]
        hooks += [norm.module.register_forward_pre_hook(partial(place, norm)) for norm in self.norms]
        try:
            with torch.inference_mode():
                ids = torch.zeros(1, length, dtype=torch.long, device=self.device)
                self.model(input_ids=ids, use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        return list(seen.values()), certain

    def _attach_bank(
        self, names: Sequence[str], parts: Sequence[Sequence[tuple[Tensor, Tensor] | None]]
    ) -> None:
        bank = self._bank(names, parts)
        linear = self._linear(self.table[names[0]].module)
        group = Group(linear.current, bank)
        self.mixture.groups.append(group)
        self.mixture.banks.append(bank)
        for m, name in enumerate(names):
            linear = self._linear(self.table[name].module)
            linear.group, linear.member = group, m
            self.mixture._places[name] = (self.table[name], (bank, m))

    def _bank(self, names: Sequence[str], parts: Sequence[Sequence[tuple[Tensor, Tensor] | None]]) -> Bank:
        if self.twin is None:
            return Bank.of(parts)
        places = [self.twin._places[name][1] for name in names]
        bank = places[0][0]
        # One base reads the same inputs together.
        assert all(one is bank and m == at for at, (one, m) in enumerate(places))
        return bank

    def _attach_embedding(self, parameter: Parameter, part: list[tuple[Tensor, Tensor] | None]) -> None:
        module = self.model.get_submodule(parameter.module)
        bank = self._bank([parameter.name], [part])
        self.mixture._places[parameter.name] = (parameter, (bank, 0))
        scale = getattr(module, "embed_scale", 1.0)
        module.forward = MixedEmbedding(self.mixture.body, module.forward, bank, scale)
        if parameter.tied_head:
            # The head's map is the embedding's transposed: [width -> vocabulary]; its factors are the
            # same tensors in each other's place.
            turned = Bank(
                bank.B[0], [bank.A], bank.spans, bank.ranks, bank.local, bank.columns, bank.owner, bank.rank
            )
            linear = self._linear(parameter.tied_head)
            linear.group = Group(self.mixture.head, turned)
            self.mixture.groups.append(linear.group)
