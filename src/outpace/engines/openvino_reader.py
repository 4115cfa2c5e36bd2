"""The stream of our OpenVINO server: it keeps to the contract, and its first event tells the prompt's length."""

from outpace.engines.readers import PassingReader


class OpenVinoReader(PassingReader):
    """Passes events on; a stream that breaks off is counted from the opening event and the deltas."""

    def _learn(self, payload: bytes) -> bytes:
        shown = super()._learn(payload)
        opening = self._reported
        if opening is None or not self._last.choices:
            return shown
        # Usage beside choices opens the answer; the final one comes alone.
        self._prompt_tokens, self._cached_tokens = opening.prompt_tokens, opening.cached_tokens
        self._reported = None
        return shown if self._last.choices[0].delta is not None else b""
