"""Entropy in a terminal: low is blue, high is red; plain text where there are no colors."""

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clients.entropy import EntropyReport, EntropyStream, Token

FULL_SCALE = 6.0
"""Nats at the red end of the scale. The scale is a square root: large models stay below 1 nat most
of the time and small ones above 2, and differences should be visible in both ranges."""
_COLD = (70, 130, 255)
_WARM = (255, 80, 50)  # every color of the scale is legible on black and on white
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_CONTROLS = dict.fromkeys(
    code
    for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    if code not in (9, 10)
)


def printable(text: str) -> str:
    """Remove control characters, which could control the terminal; keep tabs and line ends.

    Also removes the characters that change the direction of text.
    """
    return text.translate(_CONTROLS)


def color(entropy: float) -> str:
    """Hexadecimal color of an entropy in nats, from blue (0) to red (`FULL_SCALE`)."""
    share = math.sqrt(min(max(entropy / FULL_SCALE, 0.0), 1.0))
    red, green, blue = (
        round(cold + share * (warm - cold)) for cold, warm in zip(_COLD, _WARM, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def is_colored(console: Console) -> bool:
    """Whether the console shows colors: it is a terminal and `NO_COLOR` is not set."""
    return console.color_system is not None and not console.no_color


def color_by_entropy(text: str, tokens: list[Token], *, temperatures: bool = False) -> Text:
    """Color a text by the mean entropy of its tokens; optionally append their mean temperature."""
    entropy = _mean([token.entropy for token in tokens])
    painted = Text()
    painted.append(printable(text), None if entropy is None else color(entropy))
    temperature = _mean([token.temperature for token in tokens])
    if temperatures and temperature is not None:
        painted.append(f"{temperature:.2f}".translate(_SUBSCRIPTS), "dim")
    return painted


def write_answer(console: Console, answer: EntropyStream, *, temperatures: bool = False) -> None:
    """Write a streamed answer as it arrives, in color if possible, and end the line."""
    waiting: list[Token] = []  # tokens without text so far, such as parts of an emoji
    try:
        for piece in answer:
            waiting += piece.tokens
            if piece.text:
                if is_colored(console):
                    painted = color_by_entropy(piece.text, waiting, temperatures=temperatures)
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
    """Write one line that explains the colors; nothing where there are none."""
    if not is_colored(console):
        return
    legend = Text()
    legend.append("entropy in nats", "dim")
    for entropy in (0.0, 0.5, 1.0, 2.0, 4.0, FULL_SCALE):
        legend.append("  ██", color(entropy))
        legend.append(f" {entropy:g}", "dim")
    legend.append("+", "dim")
    console.print(legend)


def write_report(console: Console, report: EntropyReport | None) -> None:
    """Write a table below the answer, or one line where there are no colors."""
    if report is None:
        console.print("The server sent no entropy report.", style="dim")
    elif is_colored(console):
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
    """Names and values of the table and of the line, in order."""
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
