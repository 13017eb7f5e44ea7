"""Values of the six attributes of an organisation. They are real words, and each is in one pool.

Most are one or two tokens of an English tokenizer. No value is in two pools, neither in the
singular nor in the plural. A bag of words therefore tells which word answers which question.
"""

from __future__ import annotations

# Where an organisation is based.
CITIES: tuple[str, ...] = tuple(
    """
    Adelaide Akron Albany Albuquerque Amarillo Anaheim Anchorage Annapolis Arlington Asheville
    Asuncion Atlanta Auckland Austin Baltimore Berkeley Billings Bogota Boise Boston Boulder
    Brasilia Bridgeport Brisbane Brownsville Burlington Calgary Cali Canberra Cancun Caracas
    Cartagena Charleston Chattanooga Cheyenne Chicago Christchurch Cincinnati Cleveland Compton
    Cusco Dallas Dayton Denver Detroit Duluth Dunedin Edmonton Erie Evansville Fargo
    Fayetteville Flagstaff Fontana Fremont Fresno Gainesville Galveston Glendale Greensboro
    Halifax Harrisburg Hartford Havana Helena Hobart Hollywood Honolulu Houston Huntington
    Huntsville Indianapolis Ithaca Jacksonville Knoxville Lansing Laredo Lexington Lima
    Louisville Lubbock Malibu Managua Manaus Medellin Melbourne Memphis Mendoza Miami Milwaukee
    Minneapolis Modesto Monterrey Montevideo Montreal Napa Nashville Nassau Natchez Newark
    Norfolk Oakland Ogden Omaha Orlando Ottawa Oxnard Pasadena Peoria Perth Philadelphia
    Pittsburgh Portland Princeton Provo Pueblo Quebec Quito Raleigh Recife Reno Richmond Roanoke
    Rochester Rockford Sacramento Salem Santiago Sarasota Saskatoon Savannah Scranton Seattle
    Spokane Springfield Stockton Sydney Syracuse Tacoma Tampa Tempe Tijuana Topeka Toronto
    Trenton Tucson Tulsa Vancouver Veracruz Wichita Wilmington Winnipeg Worcester Yonkers Yuma
    """.split()
)

# What an organisation studies.
FIELDS: tuple[str, ...] = tuple(
    """
    acoustics aging alcohol algae algorithms allergies alphabets antibiotics antibodies anxiety
    asteroids asthma atoms attention auroras autism aviation bacteria ballet bees birds bridges
    caffeine canals cancer cathedrals cats cattle caves censorship ceramics cheese chimpanzees
    chocolate cholera cinema coffee combustion computers coral corrosion crops crystals
    databases dementia deserts diabetes dialects dinosaurs diplomacy dogs dreams drones drought
    dyes earthquakes elections electrons encryption engines enzymes epilepsy fertility
    fertilizers floods fog folklore forests fossils fractals friction fungi galaxies gambling
    genes geometry glaciers gliders gorillas grasses gravity hearing hieroglyphics hormones
    hurricanes inequality inflation influenza inscriptions insects insomnia isotopes lakes
    lasers leeches lenses leprosy lichens longevity malaria mammoths manuscripts measles meteors
    migration molecules monkeys mosquitoes mosses mushrooms nematodes networks neutrinos
    newspapers nicotine nutrition obesity oceans octopuses opioids orchids pain parasites
    perfumes pesticides photons pigments pigs planets plankton plastics polio pollen polymers
    pottery poverty primes prisons probability propaganda proteins proverbs pulsars quarks
    quasars rabies radiation railways rainfall rodents satellites seeds semiconductors sheep
    shipwrecks sleep smallpox smell soils spices statistics steroids sunlight superconductors
    taste taxation tea television textiles theater ticks tides timber tobacco tombs tornadoes
    toxins traffic tuberculosis tunnels turbines turbulence unemployment vaccines vibration
    viruses vision vitamins volcanoes voting wetlands wine wolves
    """.split()
)

