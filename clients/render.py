"""How entropy looks in a terminal: blue is sure, red is not, plain text if it has no colours."""

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.entropy import EntropyReport, EntropyStream, Token

FULL_SCALE = 6.0
"""Nats at which the colour is as warm as it gets. The scale goes by the square root: large models
stay below 1 nat most of the time and small ones above 2, and both should show their steps."""
_COLD = (70, 130, 255)
_WARM = (255, 80, 50)  # both ends and all between are legible on black and on white
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_CONTROLS = dict.fromkeys(
    code
    for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    if code not in (9, 10)
)


def printable(text: str) -> str:
    """A text without control characters, which could steer the terminal; tabs and line ends stay.

    Also without the characters that reverse the direction of what follows.
    """
    return text.translate(_CONTROLS)


def colour(entropy: float) -> str:
    """Hexadecimal colour of an entropy in nats; red rises and blue falls with it."""
    share = math.sqrt(min(max(entropy / FULL_SCALE, 0.0), 1.0))
    red, green, blue = (
        round(cold + share * (warm - cold)) for cold, warm in zip(_COLD, _WARM, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def is_coloured(console: Console) -> bool:
    """Whether the console shows colours: a terminal, and no `NO_COLOR`."""
    return console.color_system is not None and not console.no_color


def paint(text: str, tokens: list[Token], *, temperatures: bool = False) -> Text:
    """Colour a text by the mean entropy of its tokens, with their mean temperature behind it."""
    entropy = _mean([token.entropy for token in tokens])
    painted = Text()
    painted.append(printable(text), None if entropy is None else colour(entropy))
    temperature = _mean([token.temperature for token in tokens])
    if temperatures and temperature is not None:
        painted.append(f"{temperature:.2f}".translate(_SUBSCRIPTS), "dim")
    return painted


def write_answer(console: Console, answer: EntropyStream, *, temperatures: bool = False) -> None:
    """Write a streamed answer as it comes, coloured where the console can, and end the line."""
    waiting: list[Token] = []  # tokens that have not become text yet, as parts of an emoji
    try:
        for piece in answer:
            waiting += piece.tokens
            if piece.text:
                if is_coloured(console):
                    painted = paint(piece.text, waiting, temperatures=temperatures)
                    console.print(painted, end="", soft_wrap=True)
                else:
                    safe = printable(piece.text) if console.is_terminal else piece.text
                    console.file.write(safe)
                    console.file.flush()
                waiting = []
    finally:
        console.file.write("\n")
        console.file.flush()


def write_legend(console: Console) -> None:
    """One line that says what the colours mean; nothing where there are none."""
    if not is_coloured(console):
        return
    legend = Text()
    legend.append("entropy in nats", "dim")
    for entropy in (0.0, 0.5, 1.0, 2.0, 4.0, FULL_SCALE):
        legend.append("  ██", colour(entropy))
        legend.append(f" {entropy:g}", "dim")
    legend.append("+", "dim")
    console.print(legend)


def write_report(console: Console, report: EntropyReport | None) -> None:
    """A table under the answer, or one line where the console is plain."""
    if report is None:
        console.print("The server sent no entropy report.", style="dim")
    elif is_coloured(console):
        console.print(_table(report))
    else:
        line = "; ".join(f"{name} {value}" for name, value in _rows(report).items())
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _table(report: EntropyReport) -> Table:
    table = Table(box=box.ROUNDED, border_style="dim", show_header=False)
    for name, value in _rows(report).items():
        alarming = name == "fallback" and report.fallback is not None
        table.add_row(Text(name, "dim"), Text(value, "yellow" if alarming else ""))
    return table


def _rows(report: EntropyReport) -> dict[str, str]:
    """What the table and the line both say, in order."""
    clamped = "" if report.num_clamped is None else f", {report.num_clamped} clamped"
    mean, most = _number(report.entropy_mean), _number(report.entropy_max)
    return {
        "entropy": f"mean {mean}, max {most} nats",
        "temperature": f"mean {_number(report.temperature_mean)}{clamped}",
        "tokens": str(report.num_tokens),
        "law": printable(report.law or "-"),
        "profile": printable(report.profile or "-"),
        "fallback": printable(report.fallback or "none"),
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
