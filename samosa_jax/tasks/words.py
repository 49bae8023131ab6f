"""English words to spell and to count letters in; many repeat letters, where counting goes wrong."""

_WORDS = """
    strawberry banana mississippi raspberry blueberry cranberry apple orange cherry tomato potato carrot
    pepper onion garlic ginger cinnamon coriander turmeric tamarind chutney samosa pudding pancake
    biscuit sandwich noodle dumpling chocolate vanilla caramel almond walnut pistachio coconut pineapple
    avocado broccoli cabbage spinach lettuce cucumber elephant giraffe kangaroo crocodile butterfly
    grasshopper dragonfly squirrel hedgehog raccoon penguin flamingo parrot sparrow pelican ostrich
    leopard cheetah panther buffalo antelope gorilla chimpanzee dolphin octopus jellyfish lobster
    mosquito beetle caterpillar ladybird scorpion tortoise salamander chameleon rabbit hamster donkey
    camel llama mountain valley river waterfall volcano glacier desert island peninsula meadow forest
    rainforest thunder lightning rainbow blizzard hurricane tornado avalanche earthquake weather
    temperature atmosphere horizon sunset moonlight kitchen bedroom bathroom cellar balcony staircase
    chimney curtain mattress pillow blanket wardrobe cupboard drawer bookshelf lantern candle mirror
    carpet cushion kettle teapot saucepan spatula colander corkscrew scissors hammer screwdriver ladder
    bucket shovel wheelbarrow umbrella suitcase backpack necklace bracelet wristwatch spectacles bicycle
    motorcycle helicopter aeroplane submarine locomotive tractor ambulance elevator escalator parachute
    balloon library museum theatre cinema hospital university laboratory observatory lighthouse
    cathedral monastery parliament grammar sentence paragraph vocabulary dictionary encyclopedia
    alphabet syllable pronunciation punctuation apostrophe committee assessment accommodation
    embarrassment possession occurrence millennium address success necessary successful recommend
    immediately beginning occasionally disappear disappoint commission mathematics multiplication
    addition subtraction division geometry triangle rectangle parallel hypotenuse fraction decimal
    percentage statistics probability algebra calculus science chemistry physics biology astronomy
    telescope microscope thermometer barometer electricity magnetism gravity molecule particle electron
    neutron oxygen hydrogen nitrogen aluminium titanium computer keyboard printer internet program
    algorithm compiler database network password telephone television radio photograph camera orchestra
    violin trumpet trombone saxophone clarinet guitar accordion piano drummer melody rhythm harmony
    symphony painter sculpture gallery ceramic pottery embroidery knitting gardener carpenter plumber
    mechanic engineer architect librarian professor musician astronaut firefighter electrician
    accountant pharmacist translator happiness kindness patience courage curiosity generosity honesty
    imagination friendship celebration birthday holiday yesterday tomorrow afternoon midnight september
    november february wednesday calendar century anniversary adventure excellent beautiful wonderful
    delicious dangerous mysterious tremendous ridiculous comfortable colourful peaceful whisper giggle
    stumble scramble juggle wander gallop shimmer sparkle tremble balance discover remember understand
    cotton velvet leather ribbon button pocket sleeve collar trousers sweater slipper sandal mitten
    scarf bonnet basketball football tennis badminton volleyball swimming gymnastics marathon archery
    wrestling skating hockey bookkeeper assassin cappuccino espresso tattoo zucchini mozzarella
    spaghetti macaroni ravioli tiramisu baguette bee tree moss grass llano queue eerie booze goose
    cheese sneeze freeze breeze steep sleep street coffee toffee bottle battle cattle settle little
    middle puddle riddle saddle paddle pebble bubble rubble hobble wobble ball bell bill bull doll dull
    fall fell fill full hall hill hull mall mill pull roll sell shell smell spell
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())
