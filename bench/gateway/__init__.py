"""What the gateway costs: direct, through smg and through Outpace, in one run with alternating rounds."""
