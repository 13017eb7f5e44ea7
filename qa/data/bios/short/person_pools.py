"""Values of the six attributes of a person. They are real words, and each is in one pool.

Most are one or two tokens of an English tokenizer. No value is in two pools, neither in the
singular nor in the plural. A bag of words therefore tells which word answers which question.
"""

from __future__ import annotations

# What a person did for a living.
PROFESSIONS: tuple[str, ...] = tuple(
    """
    accountant acrobat actor actress admiral ambassador animator anthropologist archaeologist
    architect archivist astronaut astronomer athlete attorney auctioneer auditor baker banker
    barber beekeeper biologist bishop blacksmith bodyguard bookseller botanist boxer brewer
    broadcaster broker butcher butler captain cardiologist carpenter cartographer cashier chef
    chemist chiropractor choreographer cleaner clerk clockmaker clown coach cobbler colonel
    comedian composer conductor consultant courier curator cyclist dancer dentist dermatologist
    designer detective dietitian diplomat driver drummer ecologist economist editor electrician
    engineer engraver farmer ferryman filmmaker firefighter fisherman florist forester gardener
    geographer geologist goldsmith governor grocer guitarist gymnast historian hunter
    illustrator innkeeper inspector janitor jeweler jockey journalist judge landlord lawyer
    lecturer librarian lifeguard linguist locksmith lumberjack machinist magician magistrate
    mason mathematician mayor merchant meteorologist midwife miller missionary monk nanny
    neurologist notary novelist nurse nutritionist optician optometrist painter pediatrician
    pharmacist philosopher photographer physician physicist pianist pilot plasterer playwright
    plumber poet porter potter preacher priest principal printer professor programmer prosecutor
    psychiatrist psychologist publisher rabbi radiologist ranger realtor referee reporter roofer
    saddler sailor salesman screenwriter sculptor seamstress secretary senator shepherd sheriff
    shoemaker shopkeeper singer sociologist soldier solicitor spy statistician stenographer
    stuntman surgeon surveyor swimmer tailor tanner teacher theologian therapist toxicologist
    trader translator trapper tutor typist undertaker veterinarian violinist waiter watchmaker
    weaver welder wrestler zoologist
    """.split()
)

# Where a person was born.
CITIES: tuple[str, ...] = tuple(
    """
    Aberdeen Accra Aleppo Alexandria Algiers Amman Amsterdam Ankara Athens Baghdad Baku
    Bangalore Bangkok Barcelona Basel Basra Beijing Belfast Belgrade Bergen Berlin Bern
    Birmingham Bologna Bonn Brighton Bristol Brussels Bucharest Budapest Busan Cairo Calais
    Cambridge Canterbury Cardiff Chennai Cologne Colombo Copenhagen Cordoba Coventry Damascus
    Delhi Dhaka Doha Dresden Dubai Dublin Dundee Durban Durham Edinburgh Exeter Frankfurt Geneva
    Genoa Ghent Glasgow Granada Graz Guangzhou Haifa Hamburg Hanover Harare Harbin Heidelberg
    Helsinki Hiroshima Hyderabad Istanbul Jakarta Jerusalem Johannesburg Kabul Kampala Karachi
    Kazan Kobe Krakow Kyoto Lagos Lahore Leeds Leicester Leipzig Lhasa Lille Lisbon Liverpool
    London Luanda Lusaka Lyon Madrid Malaga Manchester Manila Mecca Medina Milan Minsk Moscow
    Mosul Mumbai Munich Nagasaki Nagoya Nairobi Nanjing Nantes Naples Newcastle Norwich
    Nottingham Nuremberg Osaka Oslo Oxford Padua Palermo Paris Pisa Plymouth Prague Pretoria
    Pune Riga Rome Salzburg Seoul Seville Shanghai Sheffield Southampton Stockholm Sunderland
    Taipei Tallinn Tehran Tokyo Toledo Tunis Turin Utrecht Valencia Venice Verona Vienna Vilnius
    Warsaw Wuhan Zagreb Zurich
    """.split()
)

