"""Are the reference's answers that are kept between runs those to the very question?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cases
import numpy as np
import pytest
from cases import ALL_F32, ALL_F64, BF16, F32, GUIDES, SUBJECTS, Dtypes, arguments, arrays, replaced


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The questions that were not answered from the folder, which is empty."""
    monkeypatch.setenv(cases.ANSWERS, str(tmp_path / "answers"))
    return []


def ask(asked: list[Any], subject: str, given: dict[str, Any], *more: Any) -> Any:
    def compute() -> Any:
        asked.append((subject, more))
        return np.full(3, len(asked)), {"number": len(asked)}

    return cases._answer(compute, subject, given, *more)


def test_a_question_is_computed_once(asked: list[Any]) -> None:
    given = arguments("slice", ALL_F32)
    first, second = (ask(asked, "slice", {**given}, {"align_corners": True}) for _ in range(2))
    assert len(asked) == 1
    assert second[1] == {"number": 1}
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("subject", SUBJECTS)
def test_another_question_is_computed(asked: list[Any], subject: str) -> None:
    given = arguments(subject, ALL_F64)
    ask(asked, subject, given)
    others = [replaced(given, **{name: np.nextafter(array, 2)}) for name, array in arrays(given).items()]
    others += [replaced(given, **{name: array.astype(F32)}) for name, array in arrays(given).items()]
    others += [{**given, name: (7, 7, 7)[: len(given[name])]} for name in cases.NUMBERS if name in given]
    for i, other in enumerate(others):
        ask(asked, subject, other)
        assert len(asked) == 2 + i
    ask(asked, subject, given, {"align_corners": True})
    ask(asked, subject, given, {"align_corners": False})
    ask(asked, "another", given)
    assert len(asked) == 4 + len(others)


def test_the_sources_are_part_of_the_question(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments("slice", ALL_F32)
    ask(asked, "slice", given)
    edited = cases.SOURCES.copy()
    edited.update(b"#")
    monkeypatch.setattr(cases, "SOURCES", edited)
    ask(asked, "slice", given)
    assert len(asked) == 2


def test_half_an_answer_is_none(asked: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes")
    given = arguments("slice", Dtypes(BF16, BF16, BF16))
    ask(asked, "slice", given)
    (file,) = (tmp_path / "answers").iterdir()
    for size in (0, 1, 100):
        file.write_bytes(file.read_bytes()[:size])
        assert ask(asked, "slice", given)[1] == {"number": len(asked)}
    assert len(asked) == 4


def test_large_answers_are_not_kept(asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "MOST_KEPT", 100)
    given = arguments(next(iter(GUIDES)), ALL_F32)
    ask(asked, "enhance", given)
    ask(asked, "enhance", given)
    assert len(asked) == 2
    assert not (tmp_path / "answers").exists()
