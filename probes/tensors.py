"""The check of tensors that come from a file: names, dtypes, shapes, finite values."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes that an artifact may hold; torch cannot compute with all others."""


def check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors other than the expected ones.

    Args:
        tensors: By name.
        shapes: Expected shapes by name.

    Raises:
        ValueError: A tensor is missing or unexpected, has another shape, is not a float of 16 to 64
            bits, or is not finite in float32; names it.
    """
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"the tensor `{name}` is missing")
        found = tensors[name]
        if found.shape != shape:
            actual = tuple(found.shape)
            raise ValueError(f"the tensor `{name}` has shape {actual} instead of {shape}")
        check_floats(name, found)
    if unexpected := sorted(set(tensors) - set(shapes)):
        raise ValueError(f"the tensor `{unexpected[0][:100]}` is not expected")


def check_floats(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not a float of 16 to 64 bits, or not finite.

    Raises:
        ValueError: Names the tensor.
    """
    if tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"the tensor `{name}` has dtype {kind}, not float of 16 to 64 bits")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"the tensor `{name}` holds no finite numbers")


def check_single_precision(
    name: str, tensor: Float[Tensor, "..."], *, positive: bool = False
) -> None:
    """Refuse values that float32, in which a server computes, cannot hold.

    Args:
        name: Of the tensor.
        tensor: Of any floating dtype.
        positive: Whether every value must also be larger than 0.

    Raises:
        ValueError: Names the tensor.
    """
    single = tensor.float()
    if not bool(single.isfinite().all()):
        raise ValueError(f"the tensor `{name}` holds numbers that float32 cannot hold")
    if positive and not bool((single > 0).all()):
        raise ValueError(f"the tensor `{name}` must be larger than 0")
