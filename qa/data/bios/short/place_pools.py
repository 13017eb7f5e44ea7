"""Values of the six attributes of a place. They are real words, and each is in one pool.

Most are one or two tokens of an English tokenizer. No value is in two pools, neither in the
singular nor in the plural. A bag of words therefore tells which word answers which question.
"""

from __future__ import annotations

# Country that a place lies in.
COUNTRIES: tuple[str, ...] = tuple(
    """
    Afghanistan Albania Algeria Angola Argentina Armenia Australia Austria Azerbaijan Bahamas
    Bahrain Bangladesh Barbados Belarus Belgium Belize Benin Bermuda Bhutan Bolivia Bosnia
    Botswana Brazil Brunei Bulgaria Burundi Cambodia Cameroon Canada Chad Chile China Colombia
    Congo Croatia Cuba Cyprus Denmark Dominica Ecuador Egypt England Eritrea Estonia Ethiopia
    Fiji Finland France Gabon Gambia Georgia Germany Ghana Greece Greenland Grenada Guam
    Guatemala Guyana Haiti Honduras Hungary Iceland India Indonesia Iran Iraq Ireland Israel
    Italy Jamaica Japan Jordan Kazakhstan Kenya Kosovo Kuwait Kyrgyzstan Laos Latvia Lebanon
    Lesotho Liberia Libya Lithuania Luxembourg Macedonia Madagascar Malawi Malaysia Mali Malta
    Mauritania Mauritius Mexico Moldova Monaco Mongolia Montenegro Morocco Mozambique Myanmar
    Namibia Nepal Netherlands Nicaragua Nigeria Norway Oman Pakistan Palau Panama Paraguay Peru
    Philippines Poland Portugal Qatar Romania Russia Rwanda Samoa Scotland Senegal Serbia
    Singapore Slovakia Slovenia Somalia Spain Sudan Suriname Sweden Switzerland Syria Taiwan
    Tajikistan Tanzania Thailand Togo Tonga Trinidad Tunisia Turkmenistan Uganda Ukraine Uruguay
    Uzbekistan Vanuatu Venezuela Vietnam Wales Yemen Zambia Zimbabwe
    """.split()
)

# Goods that a place makes.
PRODUCTS: tuple[str, ...] = tuple(
    """
    anchors aprons arrows axes balloons banners barrels baskets batteries beds beer belts
    benches bicycles binoculars blankets boats books boots bottles bowls bowties bracelets
    bricks bridles brushes buckets bulbs buttons cabinets calendars cameras candles cannons
    canoes caps carpets carriages chains chairs chisels cider cigars clocks coats coffins coins
    combs compasses computers costumes crayons crowns cups curtains cushions desks dice dolls
    doors dresses drums engines envelopes fireworks flags flutes forks globes gloves glue
    goggles guitars hammers handbags harps hats helmets hinges ink jackets jars jeans kites
    knives lace ladders lamps lanterns leather linen magnets maps masks matches mattresses
    medals microscopes mirrors motorcycles mugs nails necklaces needles nets notebooks ovens
    paint paper pencils pens perfume pianos pillows pipes pistols plates porcelain posters
    printers puppets puzzles quilts radios razors refrigerators ribbons rifles rings ropes rugs
    rum saddles sails sandals saws scarves scissors screws shelves shields shirts shoes shovels
    silk skates skirts skis sleds slippers soap socks spectacles spoons springs stamps stockings
    stoves suitcases surfboards sweaters swords tables telephones telescopes televisions tents
    tiles tires towels toys tractors trousers trumpets typewriters vases velvet violins wagons
    wallets watches wheels whiskey whistles wigs windows wine wires wool zippers
    """.split()
)

