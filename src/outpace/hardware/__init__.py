"""Layer one: facts about devices, detection, probes."""
