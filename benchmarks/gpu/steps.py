"""Checks of what a decoding step costs under a control beside another, in one process."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.gpu.checks import MAX_STEP_BATCH, Child, Setting, Verdict, engines, spread

TRUNCATIONS = ("mirostat", "top_n_sigma", "p_less")
TRUNCATION_BATCH = 16
REPORT_BATCHES = (1, 16, MAX_STEP_BATCH)
TARGET = 0.97
"""Least throughput under a control over that under the one that it is compared with."""
_TOKENS = 12


def truncations(setting: Setting) -> list[Verdict]:
    """The step under the law `hapo` over that under each truncation."""
    with engines(setting, "ours", compiled_laws=True) as only:
        names = ("hapo", *TRUNCATIONS)
        steps = _steps(setting, only["ours"], names, TRUNCATION_BATCH)
    return [
        _verdict(f"truncation, batch {TRUNCATION_BATCH}, {name}", "`hapo`", steps["hapo"] / found)
        for name, found in steps.items()
        if name != "hapo"
    ]


def reports(setting: Setting) -> list[Verdict]:
    """The step without a control over that with a report, and with one that has `confidence`.

    The records are packed and sent to an API server that does not exist.
    """
    verdicts = []
    with engines(setting, "ours", compiled_laws=True) as only:
        only["ours"].ask("publish")
        for batch in REPORT_BATCHES:
            steps = _steps(setting, only["ours"], ("none", "summary", "confidence"), batch)
            plain, summary, confidence = steps.values()
            verdicts += [
                _verdict(f"report, batch {batch}, summary", "no control", plain / summary),
                _verdict(f"report, batch {batch}, confidence", "`summary`", summary / confidence),
            ]
    return verdicts


def _steps(
    setting: Setting, engine: Child, names: Sequence[str], batch: int
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Seconds of a step of `batch` requests under each control, in turns, shape (rounds,)."""
    found: dict[str, list[float]] = {name: [] for name in names}
    asked = {"batch": batch, "tokens": _TOKENS, "wall": setting.wall}
    for lap in range(setting.step_rounds + 1):
        for name in names if lap % 2 else names[::-1]:
            seconds = engine.ask("decoding_step", control=name, **asked)
            if lap:  # the first one fills caches
                found[name].append(seconds)
    return {name: np.array(seconds) for name, seconds in found.items()}


def _verdict(check: str, other: str, ratios: Any) -> Verdict:
    middle = float(np.median(ratios))
    figures = (
        f"{spread(ratios)} of the tokens/s under {other} (95 % interval of the median over "
        f"{len(ratios)} rounds; >= {TARGET})"
    )
    return Verdict(check, middle >= TARGET, figures)
