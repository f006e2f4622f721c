"""A GGUF file as an ordinary model folder: dequantised by transformers once, kept in the cache."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from pathlib import Path

import torch

from compress.errors import InputError
from compress.loading import first_line
from compress.sources import cache_folder

log = logging.getLogger(__name__)


def dequantised(file: Path) -> Path:
    """The folder of ``file``'s model in float32 with its tokenizer, made on first use.

    The folder is keyed by the file's content, so another file under the same name is another model.
    Raises InputError when transformers cannot read the file.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "gguf" / f"{file.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    log.info("dequantising %s into %s (once, about a minute)", file.name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _convert(file, partial)
        try:
            partial.rename(folder)
        except OSError:
            # Another process finished the same conversion first; its result is the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as error:  # a foreign file fails in as many ways as there are parsers
        raise InputError(f"{file}: transformers cannot read this GGUF file: {first_line(error)}") from error
    # The loader leaves marks of a quantised model behind, though every weight is float32 by now;
    # with them the folder could neither be saved nor opened again.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None  # type: ignore[assignment]
    # The GGUF's internal title is no place to find the model again.
    model.config._name_or_path = file.stem
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    os.chmod(folder, 0o755)
