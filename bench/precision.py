"""Layer two measured: speed and memory of formats, KV bytes, and how often the gate is wrong.

python -m bench.precision speed MODEL --formats q4_1,q4_mix,q8_0,f16
python -m bench.precision kv MODEL
python -m bench.precision rates MODEL --out results.json
"""

import argparse
import asyncio
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import msgspec
import numpy as np

from outpace.hardware.machine import detect, machine_name
from outpace.lab.gate import GateOrder, Side, gate_with_results
from outpace.lab.making import produce, source_of
from outpace.lab.speed import measure_speeds
from outpace.precision.artifacts import sha256_of
from outpace.precision.gate import FIRST_WAVE_ITEMS, WAVE_ITEMS, decide
from outpace.precision.items import shipped_items
from outpace.precision.measures import ItemResult
from outpace.values.clock import SystemClock

CLOCK = SystemClock()
KV_LINE = re.compile(r"llama_kv_cache: size =\s*([\d.]+) MiB")


def kv_bytes(path: Path) -> dict[str, float]:
    """MiB of an equal KV cache at several formats, as llama.cpp's own log tells them."""
    program = (
        "import sys, xllamacpp as x; p = x.CommonParams(); p.model.path = sys.argv[1]; p.hostnames = [sys.argv[2]];"
        "p.n_ctx = 8192; p.n_parallel = 4; p.cpuparams.n_threads = 1; p.verbosity = 4; p.fit_params = False;"
        "p.cache_type_k = p.cache_type_v = getattr(x.ggml_type, 'GGML_TYPE_' + sys.argv[3]); s = x.Server(p);"
        "import os; os._exit(0)"
    )
    found = {}
    for kind in ("F16", "Q8_0", "Q4_0"):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", program, str(path), f"{folder}/kv.sock", kind]
            words = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        sizes = KV_LINE.findall(words.stderr + words.stdout)
        found[kind.lower()] = float(sizes[-1]) if sizes else float("nan")
    return found


def break_scales(source: Path, target: Path) -> None:
    """A Q8_0 file in which every hundredth block's scale is eight times too large."""
    _changed(source, target, lambda name, rows: _scale_blocks(rows) if ".ffn_down." in name else rows)


def zero_layer(source: Path, target: Path) -> None:
    """A Q8_0 file in which the middle layer's attention output and feed-forward output are zero."""
    parts = ("blk.15.ffn_down", "blk.15.attn_output")
    _changed(source, target, lambda name, rows: np.zeros_like(rows) if name.startswith(parts) else rows)


def _scale_blocks(rows: np.ndarray) -> np.ndarray:
    blocks = rows.reshape(-1, 34).copy()
    scales = blocks[::100, :2].copy().view(np.float16)
    blocks[::100, :2] = (scales * np.float16(8)).view(np.uint8)
    return blocks.reshape(rows.shape)


