"""The lens: MusicGen's sites, the engine that serves them, rows, decoding and the cache."""
