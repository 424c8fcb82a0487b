"""Process that compares mathematics with math-verify: a JSON object a line in, one out.

It is a separate process because SymPy can take minutes for one text and cannot be interrupted in a
thread. CPU time is limited per line: after the soft limit the answer is `false`; a computation in C
that does not return ends the process.
"""

import json
import resource
import signal
import sys
from typing import Any

SOFT_SECONDS = 1.0
HARD_SECONDS = 2.0
MEMORY_BYTES = 2 << 30


def main() -> None:
    """Answer lines until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGVTALRM, _raise_timeout)
    from math_verify import parse, verify

    for line in sys.stdin:
        pair = json.loads(line)
        equal = _compare_in_time(lambda pair=pair: _equal(parse, verify, pair))
        sys.stdout.write(f"{json.dumps(equal)}\n")
        sys.stdout.flush()


def _equal(parse: Any, verify: Any, pair: dict[str, str]) -> bool:
    gold = parse(pair["answer"], parsing_timeout=None)
    text = parse(pair["text"], parsing_timeout=None)
    return bool(verify(gold, text, timeout_seconds=None))


def _compare_in_time(compare: Any) -> bool:
    signal.setitimer(signal.ITIMER_VIRTUAL, SOFT_SECONDS, 0.1)  # again where a handler swallows it
    signal.setitimer(signal.ITIMER_PROF, HARD_SECONDS)  # its default action ends the process
    try:
        return bool(compare())
    except (TimeoutError, RecursionError, MemoryError, ArithmeticError, ValueError, TypeError):
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _raise_timeout(*_: Any) -> None:
    raise TimeoutError


if __name__ == "__main__":
    main()
