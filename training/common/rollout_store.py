"""Rollouts, saved as they arrive, so that an interrupted run can be resumed."""

import fcntl
import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from training.common.errors import TrainingError
from training.common.server_pool import RolloutRecord


class RolloutStore:
    """A JSONL file of rollouts and its contents; use as a context manager.

    One process at a time: the file is locked.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """Open or create the file and read it. A last line cut short by a kill is dropped.

        Args:
            path: The file; its folder must exist.
            fresh: Delete its contents.

        Raises:
            TrainingError: Another process writes to it, or a line is not a rollout.
        """
        self._path = path
        self._file = path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if fresh:
                self._file.truncate(0)
            self.rollouts = self._read()
        except BlockingIOError as error:
            self._file.close()
            raise TrainingError(f"{path}: another run writes to it: wait for its end") from error
        except TrainingError:
            self._file.close()
            raise
        self.num_tokens = sum(len(rollout.finite_entropies) for rollout in self.rollouts.values())
        """Entropies in the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _read(self) -> dict[int, RolloutRecord]:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        rollouts = {}
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                rollout = RolloutRecord.model_validate_json(line)
            except ValidationError as error:
                raise self._damaged(number, error.errors()[0]["msg"]) from error
            if rollout.number < 0 or not rollout.finite_entropies:
                raise self._damaged(number, "no token was measured")
            rollouts[rollout.number] = rollout
        return rollouts

    def _damaged(self, line: int, reason: str) -> TrainingError:
        return TrainingError(
            f"{self._path}: line {line} is not a rollout ({reason}): delete the line or start "
            "with --fresh"
        )

    def append(self, rollout: RolloutRecord) -> None:
        """Write a rollout to the file, then add it to `rollouts`."""
        self._file.write(rollout.model_dump_json().encode() + b"\n")
        self._file.flush()
        self.rollouts[rollout.number] = rollout
        self.num_tokens += len(rollout.finite_entropies)


def first_rollouts(
    rollouts: dict[int, RolloutRecord], num_tokens: int, num_answers: int = 1
) -> list[RolloutRecord]:
    """The shortest sequence of rollouts 0, 1, 2, ... with so many tokens and answers.

    In the order asked, not answered: taking whatever finishes first would favor short answers,
    and this way a run that was killed ends with the same sample as one that was not.

    Raises:
        ValueError: They do not hold so many.
    """
    chosen: list[RolloutRecord] = []
    found = 0
    while found < num_tokens or len(chosen) < num_answers:
        if len(chosen) not in rollouts:
            raise ValueError(f"rollout {len(chosen)} is missing")
        chosen.append(rollouts[len(chosen)])
        found += len(chosen[-1].finite_entropies)
    return chosen


def content_hash(rollouts: Sequence[RolloutRecord]) -> str:
    """The sha256 of the contents of the rollouts."""
    digest = hashlib.sha256()
    for rollout in rollouts:
        digest.update(rollout.model_dump_json().encode() + b"\n")
    return digest.hexdigest()
