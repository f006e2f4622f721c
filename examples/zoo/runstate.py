"""A training run on disk: its settings, and checkpoints to resume from. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from torch.optim import AdamW

from compress.errors import InputError
from compress.recipe import validation_sentence
from compress.staging import staged
from compress.tensorfiles import open_tensors, save

MOMENTS = ("exp_avg", "exp_avg_sq")


class RunSettings(BaseModel):
    """All that decides the weights that a run ends with."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    kind: Literal["lora", "full"]
    rank: int | None
    base: str
    base_sha256: str
    data_sha256: str
    examples: int
    steps: int
    batch: int
    learning_rate: float
    context: int
    seed: int


class Run:
    """The folder of one run. ``state/`` in it is the newest complete checkpoint."""

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        """Begin a run in ``folder``, or continue the one that is there.

        Raises InputError when the one that is there has other settings.
        """
        self.folder, self.settings = folder, settings
        path = folder / "settings.json"
        if path.exists():
            try:
                found = RunSettings.model_validate_json(path.read_text())
            except ValidationError as error:
                raise InputError(f"{path}: {validation_sentence(error, RunSettings)}") from error
            self._refuse_other(found)
            return
        with staged(folder) as fresh:
            (fresh / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n")

    def _refuse_other(self, found: RunSettings) -> None:
        for name, was in found.model_dump().items():
            now = getattr(self.settings, name)
            if was != now:
                raise InputError(
                    f"{self.folder}: holds a run with {name} = {was}, not {now}: repeat the old settings "
                    "to resume it, choose another --run, or delete the folder to start anew"
                )

    def save(
        self, step: int, seconds: float, losses: list[float], model: nn.Module, optimizer: AdamW
    ) -> None:
        """Make the state after ``step`` steps the newest checkpoint; visible only when complete."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in trainable(model).items():
            tensors[name] = parameter.detach().cpu().contiguous()
            for moment in MOMENTS:
                tensors[f"{name}:{moment}"] = optimizer.state[parameter][moment].cpu().contiguous()
        with staged(self.folder / "state") as fresh:
            save(tensors, fresh / "model.safetensors")
            facts = {"step": step, "seconds": seconds, "losses": losses}
            (fresh / "state.json").write_text(json.dumps(facts) + "\n")

    def restore(self, model: nn.Module, optimizer: AdamW) -> tuple[int, float, list[float]]:
        """Load the newest checkpoint into model and optimizer: (steps done, seconds, losses), or zeros.

        Raises InputError when the checkpoint is broken.
        """
        folder = self.folder / "state"
        if not folder.is_dir():
            return 0, 0.0, []
        tensors = open_tensors(folder)
        try:
            facts: dict[str, Any] = json.loads((folder / "state.json").read_text())
            step, seconds, losses = int(facts["step"]), float(facts["seconds"]), list(facts["losses"])
            for name, parameter in trainable(model).items():
                with torch.no_grad():
                    parameter.copy_(tensors.read(name))
                moments = {m: tensors.read(f"{name}:{m}").to(parameter.device) for m in MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{folder}: this checkpoint cannot be resumed ({error}); delete it") from error
        return step, seconds, losses


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
