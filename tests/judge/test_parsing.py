"""What counts as an answer: unambiguous repairs only, and never a score that was not given."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sama_video.judge.parsing import MalformedAnswerError, parse_scores

GOOD = '{"quality_score": 9, "motion_score": 7.5, "explanation": "a {brace}, a comma,}"}'


def parsed(text):
    return parse_scores(text, ("quality_score", "motion_score"), text_keys=("explanation",))


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here is my verdict:\n{GOOD}\nI hope this helps.",
        f'<think>{{"quality_score": 1}} or is it 2?</think>\n{GOOD}',
        f"so the scores are 3 and 4\n</think>{GOOD}",
        GOOD.replace('"}', '",\n}'),
        GOOD.replace("a comma", "a\nline break"),
    ],
)
def test_unambiguous_answers_are_read(text):
    assert parsed(text) == {"quality_score": 9.0, "motion_score": 7.5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON object"),
        ("quality_score: 9, motion_score: 7", "no JSON object"),
        ("I would give it 9 of 10.", "no JSON object"),
        (GOOD[:40], "not JSON"),
        (f"<think>{GOOD}", "reasoning never ends"),
        (f"{GOOD} or rather {GOOD.replace('9', '8')}", "more than one"),
        (GOOD.replace("quality_score", "quality"), "expected the keys"),
        (GOOD.replace('"motion_score": 7.5, ', ""), "expected the keys"),
        (GOOD.replace('"motion_score"', '"quality_score": 8, "motion_score"'), "twice"),
        (GOOD.replace("9", '"9"'), "not a number"),
        (GOOD.replace("9", "true"), "not a number"),
        (GOOD.replace("9", "null"), "not a number"),
        (GOOD.replace("9", "NaN"), "not a score"),
        (GOOD.replace("9", "0"), "outside 1 to 10"),
        (GOOD.replace("9", "10.5"), "outside 1 to 10"),
        (GOOD.replace("9", "1e999"), "outside 1 to 10"),
        (GOOD.replace('"a {brace}, a comma,}"', "5"), "not a text"),
    ],
)
def test_anything_else_is_malformed(text, reason):
    with pytest.raises(MalformedAnswerError, match=reason):
        parsed(text)


@given(st.floats(1, 10), st.floats(1, 10), st.text())
def test_every_proper_answer_is_read_as_it_is(quality, motion, explanation):
    text = json.dumps({"quality_score": quality, "motion_score": motion, "explanation": explanation})
    if "</think>" not in explanation and "<think>" not in explanation:
        assert parsed(text) == {"quality_score": quality, "motion_score": motion}


@given(st.text())
def test_no_text_breaks_the_parser(text):
    try:
        parsed(text)
    except MalformedAnswerError:
        pass
    else:
        raise AssertionError("random text is no answer")
