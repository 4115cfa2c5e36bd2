"""Replicas and the pools they run in. Nothing is imported here: the supervisor must stay small."""
