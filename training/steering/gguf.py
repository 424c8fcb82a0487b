"""Steering vectors as control-vector GGUF files, which llama.cpp and repeng read and write.

`direction.N` is added to the residual stream behind decoder layer N, counted from 0, in both of
them as here. llama.cpp has no place for layer 0.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from torch import Tensor

from training.common.errors import TrainingError

_ARCHITECTURE = "controlvector"


class ControlVector(NamedTuple):
    """What such a file holds."""

    model_type: str
    """Architecture of the model it was made for, such as llama."""
    directions: dict[int, Tensor]
    """By layer, float32, shape (hidden,)."""


def write_control_vector(
    path: Path, directions: Mapping[int, Tensor], model_type: str, scale: float = 1.0
) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file.
        directions: By layer.
        model_type: As the model's config has it.
        scale: What the directions are multiplied by.

    Raises:
        TrainingError: There is a vector for layer 0, or the file cannot be written.
    """
    if 0 in directions:
        raise TrainingError("llama.cpp cannot steer behind layer 0: there is no `direction.0`")
    staging = path.with_name(f".{path.name}.part")
    try:
        writer = GGUFWriter(staging, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", model_type)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(directions))
        for layer, direction in sorted(directions.items()):
            scaled = (direction.double() * scale).float().numpy()
            writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(scaled))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        staging.rename(path)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        staging.unlink(missing_ok=True)


def read_control_vector(path: Path) -> ControlVector:
    """Read a file.

    Raises:
        TrainingError: It is no control vector; says what is wrong with it.
    """
    try:
        reader = GGUFReader(path)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, KeyError) as error:
        raise TrainingError(f"{path}: not a GGUF file, or cut short") from error
    architecture = _text(reader, "general.architecture")
    if architecture != _ARCHITECTURE:
        raise TrainingError(
            f"{path}: holds `{architecture or 'nothing named'}` and no control vector"
        )
    found = dict[int, Tensor]()
    for tensor in reader.tensors:
        match = re.fullmatch(r"direction\.(\d+)", tensor.name)
        data = np.asarray(tensor.data)
        if match is None or data.dtype != np.float32 or data.ndim != 1:
            raise TrainingError(
                f"{path}: `{tensor.name}` is no direction: expected `direction.N` of float32 "
                "numbers in one row"
            )
        found[int(match[1])] = torch.from_numpy(data.copy())
    if not found:
        raise TrainingError(f"{path}: there are no directions in it")
    if len({len(one) for one in found.values()}) > 1:
        raise TrainingError(f"{path}: its directions differ in length")
    if not all(bool(one.isfinite().all()) and bool(one.any()) for one in found.values()):
        raise TrainingError(f"{path}: a direction is zero or holds no finite numbers")
    return ControlVector(_text(reader, f"{_ARCHITECTURE}.model_hint") or "", found)


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    value = None if field is None else field.contents()
    return value if isinstance(value, str) else None
