import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from probes.entropy import entropy_from_logits, measure, moments, power_sums

GOLDEN = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
GOLDEN_ENTROPY = 0.947537
GOLDEN_VARENTROPY = 0.616586
INF = math.inf

for_all_rows = settings(deadline=None, max_examples=50)


def measured_entropy(logits: Tensor) -> Tensor:
    """The first row of `measure`."""
    return measure(logits)[0]


both_forms = pytest.mark.parametrize("entropy", [entropy_from_logits, measured_entropy])
Entropy = Callable[[Tensor], Tensor]


@st.composite
def logit_rows(draw: st.DrawFn) -> Tensor:
    """Rows as a sampler sees them: any spread, any tokens masked, at least one allowed."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(2, 40)))
    values = draw(hnp.arrays(np.float32, shape, elements=st.floats(-60, 60, width=32)))
    masked = draw(hnp.arrays(np.bool_, shape))
    masked[:, draw(st.integers(0, shape[1] - 1))] = False
    return torch.from_numpy(np.where(masked, np.float32(-INF), values))


def by_definition(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """-sum p ln p over the allowed tokens only, in float64."""
    result = []
    for row in logits.double():
        p = torch.softmax(row[row.isfinite()] / temperature, -1)
        p = p[p > 0]
        result.append(-(p * p.log()).sum())
    return torch.stack(result)


@both_forms
def test_golden_vector_has_its_published_entropy(entropy: Entropy) -> None:
    assert entropy(GOLDEN).item() == pytest.approx(GOLDEN_ENTROPY, abs=1e-6)


def test_golden_vector_has_its_published_varentropy() -> None:
    beta = torch.ones(1)
    got = moments(power_sums(GOLDEN, GOLDEN.amax(-1, keepdim=True), beta), beta)
    assert got.entropy.item() == pytest.approx(GOLDEN_ENTROPY, abs=1e-6)
    assert got.variance.item() == pytest.approx(GOLDEN_VARENTROPY, abs=1e-6)


@both_forms
@given(logits=logit_rows())
@for_all_rows
def test_entropy_is_its_definition_over_the_allowed_tokens(
    entropy: Entropy, logits: Tensor
) -> None:
    torch.testing.assert_close(
        entropy(logits).double(), by_definition(logits), atol=2e-5, rtol=1e-5
    )


@given(logits=logit_rows(), temperature=st.floats(0.1, 10))
@for_all_rows
def test_entropy_at_a_temperature_is_that_of_the_divided_logits(
    logits: Tensor, temperature: float
) -> None:
    expected = by_definition(logits, temperature)
    scalar = entropy_from_logits(logits, temperature)
    per_row = entropy_from_logits(logits, torch.full((len(logits),), temperature))
    torch.testing.assert_close(scalar.double(), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(per_row, scalar, atol=1e-6, rtol=1e-6)


@both_forms
@given(logits=logit_rows())
@for_all_rows
def test_entropy_lies_between_zero_and_that_of_the_allowed_tokens(
    entropy: Entropy, logits: Tensor
) -> None:
    value, allowed = entropy(logits), logits.isfinite().sum(-1)
    assert (value >= 0).all()
    assert (value <= allowed.log() + 1e-5).all()


@both_forms
@given(logits=logit_rows(), shift=st.floats(-50, 50))
@for_all_rows
def test_a_shift_of_all_logits_changes_nothing(
    entropy: Entropy, logits: Tensor, shift: float
) -> None:
    torch.testing.assert_close(entropy(logits + shift), entropy(logits), atol=5e-4, rtol=1e-3)


@both_forms
@given(logits=logit_rows(), data=st.data())
@for_all_rows
def test_rows_permute_and_do_not_see_each_other(
    entropy: Entropy, logits: Tensor, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(logits))))
    together = entropy(logits)
    assert torch.equal(entropy(logits[order]), together[order])
    alone = torch.cat([entropy(row.unsqueeze(0)) for row in logits])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-6)


@both_forms
@pytest.mark.parametrize("vocab", [2, 1000, 49152])
def test_a_uniform_row_has_the_log_of_its_size(entropy: Entropy, vocab: int) -> None:
    assert entropy(torch.full((1, vocab), 3.7)).item() == pytest.approx(math.log(vocab), abs=1e-4)


@both_forms
@pytest.mark.parametrize("vocab", [2, 49152])
def test_a_single_allowed_token_has_no_entropy(entropy: Entropy, vocab: int) -> None:
    logits = torch.full((1, vocab), -INF)
    logits[0, vocab // 2] = -3.0
    assert entropy(logits).item() == pytest.approx(0.0, abs=1e-7)


@both_forms
def test_masked_tokens_count_as_absent_at_the_size_of_a_real_vocabulary(entropy: Entropy) -> None:
    logits = torch.randn(4, 49152, generator=torch.Generator().manual_seed(0)) * 3
    allowed = torch.rand(49152, generator=torch.Generator().manual_seed(1)) < 0.02
    masked = logits.masked_fill(~allowed, -INF)
    torch.testing.assert_close(entropy(masked), entropy(logits[:, allowed]), atol=1e-5, rtol=0)


@both_forms
@pytest.mark.parametrize(
    "broken",
    [
        [1.0, math.nan, 0.0],
        [1.0, INF, 0.0],
        [INF, INF, 0.0],
        [1.0, INF, -INF],
        [-INF, -INF, -INF],
        [math.nan, -INF, -INF],
    ],
)
def test_a_row_without_a_finite_entropy_gives_nan_and_spoils_no_other(
    entropy: Entropy, broken: list[float]
) -> None:
    value = entropy(torch.tensor([[2.0, 1.0, 0.0], broken, [0.0, 0.0, -INF]]))
    assert value.isnan().tolist() == [False, True, False]
    assert value[2].item() == pytest.approx(math.log(2), abs=1e-6)


@given(logits=logit_rows())
@for_all_rows
def test_the_gradient_is_finite_and_zero_on_masked_tokens(logits: Tensor) -> None:
    leaf = logits.clone().requires_grad_()
    entropy = entropy_from_logits(leaf)
    (gradient,) = torch.autograd.grad(entropy.sum(), leaf)
    logp = torch.log_softmax(logits, -1)
    surprise = logp.masked_fill(logp == -INF, 0.0) + entropy.detach().unsqueeze(-1)
    torch.testing.assert_close(gradient, -logp.exp() * surprise, atol=1e-5, rtol=1e-4)
    assert (gradient[logits == -INF] == 0).all()


def test_measure_has_the_varentropy_and_what_turns_logits_into_log_probabilities() -> None:
    entropy, varentropy, log_total, maximum = measure(GOLDEN).squeeze(1).tolist()
    assert entropy == pytest.approx(GOLDEN_ENTROPY, abs=1e-6)
    assert varentropy == pytest.approx(GOLDEN_VARENTROPY, abs=1e-6)
    logprobs = (GOLDEN - maximum - log_total).tolist()
    assert logprobs == [pytest.approx(GOLDEN.log_softmax(-1)[0].tolist(), abs=1e-6)]


def test_bfloat16_logits_are_measured_in_float32() -> None:
    logits = torch.randn(8, 49152, generator=torch.Generator().manual_seed(0)).bfloat16()
    value = entropy_from_logits(logits)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), by_definition(logits), atol=1e-4, rtol=0)


def test_float64_logits_keep_their_precision() -> None:
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        entropy_from_logits(logits), by_definition(logits), atol=1e-14, rtol=0
    )


def test_leading_dimensions_are_kept() -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    temperature = torch.tensor([[0.5, 1.0, 2.0], [1.0, 3.0, 0.7]])
    value = entropy_from_logits(logits, temperature)
    assert value.shape == (2, 3)
    one = entropy_from_logits(logits[1, 2], temperature[1, 2])
    torch.testing.assert_close(value[1, 2], one)


@given(logits=logit_rows(), beta=st.floats(0.1, 10))
@for_all_rows
def test_power_sums_are_the_sums_they_are_named_after(logits: Tensor, beta: float) -> None:
    maximum = logits.amax(-1, keepdim=True)
    got = power_sums(logits, maximum, torch.full((len(logits),), beta))
    gap = (logits - maximum).double()
    weight = (beta * gap).exp()
    gap = gap.masked_fill(gap == -INF, 0.0)
    expected = torch.stack([(gap**k * weight).sum(-1) for k in range(3)])
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-4)


@given(logits=logit_rows(), beta=st.floats(0.1, 10))
@for_all_rows
def test_moments_are_entropy_and_variance_at_that_temperature(logits: Tensor, beta: float) -> None:
    column = torch.full((len(logits),), beta)
    got = moments(power_sums(logits, logits.amax(-1, keepdim=True), column), column)
    torch.testing.assert_close(
        got.entropy.double(), by_definition(logits, 1 / beta), atol=1e-4, rtol=1e-4
    )
    q = torch.softmax(logits.double() * beta, -1)
    finite = logits.double().masked_fill(logits == -INF, 0.0)
    mean = (q * finite).sum(-1, keepdim=True)
    variance = (q * (finite - mean) ** 2).sum(-1)
    torch.testing.assert_close(got.variance.double(), variance, atol=2e-3, rtol=2e-3)
    assert (got.variance >= 0).all()


def test_entropy_rises_with_temperature_at_variance_over_its_cube() -> None:
    temperature, step = 1.3, 1e-4
    rows = GOLDEN.double()
    above, below = (entropy_from_logits(rows, temperature + d).item() for d in (step, -step))
    q = torch.softmax(rows / temperature, -1)
    variance = ((q * rows**2).sum() - (q * rows).sum() ** 2).item()
    assert (above - below) / (2 * step) == pytest.approx(0.363424, abs=1e-6)
    assert variance / temperature**3 == pytest.approx(0.363424, abs=1e-6)


@given(logits=logit_rows(), beta=st.floats(0.2, 3))
@for_all_rows
def test_entropy_falls_with_inverse_temperature_at_beta_times_the_variance(
    logits: Tensor, beta: float
) -> None:
    rows, step = logits.double(), 1e-5
    maximum = rows.amax(-1, keepdim=True)

    def at(value: float) -> tuple[Tensor, Tensor]:
        column = torch.full((len(rows),), value, dtype=torch.float64)
        return moments(power_sums(rows, maximum, column), column)

    slope = (at(beta + step)[0] - at(beta - step)[0]) / (2 * step)
    torch.testing.assert_close(slope, -beta * at(beta)[1], atol=1e-5, rtol=1e-4)


@both_forms
def test_a_token_eighty_nats_below_the_top_weighs_nothing(entropy: Entropy) -> None:
    near = torch.tensor([[0.0, -1.0, -500.0]])
    assert entropy(near).item() == pytest.approx(entropy(near[:, :2]).item(), abs=1e-7)
