"""Label probabilities from next tokens: one read if first tokens differ, else a prefix tree.

A label is a sequence of tokens; its log-probability is the sum of theirs. Every prefix that labels
share is one more position at which the next-token distribution is read.
"""

from collections.abc import Mapping, Sequence

Tokens = tuple[int, ...]


def label_sequences(ended: Sequence[Sequence[int]]) -> list[Tokens]:
    """Tokens to read for each label: the first one if all differ, else the whole sequence.

    Args:
        ended: Tokens of ` NAME.` for each label; the period separates "cat" from "catfish".

    Raises:
        ValueError: Two labels have the same tokens.

    Source: C-IP (arXiv 2507.03279) reads first tokens, and its code requires that they differ.
    """
    if len({tokens[0] for tokens in ended}) == len(ended):
        return [(tokens[0],) for tokens in ended]
    if len(set(map(tuple, ended))) < len(ended):
        raise ValueError("two labels have the same tokens")
    return list(map(tuple, ended))


def branches(sequences: Sequence[Tokens]) -> dict[Tokens, list[int]]:
    """Prefixes at which the next token is read, with its candidates; the empty prefix first."""
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
        read: Log-probabilities at each prefix, in the order of `branches`.
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
