"""Speech recognition: arms, their engines and their weights."""
