"""A plan as text and as JSON."""

from pathlib import Path

import typer

from outpace.cli.show import as_json, table
from outpace.planner.calibration import shipped_calibration
from outpace.planner.choose import Option, Plan
from outpace.planner.explain import BreakEven, Comparison, break_even, compare
from outpace.planner.objective import Objective
from outpace.planner.operate import Point
from outpace.planner.speculation import Gain, Speculation, gains
from outpace.values.errors import InvalidInput
from outpace.values.money import PUSD_PER_USD, format_usd, parse_usd_per_mtok
from outpace.values.units import GB

# Formats narrower than this are refused until a gate passed.
_GATED_BELOW_BITS = 16
# Below this ratio shares of a gain say nothing.
_CLEAR_GAIN = 1.05


def show_plan(
    plan: Plan,
    as_document: bool,
    api_usd_per_mtok: str | None,
    plot: Path | None,
    speculation: Speculation | None = None,
) -> None:
    """Print a plan, with the break-even against an API when its price is given, and what speculation gains."""
    even = _break_even(plan, api_usd_per_mtok)
    gained = _gains(plan, speculation)
    if as_document:
        as_json({**plan_document(plan, even), "speculation": _gains_document(speculation, gained)})
        return
    _head(plan)
    if plan.best:
        _options(plan)
        _why(plan)
        _memory_note(plan)
    if even:
        typer.echo(_even_words(even))
    if speculation and gained and plan.best:
        typer.echo(_gains_words(speculation, gained, plan.best))
    if plan.rejected:
        typer.echo("\nwhy the others lost")
        table(("device", "best try", "reason"), [(r.device, r.tried, r.reason) for r in plan.rejected])
    if plot:
        typer.echo(f"\nplot written to {plot}")


def plan_document(plan: Plan, even: BreakEven | None = None) -> dict[str, object]:
    """The plan as one JSON object."""
    goal = plan.objective
    comparison = _comparison(plan)
    return {
        "model": plan.shape.name,
        "objective": {
            "isl": goal.isl,
            "osl": goal.osl,
            "rate": goal.rate_per_s,
            "ttft_ms": goal.ttft_ms or None,
            "itl_ms": goal.itl_ms or None,
            "percentile": goal.percentile,
            "max_usd_hour": format_usd(goal.max_pusd_hour) if goal.max_pusd_hour else None,
        },
        "engine_version": plan.engine_version or None,
        "variants_considered": plan.considered,
        "best": _option_document(plan.best) if plan.best else None,
        "runners_up": [_option_document(option) for option in plan.runners_up],
        "rejected": [{"gpu": r.device, "tried": r.tried, "reason": r.reason} for r in plan.rejected],
        "why": _comparison_document(comparison) if comparison else None,
        "break_even": _even_document(even) if even else None,
    }


def _gains(plan: Plan, speculation: Speculation | None) -> list[Gain]:
    """The gain on the best option at powers of two in flight, and where the plan runs it."""
    if speculation is None or plan.best is None:
        return []
    point = plan.best.point
    most = max(1, point.variant.memory.max_sequences)
    loads = {2**n for n in range(10) if 2**n <= most} | {max(1, round(point.in_flight))}
    setup = point.variant.setup(plan.objective.isl, plan.objective.osl)
    return gains(setup, speculation, sorted(loads), shipped_calibration())


def _gains_words(speculation: Speculation, gained: list[Gain], best: Option) -> str:
    shown = ", ".join(f"{gain.in_flight}: {gain.speedup:.2f}x" for gain in gained)
    here = next(gain for gain in gained if gain.in_flight == max(1, round(best.point.in_flight)))
    worth = "worth it" if here.speedup > 1 else "not worth it"
    return (
        f"speculation ({speculation.drafter}, {speculation.draft_tokens} drafted, {speculation.acceptance:.0%} "
        f"accepted), output by sequences in flight: {shown}; {worth} at the plan's {here.in_flight}. "
        "It is not in the figures above."
    )


def _gains_document(speculation: Speculation | None, gained: list[Gain]) -> dict[str, object] | None:
    if speculation is None:
        return None
    return {
        "drafter": speculation.drafter,
        "draft_tokens": speculation.draft_tokens,
        "acceptance": speculation.acceptance,
        "tokens_per_step": round(speculation.tokens_per_step, 3),
        "gains": [{"in_flight": g.in_flight, "speedup": round(g.speedup, 3)} for g in gained],
    }


