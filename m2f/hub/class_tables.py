"""Names of the classes that the paper's checkpoints predict, in the order of the weights, and which are things.

Sources of the facts: COCO's panoptic_coco_categories.json (in the order of its ids); the table of ADE20K's scene
parsing challenge with the division into things and stuff that facebookresearch/Mask2Former trains with
(register_ade20k_panoptic.py); the train ids of Cityscapes; the categories of Mapillary Vistas 1.2 without "Unlabeled".
"""

_COCO_THINGS = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack,
umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush"""
_COCO_STUFF = """banner, blanket, bridge, cardboard, counter, curtain, door-stuff, floor-wood, flower, fruit, gravel,
house, light, mirror-stuff, net, pillow, platform, playingfield, railroad, river, road, roof, sand, sea, shelf, snow,
stairs, tent, towel, wall-brick, wall-stone, wall-tile, wall-wood, water-other, window-blind, window-other,
tree-merged, fence-merged, ceiling-merged, sky-other-merged, cabinet-merged, table-merged, floor-other-merged,
pavement-merged, mountain-merged, grass-merged, dirt-merged, paper-merged, food-other-merged, building-other-merged,
rock-merged, wall-other-merged, rug-merged"""
_CITYSCAPES_STUFF = """road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain,
sky"""
_CITYSCAPES_THINGS = "person, rider, car, truck, bus, train, motorcycle, bicycle"
# Names have commas here.
_ADE20K = """wall; building; sky; floor; tree; ceiling; road, route; bed; window; grass; cabinet; sidewalk, pavement;
person; earth, ground; door; table; mountain, mount; plant; curtain; chair; car; water; painting, picture; sofa;
shelf; house; sea; mirror; rug; field; armchair; seat; fence; desk; rock, stone; wardrobe, closet, press; lamp; tub;
rail; cushion; base, pedestal, stand; box; column, pillar; signboard, sign; chest of drawers, chest, bureau, dresser;
counter; sand; sink; skyscraper; fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs; runway;
case, display case, showcase, vitrine; pool table, billiard table, snooker table; pillow; screen door, screen;
stairway, staircase; river; bridge, span; bookcase; blind, screen; coffee table; toilet, can, commode, crapper, pot,
potty, stool, throne; flower; book; hill; bench; countertop; stove; palm, palm tree; kitchen island; computer; swivel
chair; boat; bar; arcade machine; hovel, hut, hutch, shack, shanty; bus; towel; light; truck; tower; chandelier;
awning, sunshade, sunblind; street lamp; booth; tv; plane; dirt track; clothes; pole; land, ground, soil; bannister,
banister, balustrade, balusters, handrail; escalator, moving staircase, moving stairway; ottoman, pouf, pouffe, puff,
hassock; bottle; buffet, counter, sideboard; poster, posting, placard, notice, bill, card; stage; van; ship;
fountain; conveyer belt, conveyor belt, conveyer, conveyor, transporter; canopy; washer, automatic washer, washing
machine; plaything, toy; pool; stool; barrel, cask; basket, handbasket; falls; tent; bag; minibike, motorbike;
cradle; oven; ball; food, solid food; step, stair; tank, storage tank; trade name; microwave; pot; animal; bicycle;
lake; dishwasher; screen; blanket, cover; sculpture; hood, exhaust hood; sconce; vase; traffic light; tray; trash
can; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass, drinking glass; clock; flag"""
_ADE20K_STUFF_IDS = {
    *(0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77),
    *(79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145),
}
_MAPILLARY = """Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut,
Parking, Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel, Person, Bicyclist,
Motorcyclist, Other Rider, Lane Marking - Crosswalk, Lane Marking - General, Mountain, Sand, Sky, Snow, Terrain,
Vegetation, Water, Banner, Bench, Bike Rack, Billboard, Catch Basin, CCTV Camera, Fire Hydrant, Junction Box,
Mailbox, Manhole, Phone Booth, Pothole, Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light, Traffic
Sign (Back), Traffic Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails, Other Vehicle,
Trailer, Truck, Wheeled Slow, Car Mount, Ego Vehicle"""
_MAPILLARY_THING_IDS = [0, 1, 8, 19, 20, 21, 22, 23, *range(32, 43), *range(44, 58), 59, 60, 61, 62]


def _names(text: str, separator: str = ", ") -> tuple[str, ...]:
    return tuple(" ".join(text.split()).split(separator))


_ADE20K_NAMES = _names(_ADE20K, "; ")
_ADE20K_THING_IDS = [label for label in range(len(_ADE20K_NAMES)) if label not in _ADE20K_STUFF_IDS]
_CITYSCAPES_NAMES = _names(f"{_CITYSCAPES_STUFF}, {_CITYSCAPES_THINGS}")

# Beginning of a preset's name (`RESOLUTION_PRESETS`) -> names in the order of the labels, labels that are things.
# Semantic models tell no things apart, and to instance models every class is a thing.
_TABLES: dict[str, tuple[tuple[str, ...], list[int] | None]] = {
    "coco-panoptic": (_names(f"{_COCO_THINGS}, {_COCO_STUFF}"), list(range(80))),
    "coco-instance": (_names(_COCO_THINGS), None),
    "cityscapes-panoptic": (_CITYSCAPES_NAMES, list(range(11, 19))),
    "cityscapes-instance": (_names(_CITYSCAPES_THINGS), None),
    "cityscapes-semantic": (_CITYSCAPES_NAMES, None),
    "ade20k-panoptic": (_ADE20K_NAMES, _ADE20K_THING_IDS),
    "ade20k-instance": (tuple(_ADE20K_NAMES[label] for label in _ADE20K_THING_IDS), None),
    "ade20k-semantic": (_ADE20K_NAMES, None),
    "mapillary-vistas-panoptic": (_names(_MAPILLARY), _MAPILLARY_THING_IDS),
    "mapillary-vistas-semantic": (_names(_MAPILLARY), None),
}


def class_names(preset: str) -> dict[int, str]:
    """Label -> name of a preset of `m2f.image_processing.resolution_presets`.

    Raises:
        ValueError: there is no such preset.
    """
    return dict(enumerate(_table(preset)[0]))


def thing_labels(preset: str) -> list[int] | None:
    """Labels of a panoptic preset that are things; None where the task says it: all, or of "semantic" none.

    Raises:
        ValueError: there is no such preset.
    """
    things = _table(preset)[1]
    return None if things is None else list(things)


def presets_with(num_labels: int) -> list[str]:
    """The presets with so many classes."""
    return [name for name, (names, _) in _TABLES.items() if len(names) == num_labels]


def _table(preset: str) -> tuple[tuple[str, ...], list[int] | None]:
    for name, table in _TABLES.items():
        if preset == name or preset.startswith(f"{name}-"):
            return table
    raise ValueError(f"there are no class names for {preset!r}; there are for {', '.join(_TABLES)}")
