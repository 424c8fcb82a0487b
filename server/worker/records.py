"""What travels from the worker to the API server: a record per sampled token, one per probe.

A frame is one byte that says which kind of record, and a packed array of such records and nothing
else. Writing one is a copy and reading one is a view; there is no code in it.
"""

import numpy as np
from numpy.typing import NDArray

TOKEN = np.dtype(
    [
        ("trace", "<u8"),  # which `generate` call, chosen by the API server
        ("choice", "<u4"),  # which of its n completions
        ("index", "<u4"),  # which token of that completion
        ("entropy", "<f4"),  # nats; NaN when the row had no finite entropy
        ("temperature", "<f4"),  # applied; NaN when the control failed
        ("sampled_entropy", "<f4"),  # nats, at the applied temperature
        ("logprob", "<f4"),  # of the sampled token at T = 1, nats; NaN when it was forced
        ("varentropy", "<f4"),  # nats^2, at T = 1
        ("self_certainty", "<f4"),  # nats, at T = 1; NaN unless a request of the step asked
        ("collision", "<f4"),  # sum p^2 at T = 1; the same
    ]
)
"""One sampled token."""

DECISION = np.dtype(
    [
        ("trace", "<u8"),
        ("choice", "<u4"),
        ("difficulty", "<u4"),  # a value of `Difficulty`
        ("easy", "<f4"),  # probability; NaN when the hidden state was not finite
        ("normal", "<f4"),
        ("hard", "<f4"),
        ("easy_accuracy", "<f4"),  # expected; NaN without a router
        ("normal_accuracy", "<f4"),
        ("hard_accuracy", "<f4"),
        ("easy_tokens", "<f4"),  # expected, over the mean length under normal
        ("normal_tokens", "<f4"),
        ("hard_tokens", "<f4"),
        ("distance", "<f4"),  # of the hidden state to those of training; NaN if not finite
    ]
)
"""The decision of a difficulty probe on the prompt of one completion."""

STATE = np.dtype(
    [
        ("trace", "<u8"),
        ("choice", "<u4"),
        ("score", "<f4"),  # what the state adds to the sum of a confidence probe; NaN if not finite
        ("distance", "<f4"),  # Mahalanobis distance to its training questions; the same
    ]
)
"""What a confidence probe read at the end of the prompt of one completion."""

Records = NDArray[np.void]
_KINDS = {b"t": TOKEN, b"d": DECISION, b"s": STATE}
_TAGS = {dtype: tag for tag, dtype in _KINDS.items()}


def write_frame(records: Records) -> bytes:
    """The frame that carries an array of `TOKEN`, `DECISION` or `STATE`."""
    return _TAGS[records.dtype] + records.tobytes()


def read_frame(frame: bytes) -> Records:
    """View a frame as an array of `TOKEN`, `DECISION` or `STATE`.

    Raises:
        ValueError: It is of no known kind, or not a whole number of records.
    """
    if frame[:1] not in _KINDS:
        raise ValueError("the frame is of no known kind")
    return np.frombuffer(frame, dtype=_KINDS[frame[:1]], offset=1)
