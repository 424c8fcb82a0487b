"""Converts records in the formats of published data sets to prompt and answer."""

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from probes.graders import GraderName
from probes.grading.final_answer import final_answer
from training.common.errors import TrainingError

Record = Mapping[str, Any]

PROMPTS = ("prompt", "question", "problem", "query", "instruction", "question_stem", "ctx")
"""Keys of a question, in order of precedence."""
ANSWERS = (
    "answer", "final_answer", "expected_answer", "ground_truth", "target", "answerKey",
    "answer_key", "correct_answer", "label", "solution", "completion", "output", "response",
)  # fmt: skip
"""Keys of an answer, in order of precedence."""
CHAT = ("messages", "conversations", "prompt")
_CHOICES = ("choices", "options", "endings")
_LETTERS = string.ascii_uppercase
_HASHES = re.compile(r"####\s*(.+?)\s*$")
_ROLES = {"human": "user", "gpt": "assistant"}


def read_record(record: Record, place: str) -> dict[str, Any]:
    """Extract `prompt`, `answer`, and a `grader` if the format implies one, from a record.

    Args:
        record: `prompt` or `question` with `answer` (after `####` as in GSM8K), `problem` with
            `answer` or a boxed `solution` as in MATH, messages of a chat, or multiple choice as in
            MMLU, ARC and others.
        place: Place of the record, such as `mine.jsonl: line 3`.

    Raises:
        TrainingError: The record has no question or no answer; the message starts with the place.
    """
    chat = _chat(record, place)
    question = chat[0] if chat else _question(record, place)
    if choices := _choices(record, place):
        labels, texts = choices
        lines = [f"{label}) {text}" for label, text in zip(labels, texts, strict=True)]
        prompt = "\n".join(
            [question, "", *lines, "", "Answer with the letter of the right choice."]
        )
        return {
            "prompt": prompt,
            "answer": _right_label(record, labels, texts, place),
            "grader": "choice",
        }
    answer = chat[1] if chat and chat[1] is not None else _answer(record, place)
    fields: dict[str, Any] = {"prompt": question, "answer": answer}
    if grader := _grader_of_shape(record, answer):
        fields["grader"] = grader
    fields["answer"] = _final(answer)
    return fields


def read_level(record: Record, place: str) -> int | None:
    """The level of a record, a number or text such as "Level 3"; None without a level.

    Raises:
        TrainingError: The record uses the old key `grade`; the message starts with the place.
    """
    if "grade" in record:
        raise TrainingError(f"{place}: `grade` is called `level`")
    level = record.get("level")
    if isinstance(level, str):
        found = re.fullmatch(r"(?:level\s*)?(\d{1,9})", level.strip(), re.IGNORECASE)
        return int(found[1]) if found else None
    return level


def _question(record: Record, place: str) -> str:
    stem = record.get("question")
    if isinstance(stem, Mapping):
        stem = stem.get("stem")
    named = {**record, "question": stem}
    for key in PROMPTS:
        if isinstance(named.get(key), str):
            context = record.get("passage") or record.get("context") or ""
            context = "\n".join(map(str, context)) if isinstance(context, list) else str(context)
            if key == "instruction":
                context = record.get("input", "")
            parts = [context] if key == "question" else []
            parts += [named[key]] + ([context] if key == "instruction" else [])
            return "\n\n".join(str(part) for part in parts if part)
    if "prompt" in record:
        raise TrainingError(f"{place}: prompt: must be a text or a list of messages")
    keys = ", ".join(map(str, record)) or "nothing"
    raise TrainingError(
        f"{place}: has no question: expected `prompt`, `question`, `problem` or `messages`, found "
        f"{keys}"
    )


def _answer(record: Record, place: str) -> str:
    rewards = record.get("reward_model")
    if isinstance(rewards, Mapping) and "ground_truth" in rewards:
        return _text(rewards["ground_truth"], "reward_model.ground_truth", place)
    for key in ANSWERS:
        if key in record:
            value = record[key]
            if isinstance(value, list) and value and isinstance(value[0], Mapping):
                return _content(value[-1], place)
            return _text(value, key, place)
    raise TrainingError(f"{place}: answer: is missing: expected `answer` or `solution`")


