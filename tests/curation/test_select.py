"""Which pairs are kept: averages over turns against thresholds, and nothing is made up for turns that failed."""

import pytest

from sama_video.curation.prompts import prompts_for
from sama_video.curation.results import rejections
from sama_video.curation.score import average_answers
from sama_video.judge.answers import Answer
from sama_video.system.errors import UserError
from tests.curation.pairs import quick_config

CONFIG = quick_config("http://unused/v1")


def answers(kind, **scores):
    """Answers to every prompt of a kind; `scores` holds three values by score, None for a failed turn."""
    result = []
    for prompt in prompts_for(is_image=kind == "image"):
        for turn in range(3):
            values = {f"{score}_score": scores.get(score, [10, 10, 10])[turn] for score in prompt.dimensions}
            if None in values.values():
                result.append((prompt, Answer(key="", task="", status="parse_failed", reason="prose")))
            else:
                result.append((prompt, Answer(key="", task="", status="ok", scores=values)))
    return result


def reasons(kind, config=CONFIG, **scores):
    return [str(reason) for reason in rejections(average_answers(kind, answers(kind, **scores), config), config)]


def test_a_pair_at_its_thresholds_is_kept():
    assert reasons("image", instruction_following=[9, 9, 9], visual_quality=[8, 9, 10]) == []
    video = {"instruction_following": [8] * 3, "content_preservation": [7, 8, 9], "motion_consistency": [8] * 3}
    assert reasons("video", visual_quality=[9, 9, 9], **video) == []
    # 8.9 + 9.1 + 9.0 is not 27 in floating point in every order.
    assert reasons("image", visual_quality=[8.9, 9.1, 9.0]) == []


@pytest.mark.parametrize(
    ("kind", "score", "values", "reason"),
    [
        ("image", "instruction_following", [9, 9, 8], "instruction_following below 9: 8.6667"),
        ("image", "content_preservation", [8, 8, 8], "content_preservation below 9: 8"),
        ("video", "instruction_following", [8, 8, 7], "instruction_following below 8: 7.6667"),
        ("video", "visual_quality", [9, 9, 8], "visual_quality below 9: 8.6667"),
        ("video", "content_preservation", [1, 10, 10], "content_preservation below 8: 7"),
        ("video", "motion_consistency", [7.9, 8, 8], "motion_consistency below 8: 7.9667"),
    ],
)
def test_a_pair_below_one_threshold_is_rejected_for_it(kind, score, values, reason):
    assert reasons(kind, **{score: values}) == [reason]


def test_pictures_are_not_judged_by_motion():
    scored = average_answers("image", answers("image"), CONFIG)
    assert "motion_consistency" not in scored.averages


def test_two_of_three_turns_are_enough_and_one_is_not():
    scored = average_answers("video", answers("video", motion_consistency=[None, 9, 8]), CONFIG)
    assert scored.averages["motion_consistency"] == 8.5
    assert scored.turns["motion_consistency"] == [None, 9, 8]
    assert scored.failures == {"parse_failed": 1}
    assert rejections(scored, CONFIG) == []
    (reason,) = reasons("video", motion_consistency=[None, 10, None])
    assert reason == "judge failed: motion_consistency has 1 of 3 turns"


def test_thresholds_can_be_changed_by_name():
    strict = CONFIG.with_thresholds(["video.motion_consistency=9.5"])
    assert reasons("video", motion_consistency=[9, 9, 9]) == []
    assert reasons("video", strict, motion_consistency=[9, 9, 9]) == ["motion_consistency below 9.5: 9"]
    assert strict.settings["video_thresholds"]["motion_consistency"] == 9.5
    for wrong in ("image.motion_consistency=9", "video.style=9", "9", "video.visual_quality=high"):
        with pytest.raises(UserError, match="threshold"):
            CONFIG.with_thresholds([wrong])
