"""Steering vectors as control-vector GGUF files, which llama.cpp and repeng read and write.

`direction.N` is added to the residual stream after decoder layer N, counted from 0, in both of
them as here. llama.cpp has no place for layer 0.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from torch import Tensor

from training.common.errors import TrainingError
from training.common.files import atomic_write

_ARCHITECTURE = "controlvector"
_NOT_FLOATS = ("I8", "I16", "I32", "I64")


class ControlVector(NamedTuple):
    """Contents of a control-vector file."""

    model_type: str
    """Architecture of the model it was made for, such as llama."""
    directions: dict[int, Tensor]
    """By layer, float32, shape (hidden,)."""
    zero_layers: list[int]
    """Layers whose direction is zero, which are left out."""


def write_control_vector(
    path: Path, directions: Mapping[int, Tensor], model_type: str, scale: float = 1.0
) -> None:
    """Write a file atomically.

    Args:
        path: The file.
        directions: By layer.
        model_type: As the model's config has it.
        scale: What the directions are multiplied by.

    Raises:
        TrainingError: There is a vector for layer 0, or the file cannot be written.
    """
    if 0 in directions:
        raise TrainingError("llama.cpp cannot steer after layer 0: there is no `direction.0`")
    try:
        with atomic_write(path) as staging:
            _write(GGUFWriter(staging, _ARCHITECTURE), directions, model_type, scale)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be written: {error.strerror}") from error


def _write(
    writer: GGUFWriter, directions: Mapping[int, Tensor], model_type: str, scale: float
) -> None:
    writer.add_string(f"{_ARCHITECTURE}.model_hint", model_type)
    writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(directions))
    for layer, direction in sorted(directions.items()):
        scaled = (direction.double() * scale).float().numpy()
        writer.add_tensor(f"direction.{layer}", np.ascontiguousarray(scaled))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_control_vector(path: Path) -> ControlVector:
    """Read a control vector of llama.cpp, repeng or EasySteer.

    Directions may have any float type or quantization of GGUF, and shape (hidden,) or
    (1, hidden). Tensors of other names are ignored, and directions of zeros are left out.

    Raises:
        TrainingError: The file is not a control vector; names the tensor, its type and layer.
    """
    reader = _open_reader(path)
    architecture = _text(reader, "general.architecture")
    if architecture not in (None, _ARCHITECTURE):
        raise TrainingError(f"{path}: contains a model (`{architecture}`), not a control vector")
    found, zeros = dict[int, Tensor](), list[int]()
    for tensor in reader.tensors:
        if not tensor.name.startswith("direction."):
            continue
        layer, direction = _direction(tensor, path)
        if layer in found or layer in zeros:
            raise TrainingError(f"{path}: has two directions for layer {layer}")
        if bool(direction.any()):
            found[layer] = direction
        else:
            zeros.append(layer)
    _check_directions(path, found, zeros)
    return ControlVector(_text(reader, f"{_ARCHITECTURE}.model_hint") or "", found, sorted(zeros))


def _open_reader(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # the library passes on any error of numpy
        raise TrainingError(f"{path}: not a GGUF file, or truncated") from error


def _direction(tensor: Any, path: Path) -> tuple[int, Tensor]:
    """The layer of a tensor and its contents, float32, shape (hidden,)."""
    kind, shape = tensor.tensor_type.name, [int(size) for size in reversed(tensor.shape)]
    match = re.fullmatch(r"direction\.(\d+)", tensor.name)
    if match is None:
        raise TrainingError(f"{path}: `{tensor.name}` ({kind}) does not end in a layer number")
    layer = int(match[1])
    where = f"{path}: `{tensor.name}` ({kind}, shape {shape}, layer {layer})"
    if max(shape) != math.prod(shape):
        raise TrainingError(f"{where}: expected one row of numbers")
    if kind in _NOT_FLOATS:
        raise TrainingError(f"{where}: expected a float type, such as F32, F16 or BF16")
    try:
        data = tensor.data if kind == "F64" else dequantize(tensor.data, tensor.tensor_type)
    except (NotImplementedError, ValueError) as error:
        raise TrainingError(f"{where}: the installed gguf package cannot read this type") from error
    with np.errstate(over="ignore"):  # reported below
        direction = torch.from_numpy(np.array(data, dtype=np.float32).reshape(-1))
    if not bool(direction.isfinite().all()):
        raise TrainingError(f"{where}: contains numbers that are not finite in float32")
    return layer, direction


def _check_directions(path: Path, found: Mapping[int, Tensor], zeros: Sequence[int]) -> None:
    if not found:
        reason = "every direction is zero" if zeros else "contains no tensor `direction.N`"
        raise TrainingError(f"{path}: {reason}")
    sizes = {len(direction): layer for layer, direction in sorted(found.items())}
    if len(sizes) > 1:
        listed = ", ".join(f"{size} at layer {layer}" for size, layer in sizes.items())
        raise TrainingError(f"{path}: its directions differ in length: {listed}")


def _text(reader: GGUFReader, key: str) -> str | None:
    field = reader.get_field(key)
    value = None if field is None else field.contents()
    return value if isinstance(value, str) else None
