"""A training run on disk: its settings, and checkpoints to resume from. Nothing is unpickled."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.optim import AdamW

from compress.errors import InputError
from compress.recipe import validation_sentence
from compress.staging import staged
from compress.tensorfiles import open_tensors, save

SETTINGS = "settings.json"
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
    learning_rate: float = Field(gt=0)
    context: int
    seed: int


class Run:
    """The folder of one run, locked while a ``with`` block lasts. ``state/`` in it is the newest complete
    checkpoint."""

    def __init__(self, folder: Path, settings: RunSettings) -> None:
        """Begin a run in ``folder``, or continue the one that is there.

        Raises InputError when the one that is there has other settings, or is no run at all.
        """
        self.folder, self.settings = folder, settings
        path = folder / SETTINGS
        if path.exists():
            try:
                found = RunSettings.model_validate_json(path.read_text())
            except ValidationError as error:
                raise InputError(f"{path}: {validation_sentence(error, RunSettings)}") from error
            self._refuse_other(found)
        elif folder.exists():
            raise InputError(f"{folder}: exists and holds no run; move it away or choose another --out")
        else:
            with staged(folder) as fresh:
                (fresh / SETTINGS).write_text(settings.model_dump_json(indent=2) + "\n")

    def __enter__(self) -> Run:
        # The file and not the folder, which is locked for moments whenever a checkpoint is put in place.
        path = self.folder / SETTINGS
        try:
            self._locked = path.open()
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # A second process that began at the same moment may have put its folder over ours.
            if not os.path.samestat(os.fstat(self._locked.fileno()), path.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            raise InputError(f"{self.folder}: another process is training here; wait for it") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._locked.close()

    def discard(self) -> None:
        """Remove the checkpoints of a run whose expert is written."""
        shutil.rmtree(self.folder)

    def _refuse_other(self, found: RunSettings) -> None:
        for name, was in found.model_dump().items():
            now = getattr(self.settings, name)
            if was != now:
                raise InputError(
                    f"{self.folder}: holds a run with {name} = {was}, not {now}: repeat the old settings "
                    "to resume it, choose another --out, or delete the folder to start anew"
                )

    def save(
        self, step: int, seconds: float, losses: list[float], model: nn.Module, optimizer: AdamW
    ) -> None:
        """Make the state after ``step`` steps the newest checkpoint; visible only when complete."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in trainable(model).items():
            tensors[name] = parameter.detach().cpu().contiguous()
            # A parameter that the forward pass never uses has no moments.
            for moment in MOMENTS if parameter in optimizer.state else ():
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
                if f"{name}:{MOMENTS[0]}" not in tensors.files:
                    continue
                moments = {m: tensors.read(f"{name}:{m}").to(parameter.device) for m in MOMENTS}
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{folder}: this checkpoint cannot be resumed ({error}); delete it") from error
        return step, seconds, losses


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training moves, by name; tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
