"""How an instance is spread over devices: counts and notes of a case as one split and a number of instances."""

import re

from outpace.hardware.devices import Device
from outpace.planner.cases import Case
from outpace.planner.recipes import Start, has_attention_groups
from outpace.planner.written import count as counted
from outpace.precision.formats import WeightFormat
from outpace.precision.memory import Split, weight_bytes
from outpace.values.architecture import Architecture
from outpace.values.errors import InvalidInput

# MLPerf submitters leave the split open; this share of a device filled by weights is about where they split.
_FILLED_BY_WEIGHTS = 0.62
# Who names no count means as few devices as hold the weights and some cache.
_FILLED_ALONE = 0.8
# Devices that share one board's links.
_BOARD = 8


def split_of(
    case: Case, shape: Architecture, on: Device, stored: WeightFormat, notes: str
) -> tuple[Split, float, str]:
    """The split of one instance, how many instances there are, and how an odd count was read."""
    tp, pp, count = (counted(getattr(case, name), name) for name in ("tp", "pp", "n_gpus"))
    labelled = _labelled_devices(notes)
    if labelled and labelled < tp:
        return Split(tp=labelled), 1.0, f"one copy on {labelled} devices, as the label in notes says"
    wide = re.search(r"\bdep(\d+)\b", notes)
    if wide and shape.moe_layers:
        return Split(attention_dp=int(wide[1])), max(1.0, count / int(wide[1])), ""
    tp, count, reading = _same_devices(shape, on, tp, count, notes)
    pp = pp or 1
    if not tp:
        tp = max(1, _open_tp(shape, on, stored, count) // pp)
        taken = "" if count else f"n_gpus and tp not given, taken as {tp * pp}"
        return Split(tp=tp, pp=pp), max(1.0, count / (tp * pp)), taken or reading
    if _says_attention_groups(notes, shape):
        return Split(attention_dp=tp, pp=pp), max(1.0, count / (tp * pp)), reading
    if shape.moe_layers and tp > _BOARD and shape.heads % tp:
        return (
            Split(attention_dp=tp, pp=pp),
            1.0,
            f"tp {tp} read as {tp} groups of attention data parallelism",
        )
    _check_parallel(shape, tp, pp)
    if count and tp * pp > count:
        raise InvalidInput("tp", f"{tp} x pp {pp} needs {tp * pp} devices, n_gpus is {count}")
    if shape.moe_layers and count > tp * pp:
        return Split(tp=tp, pp=pp, attention_dp=count // (tp * pp)), 1.0, reading
    return Split(tp=tp, pp=pp), max(1.0, count / (tp * pp)), reading


def _labelled_devices(notes: str) -> int:
    """Devices of one copy of the model, by a label such as `8xMI300X 2FP8`: eight devices, two copies.

    Such rows name all devices of the machine as tensor-parallel and give the throughput of one copy.
    """
    found = re.search(r"\blabel '(\d+)x\w+ (\d+)fp8", notes)
    return int(found[1]) // max(1, int(found[2])) if found else 0


def _says_attention_groups(notes: str, shape: Architecture) -> bool:
    """Attention data parallelism over the tensor-parallel devices, as some tables note it.

    Flags noted are often cut off before `--enable-dp-attention`; `dp=8` on the same eight devices means it.
    """
    if "attention-dp enabled" in notes:
        return bool(shape.moe_layers)
    return shape.attention == "mla" and bool(
        re.search(r"dp-attention|dp attention|attention-dp\b(?!=)|(?<![-\w])dp=(?!1\b)\d", notes)
    )


def _same_devices(shape: Architecture, on: Device, tp: int, count: int, notes: str) -> tuple[int, int, str]:
    """Undo counts that multiply tensor by expert parallelism of the same devices (16 = 4 x 4, 64 = 8 x 8).

    Published tables hold such rows for boards of eight; only a 72-way link joins more. Where callers are noted as a
    whole, 4 is 2 x 2: the same runs stand there on two devices, too, with the same figures but for noise.
    """
    width = {4: 2, 16: 4, 64: 8}.get(count, 0)
    is_noted = tp == width and whole_concurrency(notes) > 0
    if not shape.moe_layers or not width or (count <= _BOARD and not is_noted) or "72-way" in on.link:
        return tp, count, ""
    if tp in (1, width, count):
        return (
            (1 if tp == 1 else width),
            width,
            f"{count} devices read as {width}, each counted for tp and ep",
        )
    return tp, count, ""


def _check_parallel(shape: Architecture, tp: int, pp: int) -> None:
    if shape.heads % tp:
        raise InvalidInput("tp", f"{tp} does not divide the {shape.heads} attention heads of {shape.name}")
    if pp > shape.layers:
        raise InvalidInput("pp", f"{pp} stages are more than the {shape.layers} layers of {shape.name}")


def _open_tp(shape: Architecture, on: Device, stored: WeightFormat, count: int) -> int:
    """The smallest power of two at which the weights leave room, within the devices that there are.

    Experts are spread over the whole board once one device is too small for them.
    """
    total = weight_bytes(shape, stored).total
    room = (_FILLED_BY_WEIGHTS if count else _FILLED_ALONE) * on.memory_bytes
    count = count or _BOARD
    if shape.moe_layers and total > room:
        return min(count, _BOARD)
    tp = 1
    while total / tp > room and tp * 2 <= count:
        tp *= 2
    return tp


def whole_concurrency(notes: str) -> float:
    """Some tables count callers per attention group and note the whole; that is what an instance sees."""
    found = re.search(r"silicon_concurrency=(\d+)", notes)
    return float(found[1]) if found else 0.0


def has_groups(start: Start, split: Split, notes: str) -> bool:
    """Whether callers noted as a whole are those of several attention groups.

    vLLM's rows count callers so wherever experts are spread; only some of its runs had groups (`recipes.toml`).
    """
    if not whole_concurrency(notes) or split.attention_dp > 1:
        return False
    return has_attention_groups(start) if start.engine.startswith("vllm") else True
