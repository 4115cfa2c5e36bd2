"""Layer two: number formats, the memory arithmetic, artifacts, quantizing and quality gates."""
