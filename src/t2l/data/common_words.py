"""Common English words, from which new labels are drawn.

Level 3. Knows nothing else.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    """A table of words, written as one string."""
    return tuple(text.split())


COMMON_WORDS: tuple[str, ...] = _words(
    """
    able acid actor adult agent album alarm amber anchor angel ankle apple apron april arena armor arrow artist
    ash aspen atlas attic autumn avenue axle badge baker ballad bamboo banjo banner barrel basil basin basket
    battery beacon beaver bell bench berry birch biscuit bishop blanket blossom boat bonfire border bottle
    boulder bowl bracelet branch brass bread breeze brick bridge bronze brook broom brush bubble bucket bugle
    bundle butter button cabin cactus camel camera candle canoe canvas captain carbon cargo carpet carrot cedar
    cello chain chalk cherry chess chimney cider circle citrus clay cliff clock clover coach cobalt cocoa coffee
    comet compass copper coral cotton cradle crane crayon cream cricket crown crystal curtain cypress dagger
    daisy dawn delta denim desert diamond dice dolphin domino donkey dragon drum dune eagle echo eclipse elbow
    elm ember emerald engine falcon feather fence fern ferry fiddle finch flame flint flute forest fossil
    fountain fox frost galaxy garden garlic garnet gate geyser ginger glacier globe glove gold goose granite
    grape gravel guitar hammer harbor harp hawk hazel helmet heron hinge honey horizon hornet hotel igloo iris
    iron island ivory ivy jacket jade jaguar jasmine jelly jewel jigsaw judge juice jungle kayak kettle king
    kite kitten knight knot koala ladder lagoon lantern laurel lava lavender leather lemon lens lentil letter
    lilac lime linen lion lobster locket lotus lumber lunar magnet mango maple marble market meadow melon
    mercury meteor mint mirror mosaic moss motor mountain mustard nectar needle nest nickel noodle north nutmeg
    oak oasis ocean olive onion onyx opal orange orbit orchard orchid otter owl oyster paddle palace panda
    panther paper parade parrot pasta peach pearl pebble pelican pencil pepper phoenix piano pigeon pillow pilot
    pine pirate planet plum pocket poem polar poppy prairie prism pumpkin puzzle pyramid quartz quilt rabbit
    radar radish rain raven reef ribbon ridge river robin robot rocket rose ruby saddle saffron sage sail salmon
    salt sand sapphire satin saturn scarf scarlet shadow shell shield silk silver siren sketch slate sleet snail
    snow solar south spark spider spiral sponge spruce stable star steam steel stone storm straw sugar summer
    summit sun sunset swan table talon tango tea temple thistle thunder ticket tide tiger timber tin toast topaz
    torch tower train trumpet tulip tunnel turtle turquoise umbrella valley vanilla velvet vine violet violin
    volcano wafer walnut walrus water wave west whale wheat whistle willow window winter wolf wood wool yarn
    yellow zebra zinc accept agree alert alpha begin blue calm clear closed done early east easy empty exact
    extra fair fast final first fresh full green happy heavy high hot inside keep large late left light loud low
    lucky main major minor near neutral never new next nice normal often old open other outside pass past plain
    positive public quick quiet ready real red reject right safe second secret sharp short simple slow small
    smooth soft solid special steady stop strong sure sweet tall target thin true urgent valid wait warm weak
    white wide wild wrong young
    """
)
"""All different and in lower case."""
