"""Imports TRL's trainer, hiding an installed vLLM that TRL does not support.

On import, TRL imports parts of vLLM and warns about unsupported versions. Its vLLM code runs only
with the vLLM backends, which `preparation.refuse_vllm_version` refuses for such versions. TRL also
sets VLLM_LOGGING_LEVEL, which would silence every server that this process starts later.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from training.policy.versions import is_supported_by_trl


@contextmanager
def _hide_unless_supported(name: str) -> Iterator[None]:
    """Hide a package from imports, also when it is already imported, unless TRL supports it."""
    if is_supported_by_trl():
        yield
        return
    imported = sys.modules.pop(name, None)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if imported is not None:
            sys.modules[name] = imported


@contextmanager
def _restore_environment(name: str) -> Iterator[None]:
    """Undo changes of one environment variable."""
    value = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


with _hide_unless_supported("vllm"), _restore_environment("VLLM_LOGGING_LEVEL"):
    from trl import GRPOConfig, GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
