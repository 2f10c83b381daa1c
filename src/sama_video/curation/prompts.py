"""The three prompts of Appendix B, word for word; what the printed page adds (line breaks, indents, boxes) is undone.

`{instruction}` stands for the user's instruction. The doubled braces that the paper prints in two of the prompts are
Python's way of writing one brace. They speak of videos for pictures too, as the paper's do.
"""

from dataclasses import dataclass

# Goes into the address of every answer: change it with the prompts or with the way media are shown.
TASK = "appendix-b/1"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One of the three.

    Args:
        name: of what it judges.
        text: with `{instruction}` to be filled in.
        dimensions: whose scores the answer holds, each under its name and `_score`.
        edited_first: the edited video is the first, the original the second.
        for_images: asked for pictures too.
    """

    name: str
    text: str
    dimensions: tuple[str, ...]
    edited_first: bool = False
    for_images: bool = True

    @property
    def answer_keys(self) -> tuple[str, ...]:
        return tuple(f"{dimension}_score" for dimension in self.dimensions)

    def filled(self, instruction: str) -> str:
        return self.text.replace("{instruction}", instruction)


INSTRUCTION_AND_QUALITY = Prompt(
    name="instruction following and visual quality",
    dimensions=("instruction_following", "visual_quality"),
    text="""\
You are an expert video editing evaluator. Please evaluate the editing quality.

# User’s Editing Instruction:
{instruction}

# Videos to Compare:
1. First video: Original video (before editing)
2. Second video: Edited video (after editing)

# Evaluation Criteria (Rate 1-10):
1. Instruction Following: How well does the edited video implement the user’s specific instruction?
- 10: Perfectly follows all aspects
- 7-9: Mostly follows with minor issues
- 4-6: Partially follows, some aspects missing
- 1-3: Does not follow the instruction

2. Visual Quality: Is the edited video visually coherent and natural-looking?
- 10: Perfect quality, seamless editing
- 7-9: High quality, minor artifacts
- 4-6: Moderate quality, noticeable issues
- 1-3: Poor quality, obvious problems

# Output Format:
Return ONLY a JSON object with this exact structure:
{
  "instruction_following_score": <number between 1 and 10>,
  "visual_quality_score": <number between 1 and 10>,
  "explanation": "<brief explanation for the scores>"
}

Important: Only output the JSON object, nothing else.
""",
)

MOTION_CONSISTENCY = Prompt(
    name="motion consistency",
    dimensions=("motion_consistency",),
    edited_first=True,
    for_images=False,
    text="""\
You are an expert video editing evaluator. Please evaluate the editing quality.

# User's Editing Instruction:
{instruction}

# Videos to Compare:
1. First video: Edited video (after editing)
2. Second video: Original video (before editing)

# Evaluation Criteria (Rate 1-10):
1. **Motion Consistency**: Does the edited video preserve the original motion of both the main object and the \
background?
Note: Any style, object, appearance changes are acceptable. You should only care about motion inconsistency which NOT \
caused by style, object, appearance change.
- 10: Perfectly preserves all original motions
- 7-9: Mostly preserves, minor motion deviations
- 4-6: Noticeable motion inconsistencies, or noticeable motion delays
- 4-6: Unnatural texture in the background of the edited video
- 1-3: Most of motion mismatches
- 1-3: In edited video, the first frame differs significantly from subsequent frames

# Output Format:
Return ONLY a JSON object with this exact structure:
{"motion_consistency_score": <number between 1 and 10>,
 "explanation": "<brief explanation for the scores>"
}

Important: Only output the JSON object, nothing else.
""",
)

CONTENT_PRESERVATION = Prompt(
    name="content preservation",
    dimensions=("content_preservation",),
    text="""\
You are an expert video editing evaluator. Please evaluate the editing quality. Specifically, please evaluate the \
Content Preservation of the edited video only.

# User's Editing Instruction:
{instruction}

# Videos to Compare:
1. First video: Original video (before editing)
2. Second video: Edited video (after editing)

# Evaluation Criteria (Rate 1-10):
1. **Content Preservation**: Does the edit preserve all unrelated content from the original video?
- 10: Perfectly preserves all unrelated content
- 7-9: Mostly preserves, minor changes
- 4-6: Some unrelated changes
- 1-3: Changes much unrelated content

# Output Format:
Return ONLY a JSON object with this exact structure:
{"content_preservation_score": <number between 1 and 10>,
 "explanation": "<brief explanation for the scores>"
}

Important: Only output the JSON object, nothing else.
""",
)

PROMPTS = (INSTRUCTION_AND_QUALITY, MOTION_CONSISTENCY, CONTENT_PRESERVATION)


def prompts_for(*, is_image: bool) -> tuple[Prompt, ...]:
    return tuple(prompt for prompt in PROMPTS if prompt.for_images or not is_image)
