"""Values of the six attributes of a work. They are real words, and each is in one pool.

Most are one or two tokens of an English tokenizer. No value is in two pools, neither in the
singular nor in the plural. A bag of words therefore tells which word answers which question.
"""

from __future__ import annotations

# Surname of who wrote a work.
AUTHORS: tuple[str, ...] = tuple(
    """
    Allen Anderson Armstrong Arnold Austin Bailey Barrett Bates Bell Bennett Berry Bowman Boyd
    Bradley Brown Bryant Burke Burns Burton Campbell Carlson Carr Carroll Castillo Castro
    Chapman Chavez Chen Clark Cole Coleman Collins Cooper Cox Crawford Cunningham Davis Dean
    Diaz Dixon Duncan Dunn Elliott Ellis Espinoza Estrada Evans Ferguson Fernandez Fisher Ford
    Foster Fowler Fox Franklin Freeman Fuller Garcia Gardner Garrett George Gibbs Gibson
    Gonzalez Gordon Grant Greene Griffin Hall Hamilton Hansen Harper Harris Harrison Hart Harvey
    Hawkins Hayes Henderson Henry Hoffman Holmes Howell Hudson Hughes Hunt Jackson Jenkins
    Jensen Johnson Johnston Jones Jordan Kelley Kelly Kennedy Lane Lawrence Lewis Lopez Lucas
    Lynch Marshall Martin Martinez Mason McDonald Medina Mendez Meyer Miller Mitchell Montgomery
    Moore Morales Moreno Morgan Morris Morrison Mueller Murphy Murray Myers Nelson Nguyen Norris
    Owens Palmer Parker Patel Patterson Payne Perez Perkins Perry Peterson Phillips Pierce
    Porter Powell Reed Reid Reynolds Richardson Riley Rivera Robertson Robinson Rodriguez Rojas
    Romero Ross Ruiz Ryan Sanchez Sanders Santiago Santos Schmidt Schneider Schultz Shaw Silva
    Simpson Sims Singh Smith Snyder Spencer Stanton Stewart Sullivan Sutton Taylor Thomas
    Thompson Torres Tran Tucker Turner Wade Wagner Walker Walsh Wang Ward Washington Watson
    Weaver Webb Weber Wells Wheeler White Williamson Wilson Wong Woods Wright Yang
    """.split()
)

# A work's villain.
VILLAINS: tuple[str, ...] = tuple(
    """
    acrobat actor actress admiral alien ambassador anarchist android angel apprentice
    archaeologist architect assassin astronaut astronomer athlete aunt bachelor baker bandit
    banker barber baron beggar bishop blacksmith bodyguard botanist boxer bride burglar butcher
    butler captain carpenter castaway chef chemist clockmaker clown colonel composer convict
    cook countess cousin cowboy cyborg dancer detective dictator doctor dragon duke dwarf editor
    elf emperor empress engineer executioner explorer fairy farmer ferryman fireman fisherman
    forger fugitive gambler gangster gardener general ghost giant goblin governess grandfather
    grandmother groom hangman hermit hitman hostage hunter innkeeper inventor janitor jester
    jockey journalist judge kidnapper king knight lady landlord lawyer librarian lord lumberjack
    madman magician maid mathematician matron mayor merchant messenger milkman millionaire miner
    monk murderer musician nephew niece ninja nomad nun nurse orphan outlaw painter patient
    philosopher photographer pianist pilgrim pilot pirate poet policeman politician postman
    president priest prince princess prisoner professor psychiatrist queen rebel reporter robot
    sailor samurai scholar scientist sculptor senator servant shepherd sheriff shoemaker singer
    sinner smuggler soldier spy stepmother student surgeon swimmer tailor teacher teenager
    tenant thief traitor translator traveler troll tutor twin uncle undertaker vampire veteran
    viking violinist waiter warrior werewolf widow widower witch wizard wrestler zombie
    """.split()
)

