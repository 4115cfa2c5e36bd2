"""May this request run, and for how much: limits per minute, then money, reserved before the engine is called."""

import msgspec

from outpace.gateway.openai.bounds import prompt_bound_tokens, prompt_text_bytes
from outpace.metering import Meter, RateState
from outpace.values.errors import (
    ModelLoading,
    ModelNotAllowed,
    ModelNotFound,
    PriceMissing,
    RateLimited,
)
from outpace.values.money import Price
from outpace.values.requests import (
    ChatRequest,
    CompletionRequest,
    EngineBound,
    endpoint_of,
    num_choices,
    num_prompts,
    output_limit_tokens,
)
from outpace.values.snapshot import DeploymentEntry, KeyEntry, Snapshot

# For the limits per minute only: English text has about four bytes a token.
_BYTES_PER_TOKEN = 4
_OUTPUT_GUESS_TOKENS = 256
_MINUTE_S = 60.0
# For APIs elsewhere whose context is not known.
_CONTEXT_GUESS_TOKENS = 131_072


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request was let in with; `reserved_pusd` is settled at its end."""

    key: KeyEntry
    deployment: DeploymentEntry
    price: Price | None
    reserved_pusd: int


def find_deployment(snapshot: Snapshot, key: KeyEntry, request: EngineBound) -> DeploymentEntry:
    """The deployment that serves `request.model` to this key; it may be one that is starting or asleep.

    Raises ModelNotFound, ModelNotAllowed, and ModelLoading when waiting would be in vain.
    """
    deployment = snapshot.deployments.get(request.model)
    if deployment is None:
        raise ModelNotFound
    if key.models is not None and request.model not in key.models:
        raise ModelNotAllowed(
            "This key may not use this model. GET /v1/models lists what it may use.", param="model"
        )
    endpoint = endpoint_of(request)
    if endpoint not in deployment.tasks:
        serves = ", ".join(deployment.tasks)
        raise ModelNotFound(f"This model does not serve {endpoint}; it serves {serves}.")
    if not _is_or_will_be_ready(deployment):
        raise _not_ready(deployment)
    return deployment


def take_rate(
    meter: Meter, key: KeyEntry, request: EngineBound, raw_bytes: int
) -> tuple[RateState | None, int]:
    """Take the request from the key's limits per minute; the state for the headers, and the tokens taken."""
    if key.rpm is None and key.tpm is None:
        return None, 0
    tokens = sum(estimate_tokens(request, raw_bytes))
    return meter.take(key.slot, key.rpm, key.tpm, tokens), tokens


def require_rate(key: KeyEntry, rate: RateState | None, tokens: int) -> None:
    """Raise RateLimited when a limit per minute is used up."""
    if rate is None or rate.hit is None:
        return
    limit = key.rpm if rate.hit == "requests" else key.tpm
    if rate.retry_after_s is None:
        problem = (
            f"The request needs about {tokens} tokens; the key's limit is {limit} per minute. Shorten it."
        )
        raise RateLimited(rate.hit, problem, _MINUTE_S)
    problem = f"The key's limit of {limit} {rate.hit} per minute is reached; try again in {rate.retry_after_s:.3g} s."
    raise RateLimited(rate.hit, problem, rate.retry_after_s)


def estimate_tokens(request: EngineBound, raw_bytes: int) -> tuple[int, int]:
    """Prompt and output tokens that a request will take, by rule of thumb."""
    limit = output_limit_tokens(request)
    output_tokens = _OUTPUT_GUESS_TOKENS if limit is None else limit
    prompt_tokens = prompt_bound_tokens(request, raw_bytes) // _BYTES_PER_TOKEN + 1
    return prompt_tokens, output_tokens * num_choices(request)


def expected_tokens(request: EngineBound, raw_bytes: int) -> tuple[int, int]:
    """Prompt and output tokens that a request will likely take: nearer than the estimate that limits go by."""
    prompt_tokens, output_tokens = estimate_tokens(request, raw_bytes)
    return min(prompt_tokens, prompt_text_bytes(request, raw_bytes) // _BYTES_PER_TOKEN + 1), output_tokens


def admit(
    meter: Meter, key: KeyEntry, deployment: DeploymentEntry, request: EngineBound, raw_bytes: int
) -> Admitted:
    """Reserve the request's worst case from the key's budget. Raises BudgetSpent, PriceMissing.

    A request with a budget but without an output limit gets one: what the budget still affords.
    """
    price = deployment.price
    if key.budget_pusd is None:
        return Admitted(key=key, deployment=deployment, price=price, reserved_pusd=0)
    if price is None:
        raise PriceMissing(
            "This model has no price, so a key with a budget cannot use it; give it one with `outpace deploy`."
        )
    reserved_pusd = _reserve(meter, key, deployment, request, prompt_bound_tokens(request, raw_bytes))
    return Admitted(key=key, deployment=deployment, price=price, reserved_pusd=reserved_pusd)


def _is_or_will_be_ready(deployment: DeploymentEntry) -> bool:
    return deployment.state in ("ready", "starting") or (deployment.state == "sleeping" and deployment.wakes)


def _not_ready(deployment: DeploymentEntry) -> ModelLoading:
    if deployment.state == "failed":
        reason = deployment.reason or "see `outpace status`"
        return ModelLoading(f"The model could not be started: {reason}", retry_after_s=30)
    if deployment.state == "sleeping":
        return ModelLoading("The model is scaled to zero; `outpace scale` starts it.", retry_after_s=30)
    return ModelLoading("The model is stopped; `outpace deploy` starts it.", retry_after_s=30)


def _reserve(
    meter: Meter, key: KeyEntry, deployment: DeploymentEntry, request: EngineBound, bound_tokens: int
) -> int:
    assert deployment.price is not None
    step_pusd = num_choices(request) * deployment.price.output_pusd
    most_tokens = output_limit_tokens(request)
    prompt_pusd = _prompt_pusd(deployment.price, request, bound_tokens, deployment.context_tokens)
    if most_tokens is not None:
        amount_pusd = prompt_pusd + most_tokens * step_pusd
        return meter.hold(key.slot, amount_pusd, amount_pusd, key.budget_pusd)
    context_tokens = deployment.context_tokens or _CONTEXT_GUESS_TOKENS
    most_pusd = prompt_pusd + step_pusd * context_tokens
    held_pusd = meter.hold(key.slot, prompt_pusd + step_pusd, most_pusd, key.budget_pusd)
    if held_pusd < most_pusd:
        affordable_tokens = (held_pusd - prompt_pusd) // step_pusd
        # A limit between what fits beside the prompt and the context would be refused as too long.
        _cap_output(request, min(affordable_tokens, max(1, context_tokens - bound_tokens)))
    return held_pusd


def _cap_output(request: EngineBound, tokens: int) -> None:
    if isinstance(request, ChatRequest):
        request.max_completion_tokens = tokens
    elif isinstance(request, CompletionRequest):
        request.max_tokens = tokens


def _prompt_pusd(price: Price, request: EngineBound, bound_tokens: int, context_tokens: int | None) -> int:
    if context_tokens is not None:
        prompts = 1 if isinstance(request, ChatRequest) else num_prompts(_prompts(request))
        bound_tokens = min(bound_tokens, context_tokens * prompts)
    return price.request_pusd + bound_tokens * max(price.input_pusd, price.cached_input_pusd)


def _prompts(request: EngineBound) -> object:
    return request.prompt if isinstance(request, CompletionRequest) else getattr(request, "input", "")
