import json
from pathlib import Path

import pytest

from training.common.errors import TrainingError
from training.common.rollout_store import RolloutStore, content_hash, first_rollouts
from training.common.server_pool import RolloutRecord


def rollout(number: int, *entropies: float | None) -> RolloutRecord:
    return RolloutRecord(
        number=number,
        messages=[{"role": "user", "content": "a\u2028b"}],
        seed=number,
        text="é\n",
        finish_reason="stop",
        entropies=list(entropies),
        temperatures=[1.0] * len(entropies),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "traces.jsonl"
    with RolloutStore(path) as traces:
        traces.append(rollout(0, 1.0, None, 0.5))
        traces.append(rollout(2, 2.0))
    return path


def test_what_is_written_is_read_back(path: Path) -> None:
    with RolloutStore(path) as traces:
        assert traces.rollouts == {0: rollout(0, 1.0, None, 0.5), 2: rollout(2, 2.0)}
        assert traces.num_tokens == 3


def test_a_rollout_is_on_disk_before_append_returns(path: Path) -> None:
    with RolloutStore(path) as traces:
        traces.append(rollout(1, 3.0))
        assert path.read_text().count("\n") == 3


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_cut_short_is_dropped_and_written_over(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with RolloutStore(path) as traces:
        assert list(traces.rollouts) == [0]
        traces.append(rollout(3, 4.0))
    with RolloutStore(path) as traces:
        assert list(traces.rollouts) == [0, 3]


def test_a_broken_line_in_the_middle_is_named(path: Path) -> None:
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b"{}\n" + second)
    with pytest.raises(TrainingError, match="line 2 is not a rollout"):
        RolloutStore(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"entropies": []}, "no token was measured"),
        ({"entropies": [None]}, "no token was measured"),
        ({"entropies": [float("nan")]}, "finite number"),
        ({"entropies": ["x"]}, "valid number"),
        ({"text": None}, "valid string"),
    ],
)
def test_a_damaged_rollout_is_told_in_one_sentence(
    path: Path, change: dict[str, object], reason: str
) -> None:
    first = json.loads(path.read_bytes().splitlines()[0])
    path.write_text(json.dumps(first | change) + "\n")
    with pytest.raises(TrainingError, match=f"line 1 is not a rollout .*{reason}.*--fresh"):
        RolloutStore(path)


def test_two_runs_do_not_write_to_one_file(path: Path) -> None:
    with RolloutStore(path), pytest.raises(TrainingError, match="another run writes to it"):
        RolloutStore(path)


def test_a_fresh_start_forgets(path: Path) -> None:
    with RolloutStore(path, fresh=True) as traces:
        assert traces.rollouts == {}
    assert path.read_text() == ""


def test_the_sample_is_the_shortest_run_from_the_first_rollout_on() -> None:
    rollouts = {n: rollout(n, *([1.0] * 10)) for n in (3, 1, 0, 2)}
    assert [r.number for r in first_rollouts(rollouts, 11)] == [0, 1]
    assert [r.number for r in first_rollouts(rollouts, 20)] == [0, 1]
    with pytest.raises(ValueError, match="rollout 4 is missing"):
        first_rollouts(rollouts, 41)


def test_the_hash_follows_the_content() -> None:
    one, two = rollout(0, 1.0), rollout(1, 1.0)
    assert content_hash([one, two]) == content_hash([one, two])
    assert content_hash([one, two]) != content_hash([one])
    assert content_hash([one, two]) != content_hash([one, rollout(1, 1.5)])