def _text(value: Any, key: str, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TrainingError(f"{place}: {key}: must be a text or a number")
    return str(value).strip()


def _final(answer: str) -> str:
    """The final answer of a worked solution: after `####`, or in the last box."""
    if hashes := _HASHES.search(answer):
        return re.sub(r"(?<=\d),(?=\d{3})|\$", "", hashes[1])
    return final_answer(answer) if r"\boxed" in answer else answer


def _grader_of_shape(record: Record, answer: str) -> GraderName | None:
    if _HASHES.search(answer):
        return "numeric"
    return "math" if "problem" in record or r"\boxed" in answer else None


def _chat(record: Record, place: str) -> tuple[str, str | None] | None:
    """The question of a chat, and the assistant's answer if there is one."""
    key = next((key for key in CHAT if isinstance(record.get(key), list)), None)
    if key is None:
        return None
    turns = [
        (_role(message, f"{place}: {key}"), _content(message, place)) for message in record[key]
    ]
    system = [text for role, text in turns if role in ("system", "developer")]
    rest = [turn for turn in turns if turn[0] not in ("system", "developer")]
    roles = [role for role, _ in rest]
    if roles not in (["user"], ["user", "assistant"]):
        raise TrainingError(
            f"{place}: {key}: must have one message of the user, and at most one answer of the "
            f"assistant after it, found {', '.join(roles) or 'none'}"
        )
    reply = rest[1][1] if len(rest) == 2 and not any(name in record for name in ANSWERS) else None
    return "\n\n".join([*system, rest[0][1]]), reply


def _role(message: Any, place: str) -> str:
    if not isinstance(message, Mapping):
        raise TrainingError(f"{place}: a message must be an object with `role` and `content`")
    role = str(message.get("role", message.get("from")))
    return _ROLES.get(role, role)


def _content(message: Any, place: str) -> str:
    if not isinstance(message, Mapping):
        raise TrainingError(f"{place}: a message must be an object with `role` and `content`")
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        if any(part.get("type", "text") != "text" for part in content):
            raise TrainingError(f"{place}: a message has other content than text")
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise TrainingError(f"{place}: the content of a message must be a text")
    return content


def _choices(record: Record, place: str) -> tuple[Sequence[str], Sequence[str]] | None:
    """The labels and texts of a multiple-choice question; None if it is none.

    Raises:
        TrainingError: The choices have none of the known shapes; the message starts with the place.
    """
    nested = record.get("question")
    sources = [record, nested] if isinstance(nested, Mapping) else [record]
    key, found = next(
        ((key, source[key]) for source in sources for key in _CHOICES if source.get(key)),
        ("", None),
    )
    if isinstance(found, Mapping) and "text" in found:
        return _labeled(found.get("label"), found["text"], f"{place}: {key}")
    if isinstance(found, Mapping):
        return _labeled(list(found), list(found.values()), f"{place}: {key}")
    if isinstance(found, list) and any(isinstance(one, Mapping) for one in found):
        if not all(isinstance(one, Mapping) and "text" in one for one in found):
            raise TrainingError(f"{place}: {key}: every choice needs a `text`")
        labels = [one.get("label") for one in found]
        return _labeled(labels, [one["text"] for one in found], f"{place}: {key}")
    if isinstance(found, list):
        texts = [re.sub(r"^[A-Z][).:]\s+", "", str(one)) for one in found]
        return _labeled(None, texts, f"{place}: {key}")
    lettered = [letter for letter in _LETTERS[:10] if isinstance(record.get(letter), str)]
    if lettered[:2] == ["A", "B"]:
        return lettered, [record[letter] for letter in lettered]
    return None


def _labeled(given: Any, texts: Any, where: str) -> tuple[Sequence[str], Sequence[str]]:
    """Labels and texts of choices: the given labels, or letters where there are none."""
    if not isinstance(texts, list):
        raise TrainingError(f"{where}: must be a list of texts")
    if len(texts) > len(_LETTERS):
        raise TrainingError(f"{where}: has {len(texts)} choices, at most {len(_LETTERS)} are read")
    is_labeled = isinstance(given, list) and given and all(given)
    labels = list(map(str, given)) if is_labeled else list(_LETTERS[: len(texts)])
    if len(labels) != len(texts):
        raise TrainingError(f"{where}: has {len(texts)} choices and {len(labels)} labels")
    if all(label.isdecimal() for label in labels):
        labels = list(_LETTERS[: len(texts)])
    return labels, list(map(str, texts))


def _right_label(record: Record, labels: Sequence[str], texts: Sequence[str], place: str) -> str:
    """The label of the right choice, which may be given as label, index or text."""
    value = next((record[key] for key in ANSWERS if key in record), record.get("answer_index"))
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels):
        return labels[value]
    text = str(value).strip()
    letter = text.strip("(). ")
    if letter in labels:
        return letter
    if text.isdecimal() and "answerKey" in record and 1 <= int(text) <= len(labels):
        return labels[int(text) - 1]
    if text.isdecimal() and int(text) < len(labels):
        return labels[int(text)]
    if text in texts:
        return labels[list(texts).index(text)]
    raise TrainingError(f"{place}: answer: `{text}` is none of the choices {', '.join(labels)}")
