import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.inquiry.likelihood import NO, UNKNOWN, YES
from probes.inquiry.prompts import MEANINGS, NEUTRAL_REPLIES
from server.errors import BadControl
from server.inquiry.conversation import Exchange
from server.inquiry.engine_reads import ReadError
from server.inquiry.turn import inquire, most_probable_meaning
from server.planning.inquiry import InquiryPlan
from server.planning.plan import ControlSources, make_plan
from server.planning.refusals import RequestParams
from server.wire.report import InquiryReport
from server.wire.request import Control
from tests.unit.server.support import artifacts, save_inquiry

BARK, SWIM, NICE = "Does it bark?", "Can it swim?", "Is it nice?"


class FakeReads:
    """Interprets `ja` and `nein`; counts its reads."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.forwards = self.prompt_tokens = 0
        self.prompts: list[str] = []
        self.labels = {" cat.": [5], " dog.": [6], " fish.": [7]}

    async def tokens(self, texts: Sequence[str], *, start: bool = True) -> list[list[int]]:
        return [self.letters(text) if start else self.after(text) for text in texts]

    @staticmethod
    def letters(text: str) -> list[int]:
        return [ord(letter) for letter in text]

    def after(self, text: str) -> list[int]:
        if text in self.labels:
            return self.labels[text]
        return [list(MEANINGS.values()).index(text)]

    async def logprobs(self, prompts: list[list[int]], choices: list[int]) -> list[list[float]]:
        if self.broken:
            raise ReadError("too long")
        self.forwards += len(prompts)
        texts = ["".join(map(chr, prompt)) for prompt in prompts]
        self.prompts += texts
        if choices[0] in (5, 6, 7):
            found = ([-2.0, -1.0, 0.0] if "yes\n" in one else [0.0, -1.0, -2.0] for one in texts)
            return [row[: len(choices)] for row in found]
        replies = [prompt.rsplit("Reply: ", 1)[1] for prompt in texts]
        rows = {"ja": [0.0, -9.0, -9.0], "nein": [-9.0, 0.0, -9.0]}
        return [rows.get(one.split("\n")[0], [-1.0, -1.1, -1.2]) for one in replies]


def plan(root: Path, *, direct: bool = False, **inquiry: Any) -> InquiryPlan:
    save_inquiry(root, direct=direct)
    inquiry.setdefault("predictor", "likelihood")
    control = Control.model_validate({"inquiry": {"task": "m/pets", **inquiry}})
    made = make_plan(ControlSources(control, None, None), {}, artifacts(root), RequestParams())
    assert made is not None
    assert made.inquiry is not None
    return made.inquiry


async def turn(
    wanted: InquiryPlan, *replies: tuple[str, str], reads: Any = None
) -> tuple[str, InquiryReport, str | None]:
    exchanges = [Exchange(*one) for one in replies]
    fake: Any = FakeReads() if reads is None else reads
    return await inquire(wanted, exchanges, fake)


async def test_the_first_turn_asks_the_question_that_splits_the_labels(tmp_path: Path) -> None:
    text, report, fallback = await turn(plan(tmp_path))
    assert report.action == "ask"
    assert text == report.query
    assert text in (BARK, SWIM)
    assert (report.turn, report.forwards, fallback) == (1, 0, None)
    assert sorted(report.prediction_set) == ["cat", "dog", "fish"]
    assert report.expected_size is not None
    assert report.runner_up_size is not None
    assert report.expected_size <= report.runner_up_size


async def test_a_game_ends_with_the_label_that_matches_the_answers(tmp_path: Path) -> None:
    text, report, _ = await turn(plan(tmp_path), (BARK, "yes"), (SWIM, "yes"))
    assert text == "I think it is: dog."
    assert (report.action, report.label, report.reason) == ("answer", "dog", "singleton")
    assert report.prediction_set == ["dog"]
    assert report.query is None


async def test_free_text_replies_are_interpreted_by_the_model(tmp_path: Path) -> None:
    reads = FakeReads()
    _, report, _ = await turn(plan(tmp_path), (BARK, "nein"), (SWIM, "ja"), reads=reads)
    assert [one.answer for one in report.heard] == ["no", "yes"]
    assert reads.forwards == 2 * (1 + len(NEUTRAL_REPLIES))
    assert report.label == "fish"


async def test_replies_in_the_wording_of_the_task_need_no_forward_pass(tmp_path: Path) -> None:
    reads = FakeReads()
    await turn(plan(tmp_path), (BARK, "No."), reads=reads)
    assert reads.forwards == 0


async def test_an_unknown_reply_carries_no_information_and_its_question_is_not_repeated(
    tmp_path: Path,
) -> None:
    before = (await turn(plan(tmp_path)))[1]
    text, report, _ = await turn(plan(tmp_path), (BARK, "¯\\_(ツ)_/¯"), (SWIM, "..."))
    assert [one.answer for one in report.heard] == ["unknown", "unknown"]
    assert report.probabilities == before.probabilities
    assert text not in (BARK, SWIM)
    assert report.turn in (2, 3)


async def test_the_later_of_two_contradicting_answers_counts(tmp_path: Path) -> None:
    _, report, _ = await turn(plan(tmp_path), (BARK, "yes"), (BARK, "no"), (SWIM, "no"))
    assert report.label == "cat"


async def test_the_budget_ends_the_game(tmp_path: Path) -> None:
    _, report, _ = await turn(plan(tmp_path, max_turns=1), (NICE, "yes"))
    assert (report.action, report.reason, report.turn) == ("answer", "budget", 1)


async def test_a_game_ends_when_no_questions_are_left(tmp_path: Path) -> None:
    asked = [(one, "hm") for one in (BARK, SWIM, NICE)]
    _, report, _ = await turn(plan(tmp_path), *asked)
    assert (report.action, report.reason) == ("answer", "exhausted")


async def test_replies_are_unknown_with_a_fallback_if_the_engine_fails(
    tmp_path: Path,
) -> None:
    wanted, reads = plan(tmp_path), FakeReads(broken=True)
    _, report, fallback = await turn(wanted, (BARK, "ja"), (SWIM, "no"), reads=reads)
    assert fallback == "reply_unread"
    assert [one.answer for one in report.heard] == ["unknown", "no"]


async def test_direct_reads_every_candidate_and_answer_in_one_batch(tmp_path: Path) -> None:
    reads = FakeReads()
    wanted = plan(tmp_path, direct=True, predictor="direct")
    _, report, fallback = await turn(wanted, (BARK, "no"), reads=reads)
    assert (report.predictor, fallback) == ("direct", None)
    assert reads.forwards == 1 + 2 * 2
    assert max(report.probabilities, key=lambda name: report.probabilities[name]) == "cat"


async def test_direct_evaluates_at_most_max_candidates(tmp_path: Path) -> None:
    reads = FakeReads()
    wanted = plan(tmp_path, direct=True, predictor="direct", max_candidates=1)
    await turn(wanted, reads=reads)
    assert reads.forwards == 1 + 2
    assert not any(NICE in prompt for prompt in reads.prompts)  # all labels have the same answer


async def test_direct_falls_back_to_likelihood_if_the_engine_fails(tmp_path: Path) -> None:
    wanted = plan(tmp_path, direct=True, predictor="direct")
    _, report, fallback = await turn(wanted, reads=FakeReads(broken=True))
    assert (report.predictor, fallback) == ("likelihood", "direct_unavailable")
    assert report.query in (BARK, SWIM)


async def test_labels_with_a_common_prefix_are_distinguished_by_more_tokens(tmp_path: Path) -> None:
    reads = FakeReads()
    reads.labels = {" cat.": [5, 6], " dog.": [5, 7], " fish.": [6, 7]}
    wanted = plan(tmp_path, direct=True, predictor="direct", max_candidates=1)
    _, report, fallback = await turn(wanted, reads=reads)
    assert fallback is None
    assert reads.forwards == 3 * (1 + 2)  # after no token, after 5 and after 6
    odds = [report.probabilities[name] for name in ("cat", "dog", "fish")]
    assert odds[1] / odds[0] == pytest.approx(2.718281828**-1)
    assert odds[2] / odds[0] == pytest.approx(2.718281828**-1)


async def test_indistinguishable_labels_fall_back_to_likelihood(tmp_path: Path) -> None:
    reads = FakeReads()
    reads.labels = {" cat.": [5], " dog.": [5], " fish.": [6]}
    wanted = plan(tmp_path, direct=True, predictor="direct")
    assert (await turn(wanted, reads=reads))[2] == "direct_unavailable"


async def test_a_history_longer_than_calibrated_is_reported(tmp_path: Path) -> None:
    long = [(BARK, "yes"), (SWIM, "yes"), (NICE, "yes")]
    assert (await turn(plan(tmp_path), *long[:2]))[1].calibrated
    assert not (await turn(plan(tmp_path), *long))[1].calibrated


def test_a_task_with_too_many_labels_is_refused(tmp_path: Path) -> None:
    manifest = save_inquiry(tmp_path) / "manifest.json"
    content = json.loads(manifest.read_text())
    labels = [{"name": f"l{at}", "phrase": f"An l{at}"} for at in range(129)]
    content["inquiry"]["task"]["labels"] += labels
    manifest.write_text(json.dumps(content))
    control = Control.model_validate({"inquiry": {"task": "m/pets"}})
    with pytest.raises(BadControl, match=r"cannot be used.*at most 128") as caught:
        make_plan(ControlSources(control, None, None), {}, artifacts(tmp_path), RequestParams())
    assert caught.value.param == "entropy.inquiry.task"


def test_a_meaning_below_the_threshold_is_unknown() -> None:
    def meaning(*evidence: float) -> int:
        return most_probable_meaning(torch.tensor(evidence, dtype=torch.float64))

    assert meaning(4.0, -1.0, -2.0) == YES
    assert meaning(-1.0, 4.0, -2.0) == NO
    assert meaning(2.0, 1.9, -5.0) == UNKNOWN
    assert meaning(1.0, -4.0, 0.5) == UNKNOWN
    assert meaning(0.0, 0.0, 0.0) == UNKNOWN
    assert meaning(float("nan"), 0.0, 0.0) == UNKNOWN


async def test_a_model_that_prefers_one_meaning_for_every_reply_gives_no_answer(
    tmp_path: Path,
) -> None:
    class Yeasayer(FakeReads):
        async def logprobs(self, prompts: list[list[int]], choices: list[int]) -> list[list[float]]:
            self.forwards += len(prompts)
            return [[-0.1, -4.0, -6.0] for _ in prompts]

    _, report, _ = await turn(plan(tmp_path), (BARK, "blue"), (SWIM, "42"), reads=Yeasayer())
    assert [one.answer for one in report.heard] == ["unknown", "unknown"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"inquiry": {"task": "m/none"}}, "entropy.inquiry.task"),
        (
            {"inquiry": {"task": "m/pets", "predictor": "likelihood", "confidence_level": 0.999}},
            "confidence_level",
        ),
        (
            {"inquiry": {"task": "m/pets", "predictor": "table", "queries": "open"}},
            "entropy.inquiry.predictor",
        ),
        ({"inquiry": {"task": "m/pets", "predictor": "direct"}}, "entropy.inquiry.predictor"),
        (
            {"inquiry": {"task": "m/pets"}, "temperature": {"type": "edt"}},
            "entropy.temperature",
        ),
        ({"inquiry": {"task": "m/pets"}, "difficulty": {}}, "entropy.difficulty"),
    ],
)
def test_an_error_names_the_field_that_rules_out_an_inquiry(
    tmp_path: Path, asked: dict[str, Any], param: str
) -> None:
    save_inquiry(tmp_path)
    control = Control.model_validate(asked)
    with pytest.raises(BadControl) as caught:
        make_plan(ControlSources(control, None, None), {}, artifacts(tmp_path), RequestParams())
    assert caught.value.param.endswith(param)


async def test_a_turn_that_would_take_too_many_engine_requests_is_refused_before_the_first(
    tmp_path: Path,
) -> None:
    reads = FakeReads()
    wanted = plan(tmp_path)
    with pytest.raises(BadControl, match="at most 2048 are served") as caught:
        await turn(wanted, *[(BARK, f"jein {at}") for at in range(2049)], reads=reads)
    assert caught.value.param == "messages"
    reads.labels = {" cat.": [5, *range(900)], " dog.": [5, *range(1, 900)], " fish.": [6]}
    wanted = plan(tmp_path, direct=True, predictor="direct")
    with pytest.raises(BadControl, match="engine requests") as caught:
        await turn(wanted, reads=reads)
    assert caught.value.param == "entropy.inquiry.max_candidates"
    assert reads.forwards == 0


async def test_repeats_of_a_question_count_towards_the_limit_of_questions(tmp_path: Path) -> None:
    repeats = [(BARK, "..."), (BARK, "..."), (BARK, "...")]
    _, report, _ = await turn(plan(tmp_path, max_turns=3), *repeats)
    assert (report.action, report.reason, report.turn) == ("answer", "budget", 3)


async def test_a_task_with_a_table_of_answers_uses_it_without_the_model(
    tmp_path: Path,
) -> None:
    reads = FakeReads()
    wanted = plan(tmp_path, predictor=None, confidence_level=0.95)
    text, report, fallback = await turn(wanted, (BARK, "no"), (SWIM, "yes"), reads=reads)
    assert (report.predictor, report.calibrated, fallback) == ("table", True, None)
    assert (text, reads.forwards) == ("I think it is: fish.", 0)
    opened = plan(tmp_path, predictor=None, queries="open")
    assert opened.predictor == "likelihood"


async def test_an_answer_that_contradicts_the_table_makes_the_set_grow(tmp_path: Path) -> None:
    wanted = plan(tmp_path, predictor="table", confidence_level=0.95)
    _, before, _ = await turn(wanted, (BARK, "yes"))
    _, after, _ = await turn(wanted, (BARK, "yes"), (SWIM, "no"))
    assert before.prediction_set == ["dog"]
    assert set(after.prediction_set) == {"dog", "cat"}
