"""Common layouts of question-answering data, brought into the task's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmctl.errors import DataError
from llmctl.tasks.dialogues import AS_TEXT, Fields, as_text, is_printed_array, pair_of, structured
from llmctl.types import Adapting

NO_ANSWER: Final = "no_answer"
"""The answer of an evidence of WebQA that holds none."""


def question(fields: Mapping[str, Any], adapting: Adapting, where: str = "") -> Fields:
    """The fields of a record of the task `question-answering`.

    Raises `DataError` for answers that a table holds as Python prints an array: they cannot be read back.
    """
    found = dict(fields)
    if isinstance(found.get("evidences"), Mapping | list) and "answers" not in found:
        _evidences(found, adapting)
    if found.get("answers") is None and found.get("answer") is not None:
        found.pop("answers", None)
    if found.get("answers") is None:
        answer = found.get("answer")
        if "question" in found and (isinstance(answer, list | Mapping) or _holds_texts(answer, where)):
            found["answers"] = found.pop("answer")
        elif pair := pair_of(found, adapting, where):
            asked, more, text = pair
            found |= {"question": asked, "answers": [text]} | ({"context": more} if more.strip() else {})
    found.pop("is_impossible", None)
    answers = found.get("answers")
    if isinstance(answers, str):
        _refuse_array(answers, where)
        parsed = structured(answers)
        several = isinstance(parsed, list) or _holds_answer(parsed)
        adapting.layouts["answers as JSON in a text" if several else "one answer as text"] += 1
        answers = parsed if several else [answers]
    squad = not {"is_impossible", "evidences"}.isdisjoint(fields)
    if isinstance(answers, Mapping):
        answers, squad = _of_object(answers, adapting)
    elif isinstance(answers, list) and any(isinstance(each, Mapping) for each in answers):
        answers = [each.get("text") if isinstance(each, Mapping) else each for each in answers]
        squad = True
    if isinstance(answers, list):
        found["answers"] = _answers(answers, adapting, squad=squad)
    if (context := _joined(found.get("context"))) is not None:
        found["context"] = context
        adapting.changed["contexts in several parts: joined"] += 1
    return found


def _holds_texts(answer: Any, where: str) -> bool:
    """Whether a text is a list of texts, or an object that holds them: `[1, 2]` and `{"name": "Ann"}` may be answers."""
    if not isinstance(answer, str):
        return False
    _refuse_array(answer, where)
    parsed = structured(answer)
    if isinstance(parsed, list):
        return bool(parsed) and all(isinstance(each, str) for each in parsed)
    return _holds_answer(parsed)


def _holds_answer(value: Any) -> bool:
    """Whether an object holds answers in the layout of SQuAD or TriviaQA."""
    return isinstance(value, Mapping) and (
        isinstance(value.get("text"), str | list) or isinstance(value.get("value"), str)
    )


def _refuse_array(text: str, where: str) -> None:
    if is_printed_array(text):
        raise DataError(
            "the answers are an array as Python prints it, which cannot be read back",
            where=f"{where}answers",
            hint="write the file as JSONL or Parquet instead: to_json(FILE, orient='records', lines=True)",
        )


def _of_object(answers: Mapping[str, Any], adapting: Adapting) -> tuple[Any, bool]:
    """The answers of an object in the layout of SQuAD or TriviaQA, and whether there may be none."""
    if isinstance(texts := answers.get("text"), list):
        adapting.layouts["SQuAD (answers.text)"] += 1
        return list(texts), True
    if isinstance(texts, str):
        adapting.layouts["SQuAD (answers.text)"] += 1
        return [texts], True
    if isinstance(value := answers.get("value"), str):
        adapting.layouts["TriviaQA (answer.value)"] += 1
        others = answers.get("aliases")
        return list(dict.fromkeys([value, *(others if isinstance(others, list) else [])])), False
    return answers, False


def _answers(answers: list[Any], adapting: Adapting, *, squad: bool) -> list[Any]:
    if not answers and squad:
        adapting.changed["questions without an answer: dropped"] += 1
        return [""]  # dropped as `empty`
    if any(isinstance(each, bool | int | float) for each in answers):
        adapting.changed[AS_TEXT] += 1
        answers = [as_text(each) if isinstance(each, bool | int | float) else each for each in answers]
    full = [each for each in answers if each is not None and not (isinstance(each, str) and not each.strip())]
    if len(full) < len(answers) and full:
        adapting.changed["empty answers: left out"] += 1
        return full
    return ["" if each is None else each for each in answers]


def _evidences(found: Fields, adapting: Adapting) -> None:
    """The answers and the context of a question in the layout of WebQA: several evidences, each with its answers."""
    held = found.pop("evidences")
    evidences = [each for each in (held.values() if isinstance(held, Mapping) else held) if isinstance(each, Mapping)]
    answers = [each for evidence in evidences for each in _listed(evidence.get("answer")) if each != NO_ANSWER]
    texts = [each["evidence"] for each in evidences if isinstance(each.get("evidence"), str)]
    adapting.layouts["WebQA (evidences)"] += 1
    found["answers"] = list(dict.fromkeys(answers))
    if texts and found.get("context") is None:
        found["context"] = "\n".join(texts)


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]


def _joined(context: Any) -> str | None:
    """The paragraphs of a context that is no text, on lines of their own: a list of them, each perhaps with a title, as in
    HotpotQA; None for anything else."""
    if isinstance(context, Mapping):
        columns = [context.get("title"), context.get("sentences")]
        context = (
            [list(each) for each in zip(*columns, strict=False)] if all(isinstance(c, list) for c in columns) else None
        )
    if not isinstance(context, list):
        return None
    texts = list(_texts(context))
    return None if None in texts else "\n".join(text for text in texts if text and text.strip())


def _texts(paragraphs: list[Any]) -> Iterator[str | None]:
    for each in paragraphs:
        if isinstance(each, Mapping):
            each = [each.get("title") or "", [each.get("text")]]
        if isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) and isinstance(each[1], list):
            yield each[0]
            yield " ".join(text.strip() for text in each[1]) if all(isinstance(text, str) for text in each[1]) else None
        else:
            yield each if isinstance(each, str) else None
