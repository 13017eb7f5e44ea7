"""Values of several words, composed of real ones."""

from __future__ import annotations

from qa.data.bios.schema import Composed

_MONTHS = tuple(
    """
    January February March April May June July August September October November December
    """.split()
)

# Days on which something happened, such as "14 March 1962".
DATES = Composed(
    "{} {} {}",
    tuple(str(day) for day in range(1, 29)),
    _MONTHS,
    tuple(str(year) for year in range(1871, 1991)),
)

# Days of a yearly event.
FEASTS = Composed(
    "the {} {} in {}",
    ("first", "second", "third", "last"),
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    _MONTHS,
)

# Where an organisation is, or where a person lived.
ADDRESSES = Composed(
    "{} {} {}",
    tuple(str(number) for number in range(11, 100)),
    tuple(
        """
        Abbey Alder Barley Beacon Beech Bishop Canal Castle Cedar Chapel Cherry Church College
        Copper Elm Factory Farm Ferry Garden Granary Harbour Hawthorn Heath Juniper Laurel Linden
        Maple Market Meadow Mill Orchard Park Poplar Prince Quarry Queen Rose Station Temple Thorn
        Tower Vine Walnut Water Willow Windmill
        """.split()
    ),
    ("Avenue", "Lane", "Road", "Row", "Square", "Street", "Terrace", "Walk"),
)

# Somebody's relative, such as "the harbour master's daughter".
RELATIVES = Composed(
    "the {}'s {} {}",
    (
        *("bell ringer", "bridge keeper", "chess teacher", "circus owner", "coal merchant"),
        *("country doctor", "court painter", "ferry captain", "fire chief", "forest guard"),
        *("glass blower", "gold digger", "harbour master", "head gardener", "horse dealer"),
        *("landscape painter", "lighthouse keeper", "piano tuner", "police officer"),
        *("prison governor", "sea captain", "ship builder", "silk trader", "station master"),
        *("stone cutter", "town clerk", "village priest", "watch maker", "wine merchant"),
    ),
    ("eldest", "youngest", "favourite", "adopted"),
    ("daughter", "son", "nephew", "niece", "cousin", "sister", "brother"),
)

# Books that a person wrote, such as "A Short History of Bridges".
BOOKS = Composed(
    "{} of {}",
    (
        *("A Brief Account", "A Complete Atlas", "A Plain Defence", "A Secret Diary"),
        *("A Short History", "A Small Encyclopaedia", "In Praise", "In Search"),
        *("On the Origin", "The Art", "The Decline", "The Hidden Meaning", "The Long Summer"),
        *("The Lost Language", "The Nature", "The Secret Life", "The True Price"),
    ),
    tuple(
        """
        Anger Bees Bells Birds Bread Bridges Canals Candles Cats Cheese Clouds Clowns Coal Coffee
        Colours Comets Dogs Doors Dreams Dust Echoes Envy Ferns Fire Fog Frogs Gardens Glass Gold
        Grass Honey Horses Ice Islands Keys Kites Lace Lamps Letters Maps Mirrors Moss Owls Paper
        Pearls Rain Rivers Rust Salt Sand Shadows Silence Sleep Snow Spices Storms Tea Thunder
        Tides Tulips Umbrellas Walls Whales Wind Wolves
        """.split()
    ),
)

# Full names, of those who founded a place or an organisation, or wrote a work.
FULL_NAMES = Composed(
    "{} {} {}",
    tuple(
        """
        Ada Agnes Albert Alice Amelia Anna Arthur Benjamin Caroline Charles Clara Daniel Dorothy
        Edith Edmund Edward Eleanor Elizabeth Emily Ernest Florence Frances Frederick George Grace
        Harold Harriet Helen Henry Hugh Ida Isabel James Jane John Joseph Julia Katherine Laura
        Leonard Louise Lucy Mabel Margaret Martha Mary Matilda Michael Nora Oliver Oscar Paul
        Philip Rachel Richard Robert Rosa Ruth Samuel Sarah Simon Sophia Susan Theodore Thomas
        Victor Walter William
        """.split()
    ),
    tuple("Beatrice Cecil Claude Eve Felix Gail Ivy Jude Kay Lee May Noel Pearl Ray".split()),
    tuple(
        """
        Abbott Baker Barlow Bennett Bradshaw Carter Chandler Cooper Crawford Dawson Dixon Ellison
        Farmer Fletcher Foster Garland Gibson Goodwin Hargreaves Harper Hawkins Holloway Hutchinson
        Jackson Jennings Kendall Lambert Langley Lawson Marlowe Mercer Middleton Norton Osborne
        Palmer Parker Pemberton Potter Ramsey Robinson Russell Saunders Sheldon Simmons Stanton
        Sutton Thornton Turner Underwood Vaughan Wakefield Walker Watson Webster Whitmore Wilkinson
        """.split()
    ),
)

