"""Imports TRL's trainer, hiding an installed vLLM that TRL does not support.

On import, TRL imports parts of vLLM and warns about unsupported versions. Its vLLM code runs only
with the vLLM backends, which `preparation.refuse_vllm_version` refuses for such versions.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from training.policy.versions import is_supported_by_trl


@contextmanager
def _hidden_unless_supported(name: str) -> Iterator[None]:
    """Hide a package from imports, unless TRL supports its version or it is already imported."""
    if is_supported_by_trl() or name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _hidden_unless_supported("vllm"):
    from trl import GRPOConfig, GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