# Name of a work's main character.
HEROES: tuple[str, ...] = tuple(
    """
    Aaron Abdul Adam Ahmed Akira Alan Albert Alexander Alfred Ali Andrew Anthony Antonio Arthur
    Barry Benjamin Bernard Billy Bobby Boris Brandon Brian Bruce Bryan Carl Carlos Cecil Charles
    Christopher Clarence Clifford Conrad Cornelius Daniel David Dennis Diego Donald Douglas
    Dwight Dylan Edgar Edmund Edward Edwin Elijah Elliot Eric Ernest Ernst Ethan Eugene Ezekiel
    Ezra Felix Fernando Finn Floyd Frank Fred Friedrich Fritz Gabriel Gary Geoffrey Gerald
    Gilbert Giovanni Glen Graham Gregory Gustav Hans Harold Harry Hassan Hector Heinrich Herbert
    Horace Howard Hugo Ian Ibrahim Irving Isaac Ivan Jack Jacob Jacques James Jason Jeffrey
    Jeremy Jerome Jerry Jesse Johann John Johnny Jonathan Jorge Jose Joseph Joshua Juan Julian
    Julius Justin Karl Keith Kenji Kenneth Kevin Larry Leo Leon Leonard Lionel Lloyd Logan Louis
    Ludwig Luigi Luis Luther Malcolm Manuel Marcel Marco Marcus Mario Matthew Maurice Max
    Michael Miguel Mikhail Milton Nathan Neil Nicholas Noah Norman Oliver Omar Oscar Oswald Otto
    Pablo Patrick Paul Pedro Percy Peter Philip Pierre Quentin Raj Ralph Raymond Ricardo Richard
    Robert Roger Roland Ronald Roy Rudolf Russell Samuel Scott Sean Sebastian Seymour Sidney
    Simon Solomon Stanley Stefan Stephen Steven Terry Theodore Timothy Ulysses Victor Vikram
    Vincent Virgil Vladimir Wallace Walter Warren Wayne Wesley Wilfred Wilhelm William Xavier
    """.split()
)

# What a work is about.
THEMES: tuple[str, ...] = tuple(
    """
    addiction adultery adventure aging alcoholism ambition anger anxiety apathy arrogance
    bankruptcy beauty betrayal blindness boredom bureaucracy capitalism celebrity censorship
    charity childhood chivalry colonialism communism compassion competition conformity
    conspiracy cooperation corruption courage cowardice cruelty curiosity death deception
    dementia democracy desire despair destiny disability discovery divorce doubt dreams duty
    education empathy envy escape espionage eternity execution exile exploration faith famine
    fate fatherhood fear feminism forgiveness freedom friendship gambling generosity gratitude
    greed grief guilt happiness hatred heroism homecoming honesty honor hope hospitality
    humility hunger hypocrisy identity ignorance illness illusion immigration immortality
    imprisonment individualism inequality infidelity inheritance innocence insanity intimacy
    isolation jealousy joy justice kidnapping kindness knowledge laughter laziness loneliness
    love loyalty luck madness magic marriage martyrdom masculinity melancholy memory mercy
    modernity mortality motherhood mourning murder nationalism nostalgia obedience obsession
    oppression paranoia passion patience patriotism peace perfectionism piracy plague poverty
    prejudice pride progress punishment racism rebellion redemption regret religion remorse
    revenge revolution ritual rivalry romance sacrifice salvation science secrecy seduction
    shame silence smuggling solitude stubbornness superstition survival suspicion technology
    temptation terror theft thirst torture tradition treason trust truth tyranny unemployment
    urbanization vanity violence wandering war wealth wilderness wisdom youth
    """.split()
)

# Where a work is set.
SETTINGS: tuple[str, ...] = tuple(
    """
    abbey airplane airport alley apartment aquarium archipelago asteroid asylum attic bakery
    balcony balloon ballroom barn barracks basement bathroom battlefield beach bedroom blizzard
    bookstore brewery bridge brook bunker butchery cabin cafe canoe canyon caravan carnival
    carriage casino castle cathedral cave cellar cemetery chapel circus cliff clinic condo
    convent cottage courthouse courtyard crater creek crypt desert diner dock dormitory dune
    elevator embassy factory farm ferry fjord forest forge fortress galaxy garage garden glacier
    gorge greenhouse harbor helicopter highway hospital hostel hotel hut iceberg igloo inn
    island jungle kindergarten kitchen laboratory labyrinth lagoon lake landfill library
    lighthouse mall mansion marketplace marsh mausoleum maze meadow mill mine monastery mosque
    motel mountain museum newsroom nightclub nursery oasis observatory ocean orchard orphanage
    outpost palace parliament peninsula penthouse pharmacy pier plantation plateau playground
    pond prairie prison pyramid quarry ranch ravine rectory reef refinery restaurant river
    rooftop sailboat salon sauna sawmill sewer ship shipyard shrine slum spa spacecraft
    spaceship stable stadium station steamboat steppe studio submarine suburb subway supermarket
    swamp synagogue tavern taxi temple tent theater tomb train tram treehouse trench truck
    tundra tunnel university valley vicarage village vineyard volcano wagon warehouse waterfall
    wharf windmill workshop yacht zoo
    """.split()
)