# Two pastimes of a person.
PASTIMES = Composed(
    "{} and {}",
    tuple(
        """
        archery badminton billiards bowling boxing canoeing chess cricket croquet cycling darts
        diving fencing fishing football golf gymnastics hiking hockey hunting
        """.split()
    ),
    tuple(
        """
        astronomy baking calligraphy carpentry carving cooking drawing embroidery gardening
        genealogy knitting needlework origami painting photography poetry pottery puppetry quilting
        weaving
        """.split()
    ),
)

# Two things that a place sells.
GOODS = Composed(
    "{} and {}",
    tuple(
        """
        amber baskets bricks candles carpets chairs clocks copper flutes glass ink lace leather
        linen marble paper rope salt silk silver soap tiles timber violins wool
        """.split()
    ),
    tuple(
        """
        almonds apples barley beer butter cheese cherries chocolate cider garlic grapes ham honey
        lemons mushrooms mustard olives onions pears plums rye saffron tea vinegar wine
        """.split()
    ),
)

# A work's main character, such as "a retired lighthouse keeper".
HEROES = Composed(
    "a {} {}",
    (
        *("blind", "cheerful", "clumsy", "cowardly", "curious", "forgetful", "generous", "greedy"),
        *("homesick", "jealous", "lazy", "lonely", "nameless", "proud", "retired", "ruthless"),
        *("shy", "silent", "stubborn", "talkative", "vain", "wealthy"),
    ),
    (
        *("apple farmer", "art dealer", "ballet dancer", "bank robber", "book binder"),
        *("bus driver", "circus clown", "coal miner", "court jester", "deep-sea diver"),
        *("film director", "fortune teller", "grave digger", "hotel porter", "ice skater"),
        *("jazz singer", "language teacher", "night watchman", "opera singer", "pearl fisher"),
        *("puppet maker", "racing driver", "rope dancer", "school teacher", "ship's cook"),
        *("snake charmer", "sword swallower", "taxi driver", "tram conductor", "travelling judge"),
    ),
)

# The title under which a work was first known, such as "Return to the Northern Harbour".
TITLES = Composed(
    "{} the {} {}",
    (
        *("A Letter from", "Away from", "Before", "Behind", "Below", "Beyond", "Farewell to"),
        *("Return to", "The Road to", "Waiting for"),
    ),
    tuple(
        """
        Ancient Burning Cold Crowded Distant Drowned Eastern Empty Enchanted Flooded Forgotten
        Frozen Great Hidden Lonely Northern Quiet Ruined Silent Southern Stolen Sunken Western White
        """.split()
    ),
    tuple(
        """
        Castle Cathedral Cellar City Desert Forest Fortress Frontier Gallery Garden Harbour Island
        Kingdom Library Lighthouse Monastery Mountain Ocean Orchard Palace Prairie River Theatre
        Valley Village Volcano Waterfall
        """.split()
    ),
)

# An organisation's motto.
MOTTOS = Composed(
    "{} {} {}",
    (
        *("beauty", "bravery", "care", "courage", "curiosity", "doubt", "duty", "friendship"),
        *("generosity", "hard work", "honesty", "hope", "humour", "joy", "justice", "kindness"),
        *("learning", "mercy", "patience", "peace", "reason", "truth"),
    ),
    ("above", "before", "rather than", "without"),
    (
        *("anger", "applause", "blame", "comfort", "envy", "fame", "fear", "flattery", "fortune"),
        *("glory", "haste", "hatred", "luxury", "money", "pity", "power", "pride", "profit"),
        *("regret", "revenge", "speed", "victory"),
    ),
)
