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
  <skipped message="takes long"/></testcase>
<testcase classname="tests.integration.test_a" name="test_z[v2]" time="1"><failure/></testcase>
<testcase classname="tests.integration.test_c" name="test_w[v2-async]" time="4"/>
<testcase classname="tests.integration.own_server.test_runners" name="test_w" time="8"/>
<testcase classname="tests.unit.test_b" name="test_w" time="9"/>
</testsuite></testsuites>"""


def test_engine_tests_are_counted_by_file_and_engine(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT)
    assert engine_table(cases(file)) == [
        "| tests | v1 | v2 | v2-async | v2-drafts |",
        "|---|---|---|---|---|",
        "| own_server.test_runners |  |  |  | 1 passed, 8 s |",
        "| test_a | 1 passed, 2 s | 1 passed, 1 failed, 1 skipped, 3 s |  |  |",
        "| test_c |  |  | 1 passed, 4 s |  |",
        "| all | 1 passed, 2 s | 1 passed, 1 failed, 1 skipped, 3 s | 1 passed, 4 s "
        "| 1 passed, 8 s |",
        "",
        "Skipped:",
        "",
        "- test_a, v2, 1: takes long",
    ]


def test_of_a_test_that_ran_again_the_last_run_counts(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT)
    again = [case._replace(outcome="passed") for case in cases(file)]
    row = engine_table([*cases(file), *again])[3]
    assert row == "| test_a | 1 passed, 2 s | 3 passed, 3 s |  |  |"


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
