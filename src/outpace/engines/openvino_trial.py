"""Tries JSON schemas on a model of no size before the real one meets them: `python -m outpace.engines.openvino_trial`.

The library compiles a grammar inside a step, and a schema that it cannot follow breaks the pipeline for good. So each
schema is first given to a tiny model with the same vocabulary, in a process whose memory is bounded and which is ended
when it takes too long. The schemas come as frames on the socket that is standard input; the answer is the refusal, or
nothing when the schema can be followed.
"""

import ctypes
import resource
import signal
import socket
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np

from outpace.engines.openvino_library import GrammarTrial
from outpace.values.units import GIB

_PR_SET_PDEATHSIG = 1
_LENGTH_BYTES = 4
# Beyond what the process has when it is loaded.
_GRAMMAR_BYTES = 1 * GIB
# Of its one head too: with 32 the library crashes on processors with AMX.
_WIDTH = 64
_F16_FILE = 1


def main() -> None:
    """Serve trials until the other end closes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with tempfile.TemporaryDirectory(prefix="outpace-trial-") as scratch:
        trial = GrammarTrial(Path(sys.argv[1]), lambda num_tokens: tiny_model(Path(scratch), num_tokens))
    _bound_memory()
    front = socket.socket(fileno=0)
    while head := front.recv(_LENGTH_BYTES, socket.MSG_WAITALL):
        schema = front.recv(int.from_bytes(head, "little"), socket.MSG_WAITALL)
        refusal = trial.refusal(schema.decode()).encode()
        front.sendall(len(refusal).to_bytes(_LENGTH_BYTES, "little") + refusal)


def tiny_model(folder: Path, num_tokens: int) -> Path:
    """A GGUF of one narrow layer of zeros with a vocabulary of `num_tokens`."""
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for say, value in (
        (writer.add_block_count, 1),
        (writer.add_context_length, _WIDTH),
        (writer.add_embedding_length, _WIDTH),
        (writer.add_feed_forward_length, _WIDTH),
        (writer.add_head_count, 1),
        (writer.add_head_count_kv, 1),
        (writer.add_rope_dimension_count, _WIDTH),
        (writer.add_vocab_size, num_tokens),
        (writer.add_file_type, _F16_FILE),
    ):
        say(value)
    writer.add_layer_norm_rms_eps(1e-5)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(_WIDTH, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((num_tokens, _WIDTH), np.float16))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((_WIDTH, _WIDTH), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _bound_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_bytes = pages * resource.getpagesize() + _GRAMMAR_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, limit_bytes))


if __name__ == "__main__":
    main()