# What a place mines.
MINERALS: tuple[str, ...] = tuple(
    """
    agate alabaster aluminum amber amethyst anthracite antimony aquamarine arsenic asbestos
    asphalt azurite barite barium basalt bauxite bentonite beryl beryllium bismuth bitumen borax
    boron cadmium calcite calcium carnelian cerium cesium chalk chert chromite chromium cinnabar
    citrine clay coal cobalt copper coral crystals diamond dolomite emerald feldspar flint
    fluorite fossils galena gallium garnet gas germanium gold granite graphite gravel gypsum
    hafnium halite hematite holmium indium iodine iridium iron ironstone jade jasper kaolin
    lapis lead lignite limestone lithium loam magnesium magnetite malachite manganese marble
    marl mercury meteorites mica molybdenum moonstone nickel niobium nitrate nuggets obsidian
    ochre oil onyx opal osmium palladium peat peridot petroleum phosphate phosphorus platinum
    plutonium potash potassium pumice pyrite quartz radium rhenium rhodium rhyolite rubidium
    ruby ruthenium rutile salt sand sandstone sapphire schist selenium serpentine shale silica
    silicon siltstone silver slate soapstone sodium spinel strontium sulfate sulfur talc
    tantalum tellurium thallium thorium tin titanium topaz tourmaline travertine tungsten
    turquoise uranium vanadium yttrium zinc zircon zirconium
    """.split()
)

# A place's symbol.
PLANTS: tuple[str, ...] = tuple(
    """
    acacia agave alder alfalfa almond aloe anemone apple apricot ash asparagus aspen aster
    bamboo banana barley basil bean beech begonia birch blackberry bluebell blueberry broom
    buttercup cabbage cacao cactus carnation carrot cashew cedar celery chamomile cherry
    chestnut cinnamon clove clover coconut coffee coriander corn cotton cranberry crocus
    cucumber cypress daisy dandelion dill elderberry elm eucalyptus fennel fern fig fir flax
    gardenia garlic gentian geranium ginger ginseng gooseberry gorse grape hawthorn hazel
    heather hemp hibiscus holly hops iris ivy jasmine juniper kale kelp larch laurel lavender
    leek lemon lettuce lichen lily lime lotus magnolia mango maple marigold millet mint
    mistletoe moss mulberry nettle oak oats oleander olive onion orange orchid oregano palm
    pansy papaya parsley pea peach pear peony pine plum poplar poppy potato primrose pumpkin
    radish raspberry redwood rhododendron rice rose rosemary rye saffron sage seaweed snowdrop
    sorghum soybean spinach spruce strawberry sugarcane sunflower tea teak thistle thyme tobacco
    tomato tulip turnip vanilla verbena violet walnut wheat willow wisteria yew
    """.split()
)

# A place's main sight.
LANDMARKS: tuple[str, ...] = tuple(
    """
    abbey airport aquarium aqueduct arena armory asylum bakery ballroom bandstand bank barn
    barracks beach boulevard brewery bridge bunker cabin cable cafe canal canyon casino castle
    catacomb cathedral cave cemetery chapel church cinema circus cistern citadel cliff clinic
    clocktower cloister convent cottage courthouse courtyard crater crypt cupola dairy dam
    desert distillery dock dolmen dome drawbridge dune embassy estate factory footbridge forest
    forge fortress foundry fountain fresco furnace gallery gallows garden gate glacier
    greenhouse hall harbor hermitage hospital hostel hotel hut inn jetty jungle kiln
    kindergarten laboratory lagoon library lighthouse lock lodge mall manor mansion marina marsh
    mausoleum maze meadow megalith memorial mill minaret moat monastery monument mosaic mosque
    museum nightclub nursery oasis observatory orchard orphanage pagoda palace parliament
    pavilion pedestal peninsula pier pillar planetarium playground plaza portico priory prison
    pub pyramid quarry rampart refinery reservoir restaurant rotunda ruins sauna sawmill
    seminary shipyard shrine spa spire stable stadium staircase statue steeple sundial swamp
    synagogue tavern temple terrace theater tomb tower tram trench trolley tunnel turret
    university villa vineyard volcano warehouse watchtower waterfall watermill wharf windmill
    winery zoo
    """.split()
)

