"""Experiments on real engines: gates side by side, speed of variants."""