def _changed(source: Path, target: Path, change) -> None:  # type: ignore[no-untyped-def]
    raw = bytearray(source.read_bytes())
    for tensor in gguf.GGUFReader(source).tensors:
        rows = np.array(tensor.data)
        if rows.dtype == np.uint8:
            made = change(str(tensor.name), rows)
            raw[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = made.tobytes()
    target.write_bytes(raw)


async def measured(
    source_model: str, artifacts: Path, names: list[str], reference: str, *, stops_early: bool
) -> dict[str, object]:
    """Verdict, seconds and every item's result for each candidate: `q8_0`, `f16+q4_0` (KV), `openvino:q8_0+u8`, …"""
    source = source_of(source_model, artifacts)
    sides = {name: _side(name, source_model, artifacts) for name in names}
    found: dict[str, object] = {}
    for name, side in sides.items():
        order = GateOrder(
            model=source.model,
            context_tokens=source.context_tokens,
            reference=produce(source, reference, artifacts).side,
            candidate=side,
            item_set=shipped_items(),
            machine=machine_name(detect()),
            folder=artifacts,
            stops_early=stops_early,
        )
        verdict, results = await gate_with_results(order, CLOCK)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = f"{verdict.duration_s:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of CPU so far"
        print(
            name, verdict.outcome, verdict.reason, f"{verdict.num_items} items", spent, sep=" · ", flush=True
        )
        found[name] = {"verdict": msgspec.to_builtins(verdict), "results": msgspec.to_builtins(results)}
    return found


def _side(name: str, model: str, artifacts: Path) -> Side:
    source = source_of(model, artifacts)
    engine, colon, rest = name.partition(":")
    if colon:
        return msgspec.structs.replace(_side(rest, model, artifacts), engine=engine)
    base, _, kv = name.partition("+")
    if base in ("broken-scales", "zero-layer"):
        path = artifacts / f"{base}.gguf"
        {"broken-scales": break_scales, "zero-layer": zero_layer}[base](
            produce(source, "q8_0", artifacts).path, path
        )
        side = Side(artifact_path=path, artifact_sha256=sha256_of(path), precision=base)
        return msgspec.structs.replace(side, kv_precision=kv) if kv else side
    side = produce(source, base, artifacts).side
    return msgspec.structs.replace(side, kv_precision=kv) if kv else side


def rates(found: dict[str, object], runs: int = 200) -> dict[str, dict[str, float]]:
    """Shares of pass, refuse and undecided when the recorded items come in other orders and samples (bootstrap)."""
    shares: dict[str, dict[str, float]] = {}
    for name, entry in found.items():
        results = msgspec.convert(entry["results"], list[ItemResult])  # type: ignore[index]
        counts = dict.fromkeys(("pass", "refuse", "undecided"), 0)
        for seed in range(runs):
            counts[_replayed(results, random.Random(seed))] += 1
        shares[name] = {outcome: count / runs for outcome, count in counts.items()}
    return shares


def _replayed(results: list[ItemResult], rng: random.Random) -> str:
    sample = rng.choices(results, k=len(results))
    kinds = frozenset(result.kind for result in results)
    for size in itertools.chain(range(FIRST_WAVE_ITEMS, len(sample), WAVE_ITEMS), [len(sample)]):
        decision = decide(sample[:size], kinds)
        if decision.outcome != "undecided":
            return decision.outcome
    return "undecided"


def main() -> None:
    """Run one of the benches and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bench", choices=["speed", "kv", "gates", "rates"])
    parser.add_argument("model")
    parser.add_argument("--artifacts", type=Path, required=True, help="HOME/artifacts")
    parser.add_argument("--formats", default="q4_1,q4_0,q4_fit,q4_mix,q8_0,f16")
    parser.add_argument("--reference", default="f16")
    parser.add_argument("--kv", default="f16", help="KV format of `speed`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--all-items", action="store_true", help="no early stop")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    names = options.formats.split(",")
    if options.bench == "speed":
        source = source_of(options.model, options.artifacts)
        products = [produce(source, name, options.artifacts) for name in names]
        speeds = asyncio.run(
            measure_speeds(
                [(product, options.kv) for product in products], options.threads, options.rounds, CLOCK
            )
        )
        told = {
            product.precision: {
                **msgspec.to_builtins(speeds[product.sha256, options.kv]),
                "bytes": product.size_bytes,
            }
            for product in products
        }
        print(json.dumps(told, indent=1))
    elif options.bench == "kv":
        print(json.dumps(kv_bytes(source_of(options.model, options.artifacts).path)))
    elif options.bench == "gates":
        found = asyncio.run(
            measured(
                options.model, options.artifacts, names, options.reference, stops_early=not options.all_items
            )
        )
        if options.out:
            known = json.loads(options.out.read_text()) if options.out.exists() else {}
            options.out.write_text(json.dumps(known | found))
    else:
        print(json.dumps(rates(json.loads(options.out.read_text())), indent=1))


if __name__ == "__main__":
    main()
