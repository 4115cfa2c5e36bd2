"""A model's weights as one side of a gate, on the engine that is to be judged."""

from pathlib import Path

import msgspec

from outpace.catalogue.resolve import find_card
from outpace.lab.checkpoints import OPENVINO, checkpoint_format, produce_checkpoint
from outpace.lab.gate import Side
from outpace.lab.making import Source, produce
from outpace.precision.gguf_maker import Report, report_nothing
from outpace.values.errors import InvalidInput


def side_on(engine: str, source: Source, to: str, artifacts: Path, report: Report = report_nothing) -> Side:
    """The source at format `to` as `engine` serves it, made if need be, its KV cache at 16 bit.

    Raises InvalidInput for a format that is not known or not for this engine, and what `produce` raises.
    """
    folder_format = checkpoint_format(to)
    if folder_format is None:
        return msgspec.structs.replace(produce(source, to, artifacts, report).side, engine=engine)
    if folder_format not in OPENVINO:
        raise InvalidInput("--precision", f"{folder_format} is for engines that no gate judges here")
    if engine != "openvino":
        raise InvalidInput("--precision", f"{folder_format} runs on openvino only: add --engine openvino")
    name = source.model if find_card(source.model) else str(source.path)
    made = produce_checkpoint(name, folder_format, artifacts, report)
    return Side(
        artifact_path=made.path,
        artifact_sha256=made.record.sha256,
        precision=folder_format,
        engine=engine,
    )
