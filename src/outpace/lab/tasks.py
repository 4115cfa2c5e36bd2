"""Task scores of lm-eval, asked through the platform's own door. The only user of lm_eval; an optional extra."""

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from outpace.values.errors import EngineFailed, InvalidInput

Endpoint = Literal["chat", "completions"]
_PATHS: dict[Endpoint, str] = {"chat": "/chat/completions", "completions": "/completions"}
_PARALLEL = 8
_DEADLINE_S = 600.0
_MOST_STOPS = 4
_DEFAULT_TOKENS = 256
Report = Callable[[int, int], None]


class TaskOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to score, and where it answers."""

    base_url: str
    api_key: str
    deployment: str
    tasks: tuple[str, ...]
    # Task files (YAML) of the user's own; with them nothing is looked up elsewhere.
    folder: Path | None = None
    # Samples per task; None: all.
    limit: int | None = None
    endpoint: Endpoint = "chat"


class TaskScore(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one task; `error` is its standard error, None where lm-eval gives none."""

    task: str
    metric: str
    value: float
    error: float | None
    num_samples: int


def require_lm_eval() -> None:
    """Raises InvalidInput with the remedy where lm-eval is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise InvalidInput("bench tasks", "needs lm-eval: pip install 'outpace[tasks]'")


def score(order: TaskOrder, report: Report) -> list[TaskScore]:
    """The scores of a deployment. Raises InvalidInput for tasks that cannot be asked here, and EngineFailed."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    import lm_eval
    from lm_eval.tasks import TaskManager

    if order.folder is not None:
        _stay_offline()
    known = TaskManager(
        include_path=str(order.folder) if order.folder else None, include_defaults=order.folder is None
    )
    _require_known(order, known.all_tasks)
    try:
        tasks = known.load_task_or_group(list(order.tasks))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput("--tasks", f"{', '.join(order.tasks)} cannot be loaded: {error}") from error
    _require_generating(tasks)
    found = lm_eval.simple_evaluate(
        model=_platform_model(order, report),
        tasks=list(order.tasks),
        task_manager=known,
        limit=order.limit,
        # More than none, so that means get their standard error, which needs no resampling.
        bootstrap_iters=1,
        log_samples=False,
        verbosity="ERROR",
    )
    return list(_scores(found))


def _stay_offline() -> None:
    import datasets

    datasets.config.HF_DATASETS_OFFLINE = True
    datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()


def _require_known(order: TaskOrder, known: Sequence[str]) -> None:
    for name in order.tasks:
        if name not in known:
            there = ", ".join(sorted(known)[:20]) if order.folder else "see `lm-eval ls tasks`"
            raise InvalidInput("--tasks", f"no task {name[:80]!r}; {there or 'the folder has none'}")


def _require_generating(tasks: dict[Any, Any]) -> None:
    """Only a text can be asked for through the door: engines behind it tell no probabilities of given texts."""
    for name, task in tasks.items():
        if isinstance(task, dict):
            _require_generating(task)
        elif task.OUTPUT_TYPE != "generate_until":
            raise InvalidInput(
                "--tasks",
                f"{name} compares likelihoods of given answers ({task.OUTPUT_TYPE}), which an OpenAI-compatible "
                "API does not tell; choose tasks with output_type: generate_until",
            )


def _platform_model(order: TaskOrder, report: Report) -> Any:
    """lm-eval's view of the deployment; made here because its base class is an optional import."""
    from lm_eval.api.model import LM

    class PlatformModel(LM):  # type: ignore[misc]  # lm_eval is not followed
        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return asyncio.run(_answers(order, [request.args for request in requests], report))

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            raise InvalidInput("--tasks", "the API tells no likelihoods of given answers")

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            raise InvalidInput("--tasks", "the API tells no likelihoods of given texts")

    return PlatformModel()


async def _answers(
    order: TaskOrder, asked: Sequence[tuple[str, dict[str, Any]]], report: Report
) -> list[str]:
    gate = asyncio.Semaphore(_PARALLEL)
    done = 0
    headers = {"Authorization": f"Bearer {order.api_key}"}
    timeout = aiohttp.ClientTimeout(total=_DEADLINE_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False) as session:

        async def one(prompt: str, wishes: dict[str, Any]) -> str:
            nonlocal done
            async with gate:
                text = await _answer(session, order, prompt, wishes)
            done += 1
            report(done, len(asked))
            return text

        return await asyncio.gather(*(one(prompt, wishes) for prompt, wishes in asked))


async def _answer(
    session: aiohttp.ClientSession, order: TaskOrder, prompt: str, wishes: dict[str, Any]
) -> str:
    body = request_body(order, prompt, wishes)
    try:
        async with session.post(f"{order.base_url}{_PATHS[order.endpoint]}", json=body) as response:
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise EngineFailed(f"{order.deployment} did not answer: {error or type(error).__name__}") from error
    if response.status != 200:
        raise EngineFailed(f"{order.deployment} answered {response.status}: {answer['error']['message']}")
    choice = answer["choices"][0]
    text = choice["message"]["content"] if order.endpoint == "chat" else choice["text"]
    return cut_at(text or "", _stops(wishes))


def request_body(order: TaskOrder, prompt: str, wishes: dict[str, Any]) -> dict[str, Any]:
    """The API's body for what lm-eval wants: greedy unless it says otherwise."""
    body: dict[str, Any] = {
        "model": order.deployment,
        "max_tokens": int(wishes.get("max_gen_toks", wishes.get("max_tokens", _DEFAULT_TOKENS))),
        "temperature": float(wishes.get("temperature", 0.0)) if wishes.get("do_sample") else 0.0,
    }
    stops = _stops(wishes)[:_MOST_STOPS]
    if stops:
        body["stop"] = stops
    if order.endpoint == "chat":
        return {**body, "messages": [{"role": "user", "content": prompt}]}
    return {**body, "prompt": prompt}


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stops: the API takes four, a task may have more."""
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def _stops(wishes: dict[str, Any]) -> list[str]:
    until = wishes.get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _scores(found: dict[str, Any]) -> list[TaskScore]:
    scores = []
    for task, figures in found["results"].items():
        samples = found.get("n-samples", {}).get(task, {}).get("effective", 0)
        for name, value in figures.items():
            metric, _, filtered = name.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = figures.get(f"{metric}_stderr,{filtered}")
            scores.append(
                TaskScore(
                    task=task,
                    metric=metric if filtered == "none" else f"{metric} ({filtered})",
                    value=float(value),
                    error=float(error) if isinstance(error, int | float) else None,
                    num_samples=int(samples),
                )
            )
    return scores
