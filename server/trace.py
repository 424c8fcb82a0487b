"""What travels from the worker to the API server: one record per sampled token.

A frame is a packed array of records and nothing else, so writing one is a copy and reading one is
a view; there is no code in it.
"""

import numpy as np
from numpy.typing import NDArray

RECORD = np.dtype(
    [
        ("trace", "<u8"),  # which `generate` call, chosen by the API server
        ("choice", "<u4"),  # which of its n completions
        ("index", "<u4"),  # which token of that completion
        ("entropy", "<f4"),  # nats; NaN when the row had no finite entropy
        ("temperature", "<f4"),  # applied; NaN when the control failed
    ]
)
"""One sampled token."""

Records = NDArray[np.void]


def read_frame(frame: bytes) -> Records:
    """View a frame as an array of `RECORD`.

    Raises:
        ValueError: The frame is not a whole number of records.
    """
    return np.frombuffer(frame, dtype=RECORD)