def _option_document(option: Option) -> dict[str, object]:
    point, variant = option.point, option.point.variant
    return {
        "gpu": variant.device.name,
        "gpus": option.devices,
        "replicas": option.replicas,
        "tp": variant.split.tp,
        "pp": variant.split.pp,
        "engine": variant.generation.name,
        "weights_precision": variant.weights.name,
        "kv_precision": variant.kv.name,
        "concurrency": round(point.in_flight, 1),
        "ttft_ms": round(point.ttft_ms, 1),
        "itl_ms": round(point.itl_ms, 2),
        "capacity_tokens_per_s": round(point.tokens_per_s, 1),
        "capacity_tokens_per_s_low": round(point.tokens_low_per_s, 1),
        "capacity_tokens_per_s_high": round(point.tokens_high_per_s, 1),
        "chance_to_meet": round(point.sure, 3),
        "usd_per_hour": format_usd(option.pusd_per_hour or 0),
        "usd_per_mtok": _mtok(option),
        "price": str(option.price),
        "memory_gb": _memory(point),
        "max_sequences": variant.memory.max_sequences,
        "basis": f"calibrated ({point.basis})" if point.basis not in ("family", "far") else "roofline",
    }


def _memory(point: Point) -> dict[str, float]:
    use = point.variant.memory
    return {
        "capacity": round(use.capacity_bytes / GB, 2),
        "weights": round(use.weights_bytes / GB, 2),
        "activations": round(use.activations_bytes / GB, 2),
        "reserve": round(use.reserve_bytes / GB, 2),
        "kv_per_sequence": round(use.kv_bytes_per_sequence / GB, 4),
    }


def _mtok(option: Option) -> str:
    return f"{(option.pusd_per_mtok or 0) / PUSD_PER_USD:.4g}"


def _head(plan: Plan) -> None:
    goal = plan.objective
    bounds = [f"TTFT p{goal.percentile} ≤ {goal.ttft_ms:g} ms"] if goal.ttft_ms else []
    bounds += [f"ITL p{goal.percentile} ≤ {goal.itl_ms:g} ms"] if goal.itl_ms else []
    wanted = ", ".join(bounds) or "no latency bound"
    typer.echo(
        f"{plan.shape.name}: {goal.rate_per_s:g} req/s of {goal.isl} + {goal.osl} tokens, {wanted}; "
        f"{plan.considered} variants"
    )
    if plan.best is None:
        typer.echo("Nothing meets this. Loosen a bound, raise --max-usd-hour, or allow other devices.")


def _options(plan: Plan) -> None:
    shown = [plan.best, *plan.runners_up]
    table(
        (
            "",
            "option",
            "replicas>",
            "$/h>",
            "$/Mtok>",
            "TTFT ms>",
            "ITL ms>",
            "in flight>",
            "tok/s (80 %)>",
            "sure>",
        ),
        [_row(number, option, plan.objective) for number, option in enumerate(shown, start=1) if option],
    )
    if plan.best:
        typer.echo(_engine_words(plan, plan.best))
    if plan.best and plan.best.price:
        typer.echo(f"price: {plan.best.price}")
    if plan.best and plan.best.point.variant.weights.bits < _GATED_BELOW_BITS:
        typer.echo(
            f"{plan.best.point.variant.weights.name} is used only after its quality gate passed: `outpace gate`"
        )
    if plan.best and plan.best.point.variant.kv.bits < _GATED_BELOW_BITS:
        typer.echo(
            f"a {plan.best.point.variant.kv.name} KV cache needs its gate too, on long dialogues: it ruins some models"
        )


def _engine_words(plan: Plan, best: Option) -> str:
    """Which engine and version the best option is predicted for, and what is known of that version."""
    engine = best.point.variant.generation.name
    if not plan.engine_version:
        return f"engine: {engine}, whichever measured version runs (--engine-version names one)"
    setup = best.point.variant.setup(plan.objective.isl, plan.objective.osl)
    is_new = {"version", "engine"} & set(shipped_calibration().news(setup))
    known = "not measured, so the interval is that of versions never seen" if is_new else "measured"
    return f"engine: {engine} {plan.engine_version}, {known}"


