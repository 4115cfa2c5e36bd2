"""Fit and validate on a folder of published measurements; print the left-out accuracy.

    python -m bench.planner --ground-truth DIR [--write src/outpace/planner/calibration.json] [--json FILE]

Every fit leaves out whole groups (setups, devices, models, engine versions, device families), never random rows.
"""

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from outpace.planner.calibration import encode
from outpace.planner.groundtruth import read_ground_truth
from outpace.planner.validation import calibrate, report


def main() -> None:
    """Run the benchmark."""
    options = _options()
    folder = Path(options.ground_truth)
    truth = read_ground_truth(folder)
    today = datetime.now(UTC).date()
    calibration, lines = calibrate(
        truth, folder, today, lambda step: print(step, file=sys.stderr, flush=True)
    )
    print("\n".join(report(calibration, lines)))
    if options.write:
        Path(options.write).write_bytes(encode(calibration))
    if options.json:
        Path(options.json).write_text(json.dumps(calibration.accuracy, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ground-truth",
        required=True,
        help="folder with throughput.csv, latency.csv, latency_inferencex.csv",
    )
    parser.add_argument("--write", help="store the calibration here")
    parser.add_argument("--json", help="store the accuracy figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
