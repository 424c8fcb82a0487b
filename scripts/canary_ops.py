"""Pytest plugin of the canary: plain versions of vLLM's compiled CPU operators, which it lacks."""

from typing import Any

import torch
from torch import Tensor

_library: Any = torch.library
_LIBRARY = _library.Library("_C", "FRAGMENT")


def _greedy_argmax(logits: Tensor) -> Tensor:
    return logits.argmax(dim=-1).view(-1)


def _fused_gumbel_argmax(logits: Tensor, seeds: Tensor) -> Tensor:
    noise = torch.empty_like(logits)
    for row, seed in zip(noise, seeds.tolist(), strict=True):
        row.exponential_(generator=torch.Generator().manual_seed(seed))
    return (logits - noise.log()).argmax(dim=-1)


for _schema, _function in (
    ("greedy_argmax(Tensor logits) -> Tensor", _greedy_argmax),
    ("fused_gumbel_argmax(Tensor logits, Tensor seeds) -> Tensor", _fused_gumbel_argmax),
):
    if not hasattr(torch.ops._C, _schema.partition("(")[0]):
        _LIBRARY.define(_schema)
        _LIBRARY.impl(_schema.partition("(")[0], _function, "CompositeExplicitAutograd")
