"""What can be explained from settled knowledge, in two or three sentences each."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topic:
    clause: str  # completes "Tell me ..."
    key_words: tuple[str, ...]  # an explanation names them
    answer: str


TOPICS = (
    Topic(
        "how airplanes fly",
        ("wings", "lift"),
        "The wings of a moving plane push air downwards, and the air pushes back with a force called lift. "
        "Engines supply the speed that keeps it going. When lift equals the weight, the plane stays level.",
    ),
    Topic(
        "why the sky is blue",
        ("scatter", "blue"),
        "Molecules of air scatter short wavelengths far more than long ones. So blue light reaches our eyes "
        "from every direction of the sky, while red passes almost straight through.",
    ),
    Topic(
        "how rainbows form",
        ("drops", "light"),
        "Sunlight enters drops of rain, bends, reflects at the back and bends again on the way out. Each "
        "colour of the light bends by its own angle, so they leave side by side.",
    ),
    Topic(
        "why we have seasons",
        ("axis", "tilted"),
        "The axis of the Earth is tilted. For half of the year the north leans towards the Sun and gets "
        "longer, stronger days; for the other half it is the turn of the south.",
    ),
    Topic(
        "what causes tides",
        ("Moon", "gravity"),
        "The gravity of the Moon pulls harder on the near side of the Earth than on the far side, which "
        "stretches the oceans into two bulges. As the Earth turns, coasts pass through both of them.",
    ),
    Topic(
        "how vaccines work",
        ("immune", "harmless"),
        "A vaccine shows the immune system a harmless piece or a weakened form of a germ. The body learns "
        "to recognise it and keeps memory cells, so the real germ is fought off quickly.",
    ),
    Topic(
        "why bread rises",
        ("yeast", "gas"),
        "In the dough, yeast feeds on sugars and gives off a gas, carbon dioxide. Stretchy gluten traps the "
        "bubbles, so the loaf swells before the oven makes it firm.",
    ),
    Topic(
        "how a battery works",
        ("chemical", "electrons"),
        "A battery stores chemical energy. A reaction at one end sets electrons free, and they flow through "
        "the circuit to the other end, where a second reaction takes them up.",
    ),
    Topic(
        "why ice floats on water",
        ("less", "dense"),
        "Water expands when it freezes, because its molecules lock into an open lattice. The same weight "
        "takes up more room, so ice is less dense than the liquid and floats.",
    ),
    Topic(
        "how photosynthesis works",
        ("light", "sugar"),
        "Leaves take in carbon dioxide and water and use the energy of light to turn them into sugar. "
        "Oxygen is left over and goes into the air.",
    ),
    Topic(
        "what the heart does",
        ("blood", "pumps"),
        "The heart is a muscle that pumps blood in two loops. The right side sends it to the lungs for "
        "oxygen, and the left side sends it to the rest of the body.",
    ),
    Topic(
        "why leaves change colour in autumn",
        ("chlorophyll", "green"),
        "In autumn a tree breaks down the green chlorophyll of its leaves and takes back what is useful. "
        "Yellow and orange pigments that were there all along become visible.",
    ),
    Topic(
        "how bees make honey",
        ("nectar", "water"),
        "Bees collect nectar from flowers and pass it from mouth to mouth, adding enzymes. In the comb they "
        "fan it with their wings until most of the water is gone and it keeps for years.",
    ),
    Topic(
        "what inflation is",
        ("prices", "money"),
        "Inflation is a general rise of prices over time. The same money then buys less than before, which "
        "is why wages and savings are compared with it.",
    ),
    Topic(
        "how a refrigerator keeps food cold",
        ("heat", "evaporates"),
        "Inside the pipes a fluid evaporates and takes up heat from the food. A compressor then squeezes it "
        "until it turns liquid again outside, where that heat is given off to the room.",
    ),
    Topic(
        "why we dream",
        ("sleep", "memories"),
        "Nobody knows for certain. Most dreams come in a phase of sleep with lively brain activity, and "
        "many researchers think that it helps to sort memories and feelings.",
    ),
    Topic(
        "how a search engine finds pages",
        ("index", "ranks"),
        "Programs follow links and copy pages into a huge index, which lists for every word where it "
        "occurs. A query looks up its words there and ranks the pages by how well they fit.",
    ),
    Topic(
        "what a prime number is",
        ("divided", "itself"),
        "A prime is a whole number above 1 that can be divided evenly only by 1 and itself. 2, 3, 5, 7 and "
        "11 are the first of them, and there is no last one.",
    ),
    Topic(
        "how thunder is made",
        ("lightning", "air"),
        "A stroke of lightning heats the air along its path to many thousands of degrees within an instant. "
        "The air expands so fast that it sends out a shock wave, and that is what we hear.",
    ),
    Topic(
        "why onions make us cry",
        ("gas", "eyes"),
        "Cutting an onion breaks its cells, and their contents react to form an irritating gas. When it "
        "reaches the eyes, they make tears to wash it away.",
    ),
    Topic(
        "how a compass works",
        ("magnetic", "needle"),
        "The Earth has a magnetic field that runs roughly from pole to pole. The needle of a compass is a "
        "small magnet that turns freely, so it lines up with that field.",
    ),
    Topic(
        "what recycling is good for",
        ("materials", "energy"),
        "Recycling turns waste into materials for new products. It usually takes less energy than making "
        "them from ore, oil or wood, and it keeps waste out of landfills.",
    ),
    Topic(
        "how fish breathe",
        ("gills", "oxygen"),
        "Fish let water stream over their gills, which are full of tiny blood vessels. Oxygen that is "
        "dissolved in the water passes through their thin walls into the blood.",
    ),
    Topic(
        "what a black hole is",
        ("gravity", "light"),
        "A black hole is a region of space whose gravity is so strong that not even light can leave it. "
        "Many are formed when the core of a very heavy star collapses.",
    ),
    Topic(
        "how to boil an egg",
        ("minutes", "water"),
        "Bring water to the boil, lower the egg in with a spoon, and wait: some six minutes for a soft "
        "yolk, about ten for a hard one. Cold water afterwards stops the cooking.",
    ),
    Topic(
        "how to fall asleep more easily",
        ("dark", "same"),
        "Go to bed at the same time every day, keep the room dark and cool, and put screens away an hour "
        "before. Coffee late in the day makes it harder.",
    ),
    Topic(
        "why the sea is salty",
        ("rivers", "minerals"),
        "Rain wears rocks away, and rivers carry the dissolved minerals to the sea. Water evaporates again "
        "and the salt stays, so over millions of years it has built up.",
    ),
    Topic(
        "how glass is made",
        ("sand", "melted"),
        "Pure sand is melted together with soda and lime at well above a thousand degrees. The glowing "
        "liquid is blown, pressed or floated flat, and then cooled slowly so that it does not crack.",
    ),
    Topic(
        "what democracy means",
        ("people", "vote"),
        "Democracy means rule by the people. They vote for those who make the laws, may vote them out "
        "again, and are protected by rights that a majority cannot simply take away.",
    ),
    Topic(
        "how a camera lens works",
        ("bends", "sharp"),
        "A lens bends the rays that come from each point of a scene so that they meet again in one point "
        "behind it. If the sensor lies at just that distance, the picture is sharp.",
    ),
    Topic(
        "why metal feels colder than wood",
        ("heat", "conducts"),
        "Both may have the same temperature, but metal conducts far better. It carries heat away from the "
        "hand quickly, and our skin feels that loss as cold.",
    ),
    Topic(
        "how an echo arises",
        ("sound", "reflected"),
        "A sound travels to a wall or a cliff, is reflected there and comes back. If the way is long "
        "enough, it arrives late enough to be heard on its own.",
    ),
)
