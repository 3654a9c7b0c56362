"""COCO's 80 classes as captions name them: a table of our own, singular words; plurals in -s and -es are understood."""

from __future__ import annotations

_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe"
_VEHICLES = "bicycle car motorcycle airplane bus train truck boat"

SYNONYMS: dict[str, str] = {
    "person": """man, men, woman, women, boy, girl, child, children, kid, baby, babies, toddler, infant, adult, people,
        lady, ladies, guy, gentleman, gentlemen, human, crowd, pedestrian, player, surfer, skier, snowboarder, skater,
        skateboarder, rider, cyclist, biker, motorcyclist, batter, pitcher, catcher, umpire, chef, officer, policeman,
        policemen, worker, passenger, bride, groom, soldier, swimmer, spectator, tourist, farmer, cowboy, teenager,
        student, teacher, mother, father, son, daughter""",
    "bicycle": "bike, tandem bike, mountain bike, tricycle",
    "car": "automobile, taxi, cab, sedan, suv, van, minivan, jeep, station wagon, limousine, limo, hatchback",
    "motorcycle": "motorbike, motor bike, motor cycle, moped, dirt bike, scooter",
    "airplane": "plane, aeroplane, aircraft, jet, jetliner, airliner, biplane, seaplane, propeller plane",
    "bus": "double decker, minibus, trolleybus, coach bus, school bus",
    "train": "locomotive, tram, streetcar, subway train, steam engine, caboose",
    "truck": "lorry, lorries, pickup, pick up truck, fire engine, firetruck, tow truck, semi truck, dump truck",
    "boat": "ship, sailboat, canoe, kayak, ferry, ferries, yacht, motorboat, speedboat, rowboat, raft, dinghy, "
    "dinghies, gondola, tugboat, barge, vessel",
    "traffic light": "traffic signal, stop light, stoplight, street signal",
    "fire hydrant": "hydrant, fireplug",
    "stop sign": "",
    "parking meter": "",
    "bench": "park bench, pew",
    "bird": "seagull, gull, pigeon, duck, goose, geese, swan, parrot, owl, eagle, hawk, crow, raven, sparrow, pelican, "
    "flamingo, heron, crane bird, chicken, hen, rooster, peacock, ostrich, penguin, dove, robin, finch, finches, "
    "woodpecker, hummingbird, stork, turkey",
    "cat": "kitten, kitty, kitties, feline",
    "dog": "puppy, puppies, pup, hound, canine, terrier, poodle, bulldog, labrador, retriever, beagle, corgi, husky, "
    "dachshund, sheepdog",
    "horse": "pony, ponies, foal, mare, stallion, colt, bronco",
    "sheep": "lamb, ram, ewe",
    "cow": "cattle, bull, calf, calves, ox, oxen, steer, heifer, bison, buffalo",
    "elephant": "",
    "bear": "polar bear, grizzly, grizzlies, bear cub, panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "knapsack, rucksack, back pack",
    "umbrella": "parasol",
    "handbag": "purse, hand bag, pocketbook, shoulder bag, tote bag",
    "tie": "necktie, bow tie, bowtie, neck tie",
    "suitcase": "luggage, suit case, baggage, carry on bag",
    "frisbee": "flying disc, flying disk",
    "skis": "ski",
    "snowboard": "snow board",
    "sports ball": "ball, soccer ball, tennis ball, beach ball, basket ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "catcher's mitt, mitt, catchers mitt, baseball mitt",
    "skateboard": "skate board, longboard",
    "surfboard": "surf board, body board, boogie board",
    "tennis racket": "racket, racquet, tennis racquet",
    "bottle": "",
    "wine glass": "wineglass, wine glasses, goblet",
    "cup": "mug, teacup, coffee cup",
    "fork": "",
    "knife": "knives",
    "spoon": "",
    "bowl": "",
    "banana": "",
    "apple": "",
    "sandwich": "sandwiches, burger, hamburger, cheeseburger, panini, sub sandwich",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog, chili dog, corn dog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, birthday cake, cheesecake",
    "chair": "armchair, arm chair, stool, recliner, lawn chair",
    "couch": "sofa, couches, loveseat, love seat, futon, settee",
    "potted plant": "house plant, houseplant, pot plant, plant in a pot, flower pot",
    "bed": "bunk, mattress",
    "dining table": "table, desk, kitchen table, dinner table",
    "toilet": "urinal, commode, toilet seat, toilet bowl",
    "tv": "television, tv set, flat screen, t.v, tvs",
    "laptop": "laptop computer, notebook computer, macbook",
    "mouse": "computer mouse, mice, computer mice",
    "remote": "remote control, wii remote, wiimote, game controller",
    "keyboard": "computer keyboard",
    "cell phone": "cellphone, mobile phone, phone, smartphone, smart phone, telephone, iphone",
    "microwave": "microwave oven",
    "oven": "stove, stovetop, stove top, range oven",
    "toaster": "toaster oven",
    "sink": "wash basin, washbasin, basin",
    "refrigerator": "fridge, freezer",
    "book": "novel, textbook",
    "clock": "wall clock, alarm clock, clock tower, clock face",
    "vase": "",
    "scissors": "scissor, shears",
    "teddy bear": "teddy, teddies, stuffed bear, toy bear, stuffed animal, plush bear",
    "hair drier": "hair dryer, hairdryer, blow dryer, blow drier",
    "toothbrush": "tooth brush, toothbrushes",
}
"""COCO's name → other names for it."""

