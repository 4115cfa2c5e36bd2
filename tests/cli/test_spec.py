from pathlib import Path

import pytest

from outpace.cli.spec import spec_of, wanted_spec
from outpace.values.errors import InvalidInput, RequestTooLarge

EXTERNAL = """
name: mock
engine: external
external: {base_url: http://127.0.0.1:9/v1, model: m}
price: {input_usd_per_mtok: 0.001, output_usd_per_mtok: 2}
"""


def of_file(tmp_path: Path, text: str, **changes: object) -> dict[str, object]:
    path = tmp_path / "chat.yaml"
    path.write_text(text)
    body = wanted_spec(str(path), changes)
    spec_of(body)
    return body


def test_a_file_becomes_the_admin_apis_body(tmp_path: Path) -> None:
    body = of_file(tmp_path, EXTERNAL, name="other", replicas=None)
    assert body["name"] == "other"
    assert body["external"] == {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    assert "replicas" not in body


def test_a_model_or_a_gguf_is_enough() -> None:
    assert wanted_spec("smollm2-135m-instruct", {}) == {
        "name": "smollm2-135m-instruct",
        "model": "smollm2-135m-instruct",
    }
    own = wanted_spec("/models/My Model.gguf", {})
    assert own == {"name": "My-Model", "model": "/models/My Model.gguf"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name: a\nmodel: b\nreplica: 2", "replica"),
        ("name: a\nmodel: b\nreplicas: 2", "replicas"),
        ("name: a\nmodel: b\nobjective: {ttft: 1}", "ttft"),
        ("name: a\nmodel: b\nname: c", "again in line 3"),
        ("name: a\nmodel: b\nprice: {input_usd_per_mtok: 1}", "output_usd_per_mtok"),
        ("name: a\nmodel: b\nprice: 3", "price"),
        ("name: a\nmodel: b\nprice: {input_usd_per_mtok: -1, output_usd_per_mtok: 1}", "input_usd_per_mtok"),
        ("model: b", "name"),
        ("name: a", "model"),
        ("- a", "table"),
        ("1: a", "must be a text"),
        ("name: [", "not YAML"),
        ("name: !!python/object/apply:os.system [id]", "not YAML"),
        ("\x00", "not YAML"),
        ("name: &a x\nmodel: *a", "aliases"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        of_file(tmp_path, text)
    assert named in str(raised.value)


def test_a_ggufs_path_is_meant_from_where_the_file_lies(tmp_path: Path) -> None:
    assert of_file(tmp_path, "name: a\nmodel: sub/x.gguf")["model"] == str(tmp_path / "sub/x.gguf")
    assert of_file(tmp_path, "name: a\nmodel: /m/x.gguf")["model"] == "/m/x.gguf"


def test_a_missing_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        wanted_spec(str(tmp_path / "gone.yaml"), {})


def test_deep_and_long_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nested deeper"):
        of_file(tmp_path, "name: " + "[" * 5000)
    with pytest.raises(RequestTooLarge):
        of_file(tmp_path, "#" * (64 * 1024 + 1))
