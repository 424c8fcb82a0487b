"""Keeps answers and takes feedback without holding up the event loop."""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from probes.decisions.question import Value
from server.feedback.store import FeedbackStore, Judgment, KeptAnswer, UnknownAnswer
from server.metrics import observe

logger = logging.getLogger("vllm.entrostat")

_MAX_PENDING = 10_000
"""Answers that wait for the thread; further ones are lost."""
_PAUSES = (0.05, 0.2, 0.5)
"""Seconds between look-ups: another API server writes its answers a moment later."""


class FeedbackService:
    """The ids of recent answers, in a thread of its own."""

    def __init__(self, folder: Path | None) -> None:
        """Create a service; the file is opened at its first use.

        Args:
            folder: Folder that all API servers of the deployment share; None for one of its own.
        """
        self._own = TemporaryDirectory(prefix="entrostat-") if folder is None else None
        self._path = (folder or Path(self._own.name if self._own else "")) / "feedback.sqlite"
        self._thread = ThreadPoolExecutor(1, "entrostat-feedback")
        self._store: FeedbackStore | None = None
        self._pending: list[KeptAnswer] = []
        self._scheduled = False
        self._complained = False

    def keep(self, answers: Sequence[KeptAnswer]) -> None:
        """Keep answers until somebody says whether they were right. Returns at once."""
        if len(self._pending) + len(answers) > _MAX_PENDING:
            observe.count_lost_answers(len(answers))
            return
        self._pending += answers
        if not self._scheduled:
            self._scheduled = True
            self._thread.submit(self._write)

    async def judge(
        self, answer: tuple[bytes, str, int], right: bool | None, value: Value | None
    ) -> Judgment:
        """Take feedback on an answer, once.

        Args:
            answer: Owner, id and index.
            right: Whether it was right; None if the value is given.
            value: The right value.

        Raises:
            UnknownAnswer: It is not kept for this owner.
            RepeatedFeedback: It has feedback already.
            UnknownValue: The answer could not have had this value.
            sqlite3.Error: The file cannot be used.
        """
        loop = asyncio.get_running_loop()
        for pause in _PAUSES:
            try:
                return await loop.run_in_executor(self._thread, self._judge, answer, right, value)
            except UnknownAnswer:
                await asyncio.sleep(pause)
        return await loop.run_in_executor(self._thread, self._judge, answer, right, value)

    def close(self) -> None:
        """Write what is pending and close the file."""
        self._thread.submit(self._close)
        self._thread.shutdown()
        if self._own is not None:
            self._own.cleanup()

    # -- in the thread -------------------------------------------------------------------------

    def _opened(self) -> FeedbackStore:
        if self._store is None:
            self._store = FeedbackStore(self._path)
        return self._store

    def _write(self) -> None:
        self._scheduled = False
        answers, self._pending = self._pending, []
        try:
            if answers:
                self._opened().keep(answers)
        except (sqlite3.Error, OSError) as error:
            observe.count_lost_answers(len(answers))
            if not self._complained:
                self._complained = True
                logger.warning("entrostat: answers are not kept for feedback: %s", error)

    def _judge(
        self, answer: tuple[bytes, str, int], right: bool | None, value: Value | None
    ) -> Judgment:
        self._write()
        return self._opened().judge(*answer, right, value)

    def _close(self) -> None:
        self._write()
        if self._store is not None:
            self._store.close()