NOTHING = """hot dog stand, dog house, doghouse, bird house, birdhouse, bird feeder, bird bath, cow boy hat, cowboy hat,
horse drawn, train station, train track, train platform, railroad track, bus stop, bus station, bus lane, car park,
bicycle rack, bike rack, bike lane, bike path, boat house, boat dock, boat ramp, bed room, table cloth, table top,
table tennis, tennis table, book shelf, book shelves, book case, clock work, bottle cap, cake stand, cake pan,
fork lift, ski lift, ski slope, ski pole, ski resort, ski boot, ski jump, ski goggle, phone booth, phone pole,
telephone pole, telephone booth, telephone line, bear skin, bird cage, baseball field, baseball game,
baseball player, baseball uniform, baseball cap, baseball diamond, baseball team, football field, football game,
basketball court, soccer field, soccer game, tennis court, volleyball court, cat food, dog food, dog bed,
sink hole, chair lift, key board shortcut, mouse pad, apple tree, orange tree, banana tree, banana leaf, orange juice,
apple juice, pizza box, pizza oven, pizza cutter, donut shop, sandwich shop, toilet paper, toilet brush,
tv stand, knife block, microwave stand, oven mitt, carrot cake, cup holder, bowl cut"""
"""Phrases that hold a class's word and are not of the class. A baseball player is one more case: the player counts."""


def names() -> dict[str, str]:
    """Every phrase → the class that it names; "" for those that name none."""
    found = {" ".join(phrase.split()): "" for phrase in NOTHING.split(",")}
    found |= {"baseball player": "person", "tennis player": "person", "soccer player": "person"}
    found |= {"carrot cake": "cake", "wine bottle": "bottle", "dog bed": "bed", "pizza oven": "oven"}
    for name, others in SYNONYMS.items():
        found |= {" ".join(other.split()): name for other in (name, *others.split(",")) if other.strip()}
    for animal in _ANIMALS.split():
        found |= {f"{young} {animal}": animal for young in ("baby", "adult", "male", "female", "mother")}
        found |= {f"{kind} {animal}": "teddy bear" if animal == "bear" else "" for kind in ("stuffed", "toy")}
    for vehicle in _VEHICLES.split():
        found |= {f"passenger {vehicle}": vehicle, f"toy {vehicle}": vehicle}
    return found