# Given name of a person's sister.
SISTERS: tuple[str, ...] = tuple(
    """
    Abigail Adele Adriana Agnes Aisha Alice Amelia Amy Andrea Angela Ann Anna Annie Ashley
    Audrey Barbara Beatrice Bella Bertha Betty Beverly Bonnie Brenda Bridget Brittany Camilla
    Carmen Carol Caroline Catherine Cecilia Celia Cheryl Christina Christine Claire Clara
    Cynthia Danielle Deborah Denise Diana Diane Dolores Donna Doris Dorothy Edith Elaine Eleanor
    Elena Eliza Elizabeth Ella Ellen Elsa Emilia Emily Emma Erica Esther Ethel Eva Fatima
    Felicity Fiona Frances Gertrude Gloria Greta Gwen Hannah Harriet Heather Helen Henrietta
    Hilda Ingrid Irene Isabel Isabella Jacqueline Jane Janet Janice Jennifer Jenny Jessica Jill
    Joan Joanna Josephine Joyce Judith Judy Julia Karen Kate Katherine Kathleen Kathryn Katie
    Kayla Kimberly Kristen Laura Lauren Leah Leila Lena Linda Louise Lucy Lydia Lynn Maggie
    Marcia Margaret Maria Marian Marie Martha Mary Megan Mei Melissa Mia Michelle Mildred Miriam
    Molly Monica Nadia Nancy Naomi Natalie Nicole Nina Nora Norma Olivia Patricia Paula Peggy
    Penelope Priya Rachel Rebecca Rhoda Rita Roberta Rosa Ruth Sally Samantha Sandra Sara Sarah
    Selma Sharon Sheila Sophia Stephanie Susan Sylvia Tamara Tanya Teresa Theresa Tina Vanessa
    Vera Vivian Wanda Wendy Yuki Zoe
    """.split()
)

# Animal that a person kept.
PETS: tuple[str, ...] = tuple(
    """
    alligator ant antelope ape baboon badger bat beagle bear beaver bee beetle bison boar
    buffalo bulldog butterfly camel canary carp cat caterpillar cheetah chimp cobra cougar
    coyote crab crane cricket crocodile crow deer dingo dog dolphin donkey dove dragonfly duck
    eagle eel elephant elk emu falcon ferret finch flamingo fox frog gazelle gecko giraffe goat
    goldfish goose gorilla grasshopper greyhound gull hamster hare hawk hedgehog hen heron hippo
    horse hyena ibex iguana jackal jaguar jay kangaroo kitten koala ladybug lark lemur leopard
    lion lizard lobster lynx magpie mink mole monkey moose moth mouse mule newt nightingale
    octopus otter owl panda panther parrot partridge peacock pelican penguin pheasant pig pigeon
    pony poodle puma puppy quail rabbit raccoon rat raven reindeer rhino robin rooster
    salamander scorpion seagull seal shark sheep skunk sloth snail snake spaniel sparrow spider
    squid squirrel stallion starling stork swallow swan swift tapir terrier thrush tiger toad
    tortoise toucan trout turtle viper vulture wallaby walrus wasp whale wolf wombat woodpecker
    wren yak zebra
    """.split()
)

# What a person studied.
SUBJECTS: tuple[str, ...] = tuple(
    """
    accounting acoustics aesthetics agriculture algebra anatomy anthropology Arabic archaeology
    architecture Armenian astronomy astrophysics aviation Basque Bengali biochemistry biology
    botany Bulgarian calculus cardiology cartography Catalan ceramics chemistry Chinese
    choreography climatology computing cosmology criminology Croatian cryptography Czech dance
    Danish demography dentistry dermatology diplomacy drama Dutch ecology economics Egyptology
    electronics engineering entomology epidemiology ergonomics ethics finance Finnish folklore
    forestry French Gaelic genealogy genetics geography geology geometry Georgian German grammar
    Greek Hawaiian Hebrew hematology heraldry Hindi history horticulture Hungarian hydrology
    Icelandic immunology informatics Irish Italian Japanese journalism jurisprudence Korean
    Latin law linguistics literature logic logistics Malay marketing mathematics mechanics
    medicine metallurgy metaphysics meteorology microbiology mineralogy Mongolian music mycology
    mythology navigation neurology neuroscience Norwegian nursing nutrition oceanography
    oncology optics ornithology painting pathology pediatrics Persian pharmacology philosophy
    phonetics photography physics physiology poetry Polish politics Portuguese programming
    psychiatry psychology radiology rhetoric robotics Romanian Russian Sanskrit sculpture
    seismology Serbian sociology Spanish statistics surgery Swahili Swedish Tamil taxation Thai
    theology thermodynamics Tibetan topology toxicology Turkish typography Ukrainian Urdu
    Vietnamese virology volcanology Welsh zoology Zulu
    """.split()
)

