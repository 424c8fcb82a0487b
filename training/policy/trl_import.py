"""TRL's trainer; a vLLM that this TRL does not support is hidden from it.

TRL imports parts of vLLM when it is imported, and warns of a version outside its range. Its vLLM
code runs only with the vLLM backends, which `preparation.refuse_vllm_version` refuses with such a
version.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from training.policy.versions import is_supported_by_trl


@contextmanager
def _hidden_unless_supported(name: str) -> Iterator[None]:
    """Make a package look absent, unless TRL supports its version or it is imported already."""
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