def _row(number: int, option: Option, objective: Objective) -> tuple[object, ...]:
    point = option.point
    return (
        "best" if number == 1 else number,
        point.variant.label,
        option.replicas,
        f"{(option.pusd_per_hour or 0) / PUSD_PER_USD:.2f}",
        _mtok(option),
        f"{point.ttft_ms:.0f}",
        f"{point.itl_ms:.1f}",
        f"{point.in_flight:.0f}",
        f"{point.tokens_per_s:.0f} ({point.tokens_low_per_s:.0f}-{point.tokens_high_per_s:.0f})",
        f"{point.sure:.0%}" if objective.ttft_ms or objective.itl_ms else None,
    )


def _comparison(plan: Plan) -> Comparison | None:
    """The best device against the next other one, at the same traffic and their own layouts' width."""
    if not plan.best:
        return None
    mine = plan.best.point.variant
    for other in plan.options:
        theirs = other.point.variant
        same = (theirs.split, theirs.weights, theirs.kv) == (mine.split, mine.weights, mine.kv)
        if theirs.device.name != mine.device.name and same:
            goal = plan.objective
            return compare(
                mine.setup(goal.isl, goal.osl), theirs.setup(goal.isl, goal.osl), shipped_calibration()
            )
    return None


def _why(plan: Plan) -> None:
    found = _comparison(plan)
    if found:
        shares = found.shares
        parts = ", ".join(
            f"{name} {factor:.2f}x"
            + (f" ({shares[name]:.0%} of the gain)" if found.ratio > _CLEAR_GAIN else "")
            for name, factor in found.factors.items()
        )
        typer.echo(
            f"full load, {found.faster} against {found.slower} in the same layout: {found.ratio:.2f}x: {parts}"
        )


def _comparison_document(found: Comparison) -> dict[str, object]:
    return {
        "gpu": found.faster,
        "against": found.slower,
        "ratio": round(found.ratio, 3),
        "factors": {name: round(factor, 3) for name, factor in found.factors.items()},
        "shares": {name: round(share, 3) for name, share in found.shares.items()},
    }


def _memory_note(plan: Plan) -> None:
    if not plan.best:
        return
    use = plan.best.point.variant.memory
    typer.echo(
        f"memory per device: {use.weights_bytes / GB:.1f} GB weights, {use.activations_bytes / GB:.1f} GB activations, "
        f"{use.reserve_bytes / GB:.1f} GB reserve of {use.capacity_bytes / GB:.1f} GB; "
        f"{use.kv_bytes_per_sequence / GB:.3f} GB KV per sequence, {use.max_sequences} sequences fit"
    )


def _break_even(plan: Plan, price: str | None) -> BreakEven | None:
    if price and parse_usd_per_mtok(price, "api-usd-per-mtok") == 0:
        raise InvalidInput("api-usd-per-mtok", "must be above 0; nothing breaks even with a free API")
    if not price or not plan.best or plan.best.pusd_per_hour is None:
        return None
    return break_even(
        plan.best.pusd_per_hour,
        plan.best.point.tokens_per_s * plan.best.replicas,
        parse_usd_per_mtok(price, "api-usd-per-mtok"),
        plan.objective.rate_per_s,
        plan.objective.osl,
    )


def _even_words(even: BreakEven) -> str:
    api, own = (
        f"${value / PUSD_PER_USD:.2f}/h" for value in (even.api_pusd_per_hour, even.plan_pusd_per_hour)
    )
    verdict = "the plan is cheaper" if even.plan_is_cheaper else "the API is cheaper"
    reach = "" if even.is_reachable else ", more than this hardware carries: buying does not pay"
    return f"against the API: {own} here, {api} there, so {verdict}; break-even at {even.rate_per_s:.3g} req/s{reach}"


def _even_document(even: BreakEven) -> dict[str, object]:
    return {
        "rate": round(even.rate_per_s, 4),
        "reachable": even.is_reachable,
        "plan_usd_per_hour": format_usd(even.plan_pusd_per_hour),
        "api_usd_per_hour": format_usd(even.api_pusd_per_hour),
        "cheaper": "plan" if even.plan_is_cheaper else "api",
    }
