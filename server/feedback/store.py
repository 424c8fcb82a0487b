"""Ids of recent answers, shared by the API servers of a deployment in one SQLite file.

Feedback may reach another API server than the one that answered. An id is kept as a digest with
the API key of its request, so that a client can name only answers to its own key. Each key has a
limit of its own, so that no client can push out the answers of others.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from server.feedback.evidence import NO_EVIDENCE, total, updated
from server.feedback.facts import AnswerFacts, PredictionSet, digest

MAX_ROWS = 100_000
"""Answers that are kept for each API key."""
MAX_BYTES = 64 << 20
"""Bytes that they take; the oldest go first."""
_ROW = 100
"""Bytes of a row beside its facts, about."""
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, owner BLOB NOT NULL, key BLOB NOT NULL UNIQUE,
    facts BLOB NOT NULL, used INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS by_owner ON answers (owner, number);
CREATE TABLE IF NOT EXISTS sizes (
    owner BLOB PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evidence (
    kind TEXT NOT NULL, artifact TEXT NOT NULL, bets TEXT NOT NULL, PRIMARY KEY (kind, artifact)
) WITHOUT ROWID;
"""


class UnknownAnswer(Exception):
    """No answer with this id is kept for this key."""


class RepeatedFeedback(Exception):
    """The answer has feedback already."""


class UnknownValue(Exception):
    """The right value is none that the answer could have had."""


class KeptAnswer(NamedTuple):
    """An answer to keep."""

    owner: bytes
    """From `owner_of`."""
    id: str
    """Of the response."""
    position: int
    """Of the choice or the question."""
    facts: AnswerFacts


class Judgment(NamedTuple):
    """What feedback says about an answer."""

    facts: AnswerFacts
    right: bool
    covered: bool | None
    """Whether the calibrated set had the right value; None if that is not known."""
    evidence: float | None
    """Evidence against the level of these sets, over all API servers; None where `covered` is."""


def owner_of(api_key: str | None) -> bytes:
    """Digest of the API key of a request; the same for all requests without one."""
    return hashlib.sha256(f"key:{api_key}".encode()).digest()[:16] if api_key else b""


class FeedbackStore:
    """The file. Use it from one thread."""

    def __init__(self, path: Path, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        """Open or create the file.

        Args:
            path: The file.
            max_rows: Answers for each API key.
            max_bytes: Bytes for each API key.
        """
        self._limits = max_rows, max_bytes
        self._file = sqlite3.connect(path, timeout=5.0, isolation_level=None)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = OFF")  # after a crash, feedback starts anew
        self._file.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def keep(self, answers: list[KeptAnswer]) -> None:
        """Keep answers; one with a known id replaces it."""
        with self._transaction():
            for one in answers:
                self._insert(one)
            for owner in {one.owner for one in answers}:
                self._make_room(owner)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of the block or nothing of it."""
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._file.execute("COMMIT")
        except BaseException:
            if self._file.in_transaction:
                self._file.execute("ROLLBACK")
            raise

    def _insert(self, one: KeptAnswer) -> None:
        key, facts = _key(one.owner, one.id, one.position), one.facts.to_bytes()
        for number, size in self._file.execute(
            "SELECT number, length(facts) FROM answers WHERE key = ?", (key,)
        ).fetchall():
            self._delete(one.owner, number, size)
        self._file.execute(
            "INSERT INTO answers (owner, key, facts) VALUES (?, ?, ?)", (one.owner, key, facts)
        )
        self._file.execute(
            "INSERT INTO sizes VALUES (?, 1, ?) ON CONFLICT (owner) DO UPDATE SET "
            "rows = rows + 1, bytes = bytes + excluded.bytes",
            (one.owner, len(facts) + _ROW),
        )

    def _delete(self, owner: bytes, number: int, size: int) -> None:
        self._file.execute("DELETE FROM answers WHERE number = ?", (number,))
        self._file.execute(
            "UPDATE sizes SET rows = rows - 1, bytes = bytes - ? WHERE owner = ?",
            (size + _ROW, owner),
        )

    def _make_room(self, owner: bytes) -> None:
        rows, size = self.size(owner)
        oldest = self._file.execute(
            "SELECT number, length(facts) FROM answers WHERE owner = ? ORDER BY number", (owner,)
        )
        while rows > self._limits[0] or size > self._limits[1]:
            number, length = oldest.fetchone()
            self._delete(owner, number, length)
            rows, size = rows - 1, size - length - _ROW

    def size(self, owner: bytes) -> tuple[int, int]:
        """Number of answers of a key, and their bytes."""
        found = self._file.execute("SELECT rows, bytes FROM sizes WHERE owner = ?", (owner,))
        rows, size = found.fetchone() or (0, 0)
        return rows, size

    def judge(
        self, owner: bytes, id: str, index: int, right: bool | None, value: str | bool | int | None
    ) -> Judgment:
        """Take feedback on an answer, once.

        Args:
            owner: From `owner_of`.
            id: Id of the response.
            index: Of the choice or the question.
            right: Whether the answer was right; None if the value is given.
            value: The right value.

        Raises:
            UnknownAnswer: It is not kept for this key.
            RepeatedFeedback: It has feedback already.
            UnknownValue: The answer could not have had this value.
        """
        key = _key(owner, id, index)
        row = self._file.execute("SELECT number, facts FROM answers WHERE key = ?", (key,))
        if (found := row.fetchone()) is None:
            raise UnknownAnswer
        number, content = found
        facts = AnswerFacts.from_bytes(content)
        right, covered = _judged(facts, right, value)
        evidence = None
        with self._transaction():
            changed = self._file.execute(
                "UPDATE answers SET used = 1 WHERE number = ? AND used = 0", (number,)
            )
            if not changed.rowcount:
                raise RepeatedFeedback
            if covered is not None and facts.prediction is not None:
                evidence = self._update_evidence(facts, facts.prediction, covered)
        return Judgment(facts, right, covered, evidence)

    def _update_evidence(
        self, facts: AnswerFacts, prediction: PredictionSet, covered: bool
    ) -> float:
        assert prediction.level is not None
        name = (facts.kind, prediction.artifact)
        row = self._file.execute(
            "SELECT bets FROM evidence WHERE kind = ? AND artifact = ?", name
        ).fetchone()
        bets = updated(json.loads(row[0]) if row else NO_EVIDENCE, prediction.level, covered)
        self._file.execute("REPLACE INTO evidence VALUES (?, ?, ?)", (*name, json.dumps(bets)))
        return total(bets)


def _judged(
    facts: AnswerFacts, right: bool | None, value: str | bool | int | None
) -> tuple[bool, bool | None]:
    if right is not None:
        return right, None
    assert value is not None
    prediction = facts.prediction
    wanted = digest(value)
    if prediction is None or wanted not in prediction.values:
        raise UnknownValue
    place = prediction.values.index(wanted)
    calibrated = prediction.level is not None
    return place == prediction.best, place in prediction.members if calibrated else None


def _key(owner: bytes, id: str, index: int) -> bytes:
    named = f"{index}:{id}".encode(errors="surrogatepass")
    return hashlib.sha256(len(owner).to_bytes(1, "big") + owner + named).digest()[:16]
