"""When a deployment's companion, the variant for many users, is there beside its main one. Pure.

Its count is 0 or 1 and nobody else sets it. Starts are rare by construction: it comes only after the load has stayed
above the cross-over, or was there again and again, and leaves only after minutes below break-even. One that is faster
even for a single request comes soon after the main variant: whoever asks first would have to wait for it.
"""

import math

import msgspec

# The load is smoothed over this time: between two answers a closed loop of clients shows fewer than it has.
SMOOTHED_OVER_S = 1.0
UP_AFTER_S = 4.0
# Far above the cross-over it is held for less: each second more lets a burst crawl on the main variant.
LEAST_UP_AFTER_S = 1.0
# One that is faster for a single request comes by itself only when the main variant has been there for less than this.
_FRESH_S = 30.0
# Above the cross-over for so long in all, within about this time: one person who asks now and then.
UP_AFTER_IN_ALL_S = 15.0
_REMEMBERED_S = 300.0
# Ticks farther apart say nothing about the time between them.
_LONGEST_TICK_S = 1.0
# It leaves when it was not needed for this many of its starts, within these bounds.
_IDLE_STARTS = 20.0
_DOWN_AFTER_S = (180.0, 900.0)
# Of the machine's memory; who needs it gets it anyway, because a companion leaves first.
_SMALL_SHARE = 0.1
# After it left for whatever reason, or made room for others.
REST_S = 60.0
MADE_ROOM_S = 300.0


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """Requests at once from which on the companion is clearly faster, and below which it is slower."""

    up: int
    down: int


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision sees of a deployment now."""

    # Requests that run and wait, over all gateway workers.
    users: int
    # None: not both are measured, or the companion is never faster.
    edges: Edges | None
    # A companion can be had, and the main variant is wanted.
    is_possible: bool
    # The main variant answers.
    is_main_ready: bool
    # Of the companion, from order to first token.
    start_s: float
    # Its memory is hardly missed: it stays for the next burst.
    is_small: bool = False


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered; times on the monotonic clock."""

    is_up: bool = False
    # Smoothed, from nothing.
    users: float = 0.0
    seen_s: float = 0.0
    # Since when the load has been on the side that would change the count.
    since_s: float | None = None
    # Seconds above the cross-over while it was not there, fading.
    missed_s: float = 0.0
    # Since when the main variant has answered.
    main_since_s: float | None = None
    rests_until_s: float = -math.inf


class Decision(msgspec.Struct, frozen=True):
    """What is remembered from now on, and why the count changed; empty when it did not."""

    history: History
    reason: str = ""


def down_after_s(start_s: float) -> float:
    """How long it stays without being needed, for one that takes `start_s` to start."""
    shortest_s, longest_s = _DOWN_AFTER_S
    return min(longest_s, max(shortest_s, _IDLE_STARTS * start_s))


def decide(history: History, sight: Sight, now_s: float) -> Decision:
    """Whether the companion shall be there."""
    passed_s = max(0.0, now_s - history.seen_s)
    history = _main_seen(_smoothed(history, sight.users, now_s), sight, now_s)
    if not sight.is_possible:
        return (
            Decision(left(history, now_s, REST_S), "the main variant is gone")
            if history.is_up
            else Decision(history)
        )
    if history.is_up:
        return _while_up(history, sight, now_s)
    return _while_down(history, sight, now_s, passed_s)


def left(history: History, now_s: float, rest_s: float) -> History:
    """It leaves now and rests."""
    return msgspec.structs.replace(
        history, is_up=False, since_s=None, missed_s=0.0, rests_until_s=now_s + rest_s
    )


def is_small(replica_bytes: int, memory_bytes: int | None) -> bool:
    """Its memory is hardly missed; False where either is not known."""
    return memory_bytes is not None and 0 < replica_bytes <= _SMALL_SHARE * memory_bytes


def up_after_s(users: float, up: int) -> float:
    """How long a load of so many must last, for a companion that is clearly faster from `up` on."""
    return max(LEAST_UP_AFTER_S, min(UP_AFTER_S, UP_AFTER_S * up / max(users, 1.0)))


def _while_down(history: History, sight: Sight, now_s: float, passed_s: float) -> Decision:
    edges, may_start = sight.edges, sight.is_main_ready and now_s >= history.rests_until_s
    # While a first answer is written, a start would slow it down.
    is_first = sight.users == 0 and _is_fresh(history, now_s)
    if edges is not None and edges.up <= 1 and may_start and is_first:
        up = msgspec.structs.replace(history, is_up=True, since_s=None, missed_s=0.0)
        return Decision(up, "measured to be faster at every load")
    # Half a user less: a smoothed load only comes near to what it is.
    if edges is None or history.users < edges.up - 0.5 or not may_start:
        missed_s = history.missed_s * math.exp(-passed_s / _REMEMBERED_S)
        return Decision(msgspec.structs.replace(history, since_s=None, missed_s=missed_s))
    since_s = now_s if history.since_s is None else history.since_s
    missed_s = history.missed_s + min(passed_s, _LONGEST_TICK_S)
    held_s = up_after_s(history.users, edges.up)
    if now_s - since_s < held_s and missed_s < UP_AFTER_IN_ALL_S:
        return Decision(msgspec.structs.replace(history, since_s=since_s, missed_s=missed_s))
    up = msgspec.structs.replace(history, is_up=True, since_s=None, missed_s=0.0)
    if now_s - since_s < held_s:
        return Decision(up, f"{UP_AFTER_IN_ALL_S:g} s in all of requests that it answers sooner")
    return Decision(up, f"{history.users:.0f} requests at once for {held_s:.2g} s")


def _is_fresh(history: History, now_s: float) -> bool:
    return history.main_since_s is not None and now_s - history.main_since_s <= _FRESH_S


def _while_up(history: History, sight: Sight, now_s: float) -> Decision:
    is_low = sight.edges is None or history.users < sight.edges.down - 0.5
    if not is_low:
        return Decision(msgspec.structs.replace(history, since_s=None))
    since_s = now_s if history.since_s is None else history.since_s
    stays = sight.is_small or (sight.edges is not None and sight.edges.up <= 1)
    patience_s = _DOWN_AFTER_S[1] if stays else down_after_s(sight.start_s)
    if now_s - since_s < patience_s:
        return Decision(msgspec.structs.replace(history, since_s=since_s))
    return Decision(left(history, now_s, REST_S), f"not needed for {patience_s:.0f} s")


def _main_seen(history: History, sight: Sight, now_s: float) -> History:
    if not sight.is_main_ready:
        return msgspec.structs.replace(history, main_since_s=None)
    since_s = now_s if history.main_since_s is None else history.main_since_s
    return msgspec.structs.replace(history, main_since_s=since_s)


def _smoothed(history: History, users: int, now_s: float) -> History:
    # Ticks are far apart only when nothing happened for long: then what is seen now counts alone.
    share = 1.0 - math.exp(-max(0.0, now_s - history.seen_s) / SMOOTHED_OVER_S)
    smooth = history.users + share * (users - history.users)
    return msgspec.structs.replace(history, users=smooth, seen_s=now_s)
