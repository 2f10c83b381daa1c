"""What the engine says: sentence templates of every family and split, and words that all splits share.

Templates never repeat between splits, so a score on held-out templates measures understanding of words in new sentences.
Slots: `{what}` is the object ("the left fox"), `{new}` the new one ("a small red fox"), `{where}`, `{motion}`,
`{colour}`, `{size}`, `{place}`, `{text}`, `{old}` speak for themselves.
"""

from dataclasses import dataclass

from .draw import Draw

# Around a whole clause; the plain clause is no template and common to all splits.
WRAPPERS: dict[str, tuple[str, ...]] = {
    "train": ("please {}", "{} please", "can you {}", "now {}", "i want you to {}", "could you {}?", "let's {}"),
    "validation": ("kindly {}", "next, {}"),
    "test": ("your task: {}", "i would like you to {}"),
}
JOINS: dict[str, tuple[str, ...]] = {
    "train": ("{} and {}", "{}, then {}", "first {}, then {}", "{}; also {}", "{} and also {}"),
    "validation": ("{}, and besides {}", "{} and afterwards {}"),
    "test": ("{}, and in addition {}", "start with this: {}. After that, {}"),
}

TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "local_add": {
        "train": (
            "add {new} {where}, {motion}",
            "put {new} {where}, {motion}",
            "place {new} {where}, {motion}",
            "insert {new} {motion} {where}",
            "{where}, add {new} {motion}",
            "i want {new} {where}, {motion}",
            "show {new} {motion} {where}",
            "let there be {new} {where}, {motion}",
            "add to the scene {new} {motion}, {where}",
        ),
        "validation": ("introduce {new} {where}, {motion}", "have {new} appear {where}, {motion}"),
        "test": ("include {new} {motion} {where}", "bring in {new} {where}, {motion}"),
    },
    "local_add/still": {
        "train": (
            "add {new} {where}",
            "put {new} {where}",
            "place {new} {where}",
            "insert {new} {where}",
            "{where}, add {new}",
            "draw {new} {where}",
        ),
        "validation": ("introduce {new} {where}", "have {new} appear {where}"),
        "test": ("include {new} {where}", "bring in {new} {where}"),
    },
    "local_add/loose": {
        "train": ("add {new}", "put {new} in the scene", "place {new} somewhere", "i want to see {new}", "insert {new}"),
        "validation": ("introduce {new}", "have {new} appear"),
        "test": ("include {new}", "bring in {new}"),
    },
    "local_remove": {
        "train": (
            "remove {what}",
            "delete {what}",
            "erase {what}",
            "take away {what}",
            "take out {what}",
            "get rid of {what}",
            "cut out {what}",
            "remove {what} from the video",
            "erase {what} from the scene",
            "make {what} disappear",
            "clear away {what}",
        ),
        "validation": ("eliminate {what}", "let {what} vanish from the clip"),
        "test": ("wipe {what} out of the footage", "edit out {what}"),
    },
    "replace": {
        "train": (
            "replace {what} with {new}",
            "swap {what} for {new}",
            "turn {what} into {new}",
            "change {what} to {new}",
            "change {what} into {new}",
            "exchange {what} for {new}",
            "transform {what} into {new}",
            "put {new} in place of {what}",
            "replace {what} by {new}",
            "use {new} instead of {what}",
        ),
        "validation": ("substitute {new} for {what}", "let {new} take the place of {what}"),
        "test": ("switch {what} out for {new}", "convert {what} into {new}"),
    },
    "replace/loose": {
        "train": ("replace {what} with something else", "swap {what} for another object", "turn {what} into something new"),
        "validation": ("substitute anything else for {what}",),
        "test": ("switch {what} out for a different thing",),
    },
    "local_change/colour": {
        "train": (
            "make {what} {colour}",
            "turn {what} {colour}",
            "colour {what} {colour}",
            "color {what} {colour}",
            "paint {what} {colour}",
            "change the color of {what} to {colour}",
            "change the colour of {what} to {colour}",
            "give {what} a {colour} color",
            "recolor {what} to {colour}",
            "dye {what} {colour}",
        ),
        "validation": ("recolour {what} in {colour}", "let {what} be {colour}"),
        "test": ("tint {what} {colour}", "set the colour of {what} to {colour}"),
    },
    "local_change/colour/loose": {
        "train": ("change the color of {what}", "give {what} another colour", "recolor {what}", "paint {what} differently"),
        "validation": ("recolour {what}",),
        "test": ("let {what} have a new colour",),
    },
    "local_change/size": {
        "train": (
            "make {what} {size}",
            "resize {what} so that it is {size}",
            "change the size of {what} to {size}",
            "let {what} become {size}",
            "turn {what} {size}",
            "scale {what} to be {size}",
        ),
        "validation": ("have {what} be {size}", "resize {what} to be {size}"),
        "test": ("set the size of {what} to {size}", "rescale {what} until it is {size}"),
    },
    "local_change/size/loose": {
        "train": ("make {what} {size}", "resize {what}: {size}", "i want {what} {size}"),
        "validation": ("have {what} be {size}",),
        "test": ("rescale {what} until it is {size}",),
    },
    "local_change/upside down": {
        "train": ("turn {what} upside down", "flip {what} upside down", "flip {what} vertically", "put {what} on its head"),
        "validation": ("show {what} upside down",),
        "test": ("invert {what} vertically, top to bottom",),
    },
    "local_change/mirrored": {
        "train": ("mirror {what}", "flip {what} horizontally", "flip {what} left to right", "show {what} mirrored"),
        "validation": ("mirror {what} horizontally",),
        "test": ("reflect {what} from left to right",),
    },
    "local_change/half transparent": {
        "train": (
            "make {what} half transparent",
            "make {what} translucent",
            "make {what} see-through",
            "fade {what} to half transparency",
            "let the background show through {what}",
        ),
        "validation": ("turn {what} half transparent",),
        "test": ("give {what} fifty percent transparency",),
    },
    "local_change/silhouette": {
        "train": (
            "turn {what} into a black silhouette",
            "make {what} a black silhouette",
            "show {what} only as a silhouette",
            "make {what} completely black",
            "fill {what} with black",
        ),
        "validation": ("reduce {what} to a black silhouette",),
        "test": ("show just the dark silhouette of {what}",),
    },
    "local_change/outlined": {
        "train": (
            "draw a white outline around {what}",
            "outline {what} in white",
            "add a white border to {what}",
            "give {what} a white outline",
            "put a white line around {what}",
        ),
        "validation": ("trace {what} with a white outline",),
        "test": ("surround {what} with a white contour",),
    },
    "local_change/shadow": {
        "train": ("give {what} a shadow", "add a shadow to {what}", "let {what} cast a shadow", "put a shadow under {what}"),
        "validation": ("have {what} throw a shadow",),
        "test": ("draw a drop shadow for {what}",),
    },
    "local_change/no shadow": {
        "train": ("remove the shadow of {what}", "delete the shadow of {what}", "take the shadow away from {what}"),
        "validation": ("let {what} throw no shadow",),
        "test": ("drop the shadow of {what}",),
    },
    "background_change": {
        "train": (
            "change the background to {place}",
            "replace the background with {place}",
            "make the background {place}",
            "set the background to {place}",
            "put {place} in the background",
            "swap the background for {place}",
            "turn the background into {place}",
            "use {place} as the background",
            "i want {place} as the background",
            "show {place} behind the objects",
        ),
        "validation": ("let the background be {place}", "exchange the backdrop for {place}"),
        "test": ("move the scene in front of {place}", "set it against {place}"),
    },
    "background_change/loose": {
        "train": ("change the background", "replace the background with something else", "put it somewhere else"),
        "validation": ("exchange the backdrop",),
        "test": ("move the scene to another setting",),
    },
    "subtitle_edit/add": {
        "train": (
            'add the subtitle "{text}" in {colour} at the {where}',
            'write "{text}" in {colour} at the {where}',
            'put the text "{text}" in {colour} letters at the {where}',
            'add a {colour} caption that says "{text}" at the {where}',
            'show the words "{text}" in {colour} at the {where}',
            'place a {colour} subtitle "{text}" at the {where}',
            'at the {where}, add the text "{text}" in {colour}',
        ),
        "validation": ('overlay "{text}" in {colour} at the {where}', 'insert a {colour} subtitle reading "{text}" at the {where}'),
        "test": ('display a {colour} line "{text}" at the {where}', 'have "{text}" written in {colour} along the {where}'),
    },
    "subtitle_edit/remove": {
        "train": (
            "remove the subtitle",
            "delete the text",
            "erase the subtitle",
            "take away the caption",
            "remove the words",
            "get rid of the text",
            "remove the text from the video",
            "hide the subtitle",
        ),
        "validation": ("eliminate the subtitle", "clear the written words"),
        "test": ("wipe out the caption text", "edit out the subtitle"),
    },
    "subtitle_edit/reword": {
        "train": (
            'change the subtitle to "{text}"',
            'replace the text with "{text}"',
            'let the subtitle say "{text}"',
            'change "{old}" to "{text}"',
            'replace "{old}" with "{text}"',
            'rewrite the subtitle as "{text}"',
            'make the caption read "{text}"',
            'edit the text from "{old}" to "{text}"',
        ),
        "validation": ('reword the subtitle to "{text}"', 'instead of "{old}" it should say "{text}"'),
        "test": ('update the caption to "{text}"', 'swap the words "{old}" for "{text}"'),
    },
}  # fmt: skip

