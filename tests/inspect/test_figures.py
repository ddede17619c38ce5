"""Figures of the inspection's page."""

import re

from composer.inspect.base.views import Heat
from composer.inspect.figures import heat


def test_shares_that_show_as_0_are_pale_however_small_the_largest_is():
    view = Heat(
        "lost", "step", "difficulty", ["1", "2"], ["k0", "k1"], [[1e-4, 0.0], [-1e-4, 2e-4]], share=True
    )
    shades = re.findall(r'class="cell \w+"[^>]*fill-opacity="([\d.]+)"', heat(view, 300.0).svg(alone=True))
    assert len(shades) == 4
    assert max(map(float, shades)) < 0.1
