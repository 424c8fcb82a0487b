import torch

from probes.entropy import entropy_from_logits
from training.objectives.entropy_sft import entropy_sft_loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 5, 7, generator=GENERATOR, requires_grad=True)
LABELS = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 0, -100, -100]])


def test_it_is_cross_entropy_less_entropy_over_labelled_tokens() -> None:
    rows = LABELS >= 0
    logprobs = torch.log_softmax(LOGITS, -1)[rows]
    nll = -logprobs[torch.arange(8), LABELS[rows]].mean()
    entropy = entropy_from_logits(LOGITS)[rows].mean()
    torch.testing.assert_close(entropy_sft_loss(LOGITS, LABELS, 0.3), nll - 0.3 * entropy)
    plain = torch.nn.functional.cross_entropy(LOGITS.flatten(0, 1), LABELS.flatten())
    torch.testing.assert_close(entropy_sft_loss(LOGITS, LABELS, 0.0), plain)


def test_the_gradient_is_larger_where_the_entropy_is_kept() -> None:
    gradients = [
        torch.autograd.grad(entropy_sft_loss(LOGITS, LABELS, c), LOGITS)[0] for c in (0.0, 0.5)
    ]
    assert not torch.allclose(gradients[0], gradients[1])
    assert not gradients[1][1, 3:].any()


def test_no_label_is_no_loss() -> None:
    assert entropy_sft_loss(LOGITS, torch.full_like(LABELS, -100)).item() == 0
