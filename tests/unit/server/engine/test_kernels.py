import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.entropy_target import temperature_for_entropy
from probes.law_functions import apply_laws
from probes.laws import law_row
from server.engine import kernels as module
from server.engine.kernels import Kernels
from tests.unit.server.engine.support import (
    ALL_LAWS,
    CPU,
    ENTROPY_TARGET,
    STATISTICS,
    random_logits,
)

VOCAB = 49152


def eager(vocab: int = VOCAB) -> Kernels:
    kernels = Kernels(vocab, CPU)
    kernels.compile_with(lambda function, dynamic: function)
    return kernels


@pytest.fixture(scope="module")
def compiled() -> Kernels:
    """The real thing; compiling takes most of a minute once."""
    kernels = Kernels(VOCAB, CPU)
    kernels.warm_up()
    assert kernels.is_compiled, "it fell back to eager"
    return kernels


class Batch:
    """Rows of every law, peaked and flat, masked, greedy and broken ones among them."""

    def __init__(self, num_rows: int) -> None:
        ranks = torch.arange(1, VOCAB + 1).log()
        sharpness = torch.linspace(0.5, 4.0, num_rows).unsqueeze(-1)
        self.logits = random_logits(num_rows, VOCAB, 1.0) - ranks * sharpness
        self.logits[1::4, 100:] = -math.inf
        laws = [ALL_LAWS[row % len(ALL_LAWS)] for row in range(num_rows)]
        self.law = torch.tensor([float(law_row(law, STATISTICS)[0]) for law in laws])
        self.base = torch.full((num_rows,), 0.9)
        self.base[3::7] = 0.0
        rows = [law_row(law, STATISTICS)[1] for law in laws]
        self.parameters = torch.tensor(rows)

    def decide(self, kernels: Kernels, *, solve: bool) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            decision = kernels.decide(
                self.logits, self.base, self.law, self.parameters, solve=solve
            )
        return decision.entropy, decision.temperature


@pytest.mark.parametrize("solve", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 17])
def test_compiled_is_eager_on_rows_of_real_size(
    compiled: Kernels, num_rows: int, solve: bool
) -> None:
    batch = Batch(num_rows)
    entropy, temperature = batch.decide(compiled, solve=solve)
    expected_entropy, expected_temperature = batch.decide(eager(), solve=solve)
    torch.testing.assert_close(entropy, expected_entropy, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(temperature, expected_temperature, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("solve", [False, True])
@pytest.mark.parametrize("form", ["compiled", "eager"])
def test_a_row_without_a_finite_entropy_is_drawn_at_its_base_and_spoils_no_other(
    form: str, solve: bool, request: pytest.FixtureRequest
) -> None:
    kernels = request.getfixturevalue("compiled") if form == "compiled" else eager()
    batch = Batch(17)
    _, whole = batch.decide(kernels, solve=solve)
    broken = [0, 5, 10, 11]
    batch.logits[0] = -math.inf
    batch.logits[5, VOCAB - 1] = math.nan
    batch.logits[10, 3] = math.inf
    batch.logits[11] = math.nan
    entropy, temperature = batch.decide(kernels, solve=solve)
    assert entropy.isnan().nonzero().flatten().tolist() == broken
    assert torch.equal(temperature[broken], batch.base[broken])
    others = [row for row in range(17) if row not in broken]
    torch.testing.assert_close(temperature[others], whole[others])


def test_entropy_is_that_of_the_logits_with_and_without_a_solver(compiled: Kernels) -> None:
    batch = Batch(17)
    expected = entropy_from_logits(batch.logits)
    for solve in (False, True):
        entropy, _ = batch.decide(compiled, solve=solve)
        torch.testing.assert_close(entropy, expected, atol=1e-4, rtol=1e-5)


def test_laws_without_a_solver_are_those_of_the_instrument_box() -> None:
    batch = Batch(17)
    entropy, temperature = batch.decide(eager(), solve=False)
    expected = apply_laws(entropy, batch.base, batch.law, batch.parameters, math.log(VOCAB))
    assert torch.equal(temperature, expected)


def test_rows_with_a_target_are_solved_and_the_others_keep_their_law() -> None:
    batch = Batch(17)
    _, closed = batch.decide(eager(), solve=False)
    _, solved = batch.decide(eager(), solve=True)
    targets = (batch.law == ENTROPY_TARGET.tag) & (batch.base > 0)
    assert targets.sum() >= 2
    assert torch.equal(solved[~targets], closed[~targets])
    expected = temperature_for_entropy(batch.logits[targets], 1.0, refinements=8)
    torch.testing.assert_close(solved[targets], expected, atol=0, rtol=2e-2)


def test_greedy_rows_keep_zero_under_every_law() -> None:
    batch = Batch(17)
    batch.base[:] = 0.0
    for solve in (False, True):
        _, temperature = batch.decide(eager(), solve=solve)
        assert temperature.tolist() == [0.0] * 17


def test_a_solved_row_does_not_depend_on_who_else_is_in_the_batch() -> None:
    batch = Batch(17)
    _, together = batch.decide(eager(), solve=True)
    for row in (5, 11):
        one = slice(row, row + 1)
        alone = eager().decide(
            batch.logits[one], batch.base[one], batch.law[one], batch.parameters[one], solve=True
        )
        torch.testing.assert_close(alone.temperature, together[one], atol=1e-6, rtol=1e-5)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sentences that the kernels put into vLLM's log."""
    messages: list[str] = []

    def warning(message: str, *values: object) -> None:
        messages.append(message % values)

    monkeypatch.setattr(module.logger, "warning", warning)
    return messages


def failing(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    def call(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nand a long story")

    return call


def test_a_compiler_that_fails_when_first_used_is_replaced_by_eager_formulas(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(torch, "compile", failing)
    kernels = Kernels(VOCAB, CPU)
    kernels.warm_up()
    assert len(warnings) == 1
    assert warnings[0].endswith("(slower): no C++ compiler")
    batch = Batch(5)
    for solve in (False, True):
        for got, expected in zip(
            batch.decide(kernels, solve=solve), batch.decide(eager(), solve=solve), strict=True
        ):
            assert torch.equal(got, expected)


def test_a_compiler_that_refuses_to_wrap_is_replaced_by_eager_formulas(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refuses)
    kernels = Kernels(VOCAB, CPU)
    kernels.warm_up()
    Batch(2).decide(kernels, solve=True)


def test_a_working_compiler_says_nothing(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    Kernels(VOCAB, CPU).warm_up()
    assert warnings == []
