from pathlib import Path

import pytest
import torch

from benchmarks.inquiry.__main__ import tree_depths
from benchmarks.inquiry.coverage import coverage_table, marginal_coverage
from benchmarks.inquiry.page import Arm, Section, band, interval, plot, section
from benchmarks.inquiry.uot import reward
from probes.conformal import Coverage
from probes.inquiry.likelihood import known_answers
from probes.inquiry.task import load_task
from training.inquiry.simulate import GameStep


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 1.0), (0.3, 0.440645), (0.9, 0.156332), (0.0, 0.0), (1.0, 0.0)]
)
def test_the_reward_is_that_of_the_published_code(share: float, expected: float) -> None:
    assert float(reward(torch.tensor(share))) == pytest.approx(expected, abs=1e-6)


def test_games_about_one_label_do_not_make_the_interval_narrower() -> None:
    values = torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3])
    few = interval(values, labels)
    many = interval(values.repeat(50), labels.repeat(50))
    assert few == many
    assert few[0] < 0.5 < few[1]


def test_a_band_holds_for_all_columns_at_once() -> None:
    """Twelve columns without an effect: a pointwise interval misses one of them far too often."""
    draw, labels, games, few = torch.Generator().manual_seed(1), torch.arange(40), 200, 40
    alone = together = 0
    for game in range(games):
        values = torch.randn(40, 12, generator=draw, dtype=torch.float64)
        low, high = band(values, labels)
        together += bool((low > 0).any() or (high < 0).any())
        if game < few:
            bounds = [interval(column, labels) for column in values.T]
            alone += any(low > 0 or high < 0 for low, high in bounds)
    assert alone > 0.3 * few
    assert together < 0.12 * games


def test_columns_that_never_differ_have_a_band_of_nothing() -> None:
    values = torch.zeros(4, 3, dtype=torch.float64)
    values[:, 1] = torch.tensor([1.0, -1.0, 2.0, 0.0])
    low, high = band(values, torch.arange(4))
    assert low[0] == high[0] == 0
    assert low[1] < 0.5 < high[1]
    assert torch.equal(*band(torch.ones(4, 2).double(), torch.arange(4)))


def test_the_greedy_tree_halves_what_is_left() -> None:
    eight = torch.tensor([[bool(row >> bit & 1) for bit in range(3)] for row in range(8)])
    assert tree_depths(eight) == [3] * 8
    assert tree_depths(torch.eye(4).bool()) in ([1, 2, 3, 3], [3, 3, 2, 1])


def test_the_animals_are_told_apart_by_five_questions() -> None:
    depths = tree_depths(load_task("animals").answer_table() == 1)
    assert max(depths) == 5
    assert 4.32 < sum(depths) / len(depths) <= 4.4


@pytest.mark.parametrize("length", [3, 8])
def test_random_games_are_covered_as_promised(length: int) -> None:
    """At least 500 games, each with a calibration of its own, by a noisy predictor."""
    answers = (torch.rand(20, 60, generator=torch.Generator().manual_seed(3)) < 0.4).double()
    noisy = known_answers(answers, 0.2) * 0.7 + 0.3 * torch.randn(
        60, 2, 20, generator=torch.Generator().manual_seed(4), dtype=torch.float64
    )
    games, samples = 1000, 99
    draw, labels = torch.Generator().manual_seed(5), list(range(20))
    found = marginal_coverage(noisy, answers, labels, length, 0.9, samples, games, draw)
    error = 2 * (found.rate * (1 - found.rate) / games) ** 0.5
    assert 0.9 - error <= found.rate <= 0.9 + 1 / (samples + 1) + error


def arm(name: str, right: bool) -> Arm:
    games = [[GameStep(right, True, 3 - right, at) for at in range(3)] for _ in range(4)]
    return Arm.of(name, games, 4)


def test_a_section_says_where_a_rule_is_better() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    text = "\n".join(section(Section("T", "", [arm("IP", False), arm("C-IP", True)], labels)))
    everywhere = "after 1, 2, 3, 4"
    assert (
        f"worse than IP nowhere, better {everywhere}, and leaves fewer labels {everywhere}" in text
    )
    assert f"it is worse nowhere and better {everywhere}." in text
    assert "+1.000 (+1.000 to +1.000)" in text


def test_a_coverage_outside_the_band_is_called_so() -> None:
    found = {1: Coverage(1000, 905), 2: Coverage(1000, 800)}
    lines = coverage_table(found, [arm("IP", True)], 0.9, 99)
    assert [line.split("|")[3].strip() for line in lines[2:]] == ["yes", "no", "no"]


def test_plots_are_drawn(tmp_path: Path) -> None:
    file = tmp_path / "plot.png"
    labels = torch.tensor([0, 0, 1, 1])
    plot([Section("T", "", [arm("IP", False), arm("C-IP", True)], labels)], file)
    assert file.read_bytes()[:4] == b"\x89PNG"
