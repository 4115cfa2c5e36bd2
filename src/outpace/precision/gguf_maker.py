"""A GGUF at another format, written tensor by tensor next to where it will lie; its source is never touched."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as GgmlType
from numpy.typing import NDArray

from outpace.precision import dense, ggml
from outpace.precision.recipes import Recipe
from outpace.values.errors import WeightsInvalid

# Tensors done, tensors in all.
Report = Callable[[int, int], None]
# The ggml type of each tensor, by its name.
Kinds = Mapping[str, GgmlType]
Raw = NDArray[np.uint8]
_Reader = gguf.GGUFReader
_PLAIN = frozenset({GgmlType.F32, GgmlType.F64, GgmlType.I8, GgmlType.I16, GgmlType.I32, GgmlType.I64})
# RMS norms give their output a unit mean square, so the squared norm weight says how large each input column of the
# matrices behind it is: an importance matrix that needs no calibration text.
_NORM_BEFORE = {
    "attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm",
    "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm",
}  # fmt: skip


def report_nothing(done: int, total: int) -> None:
    """A report that nobody reads."""


def make_gguf(
    source: Path,
    target: Path,
    recipe: Recipe,
    report: Report = report_nothing,
    ready: Mapping[str, Raw] | None = None,
) -> None:
    """Write `source` at the recipe's format to `target`. The caller has had the source's header checked.

    `ready` are tensors that were rounded before, as stored rows by name.

    Raises WeightsInvalid for a source that cannot be read or holds NaN or infinity, and InvalidInput for a
    type that cannot be made. An aborted `target` is the caller's to remove.
    """
    with _reading(source):
        reader = _Reader(source)
        plan = _plan(reader, recipe)
    writer = gguf.GGUFWriter(target, str(_field(reader, "general.architecture")))
    try:
        _copy_keys(reader, writer, recipe)
        for tensor, kind in zip(reader.tensors, plan, strict=True):
            _announce(writer, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        norms = _norms(reader)
        for done, (tensor, kind) in enumerate(zip(reader.tensors, plan, strict=True)):
            report(done, len(plan))
            made: NDArray[np.generic] | None = (ready or {}).get(str(tensor.name))
            if made is None:
                made = _content(tensor, kind, source, norms, shares_scales=recipe.shares_scales)
            writer.write_tensor_data(made)
        report(len(plan), len(plan))
    finally:
        writer.close()


def kinds_of(source: Path, recipe: Recipe) -> Kinds:
    """Which type the recipe gives each tensor of the file. Raises WeightsInvalid."""
    with _reading(source):
        reader = _Reader(source)
        return {
            str(tensor.name): kind for tensor, kind in zip(reader.tensors, _plan(reader, recipe), strict=True)
        }


def why_not_fitted(source: Path) -> str | None:
    """Why no recipe can be fitted to this file; None when one can. Raises WeightsInvalid."""
    with _reading(source):
        reader = _Reader(source)
        parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
        if parameters > dense.MOST_PARAMETERS:
            return f"it has {parameters / 1e9:.1f} billion parameters, more than {dense.MOST_PARAMETERS / 1e9:.1f}"
        keys = {name: field.contents() for name, field in reader.fields.items() if "token" not in name}
        return dense.unfit(keys, [str(tensor.name) for tensor in reader.tensors])


def read_tensors(path: Path) -> Iterator[tuple[str, GgmlType, NDArray[np.float32]]]:
    """Name, stored type and numbers of every tensor. Raises WeightsInvalid."""
    with _reading(path):
        for tensor in _Reader(path).tensors:
            yield str(tensor.name), tensor.tensor_type, _numbers(tensor, path)


def check_numbers(path: Path) -> None:
    """Read every tensor once. Raises WeightsInvalid for NaN or infinity."""
    for _ in read_tensors(path):
        pass


def keys_of(path: Path) -> dict[str, Any]:
    """The file's key-value pairs. Raises WeightsInvalid."""
    with _reading(path):
        return {name: field.contents() for name, field in _Reader(path).fields.items()}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    # What gguf raises for a file that lies, besides ValueError.
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise WeightsInvalid(f"{path.name} is not a sound GGUF file: {error}") from error


def _field(reader: _Reader, name: str) -> Any:
    field = reader.fields.get(name)
    if field is None:
        raise WeightsInvalid(f"the GGUF file does not say its {name}")
    return field.contents()


