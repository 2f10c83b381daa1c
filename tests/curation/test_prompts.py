"""The prompts are the paper's, and each score is judged by the prompt that the paper names for it."""

import json
import re

import pytest

from sama_video.curation.prompts import PROMPTS, prompts_for
from sama_video.curation.rules import _IMAGE_THRESHOLDS, _VIDEO_THRESHOLDS

INSTRUCTION_AND_QUALITY, MOTION_CONSISTENCY, CONTENT_PRESERVATION = PROMPTS
FRAGMENTS = {
    INSTRUCTION_AND_QUALITY: (
        "# User’s Editing Instruction:\n{instruction}\n",
        "1. First video: Original video (before editing)\n2. Second video: Edited video (after editing)",
        "How well does the edited video implement the user’s specific instruction?",
        "- 7-9: High quality, minor artifacts",
        '"visual_quality_score": <number between 1 and 10>,',
    ),
    MOTION_CONSISTENCY: (
        "1. First video: Edited video (after editing)\n2. Second video: Original video (before editing)",
        "the original motion of both the main object and the background?",
        "You should only care about motion inconsistency which NOT caused by style, object, appearance change.",
        "- 4-6: Unnatural texture in the background of the edited video",
        "- 1-3: In edited video, the first frame differs significantly from subsequent frames",
    ),
    CONTENT_PRESERVATION: (
        "Specifically, please evaluate the Content Preservation of the edited video only.",
        "Does the edit preserve all unrelated content from the original video?",
        "- 1-3: Changes much unrelated content",
    ),
}


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_wording(prompt):
    for fragment in FRAGMENTS[prompt]:
        assert fragment in prompt.text
    assert prompt.text.startswith("You are an expert video editing evaluator. Please evaluate the editing quality.")
    assert prompt.text.endswith("Important: Only output the JSON object, nothing else.\n")


@pytest.mark.parametrize("prompt", PROMPTS, ids=lambda prompt: prompt.name)
def test_the_json_that_a_prompt_shows_is_the_json_that_is_read(prompt):
    example = prompt.text[prompt.text.index("{", prompt.text.index("# Output Format")) : prompt.text.rindex("}") + 1]
    example = json.loads(re.sub(r"<number[^>]*>", "5", example))
    assert set(example) == {*prompt.answer_keys, "explanation"}


def test_only_the_motion_prompt_shows_the_edited_video_first():
    for prompt in PROMPTS:
        says_so = prompt.text.index("Edited video (after") < prompt.text.index("Original video (before")
        assert prompt.edited_first == says_so == (prompt is MOTION_CONSISTENCY)


def test_thresholds_cover_what_the_prompts_score():
    for is_image, thresholds in ((True, _IMAGE_THRESHOLDS), (False, _VIDEO_THRESHOLDS)):
        assert {score for prompt in prompts_for(is_image=is_image) for score in prompt.dimensions} == set(thresholds)
    assert set(_IMAGE_THRESHOLDS.values()) == {9}
    assert _VIDEO_THRESHOLDS["visual_quality"] == 9
    assert sorted(_VIDEO_THRESHOLDS.values()) == [8, 8, 8, 9]


def test_an_instruction_may_hold_braces():
    assert "write {this} and {instruction}" in CONTENT_PRESERVATION.filled("write {this} and {instruction}")
