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
from tests.integration.runners.engines import ENGINES

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
ENGINE_TESTS = """\
Passed, failed and skipped, and seconds, of which starts of servers and waiting for other work are a
part; an empty cell was not run. `TEST_ENGINES=ENGINE pytest -m both_runners --junitxml FILE.xml
tests/integration` runs the core on an engine, without `-m` every test of the shared server."""
_ENGINE = re.compile(rf"[\[-]({'|'.join(sorted(ENGINES, key=len, reverse=True))})[\]-]")
_OF_FILE = {"own_server.test_drafts": "v2-drafts", "own_server.test_runners": "v2-drafts"}
"""Engine of the tests whose names have none, where it is not V1."""
_WORST = {"entropy": "dH", "temperature": "dT", "probability": "dP", "logprob": "dlogp"}
"""Deviations that have a column, and its name."""


class Case(NamedTuple):
    """One test of a JUnit file."""

    file: str
    name: str
    engine: str
    outcome: str
    """`passed`, `failed`, or why it was skipped."""
    seconds: float


def cases(junit: Path) -> Iterable[Case]:
    """The engine tests of a JUnit file."""
    for case in ElementTree.parse(junit).iter("testcase"):
        file, name = case.get("classname", ""), case.get("name", "")
        if not file.startswith("tests.integration."):
            continue
        file = file.removeprefix("tests.integration.")
        found = _ENGINE.search(name)
        engine = _OF_FILE.get(file, "v1") if found is None else found[1]
        failed = case.find("failure") is not None or case.find("error") is not None
        skipped = case.find("skipped")
        outcome = "passed" if skipped is None else str(skipped.get("message"))
        yield Case(file, name, engine, "failed" if failed else outcome, float(case.get("time", 0)))


def engine_table(found: Iterable[Case]) -> list[str]:
    """A row for each file with a cell for each engine, and a line for each reason of a skip.

    Of a test that ran more than once, the last run counts.
    """
    last = {(case.file, case.name): case for case in found}
    groups = defaultdict[tuple[str, str], list[Case]](list)
    skips = Counter[tuple[str, str, str]]()
    for case in last.values():
        groups[case.file, case.engine].append(case)
        if case.outcome not in ("passed", "failed"):
            skips[case.file, case.engine, case.outcome] += 1
    engines = [name for name in ENGINES if any(engine == name for _, engine in groups)]
    lines = [f"| tests | {' | '.join(engines)} |", "|---" * (len(engines) + 1) + "|"]
    for file in sorted({file for file, _ in groups}):
        cells = [_cell(groups[file, name]) for name in engines]
        lines.append(f"| {file} | {' | '.join(cells)} |")
    total = [_cell([case for case in last.values() if case.engine == name]) for name in engines]
    lines.append(f"| all | {' | '.join(total)} |")
    if skips:
        lines += ["", "Skipped:", ""]
    return lines + [
        f"- {file}, {name}, {count}: {reason}" for (file, name, reason), count in skips.items()
    ]


def _cell(own: list[Case]) -> str:
    """What the tests of a file did on an engine; nothing if there are none."""
    if not own:
        return ""
    outcomes = Counter(case.outcome for case in own)
    passed, failed = outcomes["passed"], outcomes["failed"]
    skipped = len(own) - passed - failed
    parts = [f"{passed} passed" if passed else "", f"{failed} failed" if failed else ""]
    parts += [f"{skipped} skipped" if skipped else "", f"{sum(c.seconds for c in own):.0f} s"]
    return ", ".join(part for part in parts if part)


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
        *ENGINE_TESTS.splitlines(),
        "",
        *engine_table(case for file in junit for case in cases(file)),
    ]
    asked.output.write_text("\n".join(page) + "\n")


if __name__ == "__main__":
    main()
