import pytest

from probes.inquiry.label_tokens import branches, label_sequences, sequence_logprobs

DOT = 0


def test_labels_that_begin_differently_are_told_apart_by_one_token() -> None:
    sequences = label_sequences([[5, DOT], [6, 7, DOT]])
    assert sequences == [(5,), (6,)]
    assert branches(sequences) == {(): [5, 6]}
    assert sequence_logprobs(sequences, {(): [-1.0, -2.0]}) == [-1.0, -2.0]


def test_labels_that_begin_alike_are_read_to_their_ends() -> None:
    sequences = label_sequences([[5, DOT], [5, 6, DOT], [7, DOT]])  # cat, catfish, dog
    assert branches(sequences) == {(): [5, 7], (5,): [DOT, 6], (5, 6): [DOT], (7,): [DOT]}
    read = {(): [-1.0, -2.0], (5,): [-0.5, -4.0], (5, 6): [-0.25], (7,): [-0.125]}
    assert sequence_logprobs(sequences, read) == [-1.5, -5.25, -2.125]


def test_labels_with_the_same_tokens_are_an_error() -> None:
    with pytest.raises(ValueError, match="two labels have the same tokens"):
        label_sequences([[5, DOT], [5, DOT]])
