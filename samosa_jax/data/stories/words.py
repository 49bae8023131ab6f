"""The vocabulary of the stories: names, creatures, things and places, each list free to grow."""

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    """Split at every | if there is one, otherwise at every space."""
    return tuple(" ".join(part.split()) for part in (text.split("|") if "|" in text else text.split()))


GIRLS = _words("""
    Mia Lily Anna Rosa Nora Zoe Ella Maya Ruby Clara Ivy Sofia Tara Lucy Hana Amira Jade Olive Penny Leila
    Daisy Wren Freya Nina
""")
BOYS = _words("""
    Tom Ben Leo Max Sam Omar Finn Jack Noah Ravi Luca Theo Hugo Oscar Diego Kofi Milo Eli Arun Pablo Felix
    Jonas Yusuf Toby
""")
ANIMAL_NAMES = _words("""
    Pip Bramble Hazel Nutmeg Clover Rusty Moss Pebble Fern Button Thistle Acorn Maple Sorrel Juniper Tansy
    Barley Teasel Conker Bracken
""")
PET_NAMES = _words("""
    Biscuit Pepper Ginger Shadow Socks Waffles Peanut Sunny Domino Muffin Coco Patch Smoky Pickle
""")
SURNAMES = _words("""
    Brown Lopez Green Patel Novak Kim Silva Hill Baker Rossi Adams Moreau Stone Okafor Weber Tanaka
""")
ELDERS = {"Mom": "she", "Dad": "he", "Grandma": "she", "Grandpa": "he", "Aunt May": "she", "Uncle Joe": "he"}

# Small wild animals that can talk in stories, and the big ones they meet.
SMALL_ANIMALS = _words("""
    hedgehog | squirrel | mouse | rabbit | mole | frog | duckling | sparrow | otter | chipmunk | hamster |
    beaver | turtle | lizard | kitten | lamb
""")
BIG_ANIMALS = _words("bear | wolf | deer | moose | goose | horse | badger | swan | heron | ox | boar | stork")
# What a pet does: its voice, its joy ({0} is "his" or "her"), its bed.
PETS = {
    "puppy": ("barked", "wagged {0} tail", "basket"),
    "dog": ("barked", "wagged {0} tail", "basket"),
    "kitten": ("mewed", "rolled on {0} back", "cushion"),
    "cat": ("meowed", "flicked {0} tail", "cushion"),
    "parrot": ("squawked", "flapped {0} wings", "corner"),
    "pony": ("neighed", "shook {0} mane", "stable"),
    "goat": ("bleated", "stamped {0} feet", "shed"),
}

COLORS = _words("red blue green yellow orange purple pink white brown gray golden silver")
TOYS = _words("""
    ball | kite | doll | drum | puzzle | robot | toy train | toy truck | toy boat | spinning top | teddy
    bear | toy car | toy plane | jump rope | wooden duck | paper crown | music box | whistle | yo-yo |
    puppet | toy bear | wooden horse
""")
SMALL_THINGS = _words("""
    key | button | coin | ring | feather | shell | ribbon | glove | scarf | hat | bell | book | map | cup |
    spoon | brush | pencil | watch | necklace | postcard
""")
FOODS = _words("""
    sandwich | slice of apple pie | bowl of soup | warm cookie | plum cake | piece of bread and honey |
    cheese roll | pancake | bowl of rice | muffin | slice of melon | bun with jam | baked potato | cup of
    cocoa | plate of noodles | carrot cake
""")
FRUITS = _words("apples | pears | plums | peaches | oranges | cherries | melons | figs | apricots")
VEGETABLES = _words("""
    carrot | pumpkin | turnip | cabbage | tomato plant | bean plant | sunflower | strawberry plant | pea
    plant
""")
# Things that are counted and shared: one, many.
COUNTED = {
    "apple": "apples",
    "pear": "pears",
    "cherry": "cherries",
    "shell": "shells",
    "stone": "stones",
    "leaf": "leaves",
    "cookie": "cookies",
    "flower": "flowers",
    "acorn": "acorns",
    "berry": "berries",
    "plum": "plums",
    "walnut": "walnuts",
    "egg": "eggs",
    "sticker": "stickers",
    "marble": "marbles",
    "candle": "candles",
}
# Where children play: the place, and the word that goes before it.
PLACES = {
    "park": "in",
    "garden": "in",
    "beach": "at",
    "playground": "at",
    "farm": "on",
    "lake": "at",
    "orchard": "in",
    "forest": "in",
    "meadow": "in",
    "school yard": "in",
    "river": "by",
    "village square": "in",
    "harbor": "at",
    "old mill": "by",
    "hill": "on",
}
NUMBERS = _words("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty
""")
PRONOUNS = {"she": ("her", "her"), "he": ("him", "his")}


@dataclass(frozen=True)
class Person:
    """Somebody in a story: `{hero}` reads the name, `{hero.he}` the pronoun."""

    name: str
    he: str
    kind: str  # "girl", "hedgehog", "kitten"

    def __str__(self) -> str:
        return self.name

    @property
    def him(self) -> str:
        return PRONOUNS[self.he][0]

    @property
    def his(self) -> str:
        return PRONOUNS[self.he][1]


@dataclass(frozen=True)
class Pet(Person):
    sound: str  # "barked"
    is_glad: str  # "wagged his tail"
    bed: str  # "basket"


@dataclass(frozen=True)
class Place:
    name: str
    preposition: str

    def __str__(self) -> str:
        return f"the {self.name}"

    @property
    def at(self) -> str:
        """Where: "in the park"."""
        return f"{self.preposition} the {self.name}"


@dataclass(frozen=True)
class Counted:
    one: str
    many: str
