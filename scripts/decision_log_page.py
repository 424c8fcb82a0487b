"""`docs/reference/decision-log.md`: every field of a line, from its models."""

_HEAD = """\
# Decision log

<!-- Written by `python -m scripts.docs`; do not edit. -->

`entrostat serve --decision-log FILE` appends one JSON object for each controlled request, in
UTF-8 and in one line. Fields without a value are absent; numbers that are not finite are null.
[Audit](../how-to/audit.md) shows how to use it.

- A line is written when its answer has ended, so lines are in the order of the ends. A request
  that is refused has none; see `entrostat_refused_total`. Nor has a turn of an inquiry or a
  decision whose client leaves before the answer.
- Without `--log-prompts` a line has no text of the conversation and of the answer. It has what
  was decided about them: classes, labels of an inquiry's prediction set, places of a decision's
  options. Texts that a control carries, such as `abstain.text` or the prompt of a strategy, are
  part of the control. A line never has an API key or a header other than `X-Request-Id`.
"""


def decision_log_page() -> str:
    """The page."""
    from server.audit.lines import AdapterLine, AdminLine, ChoiceLine, DecisionLine, UsageLine
    from server.wire.cards import ServerFacts

    sections = (
        ("Line", DecisionLine),
        ("Line of a change by the operator", AdminLine),
        ("choices[i]", ChoiceLine),
        ("usage", UsageLine),
        ("adapter", AdapterLine),
        ("server", ServerFacts),
    )
    return _HEAD + "".join(_section(title, model) for title, model in sections)


def _section(title: str, model: type) -> str:
    from pydantic import BaseModel

    assert issubclass(model, BaseModel)
    rows = [
        f"| `{name}` | {' '.join((field.description or '').split())} |\n"
        for name, field in model.model_fields.items()
    ]
    head = title if title.startswith("Line") else f"`{title}`"
    return f"\n## {head}\n\n| field | meaning |\n|---|---|\n" + "".join(rows)
