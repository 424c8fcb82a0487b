"""The page of the engine tests."""

from pathlib import Path

from tests.integration.runners.page import (
    cases,
    engine_table,
    law_table,
    printed,
    traffic_table,
)

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.integration.test_a" name="test_x[v1-seeded]" time="1.5"/>
<testcase classname="tests.integration.test_a" name="test_x[v2-seeded]" time="2"/>
<testcase classname="tests.integration.test_a" name="test_y[v2]" time="0">
  <skipped message="only V1 has it"/></testcase>
<testcase classname="tests.integration.test_a" name="test_z[v2]" time="1"><failure/></testcase>
<testcase classname="tests.unit.test_b" name="test_w" time="9"/>
</testsuite></testsuites>"""


def test_engine_tests_are_counted_by_file_and_runner(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT)
    assert engine_table(cases(file))[2:] == [
        "| test_a | v1 | 1 | 0 | 0 | 2 |",
        "| test_a | v2 | 1 | 1 | 1: only V1 has it | 3 |",
    ]


def test_lines_of_logs_become_rows(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        'noise\nTRAFFIC {"engine": "v1", "seed": 5, "requests": 3, "answers": 2, "tokens": 9, '
        '"worst": {"entropy": 3.2e-05}, "wrong": ["one"], "seconds": 7}\n'
        'SPECULATION {"laws": {"edt": {"tokens": 20, "p_controlled": 0.3, "p_uncontrolled": 0.0}}}'
    )
    row = traffic_table(printed([log], "TRAFFIC"))[-1]
    assert row.startswith("| v1 | 5 | 3 | 2 | 9 |")
    assert row.endswith("| 3.2e-05 | 0.0e+00 | 0.0e+00 | 0.0e+00 | 1 | 7 |")
    assert law_table(printed([log], "SPECULATION"))[-1] == "| `edt` | 20 | 0.3 | 0 |"