# What an organisation's emblem shows.
EMBLEMS: tuple[str, ...] = tuple(
    """
    acorn anchor ant anvil apple arch arrow axe badger bear beaver beetle boar butterfly camel
    candle carp castle cedar centaur cloud clover column comet compass condor crab crane
    crescent cricket crocodile crow crown daisy diamond dolphin dove dragon dragonfly duck eagle
    eel elephant emu falcon feather fern fig finch flame flamingo fountain fox frog globe goat
    goblet goose grape grasshopper grouse gull hammer hare harp hawk hedgehog heron herring
    hexagon horse hummingbird ibis iris ivy jellyfish knot ladybug lamb lantern lark laurel
    leopard lightning lily lion lizard lobster lotus lyre magpie moon moth mountain mussel
    nightingale oak octopus olive osprey otter owl ox oyster palm panther parrot partridge
    peacock pear pearl pelican penguin perch pheasant pigeon pine pomegranate poppy puffin
    pyramid quail quill rabbit rainbow ram raven ribbon river robin rooster rose sail salmon
    scorpion serpent shark sheaf shell shield ship shrimp sickle snail snake snowflake sparrow
    sphinx spider spiral squid squirrel stag star starfish starling stork sun sunflower swallow
    swan swordfish tern thistle thrush tiger toad tortoise toucan tower tree triangle trout
    trumpet tulip tuna turkey turtle unicorn violet vulture walrus wasp wave whale willow wolf
    woodpecker wren
    """.split()
)

# Famous person after whom an organisation's hall is named.
NAMESAKES: tuple[str, ...] = tuple(
    """
    Alexander Ampere Andersen Aristotle Austen Babbage Bach Balzac Beckett Beethoven Bernini
    Bernstein Blake Bohr Borges Boyle Brahms Brecht Britten Bronte Browning Byron Caesar Camus
    Cantor Celsius Cervantes Chaucer Chopin Cicero Columbus Conrad Copernicus Curie Dali Dalton
    Dante Darwin Defoe Degas Descartes Dickens Dickinson Edison Einstein Elgar Eliot Emerson
    Engels Euclid Euler Fahrenheit Faraday Faulkner Fermat Fermi Fitzgerald Franklin Freud Galen
    Galileo Gandhi Gauss Goethe Goya Grieg Halley Handel Hardy Hawking Hawthorne Haydn Hegel
    Hemingway Herschel Hertz Hilbert Hippocrates Hobbes Hogarth Homer Hooke Horace Hubble Hugo
    Humboldt Hume Huxley Jefferson Joule Joyce Jung Kafka Kant Keats Kelvin Kepler Kipling
    Lamarck Leibniz Leonardo Lincoln Linnaeus Lister Liszt Livingstone Locke Magellan Mahler
    Manet Marconi Marx Matisse Maxwell Melville Mendel Michelangelo Milton Miro Monet Mozart
    Munch Napoleon Nash Neruda Neumann Newton Nietzsche Nobel Noether Orwell Ovid Pascal Pasteur
    Picasso Planck Plato Poe Pollock Ptolemy Pushkin Pythagoras Raphael Ravel Rembrandt Renoir
    Riemann Rodin Rossini Rousseau Rubens Russell Rutherford Sagan Sartre Schiller Schubert
    Schumann Seneca Shakespeare Shannon Shaw Shelley Sibelius Socrates Spinoza Steinbeck
    Tennyson Tesla Thoreau Titian Turing Twain Verdi Vermeer Virgil Volta Voltaire Wagner Warhol
    Washington Watson Whitman Wilde Wordsworth Yeats Zola
    """.split()
)

# An organisation's motto, one word.
MOTTOS: tuple[str, ...] = tuple(
    """
    abstain adapt admire advance analyze announce anticipate apologize argue ascend awake bake
    bargain believe bend bind bloom borrow breathe build burn calculate carve celebrate cherish
    choose clean climb compare compete compose compute concentrate confess connect conquer
    conserve contemplate continue convince cook cooperate count create cultivate dance dare
    debate decide decline defend descend dig discover dive donate doubt drive earn eat embrace
    encourage endure enjoy evolve examine expect explore feed flourish focus forge forget
    forgive gather glow greet guard guide harvest heal hope hurry illuminate imagine improve
    inquire insist inspect inspire interpret invent invest investigate join judge kneel knit
    laugh leap learn lend linger listen measure meditate melt memorize mend mine motivate
    navigate negotiate notice nourish obey observe organize overcome paint pause perform persist
    persuade plan plant plunge ponder praise pray predict prepare preserve pretend proceed
    proclaim promise prosper protect publish question rebel reflect refuse rejoice relax
    remember renew repair resist respect rest restore return reveal rise risk sacrifice save
    sculpt serve shine shout simplify sing sketch smile speak stand steer strive struggle
    surrender survive swear sweep swim teach think thrive transform translate travel triumph
    unite verify volunteer wait walk wander warn wash weave weep weigh welcome whisper wonder
    worship yield
    """.split()
)

