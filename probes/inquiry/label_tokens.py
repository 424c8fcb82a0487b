"""Label probabilities from next tokens: one reading where labels begin differently, else a tree.

A label is a sequence of tokens. Its log-probability is the sum of theirs, and every beginning that
some labels share is one more place where the next token has to be read.
"""

from collections.abc import Mapping, Sequence

Tokens = tuple[int, ...]


def label_sequences(ended: Sequence[Sequence[int]]) -> list[Tokens]:
    """What has to be read of each label: its first token where all differ, else everything.

    Args:
        ended: Tokens of ` NAME.`, for each label: the end tells "cat" from "catfish".

    Raises:
        ValueError: Two labels have the same tokens.

    Source: C-IP (arXiv 2507.03279) reads first tokens, and its code demands that they differ.
    """
    if len({tokens[0] for tokens in ended}) == len(ended):
        return [(tokens[0],) for tokens in ended]
    if len(set(map(tuple, ended))) < len(ended):
        raise ValueError("two labels have the same tokens")
    return list(map(tuple, ended))


def branches(sequences: Sequence[Tokens]) -> dict[Tokens, list[int]]:
    """Where the next token is read, and which ones may come there; the empty beginning first."""
    found: dict[Tokens, dict[int, None]] = {(): {}}
    for sequence in sequences:
        for place, token in enumerate(sequence):
            found.setdefault(sequence[:place], {})[token] = None
    return {beginning: list(tokens) for beginning, tokens in found.items()}


def sequence_logprobs(
    sequences: Sequence[Tokens], read: Mapping[Tokens, Sequence[float]]
) -> list[float]:
    """Log-probability of each label, nats.

    Args:
        sequences: From `label_sequences`.
        read: Log-probabilities at each beginning, in the order of `branches`.
    """
    places = {
        (beginning, token): place
        for beginning, tokens in branches(sequences).items()
        for place, token in enumerate(tokens)
    }
    return [
        sum(read[sequence[:at]][places[sequence[:at], token]] for at, token in enumerate(sequence))
        for sequence in sequences
    ]
