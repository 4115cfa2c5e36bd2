"""May this request run, and for how much: limits per minute, then money, reserved before the engine is called."""

import msgspec

from outpace.gateway.openai.bounds import prompt_bound_tokens
from outpace.metering import Column, RateState
from outpace.values.errors import (
    BudgetSpent,
    ModelLoading,
    ModelNotAllowed,
    ModelNotFound,
    PriceMissing,
    RateLimited,
)
from outpace.values.money import Price, format_usd
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


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a request was let in with; `reserved_pusd` and `estimated_tokens` are settled at its end."""

    key: KeyEntry
    deployment: DeploymentEntry
    price: Price | None
    reserved_pusd: int
    estimated_tokens: int
    rate: RateState | None


def find_deployment(snapshot: Snapshot, key: KeyEntry, request: EngineBound) -> DeploymentEntry:
    """The deployment that serves `request.model` to this key. Raises ModelNotFound, ModelNotAllowed, ModelLoading."""
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
    if deployment.state != "ready" or not deployment.replicas:
        raise _not_ready(deployment)
    return deployment


def admit(
    column: Column,
    key: KeyEntry,
    deployment: DeploymentEntry,
    request: EngineBound,
    raw_bytes: int,
    now_s: float,
) -> Admitted:
    """Take the request from the key's limits and reserve its worst case. Raises RateLimited, BudgetSpent, PriceMissing.

    A request with a budget but without an output limit gets one: what the budget still affords.
    """
    if key.budget_pusd is not None and deployment.price is None:
        raise PriceMissing(
            "This model has no price, so a key with a budget cannot use it; set one with `outpace deploy`."
        )
    bound_tokens = prompt_bound_tokens(request, raw_bytes)
    estimated_tokens = _estimate_tokens(request, bound_tokens)
    rate = _take_rate(column, key, estimated_tokens, now_s)
    reserved_pusd = _reserve(column, key, deployment, request, bound_tokens)
    return Admitted(
        key=key,
        deployment=deployment,
        price=deployment.price,
        reserved_pusd=reserved_pusd,
        estimated_tokens=estimated_tokens,
        rate=rate,
    )


def _not_ready(deployment: DeploymentEntry) -> ModelLoading:
    if deployment.state == "failed":
        reason = deployment.reason or "see `outpace status`"
        return ModelLoading(f"The model could not be started: {reason}", retry_after_s=30)
    if deployment.state == "stopped":
        return ModelLoading("The model is stopped; `outpace deploy` starts it.", retry_after_s=30)
    return ModelLoading(
        "The model is starting; try again.", retry_after_s=max(deployment.ready_in_s or 1.0, 1.0)
    )


def _estimate_tokens(request: EngineBound, bound_tokens: int) -> int:
    limit = output_limit_tokens(request)
    output_tokens = _OUTPUT_GUESS_TOKENS if limit is None else limit
    return bound_tokens // _BYTES_PER_TOKEN + output_tokens * num_choices(request) + 1


def _take_rate(column: Column, key: KeyEntry, tokens: int, now_s: float) -> RateState | None:
    if key.rpm is None and key.tpm is None:
        return None
    if key.tpm is not None and tokens > key.tpm:
        message = f"The request needs about {tokens} tokens, the key's limit is {key.tpm} per minute; make it smaller."
        raise RateLimited("tokens", message, _MINUTE_S)
    rate = column.take(key.slot, rpm=key.rpm, tpm=key.tpm, tokens=tokens, now_s=now_s)
    if rate.limited_by is not None:
        limit = key.rpm if rate.limited_by == "requests" else key.tpm
        message = (
            f"Limit of {limit} {rate.limited_by} per minute reached; try again in {rate.retry_after_s:.3g} s."
        )
        raise RateLimited(rate.limited_by, message, rate.retry_after_s)
    return rate


def _reserve(
    column: Column, key: KeyEntry, deployment: DeploymentEntry, request: EngineBound, bound_tokens: int
) -> int:
    price = deployment.price
    if price is None:
        return 0
    choices = num_choices(request)
    most_tokens = output_limit_tokens(request)
    prompt_pusd = _prompt_pusd(price, request, bound_tokens, deployment.context_tokens)
    if most_tokens is not None:
        amount_pusd = prompt_pusd + most_tokens * choices * price.output_pusd
        if key.budget_pusd is None or column.reserve(key.slot, amount_pusd, key.budget_pusd):
            return amount_pusd if key.budget_pusd is not None else 0
        raise _budget_spent(column, key, amount_pusd)
    if key.budget_pusd is None:
        return 0
    return _reserve_open(
        column, key, request, prompt_pusd, choices * price.output_pusd, deployment.context_tokens
    )


def _reserve_open(
    column: Column,
    key: KeyEntry,
    request: EngineBound,
    prompt_pusd: int,
    step_pusd: int,
    context_tokens: int | None,
) -> int:
    assert key.budget_pusd is not None
    context_tokens = context_tokens or 131_072
    least_pusd, most_pusd = prompt_pusd + step_pusd, prompt_pusd + step_pusd * context_tokens
    got_pusd = column.reserve_up_to(key.slot, least_pusd, most_pusd, key.budget_pusd)
    if got_pusd < least_pusd:
        raise _budget_spent(column, key, least_pusd)
    if got_pusd < most_pusd:
        _cap_output(request, (got_pusd - prompt_pusd) // step_pusd)
    return got_pusd


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


def _budget_spent(column: Column, key: KeyEntry, amount_pusd: int) -> BudgetSpent:
    assert key.budget_pusd is not None
    spent, reserved = column.spent(key.slot), column.reserved(key.slot)
    return BudgetSpent(
        f"This request could cost up to ${format_usd(amount_pusd)}, more than the key's budget of "
        f"${format_usd(key.budget_pusd)} has left (${format_usd(spent)} spent, ${format_usd(reserved)} reserved by "
        "requests in flight). Lower max_tokens or raise the budget."
    )