# An organisation's prize, made of bronze.
PRIZES: tuple[str, ...] = tuple(
    """
    abacus accordion airplane backpack bagpipe balloon banjo barometer barrel basket bassoon bat
    battery bell belt bench bicycle blanket boat bolt boot bottle bowl box bracelet briefcase
    brooch broom brush bucket buckle bugle button cage calculator calendar camera cane canoe
    carpet carriage cello chain chair chalice chest chisel clarinet clock comb cradle cup
    curtain dagger dice doll drill drum earring envelope fiddle flashlight flute fork gear glove
    gong grater guitar hammock harmonica hat helicopter helmet hinge hoe horn horseshoe
    hourglass inkwell jar kettle key kite knife ladder ladle lamp lens lever lute magnet
    mandolin map marble mask match microscope mirror mug nail necklace needle notebook oar oboe
    paddle pan parachute pen pencil pendulum piano pillow pitcher plate plow pot prism pulley
    puppet purse puzzle quilt racket radio rake razor ring robot rocket rope ruler saddle sandal
    saw saxophone screw scroll shoe shovel sieve skate skillet sled slipper sofa spade spatula
    spear spool spoon spring stamp stapler stirrup stool stove suitcase sundial sword telephone
    telescope thermometer thermos toaster torch tractor train tray tricycle trunk tuba
    typewriter umbrella vase violin wagon wallet watch wheel whisk whistle wreath wrench
    xylophone zipper
    """.split()
)

# Values of the split test_unseen: no word of them occurs in any other passage or question.

UNSEEN_CITIES: tuple[str, ...] = tuple(
    """
    Amherst Augusta Bangor Bendigo Bismarck Brooklyn Camden Campinas Chesapeake Concord
    Dartmouth Decatur Dover Durango Fairbanks Geelong Georgetown Hoboken Irvine Juneau
    Kingston Lafayette Madison Manhattan Marietta Merida Mobile Newport Phoenix Plano
    Pontiac Puebla Racine Redmond Rosario Roswell Salinas Toluca Townsville Tyler Utica Waco
    Waterloo Wellington Whitehorse Windsor Yakima Youngstown
    """.split()
)

UNSEEN_FIELDS: tuple[str, ...] = tuple(
    """
    aphids arthritis blood cartilage catalysts cholesterol chromosomes climates concussions
    cyclones dew echoes eclipses eczema emotions evaporation eyesight fingerprints
    footprints groundwater habitats hail headaches hypertension hypnosis immunity jaundice
    literacy magnetism mutations permafrost plagiarism psychosis reptiles riddles ripples
    salinity sediments slang snoring solvents strokes symmetry tariffs testosterone thunder
    tumors ultrasound
    """.split()
)

UNSEEN_EMBLEMS: tuple[str, ...] = tuple(
    """
    beacon bluebird bough chrysalis cog conch cube cutlass doorway earthworm ellipse
    flagpole helix hoof hydra icicle jewel keystone loaf millstone nymph octagon orb
    parchment pennant pentagram petal pinwheel prow rosebud rudder sceptre seedling shamrock
    shuttle silhouette skull spearhead spindle spur starburst sunrise totem trellis warbler
    wing wishbone yoke
    """.split()
)

UNSEEN_NAMESAKES: tuple[str, ...] = tuple(
    """
    Banach Bartok Brahe Brunel Bunsen Carnegie Cassini Cayley Confucius Coulomb Courbet
    Cromwell Dewey Dirac Doppler Durer Eddington Erasmus Escher Fibonacci Fourier Hadrian
    Heine Herodotus Jenner Kandinsky Lagrange Laplace Mandela Mercator Morse Paganini
    Pauling Pavlov Petrarch Piaget Poincare Purcell Roosevelt Satie Sophocles Spenser
    Strauss Tacitus Telemann Thales Watt Woolf
    """.split()
)

UNSEEN_MOTTOS: tuple[str, ...] = tuple(
    """
    abide accomplish achieve attend await behold challenge consider cure decorate delight
    devise elevate emerge endeavor establish evaluate exceed exert experience express fight
    fulfil generate hear help imitate merge multiply oppose originate participate possess
    prevail prove pursue radiate reign respond roam soar stretch suffer sustain tolerate try
    venture write
    """.split()
)

UNSEEN_PRIZES: tuple[str, ...] = tuple(
    """
    amulet anklet blender bobbin bust canister cannonball chessboard cleaver colander crank
    crucible cufflink dial dumbbell easel fishhook flowerpot flywheel frame gavel hairbrush
    handbell handle hatchet keyhole keyring locket mortar mouthpiece nozzle organ pail
    paperclip peg pestle plaque propeller quadrant ratchet rattle scale strainer syringe
    tankard teaspoon valve wristwatch
    """.split()
)
