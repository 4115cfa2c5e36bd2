"""Groups that fitted quantities share."""

import pytest
from tests.planner.samples import case

from outpace.planner.quantities import FITTED, group_of
from outpace.planner.setups import resolve


@pytest.mark.parametrize(
    ("changes", "delivery"),
    [
        ({}, "streamed"),
        ({"batch_or_concurrency": "", "request_rate_rps": "4"}, "streamed"),
        ({"batch_or_concurrency": "all(1000)", "request_rate_rps": "inf"}, "streamed"),
        ({"batch_or_concurrency": "all(1000)"}, "streamed"),
        ({"notes": "all requests submitted at once"}, "whole"),
        ({"notes": "static batch"}, "whole"),
        ({"metric": "mlperf_server_output_throughput"}, "streamed"),
        ({"metric": "mlperf_offline_output_throughput"}, "whole"),
    ],
)
def test_answers_come_token_by_token_or_whole(changes: dict[str, str], delivery: str) -> None:
    assert group_of(resolve(case(**changes)), "delivery") == f"vllm-v1 {delivery}"


def test_every_grouping_of_a_quantity_is_known() -> None:
    groupings = {grouping for quantity in FITTED.values() for grouping, _ in quantity.groups}
    assert all(isinstance(group_of(resolve(case()), grouping), str) for grouping in groupings)
