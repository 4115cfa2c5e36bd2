"""Floor 0: the words of Outpace as frozen values. No I/O, no logic beyond the value itself."""