def _layers(reader: _Reader) -> int:
    return int(_field(reader, f"{_field(reader, 'general.architecture')}.block_count"))


def _plan(reader: _Reader, recipe: Recipe) -> list[GgmlType]:
    layers = _layers(reader)
    return [_kind_for(tensor, recipe, layers) for tensor in reader.tensors]


def _kind_for(tensor: Any, recipe: Recipe, layers: int) -> GgmlType:
    """Vectors and integers stay; a matrix follows the recipe as far as its rows divide into blocks."""
    stored = GgmlType(tensor.tensor_type)
    if stored in _PLAIN and (stored != GgmlType.F32 or len(tensor.shape) < 2):
        return stored
    rule = recipe.rule_for(str(tensor.name), layers)
    row_values = int(tensor.shape[0])
    for name in (rule.type, rule.fallback, "Q8_0"):
        if ggml.fits(GgmlType[name], row_values):
            return GgmlType[name]
    return GgmlType.F16


def _copy_keys(reader: _Reader, writer: gguf.GGUFWriter, recipe: Recipe) -> None:
    for name, field in reader.fields.items():
        if name == "general.architecture" or name.startswith("GGUF."):
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        value = recipe.file_type if name == "general.file_type" else field.contents()
        writer.add_key_value(name, value, field.types[0], sub_type=field.types[-1] if is_array else None)


def _announce(writer: gguf.GGUFWriter, tensor: Any, kind: GgmlType) -> None:
    rows_first = [int(size) for size in reversed(tensor.shape)]
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    num_bytes = int(np.prod(rows_first)) // block * block_bytes
    shape = gguf.quant_shape_to_byte_shape(rows_first, kind) if kind not in _FLOAT_NAMES else rows_first
    dtype = np.dtype(_FLOAT_NAMES.get(kind, "uint8"))
    raw_dtype = None if kind in _FLOAT_NAMES else kind
    writer.add_tensor_info(str(tensor.name), shape, dtype, num_bytes, raw_dtype=raw_dtype)


_FLOAT_NAMES = {
    GgmlType.F32: "float32", GgmlType.F16: "float16", GgmlType.F64: "float64", GgmlType.I8: "int8",
    GgmlType.I16: "int16", GgmlType.I32: "int32", GgmlType.I64: "int64",
}  # fmt: skip


def _content(
    tensor: Any, kind: GgmlType, source: Path, norms: dict[str, Any], *, shares_scales: bool = False
) -> NDArray[np.generic]:
    is_by_row = shares_scales and kind == GgmlType.Q8_0
    if kind == tensor.tensor_type and not is_by_row:
        if kind in (GgmlType.F32, GgmlType.F16):
            _require_finite(tensor.data, str(tensor.name), source)
        return np.asarray(tensor.data)
    numbers = _numbers(tensor, source)
    if is_by_row:
        return ggml.quantize_rows(numbers)
    with np.errstate(over="ignore"):
        made = ggml.quantize(numbers, kind, _importance(str(tensor.name), numbers.shape[-1], norms))
    if kind == GgmlType.F16:
        _require_finite(made, f"{tensor.name} at F16", source)
    return made


def _numbers(tensor: Any, path: Path) -> NDArray[np.float32]:
    numbers = ggml.dequantize(tensor.data, tensor.tensor_type)
    _require_finite(numbers, str(tensor.name), path)
    return numbers


def _require_finite(numbers: NDArray[Any], name: str, path: Path) -> None:
    num_bad = int(numbers.size - np.count_nonzero(np.isfinite(numbers)))
    if num_bad:
        raise WeightsInvalid(
            f"{path.name}: tensor {name[:60]!r} has {num_bad:,} values that are NaN or infinite; get another copy"
        )


def _norms(reader: _Reader) -> dict[str, Any]:
    return {str(tensor.name): tensor.data for tensor in reader.tensors if "_norm" in str(tensor.name)}


def _importance(name: str, columns: int, norms: dict[str, Any]) -> NDArray[np.float32]:
    layer, _, role = name.removesuffix(".weight").rpartition(".")
    norm = norms.get(f"{layer}.{_NORM_BEFORE.get(role)}.weight")
    if norm is None or norm.shape != (columns,):
        # Even weights still make ggml search each block's scale for the least error.
        return np.ones(columns, dtype=np.float32)
    return np.asarray(norm, dtype=np.float32) ** 2
