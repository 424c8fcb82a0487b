"""What `benchmarks.overhead` compares: who answers, what the requests ask for, what it may cost."""

from typing import Any, NamedTuple

PROMPTS = (
    "Why is the sky blue?",
    "Write the first lines of a story about a lighthouse.",
    "Explain how a bicycle stays upright to a ten-year-old.",
    "List five uses for an old newspaper.",
    "What is the difference between weather and climate?",
    "Write a short poem about a river in autumn.",
    "How does a vaccine work?",
    "Give me a recipe for a simple vegetable soup.",
    "What is 17 times 24? Show the steps.",
    "Describe a market in the early morning.",
    "Which is heavier, a litre of water or a litre of oil, and why?",
    "Write an email that asks a colleague to move a meeting to Thursday.",
    "Name three inventions of the nineteenth century and what they changed.",
    "What should I think about before adopting a dog?",
    "Translate 'good morning, how are you?' into French and Spanish.",
    "Summarize the story of Romeo and Juliet in three sentences.",
)


class Arm(NamedTuple):
    """One way of asking, measured in every round."""

    name: str
    server: str
    """`stock`, `twin` (a second stock process) or `ours`."""
    control: dict[str, Any] | None = None
    """The requests' `entropy` field; None leaves it out."""
    target: float | None = None
    """Least ratio to stock; None is a control of the measurement, not a promise."""
    every: int = 1
    """1: every request carries the control; 2: every other one, which needs a batch."""
    own: tuple[dict[str, Any], ...] = ()
    """Instead of `control`, one for each request of the batch."""
    peer: str | None = None
    """An arm whose throughput this one is also compared with."""
    samples: int = 1
    """Answers that each request samples; so many fewer requests are sent, so that as many answers
    are decoded at once."""

    def fits(self, batch: int) -> bool:
        """Whether so many answers at once can be asked for in this way."""
        return batch >= max(self.every, self.samples)

    def bodies(self, model: str, batch: int, max_tokens: int) -> list[dict[str, Any]]:
        """The batch's requests."""
        fixed = {"model": model, "max_tokens": max_tokens, "temperature": 1, "ignore_eos": True}
        return [
            {**fixed, "messages": [{"role": "user", "content": prompt}], **self._entropy(i)}
            for i, prompt in enumerate(PROMPTS[: batch // self.samples])
        ]

    def _entropy(self, number: int) -> dict[str, Any]:
        control = self.own[number] if self.own else self.control
        return {} if control is None or number % self.every else {"entropy": control}


STOCK = Arm("stock vLLM", "stock")
PEER_TARGET = 0.97
"""Least ratio to the peer: a truncation costs at most 3 % more than a law."""
_TRUNCATIONS = ("mirostat", "top_n_sigma", "p_less")


def arms(*, hapo: bool) -> list[Arm]:
    """All arms, stock first.

    The arm with a summary also measures `sampled_entropy_mean`, which only a reported request has.

    Args:
        hapo: Whether the server has HAPO's statistics for the model; dynatemp stands in otherwise.
    """
    dynatemp = {"type": "dynatemp"}
    adaptive = {"type": "hapo"} if hapo else dynatemp
    law = str(adaptive["type"])
    target = {"type": "entropy_target", "entropy_target": 1.0}
    laws = [adaptive, dynatemp] if hapo else [dynatemp]
    return [
        STOCK,
        Arm("stock vLLM, second process", "twin"),
        Arm("no control", "ours", None, 0.99),
        *(Arm(one["type"], "ours", {"temperature": one, "trace": "none"}, 0.98) for one in laws),
        *(
            Arm(name, "ours", {"truncation": {"type": name}, "trace": "none"}, peer=law)
            for name in _TRUNCATIONS
        ),
        Arm(f"{law}, summary", "ours", {"temperature": adaptive, "trace": "summary"}, peer=law),
        Arm("summary", "ours", {"trace": "summary"}),
        Arm("confidence", "ours", {"confidence": {}}, peer="summary"),
        Arm("vote of 4", "ours", {"vote": {"n": 4}, "trace": "none"}, samples=4),
        Arm("vote of 4, summary", "ours", {"vote": {"n": 4}}, samples=4, peer="summary"),
        Arm("semantic of 3", "ours", {"semantic": {"n": 3}}, samples=4, peer="summary"),
        Arm(f"half {law}, half none", "ours", {"temperature": adaptive, "trace": "none"}, 0.98, 2),
        Arm("entropy target", "ours", {"temperature": target, "trace": "none"}, 0.94),
        Arm("trace", "ours", {"trace": "tokens"}, 0.96),
        Arm(f"{law}, trace", "ours", {"temperature": adaptive, "trace": "tokens"}, 0.96),
    ]
