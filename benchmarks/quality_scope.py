"""How often an instruction is noted as outside of what a model was taught, right and wrong. No model runs.

Prints for a model that was taught the engine's families with `NANO_VOCABULARY`: the fraction noted of instructions that
are inside of that (each family of the engine's test split with taught things, and 30 by hand), and of those that are
outside (the engine's that name an untaught thing, and 30 by hand). Then, for every family, of a model that was taught
all others: the fraction noted of that family's instructions.
"""

import argparse
from collections.abc import Iterable

from sama_video.pipelines.scope import TrainedFor, scope_note
from sama_video.synth.edits import FAMILIES
from sama_video.synth.engine import Draft, Engine
from sama_video.synth.reading import read
from sama_video.synth.sprites import NANO_VOCABULARY

GOOD = """
please get rid of the fox
I'd like the panda to be blue
could you take the bicycle out of the picture?
put a tiny frog in the lower left corner
swap the car for a rocket
Make the penguin twice as big
change what's behind everything to a starry night sky
flip the umbrella upside down
give the whole thing an old sepia look
turn this clip into a pencil sketch
Let the snowman cast a shadow
erase both balloons
a red heart in the middle, please
paint the house purple and remove the moon
write "HAPPY NEW YEAR" in yellow at the bottom
I don't want the subtitle any more
the caption should say "GOODBYE" instead
make everything black and white
Can the elephant be see-through?
replace all the stars with hearts
show a green octopus at the top right, spinning in place
set the scene in a forest
make the left pumpkin smaller
outline the guitar in white
remove all objects
the banana should become a carrot
make it look like night
add a sailboat drifting to the right
put the animal on its head
make the background a red and white checkerboard
""".strip().splitlines()
BAD = """
add a giraffe
remove the person on the left
make the woman smile
turn the man into a robot
zoom in slowly
play the video backwards
what is the weather like today
asdf qwer zxcv
lorem ipsum dolor sit amet
Mach den Fuchs rot
Enlève la tasse
quita el coche y pon una manzana
把视频变成黑白
убери лису
in the style of Van Gogh
make it anime
stabilize the footage
add fireworks to the sky
change the background to a beach in Hawaii
make the fox dance
put sunglasses on the panda
replace the car with a spaceship
make it rain
make the water flow faster
write a poem about the moon
add background music
make it
please
remove the watermark
the the the of
""".strip().splitlines()

# Written once all of the above came out right, and nothing was changed for these.
LATER_GOOD = """
the bus should go
can we lose the two mushrooms?
Give me a yellow umbrella on the right that rises
pop a huge pizza in the bottom right corner, not moving
trade the guitar for a cactus
I need the flamingo turned into a snowman
all bananas should be strawberries
make that crown pink
recolor the left balloon orange
shrink the elephant to half its size
mirror the rocket
turn the octopus into a black silhouette
the house needs a white outline
take the shadow of the bus away
I'd prefer snowy mountains in the background
use a plain blue wall as the backdrop
put everything in front of a brick wall
make the video a bit darker
add a vignette
could you blur the whole clip
make the colors more vivid please
invert all the colors
posterize it
put "GAME OVER" in white at the top
get the text out of there
replace the words with "SEE YOU SOON"
delete the carrot and make the clip warmer
first paint the car green, then remove the subtitle
include a small black circle at the left edge, bouncing up and down
let both ladybugs disappear
""".strip().splitlines()
LATER_BAD = """
add a skyscraper
remove the lamp post
give the man a beard
turn the cat into a tiger
make the car drive faster
change the weather to a storm
tilt the camera upwards
upscale this to 4k
remove the background noise
hello, how are you?
who is the president of France
blah blah blah
qwertyuiop
1234 5678
Ajoute un renard rouge à gauche
Ersetze das Auto durch eine Rakete
haz el video más brillante
キツネを消して
удали машину
make it look like a Pixar movie
turn it into an oil painting by Monet
make the dog wear a hat
replace the sky with a nebula
put a necklace on the woman
dolly shot towards the house
make the butterfly flap its wings
swap the faces of the two people
make the panda turquoise
add subtitles in German
x
""".strip().splitlines()


def taught(families: Iterable[str] = FAMILIES) -> TrainedFor:
    return Engine(families=tuple(families), vocabulary=NANO_VOCABULARY).taught()


def drafts(count: int, *, families: Iterable[str] = FAMILIES, known: bool = True) -> list[Draft]:
    """In scenes and words of the test split: of things that were taught, or of all."""
    split = {"split": "known", "vocabulary": NANO_VOCABULARY} if known else {"split": "test"}
    engine = Engine(families=tuple(families), **split)
    return [engine.draft(index) for index in range(count)]


def names_an_untaught_thing(draft: Draft) -> bool:
    """By the drawings of the scenes before and after, and the words of the instruction."""
    things = (*draft.source.things, *draft.edit.target.things)
    untaught = [thing.sprite for thing in things if thing.sprite.name not in NANO_VOCABULARY]
    return any(name in draft.instruction.lower() for sprite in untaught for name in (sprite.name, sprite.plural))


def noted(instructions: Iterable[str], trained_for: TrainedFor) -> list[str]:
    return [text for text in instructions if scope_note(text, trained_for) is not None]


def show(what: str, instructions: list[str], trained_for: TrainedFor, wrong: bool | None = None) -> None:
    """A line; with `wrong` also the instructions that are (True) or are not (False) noted."""
    found = noted(instructions, trained_for)
    print(f"{what:45} {len(found) / len(instructions):4.0%} of {len(instructions)}")
    for text in instructions:
        if wrong is not None and (text in found) == wrong:
            print(f"    {text}   {read(text)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="instructions of a family")
    parser.add_argument(
        "--show", action="store_true", help="the instructions that came out wrong, and how they were read"
    )
    arguments = parser.parse_args()
    should, should_not = (True, False) if arguments.show else (None, None)
    everything = taught()
    for family in FAMILIES:
        show(
            f"taught: {family}",
            [one.instruction for one in drafts(arguments.count, families=(family,))],
            everything,
            should,
        )
    show("taught, in other words", GOOD, everything, should)
    others = [one.instruction for one in drafts(8 * arguments.count, known=False) if names_an_untaught_thing(one)]
    show("an untaught thing", others, everything, should_not)
    show("other subjects, languages, nonsense", BAD, everything, should_not)
    show("taught, in other words, written later", LATER_GOOD, everything, should)
    show("other subjects and so on, written later", LATER_BAD, everything, should_not)
    for family in FAMILIES:
        but_one = taught(other for other in FAMILIES if other != family)
        show(
            f"untaught: {family}",
            [one.instruction for one in drafts(arguments.count, families=(family,))],
            but_one,
            should_not,
        )


if __name__ == "__main__":
    main()
