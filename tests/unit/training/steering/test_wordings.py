import json
from pathlib import Path

import pytest
import torch

from probes.steering import Weighted, east
from training.common.errors import TrainingError
from training.steering.config import SteeringConfig, split_episodes
from training.steering.fit import equal_weights
from training.steering.questions import question_episodes
from training.steering.wordings import SETS, bandit_episodes, built_in_wordings, load_wordings

WORDING: dict[str, object] = {
    "opening": "One of {arms}.",
    "feedback": "It gives {reward}.",
    "question": "Which?",
    "answer_prefix": "I take",
    "arms": ["left", "right"],
}


def written(tmp_path: Path, *records: dict[str, object]) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_the_sets_of_built_in_wordings_share_no_story_no_name_and_no_layout() -> None:
    sets = built_in_wordings()
    for part in ("answer_prefix", "opening", "arms", "layout"):
        seen = [{getattr(wording, part) for wording in sets[name]} for name in SETS]
        assert sum(map(len, seen)) == len(set().union(*seen)), part
    assert len({wording.answer_prefix for wording in sets["train"]}) >= 6
    assert len({wording.answer_prefix for wording in sets["held-out"]}) >= 6


def test_no_prompt_of_a_test_begins_like_one_that_made_or_chose_the_vector() -> None:
    split = split_episodes(SteeringConfig())
    known = {run[0].wording for run in [*split.train, *split.validation]}
    assert known.isdisjoint(run[0].wording for run in split.tests[split.counts])
    assert split.counts == "held-out wordings"
    seen = {step.model_dump_json() for run in split.train for step in run}
    tested = split.tests["training wordings"]
    assert seen.isdisjoint(step.model_dump_json() for run in tested for step in run)


@pytest.mark.parametrize("layout", ["lines", "numbered", "table", "bullets", "paragraph", "chat"])
def test_every_layout_tells_every_pull_in_order(tmp_path: Path, layout: str) -> None:
    record = WORDING | {"layout": layout, "arms": ["left", "right", "up"]}
    path = written(tmp_path, *[record | {"set": name} for name in SETS])
    (wording,) = load_wordings(path)["train"]
    (episode,) = bandit_episodes(wording, 2, runs=1, steps=5, seed=3)
    text = " ".join(message["content"] for message in episode[-1].messages)
    history = text.partition("One of left, right.")[2]
    (plain,) = bandit_episodes(wording.model_copy(update={"layout": "lines"}), 2, 1, 5, 3)
    said = str(plain[-1].prompt).split()
    pulls = [word.strip(".") for word in said if word.strip(".").isdecimal()]
    at = [history.index(f"{pull}") for pull in pulls]
    assert at == sorted(at)
    assert len(pulls) == 5
    assert "up" not in text


def test_wordings_without_sets_are_split_in_order(tmp_path: Path) -> None:
    records = [WORDING | {"question": str(number)} for number in range(4)]
    parts = load_wordings(written(tmp_path, *records))
    assert {name: [one.question for one in part] for name, part in parts.items()} == {
        "train": ["0", "3"],
        "validation": ["1"],
        "held-out": ["2"],
    }


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([WORDING | {"opening": "One."}], r"line 1: wording: .*`opening` has no \{arms\}"),
        ([WORDING | {"layout": "poem"}], "line 1: layout: "),
        ([WORDING | {"arms": ["a", " A"]}], "must differ"),
        ([WORDING, WORDING], "no wording of the set `held-out`"),
        ([WORDING, WORDING | {"set": "train"}], "every wording a `set`, or none"),
    ],
)
def test_what_is_no_wording_is_refused(
    tmp_path: Path, records: list[dict[str, object]], expected: str
) -> None:
    with pytest.raises(TrainingError, match=expected):
        load_wordings(written(tmp_path, *records))


def test_a_log_with_wordings_is_split_by_them(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {
            "episode": f"{wording}-{n}",
            "step": step,
            "prompt": f"{wording} {n}",
            "actions": ["a", "b"],
            "wording": wording,
        }
        for wording in "pqrs"
        for n in range(4)
        for step in range(3)
    ]
    job = SteeringConfig(task=str(written(tmp_path, *lines)), transfer=())
    split = split_episodes(job)
    assert {run[0].wording for run in split.train} == {"p", "s"}
    assert {run[0].wording for run in split.validation} == {"q"}
    assert {run[0].wording for run in split.tests["held-out wordings"]} == {"r"}


def test_a_question_has_its_right_answer_among_different_options() -> None:
    episodes = question_episodes(20, 4, seed=0)
    assert len(episodes) == 20
    for (step,) in episodes:
        assert len({action.casefold() for action in step.actions}) == 4
    assert episodes == question_episodes(20, 4, seed=0)


def test_equal_weights_make_the_mean_of_the_wordings_vectors() -> None:
    states, runs = torch.randn(12, 5), torch.arange(12) // 3
    entropy = torch.rand(12) * torch.tensor([1.0, 10.0]).repeat_interleave(6)
    entropy[4] = float("nan")
    wordings = torch.arange(12) // 6
    found = east(Weighted(states, equal_weights(entropy, wordings), runs))
    parts = [
        east(Weighted(states[wordings == w], entropy[wordings == w], runs[wordings == w]))
        for w in (0, 1)
    ]
    torch.testing.assert_close(found, torch.stack(parts).mean(0))
