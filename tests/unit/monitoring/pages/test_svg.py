"""Elements of pictures, and that no word in them is taken for one."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from prometheus.monitoring.pages.svg import element

HOSTILE = """</text><script>alert("1")</script>'&amp;"""


def test_names_and_numbers_are_written_as_svg_has_them() -> None:
    drawn = element("rect", class_="a b", data_at="now", x=1.0, y=2.25, width=3, rx=None)
    assert drawn == '<rect class="a b" data-at="now" x="1" y="2.2" width="3"></rect>'


@pytest.mark.parametrize("place", ["child", "attribute"])
def test_words_stay_words(place: str) -> None:
    if place == "child":
        drawn = element("g", element("text", HOSTILE))
        (text,) = ET.fromstring(drawn)
        assert text.text == HOSTILE
    else:
        assert ET.fromstring(element("g", aria_label=HOSTILE)).attrib == {"aria-label": HOSTILE}
