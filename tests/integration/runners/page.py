"""A page of what the engine tests found, by runner.

`python -m tests.integration.runners.page FILE... --output PAGE` reads JUnit files of pytest
(`--junitxml`) and logs with the lines of `traffic` and `speculation`, and writes one Markdown table
for each kind.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from benchmarks import machine

TRAFFIC = """\
`python -m tests.integration.runners.traffic ENGINE`: random laws, laws by phase, truncations,
temperatures, n, penalties, probes, steering, logprobs and aborts, in five slots with little memory.
The model runs in float32; every answer is compared, token by token, with Transformers in float64.
Columns `d` are the largest deviations: entropy in nats, temperature, probability of a difficulty
class, log-probability. `thinking` counts tokens under the law of the thinking phase."""
SPECULATION = """\
`python -m tests.integration.runners.speculation`: chi-square of the tokens that vLLM's rejection
sampler lets through, against the controlled distribution, and against the uncontrolled one, which
shows that the test can fail."""
_ENGINE = re.compile(r"[\[-](v[12](?:-[a-z]+)?)[\]-]")
_WORST = {"entropy": "dH", "temperature": "dT", "probability": "dP", "logprob": "dlogp"}
"""Deviations that have a column, and its name."""


class Case(NamedTuple):
    """One test of a JUnit file."""

    file: str
    runner: str
    outcome: str
    """`passed`, `failed`, or why it was skipped."""
    seconds: float


def cases(junit: Path) -> Iterable[Case]:
    """The engine tests of a JUnit file."""
    for case in ElementTree.parse(junit).iter("testcase"):
        file = case.get("classname", "").removeprefix("tests.integration.")
        if not case.get("classname", "").startswith("tests.integration."):
            continue
        engine = _ENGINE.search(case.get("name", ""))
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped")
        outcome = "passed" if skipped is None else str(skipped.get("message"))
        runner = "v2" if engine is not None and engine[1].startswith("v2") else "v1"
        yield Case(file, runner, "failed" if failed else outcome, float(case.get("time", 0)))


def engine_table(found: Iterable[Case]) -> list[str]:
    """A row for each file and runner."""
    groups = defaultdict[tuple[str, str], list[Case]](list)
    for case in found:
        groups[case.file, case.runner].append(case)
    lines = [
        "| tests | runner | passed | failed | skipped | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for (file, runner), own in sorted(groups.items()):
        outcomes = Counter(case.outcome for case in own)
        passed, failed = outcomes.pop("passed", 0), outcomes.pop("failed", 0)
        skipped = "; ".join(f"{count}: {reason}" for reason, count in outcomes.items()) or "0"
        seconds = sum(case.seconds for case in own)
        lines.append(f"| {file} | {runner} | {passed} | {failed} | {skipped} | {seconds:.0f} |")
    return lines


def traffic_table(found: Iterable[dict[str, Any]]) -> list[str]:
    """A row for each run of `traffic`."""
    counts = ("answers", "tokens", "thinking", "preempted", "aborted", "drafts", "failures")
    head = ("engine", "seed", "requests", *counts, *_WORST.values(), "wrong", "seconds")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for one in found:
        worst = [f"{one['worst'].get(name, 0.0):.1e}" for name in _WORST]
        numbers = [str(one.get(name, 0)) for name in ("engine", "seed", "requests", *counts)]
        cells = [*numbers, *worst, str(len(one["wrong"])), str(one["seconds"])]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def law_table(found: Iterable[dict[str, Any]]) -> list[str]:
    """A row for each law of `speculation`."""
    lines = ["| law | tokens | p, controlled | p, uncontrolled |", "|---|---|---|---|"]
    for one in found:
        for law, result in one["laws"].items():
            p = (f"{result[f'p_{name}']:.2g}" for name in ("controlled", "uncontrolled"))
            lines.append(f"| `{law}` | {result['tokens']} | {' | '.join(p)} |")
    return lines


def printed(files: Iterable[Path], word: str) -> list[dict[str, Any]]:
    """The lines of JSON behind a word in capitals."""
    lines = (line for file in files for line in file.read_text().splitlines())
    return [json.loads(line.removeprefix(word)) for line in lines if line.startswith(f"{word} ")]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.runners.page")
    parser.add_argument("files", nargs="+", type=Path, help="JUnit files and logs")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    junit = [file for file in asked.files if file.suffix == ".xml"]
    logs = [file for file in asked.files if file.suffix != ".xml"]
    facts = machine.describe("tests.integration.runners.page")
    page = [
        "# Controls on vLLM's model runners, on a CPU",
        "",
        f"- date: {facts['date']}",
        *machine.markdown(facts)[2:],
        "",
        "## Random traffic",
        "",
        *TRAFFIC.splitlines(),
        "",
        *traffic_table(printed(logs, "TRAFFIC")),
        "",
        "## Distribution with drafts",
        "",
        *SPECULATION.splitlines(),
        "",
        *law_table(printed(logs, "SPECULATION")),
        "",
        "## Engine tests",
        "",
        "Seconds include starts of servers and waiting for the other worker.",
        "",
        *engine_table(case for file in junit for case in cases(file)),
    ]
    asked.output.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
