"""The live view of a run, and the log file of its steps."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback

from training.common.duration import format_duration

STEPS_FILE = "steps.jsonl"
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = {
    "reward": "reward",
    "step_entropy": "entropy, nats",
    "covariance": "covariance",
    "clip_ratio/region_mean": "clipped",
    "grad_norm": "gradient norm",
    "completions/mean_length": "tokens",
    "sampling/behavior_ratio": "mean ratio",
    "sampling/temperature": "temperature",
    "controller/output": "controller",
    "step_time": "seconds",
}


def sparkline(values: list[float], width: int = 40) -> str:
    """The last `width` values as bars; non-finite values are skipped."""
    shown = [value for value in values[-width:] if math.isfinite(value)]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((value - low) * scale)] for value in shown)


class StepLog:
    """Log file with the measurements of every optimizer step."""

    def __init__(self, path: Path) -> None:
        """Read the existing rows; `keep` truncates them to a checkpoint."""
        self._path = path
        self.rows = read_steps(path)

    def drop_after(self, num_steps: int) -> None:
        """Drop steps after a checkpoint; a resumed run repeats them."""
        self.rows = [row for row in self.rows if row["step"] <= num_steps]
        staging = self._path.with_suffix(".tmp")
        staging.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        staging.replace(self._path)

    def append(self, step: int, logs: Mapping[str, Any]) -> None:
        """Add a step."""
        numbers = {k: v for k, v in logs.items() if isinstance(v, int | float)}
        row = {"step": step, **numbers}
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_steps(path: Path) -> list[dict[str, float]]:
    """Read the complete lines of a step log; a line truncated by a kill is skipped."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class LiveView(TrainerCallback):
    """Reward, entropy, covariance and clipping; a line per step without a terminal."""

    def __init__(self, log: StepLog, total: int, console: Console) -> None:
        """Prepare the view; it is shown when training begins."""
        self._log, self._total, self._console = log, total, console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._processor = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the view."""
        self._processor = time.process_time()
        if self._console.is_terminal:
            self._live.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Show and store a step."""
        if not state.is_world_process_zero or not logs or "grad_norm" not in logs:
            return
        # Wall-clock time depends on other processes of the machine; CPU time does not.
        spent, self._processor = time.process_time() - self._processor, time.process_time()
        self._log.append(state.global_step, {**logs, "processor_time": spent})
        if self._console.is_terminal:
            self._live.update(self._view(), refresh=True)
        else:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the view."""
        self._live.stop()

    def _view(self) -> RenderableType:
        rows = self._log.rows
        table = Table("", "now", "so far", title=f"step {rows[-1]['step']} of {self._total}")
        for key, name in self._columns():
            values = [row[key] for row in rows if key in row]
            table.add_row(name, f"{values[-1]:.4g}", sparkline(values))
        left = f"{self._time_left()}; " if self._time_left() else ""
        return Group(table, Text(f"{left}stop with Ctrl-C, re-run to resume", style="dim"))

    def _time_left(self) -> str:
        """Estimated time until the last step; empty before the first step."""
        spent = [row["step_time"] for row in self._log.rows if "step_time" in row]
        steps = self._total - int(self._log.rows[-1]["step"])
        return (
            f"about {format_duration(steps * sum(spent) / len(spent))} left"
            if spent and steps
            else ""
        )

    def _line(self) -> str:
        row = self._log.rows[-1]
        parts = [f"{name} {row[key]:.3g}" for key, name in self._columns()]
        parts += [left] if (left := self._time_left()) else []
        return f"step {row['step']}/{self._total}: " + ", ".join(parts)

    def _columns(self) -> list[tuple[str, str]]:
        row = self._log.rows[-1]
        objectives = sorted(key for key in row if key.startswith("objective/"))
        named = [(key, name) for key, name in _SHOWN.items() if key in row]
        return named + [(key, key.removeprefix("objective/")) for key in objectives]
