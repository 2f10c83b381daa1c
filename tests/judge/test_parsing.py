"""What counts as an answer: unambiguous repairs only, and never a score that was not given."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sama_video.judge.parsing import MalformedAnswerError, Scale, parse_blocks, parse_lines, parse_scores

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


BLOCKS = {"accuracy": ("a", "b"), "quality": ("c",)}
NESTED = '{"accuracy": {"scores": [8, 9.5], "reasoning": "{so}"}, "quality": {"scores": [7], "reasoning": ""}}'


def blocks(text, nothing=0):
    return parse_blocks(text, BLOCKS, Scale(1, 10, nothing))


def test_blocks_name_their_scores_by_order():
    assert blocks(NESTED) == {"a": 8, "b": 9.5, "c": 7}
    assert blocks(f"```json\n{NESTED.replace('[7]', '[7,]')}\n```") == {"a": 8, "b": 9.5, "c": 7}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[8, 9.5]", "[8]", "no list of 2"),
        ("[8, 9.5]", "[8, 9, 9]", "no list of 2"),
        ("[8, 9.5]", "8", "no list of 2"),
        ("[8, 9.5]", '[8, "9"]', "b is not a number"),
        ("[8, 9.5]", "[8, 0]", "b is 0, outside"),
        ("[8, 9.5]", f"[8, {'9' * 400}]", "outside"),
        ('"{so}"', "3", "accuracy.reasoning is not a text"),
        (', "reasoning": "{so}"', "", "expected the keys"),
        ('"quality": {"scores": [7], "reasoning": ""}', '"quality": 7', "quality is no object"),
        ("quality", "naturalness", "expected the keys"),
    ],
)
def test_other_blocks_are_malformed(old, new, reason):
    with pytest.raises(MalformedAnswerError, match=reason):
        blocks(NESTED.replace(old, new))


def test_a_score_below_the_scale_stands_for_all_or_for_none():
    zeros = NESTED.replace("[8, 9.5]", "[0, 0]").replace("[7]", "[0]")
    assert set(blocks(zeros).values()) == {0}
    with pytest.raises(MalformedAnswerError, match="outside"):
        blocks(zeros, nothing=None)


LINES = "Brief reasoning: 4 of 5: good.\nCompliance: 4\n**Quality & Co**: 3.5\n"


def lines(text):
    return parse_lines(text, {"Compliance": "a", "Quality & Co": "b"}, Scale(1, 5))


def test_lines_are_read_by_their_labels_and_comment_is_not():
    assert lines(LINES) == {"a": 4, "b": 3.5}
    assert lines(f"<think>Compliance: 1</think>{LINES}Done.") == {"a": 4, "b": 3.5}
    assert lines(LINES.replace("4\n", "4.\n")) == {"a": 4, "b": 3.5}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Compliance: 4", "Compliance: four", "not a number"),
        ("Compliance: 4", "Compliance: 4/5", "not a number"),
        ("Compliance: 4", "compliance is 4", "0 lines begin with 'Compliance'"),
        ("Compliance: 4", "Compliance: 4\nCompliance: 5", "2 lines"),
        ("3.5", "6", "outside 1 to 5"),
    ],
)
def test_other_lines_are_malformed(old, new, reason):
    with pytest.raises(MalformedAnswerError, match=reason):
        lines(LINES.replace(old, new))


@given(st.text())
def test_no_text_breaks_the_other_parsers(text):
    for parse in (blocks, lines):
        with pytest.raises(MalformedAnswerError):
            parse(text)