SUBTITLES: dict[str, tuple[str, ...]] = {
    "train": (
        "HELLO WORLD", "GOOD MORNING", "GOOD NIGHT", "THE END", "TO BE CONTINUED", "ONCE UPON A TIME", "WELCOME", "THANK YOU",
        "SEE YOU SOON", "HAPPY BIRTHDAY", "LATER THAT DAY", "THE NEXT DAY", "LOOK AT THIS", "WHAT IS THIS?", "OH NO!", "WOW!",
        "LET'S GO", "COME HERE", "STOP!", "WAIT FOR ME", "I AM HOME", "WHERE ARE YOU?", "GAME OVER", "LEVEL TWO", "ROUND ONE",
        "CHAPTER ONE", "PART TWO", "PARIS", "LONDON", "NEW YORK", "MONDAY", "FRIDAY", "SUMMER", "WINTER", "ON AIR", "LIVE",
        "BREAKING NEWS", "SALE TODAY", "OPEN NOW", "CLOSED", "DO NOT ENTER", "BE CAREFUL", "WATCH OUT", "VERY GOOD", "NICE WORK",
        "NO WAY", "MAYBE LATER", "YES OF COURSE", "I LOVE IT", "SO FUNNY", "HOW ARE YOU?", "GOOD LUCK", "KEEP GOING", "ALMOST DONE",
    ),
    "validation": ("GOOD EVENING", "HELLO AGAIN", "CHAPTER TWO", "BERLIN", "SPRING", "HURRY UP", "NOT NOW", "WELL DONE"),
    "test": ("GOOD AFTERNOON", "GOODBYE", "PART THREE", "TOKYO", "AUTUMN", "HAVE FUN", "STAY HERE", "THAT'S ALL"),
}  # fmt: skip

CAPTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "{things} in front of {background}",
        "{things} over {background}",
        "a clip of {things} with {background} behind",
    ),
    "validation": ("against {background}: {things}",),
    "test": ("{background} as the backdrop of {things}",),
}
EMPTY_CAPTIONS: dict[str, tuple[str, ...]] = {
    "train": ("{background}", "nothing but {background}", "a clip of {background}"),
    "validation": ("only {background}",),
    "test": ("just {background} and nothing else",),
}

# Words for places, motions and sizes: an added object stands where and moves as these say.
GRID = {
    "top left": ("at the top left", "in the top left corner", "in the upper left"),
    "top": ("at the top", "at the top in the middle", "in the upper middle"),
    "top right": ("at the top right", "in the top right corner", "in the upper right"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "centre": ("in the centre", "in the middle", "in the center of the frame"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "bottom left": ("at the bottom left", "in the bottom left corner", "in the lower left"),
    "bottom": ("at the bottom", "at the bottom in the middle", "in the lower middle"),
    "bottom right": ("at the bottom right", "in the bottom right corner", "in the lower right"),
}
MOTIONS = {
    "still": ("standing still", "motionless", "that stays in place", "not moving"),
    "right": ("drifting right", "moving to the right", "drifting to the right", "moving right"),
    "left": ("drifting left", "moving to the left", "drifting to the left", "moving left"),
    "up": ("drifting up", "moving upwards", "rising"),
    "down": ("drifting down", "moving downwards", "sinking"),
    "bounce": ("bouncing up and down", "hopping", "bouncing in place"),
    "orbit": ("moving in a circle", "circling", "going round in a circle"),
    "wave right": ("weaving to the right", "moving right in waves"),
    "wave left": ("weaving to the left", "moving left in waves"),
    "spin": ("spinning in place", "turning around itself", "rotating once"),
}
SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium-sized", "medium"),
    "large": ("large", "big", "huge"),
}
TWICE = ("twice as big", "twice as large", "double its size")
HALF = ("half as big", "half its size", "half as large")
CATEGORY_NOUNS = {
    "animal": "animal", "bird": "bird", "sea animal": "sea animal", "insect": "insect", "plant": "plant", "vehicle": "vehicle",
    "ball": "ball", "instrument": "musical instrument", "tool": "tool", "toy": "toy", "garment": "piece of clothing",
    "device": "device", "shape": "shape",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Phrases for one look.

    Args:
        adjectives: complete "make the video ...".
        nouns: complete "apply ...", "give it ...".
        sentences: stand on their own.
    """

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    sentences: tuple[str, ...]


TRAIN_WORDINGS: dict[str, Wording] = {
    "grayscale": Wording(
        adjectives=("black and white", "grayscale", "greyscale", "monochrome", "gray", "black & white", "colorless"),
        nouns=("a black and white look", "a grayscale filter", "a monochrome style", "black and white", "grayscale"),
        sentences=(
            "remove all colour",
            "remove the color",
            "desaturate the video",
            "take the colors out",
            "desaturate it completely",
            "drain all colour from the clip",
        ),
    ),
    "sepia": Wording(
        adjectives=("sepia", "sepia toned", "brown and old like an antique photo", "look like an old photograph"),
        nouns=("a sepia tone", "a sepia filter", "an old photograph look", "a brownish vintage tone", "sepia"),
        sentences=(
            "age it like an old photo",
            "tint everything sepia",
            "turn it into an antique brown film",
            "make it look like an old film",
        ),
    ),
    "negative": Wording(
        adjectives=("negative", "inverted", "look like a film negative", "color inverted"),
        nouns=("a negative effect", "inverted colors", "a film negative look", "a color inversion", "a negative"),
        sentences=(
            "invert the colors",
            "invert all colours",
            "flip the colors to their opposites",
            "invert it",
            "swap dark and light",
        ),
    ),
    "night": Wording(
        adjectives=("night", "look like night", "nighttime", "look like it was filmed at night", "take place at night"),
        nouns=("a night look", "a night time mood", "moonlight", "a moonlit night atmosphere", "day for night"),
        sentences=(
            "turn day into night",
            "change the time of day to night",
            "set the scene at night",
            "let it be night",
            "relight the scene with moonlight",
        ),
    ),
    "warm": Wording(
        adjectives=("warmer", "warm", "look warm and sunny", "golden", "more orange"),
        nouns=("a warm tone", "warm colors", "a golden hour look", "a warm color grade", "warm light", "sunset colors"),
        sentences=(
            "warm up the colors",
            "shift the colors towards orange",
            "use a warmer white balance",
            "raise the color temperature",
        ),
    ),
    "cold": Wording(
        adjectives=("colder", "cold", "cooler", "look cold and icy", "more blue", "bluish"),
        nouns=(
            "a cold tone",
            "cool colors",
            "an icy blue look",
            "a cold color grade",
            "cold winter light",
            "a blue tint",
        ),
        sentences=(
            "cool down the colors",
            "shift the colors towards blue",
            "use a cooler white balance",
            "lower the color temperature",
        ),
    ),
    "brighter": Wording(
        adjectives=("brighter", "bright", "lighter", "better lit", "much brighter"),
        nouns=("more light", "a brighter exposure", "more brightness", "higher brightness"),
        sentences=(
            "brighten the video",
            "increase the brightness",
            "raise the exposure",
            "lighten it",
            "turn up the brightness",
        ),
    ),
    "darker": Wording(
        adjectives=("darker", "dark", "dimmer", "less bright", "much darker"),
        nouns=("less light", "a darker exposure", "less brightness", "lower brightness"),
        sentences=(
            "darken the video",
            "decrease the brightness",
            "lower the exposure",
            "dim it",
            "turn down the brightness",
        ),
    ),
    "high contrast": Wording(
        adjectives=("high contrast", "more contrasty", "punchier", "stronger in contrast"),
        nouns=("more contrast", "a high contrast look", "strong contrast", "higher contrast"),
        sentences=("increase the contrast", "boost the contrast", "raise the contrast", "turn up the contrast"),
    ),
    "faded": Wording(
        adjectives=("faded", "washed out", "low contrast", "hazy", "pale", "matte"),
        nouns=("a faded look", "a washed out style", "less contrast", "a pale matte finish", "lower contrast"),
        sentences=("fade the colors", "reduce the contrast", "decrease the contrast", "wash out the image"),
    ),
    "vivid": Wording(
        adjectives=("vivid", "more colorful", "more saturated", "vibrant", "colourful"),
        nouns=("vivid colors", "more saturation", "a vibrant look", "stronger colors", "intense colours"),
        sentences=("saturate the colors", "increase the saturation", "boost the colors", "turn up the saturation"),
    ),
    "green": Wording(
        adjectives=("green", "look like night vision", "greenish", "look like the matrix"),
        nouns=(
            "a green tint",
            "a night vision look",
            "a matrix style",
            "a green filter",
            "a green monochrome screen look",
        ),
        sentences=("tint everything green", "turn it green", "show it through night vision goggles", "colour it green"),
    ),
    "blurred": Wording(
        adjectives=("blurry", "blurred", "out of focus", "soft", "unsharp", "softer"),
        nouns=("a blur", "a gaussian blur", "a soft focus", "a blurry look", "an out of focus effect"),
        sentences=("blur the video", "blur everything", "defocus the camera", "soften the picture", "blur it"),
    ),
    "pixelated": Wording(
        adjectives=("pixelated", "blocky", "look like pixel art", "pixelized", "look like an 8-bit video game"),
        nouns=("a pixelation effect", "a mosaic", "a pixel art style", "big pixels", "an 8-bit look", "a pixel mosaic"),
        sentences=(
            "pixelate the video",
            "turn it into pixel art",
            "censor it with a mosaic",
            "pixelate everything",
            "make big square pixels",
        ),
    ),
    "posterized": Wording(
        adjectives=("posterized", "look like a screen print", "flat with only a few colors", "look like a poster"),
        nouns=("a posterize effect", "a posterization", "a pop art look", "a palette of few colors"),
        sentences=("posterize it", "reduce the number of colors", "use only a few flat colors", "posterize the colors"),
    ),
    "solarized": Wording(
        adjectives=("solarized", "look like a solarized photograph", "half inverted"),
        nouns=("a solarize effect", "a solarization", "a sabattier effect", "a solarized look"),
        sentences=(
            "solarize the video",
            "invert only the bright parts",
            "solarize it",
            "darken what is bright by inversion",
        ),
    ),
    "thermal": Wording(
        adjectives=("thermal", "look like a heat map", "look like an infrared image", "look like thermal imaging"),
        nouns=("a thermal camera look", "a heat map", "infrared colors", "thermal vision", "a heat vision effect"),
        sentences=(
            "show it as a heat map",
            "film it with a thermal camera",
            "show the heat",
            "map brightness to heat colors",
        ),
    ),
    "sketch": Wording(
        adjectives=("look like a pencil sketch", "look hand drawn", "look like a line drawing", "sketched"),
        nouns=("a pencil sketch effect", "a line drawing style", "a sketch look", "a pencil drawing", "a sketch"),
        sentences=("draw it with a pencil", "sketch the scene", "show only the outlines", "draw only the contours"),
    ),
    "vignette": Wording(
        adjectives=("vignetted", "darker at the corners", "dark around the edges"),
        nouns=("a vignette", "dark corners", "a vignette effect", "a dark border that fades inwards", "dark edges"),
        sentences=(
            "darken the corners",
            "darken the edges of the frame",
            "shade the borders",
            "fade the corners to black",
        ),
    ),
    "purple": Wording(
        adjectives=("purple", "violet", "purple tinted", "look purple"),
        nouns=("a purple tint", "a violet tone", "a purple filter", "a violet monochrome look", "purple light"),
        sentences=("tint everything purple", "colour it violet", "turn it purple", "bathe the scene in purple light"),
    ),
}

TRAIN_ADJECTIVE_FRAMES = (
    "make the video {}", "make it {}", "make this clip {}", "make the scene {}", "make everything {}",
    "make the whole video {}", "please make the video {}", "i want the video to be {}", "turn the video {}",
    "make the footage {}", "can you make it {}", "make the picture {}", "change the video to be {}", "{}",
)  # fmt: skip
TRAIN_NOUN_FRAMES = (
    "apply {}", "add {}", "give the video {}", "give it {}", "use {}", "apply {} to the video", "apply {} to the clip",
    "change the style to {}", "put {} on the video", "i would like {}", "edit the video with {}", "convert it to {}",
    "convert the video to {}", "render the scene with {}", "{}", "transform the footage with {}", "turn it into {}",
)  # fmt: skip
TRAIN_SENTENCE_FRAMES = ("{}",)

# For every look a sentence of the validation split and one of the test split.
EVALUATION: dict[str, tuple[str, str]] = {
    "grayscale": ("Turn this into a black and white film.", "Convert the clip to grayscale"),
    "sepia": ("Give this footage a sepia look", "Make this look like an old sepia photograph"),
    "negative": ("Show the colors as a negative", "Invert the colours of this clip"),
    "night": ("Make the scene look like it is night", "Change the scene to nighttime"),
    "warm": ("Give the scene warm golden light", "Make the colors warmer"),
    "cold": ("Give the scene a cold blue tone", "Make the colors colder"),
    "brighter": ("Make the whole scene a lot brighter", "Increase the brightness of the clip"),
    "darker": ("Make the whole scene a lot darker", "Decrease the brightness of the clip"),
    "high contrast": ("Give the footage much more contrast", "Boost the contrast of this video"),
    "faded": ("Give the footage a washed out, faded look", "Make the colors pale and faded"),
    "vivid": ("Make the colors more vivid and saturated", "Give the clip vibrant colors"),
    "green": ("Tint the whole clip green", "Make it look like night vision footage"),
    "blurred": ("Blur the whole clip", "Make the footage blurry and out of focus"),
    "pixelated": ("Pixelate this clip", "Turn the footage into blocky pixel art"),
    "posterized": ("Reduce the clip to a handful of flat colors", "Turn the clip into a posterized print"),
    "solarized": ("Give the footage a solarized look", "Solarize this clip"),
    "thermal": ("Show the footage through a thermal camera", "Render this clip in heat map colors"),
    "sketch": ("Turn the footage into a pencil drawing", "Show this clip as a black and white line sketch"),
    "vignette": ("Put a dark vignette around the footage", "Shade the four corners of this clip"),
    "purple": ("Tint the whole clip purple", "Give the footage a violet monochrome tone"),
}


def look_examples(look: str) -> list[str]:
    """Every phrase of a look's training split, each in one sentence: for a model's `trained_for`."""
    wording, turn = TRAIN_WORDINGS[look], list(TRAIN_WORDINGS).index(look)
    groups = (
        (wording.adjectives, TRAIN_ADJECTIVE_FRAMES),
        (wording.nouns, TRAIN_NOUN_FRAMES),
        (wording.sentences, TRAIN_SENTENCE_FRAMES),
    )
    return [
        frames[(5 * number + turn) % len(frames)].format(phrase)
        for phrases, frames in groups
        for number, phrase in enumerate(phrases)
    ]


def look_instruction(look: str, split: str, draw: Draw) -> str:
    """A clause that asks for `look`, one of `synth.looks.LOOKS`, without a final mark."""
    if split != "train":
        text = EVALUATION[look][split == "test"].rstrip(".")
        return text[0].lower() + text[1:]
    wording = TRAIN_WORDINGS[look]
    phrases, frames = draw.choice(
        (
            (wording.adjectives, TRAIN_ADJECTIVE_FRAMES),
            (wording.nouns, TRAIN_NOUN_FRAMES),
            (wording.sentences, TRAIN_SENTENCE_FRAMES),
        )
    )
    return draw.choice(frames).format(draw.choice(phrases))


def fill(key: str, split: str, draw: Draw, **words: str) -> str:
    """A clause from one of a family's templates."""
    return draw.choice(TEMPLATES[key][split]).format(**words)


def finish(clause: str, split: str, draw: Draw) -> str:
    """A whole instruction: wrapped, with or without a capital and a final mark."""
    if draw.chance(0.35) and clause[-1] not in "?.!":
        clause = draw.choice(WRAPPERS[split]).format(clause)
    if draw.chance(0.6):
        clause = clause[0].upper() + clause[1:]
    return clause + draw.choice(("", "", ".")) if clause[-1] not in "?.!" else clause


def with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' and not words.startswith(('uni', 'one')) else 'a'} {words}"
