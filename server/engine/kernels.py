"""The formulas of `probes/`, compiled if a compiler is available.

The compiled entropy costs about an eighth of the eager one on a CPU, and on a GPU the same source
becomes fused Triton kernels. Each formula is compiled separately: in one graph, the compiler
splits the loop over the vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.logger import init_logger

from probes.confidence import confidence
from probes.entropy import measure, moments, power_sums
from probes.entropy_target import REFINEMENTS, Bracket, apply_side, open_bracket, refine_bracket
from probes.law_functions import GREEDY, apply_laws
from probes.laws import NUM_PARAMETERS, EntropyTargetLaw
from probes.truncation_functions import gap_threshold, remove_below_, spread_sums
from probes.truncations import NUM_PARAMETERS as NUM_TRUNCATION_PARAMETERS

logger = init_logger("vllm.entrostat")


class RowDecision(NamedTuple):
    """What was decided for every row, each of shape (rows,)."""

    entropy: Tensor
    """Nats, at T = 1."""
    temperature: Tensor
    """0 for a greedy row."""
    varentropy: Tensor
    """Nats^2, at T = 1."""
    log_total: Tensor
    """ln of the sum of exp(logit - maximum), at T = 1."""
    maximum: Tensor
    """The highest logit."""


class Kernels:
    """Decides the temperature of every row of a batch."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._log_vocab = math.log(vocab_size)
        self._vocab_size = vocab_size
        self._device = device
        self.is_compiled = False
        """Whether `warm_up` compiled every formula."""
        self.compile_with(lambda function, dynamic: function)

    def compile_with(self, compiler: Callable[..., Any]) -> None:
        """Wrap every formula, with `torch.compile` or with a function that returns it as it is."""
        self._measure = compiler(measure, dynamic=True)
        self._power_sums = compiler(power_sums, dynamic=True)
        self._open = compiler(_open, dynamic=True)
        self._tighten = compiler(refine_bracket, dynamic=True)
        self._apply_laws = compiler(apply_laws, dynamic=True)
        self._spread_sums = compiler(spread_sums, dynamic=True)
        self._gap_threshold = compiler(gap_threshold, dynamic=True)
        self._remove_below = compiler(remove_below_, dynamic=True)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Compile before the first request; fall back to eager formulas."""
        try:
            self.compile_with(torch.compile)
            self._try_all()
            self.is_compiled = True
        except Exception as error:  # after any compiler error, run uncompiled
            logger.warning(
                "entrostat: torch.compile failed, entropy control runs eagerly (slower): %s",
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )
            self.compile_with(lambda function, dynamic: function)
            self._try_all()

    def _try_all(self) -> None:
        """Run every graph once, on arguments with the types and strides that requests have.

        The compiler makes separate graphs for one row and for other strides and offsets, so
        the arguments are cut out of a table here as they are in `Controller.control`. Sizes that
        are equal by chance also count, so the second number of rows equals no other size.
        """
        for rows in (1, 5):
            logits = torch.zeros(rows, self._vocab_size, device=self._device)
            table = torch.ones(2 + NUM_PARAMETERS, rows, device=self._device)
            for solve in (False, True):
                base = table[1].clone()
                decision = self.decide(logits, base, table[0], table[2:].T, solve=solve)
                self.sampled_entropy(logits, decision)
                truncations = torch.ones(rows, 1 + NUM_TRUNCATION_PARAMETERS, device=self._device)
                self.confidence(logits, decision)
                self.truncate(logits, decision, truncations, table[0].clone())

    def decide(
        self, logits: Tensor, base: Tensor, law: Tensor, parameters: Tensor, *, solve: bool
    ) -> RowDecision:
        """Measure every row and decide its temperature.

        Args:
            logits: Shape (rows, vocab), float32, after masks and penalties, before temperature.
            base: The requests' own temperatures, shape (rows,); 0 marks a greedy row.
            law: Tags of the laws, shape (rows,).
            parameters: Shape (rows, NUM_PARAMETERS).
            solve: Whether any row follows an entropy target.

        Returns:
            Greedy rows keep temperature 0; rows without a finite entropy keep their base
            temperature.
        """
        if not solve:
            entropy, varentropy, log_total, highest = self._measure(logits).unbind(0)
            closed = self._apply_laws(entropy, base, law, parameters, self._log_vocab)
            return RowDecision(entropy, closed, varentropy, log_total, highest)
        maximum = logits.amax(-1, keepdim=True)
        beta = torch.ones_like(base)
        sums = self._power_sums(logits, maximum, beta)
        (entropy, varentropy, log_total), bracket = self._open(sums, beta, parameters)
        for _ in range(REFINEMENTS):
            beta, bracket = self._tighten(sums, beta, bracket)
            sums = self._power_sums(logits, maximum, beta)
        beta, _ = self._tighten(sums, beta, bracket)
        closed = self._apply_laws(entropy, base, law, parameters, self._log_vocab)
        solved = (law == EntropyTargetLaw.tag) & (base >= GREEDY) & ~entropy.isnan()
        target = apply_side(1 / beta, base, parameters[:, 3])
        chosen = torch.where(solved, target, closed)
        return RowDecision(entropy, chosen, varentropy, log_total, maximum.squeeze(-1))

    def sampled_entropy(self, logits: Tensor, decision: RowDecision) -> Tensor:
        """Entropy (nats) of the distribution at each row's temperature.

        Args:
            logits: As in `decide`, not scaled yet; a truncation may have removed tokens.
            decision: What `decide` returned.

        Returns:
            Shape (rows,): 0 for a greedy row, NaN for a row without a finite entropy.
        """
        beta, maximum = _beta(decision.temperature), decision.maximum.unsqueeze(-1)
        entropy = moments(self._power_sums(logits, maximum, beta), beta).entropy
        return torch.where(decision.temperature < GREEDY, 0.0, entropy)

    def confidence(self, logits: Tensor, decision: RowDecision) -> Tensor:
        """Self-certainty and collision probability at T = 1, shape (2, rows).

        Args:
            logits: As in `decide`, not scaled yet.
            decision: What it returned.
        """
        ones = torch.ones_like(decision.maximum)
        return confidence(self._spread_sums(logits, decision.maximum.unsqueeze(-1), ones))

    def truncate(
        self, logits: Tensor, decision: RowDecision, truncations: Tensor, limits: Tensor
    ) -> Tensor:
        """Remove the tokens that every row's truncation does not keep, in place.

        Args:
            logits: As in `decide`, not scaled yet.
            decision: What it returned.
            truncations: Tag and parameters, shape (rows, 1 + NUM_PARAMETERS).
            limits: Mirostat's mu, nats, shape (rows,).

        Returns:
            ln of the sum of exp((logit - maximum) / T) over the kept tokens, shape (rows,). Greedy
            rows and rows without a finite entropy keep every token.
        """
        beta, maximum = _beta(decision.temperature), decision.maximum.unsqueeze(-1)
        kind = torch.where(decision.temperature < GREEDY, 0.0, truncations[:, 0])
        sums = self._spread_sums(logits, maximum, beta)
        threshold = self._gap_threshold(sums, beta, kind, truncations[:, 1:], limits)
        kept: Tensor = self._remove_below(logits, maximum, threshold, beta)
        return kept


def _beta(temperature: Tensor) -> Tensor:
    """Inverse temperature; 1 for a greedy row."""
    return 1 / torch.where(temperature < GREEDY, 1.0, temperature)


def _open(sums: Tensor, beta: Tensor, parameters: Tensor) -> tuple[tuple[Tensor, ...], Bracket]:
    """Entropy, varentropy and ln total at T = 1, and a bracket without a measured end."""
    target, low, high = parameters[:, 0], parameters[:, 1], parameters[:, 2]
    measured = (*moments(sums, beta), sums[0].log())
    return measured, open_bracket(target, low, high)
