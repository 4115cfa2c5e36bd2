"""The data's own scatter: how well a perfect memory of other runs predicts a run, beside the model's error on it.

Only runs that have such others are judged. Nothing that a case says tells repeats apart, so their scatter bounds
every predictor. A predictor that has not seen a version knows at best the same run on other versions; how these
differ is what it cannot know, unless versions follow a rule.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.planner.columns import Numbers


def against_repeats(runs: Sequence[str], logs: Numbers) -> Numbers:
    """Logs of each run over the centre of its repeats; not a number where a run was measured once.

    A run is compared with the others' mean, which scatters itself: the root takes that part off.
    """
    found = np.full(len(logs), np.nan)
    for same in _members(runs):
        count = len(same)
        if count > 1:
            others = (logs[same].sum() - logs[same]) / (count - 1)
            found[same] = (logs[same] - others) * np.sqrt((count - 1) / count)
    return found


def against_others(runs: Sequence[str], groups: Sequence[str], logs: Numbers) -> Numbers:
    """Logs of each run over the mean of the same run in other groups; not a number where there is none."""
    found = np.full(len(logs), np.nan)
    named = np.array(groups)
    for same in _members(runs):
        for place in same:
            others = same[named[same] != named[place]]
            if len(others):
                found[place] = logs[place] - logs[others].mean()
    return found


def _members(names: Sequence[str]) -> list[NDArray[np.intp]]:
    places: dict[str, list[int]] = defaultdict(list)
    for place, name in enumerate(names):
        places[name].append(place)
    return [np.array(same) for same in places.values()]
