"""Small GGUF files written by hand, cards for them, and a loopback web server that serves files."""

import hashlib
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from outpace.catalogue.cards import FileSource, HttpsSource, Weights

ALIGNMENT = 32
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}{% endfor %}{{ tools }}"
TOKENS = ("<|endoftext|>", "<|im_start|>", "a", "b", "<tool>", "  ")
KINDS = (3, 3, 1, 1, 4, 4)


def text(value: str) -> bytes:
    """A GGUF string."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    """A key with a value of type `kind`."""
    return text(key) + struct.pack("<I", kind) + value


def number(key: str, value: int) -> bytes:
    """A key with an unsigned 32-bit value."""
    return pair(key, 4, struct.pack("<I", value))


def word(key: str, value: str) -> bytes:
    """A key with a text."""
    return pair(key, 8, text(value))


def texts(key: str, values: Sequence[str]) -> bytes:
    """A key with an array of texts."""
    return pair(key, 9, struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values)))


def numbers(key: str, values: Sequence[int]) -> bytes:
    """A key with an array of signed 32-bit values."""
    return pair(key, 9, struct.pack(f"<IQ{len(values)}i", 5, len(values), *values))


def tensor(name: str, shape: Sequence[int], kind: int, offset: int) -> bytes:
    """The header of one tensor."""
    head = text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
    return head + struct.pack("<IQ", kind, offset)


def pairs() -> list[bytes]:
    """The keys of a tiny Llama with a chat template."""
    return [
        word("general.architecture", "llama"),
        word("general.name", "Tiny"),
        number("general.file_type", 0),
        number("llama.block_count", 2),
        number("llama.embedding_length", 8),
        number("llama.attention.head_count", 2),
        numbers("llama.attention.head_count_kv", [1, 1]),
        number("llama.context_length", 64),
        number("llama.feed_forward_length", 16),
        texts("tokenizer.ggml.tokens", TOKENS),
        numbers("tokenizer.ggml.token_type", KINDS),
        number("tokenizer.ggml.bos_token_id", 0),
        number("tokenizer.ggml.eos_token_id", 1),
        word("tokenizer.chat_template", TEMPLATE),
    ]


def tiny_gguf(
    keys: Sequence[bytes] | None = None,
    tensors: Sequence[bytes] | None = None,
    content_bytes: int = 512,
    version: int = 3,
) -> bytes:
    """A whole file: 8 x 6 weights of f32 in the first tensor, 32 of q4_0 in the second."""
    keys = pairs() if keys is None else keys
    if tensors is None:
        tensors = [tensor("token_embd.weight", (8, 6), 0, 0), tensor("output.weight", (32,), 2, 192)]
    head = (
        b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    )
    padding = -len(head) % ALIGNMENT
    return head + bytes(padding) + bytes(range(256)) * (content_bytes // 256)


def weights_of(content: bytes, *sources: FileSource | HttpsSource) -> Weights:
    """A card's weights that are exactly `content`."""
    return Weights(
        precision="f32",
        sources=sources,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        checked_on="2026-11-23",
    )


def file_weights(folder: Path, content: bytes) -> Weights:
    """Weights whose source is a file in `folder`."""
    path = folder / "source.gguf"
    path.write_bytes(content)
    return weights_of(content, FileSource(path=str(path)))


class FileServer:
    """Serves bytes by path on loopback, with ranges; counts requests and can break off or wait."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, Mapping[str, str]] = {}
        # (method, path, Range header) of every request.
        self.seen: list[tuple[str, str, str | None]] = []
        # Send only so many bytes of each body, then close.
        self.break_after_bytes: int | None = None
        self.has_ranges = True
        # A body waits for this.
        self.may_send = threading.Event()
        self.may_send.set()
        self.is_asked = threading.Event()
        self.base_url = ""


@contextmanager
def serving() -> Iterator[FileServer]:
    """A running FileServer."""
    files = FileServer()

    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            asked = self.headers.get("Range")
            files.seen.append((self.command, self.path, asked))
            if self.path in files.redirects:
                self._head(302, {"Location": files.redirects[self.path], "Content-Length": "0"})
                return
            content = files.files.get(self.path)
            if content is None:
                self._head(404, {"Content-Length": "0"})
                return
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and files.has_ranges else 0
            if start and start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            extra = dict(files.headers.get(self.path, {})) | {"Content-Length": str(len(content) - start)}
            if start:
                extra["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._head(206 if start else 200, extra)
            if with_body:
                self._send(content[start:])

        def _send(self, body: bytes) -> None:
            files.is_asked.set()
            assert files.may_send.wait(30)
            self.wfile.write(body[: files.break_after_bytes])
            if files.break_after_bytes is not None and files.break_after_bytes < len(body):
                self.close_connection = True

        def _head(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    files.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield files
    finally:
        files.may_send.set()
        server.shutdown()
        server.server_close()
        thread.join()
