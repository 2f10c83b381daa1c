"""The three prompts of Appendix B as data (`prompts.yaml`): what is asked, which clip comes first, what is scored."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from ..system.data_files import table_beside
from ..system.strict import Strict

# Goes into the address of every answer: change it with the prompts or with the way media are shown.
TASK = "appendix-b/1"


@dataclass(frozen=True, kw_only=True)
class Prompt(Strict):
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


PROMPTS = TypeAdapter(tuple[Prompt, ...]).validate_python(table_beside(__file__))


def prompts_for(*, is_image: bool) -> tuple[Prompt, ...]:
    """Those that are asked about pictures, or about videos."""
    return tuple(prompt for prompt in PROMPTS if prompt.for_images or not is_image)