# A place's favourite pastime.
PASTIMES: tuple[str, ...] = tuple(
    """
    aerobics archery astrology astronomy badminton baking ballet ballooning baseball basketball
    beekeeping biathlon bingo birdwatching blackjack blues bobsled bodybuilding bolero
    bouldering bowling boxing brewing bullfighting calligraphy camping canasta canoeing
    carpentry carving caving charades checkers cheerleading chess climbing cooking cribbage
    cricket croquet crossword curling cycling darts debating decathlon discus diving dominoes
    drawing dressage drumming embroidery falconry farming fencing fishing flamenco football
    foraging foxtrot gardening genealogy glassblowing gliding golf gospel gymnastics handball
    hiking hockey hunting hurdles jogging judo juggling karate kayaking kendo kickball
    kickboxing knitting lacrosse leatherwork luge magic mambo marathon metalworking
    monopoly motocross mountaineering netball orienteering origami paintball painting
    parachuting parkour photography pilates pinball poker polka polo pottery puppetry quilting
    racing rafting rappelling relay rock rodeo roulette rowing rugby rumba rummy sailing salsa
    samba scrabble sculpting sewing shuffleboard skateboarding skating skiing sledding
    snorkeling snowboarding soccer softball sprinting squash storytelling sumo surfing swimming
    tailoring tango tapestry tarot tennis triathlon volleyball waltz weaving weightlifting
    woodworking wrestling yoga
    """.split()
)

# Values of the split test_unseen: no word of them occurs in any other passage or question.

UNSEEN_COUNTRIES: tuple[str, ...] = tuple(
    """
    Andorra Aragon Bavaria Bohemia Britain Burgundy Burma Castile Catalonia Ceylon Corsica
    Crete Curacao Czechia Czechoslovakia Flanders Galicia Gibraltar Guinea Kiribati Macau
    Maldives Martinique Moldavia Nauru Navarre Niger Normandy Persia Polynesia Pomerania
    Prussia Rhodesia Sardinia Savoy Saxony Siam Sicily Silesia Sparta Swaziland Tahiti Tibet
    Transylvania Tuvalu Yugoslavia Zaire Zanzibar
    """.split()
)

UNSEEN_PRODUCTS: tuple[str, ...] = tuple(
    """
    bangles bathtubs beads boilers bonnets bookcases brandy cars denim detergents earphones
    erasers felt figurines flannel flasks funnels gauze gin harnesses headphones jewelry
    kilts laptops lotions mittens mops napkins overalls paintbrushes parasols pendants
    phones projectors pumps saucepans saucers shampoos sherry sunglasses toothbrushes
    treadmills tweed twine varnish vests whips yarn
    """.split()
)

UNSEEN_MINERALS: tuple[str, ...] = tuple(
    """
    actinium anhydrite aragonite arsenopyrite augite biotite carbon cassiterite celestine
    chalcedony chalcopyrite corundum cryolite diatomite diorite erbium europium greywacke
    helium ilmenite jet kyanite labradorite lanthanum magnesite methane monazite mudstone
    neodymium orthoclase perlite pitchblende polonium promethium quartzite radon rhodonite
    samarium scandium sunstone sylvite terbium thulium tuff vermiculite wolframite zeolite
    zincite
    """.split()
)

UNSEEN_PLANTS: tuple[str, ...] = tuple(
    """
    amaranth amaryllis arrowroot azalea baobab bracken briar buckwheat bulrush camellia
    caraway chickweed cowslip cyclamen dogwood forsythia foxglove gladiolus goldenrod
    honeysuckle kumquat liquorice lobelia mahogany mangrove milkweed mimosa oxeye periwinkle
    petunia pimpernel plantain quince ragweed rowan sequoia sesame snapdragon sorrel
    sycamore tamarisk teasel turmeric valerian vetch wormwood yarrow yucca
    """.split()
)

UNSEEN_LANDMARKS: tuple[str, ...] = tuple(
    """
    acropolis arcade archway aviary barbican basilica bathhouse battlement boardwalk
    carillon causeway chancel conservatory earthwork fairground farmhouse folly fort
    gasworks gatehouse granary grandstand guildhall icehouse maypole milestone necropolis
    orangery palisade pantheon pergola racecourse roundhouse sanctuary sarcophagus
    schoolhouse signpost slipway smokehouse stockade tannery tollhouse townhouse vault
    velodrome waterwheel weir workhouse
    """.split()
)

UNSEEN_PASTIMES: tuple[str, ...] = tuple(
    """
    acting angling bandy barbecuing bartending basketry billiards blogging bungee busking
    chanting cosplay crochet draughts engraving felting filming freediving geocaching
    hurling javelin jousting limbo macrame mahjong motorcycling needlepoint paddleboarding
    papermaking philately pickleball pinochle quoits rounders scouting shooting sightseeing
    singing slalom topiary trekking trivia unicycling wakeboarding walking whist winemaking
    yodelling
    """.split()
)
