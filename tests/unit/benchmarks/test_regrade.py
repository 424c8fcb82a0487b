from benchmarks.regrade import regrade
from training.datasets.problem import Problem


def test_stored_answers_are_graded_again_and_changes_are_counted() -> None:
    asked = [
        Problem(task="authors", prompt="Who?", answer="Rowling", grader="contains"),
        Problem(task="ports", prompt="Which?", answer="80", grader="numeric"),
    ]
    answers = {0: "J. K. Rowling", 1: "Tolkien", 2: "Port 80.", 3: "It is 80."}
    found = regrade(asked, answers, 2, {"Who?": 0.0, "Which?": 1.0})
    assert found["authors"] == (2, 0.5, 0.0, 1)
    assert found["ports"] == (2, 1.0, 1.0, 0)
    assert found["all"] == (4, 0.75, 0.5, 1)
