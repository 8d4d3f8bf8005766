"""The words and first names that the operations of several families draw their inputs from.

This file knows nothing of the operations themselves.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    """A table of words, written as one string."""
    return tuple(text.split())


WORDS: tuple[str, ...] = _words(
    """
    apple arm aunt baby back bag baker ball banana band bank barn basket bath beach bean bear bed bee bell belt bench
    berry bike bird blanket blue boat body bone book boot bottle bowl box boy branch bread brick bridge brown brush
    bucket bus butter button cabin cake camera camp candle candy car card carpet carrot castle cat cave chain chair
    chalk cheese cherry chicken child circle city clay clock cloth cloud clown coach coal coast coat coffee coin cook
    copper corn corner cotton cousin cow cream crowd crown cup curtain dance dawn day deer desert desk dinner dirt
    doctor dog doll dollar donkey door dragon dream dress drink driver drum duck dust eagle ear earth egg engine evening
    eye face farm farmer father feather fence field finger fire fish flag flame floor flour flower fog foot forest fork
    fox frame friend frog fruit game garden garlic gate ghost gift giraffe girl glass glove goat gold grain grape grass
    green ground guest guitar hair hall hammer hand harbor hat hawk heart helmet hen hill honey hook horse hotel hour
    house ice iron island jacket jar jelly jewel job juice jungle kettle key king kitchen kite kitten knee knife ladder
    lake lamp land lawn leaf leather lemon letter light lime line lion lip list lizard lock log lunch machine magnet
    mail man map marble market mask meadow meal meat melon metal milk mill mirror money monkey month moon morning
    mother mouse mouth mud music nail name neck needle nest net night noise nose nurse ocean office oil olive onion
    orange oven owl page paint palace pan paper parade park parrot party path peach pear pearl pen pencil pepper
    person photo piano picnic pie pig pilot pin pipe pirate pizza planet plant plate player pocket poem poet pond pony
    potato prince puppy purple queen rabbit radio rain red rice ring river road robin robot rock roof room root rope
    rose rubber rug sailor salad salt sand scarf school sea seat seed shadow shark sheep shelf shell ship shirt shoe
    shop silk silver sister sky sleep smoke snail snake snow soap sock sofa soil soldier song soup spider spoon spring
    square stage star station stone storm story stove street sugar summer sun swan table tail tea teacher tent tiger
    tile tin toast toe tomato tongue tooth tower town toy train tree truck tunnel turkey turtle uncle valley village
    violin wagon wall water wave wax week whale wheat wheel white wind window wine wing winter wolf woman wood wool
    yard year yellow zebra
    """
)

NAMES: tuple[str, ...] = _words(
    """
    Adam Alice Amy Anna Ben Carl Clara Daniel David Diana Emma Eric Eva Felix Frank George Grace Hannah Harry Helen
    Henry Ivan Jack James Jane Julia Karen Kate Kevin Laura Leo Linda Lucas Lucy Maria Mark Martin Mary Max Mia Nina
    Nora Oliver Olga Oscar Paul Peter Rachel Robert Rosa Ruth Sam Sarah Simon Sofia Susan Thomas Tom Victor Walter
    """
)
