"""Task scores: what lm-eval wants becomes the API's body; a real run where lm-eval is installed."""

import importlib.util
import json
from pathlib import Path

import pytest

from outpace.lab.tasks import TaskOrder, cut_at, request_body, require_lm_eval, score
from outpace.values.errors import InvalidInput

ORDER = TaskOrder(base_url="http://127.0.0.1:1/v1", api_key="k", deployment="m", tasks=("capitals",))
needs_lm_eval = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None, reason="needs the extra `tasks`"
)
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list:
  - metric: {metric}
"""


def test_a_task_is_asked_greedily_with_four_stops_at_most() -> None:
    wishes = {"until": ["a", "", "b", "c", "d", "e"], "max_gen_toks": 7, "temperature": 0.9}
    body = request_body(ORDER, "say", wishes)
    assert body == {
        "model": "m", "max_tokens": 7, "temperature": 0.0, "stop": ["a", "b", "c", "d"],
        "messages": [{"role": "user", "content": "say"}],
    }  # fmt: skip
    assert request_body(ORDER, "say", {"do_sample": True, "temperature": 0.5})["temperature"] == 0.5


def test_stops_beyond_four_are_cut_here() -> None:
    assert cut_at("one\ntwo E three", ["E", "\n"]) == "one"
    assert cut_at("one", ["E"]) == "one"


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match=r"outpace\[tasks\]"):
        require_lm_eval()


def folder_with(tmp_path: Path, kind: str = "generate_until") -> Path:
    lines = [json.dumps({"question": "Capital of France?", "answer": "Paris"})]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    is_text = kind == "generate_until"
    more = "" if is_text else 'doc_to_choice: ["Paris", "Rome"]'
    text = TASK.format(
        name="capitals", path=tmp_path / "data.jsonl", kind=kind, more=more,
        metric="exact_match" if is_text else "acc",
    )  # fmt: skip
    (tmp_path / "capitals.yaml").write_text(text)
    return tmp_path


@pytest.mark.tasks
@needs_lm_eval
def test_tasks_that_cannot_be_asked_are_refused_by_name(tmp_path: Path) -> None:
    import msgspec

    order = msgspec.structs.replace(ORDER, folder=folder_with(tmp_path, "multiple_choice"))
    with pytest.raises(InvalidInput, match=r"likelihoods of given answers"):
        score(order, lambda done, total: None)
    with pytest.raises(InvalidInput, match=r"no task 'other'; capitals"):
        score(msgspec.structs.replace(order, tasks=("other",)), lambda done, total: None)