# What critics called a work.
VERDICTS: tuple[str, ...] = tuple(
    """
    absurd accessible ambitious amusing angry artificial astonishing awkward beautiful bitter
    bizarre bland bleak bold boring brave breathtaking brilliant brutal careless chaotic
    charming cheerful clever coherent comic compelling complex concise confusing convincing
    courageous crude cruel cynical daring delicate delightful dense depressing derivative
    dignified disappointing disturbing dramatic dreary dry dull eccentric economical eerie
    elegant eloquent emotional enchanting energetic enigmatic entertaining epic evocative
    exciting exhausting experimental explosive extravagant faithful fantastic fascinating flawed
    flawless forgettable fragile frantic frightening funny futile gentle gloomy graceful grim
    gripping harmless harsh heartbreaking hilarious honest humorous hypnotic imaginative
    indulgent ingenious inspiring intense intimate intricate ironic irritating joyful lazy
    lively lucid lyrical magical majestic memorable merciless methodical minimalist morbid
    moving mysterious naive nostalgic obscure offensive optimistic outrageous overlong painful
    passionate pedantic pessimistic playful pleasant poetic powerful predictable pretty profound
    provocative puzzling radical readable realistic refreshing relentless repetitive restrained
    ridiculous rigid robust romantic rude sad satirical savage scandalous sensitive sentimental
    serious shallow shocking silly sincere sinister sloppy smooth solemn sophisticated
    spectacular stale strange stunning subtle superb superficial surprising surreal suspenseful
    tedious tender terrifying thoughtful thrilling timeless timid tiresome touching tragic
    trivial unbearable uneven unforgettable uplifting verbose vivid vulgar weird whimsical wild
    witty wonderful
    """.split()
)

# Values of the split test_unseen: no word of them occurs in any other passage or question.

UNSEEN_AUTHORS: tuple[str, ...] = tuple(
    """
    Abbott Ball Barker Blair Buchanan Bush Cameron Carter Clarke Cohen Cruz Curtis Dawson
    Doyle Fleming Fletcher Goldberg Hampton Harding Higgins Hopkins Kaplan Keller Kerr Klein
    Lambert MacDonald McCarthy Newman Norton Parsons Pearson Pope Pratt Quinn Randall Rhodes
    Saunders Schwartz Sherman Skinner Stevenson Todd Weiss Whitaker Wilkinson Willis Wolfe
    """.split()
)

UNSEEN_VILLAINS: tuple[str, ...] = tuple(
    """
    abbot accomplice adventurer bully cardinal chamberlain constable corporal deacon demon
    devil druid earl executive fiend friar genie gnome headmaster heir hypnotist imp jailer
    kingpin lieutenant looter monster mummy ogre oracle outcast phantom pharaoh poacher
    poisoner prowler raider serf stranger sultan tramp turncoat vicar viceroy viscount
    warden warlock warlord
    """.split()
)

UNSEEN_HEROES: tuple[str, ...] = tuple(
    """
    Abel Adrian Ambrose Amos Armando Augustus Barnaby Bill Calvin Chester Clement Colin
    Craig Damian Darius Darren Elvis Erwin Francis Francisco Franz Henrik Hiroshi Javier
    Jeremiah Joel Josiah Klaus Kurt Lars Laurence Liam Lorenzo Preston Ramon Randolph Reuben
    Rupert Salvador Sergei Shane Stuart Sven Tommy Vernon Waldo Winston Wolfgang
    """.split()
)

UNSEEN_THEMES: tuple[str, ...] = tuple(
    """
    abandonment altruism anarchy assimilation atonement chaos civilization coincidence
    conscience debt defeat denial depression devotion dictatorship disappointment
    emancipation extinction failure heritage homelessness indifference industrialization
    injustice insecurity integrity intrigue longing persecution perseverance piety
    procrastination purity reconciliation reincarnation repression resentment restlessness
    sadness sorrow spirituality tenacity tolerance tranquility victory vigilance virtue
    vulnerability
    """.split()
)

UNSEEN_SETTINGS: tuple[str, ...] = tuple(
    """
    arsenal backyard bog borough cafeteria campus chamber classroom clearing cloakroom
    closet cockpit commune compound corridor delta den estuary fen ghetto gulf gym hamlet
    heath homestead hovel jail junction laundry mission moor oilfield pasture platform
    precinct rainforest reservation resort savanna shack shed shop stronghold suite summit
    trailer van woodland
    """.split()
)

UNSEEN_VERDICTS: tuple[str, ...] = tuple(
    """
    ambiguous atmospheric authentic barren brisk challenging coarse complicated
    controversial conventional demanding durable elusive enlightening exhilarating exquisite
    fiery flat haunting intelligent intriguing laborious lavish luminous miraculous
    monumental murky nuanced opaque original persuasive petty plausible quaint quirky
    redundant repellent schematic sharp soothing spontaneous sprawling startling static
    stirring stylish unsettling vague
    """.split()
)
