"""Instructions for the global looks: phrases that name a look, in sentences around them.

Training and evaluation never share a sentence frame or a phrase, so a score on `EVALUATION` wordings measures
understanding of words in new combinations.
"""

import random
from dataclasses import dataclass


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
TRAIN_SENTENCE_FRAMES = ("{}", "please {}", "{} please", "can you {}", "now {}", "i want you to {}")

EVALUATION: dict[str, tuple[str, ...]] = {
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
}


def sample_instruction(look: str, rng: random.Random) -> str:
    """A training instruction for `look`, one of `synth.looks.LOOKS`."""
    wording = TRAIN_WORDINGS[look]
    phrases, frames = rng.choice(
        (
            (wording.adjectives, TRAIN_ADJECTIVE_FRAMES),
            (wording.nouns, TRAIN_NOUN_FRAMES),
            (wording.sentences, TRAIN_SENTENCE_FRAMES),
        )
    )
    text = rng.choice(frames).format(rng.choice(phrases))
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + rng.choice(("", "", ".", "!"))
