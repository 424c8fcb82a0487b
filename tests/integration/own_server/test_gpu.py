"""The checks of `python -m benchmarks.gpu`, one by one, on a CUDA device."""

import pytest
import torch

from benchmarks.gpu.__main__ import CHECKS, settings_of


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", CHECKS)
def test_controls_are_right_and_cheap_on_a_gpu(name: str) -> None:
    verdicts = CHECKS[name](settings_of("cuda", None))
    assert verdicts
    assert [one for one in verdicts if not one.passed] == []