# What a person liked to eat.
FOODS: tuple[str, ...] = tuple(
    """
    almonds apples apricots asparagus avocado bacon bagels bananas basil beans beef beets
    biscuits blackberries blueberries bread broccoli broth brownies butter cabbage cake candy
    caramel carrots cashews casserole cauliflower caviar celery cereal cheese cherries chestnuts
    chili chocolate cinnamon clams coconut cod cookies corn crackers cranberries cream cucumber
    curry custard dates doughnuts eggplant figs fries fudge garlic ginger gingerbread granola
    grapes gravy guava gumbo ham hazelnuts herring honey hummus jam jelly kale lasagna leeks
    lemons lentils lettuce limes mangoes marshmallows meatballs melon muffins mushrooms mussels
    mustard noodles nutmeg oatmeal okra olives onions oranges oregano oysters paella pancakes
    papaya paprika parsley pasta peaches peanuts pears peas pecans pepper pickles pie pineapple
    pizza plums pomegranate popcorn pork porridge potatoes prunes pudding pumpkin quiche
    radishes raisins ramen raspberries rice saffron salad salmon salsa sandwich sardines sausage
    shortbread shrimp soup spaghetti spinach steak stew strawberries sushi syrup tacos tapas
    toast tofu tomatoes tortillas tuna turnips vanilla veal vinegar walnuts watermelon yams
    yogurt zucchini
    """.split()
)

# Values of the split test_unseen: no word of them occurs in any other passage or question.

UNSEEN_PROFESSIONS: tuple[str, ...] = tuple(
    """
    actuary adviser bassist bellhop bookkeeper bricklayer busker caretaker cellist columnist
    coroner cryptographer decorator diver docker dressmaker entomologist essayist foreman
    gamekeeper geneticist harpist herbalist hotelier housekeeper interpreter joiner
    lithographer lobbyist milliner obstetrician oncologist organist organizer ornithologist
    orthodontist perfumer physiotherapist planner presenter producer puppeteer receptionist
    restaurateur technician trumpeter wheelwright zookeeper
    """.split()
)

UNSEEN_CITIES: tuple[str, ...] = tuple(
    """
    Abuja Agra Avignon Bamako Bergamo Bradford Bukhara Cadiz Catania Chengdu Dalian Davao
    Essen Fez Galway Hangzhou Islamabad Jaipur Kaunas Lancaster Leiden Linz Lodz Lucca
    Lucknow Mainz Messina Modena Murcia Muscat Nagpur Odense Oran Patras Penang Porto Reims
    Rouen Samara Suzhou Swansea Tampere Tangier Thessaloniki Tianjin Weimar Winchester
    Yangon
    """.split()
)

UNSEEN_SISTERS: tuple[str, ...] = tuple(
    """
    Agatha Alexandra Alison Amanda Antonia Belinda Blanche Carla Charlotte Claudia Colleen
    Constance Cordelia Delia Edna Eloise Estelle Eugenia Flora Florence Francesca Freda
    Georgina Gillian Heidi Hermione Imogen Juanita Juliet Lavinia Leonora Lilian Lorraine
    Lucille Matilda Melanie Millicent Muriel Nadine Pauline Philippa Portia Ramona Sabrina
    Shirley Valerie Victoria Viola
    """.split()
)

UNSEEN_PETS: tuple[str, ...] = tuple(
    """
    albatross alpaca anteater bobcat budgie bumblebee capybara caribou chinchilla cockroach
    collie corgi dormouse egret ermine firefly gibbon groundhog hornbill husky impala
    kestrel kiwi koi labrador locust macaw mackerel mandrill mantis mastiff meerkat minnow
    okapi orangutan oriole oryx pangolin piglet polecat python roadrunner serval shrew
    spoonbill stoat tadpole weasel
    """.split()
)

UNSEEN_SUBJECTS: tuple[str, ...] = tuple(
    """
    advertising Albanian Aramaic arithmetic bacteriology bioethics bioinformatics biophysics
    broadcasting Burmese electrochemistry electromagnetism endocrinology Estonian
    ethnography etymology fashion Filipino gastronomy geochemistry geophysics histology
    Kurdish Latvian Lithuanian Malayalam Maori Marathi metrology morphology nanotechnology
    Nepali obstetrics paleontology parasitology pedagogy petrology phonology semantics
    semiotics Somali syntax Tagalog trigonometry Uzbek viticulture Yiddish Yoruba
    """.split()
)

UNSEEN_FOODS: tuple[str, ...] = tuple(
    """
    anchovies baguettes brie burgers calamari capers chickpeas chives chutney ciabatta
    couscous crepes croissants dumplings enchiladas gelato gnocchi hotdogs ketchup kippers
    linguine macaroni macaroons mayonnaise minestrone nectarines nougat pastrami pavlova
    penne persimmons pesto polenta ravioli ricotta risotto salami scallions scallops
    shallots sherbet strudel tempura teriyaki trifle truffles vermicelli wasabi
    """.split()
)
